//! Judges one mutant: runs the tests that meet it, the quick ones first, until one fails.

use crate::tests::{Ending, Test, run};
use std::collections::HashMap;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

/// Tests of one program share a process up to this sum: less than a start costs beside it, and little is wasted when the
/// first of them fails.
const TOGETHER: Duration = Duration::from_millis(150);

/// How often the tests of a program have caught mutants of a file: they are tried first for the next one.
pub type Catches = HashMap<(String, String), u32>;

/// What became of a mutant, in the words of cargo-mutants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    Caught,
    Timeout,
    Missed,
    /// No quick test fails; the others were not run yet.
    Open,
}

/// Which of the tests are run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pass {
    All,
    Quick,
    /// Those that the quick pass left out.
    Slow,
}

/// A quick test takes no longer.
const QUICK: Duration = Duration::from_millis(300);

impl Pass {
    fn takes(self, test: &Test) -> bool {
        self == Self::All || (test.takes <= QUICK) == (self == Self::Quick)
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
        let ending = run(&batch[0].program, &names, &variables, 2 + (4.0 * takes.as_secs_f64()).ceil() as u64, tree);
        if ending != Ending::Passed {
            let key = (file.to_owned(), batch[0].target.clone());
            *catches.lock().expect("no worker panics").entry(key).or_default() += 1;
            let verdict = if ending == Ending::Failed { Verdict::Caught } else { Verdict::Timeout };
            return (verdict, format!("{} {}", batch[0].target, names.join(" ")));
        }
    }
    let more = pass == Pass::Quick && tests.iter().any(|test| test.meets.contains(&number) && !pass.takes(test));
    (if more { Verdict::Open } else { Verdict::Missed }, String::new())
}

/// The tests that meet the mutant, in the order in which they are run: what costs little and catches much first.
fn batches<'a>(number: usize, file: &str, pass: Pass, tests: &'a [Test], catches: &Catches) -> Vec<Vec<&'a Test>> {
    let meeting = tests.iter().filter(|test| test.meets.contains(&number) && pass.takes(test));
    let mut meeting: Vec<&Test> = meeting.collect();
    meeting.sort_by_key(|test| test.takes);
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
        let caught = catches.get(&(file.to_owned(), batch[0].target.clone())).copied().unwrap_or(0);
        (*sum + Duration::from_millis(20)) / (1 + caught)
    });
    batches.into_iter().map(|(_, batch)| batch).collect()
}
