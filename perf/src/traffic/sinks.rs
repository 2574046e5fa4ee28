//! The sink's processes: one, or as many at one port as the limit of open files makes necessary, seen as one.
//!
//! A message counts once, whichever process took it: the sets of their numbers are united, never only their counts.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{ChildStdin, ChildStdout, Stdio};
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::cli::{ShapeArgs, SinkProfileArgs};
use crate::error::{Context, Failure, Result, fail};
use crate::files;
use crate::guard::Guarded;
use crate::latency::LatencySummary;
use crate::numbers::NumberSet;
use crate::sampler::process::Roots;
use crate::sink::tally::{MAX_MISSING_RANGES, Report};
use crate::timeline::Point;

/// All of them.
pub struct Sinks {
    address: SocketAddr,
    capacity: u32,
    processes: Vec<Sink>,
}

struct Sink {
    commands: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    process: Guarded,
}

#[derive(Deserialize)]
struct Count {
    delivered: u32,
}

#[derive(Deserialize)]
struct Seen {
    seen: String,
}

impl Sinks {
    /// Starts as many as were asked for, or as are necessary.
    pub fn start(shape: &ShapeArgs) -> Result<Sinks> {
        let profile = &shape.sink;
        let necessary = files::processes(u64::from(profile.sink_connections), files::connections()) as u32;
        let count = profile.sink_processes.unwrap_or(necessary).max(1);
        let each = SinkProfileArgs { sink_connections: profile.sink_connections.div_ceil(count), ..profile.clone() };
        let (first, address) = Sink::start(&each, profile.sink_listen, count > 1)?;
        let mut processes = vec![first];
        for _ in 1..count {
            processes.push(Sink::start(&each, Some(address), true)?.0);
        }
        Ok(Sinks { address, capacity: 0, processes })
    }

    /// Where they listen.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The processes.
    pub fn roots(&self) -> Roots {
        Roots { pids: self.processes.iter().map(|sink| sink.process.pid()).collect(), group: None }
    }

    /// Begins to count run `run` with the numbers below `capacity`.
    pub fn reset(&mut self, run: u32, capacity: u32) -> Result<()> {
        self.capacity = capacity;
        let command = format!("reset {run} {capacity}");
        self.processes.iter_mut().try_for_each(|sink| sink.ask::<Count>(&command).map(|_| ()))
    }

    /// Messages of the run so far; what two processes took counts in both.
    pub fn count(&mut self) -> Result<u32> {
        self.processes.iter_mut().try_fold(0, |sum, sink| Ok(sum + sink.ask::<Count>("count")?.delivered))
    }

    /// Everything that they have seen.
    pub fn report(&mut self) -> Result<Report> {
        let mut reports = Vec::new();
        for sink in &mut self.processes {
            reports.push(sink.ask::<Report>("report")?);
        }
        if let [only] = &mut reports[..] {
            return Ok(std::mem::take(only));
        }
        let mut all = NumberSet::new(self.capacity);
        for sink in &mut self.processes {
            let seen = sink.ask::<Seen>("seen")?.seen;
            if !all.unite(&seen) {
                return fail("a sink's numbers are not those of its run");
            }
        }
        Ok(united(&reports, &all))
    }
}

impl Sink {
    fn start(profile: &SinkProfileArgs, listen: Option<SocketAddr>, shared: bool) -> Result<(Sink, SocketAddr)> {
        let ourselves = std::env::current_exe().context("find our own program")?;
        let mut process = Guarded::start(&ourselves, Duration::from_secs(5), |command| {
            command
                .args(["sink", "--control"])
                .args(profile.arguments())
                .args(listen.map(|address| format!("--listen={address}")))
                .args(shared.then_some("--shared-port"))
                .args(profile.sink_cpu.map(|cpu| format!("--cpu={cpu}")))
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
        })?;
        let child = process.child();
        let missing = || Failure("the sink has no pipes".to_owned());
        let commands = child.stdin.take().ok_or_else(missing)?;
        let mut answers = BufReader::new(child.stdout.take().ok_or_else(missing)?);
        let mut line = String::new();
        answers.read_line(&mut line).context("read the sink's address")?;
        let address = line.trim().trim_start_matches("listening ").parse().context("read the sink's address")?;
        Ok((Sink { commands: Some(commands), answers, process }, address))
    }

