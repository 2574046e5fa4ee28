//! The keys below the prefix and what stands in them, as values. Reading is strict: a rule that is not understood is an
//! error, because a node that passed over it would let mail out.

use super::waiting::Member;
use crate::json::{self, Json};
use crate::rules::change::Pool;
use crate::rules::entry::{Collection, Draft, Origin, RuleEntry, identity, scope_json, windows_json};
use crate::rules::schedule::Schedule;
use crate::rules::shared::{Revision, SharedPool, SharedRule};
use crate::rules::stored::{read_decree, read_scope, read_windows, write_decree};
use mailrace_shards::time::Timestamp;
use sha2::{Digest, Sha256};
use std::fmt::Write;
use std::sync::Arc;

/// Of what is written. What has a later one was written by a later mailrace.
const VERSION: i64 = 1;

/// What a key is, below the prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key<'a> {
    /// A rule; `COLLECTION/HASH`.
    Rule(&'a str),
    /// A pool of that name.
    Pool(&'a str),
    /// A segment of suppressions.
    Suppressions,
    /// What a node has announced.
    Member(&'a str),
    /// What a node says of itself while it has a lease.
    Word(&'a str),
    /// Who removed something, in the same transaction.
    By,
    /// What this cluster is called, once for all.
    Identity,
    /// Nothing that this version knows.
    Other,
}

/// The keys of one cluster.
#[derive(Clone, Debug)]
pub struct Keys {
    prefix: String,
}

impl Keys {
    /// Below a prefix that ends with a slash.
    #[must_use]
    pub fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned() }
    }

    /// The prefix.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Of a rule, by its key below the prefix of rules.
    #[must_use]
    pub fn rule(&self, key: &str) -> Vec<u8> {
        format!("{}rules/{key}", self.prefix).into_bytes()
    }

    /// Before all rules.
    #[must_use]
    pub fn rules(&self) -> Vec<u8> {
        self.rule("")
    }

    /// Of a pool; of the empty name, before all pools.
    #[must_use]
    pub fn pool(&self, name: &str) -> Vec<u8> {
        format!("{}pools/{name}", self.prefix).into_bytes()
    }

    /// What the keys of all segments of suppressions begin with.
    #[must_use]
    pub fn suppressions_prefix(&self) -> String {
        format!("{}suppressions/", self.prefix)
    }

    /// Of a segment of suppressions.
    #[must_use]
    pub fn suppressions(&self, id: &str) -> Vec<u8> {
        format!("{}{id}", self.suppressions_prefix()).into_bytes()
    }

    /// Before everything that is said of nodes.
    #[must_use]
    pub fn nodes(&self) -> Vec<u8> {
        format!("{}nodes/", self.prefix).into_bytes()
    }

    /// What a node has announced.
    #[must_use]
    pub fn member(&self, node: &str) -> Vec<u8> {
        format!("{}nodes/{node}/member", self.prefix).into_bytes()
    }

    /// A node's word.
    #[must_use]
    pub fn word(&self, node: &str) -> Vec<u8> {
        format!("{}nodes/{node}/live", self.prefix).into_bytes()
    }

    /// Who removed something.
    #[must_use]
    pub fn by(&self) -> Vec<u8> {
        format!("{}by", self.prefix).into_bytes()
    }

    /// What this cluster is called.
    #[must_use]
    pub fn identity(&self) -> Vec<u8> {
        format!("{}id", self.prefix).into_bytes()
    }

    /// What a key is.
    #[must_use]
    pub fn read<'a>(&self, key: &'a [u8]) -> Key<'a> {
        let Some(rest) = std::str::from_utf8(key).ok().and_then(|key| key.strip_prefix(&*self.prefix)) else {
            return Key::Other;
        };
        match rest {
            "by" => return Key::By,
            "id" => return Key::Identity,
            _ => {}
        }
        match rest.split_once('/') {
            Some(("rules", key)) => Key::Rule(key),
            Some(("pools", name)) => Key::Pool(name),
            Some(("suppressions", _)) => Key::Suppressions,
            Some(("nodes", rest)) => match rest.split_once('/') {
                Some((node, "member")) => Key::Member(node),
                Some((node, "live")) => Key::Word(node),
                _ => Key::Other,
            },
            _ => Key::Other,
        }
    }
}

