//! The spool's formats and its recovery, as tables: round trips, truncation, damage, full disks, compaction.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use bytes::Bytes;
use mailrace_shards::message::{ContentFlags, Envelope, Extras, MessageId};
use mailrace_shards::spool::envelope::{BadEnvelope, decode, encode};
use mailrace_shards::spool::journal::{Journal, JournalOptions};
use mailrace_shards::spool::memory_disk::{Fault, MemoryDisk, Survival};
use mailrace_shards::spool::recover::{begin, open};
use mailrace_shards::spool::report::{DropReason, Point, Progress, Recovered, SpoolCompletion, SpoolError, Standing};
use mailrace_shards::spool::segment::{SEGMENT_HEADER_BYTES, index_name, parse_name, scan, segment_name};
use mailrace_shards::time::Timestamp;
use smallvec::{SmallVec, smallvec};
use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

fn id(sequence: u64) -> MessageId {
    MessageId { generation: 0x6500_0000, core: 2, sequence }
}

fn plain(sequence: u64, recipients: usize) -> Arc<Envelope> {
    let names: Vec<String> = (0..recipients).map(|n| format!("user{n}@example.net")).collect();
    Arc::new(Envelope::new(id(sequence), Timestamp(1), 9, ContentFlags::default(), "s@example.org", &names, None))
}

fn options(segment_bytes: u64) -> JournalOptions {
    JournalOptions { segment_bytes, slack_bytes: 4 * segment_bytes, ..JournalOptions::new(true, 42) }
}

fn opened(disk: &MemoryDisk) -> (Journal<MemoryDisk>, Recovered) {
    open(disk.clone(), 2, options(1 << 12)).expect("the disk works")
}

fn store(journal: &mut Journal<MemoryDisk>, sequence: u64, recipients: usize, body: &Bytes) -> Vec<SpoolCompletion> {
    let mut out = Vec::new();
    journal.store(sequence, plain(sequence, recipients), body.clone(), &mut out);
    journal.commit(false, &mut out);
    out
}

fn done(journal: &mut Journal<MemoryDisk>, sequence: u64, recipients: &[u16]) {
    journal.progress(Progress::Done { id: id(sequence), recipients: SmallVec::from_slice(recipients) });
}

/// All receptions are in the outcome log, for whoever looks at something else.
const ALL_RECORDED: Point = Point { segment: u32::MAX, offset: 0 };

fn is_stored(out: &[SpoolCompletion]) -> bool {
    matches!(out.last(), Some(SpoolCompletion::Stored { .. }))
}

fn open_ids(recovered: &Recovered) -> BTreeSet<u64> {
    recovered.messages.iter().map(|message| message.envelope.id().sequence).collect()
}

fn awkward_envelopes() -> Vec<Envelope> {
    let full = Extras {
        tags: vec!["".into(), "Été 2026".into(), "a\"b\\c\r\n".into()],
        campaign: Some("C".into()),
        tenant: Some("".into()),
        routing_domain: Some("route.example".into()),
        pool: Some("p".into()),
        ips: vec!["192.0.2.1".parse().unwrap(), "2001:db8::7".parse().unwrap()],
        smarthost: Some("relay.example:2525".into()),
        not_before: Some(Timestamp(-1)),
        expires: Some(Timestamp(i64::MAX)),
        max_attempts: Some(1),
        retries: vec![0, 60, u32::MAX],
        meta: "{\"k\":[1,2]}".into(),
        ..Extras::default()
    };
    let only = |change: fn(&mut Extras)| {
        let mut extras = Extras::default();
        change(&mut extras);
        Some(Box::new(extras))
    };
    let extras = [
        None,
        Some(Box::default()),
        Some(Box::new(full)),
        only(|e| e.tenant = Some("t".into())),
        only(|e| e.retries = vec![1; 300]),
        only(|e| e.meta = "x".repeat(70_000).into()),
        only(|e| e.max_attempts = Some(u16::MAX)),
        only(|e| e.ips = vec!["::1".parse().unwrap(); 200]),
    ];
    let flags = ContentFlags { eight_bit: true, smtputf8: false, dot_lines: true };
    let utf8 = ContentFlags { smtputf8: true, ..ContentFlags::default() };
    let mut envelopes: Vec<Envelope> = extras
        .into_iter()
        .map(|extras| Envelope::new(id(1), Timestamp(i64::MIN), u32::MAX, flags, "", &["a@b"], extras))
        .collect();
    envelopes.push(Envelope::new(id(2), Timestamp(0), 0, utf8, "ü@ü.example", &["\"a b\"@[192.0.2.1]", ""], None));
    let many: Vec<String> = (0..65_535).map(|n| format!("{n}@x")).collect();
    envelopes.push(Envelope::new(id(3), Timestamp(1), 1, utf8, &"s".repeat(500), &many, None));
    envelopes
}

