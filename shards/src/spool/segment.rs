//! Names and headers of segment files, and what is in one: found in its index or by reading all of it.

use super::record::{
    BadRecord, HEADER_BYTES, Header, Kind, Mark, TRAILER_BYTES, decode_head, le32, le64, trailer_matches,
};
use super::report::DropReason;
use memchr::memmem::Finder;

/// Octets before the first record of a segment.
pub const SEGMENT_HEADER_BYTES: usize = 32;

const SEGMENT_MAGIC: [u8; 7] = *b"MRSPOOL";
const INDEX_MAGIC: [u8; 7] = *b"MRINDEX";
const VERSION: u8 = 1;
const INDEX_HEADER_BYTES: usize = 24;
const INDEX_TRAILER_BYTES: usize = 12;

/// Name of a segment's file.
#[must_use]
pub fn segment_name(segment: u32) -> String {
    format!("segment-{segment:08}.log")
}

/// Name of a segment's index file.
#[must_use]
pub fn index_name(segment: u32) -> String {
    format!("segment-{segment:08}.idx")
}

/// Name under which an index is written until it is complete.
#[must_use]
pub fn index_temporary_name(segment: u32) -> String {
    format!("segment-{segment:08}.idx.tmp")
}

/// Name that a finished segment with damage in it is kept under, for the operator.
#[must_use]
pub fn damaged_name(segment: u32) -> String {
    format!("segment-{segment:08}.damaged")
}

/// Number and ending of a file that has one of the names above.
#[must_use]
pub fn parse_name(name: &str) -> Option<(u32, &str)> {
    let (number, ending) = name.strip_prefix("segment-")?.split_once('.')?;
    let known = ["log", "idx", "idx.tmp", "damaged"].contains(&ending);
    (known && number.len() >= 8 && number.bytes().all(|b| b.is_ascii_digit()))
        .then(|| number.parse().ok().map(|number| (number, ending)))?
}

/// The header of a segment file.
#[must_use]
pub fn segment_header(spool: u16, segment: u32, mark: Mark) -> [u8; SEGMENT_HEADER_BYTES] {
    let mut octets = [0; SEGMENT_HEADER_BYTES];
    octets[..7].copy_from_slice(&SEGMENT_MAGIC);
    octets[7] = VERSION;
    octets[8..10].copy_from_slice(&spool.to_le_bytes());
    octets[12..16].copy_from_slice(&segment.to_le_bytes());
    octets[16..24].copy_from_slice(&mark.0.to_le_bytes());
    let checksum = crc32fast::hash(&octets[..24]);
    octets[24..28].copy_from_slice(&checksum.to_le_bytes());
    octets
}

/// The header of an index file; entries follow it.
#[must_use]
pub fn index_header(segment: u32, mark: Mark) -> [u8; INDEX_HEADER_BYTES] {
    let mut octets = [0; INDEX_HEADER_BYTES];
    octets[..7].copy_from_slice(&INDEX_MAGIC);
    octets[7] = VERSION;
    octets[8..12].copy_from_slice(&segment.to_le_bytes());
    octets[16..].copy_from_slice(&mark.0.to_le_bytes());
    octets
}

/// Appends the index entry of the record at `offset`; `head` is its header and meta part.
pub fn put_index_entry(out: &mut Vec<u8>, offset: u32, head: &[u8]) {
    out.extend_from_slice(&offset.to_le_bytes());
    out.extend_from_slice(head);
}

/// What ends an index file: where the segment ends, and a checksum over all of the index. `before` has been
/// fed everything that stands before it.
#[must_use]
pub fn index_trailer(end: u64, mut before: crc32fast::Hasher) -> [u8; INDEX_TRAILER_BYTES] {
    let mut octets = [0; INDEX_TRAILER_BYTES];
    octets[..8].copy_from_slice(&end.to_le_bytes());
    before.update(&octets[..8]);
    octets[8..].copy_from_slice(&before.finalize().to_le_bytes());
    octets
}

