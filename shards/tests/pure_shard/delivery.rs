//! What becomes of a message by what the peer, the resolver and time do to it.

use crate::world::{Behaviour, World, own, peer, reply, seconds, settings};
use mailrace_shards::event::Mail;
use mailrace_shards::message::Extras;
use mailrace_shards::outcome::RecordType::{Bounce, Delivery, Expiration, TransientFailure};
use mailrace_shards::outcome::{RecordType, Verb};
use mailrace_shards::settings::TlsPolicy;
use mailrace_shards::smtp::classify::{DnsFailure, FailureKind};
use mailrace_shards::spool::report::Progress;

fn world() -> World {
    let mut world = World::new(settings());
    world.everything_at(&["a.test"], &[("mx.a.test", peer(1))]);
    world
}

#[test]
fn a_message_is_delivered_once_and_its_spool_hears_of_it() {
    let mut world = world();
    let id = world.post(&["r@a.test"]);
    world.run(seconds(1));
    assert_eq!(world.story(id), [(Delivery, 250, 1)]);
    assert_eq!(world.progress, [(0, Progress::Done { id, recipients: [0].into_iter().collect() })]);
    assert_eq!(world.states(), (0, 0, 0, 0));
    assert_eq!((world.connects.len(), world.sent.len()), (1, 1));
    assert!(world.sent[0].has_body, "what is in memory is not read from the disk");
}

/// Each failure with what is recorded within two hours (retries after 60 s, 120 s and 300 s, end after an hour).
#[test]
fn failures_end_or_are_retried_on_schedule() {
    let late = (Expiration, 551);
    let cases: [(&str, Behaviour, u16, RecordType, usize); 10] = [
        ("5yz to RCPT", Behaviour::Refuses(reply(550, Verb::RcptTo)), 550, Bounce, 1),
        ("5yz to MAIL", Behaviour::Refuses(reply(553, Verb::MailFrom)), 553, Bounce, 1),
        ("5yz to DATA", Behaviour::Refuses(reply(554, Verb::Data)), 554, Bounce, 1),
        ("5yz to the end", Behaviour::Refuses(reply(554, Verb::EndOfData)), 554, Bounce, 1),
        ("4yz to RCPT", Behaviour::Refuses(reply(450, Verb::RcptTo)), 450, TransientFailure, 13),
        ("4yz to the end", Behaviour::Refuses(reply(451, Verb::EndOfData)), 451, TransientFailure, 13),
        ("421 to MAIL", Behaviour::Breaks(reply(421, Verb::MailFrom)), 421, TransientFailure, 13),
        ("lost in MAIL", Behaviour::Breaks(own(FailureKind::Lost, Verb::MailFrom)), 451, TransientFailure, 13),
        ("refused", Behaviour::Unreachable(own(FailureKind::ConnectRefused, Verb::Connect)), 451, TransientFailure, 12),
        ("5yz greeting", Behaviour::Unreachable(reply(554, Verb::Banner)), 554, TransientFailure, 12),
    ];
    for (name, behaviour, code, kind, least) in cases {
        let mut world = world();
        world.tick_every = std::time::Duration::from_millis(250);
        world.hosts.insert(peer(1), behaviour);
        let id = world.post(&["r@a.test"]);
        world.run(seconds(7200));
        let story = world.story(id);
        let tried: Vec<_> = story.iter().filter(|(of, ..)| *of == kind).collect();
        assert!(tried.len() >= least.min(10) && tried.iter().all(|(_, of, _)| *of == code), "{name}: {story:?}");
        assert!((1_u16..).zip(&tried).all(|(number, (.., attempts))| number == *attempts), "{name}: {story:?}");
        let (last, last_code, _) = *story.last().unwrap();
        assert_eq!((last, last_code), if kind == Bounce { (Bounce, code) } else { late }, "{name}");
        assert_eq!(world.states(), (0, 0, 0, 0), "{name}");
        let done = world.progress.iter().filter(|(_, of)| matches!(of, Progress::Done { .. })).count();
        assert_eq!(done, 1, "{name}");
        let counters = world.shards[0].counters();
        let deferred = story.iter().filter(|(of, ..)| *of == TransientFailure).count() as u64;
        let told = (counters.bounced, counters.deferred, counters.expired, counters.delivered);
        assert_eq!(told, (u64::from(kind == Bounce), deferred, u64::from(kind != Bounce), 0), "{name}");
    }
}

