//! What only the cores know of a rule: how much it covers, holds and has ended. Asked through [`Census`], so that
//! the API needs no engine to be tested.

use crate::json::Json;
use mailrace_shards::rules::Rule;
use mailrace_shards::time::Timestamp;
use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

/// Something that the cores are asked for.
pub type Counting<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// The mail that a rule covers, or would cover.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Matched {
    /// Recipients in queues that it covers.
    pub matched: u64,
    /// Of these, those whose end of data had left already: they may get through.
    pub in_flight: u64,
    /// Of these, those that some rule holds now.
    pub held: u64,
    /// When the first of them expires.
    pub first_expiry: Option<Timestamp>,
    /// Most of them by recipient domain, largest first, 100 at most.
    pub destinations: Vec<(String, u64)>,
    /// Most of them, without those in flight, by scheduled queue, largest first, 1,000 at most.
    pub queues: Vec<(String, u64)>,
    /// Counting has not ended: all figures are lower bounds.
    pub counting: bool,
}

/// What a rule in force has done and does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuleCounts {
    /// Recipients that it holds.
    pub held: u64,
    /// Recipients that it has ended.
    pub ended: u64,
    /// When the first that it holds expires.
    pub first_expiry: Option<Timestamp>,
    /// Those ended, by scheduled queue, sorted.
    pub ended_by_queue: Vec<(String, u64)>,
}

/// Asks the cores. Every answer comes within a bound of time (5 s), with what is known by then.
pub trait Census {
    /// How much a rule covers: one that is in force, or one that is only thought of. What is known after `within` is
    /// the answer; for a rule over whole queues that is much even after no time at all.
    fn matched<'a>(&'a self, rule: &'a Rule, within: Duration) -> Counting<'a, Matched>;

    /// What rules have done; those of which nothing is known are left out.
    fn rule_counts<'a>(&'a self, ids: &'a [Arc<str>]) -> Counting<'a, HashMap<Arc<str>, RuleCounts>>;
}

impl RuleCounts {
    /// Adds what was ended before this start, by queue, each once.
    pub fn add_before(&mut self, before: &[(String, u64)]) {
        for (queue, count) in before {
            self.ended += count;
            match self.ended_by_queue.binary_search_by(|(known, _)| known.cmp(queue)) {
                Ok(at) => self.ended_by_queue[at].1 += count,
                Err(at) => self.ended_by_queue.insert(at, (queue.clone(), *count)),
            }
        }
    }
}

impl Matched {
    /// The answer to a dry run.
    #[must_use]
    pub fn to_json(&self) -> Json {
        let destination = |(domain, count): &(String, u64)| {
            Json::object([("domain", Some(domain.as_str().into())), ("count", Some((*count).into()))])
        };
        Json::object([
            ("dry_run", Some(true.into())),
            ("matched", Some(self.matched.into())),
            ("in_flight", Some(self.in_flight.into())),
            ("held", Some(self.held.into())),
            ("first_expiry", self.first_expiry.map(|at| super::entry::rfc3339(at).into())),
            ("destinations", Some(Json::Array(self.destinations.iter().map(destination).collect()))),
            ("counting", Some(self.counting.into())),
        ])
    }
}
