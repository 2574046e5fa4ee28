//! etcd's JSON gateway: octets as base64, 64-bit numbers as strings, what is zero left out. Pure: turns requests into
//! text and text into values; opens nothing.

use super::types::{Answer, Compare, Event, Header, KeyValue, Lease, Op, Page, Revision, Txn, TxnAnswer};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};
use std::fmt;

/// A request for a range. `at` 0 is the newest revision, `limit` 0 is all of it.
#[must_use]
pub fn range_request(from: &[u8], end: &[u8], at: Revision, limit: u32) -> Value {
    json!({
        "key": encoded(from),
        "range_end": encoded(end),
        "revision": at.to_string(),
        "limit": limit.to_string(),
    })
}

/// The same, without values.
#[must_use]
pub fn keys_request(from: &[u8], end: &[u8], at: Revision, limit: u32) -> Value {
    let mut request = range_request(from, end, at, limit);
    request["keys_only"] = true.into();
    request
}

/// A request for a transaction.
#[must_use]
pub fn txn_request(txn: &Txn) -> Value {
    let operations = |list: &[Op]| list.iter().map(operation).collect::<Vec<_>>();
    json!({
        "compare": txn.compare.iter().map(comparison).collect::<Vec<_>>(),
        "success": operations(&txn.success),
        "failure": operations(&txn.failure),
    })
}

/// A request for a watch. Answers that are too long come in parts.
#[must_use]
pub fn watch_request(from: &[u8], end: &[u8], start: Revision) -> Value {
    json!({ "create_request": {
        "key": encoded(from),
        "range_end": encoded(end),
        "start_revision": start.to_string(),
        "fragment": true,
    }})
}

fn encoded(octets: &[u8]) -> String {
    BASE64_STANDARD.encode(octets)
}

fn comparison(compare: &Compare) -> Value {
    let Compare { key, revision } = compare;
    json!({ "key": encoded(key), "target": "MOD", "result": "EQUAL", "mod_revision": revision.to_string() })
}

fn operation(op: &Op) -> Value {
    match op {
        Op::Put { key, value, lease } => json!({ "request_put": {
            "key": encoded(key),
            "value": encoded(value),
            "lease": lease.map_or(0, |lease| lease.0).to_string(),
        }}),
        Op::Delete { key } => json!({ "request_delete_range": { "key": encoded(key) } }),
        Op::Range { from, end, limit } => json!({ "request_range": range_request(from, end, 0, *limit) }),
    }
}

/// A 64-bit number, which JSON's own numbers cannot hold: a string, or a number where a gateway writes one.
struct Number<T>(std::marker::PhantomData<T>);

impl<T: std::str::FromStr + TryFrom<i64> + TryFrom<u64>> Visitor<'_> for Number<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a 64-bit number")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(|_| E::custom("no 64-bit number"))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<T, E> {
        T::try_from(number).map_err(|_| E::custom("number out of range"))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<T, E> {
        T::try_from(number).map_err(|_| E::custom("number out of range"))
    }
}

fn number<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: std::str::FromStr + TryFrom<i64> + TryFrom<u64>,
    D: Deserializer<'de>,
{
    deserializer.deserialize_any(Number(std::marker::PhantomData))
}

/// Octets in base64.
struct Octets;

impl Visitor<'_> for Octets {
    type Value = Vec<u8>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("base64")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Vec<u8>, E> {
        BASE64_STANDARD.decode(text).map_err(|error| E::custom(format!("no base64: {error}")))
    }
}

fn octets<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    deserializer.deserialize_str(Octets)
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct WireHeader {
    #[serde(deserialize_with = "number")]
    cluster_id: u64,
    #[serde(deserialize_with = "number")]
    member_id: u64,
    #[serde(deserialize_with = "number")]
    revision: i64,
}

