//! Many recipients of one message: one copy on disk, an outcome for each.

use crate::support::ports::free_address;
use crate::support::{Action, Api, Config, Engine, Features, Sink, Step};
use serde_json::json;
use std::collections::{BTreeMap, HashSet};
use std::sync::Mutex;

const DOMAINS: usize = 30;

/// What the destination makes of a recipient, by the name before the number.
fn script(step: &Step<'_>, seen: &Mutex<HashSet<String>>) -> Action {
    let Step::Recipient(address) = step else { return Action::Default };
    match address.split('-').next().unwrap() {
        "gone" => Action::reply("550 5.1.1 no such user"),
        "full" if seen.lock().unwrap().insert((*address).to_owned()) => Action::reply("452 4.2.2 mailbox full"),
        "busy" if seen.lock().unwrap().insert((*address).to_owned()) => Action::reply("450 4.2.0 try later"),
        _ => Action::Default,
    }
}

fn occurrences(haystack: &[u8], needle: &[u8]) -> usize {
    haystack.windows(needle.len()).filter(|window| *window == needle).count()
}

#[test]
fn one_message_to_many_recipients_is_stored_once_and_each_has_its_outcome() {
    let sink = Sink::start(Features::default());
    let seen = Mutex::new(HashSet::new());
    sink.script(move |step| script(step, &seen));
    let engine = Engine::start(&Config::to(sink.address).line("retry", "intervals = [\"3s\", \"1s\"]"));
    let kinds = ["ok", "gone", "full", "busy", "fine"];
    let recipients: Vec<String> =
        (0..DOMAINS).flat_map(|domain| kinds.map(|kind| format!("{kind}-{domain}@d{domain}.example"))).collect();
    let marker = b"the-only-copy-of-this-body";
    let body = [b"Subject: many\r\n\r\n", &marker[..], b"\r\n"].concat();
    let mut client = engine.client();
    let list: Vec<&str> = recipients.iter().map(String::as_str).collect();
    let reply = client.send("s@test.example", &list, &body);
    assert_eq!(reply.code, 250, "{reply:?}");
    // Accepted is synced, and some recipients are open for seconds yet.
    let spool = engine.files("spool", |_| true);
    let copies: usize = spool.iter().map(|path| occurrences(&std::fs::read(path).unwrap(), marker)).sum();
    assert_eq!(copies, 1, "the body stands in the spool once: {spool:?}");

    let delivered = engine.await_records("Delivery", DOMAINS * 4);
    let bounced = engine.await_records("Bounce", DOMAINS);
    let deferred = engine.await_records("TransientFailure", DOMAINS * 2);
    let mut outcomes: BTreeMap<&str, Vec<(&str, u64, String, u64)>> = BTreeMap::new();
    for record in deferred.iter().chain(&delivered).chain(&bounced) {
        let outcome = (record.kind(), record.code(), record.enhanced(), record.attempts());
        outcomes.entry(record.recipient()).or_default().push(outcome);
    }
    for recipient in &recipients {
        let (ok, taken) = ("Delivery", "2.0.0".to_owned());
        let expected = match recipient.split('-').next().unwrap() {
            "gone" => vec![("Bounce", 550, "5.1.1".to_owned(), 1)],
            "full" => vec![("TransientFailure", 452, "4.2.2".to_owned(), 1), (ok, 250, taken, 2)],
            "busy" => vec![("TransientFailure", 450, "4.2.0".to_owned(), 1), (ok, 250, taken, 2)],
            _ => vec![(ok, 250, taken, 1)],
        };
        assert_eq!(outcomes[recipient.as_str()], expected, "{recipient}");
    }
    let received = engine.await_records("Reception", 1);
    assert_eq!(received[0].recipients().len(), recipients.len());
    let ids: HashSet<&str> = delivered.iter().map(|record| record.id()).collect();
    assert_eq!(ids, HashSet::from([received[0].id()]), "one id for all");
    let mut arrived: Vec<String> = sink.messages().into_iter().flat_map(|message| message.recipients).collect();
    arrived.sort();
    let mut expected: Vec<String> = recipients.into_iter().filter(|address| !address.starts_with("gone")).collect();
    expected.sort();
    assert_eq!(arrived, expected, "each once");
}

