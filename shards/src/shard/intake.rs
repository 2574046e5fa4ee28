//! Mail comes in. On the accepting core: store it, and once it is durable answer the injector and post each
//! recipient to its owner. On the owner core: put what was posted into the queue.
//!
//! Nothing here answers an injector before the spool has said that the message is stored.

pub use crate::event::Submission;

use super::Shard;
use crate::event::{Command, Mail, Post};
use crate::message::{Body, Envelope, Location, MessageId};
use crate::outcome::{Carrier, Outcome, RecordType, Response, Verb};
use crate::queue::{NewEntry, expires_at};
use crate::route;
use crate::spool::report::{Point, Progress, RecoveredMessage, Standing};
use crate::time::{Now, Timestamp};
use smallvec::SmallVec;
use std::net::SocketAddr;
use std::sync::Arc;

/// Which receptions the spool must still hear of, once their records are durable: not of each, but of one of each
/// sync, and of the last when all is durable.
#[derive(Debug, Default)]
pub(super) struct Receptions {
    /// By number of the record, the one that is told of next…
    next: Option<(u64, Location)>,
    /// …and the newest.
    newest: Option<(u64, Location)>,
}

impl Receptions {
    fn note(&mut self, number: u64, location: Location) {
        let reception = Some((number, location));
        if self.next.is_none() {
            self.next = reception;
        } else {
            self.newest = reception;
        }
    }

    /// The records up to `number` are durable: the reception to tell of.
    fn synced(&mut self, number: u64) -> Option<Location> {
        let durable = |of: &(u64, Location)| of.0 <= number;
        if self.newest.as_ref().is_some_and(durable) {
            self.next = self.newest.take();
        }
        let told = self.next.take_if(|next| durable(next))?;
        self.next = self.newest.take();
        Some(told.1)
    }
}

/// A message that the spool is writing.
#[derive(Debug)]
pub(super) struct Storing {
    envelope: Arc<Envelope>,
    body: Body,
    protocol: &'static str,
    peer: Option<SocketAddr>,
}

impl Shard {
    /// An id for a message that this core may accept.
    pub fn next_message_id(&mut self) -> MessageId {
        self.next_sequence += 1;
        MessageId { generation: self.generation, core: self.core.0, sequence: self.next_sequence }
    }

    /// Hands a submission to the spool. Answered by [`Command::Accepted`] with the ticket returned.
    pub fn accept(&mut self, submission: Submission, now: Now) -> u64 {
        let size = u32::try_from(submission.body.len()).expect("the session bounds a message below 4 GiB");
        let envelope = Arc::new(Envelope::new(
            submission.id,
            now.utc,
            size,
            submission.flags,
            &submission.sender,
            &submission.recipients,
            submission.extras,
        ));
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.commands.push_back(Command::Store { ticket, envelope: envelope.clone(), body: submission.body.clone() });
        self.storing.insert(
            ticket,
            Storing { envelope, body: submission.body, protocol: submission.protocol, peer: submission.peer },
        );
        ticket
    }

    /// The spool's word on a ticket: where the body lies and whether it may stay in memory, or why it was not
    /// stored.
    pub fn handle_stored(&mut self, ticket: u64, result: Result<(Location, bool), Arc<str>>, now: Now) {
        let Some(storing) = self.storing.remove(&ticket) else {
            return;
        };
        let (location, keep) = match result {
            Ok(stored) => stored,
            Err(why) => {
                self.commands.push_back(Command::Accepted { ticket, result: Err((*why).into()) });
                return;
            }
        };
        let id = storing.envelope.id();
        self.commands.push_back(Command::Accepted { ticket, result: Ok(id) });
        self.counters.received += 1;
        let due = storing.envelope.extras().and_then(|extras| extras.not_before).filter(|due| *due > now.utc);
        let standing = Standing { attempts: 0, due: due.unwrap_or_default(), maybe_delivered: false };
        let open = (0..storing.envelope.recipient_count()).map(|index| (index_of(index), standing));
        // What waits does not keep its body in memory.
        let body = (keep && due.is_none()).then_some(storing.body);
        self.record_reception(&storing.envelope, Some(storing.protocol), storing.peer, now.utc);
        self.receptions.note(self.recorded, location);
        self.post(&storing.envelope, location, body.as_ref(), open);
    }

    /// Messages that were found on disk at start, finished or not, in `spool`, which belongs to this core: their
    /// records of reception may have been lost with the last run, so they are written (again), without what only
    /// that run knew. All of the spool's messages lie before `recorded`.
    pub fn handle_unrecorded(&mut self, spool: u16, unrecorded: &[Arc<Envelope>], recorded: Point) {
        for envelope in unrecorded {
            self.record_reception(envelope, None, None, envelope.received());
        }
        if !unrecorded.is_empty() {
            self.tell_spool(spool, Progress::Recorded(recorded));
        }
    }

    /// The records up to `number` are durable: tells the own spool whose receptions that covers.
    pub(super) fn tell_receptions(&mut self, number: u64) {
        if let Some(location) = self.receptions.synced(number) {
            self.commands.push_back(Command::Progress(location.spool, Progress::Recorded(location.into())));
        }
    }

