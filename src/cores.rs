//! Asks the cores about the queue, and puts their answers together.

use crate::rules::preview::{Census, Counting, Matched, RuleCounts};
use mailrace_shards::event::{Answer, Coverage, MessageView, Order, Question, QueueView, ReplyTo, RuleCount};
use mailrace_shards::message::{Body, CoreId};
use mailrace_shards::rules::{Rule, Scope};
use mailrace_shards::runtime::control::Control;
use mailrace_shards::runtime::engine::{Monitor, Recovery};
use mailrace_shards::runtime::mailbox::Postbox;
use mailrace_shards::runtime::reply::reply;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// A core answers a question within 4.5 s with what it knows by then; what takes longer is stuck.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Destinations named in the answer to a dry run.
const DESTINATIONS: usize = 100;

/// Scheduled queues named in the answer to a bounce.
const QUEUES: usize = 1000;

/// The way to ask. Belongs to the control core.
#[derive(Clone)]
pub struct Cores {
    control: Control,
    postbox: Postbox,
    monitor: Monitor,
}

/// The answers of all cores.
pub struct Answers {
    /// In no particular order.
    pub answers: Vec<Answer>,
    /// Cores that did not answer in time, or were asked too much at once.
    pub missing: usize,
}

impl Cores {
    /// Over a running engine.
    #[must_use]
    pub fn new(control: Control, postbox: Postbox, monitor: Monitor) -> Self {
        Self { control, postbox, monitor }
    }

    /// Mail of earlier runs that is not in the queues yet: what the cores say of these is less than there is.
    #[must_use]
    pub fn recovery(&self) -> Option<Recovery> {
        self.monitor.recovery()
    }

    /// Asks every core the same.
    pub async fn ask(&self, question: Question) -> Answers {
        let cores = (0_u16..).map(CoreId).take(self.postbox.cores());
        let replies: Vec<_> = cores
            .map(|core| {
                let (replier, answer) = reply();
                let order =
                    Order::Ask { question: question.clone(), reply: ReplyTo::new(|answer| replier.say(answer)) };
                self.postbox.order(core, order);
                answer
            })
            .collect();
        let mut answers = Vec::with_capacity(replies.len());
        let mut missing = 0;
        for reply in replies {
            match reply.within(&self.control, ANSWER_WITHIN).await {
                Ok(Answer::Busy) | Err(_) => missing += 1,
                Ok(answer) => answers.push(answer),
            }
        }
        Answers { answers, missing }
    }

    /// The sum of what the cores count; and whether one did not answer.
    pub async fn count(&self, question: Question) -> (u64, bool) {
        let Answers { answers, missing } = self.ask(question).await;
        let counts = answers.into_iter().map(|answer| match answer {
            Answer::Count(count) => count,
            _ => 0,
        });
        (counts.sum(), missing > 0)
    }

    /// Waits until all mail that was on its way between cores is in its queue: whatever a caller has been told of is there
    /// then, in all its parts. False when some of it may not be.
    pub async fn all_arrived(&self) -> bool {
        let ask = |core| {
            let (replier, arrived) = reply();
            self.postbox.order(core, Order::Arrived { reply: ReplyTo::new(|()| replier.say(())) });
            arrived
        };
        let replies: Vec<_> = (0_u16..).map(CoreId).take(self.postbox.cores()).map(ask).collect();
        let mut all = true;
        for reply in replies {
            all &= reply.within(&self.control, ANSWER_WITHIN).await.is_ok();
        }
        all
    }

    /// How many queued recipients a scope covers.
    pub async fn covered(&self, scope: Scope) -> u64 {
        // Less than is waited for the answer.
        let question = Question::Covered { scope, within: ANSWER_WITHIN / 2 };
        let answers = self.ask(question).await.answers.into_iter().map(|answer| match answer {
            Answer::Covered(coverage) => coverage.matched,
            _ => 0,
        });
        answers.sum()
    }

    /// Messages, by id, `limit` at most; and whether a core did not answer.
    pub async fn messages(&self, question: Question, limit: usize) -> (Vec<MessageView>, bool) {
        let Answers { answers, missing } = self.ask(question).await;
        let views = answers.into_iter().filter_map(|answer| match answer {
            Answer::Messages(views) => Some(views),
            _ => None,
        });
        let mut views: Vec<MessageView> = views.flatten().collect();
        views.sort_by_key(|view| view.envelope.id());
        views.truncate(limit);
        (views, missing > 0)
    }

