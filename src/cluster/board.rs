//! What the cluster's threads and the control core know together: nodes, calls that wait, what is on its way to the
//! cores, how the link to etcd is. One lock, held for moments; nothing is waited for under it but itself. Decides
//! nothing that `waiting` or `fence` decide.

use super::etcd::Lease;
use super::fence::{Fence, Gate};
use super::record::Said;
use super::waiting::{Call, Member, Name, Waiting, Word};
use crate::rules::authority::Failure;
use crate::rules::change::Changed;
use crate::rules::shared::Revision;
use mailrace_shards::runtime::clock;
use mailrace_shards::runtime::reply::Replier;
use mailrace_shards::time::{Now, Timestamp};
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Revisions on their way to the cores at once; the follower waits with the next.
const ON_THE_WAY_MAX: usize = 64;

/// And changes in them.
const CHANGES_ON_THE_WAY_MAX: usize = 40_000;

/// Revisions of which is kept what came of them here, for calls that hear of their revision only after it was applied.
/// More than calls there can be.
const RECENT_MAX: usize = 4096;

/// Words by which a node's clock is judged. What took long on its way makes a clock look late, never early: the least
/// late of a few is near the truth.
const CLOCK_WORDS: usize = 5;

/// How it is with the link to etcd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Link {
    /// Nothing has been heard of it yet.
    Starting,
    /// Everything is being read anew.
    Reading,
    /// Every change is heard as it is made.
    Following,
    /// etcd cannot be asked; why. It is tried again.
    CutOff(String),
    /// Somebody has to do something first; what.
    Refused(String),
}

impl Link {
    /// Why it is so.
    #[must_use]
    pub fn why(&self) -> Option<&str> {
        match self {
            Self::CutOff(why) | Self::Refused(why) => Some(why),
            Self::Starting | Self::Reading | Self::Following => None,
        }
    }

    /// In a word.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Reading => "reading",
            Self::Following => "following",
            Self::CutOff(_) => "cut off",
            Self::Refused(_) => "refused",
        }
    }
}

/// How far a call is.
enum Stage {
    /// No thread has taken it up.
    Queued,
    /// It is being written.
    Writing,
    /// It is in etcd with these revisions, the last one the greatest.
    Stored(Vec<Revision>),
}

struct Waiter {
    stage: Stage,
    /// It waits for this node only.
    local: bool,
    /// What will have come of it, as far as is known before it is applied here.
    expected: Changed,
    reply: Replier<Result<Changed, Failure>>,
}

/// What is known of a node beside what calls depend on.
#[derive(Clone, Debug, Default)]
pub struct About {
    /// The version of mailrace that it runs.
    pub version: Arc<str>,
    /// How much later its clock was than ours when its last words came, in milliseconds.
    skews: VecDeque<i64>,
}

impl About {
    /// How much its clock is ahead of ours, in milliseconds.
    #[must_use]
    pub fn skew_millis(&self) -> i64 {
        self.skews.iter().copied().max().unwrap_or(0)
    }
}

/// Everything, under the lock.
pub struct State {
    /// Who must have applied what.
    pub waiting: Waiting,
    /// What stands before all mail.
    pub gate: Gate,
    /// The link, and since when it is so.
    pub link: Link,
    /// Since when.
    pub since: Timestamp,
    /// etcd's cluster, once it has answered.
    pub cluster_id: Option<u64>,
    /// What is known of nodes besides.
    pub about: BTreeMap<Name, About>,
    /// This node's lease, while it has one.
    pub lease: Option<Lease>,
    /// What is known here cannot be what etcd has: everything is to be read anew.
    pub doubtful: bool,
    /// As of when nodes were read; what the watch says of them up to then is older.
    pub nodes_at: Revision,
    /// This node is to announce itself again: somebody has forgotten it.
    pub forgotten: bool,
    /// The last revision that changed rules, suppressions or pools.
    pub relevant: Revision,
    /// Changes written by this node since its start, and those that failed.
    pub writes: u64,
    /// See [`State::writes`].
    pub failed_writes: u64,
    /// The end has come.
    pub stopping: bool,
    /// Somebody waits to hear of this revision, which may have changed nothing of ours: this node is to say its word.
    speak_for: Revision,
    /// A revision could not be stored here: everything from it on must be asked for again.
    broken: Option<String>,
    /// The follower has taken over what etcd says up to it.
    seen: Revision,
    /// Revisions that are not in force here yet, with how many changes they have.
    on_the_way: BTreeMap<Revision, usize>,
    calls: HashMap<Call, Waiter>,
    last_call: Call,
    recent: VecDeque<(Revision, Changed)>,
}

/// See the module.
pub struct Board {
    state: Mutex<State>,
    changed: Condvar,
}

