//! Rules that close some ways of mail while its other ways are down: what has no way left by both together has made
//! its attempt, and mail that the rules leave alone is not charged for it.

use crate::world::{Behaviour, World, own, peer, rule, seconds, settings, source};
use mailrace_shards::message::Extras;
use mailrace_shards::outcome::RecordType::{AdminBounce, Delivery, TransientFailure};
use mailrace_shards::outcome::Verb;
use mailrace_shards::rules::{Answer, Change, Kind, Rule, Scope, Validity};
use mailrace_shards::settings::{PoolSettings, Settings};
use mailrace_shards::smtp::classify::FailureKind;
use std::time::Duration;

const SOURCES: u8 = 4;

/// Some sources in one pool; all mail goes to one host.
fn world(sources: u8) -> World {
    let pool = PoolSettings { name: "default".into(), sources: (0..usize::from(sources)).map(|at| (at, 1)).collect() };
    let settings = Settings { sources: (1..=sources).map(source).collect(), pools: vec![pool], ..settings() };
    let mut world = World::new(settings);
    world.everything_at(&["a.test", "b.test"], &[("mx.hoster.test", peer(1))]);
    world
}

fn pause(id: &str, scope: Scope) -> Rule {
    rule(id, Kind::Pause, scope)
}

fn own_address(number: u8) -> Scope {
    Scope { source_ip: Some([192, 0, 2, number].into()), ..Scope::default() }
}

fn tagged() -> Extras {
    Extras { tags: vec!["t".into()], ..Extras::default() }
}

#[test]
fn mail_whose_only_permitted_source_is_down_backs_off() {
    let path = Scope { path: Some("ip-1->mx.hoster.test@smtp_client".into()), ..Scope::default() };
    for scope in [own_address(1), path, Scope { domain: Some("a.test".into()), ..own_address(1) }] {
        let mut world = world(2);
        world.hosts.insert(peer(1), Behaviour::Unreachable(own(FailureKind::ConnectRefused, Verb::Connect)));
        world.put(pause("p", scope.clone()));
        let since = world.now;
        let ids: Vec<_> = (0..3000).map(|_| world.post(&["r@a.test"])).collect();
        world.run(seconds(30));
        for id in [ids[0], ids[1500], ids[2999]] {
            assert!(matches!(world.story(id)[..], [(TransientFailure, _, 1)]), "{scope:?}: {:?}", world.story(id));
        }
        world.run(seconds(600));
        let moments = world.moments(ids[0], since);
        // By the schedule: after one, two and five minutes more.
        let expected = [0, 60, 180, 480].map(|at| at..=at + 25);
        assert!(
            moments.len() == 4 && moments.iter().zip(&expected).all(|(at, range)| range.contains(at)),
            "{scope:?}: {moments:?}"
        );
        world.hosts.clear();
        world.run(seconds(400));
        assert_eq!(world.story(ids[2999]).last(), Some(&(Delivery, 250, 5)), "{scope:?}");
        assert!(world.connects.iter().all(|(_, connect)| &*connect.ehlo == "ip-2"), "{scope:?}");
    }
}

#[test]
fn mail_that_no_rule_covers_is_not_charged_for_the_ways_of_other_mail() {
    let mut world = world(2);
    // Only what bears the tag may not go by the first source, and the other one's host does not answer at first.
    world.put(pause("p", Scope { tag: Some("t".into()), ..own_address(1) }));
    world.hosts.insert(peer(1), Behaviour::Slow(own(FailureKind::ConnectTimedOut, Verb::Connect), seconds(20)));
    let mut free = Vec::new();
    let mut covered = Vec::new();
    for _ in 0..20 {
        covered.push(world.post_with(&["r@a.test"], tagged()));
        free.push(world.post(&["r@a.test"]));
    }
    world.run(seconds(300));
    for id in &covered {
        assert!(matches!(world.story(*id)[..], [(TransientFailure, _, 1), ..]), "{:?}", world.story(*id));
    }
    world.hosts.clear();
    world.run(seconds(900));
    for id in covered.iter().chain(&free) {
        assert!(matches!(world.story(*id).last(), Some((Delivery, 250, _))), "{:?}", world.story(*id));
    }
}

#[test]
fn a_source_that_works_carries_what_may_not_go_by_the_others() {
    let mut world = world(SOURCES);
    for number in 2..=SOURCES {
        world.put(Rule { order: u64::from(number), ..pause(&format!("p{number}"), own_address(number)) });
    }
    let ids: Vec<_> = (0..50).map(|_| world.post(&["r@a.test"])).collect();
    world.run(seconds(5));
    for id in ids {
        assert_eq!(world.story(id), [(Delivery, 250, 1)]);
    }
    assert!(world.sent.iter().all(|sent| sent.source.as_deref() == Some("ip-1")));
}

/// With hundreds of sources each message is asked about a few times, not once for each source.
#[test]
fn rules_over_ways_are_asked_once_for_each_way_and_epoch() {
    const SOURCES: u8 = 200;
    const MESSAGES: u32 = 500;
    // Nearly all sources are closed; or one is, and the others are all in use.
    for (closed, time) in [(SOURCES - 1, Duration::from_millis(200)), (1, seconds(3))] {
        let mut world = world(SOURCES);
        world.hosts.insert(peer(1), Behaviour::Sluggish(time));
        for number in 1..=closed {
            world.put(Rule { order: u64::from(number), ..pause(&format!("p{number}"), own_address(number)) });
        }
        for _ in 0..MESSAGES {
            world.post(&["r@a.test"]);
            world.run(Duration::from_millis(5));
        }
        world.run(seconds(600));
        assert_eq!(world.delivered(), MESSAGES as usize, "{closed} closed");
        let judged = world.shards[0].counters().judged;
        let most = 2 * u64::from(MESSAGES) + 2 * u64::from(SOURCES);
        let least = u64::from(MESSAGES);
        assert!((least..=most).contains(&judged), "{closed} closed: asked {judged} times, at most {most}");
    }
}

