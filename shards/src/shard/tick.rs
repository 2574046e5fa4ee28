//! Time passes: what is due, stalled, idle for too long, or empty.

use super::Shard;
use super::session::{Phase, Session};
use super::site::Route;
use crate::event::{Command, SessionId};
use crate::limits::{DESTINATION_KEPT_SECONDS, DUE_ENTRIES_PER_TICK, RULE_TRANSITIONS_PER_TICK};
use crate::queue::{BucketId, DestinationId, Due, State};
use crate::settings::Settings;
use crate::time::Now;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

impl Shard {
    /// To be called every [`crate::limits::TICK_MILLIS`].
    pub fn tick(&mut self, now: Now) {
        if self.permits.next_deadline().is_some_and(|deadline| deadline <= now.instant) {
            self.permits.handle_tick(now.instant);
        }
        self.carry_permits(now);
        let mut transitions = Vec::new();
        // At every tick, because only there is noticed that the clock was set back.
        self.rules.expire(now.utc, RULE_TRANSITIONS_PER_TICK, &mut transitions);
        self.handle_transitions(transitions, now);
        self.ring_due(now);
        self.sweep(now);
        self.answer_some(now);
        self.attend_stalled(now);
        self.end_idle(now);
        self.forget_empty(now);
        self.look_for_largest(now);
    }

    fn ring_due(&mut self, now: Now) {
        for _ in 0..DUE_ENTRIES_PER_TICK {
            match self.queue.pop_due(now.utc) {
                Some(Due::Ready(id)) => {
                    let destination = self.queue.destination_of(self.queue.entry(id).bucket);
                    self.attend(destination, now);
                }
                // A session has it: if the attempt fails, its timer rings again.
                Some(Due::Expired(id)) if self.queue.entry(id).state == State::InFlight => {}
                Some(Due::Expired(id)) => self.expire(id, now),
                None => break,
            }
        }
    }

    fn attend_stalled(&mut self, now: Now) {
        // One that is to be looked at again at once is so in the next tick: each look does a bounded part.
        let mut due = Vec::new();
        while let Some(&std::cmp::Reverse((at, destination))) = self.stalled.peek()
            && at <= now.instant
        {
            self.stalled.pop();
            let state = self.routes.of(destination);
            if state.stalled_until == Some(at) {
                state.stalled_until = None;
                due.push(destination);
            }
        }
        for destination in due {
            self.attend_if_there(destination, now);
        }
    }

    fn end_idle(&mut self, now: Now) {
        while let Some(&std::cmp::Reverse((at, id))) = self.idle_deadlines.peek()
            && at <= now.instant
        {
            self.idle_deadlines.pop();
            let session = self.sessions.get(id.0 as usize);
            if session.is_some_and(|session| {
                matches!(session.phase, Phase::Idle(since) if now.instant.since(since) >= session.idle_timeout)
            }) {
                // It asks, and is told to finish.
                self.commands.push_back(Command::Wake(id));
            }
        }
    }

    /// An entry left a bucket: its destination may be empty now.
    pub(super) fn note_empty(&mut self, bucket: BucketId, now: Now) {
        let destination = self.queue.destination_of(bucket);
        if self.queue.total(destination) == Some(0) {
            self.note_empty_destination(destination, now);
        }
    }

    fn note_empty_destination(&mut self, destination: DestinationId, now: Now) {
        let at = now.instant.after(Duration::from_secs(DESTINATION_KEPT_SECONDS));
        // One note for each destination: the last emptying counts.
        if self.routes.of(destination).empty_until.replace(at).is_none() {
            self.emptied.push_back((at, destination));
        }
    }

    fn forget_empty(&mut self, now: Now) {
        while let Some(&(at, destination)) = self.emptied.front()
            && at <= now.instant
        {
            self.emptied.pop_front();
            let state = self.routes.of(destination);
            if let Some(later) = state.empty_until.filter(|until| *until > now.instant) {
                self.emptied.push_back((later, destination));
                continue;
            }
            state.empty_until = None;
            if self.queue.total(destination) != Some(0) {
                continue;
            }
            if self.routes.of(destination).route == Route::Resolving {
                // The answer would be taken for that of whoever gets the number next.
                self.note_empty_destination(destination, now);
                continue;
            }
            self.unroute(destination);
            for &bucket in self.queue.buckets(destination) {
                self.buckets.remove(bucket);
                if let Some(by) = self.queue.bucket_held(bucket)
                    && let Some(held) = self.held.get_mut(&by.rule)
                {
                    held.buckets.remove(&bucket);
                }
            }
            self.queue.forget(destination);
            *self.routes.of(destination) = super::site::RouteState::default();
        }
        if now.instant >= self.next_rest_cleaning {
            self.sites.forget_rests(now.instant);
            self.next_rest_cleaning = now.instant.after(Duration::from_secs(DESTINATION_KEPT_SECONDS));
        }
    }

