//! Flushes while mail of earlier runs is on its way into the queues.

use crate::world::{World, domain, peer, rule, seconds, settings};
use mailrace_shards::event::{Answer, Question};
use mailrace_shards::limits::FLUSHES_KEPT_MAX;
use mailrace_shards::message::{Extras, MessageId};
use mailrace_shards::outcome::RecordType;
use mailrace_shards::rules::{Change, Kind, Scope};
use std::time::Duration;

/// Starts before the one of the shards, and that one.
const EARLIER: u32 = 0;
const THIS: u32 = 1;

fn world() -> World {
    let mut world = World::new(settings());
    world.everything_at(&["a.test", "b.test"], &[("mx.hoster.test", peer(1))]);
    world
}

fn flush(world: &mut World, scope: Scope, found: bool) -> Answer {
    world.question(Question::Flush { scope, found }).try_recv().expect("a short queue")
}

/// A message of a start that is not due for an hour comes into the queue, with a tag.
fn post(world: &mut World, generation: u32, recipient: &str, tag: &str) -> MessageId {
    world.generation = generation;
    let due = world.now.utc.after(Duration::from_secs(3600));
    world.post_with(&[recipient], Extras { not_before: Some(due), tags: vec![tag.into()], ..Extras::default() })
}

fn is_delivered(world: &World, id: MessageId) -> bool {
    world.of_type(RecordType::Delivery).iter().any(|record| record.envelope.id() == id)
}

/// A flush missed what a start had found and not yet brought into the queues.
#[test]
fn mail_that_was_flushed_on_its_way_is_due_when_it_comes() {
    let mut world = world();
    let there = post(&mut world, EARLIER, "r@a.test", "x");
    assert!(matches!(flush(&mut world, domain("a.test"), true), Answer::Count(1)));
    let on_its_way = post(&mut world, EARLIER, "s@a.test", "x");
    let other = post(&mut world, EARLIER, "r@b.test", "x");
    let later = post(&mut world, THIS, "t@a.test", "x");
    world.run(seconds(5));
    let delivered = [there, on_its_way, other, later].map(|id| is_delivered(&world, id));
    assert_eq!(
        delivered,
        [true, true, false, false],
        "what is not covered waits, and so does what came after the flush"
    );
    // Once all that was found is there, nothing is kept.
    assert!(matches!(flush(&mut world, domain("b.test"), false), Answer::Count(1)));
    let stray = post(&mut world, EARLIER, "u@a.test", "x");
    world.run(seconds(5));
    assert_eq!([other, stray].map(|id| is_delivered(&world, id)), [true, false]);
}

#[test]
fn a_flush_by_a_tag_reaches_mail_on_its_way_and_a_pause_holds_it_all_the_same() {
    let mut world = world();
    world.put(rule("held", Kind::Pause, domain("a.test")));
    flush(&mut world, Scope { tag: Some("wanted".into()), ..Scope::default() }, true);
    let wanted = post(&mut world, EARLIER, "r@a.test", "wanted");
    let unwanted = post(&mut world, EARLIER, "s@b.test", "other");
    world.run(seconds(5));
    assert_eq!([wanted, unwanted].map(|id| is_delivered(&world, id)), [false, false]);
    world.change(&[Change::Remove("held".into())]);
    world.run(seconds(5));
    assert_eq!([wanted, unwanted].map(|id| is_delivered(&world, id)), [true, false]);
}

#[test]
fn more_flushes_than_are_kept_are_refused_and_none_is_kept_twice() {
    let mut world = world();
    for number in 0..FLUSHES_KEPT_MAX {
        assert!(matches!(flush(&mut world, domain(&format!("d{number}.test")), true), Answer::Count(0)));
    }
    assert!(matches!(flush(&mut world, domain("d0.test"), true), Answer::Count(0)), "it is known");
    assert!(matches!(flush(&mut world, domain("one.more.test"), true), Answer::Busy));
    assert!(matches!(flush(&mut world, domain("one.more.test"), false), Answer::Count(0)), "all is there");
    assert!(matches!(flush(&mut world, domain("one.more.test"), true), Answer::Count(0)));
}
