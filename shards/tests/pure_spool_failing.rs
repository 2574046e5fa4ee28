//! A spool whose disk refuses: what it says, how often, and how it finds that the disk works again.

#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

use bytes::Bytes;
use mailrace_shards::limits::{SPOOL_ENVELOPE_BYTES_MAX, SPOOL_PENDING_ATTEMPTS, SPOOL_RECORD_BYTES_MAX};
use mailrace_shards::message::{ContentFlags, Envelope, Extras, MessageId};
use mailrace_shards::spool::journal::{Journal, JournalOptions};
use mailrace_shards::spool::memory_disk::{Fault, MemoryDisk, Survival};
use mailrace_shards::spool::recover::open;
use mailrace_shards::spool::report::{Point, Progress, Recovered, SpoolCompletion, Standing};
use mailrace_shards::spool::segment::{index_name, segment_name};
use mailrace_shards::time::Timestamp;
use smallvec::smallvec;
use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::sync::Arc;

/// Segments of 4 KiB.
fn opened(disk: &MemoryDisk) -> (Journal<MemoryDisk>, Recovered) {
    let options = JournalOptions { segment_bytes: 1 << 12, ..JournalOptions::new(true, 42) };
    open(disk.clone(), 2, options).expect("the disk works")
}

fn id(sequence: u64) -> MessageId {
    MessageId { generation: 1, core: 2, sequence }
}

fn store(journal: &mut Journal<MemoryDisk>, sequence: u64, body: &Bytes) -> Vec<SpoolCompletion> {
    let envelope = Envelope::new(id(sequence), Timestamp(1), 9, ContentFlags::default(), "s@a", &["r@b"], None);
    let mut out = Vec::new();
    journal.store(sequence, Arc::new(envelope), body.clone(), &mut out);
    journal.commit(false, &mut out);
    out
}

fn is_stored(out: &[SpoolCompletion]) -> bool {
    out.iter().any(|of| matches!(of, SpoolCompletion::Stored { .. }))
}

/// A spool whose second message, refused as said, would have needed another segment, which cannot be made.
fn without_room(disk: &MemoryDisk) -> (Journal<MemoryDisk>, Vec<SpoolCompletion>) {
    let (mut journal, _) = opened(disk);
    let large = Bytes::from(vec![b'x'; 3000]);
    assert!(is_stored(&store(&mut journal, 1, &large)));
    disk.set_free(0);
    let out = store(&mut journal, 2, &large);
    assert!(matches!(out[0], SpoolCompletion::Failed { ticket: 2, .. }), "{out:?}");
    (journal, out)
}

/// Mail is refused while the spool fails, so nothing comes by which it could be seen to work again.
#[test]
fn a_spool_that_failed_works_again_although_nothing_is_written() {
    let disk = MemoryDisk::new();
    let (mut journal, out) = without_room(&disk);
    let said = |out: &[SpoolCompletion]| out.iter().filter(|of| matches!(of, SpoolCompletion::Failing { .. })).count();
    assert_eq!(said(&out), 1, "{out:?}");
    let mut out = Vec::new();
    journal.commit(true, &mut out);
    assert!(out.is_empty() && journal.is_failing(), "nothing new: {out:?}");
    disk.set_free(1 << 20);
    journal.commit(true, &mut out);
    assert_eq!((out, journal.is_failing()), (vec![SpoolCompletion::Working], false));
    assert!(is_stored(&store(&mut journal, 3, &Bytes::from(vec![b'x'; 3000]))));
    let (_, recovered) = opened(&disk.after_crash(Survival::Nothing));
    let open: BTreeSet<u64> = recovered.messages.iter().map(|of| of.envelope.id().sequence).collect();
    assert_eq!(open, BTreeSet::from([1, 3]));
}