#[test]
fn retries_follow_the_schedule_of_the_message_or_else_the_configured_one() {
    let own_schedule = Extras { retries: vec![5, 50], ..Extras::default() };
    let cases = [(Extras::default(), [0, 60, 180, 480, 780]), (own_schedule, [0, 5, 55, 105, 155])];
    for (extras, expected) in cases {
        let mut world = world();
        world.hosts.insert(peer(1), Behaviour::Refuses(reply(450, Verb::RcptTo)));
        let start = world.now;
        let id = world.post_with(&["r@a.test"], extras);
        world.run(seconds(800));
        assert_eq!(world.moments(id, start)[..5], expected);
    }
}

#[test]
fn a_message_may_bound_its_attempts_begin_later_and_end_earlier() {
    let refusing = Behaviour::Refuses(reply(450, Verb::RcptTo));
    let mut world = world();
    world.hosts.insert(peer(1), refusing);
    let start = world.now;
    let few = world.post_with(&["r@a.test"], Extras { max_attempts: Some(2), ..Extras::default() });
    let later = start.utc.after(seconds(30));
    let late =
        world.post_with(&["r@a.test"], Extras { not_before: Some(later), max_attempts: Some(1), ..Extras::default() });
    let end = start.utc.after(seconds(90));
    let short = world.post_with(&["r@a.test"], Extras { expires: Some(end), ..Extras::default() });
    world.run(seconds(200));
    assert_eq!(world.story(few), [(TransientFailure, 450, 1), (Bounce, 450, 2)]);
    assert_eq!((world.story(late), world.moments(late, start)), (vec![(Bounce, 450, 1)], vec![30]));
    let story = [(TransientFailure, 450, 1), (TransientFailure, 450, 2), (Expiration, 551, 2)];
    assert_eq!((&world.story(short)[..], world.moments(short, start)), (&story[..], vec![0, 60, 90]));
}

/// As a message is found that ran out of time while the engine was down, and one whose sender gave a moment that is past.
#[test]
fn a_message_whose_time_is_over_when_it_comes_is_not_sent() {
    let mut world = world();
    let now = world.now.utc;
    let over = world.post_with(&["r@a.test"], Extras { expires: Some(now), ..Extras::default() });
    let just = world.post_with(&["r@a.test"], Extras { expires: Some(now.after(seconds(1))), ..Extras::default() });
    world.run(seconds(10));
    assert_eq!(world.story(over), [(Expiration, 551, 0)]);
    assert_eq!(world.story(just), [(Delivery, 250, 1)]);
}

/// It would else expire without an attempt, and its wish would have been accepted for nothing.
#[test]
fn the_age_of_a_message_that_begins_later_counts_from_then() {
    let max_age = seconds(100);
    let mut settings = settings();
    settings.retry.max_age = max_age;
    let mut world = World::new(settings);
    world.everything_at(&["a.test"], &[("mx.a.test", peer(1))]);
    let start = world.now;
    world.hosts.insert(peer(1), Behaviour::Refuses(reply(450, Verb::RcptTo)));
    let not_before = Some(start.utc.after(max_age + seconds(60)));
    let id = world.post_with(&["r@a.test"], Extras { not_before, ..Extras::default() });
    world.run(max_age * 2 + seconds(120));
    let (story, moments) = (world.story(id), world.moments(id, start));
    assert_eq!((story[0], moments[0]), ((TransientFailure, 450, 1), 160));
    assert_eq!((story.last().unwrap().0, *moments.last().unwrap()), (Expiration, 260));
}

#[test]
fn recipients_of_one_message_fare_differently() {
    let mut world = world();
    world.hosts.insert(peer(1), Behaviour::Picky);
    let id = world.post(&["good@a.test", "bad@a.test", "later@a.test"]);
    world.run(seconds(1));
    let mut story = world.story(id);
    story.sort_by_key(|(_, code, _)| *code);
    assert_eq!(story, [(Delivery, 250, 1), (TransientFailure, 451, 1), (Bounce, 550, 1)]);
    assert!(
        world.progress.iter().any(|(_, of)| *of == Progress::Done { id, recipients: [0, 1].into_iter().collect() })
    );
    world.hosts.insert(peer(1), Behaviour::Works);
    world.run(seconds(61));
    assert_eq!(world.story(id).last(), Some(&(Delivery, 250, 2)));
    assert_eq!(world.sent.last().unwrap().recipients[..], [2], "only the deferred one goes again");
}

