//! Losses and 421 at every point, and who is charged with them.

use super::harness::{config, run_ready};
use mailrace_shards::settings::TlsPolicy;
use mailrace_shards::smtp::client::{ClientEvent, Session};
use mailrace_shards::time::Instant;

const PLAIN: &str = "submit 1 plain\nC: MAIL FROM:<a@o.example>\nC: RCPT TO:<r@d.example>\nC: DATA\n";
const OTHER: &str = "C: MAIL FROM:<b@o.example>\nC: RCPT TO:<r@d.example>\nC: DATA\n";
const GONE: &str = "S: 250 ok\nS: 250 ok\nS: 354 go\nC: hi\nC: .\n";
const LOST: &str = "failed Lost 451 4.4.2 at";

#[test]
fn with_data() {
    for script in [
        // Idle, or before anything was sent.
        "eof\n E: closed".to_owned(),
        "io-error\n E: closed".to_owned(),
        "S: 421 4.4.2 idle\n E: closed".to_owned(),
        "S: 250 what\n E: closed Protocol 451 4.5.0 at".to_owned(),
        "hold\n submit 1 plain\n eof\n E: aborted 1: 0 NotSent\n E: closed".to_owned(),
        "hold\n submit 1 plain\n S: 421 idle\n E: aborted 1: 0 NotSent\n E: closed".to_owned(),
        // The first transaction of the connection is charged with what happens to it.
        format!("{PLAIN}eof\n E: finished 1: 0 {LOST} MAIL-FROM\n E: closed Lost 451 4.4.2 at MAIL-FROM"),
        format!(
            "{PLAIN}S: 421 no\n E: finished 1: 0 failed Closing 421 at MAIL-FROM\n E: closed Closing 421 at MAIL-FROM"
        ),
        format!("{PLAIN}S: 250 ok\n eof\n E: finished 1: 0 {LOST} RCPT-TO\n E: closed Lost 451 4.4.2 at RCPT-TO"),
        format!(
            "{PLAIN}S: 250 ok\n S: 421 no\n E: finished 1: 0 failed Closing 421 at RCPT-TO\n E: closed Closing 421 at RCPT-TO"
        ),
        format!(
            "{PLAIN}S: 250 ok\n S: 250 ok\n io-error\n E: finished 1: 0 {LOST} DATA\n E: closed Lost 451 4.4.2 at DATA"
        ),
        format!(
            "{PLAIN}S: 250 ok\n S: 250 ok\n S: 421 no\n E: finished 1: 0 failed Closing 421 at DATA\n E: closed Closing 421 at DATA"
        ),
        format!("{PLAIN}{GONE}eof\n E: finished 1: 0 {LOST} . maybe\n E: closed Lost 451 4.4.2 at ."),
        format!("{PLAIN}{GONE}S: 421 no\n E: finished 1: 0 failed Closing 421 at .\n E: closed Closing 421 at ."),
        // The dot is in the caller's buffer only.
        format!("unsent\n {PLAIN}{GONE}eof\n E: finished 1: 0 {LOST} .\n E: closed Lost 451 4.4.2 at ."),
        format!("unsent\n {PLAIN}{GONE}sent 1\n eof\n E: finished 1: 0 {LOST} . maybe\n E: closed Lost 451 4.4.2 at ."),
        // Inside the body.
        format!(
            "{PLAIN}hold\n S: 250 ok\n S: 250 ok\n S: 354 go\n fill 2\n c: hi\n eof\n E: finished 1: 0 {LOST} .\n E: closed Lost 451 4.4.2 at ."
        ),
        format!(
            "{PLAIN}hold\n S: 250 ok\n S: 250 ok\n S: 354 go\n fill 2\n c: hi\n S: 552 5.3.4 big\n E: finished 1: 0 failed Refused 552 5.3.4 at .\n E: closed Refused 552 5.3.4 at ."
        ),
        format!(
            "{PLAIN}hold\n S: 250 ok\n S: 250 ok\n S: 354 go\n fill 2\n c: hi\n submit 2 other\n S: 421 slow\n E: finished 1: 0 failed Closing 421 at .\n E: aborted 2: 0 NotSent\n E: closed Closing 421 at ."
        ),
        // What is pipelined behind is given back, whether the end comes as 421 or as a loss.
        format!(
            "{PLAIN}submit 2 other\n {GONE}{OTHER}S: 421 no\n E: finished 1: 0 failed Closing 421 at .\n E: aborted 2: 0 Behind\n E: closed Closing 421 at ."
        ),
        format!(
            "{PLAIN}submit 2 other\n {GONE}{OTHER}eof\n E: finished 1: 0 {LOST} . maybe\n E: aborted 2: 0 Behind\n E: closed Lost 451 4.4.2 at ."
        ),
        format!(
            "{PLAIN}submit 2 other\n {GONE}{OTHER}S: what\n E: finished 1: 0 failed Protocol 451 4.5.0 at . maybe\n E: aborted 2: 0 Behind\n E: closed Protocol 451 4.5.0 at ."
        ),
        // A connection that has served is over: the next transaction comes too late, but did nothing wrong.
        format!(
            "{PLAIN}{GONE}S: 250 ok\n E: finished 1: 0 delivered 250 ok\n submit 2 other\n {OTHER}S: 421 enough\n E: aborted 2: 0 SessionOver\n E: closed Closing 421 at MAIL-FROM"
        ),
        format!(
            "{PLAIN}{GONE}S: 250 ok\n E: finished 1: 0 delivered 250 ok\n submit 2 other\n {OTHER}eof\n E: aborted 2: 0 SessionOver\n E: closed Lost 451 4.4.2 at MAIL-FROM"
        ),
        // Later than at MAIL it is charged.
        format!(
            "{PLAIN}{GONE}S: 250 ok\n E: finished 1: 0 delivered 250 ok\n submit 2 other\n {OTHER}S: 250 ok\n eof\n E: finished 2: 0 {LOST} RCPT-TO\n E: closed Lost 451 4.4.2 at RCPT-TO"
        ),
        // A lone dot, and RSET.
        format!(
            "{PLAIN}S: 250 ok\n S: 550 no\n E: finished 1: 0 failed Refused 550 at RCPT-TO\n S: 354 go\n C: .\n S: 421 no\n E: closed Closing 421 at ."
        ),
        format!(
            "{PLAIN}S: 250 ok\n S: 550 no\n E: finished 1: 0 failed Refused 550 at RCPT-TO\n S: 503 no\n submit 2 other\n C: RSET\n {OTHER}S: 421 no\n E: aborted 2: 0 SessionOver\n E: closed Closing 421 at"
        ),
        format!(
            "{PLAIN}S: 250 ok\n S: 550 no\n E: finished 1: 0 failed Refused 550 at RCPT-TO\n S: 503 no\n submit 2 other\n C: RSET\n {OTHER}eof\n E: aborted 2: 0 SessionOver\n E: closed Lost 451 4.4.2 at"
        ),
    ] {
        run_ready(&["PIPELINING"], &script);
    }
}

