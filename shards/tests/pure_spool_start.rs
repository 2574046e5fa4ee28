//! What a start of the spool finds: remains of indexes, indexes that are none, damaged headers, and messages in parts.

#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

use bytes::Bytes;
use mailrace_shards::message::{ContentFlags, Envelope, MessageId};
use mailrace_shards::spool::journal::{Journal, JournalOptions};
use mailrace_shards::spool::memory_disk::MemoryDisk;
use mailrace_shards::spool::recover::{begin, open};
use mailrace_shards::spool::report::{DropReason, Dropped, Progress, SpoolError};
use mailrace_shards::spool::search::search;
use mailrace_shards::spool::segment::{index_name, index_temporary_name, read_index, segment_name};
use mailrace_shards::time::Timestamp;
use smallvec::smallvec;
use std::sync::Arc;

fn options() -> JournalOptions {
    JournalOptions { segment_bytes: 1 << 20, ..JournalOptions::new(true, 42) }
}

/// A spool on this disk with messages of these bodies, numbered from one.
fn holding(disk: &MemoryDisk, bodies: &[Bytes]) -> Journal<MemoryDisk> {
    let (mut journal, _) = open(disk.clone(), 2, options()).expect("the disk works");
    for (sequence, body) in (1..).zip(bodies) {
        let envelope = Envelope::new(id(sequence), Timestamp(1), 9, ContentFlags::default(), "s@a", &["r@b"], None);
        let mut out = Vec::new();
        journal.store(sequence, Arc::new(envelope), body.clone(), &mut out);
        journal.commit(false, &mut out);
    }
    journal
}

fn id(sequence: u64) -> MessageId {
    MessageId { generation: 1, core: 2, sequence }
}

/// What a start finds that is no segment's any more is removed: an index that was not finished, or one without its segment.
#[test]
fn remains_of_indexes_are_removed() {
    let disk = MemoryDisk::new();
    holding(&disk, &[Bytes::from_static(b"one")]).close(&mut Vec::new());
    disk.put(&index_temporary_name(1), b"half of an index");
    disk.put(&index_temporary_name(7), b"half of an index");
    disk.put(&index_name(9), b"an index");
    let (_, recovered) = open(disk.clone(), 2, options()).unwrap();
    assert_eq!(recovered.messages.len(), 1);
    let is_there = |name: &str| disk.content(name).is_some();
    assert!(is_there(&segment_name(1)) && is_there(&index_name(1)));
    assert!(![index_temporary_name(1), index_temporary_name(7), index_name(9)].iter().any(|name| is_there(name)));
    assert!(is_there(&segment_name(10)), "the numbers of the remains are not used again");
}

/// Open messages are read again in parts; it is known how many are left.
#[test]
fn found_messages_are_given_in_parts_and_counted() {
    let disk = MemoryDisk::new();
    let mut journal = holding(&disk, &vec![Bytes::from(vec![b'x'; 250_000]); 10]);
    journal.progress(Progress::Done { id: id(3), recipients: smallvec![0] });
    journal.close(&mut Vec::new());
    let (_, older) = begin(disk.clone(), 2, options()).expect("the disk works");
    assert!(older.segments() >= 3);
    let mut read = Vec::new();
    let note = |segments| {
        read.push(segments);
        true
    };
    let mut found = search(&disk, &older, note).unwrap().unwrap().messages;
    assert_eq!(read, (0..older.segments()).collect::<Vec<usize>>());
    let (mut left, mut ids) = (vec![found.left()], Vec::new());
    for most in [2, 1, 4, 100, 100] {
        let some = found.next(&disk, most).unwrap();
        ids.extend(some.iter().map(|message| message.envelope.id().sequence));
        left.push(found.left());
    }
    assert_eq!((left, ids), (vec![9, 7, 6, 2, 0, 0], vec![1, 2, 4, 5, 6, 7, 8, 9, 10]));
    assert!(search(&disk, &older, |_| false).unwrap().is_none(), "ended by whoever asked");
}

/// An index with a record of a newer version is no damage: that version's mail must not be passed over.
#[test]
fn an_index_of_a_newer_version_is_refused() {
    let disk = MemoryDisk::new();
    holding(&disk, &[Bytes::from_static(b"one")]).close(&mut Vec::new());
    let mut index = disk.content(&index_name(1)).unwrap();
    // Behind the header and the record's offset: the version of the record's header, with its checksum and the index's.
    let head = 24 + 4;
    index[head + 8] = 2;
    let meta = u32::from_le_bytes(index[head + 12..head + 16].try_into().unwrap()) as usize;
    let covered = [&index[head..head + 36], &index[head + 40..head + 40 + meta]].concat();
    index[head + 36..head + 40].copy_from_slice(&crc32fast::hash(&covered).to_le_bytes());
    let end = index.len() - 4;
    let checksum = crc32fast::hash(&index[..end]);
    index[end..].copy_from_slice(&checksum.to_le_bytes());
    disk.put(&index_name(1), &index);
    let Err(SpoolError::NewerVersion { file, .. }) = open(disk, 2, options()) else { panic!("it was opened") };
    assert_eq!(file, index_name(1));
}

/// Octets that have an index's beginning and checksum, and are too short to be one or hold half of an entry.
#[test]
fn an_index_with_half_of_an_entry_is_none() {
    for length in 0..70 {
        let mut index = b"MRINDEX\x01\x01\0\0\0".to_vec();
        index.resize(12 + length, 0);
        index.extend_from_slice(&crc32fast::hash(&index).to_le_bytes());
        let found = read_index(1, index).unwrap();
        // Mark, end and checksum, and nothing between.
        assert_eq!(found.is_some(), length == 20, "{length} octets more");
    }
}

/// A segment whose header is damaged is known by its first record, be there no other.
#[test]
fn the_mark_of_a_segment_with_a_damaged_header_is_that_of_its_first_record() {
    let disk = MemoryDisk::new();
    let _journal = holding(&disk, &[Bytes::new()]);
    let whole = disk.content(&segment_name(1)).unwrap();
    let end = whole.iter().rposition(|octet| *octet != 0).unwrap() + 1;
    assert!(end < 200, "a short segment: {end}");
    let mut damaged = whole[..end].to_vec();
    damaged[20] ^= 1;
    let disk = MemoryDisk::new();
    disk.put(&segment_name(1), &damaged);
    let (_, recovered) = open(disk, 2, options()).unwrap();
    assert_eq!((recovered.messages.len(), recovered.dropped.len()), (1, 1));
    assert_eq!(recovered.dropped[0].why, DropReason::BadSegment);
}

#[test]
fn what_was_dropped_is_said_in_words() {
    let words = [
        (DropReason::TornTail, "the end of a write that a crash cut short"),
        (DropReason::NoRecord, "damaged, no record to be read"),
        (DropReason::BadBody(id(5)), "the body of message 000000010002000000000005 is damaged"),
        (DropReason::BadSegment, "the segment's header is damaged"),
    ];
    for (why, text) in words {
        let dropped = Dropped { file: "segment-00000003.log".into(), offset: 7, octets: 9, why };
        assert_eq!(dropped.to_string(), format!("segment-00000003.log: 9 octets at 7: {text}"));
    }
}
