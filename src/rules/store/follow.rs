//! What was done in etcd, done here: rows, audit and the revision up to which this engine knows everything are one
//! transaction. What is here already with that revision or a later one is left as it is, so that whatever is heard
//! twice is done once.

use super::group::{Group, InEtcd, Outcome};
use crate::json::Json;
use crate::rules::change::{Changed, Effect, Pool, Refused, Suppression};
use crate::rules::entry::{Origin, RuleEntry};
use crate::rules::shared::{Follow, Revision, Shared, SharedPool, SharedRule};
use rusqlite::{OptionalExtension, Result, params};
use std::sync::Arc;

/// How many changes of a kind are audited each; more are a line that counts them.
const AUDITED_EACH: usize = 1;

#[derive(Default)]
struct Counts {
    put: u64,
    removed: u64,
}

impl Group<'_> {
    /// Does all of it. Who made it is in the changes themselves or beside them; where nobody knows any more, whoever
    /// carries it out stands for them.
    pub(super) fn follow(&self, follow: &Follow) -> Result<Outcome> {
        let query = "SELECT revision FROM cluster";
        let stored: Revision = self.transaction.prepare_cached(query)?.query_row([], |row| row.get(0))?;
        if stored != follow.after {
            let text = format!("revision {} of etcd follows {}, here is {stored}", follow.revision, follow.after);
            return Ok(Err(Refused { field: "", text }));
        }
        let mut changed = Changed { effects: Vec::with_capacity(follow.changes.len()), ..Changed::default() };
        let by = Group { origin: follow.origin.as_ref().unwrap_or(self.origin), ..*self };
        let bulk = follow.changes.iter().filter(|change| is_suppression(change)).count() > AUDITED_EACH;
        let mut counts = Counts::default();
        for change in &follow.changes {
            match change {
                Shared::Rule(rule) => Group { origin: &rule.origin, ..*self }.follow_rule(rule, &mut changed)?,
                Shared::RemoveRule(key) => by.follow_removal(key, follow.revision, &mut changed)?,
                Shared::Pool(pool) => Group { origin: &pool.origin, ..*self }.follow_pool(pool, &mut changed)?,
                Shared::RemovePool(name) => by.follow_pool_removal(name, follow.revision, &mut changed)?,
                Shared::Suppress(entry, token) => {
                    by.follow_suppression(entry, token, follow.revision, bulk, &mut changed)?;
                    counts.put += 1;
                }
                Shared::ForgetNode(node) => {
                    by.audit_shared(
                        follow.revision,
                        "node forgotten",
                        Some(Json::object([("node", Some(node.into()))])),
                        None,
                    )?;
                }
                Shared::Unsuppress(value) => {
                    if by.follow_unsuppression(value, follow.revision, bulk, &mut changed)? {
                        counts.removed += 1;
                    }
                }
            }
        }
        if bulk && counts.put + counts.removed > 0 {
            let text = Json::object([
                ("put", (counts.put > 0).then_some(counts.put.into())),
                ("removed", (counts.removed > 0).then_some(counts.removed.into())),
            ]);
            by.audit_shared(follow.revision, "suppressions changed", None, Some(text))?;
        }
        if follow.completes {
            let query = "UPDATE cluster SET revision = ?1 WHERE revision < ?1";
            self.transaction.prepare_cached(query)?.execute([follow.revision])?;
        }
        Ok(Ok(changed))
    }

    fn follow_rule(&self, rule: &SharedRule, changed: &mut Changed) -> Result<()> {
        let SharedRule { key, revision, id, draft, created, .. } = rule;
        let identity = draft.identity();
        let collection = draft.collection.as_str();
        let known = self.rule("identity = ?1 AND collection = ?2", [identity.as_str(), collection])?;
        if known.is_some() && self.revision_of(key)?.is_some_and(|known| known >= *revision) {
            return Ok(());
        }
        // Whatever else has its id goes: ids are made once, so it can only be a copy.
        let other = self.rule("id = ?1 AND identity <> ?2", [id, identity.as_str()])?;
        other.iter().try_for_each(|other| self.delete_rule(other))?;
        let in_etcd = InEtcd { key: Some(key), revision: *revision };
        let entry = match &known {
            Some(old) if old.id == *id => {
                changed.updated += 1;
                let origin = self.origin.clone();
                let entry = RuleEntry { draft: draft.clone(), origin, created: *created, ..old.clone() };
                self.update_rule(&entry, in_etcd)?;
                entry
            }
            _ => {
                changed.created += 1;
                known.iter().try_for_each(|old| self.delete_rule(old))?;
                self.insert_rule(id, draft, *created, in_etcd)?
            }
        };
        let open = known.as_ref().filter(|old| !old.draft.schedule.ended(self.origin.at));
        let what = format!("{collection} {}", if open.is_some() { "replaced" } else { "created" });
        self.audit_shared(*revision, &what, open.map(RuleEntry::to_json), Some(entry.to_json()))?;
        // The new one first, so that a core is never without either.
        changed.effects.push(Effect::Put(entry.clone()));
        changed.effects.extend(known.filter(|old| old.id != *id).map(Effect::Remove));
        changed.entry = Some(entry);
        Ok(())
    }

    fn follow_removal(&self, key: &str, revision: Revision, changed: &mut Changed) -> Result<()> {
        let Some(entry) = self.rule("key = ?1 AND ?2 = ''", [key, ""])? else { return Ok(()) };
        self.delete_rule(&entry)?;
        let is_over = entry.draft.schedule.ended(self.origin.at);
        let what = format!("{} {}", entry.draft.collection.as_str(), if is_over { "ended" } else { "removed" });
        self.audit_shared(revision, &what, Some(entry.to_json()), None)?;
        changed.removed += u64::from(!is_over);
        changed.effects.push(Effect::Remove(entry));
        Ok(())
    }

    /// The revision of a rule that etcd has.
    fn revision_of(&self, key: &str) -> Result<Option<Revision>> {
        let query = "SELECT revision FROM rule WHERE key = ?1";
        self.transaction.prepare_cached(query)?.query_row([key], |row| row.get(0)).optional()
    }

    fn follow_pool(&self, SharedPool { pool, revision, .. }: &SharedPool, changed: &mut Changed) -> Result<()> {
        let query = "SELECT revision FROM pool WHERE name = ?1";
        let mut statement = self.transaction.prepare_cached(query)?;
        let known: Option<Revision> = statement.query_row([&*pool.name], |row| row.get(0)).optional()?;
        if known.is_some_and(|known| known >= *revision) {
            return Ok(());
        }
        let query = "SELECT name, description FROM pool WHERE name = ?1";
        let old = self.transaction.prepare_cached(query)?.query_row([&*pool.name], super::rows::pool).optional()?;
        self.transaction.execute(
            "INSERT INTO pool (name, description, revision) VALUES (?1, ?2, ?3)
             ON CONFLICT (name) DO UPDATE SET description = excluded.description, revision = excluded.revision",
            params![&*pool.name, pool.description.as_deref(), revision],
        )?;
        let what = if old.is_some() { "pool changed" } else { "pool created" };
        self.audit_shared(*revision, what, old.as_ref().map(Pool::to_json), Some(pool.to_json()))?;
        changed.created += u64::from(old.is_none());
        changed.updated += u64::from(old.is_some());
        changed.effects.push(Effect::Pools);
        Ok(())
    }

    fn follow_pool_removal(&self, name: &str, revision: Revision, changed: &mut Changed) -> Result<()> {
        let Some(before) = self.delete_pool(name)? else { return Ok(()) };
        self.audit_shared(revision, "pool removed", Some(before), None)?;
        changed.removed += 1;
        changed.effects.push(Effect::Pools);
        Ok(())
    }

    fn follow_suppression(
        &self,
        entry: &Suppression,
        token: &Arc<str>,
        revision: Revision,
        bulk: bool,
        changed: &mut Changed,
    ) -> Result<()> {
        let old = if bulk { None } else { self.suppression(&entry.value)? };
        let verdict = &entry.verdict;
        let extended = verdict.extended.map(|extended| extended.to_string());
        let row = params![&*entry.value, verdict.code, extended, verdict.description.as_deref(), &**token, revision];
        let mut add = self.transaction.prepare_cached(
            "INSERT OR IGNORE INTO suppression (value, code, extended, description, token, revision)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )?;
        let is_new = add.execute(row)? == 1;
        if !is_new {
            // Of what is heard twice, the later stays.
            let mut overwrite = self.transaction.prepare_cached(
                "UPDATE suppression SET code = ?2, extended = ?3, description = ?4, token = ?5, revision = ?6
                 WHERE value = ?1 AND revision <= ?6",
            )?;
            if overwrite.execute(row)? == 0 {
                return Ok(());
            }
        }
        changed.created += u64::from(is_new);
        changed.updated += u64::from(!is_new);
        if !bulk {
            let what = if is_new { "suppression created" } else { "suppression replaced" };
            Group { origin: &Origin { token: token.clone(), ..self.origin.clone() }, ..*self }.audit_shared(
                revision,
                what,
                old,
                Some(entry.to_json()),
            )?;
        }
        changed.effects.push(Effect::Suppress(entry.clone(), token.clone()));
        Ok(())
    }

    /// Whether there was such an entry.
    fn follow_unsuppression(
        &self,
        value: &Arc<str>,
        revision: Revision,
        bulk: bool,
        changed: &mut Changed,
    ) -> Result<bool> {
        let old = if bulk { None } else { self.suppression(value)? };
        let gone = self.transaction.prepare_cached("DELETE FROM suppression WHERE value = ?1")?.execute([&**value])?;
        if gone == 0 {
            return Ok(false);
        }
        changed.removed += 1;
        changed.effects.push(Effect::Unsuppress(value.clone()));
        if let Some(old) = old {
            self.audit_shared(revision, "suppression removed", Some(old), None)?;
        }
        Ok(true)
    }
}

fn is_suppression(change: &Shared) -> bool {
    matches!(change, Shared::Suppress(..) | Shared::Unsuppress(_))
}

#[cfg(test)]
#[path = "follow_tests.rs"]
mod tests;
