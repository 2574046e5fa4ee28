//! What the cluster's threads and the control core know together: nodes, calls that wait, what is on its way to the
//! cores, how the link to etcd is. One lock, held for moments; nothing is waited for under it but itself. Decides
//! nothing that `waiting` or `fence` decide.

use super::calls::Calls;
use super::etcd::{Header, Lease};
use super::fence::{Fence, Gate};
use super::record::{Run, Said};
use super::waiting::{Member, Name, Waiting, Word};
use super::word::Words;
use crate::rules::authority::Failure;
use crate::rules::change::Changed;
use crate::rules::shared::Revision;
use mailrace_shards::runtime::clock;
use mailrace_shards::time::{Now, Timestamp};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Revisions on their way to the cores at once; the follower waits with the next.
const ON_THE_WAY_MAX: usize = 64;

/// And changes in them.
const CHANGES_ON_THE_WAY_MAX: usize = 40_000;

/// Words by which a node's clock is judged. What took long on its way makes a clock look late, never early: the least
/// late of a few is near the truth.
const CLOCK_WORDS: usize = 5;

/// Which etcd is followed, and up to where it was heard.
#[derive(Clone, Copy, Debug)]
pub struct Followed {
    cluster_id: Option<u64>,
    seen: Revision,
}

impl Followed {
    /// Whether an answer that came later is that of this etcd. Another one, or one that was restored from a backup, may
    /// have taken its place a moment ago; what was written there (`wrote`) seems older than what is in force everywhere.
    #[must_use]
    pub fn answers(self, header: &Header, wrote: bool) -> bool {
        self.cluster_id.is_none_or(|id| id == header.cluster_id) && header.revision >= self.seen + Revision::from(wrote)
    }
}

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
    /// What is here is to be compared with what etcd has, soon.
    pub compare_now: bool,
    /// How often everything was compared with what etcd has, and how often something differed.
    pub comparisons: u64,
    /// See [`State::comparisons`].
    pub differences: u64,
    /// Since it was last reached, etcd was found to be the right one.
    pub is_right: bool,
    /// As of when nodes were read; what the watch says of them up to then is older.
    pub nodes_at: Revision,
    /// The others do not count with this node any more: it is to note that, and to announce itself again.
    pub forgotten: bool,
    /// At which revision this node announced itself; 0 while it has not.
    pub announced_at: Revision,
    /// The other engine that runs with a copy of this data directory, and was there before.
    pub twin: Option<Run>,
    /// The last revision that changed rules, suppressions or pools.
    pub relevant: Revision,
    /// Changes written by this node since its start, and those that failed.
    pub writes: u64,
    /// See [`State::writes`].
    pub failed_writes: u64,
    /// The end has come.
    pub stopping: bool,
    /// What this node has to say of itself.
    pub(super) words: Words,
    /// A revision could not be stored here: everything from it on must be asked for again.
    broken: Option<String>,
    /// The follower has taken over what etcd says up to it.
    seen: Revision,
    /// Revisions that are not in force here yet, with how many changes they have.
    on_the_way: BTreeMap<Revision, usize>,
    /// Those who asked for a change, and what came of the last ones.
    pub(super) calls: Calls,
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
            compare_now: false,
            comparisons: 0,
            differences: 0,
            is_right: false,
            nodes_at: 0,
            forgotten: false,
            announced_at: 0,
            twin: None,
            relevant: stored,
            writes: 0,
            failed_writes: 0,
            stopping: false,
            words: Words::default(),
            broken: None,
            seen: stored,
            on_the_way: BTreeMap::new(),
            calls: Calls::default(),
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

    /// Waits until everything up to a revision is in force here. So that this node hears of one that changed nothing of
    /// ours, it says its word, which is heard after it.
    pub fn catch_up(&self, revision: Revision, within: Duration) -> bool {
        self.change(|state| state.speak_up(revision));
        self.wait(within, |state| (state.waiting.own() >= revision).then_some(())).is_some()
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
        self.waiting.said(name, Some(Word { uuid: said.run.uuid, run: said.run.id, applied: said.applied }));
    }

    /// The others do not count with this node as long as it has not announced itself: it delivers nothing until it has, and
    /// has caught up with what was decided without it.
    pub fn uncounted(&mut self) {
        self.gate.uncounted();
        self.forgotten = true;
    }

    /// This node has no lease any more.
    pub fn lost(&mut self) {
        self.gate.ended();
        self.lease = None;
        self.announced_at = 0;
    }

    /// Another one runs with a copy of this data directory, and was there before: this one is none of the nodes.
    pub fn give_way(&mut self, other: Run) {
        self.twin = Some(other);
        self.gate.is_copy(true);
        self.lost();
        self.uncounted();
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
        self.owe(revision);
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
        self.calls.came(revision, changed);
        self.progress();
    }

    fn fail(&mut self, why: String) {
        self.broken.get_or_insert(why);
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

    /// By what an answer of etcd is known to be of the one that is followed.
    #[must_use]
    pub fn followed(&self) -> Followed {
        Followed { cluster_id: self.cluster_id, seen: self.seen }
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

#[cfg(test)]
#[path = "board_tests.rs"]
mod tests;
