//! Suppressions as JSON lines, in and out, of any number: a line at a time, committed every 10,000. A line that is
//! wrong is counted and named, and the others go in.

use crate::api::desk::{Ask, Desk};
use crate::api::fields::{Fields, Wrong};
use crate::api::mailerq::suppressions::{read, value};
use crate::http::{Refusal, Response};
use crate::json::{self, Json};
use crate::rules::change::{Request as Change, Suppression};
use std::rc::Rc;
use std::sync::Arc;

/// Entries of one transaction.
const BATCH: usize = 10_000;

/// Octets of one line; a longer one ends the import, since nothing that long is an entry.
const LINE_BYTES_MAX: usize = 16 * 1024;

/// Errors that are named; the others are counted.
const ERRORS_NAMED: usize = 100;

/// `POST` of lines like the bodies of single entries.
pub async fn import(desk: &Rc<Desk>, ask: Ask<'_>) -> Result<Response, Refusal> {
    let parse = |fields: &Fields| -> Result<Suppression, Wrong> {
        let entry = read(fields)?;
        fields.finish()?;
        Ok(entry)
    };
    let totals = stream(desk, ask, parse, Change::Suppress).await?;
    let counts = [("created", Some(totals.created.into())), ("updated", Some(totals.updated.into()))];
    Ok(Response::json(200, &Json::object(counts).with(totals.errors())))
}

/// `DELETE` of lines with a `value`.
pub async fn remove(desk: &Rc<Desk>, ask: Ask<'_>) -> Result<Response, Refusal> {
    let parse = |fields: &Fields| -> Result<Arc<str>, Wrong> { value(fields) };
    let totals = stream(desk, ask, parse, Change::Unsuppress).await?;
    Ok(Response::json(200, &Json::object([("removed", Some(totals.removed.into()))]).with(totals.errors())))
}

#[derive(Default)]
struct Totals {
    created: u64,
    updated: u64,
    removed: u64,
    named: Vec<Json>,
    error_count: u64,
}

impl Totals {
    fn errors(&self) -> [(&'static str, Option<Json>); 2] {
        [("errors", Some(Json::Array(self.named.clone()))), ("error_count", Some(self.error_count.into()))]
    }

    fn wrong(&mut self, line: u64, why: &str) {
        self.error_count += 1;
        if self.named.len() < ERRORS_NAMED {
            self.named.push(Json::object([("line", Some(line.into())), ("error", Some(why.into()))]));
        }
    }
}

async fn stream<T>(
    desk: &Rc<Desk>,
    ask: Ask<'_>,
    parse: impl Fn(&Fields) -> Result<T, Wrong>,
    change: fn(Vec<T>) -> Change,
) -> Result<Totals, Refusal> {
    ask.query(&[])?;
    let mut lines = Lines { rest: Vec::new(), number: 0 };
    let mut batch = Vec::new();
    let mut totals = Totals::default();
    loop {
        let chunk = ask.request.body.chunk().await?;
        let is_last = chunk.is_none();
        lines.rest.extend(chunk.unwrap_or_default());
        let mut used = 0;
        while let Some((line, end)) = lines.line(used, is_last) {
            lines.number += 1;
            used = end;
            let line = &lines.rest[line];
            if line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            match entry(line, &parse) {
                Ok(entry) => batch.push(entry),
                Err(why) => totals.wrong(lines.number, &why),
            }
            if batch.len() == BATCH {
                commit(desk, &ask, &mut totals, change(std::mem::take(&mut batch))).await?;
            }
        }
        lines.rest.drain(..used);
        if lines.rest.len() > LINE_BYTES_MAX {
            let text = format!("line {} is longer than {LINE_BYTES_MAX} octets", lines.number + 1);
            return Err(Refusal::closing(400, text));
        }
        if is_last {
            break;
        }
    }
    if !batch.is_empty() {
        commit(desk, &ask, &mut totals, change(batch)).await?;
    }
    Ok(totals)
}

async fn commit(desk: &Rc<Desk>, ask: &Ask<'_>, totals: &mut Totals, change: Change) -> Result<(), Refusal> {
    let changed = desk.change(&ask.by, change).await.map_err(|mut refusal| {
        // What went before stays: the same lines again do no harm.
        let done = totals.created + totals.updated + totals.removed;
        refusal.text = format!("{}; {done} entries before that are done, send all again", refusal.text).into();
        refusal.closes = true;
        refusal
    })?;
    totals.created += changed.created;
    totals.updated += changed.updated;
    totals.removed += changed.removed;
    Ok(())
}

fn entry<T>(line: &[u8], parse: impl Fn(&Fields) -> Result<T, Wrong>) -> Result<T, String> {
    let json = json::parse(line).map_err(|error| format!("no JSON: {error}"))?;
    Fields::of_json(json).and_then(|fields| parse(&fields)).map_err(|wrong| wrong.to_string())
}

struct Lines {
    /// What has come and is not used up.
    rest: Vec<u8>,
    number: u64,
}

impl Lines {
    /// The line that begins at `from`, and where the next one does. The last one needs no end.
    fn line(&self, from: usize, is_last: bool) -> Option<(std::ops::Range<usize>, usize)> {
        let rest = &self.rest[from..];
        match rest.iter().position(|octet| *octet == b'\n') {
            Some(length) => Some((from..from + length, from + length + 1)),
            None if is_last && !rest.is_empty() => Some((from..self.rest.len(), self.rest.len())),
            None => None,
        }
    }
}
