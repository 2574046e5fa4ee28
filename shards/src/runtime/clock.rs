//! The only place of the engine that reads a clock.

use crate::limits::TICK_MILLIS;
use crate::time::{Instant, Now, Timestamp};
use std::cell::Cell;
use std::sync::OnceLock;
use std::time::Duration;

/// For how long a thread trusts what it knows of the distance between the clocks, in microseconds. A step of the wall
/// clock is seen after this at the latest, which is within a tick.
const DISTANCE_KEPT_MICROS: u64 = TICK_MILLIS * 1000 / 2;

thread_local! {
    /// When the wall clock was read last, by the monotonic clock, and what it showed then, in microseconds since the
    /// epoch.
    static READ: Cell<Option<(u64, u64)>> = const { Cell::new(None) };
    /// What [`now`] has shown last.
    static LAST: Cell<Option<Now>> = const { Cell::new(None) };
}

/// Both clocks now. Monotonic time counts from the first call in the process, so all cores share it.
///
/// The wall clock is not read at each call, but reckoned from the monotonic one.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is where the clocks are read")]
pub fn now() -> Now {
    static ORIGIN: OnceLock<std::time::Instant> = OnceLock::new();
    let since_start = micros(ORIGIN.get_or_init(std::time::Instant::now).elapsed());
    let (at, shown) = READ.get().filter(|(at, _)| since_start - at < DISTANCE_KEPT_MICROS).unwrap_or_else(|| {
        // Before 1970 is as wrong as 1970.
        let shown = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        READ.set(Some((since_start, micros(shown))));
        (since_start, micros(shown))
    });
    let utc = (shown + (since_start - at)) / 1000;
    let now = Now { instant: Instant(since_start), utc: Timestamp(i64::try_from(utc).unwrap_or(i64::MAX)) };
    LAST.set(Some(now));
    now
}

/// What [`now`] has shown last on this thread: on a core's, that is a round of its ready tasks ago at most. It never
/// runs backwards against `now`. For whatever a message asks a dozen times and needs to know but roughly, such as when a
/// reply will be late.
#[must_use]
pub fn recent() -> Now {
    LAST.get().unwrap_or_else(now)
}

/// In less than 2^64 for half a million years.
fn micros(duration: Duration) -> u64 {
    duration.as_secs().saturating_mul(1_000_000).saturating_add(u64::from(duration.subsec_micros()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_shown_last_is_told_until_the_clocks_are_read_again() {
        // On a thread of its own, which has not asked yet.
        let first = recent();
        assert_eq!(recent(), first);
        let mut shown = now();
        while shown == first {
            shown = now();
        }
        assert!(shown.instant >= first.instant);
        assert_eq!(recent(), shown);
    }
}
