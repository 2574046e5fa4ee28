//! The largest scheduled queues of a core, for its report: found by looking at some buckets in each tick, so that
//! the look costs the same whether there are ten or a million, and is at most some seconds old.
//!
//! Counts nothing exactly: what comes and goes during a look is seen in the next one.

use super::Shard;
use crate::limits::{LARGEST_BUCKETS_PER_TICK, LARGEST_QUEUES, LARGEST_QUEUES_EVERY_MILLIS};
use crate::queue::BucketId;
use crate::time::{Instant, Now};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::time::Duration;

/// Scheduled queues and how many entries they have, largest first. A queue may be in it more than once: its mail
/// may differ in pool or addresses.
pub type QueueSizes = Arc<[(Arc<str>, u32)]>;

/// The look that is under way, and the last result.
#[derive(Debug, Default)]
pub(super) struct Largest {
    /// The first bucket not looked at; nothing between two looks.
    next: Option<usize>,
    /// The smallest of the largest on top.
    found: BinaryHeap<Reverse<(u32, BucketId)>>,
    again_at: Instant,
    last: QueueSizes,
}

impl Shard {
    /// The largest scheduled queues, as of the last look.
    #[must_use]
    pub fn largest_queues(&self) -> QueueSizes {
        self.largest.last.clone()
    }

    /// Looks at some buckets.
    pub(super) fn look_for_largest(&mut self, now: Now) {
        let Self { largest, queue, .. } = self;
        let from = match largest.next {
            Some(from) => from,
            None if now.instant < largest.again_at => return,
            None => 0,
        };
        for (bucket, total) in queue.bucket_totals(from, LARGEST_BUCKETS_PER_TICK) {
            let is_larger = || largest.found.peek().is_none_or(|Reverse((least, _))| total > *least);
            if total > 0 && (largest.found.len() < LARGEST_QUEUES || is_larger()) {
                largest.found.push(Reverse((total, bucket)));
                if largest.found.len() > LARGEST_QUEUES {
                    largest.found.pop();
                }
            }
        }
        let reached = from + LARGEST_BUCKETS_PER_TICK;
        if reached < queue.bucket_id_bound() {
            largest.next = Some(reached);
            return;
        }
        largest.next = None;
        largest.again_at = now.instant.after(Duration::from_millis(LARGEST_QUEUES_EVERY_MILLIS));
        // A bucket may have gone meanwhile, and its number may be another's.
        let found = std::mem::take(&mut largest.found).into_sorted_vec();
        let names = found.into_iter().filter_map(|Reverse((_, bucket))| queue.bucket_size(bucket));
        largest.last = names.map(|(name, total)| (name.clone(), total)).collect();
    }
}
