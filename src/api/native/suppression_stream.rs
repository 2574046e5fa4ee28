//! Suppressions as JSON lines, in and out, of any number: a line at a time, committed every 10,000. A line that is
//! wrong is counted and named, and the others go in. While some are committed the next are read.

use crate::api::desk::{Ask, Desk, pending};
use crate::api::fields::{Fields, Wrong};
use crate::api::mailerq::suppressions::{read, value_only};
use crate::http::{Refusal, Response};
use crate::json::{self, Json};
use crate::rules::change::{Changed, Request as Change, Suppression};
use futures_lite::future::poll_once;
use std::collections::{BTreeSet, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

/// Entries of one change.
const BATCH: usize = 10_000;

/// Octets of the lines of one change, or little more.
const BATCH_BYTES: usize = 4 << 20;

/// Batches that are on their way to the disk and the cores at once. The rules' thread makes one transaction of those
/// that wait for it. More would keep a pause that somebody asks for meanwhile waiting for longer.
const BATCHES_UNDER_WAY: usize = 4;

/// Octets of one line; a longer one ends the import, since nothing that long is an entry.
const LINE_BYTES_MAX: usize = 16 * 1024;

const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

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
    Ok(Response::json(200, &Json::object(counts).with(totals.rest())))
}

/// `DELETE` of lines with a `value`, such as an export has.
pub async fn remove(desk: &Rc<Desk>, ask: Ask<'_>) -> Result<Response, Refusal> {
    let parse = |fields: &Fields| -> Result<Arc<str>, Wrong> {
        let value = value_only(fields)?;
        fields.finish()?;
        Ok(value)
    };
    let totals = stream(desk, ask, parse, Change::Unsuppress).await?;
    Ok(Response::json(200, &Json::object([("removed", Some(totals.removed.into()))]).with(totals.rest())))
}

#[derive(Default)]
struct Totals {
    created: u64,
    updated: u64,
    removed: u64,
    /// Nodes for which nobody waited, of any part.
    pending: BTreeSet<Arc<str>>,
    named: Vec<Json>,
    error_count: u64,
}

impl Totals {
    fn rest(&self) -> [(&'static str, Option<Json>); 3] {
        [
            ("pending", pending(&self.pending)),
            ("errors", Some(Json::Array(self.named.clone()))),
            ("error_count", Some(self.error_count.into())),
        ]
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
    let (mut batch, mut octets) = (Vec::new(), 0);
    let mut commits = Commits { under_way: VecDeque::new(), totals: Totals::default(), failed: None };
    let make = |batch: &mut Vec<T>| -> Commit<'_> { Box::pin(desk.change(&ask.by, change(std::mem::take(batch)))) };
    loop {
        let chunk = match ask.request.body.chunk().await {
            Ok(chunk) => chunk,
            Err(refusal) => return Err(commits.end(refusal).await),
        };
        let is_last = chunk.is_none();
        lines.rest.extend(chunk.unwrap_or_default());
        let mut used = 0;
        while let Some((line, end)) = lines.line(used, is_last) {
            lines.number += 1;
            used = end;
            let line = &lines.rest[line];
            // Windows' editors begin a file with a byte order mark.
            let line = line.strip_prefix(BYTE_ORDER_MARK).filter(|_| lines.number == 1).unwrap_or(line);
            if line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            octets += line.len();
            match entry(line, &parse) {
                Ok(entry) => batch.push(entry),
                Err(why) => commits.totals.wrong(lines.number, &why),
            }
            if batch.len() == BATCH || octets > BATCH_BYTES {
                octets = 0;
                commits.begin(make(&mut batch)).await?;
            }
        }
        lines.rest.drain(..used);
        if lines.rest.len() > LINE_BYTES_MAX {
            let text = format!("line {} is longer than {LINE_BYTES_MAX} octets", lines.number + 1);
            return Err(commits.end(Refusal::closing(400, text)).await);
        }
        if is_last {
            break;
        }
    }
    if !batch.is_empty() {
        commits.begin(make(&mut batch)).await?;
    }
    commits.wait(0).await?;
    Ok(commits.totals)
}

type Commit<'a> = Pin<Box<dyn Future<Output = Result<Changed, Refusal>> + 'a>>;

/// Batches that were begun, the oldest first.
struct Commits<'a> {
    under_way: VecDeque<Commit<'a>>,
    /// What came of those that are over.
    totals: Totals,
    failed: Option<Refusal>,
}

impl<'a> Commits<'a> {
    /// Begins one, once there are few enough under way.
    ///
    /// # Errors
    /// Why one could not be made. Those begun after it are over too by then.
    async fn begin(&mut self, mut commit: Commit<'a>) -> Result<(), Refusal> {
        self.wait(BATCHES_UNDER_WAY - 1).await?;
        // A change is sent off when it is asked about for the first time.
        match poll_once(&mut commit).await {
            None => self.under_way.push_back(commit),
            Some(over) => self.note(over),
        }
        self.check().await
    }

    /// Waits until no more than so many are under way.
    async fn wait(&mut self, most: usize) -> Result<(), Refusal> {
        while self.under_way.len() > most {
            let oldest = self.under_way.pop_front().expect("the length was asked for just above");
            let over = oldest.await;
            self.note(over);
        }
        self.check().await
    }

    fn note(&mut self, over: Result<Changed, Refusal>) {
        match over {
            Ok(changed) => {
                self.totals.created += changed.created;
                self.totals.updated += changed.updated;
                self.totals.removed += changed.removed;
                self.totals.pending.extend(changed.pending);
            }
            Err(refusal) => drop(self.failed.get_or_insert(refusal)),
        }
    }

    async fn check(&mut self) -> Result<(), Refusal> {
        match self.failed.take() {
            Some(refusal) => Err(self.end(refusal).await),
            None => Ok(()),
        }
    }

    /// Nothing more is begun. Why, and how much was done until then.
    async fn end(&mut self, mut refusal: Refusal) -> Refusal {
        while let Some(next) = self.under_way.pop_front() {
            if let Ok(changed) = next.await {
                self.note(Ok(changed));
            }
        }
        // What was done stays: the same lines again do no harm.
        let done = self.totals.created + self.totals.updated + self.totals.removed;
        refusal.text = format!("{}; {done} entries are done, send all again", refusal.text).into();
        refusal.closes = true;
        refusal
    }
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
