//! What lets the segments of a spool go: they do although one of them cannot be read, although the disk is full, and
//! however often mail is tried; and compaction comes to an end.

#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

use bytes::Bytes;
use mailrace_shards::message::{ContentFlags, Envelope, MessageId};
use mailrace_shards::spool::journal::{Journal, JournalOptions};
use mailrace_shards::spool::memory_disk::{MemoryDisk, Survival};
use mailrace_shards::spool::recover::open;
use mailrace_shards::spool::report::{Point, Progress, SpoolCompletion, Standing};
use mailrace_shards::spool::segment::{index_name, segment_name};
use mailrace_shards::time::Timestamp;
use smallvec::smallvec;
use std::sync::Arc;

const SEGMENT: u64 = 1 << 12;
const SLACK: u64 = 4 * SEGMENT;

fn options() -> JournalOptions {
    JournalOptions { segment_bytes: SEGMENT, slack_bytes: SLACK, ..JournalOptions::new(true, 42) }
}

fn opened(disk: &MemoryDisk) -> Journal<MemoryDisk> {
    let (mut journal, _) = open(disk.clone(), 2, options()).expect("the disk works");
    journal.progress(Progress::Recorded(Point { segment: u32::MAX, offset: 0 }));
    journal
}

fn id(sequence: u64) -> MessageId {
    MessageId { generation: 1, core: 2, sequence }
}

fn store(journal: &mut Journal<MemoryDisk>, sequence: u64, recipients: usize) -> Vec<SpoolCompletion> {
    let recipients: Vec<String> = (0..recipients).map(|n| format!("r{n}@b")).collect();
    let recipients: Vec<&str> = recipients.iter().map(String::as_str).collect();
    let envelope = Envelope::new(id(sequence), Timestamp(1), 9, ContentFlags::default(), "s@a", &recipients, None);
    let mut out = Vec::new();
    journal.store(sequence, Arc::new(envelope), Bytes::from(vec![b'x'; 500]), &mut out);
    journal.commit(false, &mut out);
    out
}

fn done(journal: &mut Journal<MemoryDisk>, sequence: u64) {
    journal.progress(Progress::Done { id: id(sequence), recipients: smallvec![0] });
}

fn tried(journal: &mut Journal<MemoryDisk>, sequence: u64, recipient: u16, attempts: u16) {
    let standing = Standing { attempts, due: Timestamp(i64::from(recipient)), maybe_delivered: false };
    journal.progress(Progress::Attempt { id: id(sequence), recipients: smallvec![recipient], standing });
}

/// All that there is to be done at once: how many slices that were.
fn maintain(journal: &mut Journal<MemoryDisk>, out: &mut Vec<SpoolCompletion>) -> usize {
    const MANY: usize = 10_000;
    for slices in 0..MANY {
        if !journal.maintain(out) {
            return slices;
        }
        journal.commit(true, out);
    }
    panic!("compaction does not come to an end");
}

/// Where the body of the message with this number among those in `octets` ends.
fn body_end(octets: &[u8], number: usize) -> usize {
    let mut ends = (500..octets.len()).filter(|at| octets[at - 500..*at] == [b'x'; 500] && octets[*at] != b'x');
    ends.nth(number).unwrap()
}

/// Of two open messages in the first segment, one cannot be read. The other was moved, and then no later segment went
/// before this one, for as long as the message that cannot be read was open.
#[test]
fn a_segment_with_an_unreadable_message_holds_no_other_back() {
    for without_index in [false, true] {
        let disk = MemoryDisk::new();
        let mut journal = opened(&disk);
        let mut out = Vec::new();
        for sequence in 1..=400 {
            out.extend(store(&mut journal, sequence, 1));
            if sequence == 15 {
                let mut octets = disk.content(&segment_name(1)).unwrap();
                let end = body_end(&octets, 3);
                // The name in its trailer; or, where there is no index, the header before the body.
                let broken = if without_index { end - 560..end - 500 } else { end..end + 16 };
                octets[broken].fill(0);
                disk.damage(&segment_name(1), &octets);
                if without_index {
                    disk.put(&index_name(1), b"");
                }
            }
            if sequence % 3 != 1 {
                done(&mut journal, sequence);
            }
            maintain(&mut journal, &mut out);
            journal.commit(true, &mut out);
            let (total, needed) = journal.ledger().octets();
            assert!(total <= 2 * needed + SLACK + 3 * SEGMENT, "{sequence}: {total} for {needed}");
        }
        let housekeeping = out.iter().filter(|of| matches!(of, SpoolCompletion::Housekeeping { .. })).count();
        assert_eq!(housekeeping, 1, "it is said once: {without_index}");
        assert!(disk.content(&segment_name(1)).is_some() && disk.content(&segment_name(5)).is_none());
        let (_, recovered) = open(disk.after_crash(Survival::Everything), 2, options()).unwrap();
        assert_eq!(recovered.messages.len(), if without_index { 133 } else { 134 });
    }
}

