//! Hosts that fail, sites that recover, and connections that are kept, shared and closed.

use crate::world::{Behaviour, World, domain, own, peer, reply, rule, seconds, settings, site, source};
use mailrace_shards::event::Lookup;
use mailrace_shards::message::Extras;
use mailrace_shards::outcome::RecordType::{Bounce, Delivery, TransientFailure};
use mailrace_shards::outcome::Verb;
use mailrace_shards::rules::{Change, Kind};
use mailrace_shards::settings::{
    LimitPer, LimitSettings, PoolSettings, RouteHost, RouteSettings, Settings, SourceSettings,
};
use mailrace_shards::smtp::classify::{Failure, FailureKind};
use std::sync::Arc;
use std::time::Duration;

fn refused() -> Failure {
    own(FailureKind::ConnectRefused, Verb::Connect)
}

fn pool(name: &str, sources: &[(usize, u32)]) -> PoolSettings {
    PoolSettings { name: name.into(), sources: sources.to_vec() }
}

/// Two sources, a pool of each, and `default` with both.
fn two_sources() -> Settings {
    Settings {
        sources: vec![source(10), source(11)],
        pools: vec![pool("default", &[(0, 1), (1, 1)]), pool("first", &[(0, 1)]), pool("second", &[(1, 1)])],
        ..settings()
    }
}

fn from(pool: &str) -> Extras {
    Extras { pool: Some(pool.into()), ..Extras::default() }
}

fn two_hosts() -> World {
    let mut world = World::new(settings());
    world.everything_at(&["a.test"], &[("mx1.a.test", peer(1)), ("mx2.a.test", peer(2))]);
    world
}

#[test]
fn what_one_host_cannot_do_another_does_within_the_same_attempt() {
    let full = Failure { response: storage_full(), ..reply(452, Verb::MailFrom) };
    let cases = [
        ("refused", Behaviour::Unreachable(refused())),
        ("5yz greeting", Behaviour::Unreachable(reply(554, Verb::Banner))),
        ("421 greeting", Behaviour::Unreachable(reply(421, Verb::Banner))),
        ("lost in EHLO", Behaviour::Unreachable(own(FailureKind::Lost, Verb::Ehlo))),
        ("lost in MAIL", Behaviour::Breaks(own(FailureKind::Lost, Verb::MailFrom))),
        ("its disk is full", Behaviour::Refuses(full)),
    ];
    for (name, behaviour) in cases {
        let mut world = two_hosts();
        world.hosts.insert(peer(1), behaviour);
        let ids: Vec<_> = (0..5).map(|_| world.post(&["r@a.test"])).collect();
        world.run(seconds(2));
        for id in ids {
            assert_eq!(world.story(id), [(Delivery, 250, 1)], "{name}");
        }
        let at_first = world.sent.iter().filter(|sent| sent.peer == peer(1)).count();
        assert!(at_first <= 5, "{name}: {at_first} transactions at the host that fails");
    }
}

fn storage_full() -> mailrace_shards::outcome::Response {
    let enhanced = Some(mailrace_shards::outcome::EnhancedCode { class: 4, subject: 3, detail: 1 });
    mailrace_shards::outcome::Response { code: 452, enhanced, text: "disk full".into(), verb: Verb::MailFrom }
}

#[test]
fn when_all_hosts_fail_every_ready_message_is_deferred_once() {
    let minute = Duration::from_secs(60);
    let timed_out = || own(FailureKind::ConnectTimedOut, Verb::Connect);
    let lost = || own(FailureKind::Lost, Verb::MailFrom);
    let cases = [
        ("refuse", Behaviour::Unreachable(refused()), Behaviour::Unreachable(refused()), 2),
        ("do not answer", Behaviour::Slow(timed_out(), minute), Behaviour::Slow(timed_out(), minute), 130),
        ("break off", Behaviour::Breaks(lost()), Behaviour::Breaks(lost()), 2),
        ("one of each", Behaviour::Slow(timed_out(), minute), Behaviour::Breaks(lost()), 70),
    ];
    for (name, first, second, within) in cases {
        let mut world = two_hosts();
        world.hosts.insert(peer(1), first);
        world.hosts.insert(peer(2), second);
        let ids: Vec<_> = (0..700).map(|_| world.post(&["r@a.test"])).collect();
        world.run(seconds(within));
        let deferred = world.of_type(TransientFailure).len();
        if name == "refuse" || name == "do not answer" {
            for id in &ids {
                assert_eq!(world.story(*id), [(TransientFailure, 451, 1)], "hosts that {name}");
            }
            assert!(world.connects.len() <= 20, "{name}: {}", world.connects.len());
        } else {
            assert!(deferred > 0, "hosts that {name}: {:?}", world.states());
        }
        world.hosts.clear();
        world.run(seconds(600));
        assert_eq!((world.delivered(), world.states()), (700, (0, 0, 0, 0)), "hosts that {name}");
    }
}

