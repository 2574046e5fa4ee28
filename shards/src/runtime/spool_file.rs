//! The spool's thread: takes what the accepting core wants stored, writes it in groups, and says what became
//! of it. Never decides anything itself: that is [`crate::spool::journal::Journal`].

use super::spool_disk::DirectoryDisk;
use super::spool_found::{Finder, FoundMail};
use crate::limits::{
    SPOOL_GROUP_BYTES, SPOOL_GROUP_COMMANDS, SPOOL_QUEUE_COMMANDS, SPOOL_RETRY_MS, SPOOL_SPACE_CHECK_MS,
    SPOOL_SYNC_LAG_MS,
};
use crate::message::{Body, Envelope};
use crate::settings::SyncPolicy;
use crate::spool::disk::Disk;
use crate::spool::journal::{Journal, JournalOptions};
use crate::spool::recover::{self, Findings};
use crate::spool::report::{Point, Progress, Refusal, SpoolCompletion, SpoolError};
use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded};
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How a spool behaves.
#[derive(Clone, Debug)]
pub struct SpoolOptions {
    /// When a message is acknowledged.
    pub sync: SyncPolicy,
    /// Free octets of the file system below which [`SpoolHandle::refusing`] says so.
    pub min_free_bytes: u64,
    /// Nothing is moved before [`SpoolHandle::all_posted`]: what was found is not in any queue yet, and nobody there
    /// would hear of it.
    pub posting: bool,
}

/// Called on the spool's thread, once a group; must be cheap and must not wait.
pub type SpoolNotify = Box<dyn Fn(Vec<SpoolCompletion>) + Send>;

/// The queue into the spool's thread is full (or the thread has ended): the caller keeps what it wanted to
/// hand over and tries again later.
#[derive(Debug)]
pub struct Full<T>(pub T);

/// Hands work to one spool. Cheap to clone, usable from any thread.
#[derive(Clone)]
pub struct SpoolHandle {
    commands: Sender<Command>,
    flags: Arc<Flags>,
}

enum Command {
    Store {
        ticket: u64,
        envelope: Arc<Envelope>,
        body: Body,
    },
    Progress(Vec<Progress>),
    /// What was found, and up to which point, when the outcome log has all of its receptions.
    Adopt(Box<Findings>, Option<Point>),
    Stop,
}

#[derive(Default)]
struct Flags {
    low_space: AtomicBool,
    failing: AtomicBool,
    posting: AtomicBool,
}

impl SpoolHandle {
    /// Stores a message; answered by `Stored` or `Failed` with this `ticket`. Does not wait.
    ///
    /// # Errors
    /// [`Full`], with what was given.
    pub fn store(&self, ticket: u64, envelope: Arc<Envelope>, body: Body) -> Result<(), Full<(Arc<Envelope>, Body)>> {
        self.commands.try_send(Command::Store { ticket, envelope, body }).map_err(|error| match error.into_inner() {
            Command::Store { envelope, body, .. } => Full((envelope, body)),
            _ => unreachable!("the channel gives back what it was given"),
        })
    }

    /// Tells what became of recipients. Durable within 50 ms, not answered. Does not wait.
    ///
    /// # Errors
    /// [`Full`], with what was given.
    pub fn progress(&self, batch: Vec<Progress>) -> Result<(), Full<Vec<Progress>>> {
        self.commands.try_send(Command::Progress(batch)).map_err(|error| match error.into_inner() {
            Command::Progress(batch) => Full(batch),
            _ => unreachable!("the channel gives back what it was given"),
        })
    }

    /// What previous runs left; before anything is told of it. Waits for room in the queue.
    pub(super) fn adopt(&self, findings: Findings, recorded: Option<Point>) {
        // A thread that has ended wants to hear nothing.
        let _ = self.commands.send(Command::Adopt(Box::new(findings), recorded));
    }

    /// Everything that was found at the start is in the queues.
    pub fn all_posted(&self) {
        self.flags.posting.store(false, Ordering::Relaxed);
    }

    /// Whether new mail should be refused now. Two atomic loads.
    #[must_use]
    pub fn refusing(&self) -> Option<Refusal> {
        if self.flags.failing.load(Ordering::Relaxed) {
            return Some(Refusal::Failing);
        }
        self.flags.low_space.load(Ordering::Relaxed).then_some(Refusal::LowSpace)
    }
}

/// One spool directory and its thread.
pub struct SpoolWriter {
    handle: SpoolHandle,
    thread: JoinHandle<()>,
    finder: Finder,
}

