//! `rule_latency`: from a rule call's due moment to its answer, on an idle engine and beside `canonical`.
//!
//! Of the loaded half only those calls count that were due while mail was coming in at full speed.

use std::process::ExitCode;
use std::thread::sleep;
use std::time::Duration;

use serde::Serialize;

use super::api;
use super::caller::{Caller, Waits};
use crate::cli::{RunArgs, ShapeArgs};
use crate::clock::now_ns;
use crate::error::{Result, fail};
use crate::report::{self, Asked};
use crate::sampler::machine::Machine;
use crate::scenario::{Scene, asked, begin, send};
use crate::stop;

/// Bursts of mail at most; an engine so slow that these are not enough is measured by fewer calls.
const MAX_BURSTS: u32 = 200;
/// Calls made before the first that counts: connections and caches.
const WARM_UP: Duration = Duration::from_secs(1);

/// What was found.
#[derive(Serialize)]
struct LatencyReport {
    asked: Asked,
    machine: Machine,
    mta: String,
    rule_rate: f64,
    idle: Waits,
    saturated: Waits,
    /// Mean over the bursts of mail beside which the second half was measured.
    delivered_per_second: f64,
}

/// `mailrace-perf run rule_latency`.
pub fn run(arguments: &RunArgs, machine: Machine) -> Result<ExitCode> {
    let shape = ShapeArgs { no_syscalls: true, ..arguments.shape.clone() };
    let mut scene = begin(arguments.mta, &shape, "rule_latency")?;
    let (rate, calls) = (arguments.rules.rule_rate, arguments.rules.rule_calls);
    let idle = idle(&scene, rate, calls)?;
    idle.print("idle");
    send(scene.mta.as_mut(), scene.traffic.as_mut(), shape.warm_up.max(1), "warm-up")?;
    let (saturated, delivered_per_second) = saturated(&mut scene, &shape, rate, calls)?;
    saturated.print("saturated");
    println!("delivered per second beside them {delivered_per_second:.0}");
    let version = scene.mta.version().to_owned();
    scene.mta.stop()?;
    let complete = idle.failures.is_empty() && saturated.failures.is_empty();
    if let Some(path) = &arguments.shape.sending.json {
        let asked = asked(arguments.scenario, &shape);
        let report =
            LatencyReport { asked, machine, mta: version, rule_rate: rate, idle, saturated, delivered_per_second };
        report::write(&report, path)?;
    }
    Ok(if complete { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn idle(scene: &Scene, rate: f64, calls: u32) -> Result<Waits> {
    let caller = Caller::start(&api(scene.mta.as_ref())?, "idle", rate);
    let from_ns = now_ns() + WARM_UP.as_nanos() as u64;
    let until_ns = from_ns + (f64::from(calls) / rate * 1e9) as u64;
    while now_ns() < until_ns {
        if stop::requested() {
            return fail("stopped");
        }
        sleep(Duration::from_millis(50));
    }
    Ok(caller.finish(&[(from_ns, until_ns)]))
}

fn saturated(scene: &mut Scene, shape: &ShapeArgs, rate: f64, calls: u32) -> Result<(Waits, f64)> {
    let caller = Caller::start(&api(scene.mta.as_ref())?, "saturated", rate);
    sleep(WARM_UP);
    let wanted_seconds = f64::from(calls) / rate;
    let (mut windows, mut seconds, mut delivered, mut deliver_seconds) = (Vec::new(), 0.0, 0.0, 0.0);
    for burst in 1..=MAX_BURSTS {
        let from_ns = now_ns();
        let outcome =
            send(scene.mta.as_mut(), scene.traffic.as_mut(), shape.sending.messages, &format!("burst {burst}"))?;
        windows.push((from_ns, from_ns + (outcome.accept_seconds * 1e9) as u64));
        seconds += outcome.accept_seconds;
        delivered += f64::from(outcome.delivered);
        deliver_seconds += outcome.deliver_seconds;
        if seconds >= wanted_seconds {
            break;
        }
    }
    Ok((caller.finish(&windows), if deliver_seconds > 0.0 { delivered / deliver_seconds } else { 0.0 }))
}