/// Retries go on while the disk refuses. What they leave to be written is bounded; the end of a message is never given up
/// for it, and of the attempts the latest stay.
#[test]
fn a_failing_spool_forgets_the_oldest_attempts_and_no_end() {
    let disk = MemoryDisk::new();
    let options = JournalOptions { segment_bytes: 1 << 20, ..JournalOptions::new(true, 42) };
    let (mut journal, _) = open(disk.clone(), 2, options).expect("the disk works");
    for sequence in 1..=3 {
        assert!(is_stored(&store(&mut journal, sequence, &Bytes::new())));
    }
    let large = Bytes::from(vec![b'x'; 600 << 10]);
    assert!(is_stored(&store(&mut journal, 4, &large)));
    // The next one needs another segment.
    disk.set_free(0);
    assert!(!is_stored(&store(&mut journal, 5, &large)) && journal.is_failing());
    let before = disk.octets();
    let standing = |attempts| Standing { attempts, due: Timestamp(i64::from(attempts)), maybe_delivered: false };
    let mut attempt = |sequence, attempts| {
        journal.progress(Progress::Attempt {
            id: id(sequence),
            recipients: smallvec![0],
            standing: standing(attempts),
        });
    };
    attempt(1, 7);
    let many = 3 * SPOOL_PENDING_ATTEMPTS as u64;
    for turn in 0..many {
        attempt(2, 1 + (turn % 60_000) as u16);
    }
    journal.progress(Progress::Done { id: id(3), recipients: smallvec![0] });
    for _ in 0..many {
        journal.progress(Progress::Attempt { id: id(2), recipients: smallvec![0], standing: standing(60_001) });
    }
    disk.set_free(1 << 30);
    journal.commit(true, &mut Vec::new());
    assert!(!journal.is_failing());
    let written = disk.octets() - before;
    // At most 128 octets for each of the attempts that may wait.
    assert!(written < 128 * SPOOL_PENDING_ATTEMPTS as u64, "{written} octets for {many} attempts and as many again");
    let (_, recovered) = opened(&disk.after_crash(Survival::Nothing));
    let attempts = |sequence| {
        let message = recovered.messages.iter().find(|of| of.envelope.id().sequence == sequence);
        message.map(|of| of.open[0].standing.attempts)
    };
    assert_eq!((attempts(1), attempts(2), attempts(3)), (Some(0), Some(60_001), None));
}

/// Who stops while the disk refuses is told how many messages will end once more, and that is how many are found.
#[test]
fn a_spool_that_closes_while_it_fails_says_which_ends_are_lost() {
    for (free, unwritten, found) in [(1_u64 << 30, 0, vec![1]), (0, 2, vec![1, 2, 3])] {
        let disk = MemoryDisk::new();
        let options = JournalOptions { segment_bytes: 1 << 20, ..JournalOptions::new(true, 42) };
        let (mut journal, _) = open(disk.clone(), 2, options).expect("the disk works");
        for sequence in 1..=3 {
            assert!(is_stored(&store(&mut journal, sequence, &Bytes::new())));
        }
        let large = Bytes::from(vec![b'x'; 900 << 10]);
        assert!(is_stored(&store(&mut journal, 4, &large)));
        journal.progress(Progress::Done { id: id(4), recipients: smallvec![0] });
        journal.commit(true, &mut Vec::new());
        // The next one needs another segment.
        disk.set_free(0);
        assert!(!is_stored(&store(&mut journal, 5, &large)) && journal.is_failing());
        disk.set_free(free);
        for sequence in [2, 3] {
            journal.progress(Progress::Done { id: id(sequence), recipients: smallvec![0] });
        }
        journal.progress(Progress::Attempt { id: id(1), recipients: smallvec![0], standing: Standing::default() });
        assert_eq!(journal.close(&mut Vec::new()), unwritten);
        let (_, recovered) = opened(&disk.after_crash(Survival::Nothing));
        let open: Vec<u64> = recovered.messages.iter().map(|of| of.envelope.id().sequence).collect();
        assert_eq!(open, found);
    }
}

