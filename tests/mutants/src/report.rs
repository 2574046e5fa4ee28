//! What was found, one line a mutant, kept over runs; and the table of it.

use crate::judge::Catches;
use crate::list::Mutant;
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::Path;

/// Verdicts by the name of the mutant. Later lines of the file count.
pub struct Results {
    verdicts: HashMap<String, String>,
    /// The tests that caught it, by the name of the mutant.
    by: HashMap<String, String>,
    file: File,
}

impl Results {
    pub fn load(scratch: &Path) -> Self {
        let path = scratch.join("results.tsv");
        let text = fs::read_to_string(&path).unwrap_or_default();
        let (mut verdicts, mut by) = (HashMap::new(), HashMap::new());
        for line in text.lines() {
            let mut fields = line.split('\t').map(str::to_owned);
            if let (Some(verdict), Some(name), Some(tests)) = (fields.next(), fields.next(), fields.next()) {
                verdicts.insert(name.clone(), verdict);
                by.insert(name, tests);
            }
        }
        let file = OpenOptions::new().append(true).create(true).open(path).expect("the work directory can be written");
        Self { verdicts, by, file }
    }

    pub fn verdict(&self, name: &str) -> Option<&str> {
        self.verdicts.get(name).map(String::as_str)
    }

    /// Which tests have caught mutants of which file, and how often.
    pub fn catches(&self, all: &[Mutant]) -> Catches {
        let mut catches = Catches::new();
        for mutant in all {
            for test in self.by.get(&mutant.name).into_iter().flat_map(|tests| tests.split_whitespace()) {
                *catches.entry((mutant.file.clone(), test.to_owned())).or_default() += 1;
            }
        }
        catches
    }

    pub fn put(&mut self, name: &str, verdict: &str, by: &str) {
        if self.verdict(name) != Some(verdict) || !by.is_empty() {
            writeln!(self.file, "{verdict}\t{name}\t{by}").expect("the work directory can be written");
            self.verdicts.insert(name.to_owned(), verdict.to_owned());
        }
    }

    /// By module: how many there are, were judged, and how it went; then those that lived without a reason.
    pub fn table(&self, all: &[Mutant], accepted: &Accepted) -> String {
        let mut modules: BTreeMap<&str, Counts> = BTreeMap::new();
        let mut missed = Vec::new();
        for mutant in all {
            let verdict = match self.verdict(&mutant.name).unwrap_or_default() {
                "missed" if accepted.reason(mutant).is_some() => "accepted",
                other => other,
            };
            modules.entry(mutant.module()).or_default().count(verdict);
            modules.entry("~all").or_default().count(verdict);
            if verdict == "missed" {
                missed.push(&mutant.name);
            }
        }
        let mut text = "| module | mutants | caught | by timeout | missed | accepted | open | not judged | caught at least | do not compile | no switch |\n".to_owned();
        text.push_str("|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n");
        for (module, Counts { words: [caught, timeout, missed, accepted, open, unviable, constant], rest }) in modules {
            let met = caught + timeout + missed + accepted + open;
            let share = 100.0 * (caught + timeout) as f64 / met.max(1) as f64;
            let (module, viable) = (module.trim_start_matches('~'), met + rest);
            let _ = writeln!(
                text,
                "| {module} | {viable} | {caught} | {timeout} | {missed} | {accepted} | {open} | {rest} | {share:.1} % | {unviable} | {constant} |"
            );
        }
        missed.sort();
        missed.iter().for_each(|name| writeln!(text, "missed: {name}").expect("a string takes everything"));
        text
    }
}

const WORDS: [&str; 7] = ["caught", "timeout", "missed", "accepted", "open", "unviable", "no switch"];

/// How many mutants of each verdict there are, and of none.
#[derive(Default)]
struct Counts {
    words: [usize; 7],
    rest: usize,
}

impl Counts {
    fn count(&mut self, verdict: &str) {
        match WORDS.iter().position(|&word| word == verdict) {
            Some(at) => self.words[at] += 1,
            None => self.rest += 1,
        }
    }
}

/// Mutants that may live, each with the reason: the lines of `tests/data/mutants-accepted.tsv`, which name them without
/// line and column, so that they outlive changes elsewhere in the file.
pub struct Accepted(HashMap<String, String>);

impl Accepted {
    pub fn load(root: &Path) -> Self {
        let text = fs::read_to_string(root.join("tests/data/mutants-accepted.tsv")).unwrap_or_default();
        let lines = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once('\t'));
        Self(lines.map(|(name, reason)| (name.to_owned(), reason.to_owned())).collect())
    }

    pub fn reason(&self, mutant: &Mutant) -> Option<&str> {
        self.0.get(&format!("{}: {}", mutant.file, mutant.change())).map(String::as_str)
    }
}
