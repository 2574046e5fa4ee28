//! Transactions with DATA: one command at a time, and pipelined.

use super::harness::run_ready;

const MAIL: &str = "C: MAIL FROM:<a@o.example>\n";
const PLAIN: &str = "C: MAIL FROM:<a@o.example>\nC: RCPT TO:<r@d.example>\nC: DATA\n";
const OTHER: &str = "C: MAIL FROM:<b@o.example>\nC: RCPT TO:<r@d.example>\nC: DATA\n";
const THREE: &str =
    "C: MAIL FROM:<a@o.example>\nC: RCPT TO:<r@d.example>\nC: RCPT TO:<s@d.example>\nC: RCPT TO:<t@d.example>\n";

#[test]
fn one_command_at_a_time() {
    for script in [
        // Two messages on one connection.
        format!(
            "submit 1 plain\n full\n {MAIL}S: 250 ok\n C: RCPT TO:<r@d.example>\n S: 250 ok\n C: DATA\n S: 354 go\n C: hi\n C: .\n full\n \
             S: 250 2.0.0 taken\n E: finished 1: 0 delivered 250 2.0.0 taken\n wants\n no-deadline\n submit 2 null\n C: MAIL FROM:<>\n \
             S: 250 ok\n C: RCPT TO:<r@d.example>\n S: 251 ok\n C: DATA\n S: 354 go\n C: hi\n C: .\n finish\n S: 250\n \
             E: finished 2: 0 delivered 250\n C: QUIT\n S: 221 bye\n E: closed"
        ),
        // MAIL refused: nothing to reset.
        format!(
            "submit 1 plain\n {MAIL}S: 550 5.7.1 no\n E: finished 1: 0 failed Refused 550 5.7.1 at MAIL-FROM\n submit 2 other\n C: MAIL FROM:<b@o.example>"
        ),
        // All recipients refused: no DATA, and RSET before the next.
        format!(
            "submit 1 three\n {MAIL}S: 250 ok\n C: RCPT TO:<r@d.example>\n S: 550 no\n C: RCPT TO:<s@d.example>\n S: 450 4.2.1 no\n \
             C: RCPT TO:<t@d.example>\n S: 550 no\n E: finished 1: 0 failed Refused 550 at RCPT-TO, 1 failed Refused 450 4.2.1 at RCPT-TO, 2 failed Refused 550 at RCPT-TO\n \
             submit 2 other\n C: RSET\n S: 250 ok\n C: MAIL FROM:<b@o.example>"
        ),
        // DATA refused.
        format!(
            "submit 1 plain\n {MAIL}S: 250 ok\n C: RCPT TO:<r@d.example>\n S: 250 ok\n C: DATA\n S: 451 no\n \
             E: finished 1: 0 failed Refused 451 at DATA\n submit 2 other\n C: RSET\n S: 250 ok\n C: MAIL FROM:<b@o.example>"
        ),
        // The message refused: that clears the peer's buffers.
        format!(
            "submit 1 plain\n {MAIL}S: 250 ok\n C: RCPT TO:<r@d.example>\n S: 250 ok\n C: DATA\n S: 354 go\n C: hi\n C: .\n S: 554 5.6.0 no\n \
             E: finished 1: 0 failed Refused 554 5.6.0 at .\n submit 2 other\n C: MAIL FROM:<b@o.example>"
        ),
        // Submitted when nothing is wanted.
        format!("submit 1 plain\n {MAIL}submit 2 other\n E: aborted 2: 0 NotSent"),
    ] {
        run_ready(&[], &script);
    }
}

#[test]
fn bodies() {
    for (name, mail, body) in [
        ("plain", "", "C: hi\n C: .\n"),
        ("dots", "", "C: ..\n C: ..a\n C: b.\n C: ...c\n C: .\n"),
        ("no-end", "", "C: hi\n C: .\n"),
        ("empty", "", "C: .\n"),
        ("8bit", " BODY=8BITMIME", "C: h\u{e4}\n C: .\n"),
    ] {
        let script = format!(
            "submit 1 {name}\n C: MAIL FROM:<a@o.example>{mail}\n C: RCPT TO:<r@d.example>\n C: DATA\n S: 250 ok\n S: 250 ok\n S: 354 go\n \
             {body} S: 250 ok\n E: finished 1: 0 delivered 250 ok"
        );
        run_ready(&["PIPELINING", "8bitmime"], &script);
    }
    run_ready(
        &["PIPELINING"],
        "submit 1 big\n C: MAIL FROM:<a@o.example>\n C: RCPT TO:<r@d.example>\n C: RCPT TO:<s@d.example>\n C: DATA\n S: 250 ok\n S: 250 ok\n S: 250 ok\n S: 354 go\n c: {big}\n C: .\n S: 250 ok\n E: finished 1: 0 delivered 250 ok, 1 delivered 250 ok",
    );
}

