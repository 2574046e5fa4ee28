//! The rule table against the contracts: precedence, expiry, updates, who keeps what. Suppressions are
//! in `pure_suppressions.rs`, the comparison with a plain linear scan in `pure_rules_model.rs`.

#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

use mailrace_shards::limits::{RULE_CHANGES_MAX, RULE_SPANS_MAX};
use mailrace_shards::message::CoreId;
use mailrace_shards::outcome::RecordType;
use mailrace_shards::route::{lane_owner, owner};
use mailrace_shards::rules::{
    Answer, BadAnswer, BadValidity, BucketFacts, Cause, Change, Decision, EpochGap, Facts, HashKey, Kind, MessageFacts,
    Moment, PathFacts, Phase, Rule, RuleTable, Scope, Span, Transition, Update, Validity, concerns,
    concerns_suppression,
};
use mailrace_shards::time::Timestamp;
use std::sync::Arc;

const KEY: HashKey = HashKey(0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210);
const NOW: Timestamp = Timestamp(1_000_000);

fn answer(code: u16) -> Answer {
    Answer::new(code, None, "by rule".into()).unwrap()
}

fn bounce() -> Kind {
    Kind::Bounce { answer: answer(551), suppress_logging: false }
}

fn suspension() -> Kind {
    Kind::Suspension { reason: "maintenance".into() }
}

fn rule(id: &str, order: u64, kind: Kind, scope: Scope, validity: Validity) -> Arc<Rule> {
    Arc::new(Rule { id: id.into(), order, kind, scope, validity, by: "token".into() })
}

fn domain(name: &str) -> Scope {
    Scope { domain: Some(name.into()), ..Scope::default() }
}

fn tag(name: &str) -> Scope {
    Scope { tag: Some(name.into()), ..Scope::default() }
}

fn put(table: &mut RuleTable, rules: impl IntoIterator<Item = Arc<Rule>>) {
    change(table, rules.into_iter().map(Change::Put).collect());
}

fn change(table: &mut RuleTable, changes: Vec<Change>) {
    let after = table.epoch();
    table.apply(Update { after, epoch: after + 3, changes }, NOW).unwrap();
}

fn table_of(rules: impl IntoIterator<Item = Arc<Rule>>) -> RuleTable {
    let mut table = RuleTable::new(KEY);
    put(&mut table, rules);
    table
}

/// A message to `someone@a.test` of the campaign, tenant and routing domain given by its queue's parts.
fn facts<'a>(tags: &'a [Box<str>]) -> Facts<'a> {
    Facts {
        bucket: BucketFacts { domain: "a.test", pool: Some("default"), queue: "a.test", ..BucketFacts::default() },
        message: Some(MessageFacts { address: "Someone@a.test", tags, tag_hashes: &[] }),
        path: PathFacts::default(),
    }
}

fn acting(table: &RuleTable, facts: &Facts<'_>, moment: Moment, now: Timestamp) -> String {
    let address = facts.message.map_or("", |message| message.address);
    match table.verdict(facts, moment, now).decision {
        Decision::Pass => "pass".into(),
        Decision::Hold { rule, .. } => format!("hold {}", rule.id),
        Decision::End(ruling) => format!("end {}", ruling.mark(address).id),
        Decision::Defer(ruling) => format!("defer {}", ruling.mark(address).id),
    }
}

#[test]
fn kinds_win_in_the_order_of_the_contract() {
    // In the order in which they must win, although made in the opposite order of age.
    let kinds = [
        ("suppression", Kind::Suppression(answer(550)), "end suppression"),
        ("bounce", bounce(), "end bounce"),
        ("forced-5xx", Kind::Error(answer(554)), "end forced-5xx"),
        ("forced-2xx", Kind::Error(answer(250)), "end forced-2xx"),
        ("forced-4xx", Kind::Error(answer(451)), "defer forced-4xx"),
        ("suspension", suspension(), "hold suspension"),
    ];
    let mut rules: Vec<_> = (0_u64..)
        .zip(&kinds)
        .map(|(n, (id, kind, _))| rule(id, 100 - n, kind.clone(), domain("a.test"), Validity::always()))
        .collect();
    for (_, _, expected) in &kinds {
        let table = table_of(rules.clone());
        assert_eq!(acting(&table, &facts(&[]), Moment::Attempt, NOW), *expected);
        rules.remove(0);
    }
}

