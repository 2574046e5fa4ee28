//! Our generator, in a thread of this process, and our sink, in a process of its own.
//!
//! Counts are exact: each message has a number, and the sets of both ends are compared.

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::sinks::Sinks;
use super::{Counts, Outcome, Traffic, watch};
use crate::cli::ShapeArgs;
use crate::clock::seconds_between;
use crate::error::{Context, Result};
use crate::generator::drive;
use crate::generator::tally::{Live, Tally};
use crate::mta::Mta;
use crate::progress::Progress;
use crate::sampler::process::Roots;
use crate::sink::tally::Report;
use crate::timeline::Point;

/// Our own pair.
pub struct OwnTraffic {
    shape: ShapeArgs,
    sinks: Sinks,
    run: u32,
}

/// A generator at work.
pub struct Sending {
    /// What can be seen of it.
    pub live: Arc<Live>,
    thread: JoinHandle<std::io::Result<Tally>>,
}

impl Sending {
    /// Whether it has ended.
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits for its end; what it did.
    pub fn join(self) -> Result<Tally> {
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)).context("generate load")
    }
}

impl OwnTraffic {
    /// Starts the sink.
    pub fn start(shape: &ShapeArgs) -> Result<OwnTraffic> {
        let sinks = Sinks::start(shape)?;
        // Run numbers differ between processes, so that a server's old mail is not taken for new.
        let run = std::process::id() << 8;
        Ok(OwnTraffic { shape: shape.clone(), sinks, run })
    }

    /// Begins a run: the sink counts it, and a thread sends it.
    pub fn begin(&mut self, target: SocketAddr, messages: u32) -> Result<Sending> {
        self.run += 1;
        self.sinks.reset(self.run, messages)?;
        let load = self.shape.sending.load(target, self.run, messages);
        let live = Arc::new(Live::default());
        let shared = Arc::clone(&live);
        Ok(Sending { live, thread: thread::spawn(move || drive::run(load, shared)) })
    }

    /// Messages of the run that the sink has taken.
    pub fn count(&mut self) -> Result<u32> {
        self.sinks.count()
    }

    /// Everything that the sink has seen.
    pub fn report(&mut self) -> Result<Report> {
        self.sinks.report()
    }
}

impl Traffic for OwnTraffic {
    fn sink(&self) -> SocketAddr {
        self.sinks.address()
    }

    fn sink_processes(&self) -> Roots {
        self.sinks.roots()
    }

    fn send(&mut self, mta: &mut dyn Mta, messages: u32, title: &str) -> Result<Outcome> {
        let before = self.report()?;
        let sending = self.begin(mta.address(), messages)?;
        let patience = Duration::from_secs(self.shape.patience);
        watch(mta, Progress::start(title, messages, true), patience, || {
            // In this order: what is accepted after the thread was seen to have ended is none.
            let over = sending.is_finished();
            let (accepted, waits_ms) = (sending.live.accepted(), Some(sending.live.waits_ms()));
            Ok(Counts { accepted, delivered: u64::from(self.count()?), sending: !over, waits_ms })
        })?;
        let tally = sending.join()?;
        let report = self.report()?;
        Ok(outcome(&tally, &report, &before))
    }
}

fn outcome(tally: &Tally, report: &Report, before: &Report) -> Outcome {
    let summary = tally.summary();
    let missing = report.missing.iter().flat_map(|(first, last)| *first..=*last);
    let mut lost = missing.filter(|number| tally.accepted.contains(*number)).count() as u32;
    if !report.missing_complete {
        // Too scattered to be listed: at least this many.
        lost = lost.max(summary.accepted.saturating_sub(report.delivered));
    }
    Outcome {
        accepted: summary.accepted,
        accept_seconds: seconds_between(tally.first_ns, tally.last_ns),
        delivered: report.delivered,
        deliver_seconds: seconds_between(tally.first_ns, report.last_ns),
        duplicates: Some(report.duplicates),
        lost,
        unasked: (report.delivered + lost).saturating_sub(summary.accepted),
        accept_latency: summary.latency_ms,
        delivery_latency: report.latency_ms,
        first_ns: tally.first_ns,
        accepted_over_time: tally.timeline.points(tally.first_ns),
        delivered_over_time: shifted(&report.timeline, report.first_ns, tally.first_ns),
        refused: summary.refused,
        failures: summary.failures.into_iter().map(|(reason, count)| (reason.to_owned(), count)).collect(),
        sink_connections: Some(report.totals.connections - before.totals.connections),
        sink_peak_connections: Some(report.peak_connections),
        sink_tls_messages: Some(report.totals.tls_messages - before.totals.tls_messages),
        sink_refusals: Some(report.totals.refusals() - before.totals.refusals()),
        sink_protocol_errors: Some(report.totals.protocol_errors - before.totals.protocol_errors),
    }
}

/// The sink counts its time from its first message, a round from the first that was begun.
pub fn shifted(points: &[Point], from_ns: u64, zero_ns: u64) -> Vec<Point> {
    let later = from_ns.saturating_sub(zero_ns) as f64 / 1e9;
    points.iter().map(|point| Point { second: point.second + later, ..*point }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::marker::Marker;
    use crate::sink::tally;

    /// Accepted numbers, delivered numbers, then: lost, unasked, duplicates.
    type Row = (&'static [u32], &'static [u32], (u32, u32, u64));

    #[test]
    fn losses_duplicates_and_what_nobody_acknowledged_are_told_apart() {
        let rows: [Row; 5] = [
            (&[0, 1, 2], &[0, 1, 2], (0, 0, 0)),
            (&[0, 1, 2], &[2, 0], (1, 0, 0)),
            (&[0, 1], &[0, 1, 3], (0, 1, 0)),
            (&[0, 1], &[0, 3, 3], (1, 1, 1)),
            (&[0, 1, 2], &[], (3, 0, 0)),
        ];
        for (accepted, delivered, expected) in rows {
            let mut sent = Tally::new(4, Arc::default());
            accepted.iter().for_each(|number| sent.accept(*number, 0));
            let mut seen = tally::Tally::new();
            seen.reset(1, 4);
            delivered.iter().for_each(|number| seen.accept(Some(Marker { run: 1, number: *number, sent_ns: 0 }), 1));
            let outcome = outcome(&sent, &seen.report(), &Report::default());
            let found = (outcome.lost, outcome.unasked, outcome.duplicates.unwrap_or(0));
            assert_eq!(found, expected, "{accepted:?} → {delivered:?}");
        }
    }
}
