//! Reads bodies back from segment files, of any spool, on a thread of its own. Never writes.

use super::spool_file::Full;
use crate::message::{Body, Location, MessageId};
use std::io;
use std::path::Path;

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
pub struct BodyReader {}

impl BodyReader {
    /// Starts the thread.
    ///
    /// # Errors
    /// The thread could not be started.
    pub fn start(spool_root: &Path, notify: BodyNotify) -> io::Result<Self> {
        let _ = (spool_root, notify);
        Ok(Self {})
    }

    /// Asks for a body; answered through the callback. Does not wait.
    ///
    /// # Errors
    /// [`Full`]: ask again later.
    pub fn request(&self, token: u64, id: MessageId, location: Location) -> Result<(), Full<()>> {
        let _ = (token, id, location);
        Err(Full(()))
    }

    /// Answers what was asked and ends the thread. Waits for that.
    pub fn stop(self) {}
}
