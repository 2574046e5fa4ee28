//! Changes: those that arrived together are one transaction, synced once. Each is audited in the same transaction.

use super::rows::{PUBLIC, rule_entry};
use super::{Store, StoreError};
use crate::json::Json;
use crate::rules::change::{Changed, Effect, ExternalMta, Pool, PoolIp, Refused, Request, Suppression};
use crate::rules::entry::{Collection, Dialect, Draft, Origin, RuleEntry};
use crate::rules::shared::Revision;
use crate::rules::stored::{write_decree, write_scope, write_windows};
use mailrace_shards::limits::{API_POOLS_MAX, AUDIT_ENTRIES_MAX};
use mailrace_shards::time::Timestamp;
use rusqlite::{OptionalExtension, Result, Transaction, params};
use std::cell::Cell;
use std::net::IpAddr;
use std::sync::Arc;

/// Rules of all kinds, suppressions apart; a further one is refused.
pub const RULES_MAX: u64 = 1_000_000;

/// Suppressions of one request beyond which it is part of an import.
const BULK: usize = 1000;

/// What came of one request of a group.
pub type Outcome = std::result::Result<Changed, Refused>;

impl Store {
    /// Carries out requests as one transaction: when this returns `Ok`, all are on disk that were not refused; after
    /// an error, none is (but see [`StoreError::Unsure`]).
    ///
    /// # Errors
    /// The database cannot be written.
    pub fn carry_out(&mut self, requests: &[(Request, Origin)]) -> std::result::Result<Vec<Outcome>, StoreError> {
        let is_bulk = |(request, _): &(Request, Origin)| match request {
            Request::Suppress(entries) => entries.len() > BULK,
            Request::Unsuppress(values) => values.len() > BULK,
            Request::Follow(follow) => follow.changes.len() > BULK,
            _ => false,
        };
        if requests.iter().any(is_bulk) {
            self.expand();
        }
        let rules = Cell::new(self.rules);
        let clustered = self.clustered;
        let outcomes = self.within(|transaction| {
            let of = |(request, origin)| Group { transaction, origin, rules: &rules, clustered }.carry_out(request);
            requests.iter().map(|(request, origin)| of((request, origin))).collect()
        })?;
        self.rules = rules.get();
        Ok(outcomes)
    }
}

/// One change within a transaction.
pub(super) struct Group<'a> {
    pub(super) transaction: &'a Transaction<'a>,
    pub(super) origin: &'a Origin,
    /// How many rules there are.
    pub(super) rules: &'a Cell<u64>,
    /// This engine is in a cluster: what etcd has ends there.
    pub(super) clustered: bool,
}

/// What a rule's row says of etcd.
#[derive(Clone, Copy, Default)]
pub(super) struct InEtcd<'a> {
    pub(super) key: Option<&'a str>,
    pub(super) revision: Revision,
}

