//! Questions about a deep queue: what is answered at once, and what waits for its slices.

use crate::world::{Behaviour, KEY, World, domain, peer, reply, rule, seconds, settings};
use mailrace_shards::event::{Answer, Coverage, MessageFilter, Question, Waits};
use mailrace_shards::limits::{ASK_ENTRIES_PER_SLICE, ASK_ENTRIES_PER_TICK, ASKS_MAX};
use mailrace_shards::message::{Extras, MessageId};
use mailrace_shards::outcome::Verb;
use mailrace_shards::rules::{Answer as RuleAnswer, Change, Kind, Rule, Scope};
use mailrace_shards::settings::{LimitPer, LimitSettings, Settings, SourceSettings};
use std::sync::mpsc::Receiver;
use std::time::Duration;

const DEEP: u64 = ASK_ENTRIES_PER_TICK as u64 + 1000;

fn tag() -> Scope {
    Scope { tag: Some("slow".into()), ..Scope::default() }
}

fn pause(id: &str, scope: Scope) -> Rule {
    rule(id, Kind::Pause, scope)
}

/// More mail for one domain than a slice looks at, held by its tag.
fn deep() -> World {
    let mut world = World::new(settings());
    world.everything_at(&["a.test", "b.test"], &[("mx.hoster.test", peer(1))]);
    world.put(pause("held", tag()));
    for _ in 0..DEEP {
        world.post_with(&["r@a.test"], Extras { tags: vec!["slow".into()], ..Extras::default() });
    }
    world.run(seconds(20));
    assert_eq!(world.states(), (0, 0, DEEP, 0), "{KEY:?}");
    world
}

fn covered(answer: &Receiver<Answer>) -> Option<Coverage> {
    match answer.try_recv() {
        Ok(Answer::Covered(coverage)) => Some(coverage),
        Ok(other) => panic!("{other:?}"),
        Err(_) => None,
    }
}

#[test]
fn whole_queues_are_counted_at_once_while_a_longer_question_goes_on() {
    let mut world = deep();
    let patient = world.question(Question::Covered { scope: tag(), within: seconds(5) });
    assert!(covered(&patient).is_none(), "more than a slice");
    let hasty = world.question(Question::Covered { scope: domain("a.test"), within: Duration::ZERO });
    let first = covered(&hasty).expect("no tick has passed");
    assert_eq!((first.matched, first.counting), (DEEP, true));
    let other = world.question(Question::Covered { scope: domain("b.test"), within: Duration::ZERO });
    assert_eq!(covered(&other).unwrap().matched, 0);
    world.run(seconds(1));
    let all = covered(&patient).expect("a second is many slices");
    assert_eq!((all.matched, all.held, all.counting), (DEEP, DEEP, false));
}

#[test]
fn of_held_mail_is_told_which_rule_holds_it() {
    let mut world = deep();
    let filter = MessageFilter { state: Some("held".into()), ..MessageFilter::default() };
    let listed = world.question(Question::Messages { filter, limit: 3 });
    world.run(seconds(1));
    let Ok(Answer::Messages(views)) = listed.try_recv() else { panic!("no messages") };
    assert_eq!(views.len(), 3);
    for view in views {
        assert!(matches!(&view.waits, Waits::Rule { rule: Some(rule), .. } if **rule == *"held"), "{:?}", view.waits);
    }
    world.change(&[Change::Remove("held".into())]);
    world.run(seconds(60));
    assert_eq!(world.states(), (0, 0, 0, 0));
}

