//! MailerQ's REST API v1: bodies to changes of rules, rules to answers. See `contracts` in the README for what is
//! documented there and what is ours.

pub mod errors;
pub mod external_mtas;
pub mod inject;
pub mod pauses;
pub mod pools;
pub mod suppressions;

use super::common::Common;
use super::desk::{Ask, Desk, Made, dry_run, json_body, pending};
use super::fields::{Fields, Wrong};
use crate::http::{Refusal, Response, form, media};
use crate::json::Json;
use crate::rules::change::{Changed, Request as Change};
use crate::rules::entry::{Collection, Decree, Draft, RuleEntry, identity, scope_json, windows_json};
use crate::rules::preview::{Matched, RuleCounts};
use mailrace_shards::rules::Scope;
use mailrace_shards::time::Timestamp;

impl From<Wrong> for Refusal {
    /// MailerQ's dialect: 400, naming the field.
    fn from(wrong: Wrong) -> Self {
        let text = wrong.to_string();
        match wrong.field() {
            Some(field) => Self::of_field(400, field.to_owned(), text),
            None => Self::new(400, text),
        }
    }
}

/// The body's fields, JSON or form.
async fn fields(ask: &mut Ask<'_>) -> Result<Fields, Refusal> {
    let essence = ask.request.media_type();
    if media::is_json(&essence) {
        let body = ask.body().await?;
        return Ok(Fields::of_json(json_body(&body)?)?);
    }
    if media::is_form(&essence) {
        let body = ask.body().await?;
        let form =
            form::parse_octets(&body).map_err(|error| Refusal::new(400, format!("the body is no form: {error}")))?;
        return Ok(Fields::of_form(form));
    }
    Err(Refusal::new(415, "the body must be application/json or application/x-www-form-urlencoded"))
}

/// What a pause or a forced error covers.
fn scope(fields: &Fields) -> Result<Scope, Wrong> {
    for (one, other) in [("mta", "pool"), ("ip", "domain")] {
        if fields.is_set(one) && fields.is_set(other) {
            return Err(Wrong::Value(one, format!("excludes `{other}`")));
        }
    }
    Ok(Scope {
        pool: fields.word("pool")?,
        source_ip: fields.ip("mta")?,
        domain: fields.domain("domain")?,
        remote_ip: fields.ip("ip")?,
        tag: fields.word("tag")?,
        ..Scope::default()
    })
}

/// Makes a rule of a body whose own fields have been read into `decree`.
async fn make(
    desk: &Desk,
    ask: &Ask<'_>,
    fields: &Fields,
    collection: Collection,
    decree: Decree,
) -> Result<Response, Refusal> {
    let now = (desk.clock)().utc;
    let scope = scope(fields)?;
    let common = Common::read(fields)?;
    let end = fields.moment("expire")?;
    if end.is_some_and(|end| end <= now) {
        return Err(Wrong::Value("expire", "is past".to_owned()).into());
    }
    if end.is_some_and(|end| end <= common.begin(now)) {
        return Err(Wrong::Value("expire", "is not after `start`".to_owned()).into());
    }
    fields.finish()?;
    if collection == Collection::Errors && scope == Scope::default() && !common.everything {
        let why = "must be true for a forced error without any criterion: it would end all mail".to_owned();
        return Err(Wrong::Value("everything", why).into());
    }
    let draft = Draft { collection, scope, decree, cluster: common.cluster, schedule: common.schedule(end) };
    let dry_run = dry_run(ask)? || common.dry_run;
    match desk.make(&ask.by, draft, dry_run).await? {
        Made::Thought(response) => Ok(response),
        Made::Rule(changed, matched) => Ok(Response::json(200, &made(&changed, &matched))),
    }
}

fn made(changed: &Changed, matched: &Matched) -> Json {
    let entry = changed.entry.as_ref();
    let holds = entry.is_some_and(|entry| entry.draft.decree == Decree::Pause);
    let end = entry.and_then(|entry| entry.draft.schedule.end);
    let outlasts = matched.first_expiry.filter(|first| holds && end.is_none_or(|end| end >= *first));
    let warning = |first: Timestamp| {
        format!("the pause outlasts mail that it holds: the first message expires at {}", utc(first)).into()
    };
    Json::object([
        ("id", entry.map(|entry| Json::from(&entry.id))),
        ("created", Some((changed.created > 0).into())),
        ("matched", Some(matched.matched.into())),
        ("in_flight", Some(matched.in_flight.into())),
        ("counting", matched.counting.then_some(true.into())),
        ("pending", pending(&changed.pending)),
        ("warning", outlasts.map(warning)),
    ])
}

/// Removes the rule with exactly the identity that a body names.
async fn remove(
    desk: &Desk,
    ask: &mut Ask<'_>,
    collection: Collection,
    ignored: &[&'static str],
) -> Result<Response, Refusal> {
    ask.query(&[])?;
    let fields = fields(ask).await?;
    let scope = scope(&fields)?;
    let cluster = fields.boolean("cluster")?.unwrap_or(false);
    for name in ignored {
        let _ = fields.raw(name);
    }
    fields.finish()?;
    let identity = identity(collection, &scope, cluster);
    let change = Change::RemoveIdentity { collection, identity, cluster };
    let changed = desk.change(&ask.by, change).await?;
    Ok(removed(&changed))
}

fn removed(changed: &Changed) -> Response {
    let members = [("removed", Some(changed.removed.into())), ("pending", pending(&changed.pending))];
    Response::json(200, &Json::object(members))
}

/// `{"id": …, "created": …}`.
fn created(id: &str, changed: &Changed) -> Response {
    let created = Some((changed.created > 0).into());
    let members = [("id", Some(id.into())), ("created", created), ("pending", pending(&changed.pending))];
    Response::json(200, &Json::object(members))
}

/// A rule as its list shows it: what the dialect knows, then what is ours.
fn show(entry: &RuleEntry, counts: &RuleCounts, _: Timestamp) -> Json {
    let draft = &entry.draft;
    let own = match &draft.decree {
        Decree::Error(verdict) => Json::object(verdict.members()),
        _ => Json::object([]),
    };
    let Json::Object(scope) = scope_json(&draft.scope) else { return own };
    let scope = scope.iter().map(|(name, value)| (name.as_str(), Some(value.clone())));
    let schedule = &draft.schedule;
    let holds = draft.decree == Decree::Pause;
    own.with(scope).with([
        ("cluster", Some(draft.cluster.into())),
        ("expire", schedule.end.map(|end| utc(end).into())),
        ("start", schedule.start.map(|start| utc(start).into())),
        ("windows", schedule.recurs().then(|| windows_json(&schedule.windows))),
        ("id", Some(Json::from(&entry.id))),
        ("created", Some(utc(entry.created).into())),
        ("matched", holds.then_some(counts.held.into())),
        ("ended", (!holds).then_some(counts.ended.into())),
        ("first_expiry", counts.first_expiry.map(|first| utc(first).into())),
    ])
}

/// MailerQ's way to write a moment.
fn utc(at: Timestamp) -> String {
    let moment = jiff::Timestamp::from_millisecond(at.0).map(|at| at.strftime("%Y-%m-%d %H:%M:%S").to_string());
    moment.unwrap_or_else(|_| at.seconds().to_string())
}
