//! What an operator or the runtime says of single messages: retry, cancel, flush; that one is quarantined, that its body
//! has moved or cannot be read, that its session has panicked.

use crate::world::{Behaviour, KEY, World, domain, peer, reply, rule, seconds, settings};
use mailrace_shards::event::{Answer, MessageFilter, Question, SessionId, Waits};
use mailrace_shards::limits::{BODY_MOVED_WAIT_MILLIS, ENDED_QUEUES_MAX, OTHER_QUEUES, UNSYNCED_RECORDS_MAX};
use mailrace_shards::message::{CoreId, Extras, MessageId};
use mailrace_shards::outcome::RecordType::{Bounce, Delivery, TransientFailure};
use mailrace_shards::outcome::Verb;
use mailrace_shards::rules::{Answer as RuleAnswer, Kind, Scope};
use mailrace_shards::shard::{Shard, ShardConfig};
use std::sync::Arc;
use std::time::Duration;

fn world() -> World {
    let mut world = World::new(settings());
    world.everything_at(&["a.test", "b.test"], &[("mx.hoster.test", peer(1))]);
    world
}

/// Mail that waits for its retry: one message for a.test, one for b.test, one of two recipients for a.test.
fn waiting() -> (World, [MessageId; 3]) {
    let mut world = world();
    world.hosts.insert(peer(1), Behaviour::Refuses(reply(450, Verb::RcptTo)));
    let tagged = Extras { tags: vec!["slow".into()], ..Extras::default() };
    let ids =
        [world.post(&["r@a.test"]), world.post(&["r@b.test"]), world.post_with(&["s@a.test", "t@a.test"], tagged)];
    world.run(seconds(1));
    assert_eq!(world.states(), (0, 3, 0, 0));
    world.hosts.clear();
    (world, ids)
}

