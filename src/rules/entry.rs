//! A rule as the control core keeps it: what the operator decreed, when, and who did. The cores get the part
//! that they need of it ([`RuleEntry::rule`]).

use super::schedule::{Schedule, Window};
use crate::json::Json;
use mailrace_shards::outcome::EnhancedCode;
use mailrace_shards::rules::{Answer, Kind, Rule, Scope};
use mailrace_shards::time::Timestamp;
use std::sync::Arc;

/// The collections that the dialects manage. Each lists only its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Collection {
    /// `/v1/pauses`.
    Pauses,
    /// `/v1/errors`.
    Errors,
    /// `/api/admin/suspend/v1`.
    Suspensions,
    /// `/api/admin/suspend-ready-q/v1`.
    PathSuspensions,
    /// `/api/admin/bounce/v1`.
    Bounces,
}

/// Who speaks to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// MailerQ's REST API v1.
    Mailerq,
    /// KumoMTA's admin API.
    Kumomta,
}

impl Dialect {
    /// As shown.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Mailerq => "mailerq",
            Self::Kumomta => "kumomta",
        }
    }
}

impl Collection {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Pauses, Self::Errors, Self::Suspensions, Self::PathSuspensions, Self::Bounces];

    /// As stored, and as the audit trail names it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pauses => "pause",
            Self::Errors => "error",
            Self::Suspensions => "suspension",
            Self::PathSuspensions => "path-suspension",
            Self::Bounces => "bounce",
        }
    }

    /// The dialect that it belongs to.
    #[must_use]
    pub fn dialect(self) -> Dialect {
        match self {
            Self::Pauses | Self::Errors => Dialect::Mailerq,
            Self::Suspensions | Self::PathSuspensions | Self::Bounces => Dialect::Kumomta,
        }
    }
}

/// What is done to the mail covered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decree {
    /// It waits (MailerQ).
    Pause,
    /// It is forced to end or to fail (MailerQ).
    Error(Verdict),
    /// It waits (KumoMTA).
    Suspend {
        /// Why; may be empty.
        reason: Arc<str>,
    },
    /// It ends (KumoMTA).
    Bounce {
        /// Why; may be empty.
        reason: Arc<str>,
        /// Without a log record.
        suppress_logging: bool,
    },
}

/// A code and its words.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Verdict {
    /// 200 to 599.
    pub code: u16,
    /// Enhanced status code.
    pub extended: Option<EnhancedCode>,
    /// Text.
    pub description: Option<Arc<str>>,
}

impl Verdict {
    /// As the cores record it.
    #[must_use]
    pub fn answer(&self) -> Answer {
        let text = self.description.clone().unwrap_or_else(|| "".into());
        Answer::new(self.code, self.extended, text).expect("the code was checked where the verdict was read")
    }
}

/// A rule to be made.
#[derive(Clone, Debug, PartialEq)]
pub struct Draft {
    /// Where it belongs.
    pub collection: Collection,
    /// What it covers.
    pub scope: Scope,
    /// What it does.
    pub decree: Decree,
    /// For the whole cluster, or for this instance only.
    pub cluster: bool,
    /// When.
    pub schedule: Schedule,
}

/// Who made a change, when and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Name of the token.
    pub token: Arc<str>,
    /// Address that the request came from.
    pub peer: Arc<str>,
    /// When.
    pub at: Timestamp,
    /// Name of the host that took the request.
    pub node: Arc<str>,
}

/// A rule that was made.
#[derive(Clone, Debug, PartialEq)]
pub struct RuleEntry {
    /// Names it, for ever.
    pub id: Arc<str>,
    /// Its place by age.
    pub order: u64,
    /// What was asked for.
    pub draft: Draft,
    /// Who asked; of one that was replaced under the same id, who asked last.
    pub origin: Origin,
    /// When it was first made.
    pub created: Timestamp,
}

impl Draft {
    /// What makes two rules of one collection the same. MailerQ's includes `cluster` [contract]; KumoMTA's is
    /// its criteria, and one for the whole cluster is another than one for this engine.
    #[must_use]
    pub fn identity(&self) -> String {
        identity(self.collection, &self.scope, self.cluster)
    }
}

/// The same, of the parts.
#[must_use]
pub fn identity(collection: Collection, scope: &Scope, cluster: bool) -> String {
    let mut scope = scope.clone();
    let mut queues: Vec<Arc<str>> = scope.queues.to_vec();
    queues.sort_unstable();
    queues.dedup();
    scope.queues = queues.into();
    let json = scope_json(&scope);
    match collection.dialect() {
        Dialect::Mailerq => json.with([("cluster", Some(cluster.into()))]).to_text(),
        Dialect::Kumomta => json.with([("cluster", cluster.then_some(true.into()))]).to_text(),
    }
}

