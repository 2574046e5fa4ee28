//! Mail of previous runs on its way from disk to the core that owns the spool: a thread searches for it and reads it,
//! a bounded number of messages ahead of the core. Decides nothing: that is [`crate::spool::search`].

use super::report::report;
use super::spool_disk::{DirectoryDisk, StopProcessOnPanic};
use super::spool_file::{SpoolHandle, monotonic};
use crate::limits::{FOUND_BATCH_MESSAGES, FOUND_BATCHES, FOUND_TOLD_MILLIS};
use crate::message::Envelope;
use crate::spool::recover::{Older, Search};
use crate::spool::report::{Dropped, Point, RecoveredMessage, SpoolError};
use crate::spool::search::search;
use crossbeam::channel::{Receiver, SendTimeoutError, Sender, TryRecvError, bounded};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// What comes of a search, in this order: what was found, the messages, the end. Or why it failed, at any time.
#[derive(Debug)]
pub enum FoundEvent {
    /// The search is over.
    Searched {
        /// Open messages; as many will come.
        messages: u64,
        /// See [`crate::spool::report::Recovered::unrecorded`].
        unrecorded: Vec<Arc<Envelope>>,
        /// See [`crate::spool::report::Recovered::recorded`].
        recorded: Point,
        /// What could not be read. The operator has been told.
        dropped: Vec<Dropped>,
    },
    /// Some of them, in the order in which they lie on disk.
    Messages(Vec<RecoveredMessage>),
    /// Nothing more will come.
    End,
    /// It cannot be read: the engine must not go on without it.
    Failed(SpoolError),
}

/// Where the core that owns a spool takes what was found.
#[derive(Debug)]
pub struct FoundMail(Receiver<FoundEvent>);

impl FoundMail {
    /// What has come, if anything has. Does not wait.
    #[must_use]
    pub fn take(&self) -> Option<FoundEvent> {
        match self.0.try_recv() {
            Ok(event) => Some(event),
            Err(TryRecvError::Empty) => None,
            // The search was ended from outside.
            Err(TryRecvError::Disconnected) => Some(FoundEvent::End),
        }
    }

    /// The same for a thread that has nothing else to do.
    #[must_use]
    pub fn wait(&self) -> FoundEvent {
        self.0.recv().unwrap_or(FoundEvent::End)
    }
}

/// The searching thread.
pub(super) struct Finder {
    thread: JoinHandle<()>,
    ended: Arc<AtomicBool>,
}

impl Finder {
    /// Starts it on a spool whose writer runs.
    ///
    /// # Errors
    /// The thread could not be started.
    pub(super) fn start(
        disk: DirectoryDisk,
        spool: u16,
        older: Older,
        writer: SpoolHandle,
    ) -> Result<(Self, FoundMail), SpoolError> {
        let (events, found) = bounded(FOUND_BATCHES);
        let ended = Arc::new(AtomicBool::new(false));
        let work = Work { disk, spool, writer, events, ended: ended.clone() };
        let thread = std::thread::Builder::new()
            .name(format!("found-{spool:03}"))
            .spawn(move || work.run(&older))
            .map_err(SpoolError::Thread)?;
        Ok((Self { thread, ended }, FoundMail(found)))
    }

    /// Ends it, whatever it has still to do, and waits for that.
    pub(super) fn stop(self) {
        self.ended.store(true, Ordering::Relaxed);
        // A panic there has ended the process.
        let _ = self.thread.join();
    }
}

struct Work {
    disk: DirectoryDisk,
    spool: u16,
    writer: SpoolHandle,
    events: Sender<FoundEvent>,
    ended: Arc<AtomicBool>,
}

impl Work {
    fn run(self, older: &Older) {
        let _guard = StopProcessOnPanic("the thread that reads the spool");
        let last = self.find(older).unwrap_or_else(FoundEvent::Failed);
        self.send(last);
    }

    fn find(&self, older: &Older) -> Result<FoundEvent, SpoolError> {
        let Self { spool, .. } = self;
        let mut told = monotonic();
        let go_on = |read: usize| {
            if told.elapsed() >= Duration::from_millis(FOUND_TOLD_MILLIS) {
                told = monotonic();
                report(&format!("spool {spool:03}: {read} of {} segments are searched", older.segments()));
            }
            !self.is_ended()
        };
        let Some(Search { findings, mut messages, dropped, unrecorded, recorded }) = search(&self.disk, older, go_on)?
        else {
            return Ok(FoundEvent::End);
        };
        for dropped in &dropped {
            report(&format!("spool {spool:03}: {dropped}"));
        }
        let all = messages.left();
        if all > 0 {
            report(&format!("spool {spool:03}: {all} messages found, delivery goes on"));
        }
        if !unrecorded.is_empty() {
            let count = unrecorded.len();
            report(&format!(
                "spool {spool:03}: the outcome log may lack the reception of {count} messages, it is recorded again"
            ));
        }
        // The writer hears of them before anybody can tell it what has become of one.
        self.writer.adopt(findings, unrecorded.is_empty().then_some(recorded));
        let mut going = self.send(FoundEvent::Searched { messages: all, unrecorded, recorded, dropped });
        while going && messages.left() > 0 {
            going = self.send(FoundEvent::Messages(messages.next(&self.disk, FOUND_BATCH_MESSAGES)?));
        }
        Ok(FoundEvent::End)
    }

    /// Waits until there is room; false when the search has been ended.
    fn send(&self, mut event: FoundEvent) -> bool {
        loop {
            match self.events.send_timeout(event, Duration::from_millis(FOUND_TOLD_MILLIS / 10)) {
                Ok(()) => return true,
                Err(SendTimeoutError::Timeout(again)) if !self.is_ended() => event = again,
                Err(_) => return false,
            }
        }
    }

    fn is_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }
}
