//! `/v1/queues` and `/v1/messages`: what waits, where, and why; and the two things that can be done to one message.

use super::super::Call;
use crate::http::{Refusal, Response};
use crate::json::Json;
use crate::rules::entry::rfc3339;
use mailrace_shards::event::{MessageFilter, MessageView, Question, QueueView, Waits};
use mailrace_shards::message::MessageId;
use mailrace_shards::smtp::server::mailbox;
use mailrace_shards::time::Timestamp;
use std::sync::Arc;

/// Destinations or messages of an answer, unless the query says otherwise.
const LIMIT: usize = 100;

/// The most that a query may ask for.
const LIMIT_MAX: usize = 1000;

/// Upper ends of the age columns, in minutes; the last column is older.
const AGES: [&str; 10] = ["5", "10", "20", "40", "80", "160", "320", "640", "1280", "1280+"];

/// `GET /v1/queues`
pub async fn list(call: Call<'_>) -> Result<Response, Refusal> {
    let query = call.query(&["limit"])?;
    let limit = limit(query.get("limit"))?;
    let (queues, incomplete) = call.api.cores.queues(limit).await;
    if incomplete {
        // As if the mail of that shard were not there.
        return Err(Refusal::unavailable("a shard did not answer in time", 1));
    }
    Ok(Response::json(200, &Json::Array(queues.iter().map(queue).collect())))
}

/// Why a message is not found.
///
/// As long as mail of earlier runs is on its way into the queues, nobody knows that a message is not there.
pub fn not_found(call: &Call<'_>, text: String) -> Refusal {
    match call.api.cores.recovery() {
        None => Refusal::new(404, text),
        Some(_) => Refusal::unavailable(format!("{text} yet: mail of earlier runs is still being put there"), 1),
    }
}

/// `GET /v1/messages`
pub async fn messages(call: Call<'_>) -> Result<Response, Refusal> {
    let query = call.query(&["domain", "tag", "campaign", "state", "limit", "after"])?;
    let text = |name: &str| query.get(name).map(Arc::<str>::from);
    let state = text("state");
    if let Some(state) = state.as_deref().filter(|state| !["ready", "waiting", "held", "in_flight"].contains(state)) {
        let text = format!("`{state}` is no state; there are ready, waiting, held and in_flight");
        return Err(Refusal::of_field(400, "state", text));
    }
    let filter = MessageFilter {
        domain: query.get("domain").map(domain).transpose()?,
        tag: text("tag"),
        campaign: text("campaign"),
        queue: None,
        state,
        after: query.get("after").map(|id| message_id(id, 400)).transpose()?,
    };
    let limit = limit(query.get("limit"))?;
    let (views, incomplete) = call.api.cores.messages(Question::Messages { filter, limit }, limit).await;
    if incomplete {
        return Err(Refusal::unavailable("a shard did not answer in time", 1));
    }
    Ok(Response::json(200, &Json::Array(views.iter().map(message).collect())))
}

/// `GET /v1/messages/{id}`
pub async fn one(call: Call<'_>) -> Result<Response, Refusal> {
    let id = message_id(&call.parameters[0], 404)?;
    let (views, incomplete) = call.api.cores.messages(Question::Message(id), LIMIT_MAX).await;
    match (views.is_empty(), incomplete) {
        (true, true) => Err(Refusal::unavailable("a shard did not answer in time", 1)),
        (true, false) => Err(not_found(&call, format!("message {id} is not in the queue"))),
        (false, _) => {
            let parts = Json::Array(views.iter().map(message).collect());
            Ok(Response::json(200, &Json::object([("id", Some(id.to_string().into())), ("parts", Some(parts))])))
        }
    }
}

/// `POST /v1/messages/{id}/retry`
pub async fn retry(mut call: Call<'_>) -> Result<Response, Refusal> {
    call.takes_nothing().await?;
    let id = message_id(&call.parameters[0], 404)?;
    act(&call, id, Question::Retry(id)).await
}

/// `POST /v1/messages/{id}/cancel`
pub async fn cancel(mut call: Call<'_>) -> Result<Response, Refusal> {
    call.takes_nothing().await?;
    let id = message_id(&call.parameters[0], 404)?;
    let by = call.by.name.clone();
    act(&call, id, Question::Cancel { id, by }).await
}