impl Group<'_> {
    fn carry_out(&self, request: &Request) -> Result<Outcome> {
        match request {
            Request::Put { id, draft } => self.put_rule(id, draft),
            Request::RemoveId(collection, id) => {
                let found =
                    self.rule("id = ?1 AND ?2 IN ('', collection)", [id, collection.map_or("", Collection::as_str)])?;
                self.remove_rule(found).map(Ok)
            }
            Request::RemoveIdentity { collection, identity, .. } => {
                let found = self.rule("identity = ?1 AND collection = ?2", [identity.as_str(), collection.as_str()])?;
                self.remove_rule(found).map(Ok)
            }
            Request::Suppress(entries) => self.suppress(entries).map(Ok),
            Request::Unsuppress(values) => self.unsuppress(values).map(Ok),
            Request::PutPool(pool) => self.put_pool(pool),
            Request::RemovePool(name) => self.remove_pool(name).map(Ok),
            Request::PutPoolIp(member) => self.put_pool_ip(member),
            Request::RemovePoolIp(pool, ip) => self.remove_pool_ip(pool.as_deref(), *ip).map(Ok),
            Request::PutExternalMta(mta) => self.put_external_mta(mta),
            Request::RemoveExternalMta(ip) => self.remove_external_mta(*ip).map(Ok),
            Request::Sweep(most) => self.sweep(*most).map(Ok),
            Request::Follow(follow) => self.follow(follow),
        }
    }

    fn put_rule(&self, id: &Arc<str>, draft: &Draft) -> Result<Outcome> {
        let identity = draft.identity();
        let found = self.rule("identity = ?1 AND collection = ?2", [identity.as_str(), draft.collection.as_str()])?;
        let (over, old) = match found {
            // One that is over but not yet swept away is as good as gone.
            Some(old) if old.draft.schedule.ended(self.origin.at) => (Some(old), None),
            found => (None, found),
        };
        // What takes the place of another is no further one.
        if over.is_none() && old.is_none() && self.rules.get() >= RULES_MAX {
            return Ok(Err(Refused { field: "", text: format!("there are {RULES_MAX} rules, which is the most") }));
        }
        let keeps_id = draft.collection.dialect() == Dialect::Mailerq;
        let mut changed = Changed::default();
        let entry = match &old {
            Some(old) if keeps_id => {
                changed.updated = 1;
                let entry = RuleEntry { draft: draft.clone(), origin: self.origin.clone(), ..old.clone() };
                self.update_rule(&entry, InEtcd::default())?;
                entry
            }
            _ => {
                changed.created = 1;
                if let Some(gone) = over.as_ref().or(old.as_ref()) {
                    self.delete_rule(gone)?;
                }
                self.insert_rule(id, draft, self.origin.at, InEtcd::default())?
            }
        };
        let what = format!("{} {}", draft.collection.as_str(), if old.is_some() { "replaced" } else { "created" });
        self.audit(&what, old.as_ref().map(RuleEntry::to_json), Some(entry.to_json()))?;
        // The new one first, so that a core is never without either.
        changed.effects.push(Effect::Put(entry.clone()));
        let gone = over.or(if keeps_id { None } else { old });
        changed.effects.extend(gone.map(Effect::Remove));
        changed.entry = Some(entry);
        Ok(Ok(changed))
    }

    pub(super) fn insert_rule(
        &self,
        id: &Arc<str>,
        draft: &Draft,
        created: Timestamp,
        in_etcd: InEtcd<'_>,
    ) -> Result<RuleEntry> {
        let mut statement = self.transaction.prepare_cached(
            "INSERT INTO rule (id, collection, identity, scope, decree, cluster, starts, ends, windows,
                               created, token, peer, changed, node, key, revision)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16)",
        )?;
        let Origin { token, peer, at, node } = self.origin;
        let schedule = &draft.schedule;
        let (scope, decree) = (write_scope(&draft.scope), write_decree(&draft.decree));
        let (starts, ends) = (schedule.start.map(|at| at.0), schedule.end.map(|at| at.0));
        let windows = write_windows(schedule);
        let collection = draft.collection.as_str();
        let row = params![
            &**id,
            collection,
            draft.identity(),
            scope,
            decree,
            draft.cluster,
            starts,
            ends,
            windows,
            created.0,
            &**token,
            &**peer,
            at.0,
            &**node,
            in_etcd.key,
            in_etcd.revision
        ];
        let order = statement.insert(row)?.unsigned_abs();
        self.rules.set(self.rules.get() + 1);
        Ok(RuleEntry { id: id.clone(), order, draft: draft.clone(), origin: self.origin.clone(), created })
    }

    /// A change made here only, as one is outside a cluster, is none that etcd has: its row says so.
    pub(super) fn update_rule(&self, entry: &RuleEntry, in_etcd: InEtcd<'_>) -> Result<()> {
        let mut statement = self.transaction.prepare_cached(
            "UPDATE rule SET decree = ?2, starts = ?3, ends = ?4, windows = ?5, token = ?6, peer = ?7, changed = ?8,
                             node = ?9, key = ?10, revision = ?11
             WHERE id = ?1",
        )?;
        let Origin { token, peer, at, node } = &entry.origin;
        let schedule = &entry.draft.schedule;
        let (starts, ends) = (schedule.start.map(|at| at.0), schedule.end.map(|at| at.0));
        let decree = write_decree(&entry.draft.decree);
        let windows = write_windows(schedule);
        let InEtcd { key, revision } = in_etcd;
        let row = params![&*entry.id, decree, starts, ends, windows, &**token, &**peer, at.0, &**node, key, revision];
        statement.execute(row)?;
        Ok(())
    }

    pub(super) fn delete_rule(&self, entry: &RuleEntry) -> Result<()> {
        let gone = self.transaction.prepare_cached("DELETE FROM rule WHERE id = ?1")?.execute([&*entry.id])?;
        self.rules.set(self.rules.get().saturating_sub(gone as u64));
        Ok(())
    }

    fn remove_rule(&self, found: Option<RuleEntry>) -> Result<Changed> {
        let Some(entry) = found else { return Ok(Changed::default()) };
        self.delete_rule(&entry)?;
        self.audit(&format!("{} removed", entry.draft.collection.as_str()), Some(entry.to_json()), None)?;
        // One that was over was none any more to whoever asks.
        let removed = u64::from(!entry.draft.schedule.ended(self.origin.at));
        Ok(Changed { removed, effects: vec![Effect::Remove(entry)], ..Changed::default() })
    }

    fn sweep(&self, most: usize) -> Result<Changed> {
        let mut ended = Vec::new();
        // What etcd has ends there, a while later, so that no clock ends it for the others.
        let rows = if self.clustered { &["revision = 0"][..] } else { &["revision = 0", "revision > 0"] };
        for rows in rows {
            let query = format!("SELECT {PUBLIC} FROM rule WHERE ends <= ?1 AND {rows} ORDER BY ends LIMIT ?2");
            let mut statement = self.transaction.prepare_cached(&query)?;
            let most = i64::try_from(most - ended.len()).unwrap_or(i64::MAX);
            for entry in statement.query_map(params![self.origin.at.0, most], rule_entry)? {
                ended.push(entry?);
            }
        }
        let mut changed = Changed::default();
        for entry in ended {
            self.delete_rule(&entry)?;
            self.audit(&format!("{} ended", entry.draft.collection.as_str()), Some(entry.to_json()), None)?;
            changed.removed += 1;
            changed.effects.push(Effect::Remove(entry));
        }
        Ok(changed)
    }

    pub(super) fn rule(&self, condition: &str, values: [&str; 2]) -> Result<Option<RuleEntry>> {
        let query = format!("SELECT {PUBLIC} FROM rule WHERE {condition}");
        self.transaction.prepare_cached(&query)?.query_row(values, rule_entry).optional()
    }

    fn suppress(&self, entries: &[Suppression]) -> Result<Changed> {
        let mut changed = Changed { effects: Vec::with_capacity(entries.len()), ..Changed::default() };
        let old = match entries {
            [one] => self.suppression(&one.value)?,
            _ => None,
        };
        let mut add = self.transaction.prepare_cached(
            "INSERT OR IGNORE INTO suppression (value, code, extended, description, token) VALUES (?1, ?2, ?3, ?4, ?5)",
        )?;
        let mut overwrite = self.transaction.prepare_cached(
            "UPDATE suppression SET code = ?2, extended = ?3, description = ?4, token = ?5, revision = 0
             WHERE value = ?1",
        )?;
        // In the order of the table, so that each page of it is looked for once. Of a value that is there twice the
        // later one stays, since the order among equals is kept.
        let mut ordered: Vec<&Suppression> = entries.iter().collect();
        ordered.sort_by(|a, b| a.value.cmp(&b.value));
        for entry in ordered {
            let verdict = &entry.verdict;
            let extended = verdict.extended.map(|extended| extended.to_string());
            let row =
                params![&*entry.value, verdict.code, extended, verdict.description.as_deref(), &*self.origin.token];
            if add.execute(row)? == 1 {
                changed.created += 1;
            } else {
                overwrite.execute(row)?;
                changed.updated += 1;
            }
            changed.effects.push(Effect::Suppress(entry.clone(), self.origin.token.clone()));
        }
        match entries {
            [] => {}
            [one] => {
                let what = if old.is_some() { "suppression replaced" } else { "suppression created" };
                self.audit(what, old, Some(one.to_json()))?;
            }
            _ => {
                let counts = [("created", Some(changed.created.into())), ("updated", Some(changed.updated.into()))];
                self.audit("suppressions imported", None, Some(Json::object(counts)))?;
            }
        }
        Ok(changed)
    }

    fn unsuppress(&self, values: &[Arc<str>]) -> Result<Changed> {
        let mut changed = Changed::default();
        let old = match values {
            [one] => self.suppression(one)?,
            _ => None,
        };
        let mut remove = self.transaction.prepare_cached("DELETE FROM suppression WHERE value = ?1")?;
        for value in values {
            if remove.execute([&**value])? == 1 {
                changed.removed += 1;
                changed.effects.push(Effect::Unsuppress(value.clone()));
            }
        }
        if let Some(old) = old {
            self.audit("suppression removed", Some(old), None)?;
        } else if changed.removed > 0 {
            let counts = Json::object([("removed", Some(changed.removed.into()))]);
            self.audit("suppressions removed", None, Some(counts))?;
        }
        Ok(changed)
    }

    pub(super) fn suppression(&self, value: &str) -> Result<Option<Json>> {
        let query = "SELECT value, code, extended, description FROM suppression WHERE value = ?1";
        let mut statement = self.transaction.prepare_cached(query)?;
        Ok(statement.query_row([value], super::rows::suppression).optional()?.map(|entry| entry.to_json()))
    }

    /// Whether a table of what becomes settings has all the rows that it may have: without a bound, a core would be given
    /// more sources than it can take.
    fn is_full(&self, table: &str) -> Result<Option<Refused>> {
        let query = format!("SELECT count(*) FROM {table}");
        let count: usize = self.transaction.prepare_cached(&query)?.query_row([], |row| row.get(0))?;
        let text = || format!("there are {API_POOLS_MAX} entries of this kind, which is the most; remove some first");
        Ok((count >= API_POOLS_MAX).then(|| Refused { field: "", text: text() }))
    }

    fn put_pool(&self, pool: &Pool) -> Result<Outcome> {
        let query = "SELECT name, description FROM pool WHERE name = ?1";
        let old = self.transaction.prepare_cached(query)?.query_row([&*pool.name], super::rows::pool).optional()?;
        if old.is_none()
            && let Some(refused) = self.is_full("pool")?
        {
            return Ok(Err(refused));
        }
        self.transaction.execute(
            "INSERT INTO pool (name, description) VALUES (?1, ?2)
             ON CONFLICT (name) DO UPDATE SET description = excluded.description, revision = 0",
            params![&*pool.name, pool.description.as_deref()],
        )?;
        let what = if old.is_some() { "pool changed" } else { "pool created" };
        self.audit(what, old.as_ref().map(Pool::to_json), Some(pool.to_json()))?;
        Ok(Ok(put(old.is_some(), vec![Effect::Pools])))
    }

    fn remove_pool(&self, name: &str) -> Result<Changed> {
        let Some(before) = self.delete_pool(name)? else { return Ok(Changed::default()) };
        self.audit("pool removed", Some(before), None)?;
        Ok(Changed { removed: 1, effects: vec![Effect::Pools], ..Changed::default() })
    }

    /// The pool and its members, if there is such a one; what was there.
    pub(super) fn delete_pool(&self, name: &str) -> Result<Option<Json>> {
        let mut statement = self.transaction.prepare_cached("SELECT ip, pool FROM pool_ip WHERE pool = ?1")?;
        let members = statement.query_map([name], super::rows::pool_ip)?.collect::<Result<Vec<_>>>()?;
        let query = "DELETE FROM pool WHERE name = ?1 RETURNING name, description";
        let removed = self.transaction.prepare_cached(query)?.query_row([name], super::rows::pool).optional()?;
        let members = members.iter().map(|member| member.ip.to_string().into()).collect::<Vec<Json>>();
        Ok(removed.map(|pool| pool.to_json().with([("ips", Some(members.into()))])))
    }

    fn put_pool_ip(&self, member: &PoolIp) -> Result<Outcome> {
        let query = "SELECT 1 FROM pool WHERE name = ?1";
        if self.transaction.prepare_cached(query)?.query_row([&*member.pool], |_| Ok(())).optional()?.is_none() {
            let text = format!("there is no pool {:?}; make it by POST /v1/pools", member.pool);
            return Ok(Err(Refused { field: "name", text }));
        }
        let old = self.pool_ip(member.ip)?;
        if old.is_none()
            && let Some(refused) = self.is_full("pool_ip")?
        {
            return Ok(Err(refused));
        }
        self.transaction.execute(
            "INSERT INTO pool_ip (ip, pool) VALUES (?1, ?2) ON CONFLICT (ip) DO UPDATE SET pool = excluded.pool",
            params![member.ip.to_string(), &*member.pool],
        )?;
        self.audit("pool member set", old.as_ref().map(PoolIp::to_json), Some(member.to_json()))?;
        Ok(Ok(put(old.is_some(), vec![Effect::Pools])))
    }

    fn remove_pool_ip(&self, pool: Option<&str>, ip: IpAddr) -> Result<Changed> {
        let Some(old) = self.pool_ip(ip)?.filter(|old| pool.is_none_or(|pool| pool == &*old.pool)) else {
            return Ok(Changed::default());
        };
        self.transaction.execute("DELETE FROM pool_ip WHERE ip = ?1", [ip.to_string()])?;
        self.audit("pool member removed", Some(old.to_json()), None)?;
        Ok(Changed { removed: 1, effects: vec![Effect::Pools], ..Changed::default() })
    }

    fn pool_ip(&self, ip: IpAddr) -> Result<Option<PoolIp>> {
        let mut statement = self.transaction.prepare_cached("SELECT ip, pool FROM pool_ip WHERE ip = ?1")?;
        statement.query_row([ip.to_string()], super::rows::pool_ip).optional()
    }

    fn put_external_mta(&self, mta: &ExternalMta) -> Result<Outcome> {
        let old = self.external_mta(mta.public_ip)?;
        if old.is_none()
            && let Some(refused) = self.is_full("external_mta")?
        {
            return Ok(Err(refused));
        }
        self.transaction.execute(
            "INSERT OR REPLACE INTO external_mta (public_ip, local_ip, connect_ip, connect_port, protocol)
             VALUES (?1, ?2, ?3, ?4, ?5)",
            params![
                mta.public_ip.to_string(),
                mta.local_ip.to_string(),
                mta.connect_ip.map(|ip| ip.to_string()),
                mta.connect_port,
                &*mta.protocol
            ],
        )?;
        self.audit("external MTA set", old.as_ref().map(ExternalMta::to_json), Some(mta.to_json()))?;
        Ok(Ok(put(old.is_some(), vec![Effect::Pools])))
    }

    fn remove_external_mta(&self, ip: IpAddr) -> Result<Changed> {
        let Some(old) = self.external_mta(ip)? else { return Ok(Changed::default()) };
        self.transaction.execute("DELETE FROM external_mta WHERE public_ip = ?1", [ip.to_string()])?;
        self.audit("external MTA removed", Some(old.to_json()), None)?;
        Ok(Changed { removed: 1, effects: vec![Effect::Pools], ..Changed::default() })
    }

    fn external_mta(&self, ip: IpAddr) -> Result<Option<ExternalMta>> {
        let query =
            "SELECT public_ip, local_ip, connect_ip, connect_port, protocol FROM external_mta WHERE public_ip = ?1";
        self.transaction.prepare_cached(query)?.query_row([ip.to_string()], super::rows::external_mta).optional()
    }

    fn audit(&self, what: &str, before: Option<Json>, after: Option<Json>) -> Result<()> {
        let Origin { token, peer, at, .. } = self.origin;
        audit(self.transaction, (*at, token, peer), None, (what, before, after))
    }

    /// The same, of a change that came through etcd at a revision.
    pub(super) fn audit_shared(
        &self,
        revision: Revision,
        what: &str,
        before: Option<Json>,
        after: Option<Json>,
    ) -> Result<()> {
        let Origin { token, peer, at, node } = self.origin;
        audit(self.transaction, (*at, token, peer), Some((node, revision)), (what, before, after))
    }
}

