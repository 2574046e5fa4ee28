//! This node in the eyes of the others: its lease, what it announces, and what stands before its mail while they do not
//! count with it. A thread of its own, so that a lease is renewed in time whatever else etcd is slow with.

use super::board::{Board, Link, State};
use super::etcd::{Answer, Compare, Etcd, EtcdError, Header, KeyValue, Lease, Op, Txn};
use super::fence::{Fence, Why};
use super::follow::member as announced;
use super::record::{Keys, Run, Said, read_said, write_member, write_said};
use super::waiting::{Member, Name};
use crate::report;
use crate::rules::authority::Authority;
use crate::rules::shared::Revision;
use mailrace_shards::rules::{Kind, Rule, Scope, Validity};
use mailrace_shards::runtime::clock;
use mailrace_shards::time::{Instant, Timestamp};
use std::sync::Arc;
use std::time::Duration;

/// The id of the rule that holds all mail.
pub const FENCE: &str = "cluster-fence";

/// How long a failed try is left alone.
const AGAIN_AFTER: Duration = Duration::from_millis(500);

/// How long whoever announces itself over the word of another run of the same engine waits for it to object. One that was
/// killed does not; one that has the same data directory and runs does so as soon as it hears of it.
pub(super) const OBJECTION_WITHIN: Duration = Duration::from_millis(1500);

/// How often a stopped node says so while something comes between.
const FAREWELLS: usize = 3;

/// How often the thread looks about.
const LOOK: Duration = Duration::from_millis(500);

/// What is said of ourselves.
#[derive(Clone)]
pub struct Presence {
    /// Where it says how it is.
    pub board: Arc<Board>,
    /// Where it has its lease.
    pub etcd: Etcd,
    /// What it is called there.
    pub keys: Keys,
    /// Where rules are brought into force.
    pub authority: Authority,
    /// This node.
    pub node: Name,
    /// This run.
    pub run: Run,
    /// It delivers while it is lost.
    pub delivers_when_lost: bool,
    /// The others wait for it even when it is lost, as far as is stored here.
    pub counted: bool,
    /// For how long a lease is wanted.
    pub ttl: Duration,
    /// What stands before all mail, as far as the cores know.
    pub fence: Fence,
}

impl Presence {
    /// Until the end.
    pub fn run(mut self) {
        let mut lease: Option<Lease> = None;
        let mut due = clock::now().instant;
        let (mut said, mut uncounted) = (String::new(), String::new());
        if let Fence::Shut(why) = self.fence {
            report::notice(why.as_str());
        }
        while !self.board.is_stopping() {
            self.set_fence();
            let why = self.count_in().err().unwrap_or_default();
            if why != uncounted && !why.is_empty() {
                report::warning(&format!("cluster: {why}"));
            }
            uncounted = why;
            let now = clock::now().instant;
            if now >= due {
                let (result, next) = self.renew(&mut lease);
                due = clock::now().instant.after(next);
                let why = result.err().unwrap_or_default();
                if why != said && !why.is_empty() {
                    report::warning(&format!("cluster: {why}"));
                }
                said = why;
            }
            let within = due.since(clock::now().instant).min(LOOK).min(self.fence_within());
            let shown = self.fence.clone();
            let wake = self.board.wait(within, |state| {
                let other = state.fence(clock::now()) != shown;
                let is_forgotten = std::mem::take(&mut state.forgotten);
                (other || is_forgotten).then_some(is_forgotten)
            });
            if wake == Some(true) {
                report::warning("cluster: the others do not count with this node any more; it announces itself again");
                lease = None;
                if let Err(why) = self.count(false) {
                    report::warning(&format!("cluster: {why}"));
                }
                due = clock::now().instant;
            }
        }
    }

    /// When the fence changes by time alone.
    fn fence_within(&self) -> Duration {
        let within = self.board.with(|state| state.gate.changes_within(clock::now()));
        within.map_or(LOOK, |within| within.max(Duration::from_millis(1)))
    }

