//! `/api/admin/inspect-message/v1` and `/api/admin/inspect-sched-q/v1`: one message, and the messages of one
//! scheduled queue, in the shapes that KumoMTA's clients read.

use super::super::Call;
use crate::api::desk::refusal;
use crate::api::native::queues::not_found;
use crate::http::{Refusal, Response};
use crate::json::Json;
use crate::rules::entry::{Decree, rfc3339};
use mailrace_shards::event::{MessageFilter, MessageView, Question, Waits};
use mailrace_shards::message::MessageId;
use mailrace_shards::rules::Scope;
use mailrace_shards::runtime::clock;
use std::collections::HashMap;
use std::sync::Arc;

/// Messages shown of a queue at most: what is shown is a sample.
const LIMIT_MAX: usize = 1000;

/// Octets of bodies in one answer; of messages beyond it there is no `data`.
const BODIES_BYTES_MAX: usize = 32 << 20;

/// What stands before our ids, which have 24 hexadecimal digits, where KumoMTA has a UUID and its client reads one.
const UUID_PADDING: &str = "00000000";

/// `GET /api/admin/inspect-message/v1?id=&want_body=`
pub async fn message(call: Call<'_>) -> Result<Response, Refusal> {
    let query = call.query(&["id", "want_body"])?;
    let text = query.get("id").ok_or_else(|| bad_query("missing field `id`"))?;
    let id = message_id(text)?;
    let want_body = want_body(query.get("want_body"))?;
    let (views, incomplete) = call.api.cores.messages(Question::Message(id), LIMIT_MAX).await;
    let Some(first) = views.first() else {
        return Err(if incomplete {
            Refusal::unavailable("a shard did not answer in time", 1)
        } else {
            not_found(&call, format!("message {id} not found"))
        });
    };
    let data = if want_body { Some(body(&call, first).await?) } else { None };
    let reasons = reasons(&call, &views).await?;
    Ok(Response::json(200, &inspected(&views, data, &reasons)))
}

/// `GET /api/admin/inspect-sched-q/v1?queue_name=&limit=`
pub async fn scheduled_queue(call: Call<'_>) -> Result<Response, Refusal> {
    let query = call.query(&["queue_name", "limit", "want_body"])?;
    let name = query.get("queue_name").ok_or_else(|| bad_query("missing field `queue_name`"))?;
    let limit: usize = match query.get("limit") {
        None => LIMIT_MAX,
        Some(text) => text.parse().map_err(|_| bad_query(format!("`limit` is no number: `{text}`")))?,
    };
    let want_body = want_body(query.get("want_body"))?;
    let filter = MessageFilter { queue: Some(name.into()), ..MessageFilter::default() };
    // One at least tells whether there is such a queue.
    let most = limit.clamp(1, LIMIT_MAX);
    let (views, incomplete) = call.api.cores.messages(Question::Messages { filter, limit: most }, most).await;
    if incomplete {
        return Err(Refusal::unavailable("a shard did not answer in time", 1));
    }
    let Some(last_changed) = views.iter().map(|view| view.envelope.received()).max() else {
        return Err(not_found(&call, format!("no queue named {name}")));
    };
    let scope = Scope { queues: [Arc::<str>::from(name)].into(), ..Scope::default() };
    let total = call.api.cores.covered(scope).await;
    let reasons = reasons(&call, &views).await?;
    let mut messages = Vec::with_capacity(views.len());
    let mut octets = 0;
    for view in views.iter().take(limit) {
        let wanted = want_body && octets + view.envelope.size() as usize <= BODIES_BYTES_MAX;
        octets += if wanted { view.envelope.size() as usize } else { 0 };
        let data = if wanted { Some(body(&call, view).await?) } else { None };
        messages.push(inspected(std::slice::from_ref(view), data, &reasons));
    }
    let answer = Json::object([
        ("queue_name", Some(name.into())),
        ("messages", Some(Json::Array(messages))),
        ("num_scheduled", Some(total.into())),
        ("queue_config", Some(Json::object([]))),
        ("delayed_metric", Some(0_u64.into())),
        ("now", Some(rfc3339(clock::now().utc).into())),
        ("last_changed", Some(rfc3339(last_changed).into())),
    ]);
    Ok(Response::json(200, &answer))
}

