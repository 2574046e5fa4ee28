//! `/v1/audit`: every change of rules, pools and tokens, in order.

use crate::api::desk::{Ask, Desk, refusal};
use crate::http::{Refusal, Response};
use crate::json::Json;
use crate::rules::store::AuditEntry;
use std::rc::Rc;

/// Lines of one answer when nobody says, and at most.
const LINES: u64 = 100;
const LINES_MAX: u64 = 1000;

/// `GET /v1/audit?after=N&limit=M`. An empty answer says that there is nothing after N yet.
pub async fn list(desk: &Rc<Desk>, ask: Ask<'_>) -> Result<Response, Refusal> {
    let query = ask.query(&["after", "limit"])?;
    let after = Ask::query_number(&query, "after")?.unwrap_or(0);
    let limit = Ask::query_number(&query, "limit")?.unwrap_or(LINES).min(LINES_MAX);
    let limit = u32::try_from(limit).expect("LINES_MAX fits into 32 bits");
    let page = desk.authority.read(move |store| store.audit(after, limit)).await.map_err(refusal)?;
    Ok(Response::json(200, &Json::Array(page.iter().map(AuditEntry::to_json).collect())))
}
