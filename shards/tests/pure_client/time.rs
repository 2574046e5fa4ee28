//! Time-outs, RFC 5321 §4.5.3.2: one deadline for each reply, however its octets drip.

use super::harness::{run, run_ready};
use mailrace_shards::settings::TlsPolicy;

#[test]
fn of_the_greeting() {
    for script in [
        "deadline 300\n wait 299\n deadline 1\n wait 1\n E: closed TimedOut 451 4.4.2 at BANNER\n no-deadline",
        "wait 100\n S: 220 hello\n C: EHLO me.example\n deadline 300\n wait 300\n E: closed TimedOut 451 4.4.2 at EHLO",
        // Lines that drip do not help.
        "S: 220-hello\n wait 299\n S: 220-hello\n deadline 1\n wait 1\n E: closed TimedOut 451 4.4.2 at BANNER",
    ] {
        run(TlsPolicy::Opportunistic, script);
    }
}

#[test]
fn of_transactions() {
    let start = "no-deadline\n submit 1 plain\n C: MAIL FROM:<a@o.example>\n C: RCPT TO:<r@d.example>\n C: DATA\n deadline 300\n wait 200\n deadline 100\n";
    for end in [
        "wait 100\n E: finished 1: 0 failed TimedOut 451 4.4.2 at MAIL-FROM\n E: closed TimedOut 451 4.4.2 at MAIL-FROM",
        "S: 250 ok\n deadline 300\n wait 300\n E: finished 1: 0 failed TimedOut 451 4.4.2 at RCPT-TO\n E: closed TimedOut 451 4.4.2 at RCPT-TO",
        "S: 250 ok\n S: 250 ok\n deadline 120\n S: 354-go\n wait 120\n E: finished 1: 0 failed TimedOut 451 4.4.2 at DATA\n E: closed TimedOut 451 4.4.2 at DATA",
        "hold\n S: 250 ok\n S: 250 ok\n S: 354 go\n deadline 180\n wait 180\n E: finished 1: 0 failed TimedOut 451 4.4.2 at .\n E: closed TimedOut 451 4.4.2 at .",
        "S: 250 ok\n S: 250 ok\n S: 354 go\n C: hi\n C: .\n deadline 600\n wait 600\n E: finished 1: 0 failed TimedOut 451 4.4.2 at . maybe\n E: closed TimedOut 451 4.4.2 at .",
        "S: 250 ok\n S: 250 ok\n S: 354 go\n C: hi\n C: .\n S: 250 ok\n E: finished 1: 0 delivered 250 ok\n no-deadline\n finish\n C: QUIT\n deadline 10\n wait 10\n E: closed",
        // The end of the data is timed from when it was sent, not from when it was put out.
        "unsent\n S: 250 ok\n S: 250 ok\n S: 354 go\n C: hi\n C: .\n wait 30\n sent 1\n deadline 600",
    ] {
        run_ready(&["PIPELINING"], &format!("{start} {end}"));
    }
    // 300,000 octets at 500 a second have 600 seconds more.
    run_ready(
        &["PIPELINING"],
        "hold\n submit 1 big\n fill 999\n C: MAIL FROM:<a@o.example>\n C: RCPT TO:<r@d.example>\n C: RCPT TO:<s@d.example>\n C: DATA\n \
         S: 250 ok\n S: 250 ok\n S: 250 ok\n S: 354 go\n deadline 780",
    );
}

/// The same of a session that has served: silence is charged, unlike a close.
#[test]
fn of_a_later_transaction() {
    run_ready(
        &[],
        "submit 1 plain\n C: MAIL FROM:<a@o.example>\n S: 550 no\n E: finished 1: 0 failed Refused 550 at MAIL-FROM\n submit 2 other\n C: MAIL FROM:<b@o.example>\n \
         wait 300\n E: finished 2: 0 failed TimedOut 451 4.4.2 at MAIL-FROM\n E: closed TimedOut 451 4.4.2 at MAIL-FROM",
    );
}

/// A message that is sent behind another gives the peer no more time to answer for that other.
#[test]
fn of_a_message_with_another_behind_it() {
    run_ready(
        &["PIPELINING", "CHUNKING"],
        "submit 1 plain\n C: MAIL FROM:<a@o.example>\n C: RCPT TO:<r@d.example>\n C: BDAT 4 LAST\n C: hi\n \
         S: 250 ok\n S: 250 ok\n deadline 600\n wait 500\n deadline 100\n \
         submit 2 other\n C: RSET\n C: MAIL FROM:<b@o.example>\n C: RCPT TO:<r@d.example>\n C: BDAT 4 LAST\n C: ho\n \
         deadline 100\n wait 100\n E: finished 1: 0 failed TimedOut 451 4.4.2 at . maybe\n \
         E: finished 2: 0 failed TimedOut 451 4.4.2 at . maybe\n E: closed TimedOut 451 4.4.2 at .",
    );
}
