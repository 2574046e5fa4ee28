//! The only place of the engine that reads a clock.

use crate::time::{Instant, Now, Timestamp};
use std::sync::OnceLock;

/// Both clocks now. Monotonic time counts from the first call in the process, so all cores share it.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is where the clocks are read")]
pub fn now() -> Now {
    static ORIGIN: OnceLock<std::time::Instant> = OnceLock::new();
    let origin = *ORIGIN.get_or_init(std::time::Instant::now);
    let micros = u64::try_from(origin.elapsed().as_micros()).unwrap_or(u64::MAX);
    let utc = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX));
    Now { instant: Instant(micros), utc: Timestamp(utc) }
}
