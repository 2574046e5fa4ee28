//! Suppressions in bulk: what they match, what they say, and what they cost.

#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

use mailrace_shards::outcome::RecordType;
use mailrace_shards::route::owner;
use mailrace_shards::rules::{
    Answer, BucketFacts, Cause, Change, Decision, Facts, HashKey, Kind, MessageFacts, Moment, Rule, RuleTable, Scope,
    Suppressions, Update, Validity, concerns_suppression,
};
use mailrace_shards::time::Timestamp;
use std::sync::Arc;

const KEY: HashKey = HashKey(0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210);
const NOW: Timestamp = Timestamp(1_000_000);

fn answer(code: u16) -> Answer {
    Answer::new(code, None, "on the list".into()).unwrap()
}

fn change(table: &mut RuleTable, changes: Vec<Change>) {
    let after = table.epoch();
    table.apply(Update { after, epoch: after + 1, changes }, NOW).unwrap();
}

fn to(address: &str) -> Facts<'_> {
    let domain = address.rsplit_once('@').unwrap().1;
    let bucket = BucketFacts { domain, queue: domain, ..BucketFacts::default() };
    Facts { bucket, message: Some(MessageFacts { address, ..MessageFacts::default() }), ..Facts::default() }
}

/// What ends a message to the address.
fn ended_by(table: &RuleTable, address: &str) -> Option<String> {
    match table.verdict(&to(address), Moment::Queued, NOW).decision {
        Decision::End(ruling) => Some(ruling.mark(address).id.to_string()),
        _ => None,
    }
}

fn cause(code: u16, by: &str) -> Arc<Cause> {
    Arc::new(Cause { answer: answer(code), by: by.into() })
}

#[test]
fn suppressions_match_addresses_in_any_case_and_exactly_their_domain() {
    let suppress = |value: &str, code| Change::Suppress { key: KEY.suppression(value), cause: cause(code, "list") };
    let mut table = RuleTable::new(KEY);
    change(&mut table, vec![suppress("someone@a.test", 550), suppress("b.test", 551)]);
    let cases = [
        ("someone@a.test", Some("someone@a.test")),
        ("SomeOne@a.test", Some("someone@a.test")),
        ("someone.else@a.test", None),
        ("anyone@b.test", Some("b.test")),
        ("anyone@sub.b.test", None),
        ("b.test@c.test", None),
    ];
    for (address, expected) in cases {
        assert_eq!(ended_by(&table, address).as_deref(), expected, "{address}");
    }
    let verdict = table.verdict(&to("someone@a.test"), Moment::Queued, NOW);
    let Decision::End(ruling) = verdict.decision else { panic!("{verdict:?}") };
    let mark = ruling.mark("Someone@a.test");
    assert_eq!((mark.kind, &*mark.by, ruling.answer().code()), ("suppression", "list", 550));
    assert_eq!(ruling.record(), RecordType::Suppression);
    change(&mut table, vec![Change::Unsuppress { key: KEY.suppression("SOMEONE@a.test") }]);
    assert_eq!(ended_by(&table, "someone@a.test"), None);
}

/// Quotes that are not needed make no other mailbox (RFC 5321 §4.1.2).
#[test]
fn a_suppressed_address_is_not_mailed_because_it_is_quoted() {
    let suppress = |value: &str| Change::Suppress { key: KEY.suppression(value), cause: cause(550, "list") };
    let mut table = RuleTable::new(KEY);
    change(&mut table, vec![suppress("anna@a.test"), suppress("\"an na\"@a.test"), suppress("\"a.\\b\"@b.test")]);
    let cases = [
        ("\"anna\"@a.test", Some("anna@a.test")),
        ("\"A\\nna\"@a.test", Some("anna@a.test")),
        ("\"an\\ na\"@a.test", Some("\"an na\"@a.test")),
        ("\"an na\"@a.test", Some("\"an na\"@a.test")),
        ("a.b@b.test", Some("a.b@b.test")),
        ("\"anna\\@\"@a.test", None),
        ("\"anna \"@a.test", None),
        ("\"\"@a.test", None),
        ("\"anna\"@b.test", None),
    ];
    for (address, expected) in cases {
        assert_eq!(ended_by(&table, address).as_deref(), expected, "{address}");
    }
}