#[test]
fn forced_3xx_ranks_with_2xx_and_pause_with_suspension() {
    let always = Validity::always;
    let table = table_of([
        rule("3xx", 1, Kind::Error(answer(354)), domain("a.test"), always()),
        rule("2xx", 2, Kind::Error(answer(250)), domain("a.test"), always()),
    ]);
    assert_eq!(acting(&table, &facts(&[]), Moment::Queued, NOW), "end 3xx");
    let table = table_of([
        rule("pause", 1, Kind::Pause, domain("a.test"), always()),
        rule("suspension", 2, suspension(), domain("a.test"), always()),
    ]);
    assert_eq!(acting(&table, &facts(&[]), Moment::Queued, NOW), "hold pause");
}

#[test]
fn within_a_kind_more_fields_win_then_age() {
    let tags: [Box<str>; 1] = ["spring".into()];
    let narrow = Scope { tag: Some("spring".into()), ..domain("a.test") };
    let rules = [
        rule("wide-old", 1, bounce(), tag("spring"), Validity::always()),
        rule("narrow-young", 9, bounce(), narrow.clone(), Validity::always()),
        rule("narrow-old", 5, bounce(), narrow, Validity::always()),
        rule("everything", 0, bounce(), Scope::default(), Validity::always()),
    ];
    let mut table = table_of(rules);
    for expected in ["narrow-old", "narrow-young", "wide-old", "everything"] {
        assert_eq!(acting(&table, &facts(&tags), Moment::Queued, NOW), format!("end {expected}"));
        change(&mut table, vec![Change::Remove(expected.into())]);
    }
    assert!(table.is_empty());
}

#[test]
fn each_field_matches_its_value_and_no_other() {
    let one: Arc<str> = "x".into();
    let ip = Some("192.0.2.1".parse().unwrap());
    let named = Scope::default;
    let scopes = [
        Scope { pool: Some(one.clone()), ..named() },
        Scope { source_ip: ip, ..named() },
        Scope { domain: Some(one.clone()), ..named() },
        Scope { remote_ip: ip, ..named() },
        Scope { tag: Some(one.clone()), ..named() },
        Scope { campaign: Some(one.clone()), ..named() },
        Scope { tenant: Some(one.clone()), ..named() },
        Scope { routing_domain: Some(one.clone()), ..named() },
        Scope { queues: [Arc::from("other"), one.clone()].into(), ..named() },
        Scope { path: Some(one.clone()), ..named() },
        Scope { address: Some(one), ..named() },
    ];
    let tags: [Box<str>; 2] = ["y".into(), "x".into()];
    let all = |text: &'static str, tags, ip: &str| Facts {
        bucket: BucketFacts {
            domain: text,
            routing_domain: Some(text),
            campaign: Some(text),
            tenant: Some(text),
            pool: Some(text),
            queue: text,
        },
        message: Some(MessageFacts { address: text, tags, tag_hashes: &[] }),
        path: PathFacts {
            source_ip: Some(ip.parse().unwrap()),
            path: Some(text),
            remote_ip: Some(ip.parse().unwrap()),
        },
    };
    for scope in scopes {
        let table = table_of([rule("r", 1, Kind::Pause, scope.clone(), Validity::always())]);
        let act = |facts: Facts<'_>| acting(&table, &facts, Moment::Attempt, NOW);
        assert_eq!(act(all("x", &tags, "::ffff:192.0.2.1")), "hold r", "{scope:?}");
        assert_eq!(act(all("z", &tags[..1], "192.0.2.2")), "pass", "{scope:?}");
        assert_eq!(act(Facts::default()), "pass", "{scope:?}: what is not known does not match");
    }
}

