//! Finding what previous runs left in a spool: reads its segments, newest first, and says what is open.
//!
//! Bodies are read only of segments that have no valid index, which after a crash is the last one. Going
//! backwards, a message's end is known before the message is met, and the first copy met is the newest. Of an
//! open message only its place is kept: its envelope is read again when it is wanted, so that a deep queue is never in
//! memory twice.

use super::disk::Disk;
use super::envelope::{BadEnvelope, decode};
use super::found::FoundMessages;
use super::group::Small;
use super::ledger::{Ledger, Place, Tried};
use super::load::{failed, load_segment, newer, read_whole};
use super::record::{Kind, point_meta, progress_meta};
use super::recover::{Findings, Older, Search};
use super::report::{DropReason, Dropped, OpenRecipient, Point, SpoolError, Standing};
use super::segment::{
    Contents, Entry, SEGMENT_HEADER_BYTES, damaged_name, index_name, index_temporary_name, segment_name,
};
use crate::message::{Envelope, MessageId};
use hashbrown::HashMap;
use smallvec::SmallVec;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IoSlice};
use std::sync::Arc;

/// Searches the segments of previous runs. `go_on` hears how many of them have been read, and ends the search by
/// `false`; there is no result then.
///
/// # Errors
/// See [`SpoolError`].
pub fn search<D: Disk>(
    disk: &D,
    older: &Older,
    mut go_on: impl FnMut(usize) -> bool,
) -> Result<Option<Search>, SpoolError> {
    let mut recovery = Recovery::new(disk, older);
    for (read, &segment) in older.segments.iter().rev().enumerate() {
        if !go_on(read) {
            return Ok(None);
        }
        recovery.read_segment(segment)?;
    }
    Ok(Some(recovery.finish()))
}

/// What progress records tell of a message.
#[derive(Default)]
struct Story {
    done: SmallVec<[u16; 4]>,
    /// The newest of each recipient, by index.
    standings: Vec<Tried>,
}

impl Story {
    /// Adds a record of `octets` in segment `at` that is older than all that are known.
    fn add(&mut self, kind: Kind, recipients: SmallVec<[u16; 4]>, standing: Standing, at: u32, octets: u64) {
        if kind == Kind::Done {
            return self.done.extend(recipients);
        }
        let share = u16::try_from(octets / recipients.len().max(1) as u64).unwrap_or(u16::MAX);
        for index in recipients {
            if let Err(place) = self.standings.binary_search_by_key(&index, |known| known.index) {
                self.standings.insert(place, Tried { index, share, at, standing });
            }
        }
    }

    /// Recipients of `count` that are not finished.
    fn open(&self, count: u16) -> SmallVec<[OpenRecipient; 1]> {
        let done: BTreeSet<u16> = self.done.iter().copied().collect();
        let standing = |index| {
            let found = self.standings.binary_search_by_key(&index, |known| known.index);
            found.map(|found| self.standings[found].standing).unwrap_or_default()
        };
        let open = (0..count).filter(|index| !done.contains(index));
        open.map(|index| OpenRecipient { index, standing: standing(index) }).collect()
    }
}

/// A message of which nothing is open, as long as an older copy of it may be met.
struct Finished {
    /// Where the newest copy lies.
    segment: u32,
    done: SmallVec<[u16; 4]>,
}

struct Recovery<'a, D> {
    disk: &'a D,
    spool: u16,
    ledger: Ledger,
    /// Of messages that were not met yet.
    stories: HashMap<MessageId, Story>,
    /// Where open messages begin, by segment, ascending in each.
    places: BTreeMap<u32, Vec<u32>>,
    /// Of those, whose recipients are not all open and untried.
    uneven: HashMap<MessageId, SmallVec<[OpenRecipient; 1]>>,
    finished: HashMap<MessageId, Finished>,
    /// Messages of which an older copy was met, and what stands before the newest one.
    copied: BTreeMap<MessageId, Story>,
    /// Messages whose reception the outcome log may lack, the newest first.
    unrecorded: Vec<Arc<Envelope>>,
    /// Those of them of which it has it: an older copy lies before the point up to which all is recorded.
    recorded_after_all: BTreeSet<MessageId>,
    /// Segments that are valid only up to a length.
    cuts: BTreeMap<u32, u64>,
    dropped: Vec<Dropped>,
}

impl<'a, D: Disk> Recovery<'a, D> {
    fn new(disk: &'a D, older: &Older) -> Self {
        let mut ledger = Ledger::default();
        for &segment in &older.segments {
            ledger.segment_mut(segment).sealed = true;
        }
        Self {
            disk,
            spool: older.spool,
            ledger,
            stories: HashMap::new(),
            places: BTreeMap::new(),
            uneven: HashMap::new(),
            finished: HashMap::new(),
            copied: BTreeMap::new(),
            unrecorded: Vec::new(),
            recorded_after_all: BTreeSet::new(),
            cuts: BTreeMap::new(),
            dropped: Vec::new(),
        }
    }

