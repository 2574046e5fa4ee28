//! Waiting for conditions.

#![allow(clippy::disallowed_methods, reason = "the tests are outside the engine and watch it by the clock")]

use std::time::{Duration, Instant};

/// How long anything may take before a test says that it hangs.
pub const PATIENCE: Duration = Duration::from_secs(120);

const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Looks until `condition` gives something. Panics with `what` when [`PATIENCE`] is over.
pub fn until_some<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(start.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Looks until `condition` holds. Panics with `what` when [`PATIENCE`] is over.
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    until_some(what, || condition().then_some(()));
}

/// Lets the system run on for a while, for scripts of destinations (never to wait for a result).
pub fn linger(time: Duration) {
    std::thread::sleep(time);
}

/// Now, for those who write down when something came.
pub fn moment() -> Instant {
    Instant::now()
}
