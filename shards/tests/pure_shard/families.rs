//! Hosts and sources of two families, hosts that are left, and answers of the resolver that nobody waits for.

use crate::world::{Behaviour, World, own, peer, seconds, settings, site};
use mailrace_shards::message::Extras;
use mailrace_shards::outcome::RecordType::{Delivery, TransientFailure};
use mailrace_shards::outcome::Verb;
use mailrace_shards::settings::{LimitPer, LimitSettings, PoolSettings, Settings, SourceSettings};
use mailrace_shards::smtp::classify::{Failure, FailureKind};
use std::net::SocketAddr;
use std::time::Duration;

fn lost() -> Failure {
    own(FailureKind::Lost, Verb::MailFrom)
}

fn v6() -> SocketAddr {
    "[2001:db8:1::1]:25".parse().unwrap()
}

/// One source, with an address of the second family or without.
fn source(number: u8, both: bool) -> SourceSettings {
    SourceSettings {
        name: format!("ip-{number}").into(),
        address: Some([192, 0, 2, number].into()),
        address_v6: both.then(|| format!("2001:db8::{number}").parse().unwrap()),
        ehlo: format!("ip-{number}").into(),
    }
}

fn world(both: bool) -> World {
    let mut world = World::new(Settings { sources: vec![source(10, both)], ..settings() });
    world.everything_at(&["a.test"], &[("mx4.a.test", peer(1)), ("mx6.a.test", v6())]);
    world
}

fn only_v4() -> Extras {
    Extras { ips: vec!["192.0.2.10".parse().unwrap()], ..Extras::default() }
}

/// Where the other host is of a family that the message cannot go by, there is no other, and the attempt has been made.
#[test]
fn a_host_of_another_family_is_no_other_host() {
    for (both, extras) in [(false, Extras::default()), (true, only_v4()), (false, only_v4())] {
        let mut world = world(both);
        world.hosts.insert(peer(1), Behaviour::Breaks(lost()));
        let id = world.post_with(&["r@a.test"], extras);
        world.run(seconds(1));
        assert_eq!(world.story(id), [(TransientFailure, 451, 1)], "{both}");
        assert!(world.connects.iter().all(|(_, connect)| connect.peer == peer(1)), "{both}");
    }
    let mut world = world(true);
    world.hosts.insert(peer(1), Behaviour::Breaks(lost()));
    let id = world.post(&["r@a.test"]);
    world.run(seconds(1));
    assert_eq!(world.story(id), [(Delivery, 250, 1)], "this one may go by both");
}

/// The only host is none other than itself.
#[test]
fn a_host_that_breaks_off_is_not_tried_again_at_once() {
    let mut world = World::new(settings());
    world.everything_at(&["a.test"], &[("mx.a.test", peer(1))]);
    world.hosts.insert(peer(1), Behaviour::Breaks(lost()));
    let id = world.post(&["r@a.test"]);
    world.run(seconds(5));
    assert_eq!((world.story(id), world.sent.len()), (vec![(TransientFailure, 451, 1)], 1));
}

/// A host that failed just now is no other host either.
#[test]
fn a_host_that_rests_is_no_other_host() {
    let mut world = World::new(settings());
    world.everything_at(&["a.test"], &[("mx1.a.test", peer(1)), ("mx2.a.test", peer(2))]);
    world.hosts.insert(peer(1), Behaviour::Unreachable(own(FailureKind::ConnectRefused, Verb::Connect)));
    world.hosts.insert(peer(2), Behaviour::Breaks(lost()));
    let id = world.post(&["r@a.test"]);
    world.run(Duration::from_millis(500));
    assert_eq!(world.story(id), [(TransientFailure, 451, 1)]);
    assert_eq!(world.connects.iter().map(|(_, connect)| connect.peer).collect::<Vec<_>>(), [peer(1), peer(2)]);
}

/// A session that stands, and is busy, takes no mail that may not go from its address.
#[test]
fn a_busy_session_leaves_mail_that_may_not_go_by_it() {
    let mut world = World::new(Settings { sources: vec![source(10, true)], ..settings() });
    world.everything_at(&["a.test"], &[("mx6.a.test", v6()), ("mx4.a.test", peer(1))]);
    world.hosts.insert(v6(), Behaviour::Sluggish(Duration::from_millis(300)));
    for _ in 0..4 {
        world.post(&["any@a.test"]);
    }
    world.run(Duration::from_millis(100));
    let named = world.post_with(&["named@a.test"], only_v4());
    world.run(seconds(5));
    assert_eq!(world.delivered(), 5);
    let by: Vec<SocketAddr> =
        world.sent.iter().filter(|sent| sent.envelope.id() == named).map(|sent| sent.peer).collect();
    assert_eq!(by, [peer(1)]);
    assert_eq!(world.sent.iter().filter(|sent| sent.peer == v6()).count(), 4);
}

