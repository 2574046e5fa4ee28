//! Rules that end or defer mail, on the real binary: what becomes of mail that waits, what is recorded, and which of
//! several rules acts.

use crate::rules::{Post, sources};
use crate::support::dns::{Dnsmasq, mail_host};
use crate::support::{Action, Api, Config, Engine, Features, Record, Sink, Step, until};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const BOUNCE: &str = "/api/admin/bounce/v1";
const SUSPEND: &str = "/api/admin/suspend/v1";

fn id(answer: &Value) -> String {
    answer["id"].as_str().unwrap().to_owned()
}

/// The record's rule: id and kind. Who made it must be named too.
fn rule(record: &Record) -> (&str, &str) {
    let rule = &record.0["rule"];
    assert!(rule["by"].as_str().is_some_and(|by| !by.is_empty()), "{}", record.0);
    (rule["id"].as_str().unwrap(), rule["kind"].as_str().unwrap())
}

fn entry(api: &Api, list: &str, id: &str) -> Value {
    let entries = api.get(list);
    let entry = entries.as_array().unwrap().iter().find(|entry| entry["id"] == id);
    entry.unwrap_or_else(|| panic!("{id} is not in {list}: {entries}")).clone()
}

/// Has mail with `headers` in every state in which it can wait: held as a bucket, held alone, backed off.
fn waiting(post: &Post, headers: &str) -> Vec<String> {
    post.sink.script(|step| match step {
        Step::Recipient(to) if to.contains("slow") => Action::reply("451 4.2.1 later"),
        _ => Action::Default,
    });
    post.api.post("/v1/pauses", &json!({"domain": "held.example"}));
    post.api.post("/v1/pauses", &json!({"tag": "alone"}));
    let recipients = ["r@held.example", "r@alone.example", "r@slow.example"].map(str::to_owned);
    post.send(&[&recipients[0]], headers);
    post.send(&[&recipients[1]], &format!("{headers}x-mq-tag: alone\r\n"));
    post.send(&[&recipients[2]], headers);
    for (domain, state) in [("held.example", "held"), ("alone.example", "held"), ("slow.example", "waiting")] {
        until(&format!("{domain} is {state}"), || post.in_state(domain, state).len() == 1);
    }
    recipients.to_vec()
}

/// Retries so late that only a rule can be what ends a message.
fn patient(config: Config) -> Config {
    config.line("retry", "intervals = [\"1h\"]").line("retry", "max_age = \"2h\"")
}

#[test]
fn a_forced_error_cancels_mail_wherever_it_waits() {
    for (code, text) in [(550, "cancelled"), (250, "not needed"), (302, "elsewhere")] {
        let post = Post::new(patient);
        let recipients = waiting(&post, "x-mq-tag: campaign-7\r\n");
        let error = json!({"tag": "campaign-7", "code": code, "extended": "5.7.1", "description": text});
        let made = post.api.post("/v1/errors", &error);
        assert_eq!(made["matched"].as_u64(), Some(3), "{made}");
        post.send(&["new@new.example"], "x-mq-tag: campaign-7\r\n");
        post.send(&["other@new.example"], "x-mq-tag: campaign-8\r\n");
        for recipient in recipients.iter().map(String::as_str).chain(["new@new.example"]) {
            let record = post.await_record("Bounce", recipient);
            assert_eq!(rule(&record), (&*id(&made), "error"), "{}", record.0);
            assert_eq!((record.code(), record.content()), (code, text), "{}", record.0);
            assert_eq!(record.enhanced(), "5.7.1", "{}", record.0);
            assert_eq!(record.attempts(), u64::from(recipient == "r@slow.example"), "{}", record.0);
        }
        post.await_record("Delivery", "other@new.example");
        until("nothing is left", || post.api.get("/v1/queues") == json!([]));
        assert_eq!(entry(&post.api, "/v1/errors", &id(&made))["ended"], 4);
        assert_eq!(post.sink.count(), 1);
    }
}

