//! When the spool syncs, what it answers before, and what a failure leaves of it: by its policy, and to the operation.

#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

use bytes::Bytes;
use mailrace_shards::limits::SPOOL_PENDING_ATTEMPTS;
use mailrace_shards::message::{ContentFlags, Envelope, MessageId};
use mailrace_shards::spool::journal::{Journal, JournalOptions};
use mailrace_shards::spool::memory_disk::{Fault, MemoryDisk, Survival};
use mailrace_shards::spool::recover::open;
use mailrace_shards::spool::report::{Progress, Recovered, SpoolCompletion, Standing};
use mailrace_shards::spool::segment::segment_name;
use mailrace_shards::time::Timestamp;
use smallvec::smallvec;
use std::io;
use std::sync::Arc;

const SEGMENT: u64 = 1 << 20;

fn opened(disk: &MemoryDisk, sync_before_answer: bool) -> (Journal<MemoryDisk>, Recovered) {
    let options = JournalOptions { segment_bytes: SEGMENT, ..JournalOptions::new(sync_before_answer, 42) };
    open(disk.clone(), 2, options).expect("the disk works")
}

fn id(sequence: u64) -> MessageId {
    MessageId { generation: 1, core: 2, sequence }
}

fn stage(journal: &mut Journal<MemoryDisk>, sequence: u64, recipients: usize, body: &Bytes) {
    let names: Vec<String> = (0..recipients).map(|number| format!("{number}@b")).collect();
    let envelope = Envelope::new(id(sequence), Timestamp(1), 9, ContentFlags::default(), "s@a", &names, None);
    let mut out = Vec::new();
    journal.store(sequence, Arc::new(envelope), body.clone(), &mut out);
    assert_eq!(out, [], "it is only staged");
}

fn store(journal: &mut Journal<MemoryDisk>, sequence: u64, body: &Bytes) -> Vec<SpoolCompletion> {
    let mut out = Vec::new();
    stage(journal, sequence, 1, body);
    journal.commit(false, &mut out);
    out
}

fn attempt(journal: &mut Journal<MemoryDisk>, sequence: u64, recipient: u16) {
    let standing = Standing { attempts: 1, due: Timestamp(5), maybe_delivered: false };
    journal.progress(Progress::Attempt { id: id(sequence), recipients: smallvec![recipient], standing });
}

fn is_stored(out: &[SpoolCompletion]) -> bool {
    matches!(out, [SpoolCompletion::Stored { .. }])
}

fn open_ids(disk: &MemoryDisk) -> Vec<u64> {
    let (_, recovered) = opened(disk, true);
    recovered.messages.iter().map(|message| message.envelope.id().sequence).collect()
}

#[test]
fn a_message_is_durable_before_its_answer_where_the_policy_says_so() {
    for always in [true, false] {
        let disk = MemoryDisk::new();
        let (mut journal, _) = opened(&disk, always);
        journal.commit(true, &mut Vec::new());
        assert!(is_stored(&store(&mut journal, 1, &Bytes::from_static(b"one"))));
        assert_eq!(journal.has_unsynced(), !always);
        let found = if always { vec![1] } else { vec![] };
        assert_eq!(open_ids(&disk.after_crash(Survival::Nothing)), found);
        journal.commit(true, &mut Vec::new());
        assert_eq!((journal.has_unsynced(), open_ids(&disk.after_crash(Survival::Nothing))), (false, vec![1]));
    }
}

/// What became of a message may be lost by a crash, so its record does not cost a sync of its own.
#[test]
fn progress_alone_is_written_and_not_synced_until_somebody_wants_it() {
    for always in [true, false] {
        let disk = MemoryDisk::new();
        let (mut journal, _) = opened(&disk, always);
        store(&mut journal, 1, &Bytes::new());
        journal.commit(true, &mut Vec::new());
        let before = disk.operations();
        attempt(&mut journal, 1, 0);
        assert!(journal.has_unsynced(), "it is staged");
        journal.commit(false, &mut Vec::new());
        assert!(journal.has_unsynced(), "and now it is written");
        assert_eq!(disk.operations() - before, 1);
        journal.commit(false, &mut Vec::new());
        assert_eq!(disk.operations() - before, 1, "nothing new");
        journal.commit(true, &mut Vec::new());
        assert_eq!((journal.has_unsynced(), disk.operations() - before), (false, 2));
    }
}

