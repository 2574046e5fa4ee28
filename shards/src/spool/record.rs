//! One record as octets: header, meta, and for a message its body and a trailer.
//!
//! ```text
//! header (40)  mark 8 | version 1 | kind 1 | zero 2 | meta length 4 | body length 4 | id 16 | checksum 4
//! meta         envelope (message), or what the kind says
//! body         only of a message
//! trailer (20) id 16 | checksum over body and id 4; only of a message
//! ```
//! The mark is a random number of the segment, so that neither stale octets nor a mail that contains a record
//! can pass for one. The header's checksum covers header and meta. The trailer lets a reader verify a body
//! by its location alone. Integers are little-endian.

use super::report::{Point, Standing};
use crate::limits::{SPOOL_ENVELOPE_BYTES_MAX, SPOOL_RECORD_BYTES_MAX};
use crate::message::MessageId;
use crate::time::Timestamp;
use smallvec::SmallVec;

/// Octets of a header.
pub const HEADER_BYTES: usize = 40;

/// Octets of a message's trailer.
pub const TRAILER_BYTES: usize = 20;

const VERSION: u8 = 1;
const CHECKSUM_AT: usize = 36;

/// Random number of a segment, with which each of its records begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark(pub u64);

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A message: envelope and body.
    Message,
    /// Recipients were tried.
    Attempt,
    /// Recipients are finished.
    Done,
    /// An earlier segment is valid only up to an offset.
    Cut,
    /// The receptions of all messages before a point are in the outcome log.
    Recorded,
}

impl Kind {
    fn code(self) -> u8 {
        match self {
            Self::Message => 1,
            Self::Attempt => 2,
            Self::Done => 3,
            Self::Cut => 4,
            Self::Recorded => 5,
        }
    }

    fn from_code(code: u8) -> Option<Self> {
        let all = [Self::Message, Self::Attempt, Self::Done, Self::Cut, Self::Recorded];
        all.into_iter().find(|kind| kind.code() == code)
    }
}

/// A valid header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What follows.
    pub kind: Kind,
    /// Octets of the meta part.
    pub meta: u32,
    /// Octets of the body, zero unless it is a message.
    pub body: u32,
    /// The message; zero in a `Cut` and a `Recorded`.
    pub id: MessageId,
}

impl Header {
    /// Octets of the whole record.
    #[must_use]
    pub fn record_bytes(&self) -> usize {
        let trailer = if self.kind == Kind::Message { TRAILER_BYTES } else { 0 };
        HEADER_BYTES + self.meta as usize + self.body as usize + trailer
    }

    /// Octets before the body.
    #[must_use]
    pub fn head_bytes(&self) -> usize {
        HEADER_BYTES + self.meta as usize
    }
}

/// Why octets are not a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadRecord {
    /// Not a header with its meta part, or not all of it is there.
    Invalid,
    /// A valid header of a version that this program does not know.
    NewerVersion,
}

/// The octets that an id takes in headers and trailers.
#[must_use]
pub fn id_octets(id: MessageId) -> [u8; 16] {
    let mut octets = [0; 16];
    octets[..4].copy_from_slice(&id.generation.to_le_bytes());
    octets[4..6].copy_from_slice(&id.core.to_le_bytes());
    octets[8..].copy_from_slice(&id.sequence.to_le_bytes());
    octets
}

fn id_from(octets: &[u8]) -> MessageId {
    MessageId {
        generation: le32(octets),
        core: u16::from_le_bytes([octets[4], octets[5]]),
        sequence: le64(&octets[8..]),
    }
}

/// Starts a record at the end of `out`; `end_head` completes it once the meta part is appended.
pub fn begin_head(out: &mut Vec<u8>) -> usize {
    let start = out.len();
    out.resize(start + HEADER_BYTES, 0);
    start
}

/// Fills in the header that began at `start`; everything behind it in `out` is its meta part.
pub fn end_head(out: &mut [u8], start: usize, mark: Mark, kind: Kind, id: MessageId, body: u32) {
    let meta = out.len() - start - HEADER_BYTES;
    let meta = u32::try_from(meta).expect("a meta part is bounded by SPOOL_ENVELOPE_BYTES_MAX");
    let head = &mut out[start..];
    head[..8].copy_from_slice(&mark.0.to_le_bytes());
    head[8] = VERSION;
    head[9] = kind.code();
    head[12..16].copy_from_slice(&meta.to_le_bytes());
    head[16..20].copy_from_slice(&body.to_le_bytes());
    head[20..CHECKSUM_AT].copy_from_slice(&id_octets(id));
    let checksum = head_checksum(head);
    head[CHECKSUM_AT..HEADER_BYTES].copy_from_slice(&checksum.to_le_bytes());
}

