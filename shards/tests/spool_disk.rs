//! The spool's thread, the body reader and the outcome log on a real file system.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use bytes::Bytes;
use crossbeam::channel::{Receiver, unbounded};
use mailrace_shards::message::{Body, ContentFlags, Envelope, Extras, Location, MessageId};
use mailrace_shards::outcome::{Carrier, EnhancedCode, Outcome, RecordType, Response, RuleMark, Verb};
use mailrace_shards::runtime::outcome_line::Lines;
use mailrace_shards::runtime::outcome_log::{LogEvent, OutcomeLog};
use mailrace_shards::runtime::spool_file::{SpoolOptions, SpoolWriter, spool_directories, spool_directory};
use mailrace_shards::runtime::spool_found::FoundEvent;
use mailrace_shards::runtime::spool_generation::next_generation;
use mailrace_shards::runtime::spool_reader::BodyReader;
use mailrace_shards::runtime::tally::{Tallies, TallySlot};
use mailrace_shards::settings::{LogSettings, SyncPolicy};
use mailrace_shards::spool::report::{Progress, Recovered, Refusal, SpoolCompletion, Standing};
use mailrace_shards::time::Timestamp;
use serde_json::{Value, json};
use smallvec::smallvec;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(20);

/// A directory of its own for each test, removed at its end.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn id(core: u16, sequence: u64) -> MessageId {
    MessageId { generation: 1, core, sequence }
}

fn envelope(id: MessageId) -> Arc<Envelope> {
    Arc::new(Envelope::new(id, Timestamp(0), 6, ContentFlags::default(), "s@a", &["r@b", "q@c"], None))
}

fn body(id: MessageId) -> Body {
    Bytes::from(format!("{id}\r\n").repeat(200))
}

struct Spool {
    writer: SpoolWriter,
    recovered: Recovered,
    completions: Receiver<Vec<SpoolCompletion>>,
}

fn start_with(root: &Path, spool: u16, options: SpoolOptions) -> Spool {
    let (sender, completions) = unbounded();
    let notify = Box::new(move |batch| drop(sender.send(batch)));
    let (writer, found) = SpoolWriter::start(root, spool, options, notify).expect("starts");
    let (mut recovered, mut expected) = (Recovered::default(), 0);
    loop {
        match found.wait() {
            FoundEvent::Searched { messages, unrecorded, recorded, dropped } => {
                recovered = Recovered { messages: Vec::new(), dropped, unrecorded, recorded };
                expected = messages;
            }
            FoundEvent::Messages(messages) => recovered.messages.extend(messages),
            FoundEvent::Failed(error) => panic!("{error}"),
            FoundEvent::End => break,
        }
    }
    assert_eq!(recovered.messages.len() as u64, expected, "as many come as were found");
    Spool { writer, recovered, completions }
}

fn start(root: &Path, spool: u16) -> Spool {
    start_with(root, spool, SpoolOptions { sync: SyncPolicy::Always, min_free_bytes: 0, posting: false })
}

/// Stores messages 1 to `count` and returns where they lie.
fn store(spool: &Spool, core: u16, count: u64) -> Vec<Location> {
    let handle = spool.writer.handle();
    for sequence in 1..=count {
        let id = id(core, sequence);
        handle.store(sequence, envelope(id), body(id)).expect("the queue has room");
    }
    let mut locations = Vec::new();
    while locations.len() < count as usize {
        for completion in spool.completions.recv_timeout(PATIENCE).expect("an answer") {
            let SpoolCompletion::Stored { ticket, location } = completion else { panic!("{completion:?}") };
            assert_eq!(ticket, locations.len() as u64 + 1, "answered in order");
            locations.push(location);
        }
    }
    locations
}

