//! Of receptions: their records, and what the spool hears of them. It may forget a message only when the outcome log
//! has its reception.

use crate::world::{KEY, settings};
use mailrace_shards::event::{Command, Mail, Submission};
use mailrace_shards::message::{Body, ContentFlags, CoreId, Envelope, Extras, Location, MessageId};
use mailrace_shards::outcome::RecordType;
use mailrace_shards::settings::{LimitPer, LimitSettings, Settings};
use mailrace_shards::shard::{Shard, ShardConfig};
use mailrace_shards::spool::report::{OpenRecipient, Point, Progress, RecoveredMessage, Standing};
use mailrace_shards::time::{Instant, Now, Timestamp};
use std::collections::BTreeSet;
use std::sync::Arc;

const NOW: Now = Now { instant: Instant(1_000_000), utc: Timestamp(1_700_000_000_000) };

fn shard() -> Shard {
    let settings = Arc::new(settings());
    let config =
        ShardConfig { core: CoreId(0), cores: 1, generation: 1, rule_key: KEY, quarantine: Arc::default(), settings };
    Shard::new(config)
}

/// Takes and stores a message whose body comes to lie at `offset`.
fn store(shard: &mut Shard, recipients: &[&str], offset: u64) {
    let submission = Submission {
        id: shard.next_message_id(),
        sender: "s@sender.test".into(),
        recipients: recipients.iter().map(|&recipient| recipient.into()).collect(),
        flags: ContentFlags::default(),
        extras: None,
        body: Body::from_static(b"hi\r\n"),
        protocol: "ESMTP",
        peer: None,
    };
    let ticket = shard.accept(submission, NOW);
    let location = Location { spool: 0, segment: 1, offset, length: 4 };
    shard.handle_stored(ticket, Ok((location, true)), NOW);
}

/// The same for one recipient; gives the number of the record of its reception.
fn take(shard: &mut Shard, offset: u64) -> u64 {
    store(shard, &["r@a.test"], offset);
    let records = recorded(shard);
    let [(number, kind, ..)] = records[..] else { panic!("not one record: {records:?}") };
    assert_eq!(kind, RecordType::Reception);
    number
}

fn recorded(shard: &mut Shard) -> Vec<(u64, RecordType, MessageId)> {
    let mut records = Vec::new();
    while let Some(command) = shard.poll_command() {
        if let Command::Record { number, outcome } = command {
            records.push((number, outcome.kind, outcome.envelope.id()));
        }
    }
    records
}

/// What the spool hears when the records up to `number` are durable.
fn told(shard: &mut Shard, number: u64) -> Vec<u64> {
    shard.handle_log_synced(number, NOW);
    let mut points = Vec::new();
    while let Some(command) = shard.poll_command() {
        if let Command::Progress(0, Progress::Recorded(Point { segment: 1, offset })) = command {
            points.push(offset);
        }
    }
    points
}

#[test]
fn a_spool_hears_of_receptions_that_are_durable_and_of_no_others() {
    let mut shard = shard();
    let numbers: Vec<u64> = [100, 200, 300].into_iter().map(|offset| take(&mut shard, offset)).collect();
    assert!(told(&mut shard, numbers[0] - 1).is_empty(), "nothing is durable");
    assert_eq!(told(&mut shard, numbers[1]), [100], "not beyond what is durable, be it less than that");
    let last = take(&mut shard, 400);
    assert_eq!(told(&mut shard, last), [400], "all of it");
    assert!(told(&mut shard, last).is_empty(), "once");
    // Under a load that never lets the log come up, the spool hears of receptions all the same.
    let mut heard = 0;
    let mut before = take(&mut shard, 500);
    for offset in 6..100 {
        let number = take(&mut shard, offset * 100);
        heard += told(&mut shard, before).len();
        before = number;
    }
    assert!(heard > 30, "{heard} of 94 syncs told something");
}

