//! What rules have ended and what they hold, counted over kills at any moment: each rule's list says as many ends as
//! the outcome log has records that name it, and what was held before the kill is held after it.
//!
//! `MAILRACE_COUNT_KILLS` sets the rounds (6).

#![allow(clippy::disallowed_methods, reason = "the tests are outside the engine and watch it by the clock")]

use crate::rules::Post;
use crate::support::wait::linger;
use crate::support::{Api, Client, setting, until};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

const BOUNCE: &str = "/api/admin/bounce/v1";

/// Headers of the mail that is sent, in turn; each meets another rule but the last.
const KINDS: [&str; 4] =
    ["x-mq-tag: failed\r\n", "X-Campaign: ended\r\n", "x-mq-tag: quiet\r\nX-Tenant: quiet\r\n", ""];

/// The one that leaves no record.
const QUIET: usize = 2;

fn id(answer: &Value) -> String {
    answer["id"].as_str().unwrap().to_owned()
}

/// Sends until the engine is gone, or so many; how many of each kind were taken.
fn send(smtp: SocketAddr, round: usize, most: usize) -> [usize; KINDS.len()] {
    let mut taken = [0; KINDS.len()];
    let Ok(mut client) = Client::try_connect(smtp) else { return taken };
    if client.try_command("EHLO injector.example").is_err() {
        return taken;
    }
    for number in 0..most {
        let kind = number % KINDS.len();
        let recipient = format!("r{round}-{number}@d{}.example", number % 7);
        let body = format!("{}Subject: counted\r\n\r\ncounted\r\n", KINDS[kind]);
        match client.try_send("s@test.example", &[&recipient], body.as_bytes()) {
            Ok(reply) if reply.code == 250 => taken[kind] += 1,
            _ => return taken,
        }
    }
    taken
}

/// Ends by queue that the records name a rule for.
fn recorded(post: &Post, rule: &str) -> BTreeMap<String, u64> {
    let mut queues = BTreeMap::new();
    for record in post.engine.records() {
        if record.0["rule"]["id"] == rule && !matches!(record.kind(), "Reception" | "TransientFailure") {
            *queues.entry(record.text("queue").to_owned()).or_default() += 1;
        }
    }
    queues
}

fn bounced(api: &Api, rule: &str) -> (u64, BTreeMap<String, u64>) {
    let list = api.get(BOUNCE);
    let entry = list.as_array().unwrap().iter().find(|entry| entry["id"] == rule).unwrap();
    (entry["total_bounced"].as_u64().unwrap(), serde_json::from_value(entry["bounced"].clone()).unwrap())
}

fn ended(api: &Api, rule: &str) -> u64 {
    api.get(&format!("/v1/rules/{rule}"))["ended"].as_u64().unwrap()
}

fn run_again(post: &mut Post) {
    post.engine.run();
    post.api = Api::of(&post.engine);
}

#[test]
fn ends_are_counted_once_each_over_kills_at_any_moment() {
    // So small that the log rotates between two stores of the counts.
    let mut post = Post::new(|config| config.line("log", "rotate_bytes = 20000"));
    let failed = id(&post.api.post("/v1/errors", &json!({"tag": "failed", "code": 550})));
    let by_campaign = json!({"reason": "", "campaign": "ended", "duration": "1h"});
    let by_campaign = id(&post.api.post(BOUNCE, &by_campaign));
    let quiet = json!({"reason": "", "tenant": "quiet", "duration": "1h", "suppress_logging": true});
    let quiet = id(&post.api.post(BOUNCE, &quiet));
    let gone = id(&post.api.post("/v1/errors", &json!({"domain": "d0.example", "code": 551})));
    let mut quietly = 0;
    for round in 0..setting("MAILRACE_COUNT_KILLS", 6) {
        let smtp = post.engine.smtp;
        let load = std::thread::spawn(move || send(smtp, round, usize::MAX));
        let chance = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().subsec_nanos();
        linger(Duration::from_millis(150 + u64::from(chance / 1000 % 1300)));
        if round == 1 {
            // What a removed rule has ended goes with it, and disturbs nobody.
            post.api.remove(&gone);
        }
        post.engine.kill();
        quietly += load.join().unwrap()[QUIET];
        if round % 2 == 1 {
            // Another number of shards: logs of cores that are gone are counted too.
            let config = crate::support::Config::to(post.sink.address).line("log", "rotate_bytes = 20000");
            post.engine.configure(&config.shards(1 + round % 3));
        }
        run_again(&mut post);
        until("what was found has ended", || post.api.get("/v1/queues") == json!([]));
        if round % 3 == 2 {
            // Nothing is stored by then of what this start has ended.
            post.engine.kill();
            run_again(&mut post);
            until("what was found has ended", || post.api.get("/v1/queues") == json!([]));
        }
        assert!(post.engine.stop().success());
        let records = recorded(&post, &failed);
        run_again(&mut post);
        assert_eq!(ended(&post.api, &failed), records.values().sum::<u64>(), "round {round}: a forced error");
        let records = recorded(&post, &by_campaign);
        let (total, queues) = bounced(&post.api, &by_campaign);
        assert_eq!((total, &queues), (records.values().sum(), &records), "round {round}: a bounce");
        assert!(total > 0, "round {round}: something has ended");
    }
    let (total, queues) = bounced(&post.api, &quiet);
    assert_eq!(total, queues.values().sum::<u64>());
    assert!(total >= quietly as u64, "{total} of {quietly} without a record");
    assert!(recorded(&post, &quiet).is_empty());
    // Nothing is in flight now, so these are counted exactly; a kill may repeat what the spool has not forgotten.
    assert_eq!(send(post.engine.smtp, 1000, 40)[QUIET], 10);
    until("they have ended", || bounced(&post.api, &quiet).0 == total + 10);
    post.engine.kill();
    run_again(&mut post);
    until("nothing is left", || post.api.get("/v1/queues") == json!([]));
    assert!((total + 10..=total + 20).contains(&bounced(&post.api, &quiet).0));
}

#[test]
fn what_is_held_is_counted_again_after_a_kill() {
    let mut post = Post::new(|config| config);
    let domain = id(&post.api.post("/v1/pauses", &json!({"domain": "d0.example"})));
    let tag = id(&post.api.post("/v1/pauses", &json!({"tag": "failed"})));
    let held = |api: &Api, rule: &str| api.get(&format!("/v1/rules/{rule}"))["held"].as_u64().unwrap();
    assert_eq!(send(post.engine.smtp, 0, 56).iter().sum::<usize>(), 56);
    // Every seventh goes to the one domain, every fourth bears the tag, and every 28th both: one rule counts these.
    let all = |api: &Api| (held(api, &domain), held(api, &tag));
    until("all are held", || {
        let (domain, tag) = all(&post.api);
        domain + tag == 8 + 14 - 2
    });
    let before = all(&post.api);
    for _ in 0..2 {
        post.engine.kill();
        run_again(&mut post);
        until("as many are held as before", || all(&post.api) == before);
    }
    post.api.remove(&domain);
    post.api.remove(&tag);
    post.engine.await_records("Delivery", 56);
}
