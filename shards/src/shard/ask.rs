//! Questions of the control side about the queue, answered in slices: a tick looks at a bounded number of
//! entries, so a question over a million messages delays nobody. Nothing here changes a message, except for
//! the two commands by message id (`Retry`, `Cancel`) and `Flush`, which are questions with an effect.

use super::Shard;
use super::count::Counts;
use super::rule_counts::{RuleCounting, earlier};
use super::site::Route;
use crate::event::{Answer, Coverage, MessageFilter, MessageView, Question, ReplyTo, Waits};
use crate::limits::ASK_DESTINATIONS_AT_ONCE;
use crate::limits::{
    ASK_AT_ONCE_MILLIS, ASK_DESTINATIONS_MAX, ASK_ENTRIES_PER_SLICE, ASK_ENTRIES_PER_TICK, ASK_MILLIS,
    ASK_RULES_MILLIS, ASKS_MAX,
};
use crate::message::MessageId;
use crate::outcome::{EnhancedCode, RecordType, Response, RuleMark, Verb};
use crate::queue::{EntryId, State};
use crate::rules::{Decision, Facts, Fields, MessageFacts, Moment, PathFacts, Scope};
use crate::time::{Instant, Now, Timestamp};
use hashbrown::HashMap;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// A question that is being answered.
#[derive(Debug)]
struct Ask {
    question: Question,
    /// What is asked of a message. Nothing that is not known of queued mail.
    wanted: Scope,
    /// The same without what differs within a bucket.
    of_bucket: Scope,
    /// Whether these two are the same.
    by_bucket: bool,
    after: Option<EntryId>,
    coverage: Coverage,
    /// What the scope certainly covers, by the totals of whole buckets; 0 when these do not tell.
    at_least: u64,
    counts: Counts,
    in_flight_by_queue: HashMap<Arc<str>, u64>,
    rules: Option<RuleCounting>,
    messages: Vec<MessageView>,
    /// Messages behind it are not among the first that are wanted.
    last: Option<MessageId>,
    flushed: u64,
    /// What is known by then is the answer.
    until: Instant,
    reply: ReplyTo<Answer>,
}

/// Questions in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Asks {
    open: VecDeque<Ask>,
}

impl Shard {
    /// A question. Those that need no walk over the queue are answered at once.
    pub fn handle_question(&mut self, question: Question, reply: ReplyTo<Answer>, now: Now) {
        let answer = match &question {
            Question::Message(id) => Answer::Messages(self.views_of(*id, now)),
            Question::Retry(id) => Answer::Count(self.retry(*id, now)),
            Question::Cancel { id, by } => Answer::Count(self.cancel(*id, by, now)),
            Question::RuleCounts(ids) => {
                let counting = self.count_rules(ids);
                if counting.needs_walk() {
                    return self.begin_walk(question, Some(counting), reply, now);
                }
                Answer::RuleCounts(counting.finish(true))
            }
            Question::Covered { .. } | Question::Messages { .. } | Question::Flush { .. } | Question::Queues => {
                return self.begin_walk(question, None, reply, now);
            }
        };
        reply.send(answer);
    }

