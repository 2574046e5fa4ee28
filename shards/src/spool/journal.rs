//! One spool directory: stages what is to be written, commits it in groups, and answers for it.
//!
//! Owned by the spool's thread (or a simulation). Nothing is acknowledged before its sync; a failed write or
//! sync gives the segment up for good, fails every message of the group, and writes the progress records of
//! that segment again into the next one.

use super::compact::Compaction;
use super::current::Current;
use super::disk::Disk;
use super::group::{Encoded, Small, Staged, message_bytes_bound};
use super::ledger::{Ledger, Place};
pub use super::options::JournalOptions;
use super::record::{HEADER_BYTES, Mark};
use super::recover::Findings;
use super::report::{Point, Progress, SpoolCompletion};
use super::segment::segment_name;
use crate::limits::{SPOOL_ENVELOPE_BYTES_MAX, SPOOL_PENDING_ATTEMPTS, SPOOL_RECORD_BYTES_MAX};
use crate::message::{Body, Envelope, Location, MessageId};
use smallvec::SmallVec;
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

/// See the module.
pub struct Journal<D: Disk> {
    pub(super) disk: D,
    pub(super) spool: u16,
    pub(super) options: JournalOptions,
    pub(super) ledger: Ledger,
    pub(super) next_segment: u32,
    pub(super) current: Option<Current<D::File>>,
    pub(super) staged: VecDeque<Staged>,
    /// Small records that are written and not synced.
    unsynced: Vec<Small>,
    /// What is staged must be synced whatever the policy.
    pub(super) must_sync: bool,
    /// What the last recorded-record says.
    marked: Point,
    /// As long as the outcome log may lack receptions of previous runs: the first segment of this one, and up to which
    /// point the log has those of this run. A recorded-record would speak of all that lies before it.
    withheld: Option<(u32, Point)>,
    failing: bool,
    /// It fails, and too many ends wait.
    behind: bool,
    pub(super) compaction: Option<Compaction<D::File>>,
    pub(super) removal_failed: bool,
    encoded: Encoded,
    chunk: Chunk,
}

/// What is being written, to be settled once it is durable.
#[derive(Default)]
struct Chunk {
    messages: Vec<(u64, MessageId, Place, u16)>,
    copies: Vec<(MessageId, Place)>,
    /// Segment that a record tells of, and the record's octets.
    refers: Vec<(u32, u64)>,
    /// Of an attempt-record: message, recipients, octets.
    told: Vec<(MessageId, SmallVec<[u16; 4]>, u64)>,
}

impl Chunk {
    fn note(&mut self, small: &Small) {
        let octets = small.record_bytes() as u64;
        self.refers.extend(small.tells_of().map(|of| (of, octets)));
        if let Small::Attempt { id, recipients, .. } = small {
            self.told.push((*id, recipients.clone(), octets));
        }
    }
}

/// A group could not be written.
struct GroupFailed {
    doing: &'static str,
    segment: u32,
    error: io::Error,
}

impl GroupFailed {
    fn text(&self, spool: u16) -> Arc<str> {
        let hint = match self.error.kind() {
            io::ErrorKind::StorageFull => " (the spool's file system is full)",
            io::ErrorKind::QuotaExceeded => " (the spool's disk quota is used up)",
            _ => "",
        };
        let file = segment_name(self.segment);
        format!("{} {file} of spool {}: {}{hint}", self.doing, spool, self.error).into()
    }
}

impl<D: Disk> Journal<D> {
    /// A journal with nothing in it; `recover::open` fills it.
    pub(super) fn empty(disk: D, spool: u16, options: JournalOptions) -> Self {
        Self {
            disk,
            spool,
            options,
            ledger: Ledger::default(),
            next_segment: 1,
            current: None,
            staged: VecDeque::new(),
            unsynced: Vec::new(),
            must_sync: false,
            marked: Point::default(),
            withheld: None,
            failing: false,
            behind: false,
            compaction: None,
            removal_failed: false,
            encoded: Encoded::default(),
            chunk: Chunk::default(),
        }
    }

