//! The rules of one core. Owned by its shard, changed by its rule lane only. Look-ups are in `lookup`; here
//! is how rules get in, how they go, and when time alone changes something.
//!
//! Every step that may meet many rules is bounded by what the caller allows ([`RuleTable::expire`]) or by what
//! one update may hold; no step doubles one large allocation.

use super::lookup::{Key, hash_ip};
use super::mentioned::{Mentioned, mark};
use super::rule::Rule;
use super::scope::{Fields, Scope};
use super::subtables::Subtables;
use super::suppression::{HashKey, Suppressions};
use super::update::{Change, EpochGap, Update};
use crate::limits::RULE_CHANGES_MAX;
use crate::message::Extras;
use crate::time::Timestamp;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A rule under one key of its group. A rule that names several queues stands under each.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) key: u64,
    pub(super) fields: Fields,
    /// Which of the scope's queue names; 0 when it names none.
    pub(super) queue: u32,
    pub(super) rule: Arc<Rule>,
}

/// A combination of fields that at least one rule names.
#[derive(Clone, Copy, Debug)]
pub(super) struct Group {
    pub(super) fields: Fields,
    /// The field of it that becomes known last; one of the bucket's for rules that name none.
    pub(super) latest: Fields,
    rules: usize,
    /// Those of them that end or defer mail when an attempt is made, and so win over a hold only then.
    at_attempt: usize,
}

/// A rule by its id.
#[derive(Debug)]
struct Kept {
    hash: u64,
    rule: Arc<Rule>,
    /// Its place on the agenda.
    due: Due,
    in_force: bool,
}

/// A moment, and a number that tells rules of the same moment apart.
type Due = (Timestamp, u64);

/// What time did to a rule.
#[derive(Clone, Debug)]
pub struct Transition {
    /// The rule.
    pub rule: Arc<Rule>,
    /// Its new state.
    pub phase: Phase,
    /// It was in force here until now.
    pub was_in_force: bool,
}

/// The states that time moves a rule to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It is in force now: mail that it covers must be swept.
    Began,
    /// It is not in force for now, and will be again or be over.
    Lapsed,
    /// It is over, and no longer in the table. If it was in force, mail that it held must be released.
    Ended,
}

/// The rules of one core.
#[derive(Debug)]
pub struct RuleTable {
    pub(super) key: HashKey,
    epoch: u64,
    entries: Subtables<Entry>,
    groups: Vec<Group>,
    /// All fields that some rule names.
    named: Fields,
    mentioned: Mentioned,
    by_id: Subtables<Kept>,
    /// Rules by the moment at which they next change; those that never do are not in it.
    agenda: BTreeMap<Due, Arc<str>>,
    /// Numbers the places on the agenda.
    serial: u64,
    suppressions: Suppressions,
    /// The latest moment that the agenda was brought up to, or that something was put on it.
    advanced_to: Timestamp,
    /// While the agenda is being made anew because the clock was set back: the next part of `by_id`.
    rewinding: Option<usize>,
}

impl RuleTable {
    /// Empty, at epoch 0. `key` is secret and the same for the whole engine.
    #[must_use]
    pub fn new(key: HashKey) -> Self {
        Self {
            key,
            epoch: 0,
            entries: Subtables::new(),
            groups: Vec::new(),
            named: Fields::NONE,
            mentioned: Mentioned::new(),
            by_id: Subtables::new(),
            agenda: BTreeMap::new(),
            serial: 0,
            suppressions: Suppressions::new(key),
            advanced_to: Timestamp(i64::MIN),
            rewinding: None,
        }
    }

    /// Whether some rule names a tag.
    #[must_use]
    pub fn names_tags(&self) -> bool {
        Fields::TAG.within(self.named)
    }