    /// `rules` is what is known at once of those that are asked for.
    fn begin_walk(&mut self, mut question: Question, rules: Option<RuleCounting>, reply: ReplyTo<Answer>, now: Now) {
        let full = self.asks.open.len() >= ASKS_MAX;
        if full && !matches!(question, Question::Covered { .. } | Question::RuleCounts(_)) {
            return reply.send(Answer::Busy);
        }
        let mut coverage = Coverage::default();
        let mut in_flight_by_queue = HashMap::new();
        let (mut at_least, mut within) = (0, Duration::from_millis(ASK_MILLIS));
        match &mut question {
            Question::RuleCounts(_) => within = Duration::from_millis(ASK_RULES_MILLIS),
            Question::Covered { scope, within: wanted } => {
                in_flight_by_queue = self.in_flight(scope);
                *scope = of_queued(scope);
                coverage.in_flight = in_flight_by_queue.values().sum();
                at_least = self.in_whole_buckets(scope);
                within = within.min(*wanted);
            }
            Question::Flush { scope, found } => {
                *scope = of_queued(scope);
                if !*found {
                    self.flushes.forget();
                } else if !self.flushes.keep(scope) {
                    return reply.send(Answer::Busy);
                }
            }
            _ => {}
        }
        let wanted = match &question {
            Question::Messages { filter, .. } => scope_of(filter),
            Question::Covered { scope, .. } | Question::Flush { scope, .. } => scope.clone(),
            _ => Scope::default(),
        };
        let ask = Ask {
            of_bucket: Scope { tag: None, address: None, ..wanted.clone() },
            by_bucket: !wanted.fields().meets(Fields::OF_MESSAGE),
            wanted,
            question,
            after: None,
            coverage,
            at_least,
            counts: Counts::default(),
            in_flight_by_queue,
            rules,
            messages: Vec::new(),
            last: None,
            flushed: 0,
            until: now.instant.after(within),
            reply,
        };
        if full {
            // What is in flight or held has to be said whatever else is asked.
            return ask.answer_early();
        }
        self.asks.open.push_front(ask);
        // A short queue is answered for at once, and whoever wants to know soon does not wait for the others.
        if self.asks.open.len() == 1 || within <= Duration::from_millis(ASK_AT_ONCE_MILLIS) {
            self.answer_slice(ASK_ENTRIES_PER_TICK, now);
        } else {
            self.asks.open.rotate_left(1);
        }
    }

    /// How many entries are in the buckets that a scope covers as a whole. Entries count once, so there may be more
    /// recipients.
    fn in_whole_buckets(&self, scope: &Scope) -> u64 {
        if scope.fields().meets(Fields::OF_MESSAGE) {
            return 0;
        }
        let mut sum = 0;
        for destination in self.queue.destination_ids().into_iter().take(ASK_DESTINATIONS_AT_ONCE) {
            let (domain, _) = self.queue.destination(destination);
            if scope.domain.as_ref().is_some_and(|wanted| wanted != domain) {
                continue;
            }
            for &bucket in self.queue.buckets(destination) {
                let facts = Facts { bucket: self.facts_of(bucket), ..Facts::default() };
                sum += if scope.covers(&facts) { u64::from(self.queue.bucket_total(bucket)) } else { 0 };
            }
        }
        sum
    }

    /// Answers what may wait no longer, and looks at one slice for the question whose turn it is.
    pub(super) fn answer_some(&mut self, now: Now) {
        for _ in 0..self.asks.open.len() {
            let Some(ask) = self.asks.open.pop_front() else { break };
            if now.instant < ask.until {
                self.asks.open.push_back(ask);
            } else {
                ask.answer_early();
            }
        }
        self.answer_slice(ASK_ENTRIES_PER_TICK, now);
    }

    /// Whether questions are open. As long as the core has nothing else to do, they are answered sooner by
    /// [`Shard::answer_more`] than by what each tick does for them.
    #[must_use]
    pub fn has_questions(&self) -> bool {
        !self.asks.open.is_empty()
    }

    /// Looks at [`ASK_ENTRIES_PER_SLICE`] entries for the question whose turn it is. Whether questions are open.
    pub fn answer_more(&mut self, now: Now) -> bool {
        self.answer_slice(ASK_ENTRIES_PER_SLICE, now);
        self.has_questions()
    }