/// Slow hosts must not be gone round in circles for one message.
#[test]
fn a_message_tries_each_host_once_in_an_attempt() {
    let mut world = two_hosts();
    world.tick_every = Duration::from_millis(100);
    for host in [peer(1), peer(2)] {
        world.hosts.insert(host, Behaviour::Slow(own(FailureKind::ConnectTimedOut, Verb::Connect), seconds(90)));
    }
    let id = world.post(&["r@a.test"]);
    world.run(seconds(181));
    assert_eq!(world.story(id), [(TransientFailure, 451, 1)]);
    assert_eq!(world.connects.len(), 2);
}

#[test]
fn a_dead_site_is_left_alone_then_probed_and_recovers() {
    let mut world = World::new(settings());
    world.everything_at(&["a.test"], &[("mx.a.test", peer(1))]);
    world.hosts.insert(peer(1), Behaviour::Unreachable(refused()));
    world.tick_every = Duration::from_millis(100);
    let often = Extras { retries: vec![1], ..Extras::default() };
    let ids: Vec<_> = (0..10).map(|_| world.post_with(&["r@a.test"], often.clone())).collect();
    world.run(seconds(600));
    // One try a second would make 600.
    assert!(world.connects.len() < 40, "{}", world.connects.len());
    assert_eq!(world.delivered(), 0);
    world.hosts.clear();
    world.run(seconds(310));
    for id in ids {
        assert_eq!(world.story(id).last().unwrap().0, Delivery);
    }
}

#[test]
fn idle_sessions_are_used_again_and_closed_in_time() {
    let mut world = World::new(Settings {
        limits: vec![LimitSettings { idle_timeout: Some(seconds(5)), ..LimitSettings::new(LimitPer::Path) }],
        ..settings()
    });
    world.everything_at(&["a.test"], &[("mx.a.test", peer(1))]);
    for _ in 0..5 {
        world.post(&["r@a.test"]);
        world.run(seconds(4));
    }
    assert_eq!((world.connects.len(), world.delivered()), (1, 5));
    assert_eq!(world.shards[0].open_sessions(), 1);
    world.run(seconds(6));
    assert_eq!(world.shards[0].open_sessions(), 0);
}

#[test]
fn a_session_serves_other_domains_of_its_site() {
    let mut world = World::new(settings());
    world.everything_at(&["a.test", "b.test", "c.test"], &[("mx.hoster.test", peer(1))]);
    for domain in ["a.test", "b.test", "c.test"] {
        world.post(&[&format!("r@{domain}")]);
        world.run(seconds(1));
    }
    assert_eq!((world.connects.len(), world.delivered()), (1, 3));
}

/// One hundred destinations of a site that emptied without being picked from must not hide the next one.
#[test]
fn a_destination_behind_many_empty_ones_is_served() {
    let mut world = World::new(settings());
    let domains: Vec<String> = (0..150).map(|number| format!("d{number}.test")).collect();
    let names: Vec<&str> = domains.iter().map(String::as_str).collect();
    world.everything_at(&names, &[("mx.hoster.test", peer(1))]);
    world.hosts.insert(peer(1), Behaviour::Slow(refused(), seconds(20)));
    let soon = world.now.utc.after(seconds(2));
    for domain in &domains[1..] {
        world.post_with(&[&format!("r@{domain}")], Extras { expires: Some(soon), ..Extras::default() });
    }
    world.run(seconds(30));
    assert_eq!(world.states(), (0, 0, 0, 0));
    world.hosts.clear();
    let id = world.post(&["r@d0.test"]);
    world.run(seconds(40));
    assert_eq!(world.story(id), [(Delivery, 250, 1)]);
}