/// What was delivered and cannot be written down would be delivered again after a crash: with too much of that it is said,
/// once, and once more when all is written.
#[test]
fn a_spool_that_cannot_write_many_ends_says_so() {
    let disk = MemoryDisk::new();
    let options = JournalOptions { segment_bytes: 1 << 12, pending_ends: 3, ..JournalOptions::new(true, 42) };
    let (mut journal, _) = open(disk.clone(), 2, options).expect("the disk works");
    for sequence in 1..=6 {
        assert!(is_stored(&store(&mut journal, sequence, &Bytes::from(vec![b'x'; 500]))));
    }
    disk.set_free(0);
    assert!(!is_stored(&store(&mut journal, 7, &Bytes::from(vec![b'x'; 3000]))) && journal.is_failing());
    let mut said = Vec::new();
    for sequence in 1..=5 {
        journal.progress(Progress::Done { id: id(sequence), recipients: smallvec![0] });
        journal.progress(Progress::Attempt { id: id(6), recipients: smallvec![0], standing: Standing::default() });
        let mut out = Vec::new();
        journal.commit(true, &mut out);
        said.push(out);
    }
    let behind = vec![SpoolCompletion::Behind(true)];
    assert_eq!(said, [vec![], vec![], behind, vec![], vec![]]);
    disk.set_free(1 << 20);
    let mut out = Vec::new();
    journal.commit(true, &mut out);
    assert_eq!(out, [SpoolCompletion::Working, SpoolCompletion::Behind(false)]);
}

/// A commit writes what there is to write, and where there is nothing it leaves the disk alone.
#[test]
fn an_idle_commit_touches_no_disk() {
    let disk = MemoryDisk::new();
    let (mut journal, _) = opened(&disk);
    for sequence in 1..=2 {
        journal.commit(true, &mut Vec::new());
        let before = disk.operations();
        journal.commit(true, &mut Vec::new());
        journal.commit(false, &mut Vec::new());
        assert_eq!(disk.operations(), before, "before message {sequence}");
        assert!(is_stored(&store(&mut journal, sequence, &Bytes::new())));
        let before = disk.operations();
        // Written once, and not again by each commit that follows.
        journal.progress(Progress::Recorded(Point { segment: 1, offset: sequence }));
        journal.commit(true, &mut Vec::new());
        assert_ne!(disk.operations(), before, "after message {sequence}");
    }
}

/// Compaction cannot read a segment: that is said once, the segment stays as it is, and the others are compacted.
#[test]
fn a_segment_that_cannot_be_compacted_is_named_once_and_left_alone() {
    let disk = MemoryDisk::new();
    let options = JournalOptions { segment_bytes: 1 << 12, slack_bytes: 4 << 12, ..JournalOptions::new(true, 42) };
    let (mut journal, _) = open(disk.clone(), 2, options).expect("the disk works");
    journal.progress(Progress::Recorded(Point { segment: u32::MAX, offset: 0 }));
    let body = Bytes::from(vec![b'x'; 500]);
    let mut out = Vec::new();
    for sequence in 1..=200 {
        out.extend(store(&mut journal, sequence, &body));
        if sequence == 15 {
            // The first segment is closed by now; its index tells where it ends.
            disk.put(&index_name(1), b"");
            disk.put(&segment_name(1), &[0; 4096]);
        }
        // One in ten stays.
        if sequence % 10 > 1 {
            journal.progress(Progress::Done { id: id(sequence), recipients: smallvec![0] });
        }
        while journal.maintain(&mut out) {
            journal.commit(true, &mut out);
        }
    }
    let said = out.iter().filter(|of| matches!(of, SpoolCompletion::Housekeeping { .. }));
    let said: Vec<_> = said.collect();
    let [SpoolCompletion::Housekeeping { why }] = said[..] else { panic!("{said:?}") };
    assert!(why.contains(&segment_name(1)), "{why}");
    let (total, needed) = journal.ledger().octets();
    assert!(total <= 2 * needed + 6 * 4096, "{total} for {needed}");
    assert!(disk.content(&segment_name(1)).is_some() && disk.content(&segment_name(2)).is_none());
}