/// One record of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where it begins.
    pub offset: u32,
    /// Its header.
    pub header: Header,
    meta_at: u32,
}

/// All records of a segment without their bodies.
#[derive(Debug)]
pub struct Contents {
    /// Random number of the segment.
    pub mark: Mark,
    /// Octet behind the last record.
    pub end: u64,
    /// Records in their order.
    pub entries: Vec<Entry>,
    metas: Vec<u8>,
}

impl Contents {
    /// The meta part of a record of this segment.
    #[must_use]
    pub fn meta(&self, entry: &Entry) -> &[u8] {
        &self.metas[entry.meta_at as usize..][..entry.header.meta as usize]
    }

    /// The records as an index file, for a segment that was read without one.
    #[must_use]
    pub fn index(&self, segment: u32, octets: &[u8]) -> Vec<u8> {
        let mut out = index_header(segment, self.mark).to_vec();
        for entry in &self.entries {
            let head = &octets[entry.offset as usize..][..entry.header.head_bytes()];
            put_index_entry(&mut out, entry.offset, head);
        }
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&out);
        let trailer = index_trailer(self.end, hasher);
        out.extend_from_slice(&trailer);
        out
    }
}

/// Contents from the octets of an index file; `None` when it is not a complete and valid index of `segment`.
///
/// # Errors
/// [`BadRecord::NewerVersion`] is the only one.
pub fn read_index(segment: u32, octets: Vec<u8>) -> Result<Option<Contents>, BadRecord> {
    let length = octets.len();
    if length < INDEX_HEADER_BYTES + INDEX_TRAILER_BYTES || octets[..7] != INDEX_MAGIC {
        return Ok(None);
    }
    if octets[7] != VERSION || le32(&octets[8..]) != segment {
        return Ok(None);
    }
    if crc32fast::hash(&octets[..length - 4]) != le32(&octets[length - 4..]) {
        return Ok(None);
    }
    let mark = Mark(le64(&octets[16..]));
    let end = le64(&octets[length - INDEX_TRAILER_BYTES..]);
    let entries_end = length - INDEX_TRAILER_BYTES;
    let mut entries = Vec::new();
    let mut at = INDEX_HEADER_BYTES;
    while at < entries_end {
        let Some((offset, record)) = octets[at..entries_end].split_at_checked(4) else { return Ok(None) };
        let offset = le32(offset);
        let header = match decode_head(record, mark) {
            Ok(header) => header,
            Err(BadRecord::Invalid) => return Ok(None),
            Err(newer) => return Err(newer),
        };
        if u64::from(offset) + header.record_bytes() as u64 > end {
            return Ok(None);
        }
        let Ok(meta_at) = u32::try_from(at + 4 + HEADER_BYTES) else { return Ok(None) };
        entries.push(Entry { offset, header, meta_at });
        at += 4 + header.head_bytes();
    }
    Ok(Some(Contents { mark, end, entries, metas: octets }))
}

/// What reading a whole segment gave.
#[derive(Debug)]
pub struct Scan {
    /// The records that are valid, bodies verified.
    pub contents: Contents,
    /// Octets between and behind them: where, how many, why.
    pub dropped: Vec<(u64, u64, DropReason)>,
}

