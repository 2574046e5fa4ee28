//! SIGKILL under load: what was acknowledged arrives, and little of it twice. Books are kept outside the engine and
//! compared: what injectors were told, what the destination received, and the outcome log, in which each
//! acknowledged message has its reception and each recipient its end.
//!
//! `MAILRACE_CRASH_ROUNDS` sets how often the engine is killed (5), `MAILRACE_CRASH_SEED` repeats a run's choices.

use crate::support::ledger::{Acknowledged, Counts, LogBook, Receipts, content, key_of};
use crate::support::random::Random;
use crate::support::wait::linger;
use crate::support::{Api, Client, Config, Engine, Features, Sink, setting, until};
use serde_json::{Value, json};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

const INJECTORS: usize = 4;
const DOMAINS: usize = 20;

/// Injectors of both kinds and somebody who changes rules, who go on until told to stop or until the engine is gone.
struct Load {
    ending: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

/// What one of them works with.
struct Worker {
    /// Part of the keys of its messages.
    name: String,
    told: Acknowledged,
    ending: Arc<AtomicBool>,
}

impl Load {
    fn start(engine: &Engine, told: &Acknowledged, round: usize) -> Self {
        let ending = Arc::new(AtomicBool::new(false));
        let worker =
            |name: String| Worker { name: format!("m-{round}-{name}"), told: told.clone(), ending: ending.clone() };
        let mut threads = Vec::new();
        for injector in 0..INJECTORS {
            let (worker, smtp) = (worker(injector.to_string()), engine.smtp);
            threads.push(std::thread::spawn(move || {
                if let Ok(client) = Client::try_connect(smtp) {
                    worker.inject_by_smtp(client);
                }
            }));
        }
        let api = Api::of(engine);
        let (injector, changer, also_api) = (worker("http".to_owned()), worker(String::new()), api.clone());
        threads.push(std::thread::spawn(move || injector.inject_by_http(&api)));
        threads.push(std::thread::spawn(move || changer.change_rules(&also_api)));
        Self { ending, threads }
    }

    fn end(self) {
        self.ending.store(true, Ordering::Relaxed);
        self.threads.into_iter().for_each(|thread| thread.join().unwrap());
    }
}

/// Addresses of a message to `count` recipients of neighbouring domains, the last two of the same.
fn recipients(key: &str, number: usize, count: usize) -> Vec<String> {
    let domain = |index: usize| (number + index.min(count.saturating_sub(2))) % DOMAINS;
    (0..count).map(|index| format!("{key}.{index}@d{}.example", domain(index))).collect()
}

impl Worker {
    fn numbers(&self) -> impl Iterator<Item = (usize, String)> {
        (0..)
            .take_while(|_| !self.ending.load(Ordering::Relaxed))
            .map(|number| (number, format!("{}-{number}", self.name)))
    }

    fn inject_by_smtp(&self, mut client: Client) {
        if client.try_command("EHLO load.example").is_err() {
            return;
        }
        for (number, key) in self.numbers() {
            let recipients = recipients(&key, number, if number % 5 == 0 { 4 } else { 1 });
            let addresses: Vec<&str> = recipients.iter().map(String::as_str).collect();
            match client.try_send("s@test.example", &addresses, content(&key).as_bytes()) {
                Ok(reply) if reply.code == 250 => self.told.note(&recipients, reply.text().split(' ').nth(1)),
                // The engine is gone, or going.
                _ => return,
            }
        }
    }

    /// By both dialects in turn. Every third message bears a mark over which there are rules.
    fn inject_by_http(&self, api: &Api) {
        for (number, key) in self.numbers() {
            let several = number % 4 == 0;
            let recipients = recipients(&key, number, if several { 3 } else { 1 });
            let (path, body) = if several {
                let emails: Vec<Value> = recipients.iter().map(|email| json!({"email": email})).collect();
                let body = json!({"envelope_sender": "s@test.example", "recipients": emails, "content": content(&key)});
                ("/api/inject/v1", body)
            } else {
                let tags = if number % 3 == 0 { vec!["marked"] } else { Vec::new() };
                let mail = json!({"envelope": "s@test.example", "recipient": recipients[0], "mime": content(&key)});
                let mut mail = mail.as_object().unwrap().clone();
                mail.insert("tags".to_owned(), json!(tags));
                ("/v1/inject", Value::Object(mail))
            };
            match api.try_call("POST", path, Some(&body)) {
                Ok(answer) if answer.status == 200 => self.told.note(&recipients, answer.json()["id"].as_str()),
                _ => return,
            }
        }
    }

