//! Who must have applied what before a call is answered. Decides only: it is told what nodes say of themselves and what
//! is in force here, and says which calls are answered and for whom the others wait. Reads no clock, asks nobody.
//!
//! A change is in force on a node when the node has said so. One that has stopped cleanly does not deliver, and will
//! not before it has caught up. One that is lost counts as delivering if it announced that it goes on without etcd; if
//! it announced that it does not, it has held its mail since before its lease ended.

use crate::rules::shared::Revision;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A node's name.
pub type Name = Arc<str>;

/// What a node has announced of itself; stays when the node is lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Of its data directory.
    pub uuid: Arc<str>,
    /// It runs, or else it has stopped cleanly.
    pub running: bool,
    /// It delivers while it is lost.
    pub delivers_when_lost: bool,
}

/// What a node says of itself while it has a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Word {
    /// Of its data directory.
    pub uuid: Arc<str>,
    /// Of one run of it.
    pub run: Arc<str>,
    /// Everything up to it is in force there.
    pub applied: Revision,
}

/// How it is with a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It has a lease.
    Live,
    /// It has stopped cleanly.
    Stopped,
    /// It has no lease and has not stopped.
    Lost,
}

/// What is known of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// What it has announced.
    pub member: Option<Member>,
    /// Its word, while it has a lease.
    pub word: Option<Word>,
    /// The last that it said to have in force, and who said so. It holds after the lease has ended: what is in force is
    /// stored, too. Of one run the greatest counts, because words may overtake one another; the first of another run counts
    /// even if it says less: the directory may have been restored from a backup.
    last: Option<Word>,
}

impl Node {
    /// How it is with it.
    #[must_use]
    pub fn state(&self) -> State {
        match (&self.word, &self.member) {
            (Some(_), _) => State::Live,
            (None, Some(member)) if !member.running => State::Stopped,
            (None, _) => State::Lost,
        }
    }

    /// Everything up to it is in force there, as far as is known.
    #[must_use]
    pub fn applied(&self) -> Revision {
        self.last.as_ref().map_or(0, |last| last.applied)
    }

    /// The revision for which nobody has to wait for it; `None` when nobody has to wait at all.
    fn holds_up_after(&self) -> Option<Revision> {
        let waits = match self.state() {
            State::Live => true,
            State::Stopped => false,
            State::Lost => self.member.as_ref().is_some_and(|member| member.delivers_when_lost),
        };
        waits.then(|| self.applied())
    }
}

/// One that waits.
pub type Call = u64;

/// What is known of all nodes, and who waits for them.
#[derive(Clone, Debug)]
pub struct Waiting {
    own: Name,
    /// Everything up to it is in force here.
    applied: Revision,
    /// The others, by name.
    nodes: BTreeMap<Name, Node>,
    /// Those that wait for all nodes, and those that wait for this one only.
    everywhere: BTreeSet<(Revision, Call)>,
    here: BTreeSet<(Revision, Call)>,
}

impl Waiting {
    /// Nothing known of anybody.
    #[must_use]
    pub fn new(own: Name) -> Self {
        let (everywhere, here) = (BTreeSet::new(), BTreeSet::new());
        Self { own, applied: 0, nodes: BTreeMap::new(), everywhere, here }
    }

    /// Everything up to a revision is in force here.
    pub fn applied_here(&mut self, revision: Revision) {
        self.applied = self.applied.max(revision);
    }

    /// How far this node is.
    #[must_use]
    pub fn own(&self) -> Revision {
        self.applied
    }

    /// A node announced something of itself, or was forgotten. What is said of this node is not heard here: it knows
    /// itself.
    pub fn announced(&mut self, name: &Name, member: Option<Member>) {
        self.change(name, |node| {
            // Another data directory knows nothing of what the one before it had in force.
            let other = member.as_ref().zip(node.last.as_ref()).is_some_and(|(member, last)| member.uuid != last.uuid);
            if other {
                node.last = node.word.clone();
            }
            node.member = member;
        });
    }

    /// A node gave its word, or has lost its lease.
    pub fn said(&mut self, name: &Name, word: Option<Word>) {
        self.change(name, |node| {
            let word = word.map(|word| match &node.last {
                Some(last) if last.run == word.run && last.uuid == word.uuid && !word.run.is_empty() => {
                    Word { applied: word.applied.max(last.applied), ..word }
                }
                _ => word,
            });
            if word.is_some() {
                node.last.clone_from(&word);
            }
            node.word = word;
        });
    }

    fn change(&mut self, name: &Name, change: impl FnOnce(&mut Node)) {
        if *name == self.own {
            return;
        }
        let node = self.nodes.entry(name.clone()).or_default();
        change(node);
        if node.member.is_none() && node.word.is_none() {
            self.nodes.remove(name);
        }
    }

    /// Everybody is told of anew: whoever is not named is no node.
    pub fn only(&mut self, names: &BTreeSet<Name>) {
        self.nodes.retain(|name, _| names.contains(name));
    }

    /// All other nodes.
    pub fn nodes(&self) -> impl Iterator<Item = (&Name, &Node)> {
        self.nodes.iter()
    }

    /// One of them.
    #[cfg(test)]
    #[must_use]
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.get(name)
    }

    /// Somebody waits for a revision to be in force: on every node that may be delivering, or on this one.
    pub fn wait(&mut self, call: Call, revision: Revision, local: bool) {
        let calls = if local { &mut self.here } else { &mut self.everywhere };
        calls.insert((revision, call));
    }

    /// Somebody waits no longer.
    pub fn give_up(&mut self, call: Call, revision: Revision) {
        self.everywhere.remove(&(revision, call));
        self.here.remove(&(revision, call));
    }

    /// Calls that are answered now, each once.
    pub fn settle(&mut self) -> Vec<Call> {
        let floor = self.floor();
        let mut answered = up_to(&mut self.here, self.applied);
        answered.extend(up_to(&mut self.everywhere, floor));
        answered
    }

    /// Nodes that may be delivering without that revision, by name.
    #[must_use]
    pub fn pending(&self, revision: Revision) -> Vec<Name> {
        let own = (self.applied < revision).then(|| self.own.clone());
        let behind = |node: &Node| node.holds_up_after().is_some_and(|applied| applied < revision);
        let others = self.nodes.iter().filter(|(_, node)| behind(node)).map(|(name, _)| name.clone());
        let mut pending: Vec<Name> = own.into_iter().chain(others).collect();
        pending.sort_unstable();
        pending
    }

    /// Whether anybody has to wait for a node.
    #[must_use]
    pub fn is_held_up_by(&self, node: &Node) -> bool {
        node.holds_up_after().is_some()
    }

    /// How many calls wait for more than what is in force on a node.
    #[must_use]
    pub fn calls_behind(&self, applied: Revision) -> usize {
        self.everywhere.range((applied.saturating_add(1), 0)..).count()
    }

    /// Everything up to it is in force wherever somebody may be delivering.
    fn floor(&self) -> Revision {
        self.nodes.values().filter_map(Node::holds_up_after).chain([self.applied]).min().unwrap_or(self.applied)
    }
}

fn up_to(calls: &mut BTreeSet<(Revision, Call)>, revision: Revision) -> Vec<Call> {
    let later = calls.split_off(&(revision.saturating_add(1), 0));
    std::mem::replace(calls, later).into_iter().map(|(_, call)| call).collect()
}

#[cfg(test)]
#[path = "waiting_tests.rs"]
mod tests;
