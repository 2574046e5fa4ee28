//! From what was typed to a request of the REST API. Asks nobody; what the server knows better (domains, addresses,
//! which fields go together) is left to it.

use super::arguments::{
    BounceAction, ClientCommand, ClusterAction, Common, Criteria, ErrorAction, MessageAction, PauseAction, Queues,
    RemoveByCriteria, SuppressAction, SuspendAction, Time, Verdict,
};
use mailrace_shards::time::Timestamp;
use serde_json::{Map, Value, json};
use std::fmt::Write as _;
use std::time::Duration;

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    Get,
    Post,
    Delete,
}

impl Method {
    /// As HTTP writes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Delete => "DELETE",
        }
    }
}

/// One request.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// What is done.
    pub method: Method,
    /// Encoded, without the query.
    pub path: String,
    /// Not encoded.
    pub query: Vec<(&'static str, String)>,
    /// JSON.
    pub body: Option<Value>,
}

impl Request {
    /// Without query and body.
    #[must_use]
    pub fn new(method: Method, path: impl Into<String>) -> Self {
        Self { method, path: path.into(), query: Vec::new(), body: None }
    }

    /// With a body.
    #[must_use]
    pub fn with(method: Method, path: impl Into<String>, body: Value) -> Self {
        Self { body: Some(body), ..Self::new(method, path) }
    }

    /// Path and query.
    #[must_use]
    pub fn target(&self) -> String {
        let mut target = self.path.clone();
        for (index, (name, value)) in self.query.iter().enumerate() {
            target.push(if index == 0 { '?' } else { '&' });
            target.push_str(name);
            target.push('=');
            target.push_str(&encoded(value));
        }
        target
    }

    fn and(mut self, name: &'static str, value: Option<impl ToString>) -> Self {
        self.query.extend(value.map(|value| (name, value.to_string())));
        self
    }

    fn dry(self, dry_run: bool) -> Self {
        self.and("dry_run", dry_run.then_some(true))
    }
}

/// Every octet but the unreserved of RFC 3986 section 2.3 as an escape.
fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for octet in text.bytes() {
        if octet.is_ascii_alphanumeric() || b"-._~".contains(&octet) {
            out.push(char::from(octet));
        } else {
            let written = write!(out, "%{octet:02X}");
            debug_assert!(written.is_ok(), "a String takes all");
        }
    }
    out
}

/// The request of a command. `None` for those that stream a file, which is the import and the export.
#[must_use]
pub fn request(command: &ClientCommand, now: Timestamp) -> Option<Request> {
    use Method::{Get, Post};
    Some(match command {
        ClientCommand::Pause(asking) => pause(&asking.action, now),
        ClientCommand::Error(asking) => error(&asking.action, now),
        ClientCommand::Suppress(asking) => return suppress(&asking.action),
        ClientCommand::Suspend(asking) => suspend(&asking.action),
        ClientCommand::Bounce(asking) => bounce(&asking.action),
        ClientCommand::Queue { limit, .. } => Request::new(Get, "/v1/queues").and("limit", *limit),
        ClientCommand::Message { id, action, .. } => {
            let path = format!("/v1/messages/{}", encoded(id));
            match action {
                None => Request::new(Get, path),
                Some(MessageAction::Retry) => Request::new(Post, path + "/retry"),
                Some(MessageAction::Cancel) => Request::new(Post, path + "/cancel"),
            }
        }
        ClientCommand::Rules { id: None, .. } => Request::new(Get, "/v1/rules"),
        ClientCommand::Rules { id: Some(id), .. } => Request::new(Get, format!("/v1/rules/{}", encoded(id))),
        ClientCommand::Cluster { action: None, .. } => Request::new(Get, "/v1/cluster"),
        ClientCommand::Cluster { action: Some(ClusterAction::Forget { node }), .. } => {
            Request::new(Method::Delete, format!("/v1/cluster/nodes/{}", encoded(node)))
        }
        ClientCommand::Audit { after, limit, .. } => {
            Request::new(Get, "/v1/audit").and("after", *after).and("limit", *limit)
        }
    })
}

/// An object of those members that are set.
fn object<const N: usize>(members: [(&str, Option<Value>); N]) -> Map<String, Value> {
    members.into_iter().filter_map(|(name, value)| value.map(|value| (name.to_owned(), value))).collect()
}

fn text(text: Option<&String>) -> Option<Value> {
    text.map(|text| Value::from(text.as_str()))
}

fn flag(set: bool) -> Option<Value> {
    set.then_some(Value::Bool(true))
}

fn rfc3339(milliseconds: i64) -> Value {
    jiff::Timestamp::from_millisecond(milliseconds)
        .map_or_else(|_| Value::from(milliseconds / 1000), |at| Value::from(at.to_string()))
}

impl Criteria {
    fn members(&self) -> Map<String, Value> {
        object([
            ("domain", text(self.domain.as_ref())),
            ("ip", text(self.ip.as_ref())),
            ("mta", text(self.mta.as_ref())),
            ("pool", text(self.pool.as_ref())),
            ("tag", text(self.tag.as_ref())),
        ])
    }
}

impl Queues {
    fn members(&self) -> Map<String, Value> {
        object([
            ("campaign", text(self.campaign.as_ref())),
            ("tenant", text(self.tenant.as_ref())),
            ("domain", text(self.domain.as_ref())),
            ("routing_domain", text(self.routing_domain.as_ref())),
            ("queue_names", (!self.queue.is_empty()).then(|| json!(self.queue))),
        ])
    }
}

