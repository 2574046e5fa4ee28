//! What is to be written next: records waiting for the group that will carry them, and their octets.

use super::ledger::{Place, Snapshot};
use super::record::{
    HEADER_BYTES, Kind, Mark, TRAILER_BYTES, begin_head, end_head, id_octets, put_point, put_progress, put_trailer,
};
use super::report::{Point, Standing};
use crate::message::{Body, Envelope, MessageId};
use bytes::Bytes;
use smallvec::SmallVec;
use std::io::IoSlice;
use std::ops::Range;
use std::sync::Arc;

/// A record that is not a message. It can be written again when its segment was given up.
#[derive(Clone, Debug)]
pub(super) enum Small {
    Done { id: MessageId, segment: u32, recipients: SmallVec<[u16; 4]> },
    Attempt { id: MessageId, segment: u32, recipients: SmallVec<[u16; 4]>, standing: Standing },
    Cut(Point),
    Recorded(Point),
}

impl Small {
    /// Octets of its record.
    pub(super) fn record_bytes(&self) -> usize {
        HEADER_BYTES
            + match self {
                Self::Done { recipients, .. } => 4 + 2 * recipients.len(),
                Self::Attempt { recipients, .. } => 15 + 2 * recipients.len(),
                Self::Cut(_) | Self::Recorded(_) => 12,
            }
    }

    /// The segment whose messages would be misread without it; none when a newer one takes its place.
    pub(super) fn tells_of(&self) -> Option<u32> {
        match self {
            Self::Done { segment, .. } => Some(*segment),
            Self::Cut(point) => Some(point.segment),
            Self::Attempt { .. } | Self::Recorded(_) => None,
        }
    }

    /// The records that tell `snapshot` of message `id` in `segment`.
    pub(super) fn of_snapshot(id: MessageId, segment: u32, snapshot: &Snapshot) -> Vec<Self> {
        let mut records = Vec::new();
        if !snapshot.done.is_empty() {
            records.push(Self::Done { id, segment, recipients: snapshot.done.clone() });
        }
        // Recipients that were tried together stand together.
        let mut tried = snapshot.tried.clone();
        tried.sort_by_key(|(index, of)| (of.due, of.attempts, of.maybe_delivered, *index));
        for group in tried.chunk_by(|a, b| a.1 == b.1) {
            let recipients = group.iter().map(|(index, _)| *index).collect();
            records.push(Self::Attempt { id, segment, recipients, standing: group[0].1 });
        }
        records
    }
}

/// A record waiting to be written.
pub(super) enum Staged {
    /// A new message.
    Message { ticket: u64, envelope: Arc<Envelope>, body: Body },
    /// Progress, or a cut.
    Small(Small),
    /// Compaction moves an open message: its meta part, and its body with the trailer.
    Copy { id: MessageId, from: Place, meta: Box<[u8]>, rest: Bytes },
}

/// The octets of some records, in the order in which they go to the disk.
#[derive(Default)]
pub(super) struct Encoded {
    /// Headers, meta parts, trailers and small records of all of them.
    small: Vec<u8>,
    parts: Vec<Part>,
    /// Where each header with its meta part stands in `small`, and where the record begins in the segment.
    heads: Vec<(u32, Range<usize>)>,
    /// Octets so far.
    pub(super) octets: u64,
}

enum Part {
    Small(Range<usize>),
    Body(Bytes),
}

impl Encoded {
    /// Makes it empty again, keeping its memory.
    pub(super) fn clear(&mut self) {
        self.small.clear();
        self.parts.clear();
        self.heads.clear();
        self.octets = 0;
    }

    /// Encodes a message whose record begins at `offset`.
    pub(super) fn message(&mut self, mark: Mark, offset: u32, envelope: &Envelope, body: &Body) -> u32 {
        let start = begin_head(&mut self.small);
        super::envelope::encode(envelope, &mut self.small);
        let length = u32::try_from(body.len()).expect("a body is bounded by SPOOL_RECORD_BYTES_MAX");
        end_head(&mut self.small, start, mark, Kind::Message, envelope.id(), length);
        let head = self.head(offset, start);
        self.body(body.clone());
        let trailer = self.small.len();
        put_trailer(&mut self.small, envelope.id(), body);
        self.part(trailer);
        head
    }

    /// Encodes a moved message: everything but the header is as it was.
    pub(super) fn copy(&mut self, mark: Mark, offset: u32, id: MessageId, meta: &[u8], rest: &Bytes) -> u32 {
        let start = begin_head(&mut self.small);
        self.small.extend_from_slice(meta);
        let length = u32::try_from(rest.len() - TRAILER_BYTES).expect("it was a body");
        end_head(&mut self.small, start, mark, Kind::Message, id, length);
        let head = self.head(offset, start);
        self.body(rest.clone());
        head
    }

