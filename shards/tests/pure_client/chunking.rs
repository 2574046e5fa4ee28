//! Transactions with BDAT.

use super::harness::run_ready;

const BOTH: &[&str] = &["PIPELINING", "CHUNKING"];
const PLAIN: &str = "C: MAIL FROM:<a@o.example>\nC: RCPT TO:<r@d.example>\nC: BDAT 4 LAST\nC: hi\n";
const OTHER: &str = "C: RSET\nC: MAIL FROM:<b@o.example>\nC: RCPT TO:<r@d.example>\nC: BDAT 4 LAST\nC: ho\n";
const THIRD: &str = "C: RSET\nC: MAIL FROM:<c@o.example>\nC: RCPT TO:<r@d.example>\nC: BDAT 4 LAST\nC: hu\n";

#[test]
fn pipelined() {
    for script in [
        // As many as configured (3) unanswered. RSET stands between, because a BDAT whose recipients are all refused
        // may leave its transaction open.
        format!(
            "submit 1 plain\n {PLAIN}wants\n submit 2 other\n {OTHER}submit 3 third\n {THIRD}full\n \
             S: 250 ok\n S: 250 ok\n S: 250 one\n E: finished 1: 0 delivered 250 one\n wants\n \
             S: 250 reset\n S: 250 ok\n S: 550 who\n E: finished 2: 0 failed Refused 550 at RCPT-TO\n S: 503 none\n \
             S: 250 reset\n S: 250 ok\n S: 250 ok\n S: 250 three\n E: finished 3: 0 delivered 250 three\n \
             submit 4 plain\n {PLAIN}"
        ),
        // One at a time: no RSET after a message that was taken, one after a message that was not.
        format!(
            "submit 1 plain\n {PLAIN}S: 250 ok\n S: 250 ok\n S: 250 one\n E: finished 1: 0 delivered 250 one\n submit 2 plain\n {PLAIN}\
             S: 250 ok\n S: 250 ok\n S: 554 spam\n E: finished 2: 0 failed Refused 554 at .\n submit 3 other\n {OTHER}"
        ),
        // MAIL refused: the rest was sent already.
        format!(
            "submit 1 plain\n {PLAIN}S: 550 no\n E: finished 1: 0 failed Refused 550 at MAIL-FROM\n S: 503 seq\n S: 503 seq\n finish\n C: QUIT\n S: 221 bye\n E: closed"
        ),
        // All refused, and yet the peer takes the data.
        format!("submit 1 plain\n {PLAIN}S: 250 ok\n S: 550 no\n E: finished 1: 0 failed Refused 550 at RCPT-TO\n S: 250 what\n wants"),
        // Some refused.
        "submit 1 three\n C: MAIL FROM:<a@o.example>\n C: RCPT TO:<r@d.example>\n C: RCPT TO:<s@d.example>\n C: RCPT TO:<t@d.example>\n C: BDAT 4 LAST\n C: hi\n \
         S: 250 ok\n S: 550 no\n S: 250 ok\n S: 450 no\n S: 250 ok\n \
         E: finished 1: 0 failed Refused 550 at RCPT-TO, 1 delivered 250 ok, 2 failed Refused 450 at RCPT-TO"
            .to_owned(),
    ] {
        run_ready(BOTH, &script);
    }
}

#[test]
fn bodies_are_sent_octet_for_octet() {
    for (name, body) in [
        ("dots", "C: BDAT 16 LAST\n C: .\n C: .a\n C: b.\n C: ..c\n"),
        ("no-end", "C: BDAT 2 LAST\n c: hi\n"),
        ("empty", "C: BDAT 0 LAST\n"),
    ] {
        let script = format!(
            "submit 1 {name}\n C: MAIL FROM:<a@o.example>\n C: RCPT TO:<r@d.example>\n {body} S: 250 ok\n S: 250 ok\n S: 250 ok\n \
             E: finished 1: 0 delivered 250 ok"
        );
        run_ready(BOTH, &script);
    }
}

/// A long body waits for its recipients, and is not sent when all are refused.
#[test]
fn long_bodies_are_not_sent_blindly() {
    let start =
        "submit 1 big\n C: MAIL FROM:<a@o.example>\n C: RCPT TO:<r@d.example>\n C: RCPT TO:<s@d.example>\n S: 250 ok\n";
    for end in [
        "S: 250 ok\n S: 550 no\n C: BDAT 300000 LAST\n c: {big}\n S: 250 ok\n E: finished 1: 0 delivered 250 ok, 1 failed Refused 550 at RCPT-TO",
        "S: 550 no\n S: 550 no\n E: finished 1: 0 failed Refused 550 at RCPT-TO, 1 failed Refused 550 at RCPT-TO\n submit 2 plain\n C: RSET\n C: MAIL FROM:<a@o.example>\n C: RCPT TO:<r@d.example>\n C: BDAT 4 LAST\n C: hi",
    ] {
        run_ready(BOTH, &format!("{start} {end}"));
    }
}

#[test]
fn one_command_at_a_time() {
    run_ready(
        &["CHUNKING"],
        "submit 1 plain\n full\n C: MAIL FROM:<a@o.example>\n S: 250 ok\n C: RCPT TO:<r@d.example>\n S: 250 ok\n C: BDAT 4 LAST\n C: hi\n \
         S: 250 ok\n E: finished 1: 0 delivered 250 ok\n submit 2 other\n C: MAIL FROM:<b@o.example>\n S: 250 ok\n C: RCPT TO:<r@d.example>\n \
         S: 550 no\n E: finished 2: 0 failed Refused 550 at RCPT-TO\n submit 3 plain\n C: RSET\n S: 250 ok\n C: MAIL FROM:<a@o.example>",
    );
}

/// One positive reply too many to an earlier command counted as the acceptance of a message of which the peer had not got
/// all. A refusal may come that early.
#[test]
fn what_the_peer_has_not_got_as_a_whole_it_cannot_have_taken() {
    for (reply, end) in [
        ("S: 250 ok", "E: finished 1: 0 failed Protocol 451 4.5.0 at .\n E: closed Protocol 451 4.5.0 at ."),
        ("S: 552 much", "E: finished 1: 0 failed Refused 552 at .\n wants"),
        ("sent 1\n S: 250 ok", "E: finished 1: 0 delivered 250 ok\n wants"),
    ] {
        run_ready(BOTH, &format!("unsent\n submit 1 plain\n {PLAIN}S: 250 ok\n S: 250 ok\n {reply}\n {end}"));
        let data = "C: MAIL FROM:<a@o.example>\n C: RCPT TO:<r@d.example>\n C: DATA\n S: 250 ok\n S: 250 ok\n S: 354 go\n C: hi\n C: .\n";
        run_ready(&["PIPELINING"], &format!("unsent\n submit 1 plain\n {data}{reply}\n {end}"));
    }
}
