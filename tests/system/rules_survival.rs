//! Rules and the mail that they hold survive a kill at any moment: what was answered is never lost; what was not
//! answered is there or is not. And rules that change all the time lose no mail.
//!
//! `MAILRACE_RULE_KILLS` sets the rounds (10).

#![allow(clippy::disallowed_methods, reason = "the tests are outside the engine and watch it by the clock")]

use crate::rules::Post;
use crate::support::wait::linger;
use crate::support::{Api, setting, until};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

const LISTS: [&str; 4] = ["/v1/pauses", "/v1/errors", "/api/admin/suspend/v1", "/v1/suppressions"];

/// What a test knows of rules, by their names.
#[derive(Default)]
struct Known {
    /// Made, and answered.
    there: BTreeSet<String>,
    /// Removed, and answered.
    gone: BTreeSet<String>,
}

/// A rule of each kind in turn, under a name of its own.
fn rule(name: &str, number: usize) -> (&'static str, Value) {
    let path = LISTS[number % LISTS.len()];
    let body = match number % LISTS.len() {
        0 => json!({"tag": name}),
        1 => json!({"tag": name, "code": 550}),
        2 => json!({"campaign": name, "reason": "", "duration": "1h"}),
        _ => json!({"value": format!("{name}.example"), "type": "domain", "code": 550}),
    };
    (path, body)
}

/// Makes rules, and removes some, until the engine is gone.
fn change_until_the_end(api: &Api, round: usize) -> Known {
    let mut known = Known::default();
    for number in 0.. {
        let name = format!("rule-{round}-{number}");
        let (path, body) = rule(&name, number);
        match api.try_call("POST", path, Some(&body)) {
            Ok(answer) => assert_eq!(answer.status, 200, "{}", answer.text),
            Err(_) => break,
        }
        if number % 3 == 0 {
            // From here on nothing is known of it, unless the answer comes.
            let body = match number % LISTS.len() {
                2 => json!({"id": rules(api).get(&name)}),
                3 => json!({"value": format!("{name}.example")}),
                _ => json!({"tag": name}),
            };
            match api.try_call("DELETE", path, Some(&body)) {
                Ok(answer) if answer.status == 200 => drop(known.gone.insert(name)),
                _ => break,
            }
        } else {
            known.there.insert(name);
        }
    }
    known
}

/// Ids of all rules by their names. Empty when the engine is gone.
fn rules(api: &Api) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for list in LISTS {
        let Ok(answer) = api.try_call("GET", list, None) else { return all };
        for entry in answer.json().as_array().unwrap() {
            let text = |name: &str| entry[name].as_str().map(str::to_owned);
            let value = text("value").map(|value| value.trim_end_matches(".example").to_owned());
            let name = text("tag").or(text("campaign")).or(value).unwrap_or_default();
            all.insert(name, text("id").unwrap_or_default());
        }
    }
    all
}

