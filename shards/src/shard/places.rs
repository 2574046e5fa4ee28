//! Places for connections: the descriptors that this core may have for deliveries. A session takes one when it connects
//! and leaves it when it ends; where none is free it stands in line, keeping its permit, and an idle session ends for it.
//! Without this bound a burst of deliveries would take the descriptors that spool, log and injectors need.

use super::Shard;
use super::session::{Phase, Session};
use crate::event::{Command, SessionId};
use crate::limits::CONNECT_TOKEN_LAPSE_MS;
use crate::time::{Instant, Now};
use smallvec::SmallVec;
use std::collections::VecDeque;
use std::time::Duration;

/// Idle sessions that are looked at for one that ends for another's sake; those before it were asked to already.
const IDLE_LOOKED_AT: usize = 16;

/// Belongs to its shard.
#[derive(Debug)]
pub(super) struct Places {
    most: usize,
    taken: usize,
    /// Who has leave to connect and no place, in order of arrival, with its number, since ids are used again.
    line: VecDeque<(SessionId, u64, Instant)>,
    /// The line is being served.
    serving: bool,
}

impl Places {
    /// A core's share of `delivering` connections, at least one.
    pub fn new(delivering: usize, cores: usize) -> Self {
        Self { most: (delivering / cores).max(1), taken: 0, line: VecDeque::new(), serving: false }
    }

    pub fn are_taken(&self) -> bool {
        self.taken >= self.most
    }

    /// One of those that are taken is free again.
    pub fn leave(&mut self) {
        self.taken = self.taken.checked_sub(1).expect("a place is left once, by whoever took it");
    }

    /// Sessions that wait for a place; some may have given up since.
    pub fn in_line(&self) -> usize {
        self.line.len()
    }
}

impl Shard {
    /// Gives a session a place, if it has none yet; one must be free.
    pub(super) fn take_place(&mut self, id: SessionId) {
        self.places.taken += usize::from(!std::mem::replace(&mut self.sessions[id.0 as usize].has_place, true));
    }

    /// A session leaves its place to others.
    pub(super) fn leave_place(&mut self, id: SessionId) {
        self.sessions[id.0 as usize].has_place = false;
        self.places.leave();
    }

    /// Puts a session that has leave to connect into the line, and has the idle one end that would do so next.
    pub(super) fn line_up(&mut self, id: SessionId, now: Now) {
        let session = &mut self.sessions[id.0 as usize];
        session.phase = Phase::InLine;
        self.places.line.push_back((id, session.carrier.session, now.instant));
        // Their deadlines stay: one that waits for a rate, and has carried nothing yet, goes on until then.
        let mut looked_at: SmallVec<[_; 4]> = SmallVec::new();
        while looked_at.len() < IDLE_LOOKED_AT
            && let Some(deadline) = self.idle_deadlines.pop()
        {
            let std::cmp::Reverse((at, idle)) = deadline;
            let Some(session) = self.sessions.get_mut(idle.0 as usize) else { continue };
            if !matches!(session.phase, Phase::Idle(since) if since.after(session.idle_timeout) == at) {
                continue;
            }
            looked_at.push(deadline);
            if !std::mem::replace(&mut session.recalled, true) {
                self.commands.push_back(Command::Wake(idle));
                break;
            }
        }
        self.idle_deadlines.extend(looked_at);
    }

    /// Lets those in line connect, as far as there are places. To be called whenever one was left.
    pub(super) fn serve_line(&mut self, now: Now) {
        // Who cannot connect after all ends, and so comes here again.
        if std::mem::replace(&mut self.places.serving, true) {
            return;
        }
        while !self.places.are_taken()
            && let Some((id, number, since)) = self.places.line.pop_front()
        {
            let in_line = |session: &&Session| session.is_number(number) && session.phase == Phase::InLine;
            let Some(session) = self.sessions.get(id.0 as usize).filter(in_line) else { continue };
            let is_late = now.instant.since(since) > Duration::from_millis(CONNECT_TOKEN_LAPSE_MS);
            if is_late && session.limits.has_connection_rate() {
                // Those in line have their tokens from different times, and would use them all at once. This one keeps
                // the place meanwhile, or it might never have both.
                self.take_place(id);
                self.ask_anew(id, now);
            } else {
                self.start_connecting(id, now);
            }
        }
        self.places.serving = false;
    }
}
