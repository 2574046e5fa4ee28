//! The fields of the native contract that every call takes that makes a rule, in both dialects. Asks nobody and makes
//! nothing.

use super::fields::{Fields, Wrong};
use crate::rules::schedule::{Schedule, WINDOWS_MAX, Window};
use mailrace_shards::time::Timestamp;

/// The fields of the native contract that both dialects take when a rule is made.
#[derive(Clone, Debug, Default)]
pub struct Common {
    /// Only say what it would do.
    pub dry_run: bool,
    /// For the whole cluster.
    pub cluster: bool,
    /// All mail is meant.
    pub everything: bool,
    start: Option<Timestamp>,
    windows: Vec<Window>,
}

impl Common {
    /// Reads them.
    pub fn read(fields: &Fields) -> Result<Self, Wrong> {
        let windows = fields.array("windows")?;
        if windows.as_ref().is_some_and(Vec::is_empty) {
            // Inside none of them is never, and without windows is always: neither is guessed at.
            return Err(Wrong::Value("windows", "must hold at least one".to_owned()));
        }
        let windows = windows.unwrap_or_default();
        if windows.len() > WINDOWS_MAX {
            return Err(Wrong::Value("windows", format!("are more than {WINDOWS_MAX}")));
        }
        let windows = windows.iter().map(Window::from_json).collect::<Result<_, _>>();
        Ok(Self {
            dry_run: fields.boolean("dry_run")?.unwrap_or(false),
            cluster: fields.boolean("cluster")?.unwrap_or(false),
            everything: fields.boolean("everything")?.unwrap_or(false),
            start: fields.moment("start")?,
            windows: windows.map_err(|why| Wrong::Value("windows", why))?,
        })
    }

    /// When the rule is in force, given its end.
    #[must_use]
    pub fn schedule(&self, end: Option<Timestamp>) -> Schedule {
        Schedule { start: self.start, end, windows: self.windows.clone() }
    }

    /// Whether a rule with this end would never be in force, since it begins no earlier.
    #[must_use]
    pub fn begins_after(&self, end: Timestamp) -> bool {
        self.start.is_some_and(|start| start >= end)
    }

    /// From when on a duration counts.
    #[must_use]
    pub fn begin(&self, now: Timestamp) -> Timestamp {
        self.start.map_or(now, |start| start.max(now))
    }
}