impl Board {
    /// At a start: what is stored here is in force.
    #[must_use]
    pub fn new(own: Name, gate: Gate, stored: Revision) -> Self {
        let mut waiting = Waiting::new(own);
        waiting.applied_here(stored);
        let state = State {
            waiting,
            gate,
            link: Link::Starting,
            since: clock::now().utc,
            cluster_id: None,
            about: BTreeMap::new(),
            lease: None,
            doubtful: false,
            nodes_at: 0,
            forgotten: false,
            relevant: stored,
            writes: 0,
            failed_writes: 0,
            stopping: false,
            speak_for: 0,
            broken: None,
            seen: stored,
            on_the_way: BTreeMap::new(),
            calls: HashMap::new(),
            last_call: 0,
            recent: VecDeque::new(),
        };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Looks, or changes something that nobody waits for.
    pub fn with<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.lock())
    }

    /// Changes something; whoever waits for it is woken.
    pub fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.lock();
        let result = change(&mut state);
        state.settle();
        drop(state);
        self.changed.notify_all();
        result
    }

    /// Waits until there is what is looked for, or `within` is over, or the end has come.
    pub fn wait<T>(&self, within: Duration, mut look: impl FnMut(&mut State) -> Option<T>) -> Option<T> {
        let deadline = clock::now().instant.after(within);
        let mut state = self.lock();
        loop {
            if let Some(found) = look(&mut state) {
                return Some(found);
            }
            let left = deadline.since(clock::now().instant);
            if left.is_zero() || state.stopping {
                return None;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Rests; not longer than until the end has come. Whether it has.
    pub fn rest(&self, within: Duration) -> bool {
        self.wait(within, |state| state.stopping.then_some(())).is_some()
    }

    /// Whether the end has come.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.lock().stopping
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The link.
impl State {
    /// It is so from now on.
    pub fn set_link(&mut self, link: Link) {
        if self.link != link {
            // Each try says why anew; what counts is since when it is cut off.
            if self.link.as_str() != link.as_str() {
                self.since = clock::now().utc;
            }
            self.link = link;
        }
    }

    /// What stands before all mail.
    #[must_use]
    pub fn fence(&self, now: Now) -> Fence {
        self.gate.fence(now)
    }
}

/// Nodes.
impl State {
    /// A node announced something, or was forgotten.
    pub fn announced(&mut self, name: &Name, member: Option<Member>) {
        if member.is_none() {
            self.about.remove(name);
        }
        self.waiting.announced(name, member);
    }

    /// A node gave its word; `heard` is when it came, for one that comes fresh from its node.
    pub fn said(&mut self, name: &Name, said: Option<Said>, heard: Option<Timestamp>) {
        let Some(said) = said else { return self.waiting.said(name, None) };
        let about = self.about.entry(name.clone()).or_default();
        about.version = said.version;
        if let Some(heard) = heard {
            about.skews.push_back(said.clock.0.saturating_sub(heard.0));
            while about.skews.len() > CLOCK_WORDS {
                about.skews.pop_front();
            }
        }
        self.waiting.said(name, Some(Word { uuid: said.uuid, applied: said.applied }));
    }

    /// Whoever is not named is no node any more.
    pub fn only(&mut self, names: &BTreeSet<Name>) {
        self.waiting.only(names);
        self.about.retain(|name, _| names.contains(name));
    }

    /// The most by which a clock differs from ours.
    #[must_use]
    pub fn skew_max(&self) -> Duration {
        let most = self.about.values().map(|about| about.skew_millis().unsigned_abs()).max();
        Duration::from_millis(most.unwrap_or(0))
    }
}

/// What is on its way to the cores.
impl State {
    /// A revision goes on its way.
    pub fn begin(&mut self, revision: Revision, changes: usize) {
        self.on_the_way.insert(revision, changes);
        self.seen = self.seen.max(revision);
        self.relevant = self.relevant.max(revision);
    }

    /// Everything that concerns rules up to a revision is on its way, or in force.
    pub fn saw(&mut self, revision: Revision) {
        self.seen = self.seen.max(revision);
        self.progress();
    }

    /// A revision is in force here, or could not be stored.
    pub fn end(&mut self, revision: Revision, result: Result<Changed, Failure>) {
        self.on_the_way.remove(&revision);
        let changed = match result {
            Ok(changed) => changed,
            // It is told only when it is in force, so neither of the two comes.
            Err(Failure::Late(_, changed) | Failure::Pending(_, changed)) => *changed,
            Err(Failure::Refused(refused)) => return self.fail(refused.text),
            Err(Failure::Unavailable(why)) => return self.fail(why),
        };
        if self.recent.len() == RECENT_MAX {
            self.recent.pop_front();
        }
        self.recent.push_back((revision, changed));
        self.progress();
    }

    fn fail(&mut self, why: String) {
        self.broken.get_or_insert(why);
    }

    /// This node is to say its word, so that it hears of a revision that may have changed nothing of ours.
    pub fn speak_up(&mut self, revision: Revision) {
        self.speak_for = self.speak_for.max(revision);
    }

    /// It has said it, at that revision: it only has to be heard.
    pub fn spoke(&mut self, at: Revision) {
        if self.speak_for <= at {
            self.speak_for = 0;
        }
    }

    /// Whether somebody waits for that.
    #[must_use]
    pub fn must_speak(&self) -> bool {
        self.speak_for > self.seen
    }

    /// Why a revision could not be stored here, if one could not and no other is on its way any more.
    pub fn broken(&self) -> Option<String> {
        self.broken.clone().filter(|_| self.on_the_way.is_empty())
    }

    /// Whether one could not.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.broken.is_some()
    }

    /// Whether nothing is on its way.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.on_the_way.is_empty()
    }

    /// Whether one more may go on its way.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.broken.is_none()
            && self.on_the_way.len() < ON_THE_WAY_MAX
            && self.on_the_way.values().sum::<usize>() < CHANGES_ON_THE_WAY_MAX
    }

    /// Everything after a revision is asked for again.
    pub fn resume(&mut self, stored: Revision) {
        self.broken = None;
        self.seen = stored;
    }

    /// The follower has taken over what etcd says up to it.
    #[must_use]
    pub fn seen(&self) -> Revision {
        self.seen
    }

    fn progress(&mut self) {
        if self.broken.is_none() {
            let first = self.on_the_way.keys().next();
            let applied = first.map_or(self.seen, |first| first - 1);
            self.waiting.applied_here(applied);
            self.gate.applied(self.waiting.own());
        }
    }
}

