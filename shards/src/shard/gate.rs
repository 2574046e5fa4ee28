//! What the rules say of a message, when it is picked and again in the last moment before its end-of-data.
//!
//! The runtime asks [`Shard::gate`] inside the poll that sends, with nothing awaited in between, so a rule
//! that a core has acknowledged is never followed by an end-of-data that it covers.

use super::Shard;
use crate::event::SessionId;
use crate::limits::{ENDED_QUEUES_MAX, OTHER_QUEUES};
use crate::outcome::{RecordType, Response, RuleMark, Verb};
use crate::queue::{BucketId, EntryId, HeldBy, NextHop, Queue, State};
use crate::rules::{BucketFacts, Decision, Facts, MessageFacts, Moment, PathFacts, RuleTable, Ruling, Stamp};
use crate::spool::report::{Progress, Standing};
use crate::time::{Now, Timestamp};
use smallvec::SmallVec;
use std::sync::Arc;

/// Recipients of a message that may not be sent now.
pub type Covered = SmallVec<[u16; 4]>;

/// What becomes of one recipient.
#[derive(Clone, Debug)]
pub(super) enum Fate {
    Pass,
    Hold { rule: Arc<str> },
    End { kind: RecordType, response: Response, mark: RuleMark, silent: bool },
    Defer { response: Response, mark: RuleMark },
}

/// What becomes of each recipient of an entry, by its index in the envelope.
pub(super) type Fates = SmallVec<[(u16, Fate); 1]>;

/// What becomes of an entry.
#[derive(Clone, Debug)]
pub(super) enum Judgement {
    /// All its recipients may go.
    Pass(Stamp),
    /// Its whole bucket is held.
    HoldBucket(BucketId, HeldBy),
    /// Its recipients fare differently, or not all may go.
    Each(Fates),
}

impl Judgement {
    /// Whether it holds all of a message.
    pub(super) fn holds(&self) -> bool {
        match self {
            Self::Pass(_) => false,
            Self::HoldBucket(..) => true,
            Self::Each(fates) => fates.iter().all(|(_, fate)| matches!(fate, Fate::Hold { .. })),
        }
    }

    /// Whether it holds some recipients, and ends or defers others.
    pub(super) fn ends_some_and_holds_others(&self) -> bool {
        let Self::Each(fates) = self else { return false };
        let has = |wanted: fn(&Fate) -> bool| fates.iter().any(|(_, fate)| wanted(fate));
        has(|fate| matches!(fate, Fate::Hold { .. }))
            && has(|fate| matches!(fate, Fate::End { .. } | Fate::Defer { .. }))
    }

    /// What it holds stays as it is; it may have another way.
    pub(super) fn let_pass_what_it_holds(&mut self) {
        let Self::Each(fates) = self else { return };
        for (_, fate) in fates.iter_mut().filter(|(_, fate)| matches!(fate, Fate::Hold { .. })) {
            *fate = Fate::Pass;
        }
    }
}

impl Shard {
    /// Whether the end-of-data of `token` may be sent now. If not: the recipients that a rule covers, which
    /// the caller withdraws.
    pub fn gate(&mut self, id: SessionId, token: u64, now: Now) -> Option<Covered> {
        let epoch = self.rules.epoch();
        let session = self.sessions.get_mut(id.0 as usize)?;
        let flight = session.flights.iter().find(|flight| flight.token == token)?;
        if flight.stamp.holds(epoch, now.utc) {
            return None;
        }
        let entry = flight.entry;
        match self.judge_for_session(entry, id, now) {
            Judgement::Pass(stamp) => {
                let flights = &mut self.sessions[id.0 as usize].flights;
                if let Some(flight) = flights.iter_mut().find(|flight| flight.token == token) {
                    flight.stamp = stamp;
                }
                None
            }
            Judgement::HoldBucket(..) => {
                self.counters.gated += 1;
                Some(self.queue.entry(entry).recipients.to_list())
            }
            Judgement::Each(fates) => {
                self.counters.gated += 1;
                Some(fates.iter().filter(|(_, fate)| !matches!(fate, Fate::Pass)).map(|(index, _)| *index).collect())
            }
        }
    }

    /// The octet that completes a message was passed to `send(2)`: from now on it may be delivered.
    pub fn handle_end_of_data_sent(&mut self, id: SessionId, token: u64) {
        if let Some(session) = self.sessions.get_mut(id.0 as usize)
            && let Some(flight) = session.flights.iter_mut().find(|flight| flight.token == token)
        {
            flight.end_of_data_sent = true;
        }
    }

    /// What the rules say of an entry on the connection of a session.
    pub(super) fn judge_for_session(&mut self, entry: EntryId, id: SessionId, now: Now) -> Judgement {
        if self.rules.is_empty() && self.rules.suppressions().is_empty() {
            let stamp = Stamp { epoch: self.rules.epoch(), at: now.utc, next_transition: self.rules.next_transition() };
            return Judgement::Pass(stamp);
        }
        let session = &self.sessions[id.0 as usize];
        let path_name = self.sites.path(session.path).name.clone();
        let (source_ip, remote_ip) = (session.carrier.source_address, session.carrier.peer.map(|peer| peer.ip()));
        self.judge(entry, PathFacts { source_ip, path: Some(&path_name), remote_ip }, Moment::Attempt, now)
    }

