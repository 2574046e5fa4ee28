//! The question and its answer: what becomes of a message, given what is known of it. Tuple-space search
//! (Srinivasan et al. 1999): rules that name the same fields form a group; a look-up computes, for each group
//! that exists, the one key that a rule covering this message would have, and probes for it. So the cost
//! depends on how many combinations of fields are in use, not on how many rules there are.
//!
//! Facts become known in stages (bucket, message, path). The answer for a bucket can be kept and completed
//! for each message, and that again for each attempt; asking everything at once answers the same.

use super::precedence::precedence;
use super::rule::{Action, Answer, Kind, Rule};
use super::scope::{BucketFacts, Facts, Fields, normal_address};
use super::suppression::{Cause, HashKey};
use super::table::{Entry, RuleTable};
use crate::outcome::{RecordType, RuleMark};
use crate::time::Timestamp;
use smallvec::SmallVec;
use std::net::IpAddr;
use std::sync::Arc;

/// On which occasion is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// The message waits: at intake, in a sweep, at a release. Ending rules that wait for an attempt
    /// ([`Rule::waits_for_attempt`]) do not act; a message that such a rule covers is not held either, since
    /// they win over a hold and the attempt must come about.
    Queued,
    /// An attempt is about to be made or is under way. Everything acts.
    Attempt,
}

/// What becomes of it.
#[derive(Clone, Copy, Debug)]
pub enum Decision<'a> {
    /// It may go.
    Pass,
    /// It waits, without an attempt.
    Hold {
        /// The rule that comes first among those that hold it.
        rule: &'a Arc<Rule>,
        /// When the last of those in force now goes by time alone; [`Timestamp::NEVER`] if one has no end.
        until: Timestamp,
    },
    /// It ends.
    End(Ruling<'a>),
    /// This attempt fails for now.
    Defer(Ruling<'a>),
}

/// What ends or defers a message.
#[derive(Clone, Copy, Debug)]
pub enum Ruling<'a> {
    /// A rule.
    Rule(&'a Arc<Rule>),
    /// Its address is suppressed.
    SuppressedAddress(&'a Arc<Cause>),
    /// Its domain is suppressed.
    SuppressedDomain(&'a Arc<Cause>),
}

impl<'a> Ruling<'a> {
    /// What is recorded in the place of a reply.
    #[must_use]
    pub fn answer(self) -> &'a Answer {
        match self {
            Self::SuppressedAddress(cause) | Self::SuppressedDomain(cause) => &cause.answer,
            Self::Rule(rule) => match rule.action() {
                Action::Fail(answer) | Action::EndSilently(answer) | Action::Defer(answer) => answer,
                Action::Hold => unreachable!("a rule that holds makes no ruling"),
            },
        }
    }

    /// The record that it makes.
    #[must_use]
    pub fn record(self) -> RecordType {
        match self {
            Self::SuppressedAddress(_) | Self::SuppressedDomain(_) => RecordType::Suppression,
            Self::Rule(rule) => rule.kind.record().expect("only a rule that holds makes no record"),
        }
    }

    /// Whether it wants no record in the log.
    #[must_use]
    pub fn suppress_logging(self) -> bool {
        matches!(self, Self::Rule(rule) if matches!(rule.kind, Kind::Bounce { suppress_logging: true, .. }))
    }

    /// As records name it; a suppression is named by its value, so the recipient's address is needed.
    #[must_use]
    pub fn mark(self, address: &str) -> RuleMark {
        let (value, cause) = match self {
            Self::Rule(rule) => return rule.mark(),
            Self::SuppressedAddress(cause) => (normal_address(address).into(), cause),
            Self::SuppressedDomain(cause) => (Arc::from(crate::message::domain_of(address)), cause),
        };
        RuleMark { id: value, kind: "suppression", by: Arc::clone(&cause.by) }
    }
}

/// How long an answer is worth keeping: until a rule changed, or time passed its next transition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Epoch of the table.
    pub epoch: u64,
    /// When it was asked.
    pub at: Timestamp,
    /// The first moment at which time alone may change the answer; [`Timestamp::NEVER`] for none.
    pub next_transition: Timestamp,
}

impl Stamp {
    /// Whether an answer given then is still the answer. A clock that was set back makes it stale too.
    #[must_use]
    pub fn holds(&self, epoch: u64, now: Timestamp) -> bool {
        self.epoch == epoch && self.at <= now && now < self.next_transition
    }
}

/// The answer.
#[derive(Clone, Copy, Debug)]
pub struct Verdict<'a> {
    /// What becomes of the message.
    pub decision: Decision<'a>,
    /// How long that holds.
    pub stamp: Stamp,
}

