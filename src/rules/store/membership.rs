//! What this engine remembers of its cluster, and what it looks up to make changes there.

use super::rows::{PUBLIC, pool, rule_entry, suppression};
use super::{Store, StoreError};
use crate::rules::change::{Pool, Suppression};
use crate::rules::entry::{Collection, RuleEntry};
use crate::rules::shared::{Membership, Revision};
use mailrace_shards::time::Timestamp;
use rusqlite::{OptionalExtension, Row, params};
use std::sync::Arc;

type Result<T> = std::result::Result<T, StoreError>;

/// A rule with what its row says of etcd.
#[derive(Clone, Debug, PartialEq)]
pub struct KnownRule {
    /// The rule.
    pub entry: RuleEntry,
    /// Its key without the prefix, while etcd has it.
    pub key: Option<Arc<str>>,
    /// At which it was changed last; 0 for one that etcd does not have.
    pub revision: Revision,
}

fn known_rule(row: &Row<'_>) -> rusqlite::Result<KnownRule> {
    let key: Option<String> = row.get("key")?;
    Ok(KnownRule { entry: rule_entry(row)?, key: key.map(Into::into), revision: row.get("revision")? })
}

const MEMBERSHIP: &str = "SELECT uuid, place, revision, behind, joined, counted FROM cluster";

fn membership(row: &Row<'_>) -> rusqlite::Result<Membership> {
    Ok(Membership {
        uuid: row.get(0)?,
        place: row.get(1)?,
        revision: row.get(2)?,
        behind: row.get(3)?,
        joined: row.get(4)?,
        counted: row.get(5)?,
    })
}

impl Store {
    /// What is remembered; nothing by an engine that never was in a cluster.
    pub fn membership(&self) -> Result<Option<Membership>> {
        self.connection.query_row(MEMBERSHIP, [], membership).optional().map_err(|error| self.failed(error))
    }

    /// This engine is in a cluster from now on. `uuid` is for a data directory that has none yet.
    pub fn enter_cluster(&mut self, uuid: &str) -> Result<Membership> {
        let membership = self.within(|transaction| {
            transaction.execute(
                "INSERT OR IGNORE INTO cluster (one, uuid, revision, behind, joined, counted) VALUES (1, ?1, 0, 0, 0, 0)",
                [uuid],
            )?;
            transaction.query_row(MEMBERSHIP, [], membership)
        })?;
        self.clustered = true;
        Ok(membership)
    }

    /// This engine is alone. What it has from a cluster stays; if it comes back, everything is compared anew, and nothing
    /// delivered before.
    pub fn leave_cluster(&mut self) -> Result<()> {
        self.clustered = false;
        let query = "SELECT revision > 0 OR joined > 0 OR counted > 0 FROM cluster";
        let was = self.connection.query_row(query, [], |row| row.get(0)).optional();
        if !was.map_err(|error| self.failed(error))?.unwrap_or(false) {
            return Ok(());
        }
        let query = "UPDATE cluster SET behind = max(behind, revision), revision = 0, joined = 0, counted = 0";
        self.within(|transaction| transaction.execute(query, [])).map(drop)
    }

    /// Which etcd the revisions are of. When it is `new` here, nothing of what is here is known to it.
    pub fn settle_in(&mut self, place: &str, new: bool) -> Result<()> {
        self.within(|transaction| {
            if new {
                transaction.execute("UPDATE rule SET revision = 0, key = NULL WHERE revision > 0", [])?;
                transaction.execute("UPDATE suppression SET revision = 0 WHERE revision > 0", [])?;
                transaction.execute("UPDATE pool SET revision = 0 WHERE revision > 0", [])?;
            }
            transaction.execute("UPDATE cluster SET place = ?1, behind = 0", [place])
        })?;
        Ok(())
    }

    /// What was made outside the cluster has been brought in.
    pub fn set_joined(&mut self) -> Result<()> {
        self.within(|transaction| transaction.execute("UPDATE cluster SET joined = 1", [])).map(drop)
    }

    /// Whether the others wait for this engine even when it is lost. On disk when this returns.
    pub fn set_counted(&mut self, counted: bool) -> Result<()> {
        self.within(|transaction| transaction.execute("UPDATE cluster SET counted = ?1", [counted])).map(drop)
    }

    /// The rule with that identity.
    pub fn known_rule(&self, collection: Collection, identity: &str) -> Result<Option<KnownRule>> {
        let query = format!("SELECT {PUBLIC}, key, revision FROM rule WHERE identity = ?1 AND collection = ?2");
        let found = self.all(&query, params![identity, collection.as_str()], known_rule)?;
        Ok(found.into_iter().next())
    }

