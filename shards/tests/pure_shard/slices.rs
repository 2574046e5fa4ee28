//! Long work in slices: how much of it a tick does, what is left to the next one, and what goes when nobody needs it.

use crate::world::{Behaviour, World, own, peer, reply, rule, seconds, settings};
use mailrace_shards::event::Lookup;
use mailrace_shards::limits::{DESTINATION_KEPT_SECONDS, PICK_SKIPS, SWEEP_ENTRIES_PER_TICK, TICK_MILLIS};
use mailrace_shards::message::Extras;
use mailrace_shards::outcome::RecordType::{Bounce, Delivery, TransientFailure};
use mailrace_shards::outcome::Verb;
use mailrace_shards::rules::{Answer, Change, Kind, Rule, Scope, Span, Validity};
use mailrace_shards::settings::{LimitPer, LimitSettings, Settings};
use mailrace_shards::smtp::classify::{DnsFailure, FailureKind};
use mailrace_shards::time::Timestamp;
use std::time::Duration;

const TICK: Duration = Duration::from_millis(TICK_MILLIS);
/// Two slices and a bit.
const MANY: usize = 2 * SWEEP_ENTRIES_PER_TICK + 100;

fn error() -> Kind {
    Kind::Error(Answer::new(551, None, "by order".into()).unwrap())
}

fn tag() -> Scope {
    Scope { tag: Some("slow".into()), ..Scope::default() }
}

fn tagged() -> Extras {
    Extras { tags: vec!["slow".into()], ..Extras::default() }
}

/// Mail that a rule over its tag holds.
fn held() -> World {
    let mut world = World::new(settings());
    world.everything_at(&["a.test"], &[("mx.a.test", peer(1))]);
    world.hosts.insert(peer(1), Behaviour::Sluggish(seconds(600)));
    world.put(rule("p", Kind::Pause, tag()));
    for _ in 0..MANY {
        world.post_with(&["r@a.test"], tagged());
    }
    world.run(seconds(20));
    assert_eq!(world.states(), (0, 0, MANY as u64, 0));
    world
}

/// What `count` says after each of three ticks.
fn ticks(world: &mut World, count: impl Fn(&World) -> usize) -> [usize; 3] {
    [(); 3].map(|()| {
        world.run(TICK);
        count(world)
    })
}

const SLICES: [usize; 3] = [SWEEP_ENTRIES_PER_TICK, 2 * SWEEP_ENTRIES_PER_TICK, MANY];

#[test]
fn what_a_rule_held_is_released_in_slices() {
    let mut world = held();
    world.change(&[Change::Remove("p".into())]);
    assert_eq!(world.states().2, MANY as u64, "not at once");
    assert_eq!(ticks(&mut world, |world| MANY - world.states().2 as usize), SLICES);
}

#[test]
fn what_a_rule_ends_is_ended_in_slices() {
    let mut world = held();
    world.put(rule("e", error(), tag()));
    assert_eq!(ticks(&mut world, |world| world.of_type(Bounce).len()), SLICES);
    assert_eq!(world.states(), (0, 0, 0, 0));
    assert_eq!(world.shards[0].counters().ended_by_rule, MANY as u64);
}

/// A rule that comes while the queue is gone through has it gone through once more, from the beginning.
#[test]
fn of_two_rules_that_come_one_after_the_other_the_second_reaches_all_mail_too() {
    let mut world = World::new(settings());
    world.everything_at(&["a.test"], &[("mx.a.test", peer(1))]);
    world.put(rule("p", Kind::Pause, Scope { domain: Some("a.test".into()), ..Scope::default() }));
    for number in 0..MANY {
        let other = Extras { tags: vec!["other".into()], ..Extras::default() };
        world.post_with(&["r@a.test"], if number % 2 == 0 { tagged() } else { other });
    }
    world.put(rule("e", error(), tag()));
    world.run(TICK);
    world.put(rule("f", error(), Scope { tag: Some("other".into()), ..Scope::default() }));
    world.run(2 * TICK);
    // The first slice knew nothing of the second rule.
    assert_eq!(world.of_type(Bounce).len(), MANY - SWEEP_ENTRIES_PER_TICK / 2);
    world.run(TICK);
    assert_eq!((world.of_type(Bounce).len(), world.states()), (MANY, (0, 0, 0, 0)));
}

