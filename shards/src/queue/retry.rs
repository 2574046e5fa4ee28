//! When a message is tried again and when it is given up.

use crate::message::Envelope;
use crate::settings::RetrySettings;
use crate::time::Timestamp;
use std::time::Duration;

/// When to try again after failed attempt number `attempts` (from 1): the message's own schedule if it has
/// one, else the configured one; the last interval repeats.
#[must_use]
pub fn due_after(settings: &RetrySettings, envelope: &Envelope, attempts: u16, now: Timestamp) -> Timestamp {
    let index = usize::from(attempts.max(1)) - 1;
    let own = envelope.extras().map_or(&[][..], |extras| &extras.retries);
    let wait = match own.get(index).or(own.last()) {
        Some(seconds) => Duration::from_secs(u64::from(*seconds)),
        None => {
            settings.intervals.get(index).or(settings.intervals.last()).copied().unwrap_or(Duration::from_secs(600))
        }
    };
    now.after(wait)
}

/// When a message fails for good: its own wish, else the configured age, which counts from when it may first be tried.
#[must_use]
pub fn expires_at(settings: &RetrySettings, envelope: &Envelope) -> Timestamp {
    let extras = envelope.extras();
    let begins = extras.and_then(|extras| extras.not_before).unwrap_or_default().max(envelope.received());
    extras.and_then(|extras| extras.expires).unwrap_or_else(|| begins.after(settings.max_age))
}
