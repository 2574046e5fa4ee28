//! A long life: mail comes and goes at an even pace while rules are made and removed, and what the process holds
//! (memory, descriptors, threads, disk) must not grow with the time that it runs.
//!
//! `MAILRACE_SOAK_SECONDS` sets how long (12), `MAILRACE_SOAK_RATE` the messages a second (60), `MAILRACE_SOAK_CHANGES` the
//! rule changes a second (100). From two minutes on, the last quarter is held against the second one; a shorter run
//! only shows that all of it works.

use crate::support::wait::moment;
use crate::support::{Api, Client, Config, Engine, Features, Sink, setting, until};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

const DOMAINS: usize = 100;
const INJECTORS: usize = 3;
const CHURNERS: usize = 2;
/// Rules that a churner has in force at a time.
const IN_FORCE: usize = 20;
/// From so long on, growth is looked for.
const JUDGED_FROM: u64 = 120;

const MIB: u64 = 1 << 20;
/// Files of outcome logs: two shards, each with one in the making and what may be kept beside it.
const LOG_BYTES: u64 = 8 * MIB;
const LOG_ALLOWED: u64 = 2 * 3 * LOG_BYTES;
/// Beyond the live mail: what a spool may hold before it is compacted (4 segments), and a segment that is written and
/// one that is ready, for each of two shards.
const SPOOL_SLACK: u64 = 2 * 6 * 64 * MIB;

/// What is written back to rules.db at the latest when it has grown so large, and what comes meanwhile.
const JOURNAL_ALLOWED: u64 = 2 * 64 * MIB;

/// Threads that do something at an even pace until the whole is dropped.
struct Workers {
    endings: Vec<Sender<()>>,
    threads: Vec<JoinHandle<()>>,
}

impl Workers {
    fn new() -> Self {
        Self { endings: Vec::new(), threads: Vec::new() }
    }

    /// Does `work` `rate` times a second.
    fn add(&mut self, rate: f64, mut work: impl FnMut(u64) + Send + 'static) {
        let (ending, ended): (Sender<()>, Receiver<()>) = channel();
        self.endings.push(ending);
        self.threads.push(std::thread::spawn(move || {
            let begun = moment();
            for number in 0.. {
                let due = Duration::from_secs_f64(number as f64 / rate);
                let pause = due.saturating_sub(begun.elapsed());
                if ended.recv_timeout(pause) != Err(RecvTimeoutError::Timeout) {
                    return;
                }
                work(number);
            }
        }));
    }

    fn end(self) {
        drop(self.endings);
        self.threads.into_iter().for_each(|thread| thread.join().unwrap());
    }
}

fn injector(smtp: SocketAddr, name: usize, taken: Arc<AtomicU64>) -> impl FnMut(u64) {
    let mut client: Option<Client> = None;
    move |number| {
        // A connection carries some messages, like those of real injectors.
        if number.is_multiple_of(50) {
            client = None;
        }
        let client = client.get_or_insert_with(|| {
            let mut client = Client::connect(smtp);
            client.ehlo();
            client
        });
        let domain = (number as usize * 7 + name) % DOMAINS;
        let recipient = format!("r{name}-{number}@d{domain}.example");
        let lines = 10 + number as usize * 31 % 100;
        let body = format!(
            "Subject: {number}\r\nX-MQ-Tag: t{}\r\n\r\n{}",
            number % 10,
            "a line of the message, as long as most of them are\r\n".repeat(lines)
        );
        let reply = client.send("s@test.example", &[&recipient], body.as_bytes());
        assert_eq!(reply.code, 250, "{reply:?}");
        taken.fetch_add(1, Ordering::Relaxed);
    }
}

