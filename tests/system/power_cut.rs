//! Power cuts: what was acknowledged has been synced before. strace writes down every write, sync and send of the real
//! binary; from that a disk is made that lost whatever no sync had promised, and the engine started on it.
//!
//! `MAILRACE_POWER_CUTS` sets at how many moments the power is cut (5), `MAILRACE_POWER_SEED` repeats a run's choice.

use crate::support::ledger::{Acknowledged, LogBook, Receipts, content, key_of};
use crate::support::ports::free_address;
use crate::support::power::PowerCut;
use crate::support::random::Random;
use crate::support::strace::{finished, strace, tracer_of};
use crate::support::{Api, Config, Engine, Features, Sink, setting, until};
use serde_json::json;
use std::collections::{BTreeSet, HashMap, HashSet};

/// What was said to callers by a moment.
#[derive(Clone, Default)]
struct Said {
    /// Ids of messages.
    messages: HashSet<String>,
    /// Ids of suspensions.
    suspensions: HashSet<String>,
}

/// A disk after a power cut with an engine to run on it, and what callers had been told by then.
struct Cut {
    engine: Engine,
    said: Said,
    line: usize,
}

/// Mail of all kinds, half of it for a host that takes it, and suspensions of mail that there is none of.
fn busy_hour(engine: &Engine, told: &Acknowledged) -> HashSet<String> {
    let injectors: Vec<_> = ["one", "two"]
        .into_iter()
        .map(|name| {
            let (mut client, told) = (engine.client(), told.clone());
            std::thread::spawn(move || {
                for number in 0..20 {
                    let key = format!("{name}-{number}");
                    let count = if number % 4 == 0 { 3 } else { 1 };
                    let domain = |index: usize| if (number + index).is_multiple_of(2) { "taken" } else { "waiting" };
                    let recipients: Vec<_> =
                        (0..count).map(|index| format!("{key}.{index}@{}.example", domain(index))).collect();
                    let addresses: Vec<&str> = recipients.iter().map(String::as_str).collect();
                    let reply = client.send("s@test.example", &addresses, content(&key).as_bytes());
                    assert_eq!(reply.code, 250, "{reply:?}");
                    told.note(&recipients, reply.text().split(' ').nth(1));
                }
            })
        })
        .collect();
    let api = Api::of(engine);
    let mut suspensions = HashSet::new();
    for number in 0..10 {
        let key = format!("http-{number}");
        let recipient = format!("{key}.0@{}.example", ["taken", "waiting"][number % 2]);
        let mail = json!({"envelope": "s@test.example", "recipient": recipient, "mime": content(&key)});
        told.note([&recipient], api.post("/v1/inject", &mail)["id"].as_str());
        let suspension = json!({"campaign": format!("campaign-{number}"), "reason": "", "duration": "1h"});
        let answer = api.post("/api/admin/suspend/v1", &suspension);
        suspensions.insert(answer["id"].as_str().unwrap().to_owned());
    }
    injectors.into_iter().for_each(|injector| injector.join().unwrap());
    suspensions
}

/// What stands in the spools' segments.
fn spooled(disk: &PowerCut) -> Vec<u8> {
    let segments = disk.files().into_iter().filter(|(path, _)| path.starts_with("data/spool"));
    // Zeros are written ahead of the records.
    let used = |content: &[u8]| content.iter().rposition(|octet| *octet != 0).map_or(0, |last| last + 1);
    segments.flat_map(|(_, content)| content[..used(content)].to_vec()).collect()
}

fn contains(octets: &[u8], part: &str) -> bool {
    octets.windows(part.len()).any(|window| window == part.as_bytes())
}

