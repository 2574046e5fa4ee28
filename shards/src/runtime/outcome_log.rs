//! The outcome log's thread: one JSON line for each record, synced in groups. Drops nothing: what cannot be
//! written is kept and tried again, and the shard is told to stop delivering meanwhile.

use super::outcome_file::LogFile;
use super::outcome_line::{Lines, put_ends};
use super::spool_disk::StopProcessOnPanic;
use super::spool_file::{Full, monotonic};
use super::tally::{Ends, Places, Tallies, Tally};
use crate::limits::{
    LOG_GATHER_MS, LOG_QUEUE_BATCHES, LOG_RETRY_MS, LOG_SYNC_LAG_MS, LOG_SYNC_RECORDS, UNLOGGED_BYTES,
};
use crate::outcome::Outcome;
use crate::settings::LogSettings;
use crate::time::Timestamp;
use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

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
pub struct OutcomeLog {
    commands: Sender<Command>,
    thread: JoinHandle<usize>,
}

enum Command {
    Append { last: u64, batch: Vec<Outcome> },
    Reopen,
    Stop,
}

impl OutcomeLog {
    /// Opens (or makes) `directory/delivery-NNN.jsonl` and starts the thread. `nodeid` goes into every record; what
    /// rules have ended is left in the shard's slot of `tallies` once it is durable.
    ///
    /// # Errors
    /// Whatever the file system says: a log that cannot be opened at start is an error, not `Failing`.
    pub fn start(
        directory: &Path,
        shard: u16,
        nodeid: &str,
        settings: LogSettings,
        tallies: &Tallies,
        notify: LogNotify,
    ) -> io::Result<Self> {
        let (file, torn) = LogFile::open(directory, shard)?;
        let (unlogged_file, _) = LogFile::open_unlogged(directory, shard)?;
        if torn > 0 {
            notify(LogEvent::TornLine { octets: torn });
        }
        let (sender, commands) = bounded(LOG_QUEUE_BATCHES);
        let worker = Worker {
            file,
            unlogged_file,
            shard,
            tallies: tallies.clone(),
            tally: Tally::default(),
            unlogged: Ends::default(),
            commands,
            settings,
            lines: Lines::new(nodeid),
            notify,
            pending: Vec::new(),
            written: 0,
            records: 0,
            last: 0,
            last_at: Timestamp(0),
            sync_at: None,
            retry_at: None,
            rotate_at: 0,
        };
        let name = format!("outcomes-{shard:03}");
        let thread = std::thread::Builder::new().name(name).spawn(move || worker.run())?;
        Ok(Self { commands: sender, thread })
    }

    /// Hands records over, in the order in which they happened; `last` is the sequence number of the last of
    /// them, answered by `Synced { up_to }` with that or a higher number. Does not wait.
    ///
    /// # Errors
    /// [`Full`], with what was given.
    pub fn append(&self, last: u64, batch: Vec<Outcome>) -> Result<(), Full<Vec<Outcome>>> {
        self.commands.try_send(Command::Append { last, batch }).map_err(|error| match error.into_inner() {
            Command::Append { batch, .. } => Full(batch),
            _ => unreachable!("the channel gives back what it was given"),
        })
    }

    /// Closes the file and opens it by its name again (SIGHUP, after somebody moved it away). Waits while the
    /// log's queue is full.
    pub fn reopen(&self) {
        // It fails only when the thread has ended.
        let _ = self.commands.send(Command::Reopen);
    }

    /// Writes and syncs what was handed over and ends the thread. Waits for that; a log that fails is tried
    /// once more and then left: the records it could not write are counted in the answer.
    pub fn stop(self) -> usize {
        let _ = self.commands.send(Command::Stop);
        self.thread.join().unwrap_or(0)
    }
}