    /// One slice of the question whose turn it is.
    fn answer_slice(&mut self, entries: usize, now: Now) {
        let Some(mut ask) = self.asks.open.pop_front() else {
            return;
        };
        let from = ask.after.map_or(0, |id| id.0 as usize + 1);
        let slice: Vec<(EntryId, u64)> =
            self.queue.entries_after(ask.after, entries).map(|(id, entry)| (id, entry.place)).collect();
        let mut enough = false;
        for (id, place) in slice {
            // One that is made due is attended to, and with it what stands before it: that may be ended.
            if self.queue.entry_at(id, place).is_none() {
                continue;
            }
            enough |= self.consider(&mut ask, id, now);
            if enough {
                break;
            }
        }
        let reached = from + entries;
        let more = !enough && reached < self.queue.entry_id_bound();
        ask.coverage.counting = more;
        if more && now.instant < ask.until {
            ask.after = Some(EntryId(u32::try_from(reached - 1).expect("entry ids have 32 bits")));
            self.asks.open.push_back(ask);
            return;
        }
        ask.answer();
    }

    /// Whether nothing more is wanted.
    fn consider(&mut self, ask: &mut Ask, id: EntryId, now: Now) -> bool {
        let (queue, entry) = (&self.queue, self.queue.entry(id));
        let bucket = entry.bucket;
        if let Some(rules) = &mut ask.rules {
            if let Some(by) = queue.bucket_held(bucket) {
                rules.meet(&by.rule, entry);
            }
            return false;
        }
        let (domain, _) = queue.destination(queue.destination_of(bucket));
        let fits = || ask.of_bucket.covers(&Facts { bucket: self.facts_of(bucket), ..Facts::default() });
        let count = ask.counts.of(bucket, queue.bucket_name(bucket), domain, fits);
        let recipients = match (count.fits, ask.by_bucket) {
            (false, _) => return false,
            (true, true) => entry.recipients.len() as u64,
            (true, false) => self.covered(id, &ask.wanted, PathFacts::default()),
        };
        if recipients == 0 {
            return false;
        }
        // What waits for a retry or is with a session is not held, though its bucket is.
        let held = match entry.state {
            State::Held => true,
            State::Ready => queue.bucket_held(bucket).is_some(),
            State::Waiting | State::InFlight => false,
        };
        match &ask.question {
            Question::Covered { .. } => {
                count.matched += recipients;
                ask.coverage.matched += recipients;
                ask.coverage.held += if held { recipients } else { 0 };
                ask.coverage.first_expiry = earlier(ask.coverage.first_expiry, entry.expires);
            }
            Question::Messages { filter, limit } => {
                // Entries come in no order. Of a list in pages none may be left out, so each has the next by id.
                let limit = *limit;
                let comes_later = ask.last.is_some_and(|last| entry.envelope.id() > last);
                if !comes_later && self.passes(id, filter) {
                    ask.messages.push(self.view(id, now));
                    if ask.messages.len() >= limit.saturating_mul(2) {
                        ask.keep_first(limit);
                    }
                }
            }
            Question::Flush { .. } => {
                if entry.state == State::Waiting {
                    self.make_due(id, now);
                    ask.flushed += 1;
                }
            }
            Question::Queues => {
                count.total += 1;
                count.waiting += u64::from(entry.state == State::Waiting);
                count.held += u64::from(held);
                // As qshape does: 5 minutes, doubled nine times.
                let minutes = now.utc.since(entry.envelope.received()).as_secs() / 60;
                let age = (minutes / 5).checked_ilog2().map_or(0, |age| age as usize + 1);
                count.ages[age.min(9)] += 1;
            }
            _ => return true,
        }
        false
    }

    /// How many recipients of an entry a scope covers, given what is known of its attempt. Of queued mail that is
    /// nothing, and the scope must not name it (see [`of_queued`]).
    pub(super) fn covered(&self, id: EntryId, scope: &Scope, path: PathFacts<'_>) -> u64 {
        let entry = self.queue.entry(id);
        let facts = self.facts_of(entry.bucket);
        let tags = entry.envelope.extras().map_or(&[][..], |extras| &extras.tags);
        let covers = |recipient: &&u16| {
            let address = entry.envelope.recipient(usize::from(**recipient));
            let message = Some(MessageFacts { address, tags, tag_hashes: &[] });
            scope.covers(&Facts { bucket: facts, message, path })
        };
        entry.recipients.iter().filter(covers).count() as u64
    }

