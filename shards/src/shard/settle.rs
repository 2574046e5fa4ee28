//! What becomes of a message after an attempt, or instead of one: records, retries and ends.
//!
//! The spool hears of a recipient's end only after the record of it is synced (`handle_log_synced`).

use super::Shard;
use super::gate::is_blank;
use crate::event::{Command, Mail, SessionId};
use crate::limits::{HOSTS_TRIED, UNSYNCED_RECORDS_MAX};
use crate::message::CoreId;
use crate::outcome::{Carrier, EnhancedCode, Outcome, RecordType, Response, RuleMark, Verb};
use crate::queue::{EntryId, NewEntry, due_after};
use crate::settings::TlsPolicy;
use crate::smtp::classify::{Failure, FailureKind, Remedy, Scope, consequence};
use crate::smtp::client::{RecipientResult, Results};
use crate::spool::report::{Progress, Standing};
use crate::time::{Now, Timestamp};
use smallvec::SmallVec;
use std::sync::Arc;

type Recipients = SmallVec<[u16; 4]>;

/// How an attempt travelled, for what is decided from its results.
#[derive(Clone, Debug)]
pub(super) struct Attempt {
    pub carrier: Option<Arc<Carrier>>,
    pub tls: TlsPolicy,
    /// Whether a host of the site is left that may be tried at once.
    pub other_host: bool,
    /// Whether the message may go again at once at all; not when its destination failed as a whole.
    pub repeatable: bool,
}

impl Attempt {
    /// One that ended before there was a session for it.
    pub(super) fn without_session() -> Self {
        Self { carrier: None, tls: TlsPolicy::Opportunistic, other_host: false, repeatable: false }
    }
}

impl Shard {
    /// Every recipient of a transaction has its result.
    pub fn handle_finished(&mut self, session: SessionId, token: u64, results: Results, now: Now) {
        let Some(flight) = self.take_flight(session, token) else {
            return;
        };
        let host_failed = results.iter().any(|(_, result)| match result {
            RecipientResult::Failed(failure) => {
                let means = consequence(failure, self.session(session).tls);
                means.scope == Scope::Host && means.remedy == Remedy::Elsewhere
            }
            RecipientResult::Delivered(_) => false,
        });
        if host_failed {
            self.rest_host(session, now);
            // Other mail would fare no better here.
            self.sessions[session.0 as usize].recalled = true;
        } else if results.iter().any(|(_, result)| has_answer(result)) {
            self.host_served(session);
        }
        let attempt = Attempt {
            carrier: Some(self.carrier_of(session, flight.entry)),
            tls: self.session(session).tls,
            other_host: host_failed && self.may_go_elsewhere(flight.entry, session, now),
            repeatable: true,
        };
        let destination = self.queue.destination_of(self.queue.entry(flight.entry).bucket);
        self.settle(flight.entry, results, &attempt, now);
        self.attend(destination, now);
    }

    /// How an entry travels on a session, which may have been opened for mail of another pool.
    fn carrier_of(&self, session: SessionId, id: EntryId) -> Arc<Carrier> {
        let carrier = &self.session(session).carrier;
        match self.buckets.get(self.queue.entry(id).bucket) {
            Some(state) if state.eligible.pool != carrier.pool => {
                Arc::new(Carrier { pool: state.eligible.pool.clone(), ..Carrier::clone(carrier) })
            }
            _ => carrier.clone(),
        }
    }

    /// Whether a message may try another host within the same attempt: there is one, and it has not tried as many
    /// as there are.
    fn may_go_elsewhere(&mut self, id: EntryId, session: SessionId, now: Now) -> bool {
        if !self.has_other_host(session, now) {
            return false;
        }
        let hosts: usize =
            self.sites.site(self.session(session).site).hosts.iter().map(|host| host.addresses.len()).sum();
        let entry = self.queue.entry_mut(id);
        entry.hosts_tried = entry.hosts_tried.saturating_add(1);
        usize::from(entry.hosts_tried) < hosts.min(HOSTS_TRIED)
    }

