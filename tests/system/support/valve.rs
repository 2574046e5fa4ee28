//! How fast a destination reads: a valve before its sockets, and counts of what came through.

use super::wait::linger;
use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Octets of one read through a narrow valve.
const SIP: usize = 4096;

/// Between two reads through a narrow valve.
const PAUSE: Duration = Duration::from_millis(2);

/// One for all connections of a destination. Wide open at first.
#[derive(Debug, Default)]
pub struct Valve {
    /// Octets that each connection brings at full speed before the valve is narrow; 0: it is wide open.
    narrow_after: AtomicU64,
    read: Mutex<HashMap<usize, u64>>,
}

impl Valve {
    /// From now on each connection is read slowly once it has brought so many octets.
    pub fn narrow_after(&self, octets: u64) {
        self.narrow_after.store(octets.max(1), Ordering::SeqCst);
    }

    /// Reads at full speed again.
    pub fn open(&self) {
        self.narrow_after.store(0, Ordering::SeqCst);
    }

    /// Octets read so far, by connection.
    pub fn read(&self) -> HashMap<usize, u64> {
        self.read.lock().unwrap().clone()
    }

    /// Octets that a connection has brought so far.
    pub fn read_on(&self, connection: usize) -> u64 {
        self.read.lock().unwrap().get(&connection).copied().unwrap_or(0)
    }

    /// Before a read of at most `wanted` octets: how many it may be.
    pub(super) fn before(&self, connection: usize, wanted: usize) -> usize {
        let after = self.narrow_after.load(Ordering::SeqCst);
        if after == 0 || self.read_on(connection) < after {
            return wanted;
        }
        linger(PAUSE);
        wanted.min(SIP)
    }

    /// After a read.
    pub(super) fn note(&self, connection: usize, octets: usize) {
        *self.read.lock().unwrap().entry(connection).or_default() += octets as u64;
    }
}