struct Worker {
    file: LogFile,
    /// Counts of ends that leave no record.
    unlogged_file: LogFile,
    shard: u16,
    tallies: Tallies,
    /// What rules have ended by records that are not durable yet.
    tally: Tally,
    /// Of these, ends that are not in the file of unlogged ends yet.
    unlogged: Ends,
    commands: Receiver<Command>,
    settings: LogSettings,
    lines: Lines,
    notify: LogNotify,
    /// Lines that are not durable yet.
    pending: Vec<u8>,
    /// How many octets of them are in the file.
    written: usize,
    /// How many records they are.
    records: usize,
    /// Sequence number of the last of them.
    last: u64,
    /// Time of the last record, which names a rotated file.
    last_at: Timestamp,
    /// When they must be synced.
    sync_at: Option<Instant>,
    /// When a failing log is tried again; `None` when it works.
    retry_at: Option<Instant>,
    /// Octets at which rotation is tried, when it failed before.
    rotate_at: u64,
}

impl Worker {
    fn run(mut self) -> usize {
        let _guard = StopProcessOnPanic("the outcome log's thread");
        loop {
            let deadline = self.retry_at.or(self.sync_at);
            let received = match deadline {
                Some(deadline) => self.commands.recv_timeout(deadline.saturating_duration_since(monotonic())),
                None => self.commands.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            let stop = match received {
                Ok(command) => self.take(command),
                Err(RecvTimeoutError::Timeout) => false,
                Err(RecvTimeoutError::Disconnected) => true,
            };
            if stop {
                break;
            }
            self.write_and_sync(false);
            // Nobody waits for a record sooner than for its sync. To be woken for every few of them would cost more
            // than to write them.
            if self.commands.is_empty() {
                #[expect(
                    clippy::disallowed_methods,
                    reason = "this is the log's own thread, and nobody waits for it here"
                )]
                std::thread::sleep(Duration::from_millis(LOG_GATHER_MS));
            }
        }
        while let Ok(command) = self.commands.try_recv() {
            self.take(command);
        }
        self.write_and_sync(true);
        self.records
    }

    /// Takes `first` and what has come behind it. True when the thread is to stop.
    fn take(&mut self, first: Command) -> bool {
        let mut next = Some(first);
        while let Some(command) = next {
            match command {
                Command::Append { last, batch } => self.format(last, &batch),
                Command::Reopen => self.reopen(),
                Command::Stop => return true,
            }
            next = if self.records < LOG_SYNC_RECORDS { self.commands.try_recv().ok() } else { None };
        }
        false
    }

    fn format(&mut self, last: u64, batch: &[Outcome]) {
        for outcome in batch {
            if let Some(rule) = outcome.counted_rule() {
                self.tally.add(&rule.id, &outcome.queue, 1);
            }
            if !outcome.unlogged {
                self.lines.put(&mut self.pending, outcome);
            } else if let Some(rule) = outcome.counted_rule() {
                *self.unlogged.entry((rule.id.clone(), outcome.queue.clone())).or_default() += 1;
            }
        }
        self.records += batch.len();
        self.last = self.last.max(last);
        self.last_at = batch.last().map_or(self.last_at, |outcome| outcome.at);
        if self.sync_at.is_none() {
            self.sync_at = Some(monotonic() + Duration::from_millis(LOG_SYNC_LAG_MS));
        }
    }

    fn write_and_sync(&mut self, now_or_never: bool) {
        let now = monotonic();
        if let Some(at) = self.retry_at {
            if now < at && !now_or_never {
                return;
            }
            if let Err(error) =
                self.file.reopen_after_failure().and_then(|()| self.unlogged_file.reopen_after_failure())
            {
                return self.failed(&error);
            }
            self.written = 0;
        }
        let due = self.records >= LOG_SYNC_RECORDS || self.sync_at.is_some_and(|at| now >= at);
        let must_sync = due || now_or_never || self.retry_at.is_some();
        // The log last: what it holds may not be written a second time because something else failed.
        let unlogged = if must_sync { self.write_unlogged() } else { Ok(()) };
        if let Err(error) = unlogged.and_then(|()| self.write(must_sync)) {
            return self.failed(&error);
        }
        if must_sync {
            // Without the places of what was counted the ends stay here and go with the next ones.
            let _ = self.leave_tally();
            self.synced();
        }
    }

    fn write(&mut self, sync: bool) -> io::Result<()> {
        if !self.pending.is_empty() && self.file.follow()? {
            self.written = 0;
        }
        let rest = &self.pending[self.written..];
        if !rest.is_empty() {
            self.file.append(rest)?;
            self.written = self.pending.len();
        }
        if sync && !self.pending.is_empty() { self.file.sync() } else { Ok(()) }
    }

    /// Ends without a record are durable too before the spool forgets their messages.
    fn write_unlogged(&mut self) -> io::Result<()> {
        if self.unlogged.is_empty() {
            return Ok(());
        }
        let mut lines = Vec::new();
        for ((rule, queue), count) in &self.unlogged {
            put_ends(&mut lines, rule, queue, *count, self.last_at);
        }
        self.unlogged_file.follow()?;
        self.unlogged_file.append(&lines)?;
        self.unlogged_file.sync()?;
        self.unlogged.clear();
        Ok(())
    }

    /// What is durable now is counted by whoever keeps the counts.
    fn leave_tally(&mut self) -> io::Result<()> {
        if self.records == 0 {
            return Ok(());
        }
        let slot = &self.tallies[usize::from(self.shard)];
        let mut unlogged = self.unlogged_file.place(self.last_at)?;
        if unlogged.octets >= UNLOGGED_BYTES && slot.is_stored(&unlogged) {
            self.unlogged_file.restart()?;
            unlogged = self.unlogged_file.place(self.last_at)?;
        }
        self.tally.octets += self.pending.len() as u64;
        self.tally.places = Places { log: self.file.place(self.last_at)?, unlogged };
        slot.leave(std::mem::take(&mut self.tally));
        Ok(())
    }

    fn synced(&mut self) {
        if self.retry_at.take().is_some() {
            (self.notify)(LogEvent::Working);
        }
        if self.sync_at.take().is_some() {
            (self.notify)(LogEvent::Synced { up_to: self.last });
        }
        self.pending.clear();
        // One batch may have been large; its memory is not kept.
        self.pending.shrink_to(PENDING_BYTES_KEPT);
        (self.written, self.records) = (0, 0);
        if self.file.length() >= self.settings.rotate_bytes.max(self.rotate_at).max(1) {
            self.rotate();
        }
    }

    fn failed(&mut self, error: &io::Error) {
        let first = self.retry_at.is_none();
        self.retry_at = Some(monotonic() + Duration::from_millis(LOG_RETRY_MS));
        if first {
            let why = format!("{}: {error}", self.file.path().display());
            (self.notify)(LogEvent::Failing { why: why.into() });
        }
    }

    fn rotate(&mut self) {
        // Tried again only when the file has grown by as much as one file should hold.
        self.rotate_at = self.file.length().saturating_add(self.settings.rotate_bytes);
        match self.file.rotate(self.last_at) {
            Ok(()) => self.rotate_at = 0,
            Err(error) => self.housekeeping("rotating", &error),
        }
        if self.settings.keep_bytes > 0
            && let Err(error) = self.file.prune(self.settings.keep_bytes)
        {
            self.housekeeping("removing old files of", &error);
        }
    }

    fn reopen(&mut self) {
        self.write_and_sync(true);
        if self.retry_at.is_none()
            && let Err(error) = self.file.reopen()
        {
            self.housekeeping("reopening", &error);
        }
    }

    fn housekeeping(&self, doing: &str, error: &io::Error) {
        let why = format!("{doing} {}: {error}", self.file.path().display());
        (self.notify)(LogEvent::Housekeeping { why: why.into() });
    }
}

/// Octets of buffer that are kept from one sync to the next.
const PENDING_BYTES_KEPT: usize = 2 << 20;
