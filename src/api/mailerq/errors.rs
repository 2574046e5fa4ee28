//! `/v1/errors`: forced errors.

use super::{fields, make, remove, show};
use crate::api::desk::{Ask, Desk, Format, RulePages, send};
use crate::api::fields::{Fields, Wrong};
use crate::http::{Refusal, Response};
use crate::rules::entry::{Collection, Decree, Verdict};
use std::rc::Rc;

/// `GET`.
pub async fn list(desk: &Rc<Desk>, ask: Ask<'_>) -> Result<Response, Refusal> {
    ask.query(&[])?;
    send(RulePages { desk: desk.clone(), collection: Some(Collection::Errors), after: 0, show }, Format::Array).await
}

/// `POST`. The same criteria again replace code and words.
pub async fn post(desk: &Rc<Desk>, mut ask: Ask<'_>) -> Result<Response, Refusal> {
    let fields = fields(&mut ask).await?;
    let verdict = verdict(&fields)?;
    make(desk, &ask, &fields, Collection::Errors, Decree::Error(verdict)).await
}

/// `DELETE`. The client always sends a code, 0 when it has none: it says nothing here.
pub async fn delete(desk: &Rc<Desk>, mut ask: Ask<'_>) -> Result<Response, Refusal> {
    remove(desk, &mut ask, Collection::Errors, &["code", "extended", "description", "expire"]).await
}

/// Code and words, of an error or of a suppression.
pub(super) fn verdict(fields: &Fields) -> Result<Verdict, Wrong> {
    Ok(Verdict {
        code: fields.number("code", 200..=599)?.ok_or(Wrong::Missing("code"))?,
        extended: fields.enhanced_code("extended")?,
        description: fields.words("description")?,
    })
}