    /// Encodes a small record.
    pub(super) fn small(&mut self, mark: Mark, offset: u32, record: &Small) {
        let start = begin_head(&mut self.small);
        let out = &mut self.small;
        let (kind, id) = match record {
            Small::Done { id, segment, recipients } => {
                put_progress(out, Kind::Done, *segment, Standing::default(), recipients);
                (Kind::Done, *id)
            }
            Small::Attempt { id, segment, recipients, standing } => {
                put_progress(out, Kind::Attempt, *segment, *standing, recipients);
                (Kind::Attempt, *id)
            }
            Small::Cut(point) | Small::Recorded(point) => {
                put_point(out, *point);
                let cut = matches!(record, Small::Cut(_));
                (if cut { Kind::Cut } else { Kind::Recorded }, MessageId::default())
            }
        };
        end_head(out, start, mark, kind, id, 0);
        self.head(offset, start);
    }

    /// Each record's header and meta part, and where the record begins in the segment.
    pub(super) fn heads(&self) -> impl Iterator<Item = (u32, &[u8])> {
        self.heads.iter().map(|(offset, range)| (*offset, &self.small[range.clone()]))
    }

    /// Everything as the disk takes it.
    pub(super) fn slices(&self) -> Vec<IoSlice<'_>> {
        let mut slices = Vec::with_capacity(self.parts.len());
        for part in &self.parts {
            slices.push(match part {
                Part::Small(range) => IoSlice::new(&self.small[range.clone()]),
                Part::Body(body) => IoSlice::new(body),
            });
        }
        slices
    }

    /// Notes the header and meta part that began at `start`; returns its octets.
    fn head(&mut self, offset: u32, start: usize) -> u32 {
        self.heads.push((offset, start..self.small.len()));
        let octets = self.small.len() - start;
        self.part(start);
        u32::try_from(octets).expect("a meta part is bounded by SPOOL_ENVELOPE_BYTES_MAX")
    }

    /// Everything in `small` from `start` on comes next; joined to what stands directly before it.
    fn part(&mut self, start: usize) {
        self.octets += (self.small.len() - start) as u64;
        match self.parts.last_mut() {
            Some(Part::Small(range)) if range.end == start => range.end = self.small.len(),
            _ => self.parts.push(Part::Small(start..self.small.len())),
        }
    }

    fn body(&mut self, body: Bytes) {
        self.octets += body.len() as u64;
        if !body.is_empty() {
            self.parts.push(Part::Body(body));
        }
    }
}

/// Octets that a new message's record takes at most: its envelope is not encoded yet.
pub(super) fn message_bytes_bound(envelope: &Envelope, body: &Body) -> usize {
    let addresses: usize = (0..envelope.recipient_count()).map(|i| envelope.recipient(i).len() + 5).sum();
    let extras = envelope.extras().map_or(0, |extras| {
        let texts = [&extras.campaign, &extras.tenant, &extras.routing_domain, &extras.pool, &extras.smarthost];
        64 + texts.into_iter().flatten().map(|text| text.len() + 5).sum::<usize>()
            + extras.tags.iter().map(|tag| tag.len() + 5).sum::<usize>()
            + extras.ips.len() * 17
            + extras.retries.len() * 4
            + extras.meta.len()
    });
    HEADER_BYTES + 32 + envelope.sender().len() + addresses + extras + body.len() + TRAILER_BYTES
}

/// Whether `rest` (a body and its trailer) carries the id; the body is not verified.
pub(super) fn trailer_names(rest: &[u8], id: MessageId) -> bool {
    rest.len() >= TRAILER_BYTES && rest[rest.len() - TRAILER_BYTES..][..16] == id_octets(id)
}

#[cfg(test)]
mod tests {
    use super::{Encoded, Small, message_bytes_bound, trailer_names};
    use crate::message::{Body, ContentFlags, Envelope, Extras, MessageId};
    use crate::spool::record::{HEADER_BYTES, Mark, TRAILER_BYTES, put_trailer};
    use crate::spool::report::{Point, Standing};
    use crate::time::Timestamp;

    const MARK: Mark = Mark(7);
    const ID: MessageId = MessageId { generation: 1, core: 2, sequence: 3 };

    fn written(encoded: &mut Encoded) -> usize {
        encoded.slices().iter().map(|slice| slice.len()).sum()
    }

