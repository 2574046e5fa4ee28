//! What the handlers of rules have in common: where they ask, how a change is made and answered, and how lists of any
//! length are sent.

use super::Identity;
use super::fields::{Fields, truth};
use crate::cluster::Cluster;
use crate::http::{Chunk, Refusal, Request, Response, Stream, Waiting};
use crate::json::{self, Json};
use crate::rules::authority::{Authority, Failure};
use crate::rules::change::{Changed, Request as Change};
use crate::rules::entry::{Draft, Origin, RuleEntry};
use crate::rules::preview::{Census, Matched};
use crate::rules::store::Store;
use crate::users::random;
use futures_lite::future::zip;
use mailrace_shards::rules::Rule;
use mailrace_shards::runtime::control::Control;
use mailrace_shards::settings::Settings;
use mailrace_shards::time::{Now, Timestamp};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

/// Entries of a list that are in memory at a time.
pub const PAGE: u32 = 500;

/// A dry run is answered with what is counted by then, which the cores bound.
pub const COUNTED_WITHIN: Duration = Duration::from_secs(5);

/// How soon a client should try again what cannot be done now.
const RETRY_SECONDS: u32 = 1;

/// Where rules are changed and asked for. Belongs to the control core.
pub struct Desk {
    /// The authoritative set.
    pub authority: Authority,
    /// What the cores know.
    pub census: Box<dyn Census>,
    /// The configuration's pools.
    pub configured: Configured,
    /// Both clocks.
    pub clock: fn() -> Now,
    /// The cluster, when this engine is in one, and how the control core waits for it.
    pub cluster: Option<(Cluster, Control)>,
}

/// Who asks, and how long they wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Who asks.
    pub identity: Identity,
    /// They are answered when a change is in force on this engine (`?wait=local`), or else when it is on every engine
    /// of the cluster that may be delivering.
    pub local: bool,
}

impl Caller {
    /// What the query of a change says of it.
    ///
    /// # Errors
    /// 400 for anything but `local` and `all`.
    pub fn of(identity: Identity, request: &Request) -> Result<Self, Refusal> {
        if !request.changes() {
            return Ok(Self { identity, local: false });
        }
        let query = request.query()?;
        let local = match query.get("wait") {
            None | Some("all") => false,
            Some("local") => true,
            Some(_) => {
                return Err(Refusal::of_field(
                    400,
                    "wait",
                    "Failed to deserialize query string: `wait` must be all or local",
                ));
            }
        };
        Ok(Self { identity, local })
    }
}

/// The pools of the configuration file, which the API does not change. Replaced as a whole by a reload.
#[derive(Clone, Debug, Default)]
pub struct Configured(Arc<RwLock<Arc<ConfiguredPools>>>);

/// See [`Configured`].
#[derive(Clone, Debug, Default)]
pub struct ConfiguredPools {
    /// The file, as messages name it.
    pub file: String,
    /// Each pool with the addresses of its sources.
    pub pools: Vec<(Arc<str>, Vec<IpAddr>)>,
}

impl Configured {
    /// What is configured now.
    #[must_use]
    pub fn current(&self) -> Arc<ConfiguredPools> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes them from settings that were read from `file`.
    pub fn set(&self, file: &str, settings: &Settings) {
        let of_pool = |sources: &[(usize, u32)]| {
            let sources = sources.iter().filter_map(|(index, _)| settings.sources.get(*index));
            let addresses = sources.flat_map(|source| {
                [source.address.map(IpAddr::V4), source.address_v6.map(IpAddr::V6)].into_iter().flatten()
            });
            addresses.collect()
        };
        let pools = settings.pools.iter().map(|pool| (pool.name.clone(), of_pool(&pool.sources))).collect();
        let pools = ConfiguredPools { file: file.to_owned(), pools };
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(pools);
    }
}

/// One request, as a handler here gets it.
pub struct Ask<'a> {
    /// Who asks.
    pub by: Caller,
    /// What stood in the path.
    pub parameters: Vec<String>,
    /// The request.
    pub request: &'a mut Request,
    /// Octets of its body at most.
    pub body_max: usize,
}