    /// Gets a lease or renews it; when to come again.
    fn renew(&mut self, lease: &mut Option<Lease>) -> (Result<(), String>, Duration) {
        if !self.board.with(|state| state.nodes_at > 0 && !matches!(state.link, Link::Refused(_))) {
            return (Ok(()), AGAIN_AFTER / 5);
        }
        let sent = clock::now();
        if let Some(known) = *lease {
            // By then the fence may have to be shut, which is this thread's to do: the cores go by the wall clock, and that may
            // have been set back.
            let left = self.board.with(|state| state.gate.leased_for(sent.instant)).unwrap_or(self.ttl);
            let within = if left.is_zero() { self.ttl } else { left }.min(self.ttl / 3);
            return match self.etcd.keep_alive(known, within) {
                Ok(Some(ttl)) => {
                    self.board.change(|state| state.gate.renewed(sent, ttl));
                    (Ok(()), self.ttl / 3)
                }
                Ok(None) => {
                    *lease = None;
                    self.board.change(State::lost);
                    (Err("etcd has ended this node's lease; it announces itself again".to_owned()), Duration::ZERO)
                }
                Err(error) => (Err(format!("the lease cannot be renewed: {error}")), AGAIN_AFTER),
            };
        }
        // Whatever lease there was, the others may have seen it end.
        self.board.change(State::lost);
        // In another one, or one that was restored from a backup, whoever hears what is in force here would take it for what
        // was decided there.
        if !self.board.with(|state| state.is_right) {
            return (Ok(()), AGAIN_AFTER / 5);
        }
        let granted = self.etcd.grant(self.ttl, self.ttl / 3);
        let announced = granted.map_err(|error| format!("no lease: {error}")).and_then(|(new, ttl)| {
            let at = self.announce(new)?;
            Ok((new, ttl, at))
        });
        match announced {
            Ok((new, ttl, at)) => {
                *lease = Some(new);
                self.board.change(|state| {
                    state.lease = Some(new);
                    state.announced_at = at;
                    state.gate.renewed(sent, ttl);
                    state.gate.announced(at);
                    state.speak_up(at);
                });
                (Ok(()), self.ttl / 3)
            }
            Err(why) => (Err(why), AGAIN_AFTER),
        }
    }

    /// The announcement and the word in this node's name, where there are any.
    fn read_own(&self, within: Duration) -> Result<(Header, Option<KeyValue>, Option<KeyValue>), EtcdError> {
        let read = |from: Vec<u8>| Op::Range { from, end: Vec::new(), limit: 1 };
        let both = vec![read(self.keys.member(&self.node)), read(self.keys.word(&self.node))];
        let read = self.etcd.txn(&Txn { success: both, ..Txn::default() }, within)?;
        let mut pages = read.answers.into_iter().map(|answer| match answer {
            Answer::Range(page) => page.kvs.into_iter().next(),
            Answer::Put | Answer::Deleted(_) => None,
        });
        Ok((read.header, pages.next().flatten(), pages.next().flatten()))
    }

    /// Says that this node runs. From that revision on, the others count with it.
    fn announce(&mut self, lease: Lease) -> Result<Revision, String> {
        let failed = |error: EtcdError| format!("this node cannot announce itself: {error}");
        let (member_key, word_key) = (self.keys.member(&self.node), self.keys.word(&self.node));
        let followed = self.board.with(|state| state.followed());
        let (header, known, word) = self.read_own(self.ttl / 3).map_err(failed)?;
        if !followed.answers(&header, false) {
            return Err("etcd is another one than this engine follows, or was restored from a backup".to_owned());
        }
        if known.as_ref().map(announced).is_some_and(|known| known.running && known.uuid != self.run.uuid) {
            return Err(format!("another engine has announced itself under the name {:?}", self.node));
        }
        let known = known.map_or(0, |member| member.mod_revision);
        let other = word.and_then(|word| read_said(&word.value).ok()).map(|said| said.run);
        let other = other.filter(|other| other.id != self.run.id || other.uuid != self.run.uuid);
        if let Some(other) = other {
            if other.uuid != self.run.uuid {
                return Err(format!("another engine runs under the name {:?} ({})", self.node, other.place));
            }
            // Killed a moment ago, or a copy of this directory: one that runs says so when it hears of us.
            let is_copy = self.board.change(|state| {
                state.gate.unsure(clock::now().instant.after(OBJECTION_WITHIN));
                state.twin.as_ref() == Some(&other)
            });
            if is_copy {
                return Err(format!("{} runs with a copy of this data directory", other.place));
            }
        }
        if !self.delivers_when_lost {
            self.count(false)?;
        }
        let now = clock::now().utc;
        let applied = self.board.with(|state| state.waiting.own());
        let member = self.member(true);
        let said = self.said(applied, now);
        let txn = Txn {
            compare: vec![Compare::unchanged(&member_key, known)],
            success: vec![
                Op::Put { key: member_key, value: write_member(&member, applied, now), lease: None },
                Op::Put { key: word_key, value: write_said(&said), lease: Some(lease) },
            ],
            failure: Vec::new(),
        };
        if self.board.is_stopping() {
            return Err("this engine is stopping".to_owned());
        }
        let answer = self.etcd.txn(&txn, self.ttl / 3).map_err(failed)?;
        if !answer.succeeded {
            return Err(format!("somebody else announces a node {:?} at the same time", self.node));
        }
        Ok(answer.header.revision)
    }

    /// The others count with this node from its announcement on. It is stored only while it also has what was decided until
    /// then without it: a start after a crash goes by what is stored here.
    fn count_in(&mut self) -> Result<(), String> {
        let is_in = self.delivers_when_lost && self.board.with(|state| state.gate.has_caught_up());
        self.count(is_in)
    }

