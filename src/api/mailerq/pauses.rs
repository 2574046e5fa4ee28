//! `/v1/pauses`: hold matching mail, keep it.

use super::{fields, make, remove, show};
use crate::api::desk::{Ask, Desk, Format, RulePages, send};
use crate::http::{Refusal, Response};
use crate::rules::entry::{Collection, Decree};
use std::rc::Rc;

/// `GET`.
pub async fn list(desk: &Rc<Desk>, ask: Ask<'_>) -> Result<Response, Refusal> {
    ask.query(&[])?;
    send(RulePages { desk: desk.clone(), collection: Some(Collection::Pauses), after: 0, show }, Format::Array).await
}

/// `POST`. The same criteria again change when it ends.
pub async fn post(desk: &Rc<Desk>, mut ask: Ask<'_>) -> Result<Response, Refusal> {
    let fields = fields(&mut ask).await?;
    make(desk, &ask, &fields, Collection::Pauses, Decree::Pause).await
}

/// `DELETE`, with exactly the criteria that it was made with.
pub async fn delete(desk: &Rc<Desk>, mut ask: Ask<'_>) -> Result<Response, Refusal> {
    remove(desk, &mut ask, Collection::Pauses, &["expire"]).await
}
