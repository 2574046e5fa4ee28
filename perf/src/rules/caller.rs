//! An open loop of API calls: call *i* is due at *i/rate* seconds, whatever became of those before it.
//!
//! A wait runs from the moment at which the call was due, so that an engine that stalls is charged for every call that
//! had to wait meanwhile ("coordinated omission" is corrected by never having been made).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle, sleep};
use std::time::Duration;

use serde::Serialize;

use super::http::{Api, Client};
use super::mix::{Change, Mix};
use crate::clock::now_ns;
use crate::latency::{Latency, LatencySummary};
use crate::stop;

/// Calls that may be under way at once, each on a connection of its own.
const CALLERS: usize = 32;
/// Longest sleep between two looks at the stop flag.
const LOOK: Duration = Duration::from_millis(50);
/// Different failures that are kept in words.
const MAX_FAILURES: usize = 10;

/// One call that was answered with 200.
#[derive(Clone, Copy, Debug)]
struct Call {
    due_ns: u64,
    wait_ns: u64,
    change: Change,
}

/// What the calls of one stretch of time took.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Waits {
    /// From due to answered, of rules made, ms.
    pub post_ms: Option<LatencySummary>,
    /// The same of rules removed.
    pub delete_ms: Option<LatencySummary>,
    /// Calls answered with 200.
    pub calls: u64,
    /// Calls that were not, over the whole run of the loop, by what was said.
    pub failures: BTreeMap<String, u64>,
}

impl Waits {
    /// One line for the operator, and one for each failure.
    pub fn print(&self, title: &str) {
        let text = |summary: Option<LatencySummary>| match summary {
            Some(LatencySummary { p50, p99, max, .. }) => format!("{p50:.2}/{p99:.2}/{max:.1}"),
            None => "none".to_owned(),
        };
        let (post, delete) = (text(self.post_ms), text(self.delete_ms));
        println!("{title}: {} calls, p50/p99/max ms: POST {post}, DELETE {delete}", self.calls);
        for (failure, count) in &self.failures {
            eprintln!("mailrace-perf: {title}: {count} times: {failure}");
        }
    }
}

/// The loop, running.
pub struct Caller {
    ended: Arc<AtomicBool>,
    threads: Vec<JoinHandle<(Vec<Call>, Vec<String>)>>,
}

impl Caller {
    /// Begins to make `rate` calls a second. `label` sets its rules apart from those of other loops on one engine.
    pub fn start(api: &Api, label: &str, rate: f64) -> Caller {
        Caller::start_mix(std::slice::from_ref(api), Mix::new(label), rate)
    }

    /// The same with rules of a whole cluster, each call by the engine whose turn it is.
    pub fn start_shared(apis: &[Api], label: &str, rate: f64) -> Caller {
        Caller::start_mix(apis, Mix::shared(label), rate)
    }

    fn start_mix(apis: &[Api], mix: Mix, rate: f64) -> Caller {
        let ended = Arc::new(AtomicBool::new(false));
        let mix = Arc::new(mix);
        let next = Arc::new(AtomicU64::new(0));
        let first_ns = now_ns();
        let caller = || {
            let (mix, next, ended) = (Arc::clone(&mix), Arc::clone(&next), Arc::clone(&ended));
            let mut clients: Vec<Client> = apis.iter().cloned().map(Client::new).collect();
            thread::spawn(move || {
                let mut done = Vec::new();
                let mut failed = Vec::new();
                loop {
                    let number = next.fetch_add(1, Ordering::SeqCst);
                    let due_ns = first_ns + (number as f64 / rate * 1e9) as u64;
                    if !sleep_until(due_ns, &ended) {
                        return (done, failed);
                    }
                    let engine = number as usize % clients.len();
                    match mix.call(number, &mut clients[engine]) {
                        Ok(change) => done.push(Call { due_ns, wait_ns: now_ns().saturating_sub(due_ns), change }),
                        Err(failure) => failed.push(failure.to_string()),
                    }
                }
            })
        };
        let threads = (0..CALLERS).map(|_| caller()).collect();
        Caller { ended, threads }
    }

    /// Ends the loop; what the calls took that were due within one of `windows` (all, when there is none).
    pub fn finish(self, windows: &[(u64, u64)]) -> Waits {
        self.ended.store(true, Ordering::SeqCst);
        let (mut post, mut delete) = (Latency::new(), Latency::new());
        let mut waits = Waits::default();
        for thread in self.threads {
            let (done, failed) = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            for failure in failed {
                if waits.failures.len() < MAX_FAILURES || waits.failures.contains_key(&failure) {
                    *waits.failures.entry(failure).or_default() += 1;
                }
            }
            let within = |call: &&Call| {
                windows.is_empty() || windows.iter().any(|(from, until)| (*from..*until).contains(&call.due_ns))
            };
            for call in done.iter().filter(within) {
                waits.calls += 1;
                match call.change {
                    Change::Post => post.record_ns(call.wait_ns),
                    Change::Delete => delete.record_ns(call.wait_ns),
                }
            }
        }
        (waits.post_ms, waits.delete_ms) = (post.summary(), delete.summary());
        waits
    }
}

/// Whether the moment came before the end was asked for.
fn sleep_until(due_ns: u64, ended: &AtomicBool) -> bool {
    loop {
        if ended.load(Ordering::SeqCst) || stop::requested() {
            return false;
        }
        match due_ns.saturating_sub(now_ns()) {
            0 => return true,
            left_ns => sleep(Duration::from_nanos(left_ns).min(LOOK)),
        }
    }
}