    /// A transaction is given back uncharged.
    pub fn handle_aborted(&mut self, session: SessionId, token: u64, now: Now) {
        let Some(flight) = self.take_flight(session, token) else {
            return;
        };
        let destination = self.queue.destination_of(self.queue.entry(flight.entry).bucket);
        self.queue.put_back(flight.entry);
        self.end_if_ruled(flight.entry, now);
        self.attend(destination, now);
    }

    /// A rule that came during an attempt has passed over its message; now that no session has that any more, it ends
    /// it, however long the next attempt may be away. The same holds for mail that comes under a rule.
    pub(super) fn end_if_ruled(&mut self, id: EntryId, now: Now) {
        if !is_blank(&self.rules) {
            self.end_by_rules(id, now);
        }
    }

    /// Writes the records of an attempt, and ends, defers or puts back its recipients. The entry is in
    /// flight or ready.
    pub(super) fn settle(&mut self, id: EntryId, results: Results, attempt: &Attempt, now: Now) {
        let mut done = Recipients::new();
        let mut later = Recipients::new();
        let mut again = Recipients::new();
        let mut charged = false;
        for (_, result) in &results {
            if let RecipientResult::Failed(failure) = result {
                charged |= !goes_again(remedy_of(failure, attempt));
                self.queue.entry_mut(id).maybe_delivered |= failure.maybe_delivered;
            }
        }
        charged |= results.iter().any(|(_, result)| matches!(result, RecipientResult::Delivered(_)));
        if charged {
            let entry = self.queue.entry_mut(id);
            entry.attempts = entry.attempts.saturating_add(1);
        }
        for (recipient, result) in results {
            match result {
                RecipientResult::Delivered(response) => {
                    self.counters.delivered += 1;
                    self.record_of(id, recipient, RecordType::Delivery, response, attempt, now.utc);
                    done.push(recipient);
                }
                RecipientResult::Failed(failure) => match remedy_of(&failure, attempt) {
                    remedy if goes_again(remedy) => again.push(recipient),
                    Remedy::Never => {
                        self.counters.bounced += 1;
                        self.record_of(id, recipient, RecordType::Bounce, failure.response, attempt, now.utc);
                        done.push(recipient);
                    }
                    _ if self.attempts_exhausted(id) => {
                        self.counters.bounced += 1;
                        self.record_of(id, recipient, RecordType::Bounce, failure.response, attempt, now.utc);
                        done.push(recipient);
                    }
                    _ => {
                        self.counters.deferred += 1;
                        self.record_of(id, recipient, RecordType::TransientFailure, failure.response, attempt, now.utc);
                        later.push(recipient);
                    }
                },
            }
        }
        self.dispose(id, done, later, again, now);
    }

    /// Ends one entry with the same record for all its recipients.
    pub(super) fn end(
        &mut self,
        id: EntryId,
        kind: RecordType,
        response: &Response,
        rule: Option<&RuleMark>,
        now: Now,
    ) {
        let recipients = self.queue.entry(id).recipients.to_list();
        for recipient in &recipients {
            let mut outcome = self.outcome_of(id, *recipient, kind, response.clone(), None, now.utc);
            outcome.rule = rule.cloned();
            self.record(outcome);
        }
        let entry = self.queue.remove(id);
        let spool = entry.location().spool;
        self.tell_spool(spool, Progress::Done { id: entry.envelope.id(), recipients });
        self.note_empty(entry.bucket, now);
    }

    /// The message's time ran out.
    pub(super) fn expire(&mut self, id: EntryId, now: Now) {
        self.counters.expired += self.queue.entry(id).recipients.len() as u64;
        let response = Response {
            code: 551,
            enhanced: Some(EnhancedCode { class: 5, subject: 4, detail: 7 }),
            text: "Delivery time expired".into(),
            verb: Verb::None,
        };
        self.end(id, RecordType::Expiration, &response, None, now);
    }

