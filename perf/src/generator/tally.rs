//! What a generator did: which numbers were accepted, what was refused, how long answers took.
//!
//! Each number ends in exactly one of: accepted, refused, unsent, uncertain.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

use crate::clock::{now_ns, seconds_between};
use crate::latency::{Latency, LatencySummary};
use crate::numbers::NumberSet;
use crate::timeline::Timeline;

/// The result of one generator run.
pub struct Tally {
    /// Numbers answered with 250 at the end of data.
    pub accepted: NumberSet,
    /// Messages refused, by reply code.
    pub refused: BTreeMap<u16, u64>,
    /// Messages whose connection broke before their end of data was sent.
    pub unsent: u64,
    /// Messages whose connection broke after that: they may have been accepted.
    pub uncertain: u64,
    /// Connections opened.
    pub connections: u64,
    /// Connections that broke or timed out, by reason.
    pub failures: BTreeMap<&'static str, u64>,
    /// From the end of data (open loop: from the moment the message was due) to the 250.
    pub latency: Latency,
    /// When the first message was begun.
    pub first_ns: u64,
    /// When the newest 250 came.
    pub last_ns: u64,
    /// CPU time of the generator's thread, set when it ends.
    pub cpu_ns: u64,
    /// Acceptances over time.
    pub timeline: Timeline,
    live: Arc<Live>,
}

/// What can be seen of a generator while it runs.
#[derive(Debug, Default)]
pub struct Live {
    accepted: AtomicU64,
    p50_us: AtomicU64,
    p99_us: AtomicU64,
}

impl Live {
    /// Messages accepted.
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Median and 99th percentile of the wait in the last slice of time, ms; zero before there is one.
    pub fn waits_ms(&self) -> (f64, f64) {
        let ms = |value: &AtomicU64| value.load(Ordering::Relaxed) as f64 / 1e3;
        (ms(&self.p50_us), ms(&self.p99_us))
    }
}

/// The figures of a run, for printing.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// Messages accepted.
    pub accepted: u32,
    /// Accepted messages a second, from the first message's beginning to the last 250.
    pub accepted_per_second: f64,
    /// Messages refused, by reply code.
    pub refused: BTreeMap<u16, u64>,
    /// Not sent because the connection broke.
    pub unsent: u64,
    /// Sent, not answered.
    pub uncertain: u64,
    /// Connections opened.
    pub connections: u64,
    /// Connections that broke, by reason.
    pub failures: BTreeMap<&'static str, u64>,
    /// End of data to 250.
    pub latency_ms: Option<LatencySummary>,
}

impl Tally {
    /// Nothing done yet; `live` is shared with whoever shows it.
    pub fn new(messages: u32, live: Arc<Live>) -> Tally {
        Tally {
            accepted: NumberSet::new(messages),
            refused: BTreeMap::new(),
            unsent: 0,
            uncertain: 0,
            connections: 0,
            failures: BTreeMap::new(),
            latency: Latency::new(),
            first_ns: 0,
            last_ns: 0,
            cpu_ns: 0,
            timeline: Timeline::new(),
            live,
        }
    }

    /// Message `number` was answered with 2xx at its end of data.
    pub fn accept(&mut self, number: u32, since_ns: u64) {
        let new = self.accepted.insert(number);
        assert_eq!(new, Some(true), "message {number} was accepted twice: the generator used a number twice");
        self.last_ns = now_ns();
        let wait_ns = self.last_ns.saturating_sub(since_ns);
        self.latency.record_ns(wait_ns);
        self.live.accepted.fetch_add(1, Ordering::Relaxed);
        if self.timeline.record(self.last_ns, wait_ns)
            && let Some((p50, p99)) = self.timeline.newest()
        {
            self.live.p50_us.store((p50 * 1e3) as u64, Ordering::Relaxed);
            self.live.p99_us.store((p99 * 1e3) as u64, Ordering::Relaxed);
        }
    }

    /// A message was refused.
    pub fn refuse(&mut self, code: u16) {
        *self.refused.entry(code).or_default() += 1;
    }

    /// A connection ended before its time.
    pub fn fail(&mut self, reason: &'static str) {
        *self.failures.entry(reason).or_default() += 1;
    }

    /// The figures.
    pub fn summary(&self) -> Summary {
        let seconds = seconds_between(self.first_ns, self.last_ns);
        Summary {
            accepted: self.accepted.count(),
            accepted_per_second: if seconds > 0.0 { f64::from(self.accepted.count()) / seconds } else { 0.0 },
            refused: self.refused.clone(),
            unsent: self.unsent,
            uncertain: self.uncertain,
            connections: self.connections,
            failures: self.failures.clone(),
            latency_ms: self.latency.summary(),
        }
    }
}
