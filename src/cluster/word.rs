//! What this node says of itself while it has a lease: up to where everything is in force here. Said as soon as that
//! changes for what others made, since whoever made it waits; a little later for what was made here; and now and then in
//! any case, which tells the others how its clock goes and this one that its watch hears. A few words may be on their way
//! at once: who hears them takes the greatest.

use super::board::{Board, State};
use super::etcd::{Etcd, EtcdError, Lease, Op, Txn};
use super::record::{Keys, Run, Said, write_said};
use super::waiting::Name;
use crate::rules::shared::Revision;
use mailrace_shards::runtime::clock;
use mailrace_shards::time::Instant;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// Threads that speak. While one waits for etcd, what comes into force meanwhile is said by the next.
pub const SPEAKERS: usize = 3;

/// How long a failed try is left alone.
const AGAIN_AFTER: Duration = Duration::from_millis(200);

/// How long etcd may take.
const WITHIN: Duration = Duration::from_secs(2);

/// How much later is said what nobody waits for.
const UNHURRIED: Duration = Duration::from_millis(200);

/// Revisions made here that are remembered until they are heard.
const OWN_MAX: usize = 1024;

/// What there is to say, and when. Part of the board.
#[derive(Default)]
pub(super) struct Words {
    /// Revisions that others made and that this node has not said to have in force. Whoever made one waits.
    owed: BTreeSet<Revision>,
    /// Made here, not heard yet.
    own: BTreeSet<Revision>,
    /// There is something to say for which nobody waits, then.
    unhurried: Option<Instant>,
    /// Somebody waits to hear of this revision, which may have changed nothing of ours: a word is heard after it.
    hear_of: Revision,
    /// A word is on its way for that.
    spoken_for: Revision,
    /// Somebody who came later has spoken in this node's name.
    object: bool,
    /// When the last word was begun.
    last: Option<Instant>,
    /// A try has failed; nothing is said before.
    not_before: Option<Instant>,
}

/// What is said, and when.
impl State {
    /// A revision is heard that changes something of ours.
    pub(super) fn owe(&mut self, revision: Revision) {
        if self.words.own.remove(&revision) {
            self.unhurried();
        } else {
            self.words.owed.insert(revision);
        }
    }

    /// This revision was made here: nobody else waits for this node's word about it.
    pub(super) fn made_here(&mut self, revision: Revision) {
        if self.words.owed.remove(&revision) {
            return self.unhurried();
        }
        if revision > self.seen() {
            self.words.own.insert(revision);
        }
        if self.words.own.len() > OWN_MAX {
            self.words.own.pop_first();
        }
    }

    fn unhurried(&mut self) {
        self.words.unhurried.get_or_insert(clock::now().instant.after(UNHURRIED));
    }

    /// This node is to say its word, so that it hears of a revision that may have changed nothing of ours.
    pub fn speak_up(&mut self, revision: Revision) {
        self.words.hear_of = self.words.hear_of.max(revision);
    }

    /// Somebody who came later has spoken in this node's name: it is to speak at once.
    pub fn object(&mut self) {
        self.words.object = true;
    }

    /// Without a lease nobody listens; and what is in force here is said of what the right etcd has decided.
    fn heard_under(&self) -> Option<Lease> {
        self.lease.filter(|_| self.is_right)
    }

    /// When the next word is due.
    fn word_due(&self, now: Instant, every: Duration) -> Instant {
        let words = &self.words;
        if self.heard_under().is_none() {
            return now.after(every);
        }
        let is_owed = words.owed.first().is_some_and(|first| *first <= self.waiting.own());
        let must_hear = words.hear_of > self.seen().max(words.spoken_for);
        let due = if is_owed || must_hear || words.object {
            now
        } else {
            let next = words.last.map_or(now, |last| last.after(every));
            words.unhurried.map_or(next, |at| at.min(next))
        };
        words.not_before.map_or(due, |at| at.max(due))
    }

    /// A word is begun: what it says, if it is due.
    fn begin_word(&mut self, now: Instant, every: Duration) -> Option<(Lease, Revision)> {
        let lease = self.heard_under().filter(|_| self.word_due(now, every) <= now)?;
        let applied = self.waiting.own();
        let words = &mut self.words;
        words.owed = words.owed.split_off(&(applied + 1));
        words.spoken_for = words.hear_of;
        (words.unhurried, words.not_before, words.object, words.last) = (None, None, false, Some(now));
        Some((lease, applied))
    }

    /// It was not said, or nobody knows.
    fn unsaid(&mut self, applied: Revision, now: Instant) {
        self.words.owed.insert(applied);
        self.words.spoken_for = 0;
        self.words.not_before = Some(now.after(AGAIN_AFTER));
    }
}