#[test]
fn answered_rules_and_held_mail_survive_kills() {
    let mut post = Post::new(|config| config.line("retry", "max_age = \"1h\""));
    let base = post.api.post("/v1/pauses", &json!({"domain": "held.example"}))["id"].as_str().unwrap().to_owned();
    let mut accepted = BTreeSet::new();
    for round in 0..setting("MAILRACE_RULE_KILLS", 10) {
        let api = post.api.clone();
        let changes = std::thread::spawn(move || change_until_the_end(&api, round));
        let smtp = post.engine.smtp;
        let injection = std::thread::spawn(move || {
            let mut taken = Vec::new();
            let Ok(mut client) = crate::support::Client::try_connect(smtp) else { return taken };
            if client.try_command("EHLO injector.example").is_err() {
                return taken;
            }
            loop {
                let recipient = format!("r{round}-{}@held.example", taken.len());
                match client.try_send("s@test.example", &[&recipient], b"Subject: kept\r\n\r\nkept\r\n") {
                    Ok(reply) if reply.code == 250 => taken.push(recipient),
                    _ => return taken,
                }
            }
        });
        let chance = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().subsec_nanos();
        linger(Duration::from_millis(20 + u64::from(chance / 1000 % 150)));
        post.engine.kill();
        let known = changes.join().unwrap();
        accepted.extend(injection.join().unwrap());
        post.engine.run();
        post.api = Api::of(&post.engine);
        let now = rules(&post.api);
        let lost: Vec<_> = known.there.iter().filter(|name| !now.contains_key(*name)).collect();
        let back: Vec<_> = known.gone.iter().filter(|name| now.contains_key(*name)).collect();
        assert!(lost.is_empty() && back.is_empty(), "round {round}: lost {lost:?}, came back {back:?}");
        // In force at once, and nothing else is.
        let number = |name: &String| name.rsplit('-').next().unwrap().parse::<usize>().unwrap();
        for name in known.there.iter().rev().take(4) {
            let recipient =
                if number(name) % 4 == 3 { format!("r@{name}.example") } else { format!("{name}@a.example") };
            post.send(&[&recipient], &format!("x-mq-tag: {name}\r\nX-Campaign: {name}\r\n"));
            match number(name) % 4 {
                1 => drop(post.await_record("Bounce", &recipient)),
                3 => drop(post.await_record("Suppression", &recipient)),
                _ => until(&format!("{name} holds"), || {
                    let held = post.in_state("a.example", "held");
                    held.iter().any(|message| message["recipients"] == json!([recipient]))
                }),
            }
        }
        let free = format!("free-{round}@free.example");
        post.send(&[&free], "");
        post.await_record("Delivery", &free);
        // A kill may have one of these delivered again, and nothing else.
        let is_free = |recipients: &[String]| recipients.iter().all(|recipient| recipient.ends_with("@free.example"));
        for message in post.sink.attempts() {
            assert!(is_free(&message.recipients), "{:?} was delivered", message.recipients);
        }
    }
    assert!(accepted.len() > 20, "{} messages only", accepted.len());
    until("all held mail is there", || {
        let queues = post.api.get("/v1/queues");
        let queue = queues.as_array().unwrap().iter().find(|queue| queue["domain"] == "held.example").cloned();
        queue.is_some_and(|queue| queue["held"].as_u64() >= Some(accepted.len() as u64))
    });
    post.sink.clear();
    post.api.remove(&base);
    until("all of it is delivered", || {
        !post.api.get("/v1/queues").as_array().unwrap().iter().any(|queue| queue["domain"] == "held.example")
    });
    let got: Vec<String> = post.sink.messages().iter().map(|message| message.recipients[0].clone()).collect();
    let once: BTreeSet<&String> = got.iter().collect();
    assert_eq!(once.len(), got.len(), "delivered twice");
    assert!(accepted.iter().all(|recipient| once.contains(recipient)), "lost");
}

#[test]
fn mail_flows_while_rules_change_all_the_time() {
    const TIME: Duration = Duration::from_secs(3);
    const EVERY: Duration = Duration::from_millis(10);
    let post = Post::new(|config| config);
    let ended = AtomicBool::new(false);
    let mut sent = Vec::new();
    let changes = std::thread::scope(|scope| {
        let churn = scope.spawn(|| {
            let begun = Instant::now();
            let mut changes = 0_u32;
            while begun.elapsed() < TIME {
                let number = changes / 2;
                let (path, body) = match number % 5 {
                    0 => ("/v1/pauses", json!({"domain": format!("d{}.example", number % 20)})),
                    1 => ("/v1/pauses", json!({"tag": "all"})),
                    2 => ("/api/admin/suspend/v1", json!({"campaign": "other", "reason": ""})),
                    3 => ("/v1/errors", json!({"tag": format!("other-{number}"), "code": 550})),
                    _ => ("/v1/pauses", json!({})),
                };
                let answer = post.api.post(path, &body);
                linger((EVERY * (changes + 1)).saturating_sub(begun.elapsed()));
                post.api.remove(answer["id"].as_str().unwrap());
                changes += 2;
                linger((EVERY * changes).saturating_sub(begun.elapsed()));
            }
            ended.store(true, Ordering::SeqCst);
            changes
        });
        let mut client = post.engine.client();
        while !ended.load(Ordering::SeqCst) {
            let recipient = format!("r{}@d{}.example", sent.len(), sent.len() % 20);
            let body = b"x-mq-tag: all\r\nX-Campaign: spring\r\nSubject: on and on\r\n\r\non\r\n";
            assert_eq!(client.send("s@test.example", &[&recipient], body).code, 250);
            sent.push(recipient);
        }
        churn.join().unwrap()
    });
    assert!(changes >= 60 && sent.len() >= 100, "{changes} changes and {} messages are no test", sent.len());
    post.sink.await_messages(sent.len());
    until("nothing is left", || post.api.get("/v1/queues") == json!([]));
    let mut got: Vec<String> = post.sink.messages().iter().map(|message| message.recipients[0].clone()).collect();
    got.sort();
    sent.sort();
    assert!(got == sent, "{} sent, {} came", sent.len(), got.len());
    let deliveries = post.engine.await_records("Delivery", sent.len());
    assert!(deliveries.iter().all(|record| record.attempts() == 1), "a hold is no attempt");
    eprintln!("{changes} changes beside {} messages", sent.len());
}