    fn read_segment(&mut self, segment: u32) -> Result<(), SpoolError> {
        let Some(mut loaded) = load_segment(self.disk, segment)? else {
            return self.set_aside(segment);
        };
        if let Some(&length) = self.cuts.get(&segment) {
            loaded.cut(length);
        }
        let damaged = loaded.dropped.iter().any(|(.., why)| *why != DropReason::TornTail);
        for (offset, octets, why) in loaded.dropped.drain(..) {
            self.dropped.push(Dropped { file: segment_name(segment), offset, octets, why });
        }
        let state = self.ledger.segment_mut(segment);
        state.total = loaded.contents.end;
        state.damaged = damaged;
        for entry in loaded.contents.entries.iter().rev() {
            self.read_entry(segment, entry, loaded.contents.meta(entry))?;
        }
        if let Some(places) = self.places.get_mut(&segment) {
            places.reverse();
            places.shrink_to_fit();
        }
        match loaded.octets {
            Some(octets) => self.tidy(segment, &loaded.contents, &octets, damaged),
            None => Ok(()),
        }
    }

    /// A file without any sign of a segment in it: what a crash left of a creation is removed, anything else is
    /// kept under another name for the operator.
    fn set_aside(&mut self, segment: u32) -> Result<(), SpoolError> {
        let name = segment_name(segment);
        let disk = self.disk;
        let octets = read_whole(disk, &name).map_err(|error| failed("reading", &name, error))?;
        let empty = octets.len() <= SEGMENT_HEADER_BYTES || octets.iter().all(|octet| *octet == 0);
        let result = if empty { disk.remove(&name) } else { disk.rename(&name, &damaged_name(segment)) };
        result.map_err(|error| failed("setting aside", &name, error))?;
        if !empty {
            let octets = octets.len() as u64;
            self.dropped.push(Dropped { file: damaged_name(segment), offset: 0, octets, why: DropReason::BadSegment });
        }
        self.ledger.forget_segment(segment);
        Ok(())
    }

    /// Cuts a torn tail off, makes what was read durable (a process that died may have left it unsynced), and
    /// writes the missing index. A damaged segment gets no index, so that each start reports it until it is gone.
    fn tidy(&self, segment: u32, contents: &Contents, octets: &[u8], damaged: bool) -> Result<(), SpoolError> {
        let disk = self.disk;
        let name = segment_name(segment);
        let cut_and_sync = || -> io::Result<()> {
            let file = disk.open(&name)?;
            if octets.len() as u64 > contents.end {
                disk.set_length(&file, contents.end)?;
            }
            disk.sync(&file)
        };
        cut_and_sync().map_err(|error| failed("syncing", &name, error))?;
        let write_index = || -> io::Result<()> {
            let temporary = index_temporary_name(segment);
            let file = disk.create(&temporary)?;
            disk.write_at(&file, 0, &mut [IoSlice::new(&contents.index(segment, octets))])?;
            disk.sync(&file)?;
            disk.rename(&temporary, &index_name(segment))
        };
        if !damaged {
            // Without an index the next start reads the segment again; no harm.
            let _ = write_index();
        }
        Ok(())
    }

    fn read_entry(&mut self, segment: u32, entry: &Entry, meta: &[u8]) -> Result<(), SpoolError> {
        let octets = entry.header.record_bytes() as u64;
        let tells_of = match entry.header.kind {
            Kind::Message => return self.read_message(segment, entry, meta),
            Kind::Cut => point_meta(meta).map(|Point { segment: of, offset: length }| {
                let cut = self.cuts.entry(of).or_insert(length);
                *cut = length.min(*cut);
                Some(of)
            }),
            Kind::Recorded => {
                let Some(point) = point_meta(meta) else { return Err(newer(segment, entry)) };
                self.ledger.note_recorded(point);
                return Ok(());
            }
            kind => progress_meta(kind, meta).map(|progress| {
                let id = entry.header.id;
                // Behind a copy stands what was known when it was made, unless a crash has parted them.
                let stories = if self.is_met(id) { self.copied.entry(id).or_default() } else { self.story(id) };
                stories.add(kind, progress.recipients, progress.standing, segment, octets);
                // Attempts are needed by their recipients, each the newest one, and not by a segment.
                (kind == Kind::Done).then_some(progress.segment)
            }),
        };
        match tells_of {
            Some(of) => of.into_iter().for_each(|of| self.ledger.refer(segment, of, octets)),
            // Its checksum is right and its version is ours, so somebody else's program has written it.
            None => return Err(newer(segment, entry)),
        }
        Ok(())
    }

