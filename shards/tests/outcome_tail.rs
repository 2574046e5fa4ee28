//! Ends that rules made, counted from the outcome log's tail: whatever became of the files since the counts were last
//! stored, none is counted twice and none that is still there is missed.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use crossbeam::channel::{Receiver, unbounded};
use mailrace_shards::limits::UNLOGGED_BYTES;
use mailrace_shards::message::{ContentFlags, Envelope, MessageId};
use mailrace_shards::outcome::{Outcome, RecordType, Response, RuleMark, Verb};
use mailrace_shards::runtime::outcome_log::{LogEvent, OutcomeLog};
use mailrace_shards::runtime::outcome_tail::uncounted;
use mailrace_shards::runtime::tally::{Places, Tallies, Tally, TallySlot};
use mailrace_shards::settings::LogSettings;
use mailrace_shards::time::Timestamp;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(20);
const SHARD: u16 = 1;
const BEGUN: Timestamp = Timestamp(1_700_000_000_000);

/// One shard's log in a directory of its own, removed at the end.
struct World {
    directory: PathBuf,
    tallies: Tallies,
    log: Option<(OutcomeLog, Receiver<LogEvent>)>,
    recorded: u64,
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

impl World {
    fn new(name: &str) -> Self {
        let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&directory);
        let tallies = (0..2).map(|_| TallySlot::default()).collect();
        let mut world = Self { directory, tallies, log: None, recorded: 0 };
        world.run();
        world
    }

    fn run(&mut self) {
        let (sender, events) = unbounded();
        let notify = Box::new(move |event| drop(sender.send(event)));
        // Each sync fills a file.
        let settings = LogSettings { rotate_bytes: 1, keep_bytes: 0 };
        let log = OutcomeLog::start(&self.directory, SHARD, "node", settings, &self.tallies, notify).unwrap();
        self.log = Some((log, events));
    }

    fn stop(&mut self) {
        self.log.take().unwrap().0.stop();
    }

    /// Records that long after the beginning: so many ends by rule `r`, and one record that ends nothing or is not
    /// counted by a rule.
    fn record(&mut self, seconds: i64, ends: u64, unlogged: bool) {
        let at = Timestamp(BEGUN.0 + seconds * 1000);
        let mut batch: Vec<Outcome> = (0..ends).map(|_| self.outcome(RecordType::Bounce, "error", at)).collect();
        batch.iter_mut().for_each(|outcome| outcome.unlogged = unlogged);
        batch.push(self.outcome(RecordType::TransientFailure, "error", at));
        batch.push(self.outcome(RecordType::Suppression, "suppression", at));
        let (log, events) = self.log.as_ref().unwrap();
        log.append(self.recorded, batch).unwrap();
        while events.recv_timeout(PATIENCE).unwrap() != (LogEvent::Synced { up_to: self.recorded }) {}
    }

    fn outcome(&mut self, kind: RecordType, of: &'static str, at: Timestamp) -> Outcome {
        self.recorded += 1;
        let id = MessageId { generation: 1, core: SHARD, sequence: self.recorded };
        let response = Response { code: 550, enhanced: None, text: "x".into(), verb: Verb::None };
        Outcome {
            kind,
            envelope: Arc::new(Envelope::new(id, at, 6, ContentFlags::default(), "s@a", &["r@b"], None)),
            recipient: Some(0),
            queue: "q@b \"\u{e9}".into(),
            at,
            attempts: 0,
            response,
            carrier: None,
            reception_protocol: None,
            rule: Some(RuleMark { id: "r".into(), kind: of, by: "ops".into() }),
            maybe_delivered: false,
            unlogged: false,
        }
    }

    fn take(&self) -> Tally {
        self.tallies[usize::from(SHARD)].take().unwrap()
    }

    /// As a start long after everything sees it.
    fn uncounted(&self, counted: Option<&Places>) -> (u64, Places) {
        self.uncounted_at(counted, Timestamp(BEGUN.0 + 1_000_000))
    }

    fn uncounted_at(&self, counted: Option<&Places>, now: Timestamp) -> (u64, Places) {
        let tally = uncounted(&self.directory, SHARD, counted, now).unwrap();
        (sum(&tally), tally.places)
    }

    fn files(&self, name: &str) -> Vec<PathBuf> {
        let paths = fs::read_dir(&self.directory).unwrap().map(|entry| entry.unwrap().path());
        let mut paths: Vec<_> = paths.filter(|path| path.to_str().unwrap().contains(name)).collect();
        paths.sort();
        paths
    }
}

fn sum(tally: &Tally) -> u64 {
    let key = ("r".into(), "q@b \"\u{e9}".into());
    let count = tally.ends.get(&key).copied().unwrap_or(0);
    assert!(tally.ends.len() <= 1, "{:?}", tally.ends);
    count
}