impl Ask<'_> {
    /// The query's fields, of which there may be these; where something is changed, `wait`, too.
    ///
    /// # Errors
    /// 400 for any other: a mistyped `dry_run` must not make the rule.
    pub fn query(&self, known: &[&str]) -> Result<crate::http::form::Fields, Refusal> {
        if self.request.changes() {
            return self.request.query_of(&[known, &["wait"]].concat());
        }
        self.request.query_of(known)
    }

    /// A whole number in the query.
    pub fn query_number(query: &crate::http::form::Fields, name: &'static str) -> Result<Option<u64>, Refusal> {
        let Some(text) = query.get(name) else { return Ok(None) };
        let number = text.parse().ok().filter(|_| text.bytes().all(|b| b.is_ascii_digit()));
        let text = || format!("Failed to deserialize query string: `{name}` must be a whole number");
        number.map(Some).ok_or_else(|| Refusal::of_field(400, name, text()))
    }

    /// The whole body.
    pub async fn body(&mut self) -> Result<Vec<u8>, Refusal> {
        self.request.body.collect(self.body_max).await
    }
}

/// A body that is to be JSON.
///
/// # Errors
/// 400, with what is wrong with it.
pub fn json_body(body: &[u8]) -> Result<Json, Refusal> {
    json::parse(body).map_err(|error| Refusal::new(400, format!("the body is no JSON: {error}")))
}

/// That a body asks for nothing: there is none, or it is JSON without a member.
///
/// # Errors
/// 400 for any field: nobody shall believe that it was heeded.
pub async fn no_fields(request: &mut Request, body_max: usize) -> Result<(), Refusal> {
    let body = request.body.collect(body_max).await?;
    if body.trim_ascii().is_empty() {
        return Ok(());
    }
    let json = json_body(&body)?;
    if json == Json::Null {
        return Ok(());
    }
    Ok(Fields::of_json(json)?.finish()?)
}

/// Whether the query asks for a dry run.
pub fn dry_run(ask: &Ask<'_>) -> Result<bool, Refusal> {
    let query = ask.query(&["dry_run"])?;
    let Some(text) = query.get("dry_run") else { return Ok(false) };
    let why = "Failed to deserialize query string: `dry_run` must be true or false";
    truth(text).ok_or_else(|| Refusal::of_field(400, "dry_run", why))
}

/// A rule was made, or only thought of.
pub enum Made {
    /// The answer to a dry run.
    Thought(Response),
    /// It is in force.
    Rule(Box<Changed>, Matched),
}

impl Desk {
    /// Who makes a change, and when.
    #[must_use]
    pub fn origin(&self, by: &Caller) -> Origin {
        let node = self.authority.node().clone();
        let Identity { name, peer, .. } = &by.identity;
        Origin { token: name.clone(), peer: peer.ip().to_string().into(), at: (self.clock)().utc, node }
    }

    /// Makes a rule, or says what it would do.
    pub async fn make(&self, by: &Caller, draft: Draft, dry_run: bool) -> Result<Made, Refusal> {
        let now = (self.clock)().utc;
        if dry_run {
            let matched = self.census.matched(&thought(&draft, now), COUNTED_WITHIN).await;
            return Ok(Made::Thought(Response::json(200, &matched.to_json())));
        }
        let (id, rule) = (new_id(now), thought(&draft, now));
        let change = Change::Put { id, draft: Box::new(draft) };
        let (changed, matched) = self.change_counted(by, change, &rule).await?;
        Ok(Made::Rule(Box::new(changed), matched))
    }

    /// Makes a change that puts a rule in force, and counts what that covers.
    pub async fn change_counted(
        &self,
        by: &Caller,
        change: Change,
        rule: &Rule,
    ) -> Result<(Changed, Matched), Refusal> {
        if rule.kind.record().is_none() {
            let changed = self.change(by, change).await?;
            return Ok((changed, self.census.matched(rule, glance(rule)).await));
        }
        // What such a rule covers may have ended before it can be counted, so that is counted meanwhile.
        let (before, changed) = zip(self.census.matched(rule, glance(rule)), self.change(by, change)).await;
        let changed = changed?;
        let after = self.census.matched(rule, glance(rule)).await;
        let counting = before.counting || after.counting;
        let (matched, queues) = if before.matched >= after.matched {
            (before.matched, before.queues)
        } else {
            (after.matched, after.queues)
        };
        Ok((changed, Matched { matched, counting, queues, ..after }))
    }