/// A pool may be missing by mistake, or for a moment: its mail waits for its next attempt, and other mail goes on.
#[test]
fn a_pool_that_is_not_configured_defers_its_mail_and_no_other() {
    let mut world = World::new(two_sources());
    world.everything_at(&["a.test"], &[("mx.a.test", peer(1))]);
    let before = world.post_with(&["r@a.test"], from("first"));
    let wrong = world.post_with(&["r@a.test"], from("none"));
    let address = Extras { ips: vec!["192.0.2.99".parse().unwrap()], ..Extras::default() };
    let wrong_address = world.post_with(&["r@a.test"], address);
    let right = world.post_with(&["r@a.test"], from("second"));
    let once = Extras { max_attempts: Some(1), ..from("none") };
    let once = world.post_with(&["r@a.test"], once);
    world.run(seconds(1));
    assert_eq!(world.story(before), [(Delivery, 250, 1)]);
    assert_eq!(world.story(wrong), [(TransientFailure, 451, 1)]);
    assert_eq!(world.story(wrong_address), [(TransientFailure, 451, 1)]);
    assert_eq!(world.story(right), [(Delivery, 250, 1)]);
    assert_eq!(world.story(once), [(Bounce, 451, 1)]);
    let counters = world.shards[0].counters();
    assert_eq!((counters.deferred, counters.bounced, counters.delivered), (2, 1, 2));
}

/// What a reload takes away by mistake, the next one gives back. Mail that a rule holds meanwhile is not touched.
#[test]
fn mail_of_a_pool_that_a_reload_took_away_leaves_when_it_is_back() {
    let mut world = World::new(two_sources());
    world.everything_at(&["a.test", "b.test"], &[("mx.a.test", peer(1))]);
    world.hosts.insert(peer(1), Behaviour::Refuses(reply(451, Verb::RcptTo)));
    let waiting = world.post_with(&["r@a.test"], from("second"));
    world.run(seconds(1));
    world.put(rule("p", Kind::Pause, domain("b.test")));
    let held = world.post_with(&["r@b.test"], from("second"));
    world.run(seconds(1));
    let first = Settings { pools: vec![pool("first", &[(0, 1)])], ..two_sources() };
    let now = world.now;
    world.ask(0, |shard| shard.handle_reload(Arc::new(first), now));
    let fresh = world.post_with(&["r@b.test"], from("second"));
    world.run(seconds(600));
    assert!(world.story(waiting).len() > 1, "it was tried in vain");
    assert!(world.story(waiting).iter().all(|(kind, ..)| *kind == TransientFailure), "{:?}", world.story(waiting));
    assert_eq!((world.story(held), world.story(fresh)), (vec![], vec![]), "no attempt while a rule holds");
    world.hosts.clear();
    let now = world.now;
    world.ask(0, |shard| shard.handle_reload(Arc::new(two_sources()), now));
    world.change(&[Change::Remove("p".into())]);
    world.run(seconds(600));
    assert_eq!(world.story(waiting).last().map(|(kind, ..)| *kind), Some(Delivery));
    assert_eq!((world.story(held), world.story(fresh)), (vec![(Delivery, 250, 1)], vec![(Delivery, 250, 1)]));
}

/// One pool's mail must not wait behind another pool's that has no way out, nor fail with it.
#[test]
fn pools_do_not_wait_for_each_other_nor_fail_together() {
    let mut world = World::new(two_sources());
    world.everything_at(&["a.test"], &[("mx.a.test", peer(1))]);
    world.hosts.insert(peer(1), Behaviour::Slow(own(FailureKind::ConnectTimedOut, Verb::Connect), seconds(30)));
    let first = world.post_with(&["r@a.test"], from("first"));
    world.run(seconds(5));
    world.hosts.clear();
    let second = world.post_with(&["r@a.test"], from("second"));
    world.run(seconds(5));
    assert_eq!(world.story(second), [(Delivery, 250, 1)], "it need not wait for the first");
    world.run(seconds(25));
    assert_eq!(world.story(first).first().map(|(_, _, attempts)| *attempts), Some(1));
    let carriers: Vec<_> = world.connects.iter().map(|(_, connect)| connect.source).collect();
    assert!(carriers.contains(&Some("192.0.2.11".parse().unwrap())));
}

/// A message that names one address of a source goes from no other, not even on a connection that stands.
#[test]
fn a_message_goes_only_from_the_addresses_that_it_names() {
    let both = SourceSettings { address_v6: Some("2001:db8::10".parse().unwrap()), ..source(10) };
    let mut world = World::new(Settings { sources: vec![both], ..settings() });
    let v6 = "[2001:db8:1::1]:25".parse().unwrap();
    world.everything_at(&["a.test"], &[("mx6.a.test", v6), ("mx4.a.test", peer(1))]);
    let any = world.post(&["r@a.test"]);
    world.run(seconds(1));
    let only = Extras { ips: vec!["192.0.2.10".parse().unwrap()], ..Extras::default() };
    let named = world.post_with(&["r@a.test"], only);
    world.run(seconds(1));
    assert_eq!(world.sent.iter().map(|sent| sent.peer).collect::<Vec<_>>(), [v6, peer(1)]);
    assert_eq!((world.story(any), world.story(named)), (vec![(Delivery, 250, 1)], vec![(Delivery, 250, 1)]));
}