impl RuleEntry {
    /// For the cores.
    #[must_use]
    pub fn rule(&self, now: Timestamp) -> Rule {
        Rule {
            id: self.id.clone(),
            order: self.order,
            kind: self.draft.decree.kind(),
            scope: self.draft.scope.clone(),
            validity: self.draft.schedule.validity(now),
            by: self.origin.token.clone(),
        }
    }

    /// As `GET /v1/rules` and the audit trail show it.
    #[must_use]
    pub fn to_json(&self) -> Json {
        let Origin { token, peer, at, node } = &self.origin;
        let origin = Json::object([
            ("token", Some(token.into())),
            ("peer", Some(peer.into())),
            ("time", Some(rfc3339(*at).into())),
            ("dialect", Some(self.draft.collection.dialect().as_str().into())),
            ("node", Some(node.into())),
        ]);
        self.draft
            .to_json(Some(&self.id))
            .with([("created", Some(rfc3339(self.created).into())), ("origin", Some(origin))])
    }
}

impl Draft {
    /// The same, without who made it.
    #[must_use]
    pub fn to_json(&self, id: Option<&Arc<str>>) -> Json {
        let schedule = &self.schedule;
        let validity = Json::object([
            ("start", schedule.start.map(|at| rfc3339(at).into())),
            ("end", schedule.end.map(|at| rfc3339(at).into())),
            ("windows", schedule.recurs().then(|| windows_json(&schedule.windows))),
        ]);
        Json::object([
            ("id", id.map(Json::from)),
            ("kind", Some(self.decree.kind().as_str().into())),
            ("scope", Some(scope_json(&self.scope))),
            ("cluster", Some(self.cluster.into())),
            ("action", Some(self.decree.to_json())),
            ("validity", Some(validity)),
        ])
    }
}

impl Decree {
    /// For the cores.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Pause => Kind::Pause,
            Self::Error(verdict) => Kind::Error(verdict.answer()),
            Self::Suspend { reason } => Kind::Suspension { reason: reason.clone() },
            Self::Bounce { reason, suppress_logging } => {
                // Code, status and words are KumoMTA's.
                let enhanced = EnhancedCode { class: 5, subject: 7, detail: 1 };
                let text = format!("Administrator bounced with reason: {reason}").into();
                let answer = Answer::new(551, Some(enhanced), text).expect("551 is between 200 and 599");
                Kind::Bounce { answer, suppress_logging: *suppress_logging }
            }
        }
    }

    /// As shown.
    #[must_use]
    pub fn to_json(&self) -> Json {
        match self {
            Self::Pause => Json::object([("do", Some("hold".into()))]),
            Self::Suspend { reason } => Json::object([("do", Some("hold".into())), ("reason", Some(reason.into()))]),
            Self::Error(verdict) => {
                let verb = match verdict.code {
                    500.. => "fail",
                    400..500 => "defer",
                    _ => "end",
                };
                Json::object([("do", Some(verb.into()))]).with(verdict.members())
            }
            Self::Bounce { reason, suppress_logging } => Json::object([
                ("do", Some("fail".into())),
                ("code", Some(551_u16.into())),
                ("extended", Some("5.7.1".into())),
                ("reason", Some(reason.into())),
                ("suppress_logging", suppress_logging.then_some(true.into())),
            ]),
        }
    }
}

impl Verdict {
    /// `code`, `extended`, `description` as members of an object.
    #[must_use]
    pub fn members(&self) -> [(&'static str, Option<Json>); 3] {
        [
            ("code", Some(self.code.into())),
            ("extended", self.extended.map(|extended| extended.to_string().into())),
            ("description", self.description.as_ref().map(Json::from)),
        ]
    }
}

/// A scope, unset fields left out. The order of the members is that of identities and never changes.
#[must_use]
pub fn scope_json(scope: &Scope) -> Json {
    let text = |text: &Option<Arc<str>>| text.as_ref().map(Json::from);
    let queues = || scope.queues.iter().map(Json::from).collect::<Vec<_>>();
    Json::object([
        ("pool", text(&scope.pool)),
        ("mta", scope.source_ip.map(|ip| ip.to_string().into())),
        ("domain", text(&scope.domain)),
        ("ip", scope.remote_ip.map(|ip| ip.to_string().into())),
        ("tag", text(&scope.tag)),
        ("campaign", text(&scope.campaign)),
        ("tenant", text(&scope.tenant)),
        ("routing_domain", text(&scope.routing_domain)),
        ("queue_names", (!scope.queues.is_empty()).then(|| queues().into())),
        ("path", text(&scope.path)),
        ("address", text(&scope.address)),
    ])
}

/// Windows as the native contract writes them.
#[must_use]
pub fn windows_json(windows: &[Window]) -> Json {
    Json::Array(windows.iter().map(Window::to_json).collect())
}

/// RFC 3339 in UTC, with milliseconds when there are any.
#[must_use]
pub fn rfc3339(at: Timestamp) -> String {
    jiff::Timestamp::from_millisecond(at.0).map_or_else(|_| at.0.to_string(), |at| at.to_string())
}