/// With a policy that answers before the sync: what was answered stays in the file when a later write fails, what was not
/// answered goes.
#[test]
fn what_was_answered_outlives_a_write_that_fails() {
    let disk = MemoryDisk::new();
    let (mut journal, _) = opened(&disk, false);
    journal.commit(true, &mut Vec::new());
    assert!(is_stored(&store(&mut journal, 1, &Bytes::from_static(b"one"))));
    let length = disk.content(&segment_name(1)).unwrap().iter().rposition(|octet| *octet != 0).unwrap();
    attempt(&mut journal, 1, 0);
    journal.commit(false, &mut Vec::new());
    disk.fail_at(disk.operations(), Fault::Torn);
    let out = store(&mut journal, 2, &Bytes::from(vec![b'x'; 500_000]));
    assert!(matches!(out[0], SpoolCompletion::Failed { ticket: 2, .. }), "{out:?}");
    let left = disk.content(&segment_name(1)).unwrap().len();
    assert!((length..length + 25).contains(&left), "{left} octets, the message ended at {length}");
    assert_eq!(open_ids(&disk.after_crash(Survival::Everything)), [1]);
    // The attempt was not durable, and is told again.
    let (_, recovered) = opened(&disk.after_crash(Survival::Everything), true);
    assert_eq!(recovered.messages[0].open[0].standing.attempts, 1);
}

#[test]
fn a_spool_that_failed_syncs_what_it_writes_next() {
    let disk = MemoryDisk::new();
    let (mut journal, _) = opened(&disk, false);
    journal.commit(true, &mut Vec::new());
    disk.set_free(0);
    let large = Bytes::from(vec![b'x'; 900_000]);
    assert!(matches!(store(&mut journal, 1, &large)[0], SpoolCompletion::Failed { .. }));
    assert!(journal.is_failing());
    disk.set_free(1 << 30);
    let mut out = Vec::new();
    journal.commit(false, &mut out);
    assert_eq!((out, journal.is_failing(), journal.has_unsynced()), (vec![SpoolCompletion::Working], false, false));
}

