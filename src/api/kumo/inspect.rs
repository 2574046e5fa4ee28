//! `/api/admin/inspect-message/v1` and `/api/admin/inspect-sched-q/v1`: one message, and the messages of one
//! scheduled queue, in the shapes that KumoMTA's clients read.

use super::super::Call;
use crate::http::{Refusal, Response};
use crate::json::Json;
use crate::rules::entry::rfc3339;
use mailrace_shards::event::{MessageFilter, MessageView, Question, Waits};
use mailrace_shards::message::MessageId;
use mailrace_shards::runtime::clock;

/// Messages shown of a queue, unless the query says otherwise, and the most that it may ask for.
const LIMIT: usize = 100;
const LIMIT_MAX: usize = 1000;

/// `GET /api/admin/inspect-message/v1?id=&want_body=`
pub async fn message(call: Call<'_>) -> Result<Response, Refusal> {
    let query = call.query(&["id", "want_body"])?;
    let text = query.get("id").ok_or_else(|| bad_query("missing field `id`"))?;
    let id: MessageId = text.parse().map_err(|error| bad_query(format!("`id`: {error}")))?;
    let want_body = match query.get("want_body") {
        None | Some("false") => false,
        Some("true") => true,
        Some(other) => return Err(bad_query(format!("`want_body` must be true or false, not `{other}`"))),
    };
    let (views, incomplete) = call.api.cores.messages(Question::Message(id), LIMIT_MAX).await;
    let Some(first) = views.first() else {
        return Err(if incomplete {
            Refusal::unavailable("a shard did not answer in time", 1)
        } else {
            Refusal::new(404, format!("message {id} not found"))
        });
    };
    let data = if want_body {
        let body = call.api.cores.body(first).await.map_err(|why| Refusal::unavailable(why, 1))?;
        Some(String::from_utf8_lossy(&body).into_owned())
    } else {
        None
    };
    Ok(Response::json(200, &inspected(&views, data)))
}

/// `GET /api/admin/inspect-sched-q/v1?queue_name=&limit=`
pub async fn scheduled_queue(call: Call<'_>) -> Result<Response, Refusal> {
    let query = call.query(&["queue_name", "limit", "want_body"])?;
    let name = query.get("queue_name").ok_or_else(|| bad_query("missing field `queue_name`"))?;
    let limit = match query.get("limit") {
        None => LIMIT,
        Some(text) => text
            .parse()
            .ok()
            .filter(|limit| (1..=LIMIT_MAX).contains(limit))
            .ok_or_else(|| bad_query(format!("`limit` is a number from 1 to {LIMIT_MAX}")))?,
    };
    if query.get("want_body").is_some_and(|want| want != "false") {
        return Err(bad_query("`want_body` is not carried out for whole queues; inspect single messages"));
    }
    let filter = MessageFilter { queue: Some(name.into()), ..MessageFilter::default() };
    let (views, incomplete) = call.api.cores.messages(Question::Messages { filter, limit }, limit).await;
    if incomplete {
        return Err(Refusal::unavailable("a shard did not answer in time", 1));
    }
    if views.is_empty() {
        return Err(Refusal::new(404, format!("no queue named {name}")));
    }
    let messages = Json::Array(views.iter().map(|view| inspected(std::slice::from_ref(view), None)).collect());
    let answer = Json::object([
        ("queue_name", Some(name.into())),
        ("messages", Some(messages)),
        ("num_scheduled", Some((views.len() as u64).into())),
        ("queue_config", Some(Json::object([]))),
        ("delayed_metric", Some(0_u64.into())),
        ("now", Some(rfc3339(clock::now().utc).into())),
    ]);
    Ok(Response::json(200, &answer))
}

/// A message, of which there may be several entries with recipients of different standing.
fn inspected(views: &[MessageView], data: Option<String>) -> Json {
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
        ("waits_for", Some(waits_for(&views[0].waits).into())),
    ]);
    let message = Json::object([
        ("sender", Some(envelope.sender().into())),
        ("recipient", Some(Json::Array(recipients.collect()))),
        ("meta", Some(meta)),
        ("due", due.min().map(|due| rfc3339(due).into())),
        ("num_attempts", Some(attempts.into())),
        ("data", data.map(Json::from)),
    ]);
    Json::object([("id", Some(envelope.id().to_string().into())), ("message", Some(message))])
}

fn waits_for(waits: &Waits) -> String {
    match waits {
        Waits::InFlight => "mailrace internal: a connection has it".to_owned(),
        Waits::BackOff { until } => format!("mailrace internal: the retry schedule, until {}", rfc3339(*until)),
        Waits::Rule { rule: Some(rule), .. } => {
            format!("mailrace internal: scheduled queue is suspended: rule {rule}")
        }
        Waits::Rule { rule: None, .. } => "mailrace internal: put aside, a session failed over it".to_owned(),
        Waits::Connection => "mailrace internal: a connection".to_owned(),
        Waits::Resolution => "mailrace internal: the addresses of its hosts".to_owned(),
    }
}

fn bad_query(why: impl std::fmt::Display) -> Refusal {
    Refusal::new(400, format!("Failed to deserialize query string: {why}"))
}
