//! What needs no server: how revisions are put together, what errors mean, and hostile text.

use crate::cluster::etcd::assemble::Assembler;
use crate::cluster::etcd::verdict::{Verdict, verdict, watch_over};
use crate::cluster::etcd::wire::{self, Line, Watched};
use crate::cluster::etcd::{EtcdError, Event, Events, KeyValue, after_prefix};
use crate::mutation::{Random, Target, fuzz};

#[test]
fn the_end_of_a_prefix_is_the_next_key_that_does_not_begin_with_it() {
    for (prefix, end) in [
        (&b"/mailrace/"[..], &b"/mailrace0"[..]),
        (b"a", b"b"),
        (b"a\xff", b"b"),
        (b"a\xff\xff", b"b"),
        (b"\xff\xff", b"\0"),
        (b"", b"\0"),
    ] {
        assert_eq!(after_prefix(prefix), end, "{prefix:?}");
    }
}

#[test]
fn an_error_says_whether_it_may_be_done() {
    let again = Verdict::LogInAgain;
    let refused = |words: &str| Verdict::Is(EtcdError::Refused(words.to_owned()));
    let unknown = |words: &str| Verdict::Is(EtcdError::Unknown(words.to_owned()));
    let unreachable = |words: &str| Verdict::Is(EtcdError::Unreachable(words.to_owned()));
    for (code, words, expected) in [
        (16, "etcdserver: invalid auth token", again),
        (3, "etcdserver: revision of auth store is old", Verdict::LogInAgain),
        (3, "etcdserver: user name is empty", Verdict::LogInAgain),
        (7, "etcdserver: permission denied", refused("etcdserver: permission denied")),
        (3, "etcdserver: request is too large", refused("etcdserver: request is too large")),
        (8, "etcdserver: mvcc: database space exceeded", refused("etcdserver: mvcc: database space exceeded")),
        (8, "etcdserver: too many requests", refused("etcdserver: too many requests")),
        (5, "etcdserver: requested lease not found", refused("etcdserver: requested lease not found")),
        (11, "etcdserver: mvcc: required revision has been compacted", Verdict::Is(EtcdError::Compacted { oldest: 0 })),
        (14, "etcdserver: no leader", unreachable("etcdserver: no leader")),
        (14, "etcdserver: request timed out", unknown("etcdserver: request timed out")),
        (14, "etcdserver: leader changed", unknown("etcdserver: leader changed")),
        (4, "context deadline exceeded", unknown("context deadline exceeded")),
        (2, "anything", unknown("anything")),
        (99, "anything", unknown("anything")),
    ] {
        assert_eq!(verdict(code, words), expected, "{code} {words}");
    }
    // The end of a watch has changed nothing.
    assert_eq!(watch_over("etcdserver: leader changed"), unreachable("etcdserver: leader changed"));
}

fn event(revision: i64, number: usize) -> Event {
    let key = format!("/{number}").into_bytes();
    if number.is_multiple_of(3) {
        return Event::Delete { key, mod_revision: revision };
    }
    Event::Put(KeyValue { key, mod_revision: revision, ..KeyValue::default() })
}

#[test]
fn a_revision_is_handed_out_once_and_whole_however_the_answers_are_cut() {
    for seed in 0..2_000 {
        let mut random = Random(seed);
        let mut revision = 0;
        let expected: Vec<Events> = (0..random.below(20))
            .map(|_| {
                revision += 1 + random.below(3) as i64;
                let events = (0..=random.below(5)).map(|number| event(revision, number)).collect();
                Events { revision, events }
            })
            .collect();
        let all: Vec<Event> = expected.iter().flat_map(|events| events.events.clone()).collect();
        let ends: Vec<usize> = expected
            .iter()
            .scan(0, |at, events| {
                *at += events.events.len();
                Some(*at)
            })
            .collect();
        let (mut assembler, mut found, mut at) = (Assembler::default(), Vec::new(), 0);
        while at < all.len() {
            let to = (at + 1 + random.below(8)).min(all.len());
            // etcd ends an answer that is no fragment only where a revision ends.
            let fragment = !ends.contains(&to) || (to < all.len() && random.below(2) == 0);
            let watched = Watched { fragment, events: all[at..to].to_vec(), ..Watched::default() };
            found.extend(assembler.take(watched).unwrap());
            let whole = ends.iter().filter(|&&end| end <= to).count();
            assert!(found.len() <= whole, "seed {seed}: a revision before its end");
            assert!(found.len() + 1 >= whole, "seed {seed}: only the newest may wait");
            assert!(fragment || found.len() == whole, "seed {seed}: a whole one waits");
            at = to;
        }
        assert_eq!(found, expected, "seed {seed}");
    }
}