    /// Holds and releases what bears the mark and the mail of some domains, and ends what bears the mark for moments.
    fn change_rules(&self, api: &Api) {
        let marked = json!({"tag": "marked"});
        for (number, _) in self.numbers() {
            let domain = json!({"domain": format!("d{}.example", number % 5)});
            let refuse = json!({"tag": "marked", "code": 550});
            let calls = [
                ("POST", "/v1/pauses", &domain),
                ("POST", "/v1/pauses", &marked),
                ("DELETE", "/v1/pauses", &domain),
                ("POST", "/v1/errors", &refuse),
                ("DELETE", "/v1/pauses", &marked),
                ("DELETE", "/v1/errors", &marked),
            ];
            for (method, path, body) in calls {
                match api.try_call(method, path, Some(body)) {
                    Ok(answer) => assert_eq!(answer.status, 200, "{method} {path} {body}: {}", answer.text),
                    Err(_) => return,
                }
            }
        }
    }
}

/// Takes away what the rules of the last run hold.
fn remove_rules(engine: &Engine) {
    let api = Api::of(engine);
    for rule in api.get("/v1/rules").as_array().unwrap() {
        api.remove(rule["id"].as_str().unwrap());
    }
}

/// How often each acknowledged recipient was received and ended, and each acknowledged message recorded as received.
#[derive(Clone, Default)]
struct Seen {
    receipts: Counts,
    ends: Counts,
    receptions: Counts,
}

impl Seen {
    fn of(told: &Acknowledged, receipts: &Receipts, log: &LogBook) -> Self {
        let (mut seen, receipts) = (Self::default(), receipts.counts());
        for (recipient, id) in told.all() {
            seen.receipts.insert(recipient.clone(), receipts.get(&recipient).copied().unwrap_or(0));
            seen.ends.insert(recipient.clone(), log.ends.get(&recipient).map_or(0, Vec::len));
            if let Some(id) = id {
                let count = log.receptions.get(&id).copied().unwrap_or(0);
                seen.receptions.insert(id, count);
            }
        }
        seen
    }

    /// What concerns recipients and messages that `earlier` knows.
    fn of_those_in(&self, earlier: &Self) -> Self {
        let common = |all: &Counts, known: &Counts| {
            all.iter()
                .filter(|(name, _)| known.contains_key(*name))
                .map(|(name, count)| (name.clone(), *count))
                .collect()
        };
        Self {
            receipts: common(&self.receipts, &earlier.receipts),
            ends: common(&self.ends, &earlier.ends),
            receptions: common(&self.receptions, &earlier.receptions),
        }
    }

