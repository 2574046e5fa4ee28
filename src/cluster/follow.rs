//! The follower's thread: what happens in etcd happens here, in etcd's order, each revision as a whole. Starts from what
//! is stored here; where etcd has forgotten what follows, everything is read anew and compared, so that nothing is out of
//! force in between. It never drops a rule because etcd seems to be another one, or older than what is stored here:
//! that is for the operator to decide.

use super::board::{Board, Link, State};
use super::compare::HeardSegments;
use super::etcd::{Etcd, EtcdError, Event, Events, KeyValue, after_prefix};
use super::heard::{Hearing, Missed, News};
use super::join::{Join, Progress};
use super::place::is_copy;
use super::record::{Key, Keys, Run, Said, read_by, read_member, read_pool, read_rule, read_said};
use super::relist::Relist;
use super::waiting::{Member, Name};
use crate::report;
use crate::rules::authority::Authority;
use crate::rules::change::Request;
use crate::rules::entry::Origin;
use crate::rules::shared::{Follow, Membership, Revision, Shared};
use mailrace_shards::runtime::clock;
use std::sync::Arc;
use std::time::Duration;

/// Waits between two tries to reach etcd: the first, and the longest.
const AGAIN_AFTER: Duration = Duration::from_millis(50);
const AGAIN_AFTER_MAX: Duration = Duration::from_secs(2);

/// How long the watch is listened to before the thread looks about.
const LISTEN: Duration = Duration::from_millis(500);

/// How long a member may take to say who leads.
const LEADER_WITHIN: Duration = Duration::from_millis(200);

/// After so many revisions that changed nothing of ours, the place is stored all the same: a start then has no more
/// than these to hear.
const UNSTORED_MAX: Revision = 1000;

/// Changes of one portion of what is read anew.
const PORTION: usize = 10_000;

/// Why the thread starts again from what is stored.
pub(super) enum Over {
    /// It is tried again soon.
    Again(String),
    /// Everything has to be read anew: etcd has forgotten what follows.
    Forgotten,
    /// Somebody has to do something first.
    Refused(String),
    /// The end has come.
    Stopped,
}

impl From<EtcdError> for Over {
    fn from(error: EtcdError) -> Self {
        match error {
            EtcdError::Compacted { .. } => Self::Forgotten,
            error => Self::Again(error.to_string()),
        }
    }
}

impl From<Missed> for Over {
    fn from(missed: Missed) -> Self {
        match missed {
            Missed::Now(why) => Self::Again(why),
            Missed::Ever(why) => Self::Refused(why),
        }
    }
}

/// The thread's own.
pub struct Follower {
    /// Where it says what it has heard.
    pub board: Arc<Board>,
    /// Whom it follows.
    pub etcd: Etcd,
    /// What things are called there.
    pub keys: Keys,
    /// Where things are stored.
    pub authority: Authority,
    /// This node.
    pub node: Name,
    /// What it remembers.
    pub membership: Membership,
    /// This run of it.
    pub run: Run,
    /// etcd has forgotten what follows on what is stored here.
    pub forgotten: bool,
    /// How far it has brought in what was made here alone.
    pub joining: Progress,
    /// How long the watch may be silent: every node says its word more often.
    pub silent_max: Duration,
    /// Suppressions.
    pub hearing: Box<dyn Hearing>,
    /// Their segments, by name.
    pub heard: HeardSegments,
}

impl Follower {
    /// Until the end.
    pub fn run(mut self) {
        self.etcd.prefer_leader(LEADER_WITHIN);
        let mut wait = AGAIN_AFTER;
        let mut said = String::new();
        let started = clock::now().instant;
        loop {
            let began = clock::now().instant;
            self.ask_first(started, true);
            let over = self.follow();
            self.ask_first(started, false);
            self.board.change(|state| state.is_right = false);
            let why = match over {
                Over::Stopped => return,
                Over::Forgotten => {
                    report::notice("cluster: etcd cannot say any more what has changed; everything is read anew");
                    self.forgotten = true;
                    continue;
                }
                Over::Again(why) => {
                    self.board.change(|state| state.set_link(Link::CutOff(why.clone())));
                    why
                }
                Over::Refused(why) => {
                    self.board.change(|state| state.set_link(Link::Refused(why.clone())));
                    why
                }
            };
            if why != said {
                report::warning(&format!("cluster: {why}"));
                said = why;
            }
            // What worked for a while is tried again at once.
            if clock::now().instant.since(began) > AGAIN_AFTER_MAX {
                wait = AGAIN_AFTER;
            }
            if self.board.rest(jittered(wait)) {
                return;
            }
            wait = (wait * 2).min(AGAIN_AFTER_MAX);
        }
    }

