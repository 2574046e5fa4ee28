//! Where the packed suppressions meet etcd, and the table that is stored here.

use super::etcd::{Compare, Etcd, EtcdError, KeyValue, Op, Txn, after_prefix};
use super::heard::Missed;
use super::record::Keys;
use super::suppressions::Grounds;
use super::suppressions::difference::{Row, Table};
use super::suppressions::keys::{self, Kept, Replacement, Take};
use crate::rules::authority::Authority;
use crate::rules::shared::Revision;
use std::time::Duration;

/// Segments read at a time: each has half a MiB at most.
const PAGE: u32 = 8;

/// How long etcd may take for a transaction.
const WITHIN: Duration = Duration::from_secs(10);

/// The segments in etcd.
pub struct Segments {
    /// Where they are.
    pub etcd: Etcd,
    /// What they are called there.
    pub keys: Keys,
}

impl From<EtcdError> for Missed {
    fn from(error: EtcdError) -> Self {
        Self::Now(error.to_string())
    }
}

fn kept(kv: KeyValue) -> Kept {
    Kept { key: kv.key, value: kv.value, made: kv.create_revision, changed: kv.mod_revision }
}

impl keys::Keys for Segments {
    fn each(&self, at: Option<Revision>, take: &mut Take<'_>) -> Result<Revision, Missed> {
        let mut from = self.keys.suppressions("");
        let end = after_prefix(&from);
        let mut at = at;
        loop {
            let page = self.etcd.range(&from, &end, at, PAGE)?;
            let revision = *at.get_or_insert(page.header.revision);
            let next = page.kvs.last().filter(|_| page.more).map(|last| last.key.clone());
            page.kvs.into_iter().try_for_each(|kv| take(kept(kv)))?;
            let Some(last) = next else { return Ok(revision) };
            from = last;
            from.push(0);
        }
    }

    fn one(&self, key: &[u8]) -> Result<Option<Kept>, Missed> {
        Ok(self.etcd.range(key, &[], None, 1)?.kvs.into_iter().next().map(kept))
    }

    fn replace(&self, replacement: Replacement) -> Result<Option<Revision>, Missed> {
        let Replacement { compare, put, delete } = replacement;
        let put = put.map(|(key, value)| Op::Put { key, value, lease: None });
        let delete = delete.into_iter().map(|key| Op::Delete { key });
        let txn = Txn {
            compare: compare.iter().map(|(key, changed)| Compare::unchanged(key, *changed)).collect(),
            success: put.into_iter().chain(delete).collect(),
            failure: Vec::new(),
        };
        let answer = self.etcd.txn(&txn, WITHIN)?;
        Ok(answer.succeeded.then_some(answer.header.revision))
    }
}

/// The table that is stored here.
pub struct Stored(pub Authority);

impl Table for Stored {
    type Error = String;

    fn rows_after(&mut self, value: &str, limit: u32) -> Result<Vec<Row>, String> {
        let value = value.to_owned();
        let rows = self.0.look(move |store| store.known_suppressions(&value, limit))?;
        let row = |(entry, token, is_shared): (crate::rules::change::Suppression, _, _)| Row {
            value: entry.value,
            grounds: Grounds { verdict: entry.verdict, token },
            is_shared,
        };
        Ok(rows.into_iter().map(row).collect())
    }
}

#[cfg(test)]
#[path = "segments_tests.rs"]
mod tests;
