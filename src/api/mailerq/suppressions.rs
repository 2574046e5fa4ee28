//! `/v1/suppressions`: who must not be mailed, one by one. Streams of them: `native/suppression_stream`.

use super::{errors, fields, removed};
use crate::api::desk::{Ask, COUNTED_WITHIN, Desk, Format, PAGE, Pages, dry_run, pending, send};
use crate::api::fields::{Fields, Wrong, address, domain as mail_domain};
use crate::api::native::suppression_stream;
use crate::http::{Refusal, Response, Waiting, media};
use crate::json::Json;
use crate::rules::authority::Failure;
use crate::rules::change::{Request as Change, Suppression};
use crate::rules::preview::Matched;
use mailrace_shards::rules::{Kind, Rule, Scope, Validity, normal_address};
use std::rc::Rc;
use std::sync::Arc;

/// `GET`: all of it, or `limit` entries after a value.
pub async fn list(desk: &Rc<Desk>, ask: Ask<'_>) -> Result<Response, Refusal> {
    let query = ask.query(&["after", "limit"])?;
    let left = Ask::query_number(&query, "limit")?.unwrap_or(u64::MAX);
    let after = query.get("after").unwrap_or_default().to_lowercase().into();
    let format = if media::wants_ndjson(&ask.request.head.headers) { Format::Lines } else { Format::Array };
    send(Entries { desk: desk.clone(), after, left }, format).await
}

/// `POST`: one entry, or a stream of them. An existing value is overwritten.
pub async fn post(desk: &Rc<Desk>, mut ask: Ask<'_>) -> Result<Response, Refusal> {
    if media::is_ndjson(&ask.request.media_type()) {
        return suppression_stream::import(desk, ask).await;
    }
    let fields = fields(&mut ask).await?;
    let dry = fields.boolean("dry_run")?.unwrap_or(false) | dry_run(&ask)?;
    let entry = read(&fields)?;
    fields.finish()?;
    if dry {
        let matched = desk.census.matched(&thought(&entry), COUNTED_WITHIN).await;
        return Ok(Response::json(200, &matched.to_json()));
    }
    let (value, rule) = (entry.value.clone(), thought(&entry));
    let (changed, counted) = desk.change_counted(&ask.by, Change::Suppress(vec![entry]), &rule).await?;
    let Matched { matched, in_flight, counting, .. } = counted;
    let answer = Json::object([
        ("id", Some((&*value).into())),
        ("created", Some((changed.created > 0).into())),
        ("matched", Some(matched.into())),
        ("in_flight", Some(in_flight.into())),
        ("counting", counting.then_some(true.into())),
        ("pending", pending(&changed.pending)),
    ]);
    Ok(Response::json(200, &answer))
}

/// `DELETE` by value. The client always sends a type: it says nothing here.
pub async fn delete(desk: &Rc<Desk>, mut ask: Ask<'_>) -> Result<Response, Refusal> {
    if media::is_ndjson(&ask.request.media_type()) {
        return suppression_stream::remove(desk, ask).await;
    }
    ask.query(&[])?;
    let fields = fields(&mut ask).await?;
    let value = value_only(&fields)?;
    fields.finish()?;
    let changed = desk.change(&ask.by, Change::Unsuppress(vec![value])).await?;
    Ok(removed(&changed))
}

/// An entry to be made.
pub(in crate::api) fn read(fields: &Fields) -> Result<Suppression, Wrong> {
    let kind = fields.word("type")?.ok_or(Wrong::Missing("type"))?;
    let value = match &*kind {
        "address" => fields.parsed("value", address)?,
        "domain" => fields.parsed("value", domain)?,
        _ => return Err(Wrong::Value("type", "must be address or domain".to_owned())),
    };
    // The list is one for the whole cluster; nothing else can be promised.
    if fields.boolean("cluster")? == Some(false) {
        return Err(Wrong::Value("cluster", "cannot be false: suppressions hold for the whole cluster".to_owned()));
    }
    let value = value.ok_or(Wrong::Missing("value"))?;
    Ok(Suppression { value, verdict: errors::verdict(fields)? })
}

/// The key of an entry, whatever else is said of it.
pub(in crate::api) fn value_only(fields: &Fields) -> Result<Arc<str>, Wrong> {
    for ignored in ["type", "code", "extended", "description", "cluster"] {
        let _ = fields.raw(ignored);
    }
    let either = |text: &str| if text.contains('@') { address(text) } else { domain(text) };
    fields.parsed("value", either)?.ok_or(Wrong::Missing("value"))
}

/// A domain as the list keeps it: in lower case as a whole, address literals too.
fn domain(text: &str) -> Result<Arc<str>, String> {
    mail_domain(text).map(|domain| normal_address(&domain).into())
}

/// A rule that covers what the entry would.
fn thought(entry: &Suppression) -> Rule {
    let value = entry.value.clone();
    let scope = if value.contains('@') {
        Scope { address: Some(value), ..Scope::default() }
    } else {
        // Mail names an address literal in another way than the list.
        Scope { domain: Some(mail_domain(&value).unwrap_or(value)), ..Scope::default() }
    };
    let kind = Kind::Suppression(entry.verdict.answer());
    Rule { id: "".into(), order: u64::MAX, kind, scope, validity: Validity::always(), by: "".into() }
}

struct Entries {
    desk: Rc<Desk>,
    after: Arc<str>,
    /// How many are still wanted.
    left: u64,
}

impl Pages for Entries {
    fn next(&mut self) -> Waiting<'_, Result<(Vec<Json>, bool), Failure>> {
        Box::pin(async {
            let limit = u32::try_from(self.left).unwrap_or(u32::MAX).min(PAGE);
            let after = self.after.clone();
            let page = self.desk.authority.read(move |store| store.suppressions(&after, limit)).await?;
            self.left -= page.len() as u64;
            if let Some((last, _)) = page.last() {
                self.after = last.value.clone();
            }
            let more = page.len() == limit as usize && self.left > 0;
            Ok((page.iter().map(|(entry, _)| entry.to_json()).collect(), more))
        })
    }
}