#[test]
fn what_is_known_of_ways_goes_with_the_rules_it_came_from() {
    let mut world = world(2);
    world.put(pause("p", own_address(1)));
    let first = world.post(&["r@a.test"]);
    world.run(seconds(1));
    // The other way round, by one change after the other.
    world.put(Rule { order: 2, ..pause("q", own_address(2)) });
    let both = world.post(&["r@a.test"]);
    world.run(seconds(1));
    assert_eq!((world.story(first), world.story(both)), (vec![(Delivery, 250, 1)], vec![]));
    world.change(&[Change::Remove("p".into())]);
    world.run(seconds(1));
    assert_eq!(world.story(both), [(Delivery, 250, 1)]);
    let sources: Vec<_> = world.sent.iter().map(|sent| sent.source.as_deref().unwrap()).collect();
    assert_eq!(sources, ["ip-2", "ip-1"]);
    // And by time alone: a pause that ends, while nothing else happens.
    let end = world.now.utc.after(seconds(5));
    let validity = Validity::until(end);
    world.put(Rule { order: 3, validity, ..pause("t", own_address(1)) });
    let timed = world.post(&["r@a.test"]);
    world.run(seconds(4));
    assert_eq!(world.story(timed), []);
    world.run(seconds(2));
    assert_eq!(world.story(timed), [(Delivery, 250, 1)]);
}

/// Mail is held under the rule over its first way. When one over another way goes, by a change or by time, it may go there.
#[test]
fn mail_goes_by_the_way_that_a_rule_gives_free_whichever_holds_it() {
    let timed = |world: &World| Validity::until(world.now.utc.after(seconds(5)));
    for case in ["removed", "changed", "over"] {
        let mut world = world(2);
        world.put(pause("first", own_address(1)));
        let validity = if case == "over" { timed(&world) } else { Validity::always() };
        world.put(Rule { order: 2, validity, ..pause("second", own_address(2)) });
        let id = world.post(&["r@a.test"]);
        world.run(seconds(4));
        assert_eq!(world.story(id), [], "{case}");
        match case {
            "removed" => world.change(&[Change::Remove("second".into())]),
            "changed" => world
                .put(Rule { order: 2, ..pause("second", Scope { domain: Some("b.test".into()), ..Scope::default() }) }),
            _ => {}
        }
        world.run(seconds(2));
        assert_eq!(world.story(id), [(Delivery, 250, 1)], "{case}");
        assert_eq!(world.sent[0].source.as_deref(), Some("ip-2"), "{case}");
    }
}

/// Mail that comes back from a connection may come under two rules at once: it is ended by the one, and no way is looked
/// for that the other leaves.
#[test]
fn mail_that_comes_back_under_a_bounce_and_a_pause_of_all_its_ways_is_ended_once() {
    let mut world = world(1);
    world.hosts.insert(peer(1), Behaviour::Sluggish(seconds(5)));
    let id = world.post(&["r@a.test"]);
    world.run(seconds(1));
    world.put(pause("p", own_address(1)));
    let kind = Kind::Bounce { answer: Answer::new(550, None, "no".into()).unwrap(), suppress_logging: false };
    world.put(Rule { order: 2, ..rule("b", kind, Scope { address: Some("r@a.test".into()), ..Scope::default() }) });
    world.lose("ip-1", own(FailureKind::Lost, Verb::Data));
    world.run(seconds(1));
    assert_eq!(world.story(id), [(AdminBounce, 550, 0)]);
}

/// Of a message's recipients one is ended when it is picked, before the sweep has come to it, and the other may not go by
/// this way: it takes another.
#[test]
fn who_is_left_of_a_message_takes_the_way_that_is_open() {
    let mut world = world(2);
    world.hosts.insert(peer(1), Behaviour::Sluggish(Duration::from_millis(1005)));
    world.post(&["first@a.test"]);
    // Its answer comes between two ticks, after 1025 ms.
    world.run(Duration::from_millis(1021));
    assert_eq!((world.open.len(), &*world.connects[0].1.ehlo), (1, "ip-1"));
    let id =
        world.post_with(&["bad@a.test", "good@a.test"], Extras { campaign: Some("c".into()), ..Extras::default() });
    world.put(pause("p", Scope { campaign: Some("c".into()), ..own_address(1) }));
    let kind = Kind::Bounce { answer: Answer::new(550, None, "no".into()).unwrap(), suppress_logging: false };
    world.put(Rule { order: 2, ..rule("b", kind, Scope { address: Some("bad@a.test".into()), ..Scope::default() }) });
    world.run(Duration::from_millis(5));
    assert_eq!(world.story(id), [(AdminBounce, 550, 0)], "it was picked, and is not with a session");
    world.run(seconds(10));
    assert_eq!(world.story(id), [(AdminBounce, 550, 0), (Delivery, 250, 1)]);
    assert_eq!(world.sent.last().unwrap().source.as_deref(), Some("ip-2"));
}