/// Does it to all parts of a message. Its recipients may be on their way to several shards, so it is waited for these.
async fn act(call: &Call<'_>, id: MessageId, question: Question) -> Result<Response, Refusal> {
    let cores = &call.api.cores;
    // A message of an earlier run may be found just now: a second round meets what of it the first one came too soon for.
    let rounds = if cores.recovery().is_some() { 2 } else { 1 };
    let (mut count, mut incomplete) = (0, false);
    for _ in 0..rounds {
        incomplete |= !cores.all_arrived().await;
        let (counted, missing) = cores.count(question.clone()).await;
        // What was made due once is so still, what was ended is not there any more.
        let again = matches!(question, Question::Retry(_));
        count = if again { count.max(counted) } else { count + counted };
        incomplete |= missing;
    }
    if incomplete {
        let text =
            format!("a shard did not answer in time; this may be done to some recipients of {id}, and not to others");
        return Err(Refusal::unavailable(text, 1));
    }
    if count == 0 {
        let (views, incomplete) = call.api.cores.messages(Question::Message(id), 1).await;
        return Err(match views.first() {
            Some(_) => Refusal::new(409, format!("message {id} is being sent just now")),
            None if incomplete => Refusal::unavailable("a shard did not answer in time", 1),
            None => not_found(call, format!("message {id} is not in the queue")),
        });
    }
    let answer = Json::object([("id", Some(id.to_string().into())), ("count", Some(count.into()))]);
    Ok(Response::json(200, &answer))
}

fn queue(view: &QueueView) -> Json {
    let ages = AGES.iter().copied().zip(view.ages).map(|(age, count)| (age, Some(count.into())));
    Json::object([
        ("domain", Some((&*view.domain).into())),
        ("total", Some(view.total.into())),
        ("held", Some(view.held.into())),
        ("due", Some(view.total.saturating_sub(view.held + view.waiting).into())),
        ("waiting", Some(view.waiting.into())),
        ("ages", Some(Json::object(ages))),
    ])
}

/// One entry, as lists and single messages show it.
pub fn message(view: &MessageView) -> Json {
    let envelope = &view.envelope;
    let recipients = view.recipients.iter().map(|index| envelope.recipient(usize::from(*index)).into());
    let extras = envelope.extras();
    let tags = extras.map(|extras| extras.tags.iter().map(|tag| (&**tag).into()).collect());
    let optional = |text: Option<&Box<str>>| text.map(|text| (&**text).into());
    let (state, reason, rule, until) = waits(&view.waits);
    Json::object([
        ("id", Some(envelope.id().to_string().into())),
        ("sender", Some(envelope.sender().into())),
        ("recipients", Some(Json::Array(recipients.collect()))),
        ("queue", Some((&*view.queue).into())),
        ("size", Some(u64::from(envelope.size()).into())),
        ("created", Some(rfc3339(envelope.received()).into())),
        ("expires", Some(rfc3339(view.expires).into())),
        ("attempts", Some(u64::from(view.attempts).into())),
        ("state", Some(state.into())),
        ("reason", Some(reason.into())),
        ("rule", rule.map(|rule| (&**rule).into())),
        ("until", until.map(|until| rfc3339(until).into())),
        ("maybe_delivered", view.maybe_delivered.then(|| true.into())),
        ("tags", tags.map(Json::Array)),
        ("campaign", optional(extras.and_then(|extras| extras.campaign.as_ref()))),
        ("tenant", optional(extras.and_then(|extras| extras.tenant.as_ref()))),
    ])
}

type Reason<'a> = (&'static str, &'static str, Option<&'a Arc<str>>, Option<Timestamp>);

fn waits(waits: &Waits) -> Reason<'_> {
    let bounded = |until: &Timestamp| Some(*until).filter(|until| *until != Timestamp::NEVER);
    match waits {
        Waits::InFlight => ("in_flight", "a connection has it", None, None),
        Waits::BackOff { until } => ("waiting", "the retry schedule", None, bounded(until)),
        Waits::Rule { rule: Some(rule), until } => ("held", "a rule holds it", Some(rule), bounded(until)),
        Waits::Rule { rule: None, .. } => ("held", "put aside: a session failed over it", None, None),
        Waits::Connection => ("ready", "its turn on a connection, within the limits", None, None),
        Waits::Resolution => ("ready", "the addresses of its hosts", None, None),
    }
}

fn message_id(text: &str, status: u16) -> Result<MessageId, Refusal> {
    text.parse()
        .map_err(|_| Refusal::of_field(status, "id", format!("`{text}` is no message id: 24 hexadecimal digits")))
}

fn limit(text: Option<&str>) -> Result<usize, Refusal> {
    let Some(text) = text else { return Ok(LIMIT) };
    let limit = text.parse().ok().filter(|limit| (1..=LIMIT_MAX).contains(limit));
    limit.ok_or_else(|| Refusal::of_field(400, "limit", format!("`limit` is a number from 1 to {LIMIT_MAX}")))
}

/// A recipient domain as the queue names it: lower case, A-labels.
fn domain(text: &str) -> Result<Arc<str>, Refusal> {
    let address = mailbox(&format!("x@{text}"));
    let address = address.map_err(|_| Refusal::of_field(400, "domain", format!("`{text}` is no domain")))?;
    Ok(mailrace_shards::message::domain_of(&address).into())
}