#[test]
fn rules_that_wait_for_the_attempt_neither_end_nor_hold_before_it() {
    let pooled = Scope { pool: Some("default".into()), ..Scope::default() };
    let cases = [
        ("a 5xx by pool", Kind::Error(answer(550)), pooled.clone(), "end r"),
        ("a 4xx by domain", Kind::Error(answer(450)), domain("a.test"), "defer r"),
    ];
    for (name, kind, scope, at_attempt) in cases {
        let mut table = table_of([rule("r", 1, kind, scope, Validity::always())]);
        assert_eq!(acting(&table, &facts(&[]), Moment::Queued, NOW), "pass", "{name}");
        put(&mut table, [rule("pause", 2, Kind::Pause, domain("a.test"), Validity::always())]);
        assert_eq!(acting(&table, &facts(&[]), Moment::Queued, NOW), "pass", "{name} wins over a pause");
        assert_eq!(acting(&table, &facts(&[]), Moment::Attempt, NOW), at_attempt, "{name}");
    }
    let table = table_of([
        rule("by-pool", 1, Kind::Error(answer(550)), pooled, Validity::always()),
        rule("by-domain", 2, Kind::Error(answer(550)), domain("a.test"), Validity::always()),
    ]);
    assert_eq!(acting(&table, &facts(&[]), Moment::Queued, NOW), "end by-domain");
    assert_eq!(acting(&table, &facts(&[]), Moment::Attempt, NOW), "end by-pool");
}

#[test]
fn a_bucket_is_held_as_a_whole_unless_an_attempt_could_end_or_defer_some_of_it() {
    let pooled = Scope { pool: Some("default".into()), ..tag("t") };
    let by_path = Scope { path: Some("ip-1->a.test@smtp_client".into()), ..Scope::default() };
    let cases = [
        ("alone", None, true),
        ("a pause by tag", Some((Kind::Pause, tag("t"))), true),
        ("a bounce by tag is swept", Some((bounce(), tag("t"))), true),
        ("a 5xx by path: no attempt is made", Some((Kind::Error(answer(550)), by_path)), true),
        ("a 4xx by tag", Some((Kind::Error(answer(450)), tag("t"))), false),
        ("a 5xx by pool and tag", Some((Kind::Error(answer(550)), pooled)), false),
        ("a 4xx over the bucket", Some((Kind::Error(answer(450)), domain("a.test"))), false),
        ("a bounce of the bucket", Some((bounce(), domain("a.test"))), false),
    ];
    let bucket = facts(&[]).bucket;
    for (name, other, whole) in cases {
        let until = NOW.after_ms(10);
        let mut table = table_of([rule("pause", 1, Kind::Pause, domain("a.test"), Validity::until(until))]);
        let key = KEY.suppression("someone@a.test");
        let cause = Arc::new(Cause { answer: answer(550), by: "list".into() });
        change(&mut table, vec![Change::Suppress { key, cause }]);
        put(&mut table, other.map(|(kind, scope)| rule("other", 2, kind, scope, Validity::always())));
        let verdict = table.bucket(&bucket, NOW);
        let held = verdict.whole_hold().map(|(rule, until)| (&*rule.id, until));
        assert_eq!(held, whole.then_some(("pause", until)), "{name}");
        assert!(verdict.per_message, "{name}: there is a suppressed address");
        change(&mut table, vec![Change::Remove("other".into())]);
        assert!(table.bucket(&bucket, NOW).whole_hold().is_some(), "{name}, taken away");
    }
}

#[test]
fn held_until_the_last_holding_rule_goes() {
    let table = table_of([
        rule("short", 1, Kind::Pause, domain("a.test"), Validity::until(NOW.after_ms(10))),
        rule("long", 2, suspension(), Scope::default(), Validity::until(NOW.after_ms(500))),
        rule("later", 3, Kind::Pause, domain("a.test"), Validity::between(NOW.after_ms(700), Timestamp::NEVER)),
    ]);
    let facts = facts(&[]);
    let verdict = table.verdict(&facts, Moment::Queued, NOW);
    let Decision::Hold { rule, until } = verdict.decision else { panic!("{verdict:?}") };
    assert_eq!((&*rule.id, until, verdict.next_transition()), ("short", NOW.after_ms(500), NOW.after_ms(10)));
    for (after_ms, expected) in
        [(9, "hold short"), (10, "hold long"), (499, "hold long"), (500, "pass"), (699, "pass"), (700, "hold later")]
    {
        assert_eq!(acting(&table, &facts, Moment::Queued, NOW.after_ms(after_ms)), expected, "after {after_ms} ms");
    }
}

trait AfterMs {
    fn after_ms(self, ms: i64) -> Self;
}

impl AfterMs for Timestamp {
    fn after_ms(self, ms: i64) -> Self {
        Self(self.0 + ms)
    }
}

// ── what upstream gets wrong (KumoMTA dialect, last section, point 3) ─────────────────────────────────

