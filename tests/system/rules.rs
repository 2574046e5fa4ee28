//! Rules that hold mail, on the real binary: what they hold is seen, waits without an attempt, and flows when the last
//! of them goes.

#![allow(clippy::disallowed_methods, reason = "the tests are outside the engine and watch it by the clock")]

use crate::support::received::Received;
use crate::support::wait::{linger, until_some};
use crate::support::{Action, Api, Config, Engine, Features, Record, Sink, Step, until};
use serde_json::{Value, json};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime};

/// An engine with its API and a destination.
pub struct Post {
    pub engine: Engine,
    pub api: Api,
    pub sink: Sink,
}

impl Post {
    /// With what `change` makes of the default configuration.
    pub fn new(change: impl FnOnce(Config) -> Config) -> Self {
        let sink = Sink::start(Features::default());
        let engine = Engine::start(&change(Config::to(sink.address)));
        Self { api: Api::of(&engine), engine, sink }
    }

    /// Sends a message with these header lines.
    pub fn send(&self, recipients: &[&str], headers: &str) {
        let body = format!("{headers}Subject: a rule's\r\n\r\nheld or not\r\n");
        assert_eq!(self.engine.client().send("s@test.example", recipients, body.as_bytes()).code, 250);
    }

    /// Messages in a state, of a domain.
    pub fn in_state(&self, domain: &str, state: &str) -> Vec<Value> {
        let path = format!("/v1/messages?domain={domain}&state={state}&limit=1000");
        self.api.get(&path).as_array().unwrap().clone()
    }

    /// Waits until so many messages of a domain are held by one rule.
    pub fn await_held(&self, domain: &str, count: usize, rule: &str) {
        until(&format!("{count} messages to {domain} are held by {rule}"), || {
            let held = self.in_state(domain, "held");
            held.len() == count && held.iter().all(|message| message["rule"] == rule)
        });
        assert!(self.in_state(domain, "held").iter().all(|message| message["attempts"] == 0));
    }

    /// Waits until a message has come for this recipient.
    pub fn await_message(&self, recipient: &str) -> Received {
        until_some(&format!("a message for {recipient}"), || {
            self.sink.attempts().into_iter().find(|message| message.recipients == [recipient])
        })
    }

    /// Waits for the record of a type that is about a recipient.
    pub fn await_record(&self, kind: &str, recipient: &str) -> Record {
        until_some(&format!("a {kind} of {recipient}"), || {
            self.engine.records().into_iter().find(|record| record.kind() == kind && record.recipient() == recipient)
        })
    }
}

/// Sources at 127.0.0.2 and 127.0.0.3, a pool of both, and one of each.
pub fn sources(config: Config) -> Config {
    let pool = |name: &str, members: &str| format!("name = \"{name}\"\nsources = [{members}]");
    config
        .table("source", "name = \"ip-2\"\naddress = \"127.0.0.2\"")
        .table("source", "name = \"ip-3\"\naddress = \"127.0.0.3\"")
        .table("pool", &pool("default", "{ name = \"ip-2\" }, { name = \"ip-3\" }"))
        .table("pool", &pool("second", "{ name = \"ip-2\" }"))
        .table("pool", &pool("third", "{ name = \"ip-3\" }"))
}

fn id(answer: &Value) -> String {
    answer["id"].as_str().unwrap().to_owned()
}

/// How many messages a rule's entry in a list says that it holds.
fn matched(api: &Api, list: &str, id: &str) -> u64 {
    let entries = api.get(list);
    let entry = entries.as_array().unwrap().iter().find(|entry| entry["id"] == id);
    entry.unwrap_or_else(|| panic!("{id} is not in {list}: {entries}"))["matched"].as_u64().unwrap()
}