    /// What is known of all messages of a bucket.
    pub(super) fn facts_of(&self, bucket: BucketId) -> BucketFacts<'_> {
        let pool = self.buckets.get(bucket).and_then(|state| state.eligible.pool.as_deref());
        bucket_facts(&self.queue, bucket, pool)
    }

    /// What the rules say of an entry.
    pub(super) fn judge(&mut self, id: EntryId, path: PathFacts<'_>, moment: Moment, now: Now) -> Judgement {
        self.counters.judged += 1;
        let Self { rules, queue, buckets, .. } = self;
        let entry = queue.entry(id);
        let pool = buckets.get(entry.bucket).and_then(|state| state.eligible.pool.clone());
        let bucket_facts = bucket_facts(queue, entry.bucket, pool.as_deref());
        let fresh;
        let verdict = match buckets.get_mut(entry.bucket) {
            Some(state) => {
                if !state.verdict.as_ref().is_some_and(|kept| kept.stamp.holds(rules.epoch(), now.utc)) {
                    state.verdict = Some(rules.bucket(&bucket_facts, now.utc));
                }
                state.verdict.as_ref().expect("set just above")
            }
            None => {
                fresh = rules.bucket(&bucket_facts, now.utc);
                &fresh
            }
        };
        // A sweep asks about each message all the same: what ends mail by its tag or address reaches it so.
        if moment == Moment::Attempt
            && let Some((rule, until)) = verdict.whole_hold()
        {
            return Judgement::HoldBucket(entry.bucket, HeldBy { rule: rule.id.clone(), until });
        }
        let tags = entry.envelope.extras().map_or(&[][..], |extras| &extras.tags);
        let tag_hashes = match entry.envelope.extras() {
            Some(extras) if rules.names_tags() => rules.tag_hashes(extras),
            _ => &[][..],
        };
        let mut stamp = verdict.stamp;
        let mut fates = Fates::new();
        let mut all_pass = true;
        for &recipient in &*entry.recipients {
            let address = entry.envelope.recipient(usize::from(recipient));
            let message = Some(MessageFacts { address, tags, tag_hashes });
            let facts = Facts { bucket: bucket_facts, message, path };
            let answer = rules.complete(verdict, &facts, moment, now.utc);
            stamp.next_transition = stamp.next_transition.min(answer.next_transition());
            let fate = fate_of(&answer.decision, address);
            all_pass &= matches!(fate, Fate::Pass);
            fates.push((recipient, fate));
        }
        if all_pass { Judgement::Pass(stamp) } else { Judgement::Each(fates) }
    }

    /// Does to an entry that is not in flight what was judged.
    pub(super) fn carry_out(&mut self, id: EntryId, judgement: Judgement, now: Now) {
        let fates = match judgement {
            Judgement::Pass(_) => return,
            Judgement::HoldBucket(bucket, by) => {
                let sessions = self.sessions_to(self.queue.destination_of(bucket));
                let held = self.held.entry(by.rule.clone()).or_default();
                held.buckets.insert(bucket);
                held.sessions = held.sessions.max(sessions);
                self.queue.hold_bucket(bucket, by);
                return;
            }
            Judgement::Each(fates) => fates,
        };
        let entry = self.queue.entry(id);
        let (spool, message, attempts) = (entry.location().spool, entry.envelope.id(), entry.attempts);
        let mut done = SmallVec::new();
        let mut parts = Parts::default();
        for (recipient, fate) in fates {
            match fate {
                Fate::Pass => parts.keep.push(recipient),
                Fate::Hold { rule } => match parts.hold.iter_mut().find(|(of, _)| *of == rule) {
                    Some((_, recipients)) => recipients.push(recipient),
                    None => parts.hold.push((rule, SmallVec::from_slice(&[recipient]))),
                },
                Fate::End { kind, response, mark, silent } => {
                    self.counters.count_end(mark.kind);
                    self.count_ended(&mark.id, id);
                    let mut outcome = self.outcome_of(id, recipient, kind, response, None, now.utc);
                    (outcome.rule, outcome.unlogged) = (Some(mark), silent);
                    self.record(outcome);
                    done.push(recipient);
                }
                Fate::Defer { response, mark } if self.is_last_attempt(id) => {
                    self.counters.count_end(mark.kind);
                    self.count_ended(&mark.id, id);
                    let attempts = attempts.saturating_add(1);
                    self.record_by_rule(id, recipient, RecordType::Bounce, response, mark, attempts, now.utc);
                    done.push(recipient);
                }
                Fate::Defer { response, mark } => {
                    let attempts = attempts.saturating_add(1);
                    self.counters.deferred += 1;
                    self.record_by_rule(id, recipient, RecordType::TransientFailure, response, mark, attempts, now.utc);
                    parts.later.push(recipient);
                }
            }
        }
        if !done.is_empty() {
            self.tell_spool(spool, Progress::Done { id: message, recipients: done });
        }
        self.part(id, parts, now);
    }

    /// Counts for the rule's listing. Suppressions are not listed with counts.
    fn count_ended(&mut self, rule: &Arc<str>, id: EntryId) {
        if self.rules.rule(rule).is_none() {
            return;
        }
        let queue = self.queue.bucket_name(self.queue.entry(id).bucket).clone();
        let by_queue = self.ended.entry(rule.clone()).or_default();
        let room = by_queue.len() < ENDED_QUEUES_MAX;
        match by_queue.get_mut(&queue) {
            Some(count) => *count += 1,
            None if room => drop(by_queue.insert(queue, 1)),
            // The total stays right; the names beyond the bound share one.
            None => *by_queue.entry(OTHER_QUEUES.into()).or_default() += 1,
        }
    }

    /// Splits an entry by what becomes of its recipients. The first part stays the entry.
    fn part(&mut self, id: EntryId, parts: Parts, now: Now) {
        let mut own = Some(id);
        let mut place = |shard: &mut Self, recipients: SmallVec<[u16; 4]>| match own.take() {
            Some(id) => {
                shard.queue.entry_mut(id).recipients = recipients.into();
                id
            }
            None => shard.split_off(id, recipients, now),
        };
        if !parts.keep.is_empty() {
            place(self, parts.keep);
        }
        for (rule, recipients) in parts.hold {
            let held = place(self, recipients);
            if self.queue.entry(held).state == State::Ready {
                let at = self.queue.entry(held).place;
                self.queue.hold(held);
                let queue = &self.queue;
                let is_held = |id, place| queue.entry_at(id, place).is_some_and(|entry| entry.state == State::Held);
                self.held.entry(rule).or_default().keep(held, at, is_held);
            }
        }
        if !parts.later.is_empty() {
            let later = place(self, parts.later);
            self.defer_by_rule(later, now);
        }
        if own.is_some() {
            let entry = self.queue.remove(id);
            self.note_empty(entry.bucket, now);
        }
    }

    fn defer_by_rule(&mut self, id: EntryId, now: Now) {
        let entry = self.queue.entry_mut(id);
        entry.attempts = entry.attempts.saturating_add(1);
        let entry = self.queue.entry(id);
        let due = crate::queue::due_after(&self.settings.retry, &entry.envelope, entry.attempts, now.utc);
        let standing = Standing { attempts: entry.attempts, due, maybe_delivered: entry.maybe_delivered };
        let progress = Progress::Attempt { id: entry.envelope.id(), recipients: entry.recipients.to_list(), standing };
        let spool = entry.location().spool;
        self.queue.defer(id, due);
        self.tell_spool(spool, progress);
    }

    #[expect(clippy::too_many_arguments, reason = "one record, spelled out once")]
    fn record_by_rule(
        &mut self,
        id: EntryId,
        recipient: u16,
        kind: RecordType,
        response: Response,
        mark: RuleMark,
        attempts: u16,
        at: Timestamp,
    ) {
        let mut outcome = self.outcome_of(id, recipient, kind, response, None, at);
        outcome.rule = Some(mark);
        outcome.attempts = attempts;
        self.record(outcome);
    }
}

