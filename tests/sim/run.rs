//! Runs of seeds: one life after the other until all mail is at its end, and the tests that do so.

use crate::core::Core;
use crate::found::Found;
use crate::plan::SECOND;
use crate::report::Report;
use crate::world::{Event, World};
use std::io::Write as _;
use std::panic::AssertUnwindSafe;

/// How long after the last fault all mail must be at its end: a session that waits for an answer to its end-of-data,
/// a path that is left alone, a retry.
const DRAINED_WITHIN: u64 = 1_500 * SECOND;

/// What a seed brought.
pub struct Ran {
    pub report: Report,
    pub digest: u64,
    pub failure: Option<String>,
}

impl World {
    pub fn watch(&mut self) {
        self.oracle.check_expiries(self.time);
        self.oracle.check_endings(self.time);
        self.after(SECOND, Event::Watch);
    }

    /// Plays the seed to its end.
    fn play(&mut self) {
        let active = self.plan.active;
        self.run_until(active);
        self.make_good();
        loop {
            self.drain();
            if self.oracle.has_failed() {
                return;
            }
            self.oracle.check_all_ended();
            let (life, quiet) = (self.life, self.time + SECOND);
            self.run_until(quiet);
            // A disk that was about to stop may have done so only now: then what the end of that life left is finished.
            if self.life == life {
                break;
            }
        }
        self.check_nothing_rises();
    }

    /// Until all mail is at its end and nothing is on its way, or the time for that is over.
    fn drain(&mut self) {
        let end = self.time + DRAINED_WITHIN;
        while self.time < end && !self.oracle.has_failed() {
            let next = self.time + SECOND;
            self.run_until(next);
            if self.oracle.open() == 0 && self.is_settled() {
                break;
            }
        }
    }

    /// Whether nothing is on its way any more.
    fn is_settled(&self) -> bool {
        let is_empty = |core: &Core| {
            let counts = core.shard.queue().counts();
            let is_over = counts.ready + counts.waiting + counts.held + counts.in_flight == 0;
            // A core that stands still has not heard yet of what others ended.
            is_over && core.mail.is_empty() && core.orders.is_empty()
        };
        let found = self.spools.values().all(|spool| matches!(spool.found, Found::Posted));
        found && !self.cores.is_empty() && self.injections.is_empty() && self.cores.iter().all(is_empty)
    }

    /// All is at its end and settled: even a crash that loses all that is not synced brings nothing back.
    fn check_nothing_rises(&mut self) {
        for (number, spool) in &self.spools {
            let open = spool.journal.as_ref().map_or(0, |journal| journal.ledger().open_messages());
            if open > 0 && !self.oracle.has_damage() {
                let what = format!("spool {number} still holds {open} messages although all are at their end");
                return self.oracle.fail(what);
            }
        }
    }

    fn summary(&self) -> Report {
        let mut report = self.report.clone();
        report.seeds = 1;
        report.micros = self.time;
        report.lives = u64::from(self.life);
        self.oracle.sum_up(&mut report);
        report
    }
}

/// Plays one seed.
pub fn play(seed: u64) -> Ran {
    let mut world = World::new(seed);
    let panic = std::panic::catch_unwind(AssertUnwindSafe(|| world.play())).err();
    let panic = panic.map(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        format!("panic: {}", text.unwrap_or_default())
    });
    let failure = panic.or_else(|| world.oracle.failure().map(str::to_owned));
    let failure = failure.map(|what| format!("at {} s: {what}", world.time as f64 / 1e6));
    Ran { report: world.summary(), digest: world.digest(), failure }
}

/// Plays seeds from `first` on while `more` says so, and says what they did: all of it when `whole`.
fn play_many(first: u64, whole: bool, mut more: impl FnMut(u64) -> bool) -> Report {
    let mut sum = Report::default();
    let mut seed = first;
    let mut failed = Vec::new();
    while more(seed) {
        let ran = play(seed);
        if let Some(failure) = ran.failure {
            let _ = writeln!(std::io::stderr(), "MAILRACE_SIM_SEED={seed}: {failure}");
            failed.push(seed);
            if failed.len() >= 10 || number("MAILRACE_SIM_STOP").is_some() {
                break;
            }
        }
        sum.merge(&ran.report);
        seed += 1;
    }
    // Straight to the terminal: what a run has covered is to be seen when it succeeds, too.
    let all = sum.text();
    let shown = if whole { all.as_str() } else { all.lines().next().unwrap_or_default() };
    let _ = writeln!(std::io::stderr(), "seeds {first} to {}: {shown}", seed - 1);
    assert!(failed.is_empty(), "seeds {failed:?} failed; replay one with MAILRACE_SIM_SEED=n");
    sum
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

/// How many seeds the short run plays.
const SHORT_SEEDS: u64 = 250;

#[test]
fn seeds() {
    if let Some(seed) = number("MAILRACE_SIM_SEED") {
        play_many(seed, true, |next| next == seed);
        return;
    }
    let first = number("MAILRACE_SIM_FIRST").unwrap_or(1);
    if let Some(seconds) = number("MAILRACE_SIM_SECONDS") {
        #[expect(clippy::disallowed_methods, reason = "the length of the long run is real time")]
        let begun = std::time::Instant::now();
        play_many(first, true, |_| begun.elapsed().as_secs() < seconds);
        return;
    }
    let seeds = number("MAILRACE_SIM_SEEDS");
    let sum = play_many(first, seeds.is_some(), |seed| seed < first + seeds.unwrap_or(SHORT_SEEDS));
    assert!(sum.deliveries > 100 && sum.faults_injected() > 100 && sum.lives > sum.seeds, "the world does something");
}

#[test]
fn a_seed_replays_exactly() {
    for seed in 1..30 {
        let (first, second) = (play(seed), play(seed));
        assert_eq!(first.digest, second.digest, "seed {seed}");
        assert_eq!(first.report.text(), second.report.text(), "seed {seed}");
    }
}