#[test]
fn mail_survives_and_bodies_are_read_back() {
    let directory = Directory::new("survives");
    let root = &directory.0;
    let spool = start(root, 0);
    let locations = store(&spool, 0, 500);
    let standing = Standing { attempts: 2, due: Timestamp(9), maybe_delivered: false };
    let progress = vec![
        Progress::Done { id: id(0, 1), recipients: smallvec![0, 1] },
        Progress::Done { id: id(0, 2), recipients: smallvec![0] },
        Progress::Attempt { id: id(0, 2), recipients: smallvec![1], standing },
    ];
    spool.writer.handle().progress(progress).expect("the queue has room");
    spool.writer.stop();

    let again = start(root, 0);
    assert_eq!(again.recovered.dropped, []);
    assert_eq!(again.recovered.messages.len(), 499);
    let second = &again.recovered.messages[0];
    assert_eq!((second.envelope.id(), second.location), (id(0, 2), locations[1]));
    assert_eq!((second.open.len(), second.open[0].index, second.open[0].standing), (1, 1, standing));

    let (sender, answers) = unbounded();
    let reader =
        BodyReader::start(root, 1 << 20, Box::new(move |batch| batch.into_iter().for_each(|a| drop(sender.send(a)))));
    let reader = reader.expect("starts");
    let kind = |location: Location, id: MessageId| {
        reader.request(5, id, location).expect("the queue has room");
        let answer = answers.recv_timeout(PATIENCE).expect("an answer");
        assert_eq!((answer.token, answer.id), (5, id));
        answer.body.map_err(|error| error.kind())
    };
    assert_eq!(kind(locations[76], id(0, 77)), Ok(body(id(0, 77))));
    let moved = Location { segment: 99, ..locations[76] };
    assert_eq!(kind(moved, id(0, 77)), Err(io::ErrorKind::NotFound));
    for (wrong, of) in [
        (locations[76], id(0, 78)),
        (Location { length: 10, ..locations[76] }, id(0, 77)),
        (Location { offset: 1 << 40, ..locations[76] }, id(0, 77)),
        (Location { length: u32::MAX, ..locations[76] }, id(0, 77)),
    ] {
        assert_eq!(kind(wrong, of), Err(io::ErrorKind::InvalidData), "{wrong:?}");
    }
    reader.stop();
    again.writer.stop();
}

#[test]
fn progress_is_durable_without_a_message_behind_it() {
    let directory = Directory::new("lag");
    let spool = start(&directory.0, 0);
    store(&spool, 0, 2);
    let done = Progress::Done { id: id(0, 1), recipients: smallvec![0, 1] };
    spool.writer.handle().progress(vec![done]).expect("the queue has room");
    // What a kill would leave: the files as they are, without a stop.
    let copy = Directory::new("lag-copy");
    fs::create_dir_all(spool_directory(&copy.0, 0)).unwrap();
    let found = (0..200).any(|_| {
        for entry in fs::read_dir(spool_directory(&directory.0, 0)).unwrap() {
            let path = entry.unwrap().path();
            fs::copy(&path, spool_directory(&copy.0, 0).join(path.file_name().unwrap())).unwrap();
        }
        let copied = start(&copy.0, 0);
        let open = copied.recovered.messages.len();
        copied.writer.stop();
        fs::remove_dir_all(spool_directory(&copy.0, 0)).unwrap();
        fs::create_dir_all(spool_directory(&copy.0, 0)).unwrap();
        open == 1
    });
    assert!(found, "the done-record reaches the file");
    spool.writer.stop();
}

#[test]
fn a_changed_number_of_cores_loses_no_spool() {
    let directory = Directory::new("cores");
    let root = &directory.0;
    for core in 0..4 {
        let spool = start(root, core);
        store(&spool, core, 3);
        spool.writer.stop();
    }
    fs::create_dir(root.join("shard-x")).unwrap();
    fs::create_dir(root.join("shard-7")).unwrap();
    let directories = spool_directories(root).unwrap();
    assert_eq!(directories, [0, 1, 2, 3]);
    // One core now; it adopts all, and each directory takes the ends of its own messages.
    for pass in [3, 0] {
        for &core in &directories {
            let spool = start(root, core);
            assert_eq!(spool.recovered.messages.len(), pass, "spool {core}");
            assert!(spool.recovered.messages.iter().all(|m| m.location.spool == core));
            let all = (1..=3).map(|n| Progress::Done { id: id(core, n), recipients: smallvec![0, 1] }).collect();
            spool.writer.handle().progress(all).expect("the queue has room");
            spool.writer.stop();
        }
    }
    assert_eq!(spool_directories(&root.join("nothing")).unwrap(), Vec::<u16>::new());
}