    /// From what is stored here on, until it cannot go on.
    fn follow(&mut self) -> Over {
        let followed = self.begin().and_then(|()| self.listen());
        let Err(over) = followed else { return Over::Stopped };
        // Whatever is on its way arrives, or fails; what is stored then is where the next try begins.
        self.board.wait(Duration::MAX, |state| state.is_quiet().then_some(()));
        if self.board.is_stopping() {
            return Over::Stopped;
        }
        match self.authority.look(crate::rules::store::Store::membership) {
            Ok(Some(stored)) => {
                self.membership = stored;
                self.board.change(|state| state.resume(self.membership.revision));
                over
            }
            Ok(None) => Over::Refused("this engine's place in the cluster is not in its rules.db any more".to_owned()),
            Err(why) => Over::Again(why),
        }
    }

    /// Whom we follow is the right one, and we are up to a revision of it.
    fn begin(&mut self) -> Result<(), Over> {
        let revision = self.nodes()?;
        self.check_history()?;
        self.board.change(|state| state.is_right = true);
        if self.membership.revision == 0 || self.forgotten {
            self.board.change(|state| state.set_link(Link::Reading));
            self.relist(revision)?;
            self.forgotten = false;
        }
        if !self.membership.joined {
            let progress = &mut self.joining;
            let mut join =
                Join { etcd: &self.etcd, keys: &self.keys, authority: &self.authority, node: &self.node, progress };
            join.bring_in(&self.board)?;
            self.membership.joined = true;
        }
        Ok(())
    }

    fn relist(&mut self, revision: Revision) -> Result<(), Over> {
        let after = self.membership.revision;
        let relist =
            Relist { etcd: &self.etcd, keys: &self.keys, authority: &self.authority, at: revision, portion: PORTION };
        let (authority, board, origin) = (&self.authority, &self.board, self.nobody());
        let mut apply = |changes: Vec<Shared>| {
            let follow = Follow { revision, after, completes: false, changes, origin: None };
            stored(authority, board, follow, &origin)
        };
        let removals = relist.puts(&mut apply)?;
        self.hearing.relist(revision, &mut apply)?;
        for part in removals.chunks(PORTION) {
            apply(part.to_vec())?;
        }
        let follow = Follow { revision, after, completes: true, changes: Vec::new(), origin: None };
        stored(authority, board, follow, &origin)?;
        self.membership.revision = revision;
        self.board.change(|state| {
            state.relevant = state.relevant.max(revision);
            state.owe(revision);
            state.saw(revision);
        });
        Ok(())
    }

    /// Who changes something of which nobody knows any more who did.
    fn nobody(&self) -> Origin {
        Origin { token: "".into(), peer: "".into(), at: clock::now().utc, node: self.node.clone() }
    }

    fn listen(&mut self) -> Result<(), Over> {
        let from = self.keys.prefix().as_bytes();
        // Nodes were read a moment ago; what the watch says of them up to then is older.
        let known = self.board.with(|state| state.nodes_at);
        self.heard.begin(&self.etcd, &self.keys, self.membership.revision)?;
        let mut watch = self.etcd.watch(from, &after_prefix(from), self.membership.revision + 1)?;
        let mut completed = self.membership.revision;
        let mut heard = clock::now().instant;
        self.board.change(|state| state.compare_now = true);
        loop {
            let next = watch.next(LISTEN)?;
            let now = clock::now().instant;
            if self.board.is_stopping() {
                return Ok(());
            }
            if self.board.with(|state| std::mem::take(&mut state.doubtful)) {
                report::warning("cluster: this engine has missed something that etcd said");
                return Err(Over::Forgotten);
            }
            if let Some(why) = self.board.with(|state| state.broken()) {
                return Err(Over::Again(format!("what etcd says cannot be stored here: {why}")));
            }
            let Some(events) = next else {
                if now.since(heard) > self.silent_max {
                    return Err(Over::Again("etcd has not been heard for a while".to_owned()));
                }
                continue;
            };
            heard = now;
            self.take(&events, &mut completed, known)?;
            let was = self.board.with(|state| {
                let was = state.link.clone();
                state.set_link(Link::Following);
                was
            });
            if matches!(was, Link::CutOff(_) | Link::Refused(_)) {
                report::notice("cluster: etcd is followed again");
            }
        }
    }

