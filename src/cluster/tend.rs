//! What is done beside everything else and without haste. By each node: what it has is compared with what etcd has. By one
//! node at a time as a rule: rules that are long over are removed from etcd, and segments of suppressions merged. Whoever does it, each change holds only if nobody has changed
//! the same meanwhile.

use super::board::Board;
use super::compare::Comparer;
use super::etcd::{Compare, Etcd, Op, Txn};
use super::heard::Missed;
use super::record::{Keys, rule_key};
use super::suppressions::merging::{Done, Merging};
use super::waiting::{Name, State};
use crate::report;
use crate::rules::authority::Authority;
use crate::rules::store::KnownRule;
use mailrace_shards::runtime::clock;
use mailrace_shards::time::Timestamp;
use std::sync::Arc;
use std::time::Duration;

/// How long a rule stays in etcd after its end, beside what clocks differ: nobody's clock ends another's rule early.
const GRACE: Duration = Duration::from_secs(60);

/// How often this node does what every node does for itself, and how often one node does what is for all.
const EVERY: Duration = Duration::from_secs(1);
const EVERY_FOR_ALL: Duration = Duration::from_secs(5);

/// Rules removed at a time, each by a transaction of its own.
const RULES: u32 = 64;

/// Merges at a time.
const STEPS: usize = 32;

/// How long etcd may take.
const WITHIN: Duration = Duration::from_secs(5);

/// What is needed for it.
pub struct Tender {
    /// Where is known who is there.
    pub board: Arc<Board>,
    /// Where it is done.
    pub etcd: Etcd,
    /// What it is called there.
    pub keys: Keys,
    /// What is stored here.
    pub authority: Authority,
    /// This node.
    pub node: Name,
    /// Suppressions.
    pub merging: Merging,
    /// Whether what is here is what etcd has.
    pub comparer: Comparer,
}

impl Tender {
    /// Until the end.
    pub fn run(mut self) {
        let mut said = String::new();
        let mut due = clock::now().instant.after(EVERY_FOR_ALL);
        while !self.board.rest(EVERY) {
            self.comparer.step();
            if clock::now().instant < due {
                continue;
            }
            due = clock::now().instant.after(EVERY_FOR_ALL);
            if !self.is_ours() {
                continue;
            }
            self.end_rules();
            match self.merge() {
                Ok(()) => said.clear(),
                // etcd cannot be asked: whoever follows it says so.
                Err(Missed::Now(_)) => {}
                Err(Missed::Ever(why)) if why != said => {
                    report::warning(&format!("cluster: {why}"));
                    said = why;
                }
                Err(Missed::Ever(_)) => {}
            }
        }
    }

    /// As long as there is something to do, so many steps at most.
    fn merge(&mut self) -> Result<(), Missed> {
        let authority = self.authority.clone();
        let mut live = || authority.look(crate::rules::store::Store::count_suppressions).map_err(Missed::Now);
        for _ in 0..STEPS {
            let done = self.merging.step(&mut live)?;
            if matches!(done, Done::Nothing | Done::NotInOne) || self.board.is_stopping() {
                break;
            }
        }
        Ok(())
    }

    /// The first of those that are there does it.
    fn is_ours(&self) -> bool {
        self.board.with(|state| {
            let mut live = state.waiting.nodes().filter(|(_, node)| node.state() == State::Live);
            state.lease.is_some() && live.all(|(name, _)| *name > self.node)
        })
    }

    fn end_rules(&self) {
        let skew = self.board.with(|state| state.skew_max());
        let late = i64::try_from((GRACE + skew).as_millis()).unwrap_or(i64::MAX);
        let before = Timestamp(clock::now().utc.0.saturating_sub(late));
        // What cannot be done now is done the next time.
        let ended = self.authority.look(move |store| store.ended_shared_rules(before, RULES)).unwrap_or_default();
        for KnownRule { entry, revision, .. } in ended {
            let key = self.keys.rule(&rule_key(entry.draft.collection, &entry.draft.identity()));
            let compare = vec![Compare::unchanged(&key, revision)];
            let txn = Txn { compare, success: vec![Op::Delete { key }], failure: Vec::new() };
            if self.etcd.txn(&txn, WITHIN).is_err() || self.board.is_stopping() {
                return;
            }
        }
    }
}