/// Appends a trailer for `body` of message `id`.
pub fn put_trailer(out: &mut Vec<u8>, id: MessageId, body: &[u8]) {
    let octets = id_octets(id);
    out.extend_from_slice(&octets);
    out.extend_from_slice(&body_checksum(body, &octets).to_le_bytes());
}

/// Whether `trailer` belongs to `body` of message `id`.
#[must_use]
pub fn trailer_matches(trailer: &[u8], id: MessageId, body: &[u8]) -> bool {
    let octets = id_octets(id);
    trailer.len() == TRAILER_BYTES && trailer[..16] == octets && le32(&trailer[16..]) == body_checksum(body, &octets)
}

/// The header at the start of `octets`, verified with its meta part, which must be there too; a body need not.
///
/// # Errors
/// See [`BadRecord`].
pub fn decode_head(octets: &[u8], mark: Mark) -> Result<Header, BadRecord> {
    let invalid = Err(BadRecord::Invalid);
    if octets.len() < HEADER_BYTES || le64(octets) != mark.0 {
        return invalid;
    }
    let (meta, body) = (le32(&octets[12..]), le32(&octets[16..]));
    if meta as usize > SPOOL_ENVELOPE_BYTES_MAX || body as usize > SPOOL_RECORD_BYTES_MAX {
        return invalid;
    }
    let Some(head) = octets.get(..HEADER_BYTES + meta as usize) else { return invalid };
    if head_checksum(head) != le32(&octets[CHECKSUM_AT..]) {
        return invalid;
    }
    let kind = match (octets[8], Kind::from_code(octets[9])) {
        (VERSION, Some(kind)) => kind,
        _ => return Err(BadRecord::NewerVersion),
    };
    if kind != Kind::Message && body != 0 {
        return invalid;
    }
    Ok(Header { kind, meta, body, id: id_from(&octets[20..CHECKSUM_AT]) })
}

/// Meta part of an attempt- or done-record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgressMeta {
    /// Segment that held the message's record when this was written.
    pub segment: u32,
    /// Of an attempt: how far the recipients have come. All zero of a done-record.
    pub standing: Standing,
    /// Indexes into the envelope.
    pub recipients: SmallVec<[u16; 4]>,
}

/// Appends the meta part of an attempt- or done-record.
pub fn put_progress(out: &mut Vec<u8>, kind: Kind, segment: u32, standing: Standing, recipients: &[u16]) {
    out.extend_from_slice(&segment.to_le_bytes());
    if kind == Kind::Attempt {
        out.extend_from_slice(&standing.due.0.to_le_bytes());
        out.extend_from_slice(&standing.attempts.to_le_bytes());
        out.push(u8::from(standing.maybe_delivered));
    }
    recipients.iter().for_each(|index| out.extend_from_slice(&index.to_le_bytes()));
}

/// The meta part that [`put_progress`] wrote; `None` when it is not one.
#[must_use]
pub fn progress_meta(kind: Kind, meta: &[u8]) -> Option<ProgressMeta> {
    let (segment, mut rest) = meta.split_at_checked(4)?;
    let mut standing = Standing::default();
    if kind == Kind::Attempt {
        let (fixed, tail) = rest.split_at_checked(11)?;
        standing.due = Timestamp(i64::from_le_bytes(fixed[..8].try_into().ok()?));
        standing.attempts = u16::from_le_bytes([fixed[8], fixed[9]]);
        standing.maybe_delivered = fixed[10] != 0;
        rest = tail;
    }
    let pairs = rest.chunks_exact(2);
    if !pairs.remainder().is_empty() {
        return None;
    }
    let recipients = pairs.map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
    Some(ProgressMeta { segment: le32(segment), standing, recipients })
}

/// Appends the meta part of a cut- or recorded-record: a segment is valid only up to there; all before is recorded.
pub fn put_point(out: &mut Vec<u8>, point: Point) {
    out.extend_from_slice(&point.segment.to_le_bytes());
    out.extend_from_slice(&point.offset.to_le_bytes());
}

/// The meta part that [`put_point`] wrote; `None` when it is not one.
#[must_use]
pub fn point_meta(meta: &[u8]) -> Option<Point> {
    (meta.len() == 12).then(|| Point { segment: le32(meta), offset: le64(&meta[4..]) })
}

/// The header's checksum over all of `head` (header and meta) but the checksum itself.
fn head_checksum(head: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&head[..CHECKSUM_AT]);
    hasher.update(&head[HEADER_BYTES..]);
    hasher.finalize()
}

fn body_checksum(body: &[u8], id: &[u8; 16]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(body);
    hasher.update(id);
    hasher.finalize()
}