#[test]
fn records_name_the_pool_of_the_message_whoever_opened_the_connection() {
    let pools = vec![pool("first", &[(0, 1)]), pool("second", &[(0, 1)])];
    let mut world = World::new(Settings { pools, ..two_sources() });
    world.everything_at(&["a.test"], &[("mx.a.test", peer(1))]);
    for name in ["first", "second"] {
        world.post_with(&["r@a.test"], from(name));
        world.run(seconds(1));
    }
    let pools: Vec<_> = world.records.iter().map(|record| record.carrier.clone().unwrap().pool.clone()).collect();
    assert_eq!(pools, [Some("first".into()), Some("second".into())]);
    assert_eq!(world.connects.len(), 1);
}

#[test]
fn a_source_that_cannot_be_used_defers_only_its_own_mail() {
    let mut world = World::new(two_sources());
    world.everything_at(&["a.test"], &[("mx.a.test", peer(1))]);
    // A working session from the other source stands all the time.
    world.hosts.insert(peer(1), Behaviour::Sluggish(seconds(1)));
    for _ in 0..40 {
        world.post_with(&["r@a.test"], from("second"));
    }
    world.run(seconds(1));
    let failure = own(FailureKind::ConnectBadLocalAddress, Verb::Connect);
    world.hosts.insert(peer(1), Behaviour::Unreachable(failure));
    let bad = world.post_with(&["r@a.test"], from("first"));
    world.run(Duration::from_millis(200));
    assert_eq!(world.story(bad), [(TransientFailure, 451, 1)]);
    assert_eq!(world.of_type(TransientFailure).len(), 1);
}

#[test]
fn the_weights_of_a_pool_are_kept_to() {
    let mut world = World::new(Settings {
        pools: vec![pool("default", &[(0, 3), (1, 1)])],
        limits: vec![LimitSettings { messages_per_connection: Some(1), ..LimitSettings::new(LimitPer::Path) }],
        ..two_sources()
    });
    world.everything_at(&["a.test"], &[("mx.a.test", peer(1))]);
    for _ in 0..400 {
        world.post(&["r@a.test"]);
        world.run(Duration::from_millis(200));
    }
    let from_first = world.sent.iter().filter(|sent| sent.source.as_deref() == Some("ip-10")).count();
    assert_eq!(world.sent.len(), 400);
    assert!((290..=310).contains(&from_first), "{from_first} of 400, 300 expected");
}

#[test]
fn smart_hosts_and_routing_domains_name_the_way() {
    let mut world = World::new(settings());
    world.everything_at(&["relay.test"], &[("mx.relay.test", peer(3))]);
    let smart = Extras { smarthost: Some("198.51.100.4:2525".into()), ..Extras::default() };
    let routed = Extras { routing_domain: Some("relay.test".into()), ..Extras::default() };
    world.post_with(&["r@a.test"], smart);
    world.post_with(&["r@a.test"], routed);
    world.run(seconds(1));
    let mut peers: Vec<String> = world.sent.iter().map(|sent| sent.peer.to_string()).collect();
    peers.sort_unstable();
    assert_eq!(peers, ["198.51.100.3:25", "198.51.100.4:2525"]);
    assert!(world.lookups.iter().any(|of| matches!(of, Lookup::Hosts { by_operator: false, .. })));
}

#[test]
fn mail_that_would_come_back_is_ended() {
    let mut world = World::new(settings());
    let ours = "192.0.2.1:2525".parse().unwrap();
    world.everything_at(&["a.test"], &[("us.test", ours), ("mx2.a.test", peer(2))]);
    let id = world.post(&["r@a.test"]);
    world.run(seconds(1));
    assert_eq!(world.story(id), [(Bounce, 554, 1)]);
}