    /// What is open and where, for reading.
    #[must_use]
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// The disk under it.
    #[must_use]
    pub fn disk(&self) -> &D {
        &self.disk
    }

    /// Whether the last write or sync failed and none has succeeded since.
    #[must_use]
    pub fn is_failing(&self) -> bool {
        self.failing
    }

    /// Whether records are staged, or written and not synced.
    #[must_use]
    pub fn has_unsynced(&self) -> bool {
        !self.staged.is_empty() || self.current.as_ref().is_some_and(|current| current.synced != current.tail)
    }

    /// Stages a message; answered by the next `commit`. At most once for an id.
    pub fn store(&mut self, ticket: u64, envelope: Arc<Envelope>, body: Body, out: &mut Vec<SpoolCompletion>) {
        let why = if message_bytes_bound(&envelope, &body) > SPOOL_RECORD_BYTES_MAX {
            "the message is larger than the spool takes"
        } else if message_bytes_bound(&envelope, &Body::new()) > SPOOL_ENVELOPE_BYTES_MAX {
            "the envelope is larger than the spool takes"
        } else if envelope.recipient_count() == 0 || u16::try_from(envelope.recipient_count()).is_err() {
            "the number of recipients is not one that the spool takes"
        } else {
            self.staged.push_back(Staged::Message { ticket, envelope, body });
            return;
        };
        out.push(SpoolCompletion::Failed { ticket, why: why.into() });
    }

    /// Stages what became of recipients. What is no longer open is passed over.
    pub fn progress(&mut self, progress: Progress) {
        let small = match progress {
            Progress::Done { id, recipients } => {
                let place = self.ledger.finish(id, &recipients);
                place.map(|place| Small::Done { id, segment: place.segment, recipients })
            }
            Progress::Attempt { id, recipients, standing } => {
                let place = self.ledger.tried(id, &recipients, standing);
                place.map(|place| Small::Attempt { id, segment: place.segment, recipients, standing })
            }
            Progress::Recorded(point) => {
                self.note_recorded(point);
                None
            }
        };
        self.staged.extend(small.map(Staged::Small));
        if self.failing && self.staged.len() > SPOOL_PENDING_ATTEMPTS {
            self.forget_oldest_attempts();
        }
    }

    /// Whether there are segments of previous runs. Before the first segment of this one.
    pub(super) fn expect_older(&mut self, some: bool) {
        self.withheld = some.then(|| (self.next_segment, Point::default()));
    }

    /// What previous runs left is known from here on; `commit` must follow. Before it, the journal must be told nothing
    /// of these messages.
    pub fn adopt(&mut self, findings: Findings) {
        self.ledger.absorb(findings.ledger);
        self.staged.extend(findings.repair.into_iter().map(Staged::Small));
        self.must_sync = true;
    }

    /// The outcome log has the receptions of all that previous runs left, which lies before `point`.
    pub fn older_are_recorded(&mut self, point: Point) {
        let held = self.withheld.take().map(|(_, held)| held).unwrap_or_default();
        self.ledger.note_recorded(point.max(held));
    }

    fn note_recorded(&mut self, point: Point) {
        match &mut self.withheld {
            Some((first, held)) if point.segment >= *first => *held = point.max(*held),
            _ => self.older_are_recorded(point),
        }
    }

    /// Writes what is staged and answers for it. With `sync`, or when the policy wants it for a message, all of it
    /// is durable on return; unless it failed, which the answers say. A failure fails every staged message.
    pub fn commit(&mut self, sync: bool, out: &mut Vec<SpoolCompletion>) {
        self.write_group(sync, out);
        let behind = self.failing && self.waiting_ends() >= self.options.pending_ends;
        if std::mem::replace(&mut self.behind, behind) != behind {
            out.push(SpoolCompletion::Behind(behind));
        }
    }

    /// Messages whose end is staged.
    fn waiting_ends(&self) -> usize {
        self.staged.iter().filter(|staged| matches!(staged, Staged::Small(Small::Done { .. }))).count()
    }