    fn story(&mut self, id: MessageId) -> &mut Story {
        self.stories.entry(id).or_default()
    }

    /// Whether the newest copy of a message has been met.
    fn is_met(&self, id: MessageId) -> bool {
        self.ledger.place(id).is_some() || self.finished.contains_key(&id)
    }

    fn read_message(&mut self, segment: u32, entry: &Entry, meta: &[u8]) -> Result<(), SpoolError> {
        let id = entry.header.id;
        let head = entry.header.head_bytes() as u32;
        let place = Place { segment, offset: entry.offset, head, body: entry.header.body };
        let ledger = &mut self.ledger;
        ledger.note_message(place);
        // A record that tells of it stands behind it, so it has been met.
        let recorded = ledger.is_recorded(place);
        if self.is_met(id) {
            self.copied.entry(id).or_default();
            if recorded {
                self.recorded_after_all.insert(id);
            }
            self.ledger.segment_mut(segment).superseded = true;
            return Ok(());
        }
        let envelope = match decode(id, meta) {
            Ok(envelope) => Arc::new(envelope),
            Err(BadEnvelope::NewerVersion | BadEnvelope::Malformed) => return Err(newer(segment, entry)),
        };
        if !recorded {
            self.unrecorded.push(envelope.clone());
        }
        let count = u16::try_from(envelope.recipient_count()).unwrap_or(u16::MAX);
        let story = self.stories.remove(&id).unwrap_or_default();
        let open = story.open(count);
        if open.is_empty() {
            self.finished.insert(id, Finished { segment, done: story.done });
        } else {
            self.ledger.insert_recovered(id, place, count, &open);
            for tried in &story.standings {
                self.ledger.told(id, &[tried.index], tried.at, tried.share.into());
            }
            self.places.entry(segment).or_default().push(place.offset);
            let untried = |of: &OpenRecipient| of.standing == Standing::default();
            if open.len() < usize::from(count) || !open.iter().all(untried) {
                self.uneven.insert(id, open);
            }
        }
        Ok(())
    }

    /// Tells of copied messages what stands only before their newest copies. A crash may have parted a copy from the
    /// progress that was written with it. With the older segment its progress would go too, so it is told again of the
    /// newer copy, before anything else happens.
    fn repair_copies(&mut self) -> Vec<Small> {
        let mut repair = Vec::new();
        for (id, story) in std::mem::take(&mut self.copied) {
            let Some(place) = self.ledger.place(id) else {
                if let Some(Finished { segment, done }) = self.finished.remove(&id) {
                    repair.push(Small::Done { id, segment, recipients: done });
                }
                continue;
            };
            let segment = place.segment;
            let all = 0..self.ledger.recipients(id);
            let tried = self.ledger.snapshot(id).tried;
            for &Tried { index, standing, .. } in &story.standings {
                if tried.binary_search_by_key(&index, |(known, _)| *known).is_err() {
                    self.ledger.tried(id, &[index], standing);
                }
            }
            self.ledger.finish(id, &story.done);
            if self.ledger.place(id).is_none() {
                repair.push(Small::Done { id, segment, recipients: all.collect() });
                self.uneven.remove(&id);
                let places = self.places.get_mut(&segment).expect("it was open, so its place was noted");
                places.retain(|offset| *offset != place.offset);
                continue;
            }
            let snapshot = self.ledger.snapshot(id);
            repair.extend(Small::of_snapshot(id, segment, &snapshot));
            let standing = |index| {
                let tried = snapshot.tried.binary_search_by_key(&index, |(known, _)| *known);
                tried.map(|found| snapshot.tried[found].1).unwrap_or_default()
            };
            let open = all.filter(|index| !snapshot.done.contains(index));
            self.uneven.insert(id, open.map(|index| OpenRecipient { index, standing: standing(index) }).collect());
        }
        repair
    }

    fn finish(mut self) -> Search {
        let repair = self.repair_copies();
        let Self { spool, ledger, places, uneven, cuts, mut unrecorded, mut dropped, recorded_after_all, .. } = self;
        unrecorded.retain(|envelope| !recorded_after_all.contains(&envelope.id()));
        // All was read backwards.
        unrecorded.reverse();
        dropped.reverse();
        let recorded = ledger.behind_all();
        let messages = FoundMessages::new(spool, places, uneven, cuts);
        Search { findings: Findings { ledger, repair }, messages, dropped, unrecorded, recorded }
    }
}