#[test]
fn an_expired_rule_that_covers_everything_no_longer_matches_and_needs_no_call_for_it() {
    let table = table_of([rule("all", 1, suspension(), Scope::default(), Validity::until(NOW.after_ms(100)))]);
    assert_eq!(acting(&table, &facts(&[]), Moment::Queued, NOW.after_ms(99)), "hold all");
    assert_eq!(acting(&table, &facts(&[]), Moment::Queued, NOW.after_ms(100)), "pass", "and expire was never called");
}

#[test]
fn a_bounce_that_names_all_four_criteria_matches_mail_that_arrives_later() {
    let scope = Scope {
        campaign: Some("C".into()),
        tenant: Some("T".into()),
        routing_domain: Some("r.test".into()),
        ..domain("a.test")
    };
    let table = table_of([rule("b", 1, bounce(), scope, Validity::until(NOW.after_ms(1000)))]);
    let mut later = facts(&[]);
    later.bucket.campaign = Some("C");
    later.bucket.tenant = Some("T");
    later.bucket.routing_domain = Some("r.test");
    later.bucket.queue = "C:T@a.test!r.test";
    assert_eq!(acting(&table, &later, Moment::Queued, NOW.after_ms(999)), "end b");
    later.bucket.tenant = Some("t");
    assert_eq!(acting(&table, &later, Moment::Queued, NOW.after_ms(999)), "pass", "a tenant keeps its case");
}

#[test]
fn one_queues_bounce_verdict_is_never_given_to_another_queues_mail() {
    let scope = Scope { campaign: Some("C".into()), ..domain("a.test") };
    let table = table_of([rule("b", 1, bounce(), scope, Validity::always())]);
    let bucket = |campaign| BucketFacts { domain: "a.test", campaign, queue: "q", ..BucketFacts::default() };
    let covered = table.bucket(&bucket(Some("C")), NOW);
    let other = table.bucket(&bucket(Some("D")), NOW);
    let none = table.bucket(&bucket(None), NOW);
    assert!(matches!(covered.decision(Moment::Queued), Decision::End(_)));
    assert!(matches!(other.decision(Moment::Queued), Decision::Pass));
    assert!(matches!(none.decision(Moment::Queued), Decision::Pass));
}

// ── time ──────────────────────────────────────────────────────────────────────────────────────────────

fn phases(changed: &[Transition]) -> Vec<(String, Phase)> {
    changed.iter().map(|change| (change.rule.id.to_string(), change.phase)).collect()
}

#[test]
fn windows_open_and_close_and_the_end_removes() {
    let span = |from, to| Span { start: NOW.after_ms(from), end: NOW.after_ms(to) };
    let windows = Validity::windows(&[span(30, 40), span(10, 20), span(15, 25)], NOW.after_ms(50)).unwrap();
    assert_eq!(windows.spans(), [span(10, 25), span(30, 40)], "overlapping spans are one");
    let mut table = table_of([rule("w", 1, Kind::Pause, domain("a.test"), windows)]);
    let steps = [
        (9, "pass", None, 10),
        (10, "hold w", Some(Phase::Began), 25),
        (24, "hold w", None, 25),
        (25, "pass", Some(Phase::Lapsed), 30),
        (39, "hold w", Some(Phase::Began), 40),
        (40, "pass", Some(Phase::Lapsed), 50),
        (50, "pass", Some(Phase::Ended), i64::MAX - NOW.0),
    ];
    for (ms, expected, phase, next) in steps {
        let now = NOW.after_ms(ms);
        assert_eq!(acting(&table, &facts(&[]), Moment::Queued, now), expected, "at {ms}, before the tick");
        let mut changed = Vec::new();
        assert!(!table.expire(now, 16, &mut changed));
        assert_eq!(phases(&changed), phase.map(|phase| ("w".to_owned(), phase)).into_iter().collect::<Vec<_>>());
        assert_eq!(acting(&table, &facts(&[]), Moment::Queued, now), expected, "at {ms}, after the tick");
        assert_eq!(table.next_transition(), NOW.after_ms(next), "at {ms}");
    }
    assert!(table.is_empty(), "the end removes it");
}

#[test]
fn running_out_of_windows_does_not_drop_a_rule_without_an_end() {
    let span = Span { start: NOW, end: NOW.after_ms(10) };
    let validity = Validity::windows(&[span], Timestamp::NEVER).unwrap();
    let mut table = table_of([rule("w", 1, Kind::Pause, domain("a.test"), validity)]);
    let mut changed = Vec::new();
    table.expire(NOW.after_ms(1_000_000), 16, &mut changed);
    assert_eq!(phases(&changed), [("w".to_owned(), Phase::Lapsed)]);
    assert!(table.rule("w").is_some());
}