    fn write_group(&mut self, sync: bool, out: &mut Vec<SpoolCompletion>) {
        let mut sync = std::mem::take(&mut self.must_sync) || sync;
        if self.ledger.recorded() > self.marked {
            self.mark_recorded();
        }
        for _ in 0..2 {
            let Err(failed) = self.write_staged(sync, out) else { return };
            self.give_up(&failed, out);
            // Progress records of the segment that was given up go to a fresh one at once, when there can be one.
            sync = true;
        }
    }

    /// Uses an idle moment to prepare the disk for the next group.
    pub fn idle(&mut self, out: &mut Vec<SpoolCompletion>) {
        let limit = self.options.segment_bytes;
        let Some(current) = self.current.as_mut().filter(|current| current.synced == current.tail) else { return };
        if let Err(error) = current.zero_ahead(&self.disk, limit) {
            let failed = GroupFailed { doing: "preparing", segment: current.number, error };
            self.give_up(&failed, out);
            self.commit(true, out);
        }
    }

    /// Commits, syncs and seals, so that the next start need not read the last segment. Says for how many messages an
    /// end could not be written: the next start finds them open, and they end once more.
    pub fn close(mut self, out: &mut Vec<SpoolCompletion>) -> usize {
        self.commit(true, out);
        if self.current.as_ref().is_some_and(|current| current.synced == current.tail) {
            self.seal_current();
            // Without it the next start reads the last segment; nothing is lost.
            let _ = self.disk.sync_directory();
        }
        self.waiting_ends()
    }

    fn write_staged(&mut self, sync: bool, out: &mut Vec<SpoolCompletion>) -> Result<(), GroupFailed> {
        while !self.staged.is_empty() {
            self.make_room(out)?;
            self.write_chunk(sync, out)?;
        }
        if self.failing && self.current.is_none() {
            // Nothing is left to write, and nothing will come while mail is refused: whether the disk works again
            // can only be learnt by trying it.
            let made = self.new_segment();
            made.map_err(|error| GroupFailed { doing: "creating", segment: self.next_segment - 1, error })?;
        }
        if self.failing || sync && self.current.as_ref().is_some_and(|current| current.synced != current.tail) {
            self.sync_current(out)?;
        }
        Ok(())
    }

    /// Makes sure that the current segment takes the next staged record.
    fn make_room(&mut self, out: &mut Vec<SpoolCompletion>) -> Result<(), GroupFailed> {
        let next = self.staged.front().map_or(0, |staged| self.staged_bytes(staged));
        if let Some(current) = &self.current {
            if current.is_empty() || current.tail + next <= self.options.segment_bytes {
                return Ok(());
            }
            // What an index claims must be durable before the index is.
            if current.synced != current.tail {
                self.sync_current(out)?;
            }
            self.seal_current();
        }
        self.new_segment().map_err(|error| GroupFailed { doing: "creating", segment: self.next_segment - 1, error })
    }

    pub(super) fn new_segment(&mut self) -> io::Result<()> {
        let number = self.next_segment;
        self.next_segment += 1;
        let mark = Mark(mix(self.options.seed, number));
        let current = Current::create(&self.disk, self.spool, number, mark)?;
        self.ledger.segment_mut(number).total = current.tail;
        self.current = Some(current);
        // Each segment holds one, so that older ones can go.
        self.mark_recorded();
        Ok(())
    }

    fn mark_recorded(&mut self) {
        self.marked = self.ledger.recorded();
        if self.marked > Point::default() {
            self.staged.push_back(Staged::Small(Small::Recorded(self.marked)));
        }
    }

    fn seal_current(&mut self) {
        if let Some(current) = self.current.take() {
            self.ledger.segment_mut(current.number).sealed = true;
            current.seal(&self.disk);
        }
    }

    fn sync_current(&mut self, out: &mut Vec<SpoolCompletion>) -> Result<(), GroupFailed> {
        let Some(current) = self.current.as_mut() else { return Ok(()) };
        current.sync(&self.disk).map_err(|error| GroupFailed { doing: "syncing", segment: current.number, error })?;
        self.unsynced.clear();
        if std::mem::take(&mut self.failing) {
            out.push(SpoolCompletion::Working);
        }
        Ok(())
    }

