//! Places for connections: the descriptors that a core may have for deliveries, and who stands in line for one.

use crate::limits::with;
use crate::world::{Behaviour, World, own, peer, seconds, settings};
use mailrace_shards::event::Connect;
use mailrace_shards::outcome::RecordType::Delivery;
use mailrace_shards::outcome::Verb;
use mailrace_shards::settings::{ConnectionSettings, LimitPer, LimitSettings, Rate, Settings};
use mailrace_shards::smtp::classify::FailureKind;
use mailrace_shards::time::Now;
use std::sync::Arc;
use std::time::Duration;

/// The process has so many descriptors: deliveries keep to their share, and all mail gets its turn, whatever else
/// limits it and however long idle connections might be kept.
#[test]
fn connections_keep_to_the_engines_share_of_descriptors() {
    let rate = Some(Rate { count: 50, period: seconds(1) });
    let cases = [
        vec![],
        vec![LimitSettings { idle_timeout: Some(seconds(3600)), ..LimitSettings::new(LimitPer::Path) }],
        vec![LimitSettings { connections: Some(2), connection_rate: rate, ..LimitSettings::new(LimitPer::Path) }],
    ];
    for limits in cases {
        for cores in [1, 2] {
            let connections = ConnectionSettings { injecting: 1, delivering: 3 * cores };
            let mut world = World::with_cores(Settings { connections, ..with(limits.clone()) }, cores);
            let domains: Vec<String> = (0..40).map(|number| format!("d{number}.test")).collect();
            for (number, domain) in (1..).zip(&domains) {
                world.everything_at(&[domain], &[("mx.a.test", peer(number)), ("mx.b.test", peer(100 + number))]);
                // Some take long, and some first hosts do not answer.
                if number % 4 == 0 {
                    world.hosts.insert(peer(number), Behaviour::Sluggish(seconds(1)));
                } else if number % 4 == 1 {
                    let failure = own(FailureKind::ConnectRefused, Verb::Connect);
                    world.hosts.insert(peer(number), Behaviour::Unreachable(failure));
                }
            }
            for domain in domains.iter().chain(&domains).chain(&domains) {
                world.post(&[&format!("r@{domain}")]);
            }
            world.run(seconds(120));
            assert_eq!((world.delivered(), world.states()), (120, (0, 0, 0, 0)), "{cores} cores, {limits:?}");
            assert!(world.most_open <= 3 * cores, "{cores} cores, {limits:?}: {} connections", world.most_open);
        }
    }
}

/// Whoever has nothing to carry leaves its place to those in line, though it became idle after they had lined up.
#[test]
fn nobody_stays_idle_while_others_stand_in_line() {
    let connections = ConnectionSettings { injecting: 1, delivering: 1 };
    let patient = LimitSettings { idle_timeout: Some(seconds(3600)), ..LimitSettings::new(LimitPer::Path) };
    let mut world = World::new(Settings { connections, ..with(vec![patient]) });
    for number in 0..8 {
        world.post(&[&format!("r@d{number}.test")]);
    }
    world.run(seconds(5));
    assert_eq!((world.delivered(), world.most_open), (8, 1));
}

/// One that ends makes room for the next in line, which may end as well, and be the last of its site.
#[test]
fn those_in_line_may_end_with_the_one_before_them() {
    let connections = ConnectionSettings { injecting: 1, delivering: 1 };
    let mut world = World::new(Settings { connections, ..settings() });
    world.ttl = Some(seconds(2));
    world.everything_at(&["a.test"], &[("mx.old.test", peer(1))]);
    let failure = own(FailureKind::ConnectTimedOut, Verb::Connect);
    world.hosts.insert(peer(1), Behaviour::Slow(failure, seconds(10)));
    for _ in 0..100 {
        world.post(&["r@a.test"]);
        world.run(Duration::from_millis(10));
    }
    assert!(world.shards[0].open_sessions() > 1, "some stand in line");
    // Meanwhile its mail goes elsewhere.
    world.everything_at(&["a.test"], &[("mx.new.test", peer(2))]);
    world.run(seconds(3));
    world.post(&["r@a.test"]);
    world.run(seconds(60));
    assert_eq!((world.delivered(), world.states()), (101, (0, 0, 0, 0)));
}

/// An idle session that is to end for another's sake may wait for a rate, and then nobody else comes to end it.
#[test]
fn a_session_that_waits_for_a_rate_does_not_keep_its_place_for_ever() {
    let connections = ConnectionSettings { injecting: 1, delivering: 1 };
    let rate = Some(Rate { count: 1, period: Duration::from_secs(3600) });
    let slow =
        LimitSettings { message_rate: rate, messages_per_connection: Some(1), ..LimitSettings::new(LimitPer::Path) };
    let mut world = World::new(Settings { connections, ..with(vec![slow]) });
    world.everything_at(&["a.test"], &[("mx.a.test", peer(1))]);
    world.everything_at(&["b.test"], &[("mx.b.test", peer(2))]);
    // The second one's session finds no token; b.test lines up behind it.
    world.post(&["r@a.test"]);
    world.post(&["r@a.test"]);
    world.run(seconds(1));
    world.post(&["r@b.test"]);
    world.run(Duration::from_millis(500));
    let now = world.now;
    let settings = Settings { connections, ..with(vec![]) };
    world.ask(0, |shard| shard.handle_reload(Arc::new(settings), now));
    world.run(seconds(20));
    assert_eq!((world.delivered(), world.states()), (3, (0, 0, 0, 0)));
}

