//! What the liveness check says when a disk refuses: 503 and why, while nothing is lost; and 200 again when the disk
//! is repaired, without a restart.

use crate::rules::Post;
use crate::support::{Answer, Config, until};
use serde_json::json;
use std::os::unix::fs::symlink;

const LIVENESS: &str = "/api/check-liveness/v1";

/// Anybody may ask.
fn liveness(post: &Post) -> Answer {
    post.api.with_token("").exchange("GET", LIVENESS, "*/*", "").unwrap()
}

fn await_unwell(post: &Post, why: &str) {
    until(&format!("it says: {why}"), || {
        let Answer { status, text, .. } = liveness(post);
        status == 503 && text.contains(why)
    });
    let answer = liveness(post);
    assert!(answer.head.to_lowercase().contains("\r\nretry-after: "), "{}", answer.head);
    assert!(!answer.text.contains('/'), "nobody learns of paths: {}", answer.text);
}

fn await_well(post: &Post) {
    until("it is well again", || {
        let Answer { status, text, .. } = liveness(post);
        (status, text.trim()) == (200, "OK")
    });
}

fn one_shard(config: Config) -> Config {
    config.shards(1)
}

#[test]
fn a_log_that_cannot_be_written_stops_deliveries_and_loses_no_record() {
    let post = Post::new(one_shard);
    await_well(&post);
    post.send(&["before@a.example"], "");
    post.await_record("Delivery", "before@a.example");
    let log = post.engine.data().join("log/delivery-000.jsonl");
    let moved = post.engine.data().join("log/delivery-000.20260101T000000.000Z-000.jsonl");
    std::fs::rename(&log, &moved).unwrap();
    symlink("/dev/full", &log).unwrap();
    // The log is opened again by its name.
    post.engine.reload();
    post.send(&["during@a.example"], "");
    await_unwell(&post, "the outcome log of shard 0 cannot be written");
    for number in 0..5 {
        post.send(&[&format!("r{number}@a.example")], "");
    }
    let metrics = post.api.call("GET", "/metrics", None).text;
    assert!(metrics.contains("\nmailrace_outcome_log_failing{shard=\"0\"} 1\n"), "{metrics}");
    until("all are queued", || post.in_state("a.example", "ready").len() >= 5);
    let sent = post.sink.attempts().into_iter().flat_map(|message| message.recipients);
    let sent: Vec<String> = sent.filter(|recipient| recipient.starts_with('r')).collect();
    assert!(sent.is_empty(), "nothing is delivered that cannot be recorded: {sent:?}");
    std::fs::remove_file(&log).unwrap();
    await_well(&post);
    let recipients = (0..5).map(|number| format!("r{number}@a.example")).chain(["during@a.example".to_owned()]);
    for recipient in recipients {
        post.await_record("Delivery", &recipient);
        let of = |kind: &str| {
            let records = post.engine.records().into_iter();
            records.filter(|record| record.kind() == kind && record.recipients() == [recipient.as_str()]).count()
        };
        assert_eq!((of("Reception"), of("Delivery")), (1, 1), "{recipient}");
    }
    assert_eq!(post.sink.count(), 7, "each once");
}

#[test]
fn a_spool_that_cannot_be_written_refuses_mail_until_it_is_repaired() {
    let mut post = Post::new(one_shard);
    let pause = post.api.post("/v1/pauses", &json!({"domain": "a.example"}));
    let (spool, aside) = (post.engine.data().join("spool/shard-000"), post.engine.data().join("spool/aside"));
    std::fs::rename(&spool, &aside).unwrap();
    // The open segment still takes some; the next one cannot be made.
    let body = format!(
        "Subject: large\r\n\r\n{}",
        "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcd\r\n".repeat(1 << 19)
    );
    let mut taken = 0;
    let refused = loop {
        let reply = post.engine.client().send("s@test.example", &["r@a.example"], body.as_bytes());
        if reply.code != 250 {
            break reply;
        }
        taken += 1;
        assert!(taken < 8, "segments are made out of nothing");
    };
    assert!((400..500).contains(&refused.code), "{refused:?}");
    await_unwell(&post, "the spool of shard 0 cannot be written");
    let refused = post.engine.client().send("s@test.example", &["r@b.example"], b"Subject: small\r\n\r\nx\r\n");
    assert!((400..500).contains(&refused.code), "{refused:?}");
    let injection = json!({"envelope": "", "recipient": "r@b.example", "mime": "Subject: x\n\nx\n"});
    assert_eq!(post.api.try_call("POST", "/v1/inject", Some(&injection)).unwrap().status, 503);
    let metrics = post.api.call("GET", "/metrics", None).text;
    assert!(metrics.contains("\nmailrace_spool_failing{shard=\"0\"} 1\n"), "{metrics}");
    std::fs::rename(&aside, &spool).unwrap();
    await_well(&post);
    post.send(&["r@b.example"], "");
    post.await_record("Delivery", "r@b.example");
    assert!(post.engine.stop().success());
    post.engine.run();
    post.api = crate::support::Api::of(&post.engine);
    until("what was taken is held", || post.in_state("a.example", "held").len() == taken);
    post.api.remove(pause["id"].as_str().unwrap());
    post.engine.await_records("Delivery", taken + 1);
    let whole = post.sink.messages().iter().filter(|message| message.content.ends_with(body.as_bytes())).count();
    assert_eq!((whole, post.sink.count()), (taken, taken + 1), "what was answered arrives whole, and nothing else");
}

#[test]
fn a_disk_that_is_nearly_full_is_told() {
    let post = Post::new(|config| one_shard(config).line("spool", "min_free_bytes = 9000000000000000000"));
    await_unwell(&post, "is nearly full");
    let reply = post.engine.client().send("s@test.example", &["r@a.example"], b"Subject: x\r\n\r\nx\r\n");
    assert_eq!(reply.code, 452, "{reply:?}");
}