/// The first four octets as a number. Callers have checked the length.
pub(super) fn le32(octets: &[u8]) -> u32 {
    u32::from_le_bytes([octets[0], octets[1], octets[2], octets[3]])
}

/// The first eight octets as a number. Callers have checked the length.
pub(super) fn le64(octets: &[u8]) -> u64 {
    u64::from(le32(octets)) | u64::from(le32(&octets[4..])) << 32
}

#[cfg(test)]
mod tests {
    use super::{BadRecord, HEADER_BYTES, Kind, Mark, begin_head, decode_head, end_head, progress_meta, put_progress};
    use crate::limits::{SPOOL_ENVELOPE_BYTES_MAX, SPOOL_RECORD_BYTES_MAX};
    use crate::message::MessageId;
    use crate::spool::report::Standing;
    use crate::time::Timestamp;

    const MARK: Mark = Mark(0x0102_0304_0506_0708);
    const ID: MessageId = MessageId { generation: 0x1122_3344, core: 0x5566, sequence: 0x7788_99aa_bbcc };

    fn head(kind: Kind, meta: usize, body: usize) -> Vec<u8> {
        let mut octets = Vec::new();
        let start = begin_head(&mut octets);
        octets.resize(HEADER_BYTES + meta, 9);
        end_head(&mut octets, start, MARK, kind, ID, u32::try_from(body).expect("below 4 GiB"));
        octets
    }

    /// Lengths that no writer makes are not followed, whatever the checksum says.
    #[test]
    fn a_header_is_believed_up_to_the_bounds_of_its_lengths() {
        let decoded = |meta, body| decode_head(&head(Kind::Message, meta, body), MARK).map(|of| (of.meta, of.body));
        let most = SPOOL_RECORD_BYTES_MAX;
        assert_eq!(decoded(0, most), Ok((0, u32::try_from(most).expect("below 4 GiB"))));
        assert_eq!(decoded(0, most + 1), Err(BadRecord::Invalid));
        let most = SPOOL_ENVELOPE_BYTES_MAX;
        assert_eq!(decoded(most, 0), Ok((u32::try_from(most).expect("below 4 GiB"), 0)));
        assert_eq!(decoded(most + 1, 0), Err(BadRecord::Invalid));
    }

    #[test]
    fn a_header_is_one_with_its_mark_its_checksum_and_all_of_its_meta() {
        for kind in [Kind::Message, Kind::Attempt, Kind::Done, Kind::Cut, Kind::Recorded] {
            for meta in [0, 1, 30] {
                let whole = head(kind, meta, 0);
                let found = decode_head(&whole, MARK).expect("it is whole");
                assert_eq!((found.kind, found.meta as usize, found.body, found.id), (kind, meta, 0, ID));
                assert_eq!(found.head_bytes(), whole.len());
                let trailer = if kind == Kind::Message { 20 } else { 0 };
                assert_eq!(found.record_bytes(), whole.len() + trailer);
                assert_eq!(decode_head(&whole[..whole.len() - 1], MARK), Err(BadRecord::Invalid));
                assert_eq!(decode_head(&whole, Mark(MARK.0 + 1)), Err(BadRecord::Invalid));
                for at in (0..whole.len()).filter(|at| !(8..10).contains(at)) {
                    let mut damaged = whole.clone();
                    damaged[at] ^= 4;
                    assert_eq!(decode_head(&damaged, MARK), Err(BadRecord::Invalid), "octet {at}");
                }
            }
            let body = decode_head(&head(kind, 0, 5), MARK).map(|of| of.body);
            assert_eq!(body, if kind == Kind::Message { Ok(5) } else { Err(BadRecord::Invalid) }, "{kind:?}");
        }
    }

    #[test]
    fn progress_is_read_as_it_was_written_and_nothing_else_is_progress() {
        let standing = Standing { attempts: 258, due: Timestamp(-3), maybe_delivered: true };
        for (kind, standing, fixed) in [(Kind::Attempt, standing, 15), (Kind::Done, Standing::default(), 4)] {
            for count in 0..4_u16 {
                let recipients: Vec<u16> = (1000..1000 + count).collect();
                let mut meta = Vec::new();
                put_progress(&mut meta, kind, 77, standing, &recipients);
                assert_eq!(meta.len(), fixed + 2 * recipients.len());
                let found = progress_meta(kind, &meta).expect("it is one");
                assert_eq!((found.segment, found.standing, &found.recipients[..]), (77, standing, &recipients[..]));
                meta.push(0);
                assert_eq!(progress_meta(kind, &meta), None, "half a recipient");
            }
            for length in 0..fixed {
                assert_eq!(progress_meta(kind, &vec![0; length]), None, "{length} octets");
            }
        }
    }
}
