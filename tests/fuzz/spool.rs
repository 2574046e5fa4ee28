//! Spool directories with any content. An input is an archive: of each file its kind (see [`NAMES`]), its number, its
//! length (two octets, little-endian) and its content. It is tried as it stands, and with the checksums of segments,
//! records' heads and indexes made right, so that what they guard is tried too.

use mailrace_shards::message::{Body, ContentFlags, Envelope, MessageId};
use mailrace_shards::spool::journal::{Journal, JournalOptions};
use mailrace_shards::spool::memory_disk::MemoryDisk;
use mailrace_shards::spool::record::{HEADER_BYTES, TRAILER_BYTES, trailer_matches};
use mailrace_shards::spool::recover::open;
use mailrace_shards::spool::report::{OpenRecipient, Progress, Recovered, SpoolCompletion, SpoolError};
use mailrace_shards::spool::segment::{SEGMENT_HEADER_BYTES, parse_name, segment_name};
use mailrace_shards::time::Timestamp;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Endings of files, by their kind in an archive.
const NAMES: [&str; 5] = ["log", "idx", "idx.tmp", "damaged", "bak"];

/// The spool's number.
const SPOOL: u16 = 2;

/// Kinds of records, versions, lengths.
pub const WORDS: &[&[u8]] = &[
    b"\x00\x01\x20\x00",
    b"\x01\x01\x20\x00",
    b"\x00\x02\x40\x00",
    b"MRSPOOL\x01",
    b"MRINDEX\x01",
    b"\x01\x01\x00\x00",
    b"\x01\x02\x00\x00",
    b"\x01\x03\x00\x00",
    b"\x01\x04\x00\x00",
    b"\x02\x01\x00\x00",
    b"\x00\x00\x00\x00",
    b"\xff\xff\xff\xff",
    b"\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
];

/// Files by name.
type Archive = BTreeMap<String, Vec<u8>>;

/// One input.
pub fn check(input: &[u8]) {
    let archive = unpacked(input);
    recover(&archive);
    recover(&repaired(archive));
}

fn unpacked(mut input: &[u8]) -> Archive {
    let mut files = Archive::new();
    while let [kind, number, low, high, rest @ ..] = input {
        let length = usize::from(u16::from_le_bytes([*low, *high])).min(rest.len());
        let (content, rest) = rest.split_at(length);
        let name = format!("segment-{:08}.{}", number, NAMES[usize::from(*kind) % NAMES.len()]);
        files.insert(name, content.to_vec());
        input = rest;
    }
    files
}

/// The archive with right checksums, but for those of bodies.
fn repaired(mut archive: Archive) -> Archive {
    let put = |at: &mut [u8], checksum: u32| at.copy_from_slice(&checksum.to_le_bytes());
    for (name, content) in &mut archive {
        let length = content.len();
        if name.ends_with(".idx") && length > 4 {
            let checksum = crc32fast::hash(&content[..length - 4]);
            put(&mut content[length - 4..], checksum);
        }
        if length < SEGMENT_HEADER_BYTES || !name.ends_with(".log") {
            continue;
        }
        let checksum = crc32fast::hash(&content[..24]);
        put(&mut content[24..28], checksum);
        let mark = content[16..24].to_vec();
        for at in SEGMENT_HEADER_BYTES..length.saturating_sub(HEADER_BYTES) {
            let head = &mut content[at..];
            let meta = u32::from_le_bytes([head[12], head[13], head[14], head[15]]) as usize;
            if head.starts_with(&mark) && meta <= head.len() - HEADER_BYTES {
                let mut checksum = crc32fast::Hasher::new();
                checksum.update(&head[..36]);
                checksum.update(&head[HEADER_BYTES..HEADER_BYTES + meta]);
                put(&mut head[36..HEADER_BYTES], checksum.finalize());
            }
        }
    }
    archive
}

fn options() -> JournalOptions {
    JournalOptions { segment_bytes: 600, slack_bytes: 600, ..JournalOptions::new(true, 42) }
}

/// Opens it; `None` when it must be left to a newer program.
fn opened(disk: &MemoryDisk) -> Option<(Journal<MemoryDisk>, Recovered)> {
    match open(disk.clone(), SPOOL, options()) {
        Ok(opened) => Some(opened),
        Err(SpoolError::NewerVersion { .. }) => None,
        Err(error) => panic!("the disk does all that is asked, and yet: {error}"),
    }
}