    /// An open message that was found on disk at start, in a spool that belongs to this core.
    pub fn handle_recovered(&mut self, message: RecoveredMessage) {
        let begins = message.envelope.extras().and_then(|extras| extras.not_before);
        let open = message.open.iter().map(|open| {
            // Of what was never tried, nobody has written when it is due; its envelope says so.
            let due = begins.filter(|_| open.standing == Standing::default()).unwrap_or(open.standing.due);
            (open.index, Standing { due, ..open.standing })
        });
        self.post(&message.envelope, message.location, None, open);
    }

    /// Groups recipients by owner, domain and standing, and posts each group.
    fn post(
        &mut self,
        envelope: &Arc<Envelope>,
        location: Location,
        body: Option<&Body>,
        open: impl Iterator<Item = (u16, Standing)>,
    ) {
        let mut open: SmallVec<[(u16, Standing); 4]> = open.collect();
        if open.len() > 1 {
            open.sort_by(|a, b| {
                let domain = |index: u16| envelope.domain(usize::from(index));
                let key = |standing: &Standing| (standing.due, standing.attempts, standing.maybe_delivered);
                (domain(a.0), key(&a.1), a.0).cmp(&(domain(b.0), key(&b.1), b.0))
            });
        }
        for group in
            open.chunk_by(|a, b| a.1 == b.1 && envelope.domain(usize::from(a.0)) == envelope.domain(usize::from(b.0)))
        {
            let (first, standing) = group[0];
            let domain = envelope.domain(usize::from(first));
            let owner = match self.lanes_of(domain) {
                0 | 1 => route::owner(domain, self.cores),
                lanes => {
                    let lane = u16::try_from(envelope.id().sequence % u64::from(lanes)).unwrap_or(0);
                    route::lane_owner(domain, lane, self.cores)
                }
            };
            let post = Post {
                envelope: envelope.clone(),
                recipients: group.iter().map(|(index, _)| *index).collect(),
                location,
                body: body.cloned(),
                attempts: standing.attempts,
                due: (standing.due > Timestamp::default()).then_some(standing.due),
                maybe_delivered: standing.maybe_delivered,
            };
            self.commands.push_back(Command::Post(owner, Mail::Post(post)));
        }
    }

    /// Mail of the mail lane.
    pub fn handle_mail(&mut self, mail: Mail, now: Now) {
        match mail {
            Mail::Post(post) => self.enqueue(post, now),
            Mail::Progress(spool, progress) => self.commands.push_back(Command::Progress(spool, progress)),
            Mail::Moved(id, location) => self.queue.relocate(id, location),
            Mail::Behind(spool, behind) => self.handle_spool_behind(spool, behind, now),
            Mail::Permit(from, message) => {
                self.permits.handle(from, message, now.instant);
                self.carry_permits(now);
            }
        }
    }

    fn enqueue(&mut self, post: Post, now: Now) {
        let expires = expires_at(&self.settings.retry, &post.envelope);
        let quarantined = !self.quarantine.is_empty() && self.quarantine.contains(&post.envelope.id());
        let entry = self.queue.insert(
            NewEntry {
                envelope: post.envelope,
                recipients: post.recipients,
                location: post.location,
                body: post.body,
                attempts: post.attempts,
                due: post.due.filter(|_| !quarantined),
                expires,
                maybe_delivered: post.maybe_delivered,
            },
            now.utc,
        );
        let bucket = self.queue.entry(entry).bucket;
        let destination = self.queue.destination_of(bucket);
        if quarantined {
            self.counters.quarantined += 1;
            self.queue.hold(entry);
        }
        if expires <= now.utc {
            // While nobody ran, or as its sender wished. Its time ends it also where it could leave at once.
            return self.expire(entry, now);
        }
        self.flush_found(entry);
        // It is judged again when it is picked; but that may be long after this, and what a rule ends is ended at once.
        if !self.end_if_departed(entry, now) {
            self.end_if_ruled(entry, now);
        }
        if self.buckets.get(bucket).is_none() {
            self.eligible(bucket);
        }
        self.attend(destination, now);
    }

    fn record_reception(
        &mut self,
        envelope: &Arc<Envelope>,
        protocol: Option<&'static str>,
        peer: Option<SocketAddr>,
        at: Timestamp,
    ) {
        let carrier = Carrier { peer, ..Carrier::default() };
        self.record(Outcome {
            kind: RecordType::Reception,
            envelope: envelope.clone(),
            recipient: None,
            queue: self.no_text.clone(),
            at,
            attempts: 0,
            response: Response { code: 250, enhanced: None, text: "".into(), verb: Verb::None },
            carrier: Some(Arc::new(carrier)),
            reception_protocol: protocol,
            rule: None,
            maybe_delivered: false,
            unlogged: false,
        });
    }
}

fn index_of(recipient: usize) -> u16 {
    u16::try_from(recipient).expect("the session bounds recipients to 16 bits")
}
