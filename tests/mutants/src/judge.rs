//! Judges one mutant: runs the tests that meet it, the quick ones first, until one fails.

use crate::tests::{Ending, Test, run};
use std::path::Path;
use std::time::Duration;

/// Tests quicker than this share a process with others of their program.
const QUICK: Duration = Duration::from_millis(300);

/// What became of a mutant, in the words of cargo-mutants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    Caught,
    Timeout,
    Missed,
}

impl Verdict {
    pub fn word(self) -> &'static str {
        match self {
            Self::Caught => "caught",
            Self::Timeout => "timeout",
            Self::Missed => "missed",
        }
    }
}

/// The verdict, and which test gave it.
pub fn judge(number: usize, tests: &[Test], tree: &Path) -> (Verdict, String) {
    for batch in batches(number, tests) {
        let takes: Duration = batch.iter().map(|test| test.takes).sum();
        let names: Vec<&str> = batch.iter().map(|test| test.name.as_str()).collect();
        let active = number.to_string();
        let variables = [("MAILRACE_MUTANT", active.as_str()), ("MAILRACE_SIM_STOP", "1")];
        let ending = run(&batch[0].program, &names, &variables, 3 + 4 * takes.as_secs_f64().ceil() as u64, tree);
        let said = format!("{} {}", batch[0].target, if names.len() == 1 { names[0] } else { "(quick ones)" });
        match ending {
            Ending::Passed => {}
            Ending::Failed => return (Verdict::Caught, said),
            Ending::Endless => return (Verdict::Timeout, said),
        }
    }
    (Verdict::Missed, String::new())
}

/// The tests that meet the mutant, as they are run: what is quick together, then one by one.
fn batches(number: usize, tests: &[Test]) -> Vec<Vec<&Test>> {
    let mut batches: Vec<Vec<&Test>> = Vec::new();
    for test in tests.iter().filter(|test| test.meets.contains(&number)) {
        let quick = test.takes < QUICK;
        let joined =
            batches.iter_mut().find(|batch| quick && batch[0].takes < QUICK && batch[0].program == test.program);
        match joined {
            Some(batch) => batch.push(test),
            None => batches.push(vec![test]),
        }
    }
    batches.sort_by_key(|batch| batch.iter().map(|test| test.takes).sum::<Duration>());
    batches
}