impl Verdict {
    pub(super) fn members(&self) -> Map<String, Value> {
        object([
            ("code", Some(self.code.into())),
            ("extended", text(self.extended.as_ref())),
            ("description", text(self.description.as_ref())),
        ])
    }
}

impl Time {
    /// MailerQ's dialect knows an end, not a duration: counted from the beginning, as KumoMTA's does.
    fn with_expire(&self, now: Timestamp) -> Map<String, Value> {
        let begin = self.start.map_or(now.0, |start| start.max(now.0));
        let milliseconds = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let lasts = self.duration.map(|duration| begin.saturating_add_unsigned(milliseconds(duration)));
        let mut members = self.common();
        members.extend(object([("expire", self.until.or(lasts).map(rfc3339))]));
        members
    }

    /// KumoMTA's dialect knows both.
    fn with_duration(&self) -> Map<String, Value> {
        let duration = self.duration.map(|duration| humantime::format_duration(duration).to_string().into());
        let mut members = self.common();
        members.extend(object([("duration", duration), ("expires", self.until.map(rfc3339))]));
        members
    }

    fn common(&self) -> Map<String, Value> {
        let windows = (!self.window.is_empty()).then(|| Value::from(self.window.clone()));
        object([("start", self.start.map(rfc3339)), ("windows", windows)])
    }
}

/// A POST that makes a rule.
fn make<const N: usize>(path: &str, parts: [Map<String, Value>; N], common: &Common) -> Request {
    let mut body: Map<String, Value> = parts.into_iter().flatten().collect();
    body.extend(object([("cluster", flag(common.cluster))]));
    Request::with(Method::Post, path, body.into()).dry(common.dry_run)
}

fn pause(action: &PauseAction, now: Timestamp) -> Request {
    const PATH: &str = "/v1/pauses";
    match action {
        PauseAction::Add { criteria, time, common } => make(PATH, [criteria.members(), time.with_expire(now)], common),
        PauseAction::List => Request::new(Method::Get, PATH),
        PauseAction::Remove(which) => remove_by_criteria(PATH, "pause", which),
    }
}

fn error(action: &ErrorAction, now: Timestamp) -> Request {
    const PATH: &str = "/v1/errors";
    match action {
        ErrorAction::Add { criteria, verdict, time, common, everything } => {
            let everything = object([("everything", flag(*everything))]);
            make(PATH, [criteria.members(), verdict.members(), time.with_expire(now), everything], common)
        }
        ErrorAction::List => Request::new(Method::Get, PATH),
        ErrorAction::Remove(which) => remove_by_criteria(PATH, "error", which),
    }
}

fn remove_by_criteria(path: &str, kind: &str, which: &RemoveByCriteria) -> Request {
    if let Some(id) = &which.id {
        // An id of something else than was named is a mistake.
        return Request::new(Method::Delete, format!("/v1/rules/{}", encoded(id))).and("kind", Some(kind));
    }
    let mut body = which.criteria.members();
    body.extend(object([("cluster", flag(which.cluster))]));
    Request::with(Method::Delete, path, body.into())
}

/// Where suppressions are.
pub(super) const SUPPRESSIONS: &str = "/v1/suppressions";

/// What an entry's value is.
pub(super) fn type_of(value: &str) -> &'static str {
    if value.contains('@') { "address" } else { "domain" }
}

fn suppress(action: &SuppressAction) -> Option<Request> {
    Some(match action {
        SuppressAction::Add { value, verdict, dry_run } => {
            let mut body = verdict.members();
            body.extend(object([("type", Some(type_of(value).into())), ("value", Some(value.as_str().into()))]));
            Request::with(Method::Post, SUPPRESSIONS, body.into()).dry(*dry_run)
        }
        SuppressAction::List { after, limit } => {
            Request::new(Method::Get, SUPPRESSIONS).and("after", after.as_ref()).and("limit", *limit)
        }
        SuppressAction::Remove { value } => {
            Request::with(Method::Delete, SUPPRESSIONS, json!({ "type": type_of(value), "value": value }))
        }
        SuppressAction::Import { .. } | SuppressAction::Export { .. } => return None,
    })
}

fn suspend(action: &SuspendAction) -> Request {
    let path = |of_paths| if of_paths { "/api/admin/suspend-ready-q/v1" } else { "/api/admin/suspend/v1" };
    match action {
        SuspendAction::Add { queues, ready_queue, reason, time, common } => {
            let own = object([("name", text(ready_queue.as_ref())), ("reason", Some(reason.as_str().into()))]);
            make(path(ready_queue.is_some()), [queues.members(), own, time.with_duration()], common)
        }
        SuspendAction::List { ready_queue } => Request::new(Method::Get, path(*ready_queue)),
        SuspendAction::Remove { id, ready_queue } => {
            Request::with(Method::Delete, path(*ready_queue), json!({ "id": id }))
        }
    }
}

fn bounce(action: &BounceAction) -> Request {
    const PATH: &str = "/api/admin/bounce/v1";
    match action {
        BounceAction::Add { queues, reason, suppress_logging, time, common, everything } => {
            let own = object([
                ("reason", Some(reason.as_str().into())),
                ("suppress_logging", flag(*suppress_logging)),
                ("everything", flag(*everything)),
            ]);
            make(PATH, [queues.members(), own, time.with_duration()], common)
        }
        BounceAction::List => Request::new(Method::Get, PATH),
        BounceAction::Remove { id } => Request::with(Method::Delete, PATH, json!({ "id": id })),
    }
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
