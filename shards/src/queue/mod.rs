//! The queue of one core: which messages wait, where, for what, and in which order they leave.
//!
//! It holds places and times and decides nothing about rules, limits or the network: the shard asks for the
//! next message of a destination, and says what became of it. It never reads a clock and never forgets an
//! entry by itself: an entry leaves only through [`Queue::remove`].

mod bucket;
mod destination;
mod entries;
mod entry;
mod moves;
mod order;
mod retry;
mod store;
mod timers;

pub use bucket::{BucketId, BucketKey, HeldBy};
pub use destination::{DestinationId, NextHop, queue_name};
pub use entry::{Entry, EntryId, NewEntry, Recipients, State};
pub use retry::{due_after, expires_at};
pub use store::{Counts, Due, Queue};
