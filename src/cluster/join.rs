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
use std::collections::BTreeMap;
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
}

impl Join<'_> {
    /// Brings in everything. Interrupted, it is begun anew, and what is in already is passed over.
    pub(super) fn bring_in(&self, board: &Board) -> Result<(), Over> {
        let rules = self.rules(board)?;
        let pools = self.pools()?;
        let suppressions = self.suppressions(board)?;
        self.authority.note(crate::rules::store::Store::set_joined).map_err(Over::Again)?;
        if rules + pools + suppressions > 0 {
            report::notice(&format!(
                "cluster: {rules} rules, {pools} pools and {suppressions} suppressions that were made here alone are now \
                 in etcd"
            ));
        }
        Ok(())
    }

    fn rules(&self, board: &Board) -> Result<usize, Over> {
        let (mut after, mut count) = (0, 0);
        loop {
            let page = self.authority.look(move |store| store.unshared_rules(after, RULES)).map_err(Over::Again)?;
            let Some(last) = page.last() else { return Ok(count) };
            after = last.order;
            let now = clock::now().utc;
            let puts: Vec<(Vec<u8>, Vec<u8>)> = page
                .iter()
                .filter(|entry| !entry.draft.schedule.ended(now))
                .map(|entry| {
                    let key = rule_key(entry.draft.collection, &entry.draft.identity());
                    (self.keys.rule(&key), write_entry(entry))
                })
                .collect();
            count += self.put_absent(&puts)?;
            self.check(board)?;
        }
    }

    fn pools(&self) -> Result<usize, Over> {
        let known = self.authority.look(crate::rules::store::Store::known_pools).map_err(Over::Again)?;
        let origin = self.origin("".into());
        let puts: Vec<_> = known
            .iter()
            .filter(|(_, revision)| *revision == 0)
            .map(|(pool, _)| (self.keys.pool(&pool.name), write_pool(pool, &origin)))
            .collect();
        puts.chunks(RULES as usize).map(|puts| self.put_absent(puts)).sum()
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

    fn suppressions(&self, board: &Board) -> Result<usize, Over> {
        let (mut after, mut count): (Arc<str>, usize) = ("".into(), 0);
        loop {
            let from = after.clone();
            let page = self.authority.look(move |store| store.known_suppressions(&from, SUPPRESSIONS));
            let page = page.map_err(Over::Again)?;
            let Some((last, ..)) = page.last() else { return Ok(count) };
            after = last.value.clone();
            let mut by_token: BTreeMap<Arc<str>, Vec<Suppression>> = BTreeMap::new();
            for (entry, token, _) in page.into_iter().filter(|(_, _, is_shared)| !is_shared) {
                by_token.entry(token).or_default().push(entry);
            }
            for (token, entries) in by_token {
                count += entries.len();
                for segment in of_suppressions(&entries, &self.origin(token)) {
                    self.put(&[(self.keys.suppressions(&new_id(0)), segment)])?;
                }
            }
            self.check(board)?;
        }
    }

    fn origin(&self, token: Arc<str>) -> Origin {
        Origin { token, peer: "".into(), at: clock::now().utc, node: self.node.clone() }
    }

    fn check(&self, board: &Board) -> Result<(), Over> {
        if board.is_stopping() { Err(Over::Stopped) } else { Ok(()) }
    }
}