#[test]
fn generations_never_repeat() {
    let directory = Directory::new("generation");
    let root = &directory.0;
    let taken: Vec<u32> = [100, 100, 50, 200, 7].map(|now| next_generation(root, now).unwrap()).to_vec();
    assert_eq!(taken, [100, 101, 102, 200, 201]);
    for (content, now) in [("4294967295\n", 1), ("", 1), ("12x", 1), ("-1", 1)] {
        fs::write(root.join("generation"), content).unwrap();
        let error = next_generation(root, now).expect_err(content);
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}

#[test]
fn low_space_is_shown() {
    let directory = Directory::new("space");
    let options = SpoolOptions { sync: SyncPolicy::Always, min_free_bytes: u64::MAX, posting: false };
    let spool = start_with(&directory.0, 0, options);
    assert_eq!(spool.writer.handle().refusing(), Some(Refusal::LowSpace));
    // It is for the caller to refuse; what it stores all the same is stored.
    store(&spool, 0, 1);
    spool.writer.stop();
    let spool = start(&directory.0, 0);
    assert_eq!(spool.writer.handle().refusing(), None);
    spool.writer.stop();
}

#[test]
fn an_interval_answers_before_its_sync() {
    let directory = Directory::new("interval");
    let sync = SyncPolicy::Interval(Duration::from_secs(3600));
    let spool = start_with(&directory.0, 0, SpoolOptions { sync, min_free_bytes: 0, posting: false });
    store(&spool, 0, 50);
    spool.writer.stop();
    assert_eq!(start(&directory.0, 0).recovered.messages.len(), 50);
}

fn outcome(kind: RecordType, attempts: u16) -> Outcome {
    let response = Response { code: 250, enhanced: None, text: "OK".into(), verb: Verb::EndOfData };
    Outcome {
        kind,
        envelope: envelope(id(0, 9)),
        recipient: Some(1),
        queue: "c".into(),
        at: Timestamp(1_700_000_000_123),
        attempts,
        response,
        carrier: None,
        reception_protocol: None,
        rule: None,
        maybe_delivered: false,
        unlogged: false,
    }
}

struct Log {
    log: OutcomeLog,
    events: Receiver<LogEvent>,
    path: PathBuf,
}

fn start_log(directory: &Path, rotate_bytes: u64, keep_bytes: u64) -> Log {
    let (sender, events) = unbounded();
    let notify = Box::new(move |event| drop(sender.send(event)));
    let settings = LogSettings { rotate_bytes, keep_bytes };
    let tallies: Tallies = (0..4).map(|_| TallySlot::default()).collect();
    let log = OutcomeLog::start(directory, 3, "node-1", settings, &tallies, notify).expect("starts");
    Log { log, events, path: directory.join("delivery-003.jsonl") }
}

impl Log {
    fn wait_for(&self, wanted: &LogEvent) {
        while self.events.recv_timeout(PATIENCE).expect("an event") != *wanted {}
    }

    fn append(&self, last: u64, count: u16) {
        let first = last as u16 + 1 - count;
        let batch = (first..=last as u16).map(|n| outcome(RecordType::Delivery, n)).collect();
        self.log.append(last, batch).expect("the queue has room");
    }
}

/// `num_attempts` of each line, which these tests use as a serial number.
fn serials(path: &Path) -> Vec<u64> {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.is_empty() || text.ends_with('\n'));
    text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["num_attempts"].as_u64().unwrap()).collect()
}

#[test]
fn outcomes_are_synced_in_order_and_a_torn_line_is_cut() {
    let directory = Directory::new("log");
    let log = start_log(&directory.0, 1 << 30, 0);
    log.append(3, 3);
    log.wait_for(&LogEvent::Synced { up_to: 3 });
    log.append(2003, 2000);
    log.wait_for(&LogEvent::Synced { up_to: 2003 });
    assert_eq!(log.log.stop(), 0);
    assert_eq!(serials(&log.path), (1..=2003).collect::<Vec<_>>());

    let whole = fs::read(&log.path).unwrap();
    fs::write(&log.path, [&whole[..], &vec![b'{'; 100_000]].concat()).unwrap();
    let log = start_log(&directory.0, 1 << 30, 0);
    log.wait_for(&LogEvent::TornLine { octets: 100_000 });
    // Somebody moves the file away and says so.
    fs::rename(&log.path, directory.0.join("moved")).unwrap();
    log.append(1, 1);
    log.log.reopen(LogSettings { rotate_bytes: 1 << 30, keep_bytes: 0 });
    log.append(2, 1);
    log.wait_for(&LogEvent::Synced { up_to: 2 });
    log.log.stop();
    assert_eq!((serials(&log.path), serials(&directory.0.join("moved")).len()), (vec![2], 2004));
}