/// Between two commands, when the next was not put out yet.
#[test]
fn between_commands() {
    let start = "submit 1 plain\nC: MAIL FROM:<a@o.example>\nhold\nS: 250 ok\n";
    for end in [
        "eof\n E: finished 1: 0 failed Lost 451 4.4.2 at RCPT-TO\n E: closed Lost 451 4.4.2 at RCPT-TO",
        "S: 421 no\n E: finished 1: 0 failed Closing 421 at RCPT-TO\n E: closed Closing 421 at RCPT-TO",
        // A reply too many is not the recipient's.
        "S: 550 no\n E: finished 1: 0 failed Protocol 451 4.5.0 at RCPT-TO\n E: closed Protocol 451 4.5.0 at RCPT-TO",
        "fill 99\n C: RCPT TO:<r@d.example>\n S: 250 ok\n eof\n E: finished 1: 0 failed Lost 451 4.4.2 at DATA\n E: closed Lost 451 4.4.2 at DATA",
    ] {
        run_ready(&[], &format!("{start} {end}"));
    }
}

#[test]
fn own_words_name_the_host_the_place_and_the_cause() {
    for (feed, words) in [
        (
            &b"SSH-2.0-x\r\n"[..],
            "mx.example broke the protocol before its greeting: a line that is no SMTP reply: \"SSH-2.0-x\"",
        ),
        (b"220 a\r\n334 b\r\n", "mx.example broke the protocol at EHLO: a reply before the command"),
        (b"", "mx.example closed the connection before its greeting: reset"),
    ] {
        let mut session = Session::new(config(TlsPolicy::Opportunistic), Instant(0));
        session.handle_bytes(feed, Instant(0));
        session.handle_io_error("reset", Instant(0));
        let Some(ClientEvent::Closed { failure: Some(failure) }) = session.poll_event() else { panic!("{feed:?}") };
        assert_eq!(&*failure.response.text, words);
        assert_eq!(session.poll_event(), None);
    }
}