/// Messages of one group go into the segment as long as they fit, and the rest into the next ones.
#[test]
fn a_group_may_take_several_segments() {
    let disk = MemoryDisk::new();
    let (mut journal, _) = opened(&disk, true);
    let body = Bytes::from(vec![b'x'; 300_000]);
    for sequence in 1..=8 {
        stage(&mut journal, sequence, 1, &body);
    }
    let mut out = Vec::new();
    journal.commit(false, &mut out);
    let segments: Vec<u32> = out
        .iter()
        .map(|of| match of {
            SpoolCompletion::Stored { location, .. } => location.segment,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(segments, [1, 1, 1, 2, 2, 2, 3, 3]);
    assert_eq!(open_ids(&disk.after_crash(Survival::Nothing)), (1..=8).collect::<Vec<u64>>());
}

/// Zeros are put ahead of small groups, and given back when the segment ends.
#[test]
fn a_segment_that_ends_is_as_long_as_its_records() {
    let disk = MemoryDisk::new();
    let (mut journal, _) = opened(&disk, true);
    store(&mut journal, 1, &Bytes::from_static(b"one"));
    let ahead = disk.content(&segment_name(1)).unwrap();
    assert_eq!(ahead.len() as u64, 32 + SEGMENT / 8, "a step of zeros behind the header");
    journal.close(&mut Vec::new());
    let end = disk.content(&segment_name(1)).unwrap().len();
    assert!(end < 200 && ahead[end..].iter().all(|octet| *octet == 0), "{end}");
}

/// Idle moments prepare the disk for small groups, unless there is enough left of the last zeros, or large ones came.
#[test]
fn zeros_are_put_ahead_in_idle_moments_after_small_groups_only() {
    let disk = MemoryDisk::new();
    let (mut journal, _) = opened(&disk, true);
    let (step, small) = (SEGMENT / 8, Bytes::from(vec![b'x'; 1000]));
    let idle = |journal: &mut Journal<MemoryDisk>| {
        let before = disk.operations();
        let mut out = Vec::new();
        journal.idle(&mut out);
        assert_eq!(out, []);
        disk.operations() - before
    };
    let length = || disk.content(&segment_name(1)).unwrap().len() as u64;
    store(&mut journal, 1, &small);
    assert_eq!((length(), idle(&mut journal)), (32 + step, 0), "there is enough");
    let mut sequence = 1;
    // Until less than a quarter is left.
    while (sequence + 1) * 1100 < step * 3 / 4 {
        sequence += 1;
        store(&mut journal, sequence, &small);
        assert_eq!(idle(&mut journal), 0, "after message {sequence}");
    }
    while length() == 32 + step {
        sequence += 1;
        assert!(sequence * 1050 < step, "it was due before all was used");
        store(&mut journal, sequence, &small);
        let operations = idle(&mut journal);
        assert!(operations == 0 || operations == 2, "zeros and a sync: {operations}");
    }
    assert_eq!(length(), 32 + 2 * step);
    assert!(!journal.has_unsynced());
    // A large group writes over them; only after some small ones there are new ones.
    store(&mut journal, sequence + 1, &Bytes::from(vec![b'x'; 300_000]));
    let end = length();
    for number in 2..6 {
        assert_eq!(idle(&mut journal), 0);
        store(&mut journal, sequence + number, &Bytes::new());
        assert!(length() < end + 1000, "no zeros before group {number}");
    }
    assert_eq!((idle(&mut journal), length() > end + step), (2, true));
}

/// What is not synced is nothing to build on: an idle moment leaves it alone.
#[test]
fn an_idle_moment_with_unsynced_records_does_nothing() {
    let disk = MemoryDisk::new();
    let (mut journal, _) = opened(&disk, false);
    for sequence in 1..=120 {
        store(&mut journal, sequence, &Bytes::from(vec![b'x'; 1000]));
    }
    assert!(journal.has_unsynced());
    let before = disk.operations();
    journal.idle(&mut Vec::new());
    assert_eq!(disk.operations(), before);
}

/// Small messages until an idle moment is used, in which operation `fault` fails. How many there are, and what is said.
fn idle_moment(disk: &MemoryDisk, fault: u64) -> (u64, Vec<SpoolCompletion>) {
    let (mut journal, _) = opened(disk, true);
    for sequence in 1..200 {
        assert!(is_stored(&store(&mut journal, sequence, &Bytes::from(vec![b'x'; 1000]))));
        let before = disk.operations();
        disk.fail_at(before + fault, Fault::Error(io::ErrorKind::Other));
        let mut out = Vec::new();
        journal.idle(&mut out);
        if disk.operations() > before {
            return (sequence, out);
        }
        disk.forgive();
    }
    panic!("no idle moment was used");
}

/// Neither zeros that cannot be written nor a sync of them that fails costs more than the segment.
#[test]
fn a_failure_in_an_idle_moment_costs_a_segment_and_no_message() {
    let (messages, out) = idle_moment(&MemoryDisk::new(), 99);
    assert_eq!(out, []);
    for fault in [0, 1] {
        let disk = MemoryDisk::new();
        let (stored, out) = idle_moment(&disk, fault);
        let [SpoolCompletion::Failing { why }, SpoolCompletion::Working] = &out[..] else { panic!("{out:?}") };
        assert!(why.contains("preparing segment-00000001.log"), "{why}");
        assert_eq!(stored, messages);
        assert_eq!(open_ids(&disk.after_crash(Survival::Nothing)), (1..=stored).collect::<Vec<u64>>());
    }
}

/// Of the attempts that a failing spool keeps, the oldest half goes when there is one too many, and not before.
#[test]
fn of_too_many_attempts_the_newer_half_stays() {
    let recipients = 64_u16;
    let messages = SPOOL_PENDING_ATTEMPTS as u64 / u64::from(recipients);
    for more in [0, 1] {
        let disk = MemoryDisk::new();
        let options = JournalOptions { segment_bytes: 8 << 20, ..JournalOptions::new(true, 42) };
        let (mut journal, _) = open(disk.clone(), 2, options).expect("the disk works");
        let mut out = Vec::new();
        for sequence in 1..=messages + 2 {
            stage(&mut journal, sequence, recipients.into(), &Bytes::new());
        }
        journal.commit(true, &mut out);
        assert_eq!(out.len() as u64, messages + 2);
        disk.set_free(0);
        let out = store(&mut journal, 9_999, &Bytes::from(vec![b'x'; 7 << 20]));
        assert!(matches!(out[0], SpoolCompletion::Failed { .. }) && journal.is_failing(), "{out:?}");
        for sequence in 1..=messages {
            (0..recipients).for_each(|recipient| attempt(&mut journal, sequence, recipient));
        }
        journal.progress(Progress::Done { id: id(messages + 2), recipients: (0..recipients).collect() });
        (0..more).for_each(|recipient| attempt(&mut journal, messages + 1, recipient));
        disk.set_free(1 << 30);
        journal.commit(true, &mut Vec::new());
        assert!(!journal.is_failing());
        let (_, recovered) = opened(&disk.after_crash(Survival::Nothing), true);
        assert_eq!(recovered.messages.len() as u64, messages + 1, "the end is told in any case");
        let tried = |of: &mailrace_shards::spool::report::RecoveredMessage| {
            of.open.iter().filter(|recipient| recipient.standing.attempts > 0).count()
        };
        let kept: usize = recovered.messages.iter().map(tried).sum();
        let expected = if more == 0 { SPOOL_PENDING_ATTEMPTS } else { SPOOL_PENDING_ATTEMPTS / 2 };
        assert_eq!(kept, expected, "{more} more");
        assert_eq!(tried(&recovered.messages[0]), if more == 0 { 64 } else { 0 }, "the oldest go");
        assert_eq!(tried(&recovered.messages[messages as usize - 1]), 64, "the newest stay");
    }
}