/// As by logrotate without its signal, with `copytruncate`, or by hand: no record goes to where nobody finds it.
#[test]
fn a_log_that_is_moved_removed_or_cut_short_goes_on_under_its_name() {
    let directory = Directory::new("log-taken");
    let log = start_log(&directory.0, 1 << 30, 0);
    let log_of = |count: u64| {
        log.append(count, 1);
        log.wait_for(&LogEvent::Synced { up_to: count });
    };
    log_of(1);
    let moved = directory.0.join("moved");
    fs::rename(&log.path, &moved).unwrap();
    (2..=3).for_each(log_of);
    // The next record may still be behind those of before.
    let (before, after) = (serials(&moved), serials(&log.path));
    assert_eq!([&before[..], &after[..]].concat(), [1, 2, 3]);
    assert_eq!(after.last(), Some(&3), "{before:?}");
    fs::remove_file(&log.path).unwrap();
    log_of(4);
    assert_eq!(serials(&log.path), [4]);
    File::create(&log.path).unwrap();
    log_of(5);
    assert_eq!(serials(&log.path), [5]);
    fs::remove_dir_all(&directory.0).unwrap();
    (6..=7).for_each(log_of);
    assert_eq!(serials(&log.path), [6, 7]);
    // In the middle of a line.
    let length = fs::metadata(&log.path).unwrap().len();
    File::options().write(true).open(&log.path).unwrap().set_len(length - 5).unwrap();
    log_of(8);
    assert_eq!(serials(&log.path), [6, 8]);
    log.log.stop();
}

#[test]
fn a_log_that_fails_keeps_everything_and_recovers() {
    let directory = Directory::new("log-fails");
    fs::create_dir_all(&directory.0).unwrap();
    std::os::unix::fs::symlink("/dev/full", directory.0.join("delivery-003.jsonl")).unwrap();
    let log = start_log(&directory.0, 1 << 30, 0);
    log.append(2, 2);
    let event = log.events.recv_timeout(PATIENCE).expect("an event");
    assert!(matches!(&event, LogEvent::Failing { why } if why.contains("delivery-003.jsonl")), "{event:?}");
    log.append(5, 3);
    assert!(log.events.recv_timeout(Duration::from_millis(1500)).is_err(), "nothing is said to be synced");
    fs::remove_file(&log.path).unwrap();
    assert_eq!(log.events.recv_timeout(PATIENCE).unwrap(), LogEvent::Working);
    assert_eq!(log.events.recv_timeout(PATIENCE).unwrap(), LogEvent::Synced { up_to: 5 });
    log.log.stop();
    assert_eq!(serials(&log.path), [1, 2, 3, 4, 5]);

    fs::remove_file(&log.path).unwrap();
    std::os::unix::fs::symlink("/dev/full", &log.path).unwrap();
    let log = start_log(&directory.0, 1 << 30, 0);
    log.append(2, 2);
    assert_eq!(log.log.stop(), 2, "the records that could not be written are counted");
}

#[test]
fn files_rotate_and_the_oldest_go() {
    let directory = Directory::new("rotate");
    let log = start_log(&directory.0, 2000, 14_000);
    let mut last = 0;
    for _ in 0..20 {
        last += 5;
        log.append(last, 5);
        log.wait_for(&LogEvent::Synced { up_to: last });
    }
    log.log.stop();
    let mut rotated: Vec<PathBuf> = fs::read_dir(&directory.0).unwrap().map(|entry| entry.unwrap().path()).collect();
    rotated.retain(|path| *path != log.path);
    rotated.sort();
    let octets: u64 = rotated.iter().map(|path| fs::metadata(path).unwrap().len()).sum();
    assert!((7000..=14_000).contains(&octets), "{octets} octets in {rotated:?}");
    let mut kept: Vec<u64> = rotated.iter().flat_map(|path| serials(path)).collect();
    kept.extend(serials(&log.path));
    assert_eq!(kept, (kept[0]..=last).collect::<Vec<_>>(), "the newest, in order, without a gap");
    assert!(rotated[0].to_str().unwrap().contains("delivery-003.20231114T221320.1"), "{rotated:?}");
}

#[test]
fn a_log_follows_the_settings_of_a_reload() {
    let directory = Directory::new("rotate-later");
    let log = start_log(&directory.0, 1 << 30, 0);
    log.append(20, 20);
    log.wait_for(&LogEvent::Synced { up_to: 20 });
    log.log.reopen(LogSettings { rotate_bytes: 2000, keep_bytes: 0 });
    log.append(21, 1);
    log.wait_for(&LogEvent::Synced { up_to: 21 });
    log.log.stop();
    assert_eq!(serials(&log.path), [21], "the others are in a rotated file");
}

