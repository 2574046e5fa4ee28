//! Messages whose body is not there when a session wants it: because compaction has just moved it, or because it is lost.
//! Reads nothing itself.

use super::Shard;
use super::settle::Attempt;
use crate::event::SessionId;
use crate::limits::{ABSENT_SEGMENTS_MAX, BODY_MOVED_MAX_MILLIS, BODY_MOVED_WAIT_MILLIS};
use crate::message::Location;
use crate::outcome::{EnhancedCode, Response, Verb};
use crate::smtp::classify::{Failure, FailureKind};
use crate::smtp::client::RecipientResult;
use crate::time::{Instant, Now};
use std::collections::VecDeque;
use std::time::Duration;

/// Segments that were not there when a body was sought in them, and since when. Their numbers are never used again.
#[derive(Debug, Default)]
pub(super) struct Absent {
    segments: VecDeque<(u16, u32, Instant)>,
}

impl Absent {
    /// For how long the segment has been known not to be there.
    fn known_for(&mut self, Location { spool, segment, .. }: Location, now: Instant) -> Duration {
        let known = self.segments.iter().find(|(of, number, _)| (*of, *number) == (spool, segment));
        let since = known.map_or(now, |(.., since)| *since);
        if known.is_none() {
            if self.segments.len() == ABSENT_SEGMENTS_MAX {
                self.segments.pop_front();
            }
            self.segments.push_back((spool, segment, now));
        }
        now.since(since)
    }
}

impl Shard {
    /// The body was not where it was thought to be: compaction has moved it, and the new place is on its way. One whose
    /// new place does not come has none: somebody has removed the file.
    pub fn handle_body_moved(&mut self, session: SessionId, token: u64, now: Now) {
        let Some(entry) = self.entry_of(session, token) else {
            return;
        };
        let location = self.queue.entry(entry).location();
        if self.absent.known_for(location, now.instant) > Duration::from_millis(BODY_MOVED_MAX_MILLIS) {
            return self.handle_body_unreadable(session, token, now);
        }
        let Some(flight) = self.take_flight(session, token) else {
            return;
        };
        let soon = now.utc.after(Duration::from_millis(BODY_MOVED_WAIT_MILLIS));
        self.queue.defer(flight.entry, soon);
        self.end_if_ruled(flight.entry, now);
    }

    /// The body cannot be read, or is not what was stored. The message stays, for whoever repairs the disk.
    pub fn handle_body_unreadable(&mut self, session: SessionId, token: u64, now: Now) {
        let Some(flight) = self.take_flight(session, token) else {
            return;
        };
        let response = Response {
            code: 451,
            enhanced: Some(EnhancedCode { class: 4, subject: 3, detail: 0 }),
            text: "the message's body cannot be read from the spool".into(),
            verb: Verb::None,
        };
        let failure = Failure { kind: FailureKind::Refused, response, maybe_delivered: false };
        let recipients = self.queue.entry(flight.entry).recipients.to_list();
        let results = recipients.into_iter().map(|index| (index, RecipientResult::Failed(failure.clone()))).collect();
        self.settle(flight.entry, results, &Attempt::without_session(), now);
    }
}
