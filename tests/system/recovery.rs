//! A start over a spool that takes long to read: the engine is up meanwhile, says what it does not know yet, and knows
//! everything in the end. What holds the reading up is a disk that does not answer for as long as the test likes.

use crate::support::strace::{Hold, held_at_opening};
use crate::support::{Action, Answer, Api, Config, Engine, Features, Sink, Step, until};
use serde_json::json;

const BODY: &[u8] = b"Subject: found\r\n\r\nfound\r\n";

/// Messages of the earlier run, two for each of as many domains as one of them has.
const LEFT: usize = 24;

/// Well formed, and of no message.
const NOBODY: &str = "ffffffff0000000000000001";

/// What is held up: a spool's index is read once by the search, and once more when its messages are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Held {
    Search = 1,
    Messages = 2,
}

impl Held {
    /// What answers say meanwhile.
    fn header(self) -> String {
        if self == Self::Search { "searching".to_owned() } else { format!("{LEFT} left") }
    }
}

/// Nobody is tried twice within a test.
fn config() -> Config {
    Config::default().line("retry", "intervals = [\"1h\"]").line("retry", "max_age = \"1d\"")
}

/// An engine with mail in back-off from an earlier run, which it is kept from reading, on its way to a destination that
/// takes all now; the ids of that mail; and what keeps it.
fn recovering(held: Held) -> Option<(Engine, Sink, Vec<String>, Hold)> {
    let sink = Sink::start(Features::default());
    let config = config().route("*", sink.address);
    sink.script(|step| match step {
        Step::Recipient(_) => Action::reply("451 4.7.1 later"),
        _ => Action::Default,
    });
    let mut engine = Engine::start(&config);
    let mut ids = Vec::new();
    for number in 0..LEFT {
        let mut client = engine.client();
        let reply = client.send("s@test.example", &[&format!("r{number}@d{}.example", number / 2)], BODY);
        assert_eq!(reply.code, 250);
        ids.push(reply.text().split(' ').nth(1).unwrap().to_owned());
    }
    engine.await_records("TransientFailure", LEFT);
    assert!(engine.stop().success());
    sink.script(|_| Action::Default);
    let indexes = engine.files("spool", |name| name.ends_with(".idx"));
    assert!(!indexes.is_empty(), "a stop leaves an index of each segment");
    engine.under(held_at_opening(&indexes, held as u32)?);
    engine.spawn();
    // Before anything can fail: it is the first to go.
    let hold = Hold::of(engine.id());
    until("the engine greets", || engine.greets());
    Some((engine, sink, ids, hold))
}

fn get(api: &Api, path: &str) -> Answer {
    api.try_call("GET", path, None).unwrap()
}

/// What an answer says of the recovery.
fn header(answer: &Answer) -> Option<&str> {
    answer.head.lines().find_map(|line| line.strip_prefix("Mailrace-Recovery: "))
}

/// How many messages are queued, as the queues are listed.
fn queued(api: &Api) -> u64 {
    api.get("/v1/queues").as_array().unwrap().iter().map(|queue| queue["total"].as_u64().unwrap()).sum()
}

fn assert_unknown(answer: &Answer) {
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(answer.head.contains("\r\nRetry-After: ") && answer.text.contains("earlier runs"), "{answer:?}");
}

/// As long as it is held: lists say that they lack something, and nobody is told that a message is not there.
fn assert_incomplete(engine: &Engine, held: Held, ids: &[String]) {
    let api = &Api::of(engine);
    let says = held.header();
    until("both spools are held", || header(&get(api, "/v1/queues")) == Some(&*says));
    for list in ["/v1/queues", "/v1/messages", "/v1/messages?domain=d1.example"] {
        let answer = get(api, list);
        assert_eq!((answer.status, header(&answer), &*answer.text), (200, Some(&*says), "[]"), "{list}");
    }
    for list in ["/v1/rules", "/v1/pauses", "/api/admin/bounce/v1"] {
        assert_eq!(header(&get(api, list)), Some(&*says), "{list}: what rules hold and have ended is counted there");
    }
    for id in [&*ids[0], NOBODY] {
        assert_unknown(&get(api, &format!("/v1/messages/{id}")));
        assert_unknown(&get(api, &format!("/api/admin/inspect-message/v1?id={id}")));
        for act in ["retry", "cancel"] {
            assert_unknown(&api.try_call("POST", &format!("/v1/messages/{id}/{act}"), None).unwrap());
        }
    }
    assert_unknown(&get(api, "/api/admin/inspect-sched-q/v1?queue_name=d1.example"));
    let metrics = get(api, "/metrics").text;
    let left = if held == Held::Search { 0 } else { LEFT };
    for line in ["mailrace_recovery_active 1".to_owned(), format!("mailrace_recovery_messages {left}")] {
        assert!(metrics.lines().any(|other| other == line), "{line}: {metrics}");
    }
    let dry = api.post("/v1/pauses?dry_run=true", &json!({"domain": "d1.example"}));
    assert_eq!((&dry["matched"], &dry["counting"]), (&json!(0), &json!(true)), "{dry}");
    let command = engine.tool(&["queue", "--config", "mailrace.toml"], "");
    let said = String::from_utf8_lossy(&command.stderr).into_owned();
    assert!(command.status.success() && said.contains(&format!("not in the queues yet ({says})")), "{command:?}");
}