/// Calls.
impl State {
    /// Somebody asks for a change.
    pub fn call(&mut self, local: bool, reply: Replier<Result<Changed, Failure>>) -> Call {
        self.last_call += 1;
        let waiter = Waiter { stage: Stage::Queued, local, expected: Changed::default(), reply };
        self.calls.insert(self.last_call, waiter);
        self.last_call
    }

    /// A thread takes it up. Whether it is still wanted.
    pub fn take_up(&mut self, call: Call) -> bool {
        let Some(waiter) = self.calls.get_mut(&call) else { return false };
        waiter.stage = Stage::Writing;
        true
    }

    /// It is in etcd.
    pub fn stored(&mut self, call: Call, revisions: Vec<Revision>, expected: Changed) {
        self.writes += 1;
        let Some(last) = revisions.last().copied() else { return self.answer(call, Ok(expected)) };
        let Some(waiter) = self.calls.get_mut(&call) else { return };
        waiter.stage = Stage::Stored(revisions);
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
        let waiter = self.calls.remove(&call)?;
        Some(match waiter.stage {
            Stage::Queued => Failure::Unavailable(
                "too many changes wait for etcd; nothing of this one is stored, try again".to_owned(),
            ),
            Stage::Writing => Failure::Unavailable(unknown("etcd has not answered yet")),
            Stage::Stored(revisions) => {
                let last = revisions.last().copied().unwrap_or_default();
                self.waiting.give_up(call, last);
                let pending = self.waiting.pending(last);
                Failure::Pending(pending, Box::new(self.came_of(&revisions, waiter.expected)))
            }
        })
    }

    fn settle(&mut self) {
        for call in self.waiting.settle() {
            let Some(waiter) = self.calls.remove(&call) else { continue };
            let Stage::Stored(revisions) = &waiter.stage else { continue };
            let pending = self.waiting.pending(revisions.last().copied().unwrap_or_default());
            let changed = Changed { pending, ..self.came_of(revisions, waiter.expected) };
            waiter.reply.say(Ok(changed));
        }
    }

    fn answer(&mut self, call: Call, result: Result<Changed, Failure>) {
        if let Some(waiter) = self.calls.remove(&call) {
            waiter.reply.say(result);
        }
    }

    /// What came of these revisions here, if that is still known.
    fn came_of(&self, revisions: &[Revision], expected: Changed) -> Changed {
        let known: Vec<&Changed> = revisions
            .iter()
            .filter_map(|revision| {
                let at = self.recent.iter().rposition(|(own, _)| own == revision)?;
                Some(&self.recent[at].1)
            })
            .collect();
        if known.len() < revisions.len() {
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
        self.calls.len()
    }
}

/// What is said of a change of which nobody knows whether it was made.
#[must_use]
pub fn unknown(why: &str) -> String {
    format!("{why}: the change may be stored, or yet become so; to make the same call again does no harm")
}

#[cfg(test)]
#[path = "board_tests.rs"]
mod tests;