#[test]
fn what_was_not_stored_is_found_over_rotations() {
    let mut world = World::new("tail-rotations");
    let never = world.uncounted_at(None, Timestamp(BEGUN.0 - 1));
    assert_eq!(never.0, 0);
    world.record(0, 3, false);
    let stored = world.take();
    assert_eq!(sum(&stored), 3);
    world.record(1, 4, false);
    world.record(2, 5, true);
    world.record(3, 6, false);
    world.stop();
    assert_eq!(world.files("delivery-001.2").len(), 4);
    assert_eq!(world.uncounted(Some(&never.1)).0, 18, "from before the first record");
    let (count, places) = world.uncounted(Some(&stored.places));
    assert_eq!(count, 15);
    assert_eq!(world.uncounted(Some(&places)).0, 0, "nothing twice");
    assert_eq!(world.uncounted(None).0, 0, "who never counted begins now");
    // Of another shard nothing is counted.
    let other = uncounted(&world.directory, 0, Some(&Places::default()), BEGUN).unwrap();
    assert_eq!(sum(&other), 0);
    world.run();
    world.record(2000, 7, false);
    // A log that runs may rename its file while it is looked at.
    world.stop();
    assert_eq!(world.uncounted(Some(&places)).0, 7);
    assert_eq!(sum(&world.take()), 22, "what was left before is still there for who takes it");
}

#[test]
fn a_file_that_is_gone_takes_only_its_own_ends_along() {
    let mut world = World::new("tail-gone");
    for seconds in 0..4 {
        world.record(seconds, 1 << seconds, false);
    }
    world.stop();
    let places = |seconds: i64| {
        let log = mailrace_shards::runtime::tally::Place {
            first: Some(7),
            octets: 1,
            at: Timestamp(BEGUN.0 + seconds * 1000),
        };
        Places { log, ..Places::default() }
    };
    // The file that held the place was removed; those that were given away before it are counted already.
    assert_eq!(world.uncounted(Some(&places(1))).0, 4 + 8);
    assert_eq!(world.uncounted(Some(&places(3))).0, 0);
    let (_, counted) = world.uncounted(None);
    fs::remove_file(&world.files("delivery-001.2")[3]).unwrap();
    assert_eq!(world.uncounted(Some(&counted)).0, 0);
}

#[test]
fn half_a_line_counts_for_nothing() {
    let mut world = World::new("tail-torn");
    let (_, begun) = world.uncounted_at(None, Timestamp(BEGUN.0 - 1));
    world.record(0, 2, true);
    world.stop();
    let path = world.directory.join("delivery-001.jsonl");
    let whole = fs::read(&world.files("delivery-001.2")[0]).unwrap();
    let line = whole.iter().position(|octet| *octet == b'\n').unwrap();
    // A whole record of no end, then half of one; and a line that is no record.
    let mut file = OpenOptions::new().append(true).open(&path).unwrap();
    file.write_all(b"{\"type\":\"Bounce\",\"rule\":{\"id\"\n").unwrap();
    file.write_all(&whole[..line / 2]).unwrap();
    let counts = world.directory.join("unlogged-001.counts");
    OpenOptions::new().append(true).open(&counts).unwrap().write_all(b"{\"at\":1,\"rule\":\"r\"").unwrap();
    let (count, places) = world.uncounted(Some(&begun));
    assert_eq!(count, 2);
    let at = u64::try_from(fs::read(&path).unwrap().iter().position(|octet| *octet == b'\n').unwrap()).unwrap() + 1;
    assert_eq!(places.log.octets, at, "the next line will stand where the half one is cut off");
}

#[test]
fn the_file_of_unlogged_ends_begins_anew_when_all_in_it_is_stored() {
    let mut world = World::new("tail-unlogged");
    let path = world.directory.join("unlogged-001.counts");
    world.stop();
    let line = "{\"at\":1,\"rule\":\"r\",\"queue\":\"q@b \\\"\u{e9}\",\"count\":1}\n";
    fs::write(&path, line.repeat(usize::try_from(UNLOGGED_BYTES).unwrap() / line.len() + 1)).unwrap();
    let length = fs::metadata(&path).unwrap().len();
    world.run();
    world.record(0, 1, false);
    assert_eq!(fs::metadata(&path).unwrap().len(), length, "nobody has stored it");
    let places = world.take().places;
    world.tallies[usize::from(SHARD)].stored(&places);
    world.record(1, 2, true);
    assert!(fs::metadata(&path).unwrap().len() > length, "there is more in it than was stored");
    world.tallies[usize::from(SHARD)].stored(&world.take().places);
    world.record(2, 0, false);
    assert_eq!(fs::metadata(&path).unwrap().len(), 0);
    world.record(3, 5, true);
    world.stop();
    // A kill before the new file's place was stored.
    assert_eq!(world.uncounted(Some(&places)).0, 5, "the old file is known to be another");
}

/// A reception that is recorded again after a crash bears the time of the first: it must not name a rotated file.
#[test]
fn what_is_recorded_with_an_old_time_does_not_disturb_the_order_of_files() {
    let mut world = World::new("tail-old-time");
    world.record(100, 3, false);
    let stored = world.take();
    world.stop();
    world.run();
    world.record(1, 4, false);
    let between = world.take();
    world.record(101, 5, false);
    world.stop();
    assert_eq!(world.uncounted(Some(&stored.places)).0, 9);
    assert_eq!(world.uncounted(Some(&between.places)).0, 5);
}