#[test]
fn mail_whose_destination_fails_is_failed_in_slices_and_what_comes_later_is_not() {
    let mut world = World::new(settings());
    world.dns.insert("a.test".into(), Err(own(FailureKind::Dns(DnsFailure::NoSuchDomain), Verb::None)));
    for _ in 0..MANY {
        world.post(&["r@a.test"]);
    }
    world.run(TICK);
    assert_eq!((world.lookups.len(), world.of_type(Bounce).len()), (1, SLICES[0]));
    world.everything_at(&["a.test"], &[("mx.a.test", peer(1))]);
    let later = world.post(&["r@a.test"]);
    world.run(TICK);
    assert_eq!((world.lookups.len(), world.of_type(Bounce).len()), (1, SLICES[1]));
    world.run(TICK);
    assert_eq!((world.lookups.len(), world.of_type(Bounce).len()), (2, SLICES[2]));
    world.run(seconds(1));
    assert!(world.lookups.iter().all(|lookup| matches!(lookup, Lookup::MailHosts(_))));
    assert_eq!(world.story(later), [(Delivery, 250, 1)]);
}

/// A destination without mail is forgotten after a while, and with it what was known of it; one message more, and it stays.
#[test]
fn an_empty_destination_is_forgotten_in_time() {
    let mut world = World::new(settings());
    let known = |world: &World| world.shards[0].queue().destination_ids().len();
    let kept = seconds(DESTINATION_KEPT_SECONDS);
    world.post(&["r@a.test"]);
    world.run(seconds(1));
    world.run(kept - seconds(2));
    assert_eq!((world.delivered(), known(&world)), (1, 1));
    world.post(&["r@a.test"]);
    world.run(seconds(1));
    world.run(kept - seconds(2));
    assert_eq!((world.delivered(), known(&world)), (2, 1), "it was used meanwhile");
    world.run(seconds(3));
    assert_eq!(known(&world), 0);
    world.post(&["r@b.test"]);
    world.run(seconds(1));
    assert_eq!((known(&world), world.delivered()), (1, 3));
}

/// A release is paced: it begins with half the connections of before.
#[test]
fn a_release_begins_with_half_the_connections_of_before() {
    let mut world = World::new(Settings {
        limits: vec![LimitSettings { idle_timeout: Some(seconds(1)), ..LimitSettings::new(LimitPer::Path) }],
        ..settings()
    });
    world.everything_at(&["a.test"], &[("mx.a.test", peer(1))]);
    world.hosts.insert(peer(1), Behaviour::Sluggish(Duration::from_millis(200)));
    for _ in 0..1500 {
        world.post(&["r@a.test"]);
    }
    world.run(seconds(5));
    let before = world.shards[0].open_sessions();
    assert!(before > 16, "{before} sessions");
    world.put(rule("p", Kind::Pause, Scope { domain: Some("a.test".into()), ..Scope::default() }));
    world.run(seconds(10));
    let (delivered, connects) = (world.delivered(), world.connects.len());
    assert_eq!(world.shards[0].open_sessions(), 0);
    world.change(&[Change::Remove("p".into())]);
    world.run(Duration::from_millis(90));
    let begun = world.connects.len() - connects;
    assert!(begun > 1 && begun <= before / 2, "{begun} connections at once, {before} before");
    world.run(seconds(60));
    assert!(world.delivered() > delivered && world.states() == (0, 0, 0, 0));
}

