//! Removal of segments that nobody needs, and compaction: moving the little that is needed out of a segment,
//! a slice at a time, so that it can be removed.

use super::disk::Disk;
use super::group::{Small, Staged, trailer_names};
use super::journal::{Journal, location};
use super::ledger::{Place, Snapshot};
use super::load::load_segment;
use super::record::{Kind, point_meta, progress_meta, trailer_matches};
use super::report::SpoolCompletion;
use super::segment::{Contents, Entry, damaged_name, index_name, segment_name};
use crate::limits::COMPACTION_SLICE_BYTES;
use bytes::Bytes;
use std::io;
use std::sync::Arc;

/// A segment that is being emptied.
pub(super) struct Compaction<F> {
    segment: u32,
    file: F,
    contents: Contents,
    /// The next entry that is looked at before anything is moved: while a segment is half emptied, no later one may go.
    checked: usize,
    /// The next entry that is moved.
    next: usize,
    /// Why a message could not be read, so that the segment cannot go.
    unreadable: Option<io::Error>,
}

impl<D: Disk> Journal<D> {
    /// Removes segments that are not needed and stages the next slice of compaction; `commit` must follow.
    /// Returns whether there is more to do at once.
    pub fn maintain(&mut self, out: &mut Vec<SpoolCompletion>) -> bool {
        self.remove_segments(out);
        if self.is_failing() {
            // A full disk has room again by what was removed. To move anything takes some.
            return false;
        }
        if self.compaction.is_none() {
            let Some(victim) = self.ledger.victim(self.options.slack_bytes) else { return false };
            match self.begin(victim) {
                Ok(compaction) => self.compaction = Some(compaction),
                Err(error) => {
                    self.stuck(victim, &error, out);
                    return false;
                }
            }
        }
        if let Some(mut compaction) = self.compaction.take()
            && self.carry_slice(&mut compaction, out)
        {
            self.compaction = Some(compaction);
        }
        true
    }

    /// Lets removals that failed be tried again; called now and then.
    pub fn retry_removals(&mut self) {
        self.removal_failed = false;
    }

