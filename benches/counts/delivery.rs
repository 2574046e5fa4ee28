//! A message's way through the brain of one core, without sockets and threads: what a delivery of a cached message executes
//! and allocates there, and what accepting one does.

#[path = "../../shards/tests/sample/mod.rs"]
mod sample;

use super::{MANY, NOW, envelope_of, letter};
use mailrace_shards::event::{Command, Host, Resolved, SessionId, Submission};
use mailrace_shards::message::{Body, ContentFlags, CoreId, Envelope, Location};
use mailrace_shards::outcome::{Response, Verb};
use mailrace_shards::rules::HashKey;
use mailrace_shards::settings::Settings;
use mailrace_shards::shard::{Next, Shard, ShardConfig};
use mailrace_shards::smtp::client::{RecipientResult, Results};
use mailrace_shards::time::{Instant, Now};
use std::hint::black_box;
use std::sync::Arc;

const AT: Now = Now { instant: Instant(1_000_000), utc: NOW };

fn shard(cores: usize) -> Shard {
    let settings = Settings { shards: cores, ..sample::settings() };
    Shard::new(ShardConfig {
        core: CoreId(0),
        cores,
        generation: 1,
        rule_key: HashKey(1, 2),
        quarantine: Arc::default(),
        settings: Arc::new(settings),
    })
}

/// Ten destinations, a connection to each, which stays; bodies and answers of the resolver are in memory.
pub fn cached() -> Box<dyn FnMut()> {
    let mut shard = shard(1);
    let envelopes: Vec<Arc<Envelope>> = (0..MANY).map(|n| Arc::new(envelope_of(n % 10, 4, false))).collect();
    // As the client makes it of a reply, which is the one allocation that a delivery has there.
    let good = Response { code: 250, enhanced: None, text: "2.0.0 queued as 12345".into(), verb: Verb::EndOfData };
    let mut open: Vec<SessionId> = Vec::new();
    let mut recorded = 0;
    let mut given: Vec<Results> = Vec::new();
    Box::new(move || {
        given.clear();
        for _ in 0..MANY {
            given.push(std::iter::once((0, RecipientResult::Delivered(good.clone()))).collect());
        }
        let mut delivered = 0;
        for (number, envelope) in envelopes.iter().enumerate() {
            shard.handle_mail(letter(envelope, number as u64), AT);
            loop {
                carry_out(&mut shard, &mut open, &mut recorded);
                let mut idle = true;
                for session in &open {
                    if let Next::Deliver(delivery) = shard.next_delivery(*session, AT) {
                        idle = false;
                        assert!(shard.gate(*session, delivery.token, AT).is_none());
                        shard.handle_end_of_data_sent(*session, delivery.token);
                        let results = given.pop().expect("a result for each");
                        shard.handle_finished(*session, delivery.token, results, AT);
                        delivered += 1;
                    }
                }
                if idle {
                    break;
                }
            }
            if number % 64 == 63 {
                shard.handle_log_synced(recorded, AT);
                carry_out(&mut shard, &mut open, &mut recorded);
            }
        }
        assert_eq!(delivered, MANY);
    })
}

fn carry_out(shard: &mut Shard, open: &mut Vec<SessionId>, recorded: &mut u64) {
    while let Some(command) = shard.poll_command() {
        match command {
            Command::Resolve { destination, .. } => {
                let address = ([10, 0, 0, u8::try_from(open.len()).unwrap()], 25).into();
                let name: Arc<str> = format!("mx{}.example", open.len()).into();
                let hosts = vec![Host { name: name.clone(), addresses: [address].into_iter().collect() }];
                let found = Resolved { hosts, names: [name].into_iter().collect(), expires: Instant(u64::MAX) };
                shard.handle_resolved(destination, Ok(found), AT);
            }
            Command::Connect(connect) => {
                shard.handle_ready(connect.session, None, None);
                open.push(connect.session);
            }
            Command::Record { number, outcome } => {
                *recorded = number;
                black_box(outcome);
            }
            Command::Progress(_, progress) => drop(black_box(progress)),
            Command::Wake(_) | Command::Post(..) => {}
            Command::Store { .. } | Command::Accepted { .. } => panic!("nothing is injected here"),
        }
    }
}

/// One recipient, of a domain that another core owns.
pub fn accepted() -> Box<dyn FnMut()> {
    let mut shard = shard(64);
    let body = Body::from(vec![b'x'; 4_096]);
    Box::new(move || {
        let mut recorded = 0;
        let mut posted = 0;
        for number in 0..MANY {
            let submission = Submission {
                id: shard.next_message_id(),
                sender: "bounces+17@sender.example".into(),
                recipients: vec!["somebody.or.other@d1.example".into()],
                flags: ContentFlags::default(),
                extras: None,
                body: body.clone(),
                protocol: "ESMTP",
                peer: None,
            };
            let ticket = shard.accept(submission, AT);
            let location = Location { spool: 0, segment: 1, offset: number, length: 4_096 };
            shard.handle_stored(ticket, Ok((location, true)), AT);
            while let Some(command) = shard.poll_command() {
                match command {
                    Command::Post(..) => posted += 1,
                    Command::Record { number, .. } => recorded = number,
                    _ => {}
                }
            }
        }
        shard.handle_log_synced(recorded, AT);
        while shard.poll_command().is_some() {}
        assert_eq!(posted, MANY);
    })
}
