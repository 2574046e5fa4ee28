//! Which segments there are, and which of them should be merged. Knows of each segment its head and its keys' revisions,
//! nothing of its entries.
//!
//! How many there are is bounded twice. Small ones that lie beside each other are merged when there are [`FEW`], by
//! sizes, so that an entry is written again a few times on its way into a large one, and not with each neighbour that it
//! gets. And beyond [`KEYS_ENOUGH`] the cheapest run that fits into one is merged, whatever its sizes: what then is left
//! are more only if no two neighbours fit into one, which is less than one for each 256 KiB.
//!
//! How many entries that say nothing any more are kept is bounded by [`Catalogue::entries_allowed`].

use super::segment::{Head, Segment};
use super::{RAW_BYTES_MAX, Revision, SEGMENT_BYTES_MAX};
use std::collections::{BTreeMap, HashMap};

/// Neighbours of a size that are merged.
const FEW: usize = 16;

/// Neighbours that are merged at once: each is compared and changed in one transaction, for which etcd takes 128
/// operations of a kind.
const RUN_MAX: usize = 120;

/// Sizes up to which neighbours are merged when there are a few of them, in octets.
const SMALL: [usize; 3] = [1 << 10, 8 << 10, 64 << 10];

/// How many segments are no reason to merge what is not small.
const KEYS_ENOUGH: usize = 200;

/// Entries without a meaning beside as many as there are suppressions.
const IDLE_ALLOWED: u64 = 20_000;

/// A segment that etcd holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// Its key.
    pub key: Vec<u8>,
    /// Revision at which the key was made: its place.
    pub made: Revision,
    /// Revision at which it was changed last.
    pub changed: Revision,
    /// Octets of its value.
    pub octets: usize,
    /// Octets of its entries, not packed.
    pub raw: usize,
    /// How many entries it has.
    pub entries: u64,
}

/// Segments to be replaced by one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// The oldest first. The last one's key gets the value, the others are deleted.
    pub segments: Vec<Known>,
    /// There are no older ones.
    pub is_oldest: bool,
}

/// All segments as of some revision.
#[derive(Clone, Debug, Default)]
pub struct Catalogue {
    by_age: BTreeMap<Place, Known>,
    by_key: HashMap<Vec<u8>, Revision>,
}

/// Where a segment stands: by the revision at which its key was made, and of those made at once by key. One change makes
/// several at once, each of other values.
type Place = (Revision, Vec<u8>);

impl Catalogue {
    /// A key was put. Whether it is a new segment, whose entries have to be heard: else it was merged, and says what
    /// was said before.
    pub fn put(&mut self, key: &[u8], made: Revision, changed: Revision, segment: &Segment<'_>) -> bool {
        let Head { puts, removals, raw, .. } = segment.head;
        let entries = u64::from(puts) + u64::from(removals);
        let known = Known { key: key.to_vec(), made, changed, octets: segment.octets, raw: raw as usize, entries };
        let before = self.by_key.get(key).map(|made| (*made, key.to_vec()));
        let old = before.as_ref().and_then(|place| self.by_age.get(place));
        // Else it is known already what became of it.
        if old.is_none_or(|old| old.changed <= changed) {
            before.map(|place| self.by_age.remove(&place));
            self.by_key.insert(key.to_vec(), made);
            self.by_age.insert((made, key.to_vec()), known);
        }
        made == changed
    }

    /// A key is gone.
    pub fn delete(&mut self, key: &[u8]) {
        if let Some(made) = self.by_key.remove(key) {
            self.by_age.remove(&(made, key.to_vec()));
        }
    }

    /// All of them, the oldest first.
    pub fn segments(&self) -> impl Iterator<Item = &Known> {
        self.by_age.values()
    }

    /// Entries in all of them, those without a meaning included.
    #[must_use]
    pub fn entries(&self) -> u64 {
        self.segments().map(|known| known.entries).sum()
    }

    /// How many entries there may be, given how many values are suppressed. Of more, too many say nothing any more.
    #[must_use]
    pub fn entries_allowed(live: u64) -> u64 {
        live.saturating_mul(2).saturating_add(IDLE_ALLOWED)
    }

    /// Adds what was there at a revision, all of it. What is known already is newer, or the same.
    pub fn complete(&mut self, all: Self) {
        for (place, known) in all.by_age {
            if !self.by_key.contains_key(&known.key) {
                self.by_key.insert(known.key.clone(), known.made);
                self.by_age.insert(place, known);
            }
        }
    }

    /// What should be merged now.
    #[must_use]
    pub fn run_due(&self) -> Option<Run> {
        let all: Vec<&Known> = self.segments().collect();
        let sizes = SMALL.iter().enumerate().map(|(at, size)| (at.checked_sub(1).map_or(0, |at| SMALL[at]), *size));
        let range = sizes.into_iter().find_map(|(least, size)| few_small(&all, least, size)).or_else(|| {
            let too_many = all.len() > KEYS_ENOUGH;
            too_many.then(|| cheapest(&all)).flatten()
        })?;
        let segments = all[range.clone()].iter().map(|known| (*known).clone()).collect();
        Some(Run { segments, is_oldest: range.start == 0 })
    }
}

type Range = std::ops::Range<usize>;

/// The oldest neighbours that are smaller than `size`, if there are a few among them that are not smaller than `least`:
/// else a large one would be written again with each few small ones that come.
fn few_small(all: &[&Known], least: usize, size: usize) -> Option<Range> {
    let mut start = 0;
    for end in 0..=all.len() {
        if all.get(end).is_some_and(|known| known.octets < size) {
            continue;
        }
        if all[start..end].iter().filter(|known| known.octets >= least).count() >= FEW {
            // Of the larger ones fewer go into one, which then is no small one any more.
            let range = start..start + fitting(&all[start..end]);
            if range.len() > 1 {
                return Some(range);
            }
        }
        start = end + 1;
    }
    None
}

/// The run that costs least for each segment that there then is less.
fn cheapest(all: &[&Known]) -> Option<Range> {
    let cost = |range: &Range| {
        let octets: usize = all[range.clone()].iter().map(|known| known.octets).sum();
        octets / (range.len() - 1)
    };
    let runs = (0..all.len()).map(|start| start..start + fitting(&all[start..]));
    // Shorter ones may cost less: a large neighbour at the end is carried for nothing.
    let shorter = |run: Range| (2..=run.len()).map(move |length| run.start..run.start + length);
    runs.flat_map(shorter).min_by_key(cost)
}

/// How many of them, from the first on, go into one. Packed together they are hardly longer than packed alone.
fn fitting(run: &[&Known]) -> usize {
    let (mut octets, mut raw) = (0, 0);
    let fits = |known: &&&Known| {
        octets += known.octets;
        raw += known.raw;
        octets <= SEGMENT_BYTES_MAX && raw <= RAW_BYTES_MAX
    };
    run.iter().take(RUN_MAX).take_while(fits).count()
}

#[cfg(test)]
#[path = "catalogue_tests.rs"]
mod tests;