fn put(was_there: bool, effects: Vec<Effect>) -> Changed {
    Changed { created: u64::from(!was_there), updated: u64::from(was_there), effects, ..Changed::default() }
}

/// A change of tokens, which only commands make.
pub(super) fn audit_token(transaction: &Transaction<'_>, at: Timestamp, what: &str, name: &str) -> Result<()> {
    let after = Json::object([("name", Some(name.into()))]);
    audit(transaction, (at, "", "command line"), None, (what, None, Some(after)))
}

fn audit(
    transaction: &Transaction<'_>,
    (at, token, peer): (Timestamp, &str, &str),
    through_etcd: Option<(&Arc<str>, Revision)>,
    (what, before, after): (&str, Option<Json>, Option<Json>),
) -> Result<()> {
    let mut statement = transaction.prepare_cached(
        "INSERT INTO audit (at, token, peer, what, before, after, node, revision)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
    )?;
    let text = |json: Option<Json>| json.map(|json| json.to_text());
    let (node, revision) = (through_etcd.map(|(node, _)| &**node), through_etcd.map(|(_, revision)| revision));
    statement.execute(params![at.0, token, peer, what, text(before), text(after), node, revision])?;
    // The oldest goes, so that changes of rules do not fill the disk in the course of the years.
    let mut statement = transaction.prepare_cached("DELETE FROM audit WHERE sequence <= ?1")?;
    statement.execute([transaction.last_insert_rowid() - AUDIT_ENTRIES_MAX])?;
    Ok(())
}
