//! What the control side asks of the queue: exact where there is time, at once where somebody waits.

use crate::world::{Behaviour, World, peer, seconds, settings};
use mailrace_shards::event::{Answer, Coverage, Question, ReplyTo};
use mailrace_shards::limits::{ASK_ENTRIES_PER_TICK, ASKS_MAX};
use mailrace_shards::rules::{Kind, Rule, Scope, Validity};
use std::sync::mpsc::{Receiver, channel};

/// A shard with so much mail for `a.test`, all of it held.
fn holding(count: usize) -> World {
    let mut world = World::new(settings());
    world.everything_at(&["a.test"], &[("mx.hoster.test", peer(1))]);
    let (scope, validity) = (scope(), Validity::always());
    world.put(Rule { id: "p".into(), order: 1, kind: Kind::Pause, scope, validity, by: "tester".into() });
    for _ in 0..count {
        world.post(&["r@a.test"]);
    }
    world.run(seconds(1));
    world
}

fn scope() -> Scope {
    Scope { domain: Some("a.test".into()), ..Scope::default() }
}

fn ask(world: &mut World, question: Question) -> Receiver<Answer> {
    let (sender, receiver) = channel();
    let now = world.now;
    world
        .ask(0, |shard| shard.handle_question(question, ReplyTo::new(move |answer| sender.send(answer).unwrap()), now));
    receiver
}

fn coverage(answer: &Receiver<Answer>) -> Coverage {
    match answer.try_recv() {
        Ok(Answer::Covered(coverage)) => coverage,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_short_queue_is_counted_at_once_and_exactly() {
    let mut world = holding(100);
    for question in [Question::Covered(scope()), Question::CoveredAtOnce(scope())] {
        let found = coverage(&ask(&mut world, question));
        assert_eq!((found.matched, found.held, found.counting), (100, 100, false));
    }
}

/// A rule call waited for as many ticks as the queue was deep, and behind every question that came before it; beyond
/// [`ASKS_MAX`] of these its `in_flight` was not even counted.
#[test]
fn whoever_made_a_rule_never_waits_for_a_long_queue() {
    let count = ASK_ENTRIES_PER_TICK * 2 + 100;
    let mut world = holding(count);
    let walks: Vec<_> = (0..ASKS_MAX).map(|_| ask(&mut world, Question::Covered(scope()))).collect();
    assert!(matches!(ask(&mut world, Question::Covered(scope())).try_recv(), Ok(Answer::Busy)));
    let found = coverage(&ask(&mut world, Question::CoveredAtOnce(scope())));
    assert_eq!((found.matched, found.counting), (ASK_ENTRIES_PER_TICK as u64, true));
    assert!(walks.iter().all(|answer| answer.try_recv().is_err()), "a walk over the queue was not a walk");
    world.run(seconds(5));
    let found = coverage(&walks[0]);
    assert_eq!((found.matched, found.held, found.counting), (count as u64, count as u64, false));
}

/// The answer to a suspension of one egress path named what was in flight on every other as well.
#[test]
fn in_flight_is_what_is_on_the_path_that_the_rule_names() {
    let mut world = World::new(settings());
    for (domain, host, number) in [("a.test", "mx.a.test", 1), ("b.test", "mx.b.test", 2)] {
        world.everything_at(&[domain], &[(host, peer(number))]);
        world.hosts.insert(peer(number), Behaviour::Silent);
    }
    world.post(&["r@a.test"]);
    world.post(&["r@b.test"]);
    world.run(seconds(1));
    let path = |host: &str| Scope { path: Some(format!("unspecified->{host}@smtp_client").into()), ..Scope::default() };
    let remote = |number| Scope { remote_ip: Some(peer(number).ip()), ..Scope::default() };
    let cases = [
        (Scope::default(), 2),
        (path("mx.a.test"), 1),
        (path("mx.b.test"), 1),
        (path("mx.c.test"), 0),
        (remote(2), 1),
        (remote(3), 0),
        (Scope { domain: Some("a.test".into()), ..path("mx.b.test") }, 0),
    ];
    for (scope, expected) in cases {
        for question in [Question::Covered(scope.clone()), Question::CoveredAtOnce(scope.clone())] {
            assert_eq!(coverage(&ask(&mut world, question)).in_flight, expected, "{scope:?}");
        }
    }
}