#[test]
fn with_chunks() {
    let one = "submit 1 plain\nC: MAIL FROM:<a@o.example>\nC: RCPT TO:<r@d.example>\nC: BDAT 4 LAST\nC: hi\n";
    let two = format!(
        "{one}submit 2 other\nC: RSET\nC: MAIL FROM:<b@o.example>\nC: RCPT TO:<r@d.example>\nC: BDAT 4 LAST\nC: ho\n"
    );
    for script in [
        // Everything complete may have got through.
        format!("{one}eof\n E: finished 1: 0 {LOST} . maybe\n E: closed Lost 451 4.4.2 at ."),
        format!("{two}eof\n E: finished 1: 0 {LOST} . maybe\n E: finished 2: 0 {LOST} . maybe\n E: closed Lost 451 4.4.2 at ."),
        // After 421 the peer may still answer what it has; what it does not answer it did not serve.
        format!("{two}S: 250 ok\n S: 250 ok\n S: 421 no\n E: finished 1: 0 failed Closing 421 at .\n full\n eof\n E: aborted 2: 0 Behind\n E: closed Closing 421 at ."),
        format!("{two}S: 250 ok\n S: 250 ok\n S: 421 no\n E: finished 1: 0 failed Closing 421 at .\n S: 421 no\n E: aborted 2: 0 SessionOver\n E: closed Closing 421 at"),
        format!("{two}S: 250 ok\n S: 250 ok\n S: 421 no\n E: finished 1: 0 failed Closing 421 at .\n S: 250 ok\n S: 250 ok\n S: 250 ok\n S: 250 taken\n E: finished 2: 0 delivered 250 taken\n E: closed Closing 421 at ."),
        format!("{two}S: 250 ok\n S: 250 ok\n S: 421 no\n E: finished 1: 0 failed Closing 421 at .\n S: 250 ok\n S: 250 ok\n eof\n E: finished 2: 0 {LOST} . maybe\n E: closed Closing 421 at ."),
        // Not complete, behind another.
        format!("{one}hold\n submit 2 other\n fill 54\n C: RSET\n C: MAIL FROM:<b@o.example>\n C: RCPT TO:<r@d.example>\n fill 14\n C: BDAT 4 LAST\n c: h\n eof\n E: finished 1: 0 {LOST} . maybe\n E: aborted 2: 0 Behind\n E: closed Lost 451 4.4.2 at ."),
        // Not complete, the first.
        "hold\n submit 1 plain\n fill 48\n C: MAIL FROM:<a@o.example>\n C: RCPT TO:<r@d.example>\n fill 14\n C: BDAT 4 LAST\n c: h\n eof\n E: finished 1: 0 failed Lost 451 4.4.2 at .\n E: closed Lost 451 4.4.2 at .".to_owned(),
        // Refused inside its body: the announced octets still go, without a mark.
        "hold\n submit 1 plain\n fill 48\n C: MAIL FROM:<a@o.example>\n C: RCPT TO:<r@d.example>\n fill 14\n C: BDAT 4 LAST\n c: h\n S: 250 ok\n S: 550 no\n E: finished 1: 0 failed Refused 550 at RCPT-TO\n fill 9\n C: i\n S: 503 none\n wants"
            .to_owned(),
    ] {
        run_ready(&["PIPELINING", "CHUNKING"], &script);
    }
}
