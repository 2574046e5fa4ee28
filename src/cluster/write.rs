//! Changes on their way into etcd: what is asked for is compared with what is known here, and written under the
//! condition that etcd knows the same. Where it does not, this node first hears what it has missed. The threads here
//! wait for etcd; whoever asked waits for the board.

use super::board::{Board, Followed, Link};
use super::calls::unknown;
use super::etcd::{Compare, Etcd, EtcdError, Header, Op, Txn, TxnAnswer};
use super::record::{Keys, rule_key, write_by, write_entry, write_pool};
use super::suppressions::segment::{of_removals, of_suppressions};
use super::waiting::{Call, Name};
use crate::rules::authority::Failure;
use crate::rules::change::{Changed, Pool, Refused, Request};
use crate::rules::entry::{Dialect, Draft, Origin, RuleEntry};
use crate::rules::shared::Revision;
use crate::rules::store::{KnownRule, RULES_MAX, Reader, Store, StoreError};
use crate::users::random;
use crossbeam::channel::Receiver;
use mailrace_shards::limits::API_POOLS_MAX;
use mailrace_shards::runtime::clock;
use mailrace_shards::time::Instant;
use std::sync::Arc;
use std::time::Duration;

/// How often a change is compared anew before whoever asked is told to try again.
const TRIES: u32 = 8;

/// etcd is given that long at least: a change that it has been told of is not given up a moment later.
const TXN_WITHIN_MIN: Duration = Duration::from_millis(100);

/// Octets of segments that go into one transaction; etcd takes 1.5 MiB.
const TXN_BYTES_MAX: usize = 1 << 20;

/// A change to be written.
pub struct Order {
    /// Who waits for it.
    pub call: Call,
    /// What.
    pub task: Task,
    /// Who asked.
    pub origin: Origin,
    /// When whoever asked waits no longer.
    pub deadline: Instant,
}

/// What is to be written.
#[derive(Debug)]
pub enum Task {
    /// A change of rules, suppressions or pools.
    Change(Request),
    /// A node will never come back.
    Forget(Name),
}

/// What a writing thread needs.
#[derive(Clone)]
pub struct Writer {
    /// Where calls wait.
    pub board: Arc<Board>,
    /// Where it is written.
    pub etcd: Etcd,
    /// What it is called there.
    pub keys: Keys,
    /// Where is looked up what is known here, without waiting for what is being stored.
    pub reader: Reader,
}

/// What came of an order.
enum Written {
    /// It is in etcd with these revisions.
    At(Vec<Revision>),
    /// There was nothing to be changed.
    Nothing,
    /// Each node hears of it by itself.
    Said,
}

/// What is to be written.
enum Plan {
    /// One transaction, under conditions; and what will have come of it.
    Txn(Txn, Box<Changed>),
    /// There is nothing to be changed, as far as is known here.
    Nothing,
}

impl Writer {
    /// Until nobody can give an order any more.
    pub fn run(&self, orders: &Receiver<Order>) {
        for order in orders {
            if !self.board.with(|state| state.take_up(order.call)) {
                continue;
            }
            let result = match &order.task {
                Task::Change(Request::Suppress(entries)) => {
                    self.segments(of_suppressions(entries, &order.origin), &order)
                }
                Task::Change(Request::Unsuppress(values)) => self.segments(of_removals(values, &order.origin), &order),
                Task::Change(_) | Task::Forget(_) => self.write(&order),
            };
            self.board.change(|state| match result {
                Ok((Written::At(revisions), changed)) => state.stored(order.call, revisions, changed),
                Ok((Written::Nothing, changed)) => state.found_so(order.call, changed),
                Ok((Written::Said, changed)) => state.said_so(order.call, changed),
                Err(failure) => state.failed(order.call, failure),
            });
        }
    }