    /// The rule with that id; of that collection, if one is named.
    pub fn known_rule_by_id(&self, collection: Option<Collection>, id: &str) -> Result<Option<KnownRule>> {
        let query = format!("SELECT {PUBLIC}, key, revision FROM rule WHERE id = ?1 AND ?2 IN ('', collection)");
        let found = self.all(&query, params![id, collection.map_or("", Collection::as_str)], known_rule)?;
        Ok(found.into_iter().next())
    }

    /// Rules for the whole cluster that etcd does not have, as [`Store::rules`].
    pub fn unshared_rules(&self, after: u64, limit: u32) -> Result<Vec<RuleEntry>> {
        let after = i64::try_from(after).unwrap_or(i64::MAX);
        let query = format!(
            "SELECT {PUBLIC} FROM rule WHERE position > ?1 AND cluster = 1 AND revision = 0 ORDER BY position LIMIT ?2"
        );
        self.all(&query, params![after, limit], rule_entry)
    }

    /// Keys and revisions of rules that etcd has, in the order of their keys after `after`, `limit` at most.
    pub fn shared_keys(&self, after: &str, limit: u32) -> Result<Vec<(Arc<str>, Revision)>> {
        let query = "SELECT key, revision FROM rule WHERE key > ?1 ORDER BY key LIMIT ?2";
        let row = |row: &Row<'_>| Ok((row.get::<_, String>(0)?.into(), row.get(1)?));
        self.all(query, params![after, limit], row)
    }

    /// The same from one key up to another, both included, or to the end.
    pub fn shared_keys_within(&self, from: &str, until: Option<&str>) -> Result<Vec<(Arc<str>, Revision)>> {
        let query = "SELECT key, revision FROM rule WHERE key >= ?1 AND (?2 IS NULL OR key <= ?2) ORDER BY key";
        let row = |row: &Row<'_>| Ok((row.get::<_, String>(0)?.into(), row.get(1)?));
        self.all(query, params![from, until], row)
    }

    /// The rule of etcd that was changed last: its key and revision.
    pub fn newest_shared(&self) -> Result<Option<(Arc<str>, Revision)>> {
        let query = "SELECT key, revision FROM rule WHERE key IS NOT NULL ORDER BY revision DESC LIMIT 1";
        let row = |row: &Row<'_>| Ok((row.get::<_, String>(0)?.into(), row.get(1)?));
        Ok(self.all(query, [], row)?.into_iter().next())
    }

    /// Rules that etcd has and that ended before a moment, the first of them first, `limit` at most.
    pub fn ended_shared_rules(&self, before: Timestamp, limit: u32) -> Result<Vec<KnownRule>> {
        // Cheap to ask again and again: most of the time there is none.
        if self.first_end("revision > 0")?.is_none_or(|end| end > before) {
            return Ok(Vec::new());
        }
        let query = format!(
            "SELECT {PUBLIC}, key, revision FROM rule WHERE ends <= ?1 AND revision > 0 ORDER BY ends LIMIT ?2"
        );
        self.all(&query, params![before.0, limit], known_rule)
    }

    /// Suppressions as [`Store::suppressions`], each with whether etcd has it.
    pub fn known_suppressions(&self, after: &str, limit: u32) -> Result<Vec<(Suppression, Arc<str>, bool)>> {
        let query = "SELECT value, code, extended, description, token, revision > 0 FROM suppression WHERE value > ?1
                     ORDER BY value LIMIT ?2";
        let row = |row: &Row<'_>| Ok((suppression(row)?, row.get::<_, String>(4)?.into(), row.get(5)?));
        self.all(query, params![after, limit], row)
    }

    /// How many rules there are.
    #[cfg(test)]
    #[must_use]
    pub fn rule_count(&self) -> u64 {
        self.rules
    }

    /// How many suppressions there are.
    pub fn count_suppressions(&self) -> Result<u64> {
        let count = self.connection.query_row("SELECT count(*) FROM suppression", [], |row| row.get(0));
        count.map_err(|error| self.failed(error))
    }

    /// All pools made by the API, each with its revision in etcd; 0 for one that etcd does not have.
    pub fn known_pools(&self) -> Result<Vec<(Pool, Revision)>> {
        let query = "SELECT name, description, revision FROM pool ORDER BY name";
        self.all(query, [], |row| Ok((pool(row)?, row.get(2)?)))
    }
}