/// The key of a rule, below that of all rules. Two rules that are the same have the same.
#[must_use]
pub fn rule_key(collection: Collection, identity: &str) -> Arc<str> {
    let mut key = format!("{}/", collection.as_str());
    for octet in Sha256::digest(identity) {
        write!(key, "{octet:02x}").expect("a string takes everything");
    }
    key.into()
}

/// A rule as its key holds it.
#[must_use]
pub fn write_rule(id: &str, draft: &Draft, origin: &Origin, created: Timestamp) -> Vec<u8> {
    let Schedule { start, end, windows } = &draft.schedule;
    let decree = json::parse(write_decree(&draft.decree).as_bytes()).expect("what is written is JSON");
    text([
        ("v", Some(number(VERSION))),
        ("id", Some(id.into())),
        ("scope", Some(scope_json(&draft.scope))),
        ("decree", Some(decree)),
        ("start", start.map(|at| number(at.0))),
        ("end", end.map(|at| number(at.0))),
        ("windows", (!windows.is_empty()).then(|| windows_json(windows))),
        ("created", Some(number(created.0))),
        ("origin", Some(origin_json(origin))),
    ])
}

/// The same, of one that is stored.
#[must_use]
pub fn write_entry(entry: &RuleEntry) -> Vec<u8> {
    write_rule(&entry.id, &entry.draft, &entry.origin, entry.created)
}

/// And back.
///
/// # Errors
/// What is not understood.
pub fn read_rule(key: &str, value: &[u8], revision: Revision) -> Result<SharedRule, String> {
    let read = || {
        let json = object(value)?;
        let name = key.split_once('/').map_or("", |(name, _)| name);
        let collection = Collection::ALL.into_iter().find(|collection| collection.as_str() == name);
        let collection = collection.ok_or("it is of a kind that this mailrace does not know")?;
        let scope = json.get("scope").ok_or("it has no scope")?;
        let scope = read_scope(&scope.to_text())?;
        let decree = json.get("decree").ok_or("it has no decree")?;
        let decree = read_decree(collection, &decree.to_text())?;
        let windows = read_windows(json.get("windows").map(Json::to_text).as_deref())?;
        let schedule = Schedule { start: moment(&json, "start")?, end: moment(&json, "end")?, windows };
        if rule_key(collection, &identity(collection, &scope, true)) != key.into() {
            return Err("it stands under the key of another".to_owned());
        }
        Ok(SharedRule {
            key: key.into(),
            revision,
            id: word(&json, "id")?,
            draft: Draft { collection, scope, decree, cluster: true, schedule },
            origin: read_origin(json.get("origin").ok_or("it has no origin")?)?,
            created: moment(&json, "created")?.ok_or("it has no created")?,
        })
    };
    read().map_err(|why| format!("rule {key} in etcd: {why}"))
}

/// A pool as its key holds it.
#[must_use]
pub fn write_pool(pool: &Pool, origin: &Origin) -> Vec<u8> {
    text([
        ("v", Some(number(VERSION))),
        ("description", pool.description.as_ref().map(Json::from)),
        ("origin", Some(origin_json(origin))),
    ])
}

/// And back.
///
/// # Errors
/// What is not understood.
pub fn read_pool(name: &str, value: &[u8], revision: Revision) -> Result<SharedPool, String> {
    let read = || {
        let json = object(value)?;
        let description = json.get("description").and_then(Json::text).map(Arc::from);
        let origin = read_origin(json.get("origin").ok_or("it has no origin")?)?;
        Ok(SharedPool { pool: Pool { name: name.into(), description }, revision, origin })
    };
    read().map_err(|why: String| format!("pool {name} in etcd: {why}"))
}

/// Who removed something.
#[must_use]
pub fn write_by(origin: &Origin) -> Vec<u8> {
    text([("v", Some(number(VERSION))), ("origin", Some(origin_json(origin)))])
}

/// And back; nobody, if it cannot be read: it is for the record only.
#[must_use]
pub fn read_by(value: &[u8]) -> Option<Origin> {
    read_origin(object(value).ok()?.get("origin")?).ok()
}

/// What a node announces of itself.
#[must_use]
pub fn write_member(member: &Member, applied: Revision, at: Timestamp) -> Vec<u8> {
    text([
        ("v", Some(number(VERSION))),
        ("uuid", Some(Json::from(&member.uuid))),
        ("state", Some(if member.running { "running" } else { "stopped" }.into())),
        ("on_partition", Some(if member.delivers_when_lost { "deliver" } else { "hold" }.into())),
        ("since", Some(number(at.0))),
        ("applied", Some(number(applied))),
    ])
}

