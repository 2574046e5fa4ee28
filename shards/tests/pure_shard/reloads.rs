//! Settings that are taken over while mail waits and connections stand.

use crate::limits::with;
use crate::world::{Behaviour, World, domain, own, peer, rule, seconds, settings, source};
use mailrace_shards::message::Extras;
use mailrace_shards::outcome::RecordType::{Delivery, TransientFailure};
use mailrace_shards::outcome::Verb;
use mailrace_shards::rules::{Change, Kind, Scope};
use mailrace_shards::settings::{LimitPer, LimitSettings, PoolSettings, Settings};
use mailrace_shards::smtp::classify::FailureKind;
use std::sync::Arc;

/// Two sources, and pools of them by their places.
fn with_pools(pools: &[(&str, &[usize])]) -> Settings {
    let pool = |(name, sources): &(&str, &[usize])| PoolSettings {
        name: (*name).into(),
        sources: sources.iter().map(|at| (*at, 1)).collect(),
    };
    Settings { sources: vec![source(1), source(2)], pools: pools.iter().map(pool).collect(), ..settings() }
}

fn reload(world: &mut World, settings: &Settings) {
    let (now, cores) = (world.now, world.shards.len());
    for core in 0..cores {
        let settings = Arc::new(Settings { shards: cores, ..settings.clone() });
        world.ask(core, |shard| shard.handle_reload(settings, now));
    }
}

/// A connection that ends gives its message back, and the mail of its site is attended to: what may not go any more has
/// made its attempt with that.
#[test]
fn mail_whose_pool_a_reload_took_away_is_deferred_when_its_connection_is_lost() {
    let mut world = World::new(with_pools(&[("default", &[0]), ("second", &[1])]));
    world.everything_at(&["a.test"], &[("mx.a.test", peer(1))]);
    world.hosts.insert(peer(1), Behaviour::Sluggish(seconds(5)));
    let gone = world.post_with(&["r@a.test"], Extras { pool: Some("second".into()), ..Extras::default() });
    world.run(seconds(1));
    reload(&mut world, &with_pools(&[("default", &[0])]));
    let stays = world.post(&["r@a.test"]);
    world.run(seconds(1));
    world.lose("ip-2", own(FailureKind::Lost, Verb::Data));
    world.run(seconds(10));
    assert_eq!(world.story(gone), [(TransientFailure, 451, 1)]);
    assert_eq!((world.story(stays), world.states()), (vec![(Delivery, 250, 1)], (0, 1, 0, 0)));
}

/// A connection outlives the destination for which it was opened while it carries the mail of others; a reload asks for its
/// limits all the same.
#[test]
fn a_reload_reaches_connections_whose_first_destination_is_forgotten() {
    let allowed = |connections| {
        let of = LimitSettings { connections: Some(connections), ..LimitSettings::new(LimitPer::Site) };
        with(vec![LimitSettings { idle_timeout: Some(seconds(3600)), ..of }])
    };
    let mut world = World::new(allowed(2));
    world.everything_at(&["a.test", "b.test"], &[("mx.hoster.test", peer(1))]);
    world.hosts.insert(peer(1), Behaviour::Sluggish(seconds(2)));
    for _ in 0..20 {
        world.post(&["r@a.test"]);
    }
    world.run(seconds(30));
    assert_eq!((world.delivered(), world.open.len()), (20, 2));
    world.post(&["r@b.test"]);
    world.run(seconds(100));
    reload(&mut world, &allowed(1));
    world.run(seconds(1));
    assert_eq!(world.open.len(), 1, "the one beyond the new limit is recalled");
    world.post(&["r@b.test"]);
    world.run(seconds(5));
    assert_eq!((world.delivered(), world.states()), (22, (0, 0, 0, 0)));
}

/// What a rule held on the only way that there was goes by the one that a reload gives; what it held by its pool goes when
/// that is another one.
#[test]
fn mail_that_is_held_is_judged_anew_after_a_reload() {
    let own_address = Scope { source_ip: Some([192, 0, 2, 1].into()), ..Scope::default() };
    let by_pool = Scope { pool: Some("default".into()), ..Scope::default() };
    let unnamed = Settings { sources: vec![source(1)], ..settings() };
    for (scope, after) in [(own_address, with_pools(&[("default", &[0, 1])])), (by_pool, unnamed)] {
        let mut world = World::new(with_pools(&[("default", &[0])]));
        world.put(rule("p", Kind::Pause, scope.clone()));
        let id = world.post(&["r@a.test"]);
        world.run(seconds(5));
        assert_eq!(world.story(id), [], "{scope:?}");
        reload(&mut world, &after);
        world.run(seconds(5));
        assert_eq!(world.story(id), [(Delivery, 250, 1)], "{scope:?}");
    }
}

/// What a rule holds whatever the settings say stays held: nobody is asked for its hosts, and nothing connects there.
#[test]
fn a_reload_leaves_mail_alone_that_is_held_by_its_domain() {
    let mut world = World::new(with_pools(&[("default", &[0])]));
    world.put(rule("p", Kind::Pause, domain("a.test")));
    world.post(&["r@a.test"]);
    world.run(seconds(20));
    let before = (world.lookups.len(), world.connects.len());
    reload(&mut world, &with_pools(&[("default", &[0, 1])]));
    world.run(seconds(20));
    assert_eq!((world.lookups.len(), world.connects.len()), before);
    world.change(&[Change::Remove("p".into())]);
    world.run(seconds(5));
    assert_eq!((world.delivered(), world.states()), (1, (0, 0, 0, 0)));
}