/// A rule that begins by time, and ends mail on its ways, wins over a hold that was there before.
#[test]
fn mail_that_is_held_is_looked_at_when_a_rule_over_attempts_begins() {
    let mut world = World::new(settings());
    world.everything_at(&["a.test"], &[("mx.a.test", peer(1))]);
    world.put(rule("p", Kind::Pause, tag()));
    let id = world.post_with(&["r@a.test"], tagged());
    let begins = world.now.utc.after(seconds(5));
    let validity = Validity::windows(&[Span { start: begins, end: Timestamp::NEVER }], Timestamp::NEVER).unwrap();
    let remote = Scope { remote_ip: Some(peer(1).ip()), ..Scope::default() };
    world.put(Rule { order: 2, validity, ..rule("e", error(), remote) });
    world.run(seconds(4));
    assert_eq!((world.story(id), world.states()), (vec![], (0, 0, 1, 0)));
    world.run(seconds(2));
    assert_eq!(world.story(id), [(Bounce, 551, 0)]);
}

/// What a host says of one message is no reason to leave it alone; that it does not answer is.
#[test]
fn a_host_that_ends_a_session_is_not_left_alone_for_it() {
    for (failure, rests) in [(reply(421, Verb::MailFrom), false), (own(FailureKind::Lost, Verb::MailFrom), true)] {
        let mut world = World::new(settings());
        world.everything_at(&["a.test"], &[("mx.a.test", peer(1))]);
        world.hosts.insert(peer(1), Behaviour::Breaks(failure));
        let first = world.post(&["r@a.test"]);
        while world.sent.is_empty() {
            world.run(TICK);
        }
        world.hosts.clear();
        let second = world.post(&["r@a.test"]);
        world.run(Duration::from_millis(500));
        assert_eq!(world.story(first).first().map(|of| of.0), Some(TransientFailure));
        assert_eq!(world.story(second).is_empty(), rests);
        world.run(seconds(2));
        assert_eq!(world.story(second), [(Delivery, 250, 1)]);
    }
}

/// Two domains whose only host cannot be reached have both made their attempt when it has failed.
#[test]
fn all_domains_of_a_site_that_fails_have_made_their_attempt() {
    let mut world = World::new(settings());
    let domains = ["a.test", "b.test", "c.test"];
    world.everything_at(&domains, &[("mx.hoster.test", peer(1))]);
    world.hosts.insert(peer(1), Behaviour::Slow(own(FailureKind::ConnectRefused, Verb::Connect), seconds(1)));
    let ids = domains.map(|domain| world.post(&[&format!("r@{domain}")]));
    world.run(Duration::from_millis(1200));
    assert_eq!(ids.map(|id| world.story(id)), [(); 3].map(|()| vec![(TransientFailure, 451, 1)]));
    assert_eq!(world.connects.len(), 1);
}

/// Each recipient is counted once, by what became of it.
#[test]
fn recipients_are_counted_by_what_became_of_them() {
    let mut world = World::new(settings());
    world.everything_at(&["a.test"], &[("mx.a.test", peer(1))]);
    world.hosts.insert(peer(1), Behaviour::Picky);
    let last = Extras { max_attempts: Some(1), ..Extras::default() };
    let all = ["good1@a.test", "good2@a.test", "bad1@a.test", "bad2@a.test", "bad3@a.test", "later@a.test"];
    world.post(&all);
    world.post_with(&all, last);
    world.run(seconds(1));
    let counters = world.shards[0].counters();
    assert_eq!((counters.delivered, counters.bounced, counters.deferred), (4, 3 + 4, 1));
    let expires = world.now.utc.after(seconds(10));
    for _ in 0..3 {
        world.post_with(&["later1@a.test", "later2@a.test"], Extras { expires: Some(expires), ..Extras::default() });
    }
    world.run(seconds(20));
    let counters = world.shards[0].counters();
    assert_eq!((counters.deferred, counters.expired, counters.connections > 0), (7, 6, true));
}