#[test]
fn a_reload_changes_routes_pools_and_sources_of_queued_mail() {
    let route = |number: u8| RouteSettings {
        domain: Some("a.test".into()),
        hosts: vec![RouteHost { host: format!("198.51.100.{number}").into(), port: 25 }],
    };
    let mut world = World::new(Settings { routes: vec![route(1)], ..two_sources() });
    world.post_with(&["r@a.test"], from("first"));
    world.post_with(&["r@a.test"], from("second"));
    world.run(seconds(1));
    assert_eq!((world.delivered(), world.shards[0].open_sessions()), (2, 2));
    // The first source goes, and with it the numbers change; the route goes elsewhere.
    let sources = vec![source(11)];
    let pools = vec![pool("second", &[(0, 1)])];
    let settings = Settings { sources, pools, routes: vec![route(2)], ..settings() };
    let now = world.now;
    world.ask(0, |shard| shard.handle_reload(Arc::new(settings), now));
    let gone = world.post_with(&["r@a.test"], from("first"));
    let stays = world.post_with(&["r@a.test"], from("second"));
    world.run(seconds(1));
    assert_eq!(world.story(gone), [(TransientFailure, 451, 1)]);
    assert_eq!(world.story(stays), [(Delivery, 250, 1)]);
    assert_eq!(world.sent.last().unwrap().peer, peer(2));
    assert_eq!(world.connects.last().unwrap().1.source, Some("192.0.2.11".parse().unwrap()));
    world.run(seconds(10));
    assert_eq!(world.shards[0].open_sessions(), 0);
}

/// Sessions of a source that a reload removed may still be connecting, failing and ending.
#[test]
fn a_reload_does_not_disturb_sessions_under_way() {
    for behaviour in [
        Behaviour::Slow(refused(), seconds(3)),
        Behaviour::Sluggish(seconds(3)),
        Behaviour::Breaks(own(FailureKind::Lost, Verb::MailFrom)),
        Behaviour::Refuses(Failure { response: storage_full(), ..reply(452, Verb::MailFrom) }),
    ] {
        let mut world = World::new(Settings {
            limits: vec![LimitSettings { connections: Some(3), ..LimitSettings::new(LimitPer::Path) }],
            ..two_sources()
        });
        world.everything_at(&["a.test"], &[("mx1.a.test", peer(1)), ("mx2.a.test", peer(2))]);
        world.hosts.insert(peer(1), behaviour);
        for _ in 0..60 {
            world.post(&["r@a.test"]);
        }
        world.run(Duration::from_millis(25));
        let now = world.now;
        world.ask(0, |shard| shard.handle_reload(Arc::new(settings()), now));
        world.run(seconds(200));
        assert_eq!((world.delivered(), world.states()), (60, (0, 0, 0, 0)));
    }
}

#[test]
fn an_expired_answer_of_the_resolver_is_asked_for_anew() {
    let mut world = World::new(settings());
    let mut answer = site(&[("mx.a.test", peer(1))]);
    answer.expires = world.now.instant.after(seconds(30));
    world.dns.insert("a.test".into(), Ok(answer));
    world.post(&["r@a.test"]);
    world.run(seconds(40));
    world.everything_at(&["a.test"], &[("mx.a.test", peer(2))]);
    world.post(&["r@a.test"]);
    world.run(seconds(1));
    assert_eq!(world.lookups.len(), 2);
    assert_eq!(world.sent.iter().map(|sent| sent.peer).collect::<Vec<_>>(), [peer(1), peer(2)]);
}

/// Connections that may not carry a pool's mail do not stand for one that may, while the mail in turn cannot go.
#[test]
fn a_pool_behind_one_that_waits_has_a_connection_of_its_own() {
    let limits = vec![
        LimitSettings { connections: Some(9), ..LimitSettings::new(LimitPer::Domain) },
        LimitSettings { idle_timeout: Some(seconds(3600)), ..LimitSettings::new(LimitPer::Path) },
        LimitSettings { connections: Some(1), pool: Some("first".into()), ..LimitSettings::new(LimitPer::Pool) },
    ];
    let mut world = World::new(Settings { limits, ..two_sources() });
    world.everything_at(&["a.test", "b.test"], &[("mx.hoster.test", peer(1))]);
    world.everything_at(&["busy.test"], &[("mx.busy.test", peer(2))]);
    world.hosts.insert(peer(2), Behaviour::Sluggish(seconds(300)));
    world.post_with(&["r@busy.test"], from("first"));
    world.post_with(&["r@b.test"], from("second"));
    world.run(seconds(1));
    let waits = world.post_with(&["r@a.test"], from("first"));
    let goes = world.post_with(&["r@a.test"], from("second"));
    world.run(seconds(2));
    assert_eq!((world.story(waits), world.story(goes)), (vec![], vec![(Delivery, 250, 1)]));
}