    /// One revision.
    fn take(&mut self, events: &Events, completed: &mut Revision, nodes_at: Revision) -> Result<(), Over> {
        let mut follow =
            Follow { revision: events.revision, after: *completed, completes: true, changes: Vec::new(), origin: None };
        for event in &events.events {
            self.hear(event, nodes_at, &mut follow)?;
        }
        if follow.changes.is_empty() && events.revision - *completed < UNSTORED_MAX {
            self.board.change(|state| state.saw(events.revision));
            return Ok(());
        }
        *completed = events.revision;
        self.send(follow)
    }

    fn hear(&mut self, event: &Event, nodes_at: Revision, follow: &mut Follow) -> Result<(), Over> {
        let (key, put) = match event {
            Event::Put(kv) => (&kv.key, Some(kv)),
            Event::Delete { key, .. } => (key, None),
        };
        let is_news = event.revision() > nodes_at;
        match (self.keys.read(key), put) {
            (Key::Rule(key), Some(kv)) => {
                let rule = read_rule(key, &kv.value, kv.mod_revision).map_err(Over::Refused)?;
                follow.changes.push(Shared::Rule(Box::new(rule)));
            }
            (Key::Rule(key), None) => follow.changes.push(Shared::RemoveRule(key.into())),
            (Key::Pool(name), Some(kv)) => {
                let pool = read_pool(name, &kv.value, kv.mod_revision).map_err(Over::Refused)?;
                follow.changes.push(Shared::Pool(Box::new(pool)));
            }
            (Key::Pool(name), None) => follow.changes.push(Shared::RemovePool(name.into())),
            (Key::Suppressions, Some(kv)) => {
                self.heard.put(&kv.key, kv.mod_revision);
                let news = self.hearing.put(&kv.key, &kv.value, kv.create_revision, kv.mod_revision);
                if let Some(News { changes, origin }) = news.map_err(Over::Refused)? {
                    follow.changes.extend(changes);
                    follow.origin = origin.or(follow.origin.take());
                }
            }
            (Key::Suppressions, None) => {
                self.hearing.delete(key, event.revision());
                if !self.heard.delete(key) {
                    report::warning("cluster: suppressions are merged in etcd that never were heard of here");
                    self.board.change(|state| state.differences += 1);
                    return Err(Over::Forgotten);
                }
            }
            (Key::By, Some(kv)) => follow.origin = read_by(&kv.value).or(follow.origin.take()),
            (Key::Member(name), put) if is_news => {
                let name: Name = name.into();
                if put.is_none() {
                    follow.changes.push(Shared::ForgetNode(name.clone()));
                }
                let member = put.map(member);
                let is_ours = |member: &Member| member.running && *member.uuid == *self.membership.uuid;
                if name == self.node && !member.as_ref().is_some_and(is_ours) {
                    // Somebody forgot us, or said in our name that we have stopped: what was answered since then did not
                    // wait for us.
                    self.board.change(State::uncounted);
                }
                self.board.change(|state| state.announced(&name, member));
            }
            (Key::Word(name), put) if is_news => {
                let said = put.and_then(said);
                match &said {
                    Some(said) if *name == *self.node => self.hear_own(said, event.revision())?,
                    Some(said) => self.hear_other(said, event.revision())?,
                    None => {}
                }
                let now = clock::now().utc;
                self.board.change(|state| state.said(&name.into(), said, Some(now)));
            }
            // The trail knows it all the same from now on.
            (Key::Member(name), None) => follow.changes.push(Shared::ForgetNode(name.into())),
            (Key::Member(_) | Key::Word(_) | Key::By | Key::Identity | Key::Other, _) => {}
        }
        Ok(())
    }