/// What is known of all messages of a bucket; `pool` is the one that their own choice came to, when that is known.
fn bucket_facts<'a>(queue: &'a Queue, bucket: BucketId, pool: Option<&'a str>) -> BucketFacts<'a> {
    let key = queue.bucket_key(bucket);
    let (domain, next_hop) = queue.destination(queue.destination_of(bucket));
    BucketFacts {
        domain,
        routing_domain: match next_hop {
            NextHop::Domain(domain) => Some(domain),
            NextHop::Recipient | NextHop::Host(_) => None,
        },
        campaign: key.campaign.as_deref(),
        tenant: key.tenant.as_deref(),
        pool: pool.or(key.pool.as_deref()),
        queue: queue.bucket_name(bucket),
    }
}

#[derive(Default)]
struct Parts {
    keep: Covered,
    hold: SmallVec<[(Arc<str>, Covered); 1]>,
    later: Covered,
}

pub(super) fn fate_of(decision: &Decision<'_>, address: &str) -> Fate {
    match decision {
        Decision::Pass => Fate::Pass,
        Decision::Hold { rule, .. } => Fate::Hold { rule: rule.id.clone() },
        Decision::End(ruling) => Fate::End {
            kind: ruling.record(),
            response: response_of(*ruling),
            mark: ruling.mark(address),
            silent: ruling.suppress_logging(),
        },
        Decision::Defer(ruling) => Fate::Defer { response: response_of(*ruling), mark: ruling.mark(address) },
    }
}

fn response_of(ruling: Ruling<'_>) -> Response {
    let answer = ruling.answer();
    Response { code: answer.code(), enhanced: answer.enhanced(), text: (&**answer.text()).into(), verb: Verb::None }
}

/// Whether a table may cover anything at all.
#[must_use]
pub(super) fn is_blank(rules: &RuleTable) -> bool {
    rules.is_empty() && rules.suppressions().is_empty()
}
