//! One entry: the recipients of one message at one destination, that travel and wait together.

use super::bucket::BucketId;
use super::order::Links;
use crate::message::{Body, Envelope, Location};
use crate::time::Timestamp;
use smallvec::SmallVec;
use std::ops::Deref;
use std::sync::Arc;

/// Index of an entry in its core's queue; reused after removal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryId(pub u32);

/// What an entry is doing. See `moves.rs` for who moves it from state to state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// May leave as soon as its bucket is asked.
    Ready,
    /// Backs off until its due time.
    Waiting,
    /// A rule holds this message alone (its bucket may flow).
    Held,
    /// A session has it.
    InFlight,
}

/// An entry as it arrives: fresh, recovered, or after an attempt on another start.
#[derive(Clone, Debug)]
pub struct NewEntry {
    /// The message.
    pub envelope: Arc<Envelope>,
    /// Recipients of it, all of one domain.
    pub recipients: SmallVec<[u16; 4]>,
    /// Where the body lies.
    pub location: Location,
    /// The body itself, while the memory budget has room for it.
    pub body: Option<Body>,
    /// Attempts made so far.
    pub attempts: u16,
    /// Not before; `None` for at once.
    pub due: Option<Timestamp>,
    /// It fails then.
    pub expires: Timestamp,
    /// An earlier attempt may have got through.
    pub maybe_delivered: bool,
}

/// Recipients that are still open. Most entries have one or two, and a million entries may wait.
#[derive(Clone, Debug)]
pub struct Recipients(Indexes);

#[derive(Clone, Debug)]
enum Indexes {
    Few { count: u8, of: [u16; 3] },
    Many(Box<SmallVec<[u16; 4]>>),
}

impl From<SmallVec<[u16; 4]>> for Recipients {
    fn from(recipients: SmallVec<[u16; 4]>) -> Self {
        let mut of = [0; 3];
        Self(match of.get_mut(..recipients.len()) {
            Some(few) => {
                few.copy_from_slice(&recipients);
                Indexes::Few { count: recipients.len() as u8, of }
            }
            None => Indexes::Many(Box::new(recipients)),
        })
    }
}

impl Deref for Recipients {
    type Target = [u16];

    fn deref(&self) -> &[u16] {
        match &self.0 {
            Indexes::Few { count, of } => &of[..usize::from(*count)],
            Indexes::Many(many) => many,
        }
    }
}

impl Recipients {
    /// A copy, to go through while the queue changes.
    #[must_use]
    pub fn to_list(&self) -> SmallVec<[u16; 4]> {
        SmallVec::from_slice(self)
    }
}

/// An entry in the queue. Owned by one core's [`super::Queue`]; ends when the shard removes it.
#[derive(Debug)]
pub struct Entry {
    /// The message.
    pub envelope: Arc<Envelope>,
    /// Recipients that are still open; shrinks as some end before others.
    pub recipients: Recipients,
    /// Boxed, since few of many have one.
    body: Option<Box<Body>>,
    /// Its place in the bucket: smaller leaves earlier.
    pub place: u64,
    /// When its timer rings: the due time while it waits, else the expiry.
    pub timer: Timestamp,
    /// It fails then.
    pub expires: Timestamp,
    segment: u32,
    offset: u32,
    length: u32,
    spool: u16,
    /// Attempts made so far.
    pub attempts: u16,
    /// Its bucket.
    pub bucket: BucketId,
    pub(super) links: Links,
    /// Whether it is in its bucket's chain.
    pub(super) chained: bool,
    /// What it is doing.
    pub state: State,
    /// An earlier attempt may have got through.
    pub maybe_delivered: bool,
    /// Hosts that failed it within the present attempt, or how often its body was not where it was looked for before one.
    pub in_vain: u8,
}

const _: () = assert!(size_of::<Entry>() <= 88, "a queued message is at most 88 octets beside its envelope");

impl Entry {
    /// `timer` is when it rings first.
    pub(super) fn new(new: NewEntry, bucket: BucketId, state: State, place: u64, timer: Timestamp) -> Self {
        let mut entry = Self {
            envelope: new.envelope,
            recipients: new.recipients.into(),
            body: new.body.map(Box::new),
            place,
            timer,
            expires: new.expires,
            segment: 0,
            offset: 0,
            length: 0,
            spool: 0,
            attempts: new.attempts,
            bucket,
            links: Links::default(),
            chained: false,
            state,
            maybe_delivered: new.maybe_delivered,
            in_vain: 0,
        };
        entry.set_location(new.location);
        entry
    }

    /// Where the body lies.
    #[must_use]
    pub fn location(&self) -> Location {
        let Self { segment, offset, length, spool, .. } = *self;
        Location { spool, segment, offset: offset.into(), length }
    }

    pub(super) fn set_location(&mut self, location: Location) {
        self.offset = u32::try_from(location.offset).expect("segments are below 4 GiB");
        (self.spool, self.segment, self.length) = (location.spool, location.segment, location.length);
        self.in_vain = 0;
    }

    /// The body itself, while the memory budget has room for it.
    #[must_use]
    pub fn body(&self) -> Option<&Body> {
        self.body.as_deref()
    }

    pub(super) fn drop_body(&mut self) {
        self.body = None;
    }
}
