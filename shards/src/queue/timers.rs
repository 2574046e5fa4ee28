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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_due_comes_out_in_order_and_nothing_else() {
        let mut timers = Timers::default();
        for (at, entry) in [(30, 3), (10, 1), (20, 2)] {
            timers.push(Timestamp(at), 7, EntryId(entry));
        }
        assert_eq!((timers.next(), timers.pop_due(Timestamp(9))), (Some(Timestamp(10)), None));
        assert_eq!(timers.pop_due(Timestamp(10)), Some((Timestamp(10), 7, EntryId(1))));
        assert_eq!(timers.pop_due(Timestamp(40)), Some((Timestamp(20), 7, EntryId(2))));
        timers.rebuild(|_, _, entry| entry != EntryId(3));
        assert_eq!(timers.next(), None);
    }

    /// A few stale items are not worth a rebuild; beyond that they are bounded by what is alive.
    #[test]
    fn the_heap_is_overgrown_when_most_of_it_is_stale() {
        let mut timers = Timers::default();
        for place in 0..4096 {
            timers.push(Timestamp(1), place, EntryId(0));
        }
        assert!(!timers.overgrown(0));
        timers.push(Timestamp(1), 4096, EntryId(0));
        assert!(timers.overgrown(0) && !timers.overgrown(1));
        for place in 4097..4096 + 2 * 100 {
            timers.push(Timestamp(1), place, EntryId(0));
        }
        assert!(!timers.overgrown(100));
        timers.push(Timestamp(1), 5000, EntryId(0));
        assert!(timers.overgrown(99) && !timers.overgrown(101));
    }
}
