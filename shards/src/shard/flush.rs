//! Flushes that came while mail of earlier runs was on its way into the queues: what they cover of it is due when it gets
//! there. Never touches mail of this run: what was queued when a flush came is gone through by the question itself, and
//! what came later was not meant.

use super::Shard;
use crate::limits::FLUSHES_KEPT_MAX;
use crate::queue::EntryId;
use crate::rules::{PathFacts, Scope};

/// What was flushed of mail that is not there yet.
#[derive(Debug, Default)]
pub(super) struct Flushes {
    kept: Vec<Scope>,
}

impl Flushes {
    /// Keeps one; false when there are too many.
    pub(super) fn keep(&mut self, scope: &Scope) -> bool {
        if self.kept.contains(scope) {
            return true;
        }
        if self.kept.len() >= FLUSHES_KEPT_MAX {
            return false;
        }
        self.kept.push(scope.clone());
        true
    }

    /// All that was found is in the queues.
    pub(super) fn forget(&mut self) {
        self.kept = Vec::new();
    }
}

impl Shard {
    /// An entry has come into the queue: when it is of an earlier run and was flushed on its way, it is due.
    pub(super) fn flush_found(&mut self, id: EntryId) {
        // Most of the time nothing is kept, and nothing has to be looked up.
        if self.flushes.kept.is_empty() {
            return;
        }
        let is_found = self.queue.entry(id).envelope.id().generation != self.generation;
        if is_found && self.flushes.kept.iter().any(|scope| self.covered(id, scope, PathFacts::default()) > 0) {
            self.queue.hasten(id);
        }
    }
}