impl From<WireHeader> for Header {
    fn from(wire: WireHeader) -> Self {
        Self { cluster_id: wire.cluster_id, member_id: wire.member_id, revision: wire.revision }
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct WireKeyValue {
    #[serde(deserialize_with = "octets")]
    key: Vec<u8>,
    #[serde(deserialize_with = "octets")]
    value: Vec<u8>,
    #[serde(deserialize_with = "number")]
    create_revision: i64,
    #[serde(deserialize_with = "number")]
    mod_revision: i64,
    #[serde(deserialize_with = "number")]
    version: i64,
    #[serde(deserialize_with = "number")]
    lease: i64,
}

impl From<WireKeyValue> for KeyValue {
    fn from(wire: WireKeyValue) -> Self {
        Self {
            key: wire.key,
            value: wire.value,
            create_revision: wire.create_revision,
            mod_revision: wire.mod_revision,
            version: wire.version,
            lease: (wire.lease != 0).then_some(Lease(wire.lease)),
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct WirePage {
    header: WireHeader,
    kvs: Vec<WireKeyValue>,
    more: bool,
}

impl From<WirePage> for Page {
    fn from(wire: WirePage) -> Self {
        Self { header: wire.header.into(), kvs: wire.kvs.into_iter().map(Into::into).collect(), more: wire.more }
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct WireStatus {
    header: WireHeader,
    #[serde(deserialize_with = "number")]
    leader: u64,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct WireDeleted {
    #[serde(deserialize_with = "number")]
    deleted: i64,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct WireAnswer {
    response_put: Option<serde::de::IgnoredAny>,
    response_delete_range: Option<WireDeleted>,
    response_range: Option<WirePage>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct WireTxn {
    header: WireHeader,
    succeeded: bool,
    responses: Vec<WireAnswer>,
}

/// An answer to a range.
///
/// # Errors
/// It is none; says what is wrong with it.
pub fn page(text: &[u8]) -> Result<Page, String> {
    let page = Page::from(parsed::<WirePage>(text)?);
    signed(&page.header)?;
    Ok(page)
}

/// A member's own number and the leader's, as it says of itself; 0 while it knows none.
///
/// # Errors
/// As [`page`].
pub fn status(text: &[u8]) -> Result<(u64, u64), String> {
    let wire: WireStatus = parsed(text)?;
    Ok((wire.header.member_id, wire.leader))
}

/// An answer of etcd's says whose it is. Anything else that is JSON must not pass for an empty store.
fn signed(header: &Header) -> Result<(), String> {
    if header.cluster_id == 0 || header.revision <= 0 {
        return Err("not what etcd would say: no cluster or no revision".to_owned());
    }
    Ok(())
}

/// An answer to a transaction.
///
/// # Errors
/// As [`page`].
pub fn txn_answer(text: &[u8]) -> Result<TxnAnswer, String> {
    let wire: WireTxn = parsed(text)?;
    let header = Header::from(wire.header);
    signed(&header)?;
    let answers = wire.responses.into_iter().map(|answer| match answer {
        WireAnswer { response_range: Some(page), .. } => Ok(Answer::Range(Page { header, ..page.into() })),
        WireAnswer { response_delete_range: Some(gone), .. } => Ok(Answer::Deleted(gone.deleted)),
        WireAnswer { response_put: Some(_), .. } => Ok(Answer::Put),
        WireAnswer { .. } => Err("an operation has no answer".to_owned()),
    });
    Ok(TxnAnswer { header, succeeded: wire.succeeded, answers: answers.collect::<Result<_, _>>()? })
}

/// A lease as it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseAnswer {
    /// Its number.
    pub lease: Lease,
    /// Seconds that it lives on; 0 when there is none.
    pub seconds: u64,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct WireLease {
    #[serde(rename = "ID", deserialize_with = "number")]
    id: i64,
    #[serde(rename = "TTL", deserialize_with = "number")]
    ttl: i64,
}

impl From<WireLease> for LeaseAnswer {
    fn from(wire: WireLease) -> Self {
        // Below zero is how etcd says of a lease that it has ended.
        Self { lease: Lease(wire.id), seconds: u64::try_from(wire.ttl).unwrap_or(0) }
    }
}

/// An answer to a grant.
///
/// # Errors
/// As [`page`].
pub fn granted(text: &[u8]) -> Result<LeaseAnswer, String> {
    parsed::<WireLease>(text).map(Into::into)
}

/// One line of a stream: what it says, or the error that ends it.
#[derive(Deserialize)]
struct WireLine<T> {
    result: Option<T>,
    #[serde(default)]
    error: Option<StreamError>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct StreamError {
    grpc_code: u32,
    code: u32,
    message: String,
}

/// What a line of a stream says.
pub enum Line<T> {
    /// What was asked for.
    Said(T),
    /// The stream ends: gRPC's code and words.
    Ended(u32, String),
}

fn line<T: for<'de> Deserialize<'de>>(text: &[u8]) -> Result<Line<T>, String> {
    match parsed::<WireLine<T>>(text)? {
        WireLine { error: Some(error), .. } => Ok(Line::Ended(error.grpc_code.max(error.code), error.message)),
        WireLine { result: Some(said), .. } => Ok(Line::Said(said)),
        WireLine { .. } => Err("a line without a result".to_owned()),
    }
}

/// An answer to a keep-alive.
///
/// # Errors
/// As [`page`].
pub fn kept_alive(text: &[u8]) -> Result<Line<LeaseAnswer>, String> {
    Ok(match line::<WireLease>(text)? {
        Line::Said(lease) => Line::Said(lease.into()),
        Line::Ended(code, words) => Line::Ended(code, words),
    })
}

/// One answer of a watch.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Watched {
    /// The watch stands; there are no events in it.
    pub created: bool,
    /// The watch is over.
    pub canceled: bool,
    /// Why, where etcd says it.
    pub reason: String,
    /// Where it is over because of a compaction: the oldest revision that is still known; otherwise 0.
    pub compact_revision: Revision,
    /// The rest follows in the next one.
    pub fragment: bool,
    /// In the order of their revisions.
    pub events: Vec<Event>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct WireWatched {
    created: bool,
    canceled: bool,
    cancel_reason: String,
    #[serde(deserialize_with = "number")]
    compact_revision: i64,
    fragment: bool,
    events: Vec<WireEvent>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct WireEvent {
    #[serde(rename = "type")]
    kind: WireKind,
    kv: WireKeyValue,
}

#[derive(Default, Deserialize)]
enum WireKind {
    #[default]
    #[serde(rename = "PUT")]
    Put,
    #[serde(rename = "DELETE")]
    Delete,
}

/// One line of a watch.
///
/// # Errors
/// As [`page`].
pub fn watched(text: &[u8]) -> Result<Line<Watched>, String> {
    let wire = match line::<WireWatched>(text)? {
        Line::Said(wire) => wire,
        Line::Ended(code, words) => return Ok(Line::Ended(code, words)),
    };
    let events = wire.events.into_iter().map(|event| match event.kind {
        WireKind::Put => Event::Put(event.kv.into()),
        WireKind::Delete => Event::Delete { key: event.kv.key, mod_revision: event.kv.mod_revision },
    });
    Ok(Line::Said(Watched {
        created: wire.created,
        canceled: wire.canceled,
        reason: wire.cancel_reason,
        compact_revision: wire.compact_revision,
        fragment: wire.fragment,
        events: events.collect(),
    }))
}

#[derive(Deserialize)]
struct WireToken {
    token: String,
}

/// An answer to a log-in: the token.
///
/// # Errors
/// As [`page`].
pub fn token(text: &[u8]) -> Result<String, String> {
    parsed::<WireToken>(text).map(|wire| wire.token)
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct WireRefusal {
    code: u32,
    message: String,
    error: Value,
}

/// The body of an answer that is an error: gRPC's code and words. `None` where it is none of etcd's.
#[must_use]
pub fn refusal(text: &[u8]) -> Option<(u32, String)> {
    let wire: WireRefusal = serde_json::from_slice(text).ok()?;
    let (code, words) = match wire.error {
        // A stream that fails before its first line: the same, one level down.
        Value::Object(_) => {
            let error: StreamError = serde_json::from_value(wire.error).ok()?;
            (error.grpc_code.max(error.code), error.message)
        }
        Value::String(words) if wire.message.is_empty() => (wire.code, words),
        _ => (wire.code, wire.message),
    };
    (code != 0).then_some((code, words))
}

fn parsed<T: for<'de> Deserialize<'de>>(text: &[u8]) -> Result<T, String> {
    serde_json::from_slice(text).map_err(|error| format!("not what etcd would say: {error}"))
}