#[test]
fn what_a_rule_covers_is_held_and_seen_and_flows_when_it_goes() {
    let other_host = Sink::start_at(SocketAddr::from(([127, 0, 0, 77], 0)), Features::default());
    let post = Post::new(|config| sources(config).route("elsewhere.example", other_host.address));
    let pauses = "/v1/pauses";
    let suspend = "/api/admin/suspend/v1";
    let ready_q = "/api/admin/suspend-ready-q/v1";
    let way = format!("ip-2->{}@smtp_client", post.sink.address);
    let (second, third) = ("x-mq-pool: second\r\n", "x-mq-pool: third\r\n");
    let campaign = "X-Campaign: spring\r\nX-Tenant: acme\r\n";
    // Where, the rule, headers of mail that it covers, headers (and the domain) of mail that it does not.
    let cases = [
        (pauses, json!({"domain": "case-0.example"}), "", "", "other.example"),
        (pauses, json!({"tag": "a"}), "x-mq-tag: b\r\nx-mq-tag: a\r\n", "x-mq-tag: A\r\n", ""),
        (pauses, json!({"tag": "a", "domain": "case-2.example"}), "x-mq-tag: a\r\n", "", ""),
        (pauses, json!({"pool": "second"}), second, third, ""),
        (pauses, json!({"mta": "127.0.0.2"}), second, third, ""),
        (pauses, json!({"ip": "127.0.0.1"}), "", "", "elsewhere.example"),
        (suspend, json!({"reason": "", "campaign": "spring"}), campaign, "X-Campaign: Spring\r\n", ""),
        (suspend, json!({"reason": "", "tenant": "acme"}), campaign, "X-Tenant: other\r\n", ""),
        (suspend, json!({"reason": "", "domain": "case-8.example"}), campaign, campaign, "other.example"),
        (
            suspend,
            json!({"reason": "", "domain": "case-9.example", "tenant": "acme", "campaign": "spring"}),
            campaign,
            "X-Tenant: acme\r\n",
            "",
        ),
        (suspend, json!({"reason": "", "queue_names": ["x@y", "spring:acme@case-10.example"]}), campaign, "", ""),
        (ready_q, json!({"reason": "", "name": way}), second, third, ""),
    ];
    for (at, (path, rule, covered, free, free_domain)) in cases.iter().enumerate() {
        let domain = format!("case-{at}.example");
        let free_domain = if free_domain.is_empty() { &domain } else { *free_domain };
        let answer = post.api.post(path, rule);
        let held = [format!("one@{domain}"), format!("two@{domain}")];
        for recipient in &held {
            post.send(&[recipient], covered);
        }
        post.send(&[&format!("free-{at}@{free_domain}")], free);
        post.await_record("Delivery", &format!("free-{at}@{free_domain}"));
        post.await_held(&domain, 2, &id(&answer));
        until("the list counts what is held", || matched(&post.api, path, &id(&answer)) == 2);
        let queues = post.api.get("/v1/queues");
        let queue = queues.as_array().unwrap().iter().find(|queue| queue["domain"] == domain.as_str()).unwrap();
        assert_eq!((queue["held"].as_u64(), queue["due"].as_u64()), (Some(2), Some(0)), "{rule}: {queue}");
        let again = post.api.post(path, rule);
        assert_eq!((again["matched"].as_u64(), again["in_flight"].as_u64()), (Some(2), Some(0)), "{rule}: {again}");
        assert!(post.sink.attempts().iter().all(|message| !held.contains(&message.recipients[0])), "{rule} leaks");
        post.api.remove(&id(&again));
        for recipient in &held {
            assert_eq!(post.await_record("Delivery", recipient).attempts(), 1, "{rule}: a hold is no attempt");
        }
        assert!(post.api.get("/v1/rules").as_array().unwrap().is_empty());
    }
    assert_eq!(post.sink.count() + other_host.count(), 3 * cases.len(), "each once");
}