    /// Somebody spoke in this node's name. Of two that have the same data directory, the one that announced itself first
    /// stays: it says its word again over that of the other, who hears of it.
    fn hear_own(&self, said: &Said, at: Revision) -> Result<(), Over> {
        if said.run.uuid != self.run.uuid || said.run.id == self.run.id {
            return Ok(());
        }
        let own = self.board.with(|state| state.announced_at);
        let theirs = if said.announced_at == 0 { at } else { said.announced_at };
        if own == 0 || said.run.id.is_empty() {
            return Ok(());
        }
        if own < theirs {
            self.board.change(State::object);
            return Ok(());
        }
        if said.announced_at == 0 {
            return Ok(());
        }
        self.board.change(|state| state.give_way(said.run.clone()));
        Err(Over::Refused(is_copy(&said.run)))
    }

    /// Somebody spoke in a name that is not ours. If it has the same data directory, one of the two is a copy that was
    /// given another name; here, too, the one that announced itself first stays.
    pub(super) fn hear_other(&self, said: &Said, at: Revision) -> Result<(), Over> {
        let own = self.board.with(|state| state.announced_at);
        let theirs = if said.announced_at == 0 { at } else { said.announced_at };
        if said.run.uuid != self.run.uuid || (own > 0 && own < theirs) {
            return Ok(());
        }
        self.board.change(|state| state.give_way(said.run.clone()));
        Err(Over::Refused(is_copy(&said.run)))
    }

    /// Sends a revision on its way to the store and the cores.
    fn send(&self, follow: Follow) -> Result<(), Over> {
        let (revision, changes) = (follow.revision, follow.changes.len());
        let room = self.board.wait(Duration::MAX, |state| (state.has_room() || state.is_broken()).then_some(()));
        if room.is_none() {
            return Err(Over::Stopped);
        }
        self.board.change(|state| state.begin(revision, changes));
        let board = self.board.clone();
        let hear = Box::new(move |result| board.change(|state| state.end(revision, result)));
        if self.authority.follow(Request::Follow(Box::new(follow)), self.nobody(), hear) {
            Ok(())
        } else {
            Err(Over::Stopped)
        }
    }
}

/// Stores a part of what was read anew; returns when it is in force.
fn stored(authority: &Authority, board: &Board, follow: Follow, origin: &Origin) -> Result<(), Missed> {
    let (sender, answer) = crossbeam::channel::bounded(1);
    // Whoever waits may have gone by the time that there is an answer.
    let hear = Box::new(move |result| drop(sender.send(result)));
    let ended = || Missed::Now("the rules' thread has ended".to_owned());
    if !authority.follow(Request::Follow(Box::new(follow)), origin.clone(), hear) {
        return Err(ended());
    }
    loop {
        match answer.recv_timeout(LISTEN) {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(failure)) => return Err(Missed::Now(format!("what etcd says cannot be stored here: {failure:?}"))),
            Err(crossbeam::channel::RecvTimeoutError::Timeout) if !board.is_stopping() => {}
            Err(_) => return Err(ended()),
        }
    }
}

/// What cannot be read means a node that is waited for.
pub(super) fn member(kv: &KeyValue) -> Member {
    read_member(&kv.value).unwrap_or_else(|why| {
        report::warning(&format!("cluster: {}: {why}", String::from_utf8_lossy(&kv.key)));
        Member { uuid: "?".into(), running: true, delivers_when_lost: true }
    })
}

/// A word that cannot be read says that nothing is in force there.
pub(super) fn said(kv: &KeyValue) -> Option<Said> {
    let run = Run { uuid: "?".into(), ..Run::default() };
    let unknown = Said { run, announced_at: 0, applied: 0, clock: clock::now().utc, version: "?".into() };
    Some(read_said(&kv.value).unwrap_or(unknown))
}

/// A half to the whole of it, so that nodes do not all come at once.
fn jittered(wait: Duration) -> Duration {
    let [octet] = crate::users::random::<1>();
    wait / 2 + wait.mul_f64(f64::from(octet) / 512.0)
}
