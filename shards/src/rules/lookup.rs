//! The question and its answer: what becomes of a message, given what is known of it. Tuple-space search
//! (Srinivasan et al. 1999): rules that name the same fields form a group; a look-up computes, for each group
//! that exists, the one key that a rule covering this message would have, and probes for it. So the cost
//! depends on how many combinations of fields are in use, not on how many rules there are. And of those combinations
//! only the ones are probed whose every value some rule names (`mentioned`).
//!
//! Facts become known in stages (bucket, message, path). The answer for a bucket can be kept and completed
//! for each message, and that again for each attempt; asking everything at once answers the same.

use super::rule::Rule;
use super::scope::{BucketFacts, Facts, Fields, MessageFacts, normal_address};
use super::suppression::{Cause, HashKey};
use super::table::{Entry, RuleTable};
use super::verdict::{BucketVerdict, Found, Moment, Ruling, Stamp, Tally, Verdict};
use crate::time::Timestamp;
use smallvec::SmallVec;
use std::net::IpAddr;
use std::sync::Arc;

/// Hashes of the facts of a bucket, in the order of [`Fields`].
#[derive(Clone, Copy, Debug)]
pub(super) struct BucketKeys {
    of: [u64; Fields::OF_BUCKET.count() as usize],
    /// Those of which some rule may name the value; the others have no hash.
    live: Fields,
}

