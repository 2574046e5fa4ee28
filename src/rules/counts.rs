//! How much each rule has ended, kept over every kind of stop. The shards' logs say what is durable of it and up to
//! where in their files that goes; both are stored together, once a second. At a start the logs' tails tell what the
//! last run did not come to store.

use super::store::Store;
use crate::report;
use mailrace_shards::runtime::outcome_tail::uncounted;
use mailrace_shards::runtime::tally::{Tallies, Tally};
use mailrace_shards::time::Timestamp;
use std::collections::BTreeMap;
use std::path::Path;

/// Octets of records without any end after which the place in the log is stored all the same, so that a start has
/// no more than so many of each shard to read, and what a second may bring.
const OCTETS_MAX: u64 = 64 << 20;

/// Makes up what the last run did not store. To be called before the cores run, with the number of those that will.
///
/// # Errors
/// A log or the store cannot be read or written.
pub fn begin(store: &mut Store, log_directory: &Path, cores: usize, now: Timestamp) -> Result<(), String> {
    let counted = store.counted().map_err(|error| error.to_string())?;
    let cores = (0_u16..).take(cores);
    let shards: std::collections::BTreeSet<u16> = counted.keys().copied().chain(cores).collect();
    let tail = |shard: u16| {
        let tail = uncounted(log_directory, shard, counted.get(&shard), now);
        tail.map(|tail| (shard, tail))
            .map_err(|error| format!("the outcome log of shard {shard} in {}: {error}", log_directory.display()))
    };
    let tails = shards.into_iter().map(tail).collect::<Result<Vec<_>, _>>()?;
    store.begin_counts(&tails).map_err(|error| error.to_string())
}

/// What the cores have counted and the store does not have yet. Belongs to the rules' thread.
#[derive(Default)]
pub struct Counts {
    tallies: Option<Tallies>,
    taken: BTreeMap<u16, Tally>,
    failing: bool,
}

impl Counts {
    /// Of the cores that leave their tallies there.
    pub fn of(tallies: Option<Tallies>) -> Self {
        Self { tallies, ..Self::default() }
    }

    /// Stores what has come. What cannot be stored is kept for the next time.
    pub fn store(&mut self, store: &mut Store) {
        let Some(tallies) = &self.tallies else { return };
        for (shard, slot) in (0_u16..).zip(tallies.iter()) {
            if let Some(tally) = slot.take() {
                self.taken.entry(shard).or_default().append(tally);
            }
        }
        if !self.taken.values().any(|tally| !tally.ends.is_empty() || tally.octets >= OCTETS_MAX) {
            return;
        }
        let taken: Vec<(u16, Tally)> = std::mem::take(&mut self.taken).into_iter().collect();
        match store.add_counts(&taken) {
            Ok(()) => {
                taken.iter().for_each(|(shard, tally)| tallies[usize::from(*shard)].stored(&tally.places));
                if std::mem::take(&mut self.failing) {
                    report::notice("what rules have ended is stored again");
                }
            }
            Err(error) => {
                if !std::mem::replace(&mut self.failing, true) {
                    report::error(&format!("what rules have ended is not stored, but kept: {error}"));
                }
                self.taken = taken.into_iter().collect();
            }
        }
    }
}
