//! What one node does for all, beside everything else and without haste: rules that are long over are removed from etcd,
//! and segments of suppressions merged. That two do it at times does no harm: each change holds only if nobody has
//! changed the same meanwhile.

use super::board::Board;
use super::etcd::{Compare, Etcd, Op, Txn};
use super::record::{Keys, rule_key};
use super::suppressions::table::StoredTable;
use super::suppressions::worker::Manager;
use super::waiting::{Name, State};
use crate::rules::authority::Authority;
use crate::rules::store::KnownRule;
use mailrace_shards::runtime::clock;
use mailrace_shards::time::Timestamp;
use std::sync::Arc;
use std::time::Duration;

/// How long a rule stays in etcd after its end, beside what clocks differ: nobody's clock ends another's rule early.
const GRACE: Duration = Duration::from_secs(60);

/// How often somebody looks.
const EVERY: Duration = Duration::from_secs(5);

/// Rules removed at a time, each by a transaction of its own.
const RULES: u32 = 64;

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
}

impl Tender {
    /// Until the end.
    pub fn run(self) {
        while !self.board.rest(EVERY) {
            if is_ours(&self.board, &self.node) {
                self.end_rules();
            }
        }
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

/// Whether this node does what one does for all: the first of those that are there.
fn is_ours(board: &Board, node: &Name) -> bool {
    board.with(|state| {
        let mut live = state.waiting.nodes().filter(|(_, node)| node.state() == State::Live);
        state.lease.is_some() && live.all(|(name, _)| name > node)
    })
}

/// What the thread that merges asks.
pub struct Merger {
    /// Where is known who is there.
    pub board: Arc<Board>,
    /// This node.
    pub node: Name,
    /// What is stored here.
    pub table: StoredTable,
}

impl Manager for Merger {
    fn is_ours(&self) -> bool {
        is_ours(&self.board, &self.node)
    }

    fn live(&self) -> Result<u64, String> {
        self.table.count()
    }
}