    fn ask<T: DeserializeOwned>(&mut self, command: &str) -> Result<T> {
        if let Some(commands) = &mut self.commands {
            commands.write_all(format!("{command}\n").as_bytes()).context("ask the sink")?;
        }
        let mut line = String::new();
        self.answers.read_line(&mut line).context("read the sink's answer")?;
        let start: String = line.trim().chars().take(200).collect();
        serde_json::from_str(&line).context(format_args!("understand the sink's answer to {command} ({start})"))
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        // The end of its input ends the sink; the guard sees to it if it doesn't.
        self.commands = None;
        self.process.wait(Duration::from_secs(1));
    }
}

/// Several reports as one, with the numbers that any of them has seen.
fn united(reports: &[Report], seen: &NumberSet) -> Report {
    let mut whole = reports[0].clone();
    for other in &reports[1..] {
        whole.totals.add(&other.totals);
        whole.duplicates += other.duplicates;
        whole.foreign += other.foreign;
        whole.peak_connections += other.peak_connections;
        whole.last_ns = whole.last_ns.max(other.last_ns);
        whole.timeline = added(&whole, other);
        whole.first_ns = [whole.first_ns, other.first_ns].into_iter().filter(|at| *at > 0).min().unwrap_or(0);
        whole.latency_ms = worse(whole.latency_ms, other.latency_ms);
    }
    let counted: u32 = reports.iter().map(|report| report.delivered).sum();
    whole.delivered = seen.count();
    whole.duplicates += u64::from(counted.saturating_sub(whole.delivered));
    (whole.missing, whole.missing_complete) = seen.missing(MAX_MISSING_RANGES);
    whole
}

/// Of two processes the longer waits: never better than what was.
fn worse(one: Option<LatencySummary>, other: Option<LatencySummary>) -> Option<LatencySummary> {
    let (Some(a), Some(b)) = (one, other) else { return one.or(other) };
    Some(LatencySummary {
        p50: a.p50.max(b.p50),
        p99: a.p99.max(b.p99),
        p999: a.p999.max(b.p999),
        max: a.max.max(b.max),
    })
}

/// Rates added, waits the longer ones; the earlier beginning is the beginning of both.
fn added(one: &Report, other: &Report) -> Vec<Point> {
    let (first, second) = if one.first_ns <= other.first_ns { (one, other) } else { (other, one) };
    let later = second.first_ns.saturating_sub(first.first_ns) as f64 / 1e9;
    let mut points = first.timeline.clone();
    for point in &second.timeline {
        let at = point.second + later;
        let place = points.partition_point(|there| there.second <= at).saturating_sub(1);
        match points.get_mut(place) {
            Some(there) if at - there.second < 0.5 => {
                there.per_second += point.per_second;
                there.p50 = there.p50.max(point.p50);
                there.p99 = there.p99.max(point.p99);
            }
            _ => points.push(Point { second: at, ..*point }),
        }
    }
    points
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_two_processes_took_is_a_duplicate_and_counts_once() {
        let mut seen = NumberSet::new(4);
        for number in [0, 1, 3] {
            seen.insert(number);
        }
        let report = |delivered, first_ns| Report { delivered, first_ns, peak_connections: 2, ..Report::default() };
        let whole = united(&[report(2, 50), report(2, 20)], &seen);
        assert_eq!((whole.delivered, whole.duplicates, whole.peak_connections), (3, 1, 4));
        assert_eq!((whole.first_ns, whole.missing), (20, vec![(2, 2)]));
    }
}
