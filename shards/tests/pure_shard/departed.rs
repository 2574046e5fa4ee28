//! Rules that end mail, and are gone while mail of earlier runs is on its way into the queues.

use crate::world::{KEY, World, answer, domain, peer, rule, seconds, settings};
use mailrace_shards::message::{Extras, MessageId};
use mailrace_shards::outcome::RecordType::{self, AdminBounce, Bounce, Delivery, Suppression};
use mailrace_shards::rules::{Cause, Change, Kind, Rule, Scope, Validity};
use std::sync::Arc;
use std::time::Duration;

/// Starts before the one of the shards, and that one.
const EARLIER: u32 = 0;
const THIS: u32 = 1;

/// One whose shards expect mail of earlier runs.
fn world() -> World {
    let mut world = World::new(settings());
    world.everything_at(&["a.test", "b.test"], &[("mx.hoster.test", peer(1))]);
    (0..world.shards.len()).for_each(|core| world.ask(core, |shard| shard.expect_found()));
    world
}

/// A message of a start comes into the queue, with a tag.
fn post(world: &mut World, generation: u32, recipients: &[&str], tag: &str) -> MessageId {
    world.generation = generation;
    world.post_with(recipients, Extras { tags: vec![tag.into()], ..Extras::default() })
}

fn kinds(world: &World, id: MessageId) -> Vec<RecordType> {
    world.story(id).into_iter().map(|(kind, ..)| kind).collect()
}

fn bounce() -> Kind {
    Kind::Bounce { answer: answer(551), suppress_logging: false }
}

fn tag(tag: &str) -> Scope {
    Scope { tag: Some(tag.into()), ..Scope::default() }
}

fn remove(world: &mut World, id: &str) {
    world.change(&[Change::Remove(id.into())]);
}

/// A bounce that was answered while the mail was queued, and taken away before it was read from the spool, ended none of it.
#[test]
fn mail_on_its_way_ends_by_a_rule_that_is_gone_when_it_comes() {
    let mut world = world();
    world.put(rule("bounced", bounce(), domain("a.test")));
    let there = post(&mut world, EARLIER, &["r@a.test"], "x");
    remove(&mut world, "bounced");
    let on_its_way = post(&mut world, EARLIER, &["s@a.test"], "x");
    let other = post(&mut world, EARLIER, &["s@b.test"], "x");
    let later = post(&mut world, THIS, &["t@a.test"], "x");
    world.run(seconds(5));
    assert_eq!([there, on_its_way].map(|id| kinds(&world, id)), [[AdminBounce], [AdminBounce]]);
    assert_eq!([other, later].map(|id| kinds(&world, id)), [[Delivery], [Delivery]], "neither was meant");
    // Once all that was found is there, nothing is kept.
    (0..world.shards.len()).for_each(|core| world.ask(core, |shard| shard.handle_all_found()));
    world.put(rule("again", bounce(), domain("b.test")));
    remove(&mut world, "again");
    let strays = ["u@a.test", "u@b.test"].map(|recipient| post(&mut world, EARLIER, &[recipient], "x"));
    world.run(seconds(5));
    assert_eq!(strays.map(|id| kinds(&world, id)), [[Delivery], [Delivery]]);
}

#[test]
fn whatever_ends_mail_at_once_is_kept_however_it_goes_and_nothing_else() {
    let mut world = world();
    let now = world.now.utc;
    let until = |from: u64, to: u64| {
        let at = |seconds| now.after(Duration::from_secs(seconds));
        Validity::between(at(from), at(to))
    };
    let timed = |id: &str, from, to| Rule { validity: until(from, to), ..rule(id, bounce(), tag(id)) };
    world.put(timed("expired", 0, 1));
    world.put(timed("began", 1, 2));
    world.put(timed("never", 100, 200));
    world.put(rule("error", Kind::Error(answer(554)), tag("error")));
    world.put(rule("paused", Kind::Pause, tag("paused")));
    world.put(rule("deferred", Kind::Error(answer(450)), tag("deferred")));
    let of_path = Scope { source_ip: Some([127, 0, 0, 9].into()), ..tag("path") };
    world.put(rule("path", Kind::Error(answer(554)), of_path));
    // The same rule, from then on for later.
    world.put(rule("moved", bounce(), tag("moved")));
    world.put(timed("moved", 100, 200));
    let key = KEY.suppression("gone@b.test");
    let cause = Arc::new(Cause { answer: answer(550), by: "t".into() });
    world.change(&[Change::Suppress { key, cause }]);
    world.run(seconds(3));
    ["never", "error", "paused", "deferred", "path"].iter().for_each(|id| remove(&mut world, id));
    world.change(&[Change::Unsuppress { key }]);
    // Over before it came here.
    world.put(timed("over", 0, 1));
    world.run(seconds(1));
    let table: [(&str, &[RecordType]); 10] = [
        ("expired", &[AdminBounce]),
        ("began", &[AdminBounce]),
        ("never", &[Delivery]),
        ("error", &[Bounce]),
        ("paused", &[Delivery]),
        ("deferred", &[Delivery]),
        ("path", &[Delivery]),
        ("moved", &[AdminBounce]),
        ("over", &[Delivery]),
        ("none", &[Delivery]),
    ];
    let ids = table.map(|(tag, _)| post(&mut world, EARLIER, &["r@a.test"], tag));
    let two = post(&mut world, EARLIER, &["gone@b.test", "stays@b.test"], "none");
    world.run(seconds(5));
    for ((tag, expected), id) in table.into_iter().zip(ids) {
        assert_eq!(kinds(&world, id), expected, "{tag}");
    }
    let mut of_two = kinds(&world, two);
    of_two.sort_unstable_by_key(|kind| format!("{kind:?}"));
    assert_eq!(of_two, [Delivery, Suppression], "each recipient by itself");
}

/// Whoever keeps the rules takes one away that is over, which may be before a shard's tick comes to its end.
#[test]
fn a_rule_that_goes_between_its_end_and_the_next_tick_is_kept() {
    let mut world = world();
    let validity = Validity::between(world.now.utc, world.now.utc.after(seconds(1)));
    world.put(Rule { validity, ..rule("short", bounce(), domain("a.test")) });
    world.run(Duration::from_millis(900));
    world.now = world.now.after(Duration::from_millis(200));
    remove(&mut world, "short");
    let on_its_way = post(&mut world, EARLIER, &["r@a.test"], "x");
    world.run(seconds(5));
    assert_eq!(kinds(&world, on_its_way), [AdminBounce]);
}
