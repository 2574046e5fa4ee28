//! `/api/admin/suspend-ready-q/v1`: suspend one egress path, by name. The path need not exist.

use super::{fields, made, make, reason, remove, timing, wrong_shape};
use crate::api::desk::{Ask, Desk, Format, Made, RulePages, send};
use crate::api::fields::Wrong;
use crate::http::{Refusal, Response};
use crate::json::Json;
use crate::rules::entry::{Collection, Decree, RuleEntry};
use crate::rules::preview::RuleCounts;
use mailrace_shards::rules::Scope;
use mailrace_shards::time::Timestamp;
use std::rc::Rc;

/// `GET`.
pub async fn list(desk: &Rc<Desk>, ask: Ask<'_>) -> Result<Response, Refusal> {
    ask.query(&[])?;
    let collection = Some(Collection::PathSuspensions);
    send(RulePages { desk: desk.clone(), collection, after: 0, show }, Format::Array).await
}

fn show(entry: &RuleEntry, counts: &RuleCounts, now: Timestamp) -> Json {
    let name = entry.draft.scope.path.as_ref().map(Json::from);
    Json::object([("id", Some(Json::from(&entry.id))), ("name", name)])
        .with(timing(entry, now))
        .with([("matched", Some(counts.held.into()))])
}

/// `POST`. One entry a name.
pub async fn post(desk: &Rc<Desk>, mut ask: Ask<'_>) -> Result<Response, Refusal> {
    let fields = fields(&mut ask).await?;
    let read = || {
        let path = fields.word("name")?.ok_or(Wrong::Missing("name"))?;
        Ok((Scope { path: Some(path), ..Scope::default() }, Decree::Suspend { reason: reason(&fields)? }))
    };
    let (scope, decree) = read().map_err(wrong_shape)?;
    match make(desk, &ask, &fields, (Collection::PathSuspensions, scope, decree)).await? {
        Made::Thought(response) => Ok(response),
        Made::Rule(changed, matched) => Ok(Response::json(200, &made(&changed, &matched))),
    }
}

/// `DELETE` by id.
pub async fn delete(desk: &Rc<Desk>, ask: Ask<'_>) -> Result<Response, Refusal> {
    remove(desk, ask, Collection::PathSuspensions, "suspend-ready-q").await
}