    /// Nothing of what had come to its end before `self` was seen has happened again in `later`.
    fn assert_unchanged(&self, later: &Self, round: usize) {
        let books = [
            ("received", &self.receipts, &later.receipts),
            ("ended", &self.ends, &later.ends),
            ("recorded as accepted", &self.receptions, &later.receptions),
        ];
        for (what, before, after) in books {
            for (name, count) in before {
                assert_eq!(after[name], *count, "{name} was {what} again by the kill {round}, long after its end");
            }
        }
    }
}

/// Waits until every acknowledged recipient has its end in the log and every acknowledged message its reception.
fn await_ends(told: &Acknowledged, log: &mut LogBook) {
    let (mut recipients, mut ids) = (HashSet::new(), HashSet::new());
    for (recipient, id) in told.all() {
        recipients.insert(recipient);
        ids.extend(id);
    }
    until("each acknowledged message has its records", || {
        log.read_on();
        recipients.retain(|recipient| !log.ends.contains_key(recipient));
        ids.retain(|id| !log.receptions.contains_key(id));
        recipients.is_empty() && ids.is_empty()
    });
}

#[test]
fn nothing_acknowledged_is_lost_by_sigkill_under_load() {
    let rounds = setting("MAILRACE_CRASH_ROUNDS", 5);
    let mut random = Random::from_setting("MAILRACE_CRASH_SEED");
    let sink = Sink::start(Features::default());
    let receipts = Receipts::of(&sink);
    let mut engine = Engine::start(&Config::to(sink.address));
    let told = Acknowledged::default();
    let mut log = LogBook::of(&engine.data().join("log"));
    // What was seen at the end of the last round. Of that what concerns mail of earlier rounds: whatever a kill
    // repeats of that mail has happened.
    let (mut last, mut settled) = (Seen::default(), Seen::default());
    for round in 0..rounds {
        let load = Load::start(&engine, &told, round);
        let enough = told.count() + 10 + random.below(800);
        until("the load has run", || told.count() >= enough);
        linger(Duration::from_millis(random.below(60) as u64));
        engine.kill();
        load.end();
        // Each start has another number of shards: spools of cores that are gone are found too.
        engine.configure(&Config::to(sink.address).shards([2, 1, 3][random.below(3)]));
        engine.run_at_once();
        if random.below(2) == 0 {
            // Not even a start that is killed at once loses anything.
            linger(Duration::from_millis(random.below(100) as u64));
            engine.kill();
            engine.run();
        }
        remove_rules(&engine);
        await_ends(&told, &mut log);
        let now = Seen::of(&told, &receipts, &log);
        settled.assert_unchanged(&now, round);
        settled = now.of_those_in(&last);
        last = now;
        sink.clear();
    }
    assert!(engine.stop().success());
    log.read_on();
    let seen = Seen::of(&told, &receipts, &log);
    judge(&told, &seen, &log);
    let repeated = |counts: &Counts| counts.values().filter(|count| **count > 1).count();
    eprintln!(
        "{rounds} kills: {} recipients acknowledged; again: {} received, {} ended, {} receptions of {}",
        seen.receipts.len(),
        repeated(&seen.receipts),
        repeated(&seen.ends),
        repeated(&seen.receptions),
        seen.receptions.len(),
    );
    let before = receipts.counts().values().sum::<usize>();
    engine.run();
    engine.client().send("s@test.example", &["last.0@d0.example"], content("last").as_bytes());
    sink.await_messages(1);
    assert!(engine.stop().success());
    assert_eq!(receipts.counts().values().sum::<usize>(), before + 1, "a start after a clean stop repeats nothing");
    log.read_on();
    let after = Seen::of(&told, &receipts, &log);
    assert_eq!(after.receptions, seen.receptions, "nor does it record anything again");
}

/// Each acknowledged recipient was delivered or ended by a rule, and the books agree on it.
fn judge(told: &Acknowledged, seen: &Seen, log: &LogBook) {
    for (recipient, id) in told.all() {
        let (received, ends) = (seen.receipts[&recipient], &log.ends[&recipient]);
        let delivered = ends.iter().filter(|kind| *kind == "Delivery").count();
        assert!(id.is_none_or(|id| seen.receptions[&id] > 0), "{recipient} has its reception");
        assert!(received >= delivered, "{recipient}: {received} receipts, {ends:?}");
        assert!(received > 0 || ends.iter().all(|kind| kind == "Bounce"), "{recipient} is lost: {ends:?}");
        let marked = delivered == ends.len() || key_of(&recipient).contains("http");
        assert!(marked, "only what bears the mark was ended by a rule: {recipient} {ends:?}");
    }
}

#[test]
fn message_ids_are_never_used_twice_over_crashes() {
    let sink = Sink::start(Features::default());
    let mut engine = Engine::start(&Config::to(sink.address));
    // What injectors were told, by recipient.
    let mut ids: HashMap<String, String> = HashMap::new();
    for round in 0..4 {
        let mut client = engine.client();
        for number in 0..20 {
            let recipient = format!("{round}-{number}@d.example");
            let reply = client.send("s@test.example", &[&recipient], b"a: b\r\n\r\nc\r\n");
            assert_eq!(reply.code, 250);
            let id = reply.text().split(' ').nth(1).unwrap().to_owned();
            ids.insert(recipient, id);
        }
        engine.kill();
        engine.run();
    }
    let delivered = |engine: &Engine| {
        let records = engine.records().into_iter().filter(|record| record.kind() == "Delivery");
        records.map(|record| (record.recipient().to_owned(), record.id().to_owned())).collect::<HashSet<_>>()
    };
    until("all are recorded as delivered", || delivered(&engine).len() >= ids.len());
    let different: HashSet<&String> = ids.values().collect();
    assert_eq!(different.len(), 80, "{ids:?}");
    assert_eq!(delivered(&engine), ids.into_iter().collect(), "under the ids that the injectors were told");
}

#[test]
fn mail_that_waits_is_found_by_a_start_with_another_number_of_shards() {
    let sink = Sink::start(Features::default());
    // Nobody listens where the mail is to go, at first.
    let nowhere = crate::support::ports::free_address();
    let mut engine = Engine::start(&Config::to(nowhere).shards(3));
    let receipts = Receipts::of(&sink);
    let told = Acknowledged::default();
    let mut client = engine.client();
    for number in 0..200 {
        let key = format!("m-{number}");
        let recipient = format!("{key}.0@d{}.example", number % DOMAINS);
        let reply = client.send("s@test.example", &[&recipient], content(&key).as_bytes());
        assert_eq!(reply.code, 250);
        told.note([&recipient], reply.text().split(' ').nth(1));
    }
    for shards in [1, 2, 4, 1] {
        engine.kill();
        engine.configure(&Config::to(nowhere).shards(shards));
        engine.run();
    }
    engine.kill();
    engine.configure(&Config::to(sink.address).shards(2));
    engine.run();
    let mut log = LogBook::of(&engine.data().join("log"));
    await_ends(&told, &mut log);
    let seen = Seen::of(&told, &receipts, &log);
    assert!(seen.receipts.values().all(|count| *count == 1), "none was delivered before, so none is repeated");
    assert!(seen.ends.values().all(|count| *count == 1), "each has one end");
    let repeated = seen.receptions.values().filter(|count| **count > 1).count();
    assert!(repeated < 200, "what an earlier run had recorded is not recorded again: {repeated}");
}