#[test]
fn mail_flows_when_the_last_of_several_rules_goes() {
    let post = Post::new(|config| config);
    let headers = "x-mq-tag: a\r\nX-Campaign: spring\r\n";
    let way = format!("unspecified->{}@smtp_client", post.sink.address);
    let rules = [
        ("/v1/pauses", json!({"tag": "a"})),
        ("/v1/pauses", json!({"domain": "several.example"})),
        ("/api/admin/suspend/v1", json!({"campaign": "spring", "reason": ""})),
        ("/api/admin/suspend-ready-q/v1", json!({"name": way, "reason": ""})),
        ("/v1/pauses", json!({"ip": "127.0.0.1"})),
        ("/v1/pauses", json!({"mta": "127.0.0.1"})),
        ("/v1/pauses", json!({})),
    ];
    // Each of them once is the last.
    for last in 0..rules.len() {
        let recipient = format!("r{last}@several.example");
        let mut ids: Vec<String> = rules.iter().map(|(path, rule)| id(&post.api.post(path, rule))).collect();
        post.send(&[&recipient], headers);
        ids.rotate_left((last + 1) % rules.len());
        let is_held = || {
            let held = post.in_state("several.example", "held");
            held.first().and_then(|message| message["rule"].as_str()).map(str::to_owned)
        };
        while ids.len() > 1 {
            until("one of those left holds it", || is_held().is_some_and(|by| ids.contains(&by)));
            post.api.remove(&ids.remove(0));
        }
        until("the last one holds it", || is_held().as_ref() == ids.first());
        assert!(post.sink.attempts().iter().all(|message| message.recipients != [&*recipient]));
        post.api.remove(&ids[0]);
        assert_eq!(post.await_record("Delivery", &recipient).attempts(), 1);
    }
    assert_eq!(post.sink.count(), rules.len());
}

#[test]
fn one_of_several_recipients_is_held_and_the_others_are_not() {
    let post = Post::new(|config| config);
    let held = id(&post.api.post("/v1/pauses", &json!({"domain": "b.example"})));
    post.send(&["one@a.example", "two@b.example", "three@b.example", "four@c.example"], "");
    for recipient in ["one@a.example", "four@c.example"] {
        post.await_record("Delivery", recipient);
    }
    post.await_held("b.example", 1, &held);
    post.api.remove(&held);
    let message = post.sink.await_messages(3).pop().unwrap();
    assert_eq!(message.recipients, ["two@b.example", "three@b.example"]);
}

#[test]
fn a_rule_that_ends_by_time_lets_its_mail_go() {
    let post = Post::new(|config| config);
    let now = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let end = now().as_secs() + 2;
    post.api.post("/v1/pauses", &json!({"tag": "a", "expire": end}));
    post.api.post("/api/admin/suspend/v1", &json!({"reason": "", "domain": "b.example", "duration": 1.5}));
    post.send(&["r@a.example"], "x-mq-tag: a\r\n");
    post.send(&["r@b.example"], "");
    until("both are held", || ["a.example", "b.example"].iter().all(|domain| post.in_state(domain, "held").len() == 1));
    let by_end = post.sink.count();
    assert!(by_end == 0 || now().as_secs() >= end, "let go too early");
    for recipient in ["r@a.example", "r@b.example"] {
        let record = post.await_record("Delivery", recipient);
        assert_eq!(record.attempts(), 1, "{}", record.0);
    }
    assert!(now().as_secs() >= end, "let go too early");
    until("rules that are over are in no list", || {
        ["/v1/pauses", "/api/admin/suspend/v1", "/v1/rules"].iter().all(|list| post.api.get(list) == json!([]))
    });
}

#[test]
fn held_mail_expires_on_time() {
    let post = Post::new(|config| config.line("retry", "max_age = \"2s\""));
    let held = post.api.post("/v1/pauses", &json!({"domain": "a.example"}));
    let tagged = post.api.post("/v1/pauses", &json!({"tag": "a"}));
    post.send(&["r@a.example"], "");
    post.send(&["r@b.example"], "x-mq-tag: a\r\n");
    for recipient in ["r@a.example", "r@b.example"] {
        let record = post.await_record("Expiration", recipient);
        assert_eq!((record.code(), record.attempts()), (551, 0), "{}", record.0);
    }
    post.api.remove(&id(&held));
    post.api.remove(&id(&tagged));
    linger(Duration::from_millis(200));
    assert_eq!(post.sink.count(), 0);
}

