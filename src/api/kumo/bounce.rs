//! `/api/admin/bounce/v1`: fail matching mail, queued and to come.

use super::{criteria, fields, made, make, reason, remove, shown, wrong_shape};
use crate::api::desk::{Ask, Desk, Format, Made, RulePages, send};
use crate::http::{Refusal, Response};
use crate::json::Json;
use crate::rules::entry::{Collection, Decree, RuleEntry};
use crate::rules::preview::RuleCounts;
use mailrace_shards::limits::OTHER_QUEUES;
use mailrace_shards::time::Timestamp;
use std::rc::Rc;

/// `GET`. The counters grow while the entry lives.
pub async fn list(desk: &Rc<Desk>, ask: Ask<'_>) -> Result<Response, Refusal> {
    ask.query(&[])?;
    send(RulePages { desk: desk.clone(), collection: Some(Collection::Bounces), after: 0, show }, Format::Array).await
}

fn show(entry: &RuleEntry, counts: &RuleCounts, now: Timestamp) -> Json {
    let quiet = matches!(entry.draft.decree, Decree::Bounce { suppress_logging: true, .. });
    let bounced = counts.ended_by_queue.iter().map(|(queue, count)| (queue.as_str(), Some(Json::from(*count))));
    shown(entry, now).with([
        ("suppress_logging", Some(quiet.into())),
        ("bounced", Some(Json::object(bounced))),
        ("total_bounced", Some(counts.ended.into())),
    ])
}

/// `POST`. Bounced is what was found queued when the entry came into force, but for messages that may have got
/// through (`in_flight`); the sweep over them goes on while this is answered, and `GET` shows how far it has come.
pub async fn post(desk: &Rc<Desk>, mut ask: Ask<'_>) -> Result<Response, Refusal> {
    let fields = fields(&mut ask).await?;
    let read = || {
        let suppress_logging = fields.boolean("suppress_logging")?.unwrap_or(false);
        Ok((criteria(&fields)?, Decree::Bounce { reason: reason(&fields)?, suppress_logging }))
    };
    let (scope, decree) = read().map_err(wrong_shape)?;
    match make(desk, &ask, &fields, (Collection::Bounces, scope, decree)).await? {
        Made::Thought(response) => Ok(response),
        Made::Rule(changed, matched) => {
            let now = (desk.clock)().utc;
            let acts = changed.entry.as_ref().is_some_and(|entry| entry.rule(now).validity.at(now).in_force);
            let total = if acts { matched.matched.saturating_sub(matched.in_flight) } else { 0 };
            let queues = || matched.queues.iter().filter(|_| acts);
            // The map adds up to the total, however many queues there are.
            let rest = total.saturating_sub(queues().map(|(_, count)| count).sum());
            let rest = (rest > 0).then_some((OTHER_QUEUES, Some(Json::from(rest))));
            let bounced = queues().map(|(queue, count)| (queue.as_str(), Some(Json::from(*count)))).chain(rest);
            let found = [("bounced", Some(Json::object(bounced))), ("total_bounced", Some(total.into()))];
            Ok(Response::json(200, &made(&changed, &matched).with(found)))
        }
    }
}

/// `DELETE` by id.
pub async fn delete(desk: &Rc<Desk>, ask: Ask<'_>) -> Result<Response, Refusal> {
    remove(desk, ask, Collection::Bounces, "bounce").await
}