#[test]
fn expiry_removes_no_more_than_its_budget_and_lookups_do_not_wait_for_it() {
    let rules = (0..100_u64).map(|n| {
        let scope = domain(&format!("d{n}.test"));
        rule(&format!("r{n}"), n, Kind::Pause, scope, Validity::until(NOW.after_ms(5)))
    });
    let mut table = table_of(rules);
    let now = NOW.after_ms(5);
    let mut changed = Vec::new();
    assert!(table.expire(now, 40, &mut changed));
    assert_eq!((changed.len(), table.len()), (40, 60));
    assert!(table.next_transition() <= now, "not caught up");
    for n in 0..100 {
        let name = format!("d{n}.test");
        let bucket = BucketFacts { domain: &name, queue: &name, ..BucketFacts::default() };
        assert!(matches!(table.bucket(&bucket, now).decision(Moment::Queued), Decision::Pass));
    }
    assert!(table.expire(now, 40, &mut changed));
    assert!(!table.expire(now, 40, &mut changed));
    assert!(table.is_empty() && table.next_transition() == Timestamp::NEVER);
}

#[test]
fn a_clock_set_back_brings_a_lapsed_rule_back_into_force() {
    let span = |from, to| Span { start: NOW.after_ms(from), end: NOW.after_ms(to) };
    let windows = Validity::windows(&[span(10, 20), span(1000, 2000)], Timestamp::NEVER).unwrap();
    let mut table = table_of([rule("w", 1, Kind::Pause, domain("a.test"), windows)]);
    let mut changed = Vec::new();
    table.expire(NOW.after_ms(500), 16, &mut changed);
    assert_eq!(table.next_transition(), NOW.after_ms(1000));
    let stamp = table.verdict(&facts(&[]), Moment::Queued, NOW.after_ms(500)).stamp;
    let back = NOW.after_ms(15);
    assert!(!stamp.holds(table.epoch(), back), "an answer of the future is stale");
    changed.clear();
    let mut turns = 0;
    while table.expire(back, 64, &mut changed) {
        assert!(table.next_transition() <= back, "answers are not trusted while the agenda is made anew");
        turns += 1;
    }
    assert!((2..64).contains(&turns), "in slices: {turns}");
    assert_eq!(phases(&changed), [("w".to_owned(), Phase::Began)]);
    assert_eq!(table.next_transition(), NOW.after_ms(20));
    assert_eq!(acting(&table, &facts(&[]), Moment::Queued, back), "hold w");
}

#[test]
fn bad_validities_and_answers_are_refused() {
    let span = Span { start: NOW, end: NOW };
    assert_eq!(Validity::windows(&[span], Timestamp::NEVER), Err(BadValidity::Empty(span)));
    let many = vec![Span { start: NOW, end: NOW.after_ms(1) }; RULE_SPANS_MAX + 1];
    assert_eq!(Validity::windows(&many, Timestamp::NEVER), Err(BadValidity::TooMany(RULE_SPANS_MAX + 1)));
    assert!(Validity::windows(&many[1..], Timestamp::NEVER).is_ok());
    for (code, accepted) in [(199, false), (200, true), (599, true), (600, false)] {
        let made = Answer::new(code, None, "".into());
        assert_eq!(made.err(), (!accepted).then_some(BadAnswer(code)));
    }
    assert!(!Validity::between(NOW, NOW).at(NOW).in_force, "over before it begins");
}

// ── updates ───────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn updates_must_follow_each_other() {
    let mut table = RuleTable::new(KEY);
    let pause = rule("p", 1, Kind::Pause, Scope::default(), Validity::always());
    let update = |after, epoch| Update { after, epoch, changes: vec![Change::Put(Arc::clone(&pause))] };
    assert_eq!(table.apply(update(4, 5), NOW), Err(EpochGap { at: 0, after: 4, epoch: 5 }), "one was lost");
    assert!(table.is_empty() && table.epoch() == 0, "nothing of it was applied");
    assert_eq!(table.apply(update(0, 5), NOW), Ok(()), "numbers that concerned other cores are left out");
    assert_eq!(table.apply(update(0, 5), NOW), Err(EpochGap { at: 5, after: 0, epoch: 5 }), "repeated");
    assert_eq!(table.apply(update(5, 5), NOW), Err(EpochGap { at: 5, after: 5, epoch: 5 }), "does not move");
    assert_eq!(table.apply(update(5, 6), NOW), Ok(()));
    assert_eq!(table.epoch(), 6);
}