#[test]
fn a_closed_path_or_own_address_is_gone_around() {
    const COUNT: usize = 12;
    let post = Post::new(|config| sources(config).table("limit", "messages_per_connection = 2"));
    let way = |source: &str| format!("{source}->{}@smtp_client", post.sink.address);
    let rules = [
        ("/api/admin/suspend-ready-q/v1", json!({"name": way("ip-2"), "reason": ""}), [127, 0, 0, 3]),
        ("/api/admin/suspend-ready-q/v1", json!({"name": way("ip-3"), "reason": ""}), [127, 0, 0, 2]),
        ("/v1/pauses", json!({"mta": "127.0.0.2"}), [127, 0, 0, 3]),
        ("/v1/pauses", json!({"mta": "127.0.0.3", "tag": "a"}), [127, 0, 0, 2]),
    ];
    for (at, (path, rule, open)) in rules.into_iter().enumerate() {
        let made = post.api.post(path, &rule);
        for number in 0..COUNT {
            post.send(&[&format!("r{number}@d{at}.example")], "x-mq-tag: a\r\n");
        }
        post.sink.await_messages(COUNT);
        let open = IpAddr::from(open);
        assert!(post.sink.messages().iter().all(|message| message.client == open), "{rule}");
        post.api.remove(&id(&made));
        post.sink.clear();
    }
    // Both closed: it waits, and flows by whichever opens first.
    let ids = ["ip-2", "ip-3"].map(|source| {
        let rule = json!({"name": way(source), "reason": ""});
        id(&post.api.post("/api/admin/suspend-ready-q/v1", &rule))
    });
    for (at, open) in [(0, [127, 0, 0, 2]), (1, [127, 0, 0, 3])] {
        let recipient = format!("r@both-{at}.example");
        post.send(&[&recipient], "");
        if at == 0 {
            until("it is held", || post.in_state("both-0.example", "held").len() == 1);
        }
        post.api.remove(&ids[at]);
        if at == 0 {
            assert_eq!(post.await_message(&recipient).client, IpAddr::from(open));
        }
        assert_eq!(post.await_record("Delivery", &recipient).attempts(), 1);
    }
}

#[test]
fn release_keeps_to_the_limits() {
    const COUNT: usize = 200;
    let post = Post::new(|config| config.table("limit", "per = \"path\"\nconnections = 3"));
    post.sink.script(|step| {
        if matches!(step, Step::Message(_)) {
            linger(Duration::from_millis(2));
        }
        Action::Default
    });
    for rule in [json!({}), json!({"tag": "a"}), json!({"ip": "127.0.0.1"})] {
        post.sink.clear();
        let answer = post.api.post("/v1/pauses", &rule);
        let mut client = post.engine.client();
        for number in 0..COUNT {
            let recipient = format!("r{number}@d{}.example", number % 5);
            let body = b"x-mq-tag: a\r\nSubject: much\r\n\r\nmuch\r\n";
            assert_eq!(client.send("s@test.example", &[&recipient], body).code, 250);
        }
        until("all are held", || {
            let queues = post.api.get("/v1/queues");
            queues.as_array().unwrap().iter().map(|queue| queue["held"].as_u64().unwrap()).sum::<u64>() == COUNT as u64
        });
        post.api.remove(&id(&answer));
        post.sink.await_messages(COUNT);
        assert!(post.sink.most_open_connections() <= 3, "{rule}: {}", post.sink.most_open_connections());
        until("nothing is left", || post.api.get("/v1/queues") == json!([]));
        assert_eq!(post.sink.count(), COUNT, "{rule}: each once");
    }
    assert!(post.engine.await_records("Delivery", 3 * COUNT).iter().all(|record| record.attempts() == 1));
}
