//! How much of the accepted mail's bodies is in memory, over all cores.

use crate::message::Body;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counts the octets of bodies that are alive. Shared by all cores.
#[derive(Clone, Debug)]
pub struct BodyBudget {
    used: Arc<AtomicU64>,
    most: u64,
}

struct Counted {
    octets: Vec<u8>,
    used: Arc<AtomicU64>,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.octets
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.used.fetch_sub(self.octets.len() as u64, Ordering::Relaxed);
    }
}

impl BodyBudget {
    /// Bodies beyond `most` octets are read back from the spool instead of being kept.
    #[must_use]
    pub fn new(most: u64) -> Self {
        Self { used: Arc::default(), most }
    }

    /// Counts a body for as long as any reference to it lives.
    #[must_use]
    pub fn count(&self, octets: Vec<u8>) -> Body {
        self.used.fetch_add(octets.len() as u64, Ordering::Relaxed);
        Body::from_owner(Counted { octets, used: self.used.clone() })
    }

    /// Whether a body may stay in memory once it is stored.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.used.load(Ordering::Relaxed) < self.most
    }

    /// Octets in memory.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }
}