    #[test]
    fn the_octets_of_a_small_record_are_known_before_it_is_encoded() {
        let point = Point { segment: 4, offset: 5 };
        let mut records = vec![Small::Cut(point), Small::Recorded(point)];
        for count in 1..6 {
            let (id, segment, recipients) = (ID, 9, (0..count).collect());
            records.push(Small::Attempt { id, segment, recipients, standing: Standing::default() });
            records.push(Small::Done { id, segment, recipients: (0..count).collect() });
        }
        let mut encoded = Encoded::default();
        let mut sum = 0;
        for record in &records {
            encoded.small(MARK, 0, record);
            sum += record.record_bytes();
            assert_eq!((encoded.octets as usize, written(&mut encoded)), (sum, sum), "{record:?}");
        }
        encoded.clear();
        assert_eq!((encoded.octets, written(&mut encoded), encoded.heads().count()), (0, 0, 0));
    }

    fn envelope(sender: &str, recipients: &[&str], extras: Option<Extras>) -> Envelope {
        let flags = ContentFlags::default();
        Envelope::new(ID, Timestamp(1), 1, flags, sender, recipients, extras.map(Box::new))
    }

    /// Room is looked for by the bound: a record that is longer would run over its segment, and a bound that is far too
    /// large would waste it.
    #[test]
    fn a_message_takes_no_more_octets_than_its_bound_and_not_many_less() {
        let long: Box<str> = "x".repeat(1000).into();
        let text = || Some(long.clone());
        let ips = vec!["2001:db8::1".parse().expect("an address"); 64];
        let of = Extras::default;
        let extras = [
            of(),
            Extras { tags: vec![long.clone(); 5], ..of() },
            Extras { campaign: text(), tenant: text(), ..of() },
            Extras { routing_domain: text(), pool: text(), smarthost: text(), ..of() },
            Extras { ips, ..of() },
            Extras { not_before: Some(Timestamp(1)), expires: Some(Timestamp(2)), max_attempts: Some(3), ..of() },
            Extras { retries: vec![1; 64], ..of() },
            Extras { meta: "x".repeat(16_384).into(), ..of() },
        ];
        let many = vec![&*long; 30];
        let mut envelopes: Vec<Envelope> =
            extras.into_iter().map(|extras| envelope("", &["r@a.test"], Some(extras))).collect();
        envelopes.push(envelope(&long, &["r"], None));
        envelopes.push(envelope("", &many, None));
        for envelope in envelopes {
            for body in [Body::new(), Body::from(vec![b'x'; 5000])] {
                let mut encoded = Encoded::default();
                let head = encoded.message(MARK, 0, &envelope, &body);
                let bound = message_bytes_bound(&envelope, &body);
                let octets = encoded.octets as usize;
                assert_eq!(octets, written(&mut encoded));
                assert_eq!(octets, head as usize + body.len() + TRAILER_BYTES);
                assert!((octets..octets + 300).contains(&bound), "{octets} bounded by {bound}: {envelope:?}");
            }
        }
    }

    /// A copy is the message again, with the place of its body in the segment to which it is moved.
    #[test]
    fn a_copy_is_encoded_as_its_message_was() {
        let (envelope, body) = (envelope("s@a.test", &["r@a.test"], None), Body::from_static(b"text\r\n"));
        let mut message = Encoded::default();
        let head = message.message(MARK, 40, &envelope, &body);
        let octets: Vec<u8> = message.slices().iter().flat_map(|slice| slice.to_vec()).collect();
        let (meta, rest) = (&octets[HEADER_BYTES..head as usize], octets[head as usize..].to_vec());
        let mut copy = Encoded::default();
        assert_eq!(copy.copy(MARK, 40, ID, meta, &rest.into()), head);
        let copied: Vec<u8> = copy.slices().iter().flat_map(|slice| slice.to_vec()).collect();
        assert_eq!((copied, copy.octets), (octets, message.octets));
        assert!(copy.heads().eq(message.heads()));
    }

    #[test]
    fn a_trailer_names_the_message_whatever_its_body() {
        let mut rest = b"body".to_vec();
        put_trailer(&mut rest, ID, b"body");
        assert!(trailer_names(&rest, ID) && trailer_names(&rest[4..], ID));
        assert!(!trailer_names(&rest[5..], ID), "too short");
        assert!(!trailer_names(&rest, MessageId { sequence: 4, ..ID }));
        rest[0] ^= 1;
        assert!(trailer_names(&rest, ID), "the body is not verified");
    }
}
