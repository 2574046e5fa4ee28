//! The spool's thread: takes what the accepting core wants stored, writes it in groups, and says what became
//! of it. Never decides anything itself: that is [`crate::spool::journal::Journal`].

use crate::message::{Body, Envelope};
use crate::settings::SyncPolicy;
use crate::spool::report::{Progress, Recovered, Refusal, SpoolCompletion, SpoolError};
use std::path::Path;
use std::sync::Arc;

/// How a spool behaves.
#[derive(Clone, Debug)]
pub struct SpoolOptions {
    /// When a message is acknowledged.
    pub sync: SyncPolicy,
    /// Free octets of the file system below which [`SpoolHandle::refusing`] says so.
    pub min_free_bytes: u64,
}

/// Called on the spool's thread, once a group; must be cheap and must not wait.
pub type SpoolNotify = Box<dyn Fn(Vec<SpoolCompletion>) + Send>;

/// The queue into the spool's thread is full (or the thread has ended): the caller keeps what it wanted to
/// hand over and tries again later.
#[derive(Debug)]
pub struct Full<T>(pub T);

/// Hands work to one spool. Cheap to clone, usable from any thread.
#[derive(Clone)]
pub struct SpoolHandle {}

impl SpoolHandle {
    /// Stores a message; answered by `Stored` or `Failed` with this `ticket`. Does not wait.
    ///
    /// # Errors
    /// [`Full`], with what was given.
    pub fn store(&self, ticket: u64, envelope: Arc<Envelope>, body: Body) -> Result<(), Full<(Arc<Envelope>, Body)>> {
        let _ = ticket;
        Err(Full((envelope, body)))
    }

    /// Tells what became of recipients. Durable within 50 ms, not answered. Does not wait.
    ///
    /// # Errors
    /// [`Full`], with what was given.
    pub fn progress(&self, batch: Vec<Progress>) -> Result<(), Full<Vec<Progress>>> {
        Err(Full(batch))
    }

    /// Whether new mail should be refused now. One atomic load.
    #[must_use]
    pub fn refusing(&self) -> Option<Refusal> {
        None
    }
}

/// One spool directory and its thread.
pub struct SpoolWriter {
    handle: SpoolHandle,
}

impl SpoolWriter {
    /// Opens (or makes) `spool_root/shard-NNN`, recovers it on the calling thread, and starts its thread.
    ///
    /// # Errors
    /// See [`SpoolError`].
    pub fn start(
        spool_root: &Path,
        spool: u16,
        options: SpoolOptions,
        notify: SpoolNotify,
    ) -> Result<(Self, Recovered), SpoolError> {
        let _ = (spool_root, spool, options, notify);
        Ok((Self { handle: SpoolHandle {} }, Recovered::default()))
    }

    /// A handle to it.
    #[must_use]
    pub fn handle(&self) -> SpoolHandle {
        self.handle.clone()
    }

    /// Writes and syncs what was handed over, answers it, and ends the thread. Waits for that.
    pub fn stop(self) {}
}

/// Numbers of the spool directories that exist in `spool_root`, ascending. Directory N belongs to core
/// N mod the number of cores.
///
/// # Errors
/// Whatever the file system says; a root that does not exist has no directories.
pub fn spool_directories(spool_root: &Path) -> std::io::Result<Vec<u16>> {
    let _ = spool_root;
    Ok(Vec::new())
}
