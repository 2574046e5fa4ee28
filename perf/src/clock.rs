//! The one clock of the harness: monotonic nanoseconds, the same in every process of one host.
//!
//! It must never be compared across hosts, nor be taken for the time of day.

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds since an arbitrary point, common to all processes of this host (`CLOCK_MONOTONIC`).
pub fn now_ns() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    // Both parts of a monotonic time are positive.
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// CPU time that the calling thread has used, nanoseconds.
pub fn thread_cpu_ns() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Seconds between two readings of [`now_ns`]; zero when they are in the wrong order.
pub fn seconds_between(from_ns: u64, until_ns: u64) -> f64 {
    until_ns.saturating_sub(from_ns) as f64 / 1e9
}
