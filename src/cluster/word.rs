//! What this node says of itself while it has a lease: up to where everything is in force here. Said as soon as that
//! changes for a rule, one word at a time with whatever came meanwhile in it; and now and then in any case, which tells
//! the others how its clock goes and this one that its watch hears.

use super::board::Board;
use super::etcd::{Etcd, EtcdError, Op, Txn};
use super::record::{Keys, Said, write_said};
use super::waiting::Name;
use crate::rules::shared::Revision;
use mailrace_shards::runtime::clock;
use std::sync::Arc;
use std::time::Duration;

/// How long a failed try is left alone.
const AGAIN_AFTER: Duration = Duration::from_millis(200);

/// How long etcd may take.
const WITHIN: Duration = Duration::from_secs(2);

/// What is needed for it.
pub struct Speaker {
    /// Where is known what is in force.
    pub board: Arc<Board>,
    /// Where it is said.
    pub etcd: Etcd,
    /// What it is called there.
    pub keys: Keys,
    /// This node.
    pub node: Name,
    /// Of this data directory.
    pub uuid: Arc<str>,
    /// How long it is silent at most.
    pub every: Duration,
}

impl Speaker {
    /// Until the end.
    pub fn run(self) {
        let mut said: Revision = 0;
        let mut due = clock::now().instant;
        while !self.board.is_stopping() {
            let left = due.since(clock::now().instant);
            self.board.wait(left, |state| {
                let news = state.relevant > said && state.waiting.own() > said;
                (state.lease.is_some() && (news || state.must_speak())).then_some(())
            });
            let (lease, applied) = self.board.with(|state| (state.lease, state.waiting.own()));
            let Some(lease) = lease.filter(|_| !self.board.is_stopping()) else {
                self.board.rest(AGAIN_AFTER);
                continue;
            };
            let word = Said {
                uuid: self.uuid.clone(),
                applied,
                clock: clock::now().utc,
                version: env!("CARGO_PKG_VERSION").into(),
            };
            let put = Op::Put { key: self.keys.word(&self.node), value: write_said(&word), lease: Some(lease) };
            let txn = Txn { compare: Vec::new(), success: vec![put], failure: Vec::new() };
            match self.etcd.txn(&txn, WITHIN) {
                Ok(answer) => {
                    said = applied;
                    due = clock::now().instant.after(self.every);
                    self.board.with(|state| state.spoke(answer.header.revision));
                }
                // Whoever keeps the lease says why.
                Err(EtcdError::Unreachable(_) | EtcdError::Unknown(_) | EtcdError::Refused(_)) => {
                    self.board.rest(AGAIN_AFTER);
                }
                Err(EtcdError::Compacted { .. }) => {}
            }
        }
    }
}
