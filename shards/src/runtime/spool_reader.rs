//! Reads bodies back from segment files, of any spool, on a thread of its own. Never writes. Counts what it has read as
//! long as somebody has it.

use super::spool_disk::StopProcessOnPanic;
use super::spool_file::{Full, spool_directory};
use crate::limits::{BODY_FILES_IDLE_MS, BODY_FILES_MAX, BODY_READS_MAX, BODY_SMALL_BYTES, SPOOL_RECORD_BYTES_MAX};
use crate::message::{Body, Location, MessageId};
use crate::runtime::bodies::BodyBudget;
use crate::spool::record::{TRAILER_BYTES, trailer_matches};
use crate::spool::segment::segment_name;
use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// One answer.
#[derive(Debug)]
pub struct BodyAnswer {
    /// The caller's number.
    pub token: u64,
    /// The message.
    pub id: MessageId,
    /// The body, verified. `NotFound`: the segment is gone, the message has moved (wait for `Moved`).
    /// `InvalidData`: the octets there are not this message's body as it was stored.
    pub body: io::Result<Body>,
}

/// Called on the reader's thread, with what was read in one go; must be cheap and must not wait.
pub type BodyNotify = Box<dyn Fn(Vec<BodyAnswer>) + Send>;

/// A thread that reads bodies. Each core has its own.
pub struct BodyReader {
    requests: Sender<Request>,
    /// Octets asked for and not read yet.
    asked: Arc<AtomicU64>,
    /// What was read, as long as it lives.
    read: BodyBudget,
    most: u64,
    thread: JoinHandle<()>,
}

struct Request {
    token: u64,
    id: MessageId,
    location: Location,
}

impl BodyReader {
    /// Starts the thread. What it reads is to take no more than `most` octets of memory (see [`Self::has_room`]).
    ///
    /// # Errors
    /// The thread could not be started.
    pub fn start(spool_root: &Path, most: u64, notify: BodyNotify) -> io::Result<Self> {
        let (requests, receiver) = bounded(BODY_READS_MAX);
        let (asked, read) = (Arc::<AtomicU64>::default(), BodyBudget::new(most));
        let mut files =
            Files { root: spool_root.to_path_buf(), open: Vec::new(), asked: asked.clone(), read: read.clone() };
        let thread = std::thread::Builder::new().name(String::from("bodies")).spawn(move || {
            let _guard = StopProcessOnPanic("the body reader's thread");
            answer(&receiver, &mut files, &notify);
        })?;
        Ok(Self { requests, asked, read, most, thread })
    }

    /// Whether the body there may be read by now: it is small, the first, or fits in beside those that were read and still
    /// are in use.
    #[must_use]
    pub fn has_room(&self, location: Location) -> bool {
        let taken = self.read.used() + self.asked.load(Ordering::Relaxed);
        location.length <= BODY_SMALL_BYTES || taken == 0 || taken + u64::from(location.length) <= self.most
    }

    /// Asks for a body; answered through the callback. Does not wait.
    ///
    /// # Errors
    /// [`Full`]: ask again later.
    pub fn request(&self, token: u64, id: MessageId, location: Location) -> Result<(), Full<()>> {
        let octets = u64::from(location.length);
        self.asked.fetch_add(octets, Ordering::Relaxed);
        self.requests.try_send(Request { token, id, location }).map_err(|_| {
            self.asked.fetch_sub(octets, Ordering::Relaxed);
            Full(())
        })
    }

    /// Answers what was asked and ends the thread. Waits for that.
    pub fn stop(self) {
        drop(self.requests);
        // It fails only when the thread has ended by itself.
        let _ = self.thread.join();
    }
}

/// Octets of bodies that one call of the callback carries, unless one body is larger.
const ANSWER_BYTES: usize = 1 << 20;

fn answer(requests: &Receiver<Request>, files: &mut Files, notify: &BodyNotify) {
    let idle = Duration::from_millis(BODY_FILES_IDLE_MS);
    loop {
        let first = match requests.recv_timeout(idle) {
            Ok(request) => request,
            Err(RecvTimeoutError::Timeout) => {
                files.open.clear();
                continue;
            }
            Err(RecvTimeoutError::Disconnected) => return,
        };
        let mut answers = Vec::new();
        let mut octets = 0;
        let mut next = Some(first);
        while let Some(Request { token, id, location }) = next {
            let body = files.read(id, location);
            // It counts as read by now.
            files.asked.fetch_sub(u64::from(location.length), Ordering::Relaxed);
            answers.push(BodyAnswer { token, id, body });
            octets += location.length as usize;
            next = if octets < ANSWER_BYTES { requests.try_recv().ok() } else { None };
        }
        notify(answers);
    }
}

/// Open segment files, the one used last at the end.
struct Files {
    root: PathBuf,
    open: Vec<((u16, u32), File)>,
    asked: Arc<AtomicU64>,
    read: BodyBudget,
}

impl Files {
    fn read(&mut self, id: MessageId, location: Location) -> io::Result<Body> {
        let length = location.length as usize;
        if length > SPOOL_RECORD_BYTES_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut octets = vec![0; length + TRAILER_BYTES];
        self.file(location)?.read_exact_at(&mut octets, location.offset).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => invalid(id, location),
            _ => error,
        })?;
        let (body, trailer) = octets.split_at(length);
        if !trailer_matches(trailer, id, body) {
            return Err(invalid(id, location));
        }
        let mut body = self.read.count(octets);
        body.truncate(length);
        Ok(body)
    }

    fn file(&mut self, location: Location) -> io::Result<&File> {
        let key = (location.spool, location.segment);
        let entry = match self.open.iter().position(|(known, _)| *known == key) {
            Some(index) => self.open.remove(index),
            None => {
                if self.open.len() >= BODY_FILES_MAX {
                    self.open.remove(0);
                }
                let path = spool_directory(&self.root, location.spool).join(segment_name(location.segment));
                (key, File::open(path)?)
            }
        };
        self.open.push(entry);
        Ok(&self.open[self.open.len() - 1].1)
    }
}

fn invalid(id: MessageId, location: Location) -> io::Error {
    let Location { spool, segment, offset, .. } = location;
    let text = format!("the body of {id} at {offset} in {} of spool {spool} is damaged", segment_name(segment));
    io::Error::new(io::ErrorKind::InvalidData, text)
}
