//! What a run, or many runs, did: plain counts, and a table of which fault met messages in which state.

use std::collections::BTreeMap;
use std::fmt::Write as _;

#[derive(Clone, Debug, Default)]
pub struct Report {
    counts: BTreeMap<(String, String), u64>,
    faults: BTreeMap<(String, String), u64>,
    states: BTreeMap<(String, String), u64>,
    pub seeds: u64,
    pub micros: u64,
    pub letters: u64,
    pub acknowledged: u64,
    pub deliveries: u64,
    pub repeated: u64,
    pub lives: u64,
    pub checks: u64,
}

impl Report {
    pub fn count(&mut self, part: &str, what: &str) {
        self.add(part, what, 1);
    }

    pub fn add(&mut self, part: &str, what: &str, number: u64) {
        *self.counts.entry((part.into(), what.into())).or_default() += number;
    }

    /// A fault at a phase of a conversation.
    pub fn fault(&mut self, fault: &str, phase: &str) {
        *self.faults.entry((fault.into(), phase.into())).or_default() += 1;
    }

    /// A fault met so many recipients in a state.
    pub fn met(&mut self, fault: &str, state: &str, number: u64) {
        *self.states.entry((fault.into(), state.into())).or_default() += number;
    }

    pub fn merge(&mut self, other: &Self) {
        for (from, into) in
            [(&other.counts, &mut self.counts), (&other.faults, &mut self.faults), (&other.states, &mut self.states)]
        {
            for (key, number) in from {
                *into.entry(key.clone()).or_default() += number;
            }
        }
        self.seeds += other.seeds;
        self.micros += other.micros;
        self.letters += other.letters;
        self.acknowledged += other.acknowledged;
        self.deliveries += other.deliveries;
        self.repeated += other.repeated;
        self.lives += other.lives;
        self.checks += other.checks;
    }

    pub fn faults_injected(&self) -> u64 {
        self.faults.values().sum()
    }

    pub fn text(&self) -> String {
        let mut text = String::new();
        let hours = self.micros as f64 / 3.6e9;
        let _ = writeln!(
            text,
            "{} seeds, {hours:.1} simulated hours, {} lives of the engine, {} letters ({} acknowledged), {} recipients \
             taken by hosts ({} of them again after a lost answer or a crash), {} faults of peers, disks and logs, {} checks",
            self.seeds,
            self.lives,
            self.letters,
            self.acknowledged,
            self.deliveries,
            self.repeated,
            self.faults_injected(),
            self.checks,
        );
        for ((part, what), number) in &self.counts {
            let _ = writeln!(text, "  {part}: {what}: {number}");
        }
        text += &table("faults by phase", &self.faults);
        text += &table("recipients met by a fault, by their state", &self.states);
        text
    }
}

fn table(title: &str, cells: &BTreeMap<(String, String), u64>) -> String {
    let mut columns: Vec<&String> = cells.keys().map(|(_, column)| column).collect();
    columns.sort();
    columns.dedup();
    let mut rows: Vec<&String> = cells.keys().map(|(row, _)| row).collect();
    rows.dedup();
    let mut text = format!("{title}\n{:24}", "");
    for column in &columns {
        let _ = write!(text, "{column:>20}");
    }
    for row in rows {
        let _ = write!(text, "\n{row:24}");
        for column in &columns {
            let number = cells.get(&(row.clone(), (*column).clone())).copied().unwrap_or(0);
            let _ = write!(text, "{number:>20}");
        }
    }
    text + "\n"
}
