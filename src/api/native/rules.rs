//! `/v1/rules`: every rule of every kind and dialect; suppressions have their own list.

use crate::api::desk::{Ask, Desk, Format, RulePages, no_fields, pending, refusal, send};
use crate::http::{Refusal, Response};
use crate::json::Json;
use crate::rules::change::Request as Change;
use crate::rules::entry::{Collection, RuleEntry, rfc3339};
use crate::rules::preview::RuleCounts;
use crate::rules::store::Store;
use mailrace_shards::time::Timestamp;
use std::rc::Rc;
use std::sync::Arc;

/// `GET /v1/rules`.
pub async fn list(desk: &Rc<Desk>, ask: Ask<'_>) -> Result<Response, Refusal> {
    ask.query(&[])?;
    send(RulePages { desk: desk.clone(), collection: None, after: 0, show }, Format::Array).await
}

/// `GET /v1/rules/ID`.
pub async fn get(desk: &Rc<Desk>, ask: Ask<'_>) -> Result<Response, Refusal> {
    ask.query(&[])?;
    let id = id(&ask);
    let wanted = id.clone();
    let now = (desk.clock)().utc;
    let read = move |store: &Store| {
        let entry = store.rule(&wanted)?;
        let before = store.ended_before(entry.as_slice())?;
        Ok((entry, before))
    };
    let (entry, before) = desk.authority.read(read).await.map_err(refusal)?;
    // What holds all mail of this engine is not stored, and yet a message may name it.
    let fence = || desk.cluster.as_ref().and_then(|(cluster, _)| cluster.fence()).filter(|fence| fence.id == id);
    let entry = entry.or_else(fence).filter(|entry| !entry.draft.schedule.ended(now)).ok_or_else(|| unknown(&id))?;
    let mut counts = desk.census.rule_counts(std::slice::from_ref(&entry.id)).await;
    let mut counts = counts.remove(&entry.id).unwrap_or_default();
    before.get(&entry.id).into_iter().for_each(|before| counts.add_before(before));
    Ok(Response::json(200, &show(&entry, &counts, now)))
}

/// `DELETE /v1/rules/ID?kind=KIND`. With a kind, as the audit trail names it, a rule of any other stays: who means to
/// release mail must not take away what ends it.
pub async fn delete(desk: &Rc<Desk>, ask: Ask<'_>) -> Result<Response, Refusal> {
    let query = ask.query(&["kind"])?;
    let collection = query.get("kind").map(collection).transpose()?;
    no_fields(ask.request, ask.body_max).await?;
    let id = id(&ask);
    let changed = desk.change(&ask.by, Change::RemoveId(collection, id.clone())).await?;
    if changed.removed == 0 {
        return Err(match collection {
            None => unknown(&id),
            Some(collection) => Refusal::new(404, format!("there is no {} {id}", collection.as_str())),
        });
    }
    let members = [("removed", Some(changed.removed.into())), ("pending", pending(&changed.pending))];
    Ok(Response::json(200, &Json::object(members)))
}

fn collection(kind: &str) -> Result<Collection, Refusal> {
    let known = Collection::ALL.into_iter().find(|collection| collection.as_str() == kind);
    known.ok_or_else(|| {
        let kinds: Vec<&str> = Collection::ALL.into_iter().map(Collection::as_str).collect();
        Refusal::of_field(400, "kind", format!("`kind` must be one of {}", kinds.join(", ")))
    })
}

fn id(ask: &Ask<'_>) -> Arc<str> {
    ask.parameters.first().map_or("", String::as_str).to_ascii_lowercase().into()
}

fn unknown(id: &str) -> Refusal {
    Refusal::new(404, format!("there is no rule {id}"))
}

fn show(entry: &RuleEntry, counts: &RuleCounts, _: Timestamp) -> Json {
    entry.to_json().with([
        ("held", Some(counts.held.into())),
        ("ended", Some(counts.ended.into())),
        ("first_expiry", counts.first_expiry.map(|first| rfc3339(first).into())),
    ])
}
