//! What a sink has seen: totals since it started, and the exact set of numbers of the current run.
//!
//! A message is counted when its end of data is answered with 250, neither before nor otherwise.

use serde::{Deserialize, Serialize};

use crate::clock::now_ns;
use crate::latency::{Latency, LatencySummary};
use crate::marker::Marker;
use crate::numbers::NumberSet;
use crate::timeline::{Point, Timeline};

/// Ranges of missing numbers that a report names at most.
pub const MAX_MISSING_RANGES: usize = 4_096;

/// Totals since the sink started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Connections taken.
    pub connections: u64,
    /// Connections greeted with 421 because of the limit.
    pub connections_refused: u64,
    /// Messages answered with 250.
    pub messages: u64,
    /// Of those, over TLS.
    pub tls_messages: u64,
    /// Of those, by BDAT.
    pub chunked_messages: u64,
    /// Recipients of those.
    pub recipients: u64,
    /// Octets of content received, refused messages included.
    pub octets: u64,
    /// Messages answered with 451 on purpose.
    pub tempfailed: u64,
    /// Messages answered with 550 on purpose.
    pub permfailed: u64,
    /// Connections closed on purpose in the place of a reply.
    pub dropped: u64,
    /// Commands that a correct client doesn't send: unknown, out of order, too long, bare LF.
    pub protocol_errors: u64,
}

impl Totals {
    /// Adds those of another sink.
    pub fn add(&mut self, other: &Totals) {
        self.connections += other.connections;
        self.connections_refused += other.connections_refused;
        self.messages += other.messages;
        self.tls_messages += other.tls_messages;
        self.chunked_messages += other.chunked_messages;
        self.recipients += other.recipients;
        self.octets += other.octets;
        self.tempfailed += other.tempfailed;
        self.permfailed += other.permfailed;
        self.dropped += other.dropped;
        self.protocol_errors += other.protocol_errors;
    }

    /// Messages that the profile kept from being taken.
    pub fn refusals(&self) -> u64 {
        self.tempfailed + self.permfailed + self.dropped
    }
}

/// What the sink knows of the current run, as sent to the runner.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// Totals since the sink started.
    pub totals: Totals,
    /// The run counted below.
    pub run: u32,
    /// Different messages of the run that were answered with 250.
    pub delivered: u32,
    /// Further 250s for messages that had one already.
    pub duplicates: u64,
    /// Messages without a marker, or of another run.
    pub foreign: u64,
    /// Most connections at once since the run began.
    pub peak_connections: u64,
    /// When the first message of the run was accepted ([`now_ns`]); 0 before.
    pub first_ns: u64,
    /// When the newest message of the run (not a duplicate) was accepted; 0 before.
    pub last_ns: u64,
    /// From the generator's end of data to the sink's.
    pub latency_ms: Option<LatencySummary>,
    /// Deliveries over time, from `first_ns`.
    pub timeline: Vec<Point>,
    /// Numbers of the run that did not arrive, inclusive ranges.
    pub missing: Vec<(u32, u32)>,
    /// Whether `missing` names them all.
    pub missing_complete: bool,
}

/// The counts of a sink.
pub struct Tally {
    /// Totals since the sink started.
    pub totals: Totals,
    run: u32,
    seen: NumberSet,
    duplicates: u64,
    foreign: u64,
    connections: u64,
    peak_connections: u64,
    first_ns: u64,
    last_ns: u64,
    latency: Latency,
    timeline: Timeline,
}

impl Tally {
    /// All zero; no run yet, so every message is foreign.
    pub fn new() -> Tally {
        Tally {
            totals: Totals::default(),
            run: 0,
            seen: NumberSet::default(),
            duplicates: 0,
            foreign: 0,
            connections: 0,
            peak_connections: 0,
            first_ns: 0,
            last_ns: 0,
            latency: Latency::new(),
            timeline: Timeline::new(),
        }
    }

    /// Starts counting a run with the numbers below `capacity`; the totals go on.
    pub fn reset(&mut self, run: u32, capacity: u32) {
        let (totals, connections) = (self.totals, self.connections);
        let seen = NumberSet::new(capacity);
        *self = Tally { totals, run, seen, connections, peak_connections: connections, ..Tally::new() };
    }

    /// So many connections are open now.
    pub fn open_connections(&mut self, count: usize) {
        self.connections = count as u64;
        self.peak_connections = self.peak_connections.max(self.connections);
    }

    /// One message answered with 250.
    pub fn accept(&mut self, marker: Option<Marker>, recipients: u32) {
        self.totals.messages += 1;
        self.totals.recipients += u64::from(recipients);
        let mine = marker.filter(|marker| marker.run == self.run);
        let Some((marker, new)) = mine.and_then(|marker| Some((marker, self.seen.insert(marker.number)?))) else {
            self.foreign += 1;
            return;
        };
        if !new {
            self.duplicates += 1;
            return;
        }
        self.last_ns = now_ns();
        if self.first_ns == 0 {
            self.first_ns = self.last_ns;
        }
        let wait_ns = self.last_ns.saturating_sub(marker.sent_ns);
        self.latency.record_ns(wait_ns);
        self.timeline.record(self.last_ns, wait_ns);
    }

    /// Different messages of the run so far.
    pub fn delivered(&self) -> u32 {
        self.seen.count()
    }

    /// Further copies of messages of the run so far.
    pub fn duplicates(&self) -> u64 {
        self.duplicates
    }

    /// The numbers of the run that were accepted.
    pub fn seen(&self) -> &NumberSet {
        &self.seen
    }

    /// Everything, for the runner or the operator.
    pub fn report(&self) -> Report {
        let (missing, missing_complete) = self.seen.missing(MAX_MISSING_RANGES);
        Report {
            totals: self.totals,
            run: self.run,
            delivered: self.delivered(),
            duplicates: self.duplicates,
            foreign: self.foreign,
            peak_connections: self.peak_connections,
            first_ns: self.first_ns,
            last_ns: self.last_ns,
            latency_ms: self.latency.summary(),
            timeline: self.timeline.points(self.first_ns),
            missing,
            missing_complete,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn duplicates_strangers_and_losses_are_told_apart() {
        let mut tally = Tally::new();
        tally.reset(7, 4);
        let marker = |run, number| Some(Marker { run, number, sent_ns: 1 });
        for seen in [marker(7, 0), marker(7, 2), marker(7, 2), marker(6, 1), marker(7, 9), None] {
            tally.accept(seen, 1);
        }
        let report = tally.report();
        assert_eq!((report.delivered, report.duplicates, report.foreign), (2, 1, 3));
        assert_eq!(report.missing, [(1, 1), (3, 3)]);
        assert_eq!(report.totals.messages, 6);
    }
}