    /// Stores whether the others wait for this node even when it is lost: never true while they may not.
    fn count(&mut self, counted: bool) -> Result<(), String> {
        if self.counted != counted {
            self.authority.note(move |store| store.set_counted(counted))?;
            self.counted = counted;
        }
        Ok(())
    }

    fn member(&self, running: bool) -> Member {
        Member { uuid: self.run.uuid.clone(), running, delivers_when_lost: self.delivers_when_lost }
    }

    fn said(&self, applied: Revision, clock: Timestamp) -> Said {
        Said { run: self.run.clone(), announced_at: 0, applied, clock, version: env!("CARGO_PKG_VERSION").into() }
    }

    /// Brings into force what stands before all mail, if it is other than what the cores know.
    fn set_fence(&mut self) {
        let fence = self.board.with(|state| state.fence(clock::now()));
        if fence == self.fence {
            return;
        }
        match (&self.fence, &fence) {
            (Fence::Shut(_), Fence::Open | Fence::From(_)) => report::notice("cluster: mail is delivered again"),
            (Fence::Open | Fence::From(_), Fence::Shut(why)) => report::warning(why.as_str()),
            (Fence::Shut(was), Fence::Shut(why)) if was != why => report::notice(why.as_str()),
            _ => {}
        }
        self.authority.fence(fence_rule(&fence));
        self.fence = fence;
    }

    /// Says the last word of a node that has stopped delivering: the others need not wait for it any more, and it has
    /// to catch up before it delivers again. What could not be said, and was not for certain, is as after a crash.
    ///
    /// # Errors
    /// Why the others still wait for it.
    pub fn stop(&mut self, deadline: Instant) -> Result<(), String> {
        let (applied, lease, is_known) = self.board.with(|state| {
            let is_known = state.nodes_at > 0 && !matches!(state.link, Link::Refused(_));
            (state.waiting.own(), state.lease, is_known)
        });
        if !is_known {
            return Ok(());
        }
        let counted = self.authority.look(crate::rules::store::Store::membership)?.is_some_and(|known| known.counted);
        self.counted = counted;
        self.count(false)?;
        match self.say_stopped(applied, deadline) {
            Ok(()) => {
                if let Some(lease) = lease {
                    // Without it the lease ends by itself.
                    let _ = self.etcd.revoke(lease, AGAIN_AFTER);
                }
                Ok(())
            }
            Err(error) => {
                if counted && !matches!(error, EtcdError::Unknown(_)) {
                    self.count(true)?;
                }
                Err(format!("etcd was not told that this node has stopped: {error}; calls elsewhere wait for it"))
            }
        }
    }

    /// That holds only as long as nobody has announced this node since: a request that was given up may be carried out
    /// when the next run delivers, and the name may be another engine's by now.
    fn say_stopped(&self, applied: Revision, deadline: Instant) -> Result<(), EtcdError> {
        let within = || deadline.since(clock::now().instant).max(AGAIN_AFTER);
        let (member_key, word_key) = (self.keys.member(&self.node), self.keys.word(&self.node));
        for _ in 0..FAREWELLS {
            // Nothing is asked yet but how it is.
            let (_, member, word) = self.read_own(within() / 2).map_err(|error| match error {
                EtcdError::Unknown(why) => EtcdError::Unreachable(why),
                error => error,
            })?;
            // Forgotten, or the name is another engine's: nobody waits for this one.
            let Some(member) = member.filter(|kv| announced(kv).uuid == self.run.uuid) else { return Ok(()) };
            let speaks = word.and_then(|word| read_said(&word.value).ok()).map(|said| said.run);
            if speaks.is_some_and(|run| run != self.run && !run.id.is_empty()) {
                return Ok(());
            }
            let value = write_member(&self.member(false), applied, clock::now().utc);
            let put = Op::Put { key: member_key.clone(), value, lease: None };
            let txn = Txn {
                compare: vec![Compare::unchanged(&member_key, member.mod_revision)],
                success: vec![put, Op::Delete { key: word_key.clone() }],
                failure: Vec::new(),
            };
            if self.etcd.txn(&txn, within())?.succeeded {
                return Ok(());
            }
            // An announcement of ours that was given up was carried out after all.
        }
        Err(EtcdError::Refused(format!("somebody keeps announcing a node {:?}", self.node)))
    }
}

/// The rule that stands before all mail.
#[must_use]
pub fn fence_rule(fence: &Fence) -> Option<Rule> {
    let (why, validity) = match fence {
        Fence::Open => return None,
        Fence::From(at) => (Why::NoLease, Validity::between(*at, Timestamp::NEVER)),
        Fence::Shut(why) => (*why, Validity::always()),
    };
    let kind = Kind::Suspension { reason: why.as_str().into() };
    Some(Rule { id: FENCE.into(), order: 0, kind, scope: Scope::default(), validity, by: "(cluster)".into() })
}