/// Hashes of all facts known: what the groups' keys are combined from.
pub(super) struct Keys<'a> {
    of: [u64; Fields::COUNT],
    /// Those tags that some rule may name.
    tags: SmallVec<[(u64, &'a str); 16]>,
    live: Fields,
}

/// Combines hashes of fields, in the order of [`Fields`], into the key of a group.
#[derive(Clone, Copy)]
pub(super) struct Key(pub(super) u64);

impl Key {
    pub(super) fn of_group(fields: Fields) -> Self {
        Self(u64::from(fields.0).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    pub(super) fn add(self, hash: u64) -> Self {
        let product = u128::from(self.0 ^ hash) * u128::from(0xd6e8_feb8_6659_fd93_u64 ^ hash.rotate_left(32));
        #[expect(clippy::cast_possible_truncation, reason = "the two halves of the product are folded")]
        let folded = (product as u64) ^ ((product >> 64) as u64);
        Self(folded.wrapping_add(self.0.rotate_left(17)))
    }
}

/// The hash of an address; IPv4-mapped IPv6 addresses count as IPv4.
pub(super) fn hash_ip(key: HashKey, address: IpAddr) -> u64 {
    match address.to_canonical() {
        IpAddr::V4(v4) => key.fast(&v4.octets()),
        IpAddr::V6(v6) => key.fast(&v6.octets()),
    }
}

impl BucketKeys {
    /// Of the fields that no rule names nothing is hashed.
    fn new(table: &RuleTable, facts: &BucketFacts<'_>) -> Self {
        let mut keys = Self { of: [0; Fields::OF_BUCKET.count() as usize], live: Fields::NONE };
        let texts = [
            (Fields::POOL, facts.pool),
            (Fields::DOMAIN, Some(facts.domain)),
            (Fields::CAMPAIGN, facts.campaign),
            (Fields::TENANT, facts.tenant),
            (Fields::ROUTING_DOMAIN, facts.routing_domain),
            (Fields::QUEUE, Some(facts.queue)),
        ];
        for (place, (field, text)) in texts.into_iter().enumerate() {
            if let (Some(text), true) = (text, field.within(table.named())) {
                let hash = table.key.fast(text.as_bytes());
                if table.may_name(field, hash) {
                    keys.of[place] = hash;
                    keys.live = keys.live.with(field);
                }
            }
        }
        keys
    }
}

impl<'a> Keys<'a> {
    fn new(table: &RuleTable, bucket: &BucketKeys, facts: &Facts<'a>) -> Self {
        let mut of = [0; Fields::COUNT];
        of[..bucket.of.len()].copy_from_slice(&bucket.of);
        let mut keys = Self { of, tags: SmallVec::new(), live: bucket.live };
        let is_named = |field: Fields| field.within(table.named());
        if let Some(message) = &facts.message {
            if is_named(Fields::TAG) && !message.tags.is_empty() {
                keys.set_tags(table, message);
            }
            if is_named(Fields::ADDRESS) {
                keys.set(table, Fields::ADDRESS, table.key.fast(normal_address(message.address).as_bytes()));
            }
        }
        if let (Some(address), true) = (facts.path.source_ip, is_named(Fields::SOURCE_IP)) {
            keys.set(table, Fields::SOURCE_IP, hash_ip(table.key, address));
        }
        if let (Some(path), true) = (facts.path.path, is_named(Fields::PATH)) {
            keys.set(table, Fields::PATH, table.key.fast(path.as_bytes()));
        }
        if let (Some(address), true) = (facts.path.remote_ip, is_named(Fields::REMOTE_IP)) {
            keys.set(table, Fields::REMOTE_IP, hash_ip(table.key, address));
        }
        keys
    }

    fn set_tags(&mut self, table: &RuleTable, message: &MessageFacts<'a>) {
        let mut take = |hash: u64, tag: &'a str| {
            if table.may_name(Fields::TAG, hash) {
                self.tags.push((hash, tag));
                self.live = self.live.with(Fields::TAG);
            }
        };
        if message.tag_hashes.len() == message.tags.len() {
            message.tag_hashes.iter().zip(message.tags).for_each(|(hash, tag)| take(*hash, tag));
        } else {
            message.tags.iter().for_each(|tag| take(table.key.fast(tag.as_bytes()), tag));
        }
    }

    fn set(&mut self, table: &RuleTable, field: Fields, hash: u64) {
        if table.may_name(field, hash) {
            self.of[field.0.trailing_zeros() as usize] = hash;
            self.live = self.live.with(field);
        }
    }

    /// The key of a group; `tag` stands for the tag, if the group names one.
    fn key(&self, fields: Fields, tag: u64) -> u64 {
        let mut key = Key::of_group(fields);
        let mut left = fields.0;
        while left != 0 {
            let field = Fields(left & left.wrapping_neg());
            left &= left - 1;
            key = key.add(if field == Fields::TAG { tag } else { self.of[field.0.trailing_zeros() as usize] });
        }
        key.0
    }
}

impl RuleTable {
    /// Asks about everything that the messages of a bucket have in common.
    #[must_use]
    pub fn bucket(&self, facts: &BucketFacts<'_>, now: Timestamp) -> BucketVerdict {
        let bucket_keys = BucketKeys::new(self, facts);
        let all = Facts { bucket: *facts, ..Facts::default() };
        let keys = Keys::new(self, &bucket_keys, &all);
        let mut tally = Tally::new();
        self.probe(Fields::OF_BUCKET, &keys, &all, |rule| tally.consider(rule, now));
        let found = tally.found;
        BucketVerdict {
            suppressed: self.suppressed(facts.domain).cloned(),
            keys: bucket_keys,
            stamp: self.stamp(now, found.next_transition),
            overridable: self.has_message_rules_at_attempt(),
            per_message: self.named().meets(Fields::OF_MESSAGE) || !self.suppressions().is_empty(),
            per_path: self.named().meets(Fields::OF_PATH),
            found: Found {
                ending: found.ending.cloned(),
                attempt: found.attempt.cloned(),
                holding: found.holding.cloned(),
                hold_until: found.hold_until,
                next_transition: found.next_transition,
            },
        }
    }

    /// Completes the answer for a bucket, which must still hold, with what is known of the message and of the
    /// attempt. `facts.bucket` is what the bucket was asked with.
    #[must_use]
    pub fn complete<'a>(
        &'a self,
        bucket: &'a BucketVerdict,
        facts: &Facts<'_>,
        moment: Moment,
        now: Timestamp,
    ) -> Verdict<'a> {
        debug_assert!(bucket.stamp.holds(self.epoch(), now), "a stale answer is asked for again, not completed");
        let mut tally = bucket.tally();
        if bucket.per_message || bucket.per_path {
            self.rest(&mut tally, &bucket.keys, facts, now);
        }
        Verdict { decision: tally.decide(moment), stamp: self.stamp(now, tally.found.next_transition) }
    }

    /// Asks at once with all that is known.
    #[must_use]
    pub fn verdict<'a>(&'a self, facts: &Facts<'_>, moment: Moment, now: Timestamp) -> Verdict<'a> {
        let bucket_keys = BucketKeys::new(self, &facts.bucket);
        let mut tally = Tally::new();
        tally.suppressed = self.suppressed(facts.bucket.domain).map(Ruling::SuppressedDomain);
        let keys = Keys::new(self, &bucket_keys, facts);
        let everything = Fields::OF_BUCKET.with(Fields::OF_MESSAGE).with(Fields::OF_PATH);
        self.probe(everything, &keys, facts, |rule| tally.consider(rule, now));
        self.suppressed_address(&mut tally, facts);
        Verdict { decision: tally.decide(moment), stamp: self.stamp(now, tally.found.next_transition) }
    }

    /// Whether some rule names both something of the message and something of the attempt: then messages of one
    /// bucket may differ in the ways that are open to them.
    #[must_use]
    pub fn parts_ways_by_message(&self) -> bool {
        let of_both = |fields: Fields| fields.meets(Fields::OF_MESSAGE) && fields.meets(Fields::OF_PATH);
        of_both(self.named()) && self.groups().iter().any(|group| of_both(group.fields))
    }

    /// Every rule that covers a message, in force or not yet, in no order: for inspection.
    pub fn covering<'a>(&'a self, facts: &Facts<'_>, mut each: impl FnMut(&'a Arc<Rule>)) {
        let bucket_keys = BucketKeys::new(self, &facts.bucket);
        let keys = Keys::new(self, &bucket_keys, facts);
        let everything = Fields::OF_BUCKET.with(Fields::OF_MESSAGE).with(Fields::OF_PATH);
        self.probe(everything, &keys, facts, &mut each);
    }

    /// The groups that a bucket alone cannot be asked about.
    fn rest<'a>(&'a self, tally: &mut Tally<'a>, bucket: &BucketKeys, facts: &Facts<'_>, now: Timestamp) {
        let beyond = Fields::OF_MESSAGE.with(Fields::OF_PATH);
        if self.named().meets(beyond) {
            let keys = Keys::new(self, bucket, facts);
            self.probe(beyond, &keys, facts, |rule| tally.consider(rule, now));
        }
        self.suppressed_address(tally, facts);
    }

    fn suppressed_address<'a>(&'a self, tally: &mut Tally<'a>, facts: &Facts<'_>) {
        if let Some(message) = &facts.message
            && let Some(cause) = self.suppressed(message.address)
        {
            tally.suppressed = Some(Ruling::SuppressedAddress(cause));
        }
    }

    fn suppressed(&self, value: &str) -> Option<&Arc<Cause>> {
        if self.suppressions().is_empty() {
            return None;
        }
        self.suppressions().find(self.key.suppression(value))
    }

    fn stamp(&self, now: Timestamp, next_transition: Timestamp) -> Stamp {
        Stamp { epoch: self.epoch(), at: now, next_transition }
    }

    /// Calls `each` with the rules that cover the facts, in those groups whose latest field to become known is
    /// one of `latest`.
    ///
    /// Two loops, because with many rules a probe is a cache miss: the first computes all keys, so that the
    /// second is short enough for the processor to have several misses under way at once.
    fn probe<'a>(&'a self, latest: Fields, keys: &Keys<'_>, facts: &Facts<'_>, mut each: impl FnMut(&'a Arc<Rule>)) {
        let mut probes: SmallVec<[Probe<'_>; 32]> = SmallVec::new();
        for group in self.groups() {
            let fields = group.fields;
            if !fields.within(keys.live) || !group.latest.within(latest) {
                continue;
            }
            if fields.meets(Fields::TAG) {
                probes.extend(keys.tags.iter().map(|(hash, tag)| {
                    let key = keys.key(fields, *hash);
                    Probe { key, fields, tag: Some(tag) }
                }));
            } else {
                probes.push(Probe { key: keys.key(fields, 0), fields, tag: None });
            }
        }
        for probe in &probes {
            for entry in self.candidates(probe.key) {
                if probe.finds(entry, facts) {
                    each(&entry.rule);
                }
            }
        }
    }
}

