//! Judges one mutant: runs the tests that meet it, the quick ones first, until one fails.

use crate::tests::{Ending, Test, run};
use std::collections::HashMap;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

/// Tests of one program share a process up to this sum: less than a start costs beside it, and little is wasted when the
/// first of them fails.
const TOGETHER: Duration = Duration::from_millis(150);

/// What it costs to start a program.
const START: Duration = Duration::from_millis(10);

/// How often a test has caught mutants of a file: it is tried first for the next one.
pub type Catches = HashMap<(String, String), u32>;

/// What a unit test of the file itself is trusted with before it has caught anything.
const TRUST_OF_NEIGHBOURS: u32 = 2;

/// What became of a mutant, in the words of cargo-mutants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    Caught,
    Timeout,
    Missed,
    /// None of the tests fails that the passes so far have run; the slower ones were not run yet.
    Open,
}

/// Which of the tests are run, by what they take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pass {
    /// They take more: an earlier pass has run the others.
    pub above: Option<Duration>,
    pub up_to: Duration,
}

/// A quick test takes no longer.
pub const QUICK: Duration = Duration::from_millis(300);

impl Pass {
    fn takes(self, test: &Test) -> bool {
        test.takes <= self.up_to && self.above.is_none_or(|above| test.takes > above)
    }
}

impl Verdict {
    pub fn word(self) -> &'static str {
        match self {
            Self::Caught => "caught",
            Self::Timeout => "timeout",
            Self::Missed => "missed",
            Self::Open => "open",
        }
    }
}

/// The tests, and where they are run.
pub struct Bench<'a> {
    pub tests: &'a [Test],
    pub tree: &'a Path,
    pub catches: Mutex<Catches>,
}

/// The verdict, and which test gave it.
pub fn judge(number: usize, file: &str, pass: Pass, bench: &Bench<'_>) -> (Verdict, String) {
    let Bench { tests, tree, catches } = bench;
    // The lock is let go before the first test runs.
    let batches = batches(number, file, pass, tests, &catches.lock().expect("no worker panics"));
    for batch in batches {
        let takes: Duration = batch.iter().map(|test| test.takes).sum();
        let names: Vec<&str> = batch.iter().map(|test| test.name.as_str()).collect();
        let active = number.to_string();
        let variables = [("MAILRACE_MUTANT", active.as_str()), ("MAILRACE_SIM_STOP", "1")];
        let bound = 2 + (4.0 * takes.as_secs_f64()).ceil() as u64;
        let ran = run(&batch[0].program, &names, &variables, bound, tree);
        if ran.ending != Ending::Passed {
            // A program that was ended names no test: one of them it was.
            let failed = batch.iter().filter(|test| ran.said.contains(&format!("---- {} stdout ----", test.name)));
            let mut by: Vec<String> = failed.map(|test| test.id()).collect();
            if by.is_empty() {
                by = batch.iter().map(|test| test.id()).collect();
            }
            let mut catches = catches.lock().expect("no worker panics");
            for test in &by {
                *catches.entry((file.to_owned(), test.clone())).or_default() += 1;
            }
            let verdict = if ran.ending == Ending::Failed { Verdict::Caught } else { Verdict::Timeout };
            return (verdict, by.join(" "));
        }
    }
    let more = tests.iter().any(|test| test.meets.contains(&number) && test.takes > pass.up_to);
    (if more { Verdict::Open } else { Verdict::Missed }, String::new())
}

/// The tests that meet the mutant, in the order in which they are run: what costs little and catches much first.
fn batches<'a>(number: usize, file: &str, pass: Pass, tests: &'a [Test], catches: &Catches) -> Vec<Vec<&'a Test>> {
    let neighbours = file.trim_start_matches("shards/src/").trim_end_matches(".rs").replace('/', "::") + "::tests::";
    let meeting = tests.iter().filter(|test| test.meets.contains(&number) && pass.takes(test));
    let mut meeting: Vec<&Test> = meeting.collect();
    let caught = |test: &Test| {
        let known = catches.get(&(file.to_owned(), test.id())).copied().unwrap_or(0);
        known + if test.name.starts_with(&neighbours) { TRUST_OF_NEIGHBOURS } else { 0 }
    };
    meeting.sort_by_key(|test| (test.takes + Duration::from_micros(100)) / (1 + caught(test)));
    let mut batches: Vec<(Duration, Vec<&Test>)> = Vec::new();
    for test in meeting {
        let fits = |(sum, batch): &&mut (Duration, Vec<&Test>)| {
            batch[0].program == test.program && *sum + test.takes <= TOGETHER
        };
        match batches.iter_mut().find(fits) {
            Some((sum, batch)) => {
                *sum += test.takes;
                batch.push(test);
            }
            None => batches.push((test.takes, vec![test])),
        }
    }
    batches.sort_by_key(|(sum, batch)| {
        let caught: u32 = batch.iter().map(|test| caught(test)).sum();
        (*sum + START) / (1 + caught)
    });
    batches.into_iter().map(|(_, batch)| batch).collect()
}