    fn write(&self, order: &Order) -> Result<(Written, Changed), Failure> {
        // To be let in, this node may first have to forget the one whose name it took.
        let is_forgetting = matches!(order.task, Task::Forget(_));
        if !is_forgetting {
            self.ready(order)?;
        }
        let mut looked = false;
        let mut refused = None;
        for _ in 0..TRIES {
            match self.plan(order)? {
                Plan::Nothing if looked => return Ok((Written::Nothing, Changed::default())),
                Plan::Nothing => {
                    // Only etcd knows that there is nothing.
                    let followed = self.followed();
                    let now = self.etcd.range(&self.keys.by(), &[], None, 1).map_err(|error| failure(&error))?;
                    check(followed, &now.header, false)?;
                    self.catch_up(now.header.revision, order)?;
                    looked = true;
                }
                Plan::Txn(txn, changed) if is_forgetting => {
                    if self.etcd.txn(&txn, left(order)).map_err(|error| failure(&error))?.succeeded {
                        return Ok((Written::Said, *changed));
                    }
                }
                Plan::Txn(txn, changed) => {
                    let answer = self.commit(&txn, order)?;
                    if answer.succeeded {
                        return Ok((Written::At(vec![answer.header.revision]), *changed));
                    }
                    // What is known here is as of that moment or a later one. If it still is not what etcd has, something
                    // of what etcd said did not arrive.
                    if refused.as_ref() == Some(&txn.compare) {
                        self.board.change(|state| state.doubtful = true);
                    }
                    self.catch_up(answer.header.revision, order)?;
                    refused = Some(txn.compare);
                }
            }
        }
        let text = "others keep changing the same; nothing of this change is stored, try again";
        Err(Failure::Unavailable(text.to_owned()))
    }

    /// Only with an etcd that is known to be the right one.
    fn ready(&self, order: &Order) -> Result<(), Failure> {
        let left = order.deadline.since(clock::now().instant);
        let ready = self.board.wait(left, |state| match (&state.link, state.cluster_id) {
            (Link::Refused(why), _) => Some(Err(why.clone())),
            (Link::CutOff(why), None) => Some(Err(why.clone())),
            (Link::Starting, _) | (_, None) => None,
            _ => Some(Ok(())),
        });
        let ready = ready.unwrap_or_else(|| Err("etcd has not answered yet".to_owned()));
        ready.map_err(|why| Failure::Unavailable(nothing_stored(&why)))
    }

    /// Writes into the etcd that this node follows.
    fn commit(&self, txn: &Txn, order: &Order) -> Result<TxnAnswer, Failure> {
        let followed = self.followed();
        let answer = self.etcd.txn(txn, left(order)).map_err(|error| failure(&error))?;
        check(followed, &answer.header, answer.succeeded).map(|()| answer)
    }

    fn followed(&self) -> Followed {
        self.board.with(|state| state.followed())
    }

    /// Waits until this node has everything up to a revision.
    fn catch_up(&self, revision: Revision, order: &Order) -> Result<(), Failure> {
        if self.board.catch_up(revision, order.deadline.since(clock::now().instant)) {
            return Ok(());
        }
        let why = "this node has not heard from etcd lately what others have changed";
        Err(Failure::Unavailable(nothing_stored(why)))
    }

    fn plan(&self, order: &Order) -> Result<Plan, Failure> {
        let request = match &order.task {
            Task::Change(request) => request,
            Task::Forget(node) => return self.plan_forget(node, &order.origin),
        };
        match request {
            Request::Put { id, draft } => self.plan_put(id, draft, &order.origin),
            Request::RemoveId(collection, id) => {
                let known = self.look(|store| store.known_rule_by_id(*collection, id))?;
                Ok(self.plan_removal(known, &order.origin))
            }
            Request::RemoveIdentity { collection, identity, .. } => {
                let known = self.look(|store| store.known_rule(*collection, identity))?;
                Ok(self.plan_removal(known, &order.origin))
            }
            Request::PutPool(pool) => self.plan_pool(pool, &order.origin),
            Request::RemovePool(name) => {
                let revision = self.pool(name)?.map(|(_, revision)| revision);
                let key = self.keys.pool(name);
                let removal = |revision| self.removal(&key, revision, &order.origin);
                let changed = Changed { removed: 1, ..Changed::default() };
                Ok(revision.map_or(Plan::Nothing, |revision| Plan::Txn(removal(revision), Box::new(changed))))
            }
            other => unreachable!("{other:?} is no change for the cluster: Cluster::concerns says so"),
        }
    }