    fn begin(&self, segment: u32) -> io::Result<Compaction<D::File>> {
        let file = self.disk.open(&segment_name(segment))?;
        let contents = load_segment(&self.disk, segment)
            .map_err(|error| io::Error::other(error.to_string()))?
            .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?
            .contents;
        let is_open = |entry: &&Entry| {
            entry.header.kind == Kind::Message && self.ledger.place(entry.header.id) == Some(place_of(segment, entry))
        };
        let open = self.ledger.segment(segment).map_or(0, |state| state.open);
        if contents.entries.iter().filter(is_open).count() < open as usize {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "not all of its messages are found in it"));
        }
        Ok(Compaction { segment, file, contents, checked: 0, next: 0, unreadable: None })
    }

    /// Reads the next messages that will be moved; false when one cannot be read, and nothing is moved.
    fn check_slice(&mut self, compaction: &mut Compaction<D::File>, out: &mut Vec<SpoolCompletion>) -> bool {
        let mut octets = 0;
        while let Some(entry) = compaction.contents.entries.get(compaction.checked) {
            if octets >= COMPACTION_SLICE_BYTES {
                break;
            }
            if entry.header.kind == Kind::Message
                && self.ledger.place(entry.header.id) == Some(place_of(compaction.segment, entry))
            {
                octets += entry.header.record_bytes();
                if let Err(error) = self.read_rest(compaction, entry) {
                    self.say_damaged(compaction.segment, entry, out);
                    self.stuck(compaction.segment, &error, out);
                    return false;
                }
            }
            compaction.checked += 1;
        }
        true
    }

    /// The body of a message that is moved, and its trailer, which names it.
    fn read_rest(&self, compaction: &Compaction<D::File>, entry: &Entry) -> io::Result<Vec<u8>> {
        let mut rest = vec![0; entry.header.record_bytes() - entry.header.head_bytes()];
        let at = u64::from(entry.offset) + entry.header.head_bytes() as u64;
        self.disk.read_exact_at(&compaction.file, at, &mut rest)?;
        if !trailer_names(&rest, entry.header.id) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a message's end is not what was written"));
        }
        Ok(rest)
    }

    fn say_damaged(&self, segment: u32, entry: &Entry, out: &mut Vec<SpoolCompletion>) {
        let location = location(self.spool, place_of(segment, entry));
        out.push(SpoolCompletion::Damaged { id: entry.header.id, location });
    }

    /// Stages the next records that must outlive the segment; false when the compaction is over.
    fn carry_slice(&mut self, compaction: &mut Compaction<D::File>, out: &mut Vec<SpoolCompletion>) -> bool {
        if compaction.checked < compaction.contents.entries.len() {
            return self.check_slice(compaction, out);
        }
        // Whatever is staged from here on lets the segment go, so it must be durable first.
        self.must_sync = true;
        if compaction.next == compaction.contents.entries.len() {
            // `maintain` is called after the commit of the last slice: all of it is durable now.
            if let Some(error) = compaction.unreadable.take() {
                self.stuck(compaction.segment, &error, out);
            } else if !self.ledger.carried_over(compaction.segment) {
                // To begin again with it would not end.
                self.stuck(compaction.segment, &io::Error::other("not all of it could be moved"), out);
            }
            return false;
        }
        let mut octets = 0;
        while let Some(entry) = compaction.contents.entries.get(compaction.next) {
            if octets >= COMPACTION_SLICE_BYTES {
                break;
            }
            octets += self.carry(compaction, *entry, out);
            compaction.next += 1;
        }
        true
    }

    /// Stages one record when it is needed; returns the octets that were read for it.
    fn carry(&mut self, compaction: &mut Compaction<D::File>, entry: Entry, out: &mut Vec<SpoolCompletion>) -> usize {
        let meta = compaction.contents.meta(&entry);
        let header = entry.header;
        match header.kind {
            Kind::Message => return self.carry_message(compaction, entry, out),
            Kind::Done => {
                if let Some(done) =
                    progress_meta(Kind::Done, meta).filter(|m| self.tells_of_another(m.segment, compaction))
                {
                    let small = Small::Done { id: header.id, segment: done.segment, recipients: done.recipients };
                    self.staged.push_back(Staged::Small(small));
                }
            }
            Kind::Attempt => {
                // With a message that is itself moved goes all that is known of it. A copy stands behind records that
                // are newer than its original, so it must tell the standing of now.
                let place = self.ledger.place(header.id).filter(|place| place.segment != compaction.segment);
                if let (Some(old), Some(place)) = (progress_meta(Kind::Attempt, meta), place) {
                    let tried = self.ledger.told_in(header.id, &old.recipients, compaction.segment);
                    let snapshot = Snapshot { tried, ..Snapshot::default() };
                    let records = Small::of_snapshot(header.id, place.segment, &snapshot);
                    self.staged.extend(records.into_iter().map(Staged::Small));
                }
            }
            Kind::Cut => {
                if let Some(cut) = point_meta(meta).filter(|cut| self.tells_of_another(cut.segment, compaction)) {
                    self.staged.push_back(Staged::Small(Small::Cut(cut)));
                }
            }
            // Each segment begins with the newest one.
            Kind::Recorded => {}
        }
        header.record_bytes()
    }

    fn tells_of_another(&self, segment: u32, compaction: &Compaction<D::File>) -> bool {
        segment != compaction.segment && self.ledger.segment(segment).is_some()
    }

    fn carry_message(
        &mut self,
        compaction: &mut Compaction<D::File>,
        entry: Entry,
        out: &mut Vec<SpoolCompletion>,
    ) -> usize {
        let header = entry.header;
        let from = place_of(compaction.segment, &entry);
        if self.ledger.place(header.id) != Some(from) {
            return 0;
        }
        match self.read_rest(compaction, &entry) {
            Ok(rest) => {
                let (body, trailer) = rest.split_at(header.body as usize);
                if !trailer_matches(trailer, header.id, body) {
                    // It is moved as it is: whoever reads it will see that its checksum is wrong.
                    self.say_damaged(compaction.segment, &entry, out);
                }
                let meta = compaction.contents.meta(&entry).into();
                self.staged.push_back(Staged::Copy { id: header.id, from, meta, rest: Bytes::from(rest) });
            }
            Err(error) => {
                self.say_damaged(compaction.segment, &entry, out);
                compaction.unreadable = Some(error);
            }
        }
        header.record_bytes()
    }

    fn stuck(&mut self, segment: u32, error: &io::Error, out: &mut Vec<SpoolCompletion>) {
        self.ledger.segment_mut(segment).stuck = true;
        let file = segment_name(segment);
        out.push(housekeeping(self.spool, format!("{file} cannot be read for compaction: {error}")));
    }

    /// Removes what can go, one wave: nothing that depends on it goes before its removal is durable.
    fn remove_segments(&mut self, out: &mut Vec<SpoolCompletion>) {
        // Of attempts the newest record is needed, and it may be among those that power can still take.
        let unsynced = self.current.as_ref().is_some_and(|current| current.synced != current.tail);
        if self.removal_failed || unsynced {
            return;
        }
        let removable = self.ledger.removable();
        if removable.is_empty() {
            return;
        }
        let result = removable.iter().try_for_each(|&segment| self.remove_files(segment));
        match result.and_then(|()| self.disk.sync_directory()) {
            Ok(()) => removable.into_iter().for_each(|segment| self.ledger.forget_segment(segment)),
            Err(error) => {
                self.removal_failed = true;
                if !self.is_failing() {
                    out.push(housekeeping(self.spool, format!("removing old segments: {error}")));
                }
            }
        }
    }

    fn remove_files(&self, segment: u32) -> io::Result<()> {
        let name = segment_name(segment);
        let damaged = self.ledger.segment(segment).is_some_and(|state| state.damaged);
        let removed = if damaged { self.disk.rename(&name, &damaged_name(segment)) } else { self.disk.remove(&name) };
        for result in [removed, self.disk.remove(&index_name(segment))] {
            match result {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

/// Where the message of an entry lies.
fn place_of(segment: u32, entry: &Entry) -> Place {
    let head = entry.header.head_bytes() as u32;
    Place { segment, offset: entry.offset, head, body: entry.header.body }
}

fn housekeeping(spool: u16, text: String) -> SpoolCompletion {
    SpoolCompletion::Housekeeping { why: Arc::from(format!("spool {spool}: {text}")) }
}