#[test]
fn an_update_makes_earlier_answers_stale() {
    let mut table = RuleTable::new(KEY);
    let before = table.verdict(&facts(&[]), Moment::Attempt, NOW).stamp;
    assert!(before.holds(table.epoch(), NOW));
    put(&mut table, [rule("p", 1, Kind::Pause, tag("t"), Validity::always())]);
    assert!(!before.holds(table.epoch(), NOW));
}

#[test]
fn a_rule_put_again_replaces_the_one_with_its_id_in_every_place() {
    let queues = Scope { queues: [Arc::from("a.test"), "b.test".into()].into(), ..Scope::default() };
    let mut table = table_of([rule("r", 1, Kind::Pause, queues, Validity::until(NOW.after_ms(10)))]);
    assert_eq!(acting(&table, &facts(&[]), Moment::Queued, NOW), "hold r");
    put(&mut table, [rule("r", 1, Kind::Pause, domain("c.test"), Validity::always())]);
    assert_eq!((table.len(), table.next_transition()), (1, Timestamp::NEVER));
    assert_eq!(acting(&table, &facts(&[]), Moment::Queued, NOW), "pass");
    change(&mut table, vec![Change::Remove("r".into()), Change::Remove("unknown".into())]);
    assert!(table.is_empty());
}

#[test]
#[should_panic(expected = "splits what is larger")]
fn an_update_beyond_its_bound_is_our_bug() {
    let changes = vec![Change::Remove("r".into()); RULE_CHANGES_MAX + 1];
    let _ = RuleTable::new(KEY).apply(Update { after: 0, epoch: 1, changes }, NOW);
}

#[test]
fn rules_by_domain_or_address_are_kept_by_the_domains_lanes_and_others_by_all() {
    let cores = 5;
    let lanes = |domain: &str| if domain == "big.test" { 2 } else { 1 };
    let keepers = |scope: &Scope| -> Vec<CoreId> {
        (0..cores).map(CoreId).filter(|core| concerns(*core, cores.into(), scope, lanes)).collect()
    };
    let everywhere: Vec<CoreId> = (0..cores).map(CoreId).collect();
    let home = vec![owner("a.test", cores.into())];
    let address = Scope { address: Some("someone@a.test".into()), ..tag("t") };
    assert_eq!(keepers(&domain("a.test")), home);
    assert_eq!(keepers(&address), home);
    let mut both = vec![lane_owner("big.test", 0, cores.into()), lane_owner("big.test", 1, cores.into())];
    both.sort();
    assert_eq!(keepers(&domain("big.test")), both);
    let others = [
        Scope::default(),
        tag("t"),
        Scope { routing_domain: Some("a.test".into()), ..Scope::default() },
        Scope { queues: [Arc::from("a.test")].into(), ..Scope::default() },
    ];
    for scope in others {
        assert_eq!(keepers(&scope), everywhere, "{scope:?}");
    }
    for value in ["a.test", "someone@a.test"] {
        let kept: Vec<CoreId> =
            (0..cores).map(CoreId).filter(|core| concerns_suppression(*core, cores.into(), value, lanes)).collect();
        assert_eq!(kept, home, "{value}");
    }
}

#[test]
fn each_kind_makes_the_record_of_the_contract() {
    let cases = [
        (Kind::Suppression(answer(550)), Some(RecordType::Suppression), "suppression"),
        (bounce(), Some(RecordType::AdminBounce), "bounce"),
        (Kind::Error(answer(500)), Some(RecordType::Bounce), "error"),
        (Kind::Error(answer(250)), Some(RecordType::Bounce), "error"),
        (Kind::Error(answer(399)), Some(RecordType::Bounce), "error"),
        (Kind::Error(answer(400)), Some(RecordType::TransientFailure), "error"),
        (Kind::Error(answer(499)), Some(RecordType::TransientFailure), "error"),
        (suspension(), None, "suspension"),
        (Kind::Pause, None, "pause"),
    ];
    for (kind, record, name) in cases {
        assert_eq!((kind.record(), kind.as_str()), (record, name), "{kind:?}");
    }
}