    /// Messages that `scope` covers, on the path that they take, whose end-of-data has left and is not answered, by
    /// scheduled queue.
    fn in_flight(&self, scope: &Scope) -> HashMap<Arc<str>, u64> {
        let mut by_queue = HashMap::new();
        for (_, session) in &self.sessions {
            for flight in session.flights.iter().filter(|flight| flight.end_of_data_sent) {
                let path = PathFacts {
                    source_ip: session.carrier.source_address,
                    path: Some(&self.sites.path(session.path).name),
                    remote_ip: session.carrier.peer.map(|peer| peer.ip()),
                };
                let queue = self.queue.bucket_name(self.queue.entry(flight.entry).bucket);
                *by_queue.entry(queue.clone()).or_default() += self.covered(flight.entry, scope, path);
            }
        }
        by_queue
    }

    fn views_of(&self, id: MessageId, now: Now) -> Vec<MessageView> {
        self.queue.of_message(id).map(|entry| self.view(entry, now)).collect()
    }

    fn view(&self, id: EntryId, now: Now) -> MessageView {
        let entry = self.queue.entry(id);
        MessageView {
            envelope: entry.envelope.clone(),
            location: entry.location(),
            recipients: entry.recipients.to_list(),
            queue: self.queue.bucket_name(entry.bucket).clone(),
            attempts: entry.attempts,
            expires: entry.expires,
            maybe_delivered: entry.maybe_delivered,
            waits: self.waits(id, now),
        }
    }

    fn waits(&self, id: EntryId, now: Now) -> Waits {
        let entry = self.queue.entry(id);
        match entry.state {
            State::InFlight => Waits::InFlight,
            State::Waiting => Waits::BackOff { until: entry.timer },
            State::Held => self.held_by(id, now),
            State::Ready => match self.queue.bucket_held(entry.bucket) {
                Some(by) => Waits::Rule { rule: Some(by.rule.clone()), until: by.until },
                None => match self.routes.get(self.queue.destination_of(entry.bucket)) {
                    Some(Route::Known { .. }) => Waits::Connection,
                    Some(Route::Resolving | Route::Unknown) | None => Waits::Resolution,
                },
            },
        }
    }

    /// What holds an entry on its own. The rules know at once, unless it is one over the attempt: only then are the
    /// lists of what each rule holds gone through, which may be long.
    fn held_by(&self, id: EntryId, now: Now) -> Waits {
        let entry = self.queue.entry(id);
        let tags = entry.envelope.extras().map_or(&[][..], |extras| &extras.tags);
        let bucket = self.facts_of(entry.bucket);
        for recipient in &*entry.recipients {
            let address = entry.envelope.recipient(usize::from(*recipient));
            let message = Some(MessageFacts { address, tags, tag_hashes: &[] });
            let facts = Facts { bucket, message, ..Facts::default() };
            if let Decision::Hold { rule, until } = self.rules.verdict(&facts, Moment::Attempt, now.utc).decision {
                return Waits::Rule { rule: Some(rule.id.clone()), until };
            }
        }
        let is_of_attempt = |rule: &Arc<str>| {
            self.rules.rule(rule).is_some_and(|rule| rule.scope.fields().meets(Fields::OF_PATH.with(Fields::POOL)))
        };
        let holding = self.held.iter().filter(|(rule, _)| is_of_attempt(rule));
        let rule = holding.into_iter().find(|(_, held)| held.entries.contains(&(id, entry.place)));
        Waits::Rule { rule: rule.map(|(rule, _)| rule.clone()), until: Timestamp::NEVER }
    }

