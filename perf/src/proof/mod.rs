//! Durability, shown and not believed: a short sample of messages goes through the server while its system calls are
//! traced, and no 250 may leave before the file that holds the message was synced.
//!
//! Each message of the sample carries a token near its beginning and one at its end. Both must be written to a file, a sync
//! of that file must begin after that and end well, and only then may the 250 for the message be sent: see [`judge`]. Each
//! sync is held up for some milliseconds, so that a server which doesn't wait for it is seen not to.
//!
//! It runs after a round's window and must never run within it: traced calls are slow.

mod call;
mod client;
mod judge;
mod strace;

use std::path::Path;

use serde::Serialize;

use self::client::Sample;
use self::judge::Judge;
use self::strace::Strace;
use crate::cli::ShapeArgs;
use crate::error::{Context, Failure, Result, fail};
use crate::mta::Mta;

/// Messages of a sample; fewer when they are large.
const MESSAGES: u32 = 200;
const LEAST_MESSAGES: u32 = 20;
/// Octets of a sample: all of them are written to the trace several times.
const SAMPLE_OCTETS: u32 = 2 << 20;
/// Connections that send it side by side, so that messages are stored in groups where the server does that.
const CONNECTIONS: u32 = 8;

/// What the sample showed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Durability {
    /// Messages answered with 250.
    pub acknowledged: u32,
    /// Of them, those that had been written to a file that was synced, before the 250 left.
    pub synced_before: u32,
    /// Those that had been written to a file which was not synced yet: the server is not durable.
    pub violations: u32,
    /// Those that were not seen to be written: the server keeps them elsewhere, or by calls that a tracer doesn't see.
    pub unseen: u32,
    /// Syncs that ended well meanwhile.
    pub syncs: u32,
    /// The first violation, in words.
    pub first_violation: Option<String>,
    /// Why there was no sample.
    pub unavailable: Option<String>,
}

impl Durability {
    /// Whether a 250 was seen to leave too early.
    pub fn is_violated(&self) -> bool {
        self.violations > 0
    }

    /// Whether every message of a sample was seen to be synced before its 250.
    pub fn is_shown(&self) -> bool {
        self.acknowledged > 0 && self.synced_before == self.acknowledged
    }

    /// In one line.
    pub fn words(&self) -> String {
        if let Some(why) = &self.unavailable {
            return format!("durability not looked at: {why}");
        }
        let (all, shown) = (self.acknowledged, self.synced_before);
        match &self.first_violation {
            Some(first) => format!("NOT DURABLE: {} of {all} 250s before their sync; {first}", self.violations),
            None if self.is_shown() => format!("durable: {all} of {all} traced 250s after their sync"),
            None => format!("durability not shown: {shown} of {all} traced 250s after a sync, {} unseen", self.unseen),
        }
    }
}

/// Traces a sample; why it can't be had stands in the result.
pub fn take(mta: &dyn Mta, shape: &ShapeArgs, directory: &Path) -> Durability {
    if shape.no_durability {
        return Durability { unavailable: Some("not asked for".to_owned()), ..Durability::default() };
    }
    sample(mta, shape, directory)
        .unwrap_or_else(|failure| Durability { unavailable: Some(failure.to_string()), ..Durability::default() })
}

fn sample(mta: &dyn Mta, shape: &ShapeArgs, directory: &Path) -> Result<Durability> {
    let roots = mta.roots();
    if roots.is_empty() {
        return fail("the server's processes are not known");
    }
    let size = shape.sending.size;
    let messages = (SAMPLE_OCTETS / size.max(1)).clamp(LEAST_MESSAGES, MESSAGES);
    let strace = Strace::attach(&roots, &directory.join("calls"))?;
    let sent =
        Sample { target: mta.address(), messages, size, domains: shape.sending.domains, at_once: CONNECTIONS }.send();
    let calls = strace.finish()?;
    let conversations = sent.map_err(|error| Failure(format!("cannot send the traced sample: {error}")))?;
    let mut judge = Judge::new(&conversations);
    for line in calls.lines() {
        judge.see(line);
    }
    std::fs::remove_file(directory.join("calls")).context("remove the trace")?;
    Ok(judge.verdict())
}
