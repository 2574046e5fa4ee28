//! A rule covers a message that is under way.

use super::harness::run_ready;

const PLAIN: &str = "submit 1 plain\nC: MAIL FROM:<a@o.example>\nC: RCPT TO:<r@d.example>\nC: DATA\n";
const OTHER: &str = "C: MAIL FROM:<b@o.example>\nC: RCPT TO:<r@d.example>\nC: DATA\n";
const ANSWERED: &str = "S: 250 ok\nS: 250 ok\nS: 354 go\n";

#[test]
fn with_data() {
    for script in [
        // Nothing was sent.
        "hold\n submit 1 plain\n withdraw 1 GivenBack\n E: aborted 1: 0 Withdrawn\n wants\n fill 99\n finish\n fill 99\n C: QUIT\n S: 221 bye\n E: closed".to_owned(),
        // MAIL was sent, DATA was not: RSET before the next.
        "hold\n submit 1 plain\n fill 1\n C: MAIL FROM:<a@o.example>\n withdraw 1 GivenBack\n E: aborted 1: 0 Withdrawn\n S: 250 ok\n submit 2 plain\n fill 99\n C: RSET\n C: MAIL FROM:<a@o.example>\n C: RCPT TO:<r@d.example>\n C: DATA\n S: 250 reset\n S: 250 ok\n S: 550 no\n E: finished 2: 0 failed Refused 550 at RCPT-TO".to_owned(),
        // The same while an earlier message is answered, which must not make the RSET forgotten.
        format!("{PLAIN}{ANSWERED}C: hi\n C: .\n hold\n submit 2 other\n fill 1\n C: MAIL FROM:<b@o.example>\n withdraw 2 GivenBack\n E: aborted 2: 0 Withdrawn\n S: 250 first\n E: finished 1: 0 delivered 250 first\n S: 250 ok\n submit 3 other\n fill 99\n C: RSET\n {OTHER}"),
        // DATA was sent: nothing helps but to hang up, at once when nothing is owed.
        format!("{PLAIN}withdraw 1 Ending\n E: aborted 1: 0 Withdrawn\n E: closed"),
        format!("{PLAIN}submit 2 other\n S: 250 ok\n withdraw 1 Ending\n E: aborted 1: 0 Withdrawn\n E: aborted 2: 0 NotSent\n E: closed"),
        // Inside the body: neither dot nor lone dot.
        format!("{PLAIN}hold\n {ANSWERED}fill 2\n c: hi\n withdraw 1 Ending\n E: aborted 1: 0 Withdrawn\n E: closed\n fill 99"),
        format!("{PLAIN}hold\n {ANSWERED}fill 4\n C: hi\n withdraw 1 0 Ending\n E: aborted 1: 0 Withdrawn\n E: closed\n fill 99"),
        // The dot is in the caller's buffer.
        format!("unsent\n {PLAIN}{ANSWERED}C: hi\n C: .\n withdraw 1 Ending\n E: aborted 1: 0 Withdrawn\n E: closed"),
        // Too late.
        format!("{PLAIN}{ANSWERED}C: hi\n C: .\n withdraw 1 TooLate\n S: 250 ok\n E: finished 1: 0 delivered 250 ok\n withdraw 1 TooLate\n wants"),
        "withdraw 7 TooLate".to_owned(),
        // The next message's envelope went with this one's dot: wait for this one's reply, send nothing.
        format!("{PLAIN}submit 2 other\n {ANSWERED}C: hi\n C: .\n {OTHER}withdraw 2 Ending\n E: aborted 2: 0 Withdrawn\n full\n deadline 600\n S: 250 first\n E: finished 1: 0 delivered 250 first\n E: closed"),
        format!("{PLAIN}submit 2 other\n {ANSWERED}C: hi\n C: .\n {OTHER}withdraw 2 Ending\n E: aborted 2: 0 Withdrawn\n wait 600\n E: finished 1: 0 failed TimedOut 451 4.4.2 at . maybe\n E: closed TimedOut 451 4.4.2 at ."),
        format!("{PLAIN}submit 2 other\n {ANSWERED}C: hi\n C: .\n {OTHER}withdraw 2 Ending\n E: aborted 2: 0 Withdrawn\n eof\n E: finished 1: 0 failed Lost 451 4.4.2 at . maybe\n E: closed Lost 451 4.4.2 at ."),
        // The same with both in the caller's buffer: neither is complete.
        format!("unsent\n {PLAIN}submit 2 other\n {ANSWERED}C: hi\n C: .\n {OTHER}withdraw 2 Ending\n E: aborted 1: 0 OtherWithdrawn\n E: aborted 2: 0 Withdrawn\n E: closed"),
        // The peer has refused it meanwhile: nothing is left to withdraw.
        format!("{PLAIN}S: 250 ok\n S: 550 no\n E: finished 1: 0 failed Refused 550 at RCPT-TO\n withdraw 1 TooLate\n S: 354 go\n C: .\n S: 554 none\n wants"),
        // Finishing: QUIT when the rest is answered.
        "hold\n submit 1 plain\n fill 1\n C: MAIL FROM:<a@o.example>\n finish\n withdraw 1 GivenBack\n E: aborted 1: 0 Withdrawn\n fill 99\n S: 250 ok\n fill 99\n C: QUIT\n S: 221 bye\n E: closed".to_owned(),
    ] {
        run_ready(&["PIPELINING"], &script);
    }
}

