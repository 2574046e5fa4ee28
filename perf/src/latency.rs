//! A histogram of waiting times and the few figures reported from it.
//!
//! Values beyond the range are recorded as its end, never dropped: a slow answer must not vanish from the maximum.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// One hour: nothing in the harness waits longer.
const MAX_US: u64 = 3_600_000_000;

/// Waiting times, three significant digits.
pub struct Latency(Histogram<u64>);

/// What a report says of a histogram, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LatencySummary {
    /// Half of the messages waited no longer.
    pub p50: f64,
    /// Ninety-nine of a hundred waited no longer.
    pub p99: f64,
    /// Nine hundred and ninety-nine of a thousand waited no longer.
    pub p999: f64,
    /// The longest wait.
    pub max: f64,
}

impl Latency {
    /// An empty histogram.
    pub fn new() -> Latency {
        // The bounds are constants for which the construction cannot fail (1 ≤ low, 2·low ≤ high, at most 5 digits).
        Latency(Histogram::new_with_bounds(1, MAX_US, 3).unwrap_or_else(|_| unreachable!("constant bounds")))
    }

    /// Adds one wait, in nanoseconds.
    pub fn record_ns(&mut self, wait_ns: u64) {
        self.0.saturating_record((wait_ns / 1_000).max(1));
    }

    /// Median, 99th percentile, maximum; `None` when nothing was recorded.
    pub fn summary(&self) -> Option<LatencySummary> {
        let ms = |us: u64| us as f64 / 1e3;
        (!self.0.is_empty()).then(|| LatencySummary {
            p50: ms(self.0.value_at_quantile(0.50)),
            p99: ms(self.0.value_at_quantile(0.99)),
            p999: ms(self.0.value_at_quantile(0.999)),
            max: ms(self.0.max()),
        })
    }
}
