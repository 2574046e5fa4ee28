//! How much of the accepted mail's bodies is in memory, over all cores. Each core counts on an account of its own: one
//! counter for all would be written by every core several times a message.

use crate::limits::{BODY_UNSETTLED_BYTES, BODY_UNSETTLED_PARTS};
use crate::message::Body;
use crossbeam::utils::CachePadded;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

/// Counts the octets of bodies that are alive. What its clones count is counted together; other accounts of the same
/// budget are heard of in steps.
#[derive(Clone, Debug)]
pub struct BodyBudget {
    account: Arc<CachePadded<Account>>,
    most: i64,
}

/// Of one core. Written by it, and by whoever lets go of its bodies last.
#[derive(Debug)]
struct Account {
    /// What has changed since the last settlement.
    unsettled: AtomicI64,
    /// Octets settled by all accounts.
    settled: Arc<CachePadded<AtomicI64>>,
    /// So much is settled.
    step: i64,
}

impl Account {
    fn change(&self, octets: i64) {
        let unsettled = self.unsettled.fetch_add(octets, Ordering::Relaxed) + octets;
        if unsettled.abs() >= self.step {
            // Whatever another thread has added or taken meanwhile goes with it.
            self.settled.fetch_add(self.unsettled.swap(0, Ordering::Relaxed), Ordering::Relaxed);
        }
    }
}

struct Counted {
    octets: Vec<u8>,
    account: Arc<CachePadded<Account>>,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.octets
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.account.change(-signed(self.octets.capacity()));
    }
}

impl BodyBudget {
    /// Bodies beyond `most` octets are read back from the spool instead of being kept.
    #[must_use]
    pub fn new(most: u64) -> Self {
        let most = i64::try_from(most).unwrap_or(i64::MAX);
        Self::with_account(most, Arc::default())
    }

    /// The same budget for another core.
    #[must_use]
    pub fn account(&self) -> Self {
        Self::with_account(self.most, self.account.settled.clone())
    }

    fn with_account(most: i64, settled: Arc<CachePadded<AtomicI64>>) -> Self {
        let step = (most / BODY_UNSETTLED_PARTS).min(BODY_UNSETTLED_BYTES);
        Self { account: Arc::new(CachePadded::new(Account { unsettled: AtomicI64::new(0), settled, step })), most }
    }

    /// Counts a body for as long as any reference to it lives: what it occupies, which is more than its length when
    /// more was reserved than came.
    #[must_use]
    pub fn count(&self, mut octets: Vec<u8>) -> Body {
        if octets.capacity() / 2 > octets.len() {
            // A queue of small messages would be mostly reserve.
            octets.shrink_to_fit();
        }
        self.account.change(signed(octets.capacity()));
        Body::from_owner(Counted { octets, account: self.account.clone() })
    }

    /// Whether a body may stay in memory once it is stored.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.known() < self.most
    }

    /// Octets in memory, but for what other accounts have not settled.
    #[must_use]
    pub fn used(&self) -> u64 {
        // What one account has settled may be let go of before another has settled that it took it.
        u64::try_from(self.known()).unwrap_or(0)
    }

    fn known(&self) -> i64 {
        self.account.settled.load(Ordering::Relaxed) + self.account.unsettled.load(Ordering::Relaxed)
    }
}

/// A vector has at most `isize::MAX` octets.
fn signed(octets: usize) -> i64 {
    octets as i64
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

    #[test]
    fn accounts_of_a_budget_differ_from_all_of_it_by_less_than_a_step_each() {
        let first = BodyBudget::new(1 << 20);
        let second = first.account();
        let bodies: Vec<Body> = (0..200).map(|_| first.count(vec![0; 500])).collect();
        assert_eq!(first.used(), 100_000);
        assert!((99_000..100_000).contains(&second.used()), "{}", second.used());
        let more = second.count(vec![0; 1_000_000]);
        assert!(!second.has_room() && !first.has_room());
        // Another thread lets go of them.
        std::thread::spawn(move || drop(bodies)).join().unwrap();
        assert_eq!(first.used(), 1_000_000);
        assert!(second.has_room() && (999_000..1_001_024).contains(&second.used()), "{}", second.used());
        drop(more);
        assert!(first.used() == 0 && second.used() < 1024, "{}", second.used());
    }
}