#[test]
fn some_recipients() {
    let three = "submit 1 three\n C: MAIL FROM:<a@o.example>\n C: RCPT TO:<r@d.example>\n C: RCPT TO:<s@d.example>\n C: RCPT TO:<t@d.example>\n C: DATA\n S: 250 ok\n S: 550 no\n";
    for script in [
        // Of those that have no result yet, one is enough.
        format!("{three}withdraw 1 1,9 Ending\n E: aborted 1: 0 1 2 Withdrawn\n E: closed"),
        // Recipient 0 was refused, 9 is not in it: the transaction goes on.
        format!(
            "{three}withdraw 1 0,9 TooLate\n S: 250 ok\n S: 250 ok\n S: 354 go\n C: hi\n C: .\n S: 250 ok\n E: finished 1: 0 failed Refused 550 at RCPT-TO, 1 delivered 250 ok, 2 delivered 250 ok"
        ),
        format!("{three}S: 250 ok\n withdraw 1 1 Ending\n E: aborted 1: 0 1 2 Withdrawn\n E: closed"),
    ] {
        run_ready(&["PIPELINING"], &script);
    }
}

#[test]
fn one_command_at_a_time() {
    run_ready(
        &[],
        "submit 1 plain\n C: MAIL FROM:<a@o.example>\n withdraw 1 GivenBack\n E: aborted 1: 0 Withdrawn\n submit 2 other\n S: 250 ok\n C: RSET\n S: 250 ok\n C: MAIL FROM:<b@o.example>\n \
         S: 250 ok\n C: RCPT TO:<r@d.example>\n S: 250 ok\n C: DATA\n withdraw 2 Ending\n E: aborted 2: 0 Withdrawn\n E: closed",
    );
}

#[test]
fn with_chunks() {
    let one = "C: MAIL FROM:<a@o.example>\nC: RCPT TO:<r@d.example>\nC: BDAT 4 LAST\nC: hi\n";
    let two = "C: RSET\nC: MAIL FROM:<b@o.example>\nC: RCPT TO:<r@d.example>\nC: BDAT 4 LAST\nC: ho\n";
    for script in [
        // Inside the body.
        "hold\n submit 1 plain\n fill 48\n C: MAIL FROM:<a@o.example>\n C: RCPT TO:<r@d.example>\n fill 15\n C: BDAT 4 LAST\n c: hi\n withdraw 1 Ending\n E: aborted 1: 0 Withdrawn\n E: closed\n fill 99".to_owned(),
        // In the caller's buffer.
        format!("unsent\n submit 1 plain\n {one}withdraw 1 Ending\n E: aborted 1: 0 Withdrawn\n E: closed"),
        // The first is complete, the second in the caller's buffer.
        format!("unsent\n submit 1 plain\n {one}sent 1\n submit 2 other\n {two}withdraw 1 TooLate\n withdraw 2 Ending\n E: aborted 2: 0 Withdrawn\n S: 250 ok\n S: 250 ok\n S: 250 one\n E: finished 1: 0 delivered 250 one\n E: closed"),
    ] {
        run_ready(&["PIPELINING", "CHUNKING"], &script);
    }
    // A long body that still waits for its recipients.
    run_ready(
        &["PIPELINING", "CHUNKING"],
        &format!(
            "submit 1 big\n C: MAIL FROM:<a@o.example>\n C: RCPT TO:<r@d.example>\n C: RCPT TO:<s@d.example>\n S: 250 ok\n withdraw 1 GivenBack\n E: aborted 1: 0 1 Withdrawn\n submit 2 plain\n C: RSET\n {one}"
        ),
    );
}
