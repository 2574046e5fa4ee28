//! The scenario `backlog`: mail piles up behind a pause, the pause is lifted, everything leaves.
//!
//! It asks what a queued message costs in memory, whether a message costs more the deeper the queue is, how long the calls
//! take over a deep queue, and how soon the full rate is reached. It must never let the server rest between its looks.

use std::process::ExitCode;
use std::thread::sleep;
use std::time::Duration;

use serde::Serialize;

use super::{asked, begin_own, warn_of_tmpfs};
use crate::cli::RunArgs;
use crate::clock::{now_ns, seconds_between};
use crate::error::{Result, fail};
use crate::latency::{Latency, LatencySummary};
use crate::mta::Mta;
use crate::progress::{Progress, Shown};
use crate::proof::{self, Durability};
use crate::report::{self, Asked, median};
use crate::sampler::machine::Machine;
use crate::sampler::trace::{CpuPoint, Look, Watched, look, points};
use crate::stop;
use crate::timeline::Point;
use crate::traffic::Traffic;
use crate::traffic::own::{OwnTraffic, shifted};

/// Pauses and releases whose time is taken.
const CALLS: u32 = 20;
/// Between two looks at counts and counters.
const LOOK: Duration = Duration::from_millis(20);
/// For the server's own work behind the last acceptance, before its memory is read.
const SETTLE: Duration = Duration::from_secs(1);
/// Depths between which the cost of a message is told.
const DEPTHS: [u32; 5] = [0, 1_000, 10_000, 100_000, 1_000_000];
/// The rate is that of so long.
const RATE_WINDOW_NS: u64 = 100_000_000;
/// This share of the full rate counts as full.
const FULL: f64 = 0.9;

/// The result.
#[derive(Debug, Serialize)]
pub struct BacklogReport {
    asked: Asked,
    machine: Machine,
    mta: String,
    queued: u32,
    delivered: u32,
    duplicates: u64,
    lost: u32,
    durability: Durability,
    rss_before_bytes: u64,
    rss_after_bytes: u64,
    memory_bytes_per_message: f64,
    pause_ms_empty: Option<LatencySummary>,
    release_ms_empty: Option<LatencySummary>,
    pause_ms_full: Option<LatencySummary>,
    release_ms_full: Option<LatencySummary>,
    accepted_per_second: f64,
    cost_of_accepting: Vec<Cost>,
    first_delivery_ms: Option<f64>,
    full_rate_per_second: Option<f64>,
    full_rate_after_ms: Option<f64>,
    delivered_per_second: f64,
    cost_of_delivering: Vec<Cost>,
    accepted_over_time: Vec<Point>,
    delivered_over_time: Vec<Point>,
    cpu_over_time: Vec<CpuPoint>,
}

/// What a message cost while the queue was between two depths.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Cost {
    from_depth: u32,
    to_depth: u32,
    cpu_us_per_message: f64,
    per_second: f64,
}

/// A count and the server's counters at the same moment.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// Messages so far.
    pub count: u32,
    /// The counters.
    pub look: Look,
}

