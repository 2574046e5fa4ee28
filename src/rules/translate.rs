//! Makes of what was stored what cores understand.

use super::change::Effect;
use super::entry::{RuleEntry, Verdict};
use super::publish::Target;
use super::schedule::differs;
use mailrace_shards::rules::{Cause, Change, HashKey, Rule, Validity};
use mailrace_shards::time::Timestamp;
use std::collections::HashMap;
use std::sync::Arc;

/// A rule over all mail that is not stored.
pub(super) fn put_fence(rule: &Rule) -> (Target, Change) {
    (Target::Rule(rule.scope.clone()), Change::Put(Arc::new(rule.clone())))
}

/// Makes of effects what cores understand.
pub(super) struct Translator {
    key: HashKey,
    /// The last cause: equal ones follow each other in bulk.
    cause: Option<(Verdict, Arc<Cause>)>,
    /// The intervals last sent of rules with recurring windows.
    recurring: HashMap<Arc<str>, Validity>,
}

impl Translator {
    pub(super) fn new(key: HashKey) -> Self {
        Self { key, cause: None, recurring: HashMap::new() }
    }

    pub(super) fn put(&mut self, entry: &RuleEntry, now: Timestamp) -> (Target, Change) {
        let rule = entry.rule(now);
        if entry.draft.schedule.recurs() {
            self.recurring.insert(rule.id.clone(), rule.validity.clone());
        } else {
            self.recurring.remove(&rule.id);
        }
        (Target::Rule(rule.scope.clone()), Change::Put(Arc::new(rule)))
    }

    pub(super) fn translate(&mut self, effect: Effect, now: Timestamp) -> Option<(Target, Change)> {
        Some(match effect {
            Effect::Put(entry) => self.put(&entry, now),
            Effect::Remove(entry) => {
                self.recurring.remove(&entry.id);
                (Target::Rule(entry.draft.scope), Change::Remove(entry.id))
            }
            Effect::Suppress(entry, by) => {
                let key = self.key.suppression(&entry.value);
                let cause = match &self.cause {
                    Some((verdict, cause)) if *verdict == entry.verdict && cause.by == by => cause.clone(),
                    _ => Arc::new(Cause { answer: entry.verdict.answer(), by }),
                };
                self.cause = Some((entry.verdict, cause.clone()));
                (Target::Suppression(entry.value), Change::Suppress { key, cause })
            }
            Effect::Unsuppress(value) => {
                let key = self.key.suppression(&value);
                (Target::Suppression(value), Change::Unsuppress { key })
            }
            Effect::Pools => return None,
        })
    }

    /// The rule anew, if time has brought other intervals into sight.
    pub(super) fn renewed(&mut self, entry: &RuleEntry, now: Timestamp) -> Option<(Target, Change)> {
        let new = entry.draft.schedule.validity(now);
        let is_known = self.recurring.get(&entry.id).is_some_and(|old| !differs(old, &new, now));
        (!is_known && !entry.draft.schedule.ended(now)).then(|| self.put(entry, now))
    }
}