/// Makes a rule, or removes the oldest one when enough are in force.
fn churner(api: Api, name: usize) -> impl FnMut(u64) {
    let mut in_force: VecDeque<(&str, Value)> = VecDeque::new();
    move |number| {
        if in_force.len() == IN_FORCE {
            let (path, what) = in_force.pop_front().unwrap();
            api.delete(path, &what);
            return;
        }
        // Each churner has domains of its own, so that none removes what the other made.
        let domain = format!("d{}.example", (number as usize * CHURNERS * 3 + name) % DOMAINS);
        let tag = format!("t{}", number % 10);
        let (path, made, named) = match number % 5 {
            0 => ("/v1/pauses", json!({"domain": domain}), None),
            1 => ("/v1/pauses", json!({"domain": domain, "tag": tag}), None),
            2 => {
                let named = json!({"domain": domain, "tag": tag});
                ("/v1/errors", json!({"domain": domain, "tag": tag, "code": 550}), Some(named))
            }
            3 => {
                let value = format!("r-{number}@{domain}");
                let named = json!({"value": value});
                ("/v1/suppressions", json!({"type": "address", "value": value, "code": 550}), Some(named))
            }
            _ => ("/v1/pauses", json!({"domain": domain, "tag": format!("{name}-{number}")}), None),
        };
        api.post(path, &made);
        in_force.push_back((path, named.unwrap_or(made)));
    }
}

/// What the process holds.
#[derive(Clone, Copy, Debug, Default)]
struct Sample {
    seconds: u64,
    resident: u64,
    descriptors: u64,
    threads: u64,
    spool: u64,
    log: u64,
    rules: u64,
    /// Of rules.db, what is not yet in it.
    journal: u64,
    /// Octets of the mail that is queued.
    live: u64,
}

fn count_in(directory: &str) -> u64 {
    std::fs::read_dir(directory).unwrap().count() as u64
}

/// Octets that the files of a directory occupy.
fn occupied(directory: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let Ok(entries) = std::fs::read_dir(directory) else { return 0 };
    let of = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => occupied(&entry.path()),
        Ok(metadata) => metadata.blocks() * 512,
        // It went between the two looks.
        Err(_) => 0,
    };
    entries.flatten().map(of).sum()
}

fn look(engine: &Engine, seconds: u64, queued: u64) -> Sample {
    let process = format!("/proc/{}", engine.id());
    let statm = std::fs::read_to_string(format!("{process}/statm")).unwrap();
    let pages: u64 = statm.split(' ').nth(1).unwrap().parse().unwrap();
    let size = |name: &str| std::fs::metadata(engine.data().join(name)).map_or(0, |found| found.len());
    Sample {
        seconds,
        resident: pages * rustix::param::page_size() as u64,
        descriptors: count_in(&format!("{process}/fd")),
        threads: count_in(&format!("{process}/task")),
        spool: occupied(&engine.data().join("spool")),
        log: occupied(&engine.data().join("log")),
        rules: size("rules.db"),
        journal: size("rules.db-wal"),
        live: queued * 4096,
    }
}

/// The middle of what a quarter (from 0) of the samples say.
fn median(samples: &[Sample], quarter: usize, of: impl Fn(&Sample) -> u64) -> u64 {
    let length = samples.len() / 4;
    let mut values: Vec<u64> = samples[quarter * length..][..length].iter().map(of).collect();
    values.sort_unstable();
    values[values.len() / 2]
}