/// Leave is given at the rate, and where no descriptor is free those who have it stand in line: when places become free at
/// last, they must not all connect at once.
#[test]
fn connections_that_waited_for_a_place_keep_to_the_rate() {
    for cores in [1, 2] {
        let rate = Some(Rate { count: 1, period: seconds(1) });
        let slow = LimitSettings { connection_rate: rate, ..LimitSettings::new(LimitPer::Source) };
        let connections = ConnectionSettings { injecting: 1, delivering: 3 * cores };
        let mut world = World::with_cores(Settings { connections, ..with(vec![slow]) }, cores);
        let domains: Vec<String> = (0..40).map(|number| format!("d{number}.test")).collect();
        for (number, domain) in (1..).zip(&domains) {
            world.everything_at(&[domain], &[(&format!("mx.{domain}"), peer(number))]);
            // Those that come first have all places for long.
            if number <= 10 {
                world.hosts.insert(peer(number), Behaviour::Sluggish(seconds(30)));
            }
            world.post(&[&format!("r@{domain}")]);
        }
        world.run(seconds(300));
        assert_eq!((world.delivered(), world.states()), (40, (0, 0, 0, 0)), "{cores} cores");
        for (at, _) in &world.connects {
            let later = |(other, _): &&(Now, Connect)| {
                other.instant >= at.instant && other.instant.since(at.instant) < seconds(5)
            };
            let within = world.connects.iter().filter(later).count();
            assert!(within <= 7, "{cores} cores: {within} connections in 5 s from {at:?}");
        }
    }
}

/// Who gets leave at once and no place stands in line once: what it was given may be back, and asked for anew, when the
/// line comes to it again.
#[test]
fn leave_that_was_given_back_lets_nobody_connect() {
    let connections = ConnectionSettings { injecting: 1, delivering: 1 };
    let rate = Some(Rate { count: 1, period: seconds(20) });
    let slow = LimitSettings { connection_rate: rate, ..LimitSettings::new(LimitPer::Domain) };
    let mut world = World::new(Settings { connections, ..with(vec![slow]) });
    world.everything_at(&["a.test"], &[("mx.a.test", peer(1))]);
    world.everything_at(&["b.test"], &[("mx1.b.test", peer(2)), ("mx2.b.test", peer(3))]);
    world.hosts.insert(peer(2), Behaviour::Unreachable(own(FailureKind::ConnectRefused, Verb::Connect)));
    world.post(&["r@a.test"]);
    world.run(seconds(1));
    world.post(&["r@b.test"]);
    world.run(seconds(15));
    let to = |number| move |(_, connect): &&(Now, Connect)| connect.peer == peer(number);
    let tried = |world: &World| [1, 2, 3].map(|number| world.connects.iter().filter(to(number)).count());
    assert_eq!(tried(&world), [1, 1, 0], "the second host waits for the rate");
    world.run(seconds(60));
    assert_eq!((tried(&world), world.delivered()), ([1, 1, 1], 2));
}

/// Each that ends gives leave to the next one, which ends as well, and so on: one after the other, however many they are.
#[test]
fn a_stop_ends_all_that_wait_for_the_same_limit() {
    let connections = ConnectionSettings { injecting: 1, delivering: 10 };
    let limit = LimitSettings { connections: Some(1000), ..LimitSettings::new(LimitPer::Source) };
    let mut world = World::new(Settings { connections, ..with(vec![limit]) });
    for number in 0..12_000 {
        world.post(&[&format!("r@d{number}.test")]);
    }
    world.run(Duration::from_millis(30));
    assert!(
        world.shards[0].open_sessions() > 10_000,
        "most wait for leave, and of those that have it most for a place"
    );
    let now = world.now;
    world.ask(0, |shard| shard.handle_stop(now));
    world.run(seconds(5));
    assert_eq!(world.shards[0].open_sessions(), 0);
}

/// Who waits for a rate between two messages needs no place meanwhile, while others stand in line for one.
#[test]
fn mail_that_goes_at_a_rate_leaves_its_place_to_others() {
    let connections = ConnectionSettings { injecting: 1, delivering: 1 };
    let rate = Some(Rate { count: 1, period: seconds(1) });
    let slow = LimitSettings { message_rate: rate, ..LimitSettings::new(LimitPer::Domain) };
    let mut world = World::new(Settings { connections, ..with(vec![slow]) });
    for _ in 0..100 {
        world.post(&["r@a.test"]);
    }
    world.run(seconds(5));
    let other = world.post(&["r@b.test"]);
    // The first four that stood in line for a.test wait for a token each.
    world.run(seconds(10));
    assert_eq!(world.story(other), [(Delivery, 250, 1)]);
    world.run(seconds(130));
    assert_eq!((world.delivered(), world.states()), (101, (0, 0, 0, 0)));
}