#[test]
fn parameters_and_what_the_peer_cannot_take() {
    for (offers, script) in [
        // The line end that DATA adds counts.
        (&["SIZE 100"][..], "submit 1 no-end\n C: MAIL FROM:<a@o.example> SIZE=4"),
        (&["SIZE"][..], "submit 1 plain\n C: MAIL FROM:<a@o.example> SIZE=4"),
        (&["SIZE 0"][..], "submit 1 plain\n C: MAIL FROM:<a@o.example> SIZE=4"),
        (&["SIZE 4"][..], "submit 1 plain\n C: MAIL FROM:<a@o.example> SIZE=4"),
        (&["SIZE 3"][..], "submit 1 plain\n E: finished 1: 0 failed TooLarge 552 5.3.4 at \n wants"),
        (&[][..], "submit 1 8bit\n E: finished 1: 0 failed NeedsEightBitMime 554 5.6.3 at \n wants"),
        (&["CHUNKING"][..], "submit 1 8bit\n E: finished 1: 0 failed NeedsEightBitMime 554 5.6.3 at \n wants"),
        (&["8BITMIME"][..], "submit 1 utf8\n E: finished 1: 0 failed NeedsSmtpUtf8 553 5.6.7 at \n wants"),
        (
            &["8BITMIME", "SMTPUTF8"][..],
            "submit 1 utf8\n C: MAIL FROM:<a@o.example> SMTPUTF8\n S: 250 ok\n C: RCPT TO:<\u{fc}@d.example>",
        ),
        (&["8BITMIME", "SMTPUTF8"][..], "submit 1 plain\n C: MAIL FROM:<a@o.example>"),
        (&[][..], "submit 1 evil-sender\n E: finished 1: 0 failed BadSender 553 5.1.7 at \n wants"),
        (&[][..], "submit 1 evil-recipient\n E: finished 1: 0 failed BadRecipient 553 5.1.3 at \n wants"),
        // The good recipient beside it is served.
        (
            &["PIPELINING"][..],
            "submit 1 half-evil\n C: MAIL FROM:<a@o.example>\n C: RCPT TO:<s@d.example>\n C: DATA\n S: 250 ok\n S: 250 ok\n S: 354 go\n C: hi\n C: .\n S: 250 ok\n \
             E: finished 1: 0 failed BadRecipient 553 5.1.3 at , 1 delivered 250 ok",
        ),
        (&[][..], "hold\n submit 1 half-evil\n eof\n E: aborted 1: 1 0 NotSent\n E: closed"),
    ] {
        run_ready(offers, script);
    }
}

