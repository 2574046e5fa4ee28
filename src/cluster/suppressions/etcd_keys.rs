//! Segments as keys of a real etcd, below one prefix.

use super::Revision;
use super::keys::{Kept, Keys, Replacement, Take};
use crate::cluster::etcd::{Compare, Etcd, EtcdError, KeyValue, Op, Txn, after_prefix};
use crate::cluster::heard::Missed;
use std::time::Duration;

/// Segments read at a time. As base64 of the longest they are well below what the client takes as one answer.
const PAGE: u32 = 8;

/// How long a merge may take; nobody waits for it.
const REPLACED_WITHIN: Duration = Duration::from_secs(10);

/// The keys below a prefix.
pub struct EtcdKeys {
    etcd: Etcd,
    prefix: Vec<u8>,
}

impl EtcdKeys {
    /// All keys that begin with `prefix` are segments.
    #[must_use]
    pub fn new(etcd: Etcd, prefix: &str) -> Self {
        Self { etcd, prefix: prefix.as_bytes().to_vec() }
    }
}

/// Whatever it is: it may work later, and nothing here depends on when.
fn missed(error: EtcdError) -> Missed {
    Missed::Now(error.to_string())
}

fn kept(kv: KeyValue) -> Kept {
    Kept { key: kv.key, value: kv.value, made: kv.create_revision, changed: kv.mod_revision }
}

impl Keys for EtcdKeys {
    fn each(&self, at: Option<Revision>, take: &mut Take<'_>) -> Result<Revision, Missed> {
        let (mut from, end) = (self.prefix.clone(), after_prefix(&self.prefix));
        let mut at = at;
        loop {
            let page = self.etcd.range(&from, &end, at, PAGE).map_err(missed)?;
            // The pages after the first are of the first one's revision.
            let revision = *at.get_or_insert(page.header.revision);
            if let Some(last) = page.kvs.last() {
                from = [last.key.as_slice(), &[0]].concat();
            }
            let more = page.more && !page.kvs.is_empty();
            page.kvs.into_iter().map(kept).try_for_each(&mut *take)?;
            if !more {
                return Ok(revision);
            }
        }
    }

    fn one(&self, key: &[u8]) -> Result<Option<Kept>, Missed> {
        let page = self.etcd.range(key, b"", None, 1).map_err(missed)?;
        Ok(page.kvs.into_iter().next().map(kept))
    }

    fn replace(&self, replacement: Replacement) -> Result<Option<Revision>, Missed> {
        let Replacement { compare, put, delete } = replacement;
        let compare = compare.iter().map(|(key, changed)| Compare::unchanged(key, *changed)).collect();
        let put = put.map(|(key, value)| Op::Put { key, value, lease: None });
        let success = put.into_iter().chain(delete.into_iter().map(|key| Op::Delete { key })).collect();
        let answer = self.etcd.txn(&Txn { compare, success, failure: Vec::new() }, REPLACED_WITHIN).map_err(missed)?;
        Ok(answer.succeeded.then_some(answer.header.revision))
    }
}