    fn plan_put(&self, id: &Arc<str>, draft: &Draft, origin: &Origin) -> Result<Plan, Failure> {
        let identity = draft.identity();
        let (known, is_full) =
            self.look(|store| Ok((store.known_rule(draft.collection, &identity)?, store.is_full()?)))?;
        if is_full {
            let text = format!("there are {RULES_MAX} rules, which is the most; remove some first");
            return Err(Failure::Unavailable(text));
        }
        let revision = known.as_ref().map_or(0, |known| known.revision);
        // One that is over is as good as gone.
        let open = known.filter(|known| !known.entry.draft.schedule.ended(origin.at));
        let keeps_id = draft.collection.dialect() == Dialect::Mailerq;
        let new =
            RuleEntry { id: id.clone(), order: 0, draft: draft.clone(), origin: origin.clone(), created: origin.at };
        let (entry, is_new) = match open {
            Some(old) if keeps_id => (RuleEntry { id: old.entry.id, created: old.entry.created, ..new }, false),
            _ => (new, true),
        };
        let key = self.keys.rule(&rule_key(draft.collection, &identity));
        let put = Op::Put { key: key.clone(), value: write_entry(&entry), lease: None };
        let txn = Txn { compare: vec![Compare::unchanged(&key, revision)], success: vec![put], failure: Vec::new() };
        let (created, updated) = (u64::from(is_new), u64::from(!is_new));
        let changed = Changed { created, updated, entry: Some(entry), ..Changed::default() };
        Ok(Plan::Txn(txn, Box::new(changed)))
    }

    fn plan_removal(&self, known: Option<KnownRule>, origin: &Origin) -> Plan {
        let Some(known) = known else { return Plan::Nothing };
        let draft = &known.entry.draft;
        let key = self.keys.rule(&rule_key(draft.collection, &draft.identity()));
        let removed = u64::from(!draft.schedule.ended(origin.at));
        let changed = Changed { removed, ..Changed::default() };
        Plan::Txn(self.removal(&key, known.revision, origin), Box::new(changed))
    }

    fn plan_pool(&self, pool: &Pool, origin: &Origin) -> Result<Plan, Failure> {
        let pools = self.look(Store::known_pools)?;
        let known = pools.iter().find(|(known, _)| known.name == pool.name);
        if known.is_none() && pools.len() >= API_POOLS_MAX {
            let text = format!("there are {API_POOLS_MAX} pools, which is the most; remove some first");
            return Err(Failure::Unavailable(text));
        }
        let revision = known.map_or(0, |(_, revision)| *revision);
        let key = self.keys.pool(&pool.name);
        let put = Op::Put { key: key.clone(), value: write_pool(pool, origin), lease: None };
        let txn = Txn { compare: vec![Compare::unchanged(&key, revision)], success: vec![put], failure: Vec::new() };
        let (created, updated) = (u64::from(known.is_none()), u64::from(known.is_some()));
        Ok(Plan::Txn(txn, Box::new(Changed { created, updated, ..Changed::default() })))
    }

    /// Only a node that is not there can be forgotten.
    fn plan_forget(&self, node: &str, origin: &Origin) -> Result<Plan, Failure> {
        let refused = |text: String| Failure::Refused(Refused { field: "node", text });
        let ask = |key: &[u8]| self.etcd.range(key, &[], None, 1).map_err(|error| failure(&error));
        let (member, word) = (self.keys.member(node), self.keys.word(node));
        if !ask(&word)?.kvs.is_empty() {
            return Err(refused(format!("node {node:?} is there; stop it first")));
        }
        let known = ask(&member)?;
        let Some(known) = known.kvs.first() else {
            return Err(refused(format!("there is no node {node:?}; `mailrace cluster` names them")));
        };
        let mut txn = self.removal(&member, known.mod_revision, origin);
        txn.compare.push(Compare::absent(&word));
        Ok(Plan::Txn(txn, Box::new(Changed { removed: 1, ..Changed::default() })))
    }

