//! The only place of the engine that reads a clock.

use crate::limits::TICK_MILLIS;
use crate::time::{Instant, Now, Timestamp};
use std::cell::Cell;
use std::sync::OnceLock;
use std::time::Duration;

/// For how long a thread trusts what it knows of the distance between the clocks. A step of the wall clock is seen
/// after this at the latest, which is within a tick.
const DISTANCE_KEPT: Duration = Duration::from_millis(TICK_MILLIS / 2);

thread_local! {
    /// When the wall clock was read last, by the monotonic clock, and what it showed then, since the epoch.
    static READ: Cell<Option<(Duration, Duration)>> = const { Cell::new(None) };
}

/// Both clocks now. Monotonic time counts from the first call in the process, so all cores share it.
///
/// A message asks for the time more than a dozen times, so the wall clock is not read at each call, but reckoned from
/// the monotonic one.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is where the clocks are read")]
pub fn now() -> Now {
    static ORIGIN: OnceLock<std::time::Instant> = OnceLock::new();
    let since_start = ORIGIN.get_or_init(std::time::Instant::now).elapsed();
    let (at, shown) =
        READ.get().filter(|(at, _)| since_start.saturating_sub(*at) < DISTANCE_KEPT).unwrap_or_else(|| {
            // Before 1970 is as wrong as 1970.
            let shown = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
            READ.set(Some((since_start, shown)));
            (since_start, shown)
        });
    let utc = shown + (since_start - at);
    Now {
        instant: Instant(u64::try_from(since_start.as_micros()).unwrap_or(u64::MAX)),
        utc: Timestamp(i64::try_from(utc.as_millis()).unwrap_or(i64::MAX)),
    }
}