fn recover(archive: &Archive) {
    let disk = MemoryDisk::new();
    for (name, content) in archive {
        disk.put(name, content);
    }
    let Some((journal, recovered)) = opened(&disk) else { return };
    let found = judged(&recovered, &disk, archive);
    drop(journal);

    let (mut journal, again) = opened(&disk).expect("what could be read can be read again");
    let found_again = judged(&again, &disk, archive);
    assert_eq!(found, found_again, "the second start finds what the first found");

    // It goes on: one message is finished, one comes, the rest stays.
    let mut expected = found;
    let finished = expected.pop_first();
    if let Some((id, (_, open))) = &finished {
        journal.progress(Progress::Done { id: *id, recipients: open.iter().map(|open| open.index).collect() });
    }
    let new = MessageId { generation: u32::MAX, core: 9, sequence: 9 };
    let mut out = Vec::new();
    journal.store(1, envelope(new, 1, 5), Body::from_static(b"new\r\n"), &mut out);
    journal.commit(true, &mut out);
    let stored = out.iter().any(|said| matches!(said, SpoolCompletion::Stored { ticket: 1, .. }));
    assert!(stored, "a message is taken: {out:?}");
    for _ in 0..20 {
        journal.idle(&mut out);
        journal.commit(true, &mut out);
    }
    let failing =
        out.iter().any(|said| matches!(said, SpoolCompletion::Failing { .. } | SpoolCompletion::Failed { .. }));
    assert!(!failing, "the disk does all that is asked: {out:?}");
    journal.close(&mut out);

    let (_, last) = opened(&disk).expect("what it has written itself can be read");
    let mut left = judged(&last, &disk, archive);
    assert!(left.remove(&new).is_some(), "what was stored is there");
    assert_eq!(
        expected.keys().collect::<Vec<_>>(),
        left.keys().collect::<Vec<_>>(),
        "the rest stays, {finished:?} goes"
    );
    for (id, (envelope, open)) in &expected {
        assert_eq!((envelope, open), (&left[id].0, &left[id].1), "{id}");
    }
}

/// What is open, by message.
type Found = BTreeMap<MessageId, (Arc<Envelope>, Vec<OpenRecipient>)>;

/// What was recovered is whole, and is there once.
fn judged(recovered: &Recovered, disk: &MemoryDisk, archive: &Archive) -> Found {
    let mut found = Found::new();
    for message in &recovered.messages {
        let (id, location) = (message.envelope.id(), message.location);
        assert!(!message.open.is_empty(), "a message without open recipients is over");
        assert!(message.open.is_sorted_by(|a, b| a.index < b.index), "each recipient once, in order");
        let last = message.open.last().map_or(0, |open| usize::from(open.index));
        assert!(last < message.envelope.recipient_count(), "a recipient that there is");
        assert_eq!(location.spool, SPOOL);
        let name = segment_name(location.segment);
        let content = disk.content(&name).expect("the segment is there");
        let start = usize::try_from(location.offset).unwrap();
        let end = start + location.length as usize;
        assert!(end + TRAILER_BYTES <= content.len(), "a body lies in its segment");
        // An index vouches for heads; whoever reads a body looks at its checksum then.
        let index = archive.contains_key(&name.replace(".log", ".idx"));
        let whole = trailer_matches(&content[end..end + TRAILER_BYTES], id, &content[start..end]);
        assert!(whole || index, "message {id} is given back, but its checksum is wrong");
        let open = message.open.to_vec();
        let before = found.insert(id, (message.envelope.clone(), open));
        assert!(before.is_none(), "message {id} is given back twice");
    }
    for dropped in &recovered.dropped {
        assert!(parse_name(&dropped.file).is_some() && dropped.octets > 0, "{dropped:?}");
    }
    found
}

fn envelope(id: MessageId, recipients: usize, size: u32) -> Arc<Envelope> {
    let names: Vec<String> = (0..recipients).map(|n| format!("r{n}@d.example")).collect();
    Arc::new(Envelope::new(id, Timestamp(5), size, ContentFlags::default(), "s@o.example", &names, None))
}
