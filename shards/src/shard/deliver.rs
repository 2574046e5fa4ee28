//! A session asks for its next message.

use super::Shard;
use super::gate::Judgement;
use super::session::{Flight, Phase};
use super::site::SiteId;
use crate::event::SessionId;
use crate::limits::{PICK_DESTINATIONS, PICK_RATED_DESTINATIONS, PICK_SKIPS, UNSYNCED_RECORDS_MAX};
use crate::message::{Body, Envelope, Location};
use crate::path::{Member, Tokens};
use crate::queue::{BucketId, DestinationId, EntryId};
use crate::rules::Stamp;
use crate::time::Now;
use smallvec::SmallVec;
use std::sync::Arc;

/// A message for a session.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// Its name in the session.
    pub token: u64,
    /// The message.
    pub envelope: Arc<Envelope>,
    /// To which of its recipients.
    pub recipients: SmallVec<[u16; 4]>,
    /// The body, when it is in memory.
    pub body: Option<Body>,
    /// Where the body lies.
    pub location: Location,
}

/// Answer to a session.
#[derive(Clone, Debug)]
pub enum Next {
    /// Send this.
    Deliver(Delivery),
    /// Nothing now: wait to be woken.
    Wait,
    /// Nothing more: end the session in order.
    Finish,
}

/// What a look at a destination, or at all of a site, brought.
enum Picked {
    Message(EntryId, Stamp),
    /// Mail waits for a rate; its destination is attended to when tokens come.
    Rate,
    /// There is none that the session may carry now.
    Nothing,
}

impl Shard {
    /// What session `id`, whose greeting is good, shall do next.
    pub fn next_delivery(&mut self, id: SessionId, now: Now) -> Next {
        let session = self.session(id);
        if session.phase == Phase::Finishing {
            return Next::Finish;
        }
        // One that is recalled before its first message carries that: else two that want the same permit could hand
        // it to and fro for ever, where a greeting takes longer than a permit is left to its holder.
        let recalled = session.recalled && session.messages > 0;
        if self.stopping || recalled || session.messages >= session.messages_max {
            return self.finish(id);
        }
        if let Phase::Idle(since) = session.phase
            && now.instant.since(since) >= session.idle_timeout
        {
            return self.finish(id);
        }
        if session.messages == 0 && self.host_rests(id, now) {
            // Another session has found the host failing meanwhile; mail would be tried there once more for nothing.
            return self.finish(id);
        }
        if self.unsynced.len() > UNSYNCED_RECORDS_MAX {
            self.unsynced_waits = true;
            return self.idle(id, now);
        }
        if self.halted() {
            return self.idle(id, now);
        }
        match self.pick(id, now) {
            Picked::Message(entry, stamp) => {
                let delivery = self.hand_over(id, entry, stamp);
                if self.session(id).messages == 1 {
                    // What came while this connection was being opened waited for it; it need not wait for its
                    // first message too, which may be a large one.
                    let destination = self.queue.destination_of(self.queue.entry(entry).bucket);
                    self.attend(destination, now);
                }
                Next::Deliver(delivery)
            }
            // Its mail is attended to when tokens come; whoever stands in line has the place meanwhile.
            Picked::Rate if self.session(id).messages > 0 && self.places.in_line() > 0 => self.finish(id),
            // This goes for a recalled one too: who lets the permit go while the rate's answer is on its way has to get
            // both anew, and would for ever.
            Picked::Rate => self.wait(id, now),
            Picked::Nothing => self.idle(id, now),
        }
    }

    fn finish(&mut self, id: SessionId) -> Next {
        self.leave_idle(id);
        self.sessions[id.0 as usize].phase = Phase::Finishing;
        Next::Finish
    }

    fn idle(&mut self, id: SessionId, now: Now) -> Next {
        // Its place may be another's; while somebody stands in line, nobody keeps one for mail that may come.
        if self.session(id).recalled || self.places.in_line() > 0 {
            return self.finish(id);
        }
        self.wait(id, now)
    }

    fn wait(&mut self, id: SessionId, now: Now) -> Next {
        let session = &mut self.sessions[id.0 as usize];
        // A session that still has answers to come is not idle; it asks again by itself.
        if session.phase == Phase::Busy && session.flights.is_empty() {
            session.phase = Phase::Idle(now.instant);
            let (path, deadline) = (session.path, now.instant.after(session.idle_timeout));
            self.sites.path_mut(path).idle.push_back(id);
            self.idle_deadlines.push(std::cmp::Reverse((deadline, id)));
        }
        Next::Wait
    }

    pub(super) fn leave_idle(&mut self, id: SessionId) {
        let session = &mut self.sessions[id.0 as usize];
        if matches!(session.phase, Phase::Idle(_)) {
            session.phase = Phase::Busy;
            let path = session.path;
            self.sites.path_mut(path).idle.retain(|idle| *idle != id);
        }
    }