/// Reads the trace to its end: judges each word to a caller when it was said, and cuts the power at some lines.
fn replay(trace: &str, disk: &mut PowerCut, told: &Acknowledged, suspensions: &HashSet<String>) -> Vec<Cut> {
    let keys: HashMap<String, String> =
        told.all().into_iter().filter_map(|(recipient, id)| id.map(|id| (id, key_of(&recipient).to_owned()))).collect();
    let lines: Vec<&str> = trace.lines().collect();
    let mut random = Random::from_setting("MAILRACE_POWER_SEED");
    let count = setting("MAILRACE_POWER_CUTS", 5);
    // The beginning of the trace is the engine's start.
    let mut moments: BTreeSet<usize> =
        (1..count).map(|_| lines.len() / 8 + random.below(lines.len() * 7 / 8)).collect();
    moments.insert(lines.len() - 1);
    let (mut said, mut cuts) = (Said::default(), Vec::new());
    for (number, line) in lines.iter().enumerate() {
        if let Some(words) = disk.hear(line) {
            let words = String::from_utf8_lossy(&words.octets).into_owned();
            for word in words.split(|c: char| !c.is_ascii_hexdigit() && c != '-') {
                if let Some(key) = keys.get(word) {
                    let synced = contains(&spooled(disk), &content(key));
                    assert!(synced, "{word} was acknowledged before its sync (line {number}):\n{words}");
                    said.messages.insert(word.to_owned());
                } else if suspensions.contains(word) {
                    said.suspensions.insert(word.to_owned());
                }
            }
        }
        if moments.contains(&number) {
            let engine = Engine::prepare(&Config::default());
            disk.write_to(engine.data().parent().unwrap());
            cuts.push(Cut { engine, said: said.clone(), line: number });
        }
    }
    // Each was seen to be said, so none was judged by its absence.
    assert_eq!(said.messages.len(), keys.len(), "all acknowledgements are in the trace");
    assert_eq!(said.suspensions.len(), suspensions.len(), "all answers are in the trace");
    cuts
}

/// What lacks its records; said when the test fails over it.
#[derive(Default)]
struct Missing(Vec<String>);

impl Drop for Missing {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("missing: {:?}", self.0);
        }
    }
}

/// Starts the engine on what the power cut has left: everything that had been said is still true.
fn judge(mut cut: Cut, told: &Acknowledged) {
    let sink = Sink::start(Features::default());
    let receipts = Receipts::of(&sink);
    cut.engine.configure(&Config::to(sink.address));
    cut.engine.run();
    let told: HashMap<String, String> = told
        .all()
        .into_iter()
        .filter_map(|(recipient, id)| id.filter(|id| cut.said.messages.contains(id)).map(|id| (recipient, id)))
        .collect();
    let mut log = LogBook::of(&cut.engine.data().join("log"));
    let what = format!("all of {} recipients, cut at line {}, have their records", told.len(), cut.line);
    let mut missing = Missing::default();
    until(&what, || {
        log.read_on();
        let lack = |(recipient, id): &(&String, &String)| {
            !log.ends.contains_key(*recipient) || !log.receptions.contains_key(*id)
        };
        missing.0 = told.iter().filter(lack).map(|(recipient, id)| format!("{recipient} {id}")).collect();
        missing.0.is_empty()
    });
    for recipient in told.keys().filter(|recipient| recipient.ends_with("@waiting.example")) {
        let count = receipts.counts().get(recipient).copied().unwrap_or(0);
        assert_eq!(count, 1, "{recipient}, which waited at the cut at line {}", cut.line);
    }
    let list = Api::of(&cut.engine).get("/api/admin/suspend/v1");
    let there: HashSet<&str> = list.as_array().unwrap().iter().filter_map(|entry| entry["id"].as_str()).collect();
    let lost = cut.said.suspensions.iter().find(|id| !there.contains(id.as_str()));
    assert!(lost.is_none(), "a suspension that was answered with 200 is gone after the cut at line {}", cut.line);
    assert!(cut.engine.stop().success());
}

#[test]
fn what_was_acknowledged_survives_a_power_cut_at_any_moment() {
    let sink = Sink::start(Features::default());
    let config = Config::default().route("taken.example", sink.address).route("*", free_address());
    let mut engine = Engine::prepare(&config);
    let trace = engine.path("trace");
    let arguments = PowerCut::STRACE.iter().copied().chain([trace.to_str().unwrap()]).collect::<Vec<_>>();
    let Some(strace) = strace(&arguments) else { return };
    engine.under(strace);
    let mut disk = PowerCut::of(engine.data().parent().unwrap());
    engine.run();
    let told = Acknowledged::default();
    let suspensions = busy_hour(&engine, &told);
    engine.await_records("Delivery", told.all().keys().filter(|to| to.ends_with("@taken.example")).count());
    let tracer = tracer_of(engine.id());
    engine.kill();
    let cuts = replay(&finished(&trace, tracer), &mut disk, &told, &suspensions);
    let cuts: Vec<_> = cuts
        .into_iter()
        .map(|cut| {
            let told = told.clone();
            std::thread::spawn(move || judge(cut, &told))
        })
        .collect();
    for cut in cuts {
        cut.join().unwrap();
    }
}
