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
        if self.verdict(name) != Some(verdict) {
            writeln!(self.file, "{verdict}\t{name}\t{by}").expect("the work directory can be written");
            self.verdicts.insert(name.to_owned(), verdict.to_owned());
        }
    }

    /// By module: how many there are, were judged, and how it went; then the missed ones.
    pub fn table(&self, all: &[Mutant]) -> String {
        const WORDS: [&str; 5] = ["caught", "timeout", "missed", "unviable", "no switch"];
        let mut modules: BTreeMap<&str, [usize; 6]> = BTreeMap::new();
        let mut missed = Vec::new();
        for mutant in all {
            let verdict = self.verdict(&mutant.name).unwrap_or_default();
            let column = WORDS.iter().position(|&word| word == verdict).unwrap_or(5);
            modules.entry(mutant.module()).or_default()[column] += 1;
            modules.entry("~all").or_default()[column] += 1;
            if verdict == "missed" {
                missed.push(&mutant.name);
            }
        }
        let mut text = "| module | mutants | judged | caught | by timeout | missed | share caught | do not compile | no switch |\n".to_owned();
        text.push_str("|---|---:|---:|---:|---:|---:|---:|---:|---:|\n");
        for (module, [caught, timeout, missed, unviable, constant, rest]) in modules {
            let judged = caught + timeout + missed;
            let share = 100.0 * (caught + timeout) as f64 / judged.max(1) as f64;
            let viable = judged + rest;
            let module = module.trim_start_matches('~');
            let _ = writeln!(
                text,
                "| {module} | {viable} | {judged} | {caught} | {timeout} | {missed} | {share:.1} % | {unviable} | {constant} |"
            );
        }
        missed.sort();
        missed.iter().for_each(|name| writeln!(text, "missed: {name}").expect("a string takes everything"));
        text
    }
}
