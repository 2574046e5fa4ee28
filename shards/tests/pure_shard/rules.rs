//! Rules and mail: holds by bucket and by message, ends, deferrals, and the gate.

use crate::world::{Behaviour, KEY, World, answer, domain, own, peer, reply, seconds, settings};
use mailrace_shards::limits::SWEEP_ENTRIES_PER_TICK;
use mailrace_shards::message::{Extras, MessageId};
use mailrace_shards::outcome::RecordType::{AdminBounce, Bounce, Delivery, Suppression, TransientFailure};
use mailrace_shards::outcome::Verb;
use mailrace_shards::rules::{Cause, Change, Kind, Rule, Scope, Validity};
use mailrace_shards::settings::{LimitPer, LimitSettings, Rate, Settings};
use mailrace_shards::smtp::classify::FailureKind;
use std::sync::Arc;
use std::time::Duration;

fn world() -> World {
    let mut world = World::new(settings());
    world.everything_at(&["a.test", "b.test"], &[("mx.hoster.test", peer(1))]);
    world
}

fn rule(id: &str, order: u64, kind: Kind, scope: Scope) -> Rule {
    Rule { order, ..crate::world::rule(id, kind, scope) }
}

fn tag(name: &str) -> Scope {
    Scope { tag: Some(name.into()), ..Scope::default() }
}

fn tagged(name: &str) -> Extras {
    Extras { tags: vec![name.into()], ..Extras::default() }
}

fn remove(id: &str) -> [Change; 1] {
    [Change::Remove(id.into())]
}

fn order_of_arrival(world: &World) -> Vec<MessageId> {
    world.sent.iter().map(|sent| sent.envelope.id()).collect()
}

/// A pause over a domain: whoever asks finds nothing, whatever the depth, and no entry is touched.
#[test]
fn a_paused_domain_holds_its_bucket_as_a_whole_and_other_mail_flows() {
    let mut world = world();
    world.put(rule("p", 1, Kind::Pause, domain("a.test")));
    let ids: Vec<_> = (0..5000).map(|_| world.post(&["r@a.test"])).collect();
    let other = world.post(&["r@b.test"]);
    world.run(seconds(2));
    assert_eq!((world.story(other), world.delivered()), (vec![(Delivery, 250, 1)], 1));
    assert_eq!(world.states(), (0, 0, 5000, 0));
    // Not held one by one: the bucket has one flag.
    let bucket = world.shards[0].queue().entry(world.shards[0].queue().of_message(ids[0]).next().unwrap()).bucket;
    assert_eq!(&*world.shards[0].queue().bucket_held(bucket).unwrap().rule, "p");
    world.change(&remove("p"));
    world.run(seconds(60));
    assert_eq!((world.delivered(), world.states()), (5001, (0, 0, 0, 0)));
    assert!(world.records.iter().all(|record| record.attempts == 1), "a hold counts no attempt");
}

#[test]
fn mail_paused_by_its_tag_is_released_to_its_old_place() {
    for count in [3_usize, 600] {
        let mut world = world();
        world.put(rule("p", 1, Kind::Pause, tag("slow")));
        let slow: Vec<_> = (0..count).map(|_| world.post_with(&["r@a.test"], tagged("slow"))).collect();
        let quick = world.post_with(&["r@a.test"], tagged("quick"));
        world.run(seconds(5));
        assert_eq!(order_of_arrival(&world), [quick]);
        assert_eq!(world.states(), (0, 0, count as u64, 0));
        // What comes while they are held is behind them afterwards.
        world.hosts.insert(peer(1), Behaviour::Sluggish(seconds(1)));
        world.change(&remove("p"));
        world.run(seconds(count as u64 * 2));
        let arrived = order_of_arrival(&world);
        assert_eq!(arrived.len(), count + 1);
        if count == 3 {
            assert_eq!(arrived[1..], slow[..]);
        }
        assert_eq!(world.states(), (0, 0, 0, 0));
    }
}

