//! Now and then, what is here is compared with what etcd has: a change that etcd said and this engine never heard, without
//! any error, is else noticed only when somebody changes the same again. Names and revisions are compared, some at a time;
//! where they differ and go on differing, everything is read anew. Changes nothing itself.

use super::board::{Board, Link};
use super::etcd::{Etcd, EtcdError, KeyValue, after_prefix};
use super::record::{Key, Keys};
use crate::report;
use crate::rules::authority::Authority;
use crate::rules::shared::Revision;
use mailrace_shards::runtime::clock;
use mailrace_shards::time::Instant;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Keys of rules compared at a time, and of pools and segments as a whole at most.
const PAGE: u32 = 1000;
const WHOLE_MAX: u32 = 20_000;

/// Differences that are looked at once more.
const SUSPECTS_MAX: usize = 16;

/// How long this node may take to have what etcd had when it was read.
const CATCH_UP_WITHIN: Duration = Duration::from_secs(10);

/// The segments of suppressions that this engine has heard of, as of what was heard last; `None` until they were read.
#[derive(Clone, Debug, Default)]
pub struct HeardSegments(Arc<Mutex<Option<ByName>>>);

/// Names and their revisions.
type ByName = BTreeMap<Vec<u8>, Revision>;

impl HeardSegments {
    fn lock(&self) -> MutexGuard<'_, Option<ByName>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads which there are at a revision; what follows it is heard.
    ///
    /// # Errors
    /// See [`EtcdError`].
    pub fn begin(&self, etcd: &Etcd, keys: &Keys, at: Revision) -> Result<(), EtcdError> {
        *self.lock() = None;
        let from = keys.suppressions("");
        let page = etcd.keys(&from, &after_prefix(&from), Some(at), WHOLE_MAX)?;
        // More than that are merged first; until then nothing is said of them.
        *self.lock() = (!page.more).then(|| page.kvs.into_iter().map(|kv| (kv.key, kv.mod_revision)).collect());
        Ok(())
    }

    /// One was put.
    pub fn put(&self, key: &[u8], at: Revision) {
        if let Some(known) = &mut *self.lock() {
            known.insert(key.to_vec(), at);
        }
    }

    /// One is gone. False for one that was never heard of.
    #[must_use]
    pub fn delete(&self, key: &[u8]) -> bool {
        self.lock().as_mut().is_none_or(|known| known.remove(key).is_some())
    }
}

/// The same, listed in the order of the names.
type Listed = Vec<(Vec<u8>, Revision)>;

/// What is compared next.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Next {
    /// The rules after this key.
    Rules(Vec<u8>),
    Pools,
    Segments,
}

/// Belongs to the thread that tends.
pub struct Comparer {
    board: Arc<Board>,
    etcd: Etcd,
    keys: Keys,
    authority: Authority,
    heard: HeardSegments,
    every: Duration,
    next: Next,
    due: Instant,
}

impl Comparer {
    /// Begins soon, and again `every` so often.
    pub fn new(
        board: Arc<Board>,
        etcd: Etcd,
        (keys, authority): (Keys, Authority),
        heard: HeardSegments,
        every: Duration,
    ) -> Self {
        let next = Next::Rules(keys.rules());
        Self { board, etcd, keys, authority, heard, every, next, due: clock::now().instant }
    }

    /// Does a part of it, if it is due. What cannot be asked now is asked the next time.
    pub fn step(&mut self) {
        let is_following = self.board.with(|state| {
            // Who has just begun to follow may come from afar.
            if std::mem::take(&mut state.compare_now) {
                self.due = clock::now().instant;
                self.next = Next::Rules(self.keys.rules());
            }
            state.link == Link::Following && !state.doubtful
        });
        if !is_following || clock::now().instant < self.due {
            return;
        }
        match self.part() {
            Ok(None) => {}
            Ok(Some(next)) if next == Next::Rules(self.keys.rules()) => {
                self.next = next;
                self.due = clock::now().instant.after(self.every);
                self.board.change(|state| state.comparisons += 1);
            }
            Ok(Some(next)) => self.next = next,
            Err(key) => {
                let name = String::from_utf8_lossy(&key).into_owned();
                report::warning(&format!(
                    "cluster: {name} is not here as it is in etcd, and no change of it was heard"
                ));
                self.next = Next::Rules(self.keys.rules());
                self.board.change(|state| {
                    state.differences += 1;
                    state.doubtful = true;
                });
            }
        }
    }

    /// Compares a part; what is next, if it could be compared.
    ///
    /// # Errors
    /// A key that differs.
    fn part(&self) -> Result<Option<Next>, Vec<u8>> {
        let (from, limit) = match &self.next {
            Next::Rules(after) => (after.clone(), PAGE),
            Next::Pools => (self.keys.pool(""), WHOLE_MAX),
            Next::Segments => (self.keys.suppressions(""), WHOLE_MAX),
        };
        let all = match &self.next {
            Next::Rules(_) => self.keys.rules(),
            Next::Pools | Next::Segments => from.clone(),
        };
        let Ok(page) = self.etcd.keys(&from, &after_prefix(&all), None, limit) else { return Ok(None) };
        if page.more && self.next != Next::Rules(from.clone()) {
            // Too many to be compared as a whole.
            return Ok(Some(self.after(None)));
        }
        let at = page.header.revision;
        let last = page.kvs.last().filter(|_| page.more).map(|kv| kv.key.clone());
        let there = listed(page.kvs);
        let Some(here) = self.here(at, &from, last.as_deref()) else { return Ok(None) };
        let suspects = suspects(&there, &here, at);
        for key in suspects.into_iter().take(SUSPECTS_MAX) {
            if self.differs(&key) == Some(true) {
                return Err(key);
            }
        }
        Ok(Some(self.after(last)))
    }