impl Verdict<'_> {
    /// Whether it may go.
    #[must_use]
    pub fn passes(&self) -> bool {
        matches!(self.decision, Decision::Pass)
    }

    /// When time alone may change it.
    #[must_use]
    pub fn next_transition(&self) -> Timestamp {
        self.stamp.next_transition
    }
}

/// The answer for all that a bucket's messages have in common; kept by the bucket while its stamp holds.
#[derive(Clone, Debug)]
pub struct BucketVerdict {
    found: Found<Arc<Rule>>,
    suppressed: Option<Arc<Cause>>,
    keys: BucketKeys,
    /// How long it holds.
    pub stamp: Stamp,
    /// Whether some rule or suppression names a tag or an address, so that each message must be asked about.
    pub per_message: bool,
    /// Whether some rule names something of the attempt, so that each attempt must be asked about.
    pub per_path: bool,
}

impl BucketVerdict {
    /// What becomes of its messages as far as their bucket tells. A rule by tag or address may still end
    /// or defer one that is held here (see `per_message`).
    #[must_use]
    pub fn decision(&self, moment: Moment) -> Decision<'_> {
        self.tally().decide(moment)
    }

    fn tally(&self) -> Tally<'_> {
        Tally {
            suppressed: self.suppressed.as_ref().map(Ruling::SuppressedDomain),
            found: Found {
                ending: self.found.ending.as_ref(),
                attempt: self.found.attempt.as_ref(),
                holding: self.found.holding.as_ref(),
                hold_until: self.found.hold_until,
                next_transition: self.found.next_transition,
            },
        }
    }
}

/// The first rules, by precedence, among those found in force.
#[derive(Clone, Debug)]
struct Found<R> {
    /// Of those that end mail at once.
    ending: Option<R>,
    /// Of those that end or defer it when an attempt is made.
    attempt: Option<R>,
    /// Of those that hold it.
    holding: Option<R>,
    hold_until: Timestamp,
    next_transition: Timestamp,
}

struct Tally<'a> {
    suppressed: Option<Ruling<'a>>,
    found: Found<&'a Arc<Rule>>,
}

impl<'a> Tally<'a> {
    fn new() -> Self {
        let found = Found {
            ending: None,
            attempt: None,
            holding: None,
            hold_until: Timestamp(i64::MIN),
            next_transition: Timestamp::NEVER,
        };
        Self { suppressed: None, found }
    }

    fn consider(&mut self, rule: &'a Arc<Rule>, now: Timestamp) {
        let at = rule.validity.at(now);
        self.found.next_transition = self.found.next_transition.min(at.next);
        if !at.in_force {
            return;
        }
        let place = if rule.action() == Action::Hold {
            self.found.hold_until = self.found.hold_until.max(at.next);
            &mut self.found.holding
        } else if rule.waits_for_attempt() {
            &mut self.found.attempt
        } else {
            &mut self.found.ending
        };
        *place = first(*place, Some(rule));
    }

    fn decide(&self, moment: Moment) -> Decision<'a> {
        if let Some(ruling) = self.suppressed {
            return Decision::End(ruling);
        }
        let found = &self.found;
        let acting = match moment {
            Moment::Queued if found.ending.is_none() && found.attempt.is_some() => return Decision::Pass,
            Moment::Queued => found.ending,
            Moment::Attempt => first(found.ending, found.attempt),
        };
        match (acting, found.holding) {
            (Some(rule), _) if matches!(rule.action(), Action::Defer(_)) => Decision::Defer(Ruling::Rule(rule)),
            (Some(rule), _) => Decision::End(Ruling::Rule(rule)),
            (None, Some(rule)) => Decision::Hold { rule, until: found.hold_until },
            (None, None) => Decision::Pass,
        }
    }
}

/// Whichever comes first by precedence.
fn first<'a>(one: Option<&'a Arc<Rule>>, other: Option<&'a Arc<Rule>>) -> Option<&'a Arc<Rule>> {
    match (one, other) {
        (Some(a), Some(b)) => Some(if precedence(b) < precedence(a) { b } else { a }),
        (one, other) => one.or(other),
    }
}

/// Hashes of the facts of a bucket, in the order of [`Fields`].
type BucketKeys = [u64; Fields::OF_BUCKET.count() as usize];