#[test]
fn pipelined() {
    for script in [
        // The next envelope travels with this message's final dot: one round trip a message.
        format!(
            "submit 1 plain\n {PLAIN}wants\n submit 2 other\n full\n S: 250 ok\n S: 250 ok\n S: 354 go\n C: hi\n C: .\n {OTHER}\
             S: 250 first\n E: finished 1: 0 delivered 250 first\n wants\n submit 3 plain\n S: 250 ok\n S: 250 ok\n S: 354 go\n C: ho\n C: .\n {PLAIN}\
             S: 250 second\n S: 250 ok\n S: 250 ok\n S: 354 go\n E: finished 2: 0 delivered 250 second\n C: hi\n C: .\n finish\n S: 250 third\n \
             E: finished 3: 0 delivered 250 third\n C: QUIT\n S: 221 bye\n E: closed"
        ),
        // Some refused.
        format!(
            "submit 1 three\n {THREE}C: DATA\n S: 250 ok\n S: 250 ok\n S: 550 5.1.1 who\n S: 452 many\n S: 354 go\n C: hi\n C: .\n S: 250 ok\n \
             E: finished 1: 0 delivered 250 ok, 1 failed Refused 550 5.1.1 at RCPT-TO, 2 failed TooManyRecipients 452 at RCPT-TO"
        ),
        // Mailbox full is not too many recipients; the old 552 and X.5.3 are.
        format!(
            "submit 1 three\n {THREE}C: DATA\n S: 250 ok\n S: 250 ok\n S: 452 4.2.2 full\n S: 450 4.5.3 many\n S: 354 go\n C: hi\n C: .\n S: 450 later\n \
             E: finished 1: 0 failed Refused 450 at ., 1 failed Refused 452 4.2.2 at RCPT-TO, 2 failed TooManyRecipients 450 4.5.3 at RCPT-TO"
        ),
        // Without any accepted there cannot be too many.
        format!(
            "submit 1 three\n {THREE}C: DATA\n S: 250 ok\n S: 452 many\n S: 250 ok\n S: 552 many\n S: 354 go\n C: hi\n C: .\n S: 250 ok\n \
             E: finished 1: 0 failed Refused 452 at RCPT-TO, 1 delivered 250 ok, 2 failed TooManyRecipients 552 at RCPT-TO"
        ),
        // All refused and still 354: a lone dot, the next envelope with it, and no message was sent.
        format!(
            "submit 1 plain\n {PLAIN}submit 2 other\n S: 250 ok\n S: 550 who\n E: finished 1: 0 failed Refused 550 at RCPT-TO\n S: 354 go\n C: .\n {OTHER}\
             S: 554 none\n S: 250 ok\n S: 250 ok\n S: 354 go\n C: ho\n C: .\n S: 250 ok\n E: finished 2: 0 delivered 250 ok"
        ),
        // All refused, DATA too: RSET, then the next envelope in the same flight.
        format!(
            "submit 1 plain\n {PLAIN}submit 2 other\n S: 250 ok\n S: 550 who\n S: 554 none\n E: finished 1: 0 failed Refused 550 at RCPT-TO\n C: RSET\n {OTHER}\
             S: 250 reset\n S: 250 ok\n S: 250 ok\n S: 354 go\n C: ho\n C: .\n S: 250 ok\n E: finished 2: 0 delivered 250 ok"
        ),
        // MAIL refused, the rest out of sequence: nothing to reset.
        format!(
            "submit 1 plain\n {PLAIN}submit 2 other\n S: 550 5.7.1 no\n E: finished 1: 0 failed Refused 550 5.7.1 at MAIL-FROM\n S: 503 seq\n S: 503 seq\n {OTHER}"
        ),
        // MAIL refused and yet 354.
        format!(
            "submit 1 plain\n {PLAIN}S: 550 no\n E: finished 1: 0 failed Refused 550 at MAIL-FROM\n S: 250 ok\n S: 354 go\n C: .\n S: 250 what"
        ),
        // DATA refused.
        format!(
            "submit 1 plain\n {PLAIN}S: 250 ok\n S: 250 ok\n S: 554 no\n E: finished 1: 0 failed Refused 554 at DATA\n submit 2 other\n C: RSET\n {OTHER}"
        ),
        // The first message refused at its end: the second goes on.
        format!(
            "submit 1 plain\n {PLAIN}submit 2 other\n S: 250 ok\n S: 250 ok\n S: 354 go\n C: hi\n C: .\n {OTHER}S: 554 spam\n E: finished 1: 0 failed Refused 554 at .\n \
             S: 250 ok\n S: 250 ok\n S: 354 go\n C: ho\n C: .\n S: 250 ok\n E: finished 2: 0 delivered 250 ok"
        ),
        // 2yz to DATA, 3yz to MAIL and to the end: not SMTP.
        format!(
            "submit 1 plain\n {PLAIN}S: 250 ok\n S: 250 ok\n S: 250 ok\n E: finished 1: 0 failed Protocol 451 4.5.0 at DATA\n E: closed Protocol 451 4.5.0 at DATA"
        ),
        format!(
            "submit 1 plain\n {PLAIN}S: 354 go\n E: finished 1: 0 failed Protocol 451 4.5.0 at MAIL-FROM\n E: closed Protocol 451 4.5.0 at MAIL-FROM"
        ),
        format!(
            "submit 1 plain\n {PLAIN}S: 250 ok\n S: 250 ok\n S: 354 go\n C: hi\n C: .\n S: 354 go\n E: finished 1: 0 failed Protocol 451 4.5.0 at . maybe\n E: closed Protocol 451 4.5.0 at ."
        ),
        format!(
            "submit 1 plain\n {PLAIN}S: 250 ok\n S: 250 ok\n S: 354 go\n C: hi\n C: .\n S: hello\n E: finished 1: 0 failed Protocol 451 4.5.0 at . maybe\n E: closed Protocol 451 4.5.0 at ."
        ),
    ] {
        run_ready(&["PIPELINING"], &script);
    }
}

/// RSET that is refused: nobody's message is to blame.
#[test]
fn reset_refused() {
    run_ready(
        &["PIPELINING"],
        &format!(
            "submit 1 plain\n {PLAIN}S: 250 ok\n S: 550 who\n S: 554 none\n E: finished 1: 0 failed Refused 550 at RCPT-TO\n submit 2 other\n C: RSET\n {OTHER}\
             S: 500 what\n E: aborted 2: 0 SessionOver\n E: closed Protocol 451 4.5.0 at "
        ),
    );
}