/// One key to look for.
struct Probe<'a> {
    key: u64,
    fields: Fields,
    tag: Option<&'a str>,
}

impl Probe<'_> {
    /// Whether the rule really covers the facts: a key is only a hash.
    fn finds(&self, entry: &Entry, facts: &Facts<'_>) -> bool {
        if entry.key != self.key || entry.fields != self.fields {
            return false;
        }
        let scope = &entry.rule.scope;
        let queue = scope.queues.get(entry.queue as usize);
        scope.tag.as_deref() == self.tag
            && queue.is_none_or(|name| **name == *facts.bucket.queue)
            && scope.covers_rest(facts)
    }
}

#[cfg(test)]
mod tests {
    use super::{Entry, Facts, Fields, Probe};
    use crate::rules::{Kind, MessageFacts, Rule, Scope, Validity};
    use std::sync::Arc;

    /// Rules whose key is that of the probe although they cover something else: hashes may meet.
    #[test]
    fn an_equal_key_alone_is_no_match() {
        let tags: [Box<str>; 1] = ["t".into()];
        let mut facts = Facts {
            message: Some(MessageFacts { address: "u@a.test", tags: &tags, tag_hashes: &[] }),
            ..Facts::default()
        };
        facts.bucket.domain = "a.test";
        facts.bucket.queue = "q";
        let probe = Probe { key: 1, fields: Fields::DOMAIN.with(Fields::TAG), tag: Some("t") };
        let scope = |domain: &str, tag: Option<&str>, queues: &[&str]| Scope {
            domain: Some(domain.into()),
            tag: tag.map(Into::into),
            queues: queues.iter().map(|name| Arc::from(*name)).collect(),
            ..Scope::default()
        };
        let cases = [
            (scope("a.test", Some("t"), &[]), true),
            (scope("b.test", Some("t"), &[]), false),
            (scope("a.test", Some("other"), &[]), false),
            (scope("a.test", None, &[]), false),
            (scope("a.test", Some("t"), &["other"]), false),
        ];
        for (scope, expected) in cases {
            let fields = scope.fields();
            let rule = Rule {
                id: "r".into(),
                order: 1,
                kind: Kind::Pause,
                scope,
                validity: Validity::always(),
                by: "t".into(),
            };
            let entry = Entry { key: 1, fields, queue: 0, rule: Arc::new(rule) };
            assert_eq!(probe.finds(&entry, &facts), expected, "{:?}", entry.rule.scope);
        }
    }
}
