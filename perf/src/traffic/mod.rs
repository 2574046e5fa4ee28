//! Both ends of a measurement: something that sends through a server, something that receives what it delivers.
//!
//! There are two such pairs, our own and Postfix's; the scenario doesn't know which one it uses.

pub mod own;
pub mod postfix;
mod sinks;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::thread::sleep;
use std::time::Duration;

use crate::clock::now_ns;
use crate::error::Result;
use crate::latency::LatencySummary;
use crate::mta::Mta;
use crate::progress::{Progress, Shown};
use crate::sampler::process::Roots;
use crate::stop;
use crate::timeline::Point;

/// How often the counts are read.
const LOOK: Duration = Duration::from_millis(50);
/// After the last delivery, for the server's own work that follows it, and for duplicates.
const SETTLE: Duration = Duration::from_millis(300);

/// A sender and a receiver.
pub trait Traffic {
    /// Where the server under test has to deliver.
    fn sink(&self) -> SocketAddr;
    /// The processes that are the receiver.
    fn sink_processes(&self) -> Roots;
    /// Sends `messages` messages through `mta`, waits until they have come out and for the server to settle.
    fn send(&mut self, mta: &mut dyn Mta, messages: u32, title: &str) -> Result<Outcome>;
}

/// What became of the messages.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Accepted by the server.
    pub accepted: u32,
    /// From the first message's beginning to the last acceptance.
    pub accept_seconds: f64,
    /// Different messages that the sink took.
    pub delivered: u32,
    /// From the first message's beginning to the last delivery.
    pub deliver_seconds: f64,
    /// Further copies; `None` if the sink can't tell.
    pub duplicates: Option<u64>,
    /// Accepted and not delivered.
    pub lost: u32,
    /// Delivered though not accepted: the connection broke before the answer.
    pub unasked: u32,
    /// From the end of data to the 250.
    pub accept_latency: Option<LatencySummary>,
    /// From the generator's end of data to the sink's.
    pub delivery_latency: Option<LatencySummary>,
    /// When the first message was begun, [`now_ns`].
    pub first_ns: u64,
    /// Acceptances over time.
    pub accepted_over_time: Vec<Point>,
    /// Deliveries over time.
    pub delivered_over_time: Vec<Point>,
    /// Messages refused, by reply code.
    pub refused: BTreeMap<u16, u64>,
    /// Broken connections, by reason.
    pub failures: BTreeMap<String, u64>,
    /// Connections that the server opened to the sink.
    pub sink_connections: Option<u64>,
    /// The most of them at once.
    pub sink_peak_connections: Option<u64>,
    /// Messages that came over TLS.
    pub sink_tls_messages: Option<u64>,
    /// Messages that the sink answered otherwise than with 250, as its profile asked.
    pub sink_refusals: Option<u64>,
    /// Commands that a correct client doesn't send.
    pub sink_protocol_errors: Option<u64>,
}

/// One look at both ends.
struct Counts {
    accepted: u64,
    delivered: u64,
    sending: bool,
    waits_ms: Option<(f64, f64)>,
}

/// Looks until nothing more is to be expected: all delivered, no progress for `patience`, the server gone, or a signal.
fn watch(
    mta: &mut dyn Mta,
    mut progress: Progress,
    patience: Duration,
    mut look: impl FnMut() -> Result<Counts>,
) -> Result<()> {
    let mut last = 0;
    let mut moved_ns = now_ns();
    loop {
        let counts = look()?;
        let (accepted, delivered) = (counts.accepted, Some(counts.delivered));
        progress.show(&Shown { accepted, delivered, waits_ms: counts.waits_ms });
        if counts.accepted + counts.delivered != last {
            last = counts.accepted + counts.delivered;
            moved_ns = now_ns();
        }
        // While it is sending, the generator's own bounds hold.
        let stalled = now_ns().saturating_sub(moved_ns) > patience.as_nanos() as u64;
        let all = counts.delivered >= counts.accepted;
        if !counts.sending && (all || stalled || mta.exited().is_some() || stop::requested()) {
            progress.finish();
            sleep(SETTLE);
            return Ok(());
        }
        sleep(LOOK);
    }
}
