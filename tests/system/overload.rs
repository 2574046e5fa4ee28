//! More than the engine can take: more mail than fits, more connections than there are descriptors. It refuses what
//! is too much by 4yz, keeps what it took, keeps its rules, and the control side answers all the while.
//!
//! `MAILRACE_OVERLOAD_IDLE` sets the idle connections (1,000), `MAILRACE_OVERLOAD_SLOW` the slow ones (100),
//! `MAILRACE_OVERLOAD_FILES` the descriptors that the engine may have (1,400; 0: as many as this process; with 20,000,
//! 15,000 connections are let in), `MAILRACE_OVERLOAD_MIB` the memory for mail beyond what an empty engine takes (32).

use crate::support::ledger::{Acknowledged, LogBook, Receipts, content};
use crate::support::ports::free_address;
use crate::support::wait::{moment, until_some};
use crate::support::{Api, Client, Config, Engine, Features, Sink, setting, until};
use serde_json::json;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

const INJECTORS: usize = 6;

/// Octets of memory that the engine occupies.
fn resident(engine: &Engine) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{}/statm", engine.id())).unwrap();
    let pages: u64 = text.split(' ').nth(1).unwrap().parse().unwrap();
    pages * rustix::param::page_size() as u64
}

/// Hands mail in as fast as it is answered, until told to stop.
struct Flood {
    told: Acknowledged,
    refused: Arc<AtomicUsize>,
    ending: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Flood {
    fn start(smtp: SocketAddr) -> Self {
        let (told, refused) = (Acknowledged::default(), Arc::new(AtomicUsize::new(0)));
        let ending = Arc::new(AtomicBool::new(false));
        let threads = (0..INJECTORS)
            .map(|injector| {
                let (told, refused, ending) = (told.clone(), refused.clone(), ending.clone());
                std::thread::spawn(move || {
                    let mut client = Client::connect(smtp);
                    client.ehlo();
                    for number in (0..).take_while(|_| !ending.load(Ordering::Relaxed)) {
                        let key = format!("m-{injector}-{number}");
                        let domain = if number % 10 == 0 { "held" } else { "other" };
                        let recipient = format!("{key}.0@{domain}.example");
                        let body = format!("X-Ballast: {}\r\n", "x".repeat(900)).repeat(2) + &content(&key);
                        let reply = client.try_send("s@test.example", &[&recipient], body.as_bytes());
                        let goes_on = match reply {
                            Ok(reply) if reply.code == 250 => {
                                told.note([&recipient], reply.text().split(' ').nth(1));
                                true
                            }
                            Ok(reply) if matches!(reply.code, 451 | 452) => {
                                refused.fetch_add(1, Ordering::Relaxed);
                                // It may have been refused in the middle.
                                client.try_command("RSET").is_ok_and(|reply| reply.code == 250)
                            }
                            Ok(reply) => {
                                assert_eq!(reply.code, 421, "neither taken nor refused for now: {reply:?}");
                                false
                            }
                            Err(_) => false,
                        };
                        // Who is refused so often is sent away with 421, and has to come anew.
                        if !goes_on {
                            client = Client::connect(smtp);
                            client.ehlo();
                        }
                    }
                })
            })
            .collect();
        Self { told, refused, ending, threads }
    }

    fn end(self) -> Acknowledged {
        self.ending.store(true, Ordering::Relaxed);
        self.threads.into_iter().for_each(|thread| thread.join().unwrap());
        self.told
    }
}

#[test]
fn memory_that_is_used_up_refuses_new_mail_and_keeps_the_old() {
    // What an empty engine takes depends on how it was built.
    let empty = {
        let engine = Engine::start(&Config::to(free_address()));
        engine.client().send("s@test.example", &["r@d.example"], content("first").as_bytes());
        resident(&engine)
    };
    let room = (setting("MAILRACE_OVERLOAD_MIB", 32) as u64) << 20;
    let limit = format!("memory_bytes = {}", empty + room);
    let mut engine = Engine::start(&Config::to(free_address()).line("limits", &limit));
    let api = Api::of(&engine);
    api.post("/v1/pauses", &json!({"domain": "held.example"}));
    let flood = Flood::start(engine.smtp);
    let (mut slowest, mut most) = (Duration::ZERO, 0);
    let mut look = |engine: &Engine| {
        let asked = moment();
        assert_eq!(api.get("/v1/rules").as_array().unwrap().len(), 1);
        api.post("/v1/pauses", &json!({"domain": "held.example"}));
        slowest = slowest.max(asked.elapsed());
        most = most.max(resident(engine));
    };
    // Far more is refused than taken.
    until("mail is refused", || {
        look(&engine);
        flood.refused.load(Ordering::Relaxed) > 0
    });
    let enough = flood.refused.load(Ordering::Relaxed) + 2 * flood.told.count();
    until("the flood goes on", || {
        look(&engine);
        flood.refused.load(Ordering::Relaxed) >= enough
    });
    let refused = flood.refused.load(Ordering::Relaxed);
    let told = flood.end();
    let mebibytes = |octets: u64| octets / (1 << 20);
    eprintln!(
        "{} taken, {refused} refused; memory {} MiB empty, {} allowed, {} at most; slowest pair of calls {slowest:?}",
        told.count(),
        mebibytes(empty),
        mebibytes(empty + room),
        mebibytes(most)
    );
    assert!(engine.stderr().contains("new mail is refused: "), "it says why");
    // It looks every 200 ms; what comes in between is taken.
    assert!(most <= empty + 2 * room + (32 << 20), "the memory is kept to, about: {}", mebibytes(most));
    // All that was taken is delivered, but for what a rule holds.
    let sink = Sink::start(Features::default());
    let receipts = Receipts::of(&sink);
    engine.configure(&Config::to(sink.address));
    engine.kill();
    engine.run();
    let held = |recipient: &String| recipient.ends_with("@held.example");
    let mut log = LogBook::of(&engine.data().join("log"));
    let taken = told.all();
    until("what no rule holds is delivered", || {
        log.read_on();
        taken.keys().all(|recipient| held(recipient) || log.ends.contains_key(recipient))
    });
    let counts = receipts.counts();
    assert!(!counts.keys().any(held), "the rule holds");
    Api::of(&engine).delete("/v1/pauses", &json!({"domain": "held.example"}));
    until("the rest is delivered", || receipts.counts().len() >= taken.len());
    let counts: HashMap<_, _> = receipts.counts();
    assert!(taken.keys().all(|recipient| counts.contains_key(recipient)));
    assert!(engine.stop().success());
}

/// Mail of earlier runs is read back for its deliveries. As many large messages as there are connections, at hosts that are
/// slow to take them, are more than the memory for all.
#[test]
fn bodies_that_are_read_back_keep_to_their_part_of_the_memory() {
    const SITES: usize = 25;
    const OCTETS: usize = 6 << 20;
    let sinks: Vec<Sink> = (0..SITES).map(|_| Sink::start(Features::default())).collect();
    let config = |memory: u64| {
        let route =
            |config: Config, (number, sink): (usize, &Sink)| config.route(&format!("d{number}.example"), sink.address);
        let config = sinks.iter().enumerate().fold(Config::default().shards(1), route);
        config.line("limits", &format!("memory_bytes = {memory}"))
    };
    let mut engine = Engine::start(&config(1 << 30));
    let empty = resident(&engine);
    Api::of(&engine).post("/v1/pauses", &json!({}));
    let mut client = engine.client();
    let line = format!("{}\r\n", "x".repeat(998));
    let body = content("large") + &line.repeat(OCTETS / line.len());
    for number in 0..SITES {
        client.send("s@test.example", &[&format!("r{number}@d{number}.example")], body.as_bytes());
    }
    sinks.iter().for_each(|sink| sink.valve().narrow_after(100_000));
    let room = 64 << 20;
    engine.configure(&config(empty + room));
    engine.kill();
    engine.run();
    Api::of(&engine).delete("/v1/pauses", &json!({}));
    let mut most = 0;
    let open = || sinks.iter().map(Sink::open_connections).sum::<usize>();
    until("all connections stand", || {
        most = most.max(resident(&engine));
        open() == SITES
    });
    let begun = moment();
    while begun.elapsed() < Duration::from_secs(2) {
        most = most.max(resident(&engine));
        crate::support::wait::linger(Duration::from_millis(10));
    }
    assert!(most < empty + room, "{most} octets, {empty} without mail, {SITES} messages of {OCTETS}");
    sinks.iter().for_each(|sink| sink.valve().open());
    until("all is delivered", || sinks.iter().map(Sink::count).sum::<usize>() == SITES);
    assert!(engine.stop().success());
}

/// Connections that were greeted with 220, and how many were turned away with 421.
fn crowd(smtp: SocketAddr, count: usize) -> (Vec<Client>, usize) {
    let (mut in_side, mut turned_away) = (Vec::new(), 0);
    for _ in 0..count {
        match Client::try_connect(smtp) {
            Ok(client) => in_side.push(client),
            Err(error) => {
                assert!(error.to_string().contains("too many connections"), "{error}");
                turned_away += 1;
            }
        }
    }
    (in_side, turned_away)
}

/// What the engine's start-up lines say.
fn injectors_allowed(engine: &Engine) -> usize {
    until_some("it has said how it was started", || {
        let said = engine.stderr();
        let line =
            said.lines().find_map(|line| line.trim().strip_prefix("connections")?.trim().strip_prefix("at most "));
        line?.split(' ').next()?.parse().ok()
    })
}

#[test]
fn more_connections_than_descriptors_turn_only_each_other_away() {
    let files = setting("MAILRACE_OVERLOAD_FILES", 1_400);
    let sink = Sink::start(Features::default());
    let mut engine = Engine::prepare(&Config::to(sink.address));
    if files > 0 {
        engine.under(["prlimit".to_owned(), format!("--nofile={files}:{files}")].to_vec());
    }
    engine.run();
    let most = injectors_allowed(&engine);
    let empty = resident(&engine);
    // They have begun to speak, and go on when the crowd has gone.
    let (mut slow, _) = crowd(engine.smtp, setting("MAILRACE_OVERLOAD_SLOW", 100));
    for client in &mut slow {
        client.ehlo();
        client.write(b"MAIL FROM:<s@test.exa");
    }
    let (idle, turned_away) = crowd(engine.smtp, setting("MAILRACE_OVERLOAD_IDLE", 1_000));
    let inside = slow.len() + idle.len();
    let each = resident(&engine).saturating_sub(empty) / inside as u64;
    eprintln!(
        "{} slow and {} idle connections, {turned_away} turned away, {each} octets of memory for each",
        slow.len(),
        idle.len()
    );
    assert!(turned_away > 0, "there are more than fit");
    assert_eq!(inside, most, "all that it says it takes, over all cores");
    assert!(each < 64 << 10, "{each} octets for each");
    // Nobody else suffers: mail that comes by HTTP is delivered, by connections of the engine's own.
    let api = Api::of(&engine);
    for number in 0..20 {
        let mail = json!({"envelope": "s@test.example", "recipient": format!("r{number}@d{number}.example"), "mime": content("http")});
        api.post("/v1/inject", &mail);
    }
    sink.await_messages(20);
    assert!(api.get("/v1/rules").is_array());
    // Room for one is room for the next.
    drop(idle);
    let mut next = until_some("a place is free", || Client::try_connect(engine.smtp).ok());
    next.ehlo();
    assert_eq!(next.send("s@test.example", &["next@d.example"], content("next").as_bytes()).code, 250);
    for (number, client) in slow.iter_mut().enumerate() {
        client.write(b"mple>\r\n");
        assert_eq!(client.reply().code, 250);
        assert_eq!(client.command(&format!("RCPT TO:<slow-{number}@d.example>")).code, 250);
        assert_eq!(client.command("DATA").code, 354);
        client.write(b"a: b\r\n\r\nslow\r\n.\r\n");
    }
    slow.iter_mut().for_each(|client| assert_eq!(client.reply().code, 250));
    sink.await_messages(21 + slow.len());
    drop((slow, next));
    assert!(engine.stop().success());
}
