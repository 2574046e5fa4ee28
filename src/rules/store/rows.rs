//! What is read: rows to values, page by page, so that no list is ever in memory as a whole.

use super::{Store, StoreError};
use crate::json::{self, Json};
use crate::rules::change::{ExternalMta, Pool, PoolIp, Suppression};
use crate::rules::entry::{Collection, Draft, Origin, RuleEntry, Verdict, rfc3339};
use crate::rules::schedule::Schedule;
use crate::rules::shared::Revision;
use crate::rules::stored::{enhanced_code, read_decree, read_scope, read_windows};
use mailrace_shards::time::Timestamp;
use rusqlite::types::Type;
use rusqlite::{OptionalExtension, Params, Result, Row, params};
use std::net::IpAddr;
use std::sync::Arc;

/// The columns of a rule, as [`rule_entry`] reads them.
pub(super) const PUBLIC: &str = "position, id, collection, scope, decree, cluster, starts, ends, windows, created, \
                                 token, peer, changed, node";

/// One line of the audit trail.
#[derive(Clone, Debug, PartialEq)]
pub struct AuditEntry {
    /// Its number; they only grow.
    pub sequence: u64,
    at: Timestamp,
    token: String,
    peer: String,
    node: Option<String>,
    /// Of etcd, where it came from there.
    revision: Option<Revision>,
    what: String,
    before: Option<Json>,
    after: Option<Json>,
}

impl AuditEntry {
    /// As shown.
    #[must_use]
    pub fn to_json(&self) -> Json {
        Json::object([
            ("sequence", Some(self.sequence.into())),
            ("time", Some(rfc3339(self.at).into())),
            ("token", Some(self.token.as_str().into())),
            ("peer", Some(self.peer.as_str().into())),
            ("node", self.node.as_deref().map(Json::from)),
            ("revision", self.revision.map(Json::Integer)),
            ("what", Some(self.what.as_str().into())),
            ("before", self.before.clone()),
            ("after", self.after.clone()),
        ])
    }
}

impl Store {
    /// Rules in the order of their age after `after`, `limit` at most; of one collection, if one is named.
    pub fn rules(
        &self,
        collection: Option<Collection>,
        after: u64,
        limit: u32,
    ) -> std::result::Result<Vec<RuleEntry>, StoreError> {
        let after = i64::try_from(after).unwrap_or(i64::MAX);
        let query = format!(
            "SELECT {PUBLIC} FROM rule WHERE position > ?1 AND ?2 IN ('', collection) ORDER BY position LIMIT ?3"
        );
        self.all(&query, params![after, collection.map_or("", Collection::as_str), limit], rule_entry)
    }

    /// Rules with recurring windows, as [`Store::rules`].
    pub fn recurring_rules(&self, after: u64, limit: u32) -> std::result::Result<Vec<RuleEntry>, StoreError> {
        let after = i64::try_from(after).unwrap_or(i64::MAX);
        let query =
            format!("SELECT {PUBLIC} FROM rule WHERE position > ?1 AND windows IS NOT NULL ORDER BY position LIMIT ?2");
        self.all(&query, params![after, limit], rule_entry)
    }

    /// The rule with that id.
    pub fn rule(&self, id: &str) -> std::result::Result<Option<RuleEntry>, StoreError> {
        let query = format!("SELECT {PUBLIC} FROM rule WHERE id = ?1");
        let read = || self.connection.prepare_cached(&query)?.query_row([id], rule_entry).optional();
        read().map_err(|error| self.failed(error))
    }

    /// The first moment at which some rule is over that ends here: outside a cluster, every one.
    pub fn next_end(&self) -> std::result::Result<Option<Timestamp>, StoreError> {
        let own = self.first_end("revision = 0")?;
        let shared = if self.clustered { None } else { self.first_end("revision > 0")? };
        Ok(own.into_iter().chain(shared).min())
    }

    pub(super) fn first_end(&self, rows: &str) -> std::result::Result<Option<Timestamp>, StoreError> {
        let query = format!("SELECT min(ends) FROM rule WHERE ends IS NOT NULL AND {rows}");
        let read = || self.connection.prepare_cached(&query)?.query_row([], |row| row.get::<_, Option<i64>>(0));
        read().map(|end| end.map(Timestamp)).map_err(|error| self.failed(error))
    }

    /// Suppressions in the order of their values after `after`, `limit` at most, each with the token that made it.
    pub fn suppressions(
        &self,
        after: &str,
        limit: u32,
    ) -> std::result::Result<Vec<(Suppression, Arc<str>)>, StoreError> {
        let query = "SELECT value, code, extended, description, token FROM suppression WHERE value > ?1
                     ORDER BY value LIMIT ?2";
        let row = |row: &Row<'_>| Ok((suppression(row)?, row.get::<_, String>(4)?.into()));
        self.all(query, params![after, limit], row)
    }

    /// All pools made by the API.
    pub fn pools(&self) -> std::result::Result<Vec<Pool>, StoreError> {
        self.all("SELECT name, description FROM pool ORDER BY name", [], pool)
    }

    /// Their members; of one pool, if one is named.
    pub fn pool_ips(&self, name: Option<&str>) -> std::result::Result<Vec<PoolIp>, StoreError> {
        let query = "SELECT ip, pool FROM pool_ip WHERE ?1 IS NULL OR pool = ?1 ORDER BY pool, ip";
        self.all(query, [name], pool_ip)
    }