    /// Octets that a staged record takes at most.
    fn staged_bytes(&self, staged: &Staged) -> u64 {
        let octets = match staged {
            Staged::Message { envelope, body, .. } => message_bytes_bound(envelope, body),
            Staged::Small(small) => small.record_bytes(),
            Staged::Copy { id, meta, rest, .. } => {
                let snapshot = Small::of_snapshot(*id, 0, &self.ledger.snapshot(*id));
                HEADER_BYTES + meta.len() + rest.len() + snapshot.iter().map(Small::record_bytes).sum::<usize>()
            }
        };
        octets as u64
    }

    /// Writes as many staged records as fit into the current segment, syncs when it must, and answers.
    fn write_chunk(&mut self, sync: bool, out: &mut Vec<SpoolCompletion>) -> Result<(), GroupFailed> {
        let mut encoded = std::mem::take(&mut self.encoded);
        self.encode_chunk(&mut encoded);
        let current = self.current.as_mut().expect("make_room has made it");
        let limit = self.options.segment_bytes;
        let written = current.write(&self.disk, &mut encoded.slices(), encoded.octets, limit);
        if written.is_ok() {
            for (offset, head) in encoded.heads() {
                current.note(&self.disk, offset, head);
            }
        }
        encoded.clear();
        self.encoded = encoded;
        written.map_err(|error| GroupFailed { doing: "writing", segment: current.number, error })?;
        let (number, tail) = (current.number, current.tail);
        self.ledger.segment_mut(number).total = tail;
        if sync || self.options.sync_before_answer && !self.chunk.messages.is_empty() {
            self.sync_current(out)?;
        } else if !self.chunk.messages.is_empty() {
            current.acknowledged = tail;
        }
        self.settle(number, out);
        Ok(())
    }

    fn encode_chunk(&mut self, encoded: &mut Encoded) {
        let current = self.current.as_ref().expect("make_room has made it");
        let (number, mark, start) = (current.number, current.mark, current.tail);
        let empty = current.is_empty();
        while let Some(staged) = self.staged.front() {
            let at = start + encoded.octets;
            let first = empty && encoded.octets == 0;
            if !first && at + self.staged_bytes(staged) > self.options.segment_bytes {
                break;
            }
            let offset = |encoded: &Encoded| u32::try_from(start + encoded.octets).expect("segments are below 4 GiB");
            let offset_now = offset(encoded);
            match self.staged.pop_front() {
                Some(Staged::Message { ticket, envelope, body }) => {
                    let head = encoded.message(mark, offset_now, &envelope, &body);
                    let place = Place { segment: number, offset: offset_now, head, body: body.len() as u32 };
                    // `store` has refused more recipients than that.
                    let recipients = envelope.recipient_count() as u16;
                    self.chunk.messages.push((ticket, envelope.id(), place, recipients));
                }
                Some(Staged::Small(small)) => {
                    encoded.small(mark, offset_now, &small);
                    self.chunk.note(&small);
                    self.unsynced.push(small);
                }
                // A message that was finished or moved meanwhile is not written again: its done-record would not
                // tell of the new copy.
                Some(Staged::Copy { id, from, meta, rest }) if self.ledger.place(id) == Some(from) => {
                    let head = encoded.copy(mark, offset_now, id, &meta, &rest);
                    self.chunk.copies.push((id, Place { segment: number, offset: offset_now, head, ..from }));
                    for small in Small::of_snapshot(id, number, &self.ledger.snapshot(id)) {
                        encoded.small(mark, offset(encoded), &small);
                        self.chunk.note(&small);
                    }
                }
                Some(Staged::Copy { .. }) | None => {}
            }
        }
    }

