//! The rules' thread over time and over failures: what ends, what recurs, what cannot be read or written.

use super::{Authority, Cores, Failure, prepare, start};
use crate::json::parse;
use crate::rules::change::{Pool, Request, Suppression};
use crate::rules::entry::{Collection, Decree, Draft, Origin, Verdict};
use crate::rules::pools::ApiPools;
use crate::rules::schedule::{Schedule, Window};
use crate::rules::store::Store;
use crate::test_directory::TestDirectory;
use crossbeam::channel::{Receiver, Sender, unbounded};
use futures_lite::future::block_on;
use mailrace_shards::message::CoreId;
use mailrace_shards::rules::{Change, HashKey, Scope, Update};
use mailrace_shards::runtime::clock;
use mailrace_shards::time::{Now, Timestamp};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

const KEY: HashKey = HashKey(3, 4);
const NOON: Timestamp = Timestamp(1_772_366_400_000);
const DAY: i64 = 86_400_000;

/// One core that says what it is sent, and applies everything.
struct Told(Sender<Update>);

impl Cores for Told {
    fn post(&self, core: CoreId, update: Arc<Update>, applied: &Sender<(CoreId, u64)>) {
        applied.send((core, update.epoch)).unwrap();
        self.0.send(Arc::unwrap_or_clone(update)).unwrap();
    }

    fn pools(&self, _: ApiPools) {}
}

fn begin(directory: &Path, clock: fn() -> Now) -> (Authority, JoinHandle<()>, Receiver<Update>) {
    let store = Store::open(directory).unwrap();
    let mut prepared = prepare(store, 1, KEY, Arc::new(|_| 1)).unwrap();
    prepared.read(clock(), |_, _| {}).unwrap();
    let (sender, told) = unbounded();
    let (authority, thread) = start(prepared, Told(sender), "n".into(), clock, Duration::from_secs(2)).unwrap();
    (authority, thread, told)
}

fn origin(at: Timestamp) -> Origin {
    Origin { token: "ops".into(), peer: "192.0.2.1".into(), at, node: "n".into() }
}

fn pause(id: &str, schedule: Schedule) -> Request {
    let scope = Scope { tag: Some(id.into()), ..Scope::default() };
    let draft = Draft { collection: Collection::Pauses, scope, decree: Decree::Pause, cluster: false, schedule };
    Request::Put { id: id.into(), draft: Box::new(draft) }
}

fn ids(update: &Update) -> Vec<String> {
    let name = |change: &Change| match change {
        Change::Put(rule) => format!("put {}", rule.id),
        Change::Remove(id) => format!("remove {id}"),
        Change::Suppress { .. } => "suppress".to_owned(),
        Change::Unsuppress { .. } => "unsuppress".to_owned(),
    };
    update.changes.iter().map(name).collect()
}

const SOON: Duration = Duration::from_secs(10);

#[test]
fn a_rule_that_is_over_leaves_the_store_and_the_cores() {
    static OFFSET: AtomicI64 = AtomicI64::new(0);
    let clock = || Now { utc: Timestamp(NOON.0 + OFFSET.load(Ordering::Relaxed)), ..clock::now() };
    let directory = TestDirectory::new("over");
    let (authority, thread, told) = begin(directory.path(), clock);
    let end = Schedule { end: Some(Timestamp(NOON.0 + 60_000)), ..Schedule::default() };
    block_on(authority.change(pause("short", end), origin(NOON))).unwrap();
    block_on(authority.change(pause("long", Schedule::default()), origin(NOON))).unwrap();
    assert_eq!(ids(&told.recv().unwrap()), ["put short"]);
    assert_eq!(ids(&told.recv().unwrap()), ["put long"]);
    OFFSET.store(60_000, Ordering::Relaxed);
    assert_eq!(ids(&told.recv_timeout(SOON).unwrap()), ["remove short"]);
    let left = block_on(authority.read(|store| store.rules(None, 0, 10))).unwrap();
    assert_eq!(left.iter().map(|entry| &*entry.id).collect::<Vec<_>>(), ["long"]);
    let audit = block_on(authority.read(|store| store.audit(2, 10))).unwrap();
    assert!(audit[0].to_json().to_text().contains("pause ended"), "{audit:?}");
    authority.stop();
    thread.join().unwrap();
}

