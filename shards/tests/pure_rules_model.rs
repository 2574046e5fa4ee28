//! The rule table against a plain linear scan that is written from the contract alone, over random rules,
//! messages and times. A failure names its seed.

#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

use mailrace_shards::rules::{
    Answer, BucketFacts, Cause, Change, Decision, Facts, HashKey, Kind, MessageFacts, Moment, PathFacts, Rule,
    RuleTable, Scope, Span, Update, Validity,
};
use mailrace_shards::time::Timestamp;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

const KEY: HashKey = HashKey(7, 11);
/// Times are taken from 0 to this, milliseconds.
const HORIZON: u64 = 200;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[usize::try_from(self.below(from.len() as u64)).unwrap()]
    }

    fn time(&mut self) -> Timestamp {
        Timestamp(i64::try_from(self.below(HORIZON)).unwrap())
    }

    fn maybe(&mut self, from: &[&str]) -> Option<Arc<str>> {
        self.one_in(4).then(|| self.pick(from).into())
    }

    fn ip(&mut self) -> IpAddr {
        self.pick(&["192.0.2.1", "192.0.2.2", "2001:db8::1"]).parse().unwrap()
    }
}

const DOMAINS: [&str; 3] = ["a.test", "b.test", "c.test"];
const NAMES: [&str; 3] = ["x", "y", "X"];
const QUEUES: [&str; 3] = ["x:y@a.test", "a.test", "x:@b.test!c.test"];
const ADDRESSES: [&str; 4] = ["u@a.test", "v@a.test", "u@b.test", "u@c.test"];

fn random_scope(random: &mut Random) -> Scope {
    let queues = if random.one_in(8) {
        (0..=random.below(2)).map(|_| Arc::from(random.pick(&QUEUES))).collect()
    } else {
        Vec::new()
    };
    Scope {
        pool: random.maybe(&NAMES),
        source_ip: random.one_in(6).then(|| random.ip()),
        domain: random.maybe(&DOMAINS),
        remote_ip: random.one_in(6).then(|| random.ip()),
        tag: random.maybe(&NAMES),
        campaign: random.maybe(&NAMES),
        tenant: random.maybe(&NAMES),
        routing_domain: random.one_in(8).then(|| random.pick(&DOMAINS).into()),
        queues: unique(queues).into(),
        path: random.one_in(8).then(|| random.pick(&NAMES).into()),
        address: random.one_in(8).then(|| random.pick(&ADDRESSES).into()),
    }
}

fn unique(mut names: Vec<Arc<str>>) -> Vec<Arc<str>> {
    names.sort();
    names.dedup();
    names
}

fn random_answer(random: &mut Random, codes: &[&str]) -> Answer {
    Answer::new(random.pick(codes).parse().unwrap(), None, "".into()).unwrap()
}

fn random_kind(random: &mut Random) -> Kind {
    match random.below(8) {
        0 => Kind::Suppression(random_answer(random, &["550"])),
        1 => Kind::Bounce { answer: random_answer(random, &["551"]), suppress_logging: random.one_in(2) },
        2..5 => Kind::Error(random_answer(random, &["250", "354", "450", "451", "550", "554"])),
        5 => Kind::Suspension { reason: "".into() },
        _ => Kind::Pause,
    }
}

fn random_validity(random: &mut Random) -> Validity {
    let (one, other) = (random.time(), random.time());
    match random.below(4) {
        0 => Validity::always(),
        1 => Validity::until(one),
        2 => Validity::between(one, other),
        _ => {
            let spans: Vec<Span> = (0..random.below(4))
                .map(|_| (random.time(), i64::try_from(random.below(40)).unwrap()))
                .map(|(start, long)| Span { start, end: Timestamp(start.0 + 1 + long) })
                .collect();
            let end = if random.one_in(2) { Timestamp::NEVER } else { other };
            Validity::windows(&spans, end).unwrap()
        }
    }
}

/// The rules in force by the definition: every one looked at.
#[derive(Default)]
struct Model {
    rules: BTreeMap<Arc<str>, Arc<Rule>>,
    suppressions: BTreeMap<String, Arc<Cause>>,
}

#[derive(Debug, PartialEq, Eq)]
enum Answered {
    Pass,
    Hold(Arc<str>, Timestamp),
    End(Arc<str>),
    Defer(Arc<str>),
}

fn names(scope: &Scope) -> usize {
    let given = [&scope.pool, &scope.domain, &scope.tag, &scope.campaign, &scope.tenant, &scope.routing_domain];
    given.into_iter().chain([&scope.path, &scope.address]).flatten().count()
        + scope.source_ip.iter().chain(&scope.remote_ip).count()
        + usize::from(!scope.queues.is_empty())
}

