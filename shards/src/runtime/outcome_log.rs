//! The outcome log's thread: one JSON line for each record, synced in groups. Drops nothing: what cannot be
//! written is kept and tried again, and the shard is told to stop delivering meanwhile.

use super::spool_file::Full;
use crate::outcome::Outcome;
use crate::settings::LogSettings;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// What the log has to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogEvent {
    /// Every record up to this sequence is durable.
    Synced {
        /// The caller's sequence number of the last record.
        up_to: u64,
    },
    /// Nothing can be written or synced: stop delivering. What was handed over is kept and tried again.
    Failing {
        /// Why, with the file's name.
        why: Arc<str>,
    },
    /// Written and synced again after `Failing`.
    Working,
    /// At start, the last line of the file had no end; it was cut off.
    TornLine {
        /// How many octets.
        octets: u64,
    },
    /// An old file could not be removed although `keep_bytes` wants it, or a file could not be rotated.
    /// Records are written all the same.
    Housekeeping {
        /// What, with the file's name.
        why: Arc<str>,
    },
}

/// Called on the log's thread; must be cheap and must not wait.
pub type LogNotify = Box<dyn Fn(LogEvent) + Send>;

/// One shard's outcome log.
pub struct OutcomeLog {}

impl OutcomeLog {
    /// Opens (or makes) `directory/delivery-NNN.jsonl` and starts the thread. `nodeid` goes into every record.
    ///
    /// # Errors
    /// Whatever the file system says: a log that cannot be opened at start is an error, not `Failing`.
    pub fn start(
        directory: &Path,
        shard: u16,
        nodeid: &str,
        settings: LogSettings,
        notify: LogNotify,
    ) -> io::Result<Self> {
        let _ = (directory, shard, nodeid, settings, notify);
        Ok(Self {})
    }

    /// Hands records over, in the order in which they happened; `last` is the sequence number of the last of
    /// them, answered by `Synced { up_to }` with that or a higher number. Does not wait.
    ///
    /// # Errors
    /// [`Full`], with what was given.
    pub fn append(&self, last: u64, batch: Vec<Outcome>) -> Result<(), Full<Vec<Outcome>>> {
        let _ = last;
        Err(Full(batch))
    }

    /// Closes the file and opens it by its name again (SIGHUP, after somebody moved it away).
    pub fn reopen(&self) {}

    /// Writes and syncs what was handed over and ends the thread. Waits for that; a log that fails is tried
    /// once more and then left: the records it could not write are counted in the answer.
    pub fn stop(self) -> usize {
        0
    }
}