/// Once it is over: all is found, and what is not is not there.
fn assert_complete(api: &Api, ids: &[String]) {
    until("all of it is in the queues", || header(&get(api, "/v1/queues")).is_none());
    assert_eq!(queued(api), LEFT as u64);
    assert_eq!(header(&get(api, "/v1/messages")), None);
    for id in ids {
        assert_eq!(get(api, &format!("/v1/messages/{id}")).status, 200, "{id}");
        assert_eq!(get(api, &format!("/api/admin/inspect-message/v1?id={id}")).status, 200, "{id}");
    }
    assert_eq!(get(api, &format!("/v1/messages/{NOBODY}")).status, 404);
    assert_eq!(get(api, &format!("/api/admin/inspect-message/v1?id={NOBODY}")).status, 404);
    for act in ["retry", "cancel"] {
        assert_eq!(api.try_call("POST", &format!("/v1/messages/{NOBODY}/{act}"), None).unwrap().status, 404);
    }
    let queue = get(api, "/api/admin/inspect-sched-q/v1?queue_name=d1.example");
    assert_eq!((queue.status, &queue.json()["num_scheduled"]), (200, &json!(2)));
    assert_eq!(get(api, "/api/admin/inspect-sched-q/v1?queue_name=nobody.example").status, 404);
    let metrics = get(api, "/metrics").text;
    assert!(metrics.contains("\nmailrace_recovery_active 0\n"), "{metrics}");
    let dry = api.post("/v1/pauses?dry_run=true", &json!({"domain": "d1.example"}));
    assert_eq!((&dry["matched"], &dry["counting"]), (&json!(2), &json!(false)), "{dry}");
}

#[test]
fn a_start_that_still_reads_its_spool_takes_mail_and_says_what_it_does_not_know() {
    for held in [Held::Search, Held::Messages] {
        let Some((mut engine, sink, ids, hold)) = recovering(held) else { return };
        let api = Api::of(&engine);
        assert_incomplete(&engine, held, &ids);
        let reply = engine.client().send("s@test.example", &["new@d1.example"], BODY);
        assert_eq!(reply.code, 250, "mail is taken");
        assert_eq!(sink.await_messages(1)[0].recipients, ["new@d1.example"], "and delivered");
        until("it has left the queue", || get(&api, "/v1/messages").text == "[]");
        assert_incomplete(&engine, held, &ids);
        drop(hold);
        assert_complete(&api, &ids);
        assert_eq!(sink.count(), 1, "what is in back-off waits");
        engine.under(Vec::new());
        assert!(engine.stop().success());
    }
}

/// Makes what a domain has due now.
fn flush(api: &Api, domain: &str) {
    let body = json!({"domain": domain, "reason": "now", "data": {}, "always_flush": true});
    api.post("/api/admin/rebind/v1", &body);
}

/// Recipients of a domain's two messages.
fn of_domain(number: usize) -> [String; 2] {
    [2 * number, 2 * number + 1].map(|recipient| format!("r{recipient}@d{number}.example"))
}