fn judge(samples: &[Sample], changes: u64) {
    let show = |name: &str, unit: u64, of: fn(&Sample) -> u64| {
        let medians: Vec<u64> = (0..4).map(|quarter| median(samples, quarter, of) / unit).collect();
        eprintln!("{name:>16}: {medians:?} in the quarters, {} at most", samples.iter().map(of).max().unwrap() / unit);
        (median(samples, 1, of), median(samples, 3, of))
    };
    let resident = show("memory KiB", 1024, |sample| sample.resident);
    let descriptors = show("descriptors", 1, |sample| sample.descriptors);
    let threads = show("threads", 1, |sample| sample.threads);
    let spool = show("spool KiB", 1024, |sample| sample.spool);
    show("log KiB", 1024, |sample| sample.log);
    let rules = show("rules.db KiB", 1024, |sample| sample.rules);
    show("its journal KiB", 1024, |sample| sample.journal);
    show("live KiB", 1024, |sample| sample.live);
    for sample in samples {
        assert!(sample.spool <= 2 * sample.live + SPOOL_SLACK, "{sample:?}");
        assert!(sample.log <= LOG_ALLOWED && sample.journal <= JOURNAL_ALLOWED, "{sample:?}");
    }
    if samples.last().unwrap().seconds < JUDGED_FROM {
        return;
    }
    assert!(resident.1 <= resident.0 + resident.0 / 10 + 8 * MIB, "memory grows: {resident:?}");
    assert!(descriptors.1 <= descriptors.0 + 16, "descriptors grow: {descriptors:?}");
    assert!(threads.1 <= threads.0, "threads grow: {threads:?}");
    assert!(spool.1 <= spool.0 + 2 * 64 * MIB, "the spool grows: {spool:?}");
    // Each change is an entry of the audit trail, which is kept to its newest million.
    let each = (rules.1.saturating_sub(rules.0)) / (changes / 2).max(1);
    assert!(each <= 1024, "rules.db grows by {each} octets with each change");
}

/// Recipients that have no end yet.
fn queued(api: &Api) -> u64 {
    let figures = api.get("/metrics.json");
    let of = |name: &str| {
        let by_shard = figures[format!("mailrace_{name}_total")]["value"]["shard"].as_object().unwrap();
        by_shard.values().map(|value| value.as_u64().unwrap()).sum::<u64>()
    };
    let ended = ["recipients_delivered", "recipients_bounced", "recipients_expired", "recipients_ended_by_rule"];
    of("messages_received").saturating_sub(ended.into_iter().map(of).sum())
}

#[test]
fn a_long_life_with_mail_and_rules_holds_no_more_than_a_short_one() {
    let seconds = setting("MAILRACE_SOAK_SECONDS", 12) as u64;
    let rate = setting("MAILRACE_SOAK_RATE", 60) as f64;
    let changes = setting("MAILRACE_SOAK_CHANGES", 100) as f64;
    let sink = Sink::start(Features::default());
    let config = Config::to(sink.address)
        .line("log", &format!("rotate_bytes = {LOG_BYTES}"))
        .line("log", &format!("keep_bytes = {LOG_BYTES}"));
    let mut engine = Engine::start(&config);
    let (api, taken, changed) = (Api::of(&engine), Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let mut workers = Workers::new();
    for name in 0..INJECTORS {
        workers.add(rate / INJECTORS as f64, injector(engine.smtp, name, taken.clone()));
    }
    for name in 0..CHURNERS {
        let (mut churn, changed) = (churner(api.clone(), name), changed.clone());
        workers.add(changes / CHURNERS as f64, move |number| {
            churn(number);
            changed.fetch_add(1, Ordering::Relaxed);
        });
    }
    let (begun, mut samples, mut delivered) = (moment(), Vec::new(), 0);
    let (_open, pause) = channel::<()>();
    while begun.elapsed().as_secs() < seconds {
        assert_eq!(pause.recv_timeout(Duration::from_secs(1)), Err(RecvTimeoutError::Timeout));
        samples.push(look(&engine, begun.elapsed().as_secs(), queued(&api)));
        if samples.len().is_multiple_of(60) {
            let (taken, changed) = (taken.load(Ordering::Relaxed), changed.load(Ordering::Relaxed));
            eprintln!("{taken} messages, {changed} changes, {:?}", samples.last().unwrap());
        }
        // The destination's own memory is none of the engine's.
        delivered += sink.count();
        sink.clear();
    }
    workers.end();
    for rule in api.get("/v1/rules").as_array().unwrap() {
        api.remove(rule["id"].as_str().unwrap());
    }
    until("all mail is at its end", || queued(&api) == 0);
    delivered += sink.count();
    let (taken, changed) = (taken.load(Ordering::Relaxed), changed.load(Ordering::Relaxed));
    eprintln!("{taken} messages in {seconds} s, about {delivered} delivered, {changed} changes of rules");
    judge(&samples, changed);
    eprintln!("at the end: {:?}", look(&engine, seconds, 0));
    assert!(engine.stop().success());
}