#[test]
fn lines_have_the_agreed_fields() {
    let mut plain = outcome(RecordType::Delivery, 1);
    plain.carrier = Some(Arc::new(Carrier {
        session: 255,
        site: "mx.b".into(),
        peer_name: "mx1.b".into(),
        peer: Some("[::ffff:192.0.2.9]:25".parse().unwrap()),
        pool: Some("default".into()),
        source: Some("ip-1".into()),
        source_address: Some("192.0.2.10".parse().unwrap()),
        tls_cipher: Some("TLS13_AES_128_GCM_SHA256"),
        tls_version: Some("TLSv1.3"),
    }));
    let expected = json!({
        "type": "Delivery", "id": "000000010000000000000009", "sender": "s@a", "recipient": "q@c", "queue": "c",
        "site": "mx.b", "size": 6, "peer_address": {"name": "mx1.b", "addr": "192.0.2.9"},
        "response": {"code": 250, "enhanced_code": null, "content": "OK", "command": "."},
        "timestamp": 1_700_000_000, "event_time": "2023-11-14T22:13:20.123Z",
        "created": 0, "created_time": "1970-01-01T00:00:00.000Z", "num_attempts": 1,
        "bounce_classification": "Uncategorized", "egress_pool": "default", "egress_source": "ip-1",
        "source_address": {"address": "192.0.2.10"}, "delivery_protocol": "ESMTP", "reception_protocol": null,
        "nodeid": "n\"1", "tls_cipher": "TLS13_AES_128_GCM_SHA256", "tls_protocol_version": "TLSv1.3",
        "session_id": "00000000000000ff", "meta": {}, "headers": {}, "tags": [], "campaign": null, "tenant": null
    });
    let mut ruled = outcome(RecordType::AdminBounce, 0);
    ruled.recipient = None;
    ruled.rule = Some(RuleMark { id: "r\u{2028}1".into(), kind: "bounce", by: "\u{1f980}".into() });
    ruled.maybe_delivered = true;
    ruled.at = Timestamp(i64::MAX);
    let enhanced = Some(EnhancedCode { class: 5, subject: 7, detail: 1 });
    ruled.response = Response { code: 551, enhanced, text: "no\r\n\t\"way\"\u{0}".into(), verb: Verb::None };
    let extras = |meta: &str| Extras {
        tags: vec!["a".into(), "\\".into()],
        campaign: Some("C".into()),
        meta: meta.into(),
        ..Extras::default()
    };
    let metas = [
        ("", json!({})),
        ("{\"a\":\n {\"b\":[1]}}\r\n", json!({"a": {"b": [1]}})),
        ("{\"a\":", json!({"text": "{\"a\":"})),
        ("[1]", json!({"text": "[1]"})),
        ("{} {}", json!({"text": "{} {}"})),
    ];
    let mut table = vec![(plain, expected)];
    for (meta, meant) in metas {
        let flags = ContentFlags::default();
        let extras = Some(Box::new(extras(meta)));
        let mut outcome = ruled.clone();
        outcome.envelope = Arc::new(Envelope::new(id(0, 9), Timestamp(0), 6, flags, "", &["r@b", "q@c"], extras));
        let expected = json!({
            "type": "AdminBounce", "id": "000000010000000000000009", "sender": "", "recipient": ["r@b", "q@c"],
            "queue": "c", "site": "", "size": 6, "peer_address": null,
            "response": {"code": 551, "enhanced_code": {"class": 5, "subject": 7, "detail": 1},
                "content": "no\r\n\t\"way\"\u{0}", "command": null},
            "timestamp": i64::MAX / 1000, "event_time": null, "created": 0,
            "created_time": "1970-01-01T00:00:00.000Z", "num_attempts": 0,
            "bounce_classification": "Uncategorized", "egress_pool": null, "egress_source": null,
            "source_address": null, "delivery_protocol": null, "reception_protocol": null, "nodeid": "n\"1",
            "tls_cipher": null, "tls_protocol_version": null, "session_id": null, "meta": meant, "headers": {},
            "tags": ["a", "\\"], "campaign": "C", "tenant": null,
            "rule": {"id": "r\u{2028}1", "kind": "bounce", "by": "\u{1f980}"}, "maybe_delivered": true
        });
        table.push((outcome, expected));
    }
    // One that writes many remembers what lines share, and only that: each one twice, and between others.
    let mut lines = Lines::new("n\"1");
    for (outcome, expected) in table.iter().chain(&table).flat_map(|entry| [entry, entry]) {
        let mut line = Vec::new();
        lines.put(&mut line, outcome);
        assert_eq!(line.iter().filter(|octet| matches!(octet, b'\n' | b'\r')).count(), 1);
        assert_eq!(serde_json::from_slice::<Value>(&line).unwrap(), *expected);
    }
}