#[test]
fn envelopes_survive_a_round_trip_and_no_shortening() {
    for envelope in awkward_envelopes() {
        let mut octets = Vec::new();
        encode(&envelope, &mut octets);
        assert_eq!(decode(envelope.id(), &octets).as_ref(), Ok(&envelope));
        for length in (0..octets.len()).step_by(1 + octets.len() / 300) {
            assert_eq!(decode(envelope.id(), &octets[..length]), Err(BadEnvelope::Malformed), "cut at {length}");
        }
        octets.push(0);
        assert_eq!(decode(envelope.id(), &octets), Err(BadEnvelope::Malformed), "a surplus octet");
        octets[0] = 2;
        assert_eq!(decode(envelope.id(), &octets), Err(BadEnvelope::NewerVersion));
    }
}

#[test]
fn garbage_is_no_envelope_and_no_panic() {
    let mut octets = Vec::new();
    encode(&awkward_envelopes()[2], &mut octets);
    for at in 0..octets.len() {
        for value in [0, 1, 0x7f, 0x80, 0xff] {
            let mut damaged = octets.clone();
            damaged[at] = value;
            let _ = decode(id(1), &damaged);
            let _ = scan(&damaged);
        }
    }
}

#[test]
fn file_names() {
    let table = [
        ("segment-00000001.log", Some((1, "log"))),
        ("segment-4294967295.idx", Some((u32::MAX, "idx"))),
        ("segment-00000001.idx.tmp", Some((1, "idx.tmp"))),
        ("segment-4294967296.log", None),
        ("segment-1.log", None),
        ("segment-0000000x.log", None),
        ("segment-00000001.bak", None),
        ("generation", None),
    ];
    for (name, expected) in table {
        assert_eq!(parse_name(name), expected, "{name}");
    }
    assert_eq!(parse_name(&segment_name(7)), Some((7, "log")));
    assert_eq!(parse_name(&index_name(7)), Some((7, "idx")));
}

/// A log with every kind of record: three messages, the first done, the second tried, the third half done.
fn small_log() -> (MemoryDisk, u32) {
    let disk = MemoryDisk::new();
    let (mut journal, _) = opened(&disk);
    for sequence in 1..=3 {
        assert!(is_stored(&store(&mut journal, sequence, 2, &Bytes::from_static(b"a body\r\n"))));
    }
    done(&mut journal, 1, &[0, 1]);
    let standing = Standing { attempts: 3, due: Timestamp(77), maybe_delivered: true };
    journal.progress(Progress::Attempt { id: id(2), recipients: smallvec![1], standing });
    done(&mut journal, 3, &[0]);
    journal.commit(true, &mut Vec::new());
    (disk.after_crash(Survival::Nothing), 1)
}

#[test]
fn what_was_stored_is_recovered() {
    let (disk, _) = small_log();
    let (_, recovered) = opened(&disk);
    assert_eq!(recovered.dropped, []);
    let summary: Vec<_> = recovered
        .messages
        .iter()
        .map(|m| {
            let open = m.open.iter();
            let open = open.map(|o| {
                let Standing { attempts, due, maybe_delivered } = o.standing;
                (o.index, attempts, due.0, maybe_delivered)
            });
            (m.envelope.id().sequence, open.collect::<Vec<_>>())
        })
        .collect();
    assert_eq!(summary, [(2, vec![(0, 0, 0, false), (1, 3, 77, true)]), (3, vec![(1, 0, 0, false)])]);
    let location = recovered.messages[0].location;
    let file = disk.content(&segment_name(location.segment)).unwrap();
    assert_eq!(&file[location.offset as usize..][..location.length as usize], b"a body\r\n");
}

