//! Traces as strace writes them, of servers that are durable and of servers that are not.

use super::*;

const PORT: u16 = 40_414;

/// What a server's calls show of two messages on one connection. `B1` and `E1` stand for the tokens of message 1.
fn judged(lines: &[&str]) -> Durability {
    let mut judge = Judge::new(&[Conversation { port: PORT, messages: vec![1, 2] }]);
    for line in lines {
        let mut line = (*line).replace("PEER", &format!("TCP:[127.0.0.1:25->127.0.0.1:{PORT}]"));
        for number in [1, 2] {
            let [begin, end] = tokens(number);
            line = line.replace(&format!("B{number}"), &begin).replace(&format!("E{number}"), &end);
        }
        judge.see(&line);
    }
    judge.verdict()
}

fn counts(found: &Durability) -> (u32, u32, u32, u32) {
    (found.acknowledged, found.synced_before, found.violations, found.unseen)
}

const GREETED: &str =
    "9 sendto(5<PEER>, \"220 hello\\r\\n250-a\\r\\n250 b\\r\\n250 ok\\r\\n250 ok\\r\\n354 go\\r\\n\", 9, 0) = 9";
const WRITTEN: &str =
    "8 pwritev2(6</d/seg>, [{iov_base=\"B1\", iov_len=30}, {iov_base=\"x E1\", iov_len=30}], 2, 0, 0) = 99";
const ANSWERED: &str = "9 sendto(5<PEER>, \"250 queued\\r\\n\", 12, 0, NULL, 0) = 12";

#[test]
fn a_250_behind_the_sync_of_its_file_is_durable() {
    let found = judged(&[GREETED, WRITTEN, "8 fdatasync(6</d/seg>) = 0 (DELAYED)", ANSWERED]);
    assert_eq!((counts(&found), found.syncs), ((1, 1, 0, 0), 1), "{found:?}");
    assert!(found.is_shown() && !found.is_violated(), "{found:?}");
}

#[test]
fn a_250_without_a_sync_is_a_violation() {
    let found = judged(&[GREETED, WRITTEN, ANSWERED, "8 fdatasync(6</d/seg>) = 0"]);
    assert_eq!(counts(&found), (1, 0, 1, 0), "{found:?}");
    assert!(found.first_violation.as_deref().is_some_and(|words| words.contains("/d/seg")), "{found:?}");
}

#[test]
fn a_250_while_the_sync_runs_is_a_violation() {
    let begun = "8 fdatasync(6</d/seg> <unfinished ...>";
    let ended = "8 <... fdatasync resumed>) = 0 (DELAYED)";
    assert_eq!(counts(&judged(&[GREETED, WRITTEN, begun, ANSWERED, ended])), (1, 0, 1, 0));
    assert_eq!(counts(&judged(&[GREETED, WRITTEN, begun, ended, ANSWERED])), (1, 1, 0, 0));
    // The call that sends it begins before the sync ends.
    let sending = "9 sendto(5<PEER>, \"250 queued\\r\\n\", 12, 0, NULL, 0 <unfinished ...>";
    let sent = "9 <... sendto resumed>) = 12";
    assert_eq!(counts(&judged(&[GREETED, WRITTEN, begun, sending, ended, sent])), (1, 0, 1, 0));
}

#[test]
fn a_sync_that_began_before_the_write_ended_does_not_count() {
    let begun = "7 fdatasync(6</d/seg> <unfinished ...>";
    let ended = "7 <... fdatasync resumed>) = 0";
    assert_eq!(counts(&judged(&[GREETED, begun, WRITTEN, ended, ANSWERED])), (1, 0, 1, 0));
}

#[test]
fn a_sync_that_failed_or_is_of_another_file_does_not_count() {
    for sync in ["8 fdatasync(6</d/seg>) = -1 EIO (Input/output error)", "8 fsync(7</d/other>) = 0"] {
        assert_eq!(counts(&judged(&[GREETED, WRITTEN, sync, ANSWERED])), (1, 0, 1, 0), "{sync}");
    }
}

