//! KumoMTA's admin API: bodies to changes of rules, rules to answers, in its statuses and words.

pub mod bounce;
pub mod duration;
pub mod inject;
pub mod inspect;
pub mod rebind;
pub mod suspend;
pub mod suspend_ready_q;

use super::common::Common;
use super::desk::{Ask, Desk, Made, dry_run, pending, refusal};
use super::fields::{Fields, Wrong};
use crate::http::{Refusal, Response, media};
use crate::json::{self, Json};
use crate::rules::change::{Changed, Request as Change};
use crate::rules::entry::{Collection, Decree, Draft, RuleEntry, rfc3339, windows_json};
use crate::rules::preview::Matched;
use mailrace_shards::limits::RULE_QUEUES_MAX;
use mailrace_shards::rules::Scope;
use mailrace_shards::time::Timestamp;
use std::sync::Arc;
use std::time::Duration;

/// How long a rule lasts when nobody says.
const DEFAULT_DURATION: Duration = Duration::from_secs(300);

/// The last moment that RFC 3339 can write.
const LAST_MOMENT: Timestamp = Timestamp(253_402_300_799_999);

/// Octets of the name of a queue.
const QUEUE_BYTES_MAX: usize = 1024;

/// What this dialect says of a body of the wrong shape.
fn wrong_shape(wrong: Wrong) -> Refusal {
    let text = format!("Failed to deserialize the JSON body into the target type: {wrong}");
    match wrong.field() {
        Some(field) => Refusal::of_field(422, field.to_owned(), text),
        None => Refusal::new(422, text),
    }
}

async fn fields(ask: &mut Ask<'_>) -> Result<Fields, Refusal> {
    media::require_json(&ask.request.head.headers)?;
    let body = ask.body().await?;
    let json = json::parse(&body).map_err(|error| {
        let text = error.to_string();
        // A member twice is well-formed JSON that cannot be taken.
        if text.starts_with("duplicate field") {
            return wrong_shape(Wrong::Shape(text));
        }
        Refusal::new(400, format!("Failed to parse the request body as JSON: {text}"))
    })?;
    Fields::of_json(json).map_err(wrong_shape)
}

/// `reason`, which must be there and may be empty.
fn reason(fields: &Fields) -> Result<Arc<str>, Wrong> {
    fields.prose("reason")?.ok_or(Wrong::Missing("reason"))
}

/// What a suspension or a bounce covers. With names of queues, campaign, tenant and domain say nothing.
fn criteria(fields: &Fields) -> Result<Scope, Wrong> {
    let queues = queue_names(fields)?;
    let scope = Scope {
        campaign: fields.word("campaign")?,
        tenant: fields.word("tenant")?,
        domain: fields.domain("domain")?,
        routing_domain: fields.domain("routing_domain")?,
        ..Scope::default()
    };
    if queues.is_empty() {
        return Ok(scope);
    }
    Ok(Scope { routing_domain: scope.routing_domain, queues: queues.into(), ..Scope::default() })
}

fn queue_names(fields: &Fields) -> Result<Vec<Arc<str>>, Wrong> {
    let wrong = |why: &str| Wrong::Value("queue_names", why.to_owned());
    let names = match fields.raw("queue_names") {
        None => return Ok(Vec::new()),
        Some(Json::Array(names)) => names,
        Some(_) => return Err(wrong("must be an array of strings")),
    };
    if names.len() > RULE_QUEUES_MAX {
        return Err(Wrong::Value("queue_names", format!("are more than {RULE_QUEUES_MAX}")));
    }
    let mut queues: Vec<Arc<str>> = Vec::with_capacity(names.len());
    let mut seen = std::collections::HashSet::with_capacity(names.len());
    for name in names {
        match name.text() {
            Some(name) if !name.is_empty() && name.len() <= QUEUE_BYTES_MAX => {
                if seen.insert(name) {
                    queues.push(name.into());
                }
            }
            Some(_) => return Err(wrong("holds a name that is empty or too long")),
            None => return Err(wrong("must be an array of strings")),
        }
    }
    Ok(queues)
}

/// When it ends: `expires`, which may be past, or else so long after its beginning.
fn end(fields: &Fields, common: &Common, now: Timestamp) -> Result<Timestamp, Wrong> {
    let duration = match fields.raw("duration") {
        None | Some(Json::Null) => DEFAULT_DURATION,
        Some(json) => duration::read(json).map_err(|why| Wrong::Value("duration", why))?,
    };
    let expires = fields.parsed("expires", |text| {
        let moment = text.parse::<jiff::Timestamp>();
        moment.map_err(|_| "is no RFC 3339 time with an offset".to_owned())
    })?;
    if let Some(expires) = expires {
        let end = Timestamp(expires.as_millisecond());
        if common.begins_after(end) {
            return Err(Wrong::Value("expires", "is not after `start`".to_owned()));
        }
        return Ok(end);
    }
    let end = common.begin(now).after(duration);
    if common.begins_after(end) {
        return Err(Wrong::Value("duration", "is nothing: the rule would end at its `start`".to_owned()));
    }
    if end > LAST_MOMENT {
        return Err(Wrong::Value("duration", "is no duration: it ends after the year 9999".to_owned()));
    }
    Ok(end)
}