#[test]
fn every_truncation_keeps_what_stands_before_it() {
    let (disk, segment) = small_log();
    let whole = disk.content(&segment_name(segment)).unwrap();
    let records = scan(&whole).unwrap().unwrap().contents.entries;
    let end = records[records.len() - 1];
    for length in 0..=end.offset as usize + end.header.record_bytes() {
        let disk = MemoryDisk::new();
        disk.put(&segment_name(segment), &whole[..length]);
        let (_, recovered) = opened(&disk);
        let complete = |n: usize| records[n].offset as usize + records[n].header.record_bytes() <= length;
        // Records 0 to 2 are the messages, 3 ends the first.
        let expected: BTreeSet<u64> =
            (1..=3).filter(|n| complete(*n as usize - 1) && (*n != 1 || !complete(3))).collect();
        assert_eq!(open_ids(&recovered), expected, "cut at {length}");
        let end = records.iter().rfind(|r| r.offset as usize + r.header.record_bytes() <= length);
        let end = end.map_or(SEGMENT_HEADER_BYTES, |r| r.offset as usize + r.header.record_bytes());
        let reported: u64 = recovered.dropped.iter().map(|d| d.octets).sum();
        let torn = length.saturating_sub(end) as u64;
        assert!(reported <= torn && (reported > 0) == (torn > 0), "cut at {length}: {:?}", recovered.dropped);
        // The second start finds it tidy.
        let (_, again) = opened(&disk.after_crash(Survival::Nothing));
        assert_eq!((open_ids(&again), again.dropped), (expected, vec![]), "cut at {length}");
    }
}

#[test]
fn damage_is_reported_and_costs_one_record() {
    let (disk, segment) = small_log();
    let whole = disk.content(&segment_name(segment)).unwrap();
    let records = scan(&whole).unwrap().unwrap().contents.entries;
    for at in 0..whole.len() {
        let mut octets = whole.clone();
        octets[at] ^= 0x10;
        let disk = MemoryDisk::new();
        disk.put(&segment_name(segment), &octets);
        let (_, recovered) = opened(&disk);
        let hit =
            records.iter().position(|r| (r.offset as usize..r.offset as usize + r.header.record_bytes()).contains(&at));
        let mut expected = BTreeSet::from([2, 3]);
        match hit {
            Some(0) | Some(3) if hit == Some(3) => drop(expected.insert(1)),
            Some(message @ 1..=2) => drop(expected.remove(&(message as u64 + 1))),
            _ => {}
        }
        assert_eq!(open_ids(&recovered), expected, "flip at {at}");
        // Octets 28 to 31 of the header are not used.
        let reported = !recovered.dropped.is_empty();
        assert_eq!(reported, !(28..SEGMENT_HEADER_BYTES).contains(&at), "flip at {at}");
        if hit.is_some_and(|hit| hit + 1 < records.len()) {
            let why = recovered.dropped[0].why;
            assert!(matches!(why, DropReason::NoRecord | DropReason::BadBody(_)), "flip at {at}: {why:?}");
        }
    }
}

#[test]
fn a_mail_that_holds_a_record_is_no_record() {
    let (disk, segment) = small_log();
    let forged = Bytes::from(disk.content(&segment_name(segment)).unwrap());
    let disk = MemoryDisk::new();
    let other_start = JournalOptions { seed: 43, ..options(1 << 12) };
    let (mut journal, _) = open(disk.clone(), 2, other_start).unwrap();
    store(&mut journal, 50, 1, &forged);
    let name = segment_name(1);
    let mut octets = disk.content(&name).unwrap();
    octets[SEGMENT_HEADER_BYTES + 20] ^= 1;
    let damaged = MemoryDisk::new();
    damaged.put(&name, &octets);
    let (_, recovered) = opened(&damaged);
    assert_eq!(open_ids(&recovered), BTreeSet::new());
    assert_eq!(recovered.dropped.len(), 1);
}

#[test]
fn a_newer_version_is_refused_not_dropped() {
    let (disk, segment) = small_log();
    let mut octets = disk.content(&segment_name(segment)).unwrap();
    octets[7] = 2;
    let checksum = crc32fast::hash(&octets[..24]);
    octets[24..28].copy_from_slice(&checksum.to_le_bytes());
    disk.put(&segment_name(segment), &octets);
    // Already before any mail is taken.
    let begun = begin(disk.clone(), 2, options(1 << 12));
    assert!(matches!(begun, Err(SpoolError::NewerVersion { offset: 0, .. })));
    assert!(matches!(open(disk, 2, options(1 << 12)), Err(SpoolError::NewerVersion { offset: 0, .. })));
}