#[test]
fn the_resolver_ends_or_defers_everything_that_is_ready() {
    let cases = [
        (DnsFailure::NoSuchDomain, 550, Bounce),
        (DnsFailure::NullMx, 556, Bounce),
        (DnsFailure::NoAddress, 550, Bounce),
        (DnsFailure::PrivateAddress, 550, Bounce),
        (DnsFailure::Temporary, 451, TransientFailure),
    ];
    for (failure, code, kind) in cases {
        let mut world = world();
        world.dns.insert("a.test".into(), Err(own(FailureKind::Dns(failure), Verb::None)));
        let ids: Vec<_> = (0..3).map(|_| world.post(&["r@a.test"])).collect();
        world.run(seconds(1));
        for id in &ids {
            assert_eq!(world.story(*id), [(kind, code, 1)], "{failure:?}");
        }
        assert_eq!(world.lookups.len(), 1, "{failure:?}: one look-up is enough for all");
        world.everything_at(&["a.test"], &[("mx.a.test", peer(1))]);
        world.run(seconds(61));
        let delivered = if kind == Bounce { 0 } else { 3 };
        assert_eq!((world.delivered(), world.states()), (delivered, (0, 0, 0, 0)), "{failure:?}");
    }
}

#[test]
fn what_is_given_back_goes_again_uncharged() {
    let mut world = world();
    world.hosts.insert(peer(1), Behaviour::GivesBack);
    let id = world.post(&["r@a.test"]);
    world.run(seconds(2));
    assert_eq!(world.story(id), [(Delivery, 250, 1)]);
}

#[test]
fn a_message_that_may_have_got_through_says_so_until_its_end() {
    let mut lost = own(FailureKind::Lost, Verb::EndOfData);
    lost.maybe_delivered = true;
    let mut world = world();
    world.hosts.insert(peer(1), Behaviour::Breaks(lost));
    let id = world.post(&["r@a.test"]);
    world.run(seconds(1));
    world.hosts.insert(peer(1), Behaviour::Refuses(reply(550, Verb::RcptTo)));
    world.run(seconds(120));
    assert_eq!(world.story(id), [(TransientFailure, 451, 1), (Bounce, 550, 2)]);
    assert!(world.records.iter().all(|record| record.maybe_delivered));
}

/// Progress reaches the spool only when the records before it are durable.
#[test]
fn a_spool_forgets_nothing_before_the_log_is_synced() {
    let mut world = world();
    world.syncs = false;
    world.post(&["r@a.test"]);
    world.run(seconds(1));
    assert_eq!((world.delivered(), world.progress.len()), (1, 0));
    assert!(!world.shards[0].log_settled());
    world.sync();
    assert_eq!(world.progress.len(), 1);
    assert!(world.shards[0].log_settled());
}

#[test]
fn a_log_that_cannot_be_written_stops_picking_and_nothing_else() {
    let mut world = world();
    world.post(&["r@a.test"]);
    world.run(seconds(1));
    let now = world.now;
    world.ask(0, |shard| shard.handle_log_failing(true, now));
    world.post(&["r@a.test"]);
    world.post(&["r@b.test"]);
    world.run(seconds(3));
    assert_eq!((world.delivered(), world.states()), (1, (2, 0, 0, 0)));
    let now = world.now;
    world.ask(0, |shard| shard.handle_log_failing(false, now));
    world.run(seconds(1));
    assert_eq!((world.delivered(), world.states()), (3, (0, 0, 0, 0)));
}

/// Two cores, of which one owns a.test; spools 0 and 1 are behind, and neither core begins a delivery before both have
/// caught up.
#[test]
fn spools_that_are_behind_with_their_ends_stop_picking_and_nothing_else() {
    let mut world = World::with_cores(settings(), 2);
    let tell = |world: &mut World, spool, behind| {
        let now = world.now;
        (0..2).for_each(|core| world.ask(core, |shard| shard.handle_mail(Mail::Behind(spool, behind), now)));
    };
    tell(&mut world, 0, true);
    tell(&mut world, 1, true);
    for domain in ["a.test", "b.test", "c.test", "d.test"] {
        world.post(&[&format!("r@{domain}")]);
    }
    world.run(seconds(3));
    assert_eq!((world.delivered(), world.states()), (0, (4, 0, 0, 0)));
    tell(&mut world, 0, false);
    world.run(seconds(3));
    assert_eq!(world.delivered(), 0, "the other is behind still");
    tell(&mut world, 1, false);
    world.run(seconds(1));
    assert_eq!((world.delivered(), world.states()), (4, (0, 0, 0, 0)));
}

