//! How a journal behaves: what tests make small. Reads no settings itself.

use crate::limits::{SEGMENT_BYTES, SPOOL_PENDING_ENDS, SPOOL_SLACK_BYTES};

/// How a journal behaves.
#[derive(Clone, Debug)]
pub struct JournalOptions {
    /// A message is acknowledged only when it is synced.
    pub sync_before_answer: bool,
    /// Octets after which a segment is sealed.
    pub segment_bytes: u64,
    /// Octets beyond twice what is needed that start compaction.
    pub slack_bytes: u64,
    /// A random number, new at each start.
    pub seed: u64,
    /// Ends of messages that may wait to be written while the disk refuses.
    pub pending_ends: usize,
}

impl JournalOptions {
    /// The product's sizes.
    #[must_use]
    pub fn new(sync_before_answer: bool, seed: u64) -> Self {
        Self {
            sync_before_answer,
            segment_bytes: SEGMENT_BYTES,
            slack_bytes: SPOOL_SLACK_BYTES,
            seed,
            pending_ends: SPOOL_PENDING_ENDS,
        }
    }
}
