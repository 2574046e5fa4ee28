//! SIGKILL under load: what was acknowledged arrives, and little of it twice. Two ledgers are compared, neither of
//! them the engine's: what injectors were told, and what the destination received.

use crate::support::{Client, Config, Engine, Features, Sink, setting, until};
use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

const INJECTORS: usize = 4;
const DOMAINS: usize = 20;

/// Deliveries that a crash may repeat: those whose records were not synced, which is what 50 ms of this load can
/// be and never more than a batch of the log for each shard, and those in flight, of which each connection has a
/// few. Both shards and all connections together stay well below this.
const REPEATED_MAX: usize = 2_000;

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

#[test]
fn nothing_acknowledged_is_lost_by_sigkill_under_load() {
    let rounds = setting("MAILRACE_SYSTEM_KILLS", 5);
    let sink = Sink::start(Features::default());
    let mut engine = Engine::start(&Config::to(sink.address));
    let mut acknowledged = Vec::new();
    for round in 0..rounds {
        let load = Load::start(engine.smtp, round);
        // Each round is killed at another point of the load.
        let enough = 100 + 170 * (round % 7);
        until("the load has run", || load.count() >= enough);
        engine.kill();
        acknowledged.extend(load.end());
        // Every second start has another number of shards: spools of cores that are gone are found too.
        engine.configure(&Config::to(sink.address).shards([2, 1, 3][round % 3]));
        engine.run();
    }
    let counts = await_all(&sink, &acknowledged);
    let repeated: usize = counts.values().map(|count| count - 1).sum();
    assert!(repeated <= REPEATED_MAX * rounds, "{repeated} of {} repeated", acknowledged.len());
    eprintln!("{} acknowledged, {} received, {repeated} repeated, {rounds} kills", acknowledged.len(), counts.len());

    // What the engine recorded agrees: a reception may lack its record only if the crash took it, a delivery of
    // what arrived is recorded in the end, and nothing is delivered again by a further start.
    until("every message is recorded as delivered", || {
        let records = engine.records();
        let delivered: HashSet<&str> =
            records.iter().filter(|record| record.kind() == "Delivery").map(|record| record.recipient()).collect();
        acknowledged.iter().all(|recipient| delivered.contains(recipient.as_str()))
    });
    let unwanted = engine.records().into_iter().find(|record| !matches!(record.kind(), "Reception" | "Delivery"));
    assert!(unwanted.as_ref().is_none_or(|record| record.kind() == "TransientFailure"), "{unwanted:?}");
    assert!(engine.stop().success());
    let before = sink.count();
    engine.run();
    engine.client().send("s@test.example", &["last@d0.example"], b"Subject: last\r\n\r\nlast\r\n");
    sink.await_messages(before + 1);
    assert!(engine.stop().success());
    assert_eq!(sink.count(), before + 1, "a start after a clean stop repeats nothing");
}

#[test]
fn message_ids_are_never_used_twice_over_crashes() {
    let sink = Sink::start(Features::default());
    let mut engine = Engine::start(&Config::to(sink.address));
    for round in 0..4 {
        let mut client = engine.client();
        for number in 0..20 {
            let reply = client.send("s@test.example", &[&format!("{round}-{number}@d.example")], b"a: b\r\n\r\nc\r\n");
            assert_eq!(reply.code, 250);
        }
        sink.await_messages((round + 1) * 20);
        engine.await_records("Delivery", (round + 1) * 20);
        engine.kill();
        engine.run();
    }
    let ids: Vec<String> = engine.await_records("Reception", 80).iter().map(|record| record.id().to_owned()).collect();
    let different: HashSet<&String> = ids.iter().collect();
    assert_eq!((ids.len(), different.len()), (80, 80));
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
