//! Everything anew: how rules and pools in etcd, as of one revision, differ from what is stored here. What is missing or
//! other comes first, what is too much last, so that nothing is out of force in between. Changes nothing itself.

use super::etcd::{Etcd, KeyValue, after_prefix};
use super::follow::Over;
use super::heard::Apply;
use super::record::{Key, Keys, read_pool, read_rule};
use crate::rules::authority::Authority;
use crate::rules::entry::Dialect;
use crate::rules::shared::{Revision, Shared, SharedRule};
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

/// Keys read at a time, and rows.
const PAGE: u32 = 500;

/// Octets of rules, as etcd has them, that are put in the order of their age before they are applied. More are applied
/// in several parts, each in that order.
const SORTED_BYTES_MAX: usize = 64 << 20;

/// What is needed for it.
pub struct Relist<'a> {
    /// Where it is read.
    pub etcd: &'a Etcd,
    /// What it is called there.
    pub keys: &'a Keys,
    /// Where it is compared with what is stored.
    pub authority: &'a Authority,
    /// As of when.
    pub at: Revision,
    /// Changes that are applied at a time.
    pub portion: usize,
}

impl Relist<'_> {
    /// Applies what is missing or other. What is too much.
    pub(super) fn puts(&self, apply: &mut Apply<'_>) -> Result<Vec<Shared>, Over> {
        let mut removals = self.pools(apply)?;
        let mut rows = Rows { authority: self.authority, page: VecDeque::new(), after: "".into(), more: true };
        let mut found = Found::default();
        self.each(&self.keys.rules(), |kv| {
            let Key::Rule(key) = self.keys.read(&kv.key) else { return Ok(()) };
            while let Some((own, _)) = rows.next_if(|own| own < key)? {
                removals.push(Shared::RemoveRule(own));
            }
            let known = rows.next_if(|own| own == key)?;
            if known.is_some_and(|(_, revision)| revision == kv.mod_revision) {
                return Ok(());
            }
            let rule = read_rule(key, &kv.value, kv.mod_revision).map_err(Over::Refused)?;
            found.add(rule, kv);
            if found.octets > SORTED_BYTES_MAX { found.apply(self.portion, apply) } else { Ok(()) }
        })?;
        found.apply(self.portion, apply)?;
        while let Some((own, _)) = rows.next_if(|_| true)? {
            removals.push(Shared::RemoveRule(own));
        }
        Ok(removals)
    }

    fn pools(&self, apply: &mut Apply<'_>) -> Result<Vec<Shared>, Over> {
        let known = self.authority.look(crate::rules::store::Store::known_pools).map_err(Over::Again)?;
        let known: HashMap<Arc<str>, Revision> =
            known.into_iter().map(|(pool, revision)| (pool.name, revision)).collect();
        let (mut puts, mut names) = (Vec::new(), HashSet::new());
        self.each(&self.keys.pool(""), |kv| {
            let Key::Pool(name) = self.keys.read(&kv.key) else { return Ok(()) };
            names.insert(Arc::<str>::from(name));
            if known.get(name) != Some(&kv.mod_revision) {
                let pool = read_pool(name, &kv.value, kv.mod_revision).map_err(Over::Refused)?;
                puts.push(Shared::Pool(Box::new(pool)));
            }
            Ok(())
        })?;
        if !puts.is_empty() {
            apply(puts)?;
        }
        let gone = known.into_iter().filter(|(name, revision)| *revision > 0 && !names.contains(name));
        Ok(gone.map(|(name, _)| Shared::RemovePool(name)).collect())
    }

    /// Every key below a prefix, page by page.
    fn each(&self, from: &[u8], mut take: impl FnMut(&KeyValue) -> Result<(), Over>) -> Result<(), Over> {
        let end = after_prefix(from);
        let mut from = from.to_vec();
        loop {
            let page = self.etcd.range(&from, &end, Some(self.at), PAGE)?;
            page.kvs.iter().try_for_each(&mut take)?;
            let Some(last) = page.kvs.last().filter(|_| page.more) else { return Ok(()) };
            from.clone_from(&last.key);
            from.push(0);
        }
    }
}

/// Rules that are missing or other.
#[derive(Default)]
struct Found {
    rules: Vec<(Revision, SharedRule)>,
    octets: usize,
}

impl Found {
    fn add(&mut self, rule: SharedRule, kv: &KeyValue) {
        // A node that follows gives a rule its place when its id is new: of the rules that cover the same in the same
        // way the older one acts, and it must be the same one everywhere. KumoMTA's get a new id with each change.
        let is_kept = rule.draft.collection.dialect() == Dialect::Mailerq;
        self.rules.push((if is_kept { kv.create_revision } else { kv.mod_revision }, rule));
        self.octets += kv.value.len();
    }

    fn apply(&mut self, portion: usize, apply: &mut Apply<'_>) -> Result<(), Over> {
        self.octets = 0;
        self.rules.sort_by_key(|(age, _)| *age);
        let mut rules = std::mem::take(&mut self.rules).into_iter().map(|(_, rule)| Shared::Rule(Box::new(rule)));
        loop {
            let part: Vec<Shared> = rules.by_ref().take(portion).collect();
            if part.is_empty() {
                return Ok(());
            }
            apply(part)?;
        }
    }
}

/// Keys of rules that are stored here and were in etcd, in their order.
struct Rows<'a> {
    authority: &'a Authority,
    page: VecDeque<(Arc<str>, Revision)>,
    after: Arc<str>,
    more: bool,
}

impl Rows<'_> {
    /// The next one, if its key is so.
    fn next_if(&mut self, is: impl Fn(&str) -> bool) -> Result<Option<(Arc<str>, Revision)>, Over> {
        if self.page.is_empty() && self.more {
            let after = self.after.clone();
            let page = self.authority.look(move |store| store.shared_keys(&after, PAGE)).map_err(Over::Again)?;
            self.more = page.len() == PAGE as usize;
            self.page = page.into();
            if let Some((last, _)) = self.page.back() {
                self.after = last.clone();
            }
        }
        Ok(if self.page.front().is_some_and(|(key, _)| is(key)) { self.page.pop_front() } else { None })
    }
}
