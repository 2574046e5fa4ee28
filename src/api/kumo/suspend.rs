//! `/api/admin/suspend/v1`: suspend scheduled queues. Without a criterion all of them, as this dialect defines it.

use super::{criteria, fields, made, make, reason, remove, shown, wrong_shape};
use crate::api::desk::{Ask, Desk, Format, Made, RulePages, send};
use crate::http::{Refusal, Response};
use crate::json::Json;
use crate::rules::entry::{Collection, Decree, RuleEntry};
use crate::rules::preview::RuleCounts;
use mailrace_shards::time::Timestamp;
use std::rc::Rc;

/// `GET`.
pub async fn list(desk: &Rc<Desk>, ask: Ask<'_>) -> Result<Response, Refusal> {
    ask.query(&[])?;
    let collection = Some(Collection::Suspensions);
    send(RulePages { desk: desk.clone(), collection, after: 0, show }, Format::Array).await
}

fn show(entry: &RuleEntry, counts: &RuleCounts, now: Timestamp) -> Json {
    shown(entry, now).with([("matched", Some(counts.held.into()))])
}

/// `POST`. The same criteria again replace the entry.
pub async fn post(desk: &Rc<Desk>, mut ask: Ask<'_>) -> Result<Response, Refusal> {
    let fields = fields(&mut ask).await?;
    let scope = criteria(&fields).map_err(wrong_shape)?;
    let reason = reason(&fields).map_err(wrong_shape)?;
    match make(desk, &ask, &fields, (Collection::Suspensions, scope, Decree::Suspend { reason })).await? {
        Made::Thought(response) => Ok(response),
        Made::Rule(changed, matched) => Ok(Response::json(200, &made(&changed, &matched))),
    }
}

/// `DELETE` by id.
pub async fn delete(desk: &Rc<Desk>, ask: Ask<'_>) -> Result<Response, Refusal> {
    remove(desk, ask, Collection::Suspensions, "suspend").await
}