    /// Who removes something is told beside it: a key that is gone says nothing.
    fn removal(&self, key: &[u8], revision: Revision, origin: &Origin) -> Txn {
        let delete = Op::Delete { key: key.to_vec() };
        let by = Op::Put { key: self.keys.by(), value: write_by(origin), lease: None };
        Txn { compare: vec![Compare::unchanged(key, revision)], success: vec![delete, by], failure: Vec::new() }
    }

    fn pool(&self, name: &str) -> Result<Option<(Pool, Revision)>, Failure> {
        let pools = self.look(Store::known_pools)?;
        Ok(pools.into_iter().find(|(pool, _)| *pool.name == *name))
    }

    fn look<T>(&self, read: impl FnOnce(&Store) -> Result<T, StoreError>) -> Result<T, Failure> {
        self.reader.look(read).map_err(Failure::Unavailable)
    }

    /// New segments, as few transactions as they fit into. They depend on nothing that is there: the later one counts.
    fn segments(&self, values: Vec<Vec<u8>>, order: &Order) -> Result<(Written, Changed), Failure> {
        self.ready(order)?;
        let (mut revisions, mut txn, mut octets) = (Vec::new(), Txn::default(), 0);
        let count = values.len();
        for (at, value) in values.into_iter().enumerate() {
            octets += value.len();
            let key = self.keys.suppressions(&new_id(at));
            txn.compare.push(Compare::absent(&key));
            txn.success.push(Op::Put { key, value, lease: None });
            let is_last = at + 1 == count;
            if is_last || octets + super::suppressions::SEGMENT_BYTES_MAX > TXN_BYTES_MAX {
                let part = |failure| match failure {
                    Failure::Unavailable(why) if !revisions.is_empty() => {
                        Failure::Unavailable(format!("a part of it is stored, send all again. Of the rest: {why}"))
                    }
                    failure => failure,
                };
                let answer = self.commit(&std::mem::take(&mut txn), order).map_err(part)?;
                if !answer.succeeded {
                    return Err(part(Failure::Unavailable("a new key of etcd is taken; try again".to_owned())));
                }
                revisions.push(answer.header.revision);
                octets = 0;
            }
        }
        Ok((Written::At(revisions), Changed::default()))
    }
}

/// Whether an answer is that of the etcd which is followed. What is written into another one is in force nowhere.
fn check(followed: Followed, header: &Header, wrote: bool) -> Result<(), Failure> {
    if followed.answers(header, wrote) {
        return Ok(());
    }
    let why = "etcd is another one than this engine follows, or was restored from a backup (`mailrace cluster` tells)";
    Err(Failure::Unavailable(if wrote {
        format!("{why}: the change is in it, and in force nowhere")
    } else {
        nothing_stored(why)
    }))
}

#[cfg(test)]
#[path = "write_tests.rs"]
mod tests;

/// Of a new segment.
pub(super) fn new_id(at: usize) -> String {
    let millis = u64::try_from(clock::now().utc.0).unwrap_or(0);
    format!("{}-{at:02}", uuid::Builder::from_unix_timestamp_millis(millis, &random()).into_uuid())
}

fn left(order: &Order) -> Duration {
    order.deadline.since(clock::now().instant).max(TXN_WITHIN_MIN)
}

fn nothing_stored(why: &str) -> String {
    format!("{why}; nothing of this change is stored. What is not for the whole cluster can be changed meanwhile")
}

fn failure(error: &EtcdError) -> Failure {
    Failure::Unavailable(match error {
        EtcdError::Unknown(_) => unknown(&error.to_string()),
        _ => nothing_stored(&error.to_string()),
    })
}
