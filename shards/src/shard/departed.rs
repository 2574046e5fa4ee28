//! Rules that ended mail at once and are gone, while mail of earlier runs is on its way into the queues: what they
//! covered of it ends when it gets there, as it would have had it been there. Never touches mail of this run: what was
//! queued while a rule was in force was gone through then, and what came later was not meant.
//!
//! Kept from the start until all that was found is in the queues; there are as many as there are rules and suppressions
//! at most that an operator takes away in that time.

use super::Shard;
use super::gate::{Fate, Fates, Judgement, fate_of};
use crate::queue::EntryId;
use crate::rules::{Change, Facts, HashKey, MessageFacts, Moment, Rule, RuleTable, Update, Validity};
use crate::time::{Now, Timestamp};
use std::sync::Arc;

/// See the module.
#[derive(Debug)]
pub(super) struct Departed {
    key: HashKey,
    /// `None` while no mail of earlier runs is expected.
    rules: Option<RuleTable>,
}

impl Departed {
    /// Keeps nothing yet.
    pub(super) fn new(key: HashKey) -> Self {
        Self { key, rules: None }
    }

    fn keep(&mut self, change: Change, now: Timestamp) {
        if let Some(rules) = &mut self.rules {
            let after = rules.epoch();
            let numbered = rules.apply(Update { after, epoch: after + 1, changes: vec![change] }, now);
            numbered.expect("each follows the one before");
        }
    }

    /// A rule has ceased to be in force.
    pub(super) fn keep_rule(&mut self, rule: &Rule, now: Timestamp) {
        if self.rules.is_some() && rule.ends_at_once() {
            let rule = Rule { validity: Validity::always(), ..rule.clone() };
            self.keep(Change::Put(Arc::new(rule)), now);
        }
    }
}

impl Shard {
    /// Mail of earlier runs will come into the queues of all cores, until [`Shard::handle_all_found`].
    pub fn expect_found(&mut self) {
        self.departed.rules = Some(RuleTable::new(self.departed.key));
    }

    /// All that was found on disk is in the queues.
    pub fn handle_all_found(&mut self) {
        self.departed.rules = None;
        self.flushes.forget();
    }

    /// A change of the rules that is about to be applied: notes what goes with it.
    pub(super) fn note_departure(&mut self, change: &Change, now: Now) {
        if self.departed.rules.is_none() {
            return;
        }
        let in_force = |rule: &Rule| rule.validity.at(now.utc).in_force;
        let (going, stays) = match change {
            Change::Put(new) => (self.rules.rule(&new.id), in_force(new)),
            Change::Remove(id) => (self.rules.rule(id), false),
            Change::Unsuppress { key } => {
                if let Some(cause) = self.rules.suppressions().find(*key).cloned() {
                    self.departed.keep(Change::Suppress { key: *key, cause }, now.utc);
                }
                return;
            }
            Change::Suppress { .. } => return,
        };
        // One that is over may be taken away before the next tick comes to its end.
        let was_in_force = |rule: &Rule| in_force(rule) || self.rules.was_in_force(&rule.id);
        if let Some(rule) = going.filter(|rule| !stays && was_in_force(rule)).cloned() {
            self.departed.keep_rule(&rule, now.utc);
        }
    }

    /// An entry has come into the queue: when it is of an earlier run, what rules that are gone would have ended of it
    /// ends. Whether nothing of it is left.
    pub(super) fn end_if_departed(&mut self, id: EntryId, now: Now) -> bool {
        let Some(rules) = self.departed.rules.as_ref().filter(|rules| !super::gate::is_blank(rules)) else {
            return false;
        };
        let entry = self.queue.entry(id);
        if entry.envelope.id().generation == self.generation {
            return false;
        }
        let tags = entry.envelope.extras().map_or(&[][..], |extras| &extras.tags);
        let bucket = self.facts_of(entry.bucket);
        let fate = |recipient: u16| {
            let address = entry.envelope.recipient(usize::from(recipient));
            let message = Some(MessageFacts { address, tags, tag_hashes: &[] });
            let facts = Facts { bucket, message, ..Facts::default() };
            fate_of(&rules.verdict(&facts, Moment::Queued, now.utc).decision, address)
        };
        let fates: Fates = entry.recipients.iter().map(|recipient| (*recipient, fate(*recipient))).collect();
        let left = fates.iter().filter(|(_, fate)| matches!(fate, Fate::Pass)).count();
        if left < fates.len() {
            self.carry_out(id, Judgement::Each(fates), now);
        }
        left == 0
    }
}