    /// Whether an entry is what a filter asks for beside what [`scope_of`] makes of it.
    fn passes(&self, id: EntryId, filter: &MessageFilter) -> bool {
        let entry = self.queue.entry(id);
        let state = match entry.state {
            State::InFlight => "in_flight",
            State::Waiting => "waiting",
            State::Held => "held",
            State::Ready if self.queue.bucket_held(entry.bucket).is_some() => "held",
            State::Ready => "ready",
        };
        filter.state.as_deref().is_none_or(|wanted| wanted == state)
            && filter.after.is_none_or(|after| entry.envelope.id() > after)
    }

    fn retry(&mut self, id: MessageId, now: Now) -> u64 {
        let place = |entry| (entry, self.queue.entry(entry).place);
        let entries: Vec<(EntryId, u64)> = self.queue.of_message(id).map(place).collect();
        for &(entry, place) in &entries {
            // The ones before may have ended it.
            if self.queue.entry_at(entry, place).is_some() {
                self.make_due(entry, now);
            }
        }
        entries.len() as u64
    }

    fn make_due(&mut self, id: EntryId, now: Now) {
        if self.queue.entry(id).state == State::Waiting {
            self.queue.hasten(id);
            let destination = self.queue.destination_of(self.queue.entry(id).bucket);
            self.attend(destination, now);
        }
    }

    /// Ends what is not with a session; the rest may already have got through.
    fn cancel(&mut self, id: MessageId, by: &Arc<str>, now: Now) -> u64 {
        let entries: Vec<EntryId> =
            self.queue.of_message(id).filter(|entry| self.queue.entry(*entry).state != State::InFlight).collect();
        let response = Response {
            code: 550,
            enhanced: Some(EnhancedCode { class: 5, subject: 7, detail: 1 }),
            text: "cancelled by an administrator".into(),
            verb: Verb::None,
        };
        let mark = RuleMark { id: id.to_string().into(), kind: "cancel", by: by.clone() };
        for &entry in &entries {
            for _ in 0..self.queue.entry(entry).recipients.len() {
                self.counters.count_end(mark.kind);
            }
            self.end(entry, RecordType::Bounce, &response, Some(&mark), now);
        }
        entries.len() as u64
    }
}

fn scope_of(filter: &MessageFilter) -> Scope {
    Scope {
        domain: filter.domain.clone(),
        tag: filter.tag.clone(),
        campaign: filter.campaign.clone(),
        queues: filter.queue.iter().cloned().collect(),
        ..Scope::default()
    }
}

/// What belongs to an attempt (own and remote address, path) is not known of queued mail and counts as fitting.
fn of_queued(scope: &Scope) -> Scope {
    Scope { source_ip: None, remote_ip: None, path: None, ..scope.clone() }
}

impl Ask {
    /// Drops all messages but the first so many by id.
    fn keep_first(&mut self, limit: usize) {
        self.messages.sort_by_key(|view| view.envelope.id());
        self.messages.truncate(limit);
        self.last = self.messages.last().filter(|_| self.messages.len() == limit).map(|view| view.envelope.id());
    }

    /// With what is known so far.
    fn answer_early(mut self) {
        self.coverage.counting = true;
        self.answer();
    }

    fn answer(mut self) {
        let answer = match self.question {
            Question::Covered { .. } => {
                if self.coverage.counting {
                    self.coverage.matched = self.coverage.matched.max(self.at_least);
                }
                self.coverage.destinations = self.counts.by_domain(ASK_DESTINATIONS_MAX);
                self.coverage.queues = self.counts.by_queue(&self.in_flight_by_queue, ASK_DESTINATIONS_MAX);
                Answer::Covered(self.coverage)
            }
            Question::Messages { limit, .. } => {
                self.keep_first(limit);
                Answer::Messages(self.messages)
            }
            Question::RuleCounts(_) => {
                let complete = !self.coverage.counting;
                Answer::RuleCounts(self.rules.map(|rules| rules.finish(complete)).unwrap_or_default())
            }
            Question::Queues => Answer::Queues(self.counts.queues(ASK_DESTINATIONS_MAX)),
            _ => Answer::Count(self.flushed),
        };
        self.reply.send(answer);
    }
}