/// An entry has no capitals, a literal in an address has (RFC 5321 §4.1.3).
#[test]
fn a_suppression_of_an_address_literal_is_where_its_mail_is() {
    for cores in 1..9 {
        for number in 0..20 {
            let domain = format!("[IPv6:2001:db8::{number:x}]");
            let value = format!("u@{}", domain.to_lowercase());
            let kept = concerns_suppression(owner(&domain, cores), cores, &value, |_| 1);
            assert!(kept, "{domain} on {cores} cores");
        }
    }
}

#[test]
fn a_suppression_wins_over_every_rule() {
    let bounce = Kind::Bounce { answer: answer(551), suppress_logging: false };
    let rule = Rule {
        id: "b".into(),
        order: 1,
        kind: bounce,
        scope: Scope::default(),
        validity: Validity::always(),
        by: "token".into(),
    };
    let mut table = RuleTable::new(KEY);
    change(&mut table, vec![Change::Put(Arc::new(rule))]);
    assert_eq!(ended_by(&table, "someone@a.test").as_deref(), Some("b"));
    change(&mut table, vec![Change::Suppress { key: KEY.suppression("a.test"), cause: cause(550, "list") }]);
    assert_eq!(ended_by(&table, "someone@a.test").as_deref(), Some("a.test"));
}

#[test]
fn a_hundred_thousand_suppressions_stay_below_48_octets_each() {
    let mut list = Suppressions::new(KEY);
    let causes = [cause(550, "one"), cause(551, "two")];
    for n in 0..100_000_usize {
        list.put(KEY.suppression(&format!("user{n}@example.test")), &causes[n % 2]);
        if n > 20_000 && n % 1000 == 0 {
            let octets = list.memory();
            assert!((list.len() * 20..=list.len() * 48).contains(&octets), "{octets} octets for {}", list.len());
        }
    }
    assert_eq!(list.len(), 100_000);
    for n in 0..100_000_usize {
        let key = KEY.suppression(&format!("user{n}@example.test"));
        assert_eq!(list.find(key).map(|cause| cause.answer.code()), Some(if n % 2 == 0 { 550 } else { 551 }));
        assert!(n % 2 == 0 || list.remove(key));
    }
    assert_eq!(list.len(), 50_000);
    assert!(list.find(KEY.suppression("user1@example.test")).is_none());
}

#[test]
fn what_a_suppression_says_can_be_overwritten_and_its_place_is_used_again() {
    let mut list = Suppressions::new(KEY);
    let key = KEY.suppression("someone@a.test");
    list.put(key, &cause(550, "first"));
    let before = list.memory();
    for round in 0..10_000_u16 {
        let by = format!("token{round}");
        list.put(key, &cause(500 + round % 100, &by));
        assert_eq!(&*list.find(key).unwrap().by, by);
    }
    assert_eq!(list.len(), 1);
    assert!(list.memory() < before + 131_072, "{} octets after {before}", list.memory());
    // Causes that are kept all occupy their places.
    let before = list.memory();
    for number in 0..100_000 {
        list.put(KEY.suppression(&format!("user{number}@a.test")), &cause(550, &format!("token{number}")));
    }
    let each = (list.memory() - before) / 100_000;
    assert!((50..=120).contains(&each), "{each} octets for a suppression with a cause of its own");
    for number in 0..100_000 {
        assert!(list.remove(KEY.suppression(&format!("user{number}@a.test"))));
    }
    assert!(list.remove(key) && !list.remove(key) && list.is_empty());
}