    /// Makes a change; returns when it is on disk and in force.
    pub async fn change(&self, by: &Caller, change: Change) -> Result<Changed, Refusal> {
        let origin = self.origin(by);
        if let Some((cluster, control)) = &self.cluster
            && self.is_shared(&change).await?
        {
            return cluster.change(control, change, origin, by.local).await.map_err(refusal);
        }
        self.authority.change(change, origin).await.map_err(refusal)
    }

    /// Whether a change is one of the whole cluster.
    async fn is_shared(&self, change: &Change) -> Result<bool, Refusal> {
        let Change::RemoveId(collection, id) = change else { return Ok(Cluster::concerns(change)) };
        let (collection, id) = (*collection, id.clone());
        let known = self.authority.read(move |store| store.known_rule_by_id(collection, &id)).await;
        // One that is not known here may have been made elsewhere a moment ago: the cluster knows. One that was made
        // before this engine was in a cluster and is not in etcd yet ends here.
        Ok(known.map_err(refusal)?.is_none_or(|known| known.entry.draft.cluster && known.revision > 0))
    }
}

/// Nodes that have not applied a change for which nobody waited; nothing when there are none.
#[must_use]
pub fn pending<'a>(nodes: impl IntoIterator<Item = &'a Arc<str>>) -> Option<Json> {
    let nodes = nodes.into_iter().map(Json::from).collect::<Vec<Json>>();
    (!nodes.is_empty()).then(|| nodes.into())
}

/// How long the answer of a call that made a rule waits for the figure of what it covers. Of whole queues the cores
/// know their sizes; of the rest some is counted. The call is to answer in no time, however deep the queue.
fn glance(rule: &Rule) -> Duration {
    let by_message = rule.scope.tag.is_some() || rule.scope.address.is_some();
    if by_message { Duration::from_millis(50) } else { Duration::ZERO }
}

/// A rule that is not made.
fn thought(draft: &Draft, now: Timestamp) -> Rule {
    Rule {
        id: "".into(),
        order: u64::MAX,
        kind: draft.decree.kind(),
        scope: draft.scope.clone(),
        validity: draft.schedule.validity(now),
        by: "".into(),
    }
}

/// A new id: a UUID of version 7, so that ids sort by age.
fn new_id(now: Timestamp) -> Arc<str> {
    let millis = u64::try_from(now.0).unwrap_or(0);
    uuid::Builder::from_unix_timestamp_millis(millis, &random()).into_uuid().to_string().into()
}

/// Why a change was not made, or is not in force.
pub fn refusal(failure: Failure) -> Refusal {
    match failure {
        Failure::Refused(refused) if refused.field.is_empty() => Refusal::unavailable(refused.text, RETRY_SECONDS),
        Failure::Refused(refused) => Refusal::of_field(400, refused.field, refused.text),
        Failure::Unavailable(why) => Refusal::unavailable(why, RETRY_SECONDS),
        Failure::Late(cores, changed) => {
            let what = match &changed.entry {
                Some(entry) => format!("rule {} is stored", entry.id),
                None => "the change is stored".to_owned(),
            };
            let cores: Vec<String> = cores.iter().map(u16::to_string).collect();
            let text = format!(
                "{what}, but not yet in force on shard {}; it will be as soon as that answers",
                cores.join(", ")
            );
            Refusal::unavailable(text, RETRY_SECONDS)
        }
        Failure::Pending(nodes, changed) => {
            let what = match &changed.entry {
                Some(entry) => format!("rule {} is stored", entry.id),
                None => "the change is stored".to_owned(),
            };
            let text = format!(
                "{what}, but not yet in force on {}; it will be as soon as they answer. Whoever never will is let go by \
                 `mailrace cluster forget NODE`",
                nodes.join(", ")
            );
            Refusal { pending: nodes, ..Refusal::unavailable(text, RETRY_SECONDS) }
        }
    }
}

/// How a list is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One JSON array.
    Array,
    /// JSON lines.
    Lines,
}

