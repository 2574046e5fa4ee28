//! SIGKILL under load: what was acknowledged arrives, and little of it twice. Two ledgers are compared, neither of
//! them the engine's: what injectors were told, and what the destination received.

use crate::support::{Client, Config, Engine, Features, Sink, setting, until};
use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

const INJECTORS: usize = 4;
const DOMAINS: usize = 20;

/// Injectors that go on until told to stop or until the engine is gone.
struct Load {
    acknowledged: Arc<Mutex<Vec<String>>>,
    count: Arc<AtomicUsize>,
    ending: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Load {
    fn start(smtp: SocketAddr, round: usize) -> Self {
        let (acknowledged, count) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicUsize::new(0)));
        let ending = Arc::new(AtomicBool::new(false));
        let threads = (0..INJECTORS)
            .map(|injector| {
                let (acknowledged, count, ending) = (acknowledged.clone(), count.clone(), ending.clone());
                std::thread::spawn(move || {
                    let Ok(mut client) = Client::try_connect(smtp) else { return };
                    if client.try_command("EHLO load.example").is_err() {
                        return;
                    }
                    for number in 0.. {
                        if ending.load(Ordering::Relaxed) {
                            return;
                        }
                        let key = format!("m-{round}-{injector}-{number}");
                        let recipient = format!("{key}@d{}.example", number % DOMAINS);
                        let body = format!("Subject: {key}\r\nX-Key: {key}\r\n\r\n{key} body\r\n");
                        match client.try_send("s@test.example", &[&recipient], body.as_bytes()) {
                            Ok(reply) if reply.code == 250 => {
                                acknowledged.lock().unwrap().push(recipient);
                                count.fetch_add(1, Ordering::Relaxed);
                            }
                            // The engine is gone, or going.
                            _ => return,
                        }
                    }
                })
            })
            .collect();
        Self { acknowledged, count, ending, threads }
    }

    fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    fn end(self) -> Vec<String> {
        self.ending.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().unwrap();
        }
        Arc::into_inner(self.acknowledged).unwrap().into_inner().unwrap()
    }
}

/// How often each recipient received something, and that everything was whole.
fn received(sink: &Sink) -> HashMap<String, usize> {
    let mut counts = HashMap::new();
    for message in sink.messages() {
        let [recipient] = message.recipients.as_slice() else { panic!("not one recipient: {message:?}") };
        let key = recipient.split('@').next().unwrap();
        let end = format!("Subject: {key}\r\nX-Key: {key}\r\n\r\n{key} body\r\n");
        assert!(message.content.ends_with(end.as_bytes()), "{recipient} got another's message, or a part of one");
        *counts.entry(recipient.clone()).or_default() += 1;
    }
    counts
}

fn await_all(sink: &Sink, acknowledged: &[String]) -> HashMap<String, usize> {
    let mut missing: HashSet<String> = acknowledged.iter().cloned().collect();
    let mut seen = 0;
    until("everything acknowledged is at the destination", || {
        let messages = sink.messages();
        messages[seen..].iter().flat_map(|message| &message.recipients).for_each(|recipient| {
            missing.remove(recipient);
        });
        seen = messages.len();
        missing.is_empty()
    });
    received(sink)
}

fn deliveries(engine: &Engine) -> usize {
    engine.records().iter().filter(|record| record.kind() == "Delivery").count()
}

/// Starts a killed engine again, and waits until every message that it found in its spools (each to one recipient)
/// has its record.
fn restart(engine: &mut Engine) {
    let (recorded, said) = (deliveries(engine), engine.stderr().len());
    engine.run();
    let found: usize = engine.stderr()[said..]
        .lines()
        .filter_map(|line| {
            line.strip_suffix(" messages found, delivery goes on")?.rsplit(' ').next()?.parse::<usize>().ok()
        })
        .sum();
    until("what was found in the spools is recorded as delivered", || deliveries(engine) >= recorded + found);
}

#[test]
fn nothing_acknowledged_is_lost_by_sigkill_under_load() {
    let rounds = setting("MAILRACE_SYSTEM_KILLS", 5);
    let sink = Sink::start(Features::default());
    let mut engine = Engine::start(&Config::to(sink.address));
    let mut acknowledged = Vec::new();
    let mut repeated = 0;
    for round in 0..rounds {
        let settled = received(&sink);
        let load = Load::start(engine.smtp, round);
        // Each round is killed at another point of the load.
        let enough = 100 + 170 * (round % 7);
        until("the load has run", || load.count() >= enough);
        engine.kill();
        acknowledged.extend(load.end());
        // Each start has another number of shards: spools of cores that are gone are found too.
        engine.configure(&Config::to(sink.address).shards([2, 1, 3][round % 3]));
        restart(&mut engine);
        let counts = await_all(&sink, &acknowledged);
        // A crash repeats what was in flight or not yet synced, so nothing that was recorded before its round.
        for (recipient, count) in &settled {
            assert_eq!(counts[recipient], *count, "{recipient} was recorded long before the kill {round}");
        }
        repeated +=
            counts.iter().filter(|(key, _)| !settled.contains_key(*key)).map(|(_, count)| count - 1).sum::<usize>();
    }
    let records = engine.records();
    let recorded: HashSet<&str> =
        records.iter().filter(|record| record.kind() == "Delivery").map(|record| record.recipient()).collect();
    assert!(acknowledged.iter().all(|recipient| recorded.contains(recipient.as_str())), "each has its outcome");
    eprintln!("{} acknowledged, {repeated} repeated, {rounds} kills", acknowledged.len());
    let other = records.iter().find(|record| !matches!(record.kind(), "Reception" | "Delivery" | "TransientFailure"));
    assert!(other.is_none(), "{other:?}");
    assert!(engine.stop().success());
    let before = sink.count();
    engine.run();
    engine.client().send("s@test.example", &["last@d0.example"], b"Subject: last\r\nX-Key: last\r\n\r\nlast body\r\n");
    sink.await_messages(before + 1);
    assert!(engine.stop().success());
    assert_eq!(sink.count(), before + 1, "a start after a clean stop repeats nothing");
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
    let mut acknowledged = Vec::new();
    let mut client = engine.client();
    for number in 0..200 {
        let recipient = format!("m-{number}@d{}.example", number % DOMAINS);
        let key = recipient.split('@').next().unwrap();
        let body = format!("Subject: {key}\r\nX-Key: {key}\r\n\r\n{key} body\r\n");
        assert_eq!(client.send("s@test.example", &[&recipient], body.as_bytes()).code, 250);
        acknowledged.push(recipient);
    }
    for shards in [1, 2, 4, 1] {
        engine.kill();
        engine.configure(&Config::to(nowhere).shards(shards));
        engine.run();
    }
    engine.kill();
    engine.configure(&Config::to(sink.address).shards(2));
    engine.run();
    let counts = await_all(&sink, &acknowledged);
    assert!(counts.values().all(|count| *count == 1), "none was delivered before, so none is repeated: {counts:?}");
}