    /// The body of a message, read back from its spool.
    ///
    /// # Errors
    /// Why it cannot be read.
    pub async fn body(&self, view: &MessageView) -> Result<Body, String> {
        let (replier, body) = reply();
        let reply = ReplyTo::new(|body| replier.say(body));
        let order = Order::ReadBody { id: view.envelope.id(), location: view.location, reply };
        self.postbox.order(CoreId(0), order);
        body.within(&self.control, ANSWER_WITHIN).await.unwrap_or_else(|_| Err("not read in time".to_owned()))
    }

    /// Destinations, largest first, `limit` at most; and whether a core did not answer.
    pub async fn queues(&self, limit: usize) -> (Vec<QueueView>, bool) {
        let mut by_domain: HashMap<Arc<str>, QueueView> = HashMap::new();
        let Answers { answers, missing } = self.ask(Question::Queues).await;
        for answer in answers {
            let Answer::Queues(views) = answer else { continue };
            for view in views {
                match by_domain.get_mut(&view.domain) {
                    // A domain on several lanes.
                    Some(known) => add(known, &view),
                    None => drop(by_domain.insert(view.domain.clone(), view)),
                }
            }
        }
        let mut views: Vec<QueueView> = by_domain.into_values().collect();
        views.sort_by(|a, b| (b.total, &a.domain).cmp(&(a.total, &b.domain)));
        views.truncate(limit);
        (views, missing > 0)
    }
}

fn largest(counts: HashMap<Arc<str>, u64>, most: usize) -> Vec<(String, u64)> {
    let mut counts: Vec<(String, u64)> = counts.into_iter().map(|(name, count)| (name.to_string(), count)).collect();
    counts.sort_by(|a, b| (b.1, &a.0).cmp(&(a.1, &b.0)));
    counts.truncate(most);
    counts
}

fn add(to: &mut QueueView, view: &QueueView) {
    to.total += view.total;
    to.held += view.held;
    to.waiting += view.waiting;
    for (age, more) in to.ages.iter_mut().zip(view.ages) {
        *age += more;
    }
}

impl Census for Cores {
    fn matched<'a>(&'a self, rule: &'a Rule, within: Duration) -> Counting<'a, Matched> {
        Box::pin(async move {
            let question = Question::Covered { scope: rule.scope.clone(), within };
            let recovering = self.recovery().is_some();
            let Answers { answers, missing } = self.ask(question).await;
            let mut matched = Matched { counting: missing > 0 || recovering, ..Matched::default() };
            let mut destinations: HashMap<Arc<str>, u64> = HashMap::new();
            let mut by_queue: HashMap<Arc<str>, u64> = HashMap::new();
            for answer in answers {
                let Answer::Covered(coverage) = answer else { continue };
                let Coverage { matched: count, in_flight, held, first_expiry, destinations: of_core, queues, counting } =
                    coverage;
                matched.matched += count;
                matched.in_flight += in_flight;
                matched.held += held;
                matched.counting |= counting;
                matched.first_expiry = matched.first_expiry.into_iter().chain(first_expiry).min();
                for (domain, count) in of_core {
                    *destinations.entry(domain).or_default() += count;
                }
                for (queue, count) in queues {
                    *by_queue.entry(queue).or_default() += count;
                }
            }
            matched.destinations = largest(destinations, DESTINATIONS);
            matched.queues = largest(by_queue, QUEUES);
            matched
        })
    }

    fn rule_counts<'a>(&'a self, ids: &'a [Arc<str>]) -> Counting<'a, HashMap<Arc<str>, RuleCounts>> {
        Box::pin(async {
            let mut counts: HashMap<Arc<str>, RuleCounts> = HashMap::new();
            let mut by_queue: HashMap<Arc<str>, HashMap<Arc<str>, u64>> = HashMap::new();
            if ids.is_empty() {
                return counts;
            }
            for answer in self.ask(Question::RuleCounts(ids.to_vec())).await.answers {
                let Answer::RuleCounts(of_core) = answer else { continue };
                for RuleCount { rule, held, ended, ended_by_queue, first_expiry } in of_core {
                    let ended_of_rule = by_queue.entry(rule.clone()).or_default();
                    for (queue, count) in ended_by_queue {
                        *ended_of_rule.entry(queue).or_default() += count;
                    }
                    let sum = counts.entry(rule).or_default();
                    sum.held += held;
                    sum.ended += ended;
                    sum.first_expiry = sum.first_expiry.into_iter().chain(first_expiry).min();
                }
            }
            for (rule, queues) in by_queue {
                let mut queues: Vec<(String, u64)> =
                    queues.into_iter().map(|(queue, count)| (queue.to_string(), count)).collect();
                queues.sort_unstable();
                counts.entry(rule).or_default().ended_by_queue = queues;
            }
            counts
        })
    }
}