    /// What was written is as durable as the policy wants it: the ledger learns of it, and whoever waits.
    fn settle(&mut self, number: u32, out: &mut Vec<SpoolCompletion>) {
        for (ticket, id, place, recipients) in self.chunk.messages.drain(..) {
            self.ledger.insert(id, place, recipients);
            out.push(SpoolCompletion::Stored { ticket, location: location(self.spool, place) });
        }
        for (id, place) in self.chunk.copies.drain(..) {
            self.ledger.relocate(id, place);
            out.push(SpoolCompletion::Moved { id, location: location(self.spool, place) });
        }
        for (of, octets) in self.chunk.refers.drain(..) {
            self.ledger.refer(number, of, octets);
        }
        for (id, recipients, octets) in self.chunk.told.drain(..) {
            self.ledger.told(id, &recipients, number, octets);
        }
    }

    /// After a failed write or sync: the segment is given up, every message not yet answered fails, copies are
    /// forgotten (their originals stand), and progress records wait for the next segment.
    fn give_up(&mut self, failed: &GroupFailed, out: &mut Vec<SpoolCompletion>) {
        let why = failed.text(self.spool);
        let chunk = std::mem::take(&mut self.chunk);
        let fail = |ticket| SpoolCompletion::Failed { ticket, why: why.clone() };
        out.extend(chunk.messages.iter().map(|(ticket, ..)| fail(*ticket)));
        let mut small: VecDeque<Staged> = self.unsynced.drain(..).map(Staged::Small).collect();
        for staged in self.staged.drain(..) {
            match staged {
                Staged::Message { ticket, .. } => out.push(fail(ticket)),
                Staged::Small(_) => small.push_back(staged),
                Staged::Copy { .. } => {}
            }
        }
        // The next segment begins with a newer one.
        small.retain(|staged| !matches!(staged, Staged::Small(Small::Recorded(_))));
        self.staged = small;
        self.compaction = None;
        if let Some(current) = self.current.take() {
            let segment = current.number;
            let length = current.poison(&self.disk);
            let state = self.ledger.segment_mut(segment);
            state.sealed = true;
            state.total = length;
            self.staged.push_front(Staged::Small(Small::Cut(Point { segment, offset: length })));
        }
        // Said once: it is tried again and again.
        if !std::mem::replace(&mut self.failing, true) {
            out.push(SpoolCompletion::Failing { why });
        }
    }

    /// Keeps the memory of a spool bounded that cannot write: see [`SPOOL_PENDING_ATTEMPTS`].
    fn forget_oldest_attempts(&mut self) {
        let is_attempt = |staged: &Staged| matches!(staged, Staged::Small(Small::Attempt { .. }));
        let attempts = self.staged.iter().filter(|staged| is_attempt(staged)).count();
        let mut surplus = attempts.saturating_sub(SPOOL_PENDING_ATTEMPTS / 2);
        if attempts > SPOOL_PENDING_ATTEMPTS {
            self.staged.retain(|staged| {
                let forget = surplus > 0 && is_attempt(staged);
                surplus -= usize::from(forget);
                !forget
            });
        }
    }
}

/// Where the body of the record at `place` lies.
pub(super) fn location(spool: u16, place: Place) -> Location {
    let offset = u64::from(place.offset) + u64::from(place.head);
    Location { spool, segment: place.segment, offset, length: place.body }
}

/// A segment's mark from the start's random number (SplitMix64).
fn mix(seed: u64, segment: u32) -> u64 {
    let mut z = seed.wrapping_add(u64::from(segment).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::GroupFailed;
    use std::io;

    /// Who runs the machine reads what to do, not only what the kernel calls it.
    #[test]
    fn a_full_disk_and_a_full_quota_are_told_apart() {
        let text = |kind| GroupFailed { doing: "writing", segment: 1, error: io::Error::from(kind) }.text(2);
        assert!(text(io::ErrorKind::StorageFull).contains("file system is full"));
        assert!(text(io::ErrorKind::QuotaExceeded).contains("quota is used up"));
        let other = text(io::ErrorKind::TimedOut);
        assert!(other.contains("writing") && other.contains("of spool 2") && !other.contains('('), "{other}");
    }
}