#[test]
fn start_up_reads_no_bodies_of_sealed_segments() {
    let disk = MemoryDisk::new();
    let (mut journal, _) = open(disk.clone(), 2, options(100_000)).unwrap();
    let body = Bytes::from(vec![b'x'; 10_000]);
    for sequence in 1..=50 {
        assert!(is_stored(&store(&mut journal, sequence, 1, &body)));
    }
    journal.close(&mut Vec::new());
    let disk = disk.after_crash(Survival::Nothing);
    let (_, recovered) = open(disk.clone(), 2, options(100_000)).unwrap();
    assert_eq!(recovered.messages.len(), 50);
    assert!(disk.octets_read() < 20_000, "{} octets read", disk.octets_read());
    // A damaged index is no loss: the segment is read instead.
    let mut index = disk.content(&index_name(2)).unwrap();
    index[30] ^= 1;
    disk.put(&index_name(2), &index);
    let (_, recovered) = open(disk.clone(), 2, options(100_000)).unwrap();
    assert_eq!((recovered.messages.len(), recovered.dropped), (50, vec![]));
    assert!((90_000..130_000).contains(&disk.octets_read()), "{} octets read", disk.octets_read());
}

#[test]
fn a_failed_sync_poisons_the_segment_for_good() {
    let disk = MemoryDisk::new();
    let (mut journal, _) = opened(&disk);
    assert!(is_stored(&store(&mut journal, 1, 1, &Bytes::from_static(b"one"))));
    done(&mut journal, 1, &[0]);
    // The write goes well, the sync does not.
    disk.fail_at(disk.operations() + 1, Fault::Error(io::ErrorKind::Other));
    let out = store(&mut journal, 2, 1, &Bytes::from_static(b"two"));
    assert!(matches!(&out[0], SpoolCompletion::Failed { ticket: 2, .. }), "{out:?}");
    let SpoolCompletion::Failing { why } = &out[1] else { panic!("{out:?}") };
    assert!(why.contains("segment-00000001.log"), "{why}");
    assert_eq!(out[2], SpoolCompletion::Working);
    let out = store(&mut journal, 3, 1, &Bytes::from_static(b"three"));
    let [SpoolCompletion::Stored { location, .. }] = &out[..] else { panic!("{out:?}") };
    assert_eq!(location.segment, 2);
    for survival in [Survival::Nothing, Survival::Everything] {
        let (_, recovered) = opened(&disk.after_crash(survival));
        // Message 1's end was rewritten; message 2 was refused and is not delivered.
        assert_eq!(open_ids(&recovered), BTreeSet::from([3]), "{survival:?}");
    }
}

#[test]
fn a_full_disk_is_said_in_words_and_overcome() {
    let disk = MemoryDisk::new();
    let (mut journal, _) = opened(&disk);
    assert!(is_stored(&store(&mut journal, 1, 1, &Bytes::from_static(b"one"))));
    disk.set_free(1000);
    let out = store(&mut journal, 2, 1, &Bytes::from(vec![b'x'; 5000]));
    let Some(SpoolCompletion::Failed { ticket: 2, why }) = out.first() else { panic!("{out:?}") };
    assert!(why.contains("file system is full"), "{why}");
    disk.set_free(0);
    let out = store(&mut journal, 3, 1, &Bytes::from_static(b"three"));
    assert!(matches!(out[0], SpoolCompletion::Failed { ticket: 3, .. }), "{out:?}");
    assert!(journal.is_failing());
    disk.set_free(1 << 20);
    let out = store(&mut journal, 4, 1, &Bytes::from_static(b"four"));
    assert!(out.contains(&SpoolCompletion::Working) && is_stored(&out), "{out:?}");
    let (_, recovered) = opened(&disk.after_crash(Survival::Nothing));
    assert_eq!(open_ids(&recovered), BTreeSet::from([1, 4]));
}