/// `mailrace-perf run backlog`.
pub fn run(arguments: &RunArgs, machine: Machine) -> Result<ExitCode> {
    warn_of_tmpfs(&machine.work_filesystem);
    let shape = &arguments.shape;
    let (directory, mut traffic, mut mta) = begin_own(arguments.mta, shape)?;
    let mut report = measure(mta.as_mut(), &mut traffic, arguments, machine)?;
    report.durability = proof::take(mta.as_ref(), shape, directory.path());
    mta.stop()?;
    print(&report);
    if let Some(path) = &shape.sending.json {
        report::write(&report, path)?;
    }
    println!("{}", report.durability.words());
    let complete = report.lost == 0 && !report.durability.is_violated() && report.queued == shape.sending.messages;
    Ok(if complete { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn measure(
    mta: &mut dyn Mta,
    traffic: &mut OwnTraffic,
    arguments: &RunArgs,
    machine: Machine,
) -> Result<BacklogReport> {
    let shape = &arguments.shape;
    if shape.warm_up > 0 {
        traffic.send(mta, shape.warm_up, "warm-up")?;
    }
    let watched = Watched { server: mta.roots(), sink: traffic.sink_processes() };
    let (pause_ms_empty, release_ms_empty) = time_calls(mta, false)?;
    mta.pause()?;
    let rss_before_bytes = look(&watched).rss_octets;
    let (accepting, filled) = fill(mta, traffic, shape.sending.messages, &watched)?;
    sleep(SETTLE);
    let rss_after_bytes = look(&watched).rss_octets;
    let queued = filled.accepted.count();
    let (pause_ms_full, release_ms_full) = time_calls(mta, true)?;
    let patience = Duration::from_secs(shape.patience);
    let (released_ns, draining) = drain(mta, traffic, queued, patience, &watched)?;
    let seen = traffic.report()?;
    let ramp = Ramp::of(&draining, released_ns);
    let looks: Vec<Look> = accepting.iter().chain(&draining).map(|sample| sample.look).collect();
    let thinned: Vec<Look> = looks.iter().step_by((looks.len() / 600).max(1)).copied().collect();
    let zero_ns = filled.first_ns;
    Ok(BacklogReport {
        asked: asked(arguments.scenario, shape),
        machine,
        mta: mta.version().to_owned(),
        queued,
        delivered: seen.delivered,
        duplicates: seen.duplicates,
        lost: queued.saturating_sub(seen.delivered),
        durability: Durability::default(),
        rss_before_bytes,
        rss_after_bytes,
        memory_bytes_per_message: rss_after_bytes.saturating_sub(rss_before_bytes) as f64 / f64::from(queued.max(1)),
        pause_ms_empty,
        release_ms_empty,
        pause_ms_full,
        release_ms_full,
        accepted_per_second: f64::from(queued) / seconds_between(filled.first_ns, filled.last_ns).max(1e-9),
        cost_of_accepting: costs(&accepting, |count| count),
        first_delivery_ms: ramp.first_delivery_ms,
        full_rate_per_second: ramp.full_rate,
        full_rate_after_ms: ramp.full_after_ms,
        delivered_per_second: ramp.mean_rate,
        cost_of_delivering: costs(&draining, |count| queued.saturating_sub(count)),
        accepted_over_time: filled.timeline.points(zero_ns),
        delivered_over_time: shifted(&seen.timeline, seen.first_ns, zero_ns),
        cpu_over_time: points(&thinned, zero_ns),
    })
}

/// How long a pause of everything and its release take, `CALLS` times; with `paused`, it is in force before and after.
fn time_calls(mta: &mut dyn Mta, paused: bool) -> Result<(Option<LatencySummary>, Option<LatencySummary>)> {
    let (mut pause, mut release) = (Latency::new(), Latency::new());
    let take = |call: &mut dyn FnMut() -> Result<()>, into: &mut Latency| -> Result<()> {
        let begun_ns = now_ns();
        call()?;
        into.record_ns(now_ns() - begun_ns);
        Ok(())
    };
    for _ in 0..CALLS {
        if paused {
            take(&mut || mta.release(), &mut release)?;
            take(&mut || mta.pause(), &mut pause)?;
        } else {
            take(&mut || mta.pause(), &mut pause)?;
            take(&mut || mta.release(), &mut release)?;
        }
    }
    Ok((pause.summary(), release.summary()))
}

/// Sends everything into the paused server.
pub fn fill(
    mta: &mut dyn Mta,
    traffic: &mut OwnTraffic,
    messages: u32,
    watched: &Watched,
) -> Result<(Vec<Sample>, crate::generator::tally::Tally)> {
    let sending = traffic.begin(mta.address(), messages)?;
    let mut progress = Progress::start("queue", messages, false);
    let mut samples = Vec::new();
    loop {
        // In this order: what is accepted after the sender was seen to have ended is none.
        let over = sending.is_finished();
        let accepted = sending.live.accepted();
        samples.push(Sample { count: accepted as u32, look: look(watched) });
        progress.show(&Shown { accepted, delivered: None, waits_ms: Some(sending.live.waits_ms()) });
        if let Some(how) = mta.exited() {
            return fail(format!("{} ended while its queue filled ({how}):\n{}", mta.version(), mta.log_tail()));
        }
        if over {
            progress.finish();
            return Ok((samples, sending.join()?));
        }
        sleep(LOOK);
    }
}

/// Lifts the pause and waits until everything has left; when it was lifted, and what was seen from then on.
pub fn drain(
    mta: &mut dyn Mta,
    traffic: &mut OwnTraffic,
    queued: u32,
    patience: Duration,
    watched: &Watched,
) -> Result<(u64, Vec<Sample>)> {
    let mut progress = Progress::start("release", queued, true);
    let mut samples = vec![Sample { count: traffic.count()?, look: look(watched) }];
    let released_ns = now_ns();
    mta.release()?;
    let mut moved_ns = released_ns;
    loop {
        let count = traffic.count()?;
        if samples.last().is_some_and(|last| last.count != count) {
            moved_ns = now_ns();
        }
        samples.push(Sample { count, look: look(watched) });
        progress.show(&Shown { accepted: u64::from(queued), delivered: Some(u64::from(count)), waits_ms: None });
        let stalled = now_ns() - moved_ns > patience.as_nanos() as u64;
        if count >= queued || stalled || mta.exited().is_some() || stop::requested() {
            progress.finish();
            return Ok((released_ns, samples));
        }
        sleep(LOOK);
    }
}

/// What a message cost between two depths of the queue; a part that was passed between two looks is left out.
fn costs(samples: &[Sample], depth: impl Fn(u32) -> u32) -> Vec<Cost> {
    let between = |bounds: &[u32]| {
        let inside = |sample: &&Sample| (bounds[0]..=bounds[1]).contains(&depth(sample.count));
        let (first, last) = (samples.iter().find(inside)?, samples.iter().rev().find(inside)?);
        let messages = last.count.checked_sub(first.count).filter(|count| *count > 0)?;
        let cpu = |look: &Look| look.server_user_us + look.server_system_us;
        Some(Cost {
            from_depth: bounds[0],
            to_depth: bounds[1],
            cpu_us_per_message: cpu(&last.look).saturating_sub(cpu(&first.look)) as f64 / f64::from(messages),
            per_second: f64::from(messages) / seconds_between(first.look.at_ns, last.look.at_ns).max(1e-9),
        })
    };
    DEPTHS.windows(2).filter_map(between).collect()
}

/// How the rate rose after the release.
#[derive(Debug, PartialEq)]
pub struct Ramp {
    /// From the release to the first delivery.
    pub first_delivery_ms: Option<f64>,
    /// The middle of the rates in the middle of the time, messages a second; `None` when it was over too soon.
    pub full_rate: Option<f64>,
    /// From the release to nine tenths of it.
    pub full_after_ms: Option<f64>,
    /// From the release to the last delivery, messages a second.
    pub mean_rate: f64,
}

impl Ramp {
    /// Reads it from the counts.
    pub fn of(samples: &[Sample], released_ns: u64) -> Ramp {
        let ms = |sample: &Sample| sample.look.at_ns.saturating_sub(released_ns) as f64 / 1e6;
        let start = samples.first().map_or(0, |sample| sample.count);
        let end = samples.last().map_or(0, |sample| sample.count);
        let mut rates = Vec::new();
        let mut from = 0;
        for until in 0..samples.len() {
            while from + 1 < until && samples[until].look.at_ns - samples[from + 1].look.at_ns >= RATE_WINDOW_NS {
                from += 1;
            }
            let seconds = seconds_between(samples[from].look.at_ns, samples[until].look.at_ns);
            if samples[until].look.at_ns - samples[from].look.at_ns >= RATE_WINDOW_NS {
                rates.push((samples[until], f64::from(samples[until].count - samples[from].count) / seconds));
            }
        }
        // The ends are the ramp itself and the last few connections.
        let middle = start + (end - start) / 5..=end - (end - start) / 5;
        let full_rate =
            median(rates.iter().filter(|(at, _)| middle.contains(&at.count)).map(|(_, rate)| *rate).collect());
        let full = full_rate.and_then(|full| rates.iter().find(|(_, rate)| *rate >= FULL * full));
        let last = samples.iter().find(|sample| sample.count == end);
        Ramp {
            first_delivery_ms: samples.iter().find(|sample| sample.count > start).map(ms),
            full_rate,
            full_after_ms: full.map(|(at, _)| ms(at)),
            mean_rate: last.map_or(0.0, |last| f64::from(end - start) / (ms(last) / 1e3).max(1e-9)),
        }
    }
}

fn print(report: &BacklogReport) {
    let waits = |summary: Option<LatencySummary>| {
        summary.map_or_else(|| "unavailable".to_owned(), |found| format!("{:.2}/{:.2}", found.p50, found.max))
    };
    let known = |value: Option<f64>| value.map_or_else(|| "unavailable".to_owned(), |value| format!("{value:.0}"));
    println!("{}: {} queued behind a pause, then released", report.mta, report.queued);
    for (label, value) in [
        ("memory per queued message, octets", format!("{:.0}", report.memory_bytes_per_message)),
        ("resident before/after, MB", {
            format!("{:.1}/{:.1}", report.rss_before_bytes as f64 / 1e6, report.rss_after_bytes as f64 / 1e6)
        }),
        ("pause, ms p50/max, queue empty", waits(report.pause_ms_empty)),
        ("pause, ms p50/max, queue full", waits(report.pause_ms_full)),
        ("release, ms p50/max, queue empty", waits(report.release_ms_empty)),
        ("release, ms p50/max, queue full", waits(report.release_ms_full)),
        ("accepted per second", format!("{:.0}", report.accepted_per_second)),
        ("first delivery after release, ms", known(report.first_delivery_ms)),
        ("full rate after release, ms", known(report.full_rate_after_ms)),
        ("full rate, messages per second", known(report.full_rate_per_second)),
        ("delivered / lost / duplicates", {
            format!("{} / {} / {}", report.delivered, report.lost, report.duplicates)
        }),
    ] {
        println!("{label:<40}{value:>20}");
    }
    for (name, costs) in [("accepting", &report.cost_of_accepting), ("delivering", &report.cost_of_delivering)] {
        for cost in costs {
            let depths = format!("{name} at a depth of {}–{}", cost.from_depth, cost.to_depth);
            println!("{depths:<40}{:>14.1} µs CPU {:>8.0}/s", cost.cpu_us_per_message, cost.per_second);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(count: u32, ms: u64, cpu_us: u64) -> Sample {
        Sample { count, look: Look { at_ns: ms * 1_000_000, server_user_us: cpu_us, ..Look::default() } }
    }

    #[test]
    fn the_cost_is_told_for_each_depth() {
        let samples = [sample(0, 0, 0), sample(1_000, 100, 50_000), sample(10_000, 1_000, 1_400_000)];
        let found = costs(&samples, |count| count);
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].to_depth, found[0].cpu_us_per_message), (1_000, 50.0));
        assert_eq!((found[1].cpu_us_per_message, found[1].per_second), (150.0, 10_000.0));
        // The other way round no two looks lie below 1,000.
        assert_eq!(
            costs(&samples, |count| 10_000 - count).iter().map(|cost| cost.to_depth).collect::<Vec<_>>(),
            [10_000]
        );
    }

    #[test]
    fn the_ramp_ends_where_the_rate_is_full() {
        // Nothing for 200 ms, then 10 a millisecond.
        let samples: Vec<Sample> = (0..100)
            .map(|index| sample(if index <= 10 { 0 } else { (index - 10) * 200 }, u64::from(index) * 20, 0))
            .collect();
        let ramp = Ramp::of(&samples, 0);
        assert_eq!(ramp.first_delivery_ms, Some(220.0));
        assert_eq!(ramp.full_rate, Some(10_000.0));
        assert_eq!(ramp.full_after_ms, Some(300.0));
    }
}