/// What is needed for it.
#[derive(Clone)]
pub struct Speaker {
    /// Where is known what is in force.
    pub board: Arc<Board>,
    /// Where it is said.
    pub etcd: Etcd,
    /// What it is called there.
    pub keys: Keys,
    /// This node.
    pub node: Name,
    /// This run.
    pub run: Run,
    /// How long it is silent at most.
    pub every: Duration,
}

impl Speaker {
    /// Until the end.
    pub fn run(self) {
        while !self.board.is_stopping() {
            let now = clock::now().instant;
            let due = self.board.with(|state| state.word_due(now, self.every));
            // Until then, or until something makes it earlier.
            self.board
                .wait(due.since(now), |state| (state.word_due(clock::now().instant, self.every) < due).then_some(()));
            let begun = self.board.with(|state| {
                let announced_at = state.announced_at;
                state
                    .begin_word(clock::now().instant, self.every)
                    .map(|(lease, applied)| (lease, applied, announced_at))
            });
            if let Some((lease, applied, announced_at)) = begun.filter(|_| !self.board.is_stopping()) {
                self.say(lease, applied, announced_at);
            }
        }
    }

    fn say(&self, lease: Lease, applied: Revision, announced_at: Revision) {
        let (run, clock, version) = (self.run.clone(), clock::now().utc, env!("CARGO_PKG_VERSION").into());
        let said = Said { run, announced_at, applied, clock, version };
        let put = Op::Put { key: self.keys.word(&self.node), value: write_said(&said), lease: Some(lease) };
        match self.etcd.txn(&Txn { compare: Vec::new(), success: vec![put], failure: Vec::new() }, WITHIN) {
            Ok(_) | Err(EtcdError::Compacted { .. }) => {}
            // Whoever keeps the lease says why.
            Err(EtcdError::Unreachable(_) | EtcdError::Unknown(_) | EtcdError::Refused(_)) => {
                self.board.change(|state| state.unsaid(applied, clock::now().instant));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Lease, Revision, State, UNHURRIED};
    use crate::cluster::board::Board;
    use crate::cluster::fence::Gate;
    use crate::rules::change::Changed;
    use mailrace_shards::runtime::clock;
    use std::time::Duration;

    const EVERY: Duration = Duration::from_secs(3);

    /// What is said now, if anything.
    fn said(state: &mut State) -> Option<Revision> {
        state.begin_word(clock::now().instant, EVERY).map(|(_, applied)| applied)
    }

    #[test]
    fn what_somebody_waits_for_is_said_at_once_and_once() {
        let board = Board::new("a".into(), Gate::new(false, Duration::ZERO, true), 10);
        board.with(|state| {
            assert_eq!(said(state), None, "without a lease nobody listens");
            state.lease = Some(Lease(1));
            assert_eq!(said(state), None, "another etcd, or an older one, may have come in its place");
            state.is_right = true;
            assert_eq!(said(state), Some(10), "the first word tells that it is there");
            assert_eq!(said(state), None);
            state.begin(12, 1);
            state.begin(13, 1);
            assert_eq!(said(state), None, "it is not in force yet");
            state.end(12, Ok(Changed::default()));
            assert_eq!(said(state), Some(12));
            state.end(13, Ok(Changed::default()));
            assert_eq!(said(state), Some(13), "while the other word may still be on its way");
            assert_eq!(said(state), None);
            // A word that did not arrive is said again, a little later.
            let now = clock::now().instant;
            state.unsaid(13, now);
            assert_eq!(state.begin_word(now, EVERY), None);
            assert_eq!(state.begin_word(now.after(EVERY / 10), EVERY).map(|(_, applied)| applied), Some(13));
            // Somebody has to hear of a revision that may have changed nothing here.
            state.speak_up(20);
            assert_eq!(said(state), Some(13));
            assert_eq!(said(state), None, "one word for that is on its way");
            state.saw(20);
            state.object();
            assert_eq!(said(state), Some(20), "over the word of another");
        });
    }

    #[test]
    fn what_was_made_here_is_said_without_haste() {
        let board = Board::new("a".into(), Gate::new(false, Duration::ZERO, true), 10);
        board.with(|state| {
            (state.lease, state.is_right) = (Some(Lease(1)), true);
            assert_eq!(said(state), Some(10));
            // Whoever made it may hear of it from etcd's answer before the watch says so, or after.
            state.made_here(12);
            state.begin(12, 1);
            state.begin(13, 1);
            state.made_here(13);
            for revision in [12, 13] {
                state.end(revision, Ok(Changed::default()));
            }
            let now = clock::now().instant;
            assert_eq!(state.begin_word(now, EVERY), None);
            assert_eq!(state.begin_word(now.after(UNHURRIED), EVERY).map(|(_, applied)| applied), Some(13));
        });
    }
}
