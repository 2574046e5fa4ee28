//! One entry: the recipients of one message at one destination, that travel and wait together.

use super::bucket::BucketId;
use crate::message::{Body, Envelope, Location};
use crate::time::Timestamp;
use smallvec::SmallVec;
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

/// An entry in the queue. Owned by one core's [`super::Queue`]; ends when the shard removes it.
#[derive(Debug)]
pub struct Entry {
    /// The message.
    pub envelope: Arc<Envelope>,
    /// Recipients that are still open; shrinks as some end before others.
    pub recipients: SmallVec<[u16; 4]>,
    /// Where the body lies.
    pub location: Location,
    /// The body itself, while the memory budget has room for it.
    pub body: Option<Body>,
    /// Its bucket.
    pub bucket: BucketId,
    /// Attempts made so far.
    pub attempts: u16,
    /// What it is doing.
    pub state: State,
    /// An earlier attempt may have got through.
    pub maybe_delivered: bool,
    /// Hosts that failed it within the present attempt.
    pub hosts_tried: u8,
    /// Its place in the bucket: smaller leaves earlier.
    pub place: u64,
    /// When its timer rings: the due time while it waits, else the expiry.
    pub timer: Timestamp,
    /// It fails then.
    pub expires: Timestamp,
}

const _: () = assert!(size_of::<Entry>() <= 200, "a queued message is at most 200 octets beside its strings");