/// What is written with a copy is as large as the copy where many recipients were tried: that was taken for waste, and
/// moved again and again.
#[test]
fn compaction_ends_where_many_recipients_were_tried() {
    let disk = MemoryDisk::new();
    let mut journal = opened(&disk);
    let mut out = Vec::new();
    for sequence in 1..=60 {
        store(&mut journal, sequence, 40);
        for recipient in 0..40 {
            tried(&mut journal, sequence, recipient, 1);
        }
        journal.commit(true, &mut out);
    }
    // A third of them end, so that there is something to be compacted.
    for sequence in 1..=20 {
        journal.progress(Progress::Done { id: id(sequence), recipients: (0..40).collect() });
    }
    journal.commit(true, &mut out);
    maintain(&mut journal, &mut out);
    assert_eq!(maintain(&mut journal, &mut out), 0);
    check_standings(&disk, 21..=60, 1);
}

/// Mail that waits for months is tried thousands of times. Each record of it was kept for as long as the mail.
#[test]
fn attempts_that_newer_ones_replace_do_not_pile_up() {
    let mut disk = MemoryDisk::new();
    let mut journal = opened(&disk);
    let mut out = Vec::new();
    for sequence in 1..=20 {
        store(&mut journal, sequence, 4);
    }
    for attempts in 1..=500 {
        for sequence in 1..=20 {
            for recipient in 0..4 {
                tried(&mut journal, sequence, recipient, attempts);
            }
            // It all happens in its own time.
            if sequence % 7 == 0 {
                maintain(&mut journal, &mut out);
                journal.commit(true, &mut out);
            }
        }
        maintain(&mut journal, &mut out);
        journal.commit(true, &mut out);
        assert!(disk.octets() < 80_000, "{attempts} attempts: {} octets", disk.octets());
        if attempts % 100 == 0 {
            check_standings(&disk, 1..=20, attempts);
            disk = disk.after_crash(Survival::Everything);
            journal = opened(&disk);
        }
    }
}

/// A start finds these messages, all of their recipients tried so often.
fn check_standings(disk: &MemoryDisk, sequences: std::ops::RangeInclusive<u64>, attempts: u16) {
    let (_, recovered) = open(disk.after_crash(Survival::Nothing), 2, options()).unwrap();
    let mut found: Vec<u64> = recovered.messages.iter().map(|of| of.envelope.id().sequence).collect();
    found.sort_unstable();
    assert_eq!(found, sequences.collect::<Vec<_>>());
    for message in recovered.messages {
        assert!(message.open.iter().all(|open| open.standing.attempts == attempts), "{message:?}");
    }
}

/// A disk that the spool itself has filled has room again as its mail leaves; nothing was removed while it was full.
#[test]
fn segments_go_while_the_disk_is_full() {
    let disk = MemoryDisk::new();
    let mut journal = opened(&disk);
    let mut out = Vec::new();
    for sequence in 1..=30 {
        store(&mut journal, sequence, 1);
    }
    disk.set_free(0);
    let refused = store(&mut journal, 31, 1);
    assert!(!refused.iter().any(|of| matches!(of, SpoolCompletion::Stored { .. })), "{refused:?}");
    assert!(journal.is_failing());
    for sequence in 1..=28 {
        done(&mut journal, sequence);
    }
    let before = disk.octets();
    assert_eq!(maintain(&mut journal, &mut out), 0, "nothing is moved");
    let freed = before - disk.octets();
    assert!(freed > 3 * SEGMENT, "{freed} octets");
    disk.set_free(freed);
    journal.commit(true, &mut out);
    assert!(!journal.is_failing(), "{out:?}");
    let (_, recovered) = open(disk.after_crash(Survival::Nothing), 2, options()).unwrap();
    let open: Vec<u64> = recovered.messages.iter().map(|of| of.envelope.id().sequence).collect();
    assert_eq!(open, [29, 30]);
}