/// What a rule ends it ends as it comes in, though nothing of its destination can be picked for long.
#[test]
fn mail_that_comes_under_an_ending_rule_is_ended_at_once() {
    let cases = [
        (Kind::Error(answer(551)), Bounce, 551),
        (Kind::Bounce { answer: answer(554), suppress_logging: false }, AdminBounce, 554),
        (Kind::Suppression(answer(550)), Suppression, 550),
    ];
    for (kind, record, code) in cases {
        // A connection that takes long to come about, and a host that is at rest.
        let refuses = own(FailureKind::ConnectRefused, Verb::Connect);
        let takes_long = Behaviour::Slow(refuses.clone(), seconds(100));
        for behaviour in [takes_long, Behaviour::Unreachable(refuses)] {
            let mut world = world();
            world.hosts.insert(peer(1), behaviour);
            world.put(rule("e", 1, kind.clone(), tag("bad")));
            let first = world.post_with(&["r@a.test"], tagged("good"));
            world.run(seconds(1));
            let covered = world.post_with(&["r@a.test"], tagged("bad"));
            world.run(Duration::from_millis(20));
            assert_eq!(world.story(covered), [(record, code, 0)]);
            assert!(world.story(first).iter().all(|(kind, ..)| *kind == TransientFailure));
        }
    }
}

#[test]
fn of_two_holds_the_second_still_holds_when_the_first_goes() {
    for scope in [domain("a.test"), tag("slow")] {
        let mut world = world();
        world.put(rule("one", 1, Kind::Pause, scope.clone()));
        world.put(rule("two", 2, Kind::Suspension { reason: "r".into() }, scope));
        let id = world.post_with(&["r@a.test"], tagged("slow"));
        world.run(seconds(1));
        world.change(&remove("one"));
        world.run(seconds(1));
        assert_eq!(world.story(id), []);
        world.change(&remove("two"));
        world.run(seconds(1));
        assert_eq!(world.story(id), [(Delivery, 250, 1)]);
    }
}

#[test]
fn a_hold_ends_by_time_even_when_the_clock_was_set_back() {
    for back in [0, 500] {
        let mut world = world();
        let end = world.now.utc.after(seconds(10));
        let validity = Validity::until(end);
        world.put(Rule { validity, ..rule("p", 1, Kind::Pause, domain("a.test")) });
        let id = world.post(&["r@a.test"]);
        world.run(seconds(9));
        assert_eq!(world.story(id), []);
        world.now.utc.0 -= back * 1000;
        world.run(seconds(u64::try_from(back).unwrap() + 2));
        assert_eq!(world.story(id), [(Delivery, 250, 1)]);
    }
}

/// Rules that come after the mail end what waits, what is held and what backs off, at once.
#[test]
fn an_ending_rule_reaches_all_queued_mail() {
    let cases = [
        (Kind::Error(answer(551)), Bounce, 551),
        (Kind::Error(answer(250)), Bounce, 250),
        (Kind::Bounce { answer: answer(554), suppress_logging: false }, AdminBounce, 554),
        (Kind::Suppression(answer(550)), Suppression, 550),
    ];
    for (kind, record, code) in cases {
        let mut world = world();
        world.hosts.insert(peer(1), Behaviour::Refuses(reply(450, Verb::RcptTo)));
        let backing_off = world.post_with(&["r@a.test"], tagged("bad"));
        world.run(seconds(1));
        world.put(rule("p", 1, Kind::Pause, domain("a.test")));
        let in_held_bucket = world.post_with(&["r@a.test"], tagged("bad"));
        let spared = world.post_with(&["r@a.test"], tagged("good"));
        world.put(rule("q", 2, Kind::Pause, tag("bad")));
        let held_alone = world.post_with(&["r@b.test"], tagged("bad"));
        world.run(seconds(1));
        world.put(rule("end", 3, kind.clone(), tag("bad")));
        // And what comes later into a held bucket, or is not due, does not wait for its turn to hear of it.
        let comes_later = world.post_with(&["r@a.test"], tagged("bad"));
        let soon = Some(world.now.utc.after(seconds(600)));
        let not_due = world.post_with(&["r@b.test"], Extras { not_before: soon, ..tagged("bad") });
        world.run(Duration::from_millis(100));
        let end = [(record, code, 0)];
        assert_eq!(world.story(backing_off), [(TransientFailure, 450, 1), (record, code, 1)], "{kind:?}");
        for (what, id) in [
            ("in a held bucket", in_held_bucket),
            ("held alone", held_alone),
            ("later", comes_later),
            ("not due", not_due),
        ] {
            assert_eq!(world.story(id), end, "{kind:?}, {what}");
        }
        assert_eq!(world.story(spared), [], "{kind:?}");
        let mark = world.of_type(record)[0].rule.clone().unwrap();
        assert_eq!((&*mark.id, &*mark.by), ("end", "tester"));
    }
}