/// And back.
///
/// # Errors
/// What is not understood.
pub fn read_member(value: &[u8]) -> Result<Member, String> {
    let json = object(value)?;
    // Whatever is not said clearly means that the node is waited for.
    Ok(Member {
        uuid: word(&json, "uuid")?,
        running: json.get("state").and_then(Json::text) != Some("stopped"),
        delivers_when_lost: json.get("on_partition").and_then(Json::text) != Some("hold"),
    })
}

/// One run of one engine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Run {
    /// Of its data directory.
    pub uuid: Arc<str>,
    /// Of this run: no other ever has it. Empty for a mailrace that did not say.
    pub id: Arc<str>,
    /// Its host and process, for people.
    pub place: Arc<str>,
}

/// What a node says while it has a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// Who says it.
    pub run: Run,
    /// At which revision it announced itself; 0 in the announcement.
    pub announced_at: Revision,
    /// Everything up to it is in force there.
    pub applied: Revision,
    /// What its clock showed.
    pub clock: Timestamp,
    /// The version of mailrace that it runs.
    pub version: Arc<str>,
}

/// As its key holds it.
#[must_use]
pub fn write_said(said: &Said) -> Vec<u8> {
    text([
        ("v", Some(number(VERSION))),
        ("uuid", Some(Json::from(&said.run.uuid))),
        ("run", Some(Json::from(&said.run.id))),
        ("place", Some(Json::from(&said.run.place))),
        ("announced", Some(number(said.announced_at))),
        ("applied", Some(number(said.applied))),
        ("clock", Some(number(said.clock.0))),
        ("version", Some(Json::from(&said.version))),
    ])
}

/// And back.
///
/// # Errors
/// What is not understood.
pub fn read_said(value: &[u8]) -> Result<Said, String> {
    let json = object(value)?;
    let perhaps = |name: &str| json.get(name).and_then(Json::text).unwrap_or_default().into();
    Ok(Said {
        run: Run { uuid: word(&json, "uuid")?, id: perhaps("run"), place: perhaps("place") },
        announced_at: json.get("announced").and_then(Json::integer).unwrap_or(0),
        applied: json.get("applied").and_then(Json::integer).ok_or("it has no applied")?,
        clock: moment(&json, "clock")?.ok_or("it has no clock")?,
        version: word(&json, "version")?,
    })
}

fn text<'a>(members: impl IntoIterator<Item = (&'a str, Option<Json>)>) -> Vec<u8> {
    Json::object(members).to_text().into_bytes()
}

fn number(number: i64) -> Json {
    Json::Integer(number)
}

fn object(value: &[u8]) -> Result<Json, String> {
    let json = json::parse(value).map_err(|error| error.to_string())?;
    match json.get("v").and_then(Json::integer) {
        Some(VERSION) => Ok(json),
        Some(later) => {
            Err(format!("it has version {later}, this mailrace knows {VERSION}; run the newer one here, too"))
        }
        None => Err("it has no version".to_owned()),
    }
}

fn word(json: &Json, name: &str) -> Result<Arc<str>, String> {
    json.get(name).and_then(Json::text).map(Arc::from).ok_or_else(|| format!("it has no {name}"))
}

fn moment(json: &Json, name: &str) -> Result<Option<Timestamp>, String> {
    match json.get(name) {
        None => Ok(None),
        Some(value) => value.integer().map(|at| Some(Timestamp(at))).ok_or_else(|| format!("its {name} is no time")),
    }
}

fn origin_json(origin: &Origin) -> Json {
    Json::object([
        ("node", Some(Json::from(&origin.node))),
        ("token", Some(Json::from(&origin.token))),
        ("peer", Some(Json::from(&origin.peer))),
        ("at", Some(number(origin.at.0))),
    ])
}

fn read_origin(json: &Json) -> Result<Origin, String> {
    Ok(Origin {
        token: word(json, "token")?,
        peer: word(json, "peer")?,
        at: moment(json, "at")?.ok_or("its origin has no time")?,
        node: word(json, "node")?,
    })
}

#[cfg(test)]
#[path = "record_tests.rs"]
mod tests;