#[test]
fn receptions_that_may_be_lost_are_recorded_again_before_the_spool_hears_so() {
    let mut shard = shard();
    let envelope = |sequence| {
        let id = MessageId { generation: 0, core: 3, sequence };
        Arc::new(Envelope::new(id, Timestamp(7), 4, ContentFlags::default(), "s@b.test", &["r@a.test"], None))
    };
    shard.handle_unrecorded(0, &[envelope(1), envelope(2)], Point { segment: 1, offset: 77 });
    let records = recorded(&mut shard);
    assert!(records.iter().all(|(_, kind, _)| *kind == RecordType::Reception));
    assert_eq!(records.iter().map(|(.., id)| id.sequence).collect::<Vec<_>>(), [1, 2]);
    let last = records[1].0;
    assert!(told(&mut shard, last - 1).is_empty());
    assert_eq!(told(&mut shard, last), [77]);
    shard.handle_unrecorded(0, &[], Point { segment: 1, offset: 99 });
    assert!(recorded(&mut shard).is_empty() && told(&mut shard, last).is_empty(), "there was nothing to record");
}

/// A start has forgotten nothing of it: mail that was to leave next week does not leave now.
#[test]
fn what_is_to_begin_later_does_so_after_a_restart_too() {
    let due = |not_before, attempts, due| {
        let mut shard = shard();
        let id = MessageId { generation: 0, core: 0, sequence: 1 };
        let extras = Some(Box::new(Extras { not_before, ..Extras::default() }));
        let flags = ContentFlags::default();
        let envelope = Arc::new(Envelope::new(id, Timestamp(7), 4, flags, "s@b.test", &["r@a.test"], extras));
        let location = Location { spool: 0, segment: 1, offset: 1, length: 4 };
        let standing = Standing { attempts, due: Timestamp(due), maybe_delivered: false };
        let open = [OpenRecipient { index: 0, standing }].into_iter().collect();
        shard.handle_recovered(RecoveredMessage { envelope, location, open });
        let commands = std::iter::from_fn(|| shard.poll_command());
        let mut posts = commands.filter_map(|command| match command {
            Command::Post(_, Mail::Post(post)) => Some((post.attempts, post.due)),
            _ => None,
        });
        posts.next().unwrap()
    };
    assert_eq!(due(Some(Timestamp(900)), 0, 0), (0, Some(Timestamp(900))));
    assert_eq!(due(Some(Timestamp(900)), 2, 1000), (2, Some(Timestamp(1000))), "it has begun");
    assert_eq!(due(None, 0, 0), (0, None));
}

/// A message for several recipients is posted once to each domain, however they stand in its envelope.
#[test]
fn recipients_are_posted_by_domain() {
    let mut shard = shard();
    store(&mut shard, &["a@b.test", "b@a.test", "c@b.test", "d@c.test", "e@a.test", "f@b.test"], 7);
    let mut posted = Vec::new();
    while let Some(command) = shard.poll_command() {
        if let Command::Post(_, Mail::Post(post)) = command {
            assert!(post.body.is_some() && post.due.is_none() && post.attempts == 0);
            posted.push(post.recipients.to_vec());
        }
    }
    posted.sort();
    assert_eq!(posted, [vec![0, 2, 5], vec![1, 4], vec![3]]);
}

/// Mail for a domain with lanes goes to as many cores by turns, that for any other to one.
#[test]
fn mail_is_spread_over_the_lanes_of_its_domain() {
    let domain = Some("wide.test".into());
    let limits = vec![LimitSettings { lanes: Some(4), domain, ..LimitSettings::new(LimitPer::Domain) }];
    let settings = Arc::new(Settings { limits, ..settings() });
    let config =
        ShardConfig { core: CoreId(0), cores: 4, generation: 1, rule_key: KEY, quarantine: Arc::default(), settings };
    let mut shard = Shard::new(config);
    let mut owners = |recipient: &str| -> BTreeSet<u16> {
        (0..8).for_each(|offset| store(&mut shard, &[recipient], offset));
        let commands = std::iter::from_fn(|| shard.poll_command());
        let posts = commands.filter_map(|command| match command {
            Command::Post(owner, Mail::Post(_)) => Some(owner.0),
            _ => None,
        });
        posts.collect()
    };
    assert_eq!((owners("r@wide.test").len(), owners("r@narrow.test").len()), (4, 1));
}