fn count(world: &mut World, question: Question) -> u64 {
    match world.question(question).try_recv() {
        Ok(Answer::Count(count)) => count,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_message_that_waits_is_tried_at_once_when_somebody_asks_for_it() {
    let (mut world, [first, second, third]) = waiting();
    assert_eq!(count(&mut world, Question::Retry(first)), 1);
    assert_eq!(count(&mut world, Question::Retry(MessageId { sequence: 99, ..first })), 0);
    world.run(seconds(1));
    assert_eq!(world.story(first), [(TransientFailure, 450, 1), (Delivery, 250, 2)]);
    assert_eq!((world.story(second).len(), world.story(third).len()), (1, 2), "the others wait");
    assert_eq!(world.states(), (0, 2, 0, 0));
}

#[test]
fn a_flush_makes_due_what_it_names_and_nothing_else() {
    let remote = |number| Scope { remote_ip: Some(peer(number).ip()), ..Scope::default() };
    let source = Scope { source_ip: Some([192, 0, 2, 1].into()), ..Scope::default() };
    let path = Scope { path: Some("unknown".into()), ..domain("b.test") };
    let tag = Scope { tag: Some("slow".into()), ..Scope::default() };
    let address = Scope { address: Some("t@a.test".into()), ..Scope::default() };
    // What belongs to an attempt is not known of queued mail, and counts as fitting.
    let cases = [
        (Scope::default(), 3),
        (domain("a.test"), 2),
        (domain("b.test"), 1),
        (domain("c.test"), 0),
        (remote(1), 3),
        (remote(7), 3),
        (source, 3),
        (path, 1),
        (tag, 1),
        (address, 1),
    ];
    for (scope, expected) in cases {
        let (mut world, _) = waiting();
        assert_eq!(count(&mut world, Question::Flush { scope: scope.clone(), found: false }), expected, "{scope:?}");
        world.run(seconds(1));
        assert_eq!(world.states(), (0, 3 - expected, 0, 0), "{scope:?}");
        assert_eq!(count(&mut world, Question::Flush { scope: domain("none.test"), found: false }), 0);
    }
}

/// Mail that is ready or held has nothing to be hastened for.
#[test]
fn a_flush_counts_only_what_waits() {
    let mut world = world();
    world.put(rule("p", Kind::Pause, domain("a.test")));
    world.post(&["r@a.test"]);
    world.run(seconds(1));
    assert_eq!(count(&mut world, Question::Flush { scope: Scope::default(), found: false }), 0);
    assert_eq!(world.states(), (0, 0, 1, 0));
}

#[test]
fn a_message_that_is_cancelled_ends_with_a_record_that_says_who_did_it() {
    let (mut world, [_, _, third]) = waiting();
    assert_eq!(count(&mut world, Question::Cancel { id: third, by: "somebody".into() }), 1);
    assert_eq!(world.story(third)[2..], [(Bounce, 550, 1), (Bounce, 550, 1)]);
    let mark = world.records.last().unwrap().rule.clone().unwrap();
    assert_eq!((mark.kind, &*mark.by, &*mark.id), ("cancel", "somebody", &*third.to_string()));
    let counters = world.shards[0].counters();
    assert_eq!((counters.ended_by_cancel, counters.ended_by_rule, world.states()), (1, 1, (0, 2, 0, 0)));
    assert_eq!(count(&mut world, Question::Cancel { id: third, by: "somebody".into() }), 0);
    // What is with a session may have got through already.
    world.hosts.insert(peer(1), Behaviour::Sluggish(seconds(5)));
    let sending = world.post(&["r@a.test"]);
    world.run(seconds(1));
    assert_eq!(count(&mut world, Question::Cancel { id: sending, by: "somebody".into() }), 0);
    world.run(seconds(10));
    assert_eq!(world.story(sending), [(Delivery, 250, 1)]);
}

#[test]
fn a_quarantined_message_is_held_and_others_are_not() {
    let mut world = world();
    let first = MessageId { generation: 1, core: 0, sequence: 1 };
    world.shards[0] = Shard::new(ShardConfig {
        core: CoreId(0),
        cores: 1,
        generation: 1,
        rule_key: KEY,
        quarantine: Arc::new([first].into_iter().collect()),
        settings: Arc::new(settings()),
    });
    let later = world.now.utc.after(seconds(1));
    // Not even by its time does it go.
    assert_eq!(world.post_with(&["r@a.test"], Extras { not_before: Some(later), ..Extras::default() }), first);
    let other = world.post(&["r@a.test"]);
    world.run(seconds(10));
    assert_eq!((world.story(first), world.story(other)), (vec![], vec![(Delivery, 250, 1)]));
    assert_eq!((world.states(), world.shards[0].counters().quarantined), ((0, 0, 1, 0), 1));
    assert_eq!(count(&mut world, Question::Cancel { id: first, by: "somebody".into() }), 1);
    assert_eq!(world.states(), (0, 0, 0, 0));
}

/// A message that is with a session, whose end nobody will tell, and that session.
fn sending() -> (World, MessageId, SessionId) {
    let mut world = world();
    world.hosts.insert(peer(1), Behaviour::Silent);
    let id = world.post(&["r@a.test"]);
    world.run(Duration::from_millis(100));
    assert_eq!(world.shards[0].in_flight_ids(), [id]);
    let (_, session) = *world.open.keys().next().unwrap();
    world.hosts.clear();
    (world, id, session)
}

#[test]
fn a_message_whose_body_has_moved_goes_again_soon_and_uncharged() {
    let (mut world, id, session) = sending();
    let now = world.now;
    world.ask(0, |shard| shard.handle_body_moved(session, 99, now));
    assert_eq!(world.states(), (0, 0, 0, 1), "there is no such delivery");
    world.ask(0, |shard| shard.handle_body_moved(session, 1, now));
    assert_eq!(world.states(), (0, 1, 0, 0));
    world.run(Duration::from_millis(BODY_MOVED_WAIT_MILLIS - 10));
    assert_eq!(world.states(), (0, 1, 0, 0));
    world.run(Duration::from_millis(100));
    assert_eq!(world.story(id), [(Delivery, 250, 1)]);
}

/// A file that is gone was taken for one that compaction has removed, ten times a second and without a word, for as long
/// as the message lived.
#[test]
fn a_message_whose_body_is_nowhere_counts_as_unreadable_after_a_minute() {
    let (mut world, id, _) = sending();
    let (mut times, begun) = (0, world.now.utc);
    world.hosts.insert(peer(1), Behaviour::Sluggish(seconds(1)));
    while world.records.is_empty() {
        // Each delivery has the next number, with whichever session it is.
        times += 1;
        assert!(times <= 10, "it is tried {times} times");
        let (now, sessions) = (world.now, world.open.keys().map(|(_, session)| *session).collect::<Vec<_>>());
        for session in sessions {
            world.ask(0, |shard| shard.handle_body_moved(session, times, now));
        }
        while world.shards[0].in_flight_ids().is_empty() && world.records.is_empty() {
            world.run(Duration::from_millis(50));
        }
    }
    assert_eq!((times, world.story(id)), (10, vec![(TransientFailure, 451, 1)]));
    let waited = world.now.utc.since(begun);
    assert!((seconds(50)..seconds(70)).contains(&waited), "{waited:?}");
}

#[test]
fn a_message_whose_body_cannot_be_read_waits_for_whoever_repairs_the_disk() {
    let (mut world, id, session) = sending();
    let now = world.now;
    world.ask(0, |shard| shard.handle_body_unreadable(session, 1, now));
    world.run(seconds(50));
    assert_eq!((world.story(id), world.states()), (vec![(TransientFailure, 451, 1)], (0, 1, 0, 0)));
    assert!(world.records[0].response.text.contains("cannot be read"), "{:?}", world.records[0].response);
    world.run(seconds(20));
    assert_eq!(world.story(id).last(), Some(&(Delivery, 250, 2)));
}

#[test]
fn a_session_that_panics_leaves_its_messages_held_and_its_place_to_others() {
    let (mut world, id, session) = sending();
    let now = world.now;
    world.ask(0, |shard| shard.handle_session_panic(session, now));
    assert_eq!((world.shards[0].open_sessions(), world.states()), (0, (0, 0, 1, 0)));
    assert_eq!(world.shards[0].counters().quarantined, 1);
    let other = world.post(&["r@a.test"]);
    world.run(seconds(100));
    assert_eq!((world.story(id), world.story(other)), (vec![], vec![(Delivery, 250, 1)]));
}

/// Sessions that stand are waited for at a stop, and those that only wish to connect are not.
#[test]
fn a_stop_waits_for_sessions_whose_connection_stands() {
    let (mut world, ..) = sending();
    world.everything_at(&["slow.test"], &[("mx.slow.test", peer(2))]);
    world.hosts.insert(peer(2), Behaviour::Distant(seconds(60)));
    world.post(&["r@slow.test"]);
    world.run(seconds(1));
    assert_eq!((world.shards[0].open_sessions(), world.shards[0].working_sessions()), (2, 1));
}

/// Records that are not durable are bounded: with too many, nothing is picked until the log has caught up.
#[test]
fn too_many_records_that_are_not_durable_stop_the_picking() {
    let mut world = world();
    let answer = RuleAnswer::new(551, None, "by order".into()).unwrap();
    world.put(rule("e", Kind::Error(answer), domain("a.test")));
    world.syncs = false;
    for _ in 0..UNSYNCED_RECORDS_MAX {
        world.post(&["r@a.test"]);
    }
    let fits = world.post(&["r@b.test"]);
    world.run(seconds(1));
    assert_eq!(world.story(fits), [(Delivery, 250, 1)]);
    let over = world.post(&["r@b.test"]);
    world.run(seconds(2));
    assert_eq!((world.story(over), world.states()), (vec![], (1, 0, 0, 0)));
    world.sync();
    world.run(Duration::from_millis(100));
    assert_eq!((world.story(over), world.states()), (vec![(Delivery, 250, 1)], (0, 0, 0, 0)));
}

/// What a message waits for is told as its filter asks for it.
#[test]
fn messages_are_listed_by_what_they_wait_for() {
    let mut world = world();
    world.put(rule("p", Kind::Pause, domain("held.test")));
    world.everything_at(&["slow.test"], &[("mx.slow.test", peer(2))]);
    world.hosts.insert(peer(2), Behaviour::Distant(seconds(60)));
    world.hosts.insert(peer(1), Behaviour::Refuses(reply(450, Verb::RcptTo)));
    let waiting = world.post(&["r@a.test"]);
    world.run(seconds(1));
    world.hosts.insert(peer(1), Behaviour::Sluggish(seconds(60)));
    let sending = world.post(&["r@b.test"]);
    let held = world.post(&["r@held.test"]);
    let ready = world.post(&["r@slow.test"]);
    world.run(seconds(1));
    for (state, id) in [("waiting", waiting), ("in_flight", sending), ("held", held), ("ready", ready)] {
        let filter = MessageFilter { state: Some(state.into()), ..MessageFilter::default() };
        let answer = world.question(Question::Messages { filter, limit: 10 });
        let Ok(Answer::Messages(views)) = answer.try_recv() else { panic!("a short queue") };
        assert_eq!(views.iter().map(|view| view.envelope.id()).collect::<Vec<_>>(), [id], "{state}");
        let waits = &views[0].waits;
        let right = match state {
            "waiting" => matches!(waits, Waits::BackOff { until } if *until > world.now.utc),
            "in_flight" => matches!(waits, Waits::InFlight),
            "held" => matches!(waits, Waits::Rule { rule: Some(rule), .. } if **rule == *"p"),
            _ => matches!(waits, Waits::Connection),
        };
        assert!(right, "{state}: {waits:?}");
    }
}

/// Of mail that a rule has ended so many queues are named, and the others are counted together.
#[test]
fn the_queues_in_which_a_rule_ends_mail_are_named_up_to_a_bound() {
    let mut world = world();
    let answer = RuleAnswer::new(551, None, "by order".into()).unwrap();
    world.put(rule("e", Kind::Error(answer), Scope::default()));
    for number in 0..ENDED_QUEUES_MAX + 3 {
        world.post(&[&format!("r@d{number}.test")]);
    }
    world.post(&["r@d0.test"]);
    world.post(&["r@d10002.test"]);
    let answer = world.question(Question::RuleCounts(vec!["e".into()]));
    let Ok(Answer::RuleCounts(counts)) = answer.try_recv() else { panic!("it is answered at once") };
    let by_queue = &counts[0].ended_by_queue;
    let of = |name: &str| by_queue.iter().find(|(queue, _)| **queue == *name).map(|(_, count)| *count);
    assert_eq!((counts[0].ended, by_queue.len()), (ENDED_QUEUES_MAX as u64 + 5, ENDED_QUEUES_MAX + 1));
    assert_eq!((of("d0.test"), of("d1.test"), of("d10002.test"), of(OTHER_QUEUES)), (Some(2), Some(1), None, Some(4)));
}
