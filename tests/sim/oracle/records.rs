//! What the outcome log must say, and when.

use super::{End, Oracle, Recipient};
use crate::network::Moment;
use crate::plan::{EPOCH_MILLIS, SECOND, utc_at};
use mailrace_shards::outcome::{Outcome, RecordType};
use mailrace_shards::time::Timestamp;

/// How late an expiry may be when nothing holds it up, milliseconds.
const EXPIRY_LATE_MILLIS: i64 = 1_500;

impl Oracle {
    /// The engine made a record; it is not durable yet.
    pub fn recorded(&mut self, outcome: &Outcome, time: u64) {
        if let Some((serial, at)) = self.of_record(outcome)
            && outcome.kind.ends()
        {
            let life = self.life;
            self.known[serial].recipients[at].record_made = Some((life, time));
        }
    }

    fn of_record(&self, outcome: &Outcome) -> Option<(usize, usize)> {
        let address = outcome.envelope.recipient(usize::from(outcome.recipient?));
        self.by_address.get(address).copied()
    }

    /// A record is durable.
    pub fn durable_record(&mut self, outcome: &Outcome, moment: Moment) {
        if outcome.kind == RecordType::Reception {
            // What was not acknowledged may have one all the same.
            let first = self.by_address.get(outcome.envelope.recipient(0)).copied();
            let Some((serial, _)) = first else { return self.fail(format!("a stranger was received: {outcome:?}")) };
            self.known[serial].reception = true;
            return;
        }
        let Some((serial, at)) = self.of_record(outcome) else { return };
        let address = outcome.envelope.recipient(usize::from(outcome.recipient.unwrap_or_default()));
        if let Some(mark) = &outcome.rule {
            let is_found = outcome.envelope.id().generation != self.generation;
            self.check_mark((serial, address, is_found), mark, outcome.at);
        }
        if !outcome.kind.ends() {
            return;
        }
        self.check_kind(serial, at, outcome);
        let life = self.life;
        let before = &self.known[serial].recipients[at].ends;
        let twice = before.iter().find_map(|end| {
            let same = end.life == life;
            let beyond = || self.beyond_bound(end.life, end.moment.time, serial).is_some();
            (same || beyond()).then(|| format!("{:?} at {:?}", end.kind, end.moment))
        });
        let kind = outcome.kind;
        self.check(twice.is_none(), || {
            let first = twice.unwrap_or_default();
            format!("letter {serial} recipient {at} ended by {first} and again by {kind:?} at {moment:?}")
        });
        self.known[serial].recipients[at].ends.push(End { life, moment, kind });
    }

    fn check_kind(&mut self, serial: usize, at: usize, outcome: &Outcome) {
        let known = &self.known[serial];
        let handed: Vec<_> = known.recipients[at].taken.iter().map(|number| &self.handed[*number]).collect();
        let (life, code) = (self.life, outcome.response.code);
        let letter = &known.letter;
        let received = outcome.envelope.received();
        let expires = letter.expires_after(received);
        let wrong = match outcome.kind {
            RecordType::Delivery => {
                let true_word = handed.iter().any(|one| one.good && one.answered.is_some());
                (!true_word).then_some("is recorded as delivered, which no host has answered")
            }
            RecordType::Expiration => (outcome.at < expires).then_some("expired before its time"),
            RecordType::Bounce if outcome.rule.is_none() && code < 500 => {
                let exhausted = letter.max_attempts.is_some_and(|most| outcome.attempts >= most);
                (!exhausted).then_some("bounced without a permanent failure")
            }
            _ => None,
        };
        let unsure = handed.iter().any(|one| one.good && one.answered.is_none() && one.life == life);
        let silent = unsure && outcome.kind != RecordType::Delivery && !outcome.maybe_delivered;
        let wrong = wrong.or(silent.then_some("may have been delivered, which its record does not say"));
        self.check(wrong.is_none(), || {
            format!("letter {serial} recipient {at} {}: {outcome:?}", wrong.unwrap_or_default())
        });
    }

    /// When the last connection that was given a recipient was closed; nothing when one is open, 0 when none was.
    pub(super) fn given_back(&self, recipient: &Recipient) -> Option<u64> {
        let carriers = recipient.carried_by.iter().filter_map(|conn| self.outs.get(conn));
        carriers.map(|out| out.closed.map(|closed| closed.time)).try_fold(0, |last, closed| Some(last.max(closed?)))
    }

    /// Expiry on time: what is past it, on no connection and held up by nothing, has its record.
    pub fn check_expiries(&mut self, time: u64) {
        let late = |expires: Timestamp| Timestamp(expires.0 + EXPIRY_LATE_MILLIS);
        let utc = utc_at(time);
        let overdue = self.owed().find(|&(serial, at)| {
            let (known, recipient) = (&self.known[serial], &self.known[serial].recipients[at]);
            if late(known.expires) > utc {
                return false;
            }
            let due = (known.expires.0 - EPOCH_MILLIS) as u64 * 1000;
            let given_back = self.given_back(recipient).unwrap_or(u64::MAX);
            let from = due.max(known.acknowledged.map_or(0, |at| at.time)).max(given_back);
            from.saturating_add(EXPIRY_LATE_MILLIS as u64 * 1000) < time
                && !self.trouble_between(from.saturating_sub(SECOND), time)
        });
        self.check(overdue.is_none(), || format!("expiry is overdue, as (letter, recipient): {overdue:?}"));
    }
}