    /// The next message for a session: destinations of its site in turn, buckets of a destination in turn.
    fn pick(&mut self, id: SessionId, now: Now) -> Picked {
        let site = self.session(id).site;
        let mut found = Picked::Nothing;
        for looks in 0..=PICK_DESTINATIONS {
            self.delist_empty(site);
            let ring = &self.sites.site(site).ring;
            let Some(&destination) = ring.front().filter(|_| looks < ring.len()) else {
                return found;
            };
            if looks == PICK_DESTINATIONS {
                // What was not looked at gets its turn soon. What waits for a rate is attended to by its tokens.
                let behind = ring.iter().take((ring.len() - looks).min(PICK_RATED_DESTINATIONS));
                if let Some(next) = behind.copied().find(|behind| !self.routes.awaits_tokens(*behind)) {
                    self.stall(next, now.instant);
                }
                return found;
            }
            let picked = self.pick_from(id, destination, now);
            self.sites.site_mut(site).ring.rotate_left(1);
            match picked {
                Picked::Message(..) => return picked,
                Picked::Rate => found = Picked::Rate,
                Picked::Nothing => {}
            }
        }
        found
    }

    /// Takes destinations without ready mail from the front of a site's ring.
    pub(super) fn delist_empty(&mut self, site: SiteId) {
        while let Some(&destination) = self.sites.site(site).ring.front()
            && self.queue.ready(destination) == 0
        {
            self.routes.of(destination).listed = false;
            self.sites.site_mut(site).ring.pop_front();
        }
    }

    fn pick_from(&mut self, id: SessionId, destination: DestinationId, now: Now) -> Picked {
        let session = self.session(id);
        let (site, path, share, peer) = (session.site, session.path, session.share, session.peer().ip());
        self.prepare_buckets(destination, path);
        let source = self.sites.path(path).source;
        // Buckets whose next message shall take another way.
        let mut elsewhere: SmallVec<[BucketId; 2]> = SmallVec::new();
        for _ in 0..PICK_SKIPS {
            let buckets = &self.buckets;
            let next = self.queue.next(destination, |bucket, _| {
                !elsewhere.contains(&bucket)
                    && buckets.get(bucket).is_some_and(|state| {
                        let fits = |member: &Member| member.source == source && member.reaches(peer);
                        state.eligible.members.iter().any(fits)
                            && state.limits.iter().any(|(of, limits)| *of == path && limits.share == share)
                    })
            });
            let Some((bucket, entry)) = next else {
                return Picked::Nothing;
            };
            match self.judge_for_session(entry, id, now) {
                Judgement::Pass(stamp) => {
                    let may = self.take_token(bucket, destination, id, now);
                    return if may { Picked::Message(entry, stamp) } else { Picked::Rate };
                }
                acts if acts.holds() && self.has_open_way(entry, site, now) => {
                    elsewhere.push(bucket);
                    self.stall(destination, now.instant);
                }
                mut acts => {
                    if acts.ends_some_and_holds_others() && self.has_open_way(entry, site, now) {
                        acts.let_pass_what_it_holds();
                    }
                    self.carry_out(entry, acts, now);
                }
            }
        }
        // The rest of a run of held messages waits for the next turn.
        self.stall(destination, now.instant);
        Picked::Nothing
    }

    /// Makes what a look at the destination's buckets needs to know. Cheap when it is there already.
    fn prepare_buckets(&mut self, destination: DestinationId, path: crate::path::PathId) {
        for at in 0..self.queue.buckets(destination).len() {
            let Some(&bucket) = self.queue.buckets(destination).get(at) else {
                return;
            };
            let ready = self.buckets.get(bucket).is_some_and(|state| state.limits.iter().any(|(of, _)| *of == path));
            if !ready && self.eligible(bucket).is_some() {
                self.limits_for(bucket, path);
            }
        }
    }

    /// Whether the rates let one more message go. If not, its destination is attended to when they do.
    fn take_token(&mut self, bucket: BucketId, destination: DestinationId, id: SessionId, now: Now) -> bool {
        let limits = self.limits_for(bucket, self.session(id).path);
        if !limits.needs_token() {
            return true;
        }
        let ready = self.queue.ready(destination);
        let answer = self.permits.take_token(&limits, ready, now.instant);
        self.carry_permits(now);
        match answer {
            Tokens::Taken => true,
            Tokens::Wait(key) => {
                let awaited = &mut self.routes.of(destination).awaited;
                if !awaited.contains(&key) {
                    awaited.push(key);
                    self.token_waiters.entry(key).or_default().push(destination);
                }
                false
            }
        }
    }

    fn hand_over(&mut self, id: SessionId, entry_id: EntryId, stamp: Stamp) -> Delivery {
        self.leave_idle(id);
        let entry = self.queue.take(entry_id);
        self.next_token += 1;
        let token = self.next_token;
        let delivery = Delivery {
            token,
            envelope: entry.envelope.clone(),
            recipients: entry.recipients.to_list(),
            body: entry.body().cloned(),
            location: entry.location(),
        };
        let session = &mut self.sessions[id.0 as usize];
        session.phase = Phase::Busy;
        session.messages += 1;
        session.flights.push(Flight { token, entry: entry_id, stamp, end_of_data_sent: false });
        delivery
    }

    /// The entry that a session has by a token.
    pub(super) fn entry_of(&self, id: SessionId, token: u64) -> Option<EntryId> {
        let flight = self.session(id).flights.iter().find(|flight| flight.token == token)?;
        Some(flight.entry)
    }

    pub(super) fn take_flight(&mut self, id: SessionId, token: u64) -> Option<Flight> {
        let flights = &mut self.sessions[id.0 as usize].flights;
        let at = flights.iter().position(|flight| flight.token == token)?;
        Some(flights.remove(at))
    }
}