impl SpoolWriter {
    /// Opens (or makes) `spool_root/shard-NNN` and starts its thread, which takes mail at once. What previous runs left
    /// there comes by the other thing returned.
    ///
    /// # Errors
    /// See [`SpoolError`].
    pub fn start(
        spool_root: &Path,
        spool: u16,
        options: SpoolOptions,
        notify: SpoolNotify,
    ) -> Result<(Self, FoundMail), SpoolError> {
        let path = spool_directory(spool_root, spool);
        let open = || {
            DirectoryDisk::open(&path)
                .map_err(|error| SpoolError::Disk { doing: format!("opening {}", path.display()), error })
        };
        // The standard library's hasher keys are the system's random numbers.
        let seed = RandomState::new().hash_one(spool);
        let strict = options.sync == SyncPolicy::Always;
        let (journal, older) = recover::begin(open()?, spool, JournalOptions::new(strict, seed))?;
        let (sender, commands) = bounded(SPOOL_QUEUE_COMMANDS);
        let flags = Arc::new(Flags { posting: AtomicBool::new(options.posting), ..Flags::default() });
        let handle = SpoolHandle { commands: sender, flags: flags.clone() };
        let mut worker = Worker::new(spool, journal, commands, flags, options, notify);
        worker.check_space(monotonic());
        let thread = std::thread::Builder::new()
            .name(format!("spool-{spool:03}"))
            .spawn(move || worker.run())
            .map_err(SpoolError::Thread)?;
        let (finder, found) = Finder::start(open()?, spool, older, handle.clone())?;
        Ok((Self { handle, thread, finder }, found))
    }

    /// A handle to it.
    #[must_use]
    pub fn handle(&self) -> SpoolHandle {
        self.handle.clone()
    }

    /// Writes and syncs what was handed over, answers it, and ends the thread. Waits for that.
    pub fn stop(self) {
        self.finder.stop();
        // Both fail only when the thread has ended, which by then is what is wanted.
        let _ = self.handle.commands.send(Command::Stop);
        let _ = self.thread.join();
    }
}

/// The directory of a spool.
#[must_use]
pub fn spool_directory(spool_root: &Path, spool: u16) -> PathBuf {
    spool_root.join(format!("shard-{spool:03}"))
}

