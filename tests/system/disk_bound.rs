//! What the spool takes of the disk: however much goes through, no more than twice what is open and a constant, and
//! what is moved together on the way is what was taken.

use crate::support::ledger::{Acknowledged, LogBook, Receipts, content};
use crate::support::{Api, Config, Engine, Features, Sink, until};
use serde_json::json;
use std::path::Path;

/// The engine's `SPOOL_SLACK_BYTES` and two of its segments: the one that is written, and the one that takes copies
/// while the one that they come from is there.
const CONSTANT: u64 = (256 + 2 * 64) << 20;

/// More than that, of which nothing stays.
const PASSING: usize = 66;
const PASSING_BYTES: usize = 8 << 20;

/// Open mail between it, some in each segment.
const STAYING_BYTES: usize = 10 << 10;

fn octets_in(directory: &Path) -> u64 {
    // A file may go while it is looked at.
    std::fs::read_dir(directory).unwrap().filter_map(|file| file.unwrap().metadata().ok()).map(|file| file.len()).sum()
}

#[test]
fn a_spool_is_bounded_by_what_is_open() {
    let sink = Sink::start(Features::default());
    let receipts = Receipts::of(&sink);
    let mut engine = Engine::start(&Config::to(sink.address).shards(1));
    let api = Api::of(&engine);
    let pause = api.post("/v1/pauses", &json!({"domain": "staying.example"}));
    let (told, mut client) = (Acknowledged::default(), engine.client());
    let mut hand = |key: String, domain: &str, octets: usize| {
        let recipient = format!("{key}.0@{domain}.example");
        let line = "X-Ballast: 0123456789012345678901234567890123456789012345678901234567890123456789\r\n";
        let body = line.to_owned() + "\r\n" + &line.repeat(octets / line.len()) + &content(&key);
        let reply = client.send("s@test.example", &[&recipient], body.as_bytes());
        assert_eq!(reply.code, 250, "{reply:?}");
        told.note([&recipient], reply.text().split(' ').nth(1));
    };
    for number in 0..PASSING {
        hand(format!("p-{number}"), "passing", PASSING_BYTES);
        hand(format!("s-{number}"), "staying", STAYING_BYTES);
    }
    let arrived = |prefix: &str| receipts.counts().keys().filter(|name| name.starts_with(prefix)).count();
    until("what passes has arrived", || arrived("p-") == PASSING);
    let spool = engine.data().join("spool/shard-000");
    let open = (PASSING * (STAYING_BYTES + 1024)) as u64;
    until("what is on the disk is bounded by what is open", || octets_in(&spool) <= 2 * open + CONSTANT);
    assert_eq!(arrived("s-"), 0, "it is held");
    // Twice: what was moved is found, and once more after it was found.
    for _ in 0..2 {
        engine.kill();
        engine.run();
    }
    Api::of(&engine).remove(pause["id"].as_str().unwrap());
    until("what stayed has arrived", || arrived("s-") == PASSING);
    let mut log = LogBook::of(&engine.data().join("log"));
    until("all has its records", || {
        log.read_on();
        told.all().keys().all(|recipient| log.ends.contains_key(recipient))
    });
    // What was just delivered when it was killed may be so again: the two that can be on their way on one connection.
    let repeated = |(name, ends): &(&String, &Vec<String>)| name.starts_with("p-") && **ends == ["Delivery"; 2];
    assert!(log.ends.iter().filter(repeated).count() <= 2, "{:?}", log.ends);
    assert!(log.ends.iter().filter(|ends| !repeated(ends)).all(|(_, ends)| *ends == ["Delivery"]), "{:?}", log.ends);
    assert!(engine.stop().success());
}
