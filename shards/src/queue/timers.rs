//! Due times and expiries in one heap. An entry's timer is moved by writing the new time into the entry and
//! pushing again; what is stale is dropped when it surfaces, and the heap is rebuilt before stale items
//! outnumber live ones.

use super::entry::EntryId;
use crate::time::Timestamp;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// The heap. `place` tells a reused entry index from the entry that the item was pushed for.
#[derive(Debug, Default)]
pub(super) struct Timers {
    heap: BinaryHeap<Reverse<(Timestamp, u64, EntryId)>>,
}

impl Timers {
    /// Rings for `entry` (with `place`) at `at`.
    pub fn push(&mut self, at: Timestamp, place: u64, entry: EntryId) {
        self.heap.push(Reverse((at, place, entry)));
    }

    /// Takes the earliest item that is due at `now`.
    pub fn pop_due(&mut self, now: Timestamp) -> Option<(Timestamp, u64, EntryId)> {
        let Reverse((at, ..)) = self.heap.peek()?;
        if *at > now {
            return None;
        }
        self.heap.pop().map(|Reverse(item)| item)
    }

    /// Time of the earliest item, which may be stale.
    pub fn next(&self) -> Option<Timestamp> {
        self.heap.peek().map(|Reverse((at, ..))| *at)
    }

    /// Whether stale items may outnumber `live` ones.
    pub fn overgrown(&self, live: usize) -> bool {
        self.heap.len() > 2 * live + 4096
    }

    /// Keeps only the items for which `alive` holds.
    pub fn rebuild(&mut self, mut alive: impl FnMut(Timestamp, u64, EntryId) -> bool) {
        let mut items = std::mem::take(&mut self.heap).into_vec();
        items.retain(|&Reverse((at, place, entry))| alive(at, place, entry));
        self.heap = BinaryHeap::from(items);
    }
}