/// Where the entries of a list come from, page by page.
pub trait Pages: 'static {
    /// The next entries, and whether there are more.
    fn next(&mut self) -> Waiting<'_, Result<(Vec<Json>, bool), Failure>>;
}

/// Sends a list: as a whole if it is short, else while it is read.
pub async fn send(mut pages: impl Pages, format: Format) -> Result<Response, Refusal> {
    let content_type = match format {
        Format::Array => "application/json",
        Format::Lines => "application/x-ndjson",
    };
    let (first, more) = pages.next().await.map_err(refusal)?;
    let mut list = List { pages, format, more, begun: false, ahead: Some(first) };
    if more {
        return Ok(Response::stream(200, content_type, Box::new(list)));
    }
    let mut body = list.write();
    body.extend(list.close());
    Ok(Response::full(200, content_type, body))
}

struct List<P> {
    pages: P,
    format: Format,
    more: bool,
    /// Something has been written.
    begun: bool,
    /// Read, not yet written.
    ahead: Option<Vec<Json>>,
}

impl<P> List<P> {
    fn write(&mut self) -> Vec<u8> {
        let mut octets = Vec::new();
        for entry in self.ahead.take().unwrap_or_default() {
            if self.format == Format::Array {
                octets.push(if self.begun { b',' } else { b'[' });
            }
            self.begun = true;
            octets.extend_from_slice(entry.to_text().as_bytes());
            if self.format == Format::Lines {
                octets.push(b'\n');
            }
        }
        octets
    }

    fn close(&self) -> &'static [u8] {
        match (self.format, self.begun) {
            (Format::Array, true) => b"]",
            (Format::Array, false) => b"[]",
            (Format::Lines, _) => b"",
        }
    }
}

impl<P: Pages> Stream for List<P> {
    fn next(&mut self) -> Waiting<'_, Chunk> {
        Box::pin(async {
            if self.ahead.is_none() {
                if !self.more {
                    return Chunk::End;
                }
                match self.pages.next().await {
                    Ok((entries, more)) => (self.ahead, self.more) = (Some(entries), more),
                    Err(failure) => return Chunk::Broken(refusal(failure).to_string()),
                }
            }
            let mut octets = self.write();
            if !self.more {
                octets.extend_from_slice(self.close());
            }
            Chunk::Octets(octets)
        })
    }
}

/// How one rule is shown in one dialect.
pub type Show = fn(&RuleEntry, &crate::rules::preview::RuleCounts, Timestamp) -> Json;

/// The rules of a collection, or of all.
pub struct RulePages {
    /// Where to ask.
    pub desk: Rc<Desk>,
    /// Which; all when none is named.
    pub collection: Option<crate::rules::entry::Collection>,
    /// The last one sent.
    pub after: u64,
    /// How to show them.
    pub show: Show,
}

impl Pages for RulePages {
    fn next(&mut self) -> Waiting<'_, Result<(Vec<Json>, bool), Failure>> {
        Box::pin(async {
            let (collection, after) = (self.collection, self.after);
            let read = move |store: &Store| {
                let page = store.rules(collection, after, PAGE)?;
                let before = store.ended_before(&page)?;
                Ok((page, before))
            };
            let (page, before) = self.desk.authority.read(read).await?;
            self.after = page.last().map_or(self.after, |last| last.order);
            let more = page.len() == PAGE as usize;
            let ids: Vec<Arc<str>> = page.iter().map(|entry| entry.id.clone()).collect();
            let mut counts = self.desk.census.rule_counts(&ids).await;
            for (id, before) in before {
                counts.entry(id).or_default().add_before(&before);
            }
            let now = (self.desk.clock)().utc;
            // What holds all mail of this engine is no rule of a dialect.
            let is_first = collection.is_none() && after == 0;
            let fence = self.desk.cluster.as_ref().filter(|_| is_first).and_then(|(cluster, _)| cluster.fence());
            let open = page.iter().filter(|entry| !entry.draft.schedule.ended(now)).chain(&fence);
            let shown = open.map(|entry| (self.show)(entry, &counts.get(&entry.id).cloned().unwrap_or_default(), now));
            Ok((shown.collect(), more))
        })
    }
}

#[cfg(test)]
#[path = "desk_tests.rs"]
mod tests;
