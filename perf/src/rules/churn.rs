//! `rule_churn`: what rule changes beside the mail cost it. Rounds of `canonical` with and without them, in alternation.
//!
//! The changes cover none of the mail, so whatever the mail loses, it loses to the changes themselves.

use std::process::ExitCode;

use serde::Serialize;

use super::api;
use super::caller::{Caller, Waits};
use crate::cli::{RunArgs, ShapeArgs};
use crate::error::Result;
use crate::report::{self, Asked, Figures, Round, ratio, summarise};
use crate::sampler::machine::Machine;
use crate::scenario::{asked, begin, complain, measure};

/// What was found.
#[derive(Serialize)]
struct ChurnReport {
    asked: Asked,
    machine: Machine,
    rule_rate: f64,
    /// Median delivered rate with changes over the one without.
    delivered_ratio: Option<f64>,
    /// Median CPU per message with changes over the one without.
    cpu_ratio: Option<f64>,
    with_changes: Figures,
    without_changes: Figures,
    /// Of each round with changes.
    waits: Vec<Waits>,
    /// In the order in which they ran; the first is without.
    rounds: Vec<Round>,
}

/// `mailrace-perf run rule_churn`.
pub fn run(arguments: &RunArgs, machine: Machine) -> Result<ExitCode> {
    let shape = ShapeArgs { no_syscalls: true, ..arguments.shape.clone() };
    let (mut with, mut without, mut rounds, mut waits) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for number in 1..=arguments.rounds {
        // A B, B A, A B …: what changes in the course of the measurement disturbs both.
        for changes in [number % 2 == 0, number % 2 == 1] {
            let title = format!("{} changes {number}", if changes { "with" } else { "without" });
            let mut scene = begin(arguments.mta, &shape, &title)?;
            let caller = match changes {
                true => Some(Caller::start(&api(scene.mta.as_ref())?, "churn", arguments.rules.rule_rate)),
                false => None,
            };
            let mut round = measure(scene.mta.as_mut(), scene.traffic.as_mut(), &shape, &title)?;
            waits.extend(caller.map(|caller| caller.finish(&[])));
            round.stop_failure = scene.mta.stop().err().map(|failure| failure.to_string());
            if changes { &mut with } else { &mut without }.push(round.clone());
            rounds.push(round);
        }
    }
    let (with_changes, without_changes) = (summarise(with.iter()), summarise(without.iter()));
    report::print_table(&[
        ("without changes".to_owned(), &without_changes),
        ("with changes".to_owned(), &with_changes),
    ]);
    let delivered_ratio = ratio(Some(with_changes.delivered_per_second), Some(without_changes.delivered_per_second));
    let cpu_ratio = ratio(with_changes.cpu_us_per_message, without_changes.cpu_us_per_message);
    for (label, value) in [("delivered_ratio (with/without)", delivered_ratio), ("cpu_ratio (with/without)", cpu_ratio)]
    {
        println!("{label:<32}{}", value.map_or_else(|| "unavailable".to_owned(), |value| format!("{value:.3}")));
    }
    waits.iter().for_each(|waits| waits.print("rule changes"));
    let complete = complain(&rounds) && waits.iter().all(|waits| waits.failures.is_empty());
    if let Some(path) = &arguments.shape.sending.json {
        let asked = asked(arguments.scenario, &shape);
        let rule_rate = arguments.rules.rule_rate;
        let report = ChurnReport {
            asked,
            machine,
            rule_rate,
            delivered_ratio,
            cpu_ratio,
            with_changes,
            without_changes,
            waits,
            rounds,
        };
        report::write(&report, path)?;
    }
    Ok(if complete { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