/// An answer that nobody waits for changes nothing.
#[test]
fn an_answer_of_the_resolver_counts_once() {
    let mut world = World::new(settings());
    world.everything_at(&["a.test"], &[("mx.a.test", peer(1))]);
    world.post(&["r@a.test"]);
    world.run(seconds(1));
    let destination = world.shards[0].queue().destination_ids()[0];
    let now = world.now;
    for answer in [Ok(site(&[("mx.b.test", peer(2))])), Err(own(FailureKind::Loop, Verb::None))] {
        world.ask(0, |shard| shard.handle_resolved(destination, answer, now));
    }
    world.run(seconds(10));
    let id = world.post(&["r@a.test"]);
    world.run(seconds(1));
    assert_eq!(world.story(id), [(Delivery, 250, 1)]);
    assert_eq!((world.connects.last().unwrap().1.peer, world.lookups.len()), (peer(1), 1));
    // Nor does one for a destination that is gone.
    world.run(seconds(100));
    let now = world.now;
    assert!(world.shards[0].queue().destination_ids().is_empty());
    world.ask(0, |shard| shard.handle_resolved(destination, Ok(site(&[("mx.b.test", peer(2))])), now));
    world.post(&["r@a.test"]);
    world.run(seconds(1));
    assert_eq!((world.connects.last().unwrap().1.peer, world.lookups.len()), (peer(1), 2));
}

/// Mail that came while a host rested is on its way when that is over, and not a second later.
#[test]
fn mail_waits_no_longer_than_its_host_rests() {
    let mut world = World::new(settings());
    world.everything_at(&["a.test"], &[("mx.a.test", peer(1))]);
    world.hosts.insert(peer(1), Behaviour::Unreachable(own(FailureKind::ConnectRefused, Verb::Connect)));
    world.post(&["r@a.test"]);
    while world.of_type(TransientFailure).is_empty() {
        world.run(Duration::from_millis(10));
    }
    world.hosts.clear();
    world.run(Duration::from_millis(500));
    let id = world.post(&["r@a.test"]);
    world.run(Duration::from_millis(400));
    assert_eq!(world.story(id), []);
    world.run(Duration::from_millis(200));
    assert_eq!(world.story(id), [(Delivery, 250, 1)]);
}

/// Mail that names no pool takes the sources of its site in turn, whatever its domain; mail that names addresses takes
/// those in its own turn.
#[test]
fn turns_are_those_of_the_site_or_of_the_addresses_that_mail_names() {
    let one_each = LimitSettings { messages_per_connection: Some(1), ..LimitSettings::new(LimitPer::Path) };
    let turns = |pools: Vec<PoolSettings>, extras: &Extras| {
        let sources = vec![source(10, false), source(11, false)];
        let mut world = World::new(Settings { sources, pools, limits: vec![one_each.clone()], ..settings() });
        world.everything_at(&["a.test", "b.test"], &[("mx.hoster.test", peer(1))]);
        for domain in ["a.test", "b.test", "a.test", "b.test"] {
            world.post_with(&[&format!("r@{domain}")], extras.clone());
            world.run(seconds(1));
        }
        world.sent.iter().map(|sent| sent.source.as_deref().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(turns(vec![], &Extras::default()), ["ip-10", "ip-11", "ip-10", "ip-11"]);
    let named = Extras { ips: vec![[192, 0, 2, 10].into(), [192, 0, 2, 11].into()], ..Extras::default() };
    assert_eq!(turns(vec![], &named), ["ip-10", "ip-10", "ip-11", "ip-11"]);
    let pool = PoolSettings { name: "default".into(), sources: vec![(0, 1), (1, 1)] };
    assert_eq!(turns(vec![pool], &Extras::default()), ["ip-10", "ip-11", "ip-10", "ip-11"]);
}

/// Of a domain with connections of its own only its own mail counts for how many are opened.
#[test]
fn connections_of_a_domain_alone_are_opened_for_its_own_mail() {
    for (connections, expected) in [(Some(10), 4 + 1), (None, 5)] {
        let limit = LimitSettings { connections, ..LimitSettings::new(LimitPer::Domain) };
        let limits = connections.map(|_| limit).into_iter().collect();
        let mut world = World::new(Settings { limits, ..settings() });
        world.everything_at(&["a.test", "b.test"], &[("mx.hoster.test", peer(1))]);
        world.hosts.insert(peer(1), Behaviour::Distant(seconds(5)));
        for _ in 0..16 {
            world.post(&["r@a.test"]);
            world.run(Duration::from_millis(20));
        }
        assert_eq!(world.connects.len(), 4);
        for _ in 0..4 {
            world.post(&["r@b.test"]);
            world.run(Duration::from_millis(20));
        }
        assert_eq!(world.connects.len(), expected, "{connections:?}");
    }
}