/// Reads a whole segment file, verifying everything. `None` when not even the segment's mark can be found.
///
/// # Errors
/// The offset of something that a newer version wrote.
pub fn scan(octets: &[u8]) -> Result<Option<Scan>, u64> {
    let mut dropped = Vec::new();
    let Some(mark) = find_mark(octets, &mut dropped)? else { return Ok(None) };
    let finder_key = mark.0.to_le_bytes();
    let finder = Finder::new(&finder_key);
    let mut contents = Contents { mark, end: SEGMENT_HEADER_BYTES as u64, entries: Vec::new(), metas: Vec::new() };
    let mut at = SEGMENT_HEADER_BYTES.min(octets.len());
    while at < octets.len() {
        match record_at(octets, at, mark)? {
            Some(header) => {
                let next = at + header.record_bytes();
                if body_is_whole(&octets[at..next], &header) {
                    let meta_at = contents.metas.len();
                    contents.metas.extend_from_slice(&octets[at + HEADER_BYTES..at + header.head_bytes()]);
                    // A segment begins no record beyond its limit, which is far below 4 GiB.
                    let small = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
                    contents.entries.push(Entry { offset: small(at), header, meta_at: small(meta_at) });
                } else {
                    dropped.push((at as u64, header.record_bytes() as u64, DropReason::BadBody(header.id)));
                }
                at = next;
                contents.end = next as u64;
            }
            None => {
                let Some(next) = next_record(octets, at + 1, mark, &finder)? else { break };
                dropped.push((at as u64, (next - at) as u64, DropReason::NoRecord));
                at = next;
            }
        }
    }
    let tail = &octets[at.min(octets.len())..];
    if let Some(last) = tail.iter().rposition(|octet| *octet != 0) {
        dropped.push((at as u64, last as u64 + 1, DropReason::TornTail));
    }
    Ok(Some(Scan { contents, dropped }))
}

/// The mark in the header with which `octets` begin.
///
/// # Errors
/// See [`BadRecord`].
pub fn header_mark(octets: &[u8]) -> Result<Mark, BadRecord> {
    let Some(header) = octets.get(..SEGMENT_HEADER_BYTES) else { return Err(BadRecord::Invalid) };
    if header[..7] != SEGMENT_MAGIC || crc32fast::hash(&header[..24]) != le32(&header[24..]) {
        return Err(BadRecord::Invalid);
    }
    match header[7] {
        VERSION => Ok(Mark(le64(&header[16..]))),
        _ => Err(BadRecord::NewerVersion),
    }
}

/// The segment's mark from its header, or else from its first record, which repeats it.
fn find_mark(octets: &[u8], dropped: &mut Vec<(u64, u64, DropReason)>) -> Result<Option<Mark>, u64> {
    match header_mark(octets) {
        Err(BadRecord::NewerVersion) => return Err(0),
        Err(BadRecord::Invalid) => {}
        Ok(mark) => return Ok(Some(mark)),
    }
    let Some(candidate) = octets.get(SEGMENT_HEADER_BYTES..SEGMENT_HEADER_BYTES + 8).map(|m| Mark(le64(m))) else {
        return Ok(None);
    };
    let found = record_at(octets, SEGMENT_HEADER_BYTES, candidate)?.map(|_| candidate);
    if found.is_some() {
        dropped.push((0, SEGMENT_HEADER_BYTES as u64, DropReason::BadSegment));
    }
    Ok(found)
}

/// The header of the record that begins at `at` and is there to its end.
fn record_at(octets: &[u8], at: usize, mark: Mark) -> Result<Option<Header>, u64> {
    match decode_head(&octets[at..], mark) {
        Ok(header) if at + header.record_bytes() <= octets.len() => Ok(Some(header)),
        Ok(_) | Err(BadRecord::Invalid) => Ok(None),
        Err(BadRecord::NewerVersion) => Err(at as u64),
    }
}

/// Where the next record at or behind `from` begins.
fn next_record(octets: &[u8], from: usize, mark: Mark, finder: &Finder<'_>) -> Result<Option<usize>, u64> {
    for found in finder.find_iter(octets.get(from..).unwrap_or_default()) {
        if record_at(octets, from + found, mark)?.is_some() {
            return Ok(Some(from + found));
        }
    }
    Ok(None)
}

/// Whether a message's body is what its trailer says; true of other records.
fn body_is_whole(record: &[u8], header: &Header) -> bool {
    if header.kind != Kind::Message {
        return true;
    }
    let (body, trailer) = record[header.head_bytes()..].split_at(header.body as usize);
    debug_assert_eq!(trailer.len(), TRAILER_BYTES);
    trailer_matches(trailer, header.id, body)
}