#[test]
fn a_forced_4xx_counts_attempts() {
    let post = Post::new(|config| config);
    let error = json!({"domain": "a.example", "code": "451", "extended": "4.7.0", "description": "not now"});
    let made = post.api.post("/v1/errors", &error);
    post.send(&["r@a.example"], "");
    post.send(&["twice@a.example"], "x-mq-maxattempts: 2\r\n");
    until("two attempts were deferred", || {
        let records = post.engine.records();
        records.iter().filter(|of| of.kind() == "TransientFailure" && of.recipient() == "r@a.example").count() >= 2
    });
    let bounce = post.await_record("Bounce", "twice@a.example");
    assert_eq!((bounce.code(), bounce.attempts(), rule(&bounce)), (451, 2, (&*id(&made), "error")), "{}", bounce.0);
    post.api.remove(&id(&made));
    let delivery = post.await_record("Delivery", "r@a.example");
    let records = post.engine.records();
    let deferred: Vec<_> =
        records.iter().filter(|of| of.kind() == "TransientFailure" && of.recipient() == "r@a.example").collect();
    for (at, record) in deferred.iter().enumerate() {
        assert_eq!((record.attempts(), record.code()), (at as u64 + 1, 451), "{}", record.0);
        assert_eq!(rule(record), (&*id(&made), "error"));
        assert_eq!((record.enhanced().as_str(), record.content()), ("4.7.0", "not now"));
    }
    assert_eq!(delivery.attempts(), deferred.len() as u64 + 1);
    assert_eq!(post.sink.count(), 1);
}

#[test]
fn errors_by_what_an_attempt_has_end_mail_when_it_is_made() {
    let post = Post::new(sources);
    let (second, third) = ("x-mq-pool: second\r\n", "x-mq-pool: third\r\n");
    let cases = [json!({"mta": "127.0.0.2", "code": 550}), json!({"pool": "second", "code": 550})];
    for (at, error) in cases.iter().enumerate() {
        let made = post.api.post("/v1/errors", error);
        let [ended, free] = ["ended", "free"].map(|name| format!("{name}-{at}@a.example"));
        post.send(&[&ended], second);
        post.send(&[&free], third);
        assert_eq!(rule(&post.await_record("Bounce", &ended)).0, id(&made));
        post.await_record("Delivery", &free);
        post.api.remove(&id(&made));
    }
}

#[test]
fn suppressed_recipients_get_nothing() {
    let post = Post::new(patient);
    let waiting = waiting(&post, "");
    let suppress = |value: &str, kind: &str| {
        let body = json!({"value": value, "type": kind, "code": 554, "extended": "5.7.2", "description": "no more"});
        post.api.post("/v1/suppressions", &body)
    };
    // Queued mail first, by address in any case and by domain; then mail that comes.
    assert_eq!(suppress("R@Held.Example", "address")["matched"].as_u64(), Some(1));
    suppress("r@alone.example", "address");
    suppress("slow.example", "domain");
    for recipient in &waiting {
        let record = post.await_record("Suppression", recipient);
        assert_eq!((record.code(), record.content()), (554, "no more"), "{}", record.0);
        assert_eq!(record.enhanced(), "5.7.2");
    }
    assert_eq!(rule(&post.await_record("Suppression", "r@slow.example")), ("slow.example", "suppression"));
    post.send(&["one@slow.example", "fine@sub.slow.example", "R@alone.example", "fine@free.example"], "");
    for recipient in ["one@slow.example", "R@alone.example"] {
        assert_eq!(post.await_record("Suppression", recipient).attempts(), 0);
    }
    // A domain covers none below it; that one is refused by the destination's script.
    post.await_record("TransientFailure", "fine@sub.slow.example");
    post.await_record("Delivery", "fine@free.example");
    assert_eq!(post.api.delete("/v1/suppressions", &json!({"value": "R@ALONE.example"}))["removed"], 1);
    post.send(&["r@alone.example"], "");
    post.await_record("Delivery", "r@alone.example");
    assert_eq!(post.sink.count(), 2);
}

#[test]
fn a_message_that_may_have_got_through_says_so_when_a_rule_ends_it() {
    let post = Post::new(patient);
    post.sink.script(|step| match step {
        Step::Message(_) => Action::Drop,
        _ => Action::Default,
    });
    post.send(&["r@a.example"], "x-mq-tag: a\r\n");
    post.await_record("TransientFailure", "r@a.example");
    post.api.post("/v1/errors", &json!({"tag": "a", "code": 550}));
    let bounce = post.await_record("Bounce", "r@a.example");
    assert_eq!(bounce.0["maybe_delivered"], true, "{}", bounce.0);
}