#[test]
fn half_a_message_is_none() {
    let half = "8 write(6</d/seg>, \"B1 x\", 40) = 40";
    let rest = "8 write(6</d/seg>, \"x E1\", 40) = 40";
    let sync = "8 fsync(6</d/seg>) = 0";
    assert_eq!(counts(&judged(&[GREETED, half, sync, rest, ANSWERED])), (1, 0, 1, 0));
    assert_eq!(counts(&judged(&[GREETED, half, rest, sync, ANSWERED])), (1, 1, 0, 0));
    // A write that took a part only.
    let part = "8 write(6</d/seg>, \"B1 E1\", 90) = 5";
    assert_eq!(counts(&judged(&[GREETED, part, sync, ANSWERED])), (1, 0, 0, 1));
}

#[test]
fn a_token_across_two_writes_is_found() {
    let [begin, end] = tokens(1);
    let whole = format!("{begin}{end}");
    let (first, second) = whole.split_at(whole.len() - 4);
    let lines = [
        GREETED.to_owned(),
        format!("8 write(6</q/a>, \"{first}\", 4096) = 4096"),
        format!("8 write(6</q/a>, \"{second}\", 4) = 4"),
        "8 fsync(6</q/a>) = 0".to_owned(),
        ANSWERED.to_owned(),
    ];
    assert_eq!(counts(&judged(&lines.each_ref().map(String::as_str))), (1, 1, 0, 0));
}

#[test]
fn files_in_other_files_and_synchronous_ones_are_known() {
    let opened = "8 openat(AT_FDCWD</w>, \"/d/seg\", O_WRONLY|O_DSYNC) = 6</d/seg>";
    assert_eq!(counts(&judged(&[GREETED, opened, WRITTEN, ANSWERED])), (1, 1, 0, 0));
    assert_eq!(counts(&judged(&[GREETED, WRITTEN, "8 sync() = 0", ANSWERED])), (1, 1, 0, 0));
    let (head, body) = ("8 write(6</q/head>, \"B1\", 40) = 40", "8 write(7</q/body>, \"E1\", 40) = 40");
    let (sync_head, sync_body) = ("8 fsync(6</q/head>) = 0", "8 fsync(7</q/body>) = 0");
    assert_eq!(counts(&judged(&[GREETED, head, body, sync_body, sync_head, ANSWERED])), (1, 1, 0, 0));
    assert_eq!(counts(&judged(&[GREETED, head, body, sync_body, ANSWERED])), (1, 0, 1, 0));
}

#[test]
fn a_file_may_be_renamed_before_its_sync() {
    let renamed = r#"7 rename("/tmp/seg", "/queue/message") = 0"#;
    let sync = "8 fsync(6</var/spool/queue/message>) = 0";
    let written = WRITTEN.replace("/d/seg", "/var/spool/tmp/seg");
    assert_eq!(counts(&judged(&[GREETED, &written, renamed, sync, ANSWERED])), (1, 1, 0, 0));
    assert_eq!(counts(&judged(&[GREETED, &written, sync, ANSWERED])), (1, 0, 1, 0));
    assert_eq!(counts(&judged(&[GREETED, &written, renamed, ANSWERED])), (1, 0, 1, 0));
}

#[test]
fn what_is_not_seen_is_not_shown_and_a_refusal_promises_nothing() {
    let found = judged(&[GREETED, ANSWERED]);
    assert_eq!((counts(&found), found.is_shown(), found.is_violated()), ((1, 0, 0, 1), false, false), "{found:?}");
    let refused = "9 sendto(5<PEER>, \"451 later\\r\\n\", 11, 0, NULL, 0) = 11";
    let found = judged(&[GREETED, refused, GREETED, WRITTEN, ANSWERED]);
    assert_eq!(counts(&found), (1, 0, 0, 1), "the 250 is that of the second message: {found:?}");
}