/// Mail that was not posted to its shard yet was missed by a flush: the next attempt was an hour away.
#[test]
fn what_an_operator_orders_reaches_mail_that_is_still_read() {
    for held in [Held::Search, Held::Messages] {
        let Some((mut engine, sink, ids, hold)) = recovering(held) else { return };
        let api = Api::of(&engine);
        let says = held.header();
        until("both spools are held", || header(&get(&api, "/v1/queues")) == Some(&*says));
        flush(&api, "d1.example");
        flush(&api, "d2.example");
        let pause = api.post("/api/admin/suspend/v1", &json!({"domain": "d2.example", "reason": "wait"}));
        let bounce = api.post("/api/admin/bounce/v1", &json!({"domain": "d3.example", "reason": "over"}));
        assert_eq!((&bounce["total_bounced"], &bounce["counting"]), (&json!(0), &json!(true)), "{bounce}");
        let error = api.post("/v1/errors", &json!({"domain": "d4.example", "code": 550, "description": "gone"}));
        assert_eq!((&error["matched"], &error["counting"]), (&json!(0), &json!(true)), "{error}");
        let [suppressed, other] = of_domain(5);
        api.post("/v1/suppressions", &json!({"type": "address", "value": suppressed, "code": 550}));
        drop(hold);
        until("all of it is in the queues", || header(&get(&api, "/v1/rules")).is_none());
        let mut arrived: Vec<String> =
            sink.await_messages(2).into_iter().flat_map(|message| message.recipients).collect();
        arrived.sort();
        assert_eq!(arrived, of_domain(1), "what was flushed leaves");
        let recipients = |kind: &str, count: usize| {
            let records = engine.await_records(kind, count);
            let mut recipients: Vec<String> = records.iter().map(|record| record.recipient().to_owned()).collect();
            recipients.sort();
            recipients
        };
        assert_eq!(recipients("AdminBounce", 2), of_domain(3));
        assert_eq!(recipients("Bounce", 2), of_domain(4));
        assert_eq!(recipients("Suppression", 1), [suppressed]);
        assert_eq!(api.get("/api/admin/bounce/v1")[0]["total_bounced"], 2);
        assert_eq!(queued(&api), ids.len() as u64 - 2 - 2 - 2 - 1);
        assert_eq!(
            get(&api, "/v1/messages?state=held").json().as_array().unwrap().len(),
            2,
            "suspended, though it is due"
        );
        api.call("DELETE", "/api/admin/suspend/v1", Some(&json!({"id": pause["id"]})));
        sink.await_messages(4);
        assert_eq!(get(&api, "/v1/messages?domain=d5.example").json()[0]["recipients"], json!([other]));
        assert_eq!(sink.count(), 4, "the rest waits for its time");
        engine.under(Vec::new());
        assert!(engine.stop().success());
    }
}

/// A bounce that was answered, and taken away before the mail was read, ended none of it.
#[test]
fn what_is_still_read_ends_by_rules_that_are_gone_by_then() {
    for held in [Held::Search, Held::Messages] {
        let Some((mut engine, sink, ids, hold)) = recovering(held) else { return };
        let api = Api::of(&engine);
        let says = held.header();
        until("both spools are held", || header(&get(&api, "/v1/queues")) == Some(&*says));
        let bounce = api.post("/api/admin/bounce/v1", &json!({"domain": "d3.example", "reason": "over"}));
        api.call("DELETE", "/api/admin/bounce/v1", Some(&json!({"id": bounce["id"]})));
        let short = json!({"domain": "d6.example", "reason": "over", "duration": "1s"});
        api.post("/api/admin/bounce/v1", &short);
        let error = json!({"domain": "d4.example", "code": 550, "description": "gone"});
        api.post("/v1/errors", &error);
        assert_eq!(api.delete("/v1/errors", &json!({"domain": "d4.example"}))["removed"], 1);
        let [suppressed, other] = of_domain(5);
        api.post("/v1/suppressions", &json!({"type": "address", "value": suppressed, "code": 550}));
        assert_eq!(api.delete("/v1/suppressions", &json!({"value": suppressed}))["removed"], 1);
        until("the short one is over", || api.get("/v1/rules") == json!([]));
        drop(hold);
        until("all of it is in the queues", || header(&get(&api, "/v1/rules")).is_none());
        let recipients = |kind: &str, count: usize| {
            let records = engine.await_records(kind, count);
            let mut recipients: Vec<String> = records.iter().map(|record| record.recipient().to_owned()).collect();
            recipients.sort();
            recipients
        };
        let mut bounced = [of_domain(3), of_domain(6)].concat();
        bounced.sort();
        assert_eq!(recipients("AdminBounce", 4), bounced);
        assert_eq!(recipients("Bounce", 2), of_domain(4));
        assert_eq!(recipients("Suppression", 1), [suppressed.as_str()]);
        assert_eq!(queued(&api), ids.len() as u64 - 4 - 2 - 1);
        assert_eq!(get(&api, "/v1/messages?domain=d5.example").json()[0]["recipients"], json!([other]));
        // What comes now was not meant.
        for domain in 3..=6 {
            assert_eq!(engine.client().send("s@test.example", &[&format!("new@d{domain}.example")], BODY).code, 250);
        }
        sink.await_messages(4);
        engine.under(Vec::new());
        assert!(engine.stop().success());
    }
}