    /// The hashes of a message's tags, made once for all look-ups: for [`super::MessageFacts::tag_hashes`].
    #[must_use]
    pub fn tag_hashes<'a>(&self, extras: &'a Extras) -> &'a [u64] {
        extras.tag_hashes.get(self.key.fingerprint(), || self.key.tags(&extras.tags))
    }

    /// The number of the last update applied.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// How many rules, without suppressions in bulk; those that ended may be among them for a tick.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether there is no rule.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_id.len() == 0
    }

    /// The suppressions in bulk.
    #[must_use]
    pub fn suppressions(&self) -> &Suppressions {
        &self.suppressions
    }

    /// The rule with this id.
    #[must_use]
    pub fn rule(&self, id: &str) -> Option<&Arc<Rule>> {
        self.kept(id).map(|kept| &kept.rule)
    }

    fn kept(&self, id: &str) -> Option<&Kept> {
        self.by_id.find(self.key.fast(id.as_bytes()), |kept| *kept.rule.id == *id)
    }

    /// Whether the rule with this id was in force when time was last looked at here; it may be over by now.
    #[must_use]
    pub fn was_in_force(&self, id: &str) -> bool {
        self.kept(id).is_some_and(|kept| kept.in_force)
    }

    /// Applies an update as a whole.
    ///
    /// # Errors
    /// It does not follow the one before; nothing was applied, and the core must not go on delivering.
    pub fn apply(&mut self, update: Update, now: Timestamp) -> Result<(), EpochGap> {
        if update.after != self.epoch || update.epoch <= update.after {
            return Err(EpochGap { at: self.epoch, after: update.after, epoch: update.epoch });
        }
        assert!(update.cost() <= RULE_CHANGES_MAX, "the control core splits what is larger");
        for change in update.changes {
            match change {
                Change::Put(rule) => self.put(rule, now),
                Change::Remove(id) => drop(self.take(&id)),
                Change::Suppress { key, cause } => self.suppressions.put(key, &cause),
                Change::Unsuppress { key } => drop(self.suppressions.remove(key)),
            }
        }
        // Rules are put on the agenda as of now: if the clock goes back behind that, they must be looked at again.
        self.advanced_to = self.advanced_to.max(now);
        self.epoch = update.epoch;
        Ok(())
    }

    /// The first moment at which time alone changes the answer to some question, or may have: in the past
    /// until [`Self::expire`] has caught up.
    #[must_use]
    pub fn next_transition(&self) -> Timestamp {
        if self.rewinding.is_some() {
            return Timestamp(i64::MIN);
        }
        self.agenda.first_key_value().map_or(Timestamp::NEVER, |((due, _), _)| *due)
    }

    /// Brings the agenda up to `now`, at most `budget` rules at a time (more by one sub-table after the clock
    /// was set back), and says what changed. Look-ups do not depend on it: they compare each rule with `now`.
    /// Whether more is left to do.
    ///
    /// To be called at every tick, whatever [`Self::next_transition`] says, because only here is noticed that
    /// the clock was set back; with nothing to do it costs nothing.
    pub fn expire(&mut self, now: Timestamp, budget: usize, changed: &mut Vec<Transition>) -> bool {
        if now < self.advanced_to {
            self.rewinding = Some(0);
        }
        self.advanced_to = now;
        let mut left = budget.max(1);
        if self.rewinding.is_some() {
            self.rewind(now, &mut left, changed);
        }
        while left > 0
            && let Some(first) = self.agenda.first_entry()
            && first.key().0 <= now
        {
            let id = first.remove();
            self.advance(&id, now, changed);
            left -= 1;
        }
        self.next_transition() <= now
    }

    /// Looks at rules again whatever the agenda says.
    fn rewind(&mut self, now: Timestamp, left: &mut usize, changed: &mut Vec<Transition>) {
        while let Some(part) = self.rewinding
            && *left > 0
        {
            let ids: Vec<(Arc<str>, Due)> =
                self.by_id.part(part).map(|kept| (Arc::clone(&kept.rule.id), kept.due)).collect();
            *left = left.saturating_sub(ids.len().max(1));
            for (id, due) in ids {
                self.agenda.remove(&due);
                self.advance(&id, now, changed);
            }
            self.rewinding = Some(part + 1).filter(|next| *next < self.by_id.parts());
        }
    }

    /// Says what the rule, which is not on the agenda, has become, and gives it its next place there.
    fn advance(&mut self, id: &Arc<str>, now: Timestamp, changed: &mut Vec<Transition>) {
        let hash = self.key.fast(id.as_bytes());
        let serial = self.serial;
        self.serial += 1;
        let kept = self.by_id.find_mut(hash, |kept| kept.rule.id == *id);
        let kept = kept.expect("what is on the agenda is in the table: both change together");
        let rule = Arc::clone(&kept.rule);
        let was = kept.in_force;
        if rule.validity.ended(now) {
            self.take(id);
            changed.push(Transition { rule, phase: Phase::Ended, was_in_force: was });
            return;
        }
        let at = rule.validity.at(now);
        kept.due = (at.next, serial);
        kept.in_force = at.in_force;
        if at.next != Timestamp::NEVER {
            self.agenda.insert((at.next, serial), Arc::clone(id));
        }
        if was != at.in_force {
            let phase = if at.in_force { Phase::Began } else { Phase::Lapsed };
            changed.push(Transition { rule, phase, was_in_force: was });
        }
    }

    fn put(&mut self, rule: Arc<Rule>, now: Timestamp) {
        self.take(&rule.id);
        let fields = rule.scope.fields();
        let names = rule.scope.queues.len().max(1);
        for queue in 0..names {
            let hashes = self.hashes_of(&rule.scope, queue);
            marks_of(&hashes).for_each(|mark| self.mentioned.add(mark));
            let key = key_of(fields, &hashes);
            let queue = u32::try_from(queue).expect("a scope names at most RULE_QUEUES_MAX queues");
            let entry = Entry { key, fields, queue, rule: Arc::clone(&rule) };
            self.entries.insert(key, entry, |entry| entry.key);
        }
        self.count_in(fields, rule.waits_for_attempt());
        let at = rule.validity.at(now);
        // One that is over already goes the usual way, so that whoever waits for its end hears of it.
        let next = if rule.validity.ended(now) { rule.validity.end() } else { at.next };
        let due = (next, self.serial);
        self.serial += 1;
        if next != Timestamp::NEVER {
            self.agenda.insert(due, Arc::clone(&rule.id));
        }
        let hash = self.key.fast(rule.id.as_bytes());
        self.by_id.insert(hash, Kept { hash, rule, due, in_force: at.in_force }, |kept| kept.hash);
    }

    /// Removes a rule.
    fn take(&mut self, id: &str) -> Option<Arc<Rule>> {
        let kept = self.by_id.remove(self.key.fast(id.as_bytes()), |kept| *kept.rule.id == *id)?;
        self.agenda.remove(&kept.due);
        let scope = &kept.rule.scope;
        let fields = scope.fields();
        for queue in 0..scope.queues.len().max(1) {
            let hashes = self.hashes_of(scope, queue);
            marks_of(&hashes).for_each(|mark| self.mentioned.remove(mark));
            let key = key_of(fields, &hashes);
            let entry =
                self.entries.remove(key, |entry| entry.queue as usize == queue && Arc::ptr_eq(&entry.rule, &kept.rule));
            assert!(entry.is_some(), "a rule stands under each of its keys");
        }
        self.count_out(fields, kept.rule.waits_for_attempt());
        Some(kept.rule)
    }

    /// The hashes of what a scope names, with the queue name of that index.
    fn hashes_of(&self, scope: &Scope, queue: usize) -> Hashes {
        let text = |text: &Option<Arc<str>>| text.as_ref().map(|text| self.key.fast(text.as_bytes()));
        [
            text(&scope.pool),
            text(&scope.domain),
            text(&scope.campaign),
            text(&scope.tenant),
            text(&scope.routing_domain),
            scope.queues.get(queue).map(|name| self.key.fast(name.as_bytes())),
            text(&scope.tag),
            text(&scope.address),
            scope.source_ip.map(|ip| hash_ip(self.key, ip)),
            text(&scope.path),
            scope.remote_ip.map(|ip| hash_ip(self.key, ip)),
        ]
    }

    fn count_in(&mut self, fields: Fields, at_attempt: bool) {
        let place = self.groups.iter().position(|group| group.fields == fields).unwrap_or_else(|| {
            let latest = fields.0.checked_ilog2().map_or(Fields::POOL, |last| Fields(1 << last));
            self.groups.push(Group { fields, latest, rules: 0, at_attempt: 0 });
            self.named = self.named.with(fields);
            self.groups.len() - 1
        });
        self.groups[place].rules += 1;
        self.groups[place].at_attempt += usize::from(at_attempt);
    }

    fn count_out(&mut self, fields: Fields, at_attempt: bool) {
        let place = self.groups.iter().position(|group| group.fields == fields);
        let place = place.expect("the group of a rule that is in the table exists");
        self.groups[place].rules -= 1;
        self.groups[place].at_attempt -= usize::from(at_attempt);
        if self.groups[place].rules == 0 {
            self.groups.swap_remove(place);
            self.named = self.groups.iter().fold(Fields::NONE, |all, group| all.with(group.fields));
        }
    }

    /// Whether some rule by tag or address ends or defers mail when an attempt is made.
    pub(super) fn has_message_rules_at_attempt(&self) -> bool {
        self.groups.iter().any(|group| group.at_attempt > 0 && group.latest.within(Fields::OF_MESSAGE))
    }

    pub(super) fn groups(&self) -> &[Group] {
        &self.groups
    }

    pub(super) fn named(&self) -> Fields {
        self.named
    }

    /// Whether a rule may name this value of a field; certainly none does when this says no.
    pub(super) fn may_name(&self, field: Fields, hash: u64) -> bool {
        self.mentioned.perhaps(mark(field, hash))
    }

    pub(super) fn candidates(&self, key: u64) -> impl Iterator<Item = &Entry> {
        self.entries.candidates(key)
    }
}