/// A rule by tag looks at the whole queue, a slice each turn: no entry is passed over between two slices.
#[test]
fn an_ending_rule_reaches_each_entry_of_a_deep_queue() {
    let mut world = world();
    world.put(rule("p", 1, Kind::Pause, domain("a.test")));
    let deep = 3 * SWEEP_ENTRIES_PER_TICK + 7;
    for number in 0..deep {
        // Another tag for the last one, to see that only what is meant ends.
        world.post_with(&["r@a.test"], tagged(if number + 1 == deep { "good" } else { "bad" }));
    }
    world.run(seconds(1));
    assert_eq!(world.states(), (0, 0, deep as u64, 0));
    world.put(rule("end", 2, Kind::Error(answer(551)), tag("bad")));
    world.run(seconds(5));
    assert_eq!((world.states(), world.of_type(Bounce).len()), ((0, 0, 1, 0), deep - 1));
}

#[test]
fn a_bounce_may_leave_no_record_and_the_spool_hears_all_the_same() {
    let mut world = world();
    world.put(rule("end", 1, Kind::Bounce { answer: answer(554), suppress_logging: true }, domain("a.test")));
    let id = world.post(&["r@a.test"]);
    world.run(seconds(1));
    assert_eq!((world.story(id), world.progress.len(), world.states()), (vec![], 1, (0, 0, 0, 0)));
}

#[test]
fn a_forced_deferral_counts_attempts_and_wins_over_a_hold() {
    let mut world = world();
    world.put(rule("p", 1, Kind::Pause, domain("a.test")));
    let twice = world.post_with(&["r@a.test"], Extras { max_attempts: Some(2), ..Extras::default() });
    let id = world.post(&["r@a.test"]);
    world.run(seconds(1));
    assert_eq!(world.story(id), []);
    world.put(rule("later", 2, Kind::Error(answer(450)), domain("a.test")));
    world.run(seconds(65));
    assert_eq!(world.story(id), [(TransientFailure, 450, 1), (TransientFailure, 450, 2)]);
    assert_eq!(world.story(twice), [(TransientFailure, 450, 1), (Bounce, 450, 2)]);
    world.change(&remove("later"));
    world.change(&remove("p"));
    world.run(seconds(600));
    assert_eq!(world.story(id).last(), Some(&(Delivery, 250, 3)));
}

/// A rule that ends mail came while a host was still thinking about a message. Its refusal puts the message into
/// back-off, where the rule ends it at once, not only at the next attempt.
#[test]
fn mail_that_is_deferred_when_a_rule_ends_it_already_does_not_wait_for_its_retry() {
    let mut world = world();
    world.hosts.insert(peer(1), Behaviour::Ponders(reply(451, Verb::EndOfData), seconds(2)));
    let id = world.post(&["r@a.test", "s@a.test"]);
    world.run(seconds(1));
    world.put(rule("bounce", 1, Kind::Bounce { answer: answer(550), suppress_logging: false }, domain("a.test")));
    world.run(seconds(2));
    let failed = [(TransientFailure, 451, 1), (TransientFailure, 451, 1)];
    let ended = [(AdminBounce, 550, 1), (AdminBounce, 550, 1)];
    assert_eq!(world.story(id), [failed, ended].concat());
    assert_eq!(world.states(), (0, 0, 0, 0));
}

/// The same when the attempt is given back because of the rule, and no other attempt is possible for long.
#[test]
fn mail_that_is_given_back_when_a_rule_ends_it_does_not_wait_for_a_connection() {
    let once = Some(Rate { count: 1, period: seconds(3600) });
    let limits = vec![LimitSettings { connection_rate: once, ..LimitSettings::new(LimitPer::Site) }];
    let mut world = World::new(Settings { limits, ..settings() });
    world.everything_at(&["a.test"], &[("mx.hoster.test", peer(1))]);
    world.hosts.insert(peer(1), Behaviour::Sluggish(seconds(2)));
    let id = world.post(&["r@a.test"]);
    world.run(seconds(1));
    world.put(rule("bounce", 1, Kind::Bounce { answer: answer(550), suppress_logging: false }, domain("a.test")));
    world.run(seconds(2));
    assert_eq!((world.story(id), world.connects.len()), (vec![(AdminBounce, 550, 0)], 1));
}