#[test]
fn messages_are_listed_by_each_field_of_the_filter() {
    let mut world = World::new(settings());
    world.everything_at(&["a.test", "b.test"], &[("mx.hoster.test", peer(1))]);
    world.put(pause("whole", domain("a.test")));
    world.put(pause("tagged", tag()));
    let extras = |tag: Option<&str>, campaign: Option<&str>| Extras {
        tags: tag.into_iter().map(Into::into).collect(),
        campaign: campaign.map(Into::into),
        ..Extras::default()
    };
    let plain = world.post(&["r@a.test"]);
    let tagged = world.post_with(&["s@b.test"], extras(Some("slow"), None));
    let both = world.post_with(&["t@a.test"], extras(Some("slow"), Some("spring")));
    world.run(seconds(1));
    let any = MessageFilter::default;
    let cases = [
        (any(), vec![plain, tagged, both]),
        (MessageFilter { domain: Some("a.test".into()), ..any() }, vec![plain, both]),
        (MessageFilter { tag: Some("slow".into()), ..any() }, vec![tagged, both]),
        (MessageFilter { campaign: Some("spring".into()), ..any() }, vec![both]),
        (MessageFilter { queue: Some("b.test".into()), ..any() }, vec![tagged]),
        (MessageFilter { queue: Some("spring:@a.test".into()), ..any() }, vec![both]),
        (MessageFilter { state: Some("held".into()), ..any() }, vec![plain, tagged, both]),
        (MessageFilter { state: Some("ready".into()), ..any() }, vec![]),
        (MessageFilter { after: Some(plain), ..any() }, vec![tagged, both]),
        (MessageFilter { domain: Some("c.test".into()), ..any() }, vec![]),
        (MessageFilter { domain: Some("a.test".into()), tag: Some("slow".into()), ..any() }, vec![both]),
    ];
    for (filter, expected) in cases {
        let listed = world.question(Question::Messages { filter: filter.clone(), limit: 10 });
        world.run(seconds(1));
        let Ok(Answer::Messages(views)) = listed.try_recv() else { panic!("it is answered") };
        let mut found: Vec<_> = views.iter().map(|view| view.envelope.id()).collect();
        found.sort();
        assert_eq!(found, expected, "{filter:?}");
    }
}

/// The answer to a suspension of one egress path named what was in flight on every other as well.
#[test]
fn in_flight_is_what_is_on_the_path_that_the_rule_names() {
    let mut world = World::new(settings());
    for (name, host, number) in [("a.test", "mx.a.test", 1), ("b.test", "mx.b.test", 2)] {
        world.everything_at(&[name], &[(host, peer(number))]);
        world.hosts.insert(peer(number), Behaviour::Silent);
    }
    world.post(&["r@a.test"]);
    world.post(&["r@b.test"]);
    world.run(seconds(1));
    let path = |host: &str| Scope { path: Some(format!("unspecified->{host}@smtp_client").into()), ..Scope::default() };
    let remote = |number| Scope { remote_ip: Some(peer(number).ip()), ..Scope::default() };
    let cases = [
        (Scope::default(), 2),
        (path("mx.a.test"), 1),
        (path("mx.b.test"), 1),
        (path("mx.c.test"), 0),
        (remote(2), 1),
        (remote(3), 0),
        (Scope { domain: Some("a.test".into()), ..path("mx.b.test") }, 0),
    ];
    for (scope, expected) in cases {
        for within in [Duration::ZERO, seconds(5)] {
            let answer = world.question(Question::Covered { scope: scope.clone(), within });
            assert_eq!(covered(&answer).expect("a short queue").in_flight, expected, "{scope:?}");
        }
    }
}

/// However much is asked, who makes a rule hears what is in flight, and hears it in time.
#[test]
fn more_questions_than_are_open_at_once_still_say_what_is_in_flight() {
    let mut world = deep();
    world.hosts.insert(peer(1), Behaviour::Silent);
    world.post(&["r@b.test"]);
    world.run(seconds(1));
    let within = Duration::from_millis(50);
    let answers: Vec<_> =
        (0..2 * ASKS_MAX).map(|_| world.question(Question::Covered { scope: Scope::default(), within })).collect();
    world.run(2 * within);
    for answer in answers {
        let coverage = covered(&answer).expect("answered in time");
        assert!(coverage.in_flight == 1 && coverage.matched > 0, "{coverage:?}");
    }
}

