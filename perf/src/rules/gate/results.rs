//! What all rounds of the gate found, by kind, transport and size: as a table for people and as JSON for programs.

use serde::Serialize;

use super::kind::Kind;
use super::round::{Found, Size};
use super::transport::Transport;
use crate::clock::{now_ns, seconds_between};
use crate::sampler::machine::Machine;

/// Findings in words that are kept.
const MAX_WORDS: usize = 50;

/// Rounds of one kind over one transport with messages of one size.
#[derive(Clone, Debug, Serialize)]
pub struct Cell {
    kind: Kind,
    transport: Transport,
    size: Size,
    /// Rounds in which some mail was still to come when the answer came.
    rounds: u32,
    /// Rounds in which none was.
    too_late: u32,
    /// Rule calls that were answered with 503 and made again.
    put_off: u32,
    /// Messages completed after the answer: in flight, or violations.
    late: u64,
    /// Messages that should not have been completed.
    violations: u64,
    /// Of large messages: the least that had not been read when an answer came, octets.
    least_unread: Option<u64>,
}

/// All of them.
#[derive(Clone, Debug, Default)]
pub struct Results {
    cells: Vec<Cell>,
    /// Why lanes ended before their work was done.
    pub failures: Vec<String>,
    /// What else was wrong with the mail of a round.
    wrong: Vec<String>,
    wrong_count: u64,
}

impl Results {
    /// Nothing found yet.
    pub fn new(kinds: &[Kind], transports: &[Transport], sizes: &[Size]) -> Results {
        let mut results = Results::default();
        for &size in sizes {
            for &kind in kinds {
                results.cells.extend(transports.iter().map(|&transport| Cell {
                    kind,
                    transport,
                    size,
                    rounds: 0,
                    too_late: 0,
                    put_off: 0,
                    late: 0,
                    violations: 0,
                    least_unread: None,
                }));
            }
        }
        results
    }

    /// Adds a round.
    pub fn add(&mut self, kind: Kind, transport: Transport, size: Size, turn: u32, found: &Found) {
        let mine = |cell: &&mut Cell| cell.kind == kind && cell.transport == transport && cell.size == size;
        let Some(cell) = self.cells.iter_mut().find(mine) else { return };
        if found.too_late {
            cell.too_late += 1;
        } else {
            cell.rounds += 1;
        }
        cell.put_off += found.put_off;
        cell.late += found.judgement.late;
        cell.violations += found.judgement.violations;
        if size == Size::Large && !found.too_late {
            cell.least_unread = Some(cell.least_unread.map_or(found.unread, |least| least.min(found.unread)));
        }
        for wrong in &found.wrong {
            self.wrong_count += 1;
            if self.wrong.len() < MAX_WORDS {
                self.wrong.push(format!("{} over {}, {size:?}, round {turn}: {wrong}", kind.name(), transport.name()));
            }
        }
    }

    /// Rounds made, and violations.
    pub fn totals(&self) -> (u64, u64) {
        let rounds = self.cells.iter().map(|cell| u64::from(cell.rounds + cell.too_late)).sum();
        (rounds, self.cells.iter().map(|cell| cell.violations).sum())
    }
}

/// What was run.
pub struct Made {
    /// Its name.
    pub scenario: String,
    /// Name and version of the server.
    pub mta: String,
    /// Rounds of each kind, size and transport.
    pub rounds_of_each: u32,
}

/// The result of `gate`.
#[derive(Serialize)]
pub struct GateReport {
    scenario: String,
    machine: Machine,
    mta: String,
    rounds_of_each: u32,
    seconds: f64,
    /// Rounds made, those included that came too late to show anything.
    rounds: u64,
    too_late: u64,
    put_off: u64,
    /// The result.
    violations: u64,
    /// Mail lost, delivered twice or not sent as meant, and the first of these in words.
    wrong: u64,
    wrong_words: Vec<String>,
    failures: Vec<String>,
    cells: Vec<Cell>,
}

impl GateReport {
    /// Of finished rounds that began at `start_ns`.
    pub fn new(machine: Machine, made: Made, start_ns: u64, results: Results, failures: Vec<String>) -> GateReport {
        let (rounds, violations) = results.totals();
        GateReport {
            scenario: made.scenario,
            machine,
            mta: made.mta,
            rounds_of_each: made.rounds_of_each,
            seconds: seconds_between(start_ns, now_ns()),
            rounds,
            too_late: results.cells.iter().map(|cell| u64::from(cell.too_late)).sum(),
            put_off: results.cells.iter().map(|cell| u64::from(cell.put_off)).sum(),
            violations,
            wrong: results.wrong_count,
            wrong_words: results.wrong,
            failures,
            cells: results.cells,
        }
    }

    /// Whether all rounds were made and nothing was wrong in any.
    pub fn is_clean(&self, total: usize) -> bool {
        self.violations == 0 && self.wrong == 0 && self.failures.is_empty() && self.rounds == total as u64
    }

    /// A table for each size: violations/rounds, by kind and transport.
    pub fn print(&self) {
        for size in [Size::Large, Size::Small] {
            let cells: Vec<&Cell> = self.cells.iter().filter(|cell| cell.size == size).collect();
            let Some(first) = cells.first() else { continue };
            let what = if size == Size::Large { "large messages" } else { "small messages" };
            let heads = cells.iter().take_while(|cell| cell.kind == first.kind);
            let heads: String = heads.map(|cell| format!("  {:>14}", cell.transport.name())).collect();
            println!("{:<28}{heads}", format!("{what}, violations/rounds"));
            for row in cells.chunk_by(|one, next| one.kind == next.kind) {
                let figures =
                    row.iter().map(|cell| format!("  {:>14}", format!("{}/{}", cell.violations, cell.rounds)));
                println!("{:<28}{}", row[0].kind.name(), figures.collect::<String>());
            }
        }
        if self.put_off > 0 {
            println!(
                "{} rule calls were answered with 503, not in force everywhere in time, and made again",
                self.put_off
            );
        }
        let late: u64 = self.cells.iter().map(|cell| cell.late).sum();
        println!(
            "{} rounds in {:.0} s, {} of them too late to show anything",
            self.rounds, self.seconds, self.too_late
        );
        println!(
            "messages completed after the answer {late} (in flight then, as the answers said, but for violations)"
        );
        if let Some(least) = self.cells.iter().filter_map(|cell| cell.least_unread).min() {
            println!("of a large message unread at the answer, at least {least} octets");
        }
        println!("violations {}", self.violations);
        for words in self.wrong_words.iter().chain(&self.failures) {
            eprintln!("mailrace-perf: {words}");
        }
        if self.wrong > self.wrong_words.len() as u64 {
            eprintln!("mailrace-perf: and {} more", self.wrong - self.wrong_words.len() as u64);
        }
    }
}
