//! Opening a spool. Mail can be stored at once; what previous runs left is searched for beside that, made known to
//! the journal, and then read again a part at a time on its way to the queues.
//!
//! Until the journal has adopted what was found, it knows nothing of it: nothing may be told it of those messages, and
//! the caller keeps its segments from being removed by not asking for maintenance.

use super::disk::Disk;
use super::found::FoundMessages;
use super::group::Small;
use super::journal::{Journal, JournalOptions};
use super::ledger::Ledger;
use super::load::failed;
use super::record::BadRecord;
use super::report::{Dropped, Point, Recovered, SpoolError};
use super::search::search;
use super::segment::{SEGMENT_HEADER_BYTES, header_mark, index_name, index_temporary_name, parse_name, segment_name};
use crate::message::Envelope;
use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

/// The segments of previous runs.
#[derive(Debug)]
pub struct Older {
    pub(super) spool: u16,
    pub(super) segments: BTreeSet<u32>,
}

impl Older {
    /// How many.
    #[must_use]
    pub fn segments(&self) -> usize {
        self.segments.len()
    }
}

/// What a search has found.
pub struct Search {
    /// For [`Journal::adopt`], before anything else is told of these messages.
    pub findings: Findings,
    /// The open messages.
    pub messages: FoundMessages,
    /// What could not be read; the operator must hear of each.
    pub dropped: Vec<Dropped>,
    /// See [`Recovered::unrecorded`].
    pub unrecorded: Vec<Arc<Envelope>>,
    /// See [`Recovered::recorded`].
    pub recorded: Point,
}

/// What the journal has to know of previous runs.
pub struct Findings {
    pub(super) ledger: Ledger,
    /// Records to be written before anything happens to these messages.
    pub(super) repair: Vec<Small>,
}

/// Opens the spool on `disk` for new messages: begins a new segment behind those that exist.
///
/// # Errors
/// The disk's; or a segment cannot be opened, or was begun by a newer version. Who could not go on without its mail
/// shall take none.
pub fn begin<D: Disk>(disk: D, spool: u16, options: JournalOptions) -> Result<(Journal<D>, Older), SpoolError> {
    let mut journal = Journal::empty(disk, spool, options);
    let segments = list(&mut journal)?;
    segments.iter().try_for_each(|&segment| look_at(journal.disk(), segment))?;
    journal.expect_older(!segments.is_empty());
    journal.new_segment().map_err(|error| failed("creating a segment in", "the spool's directory", error))?;
    Ok((journal, Older { spool, segments }))
}

/// Opens the spool on `disk`, and finds all that it holds.
///
/// # Errors
/// See [`SpoolError`].
pub fn open<D: Disk>(disk: D, spool: u16, options: JournalOptions) -> Result<(Journal<D>, Recovered), SpoolError> {
    let (mut journal, older) = begin(disk, spool, options)?;
    let found = search(journal.disk(), &older, |_| true)?.expect("nobody ends the search");
    let Search { findings, messages: mut in_parts, dropped, unrecorded, recorded } = found;
    journal.adopt(findings);
    if unrecorded.is_empty() {
        journal.older_are_recorded(recorded);
    }
    let mut out = Vec::new();
    journal.commit(true, &mut out);
    if journal.is_failing() {
        let error = io::Error::other(format!("{out:?}"));
        return Err(failed("writing to", "the spool's directory", error));
    }
    let messages = in_parts.next(journal.disk(), usize::MAX)?;
    Ok((journal, Recovered { messages, dropped, unrecorded, recorded }))
}

/// Whether the segment can be opened and read by this program, as far as its beginning tells.
fn look_at<D: Disk>(disk: &D, segment: u32) -> Result<(), SpoolError> {
    let name = segment_name(segment);
    let file = disk.open(&name).map_err(|error| failed("opening", &name, error))?;
    let mut header = [0; SEGMENT_HEADER_BYTES];
    // One that is shorter, or damaged, is the search's to judge.
    let read = disk.read_exact_at(&file, 0, &mut header);
    match read.map(|()| header_mark(&header)) {
        Ok(Err(BadRecord::NewerVersion)) => Err(SpoolError::NewerVersion { file: name, offset: 0 }),
        _ => Ok(()),
    }
}

/// The segments that exist. Files of unfinished work are removed, as are indexes without their segment.
fn list<D: Disk>(journal: &mut Journal<D>) -> Result<BTreeSet<u32>, SpoolError> {
    let disk = journal.disk();
    let names = disk.list().map_err(|error| failed("listing", "the spool's directory", error))?;
    let parsed: Vec<(u32, &str)> = names.iter().filter_map(|name| parse_name(name)).collect();
    let segments: BTreeSet<u32> = parsed.iter().filter(|(_, end)| *end == "log").map(|(n, _)| *n).collect();
    for &(number, ending) in &parsed {
        match ending {
            "idx.tmp" => drop(disk.remove(&index_temporary_name(number))),
            "idx" if !segments.contains(&number) => drop(disk.remove(&index_name(number))),
            _ => {}
        }
    }
    let highest = parsed.iter().map(|(number, _)| *number).max().unwrap_or(0);
    let next = highest.checked_add(1).ok_or_else(|| {
        let error = io::Error::other("no number is left for a new segment behind it: no engine has written it");
        failed("reading", &segment_name(highest), error)
    })?;
    journal.next_segment = next;
    Ok(segments)
}