/// The view of the queues: how much there is, is held and waits for a retry, by age.
#[test]
fn the_view_of_the_queues_counts_what_is_held_and_what_waits() {
    let mut world = World::new(settings());
    world.everything_at(&["a.test", "b.test"], &[("mx.hoster.test", peer(1))]);
    world.hosts.insert(peer(1), Behaviour::Refuses(reply(450, Verb::RcptTo)));
    for _ in 0..3 {
        world.post(&["r@b.test"]);
    }
    world.run(seconds(1));
    world.put(pause("held", tag()));
    world.put(pause("whole", domain("c.test")));
    for recipient in ["r@a.test", "s@a.test", "r@c.test", "s@c.test"] {
        world.post_with(&[recipient], Extras { tags: vec!["slow".into()], ..Extras::default() });
    }
    world.run(seconds(1));
    let answer = world.question(Question::Queues);
    world.run(seconds(1));
    let Ok(Answer::Queues(mut views)) = answer.try_recv() else { panic!("it is answered") };
    views.sort_by(|one, other| one.domain.cmp(&other.domain));
    let told: Vec<_> = views.iter().map(|view| (&*view.domain, view.total, view.held, view.waiting)).collect();
    assert_eq!(told, [("a.test", 2, 2, 0), ("b.test", 3, 0, 3), ("c.test", 2, 2, 0)]);
    assert!(views.iter().all(|view| view.ages[0] == view.total), "all is young: {views:?}");
}

/// Ages go from five minutes on by doubling.
#[test]
fn the_view_of_the_queues_tells_ages_by_doubling_from_five_minutes_on() {
    let mut world = World::new(settings());
    world.everything_at(&["a.test"], &[("mx.hoster.test", peer(1))]);
    world.put(pause("whole", domain("a.test")));
    let begun = world.now.utc;
    // Minutes from the first message to the last, and to the ones between.
    for gap in [21, 11, 6, 5, 4] {
        let at = begun.after(Duration::from_secs(60 * (21 - gap)));
        world.run(at.since(world.now.utc));
        world.post(&["r@a.test"]);
    }
    let last = begun.after(Duration::from_secs(60 * 21));
    world.run(last.since(world.now.utc));
    let answer = world.question(Question::Queues);
    world.run(seconds(1));
    let Ok(Answer::Queues(views)) = answer.try_recv() else { panic!("it is answered") };
    assert_eq!(views[0].ages, [1, 2, 1, 1, 0, 0, 0, 0, 0, 0]);
}

/// What a rule has ended is told with it, in all and by queue; what a suppression ended is counted elsewhere.
#[test]
fn of_an_ending_rule_is_told_how_much_it_has_ended_and_in_which_queues() {
    let mut world = World::new(settings());
    world.everything_at(&["a.test", "b.test"], &[("mx.hoster.test", peer(1))]);
    let error = Rule { kind: Kind::Error(RuleAnswer::new(550, None, "no".into()).unwrap()), ..pause("end", tag()) };
    world.put(error);
    for recipient in ["r@a.test", "r@b.test", "s@a.test"] {
        world.post_with(&[recipient], Extras { tags: vec!["slow".into()], ..Extras::default() });
    }
    world.post(&["t@a.test"]);
    world.run(seconds(1));
    let answer = world.question(Question::RuleCounts(vec!["end".into(), "other".into()]));
    let Ok(Answer::RuleCounts(counts)) = answer.try_recv() else { panic!("it is answered at once") };
    let mut by_queue = counts[0].ended_by_queue.clone();
    by_queue.sort();
    assert_eq!((counts[0].ended, by_queue), (3, vec![("a.test".into(), 2), ("b.test".into(), 1)]));
    assert_eq!((counts[1].ended, counts[1].held), (0, 0));
    let counters = world.shards[0].counters();
    let told = (counters.ended_by_rule, counters.ended_by_error, counters.ended_by_bounce, counters.ended_by_cancel);
    assert_eq!((told, counters.ended_by_suppression), ((3, 3, 0, 0), 0));
    // A bounce is counted beside it.
    let kind = Kind::Bounce { answer: RuleAnswer::new(551, None, "no".into()).unwrap(), suppress_logging: false };
    world.put(Rule { kind, ..pause("bounce", domain("c.test")) });
    world.post(&["r@c.test"]);
    world.post(&["s@c.test"]);
    world.run(seconds(1));
    let counters = world.shards[0].counters();
    let told = (counters.ended_by_rule, counters.ended_by_error, counters.ended_by_bounce, counters.ended_by_cancel);
    assert_eq!((told, counters.ended_by_suppression), ((5, 3, 2, 0), 0));
}