    /// The records up to `number` are durable: tell the spools what they were about.
    pub fn handle_log_synced(&mut self, number: u64, now: Now) {
        while self.unsynced.front().is_some_and(|(of, ..)| *of <= number) {
            let (_, spool, progress) = self.unsynced.pop_front().expect("looked at above");
            let home = CoreId(spool % u16::try_from(self.cores).expect("CORES_MAX fits 16 bits"));
            if home == self.core {
                self.commands.push_back(Command::Progress(spool, progress));
            } else {
                self.commands.push_back(Command::Post(home, Mail::Progress(spool, progress)));
            }
        }
        self.tell_receptions(number);
        self.synced = self.synced.max(number);
        if self.unsynced_waits && self.unsynced.len() <= UNSYNCED_RECORDS_MAX {
            self.unsynced_waits = false;
            self.attend_all(now);
        }
    }

    /// Whether an attempt made now is the last one allowed.
    pub(super) fn is_last_attempt(&self, id: EntryId) -> bool {
        let entry = self.queue.entry(id);
        let most = entry.envelope.extras().and_then(|extras| extras.max_attempts);
        most.is_some_and(|most| entry.attempts.saturating_add(1) >= most)
    }

    /// Numbers a record and hands it to the log.
    pub(super) fn record(&mut self, outcome: Outcome) {
        self.recorded += 1;
        self.commands.push_back(Command::Record { number: self.recorded, outcome: Box::new(outcome) });
    }

    fn dispose(&mut self, id: EntryId, done: Recipients, later: Recipients, again: Recipients, now: Now) {
        let entry = self.queue.entry(id);
        let (spool, message) = (entry.location().spool, entry.envelope.id());
        if !done.is_empty() {
            self.tell_spool(spool, Progress::Done { id: message, recipients: done });
        }
        match (later.is_empty(), again.is_empty()) {
            (true, true) => {
                let entry = self.queue.remove(id);
                self.note_empty(entry.bucket, now);
            }
            (true, false) => {
                self.queue.entry_mut(id).recipients = again.into();
                if self.queue.entry(id).state == crate::queue::State::InFlight {
                    self.queue.put_back(id);
                    self.end_if_ruled(id, now);
                }
            }
            (false, _) => {
                if !again.is_empty() {
                    let ready = self.split_off(id, again, now);
                    self.end_if_ruled(ready, now);
                }
                let entry = self.queue.entry(id);
                let due = due_after(&self.settings.retry, &entry.envelope, entry.attempts, now.utc);
                let standing = Standing { attempts: entry.attempts, due, maybe_delivered: entry.maybe_delivered };
                self.queue.entry_mut(id).recipients = later.clone().into();
                self.queue.defer(id, due);
                self.tell_spool(spool, Progress::Attempt { id: message, recipients: later, standing });
                self.end_if_ruled(id, now);
            }
        }
    }

    /// Makes an entry of its own for recipients that need not wait with the others.
    pub(super) fn split_off(&mut self, id: EntryId, recipients: Recipients, now: Now) -> EntryId {
        let entry = self.queue.entry(id);
        let new = NewEntry {
            envelope: entry.envelope.clone(),
            recipients,
            location: entry.location(),
            body: entry.body().cloned(),
            attempts: entry.attempts,
            due: None,
            expires: entry.expires,
            maybe_delivered: entry.maybe_delivered,
        };
        self.queue.insert(new, now.utc)
    }

    /// Tells a spool what became of recipients, once everything recorded so far is synced.
    pub(super) fn tell_spool(&mut self, spool: u16, progress: Progress) {
        self.unsynced.push_back((self.recorded, spool, progress));
    }

    fn attempts_exhausted(&self, id: EntryId) -> bool {
        let entry = self.queue.entry(id);
        let most = entry.envelope.extras().and_then(|extras| extras.max_attempts);
        most.is_some_and(|most| entry.attempts >= most)
    }

    fn record_of(
        &mut self,
        id: EntryId,
        recipient: u16,
        kind: RecordType,
        response: Response,
        attempt: &Attempt,
        at: Timestamp,
    ) {
        let outcome = self.outcome_of(id, recipient, kind, response, attempt.carrier.clone(), at);
        self.record(outcome);
    }