/// Where the handshake fails the host is tried once more in clear. When that fails too, it was an attempt, and the message
/// does not go again at once.
#[test]
fn a_host_that_fails_with_and_without_tls_costs_an_attempt() {
    let mut world = world();
    let failure = own(FailureKind::TlsHandshake, Verb::Ehlo);
    world.hosts.insert(peer(1), Behaviour::Unreachable(failure));
    world.post(&["r@a.test"]);
    world.run(seconds(30));
    assert_eq!((world.of_type(TransientFailure).len(), world.connects.len()), (1, 2));
    let policies: Vec<TlsPolicy> = world.connects.iter().map(|(_, connect)| connect.tls).collect();
    assert_eq!(policies, [TlsPolicy::Opportunistic, TlsPolicy::Disabled]);
}

#[test]
fn a_stop_lets_sessions_finish_and_begins_nothing() {
    let mut world = world();
    world.everything_at(&["idle.test"], &[("mx.idle.test", peer(2))]);
    world.hosts.insert(peer(1), Behaviour::Sluggish(seconds(2)));
    world.post(&["r@idle.test"]);
    for _ in 0..10 {
        world.post(&["r@a.test"]);
    }
    world.run(seconds(1));
    let (_, _, _, in_flight) = world.states();
    let now = world.now;
    world.ask(0, |shard| shard.handle_stop(now));
    world.post(&["r@a.test"]);
    world.run(seconds(5));
    assert_eq!(world.shards[0].open_sessions(), 0);
    assert_eq!(world.delivered() as u64, 1 + in_flight);
    assert_eq!(world.states(), (11 - in_flight, 0, 0, 0));
}

/// Peers that fall silent: the time-out is the failure, wherever it comes.
#[test]
fn time_outs_defer_and_those_after_the_dot_may_have_got_through() {
    let cases = [
        (Verb::Connect, FailureKind::ConnectTimedOut, false),
        (Verb::Banner, FailureKind::TimedOut, false),
        (Verb::Ehlo, FailureKind::TimedOut, false),
        (Verb::MailFrom, FailureKind::TimedOut, false),
        (Verb::RcptTo, FailureKind::TimedOut, false),
        (Verb::Data, FailureKind::TimedOut, false),
        (Verb::EndOfData, FailureKind::TimedOut, true),
    ];
    for (verb, kind, maybe_delivered) in cases {
        let mut world = world();
        let failure = mailrace_shards::smtp::classify::Failure { maybe_delivered, ..own(kind, verb) };
        let behaviour = match verb {
            Verb::Connect | Verb::Banner | Verb::Ehlo => Behaviour::Slow(failure, seconds(30)),
            _ => Behaviour::Breaks(failure),
        };
        world.hosts.insert(peer(1), behaviour);
        let id = world.post(&["r@a.test"]);
        world.run(seconds(31));
        assert_eq!(world.story(id), [(TransientFailure, 451, 1)], "{verb:?}");
        assert_eq!((world.records[0].response.verb, world.records[0].maybe_delivered), (verb, maybe_delivered));
        world.hosts.clear();
        world.run(seconds(70));
        assert_eq!(world.story(id).last(), Some(&(Delivery, 250, 2)), "{verb:?}");
    }
}

/// What came while the first connection was being opened got none of its own, and waited for its first message.
#[test]
fn a_message_behind_a_long_one_gets_a_connection_of_its_own() {
    let mut world = world();
    world.hosts.insert(peer(1), Behaviour::Sluggish(seconds(60)));
    let first = world.post(&["long@a.test"]);
    let second = world.post(&["other@a.test"]);
    world.run(seconds(5));
    assert_eq!(world.connects.len(), 2, "the second does not wait a minute for the first");
    world.run(seconds(70));
    for id in [first, second] {
        assert_eq!(world.story(id), [(Delivery, 250, 1)]);
    }
}