#[test]
fn a_message_is_shown_by_its_id_with_all_its_recipients_and_a_stranger_is_not() {
    let mut world = World::new(settings());
    world.put(pause("all", Scope::default()));
    let id = world.post(&["r@a.test", "q@a.test"]);
    world.post(&["r@a.test"]);
    world.run(seconds(1));
    let mut shown = |id| match world.question(Question::Message(id)).try_recv() {
        Ok(Answer::Messages(views)) => views,
        other => panic!("{other:?}"),
    };
    let views = shown(id);
    assert_eq!(views.len(), 1);
    assert_eq!((views[0].envelope.id(), &views[0].recipients[..]), (id, &[0, 1][..]));
    assert!(shown(MessageId { sequence: id.sequence + 100, ..id }).is_empty());
}

/// A core that has nothing else to do looks at the queue slice by slice, until no question is open.
#[test]
fn questions_are_answered_sooner_by_a_core_that_has_time() {
    let mut world = deep();
    assert!(!world.shards[0].has_questions());
    let answer = world.question(Question::Covered { scope: tag(), within: seconds(4) });
    assert!(world.shards[0].has_questions() && covered(&answer).is_none());
    let now = world.now;
    // The first slice was that of a tick.
    let slices = (DEEP as usize - ASK_ENTRIES_PER_TICK).div_ceil(ASK_ENTRIES_PER_SLICE);
    for slice in 1..slices {
        assert!(world.ask(0, |shard| shard.answer_more(now)), "slice {slice} of {slices}");
    }
    assert!(!world.ask(0, |shard| shard.answer_more(now)));
    assert!(!world.shards[0].has_questions());
    let coverage = covered(&answer).expect("it is answered");
    assert_eq!((coverage.matched, coverage.counting), (DEEP, false));
}

/// With more questions than can be answered in time each is answered when its time is over, with what is known by then.
#[test]
fn a_question_is_answered_when_its_time_is_over() {
    let mut world = deep();
    let within = Duration::from_millis(500);
    let answers: Vec<_> = (0..ASKS_MAX).map(|_| world.question(Question::Covered { scope: tag(), within })).collect();
    world.run(within - Duration::from_millis(1));
    let early: Vec<Option<Coverage>> = answers.iter().map(covered).collect();
    let open = early.iter().filter(|coverage| coverage.is_none()).count();
    assert!(open > 5, "{open} are open");
    world.run(Duration::from_millis(1));
    assert!(!world.shards[0].has_questions());
    for (answer, early) in answers.iter().zip(&early) {
        let late = covered(answer);
        assert_eq!(late.is_some(), early.is_none());
        assert!(late.is_none_or(|coverage| coverage.counting && coverage.matched < DEEP));
    }
}

/// Of mail that a rule holds is told how much there is, whole queues and single messages, and when the first expires.
#[test]
fn of_a_holding_rule_is_told_how_much_it_holds() {
    let mut world = World::new(settings());
    world.put(pause("tagged", tag()));
    world.put(pause("whole", domain("w.test")));
    let slow = |expires| Extras { tags: vec!["slow".into()], expires, ..Extras::default() };
    let (first, second) = (world.now.utc.after(seconds(900)), world.now.utc.after(seconds(800)));
    for expires in [None, Some(first), Some(second)] {
        world.post_with(&["r@a.test"], slow(expires));
    }
    for _ in 0..4 {
        world.post(&["r@w.test"]);
    }
    world.run(seconds(1));
    let answer = world.question(Question::RuleCounts(vec!["tagged".into(), "whole".into()]));
    let Ok(Answer::RuleCounts(counts)) = answer.try_recv() else { panic!("it is answered at once") };
    assert_eq!([counts[0].held, counts[1].held], [3, 4]);
    assert_eq!(counts[0].first_expiry, Some(second));
}