/// Makes a rule; the answer before what only some of these rules answer.
async fn make(
    desk: &Desk,
    ask: &Ask<'_>,
    fields: &Fields,
    (collection, scope, decree): (Collection, Scope, Decree),
) -> Result<Made, Refusal> {
    let now = (desk.clock)().utc;
    let draft = || -> Result<(Draft, bool), Wrong> {
        let common = Common::read(fields)?;
        let end = end(fields, &common, now)?;
        fields.finish()?;
        if collection == Collection::Bounces && scope == Scope::default() && !common.everything {
            let why = "must be true for a bounce without any criterion: it would end all mail".to_owned();
            return Err(Wrong::Value("everything", why));
        }
        let schedule = common.schedule(Some(end));
        Ok((Draft { collection, scope: scope.clone(), decree, cluster: common.cluster, schedule }, common.dry_run))
    };
    let (draft, dry) = draft().map_err(wrong_shape)?;
    let dry = dry_run(ask)? || dry;
    desk.make(&ask.by, draft, dry).await
}

fn made(changed: &Changed, matched: &Matched) -> Json {
    Json::object([
        ("id", changed.entry.as_ref().map(|entry| Json::from(&entry.id))),
        ("matched", Some(matched.matched.into())),
        ("in_flight", Some(matched.in_flight.into())),
        ("counting", matched.counting.then_some(true.into())),
        ("pending", pending(&changed.pending)),
    ])
}

/// Removes a rule by its id. `what` is how this dialect names it.
async fn remove(desk: &Desk, mut ask: Ask<'_>, collection: Collection, what: &str) -> Result<Response, Refusal> {
    ask.query(&[])?;
    let fields = fields(&mut ask).await?;
    let read = || -> Result<(String, Option<bool>), Wrong> {
        let id = fields.word("id")?.ok_or(Wrong::Missing("id"))?;
        let id = uuid::Uuid::parse_str(&id).map_err(|error| Wrong::Value("id", format!("is no UUID: {error}")))?;
        Ok((id.to_string(), fields.boolean("cluster")?))
    };
    let (id, cluster) = read().map_err(wrong_shape)?;
    let not_found = || Refusal::new(404, format!("{what} entry {id} not found"));
    if let Some(cluster) = cluster {
        // Whoever says for whom the rule is means no other.
        let wanted = id.clone();
        let known = desk.authority.read(move |store| store.rule(&wanted)).await.map_err(refusal)?;
        if known.is_some_and(|known| known.draft.cluster != cluster) {
            return Err(not_found());
        }
    }
    let changed = desk.change(&ask.by, Change::RemoveId(Some(collection), id.as_str().into())).await?;
    if changed.removed == 0 {
        return Err(not_found());
    }
    let text = match &*changed.pending {
        [] => format!("removed {id}"),
        nodes => format!("removed {id}; pending on {}", nodes.join(", ")),
    };
    Ok(Response::text(200, text))
}

/// The members that suspensions and bounces have in common; what is not set is null.
fn shown(entry: &RuleEntry, now: Timestamp) -> Json {
    let scope = &entry.draft.scope;
    let text = |text: &Option<Arc<str>>| Some(text.as_ref().map_or(Json::Null, Json::from));
    Json::object([
        ("id", Some(Json::from(&entry.id))),
        ("campaign", text(&scope.campaign)),
        ("tenant", text(&scope.tenant)),
        ("domain", text(&scope.domain)),
        ("routing_domain", text(&scope.routing_domain)),
        ("queue_names", Some(Json::Array(scope.queues.iter().map(Json::from).collect()))),
    ])
    .with(timing(entry, now))
}

/// `reason`, `duration` (what is left) and what is ours.
fn timing(entry: &RuleEntry, now: Timestamp) -> Vec<(&'static str, Option<Json>)> {
    let draft = &entry.draft;
    let reason = match &draft.decree {
        Decree::Suspend { reason } | Decree::Bounce { reason, .. } => Some(Json::from(reason)),
        Decree::Pause | Decree::Error(_) => None,
    };
    let schedule = &draft.schedule;
    let end = schedule.end.unwrap_or(LAST_MOMENT);
    vec![
        ("reason", reason),
        ("duration", Some(duration::remaining(end, now).into())),
        ("expires", Some(rfc3339(end).into())),
        ("created", Some(rfc3339(entry.created).into())),
        ("cluster", Some(draft.cluster.into())),
        ("start", schedule.start.map(|start| rfc3339(start).into())),
        ("windows", schedule.recurs().then(|| windows_json(&schedule.windows))),
    ]
}