/// Hashes of all facts known: what the groups' keys are combined from.
pub(super) struct Keys<'a> {
    of: [u64; Fields::COUNT],
    tags: SmallVec<[(u64, &'a str); 16]>,
    known: Fields,
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

impl<'a> Keys<'a> {
    fn of_bucket(key: HashKey, facts: &BucketFacts<'_>) -> BucketKeys {
        let hash = |text: Option<&str>| text.map_or(0, |text| key.fast(text.as_bytes()));
        let domain = hash(Some(facts.domain));
        let queue = hash(Some(facts.queue));
        [hash(facts.pool), domain, hash(facts.campaign), hash(facts.tenant), hash(facts.routing_domain), queue]
    }

    /// `wanted` are the fields that some rule names: of the rest nothing is hashed.
    fn new(key: HashKey, bucket: &BucketKeys, facts: &Facts<'a>, wanted: Fields) -> Self {
        let mut of = [0; Fields::COUNT];
        of[..bucket.len()].copy_from_slice(bucket);
        let mut keys = Self { of, tags: SmallVec::new(), known: known_of_bucket(&facts.bucket) };
        if let Some(message) = &facts.message {
            if Fields::TAG.within(wanted) && !message.tags.is_empty() {
                keys.tags = message.tags.iter().map(|tag| (key.fast(tag.as_bytes()), &**tag)).collect();
                keys.known = keys.known.with(Fields::TAG);
            }
            if Fields::ADDRESS.within(wanted) {
                keys.set(Fields::ADDRESS, key.fast(normal_address(message.address).as_bytes()));
            }
        }
        if let Some(address) = facts.path.source_ip {
            keys.set(Fields::SOURCE_IP, hash_ip(key, address));
        }
        if let (Some(path), true) = (facts.path.path, Fields::PATH.within(wanted)) {
            keys.set(Fields::PATH, key.fast(path.as_bytes()));
        }
        if let Some(address) = facts.path.remote_ip {
            keys.set(Fields::REMOTE_IP, hash_ip(key, address));
        }
        keys
    }

    fn set(&mut self, field: Fields, hash: u64) {
        self.of[field.0.trailing_zeros() as usize] = hash;
        self.known = self.known.with(field);
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

fn known_of_bucket(facts: &BucketFacts<'_>) -> Fields {
    let named = [
        (facts.pool.is_some(), Fields::POOL),
        (facts.campaign.is_some(), Fields::CAMPAIGN),
        (facts.tenant.is_some(), Fields::TENANT),
        (facts.routing_domain.is_some(), Fields::ROUTING_DOMAIN),
    ];
    let always = Fields::DOMAIN.with(Fields::QUEUE);
    named.into_iter().filter(|(is, _)| *is).fold(always, |all, (_, field)| all.with(field))
}

impl RuleTable {
    /// Asks about everything that the messages of a bucket have in common.
    #[must_use]
    pub fn bucket(&self, facts: &BucketFacts<'_>, now: Timestamp) -> BucketVerdict {
        let bucket_keys = Keys::of_bucket(self.key, facts);
        let all = Facts { bucket: *facts, ..Facts::default() };
        let keys = Keys::new(self.key, &bucket_keys, &all, self.named());
        let mut tally = Tally::new();
        self.probe(Fields::OF_BUCKET, &keys, &all, |rule| tally.consider(rule, now));
        let found = tally.found;
        BucketVerdict {
            suppressed: self.suppressed(facts.domain).cloned(),
            keys: bucket_keys,
            stamp: self.stamp(now, found.next_transition),
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
        let bucket_keys = Keys::of_bucket(self.key, &facts.bucket);
        let mut tally = Tally::new();
        tally.suppressed = self.suppressed(facts.bucket.domain).map(Ruling::SuppressedDomain);
        let keys = Keys::new(self.key, &bucket_keys, facts, self.named());
        let everything = Fields::OF_BUCKET.with(Fields::OF_MESSAGE).with(Fields::OF_PATH);
        self.probe(everything, &keys, facts, |rule| tally.consider(rule, now));
        self.suppressed_address(&mut tally, facts);
        Verdict { decision: tally.decide(moment), stamp: self.stamp(now, tally.found.next_transition) }
    }

    /// Every rule that covers a message, in force or not yet, in no order: for inspection.
    pub fn covering<'a>(&'a self, facts: &Facts<'_>, mut each: impl FnMut(&'a Arc<Rule>)) {
        let bucket_keys = Keys::of_bucket(self.key, &facts.bucket);
        let keys = Keys::new(self.key, &bucket_keys, facts, self.named());
        let everything = Fields::OF_BUCKET.with(Fields::OF_MESSAGE).with(Fields::OF_PATH);
        self.probe(everything, &keys, facts, &mut each);
    }

    /// The groups that a bucket alone cannot be asked about.
    fn rest<'a>(&'a self, tally: &mut Tally<'a>, bucket: &BucketKeys, facts: &Facts<'_>, now: Timestamp) {
        let beyond = Fields::OF_MESSAGE.with(Fields::OF_PATH);
        if self.named().meets(beyond) {
            let keys = Keys::new(self.key, bucket, facts, self.named());
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
            if !fields.within(keys.known) || !group.latest.within(latest) {
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