#[test]
fn recurring_rules_are_sent_anew_day_by_day_and_no_others() {
    static OFFSET: AtomicI64 = AtomicI64::new(0);
    let clock = || Now { utc: Timestamp(NOON.0 + OFFSET.load(Ordering::Relaxed)), ..clock::now() };
    let directory = TestDirectory::new("recurring");
    let (authority, thread, told) = begin(directory.path(), clock);
    let window = Window::from_json(&parse(br#"{"from":"22:00","to":"08:00"}"#).unwrap()).unwrap();
    let nightly = Schedule { windows: vec![window], ..Schedule::default() };
    let bounded = Schedule { end: Some(Timestamp(NOON.0 + 5 * DAY)), ..nightly.clone() };
    for (id, schedule) in [("nightly", nightly), ("bounded", bounded), ("plain", Schedule::default())] {
        block_on(authority.change(pause(id, schedule), origin(NOON))).unwrap();
        assert_eq!(ids(&told.recv().unwrap()), [format!("put {id}")]);
    }
    OFFSET.store(DAY, Ordering::Relaxed);
    let update = told.recv_timeout(SOON).unwrap();
    assert_eq!(ids(&update), ["put nightly"]);
    let Change::Put(rule) = &update.changes[0] else { panic!() };
    let known = rule.validity.spans().last().unwrap().end;
    assert!(known.0 >= NOON.0 + 9 * DAY, "eight days ahead of the new day");
    authority.stop();
    thread.join().unwrap();
    assert!(told.try_recv().is_err(), "nothing else was disturbed");
}

#[test]
fn a_rule_that_cannot_be_read_refuses_the_start() {
    for (column, value) in [("scope", "{\"colour\":\"red\"}"), ("decree", "{"), ("windows", "[{}]")] {
        let directory = TestDirectory::new(&format!("unreadable-{column}"));
        let (authority, thread, _told) = begin(directory.path(), clock::now);
        block_on(authority.change(pause("a", Schedule::default()), origin(NOON))).unwrap();
        authority.stop();
        thread.join().unwrap();
        let mut store = Store::open(directory.path()).unwrap();
        store.spoil(&format!(
            "UPDATE rule SET {column} = '{value}', decree = iif('{column}' = 'decree', '{value}', decree)"
        ));
        let mut prepared = prepare(store, 1, KEY, Arc::new(|_| 1)).unwrap();
        let Err(error) = prepared.read(clock::now(), |_, _| {}) else { panic!("{column}") };
        let text = error.to_string();
        assert!(column == "decree" || text.contains("rule a: "), "{text}");
    }
}

#[test]
fn a_store_that_cannot_be_written_changes_nothing() {
    let directory = TestDirectory::new("unwritable");
    let (authority, thread, told) = begin(directory.path(), clock::now);
    block_on(authority.change(pause("a", Schedule::default()), origin(NOON))).unwrap();
    told.recv().unwrap();
    let mut other = Store::open(directory.path()).unwrap();
    other.spoil("CREATE TRIGGER full BEFORE INSERT ON audit BEGIN SELECT RAISE(ABORT, 'disk full'); END");
    let entry = |value: &str| {
        let verdict = Verdict { code: 550, extended: None, description: None };
        Suppression { value: value.into(), verdict }
    };
    for request in [
        pause("b", Schedule::default()),
        Request::Suppress(vec![entry("a.test"), entry("b.test")]),
        Request::PutPool(Pool { name: "p".into(), description: None }),
        Request::RemoveId(None, "a".into()),
    ] {
        let failure = block_on(authority.change(request, origin(NOON))).unwrap_err();
        assert!(matches!(&failure, Failure::Unavailable(why) if why.contains("disk full")), "{failure:?}");
    }
    assert!(told.try_recv().is_err(), "no core hears of what is not stored");
    let rules = block_on(authority.read(|store| store.rules(None, 0, 10))).unwrap();
    assert_eq!(rules.len(), 1);
    assert!(block_on(authority.read(|store| store.suppressions("", 10))).unwrap().is_empty());
    other.spoil("DROP TRIGGER full");
    block_on(authority.change(pause("b", Schedule::default()), origin(NOON))).unwrap();
    authority.stop();
    thread.join().unwrap();
}

/// A core that applies everything, and says which pools it is told of.
struct ToldPools(Sender<ApiPools>);

impl Cores for ToldPools {
    fn post(&self, core: CoreId, update: Arc<Update>, applied: &Sender<(CoreId, u64)>) {
        applied.send((core, update.epoch)).unwrap();
    }

    fn pools(&self, pools: ApiPools) {
        self.0.send(pools).unwrap();
    }
}

/// A pool that was stored and could not be read back came into force only with the next change of one.
#[test]
fn pools_that_cannot_be_read_come_into_force_later() {
    let directory = TestDirectory::new("owed-pools");
    let prepared = prepare(Store::open(directory.path()).unwrap(), 1, KEY, Arc::new(|_| 1)).unwrap();
    let (sender, told) = unbounded();
    let (authority, thread) =
        start(prepared, ToldPools(sender), "n".into(), clock::now, Duration::from_secs(2)).unwrap();
    let spoil = |sql: &'static str| {
        authority.note(move |store| {
            store.spoil(sql);
            Ok(())
        })
    };
    spoil("CREATE TEMP TABLE external_mta (other)").unwrap();
    let pool = Request::PutPool(Pool { name: "p".into(), description: None });
    block_on(authority.change(pool, origin(NOON))).unwrap();
    assert!(told.try_recv().is_err());
    spoil("DROP TABLE temp.external_mta").unwrap();
    assert_eq!(told.recv_timeout(SOON).unwrap().pools.len(), 1);
    authority.stop();
    thread.join().unwrap();
}

#[test]
fn after_a_kill_a_change_is_there_whole_or_not_at_all() {
    let directory = TestDirectory::new("killed");
    let (authority, thread, _told) = begin(directory.path(), clock::now);
    let copies = TestDirectory::new("killed-copies");
    let writer = {
        let authority = authority.clone();
        std::thread::spawn(move || {
            for n in 0..60 {
                let entries = (0..20).map(|m| Suppression {
                    value: format!("d{n}-{m}.test").into(),
                    verdict: Verdict { code: 550, extended: None, description: None },
                });
                block_on(authority.change(Request::Suppress(entries.collect()), origin(NOON))).unwrap();
            }
        })
    };
    // What a kill leaves is the files as they are at some moment, the log as far as it was written.
    let mut seen = Vec::new();
    for copy in 0.. {
        let ended = writer.is_finished();
        let place = copies.path().join(copy.to_string());
        std::fs::create_dir(&place).unwrap();
        for file in ["rules.db", "rules.db-wal"] {
            let _ = std::fs::copy(directory.path().join(file), place.join(file));
        }
        let store = Store::open(&place).unwrap();
        let count = store.suppressions("", 10_000).unwrap().len();
        assert_eq!(count % 20, 0, "half a change");
        seen.push(count);
        if ended {
            break;
        }
    }
    writer.join().unwrap();
    assert!(seen.is_sorted() && *seen.last().unwrap() == 1200, "{seen:?}");
    authority.stop();
    thread.join().unwrap();
}