    /// The log cannot be written or synced (`true`), or can again: no delivery goes on without its record.
    pub fn handle_log_failing(&mut self, failing: bool, now: Now) {
        if std::mem::replace(&mut self.log_failing, failing) && !failing {
            self.attend_all(now);
        }
    }

    /// A spool cannot write the ends of messages and has too many of them, or it can again. While one is behind no
    /// delivery is begun: a crash would repeat it.
    pub(super) fn handle_spool_behind(&mut self, spool: u16, behind: bool, now: Now) {
        self.spools_behind.retain(|of| *of != spool);
        if behind {
            self.spools_behind.push(spool);
        } else if !self.halted() {
            self.attend_all(now);
        }
    }

    /// Whether what is delivered could not be recorded, in the log or in the spools.
    pub(super) fn halted(&self) -> bool {
        self.log_failing || !self.spools_behind.is_empty()
    }

    /// No message is picked any more, and sessions end when they have their answers.
    pub fn handle_stop(&mut self, now: Now) {
        self.stopping = true;
        self.drop_waiting(now);
        for (at, _) in self.sessions.iter().filter(|(_, session)| matches!(session.phase, Phase::Idle(_))) {
            self.commands.push_back(Command::Wake(session_id(at)));
        }
    }

    /// Forgets the sessions that have not begun to connect.
    fn drop_waiting(&mut self, now: Now) {
        let waiting: Vec<(SessionId, u64)> = self
            .sessions
            .iter()
            .filter(|(_, session)| session.waits())
            .map(|(at, session)| (session_id(at), session.carrier.session))
            .collect();
        for (id, number) in waiting {
            // One may have ended with another, and its id be that of a new one.
            if self.sessions.get(id.0 as usize).is_some_and(|session| session.is_number(number) && session.waits()) {
                self.drop_session(id, now);
            }
        }
    }

    /// Sessions that are not ended yet.
    #[must_use]
    pub fn open_sessions(&self) -> usize {
        self.sessions.len()
    }

    /// Sessions that a stop waits for: those whose connection stands. Nothing is lost with the others.
    #[must_use]
    pub fn working_sessions(&self) -> usize {
        self.sessions.iter().filter(|(_, session)| session.stands()).count()
    }

    /// New settings. Open sessions go on as they were made; everything chosen later follows the new ones. What waits for
    /// leave to connect was chosen by the old ones, and is chosen anew.
    pub fn handle_reload(&mut self, settings: Arc<Settings>, now: Now) {
        self.adopt(settings);
        self.drop_waiting(now);
        self.token_waiters.clear();
        for destination in self.queue.destination_ids() {
            let state = self.routes.of(destination);
            (state.members, state.several_members) = (None, false);
            state.awaited.clear();
            for at in 0..self.queue.buckets(destination).len() {
                self.eligible(self.queue.buckets(destination)[at]);
            }
        }
        self.tell_limits(now);
        self.carry_permits(now);
        self.let_go_after_reload(now);
        self.attend_all(now);
    }

    /// Tells whoever counts connections and messages what counts from now on, as far as connections are in force
    /// that count: those beyond a lower limit are recalled. What they were opened for may be forgotten by now.
    fn tell_limits(&mut self, now: Now) {
        let opened_for = |(_, session): (usize, &Session)| (session.domain.clone(), session.path, session.pool());
        let in_force: BTreeSet<_> = self.sessions.iter().map(opened_for).collect();
        for (domain, path, pool) in in_force {
            let limits = self.resolve_limits(&domain, pool.as_deref(), path);
            self.permits.changed(&Arc::new(limits), now.instant);
        }
    }

    pub(super) fn attend_all(&mut self, now: Now) {
        for destination in self.queue.destination_ids() {
            self.attend(destination, now);
        }
    }
}

fn session_id(at: usize) -> SessionId {
    SessionId(u32::try_from(at).expect("sessions are bounded by open files"))
}