fn matches(scope: &Scope, facts: &Facts<'_>) -> bool {
    let text = |named: &Option<Arc<str>>, known: Option<&str>| named.as_deref().is_none_or(|n| known == Some(n));
    let lower = facts.message.map(|message| message.address.to_lowercase());
    let tags = facts.message.map_or(&[][..], |message| message.tags);
    text(&scope.pool, facts.bucket.pool)
        && text(&scope.domain, Some(facts.bucket.domain))
        && text(&scope.campaign, facts.bucket.campaign)
        && text(&scope.tenant, facts.bucket.tenant)
        && text(&scope.routing_domain, facts.bucket.routing_domain)
        && text(&scope.path, facts.path.path)
        && text(&scope.address, lower.as_deref())
        && (scope.queues.is_empty() || scope.queues.iter().any(|queue| &**queue == facts.bucket.queue))
        && scope.tag.as_deref().is_none_or(|named| tags.iter().any(|tag| &**tag == named))
        && scope.source_ip.is_none_or(|ip| facts.path.source_ip == Some(ip))
        && scope.remote_ip.is_none_or(|ip| facts.path.remote_ip == Some(ip))
}

/// Place of a kind in the contract's order, and whether the rule acts on waiting mail.
fn place(rule: &Rule) -> (u8, bool) {
    let by_attempt = rule.scope.pool.is_some()
        || rule.scope.source_ip.is_some()
        || rule.scope.remote_ip.is_some()
        || rule.scope.path.is_some();
    match &rule.kind {
        Kind::Suppression(_) => (0, !by_attempt),
        Kind::Bounce { .. } => (1, !by_attempt),
        Kind::Error(answer) if answer.code() >= 500 => (2, !by_attempt),
        Kind::Error(answer) if answer.code() < 400 => (3, !by_attempt),
        Kind::Error(_) => (4, false),
        Kind::Suspension { .. } | Kind::Pause => (5, true),
    }
}

fn span_at(validity: &Validity, now: Timestamp) -> Option<Span> {
    validity.spans().iter().copied().find(|span| span.start <= now && now < span.end)
}

impl Model {
    fn decide(&self, facts: &Facts<'_>, moment: Moment, now: Timestamp) -> Answered {
        if let Some(message) = facts.message
            && self.suppressions.contains_key(&message.address.to_lowercase())
        {
            return Answered::End(message.address.to_lowercase().into());
        }
        if self.suppressions.contains_key(facts.bucket.domain) {
            return Answered::End(facts.bucket.domain.into());
        }
        let mut found: Vec<(&Arc<Rule>, Span)> = self
            .rules
            .values()
            .filter(|rule| matches(&rule.scope, facts))
            .filter_map(|rule| Some((rule, span_at(&rule.validity, now)?)))
            .collect();
        found.sort_by_key(|(rule, _)| (place(rule).0, usize::MAX - names(&rule.scope), rule.order));
        if moment == Moment::Queued {
            // Whatever acts only at the attempt leaves the message alone, unless something ends it now.
            let ends_now = found.iter().any(|(rule, _)| place(rule).0 < 5 && place(rule).1);
            if !ends_now && found.iter().any(|(rule, _)| !place(rule).1) {
                return Answered::Pass;
            }
            found.retain(|(rule, _)| place(rule).1);
        }
        let Some((rule, _)) = found.first() else { return Answered::Pass };
        match place(rule).0 {
            5 => Answered::Hold(Arc::clone(&rule.id), found.iter().map(|(_, span)| span.end).max().unwrap()),
            4 => Answered::Defer(Arc::clone(&rule.id)),
            _ => Answered::End(Arc::clone(&rule.id)),
        }
    }
}

fn answered(decision: Decision<'_>, facts: &Facts<'_>) -> Answered {
    let address = facts.message.map_or_else(|| format!("@{}", facts.bucket.domain), |m| m.address.to_owned());
    match decision {
        Decision::Pass => Answered::Pass,
        Decision::Hold { rule, until } => Answered::Hold(Arc::clone(&rule.id), until),
        Decision::End(ruling) => Answered::End(ruling.mark(&address).id),
        Decision::Defer(ruling) => Answered::Defer(ruling.mark(&address).id),
    }
}

fn random_changes(random: &mut Random, model: &mut Model) -> Vec<Change> {
    (0..=random.below(12))
        .map(|_| match random.below(10) {
            0 => {
                let value = if random.one_in(4) { random.pick(&DOMAINS) } else { random.pick(&ADDRESSES) };
                let key = KEY.suppression(value);
                if random.one_in(2) {
                    let cause = Arc::new(Cause { answer: random_answer(random, &["550", "551"]), by: "t".into() });
                    model.suppressions.insert(value.to_owned(), Arc::clone(&cause));
                    Change::Suppress { key, cause }
                } else {
                    model.suppressions.remove(value);
                    Change::Unsuppress { key }
                }
            }
            1..4 => {
                let id: Arc<str> = format!("r{}", random.below(40)).into();
                model.rules.remove(&id);
                Change::Remove(id)
            }
            _ => {
                let order = random.below(40);
                let rule = Arc::new(Rule {
                    id: format!("r{order}").into(),
                    order,
                    kind: random_kind(random),
                    scope: random_scope(random),
                    validity: random_validity(random),
                    by: "t".into(),
                });
                model.rules.insert(Arc::clone(&rule.id), Arc::clone(&rule));
                Change::Put(rule)
            }
        })
        .collect()
}