/// A message, of which there may be several entries with recipients of different standing.
fn inspected(views: &[MessageView], data: Option<String>, reasons: &Reasons) -> Json {
    let envelope = &views[0].envelope;
    let recipients = views
        .iter()
        .flat_map(|view| view.recipients.iter().map(|index| Json::from(envelope.recipient(usize::from(*index)))));
    let attempts = views.iter().map(|view| view.attempts).max().unwrap_or(0);
    let due = views.iter().filter_map(|view| match view.waits {
        Waits::BackOff { until } => Some(until),
        _ => None,
    });
    let extras = envelope.extras();
    let optional = |text: Option<&Box<str>>| text.map(|text| Json::from(&**text));
    let meta = Json::object([
        ("campaign", optional(extras.and_then(|extras| extras.campaign.as_ref()))),
        ("tenant", optional(extras.and_then(|extras| extras.tenant.as_ref()))),
        ("routing_domain", optional(extras.and_then(|extras| extras.routing_domain.as_ref()))),
        ("queue", Some((&*views[0].queue).into())),
        ("received", Some(rfc3339(envelope.received()).into())),
        ("waits_for", Some(waits_for(&views[0].waits, reasons).into())),
    ]);
    let message = Json::object([
        ("sender", Some(envelope.sender().into())),
        ("recipient", Some(Json::Array(recipients.collect()))),
        ("meta", Some(meta)),
        ("due", due.min().map(|due| rfc3339(due).into())),
        ("num_attempts", Some(attempts.into())),
        ("data", data.map(Json::from)),
    ]);
    Json::object([("id", Some(format!("{UUID_PADDING}{}", envelope.id()).into())), ("message", Some(message))])
}

/// Why rules hold mail, by their ids.
type Reasons = HashMap<Arc<str>, String>;

async fn reasons(call: &Call<'_>, views: &[MessageView]) -> Result<Reasons, Refusal> {
    let rules = views.iter().filter_map(|view| match &view.waits {
        Waits::Rule { rule: Some(rule), .. } => Some(rule.clone()),
        _ => None,
    });
    let rules: std::collections::HashSet<Arc<str>> = rules.collect();
    let read = move |store: &crate::rules::store::Store| {
        let mut reasons = Reasons::new();
        for rule in rules {
            let reason = store.rule(&rule)?.and_then(|entry| match entry.draft.decree {
                Decree::Suspend { reason } => Some(reason.to_string()),
                _ => None,
            });
            reasons.insert(rule.clone(), reason.unwrap_or_else(|| format!("rule {rule}")));
        }
        Ok(reasons)
    };
    call.api.desk.authority.read(read).await.map_err(refusal)
}

async fn body(call: &Call<'_>, view: &MessageView) -> Result<String, Refusal> {
    let body = call.api.cores.body(view).await.map_err(|why| Refusal::unavailable(why, 1))?;
    Ok(String::from_utf8_lossy(&body).into_owned())
}

fn message_id(text: &str) -> Result<MessageId, Refusal> {
    let digits = text.replace('-', "");
    let digits = digits.strip_prefix(UUID_PADDING).filter(|rest| rest.len() == 24).unwrap_or(text);
    digits.parse().map_err(|error| bad_query(format!("`id`: {error}")))
}

fn want_body(text: Option<&str>) -> Result<bool, Refusal> {
    match text {
        None | Some("false") => Ok(false),
        Some("true") => Ok(true),
        Some(other) => Err(bad_query(format!("`want_body` must be true or false, not `{other}`"))),
    }
}

fn waits_for(waits: &Waits, reasons: &Reasons) -> String {
    match waits {
        Waits::InFlight => "mailrace internal: a connection has it".to_owned(),
        Waits::BackOff { until } => format!("mailrace internal: the retry schedule, until {}", rfc3339(*until)),
        Waits::Rule { rule: Some(rule), .. } => {
            let reason = reasons.get(rule).map_or("", String::as_str);
            format!("mailrace internal: scheduled queue is suspended: {reason}")
        }
        Waits::Rule { rule: None, .. } => "mailrace internal: put aside, a session failed over it".to_owned(),
        Waits::Connection => "mailrace internal: a connection".to_owned(),
        Waits::Resolution => "mailrace internal: the addresses of its hosts".to_owned(),
    }
}

fn bad_query(why: impl std::fmt::Display) -> Refusal {
    Refusal::new(400, format!("Failed to deserialize query string: {why}"))
}
