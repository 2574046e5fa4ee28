//! When rules are in force, on the real binary: futures that begin, windows that recur by the clock on some wall, and
//! ends of every kind, each of which lets its mail go.

#![allow(clippy::disallowed_methods, reason = "the tests are outside the engine and watch it by the clock")]

use crate::rules::Post;
use crate::support::Record;
use crate::support::until;
use crate::support::wait::linger;
use jiff::{Timestamp, ToSpan, Unit, Zoned};
use serde_json::{Value, json};
use std::time::Duration;

const PAUSES: &str = "/v1/pauses";
const SUSPEND: &str = "/api/admin/suspend/v1";
const SUSPEND_READY_Q: &str = "/api/admin/suspend-ready-q/v1";

/// Two to three seconds from now, at a full second: dialects write some moments without a fraction.
fn soon() -> Timestamp {
    Timestamp::now().round(Unit::Second).unwrap() + 2.seconds()
}

fn when(record: &Record) -> Timestamp {
    record.text("event_time").parse().unwrap()
}

fn await_moment(at: Timestamp) {
    until("the moment comes", || Timestamp::now() >= at);
}

#[test]
fn a_rule_of_the_future_acts_from_its_moment_on() {
    let post = Post::new(|config| config);
    // What waits until a rule ends it.
    for domain in ["failed.example", "bounced.example"] {
        post.api.post(PAUSES, &json!({"domain": domain}));
        post.send(&[&format!("r@{domain}")], "");
    }
    let start = soon();
    let cases = [
        (PAUSES, json!({"domain": "paused.example", "start": start.as_second()})),
        (SUSPEND, json!({"reason": "", "domain": "suspended.example", "start": start.to_string(), "duration": "1h"})),
    ];
    for (path, rule) in &cases {
        post.api.post(path, rule);
    }
    let moment = start.strftime("%Y-%m-%d %H:%M:%S").to_string();
    post.api.post("/v1/errors", &json!({"domain": "failed.example", "code": 550, "start": moment}));
    let bounce = json!({"reason": "", "domain": "bounced.example", "start": start.to_string()});
    let bounce = post.api.post("/api/admin/bounce/v1", &bounce);
    assert_eq!((&bounce["total_bounced"], &bounce["matched"]), (&json!(0), &json!(1)), "{bounce}");
    let domains = ["paused.example", "suspended.example"];
    for domain in domains {
        post.send(&[&format!("early@{domain}")], "");
        let record = post.await_record("Delivery", &format!("early@{domain}"));
        assert!(when(&record) < start, "the machine is too slow for this test: {record:?}");
    }
    await_moment(start + 100.milliseconds());
    for domain in domains {
        post.send(&[&format!("late@{domain}")], "");
        until(&format!("{domain} is held"), || post.in_state(domain, "held").len() == 1);
    }
    for (kind, recipient) in [("Bounce", "r@failed.example"), ("AdminBounce", "r@bounced.example")] {
        let record = post.await_record(kind, recipient);
        assert!(when(&record) >= start, "{record:?} before {start}");
    }
    let list = post.api.get(PAUSES);
    let entry = list.as_array().unwrap().iter().find(|entry| entry["domain"] == "paused.example").unwrap();
    assert_eq!(entry["start"], moment.as_str(), "{entry}");
}

#[test]
fn every_way_to_end_a_hold_by_time_lets_its_mail_go() {
    let post = Post::new(crate::rules::sources);
    let end = soon();
    let way = |source: &str| format!("{source}->{}@smtp_client", post.sink.address);
    let rfc3339 = end.to_string();
    let utc = end.strftime("%Y-%m-%d %H:%M:%S").to_string();
    let cases = [
        (PAUSES, json!({"expire": end.as_second()})),
        (PAUSES, json!({"expire": end.as_second().to_string()})),
        (PAUSES, json!({"expire": utc})),
        (PAUSES, json!({"expire": rfc3339, "tag": "t"})),
        (SUSPEND, json!({"reason": "", "expires": rfc3339})),
        (SUSPEND, json!({"reason": "", "duration": "2s 500ms"})),
        (SUSPEND, json!({"reason": "", "duration": 2.5})),
        // What begins later ends by so much later.
        (SUSPEND, json!({"reason": "", "start": Timestamp::now().to_string(), "duration": "3s"})),
    ];
    for (at, (path, rule)) in cases.iter().enumerate() {
        let domain = format!("d{at}.example");
        let mut rule = rule.clone();
        rule["domain"] = json!(domain);
        post.api.post(path, &rule);
        post.send(&[&format!("r@{domain}")], "x-mq-tag: t\r\n");
    }
    for source in ["ip-2", "ip-3"] {
        post.api.post(SUSPEND_READY_Q, &json!({"name": way(source), "reason": "", "expires": rfc3339}));
    }
    post.send(&["r@way.example"], "");
    let domains: Vec<String> = (0..cases.len()).map(|at| format!("d{at}.example")).collect();
    for domain in domains.iter().map(String::as_str).chain(["way.example"]) {
        let recipient = format!("r@{domain}");
        let record = post.await_record("Delivery", &recipient);
        assert!(when(&record) >= end, "{domain} was let go before {end}: {record:?}");
        assert_eq!(record.attempts(), 1, "{record:?}");
    }
    until("what is over is in no list", || {
        [PAUSES, SUSPEND, SUSPEND_READY_Q, "/v1/rules"].iter().all(|list| post.api.get(list) == json!([]))
    });
}