/// The disk took a message that was refused, and would not give it up: a cut tells the next start how far the segment
/// counts, and what lies behind it is neither mail nor damage.
#[test]
fn what_was_refused_stays_refused_although_the_disk_would_not_cut_it_off() {
    // The write reaches the file by half, or whole but for its sync; and the file cannot be cut.
    for fault in [0, 1] {
        let disk = MemoryDisk::new();
        // Large enough that no zeros are put ahead in between.
        let options = JournalOptions { segment_bytes: 1 << 20, ..JournalOptions::new(true, 42) };
        let (mut journal, _) = open(disk.clone(), 2, options).expect("the disk works");
        assert!(is_stored(&store(&mut journal, 1, &Bytes::from(vec![b'x'; 600]))));
        disk.fail_at(disk.operations() + fault, Fault::Torn);
        disk.fail_at(disk.operations() + fault + 1, Fault::Error(ErrorKind::Other));
        let out = store(&mut journal, 2, &Bytes::from(vec![b'y'; 900]));
        assert!(matches!(out[0], SpoolCompletion::Failed { ticket: 2, .. }), "{out:?}");
        let lies_there = disk.content(&segment_name(1)).unwrap();
        assert!(lies_there.windows(100).any(|octets| octets == [b'y'; 100]));
        assert!(is_stored(&store(&mut journal, 3, &Bytes::from_static(b"three"))));
        for _ in 0..2 {
            let (_, recovered) = opened(&disk.after_crash(Survival::Everything));
            let open: Vec<u64> = recovered.messages.iter().map(|of| of.envelope.id().sequence).collect();
            assert_eq!((open, recovered.dropped), (vec![1, 3], vec![]), "fault {fault}");
        }
    }
}

/// Each idle moment cost a spool on a full disk a segment, and mail was refused until the next one.
#[test]
fn a_disk_without_room_for_zeros_has_some_for_records() {
    let disk = MemoryDisk::new();
    let (mut journal, _) = opened(&disk);
    let small = Bytes::from_static(b"small");
    for sequence in 1..=10 {
        assert!(is_stored(&store(&mut journal, sequence, &small)));
    }
    disk.set_free(200);
    for sequence in 11..=14 {
        assert!(is_stored(&store(&mut journal, sequence, &small)), "{sequence}");
        let mut out = Vec::new();
        journal.idle(&mut out);
        assert!(out.is_empty() && !journal.is_failing(), "{out:?}");
        disk.set_free(200);
    }
}

#[test]
fn a_segment_that_cannot_be_made_is_named() {
    let (_, out) = without_room(&MemoryDisk::new());
    let [SpoolCompletion::Failed { why, .. }, ..] = &out[..] else { panic!("{out:?}") };
    assert!(why.starts_with("creating segment-00000002.log of spool 2"), "{why}");
}

/// Records that are larger than the format can say are refused when they are staged, and what just fits is not.
#[test]
fn the_largest_message_and_the_largest_envelope_just_fit() {
    let (mut journal, _) = opened(&MemoryDisk::new());
    // Header, fixed fields, sender, recipient with its length, trailer.
    let least = 40 + 32 + 3 + (3 + 5) + 20;
    let mut refused = |body: usize, meta: Option<usize>| {
        let extras = meta.map(|octets| Box::new(Extras { meta: "m".repeat(octets).into(), ..Extras::default() }));
        let envelope = Envelope::new(id(1), Timestamp(1), 9, ContentFlags::default(), "s@a", &["r@b"], extras);
        let mut out = Vec::new();
        // Zeros that nobody looks at take no memory.
        journal.store(1, Arc::new(envelope), Bytes::from(vec![0; body]), &mut out);
        out.pop().map(|of| format!("{of:?}"))
    };
    assert_eq!(refused(SPOOL_RECORD_BYTES_MAX - least, None), None);
    let why = refused(SPOOL_RECORD_BYTES_MAX - least + 1, None).expect("one more");
    assert!(why.contains("the message is larger"), "{why}");
    assert_eq!(refused(0, Some(SPOOL_ENVELOPE_BYTES_MAX - least - 64)), None);
    let why = refused(0, Some(SPOOL_ENVELOPE_BYTES_MAX - least - 64 + 1)).expect("one more");
    assert!(why.contains("the envelope is larger"), "{why}");
}