/// Of two hosts one is closed by a rule: no connection is made to it for mail that may not go there.
#[test]
fn no_connection_is_made_to_a_host_that_a_rule_closes() {
    let mut world = World::new(settings());
    world.everything_at(&["a.test"], &[("mx1.a.test", peer(1)), ("mx2.a.test", peer(2))]);
    world.put(rule("p", Kind::Pause, Scope { remote_ip: Some(peer(1).ip()), ..Scope::default() }));
    for _ in 0..5 {
        world.post(&["r@a.test"]);
        world.run(Duration::from_millis(100));
    }
    assert_eq!(world.delivered(), 5);
    assert!(world.connects.iter().all(|(_, connect)| connect.peer == peer(2)));
    // Without the rule the first is tried first.
    world.run(seconds(10));
    world.change(&[Change::Remove("p".into())]);
    world.post(&["r@a.test"]);
    world.run(seconds(1));
    assert_eq!(world.connects.last().unwrap().1.peer, peer(1));
}

/// Another connection is opened for each four messages that wait.
#[test]
fn connections_are_opened_by_the_number_of_messages_that_wait() {
    let mut world = World::new(settings());
    world.everything_at(&["a.test"], &[("mx.a.test", peer(1))]);
    world.hosts.insert(peer(1), Behaviour::Distant(seconds(5)));
    let mut opened = Vec::new();
    for _ in 0..18 {
        world.post(&["r@a.test"]);
        world.run(2 * TICK);
        opened.push(world.connects.len());
    }
    assert_eq!(opened, [1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5]);
}

/// An ending rule that begins by time ends what waits, without an attempt.
#[test]
fn mail_that_waits_is_ended_when_an_ending_rule_begins() {
    let mut world = World::new(settings());
    world.everything_at(&["a.test"], &[("mx.a.test", peer(1))]);
    world.put(rule("p", Kind::Pause, Scope { domain: Some("a.test".into()), ..Scope::default() }));
    let (covered, other) = (world.post_with(&["r@a.test"], tagged()), world.post(&["r@a.test"]));
    let begins = world.now.utc.after(seconds(5));
    let validity = Validity::windows(&[Span { start: begins, end: Timestamp::NEVER }], Timestamp::NEVER).unwrap();
    world.put(Rule { order: 2, validity, ..rule("e", error(), tag()) });
    world.run(seconds(4));
    assert_eq!(world.story(covered), []);
    world.run(seconds(2));
    assert_eq!((world.story(covered), world.story(other)), (vec![(Bounce, 551, 0)], vec![]));
}

/// The log is settled when all that was recorded is durable.
#[test]
fn a_log_is_settled_when_its_last_record_is_durable() {
    let mut world = World::new(settings());
    world.syncs = false;
    assert!(world.shards[0].log_settled());
    world.post(&["r@a.test"]);
    world.post(&["r@a.test"]);
    world.run(seconds(1));
    assert_eq!((world.delivered(), world.shards[0].log_settled()), (2, false));
    let now = world.now;
    world.ask(0, |shard| shard.handle_log_synced(1, now));
    assert!(!world.shards[0].log_settled(), "one of two");
    world.ask(0, |shard| shard.handle_log_synced(2, now));
    assert!(world.shards[0].log_settled());
}

/// What a rule leaves no way is held in slices too, however much there is of it.
#[test]
fn mail_whose_ways_are_all_closed_is_held_in_slices() {
    let mut world = World::new(settings());
    world.everything_at(&["a.test"], &[("mx.a.test", peer(1))]);
    world.put(rule("p", Kind::Pause, Scope { remote_ip: Some(peer(1).ip()), ..Scope::default() }));
    for _ in 0..10 * PICK_SKIPS {
        world.post(&["r@a.test"]);
    }
    let (mut held, mut most) = (0, 0);
    for _ in 0..20 {
        world.run(TICK);
        most = most.max(world.states().2 - held);
        held = world.states().2;
    }
    assert_eq!(held, 10 * PICK_SKIPS as u64);
    assert!(most <= 2 * PICK_SKIPS as u64, "{most} in one tick");
}