#[test]
fn an_administrative_bounce_says_why_and_counts() {
    let post = Post::new(patient);
    let waiting = waiting(&post, "X-Campaign: spring\r\nX-Tenant: acme\r\n");
    let made = post.api.post(BOUNCE, &json!({"reason": "a mistake", "tenant": "acme", "duration": "10m"}));
    let found = json!({
        "spring:acme@held.example": 1,
        "spring:acme@alone.example": 1,
        "spring:acme@slow.example": 1,
    });
    assert_eq!((made["total_bounced"].as_u64(), &made["bounced"]), (Some(3), &found), "{made}");
    post.send(&["new@new.example"], "X-Tenant: acme\r\n");
    post.send(&["other@new.example"], "X-Tenant: Acme\r\n");
    for recipient in waiting.iter().map(String::as_str).chain(["new@new.example"]) {
        let record = post.await_record("AdminBounce", recipient);
        assert_eq!((record.code(), record.enhanced().as_str()), (551, "5.7.1"), "{}", record.0);
        assert_eq!(record.content(), "Administrator bounced with reason: a mistake");
        assert_eq!(rule(&record), (&*id(&made), "bounce"));
    }
    post.await_record("Delivery", "other@new.example");
    let entry = entry(&post.api, BOUNCE, &id(&made));
    let bounced = json!({
        "spring:acme@held.example": 1,
        "spring:acme@alone.example": 1,
        "spring:acme@slow.example": 1,
        "acme@new.example": 1,
    });
    // A queue of a tenant alone is written without a campaign.
    assert_eq!((entry["total_bounced"].as_u64(), &entry["bounced"]), (Some(4), &bounced), "{entry}");
    let quiet = json!({"reason": "", "domain": "quiet.example", "suppress_logging": true});
    let quiet = id(&post.api.post(BOUNCE, &quiet));
    post.send(&["r@quiet.example"], "");
    until("it is counted", || self::entry(&post.api, BOUNCE, &quiet)["total_bounced"] == 1);
    assert!(post.engine.records().iter().all(|of| of.kind() == "Reception" || of.recipient() != "r@quiet.example"));
    let answer = post.api.call("DELETE", BOUNCE, Some(&json!({"id": quiet})));
    assert_eq!(answer.text, format!("removed {quiet}"));
}

#[test]
fn the_rule_of_the_higher_kind_acts_then_the_one_with_more_fields_then_the_older() {
    let post = Post::new(|config| config);
    let error = |code: u16| json!({"tag": "a", "code": code});
    // Weakest first: each that comes acts instead of those before.
    let rules = [
        ("/v1/errors", error(451), "TransientFailure", 451),
        ("/v1/errors", json!({"tag": "a", "domain": "a.example", "code": 250}), "Bounce", 250),
        ("/v1/errors", json!({"domain": "a.example", "code": 552}), "Bounce", 552),
        (BOUNCE, json!({"domain": "a.example", "reason": ""}), "AdminBounce", 551),
        ("/v1/suppressions", json!({"value": "a.example", "type": "domain", "code": 553}), "Suppression", 553),
    ];
    let pause = post.api.post("/v1/pauses", &json!({}));
    let suspend = post.api.post(SUSPEND, &json!({"reason": ""}));
    for (at, (path, rule, kind, code)) in rules.iter().enumerate() {
        post.api.post(path, rule);
        let recipient = format!("r{at}@a.example");
        post.send(&[&recipient], "x-mq-tag: a\r\n");
        let record = post.await_record(kind, &recipient);
        assert_eq!(record.code(), *code, "{}", record.0);
    }
    assert_eq!(post.sink.count(), 0);
    // Within a kind.
    let older = post.api.post("/v1/errors", &json!({"tag": "b", "code": 554}));
    let newer = post.api.post("/v1/errors", &json!({"domain": "b.example", "code": 555}));
    let expect = |recipient: &str, made: &Value| {
        post.send(&[recipient], "x-mq-tag: b\r\n");
        assert_eq!(rule(&post.await_record("Bounce", recipient)).0, id(made));
    };
    expect("one@b.example", &older);
    let both = post.api.post("/v1/errors", &json!({"domain": "b.example", "tag": "b", "code": 556}));
    expect("two@b.example", &both);
    post.api.remove(&id(&both));
    post.api.remove(&id(&older));
    expect("three@b.example", &newer);
    post.api.remove(&id(&pause));
    post.api.remove(&id(&suspend));
}