/// A message that may go now has its body with it, as far as there is memory for it; one that waits has its time instead.
#[test]
fn what_waits_for_its_time_does_not_keep_its_body() {
    let at = |millis: i64| Some(Timestamp(NOW.utc.0 + millis));
    let cases =
        [(None, true, true), (at(-1), true, true), (at(0), true, true), (at(1), true, false), (None, false, false)];
    for (not_before, keep, has_body) in cases {
        let mut shard = shard();
        let extras = not_before.map(|_| Box::new(Extras { not_before, ..Extras::default() }));
        let submission = Submission {
            id: shard.next_message_id(),
            sender: "s@sender.test".into(),
            recipients: vec!["r@a.test".into()],
            flags: ContentFlags::default(),
            extras,
            body: Body::from_static(b"hi\r\n"),
            protocol: "ESMTP",
            peer: None,
        };
        let ticket = shard.accept(submission, NOW);
        assert_eq!(shard.storing(), 1);
        let location = Location { spool: 0, segment: 1, offset: 5, length: 4 };
        shard.handle_stored(ticket, Ok((location, keep)), NOW);
        let commands = std::iter::from_fn(|| shard.poll_command());
        let posts = commands.filter_map(|command| match command {
            Command::Post(_, Mail::Post(post)) => Some(post),
            _ => None,
        });
        let posts: Vec<_> = posts.collect();
        assert_eq!((posts.len(), posts[0].body.is_some()), (1, has_body), "{not_before:?} {keep}");
        let due = not_before.filter(|due| *due > NOW.utc);
        assert_eq!((posts[0].due, posts[0].location), (due, location), "{not_before:?}");
        assert_eq!((shard.counters().received, shard.storing()), (1, 0));
    }
}

/// Each submission has a ticket of its own, however many wait for the spool; the answer to one is no answer to another.
#[test]
fn submissions_that_wait_together_are_told_apart() {
    let mut shard = shard();
    let submission = |shard: &mut Shard| Submission {
        id: shard.next_message_id(),
        sender: "s@sender.test".into(),
        recipients: vec!["r@a.test".into()],
        flags: ContentFlags::default(),
        extras: None,
        body: Body::from_static(b"hi\r\n"),
        protocol: "ESMTP",
        peer: None,
    };
    let mut tickets = Vec::new();
    let mut ids = Vec::new();
    for _ in 0..4 {
        let submission = submission(&mut shard);
        ids.push(submission.id);
        tickets.push(shard.accept(submission, NOW));
    }
    assert_eq!(tickets.iter().collect::<BTreeSet<_>>().len(), 4);
    assert_eq!(shard.storing(), 4);
    let answers = |shard: &mut Shard| {
        let commands = std::iter::from_fn(|| shard.poll_command());
        let answers = commands.filter_map(|command| match command {
            Command::Accepted { ticket, result } => Some((ticket, result.ok())),
            _ => None,
        });
        answers.collect::<Vec<_>>()
    };
    let location = Location { spool: 0, segment: 1, offset: 5, length: 4 };
    shard.handle_stored(tickets[2], Ok((location, true)), NOW);
    shard.handle_stored(tickets[2], Ok((location, true)), NOW);
    assert_eq!(answers(&mut shard), [(tickets[2], Some(ids[2]))], "once");
    shard.handle_stored(tickets[0], Err("the disk is full".into()), NOW);
    assert_eq!(answers(&mut shard), [(tickets[0], None)]);
    assert_eq!((shard.storing(), shard.counters().received), (2, 1));
}
