//! The scenario `latency`: how long an injector waits when the server is not at its limit, but near it.
//!
//! First the capacity is measured in a closed loop; then messages come at a fixed share of it, whether or not earlier ones
//! have been answered. Each wait runs from the moment at which its message was due, so that a server that stalls is
//! charged for everyone who had to wait (no coordinated omission).

use std::process::ExitCode;

use serde::Serialize;

use super::{asked, begin, measure, warn_of_tmpfs};
use crate::cli::RunArgs;
use crate::error::Result;
use crate::latency::LatencySummary;
use crate::proof;
use crate::report::{self, Asked, Round};
use crate::sampler::machine::Machine;

/// The result.
#[derive(Debug, Serialize)]
pub struct LoadReport {
    asked: Asked,
    machine: Machine,
    mta: String,
    /// Messages a second in and out, closed loop.
    capacity_per_second: f64,
    loads: Vec<Load>,
    rounds: Vec<Round>,
}

/// What was found at one share of the capacity.
#[derive(Debug, Serialize)]
struct Load {
    percent: f64,
    rate: f64,
    latency_ms: Option<LatencySummary>,
    delivery_latency_ms: Option<LatencySummary>,
    cpu_us_per_message: Option<f64>,
}

/// `mailrace-perf run latency`.
pub fn run(arguments: &RunArgs, machine: Machine) -> Result<ExitCode> {
    warn_of_tmpfs(&machine.work_filesystem);
    let mut shape = arguments.shape.clone();
    let mut rounds = vec![closed_or_open(arguments, &shape, "capacity")?];
    let capacity_per_second = rounds[0].figures.delivered_per_second;
    let mut loads = Vec::new();
    (shape.no_syscalls, shape.no_durability) = (true, true);
    for percent in &arguments.loads {
        let rate = capacity_per_second * percent / 100.0;
        shape.sending.rate = Some(rate);
        shape.sending.messages = (rate * f64::from(arguments.seconds)) as u32;
        shape.warm_up = shape.warm_up.min((rate * 2.0) as u32);
        let round = closed_or_open(arguments, &shape, &format!("{percent} %"))?;
        loads.push(Load {
            percent: *percent,
            rate,
            latency_ms: round.figures.latency_ms,
            delivery_latency_ms: round.figures.delivery_latency_ms,
            cpu_us_per_message: round.figures.cpu_us_per_message,
        });
        rounds.push(round);
    }
    let mta = rounds[0].mta.clone();
    println!("{mta}: capacity {capacity_per_second:.0} messages per second");
    for load in &loads {
        let waits = load.latency_ms.map_or_else(
            || "unavailable".to_owned(),
            |waits| format!("{:.2}/{:.2}/{:.2}/{:.2}", waits.p50, waits.p99, waits.p999, waits.max),
        );
        println!("at {:>3.0} % ({:.0}/s): due to 250, ms p50/p99/p99.9/max {waits}", load.percent, load.rate);
    }
    let complete = super::complain(&rounds) & super::durable(&rounds[..1]);
    if let Some(path) = &shape.sending.json {
        let asked = asked(arguments.scenario, &arguments.shape);
        report::write(&LoadReport { asked, machine, mta, capacity_per_second, loads, rounds }, path)?;
    }
    Ok(if complete { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn closed_or_open(arguments: &RunArgs, shape: &crate::cli::ShapeArgs, title: &str) -> Result<Round> {
    let mut scene = begin(arguments.mta, shape, title)?;
    let mut round = measure(scene.mta.as_mut(), scene.traffic.as_mut(), shape, title)?;
    round.show(proof::take(scene.mta.as_ref(), shape, scene.directory.path()));
    round.stop_failure = scene.mta.stop().err().map(|failure| failure.to_string());
    Ok(round)
}