    pub(super) fn outcome_of(
        &self,
        id: EntryId,
        recipient: u16,
        kind: RecordType,
        response: Response,
        carrier: Option<Arc<Carrier>>,
        at: Timestamp,
    ) -> Outcome {
        let entry = self.queue.entry(id);
        Outcome {
            kind,
            envelope: entry.envelope.clone(),
            recipient: Some(recipient),
            queue: self.queue.bucket_name(entry.bucket).clone(),
            at,
            attempts: entry.attempts,
            response,
            carrier,
            reception_protocol: None,
            rule: None,
            maybe_delivered: entry.maybe_delivered && kind != RecordType::Delivery,
            unlogged: false,
        }
    }
}

/// Whether the host has done its work for the message, whatever it made of it.
fn has_answer(result: &RecipientResult) -> bool {
    match result {
        RecipientResult::Delivered(_) => true,
        RecipientResult::Failed(failure) => {
            matches!(failure.kind, FailureKind::Refused | FailureKind::TooManyRecipients)
        }
    }
}

/// What helps against `failure`, given that trying elsewhere needs another host.
fn remedy_of(failure: &Failure, attempt: &Attempt) -> Remedy {
    match consequence(failure, attempt.tls).remedy {
        remedy if goes_again(remedy) && !attempt.repeatable => Remedy::Later,
        Remedy::Elsewhere if !attempt.other_host => Remedy::Later,
        remedy => remedy,
    }
}

/// Whether the message goes again at once, without an attempt being counted.
fn goes_again(remedy: Remedy) -> bool {
    matches!(remedy, Remedy::Again | Remedy::InClear | Remedy::Elsewhere)
}

#[cfg(test)]
mod tests {
    use super::{Attempt, RecipientResult, has_answer, remedy_of};
    use crate::outcome::Verb;
    use crate::settings::TlsPolicy;
    use crate::smtp::classify::{Failure, FailureKind, Remedy};

    fn failure(kind: FailureKind, verb: Verb) -> Failure {
        Failure::own(kind, verb, "as the test wants it")
    }

    /// What would go again at once waits where the attempt is over, and what wants another host where there is none.
    #[test]
    fn what_helps_at_once_helps_only_while_it_can_be_had() {
        let elsewhere = failure(FailureKind::Lost, Verb::MailFrom);
        let again = failure(FailureKind::TooManyRecipients, Verb::RcptTo);
        let in_clear = failure(FailureKind::TlsHandshake, Verb::StartTls);
        let never = failure(FailureKind::TooLarge, Verb::MailFrom);
        let later = failure(FailureKind::Lost, Verb::EndOfData);
        // By whether there is another host, and whether the message may go again at all.
        let cases = [
            (&elsewhere, [Remedy::Later, Remedy::Later, Remedy::Later, Remedy::Elsewhere]),
            (&again, [Remedy::Later, Remedy::Again, Remedy::Later, Remedy::Again]),
            (&in_clear, [Remedy::Later, Remedy::InClear, Remedy::Later, Remedy::InClear]),
            (&never, [Remedy::Never; 4]),
            (&later, [Remedy::Later; 4]),
        ];
        for (failure, expected) in cases {
            let made = [(false, false), (false, true), (true, false), (true, true)].map(|(other_host, repeatable)| {
                let attempt = Attempt { carrier: None, tls: TlsPolicy::Opportunistic, other_host, repeatable };
                remedy_of(failure, &attempt)
            });
            assert_eq!(made, expected, "{failure:?}");
        }
    }

    /// A host that refuses a message works; one that falls silent or hangs up does not.
    #[test]
    fn a_refusal_is_an_answer_and_a_silence_is_none() {
        let refused = Failure { kind: FailureKind::Refused, ..failure(FailureKind::Closing, Verb::EndOfData) };
        let response = refused.response.clone();
        let failed = |kind| RecipientResult::Failed(failure(kind, Verb::EndOfData));
        assert!(has_answer(&RecipientResult::Delivered(response)));
        assert!(has_answer(&RecipientResult::Failed(refused)));
        assert!(has_answer(&failed(FailureKind::TooManyRecipients)));
        for kind in [FailureKind::Lost, FailureKind::TimedOut, FailureKind::Closing, FailureKind::TooLarge] {
            assert!(!has_answer(&failed(kind)), "{kind:?}");
        }
    }
}