/// A window of every day on the wall of a place.
fn window(from: Timestamp, to: Timestamp, zone: &str) -> Value {
    let clock = |at: Timestamp| at.in_tz(zone).unwrap().strftime("%H:%M").to_string();
    json!({"from": clock(from), "to": clock(to), "tz": zone})
}

fn day(at: &Zoned) -> String {
    at.strftime("%a").to_string().to_lowercase()
}

#[test]
fn windows_begin_and_end_by_the_wall_clock_of_their_zone() {
    let post = Post::new(|config| config);
    let now = Timestamp::now();
    let mut boundary = Timestamp::from_second(now.as_second().div_euclid(60) * 60 + 60).unwrap();
    if boundary.duration_since(now).as_secs() < 5 {
        boundary += 1.minute();
    }
    let (before, after) = (boundary - 3.minutes(), boundary + 3.minutes());
    // Offsets of 5:45, 12 or 13 hours, and 3:30 or 2:30 the other way.
    let ending = [window(before, boundary, "Asia/Kathmandu"), window(before, boundary, "Pacific/Auckland")];
    let beginning = window(boundary, after, "America/St_Johns");
    let at = boundary.in_tz("America/St_Johns").unwrap();
    let with_days = |days: &[String]| {
        let mut window = beginning.clone();
        window["days"] = json!(days);
        window
    };
    post.api.post(PAUSES, &json!({"domain": "ends.example", "windows": ending}));
    post.api.post(SUSPEND, &json!({"reason": "", "domain": "suspended.example", "duration": "1h", "windows": ending}));
    post.api.post(PAUSES, &json!({"domain": "begins.example", "windows": [with_days(&[day(&at)])]}));
    let other_day = with_days(&[day(&(&at + 2.days()))]);
    post.api.post(PAUSES, &json!({"domain": "other.example", "windows": [other_day]}));
    for domain in ["ends.example", "suspended.example", "begins.example", "other.example"] {
        post.send(&[&format!("early@{domain}")], "");
    }
    for domain in ["begins.example", "other.example"] {
        post.await_record("Delivery", &format!("early@{domain}"));
    }
    for domain in ["ends.example", "suspended.example"] {
        until(&format!("{domain} is held"), || post.in_state(domain, "held").len() == 1);
    }
    assert!(Timestamp::now() < boundary, "the machine is too slow for this test");
    await_moment(boundary + 100.milliseconds());
    post.send(&["late@begins.example"], "");
    post.send(&["late@other.example"], "");
    for recipient in ["early@ends.example", "early@suspended.example"] {
        let record = post.await_record("Delivery", recipient);
        assert!(when(&record) >= boundary && record.attempts() == 1, "{record:?} before {boundary}");
    }
    post.await_record("Delivery", "late@other.example");
    until("the window has begun", || post.in_state("begins.example", "held").len() == 1);
    let rules = post.api.get("/v1/rules");
    assert_eq!(rules.as_array().unwrap().len(), 4, "a rule between two windows is a rule: {rules}");
    assert_eq!(rules[0]["validity"]["windows"][0]["tz"], "Asia/Kathmandu", "{rules}");
}

#[test]
fn rules_of_the_cluster_are_others_than_those_of_the_instance_and_act_here_too() {
    let mut post = Post::new(|config| config);
    let here = json!({"domain": "a.example"});
    let all = json!({"domain": "a.example", "cluster": true});
    let (one, two) = (post.api.post(PAUSES, &here), post.api.post(PAUSES, &all));
    assert_ne!(one["id"], two["id"]);
    assert_eq!((&one["created"], &two["created"]), (&json!(true), &json!(true)));
    post.api.post("/v1/errors", &json!({"tag": "t", "code": 550, "cluster": true}));
    post.api.post(SUSPEND, &json!({"reason": "", "tenant": "acme", "cluster": true, "duration": "1h"}));
    post.send(&["r@a.example"], "");
    assert_eq!(post.api.delete(PAUSES, &here)["removed"], 1);
    // Identity includes it; without it the instance's own is meant, which is gone.
    assert_eq!(post.api.delete(PAUSES, &here)["removed"], 0);
    post.engine.kill();
    post.engine.run();
    post.api = crate::support::Api::of(&post.engine);
    let flags = |list: &str| {
        let entries = post.api.get(list);
        entries.as_array().unwrap().iter().map(|entry| entry["cluster"].as_bool().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!((flags(PAUSES), flags("/v1/errors"), flags(SUSPEND)), (vec![true], vec![true], vec![true]));
    assert_eq!(flags("/v1/rules"), [true; 3]);
    until("the cluster's pause still holds", || post.in_state("a.example", "held").len() == 1);
    linger(Duration::from_millis(100));
    assert_eq!(post.sink.count(), 0);
    assert_eq!(post.api.delete(PAUSES, &all)["removed"], 1);
    post.await_record("Delivery", "r@a.example");
}
