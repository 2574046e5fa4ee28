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
        self.used.fetch_sub(self.octets.capacity() as u64, Ordering::Relaxed);
    }
}

impl BodyBudget {
    /// Bodies beyond `most` octets are read back from the spool instead of being kept.
    #[must_use]
    pub fn new(most: u64) -> Self {
        Self { used: Arc::default(), most }
    }

    /// Counts a body for as long as any reference to it lives: what it occupies, which is more than its length when
    /// more was reserved than came.
    #[must_use]
    pub fn count(&self, mut octets: Vec<u8>) -> Body {
        if octets.capacity() / 2 > octets.len() {
            // A queue of small messages would be mostly reserve.
            octets.shrink_to_fit();
        }
        self.used.fetch_add(octets.capacity() as u64, Ordering::Relaxed);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_counts_for_what_it_occupies() {
        let budget = BodyBudget::new(10_000);
        let of = |length: usize, reserved: usize| {
            let mut octets = Vec::with_capacity(reserved);
            octets.resize(length, b'x');
            octets
        };
        let small = budget.count(of(100, 8192));
        assert!((100..=200).contains(&budget.used()), "{}", budget.used());
        let half = budget.count(of(5000, 8192));
        assert!(budget.used() >= 8192 + 100, "{}", budget.used());
        assert!(budget.has_room());
        let large = budget.count(of(9000, 0));
        assert!(!budget.has_room());
        drop((small, half.clone(), large));
        assert_eq!(budget.used(), 8192, "a reference is left of one");
        drop(half);
        assert_eq!(budget.used(), 0);
    }
}
