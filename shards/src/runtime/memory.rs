//! Keeps the engine within its memory: watches what the process occupies, and tells the cores to refuse new
//! mail while it is too much. What was accepted is kept.

use crate::limits::MEMORY_WATCH_MILLIS;
use crate::runtime::engine::Shared;
use crate::runtime::report::report;
use crossbeam::channel::{RecvTimeoutError, Sender, bounded};
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// The watching thread.
pub struct MemoryWatch {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl MemoryWatch {
    /// Watches until [`MemoryWatch::stop`]. New mail is refused above `most` octets, and taken again below
    /// fifteen sixteenths of it.
    ///
    /// # Errors
    /// The thread could not be started.
    pub fn start(most: u64, shared: Arc<Shared>) -> io::Result<Self> {
        let (stop, stopped) = bounded::<()>(1);
        let thread = std::thread::Builder::new().name("memory".to_owned()).spawn(move || {
            let mut short = false;
            while stopped.recv_timeout(Duration::from_millis(MEMORY_WATCH_MILLIS)) == Err(RecvTimeoutError::Timeout) {
                let Some(used) = resident_octets() else {
                    continue;
                };
                let now_short = used > if short { most / 16 * 15 } else { most };
                if now_short != short {
                    short = now_short;
                    shared.set_memory_short(short);
                    let what = if short { "new mail is refused" } else { "new mail is taken again" };
                    report(&format!("{what}: {used} octets of memory in use, {most} allowed"));
                }
            }
        })?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }

    /// Ends the thread.
    pub fn stop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It has nothing to tell, not even by a panic.
            let _ = thread.join();
        }
    }
}

/// Octets of memory that the process occupies.
#[must_use]
pub fn resident_octets() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = text.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}