    /// All external MTAs.
    pub fn external_mtas(&self) -> std::result::Result<Vec<ExternalMta>, StoreError> {
        let query =
            "SELECT public_ip, local_ip, connect_ip, connect_port, protocol FROM external_mta ORDER BY public_ip";
        self.all(query, [], external_mta)
    }

    /// The audit trail after a number, `limit` lines at most.
    pub fn audit(&self, after: u64, limit: u32) -> std::result::Result<Vec<AuditEntry>, StoreError> {
        let after = i64::try_from(after).unwrap_or(i64::MAX);
        let query =
            "SELECT sequence, at, token, peer, what, before, after, node, revision FROM audit WHERE sequence > ?1
                     ORDER BY sequence LIMIT ?2";
        self.all(query, params![after, limit], audit_entry)
    }

    pub(super) fn count_rules(&self) -> std::result::Result<u64, StoreError> {
        let count = self.connection.query_row("SELECT count(*) FROM rule", [], |row| row.get(0));
        count.map_err(|error| self.failed(error))
    }

    pub(super) fn all<T>(
        &self,
        query: &str,
        values: impl Params,
        of: impl FnMut(&Row<'_>) -> Result<T>,
    ) -> std::result::Result<Vec<T>, StoreError> {
        let read = || self.connection.prepare_cached(query)?.query_map(values, of)?.collect::<Result<Vec<_>>>();
        read().map_err(|error| self.failed(error))
    }
}

fn unreadable(column: usize, what: String) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, Type::Text, what.into())
}

pub(super) fn rule_entry(row: &Row<'_>) -> Result<RuleEntry> {
    let id: Arc<str> = row.get::<_, String>(1)?.into();
    let wrong = |column, why: String| unreadable(column, format!("rule {id}: {why}"));
    let name: String = row.get(2)?;
    let collection = Collection::ALL.into_iter().find(|collection| collection.as_str() == name);
    let collection = collection.ok_or_else(|| wrong(2, format!("unknown collection {name}")))?;
    let scope = read_scope(&row.get::<_, String>(3)?).map_err(|why| wrong(3, why))?;
    let decree = read_decree(collection, &row.get::<_, String>(4)?).map_err(|why| wrong(4, why))?;
    let windows = read_windows(row.get::<_, Option<String>>(8)?.as_deref()).map_err(|why| wrong(8, why))?;
    let moment = |column| row.get::<_, Option<i64>>(column).map(|at| at.map(Timestamp));
    let schedule = Schedule { start: moment(6)?, end: moment(7)?, windows };
    let origin = Origin {
        token: row.get::<_, String>(10)?.into(),
        peer: row.get::<_, String>(11)?.into(),
        at: Timestamp(row.get(12)?),
        node: row.get::<_, String>(13)?.into(),
    };
    Ok(RuleEntry {
        id: id.clone(),
        order: row.get(0)?,
        draft: Draft { collection, scope, decree, cluster: row.get(5)?, schedule },
        origin,
        created: Timestamp(row.get(9)?),
    })
}

pub(super) fn suppression(row: &Row<'_>) -> Result<Suppression> {
    let extended = match row.get::<_, Option<String>>(2)? {
        None => None,
        Some(text) => Some(enhanced_code(&text).ok_or_else(|| unreadable(2, format!("enhanced code {text}")))?),
    };
    let verdict =
        Verdict { code: row.get(1)?, extended, description: row.get::<_, Option<String>>(3)?.map(Into::into) };
    Ok(Suppression { value: row.get::<_, String>(0)?.into(), verdict })
}

pub(super) fn pool(row: &Row<'_>) -> Result<Pool> {
    Ok(Pool { name: row.get::<_, String>(0)?.into(), description: row.get::<_, Option<String>>(1)?.map(Into::into) })
}

pub(super) fn pool_ip(row: &Row<'_>) -> Result<PoolIp> {
    Ok(PoolIp { ip: ip(row, 0)?, pool: row.get::<_, String>(1)?.into() })
}

pub(super) fn external_mta(row: &Row<'_>) -> Result<ExternalMta> {
    let connect_ip = if row.get_ref(2)? == rusqlite::types::ValueRef::Null { None } else { Some(ip(row, 2)?) };
    Ok(ExternalMta {
        public_ip: ip(row, 0)?,
        local_ip: ip(row, 1)?,
        connect_ip,
        connect_port: row.get(3)?,
        protocol: row.get::<_, String>(4)?.into(),
    })
}

fn ip(row: &Row<'_>, column: usize) -> Result<IpAddr> {
    let text: String = row.get(column)?;
    text.parse().map_err(|_| unreadable(column, format!("address {text}")))
}

fn audit_entry(row: &Row<'_>) -> Result<AuditEntry> {
    let json = |column| -> Result<Option<Json>> {
        let Some(text) = row.get::<_, Option<String>>(column)? else { return Ok(None) };
        json::parse(text.as_bytes()).map(Some).map_err(|error| unreadable(column, error.to_string()))
    };
    Ok(AuditEntry {
        sequence: row.get(0)?,
        at: Timestamp(row.get(1)?),
        token: row.get(2)?,
        peer: row.get(3)?,
        what: row.get(4)?,
        before: json(5)?,
        after: json(6)?,
        node: row.get(7)?,
        revision: row.get(8)?,
    })
}