#[test]
fn more_recipients_than_allowed_are_refused_one_by_one() {
    let sink = Sink::start(Features::default());
    let engine = Engine::start(&Config::to(sink.address).line("smtp", "max_recipients = 3"));
    let mut client = engine.client();
    assert_eq!(client.command("MAIL FROM:<s@test.example>").code, 250);
    for number in 0..3 {
        assert_eq!(client.command(&format!("RCPT TO:<r{number}@d.example>")).code, 250);
    }
    assert_eq!(client.command("RCPT TO:<r3@d.example>").code, 452, "RFC 5321 §4.5.3.1.10");
    assert_eq!(client.command("DATA").code, 354);
    client.write(b"Subject: x\r\n\r\nx\r\n.\r\n");
    assert_eq!(client.reply().code, 250);
    assert_eq!(engine.await_records("Delivery", 3).len(), 3);
}

#[test]
fn a_destination_that_answers_differently_to_the_end_of_data_decides_for_all_its_recipients() {
    let sink = Sink::start(Features::default());
    sink.script(|step| match step {
        Step::Message(message) if message.sender.starts_with("refused") => Action::reply("554 5.7.1 spam"),
        _ => Action::Default,
    });
    let engine = Engine::start(&Config::to(sink.address));
    let mut client = engine.client();
    let recipients = ["a@d.example", "b@d.example", "c@e.example"];
    for sender in ["refused@test.example", "taken@test.example"] {
        assert_eq!(client.send(sender, &recipients, b"Subject: x\r\n\r\nx\r\n").code, 250);
    }
    let bounced = engine.await_records("Bounce", 3);
    let delivered = engine.await_records("Delivery", 3);
    assert!(bounced.iter().all(|record| record.text("sender") == "refused@test.example" && record.code() == 554));
    assert!(bounced.iter().all(|record| record.enhanced() == "5.7.1" && record.content().contains("spam")));
    assert!(delivered.iter().all(|record| record.text("sender") == "taken@test.example"));
}

/// Hands in a message to so many recipients at as many domains; its id.
fn hand_in(engine: &Engine, domains: usize) -> String {
    let mut client = engine.client();
    assert_eq!(client.command("MAIL FROM:<s@test.example>").code, 250);
    let names: Vec<usize> = (0..domains).collect();
    for part in names.chunks(1000) {
        let lines: String = part.iter().map(|name| format!("RCPT TO:<r@d{name}.example>\r\n")).collect();
        client.write(lines.as_bytes());
        part.iter().for_each(|_| assert_eq!(client.reply().code, 250));
    }
    assert_eq!(client.command("DATA").code, 354);
    client.write(b"Subject: many\r\n\r\nmany\r\n.\r\n");
    let reply = client.reply();
    assert_eq!(reply.code, 250, "{reply:?}");
    reply.text().split_whitespace().nth(1).unwrap().to_owned()
}

/// Most of such a message are still on their way to their shards when the injector hears that it is accepted. What was
/// under way was neither cancelled nor counted.
#[test]
fn a_message_is_cancelled_in_all_its_parts_wherever_they_are() {
    const MANY: usize = 5_000;
    let config = Config::to(free_address()).line("smtp", &format!("max_recipients = {MANY}"));
    let mut engine = Engine::start(&config);
    let api = Api::of(&engine);
    api.post("/v1/pauses", &json!({}));
    for act in ["retry", "cancel"] {
        let id = hand_in(&engine, MANY);
        let answer = api.call("POST", &format!("/v1/messages/{id}/{act}"), None).json();
        assert_eq!(answer["count"], json!(MANY), "{act}: {answer}");
    }
    engine.await_records("Bounce", MANY);
    assert!(engine.stop().success());
}
