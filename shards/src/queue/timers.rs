//! Due times and expiries. Those that ring soon stand in a heap; the others are only told apart by the span of time in
//! which they ring, since most never do: their messages leave before, and until then four octets are all they take.
//!
//! An entry's timer is moved by writing the new time into the entry and pushing again; what is stale is dropped when it
//! surfaces, and everything is made anew before stale items outnumber live ones.

use super::entry::EntryId;
use crate::limits::TIMERS_GATHERED_PER_TICK;
use crate::time::Timestamp;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

/// A span has 2 to this many milliseconds: a minute.
const SPAN_BITS: u32 = 16;

fn span(at: Timestamp) -> i64 {
    at.0 >> SPAN_BITS
}

/// See the module. `place` tells a reused entry index from the entry that an item was pushed for.
#[derive(Debug)]
pub(super) struct Timers {
    near: BinaryHeap<Reverse<(Timestamp, u64, EntryId)>>,
    /// Entries by the span in which they ring.
    far: BTreeMap<i64, Vec<EntryId>>,
    far_items: usize,
    /// What rings in this span, or before it, is pushed to `near`.
    reached: i64,
    gathered: Option<Timestamp>,
}

impl Default for Timers {
    fn default() -> Self {
        Self { near: BinaryHeap::new(), far: BTreeMap::new(), far_items: 0, reached: i64::MIN, gathered: None }
    }
}

impl Timers {
    /// Rings for `entry` (with `place`) at `at`.
    pub fn push(&mut self, at: Timestamp, place: u64, entry: EntryId) {
        if span(at) <= self.reached {
            self.near.push(Reverse((at, place, entry)));
        } else {
            self.far.entry(span(at)).or_default().push(entry);
            self.far_items += 1;
        }
    }

    /// Brings nearer what rings within this span and the next one, some at each moment. `timer` is the time and place of
    /// an entry, if it is there.
    pub fn gather(&mut self, now: Timestamp, timer: impl Fn(EntryId) -> Option<(Timestamp, u64)>) {
        if self.gathered.replace(now) == Some(now) {
            return;
        }
        self.reached = self.reached.max(span(now).saturating_add(1));
        let mut budget = TIMERS_GATHERED_PER_TICK;
        while budget > 0
            && let Some(mut first) = self.far.first_entry().filter(|first| *first.key() <= self.reached)
        {
            let key = *first.key();
            let items = first.get_mut();
            let rest = items.len().saturating_sub(budget);
            budget -= items.len() - rest;
            self.far_items -= items.len() - rest;
            for entry in items.drain(rest..) {
                // What was moved to another span was pushed for that one, too.
                if let Some((at, place)) = timer(entry).filter(|(at, _)| span(*at) == key) {
                    self.near.push(Reverse((at, place, entry)));
                }
            }
            if items.is_empty() {
                first.remove();
            }
        }
    }

    /// Takes the earliest item that is due at `now`, of those that were gathered.
    pub fn pop_due(&mut self, now: Timestamp) -> Option<(Timestamp, u64, EntryId)> {
        let Reverse((at, ..)) = self.near.peek()?;
        if *at > now {
            return None;
        }
        self.near.pop().map(|Reverse(item)| item)
    }

    /// A time before which nothing rings.
    pub fn next(&self) -> Option<Timestamp> {
        let near = self.near.peek().map(|Reverse((at, ..))| *at);
        let far = self.far.keys().next().map(|span| Timestamp(span << SPAN_BITS));
        near.into_iter().chain(far).min()
    }

    /// Whether stale items may outnumber `live` ones.
    pub fn overgrown(&self, live: usize) -> bool {
        self.near.len() + self.far_items > 2 * live + 4096
    }

    /// Keeps nothing but these timers.
    pub fn rebuild(&mut self, live: impl Iterator<Item = (Timestamp, u64, EntryId)>) {
        self.near.clear();
        self.far.clear();
        self.far_items = 0;
        live.for_each(|(at, place, entry)| self.push(at, place, entry));
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
        assert_eq!(timers.next(), Some(Timestamp(0)), "the span in which they ring");
        assert_eq!(timers.pop_due(Timestamp(40)), None, "not gathered");
        timers.gather(Timestamp(1), |EntryId(entry)| Some((Timestamp(i64::from(entry) * 10), 7)));
        assert_eq!((timers.next(), timers.pop_due(Timestamp(9))), (Some(Timestamp(10)), None));
        assert_eq!(timers.pop_due(Timestamp(10)), Some((Timestamp(10), 7, EntryId(1))));
        assert_eq!(timers.pop_due(Timestamp(40)), Some((Timestamp(20), 7, EntryId(2))));
        timers.rebuild(std::iter::empty());
        assert_eq!((timers.next(), timers.pop_due(Timestamp(40))), (None, None));
    }

    /// An entry that is gone, or was moved to another span, does not ring for what was pushed before.
    #[test]
    fn what_is_stale_is_dropped_when_it_comes_near() {
        let later = Timestamp(5 << SPAN_BITS);
        let mut timers = Timers::default();
        for entry in 1..=3 {
            timers.push(Timestamp(10), 7, EntryId(entry));
        }
        timers.push(later, 7, EntryId(2));
        timers.gather(Timestamp(1), |EntryId(entry)| match entry {
            1 => Some((Timestamp(10), 7)),
            2 => Some((later, 7)),
            _ => None,
        });
        assert_eq!(timers.pop_due(later), Some((Timestamp(10), 7, EntryId(1))));
        assert_eq!((timers.pop_due(later), timers.next()), (None, Some(later)));
    }

    /// However many ring at once, a slice of them comes near at each moment, and none is counted twice.
    #[test]
    fn what_rings_soon_comes_near_in_slices() {
        let (mut timers, count) = (Timers::default(), 2 * TIMERS_GATHERED_PER_TICK + 1);
        for entry in 0..count as u32 {
            timers.push(Timestamp(1), entry.into(), EntryId(entry));
        }
        for (at, near) in [(2, TIMERS_GATHERED_PER_TICK), (3, 2 * TIMERS_GATHERED_PER_TICK), (4, count)] {
            timers.gather(Timestamp(at), |EntryId(entry)| Some((Timestamp(1), entry.into())));
            timers.gather(Timestamp(at), |_| unreachable!("once at each moment"));
            assert_eq!((timers.near.len(), timers.near.len() + timers.far_items), (near, count));
        }
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