fn random_facts<'a>(random: &mut Random, tags: &'a [Box<str>], upper: &'a str) -> Facts<'a> {
    let bucket = BucketFacts {
        domain: upper.split_once('@').unwrap().1,
        routing_domain: random.one_in(3).then(|| random.pick(&DOMAINS)),
        campaign: random.one_in(2).then(|| random.pick(&NAMES)),
        tenant: random.one_in(2).then(|| random.pick(&NAMES)),
        pool: random.one_in(2).then(|| random.pick(&NAMES)),
        queue: random.pick(&QUEUES),
    };
    let path = PathFacts {
        source_ip: random.one_in(2).then(|| random.ip()),
        path: random.one_in(2).then(|| random.pick(&NAMES)),
        remote_ip: random.one_in(3).then(|| random.ip()),
    };
    Facts { bucket, message: Some(MessageFacts { address: upper, tags, tag_hashes: &[] }), path }
}

fn check(table: &RuleTable, model: &Model, facts: &Facts<'_>, now: Timestamp, random: &mut Random) {
    let message_only = Facts { path: PathFacts::default(), ..*facts };
    let bucket_only = Facts { message: None, ..message_only };
    let bucket = table.bucket(&facts.bucket, now);
    for moment in [Moment::Queued, Moment::Attempt] {
        let expected = model.decide(&bucket_only, moment, now);
        assert_eq!(answered(bucket.decision(moment), &bucket_only), expected, "bucket, {moment:?}");
        // As the shard asks: with hashes of the tags that it made before.
        let tag_hashes = facts.message.map(|message| KEY.tags(message.tags)).unwrap_or_default();
        let hashed = Facts {
            message: facts.message.map(|message| MessageFacts { tag_hashes: &tag_hashes, ..message }),
            ..*facts
        };
        for known in [&message_only, facts, &hashed] {
            let expected = model.decide(known, moment, now);
            let verdict = table.verdict(known, moment, now);
            assert_eq!(answered(verdict.decision, known), expected, "{moment:?}");
            let staged = table.complete(&bucket, known, moment, now);
            assert_eq!(answered(staged.decision, known), expected, "completed, {moment:?}");
            assert_eq!(staged.stamp, verdict.stamp, "completed, {moment:?}");
            // Until the transition it names, the answer is the same.
            let later = Timestamp(now.0 + i64::try_from(random.below(HORIZON)).unwrap());
            if verdict.stamp.holds(table.epoch(), later) {
                assert_eq!(model.decide(known, moment, later), expected, "at {later:?} still, {moment:?}");
            }
        }
    }
    let mut covering: Vec<_> = Vec::new();
    table.covering(facts, |rule| covering.push(Arc::clone(&rule.id)));
    covering.sort();
    covering.dedup();
    let expected: Vec<_> =
        model.rules.values().filter(|rule| matches(&rule.scope, facts)).map(|rule| Arc::clone(&rule.id)).collect();
    let mut living: Vec<_> = expected.iter().filter(|id| table.rule(id).is_some()).cloned().collect();
    living.sort();
    assert_eq!(covering, living);
    assert!(expected.iter().all(|id| model.rules[id].scope.covers(facts)), "Scope::covers agrees");
}

fn run(seed: u64) {
    let mut random = Random(seed);
    let mut table = RuleTable::new(KEY);
    let mut model = Model::default();
    let mut now = Timestamp(0);
    for _ in 0..30 {
        // Mostly forward; now and then the clock is set back, while nothing has ended for good by then.
        now = if random.one_in(10) && model.rules.values().all(|rule| !rule.validity.ended(now)) {
            random.time()
        } else {
            Timestamp(now.0 + i64::try_from(random.below(20)).unwrap())
        };
        let changes = random_changes(&mut random, &mut model);
        let epoch = table.epoch() + 1 + random.below(3);
        table.apply(Update { after: table.epoch(), epoch, changes }, now).unwrap();
        if random.one_in(2) {
            let mut changed = Vec::new();
            while table.expire(now, 3, &mut changed) {}
            model.rules.retain(|_, rule| !rule.validity.ended(now));
            assert_eq!(table.len(), model.rules.len(), "kept to the end, and not beyond");
            let next = model.rules.values().map(|rule| rule.validity.at(now).next).min();
            assert_eq!(table.next_transition(), next.unwrap_or(Timestamp::NEVER));
        }
        for _ in 0..8 {
            let tags: Vec<Box<str>> = (0..random.below(4)).map(|_| random.pick(&NAMES).into()).collect();
            let address = random.pick(&ADDRESSES);
            let mixed = if random.one_in(2) { address.replacen(['u', 'v'], "U", 1) } else { address.to_owned() };
            let facts = random_facts(&mut random, &tags, &mixed);
            check(&table, &model, &facts, now, &mut random);
        }
    }
}

#[test]
fn answers_are_those_of_a_linear_scan() {
    for seed in 0..150 {
        let outcome = std::panic::catch_unwind(|| run(seed));
        assert!(outcome.is_ok(), "seed {seed}");
    }
}
