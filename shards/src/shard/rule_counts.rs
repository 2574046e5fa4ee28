//! What rules hold and have ended. What a rule holds one by one, and what it has ended, is known at once; of the buckets
//! that it holds as a whole it takes a walk over the queue, in slices, to tell recipients and the first expiry. Changes
//! nothing.

use super::Shard;
use crate::event::RuleCount;
use crate::queue::{Entry, State};
use crate::time::Timestamp;
use hashbrown::HashMap;
use std::sync::Arc;

/// An answer that may wait for a walk.
#[derive(Debug)]
pub(super) struct RuleCounting {
    counts: Vec<RuleCount>,
    /// Of the rules asked for that hold whole buckets: what the walk has met in these.
    whole: HashMap<Arc<str>, Whole>,
}

/// What is ready in the buckets that one rule holds.
#[derive(Debug, Default)]
struct Whole {
    /// Before the walk. There may be more recipients.
    entries: u64,
    recipients: u64,
    first_expiry: Option<Timestamp>,
}

impl RuleCounting {
    /// Whether there is anything to walk for.
    pub(super) fn needs_walk(&self) -> bool {
        !self.whole.is_empty()
    }

    /// The walk has met an entry in a bucket that a rule holds. What waits for a retry or is with a session is not held.
    pub(super) fn meet(&mut self, rule: &Arc<str>, entry: &Entry) {
        if entry.state == State::Ready
            && let Some(whole) = self.whole.get_mut(rule)
        {
            whole.recipients += entry.recipients.len() as u64;
            whole.first_expiry = earlier(whole.first_expiry, entry.expires);
        }
    }

    /// The answer. After a walk that did not come to its end, entries count for recipients, and nothing is said of the
    /// first expiry: one that was not met may be earlier.
    pub(super) fn finish(mut self, complete: bool) -> Vec<RuleCount> {
        for count in &mut self.counts {
            let Some(whole) = self.whole.get(&count.rule) else { continue };
            count.held += if complete { whole.recipients } else { whole.entries.max(whole.recipients) };
            let first = if complete { whole.first_expiry.into_iter().chain(count.first_expiry).min() } else { None };
            count.first_expiry = first;
        }
        self.counts
    }
}

/// The earlier of what is known and another.
pub(super) fn earlier(known: Option<Timestamp>, at: Timestamp) -> Option<Timestamp> {
    Some(known.map_or(at, |known| known.min(at)))
}

impl Shard {
    /// What is known at once of these rules.
    pub(super) fn count_rules(&self, ids: &[Arc<str>]) -> RuleCounting {
        let mut counting = RuleCounting { counts: Vec::with_capacity(ids.len()), whole: HashMap::new() };
        for id in ids {
            counting.counts.push(self.rule_count(id));
            let Some(held) = self.held.get(id) else { continue };
            let is_held = |by: &crate::queue::HeldBy| by.rule == *id;
            let buckets = held.buckets.iter().filter(|bucket| self.queue.bucket_held(**bucket).is_some_and(is_held));
            let entries = buckets.map(|bucket| u64::from(self.queue.bucket_ready(*bucket))).sum();
            if entries > 0 {
                counting.whole.insert(id.clone(), Whole { entries, ..Whole::default() });
            }
        }
        counting
    }

    fn rule_count(&self, id: &Arc<str>) -> RuleCount {
        let mut count = RuleCount { rule: id.clone(), ..RuleCount::default() };
        if let Some(held) = self.held.get(id) {
            let entries = held.entries.iter().filter_map(|(entry, place)| self.queue.entry_at(*entry, *place));
            for entry in entries.filter(|entry| entry.state == State::Held) {
                count.held += entry.recipients.len() as u64;
                count.first_expiry = earlier(count.first_expiry, entry.expires);
            }
        }
        if let Some(ended) = self.ended.get(id) {
            count.ended = ended.values().sum();
            count.ended_by_queue = ended.iter().map(|(queue, count)| (queue.clone(), *count)).collect();
        }
        count
    }
}