/// Numbers of the spool directories that exist in `spool_root`, ascending. Directory N belongs to core
/// N mod the number of cores.
///
/// # Errors
/// Whatever the file system says; a root that does not exist has no directories.
pub fn spool_directories(spool_root: &Path) -> io::Result<Vec<u16>> {
    let entries = match std::fs::read_dir(spool_root) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut numbers = Vec::new();
    for entry in entries {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix("shard-")?.parse().ok());
        // Only the one spelling that `spool_directory` gives is ours.
        numbers.extend(number.filter(|n| spool_directory(Path::new(""), *n).as_os_str() == name.as_os_str()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// How long nothing must have come before the disk is prepared for the next group.
const IDLE: Duration = Duration::from_millis(20);

struct Worker {
    spool: u16,
    journal: Journal<DirectoryDisk>,
    commands: Receiver<Command>,
    flags: Arc<Flags>,
    notify: SpoolNotify,
    min_free_bytes: u64,
    sync_lag: Duration,
    /// Since when something is written and not synced.
    unsynced_since: Option<Instant>,
    /// When a failing spool is tried again.
    retry_at: Option<Instant>,
    /// Whether the disk has been prepared since the last group.
    prepared: bool,
    compacting: bool,
    space_checked: Option<Instant>,
    out: Vec<SpoolCompletion>,
}

impl Worker {
    fn new(
        spool: u16,
        journal: Journal<DirectoryDisk>,
        commands: Receiver<Command>,
        flags: Arc<Flags>,
        options: SpoolOptions,
        notify: SpoolNotify,
    ) -> Self {
        let sync_lag = match options.sync {
            SyncPolicy::Always => Duration::from_millis(SPOOL_SYNC_LAG_MS),
            SyncPolicy::Interval(interval) => interval,
        };
        Self {
            spool,
            journal,
            commands,
            flags,
            notify,
            min_free_bytes: options.min_free_bytes,
            sync_lag,
            unsynced_since: None,
            retry_at: None,
            prepared: false,
            // What recovery found may be removable.
            compacting: true,
            space_checked: None,
            out: Vec::new(),
        }
    }

    fn run(mut self) {
        let _guard = super::spool_disk::StopProcessOnPanic("the spool's thread");
        loop {
            let wait = self.wait(monotonic());
            let stop = match self.commands.recv_timeout(wait) {
                Ok(command) => self.group(command),
                Err(RecvTimeoutError::Timeout) => {
                    self.quiet();
                    false
                }
                Err(RecvTimeoutError::Disconnected) => true,
            };
            self.report();
            if stop {
                break;
            }
        }
        let forgotten = self.journal.close(&mut self.out);
        if forgotten > 0 {
            // The log has their ends; nothing else can say so before the next start.
            super::report::report(&format!(
                "spool {:03}: the ends of {forgotten} messages could not be written before the stop; the next start delivers \
                 or ends them once more",
                self.spool
            ));
        }
        if !self.out.is_empty() {
            (self.notify)(self.out);
        }
    }

    /// How long the thread may sleep when nothing comes.
    fn wait(&self, now: Instant) -> Duration {
        if self.compacting {
            return Duration::ZERO;
        }
        let mut wait = if self.prepared { Duration::from_millis(SPOOL_RETRY_MS) } else { IDLE };
        if let Some(since) = self.unsynced_since {
            wait = wait.min((since + self.sync_lag).saturating_duration_since(now));
        }
        if let Some(at) = self.retry_at {
            wait = wait.max(Duration::from_millis(1)).min(at.saturating_duration_since(now));
        }
        wait
    }

    /// Writes a group: `first` and what has come behind it. True when the thread is to stop.
    fn group(&mut self, first: Command) -> bool {
        let (mut octets, mut commands, mut messages, mut stop) = (0, 0, false, false);
        let mut next = Some(first);
        while let Some(command) = next {
            match command {
                Command::Store { ticket, envelope, body } => {
                    octets += body.len();
                    messages = true;
                    self.journal.store(ticket, envelope, body, &mut self.out);
                }
                Command::Progress(batch) => batch.into_iter().for_each(|progress| self.journal.progress(progress)),
                Command::Adopt(findings, recorded) => {
                    self.journal.adopt(*findings);
                    recorded.into_iter().for_each(|point| self.journal.older_are_recorded(point));
                }
                Command::Stop => stop = true,
            }
            commands += 1;
            let full = octets >= SPOOL_GROUP_BYTES || commands >= SPOOL_GROUP_COMMANDS;
            // What was handed over before the stop is written; `close` commits it.
            next = if full && !stop { None } else { self.commands.try_recv().ok() };
        }
        self.prepared = false;
        self.commit(messages);
        stop
    }

    /// Nothing came: sync what is due, try again what failed, prepare for what will come.
    fn quiet(&mut self) {
        if !self.compacting && !self.prepared {
            self.prepared = true;
            self.journal.idle(&mut self.out);
        } else if !self.compacting {
            self.journal.retry_removals();
        }
        self.commit(false);
    }

    fn commit(&mut self, messages: bool) {
        let now = monotonic();
        self.check_space(now);
        let waiting_to_retry = self.journal.is_failing() && self.retry_at.is_some_and(|at| now < at);
        if waiting_to_retry && !messages {
            // A disk that fails is not compacted either; the thread sleeps until it is tried again.
            self.compacting = false;
            return;
        }
        self.compacting = !self.flags.posting.load(Ordering::Relaxed) && self.journal.maintain(&mut self.out);
        let due = self.unsynced_since.is_some_and(|since| now >= since + self.sync_lag);
        self.journal.commit(due || self.journal.is_failing(), &mut self.out);
        let failing = self.journal.is_failing();
        self.flags.failing.store(failing, Ordering::Relaxed);
        self.retry_at = failing.then(|| now + Duration::from_millis(SPOOL_RETRY_MS));
        self.unsynced_since = match self.journal.has_unsynced() && !failing {
            true => self.unsynced_since.filter(|_| !due).or(Some(now)),
            false => None,
        };
    }

    fn check_space(&mut self, now: Instant) {
        let every = Duration::from_millis(SPOOL_SPACE_CHECK_MS);
        if self.space_checked.is_some_and(|at| now < at + every) {
            return;
        }
        self.space_checked = Some(now);
        // A file system that cannot tell is not taken for a full one: the writes will say.
        let low = self.journal.disk().free_bytes().is_ok_and(|free| free < self.min_free_bytes);
        self.flags.low_space.store(low, Ordering::Relaxed);
    }

    fn report(&mut self) {
        if !self.out.is_empty() {
            (self.notify)(std::mem::take(&mut self.out));
        }
    }
}

/// The monotonic clock, for this directory's own deadlines.
#[expect(clippy::disallowed_methods, reason = "a thread that waits for a deadline must know the time")]
pub(super) fn monotonic() -> Instant {
    Instant::now()
}