/// What belongs to an attempt is not known of queued mail: a rule that names it besides may cover all of that.
#[test]
fn what_is_not_known_of_queued_mail_counts_as_fitting() {
    let mut world = World::new(settings());
    world.put(pause("p", Scope::default()));
    for recipients in [&["r@a.test", "s@a.test"][..], &["r@b.test"]] {
        world.post(recipients);
    }
    world.run(seconds(1));
    let path = Scope { path: Some("unknown".into()), ..Scope::default() };
    let remote = Scope { remote_ip: Some(peer(1).ip()), ..domain("a.test") };
    let source = Scope { source_ip: Some(peer(1).ip()), ..domain("b.test") };
    let address = Scope { address: Some("s@a.test".into()), ..Scope::default() };
    for (scope, matched) in [(path, 3), (remote, 2), (source, 1), (address, 1), (domain("c.test"), 0)] {
        let answer = world.question(Question::Covered { scope: scope.clone(), within: seconds(1) });
        let coverage = covered(&answer).expect("a short queue");
        assert_eq!((coverage.matched, coverage.held, coverage.in_flight), (matched, matched, 0), "{scope:?}");
    }
}

/// A queue that is forgotten leaves its number to another, which the same rule may hold: it is counted once.
#[test]
fn a_queue_that_comes_again_under_the_rule_that_held_it_is_counted_once() {
    let mut world = World::new(settings());
    world.put(pause("p", domain("a.test")));
    for _ in 0..3 {
        let id = world.post(&["r@a.test"]);
        world.run(seconds(1));
        let answer = world.question(Question::RuleCounts(vec!["p".into()]));
        let Ok(Answer::RuleCounts(counts)) = answer.try_recv() else { panic!("it is answered at once") };
        assert_eq!(counts[0].held, 1);
        world.question(Question::Cancel { id, by: "t".into() });
        world.run(seconds(100));
    }
}

/// A flush makes one message due, and with that the queue is attended to, in which rules end another one that the flush
/// was going to look at.
#[test]
fn a_flush_goes_on_when_what_it_was_to_look_at_is_ended_meanwhile() {
    let source =
        SourceSettings { name: "s".into(), address: Some([192, 0, 2, 9].into()), address_v6: None, ehlo: "s".into() };
    let limits = vec![LimitSettings { connections: Some(1), ..LimitSettings::new(LimitPer::Path) }];
    let mut world = World::new(Settings { sources: vec![source], limits, ..settings() });
    world.everything_at(&["a.test"], &[("mx.a.test", peer(1))]);
    world.hosts.insert(peer(1), Behaviour::Sluggish(seconds(30)));
    let due = world.now.utc.after(seconds(600));
    let waiting = world.post_with(&["w@a.test"], Extras { not_before: Some(due), ..Extras::default() });
    world.post(&["busy@a.test"]);
    world.run(seconds(1));
    let ended = world.post(&["bad@a.test"]);
    world.run(seconds(1));
    world.put(pause("p", Scope { source_ip: Some([192, 0, 2, 9].into()), ..Scope::default() }));
    let kind = Kind::Error(RuleAnswer::new(550, None, "no".into()).unwrap());
    world.put(Rule { order: 2, ..rule("e", kind, Scope { address: Some("bad@a.test".into()), ..Scope::default() }) });
    let answer = world.question(Question::Flush { scope: domain("a.test"), found: false });
    assert!(matches!(answer.try_recv(), Ok(Answer::Count(1))));
    assert_eq!((world.story(ended).len(), world.story(waiting).len()), (1, 0));
}
