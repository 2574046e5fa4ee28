//! Those who asked this node for a change of the whole cluster: how far each is, and what it is told. Part of the board;
//! who has to be waited for is decided by `waiting`.

use super::board::{Board, State};
use super::waiting::Call;
use crate::rules::authority::Failure;
use crate::rules::change::Changed;
use crate::rules::shared::Revision;
use mailrace_shards::runtime::reply::Replier;
use std::collections::{HashMap, VecDeque};

/// Revisions of which is kept what came of them here, for calls that hear of their revision only after it was applied.
/// More than calls there can be.
const RECENT_MAX: usize = 4096;

/// All of them.
#[derive(Default)]
pub(super) struct Calls {
    open: HashMap<Call, Waiter>,
    last: Call,
    recent: VecDeque<(Revision, Changed)>,
}

impl Calls {
    /// A revision is in force here.
    pub(super) fn came(&mut self, revision: Revision, changed: Changed) {
        if self.recent.len() == RECENT_MAX {
            self.recent.pop_front();
        }
        self.recent.push_back((revision, changed));
    }
}

/// How far a call is.
enum Stage {
    /// No thread has taken it up.
    Queued,
    /// It is being written.
    Writing,
    /// It is in etcd with these revisions, and waits for that one: the last of them, or if there are none because it was so
    /// already, the last that changed something.
    Stored(Vec<Revision>, Revision),
}

struct Waiter {
    stage: Stage,
    /// It waits for this node only.
    local: bool,
    /// What will have come of it, as far as is known before it is applied here.
    expected: Changed,
    reply: Replier<Result<Changed, Failure>>,
}

/// Somebody waits for a call as long as this is kept.
pub struct Asking<'a> {
    board: &'a Board,
    call: Call,
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        // What was answered or given up is on the board no longer.
        self.board.with(|state| state.give_up(self.call));
    }
}

impl Board {
    /// Somebody asks for a change, and waits for it as long as what comes with the call is kept: one that goes away
    /// takes its call off the board, where it would stand until a node that is lost has come back.
    pub fn asked(&self, local: bool, reply: Replier<Result<Changed, Failure>>) -> (Call, Asking<'_>) {
        let call = self.with(|state| state.call(local, reply));
        (call, Asking { board: self, call })
    }
}

impl State {
    /// Somebody asks for a change.
    pub fn call(&mut self, local: bool, reply: Replier<Result<Changed, Failure>>) -> Call {
        let Calls { last, open, .. } = &mut self.calls;
        *last += 1;
        open.insert(*last, Waiter { stage: Stage::Queued, local, expected: Changed::default(), reply });
        *last
    }

    /// A thread takes it up. Whether it is still wanted.
    pub fn take_up(&mut self, call: Call) -> bool {
        let Some(waiter) = self.calls.open.get_mut(&call) else { return false };
        waiter.stage = Stage::Writing;
        true
    }

    /// It is in etcd.
    pub fn stored(&mut self, call: Call, revisions: Vec<Revision>, expected: Changed) {
        self.writes += 1;
        let Some(last) = revisions.last().copied() else { return self.answer(call, Ok(expected)) };
        revisions.iter().for_each(|revision| self.made_here(*revision));
        self.wait_for(call, revisions, last, expected);
    }

    /// It is so already in etcd, and here. Elsewhere it may not be, if what made it so is not in force there yet.
    pub fn found_so(&mut self, call: Call, expected: Changed) {
        let relevant = self.relevant;
        self.wait_for(call, Vec::new(), relevant, expected);
    }

    /// Nobody is waited for.
    pub fn said_so(&mut self, call: Call, expected: Changed) {
        self.writes += 1;
        self.answer(call, Ok(expected));
    }

    fn wait_for(&mut self, call: Call, own: Vec<Revision>, last: Revision, expected: Changed) {
        let Some(waiter) = self.calls.open.get_mut(&call) else { return };
        waiter.stage = Stage::Stored(own, last);
        waiter.expected = expected;
        self.waiting.wait(call, last, waiter.local);
    }

    /// It is not in etcd, or nobody knows.
    pub fn failed(&mut self, call: Call, failure: Failure) {
        self.failed_writes += 1;
        self.answer(call, Err(failure));
    }

    /// Whoever asked waits no longer: how it is with the change.
    pub fn give_up(&mut self, call: Call) -> Option<Failure> {
        let waiter = self.calls.open.remove(&call)?;
        Some(match waiter.stage {
            Stage::Queued => Failure::Unavailable(
                "too many changes wait for etcd; nothing of this one is stored, try again".to_owned(),
            ),
            Stage::Writing => Failure::Unavailable(unknown("etcd has not answered yet")),
            Stage::Stored(revisions, last) => {
                self.waiting.give_up(call, last);
                let pending = self.waiting.pending(last);
                Failure::Pending(pending, Box::new(self.came_of(&revisions, waiter.expected)))
            }
        })
    }

    pub(super) fn settle(&mut self) {
        for call in self.waiting.settle() {
            let Some(waiter) = self.calls.open.remove(&call) else { continue };
            let Stage::Stored(revisions, last) = &waiter.stage else { continue };
            let pending = self.waiting.pending(*last);
            let changed = Changed { pending, ..self.came_of(revisions, waiter.expected) };
            waiter.reply.say(Ok(changed));
        }
    }

    fn answer(&mut self, call: Call, result: Result<Changed, Failure>) {
        if let Some(waiter) = self.calls.open.remove(&call) {
            waiter.reply.say(result);
        }
    }

    /// What came of these revisions here, if that is still known.
    fn came_of(&self, revisions: &[Revision], expected: Changed) -> Changed {
        let known: Vec<&Changed> = revisions
            .iter()
            .filter_map(|revision| {
                let at = self.calls.recent.iter().rposition(|(own, _)| own == revision)?;
                Some(&self.calls.recent[at].1)
            })
            .collect();
        if revisions.is_empty() || known.len() < revisions.len() {
            return expected;
        }
        let sum = |of: fn(&Changed) -> u64| known.iter().map(|changed| of(changed)).sum();
        Changed {
            created: sum(|changed| changed.created),
            updated: sum(|changed| changed.updated),
            removed: sum(|changed| changed.removed),
            entry: known.iter().find_map(|changed| changed.entry.clone()).or(expected.entry),
            ..Changed::default()
        }
    }

    /// How many calls wait for anything.
    #[must_use]
    pub fn calls(&self) -> usize {
        self.calls.open.len()
    }
}

/// What is said of a change of which nobody knows whether it was made.
#[must_use]
pub fn unknown(why: &str) -> String {
    format!("{why}: the change may be stored, or yet become so; to make the same call again does no harm")
}