    fn after(&self, last: Option<Vec<u8>>) -> Next {
        match (&self.next, last) {
            (Next::Rules(_), Some(mut last)) => {
                last.push(0);
                Next::Rules(last)
            }
            (Next::Rules(_), None) => Next::Pools,
            (Next::Pools, _) => Next::Segments,
            (Next::Segments, _) => Next::Rules(self.keys.rules()),
        }
    }

    /// The same part as it is here, when this node has all that etcd had.
    fn here(&self, at: Revision, from: &[u8], last: Option<&[u8]>) -> Option<Listed> {
        if !self.board.catch_up(at, CATCH_UP_WITHIN) {
            return None;
        }
        match &self.next {
            Next::Rules(_) => {
                let prefix = self.keys.rules();
                let after = String::from_utf8(from.get(prefix.len()..)?.to_vec()).ok()?;
                let until =
                    last.map(|last| String::from_utf8_lossy(last.get(prefix.len()..).unwrap_or_default()).into_owned());
                let rows = self.authority.look(move |store| store.shared_keys_within(&after, until.as_deref())).ok()?;
                Some(rows.into_iter().map(|(key, at)| (self.keys.rule(&key), at)).collect())
            }
            Next::Pools => {
                let pools = self.authority.look(crate::rules::store::Store::known_pools).ok()?;
                let shared = pools.into_iter().filter(|(_, at)| *at > 0);
                let mut listed: Listed = shared.map(|(pool, at)| (self.keys.pool(&pool.name), at)).collect();
                listed.sort();
                Some(listed)
            }
            Next::Segments => {
                self.heard.lock().as_ref().map(|known| known.iter().map(|(k, at)| (k.clone(), *at)).collect())
            }
        }
    }

    /// Whether it still does, by a second look; unknown when it cannot be asked.
    fn differs(&self, key: &[u8]) -> Option<bool> {
        let page = self.etcd.keys(key, &[], None, 1).ok()?;
        let (at, there) = (page.header.revision, listed(page.kvs));
        if !self.board.catch_up(at, CATCH_UP_WITHIN) {
            return None;
        }
        let revision = match self.keys.read(key) {
            Key::Rule(rule) => {
                let rule = rule.to_owned();
                let rows = self.authority.look(move |store| store.shared_keys_within(&rule, Some(&rule))).ok()?;
                rows.first().map(|(_, at)| *at)
            }
            Key::Pool(name) => {
                let pools = self.authority.look(crate::rules::store::Store::known_pools).ok()?;
                pools.iter().find(|(pool, at)| *pool.name == *name && *at > 0).map(|(_, at)| *at)
            }
            Key::Suppressions => self.heard.lock().as_ref()?.get(key).copied(),
            _ => return None,
        };
        let here: Listed = revision.map(|revision| (key.to_vec(), revision)).into_iter().collect();
        Some(!suspects(&there, &here, at).is_empty())
    }
}

fn listed(kvs: Vec<KeyValue>) -> Listed {
    kvs.into_iter().map(|kv| (kv.key, kv.mod_revision)).collect()
}

/// Names that are not the same in both lists, given that this one was read later than that one, which is as of a revision:
/// what was changed since is no difference. What was removed since looks like one, until the second look.
fn suspects(there: &[(Vec<u8>, Revision)], here: &[(Vec<u8>, Revision)], at: Revision) -> Vec<Vec<u8>> {
    let (mut theirs, mut ours) = (there.iter().peekable(), here.iter().peekable());
    let mut found = Vec::new();
    loop {
        let order = match (theirs.peek(), ours.peek()) {
            (None, None) => return found,
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (Some((their, _)), Some((our, _))) => their.cmp(our),
        };
        let their = if order.is_le() { theirs.next() } else { None };
        let our = if order.is_ge() { ours.next() } else { None };
        let is_newer = our.is_some_and(|(_, revision)| *revision > at);
        if !is_newer && their.map(|(_, revision)| revision) != our.map(|(_, revision)| revision) {
            found.extend(their.or(our).map(|(key, _)| key.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::suspects;

    fn list(text: &str) -> Vec<(Vec<u8>, i64)> {
        let one = |word: &str| {
            let (name, revision) = word.split_once(':').unwrap();
            (name.as_bytes().to_vec(), revision.parse().unwrap())
        };
        text.split_whitespace().map(one).collect()
    }

    #[test]
    fn what_was_changed_since_is_no_difference() {
        for (there, here, expected) in [
            ("", "", ""),
            ("a:3 b:5", "a:3 b:5", ""),
            ("a:3 b:5", "a:12 b:5 c:11", ""),
            ("a:3 b:5 c:7", "a:3 c:7", "b"),
            ("a:3 b:5", "a:3 b:4", "b"),
            ("a:3", "a:3 b:5 c:12", "b"),
            ("b:5", "a:1", "a b"),
            ("a:3 b:9", "b:5", "a b"),
        ] {
            let found: Vec<String> = suspects(&list(there), &list(here), 10)
                .into_iter()
                .map(|key| String::from_utf8(key).unwrap())
                .collect();
            assert_eq!(found.join(" "), expected, "{there} and {here}");
        }
    }
}