#[test]
fn suppressions_act_when_the_attempt_is_made_and_on_what_is_queued() {
    let cause = Arc::new(Cause { answer: answer(550), by: "list".into() });
    let suppress = |value: &str| Change::Suppress { key: KEY.suppression(value), cause: cause.clone() };
    let mut world = world();
    world.hosts.insert(peer(1), Behaviour::Refuses(reply(450, Verb::RcptTo)));
    let queued = world.post(&["One@a.test"]);
    world.run(seconds(1));
    world.hosts.clear();
    world.change(&[suppress("one@a.test"), suppress("b.test")]);
    let some = world.post(&["one@a.test", "two@a.test"]);
    let all = world.post(&["anyone@b.test"]);
    world.run(seconds(1));
    assert_eq!(world.story(queued), [(TransientFailure, 450, 1), (Suppression, 550, 1)]);
    assert_eq!(world.story(some), [(Suppression, 550, 0), (Delivery, 250, 1)]);
    assert_eq!(world.sent.last().unwrap().recipients[..], [1]);
    assert_eq!(world.story(all), [(Suppression, 550, 0)]);
    let counters = world.shards[0].counters();
    assert_eq!((counters.ended_by_suppression, counters.ended_by_rule), (3, 3));
}

/// A rule that comes while a message is on its way stops it in the gate.
#[test]
fn a_rule_between_the_pick_and_the_gate_stops_the_message() {
    let address = Scope { address: Some("one@a.test".into()), ..Scope::default() };
    let cases = [
        ("pause of the domain", Kind::Pause, domain("a.test"), vec![]),
        ("pause of the address", Kind::Pause, address.clone(), vec![(Delivery, 250, 1)]),
        ("error for the address", Kind::Error(answer(551)), address, vec![(Bounce, 551, 0), (Delivery, 250, 1)]),
        (
            "forced deferral",
            Kind::Error(answer(450)),
            domain("a.test"),
            vec![(TransientFailure, 450, 1), (TransientFailure, 450, 1)],
        ),
        ("nothing", Kind::Pause, domain("c.test"), vec![(Delivery, 250, 1), (Delivery, 250, 1)]),
    ];
    for (name, kind, scope, story) in cases {
        let mut world = world();
        world.hosts.insert(peer(1), Behaviour::Sluggish(seconds(2)));
        let id = world.post(&["one@a.test", "two@a.test"]);
        world.run(seconds(1));
        assert_eq!(world.states().3, 1, "{name}: it is on its way");
        world.put(rule("stop", 1, kind, scope));
        world.run(seconds(20));
        assert_eq!(world.story(id), story, "{name}");
        assert_eq!(world.shards[0].counters().gated, u64::from(name != "nothing"), "{name}");
    }
}

#[test]
fn the_gate_names_the_covered_recipients() {
    use mailrace_shards::event::Command;
    use mailrace_shards::shard::Next;
    let mut world = world();
    world.hosts.insert(peer(1), Behaviour::Sluggish(seconds(100)));
    world.post(&["zero@a.test"]);
    world.run(seconds(1));
    // The session of the world is busy; a second one is played by hand.
    world.post(&["one@a.test", "two@a.test", "three@a.test"]);
    world.run(Duration::from_millis(5));
    let (_, connect) = world.connects.last().unwrap().clone();
    let now = world.now;
    let shard = &mut world.shards[0];
    shard.handle_ready(connect.session, None, None);
    let Next::Deliver(delivery) = shard.next_delivery(connect.session, now) else { panic!("nothing to do") };
    assert!(shard.gate(connect.session, delivery.token, now).is_none());
    let scope = Scope { address: Some("two@a.test".into()), ..Scope::default() };
    let stop = Change::Put(Arc::new(rule("stop", 1, Kind::Pause, scope)));
    let update = mailrace_shards::rules::Update { after: 0, epoch: 1, changes: vec![stop] };
    shard.handle_rules(update, now);
    assert_eq!(shard.gate(connect.session, delivery.token, now).unwrap()[..], [1]);
    shard.handle_aborted(connect.session, delivery.token, now);
    let Next::Deliver(delivery) = shard.next_delivery(connect.session, now) else { panic!("nothing to do") };
    assert_eq!(delivery.recipients[..], [0, 2]);
    assert!(shard.gate(connect.session, delivery.token, now).is_none());
    assert!(!matches!(shard.poll_command(), Some(Command::Resolve { .. })));
}

/// A deep run of mail that rules hold one by one delays what is behind it, and no more than that.
#[test]
fn mail_behind_a_thousand_held_messages_is_found() {
    let mut world = world();
    for _ in 0..1000 {
        world.post_with(&["r@a.test"], tagged("slow"));
    }
    world.put(rule("p", 1, Kind::Pause, tag("slow")));
    let id = world.post(&["r@a.test"]);
    world.run(seconds(2));
    assert_eq!(world.story(id), [(Delivery, 250, 1)]);
}
