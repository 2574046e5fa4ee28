//! Limits: counted over cores, windows that grow, rates, and what may share a connection.

use crate::world::{Behaviour, World, own, peer, seconds, settings};
use mailrace_shards::event::Connect;
use mailrace_shards::limits::{PATH_CONNECTIONS_DEFAULT, PERMIT_HELD_MIN_MS, PICK_DESTINATIONS, WINDOW_START};
use mailrace_shards::message::Extras;
use mailrace_shards::outcome::RecordType::{Delivery, TransientFailure};
use mailrace_shards::outcome::Verb;
use mailrace_shards::settings::{LimitPer, LimitSettings, Rate, Settings};
use mailrace_shards::smtp::classify::FailureKind;
use mailrace_shards::time::Now;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

pub fn with(limits: Vec<LimitSettings>) -> Settings {
    Settings { limits, ..settings() }
}

#[test]
fn a_window_begins_small_and_opens_with_success() {
    let mut world = World::new(settings());
    world.everything_at(&["a.test"], &[("mx.a.test", peer(1))]);
    world.hosts.insert(peer(1), Behaviour::Sluggish(Duration::from_millis(500)));
    for _ in 0..2000 {
        world.post(&["r@a.test"]);
    }
    world.run(Duration::from_millis(400));
    assert!(world.most_open <= WINDOW_START as usize, "{}", world.most_open);
    world.run(seconds(60));
    assert_eq!(world.delivered(), 2000);
    assert_eq!(world.most_open, PATH_CONNECTIONS_DEFAULT as usize);
}

#[test]
fn two_cores_share_two_connections_and_all_domains_are_served() {
    for cores in [1, 2, 5] {
        let mut world = World::with_cores(
            with(vec![LimitSettings { connections: Some(2), ..LimitSettings::new(LimitPer::Path) }]),
            cores,
        );
        let domains: Vec<String> = (0..200).map(|number| format!("d{number}.test")).collect();
        let names: Vec<&str> = domains.iter().map(String::as_str).collect();
        world.everything_at(&names, &[("mx.hoster.test", peer(1))]);
        for domain in domains.iter().chain(&domains) {
            world.post(&[&format!("r@{domain}")]);
        }
        world.run(seconds(60));
        assert_eq!((world.delivered(), world.states()), (400, (0, 0, 0, 0)), "{cores} cores");
        assert!(world.most_open <= 2, "{cores} cores: {} connections", world.most_open);
        let at: HashSet<usize> = world.sent.iter().map(|sent| sent.core).collect();
        assert_eq!(at.len(), cores, "each core had its turn");
        world.run(seconds(20));
        assert_eq!(world.shards.iter().map(|shard| shard.open_sessions()).sum::<usize>(), 0);
    }
}

/// Limits of a domain's own keep its mail apart from the rest of its site; none may starve for it.
#[test]
fn domains_with_connections_of_their_own_are_all_served() {
    let mut world = World::with_cores(
        with(vec![LimitSettings { connections: Some(1), ..LimitSettings::new(LimitPer::Domain) }]),
        2,
    );
    let domains: Vec<String> = (0..100).map(|number| format!("d{number}.test")).collect();
    let names: Vec<&str> = domains.iter().map(String::as_str).collect();
    world.everything_at(&names, &[("mx.hoster.test", peer(1))]);
    world.hosts.insert(peer(1), Behaviour::Sluggish(Duration::from_millis(50)));
    for domain in domains.iter().chain(&domains).chain(&domains) {
        world.post(&[&format!("r@{domain}")]);
    }
    world.run(seconds(60));
    assert_eq!((world.delivered(), world.states()), (300, (0, 0, 0, 0)));
    for domain in &domains {
        let of = world.sent.iter().filter(|sent| sent.envelope.domain(0) == domain);
        assert_eq!(of.count(), 3, "{domain}");
    }
}

/// A session that is being opened for one domain's own connection is none for another domain.
#[test]
fn the_second_of_two_domains_with_own_connections_does_not_wait_for_the_first() {
    let mut world =
        World::new(with(vec![LimitSettings { connections: Some(1), ..LimitSettings::new(LimitPer::Domain) }]));
    world.everything_at(&["a.test", "b.test"], &[("mx.hoster.test", peer(1))]);
    world.hosts.insert(peer(1), Behaviour::Sluggish(seconds(1)));
    for _ in 0..30 {
        world.post(&["r@a.test"]);
    }
    world.post(&["r@b.test"]);
    world.run(Duration::from_millis(1500));
    assert!(world.sent.iter().any(|sent| sent.envelope.domain(0) == "b.test"), "b.test waits for a.test");
}

