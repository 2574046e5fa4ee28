//! The mutants, as cargo-mutants names them. It alone decides what a mutant is; nothing is added or left out here.

use serde_json::Value;
use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::process::Command;

/// One change to one place.
#[derive(Clone, Debug)]
pub struct Mutant {
    /// As cargo-mutants prints it: file, line, column, change.
    pub name: String,
    /// Relative to the root of the repository.
    pub file: String,
    /// Octets of the file that it replaces.
    pub start: usize,
    pub end: usize,
    pub replacement: String,
    pub genre: String,
}

impl Mutant {
    /// What it does, without the place.
    pub fn change(&self) -> &str {
        self.name.splitn(4, ':').nth(3).unwrap_or("").trim_start()
    }

    /// `queue` for `shards/src/queue/store.rs`.
    pub fn module(&self) -> &str {
        self.file.split('/').nth(2).unwrap_or("")
    }
}

/// Asks cargo-mutants for the mutants of the files that match one of the globs.
pub fn list(root: &Path, globs: &[String]) -> Vec<Mutant> {
    let mut command = Command::new(std::env::var("CARGO_MUTANTS").unwrap_or("cargo-mutants".into()));
    command.current_dir(root).args(["mutants", "--list", "--json", "-p", "mailrace-shards"]);
    // The disk of the tests.
    command.args(["-e", "shards/src/spool/memory_disk.rs"]);
    for glob in globs {
        command.args(["-f", glob]);
    }
    let output = command.output().expect("cargo-mutants is installed: cargo install cargo-mutants --locked");
    assert!(output.status.success(), "cargo mutants --list: {}", String::from_utf8_lossy(&output.stderr));
    let listed: Vec<Value> = serde_json::from_slice(&output.stdout).expect("a list of mutants");
    let mut texts = HashMap::new();
    listed
        .iter()
        .map(|mutant| {
            let text_of = |key: &str| mutant[key].as_str().unwrap_or_default().to_owned();
            let file = text_of("file");
            let lines = texts.entry(file.clone()).or_insert_with(|| {
                Lines::of(&fs::read_to_string(root.join(&file)).expect("a source that was listed can be read"))
            });
            Mutant {
                name: text_of("name"),
                start: lines.octet(&mutant["span"]["start"]),
                end: lines.octet(&mutant["span"]["end"]),
                replacement: text_of("replacement"),
                genre: text_of("genre"),
                file,
            }
        })
        .collect()
}

/// The lines of a text, to find octets by line and column.
pub struct Lines {
    lines: Vec<(usize, String)>,
}

impl Lines {
    pub fn of(text: &str) -> Self {
        let mut start = 0;
        let lines = text.split_inclusive('\n').map(|line| {
            let begins = start;
            start += line.len();
            (begins, line.to_owned())
        });
        Self { lines: lines.collect() }
    }

    /// Line and column count from one; columns are characters.
    fn octet(&self, place: &Value) -> usize {
        let number = |key: &str| place[key].as_u64().expect("a number") as usize;
        self.at(number("line"), number("column") - 1)
    }

    /// Line from one, column from zero.
    pub fn at(&self, line: usize, column: usize) -> usize {
        let (begins, text) = &self.lines[line - 1];
        begins + text.chars().take(column).map(char::len_utf8).sum::<usize>()
    }
}
