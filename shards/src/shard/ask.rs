//! Questions of the control side about the queue, answered in slices: a tick looks at a bounded number of
//! entries, so a question over a million messages delays nobody. Nothing here changes a message, except for
//! the two commands by message id (`Retry`, `Cancel`) and `Flush`, which are questions with an effect.

use super::Shard;
use super::site::Route;
use crate::event::{Answer, Coverage, MessageFilter, MessageView, Question, QueueView, ReplyTo, RuleCount, Waits};
use crate::limits::{ASK_DESTINATIONS_MAX, ASK_ENTRIES_PER_TICK, ASK_MILLIS, ASKS_MAX};
use crate::message::MessageId;
use crate::outcome::{EnhancedCode, RecordType, Response, RuleMark, Verb};
use crate::queue::{Entry, EntryId, NextHop, State};
use crate::rules::{BucketFacts, Facts, MessageFacts, PathFacts, Scope};
use crate::time::{Instant, Now, Timestamp};
use hashbrown::HashMap;
use std::cmp::Reverse;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// A question that is being answered.
#[derive(Debug)]
struct Ask {
    question: Question,
    after: Option<EntryId>,
    coverage: Coverage,
    by_destination: HashMap<Arc<str>, u64>,
    queues: HashMap<Arc<str>, QueueView>,
    messages: Vec<MessageView>,
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
            Question::Message(id) => Answer::Messages(self.views_of(*id)),
            Question::Retry(id) => Answer::Count(self.retry(*id, now)),
            Question::Cancel { id, by } => Answer::Count(self.cancel(*id, by, now)),
            Question::RuleCounts(ids) => Answer::RuleCounts(ids.iter().map(|id| self.rule_count(id)).collect()),
            Question::Covered(_)
            | Question::CoveredAtOnce(_)
            | Question::Messages { .. }
            | Question::Flush(_)
            | Question::Queues => return self.begin_walk(question, reply, now),
        };
        reply.send(answer);
    }

    fn begin_walk(&mut self, mut question: Question, reply: ReplyTo<Answer>, now: Now) {
        let at_once = matches!(question, Question::CoveredAtOnce(_));
        if !at_once && self.asks.open.len() >= ASKS_MAX {
            return reply.send(Answer::Busy);
        }
        let mut coverage = Coverage::default();
        if let Question::Covered(scope) | Question::CoveredAtOnce(scope) | Question::Flush(scope) = &mut question {
            coverage.in_flight = self.in_flight(scope);
            without_attempt(scope);
        }
        let mut ask = Ask {
            question,
            after: None,
            coverage,
            by_destination: HashMap::new(),
            queues: HashMap::new(),
            messages: Vec::new(),
            flushed: 0,
            until: now.instant.after(Duration::from_millis(ASK_MILLIS)),
            reply,
        };
        if at_once {
            // Whoever made a rule waits for this answer: it takes no turn behind questions over the whole queue.
            self.look(&mut ask, now);
            return ask.answer();
        }
        self.asks.open.push_back(ask);
        if self.asks.open.len() == 1 {
            // A short queue is answered for at once.
            self.answer_slice(now);
        }
    }

    /// One slice of the oldest question.
    pub(super) fn answer_slice(&mut self, now: Now) {
        let Some(mut ask) = self.asks.open.pop_front() else {
            return;
        };
        if self.look(&mut ask, now) && now.instant < ask.until {
            self.asks.open.push_front(ask);
            return;
        }
        ask.answer();
    }

    /// Looks at the next entries for a question; whether there are more.
    fn look(&mut self, ask: &mut Ask, now: Now) -> bool {
        let from = ask.after.map_or(0, |id| id.0 as usize + 1);
        let ids: Vec<EntryId> = self.queue.entries_after(ask.after, ASK_ENTRIES_PER_TICK).map(|(id, _)| id).collect();
        let mut enough = false;
        for id in ids {
            enough |= self.consider(ask, id, now);
            if enough {
                break;
            }
        }
        let reached = from + ASK_ENTRIES_PER_TICK;
        let more = !enough && reached < self.queue.entry_id_bound();
        ask.coverage.counting = more;
        if more {
            ask.after = Some(EntryId(u32::try_from(reached - 1).expect("entry ids have 32 bits")));
        }
        more
    }

    /// Whether nothing more is wanted.
    fn consider(&mut self, ask: &mut Ask, id: EntryId, now: Now) -> bool {
        match &ask.question {
            Question::Covered(scope) | Question::CoveredAtOnce(scope) => {
                let recipients = self.covered(id, scope, PathFacts::default());
                if recipients > 0 {
                    let entry = self.queue.entry(id);
                    let held = entry.state == State::Held || self.queue.bucket_held(entry.bucket).is_some();
                    ask.coverage.matched += recipients;
                    ask.coverage.held += if held { recipients } else { 0 };
                    ask.coverage.first_expiry =
                        Some(ask.coverage.first_expiry.map_or(entry.expires, |at| at.min(entry.expires)));
                    let (domain, _) = self.queue.destination(self.queue.destination_of(entry.bucket));
                    *ask.by_destination.entry(domain.clone()).or_default() += recipients;
                }
                false
            }
            Question::Messages { filter, limit } => {
                if self.passes(id, filter) {
                    ask.messages.push(self.view(id));
                }
                ask.messages.len() >= *limit
            }
            Question::Flush(scope) => {
                if self.queue.entry(id).state == State::Waiting && self.covered(id, scope, PathFacts::default()) > 0 {
                    self.make_due(id, now);
                    ask.flushed += 1;
                }
                false
            }
            Question::Queues => {
                self.count_in(&mut ask.queues, id, now);
                false
            }
            _ => true,
        }
    }

    fn count_in(&self, queues: &mut HashMap<Arc<str>, QueueView>, id: EntryId, now: Now) {
        let entry = self.queue.entry(id);
        let (domain, _) = self.queue.destination(self.queue.destination_of(entry.bucket));
        let view = queues.entry_ref(&**domain).or_insert_with(|| QueueView {
            domain: domain.clone(),
            total: 0,
            held: 0,
            waiting: 0,
            ages: [0; 10],
        });
        view.total += 1;
        view.waiting += u64::from(entry.state == State::Waiting);
        view.held += u64::from(entry.state == State::Held || self.queue.bucket_held(entry.bucket).is_some());
        // As qshape does: 5 minutes, doubled nine times.
        let minutes = now.utc.since(entry.envelope.received()).as_secs() / 60;
        let age = (minutes / 5).checked_ilog2().map_or(0, |age| age as usize + 1);
        view.ages[age.min(9)] += 1;
    }

    /// How many recipients of an entry a scope covers, given what is known of its attempt. Of queued mail that is
    /// nothing, and the scope must not name it (see [`without_attempt`]).
    fn covered(&self, id: EntryId, scope: &Scope, path: PathFacts<'_>) -> u64 {
        let entry = self.queue.entry(id);
        let facts = self.bucket_facts(entry);
        let tags = entry.envelope.extras().map_or(&[][..], |extras| &extras.tags);
        let covers = |recipient: &&u16| {
            let address = entry.envelope.recipient(usize::from(**recipient));
            let message = Some(MessageFacts { address, tags });
            scope.covers(&Facts { bucket: facts, message, path })
        };
        entry.recipients.iter().filter(covers).count() as u64
    }

    /// What is known of all messages of an entry's bucket.
    fn bucket_facts(&self, entry: &Entry) -> BucketFacts<'_> {
        let key = self.queue.bucket_key(entry.bucket);
        let (domain, next_hop) = self.queue.destination(self.queue.destination_of(entry.bucket));
        let pool = self.buckets.get(entry.bucket).and_then(|state| state.eligible.pool.as_deref());
        BucketFacts {
            domain,
            routing_domain: match next_hop {
                NextHop::Domain(domain) => Some(domain),
                NextHop::Recipient | NextHop::Host(_) => None,
            },
            campaign: key.campaign.as_deref(),
            tenant: key.tenant.as_deref(),
            pool: pool.or(key.pool.as_deref()),
            queue: self.queue.bucket_name(entry.bucket),
        }
    }

    /// Messages that `scope` covers, on the path that they take, whose end-of-data has left and is not answered.
    fn in_flight(&self, scope: &Scope) -> u64 {
        let mut count = 0;
        for (_, session) in &self.sessions {
            for flight in session.flights.iter().filter(|flight| flight.end_of_data_sent) {
                let path = PathFacts {
                    source_ip: session.carrier.source_address,
                    path: Some(&self.sites.path(session.path).name),
                    remote_ip: session.carrier.peer.map(|peer| peer.ip()),
                };
                count += self.covered(flight.entry, scope, path);
            }
        }
        count
    }

    fn views_of(&self, id: MessageId) -> Vec<MessageView> {
        self.queue.of_message(id).map(|entry| self.view(entry)).collect()
    }

    fn view(&self, id: EntryId) -> MessageView {
        let entry = self.queue.entry(id);
        MessageView {
            envelope: entry.envelope.clone(),
            location: entry.location,
            recipients: entry.recipients.clone(),
            queue: self.queue.bucket_name(entry.bucket).clone(),
            attempts: entry.attempts,
            expires: entry.expires,
            maybe_delivered: entry.maybe_delivered,
            waits: self.waits(id),
        }
    }

    fn waits(&self, id: EntryId) -> Waits {
        let entry = self.queue.entry(id);
        match entry.state {
            State::InFlight => Waits::InFlight,
            State::Waiting => Waits::BackOff { until: entry.timer },
            State::Held => {
                let holds = |held: &super::sweep::Held| held.entries.contains(&(id, entry.place));
                let rule = self.held.iter().find(|(_, held)| holds(held)).map(|(rule, _)| rule.clone());
                Waits::Rule { rule, until: Timestamp::NEVER }
            }
            State::Ready => match self.queue.bucket_held(entry.bucket) {
                Some(by) => Waits::Rule { rule: Some(by.rule.clone()), until: by.until },
                None => match self.routes.get(self.queue.destination_of(entry.bucket)) {
                    Some(Route::Known { .. }) => Waits::Connection,
                    Some(Route::Resolving | Route::Unknown) | None => Waits::Resolution,
                },
            },
        }
    }

    fn passes(&self, id: EntryId, filter: &MessageFilter) -> bool {
        let entry = self.queue.entry(id);
        let state = match self.waits(id) {
            Waits::InFlight => "in_flight",
            Waits::BackOff { .. } => "waiting",
            Waits::Rule { .. } => "held",
            Waits::Connection | Waits::Resolution => "ready",
        };
        let scope = Scope {
            domain: filter.domain.clone(),
            tag: filter.tag.clone(),
            campaign: filter.campaign.clone(),
            queues: filter.queue.iter().cloned().collect(),
            ..Scope::default()
        };
        filter.state.as_deref().is_none_or(|wanted| wanted == state)
            && filter.after.is_none_or(|after| entry.envelope.id() > after)
            && self.covered(id, &scope, PathFacts::default()) > 0
    }

    fn retry(&mut self, id: MessageId, now: Now) -> u64 {
        let entries: Vec<EntryId> = self.queue.of_message(id).collect();
        for &entry in &entries {
            self.make_due(entry, now);
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
            self.counters.ended_by_rule += 1;
            self.end(entry, RecordType::Bounce, &response, Some(&mark), now);
        }
        entries.len() as u64
    }

    fn rule_count(&self, id: &Arc<str>) -> RuleCount {
        let mut count = RuleCount { rule: id.clone(), ..RuleCount::default() };
        if let Some(held) = self.held.get(id) {
            let buckets =
                held.buckets.iter().filter(|bucket| self.queue.bucket_held(**bucket).is_some_and(|by| by.rule == *id));
            count.held = buckets.map(|bucket| u64::from(self.queue.bucket_total(*bucket))).sum();
            let entries = held.entries.iter().filter_map(|(entry, place)| self.queue.entry_at(*entry, *place));
            for entry in entries.filter(|entry| entry.state == State::Held) {
                count.held += 1;
                count.first_expiry = Some(count.first_expiry.map_or(entry.expires, |at| at.min(entry.expires)));
            }
        }
        if let Some(ended) = self.ended.get(id) {
            count.ended = ended.values().sum();
            count.ended_by_queue = ended.iter().map(|(queue, count)| (queue.clone(), *count)).collect();
        }
        count
    }
}

/// What belongs to an attempt (own and remote address, path) is not known of queued mail and counts as fitting.
fn without_attempt(scope: &mut Scope) {
    (scope.source_ip, scope.remote_ip, scope.path) = (None, None, None);
}

impl Ask {
    fn answer(mut self) {
        let answer = match self.question {
            Question::Covered(_) | Question::CoveredAtOnce(_) => {
                let mut destinations: Vec<(Arc<str>, u64)> = self.by_destination.into_iter().collect();
                destinations.sort_unstable_by_key(|(_, count)| Reverse(*count));
                destinations.truncate(ASK_DESTINATIONS_MAX);
                self.coverage.destinations = destinations;
                Answer::Covered(self.coverage)
            }
            Question::Messages { .. } => Answer::Messages(self.messages),
            Question::Queues => {
                let mut queues: Vec<QueueView> = self.queues.into_values().collect();
                queues.sort_unstable_by_key(|view| Reverse(view.total));
                queues.truncate(ASK_DESTINATIONS_MAX);
                Answer::Queues(queues)
            }
            _ => Answer::Count(self.flushed),
        };
        self.reply.send(answer);
    }
}