/// Two domains take turns on one connection, whose greeting takes longer than a permit is left to its holder. Whoever
/// gets the permit uses it for a message before it hands it on.
#[test]
fn a_permit_that_is_recalled_during_a_long_greeting_still_carries_a_message() {
    for cores in [1, 2] {
        let limits = vec![
            LimitSettings { connections: Some(1), ..LimitSettings::new(LimitPer::Site) },
            LimitSettings { messages_per_connection: Some(5), ..LimitSettings::new(LimitPer::Domain) },
        ];
        let mut world = World::with_cores(with(limits), cores);
        let names: Vec<String> = (0..6).map(|number| format!("d{number}.test")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        world.everything_at(&names, &[("mx.hoster.test", peer(1))]);
        world.hosts.insert(peer(1), Behaviour::Distant(Duration::from_millis(PERMIT_HELD_MIN_MS + 100)));
        for name in names.iter().chain(&names) {
            world.post(&[&format!("r@{name}")]);
        }
        world.run(seconds(60));
        assert_eq!((world.delivered(), world.states()), (12, (0, 0, 0, 0)), "{cores} cores");
        assert!(world.most_open <= 1, "{cores} cores: {} connections", world.most_open);
    }
}

/// The same, and each message needs a token of a rate besides, which lapses sooner than a greeting takes: whoever has
/// the permit keeps it until it has had a token.
#[test]
fn a_permit_that_is_recalled_while_a_rate_is_waited_for_still_carries_a_message() {
    for cores in [1, 2] {
        let rate = Some(Rate { count: 1, period: seconds(1) });
        let limits = vec![
            LimitSettings { connections: Some(1), ..LimitSettings::new(LimitPer::Site) },
            LimitSettings { messages_per_connection: Some(5), ..LimitSettings::new(LimitPer::Domain) },
            LimitSettings { message_rate: rate, ..LimitSettings::new(LimitPer::Source) },
        ];
        let mut world = World::with_cores(with(limits), cores);
        let names: Vec<String> = (0..6).map(|number| format!("d{number}.test")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        world.everything_at(&names, &[("mx.hoster.test", peer(1))]);
        world.hosts.insert(peer(1), Behaviour::Distant(Duration::from_millis(PERMIT_HELD_MIN_MS + 100)));
        for name in names.iter().chain(&names) {
            world.post(&[&format!("r@{name}")]);
        }
        world.run(seconds(100));
        assert_eq!((world.delivered(), world.states()), (12, (0, 0, 0, 0)), "{cores} cores");
        assert!(world.connects.len() <= 12, "{cores} cores: {} connections for 12 messages", world.connects.len());
    }
}

#[test]
fn message_rates_hold_over_cores_and_nothing_is_left() {
    let rate = Some(Rate { count: 20, period: seconds(1) });
    for per in [LimitPer::Path, LimitPer::Domain, LimitPer::Site] {
        for cores in [1, 2] {
            let mut world =
                World::with_cores(with(vec![LimitSettings { message_rate: rate, ..LimitSettings::new(per) }]), cores);
            let domains: Vec<String> = match per {
                LimitPer::Domain => vec!["a.test".into()],
                _ => (0..100).map(|number| format!("d{number}.test")).collect(),
            };
            let names: Vec<&str> = domains.iter().map(String::as_str).collect();
            world.everything_at(&names, &[("mx.hoster.test", peer(1))]);
            for at in 0..200 {
                world.post(&[&format!("r@{}", domains[at % domains.len()])]);
            }
            let start = world.now;
            world.run(seconds(5));
            // 20 a second, and a burst of a tenth of a second.
            assert!(world.delivered() <= 105, "{per:?}, {cores} cores: {}", world.delivered());
            assert!(world.delivered() >= 60, "{per:?}, {cores} cores: {}", world.delivered());
            world.run(seconds(20));
            assert_eq!((world.delivered(), world.states()), (200, (0, 0, 0, 0)), "{per:?}, {cores} cores");
            for second in 0..10 {
                let from = start.after(seconds(second));
                let within = world
                    .sent
                    .iter()
                    .filter(|sent| sent.at.instant >= from.instant && sent.at.instant.since(from.instant) < seconds(1));
                assert!(within.count() <= 23, "{per:?}, {cores} cores: second {second}");
            }
        }
    }
}

#[test]
fn connection_rates_and_messages_per_connection_hold() {
    let rate = Some(Rate { count: 5, period: seconds(1) });
    let mut world = World::with_cores(
        with(vec![LimitSettings {
            connection_rate: rate,
            messages_per_connection: Some(3),
            ..LimitSettings::new(LimitPer::Path)
        }]),
        2,
    );
    let domains: Vec<String> = (0..10).map(|number| format!("d{number}.test")).collect();
    let names: Vec<&str> = domains.iter().map(String::as_str).collect();
    world.everything_at(&names, &[("mx.hoster.test", peer(1))]);
    for at in 0..150 {
        world.post(&[&format!("r@{}", domains[at % 10])]);
    }
    world.run(seconds(5));
    assert!(world.connects.len() <= 27, "{}", world.connects.len());
    world.run(seconds(30));
    assert_eq!((world.delivered(), world.states()), (150, (0, 0, 0, 0)));
    let mut by_session = std::collections::HashMap::new();
    for sent in &world.sent {
        // Session numbers are used again: count between connections instead.
        let connects = world
            .connects
            .iter()
            .filter(|(at, connect)| connect.session == sent.session && at.instant <= sent.at.instant);
        *by_session.entry((sent.core, sent.session, connects.count())).or_insert(0) += 1;
    }
    assert!(by_session.values().all(|count| *count <= 6), "{by_session:?}");
    assert!(world.connects.len() >= 50, "150 messages by threes need 50 connections: {}", world.connects.len());
}

/// A second host, or the same host without TLS, is one more connection: it takes its token like the first.
#[test]
fn every_connection_of_an_attempt_takes_a_token_of_the_rate() {
    for cores in [1, 2] {
        let rate = Some(Rate { count: 2, period: seconds(1) });
        let limits =
            vec![LimitSettings { connection_rate: rate, connections: Some(3), ..LimitSettings::new(LimitPer::Path) }];
        let mut world = World::with_cores(with(limits), cores);
        let domains: Vec<String> = (0..6).map(|number| format!("d{number}.test")).collect();
        let names: Vec<&str> = domains.iter().map(String::as_str).collect();
        let hosts: Vec<(String, _)> = (1..=4).map(|host| (format!("mx{host}.hoster.test"), peer(host))).collect();
        let hosts: Vec<(&str, _)> = hosts.iter().map(|(name, peer)| (name.as_str(), *peer)).collect();
        world.everything_at(&names, &hosts);
        for host in 1..=3 {
            let failure = own(FailureKind::ConnectRefused, Verb::Connect);
            world.hosts.insert(peer(host), Behaviour::Unreachable(failure));
        }
        for domain in domains.iter().chain(&domains) {
            world.post(&[&format!("r@{domain}")]);
        }
        world.run(seconds(120));
        assert_eq!((world.delivered(), world.states()), (12, (0, 0, 0, 0)), "{cores} cores");
        assert_eq!(world.of_type(TransientFailure).len(), 0, "the fourth host was reached within the attempt");
        for (at, _) in &world.connects {
            let later = |(other, _): &&(Now, Connect)| {
                other.instant >= at.instant && other.instant.since(at.instant) < seconds(5)
            };
            // 2 a second, and a burst of one and a tenth of a second's worth.
            let within = world.connects.iter().filter(later).count();
            assert!(within <= 12, "{cores} cores: {within} connections in 5 s from {at:?}");
        }
    }
}

/// With equal weights, mail of one bucket does not overtake the other for ever.
#[test]
fn buckets_of_a_destination_take_turns() {
    let mut world =
        World::new(with(vec![LimitSettings { connections: Some(1), ..LimitSettings::new(LimitPer::Path) }]));
    world.everything_at(&["a.test"], &[("mx.a.test", peer(1))]);
    let of = |name: &str| Extras { campaign: Some(name.into()), ..Extras::default() };
    for _ in 0..100 {
        world.post_with(&["r@a.test"], of("large"));
    }
    for _ in 0..3 {
        world.post_with(&["r@a.test"], of("small"));
    }
    world.run(seconds(10));
    let places: Vec<usize> = (0..world.sent.len())
        .filter(|at| world.sent[*at].envelope.extras().unwrap().campaign.as_deref() == Some("small"))
        .collect();
    assert_eq!(world.sent.len(), 103);
    assert!(places.iter().all(|at| *at < 10), "{places:?}");
}

#[test]
fn a_limit_that_a_reload_lowers_holds_for_connections_in_force() {
    for cores in [1, 2] {
        let allowed =
            |connections| vec![LimitSettings { connections: Some(connections), ..LimitSettings::new(LimitPer::Path) }];
        let mut world = World::with_cores(with(allowed(8)), cores);
        let domains: Vec<String> = (0..20).map(|number| format!("d{number}.test")).collect();
        let names: Vec<&str> = domains.iter().map(String::as_str).collect();
        world.everything_at(&names, &[("mx.hoster.test", peer(1))]);
        world.hosts.insert(peer(1), Behaviour::Sluggish(Duration::from_millis(300)));
        for domain in &domains {
            for _ in 0..40 {
                world.post(&[&format!("r@{domain}")]);
            }
        }
        world.run(seconds(5));
        assert_eq!(world.open.len(), 8, "{cores} cores");
        let now = world.now;
        for core in 0..cores {
            let settings = Settings { shards: cores, ..with(allowed(2)) };
            world.ask(core, |shard| shard.handle_reload(Arc::new(settings), now));
        }
        world.run(seconds(2));
        assert!(world.open.len() <= 2, "{cores} cores: {} connections are open", world.open.len());
        world.run(seconds(200));
        assert_eq!((world.delivered(), world.states()), (800, (0, 0, 0, 0)), "{cores} cores");
    }
}

/// A session that waits for leave has no connection yet: it follows the limits of the reload, not those that it asked by.
#[test]
fn what_waits_for_leave_follows_the_limits_of_a_reload() {
    for cores in [1, 2] {
        let few = vec![LimitSettings { connections: Some(2), ..LimitSettings::new(LimitPer::Path) }];
        let mut world = World::with_cores(with(few), cores);
        let domains: Vec<String> = (0..20).map(|number| format!("d{number}.test")).collect();
        let names: Vec<&str> = domains.iter().map(String::as_str).collect();
        // Two hosts, of which one does not answer: a second connection of an attempt follows the new limits too.
        world.everything_at(&names, &[("mx1.hoster.test", peer(1)), ("mx2.hoster.test", peer(2))]);
        world.hosts.insert(peer(2), Behaviour::Sluggish(Duration::from_millis(300)));
        let failure = own(FailureKind::ConnectRefused, Verb::Connect);
        world.hosts.insert(peer(1), Behaviour::Unreachable(failure));
        for domain in domains.iter().chain(&domains).chain(&domains) {
            world.post(&[&format!("r@{domain}")]);
        }
        world.run(seconds(1));
        let (now, before) = (world.now, world.connects.len());
        let rate = Some(Rate { count: 1, period: seconds(1) });
        let slow = vec![LimitSettings { connection_rate: rate, ..LimitSettings::new(LimitPer::Source) }];
        for core in 0..cores {
            let settings = Settings { shards: cores, ..with(slow.clone()) };
            world.ask(core, |shard| shard.handle_reload(Arc::new(settings), now));
        }
        world.run(seconds(10));
        // One a second, and one that may be there at once.
        let opened = world.connects.len() - before;
        assert!(opened <= 12, "{cores} cores: {opened} connections in 10 s");
        world.run(seconds(300));
        assert_eq!((world.delivered(), world.states()), (60, (0, 0, 0, 0)), "{cores} cores");
    }
}

/// A reload asks for the limits of paths in force, also of one to which the destination's mail will not go any more. When
/// that path is gone and its number is another's, they are not taken for the other's.
#[test]
fn limits_of_a_path_that_is_gone_are_not_those_of_the_next() {
    let one =
        LimitSettings { connections: Some(1), idle_timeout: Some(seconds(2)), ..LimitSettings::new(LimitPer::Path) };
    let settings = with(vec![one]);
    let mut world = World::new(settings.clone());
    world.everything_at(&["a.test"], &[("mx.old.test", peer(1))]);
    world.post(&["r@a.test"]);
    world.run(seconds(1));
    let due = world.now.utc.after(seconds(60));
    world.post_with(&["r@a.test"], Extras { not_before: Some(due), ..Extras::default() });
    assert_eq!((world.delivered(), world.shards[0].open_sessions()), (1, 1));
    let now = world.now;
    world.ask(0, |shard| shard.handle_reload(Arc::new(settings), now));
    world.run(seconds(10));
    assert_eq!(world.shards[0].open_sessions(), 0);
    // Now it goes where b.test goes, whose connection is the only one that is allowed.
    world.everything_at(&["a.test", "b.test"], &[("mx.new.test", peer(2))]);
    world.hosts.insert(peer(2), Behaviour::Sluggish(seconds(5)));
    world.run(seconds(48));
    for _ in 0..3 {
        world.post(&["r@b.test"]);
    }
    world.run(seconds(60));
    assert_eq!((world.delivered(), world.states()), (5, (0, 0, 0, 0)));
    assert_eq!(world.most_open, 1);
}

/// The home of a limit grants its own requests at once; such a permit is recalled like any other.
#[test]
fn a_permit_that_was_granted_at_once_comes_back_when_another_site_waits() {
    let mut world =
        World::new(with(vec![LimitSettings { connections: Some(1), ..LimitSettings::new(LimitPer::Source) }]));
    world.everything_at(&["a.test"], &[("mx.a.test", peer(1))]);
    world.everything_at(&["b.test"], &[("mx.b.test", peer(2))]);
    for host in [peer(1), peer(2)] {
        world.hosts.insert(host, Behaviour::Sluggish(Duration::from_millis(100)));
    }
    for _ in 0..300 {
        world.post(&["r@a.test"]);
    }
    world.run(seconds(2));
    world.post(&["r@b.test"]);
    world.run(seconds(3));
    assert!(world.sent.iter().any(|sent| sent.envelope.domain(0) == "b.test"), "b.test waits for all of a.test");
    world.run(seconds(60));
    assert_eq!(world.delivered(), 301);
}

/// Mail that waits for a rate needs no connection meanwhile: none is opened again and again, to wait and to end in time.
#[test]
fn no_connection_is_opened_for_mail_that_waits_for_a_rate() {
    for cores in [1, 2] {
        let rate = Some(Rate { count: 1, period: seconds(100) });
        let slow = LimitSettings { message_rate: rate, ..LimitSettings::new(LimitPer::Source) };
        let mut world = World::with_cores(with(vec![slow]), cores);
        world.hosts.insert(peer(1), Behaviour::Distant(Duration::from_millis(300)));
        world.everything_at(&["a.test"], &[("mx.a.test", peer(1))]);
        for _ in 0..4 {
            world.post(&["r@a.test"]);
        }
        world.run(seconds(360));
        assert_eq!((world.delivered(), world.states()), (4, (0, 0, 0, 0)), "{cores} cores");
        let times = world.connects.len();
        // Those that the first messages open before it is known that they must wait; then one for each.
        assert!(times <= 8, "{cores} cores: {times} connections");
    }
}

/// Mail that no rate holds up does not wait behind the mail of many others that wait for theirs.
#[test]
fn a_destination_behind_many_that_wait_for_a_rate_is_served() {
    let count = 3 * PICK_DESTINATIONS;
    let domains: Vec<String> = (0..count).map(|number| format!("d{number}.test")).collect();
    let slow = |domain: &String| LimitSettings {
        message_rate: Some(Rate { count: 1, period: seconds(3600) }),
        domain: Some(domain.as_str().into()),
        ..LimitSettings::new(LimitPer::Domain)
    };
    let mut settings = with(domains.iter().map(slow).collect());
    settings.retry.max_age = seconds(100_000);
    let mut world = World::new(settings);
    let names: Vec<&str> = domains.iter().map(String::as_str).chain(["free.test"]).collect();
    world.everything_at(&names, &[("mx.hoster.test", peer(1))]);
    for domain in domains.iter().chain(&domains) {
        world.post(&[&format!("r@{domain}")]);
    }
    world.run(seconds(60));
    assert_eq!((world.delivered(), world.open.len()), (count, 0));
    let id = world.post(&["r@free.test"]);
    world.run(seconds(1));
    assert_eq!(world.story(id), [(Delivery, 250, 1)]);
}
