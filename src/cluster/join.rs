//! What was made for the whole cluster while this engine was alone goes into etcd when it joins. What etcd has already
//! stays as it is there: it was compared before, and took the place of what was here.

use super::board::Board;
use super::etcd::{Compare, Etcd, Op, Txn};
use super::follow::Over;
use super::record::{Keys, rule_key, write_entry, write_pool};
use super::suppressions::segment::of_suppressions;
use super::waiting::Name;
use super::write::new_id;
use crate::report;
use crate::rules::authority::Authority;
use crate::rules::change::Suppression;
use crate::rules::entry::Origin;
use mailrace_shards::runtime::clock;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// Rules of one transaction, and rows read at a time.
const RULES: u32 = 32;
const SUPPRESSIONS: u32 = 10_000;

/// How long etcd may take for one.
const WITHIN: Duration = Duration::from_secs(5);

/// What is needed for it.
pub struct Join<'a> {
    /// Where it goes.
    pub etcd: &'a Etcd,
    /// What it is called there.
    pub keys: &'a Keys,
    /// Where it is.
    pub authority: &'a Authority,
    /// This node.
    pub node: &'a Name,
    /// How far it has come.
    pub progress: &'a mut Progress,
}

/// How far it has come, for when it is interrupted: what is in is not put in again, since others may have removed it
/// meanwhile.
#[derive(Debug)]
pub struct Progress {
    /// The last of each kind that is in.
    rule: u64,
    pool: Arc<str>,
    /// The last that is in, or among the segments.
    suppression: Arc<str>,
    /// Not known to be in, each with its key.
    segments: VecDeque<(Vec<u8>, Vec<u8>)>,
    /// How many of each kind there were.
    counts: [usize; 3],
}

impl Default for Progress {
    fn default() -> Self {
        Self { rule: 0, pool: "".into(), suppression: "".into(), segments: VecDeque::new(), counts: [0; 3] }
    }
}

impl Join<'_> {
    /// Brings in everything. Interrupted, it goes on where it was.
    pub(super) fn bring_in(&mut self, board: &Board) -> Result<(), Over> {
        self.rules(board)?;
        self.pools()?;
        self.suppressions(board)?;
        self.authority.note(crate::rules::store::Store::set_joined).map_err(Over::Again)?;
        let [rules, pools, suppressions] = std::mem::take(self.progress).counts;
        if rules + pools + suppressions > 0 {
            report::notice(&format!(
                "cluster: {rules} rules, {pools} pools and {suppressions} suppressions that were made here alone are now \
                 in etcd"
            ));
        }
        Ok(())
    }

    fn rules(&mut self, board: &Board) -> Result<(), Over> {
        loop {
            let after = self.progress.rule;
            let page = self.authority.look(move |store| store.unshared_rules(after, RULES)).map_err(Over::Again)?;
            let Some(last) = page.last() else { return Ok(()) };
            let now = clock::now().utc;
            let puts: Vec<(Vec<u8>, Vec<u8>)> = page
                .iter()
                .filter(|entry| !entry.draft.schedule.ended(now))
                .map(|entry| {
                    let key = rule_key(entry.draft.collection, &entry.draft.identity());
                    (self.keys.rule(&key), write_entry(entry))
                })
                .collect();
            self.progress.counts[0] += self.put_absent(&puts)?;
            self.progress.rule = last.order;
            self.check(board)?;
        }
    }

    fn pools(&mut self) -> Result<(), Over> {
        let known = self.authority.look(crate::rules::store::Store::known_pools).map_err(Over::Again)?;
        let origin = self.origin("".into());
        let own: Vec<_> = known.into_iter().filter(|(pool, at)| *at == 0 && pool.name > self.progress.pool).collect();
        for part in own.chunks(RULES as usize) {
            let puts: Vec<_> =
                part.iter().map(|(pool, _)| (self.keys.pool(&pool.name), write_pool(pool, &origin))).collect();
            self.progress.counts[1] += self.put_absent(&puts)?;
            self.progress.pool = part.last().map_or("".into(), |(pool, _)| pool.name.clone());
        }
        Ok(())
    }

    /// Puts those of which there are none yet; how many these were.
    fn put_absent(&self, puts: &[(Vec<u8>, Vec<u8>)]) -> Result<usize, Over> {
        if puts.is_empty() || self.put(puts)? {
            return Ok(puts.len());
        }
        let one_by_one = puts.iter().map(|put| self.put(std::slice::from_ref(put)).map(usize::from));
        one_by_one.sum()
    }

    fn put(&self, puts: &[(Vec<u8>, Vec<u8>)]) -> Result<bool, Over> {
        let compare = puts.iter().map(|(key, _)| Compare::absent(key)).collect();
        let put = |(key, value): &(Vec<u8>, Vec<u8>)| Op::Put { key: key.clone(), value: value.clone(), lease: None };
        let success = puts.iter().map(put).collect();
        Ok(self.etcd.txn(&Txn { compare, success, failure: Vec::new() }, WITHIN)?.succeeded)
    }

    fn suppressions(&mut self, board: &Board) -> Result<(), Over> {
        loop {
            while let Some(segment) = self.progress.segments.front() {
                // Where nobody knows whether it is in, its key tells.
                self.put(std::slice::from_ref(segment))?;
                self.progress.segments.pop_front();
                self.check(board)?;
            }
            let from = self.progress.suppression.clone();
            let page = self.authority.look(move |store| store.known_suppressions(&from, SUPPRESSIONS));
            let page = page.map_err(Over::Again)?;
            let Some((last, ..)) = page.last() else { return Ok(()) };
            self.progress.suppression = last.value.clone();
            let mut by_token: BTreeMap<Arc<str>, Vec<Suppression>> = BTreeMap::new();
            for (entry, token, _) in page.into_iter().filter(|(_, _, is_shared)| !is_shared) {
                by_token.entry(token).or_default().push(entry);
            }
            for (token, entries) in by_token {
                self.progress.counts[2] += entries.len();
                for segment in of_suppressions(&entries, &self.origin(token)) {
                    self.progress.segments.push_back((self.keys.suppressions(&new_id(0)), segment));
                }
            }
        }
    }

    fn origin(&self, token: Arc<str>) -> Origin {
        Origin { token, peer: "".into(), at: clock::now().utc, node: self.node.clone() }
    }

    fn check(&self, board: &Board) -> Result<(), Over> {
        if board.is_stopping() { Err(Over::Stopped) } else { Ok(()) }
    }
}

#[cfg(test)]
#[path = "join_tests.rs"]
mod tests;