/// In the order of the bits of [`Fields`], as look-ups combine them.
type Hashes = [Option<u64>; Fields::COUNT];

fn key_of(fields: Fields, hashes: &Hashes) -> u64 {
    hashes.iter().flatten().copied().fold(Key::of_group(fields), Key::add).0
}

fn marks_of(hashes: &Hashes) -> impl Iterator<Item = u64> {
    hashes.iter().enumerate().filter_map(|(bit, hash)| hash.map(|hash| mark(Fields(1 << bit), hash)))
}

#[cfg(test)]
mod tests {
    use super::{Change, HashKey, Phase, Rule, RuleTable, Timestamp, Update};
    use crate::rules::{Kind, Scope, Span, Validity};
    use std::sync::Arc;

    /// Between two ticks: nothing was advanced to the moment at which the rule was put.
    #[test]
    fn a_clock_set_back_behind_a_rule_that_was_just_put_does_not_delay_it() {
        let span = Span { start: Timestamp(31), end: Timestamp(35) };
        let rule = Rule {
            id: "r".into(),
            order: 1,
            kind: Kind::Pause,
            scope: Scope { domain: Some("a.test".into()), ..Scope::default() },
            validity: Validity::windows(&[span], Timestamp::NEVER).unwrap(),
            by: "t".into(),
        };
        let mut table = RuleTable::new(HashKey(1, 2));
        let mut changed = Vec::new();
        assert!(!table.expire(Timestamp(20), 10, &mut changed));
        let update = Update { after: 0, epoch: 1, changes: vec![Change::Put(Arc::new(rule))] };
        table.apply(update, Timestamp(40)).unwrap();
        while table.expire(Timestamp(30), 10, &mut changed) {}
        assert_eq!(table.next_transition(), span.start);
        assert!(!table.expire(Timestamp(31), 10, &mut changed));
        assert!(matches!(&changed[..], [one] if one.phase == Phase::Began), "{changed:?}");
    }
}