#[test]
fn a_paused_remote_address_is_gone_around_and_waited_for_when_it_is_the_last() {
    let (Some(one), Some(two)) = (mail_host(), mail_host()) else { return };
    let (first, second) = (Sink::start_at(one, Features::default()), Sink::start_at(two, Features::default()));
    let lines = format!(
        "host-record=one.hosts.example,{}\nhost-record=two.hosts.example,{}\nmx-host=a.example,one.hosts.example,10\n\
         mx-host=a.example,two.hosts.example,20\n",
        one.ip(),
        two.ip()
    );
    let dnsmasq = Dnsmasq::start(&lines);
    let servers = format!("servers = [\"{}\"]", dnsmasq.address);
    let config = Config::default().line("dns", &servers).line("egress", "allow_private = true");
    let engine = Engine::start(&config);
    let api = Api::of(&engine);
    let mut sent = 0;
    let mut send = |count: usize| {
        let mut client = engine.client();
        for _ in 0..count {
            sent += 1;
            let recipient = format!("r{sent}@a.example");
            assert_eq!(client.send("s@test.example", &[&recipient], b"Subject: x\r\n\r\nx\r\n").code, 250);
        }
    };
    send(3);
    first.await_messages(3);
    // There are idle connections to it now.
    let paused = id(&api.post("/v1/pauses", &json!({"ip": one.ip().to_string()})));
    send(5);
    second.await_messages(5);
    assert_eq!(first.count(), 3);
    let both = id(&api.post("/v1/pauses", &json!({"ip": two.ip().to_string()})));
    send(4);
    until("what has nowhere to go is held", || {
        api.get("/v1/messages?domain=a.example&state=held").as_array().unwrap().len() == 4
    });
    assert_eq!((first.count(), second.count()), (3, 5));
    api.remove(&both);
    second.await_messages(9);
    api.remove(&paused);
    let deliveries = engine.await_records("Delivery", 12);
    assert_eq!((deliveries.len(), first.count()), (12, 3));
    assert!(deliveries.iter().all(|record| record.attempts() == 1));
    assert!(engine.records().iter().all(|record| matches!(record.kind(), "Reception" | "Delivery")));
}

/// The defects named in the last section of the contract: an expired rule that covers everything goes on to cover it;
/// a bounce by all criteria never covers later mail; the verdict on one queue is applied to another's mail.
mod defects_that_others_have {
    use super::*;

    #[test]
    fn a_rule_over_everything_ends_by_itself_although_no_list_was_asked_for() {
        let post = Post::new(|config| config);
        post.api.post(SUSPEND, &json!({"reason": "", "duration": "1s"}));
        post.api.post(BOUNCE, &json!({"reason": "", "duration": "500ms", "everything": true}));
        post.send(&["bounced@a.example"], "");
        post.await_record("AdminBounce", "bounced@a.example");
        until("mail passes again", || {
            post.send(&["r@a.example"], "");
            post.sink.count() > 0
        });
    }

    #[test]
    fn a_bounce_by_all_criteria_covers_later_mail() {
        let post = Post::new(|config| config);
        let all = json!({"reason": "", "campaign": "c", "tenant": "t", "domain": "a.example"});
        let made = id(&post.api.post(BOUNCE, &all));
        let named = json!({"reason": "", "queue_names": ["c:t@b.example"]});
        let by_name = id(&post.api.post(BOUNCE, &named));
        for (domain, made) in [("a.example", &made), ("b.example", &by_name)] {
            for number in 0..3 {
                let recipient = format!("r{number}@{domain}");
                post.send(&[&recipient], "X-Campaign: c\r\nX-Tenant: t\r\n");
                assert_eq!(rule(&post.await_record("AdminBounce", &recipient)).0, made);
            }
        }
    }

    #[test]
    fn the_verdict_on_one_queue_is_not_applied_to_mail_of_another() {
        const EACH: usize = 20;
        let post = Post::new(|config| config);
        let refusing = Arc::new(AtomicBool::new(true));
        let of_script = refusing.clone();
        post.sink.script(move |step| match step {
            Step::Recipient(_) if of_script.load(Ordering::SeqCst) => Action::reply("451 4.2.1 later"),
            _ => Action::Default,
        });
        let queues =
            [("c", "t", "a.example"), ("c", "u", "a.example"), ("d", "t", "a.example"), ("c", "t", "b.example")];
        for number in 0..EACH {
            for (at, (campaign, tenant, domain)) in queues.iter().enumerate() {
                let headers = format!("X-Campaign: {campaign}\r\nX-Tenant: {tenant}\r\n");
                post.send(&[&format!("q{at}-{number}@{domain}")], &headers);
            }
        }
        post.engine.await_records("TransientFailure", EACH * queues.len());
        let made = post.api.post(BOUNCE, &json!({"reason": "", "campaign": "c", "tenant": "t", "domain": "a.example"}));
        refusing.store(false, Ordering::SeqCst);
        let bounces = post.engine.await_records("AdminBounce", EACH);
        post.engine.await_records("Delivery", EACH * (queues.len() - 1));
        until("nothing is left", || post.api.get("/v1/queues") == json!([]));
        assert!(bounces.iter().all(|record| record.recipient().starts_with("q0-")), "{bounces:?}");
        assert!(post.sink.messages().iter().all(|message| !message.recipients[0].starts_with("q0-")));
        assert_eq!(post.sink.count(), EACH * (queues.len() - 1));
        assert_eq!(entry(&post.api, BOUNCE, &id(&made))["bounced"], json!({"c:t@a.example": EACH}));
    }
}