#[test]
fn what_the_spool_cannot_take_fails_alone() {
    let (mut journal, _) = opened(&MemoryDisk::new());
    let mut out = Vec::new();
    journal.store(1, plain(1, 65_536), Bytes::new(), &mut out);
    journal.store(2, plain(2, 0), Bytes::new(), &mut out);
    journal.store(3, plain(3, 1), Bytes::new(), &mut out);
    journal.commit(false, &mut out);
    assert!(matches!(
        &out[..],
        [
            SpoolCompletion::Failed { ticket: 1, .. },
            SpoolCompletion::Failed { ticket: 2, .. },
            SpoolCompletion::Stored { ticket: 3, .. }
        ]
    ));
}

#[test]
fn a_message_larger_than_a_segment_gets_its_own() {
    let disk = MemoryDisk::new();
    let (mut journal, _) = open(disk.clone(), 2, options(4000)).unwrap();
    for (sequence, octets) in [(1, 100), (2, 50_000), (3, 100)] {
        assert!(is_stored(&store(&mut journal, sequence, 1, &Bytes::from(vec![b'x'; octets]))));
    }
    let (_, recovered) = open(disk.after_crash(Survival::Nothing), 2, options(4000)).unwrap();
    let segments: Vec<u32> = recovered.messages.iter().map(|m| m.location.segment).collect();
    assert_eq!(segments, [1, 2, 3]);
}

#[test]
fn compaction_bounds_the_disk() {
    let disk = MemoryDisk::new();
    let segment = 20_000;
    let (mut journal, _) = open(disk.clone(), 2, options(segment)).unwrap();
    journal.progress(Progress::Recorded(ALL_RECORDED));
    let body = Bytes::from(vec![b'x'; 1000]);
    let mut out = Vec::new();
    for sequence in 1..=3000 {
        journal.store(sequence, plain(sequence, 40), body.clone(), &mut out);
        journal.commit(false, &mut out);
        // One in twenty stays for good, one recipient of forty open.
        let all: Vec<u16> = (0..if sequence % 20 == 0 { 39 } else { 40 }).collect();
        done(&mut journal, sequence, &all);
        while journal.maintain(&mut out) {
            journal.commit(true, &mut out);
        }
        let (total, needed) = journal.ledger().octets();
        assert!(total <= 2 * needed + 6 * segment, "{sequence}: {total} for {needed}");
    }
    journal.commit(true, &mut out);
    let (total, needed) = journal.ledger().octets();
    assert!(disk.octets() < total * 3 / 2, "{} octets on disk, {total} in the ledger", disk.octets());
    assert!(needed < 150 * 3000, "done-records do not pile up: {needed}");
    let moved = out.iter().filter(|c| matches!(c, SpoolCompletion::Moved { .. })).count();
    assert!((100..5000).contains(&moved), "{moved} moved");
    let (_, recovered) = open(disk.after_crash(Survival::Nothing), 2, options(segment)).unwrap();
    assert_eq!(recovered.messages.len(), 150);
    assert!(recovered.messages.iter().all(|m| m.open.len() == 1 && m.open[0].index == 39));
}

#[test]
fn a_damaged_body_is_reported_when_it_is_moved() {
    let disk = MemoryDisk::new();
    let segment = 5_000;
    let (mut journal, _) = open(disk.clone(), 2, options(segment)).unwrap();
    journal.progress(Progress::Recorded(ALL_RECORDED));
    let body = Bytes::from(vec![b'x'; 1000]);
    let mut out = Vec::new();
    for sequence in 1..=400 {
        journal.store(sequence, plain(sequence, 1), body.clone(), &mut out);
        journal.commit(false, &mut out);
        if sequence == 1 {
            let mut octets = disk.content(&segment_name(1)).unwrap();
            octets[500] ^= 1;
            // The journal holds the file open: the damage must be done in place.
            disk.damage(&segment_name(1), &octets);
        } else if sequence % 10 > 0 {
            done(&mut journal, sequence, &[0]);
        }
        journal.maintain(&mut out);
        journal.commit(true, &mut out);
    }
    assert!(out.iter().any(|c| matches!(c, SpoolCompletion::Damaged { id: found, .. } if *found == id(1))));
    assert!(out.iter().any(|c| matches!(c, SpoolCompletion::Moved { id: found, .. } if *found == id(1))));
}
