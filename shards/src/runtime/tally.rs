//! How many recipients each rule has ended, on its way from a shard's outcome log to whoever keeps the counts for
//! good. The log's thread adds what it has synced, together with the place in its files up to which that goes; the
//! keeper takes both at once, so that a place never stands for more or for fewer ends than are counted.
//!
//! Never waits but for the other side's hand-over of a few words, and never forgets an end that was not taken.

use crate::limits::{ENDED_PLACES_MAX, OTHER_QUEUES};
use crate::time::Timestamp;
use hashbrown::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A place in a file that only grows, found again although the file was renamed or copied meanwhile.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Fingerprint of the file's first line; `None` while it has none.
    pub first: Option<u64>,
    /// Octets from the file's beginning.
    pub octets: u64,
    /// When that was. Files given away before then hold nothing behind the place.
    pub at: Timestamp,
}

/// Up to where ends are counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Places {
    /// In the outcome log.
    pub log: Place,
    /// In the file of ends that leave no record (`suppress_logging`).
    pub unlogged: Place,
}

/// Recipients ended, by rule and scheduled queue.
pub type Ends = HashMap<(Arc<str>, Arc<str>), u64>;

/// What one shard has counted since this was last taken.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Ends in the order of nothing.
    pub ends: Ends,
    /// Up to where they go.
    pub places: Places,
    /// Octets of records that have gone by, ends or not: so much has to be read after a kill.
    pub octets: u64,
}

impl Tally {
    /// Adds ends of a rule. Beyond the bound of places the name of the queue is let go, not the count.
    pub fn add(&mut self, rule: &Arc<str>, queue: &Arc<str>, count: u64) {
        let full = self.ends.len() >= ENDED_PLACES_MAX;
        let mut key = (rule.clone(), queue.clone());
        if full && !self.ends.contains_key(&key) {
            key.1 = OTHER_QUEUES.into();
        }
        *self.ends.entry(key).or_default() += count;
    }

    /// Appends what came later.
    pub fn append(&mut self, later: Self) {
        if self.ends.is_empty() {
            self.ends = later.ends;
        } else {
            later.ends.iter().for_each(|((rule, queue), count)| self.add(rule, queue, *count));
        }
        self.places = later.places;
        self.octets += later.octets;
    }
}

/// Where a shard's log leaves its tally. Shared by the log's thread and the keeper.
#[derive(Debug, Default)]
pub struct TallySlot {
    left: Mutex<Option<Tally>>,
    /// The last place in the file of unlogged ends that the keeper has stored.
    stored: Mutex<Place>,
}

/// The slots of all shards.
pub type Tallies = Arc<[TallySlot]>;

impl TallySlot {
    /// Leaves more.
    pub fn leave(&self, tally: Tally) {
        let mut left = lock(&self.left);
        match &mut *left {
            Some(earlier) => earlier.append(tally),
            None => *left = Some(tally),
        }
    }

    /// Takes what was left; nothing when the log has not been written since.
    #[must_use]
    pub fn take(&self) -> Option<Tally> {
        lock(&self.left).take()
    }

    /// Says that everything up to these places is stored for good.
    pub fn stored(&self, places: &Places) {
        *lock(&self.stored) = places.unlogged;
    }

    /// Whether everything up to a place in the file of unlogged ends is stored for good.
    #[must_use]
    pub fn is_stored(&self, place: &Place) -> bool {
        let stored = *lock(&self.stored);
        place.first.is_some() && (stored.first, stored.octets) == (place.first, place.octets)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Neither side can panic halfway through a change.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