#[test]
fn a_revision_without_an_end_is_an_error() {
    let mut assembler = Assembler::default();
    let part = || {
        let kv = KeyValue { value: vec![0; 1 << 20], mod_revision: 7, ..KeyValue::default() };
        Watched { fragment: true, events: vec![Event::Put(kv)], ..Watched::default() }
    };
    let taken = (0..100).take_while(|_| assembler.take(part()).is_ok()).count();
    assert!((1..=16).contains(&taken), "{taken} MiB");
}

#[test]
fn numbers_come_as_strings_or_as_numbers_and_unknown_members_do_not_matter() {
    let text = br#"{"result":{"header":{"revision":5,"raft_term":"2"},"new":[{}],"events":[
        {"kv":{"key":"YQ==","mod_revision":"5","lease":"9223372036854775807"},"prev_kv":{"key":"YQ=="}},
        {"type":"DELETE","kv":{"key":"Yg==","mod_revision":5}}]}}"#;
    let Ok(Line::Said(watched)) = wire::watched(text) else { panic!("it is one") };
    let [Event::Put(kv), Event::Delete { key, mod_revision: 5 }] = &watched.events[..] else { panic!("{watched:?}") };
    assert_eq!((&kv.key[..], kv.lease.map(|lease| lease.0), &key[..]), (&b"a"[..], Some(i64::MAX), &b"b"[..]));
    assert!(wire::watched(br#"{"result":{"events":[{"type":"MOVE","kv":{"key":"YQ=="}}]}}"#).is_err());
    assert_eq!(wire::refusal(b"{}"), None);
    assert_eq!(wire::refusal(br#"{"error":"a","message":"b","code":3}"#), Some((3, "b".to_owned())));
    assert_eq!(wire::refusal(br#"{"error":"a","code":3}"#), Some((3, "a".to_owned())));
    let stream = br#"{"error":{"grpc_code":16,"http_code":401,"message":"c"}}"#;
    assert_eq!(wire::refusal(stream), Some((16, "c".to_owned())));
}

#[test]
fn whatever_a_member_says() {
    let words: &[&[u8]] = &[
        b"{",
        b"}",
        b"[",
        b"]",
        b",",
        b"\"",
        b"\"kvs\":",
        b"\"events\":",
        b"\"result\":",
        b"\"error\":",
        b"\"type\":",
        b"\"DELETE\"",
        b"\"fragment\":true",
        b"\"9223372036854775808\"",
        b"\"-1\"",
        b"-1",
        b"1e9",
        b"null",
        b"\"TTL\":",
        b"\"responses\":",
        b"\"response_put\":{}",
        b"\"L2E=\"",
        b"\"L2E\"",
        b"\\u0000",
        b"\xff",
    ];
    fuzz(&Target { name: "etcd", words, check: check_answer });
}

/// Nothing panics, and what a watch hands out is in order.
fn check_answer(input: &[u8]) {
    let _ = (wire::page(input), wire::txn_answer(input), wire::granted(input), wire::token(input));
    let _ = (wire::kept_alive(input).is_ok(), wire::refusal(input));
    let mut assembler = Assembler::default();
    let mut newest = 0;
    for line in input.split(|&octet| octet == b'\n') {
        let Ok(Line::Said(watched)) = wire::watched(line) else { continue };
        let Ok(whole) = assembler.take(watched) else { return };
        for events in whole {
            assert!(events.revision >= newest && !events.events.is_empty());
            assert!(events.events.iter().all(|event| event.revision() == events.revision));
            newest = events.revision;
        }
    }
}
