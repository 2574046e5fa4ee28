//! Opening a spool: reads what a previous run left, newest segment first, and says what is open.
//!
//! Bodies are read only of segments that have no valid index, which after a crash is the last one. Going
//! backwards, a message's end is known before the message is met, and the first copy met is the newest.

use super::disk::Disk;
use super::envelope::{BadEnvelope, decode};
use super::group::{Small, Staged};
use super::journal::{Journal, JournalOptions, location};
use super::ledger::Place;
use super::record::{BadRecord, Kind, point_meta, progress_meta};
use super::report::{DropReason, Dropped, OpenRecipient, Point, Recovered, RecoveredMessage, SpoolError, Standing};
use super::segment::{
    Contents, Entry, SEGMENT_HEADER_BYTES, Scan, damaged_name, index_name, index_temporary_name, parse_name,
    read_index, scan, segment_name,
};
use crate::message::{Envelope, MessageId};
use hashbrown::HashMap;
use smallvec::SmallVec;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IoSlice};
use std::sync::Arc;

/// A segment's records, and how they were found.
pub(super) struct Loaded {
    pub(super) contents: Contents,
    dropped: Vec<(u64, u64, DropReason)>,
    /// The file's octets when it had no valid index.
    octets: Option<Vec<u8>>,
}

/// Opens the spool on `disk`: recovers it and begins a new segment.
///
/// # Errors
/// See [`SpoolError`].
pub fn open<D: Disk>(disk: D, spool: u16, options: JournalOptions) -> Result<(Journal<D>, Recovered), SpoolError> {
    let mut recovery = Recovery::new(Journal::empty(disk, spool, options));
    let segments = recovery.list()?;
    for &segment in &segments {
        recovery.journal.ledger.segment_mut(segment).sealed = true;
    }
    for &segment in segments.iter().rev() {
        recovery.read_segment(segment)?;
    }
    recovery.finish()
}

/// The records of a segment, from its index or else from all of it; `None` when it is not a segment at all.
pub(super) fn load_segment<D: Disk>(disk: &D, segment: u32) -> Result<Option<Loaded>, SpoolError> {
    let name = segment_name(segment);
    let file = disk.open(&name).map_err(|error| failed("opening", &name, error))?;
    let length = disk.length(&file).map_err(|error| failed("reading", &name, error))?;
    // An index that cannot be read is no loss: the segment itself tells the same.
    let index = read_whole(disk, &index_name(segment)).unwrap_or_default();
    match read_index(segment, index) {
        Ok(Some(contents)) if contents.end <= length => {
            return Ok(Some(Loaded { contents, dropped: Vec::new(), octets: None }));
        }
        Err(BadRecord::NewerVersion) => return Err(SpoolError::NewerVersion { file: index_name(segment), offset: 0 }),
        _ => {}
    }
    let octets = read_whole(disk, &name).map_err(|error| failed("reading", &name, error))?;
    match scan(&octets) {
        Ok(Some(Scan { contents, dropped })) => Ok(Some(Loaded { contents, dropped, octets: Some(octets) })),
        Ok(None) => Ok(None),
        Err(offset) => Err(SpoolError::NewerVersion { file: name, offset }),
    }
}

fn read_whole<D: Disk>(disk: &D, name: &str) -> io::Result<Vec<u8>> {
    let file = disk.open(name)?;
    let length = usize::try_from(disk.length(&file)?).map_err(|_| io::ErrorKind::FileTooLarge)?;
    let mut octets = vec![0; length];
    disk.read_exact_at(&file, 0, &mut octets)?;
    Ok(octets)
}

fn failed(doing: &str, file: &str, error: io::Error) -> SpoolError {
    SpoolError::Disk { doing: format!("{doing} {file}"), error }
}

/// What progress records tell of a message.
#[derive(Default)]
struct Story {
    done: SmallVec<[u16; 4]>,
    /// The newest of each recipient.
    standings: Vec<(u16, Standing)>,
}

impl Story {
    /// Adds a record that is older than all that are known.
    fn add(&mut self, kind: Kind, recipients: SmallVec<[u16; 4]>, standing: Standing) {
        if kind == Kind::Done {
            return self.done.extend(recipients);
        }
        for index in recipients {
            if !self.standings.iter().any(|(known, _)| *known == index) {
                self.standings.push((index, standing));
            }
        }
    }

    /// Recipients of `count` that are not finished.
    fn open(&self, count: u16) -> SmallVec<[OpenRecipient; 1]> {
        let done: BTreeSet<u16> = self.done.iter().copied().collect();
        let standing = |index| {
            let found = self.standings.iter().find(|(known, _)| *known == index);
            found.map(|(_, standing)| *standing).unwrap_or_default()
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

struct Recovery<D: Disk> {
    journal: Journal<D>,
    /// Of messages that were not met yet.
    stories: HashMap<MessageId, Story>,
    /// Open messages, the newest first. The ledger knows them too.
    messages: Vec<RecoveredMessage>,
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

impl<D: Disk> Recovery<D> {
    fn new(journal: Journal<D>) -> Self {
        Self {
            journal,
            stories: HashMap::new(),
            messages: Vec::new(),
            finished: HashMap::new(),
            copied: BTreeMap::new(),
            unrecorded: Vec::new(),
            recorded_after_all: BTreeSet::new(),
            cuts: BTreeMap::new(),
            dropped: Vec::new(),
        }
    }

    /// The segments that exist. Files of unfinished work are removed, as are indexes without their segment.
    fn list(&mut self) -> Result<BTreeSet<u32>, SpoolError> {
        let disk = &self.journal.disk;
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
        self.journal.next_segment = next;
        Ok(segments)
    }

    fn read_segment(&mut self, segment: u32) -> Result<(), SpoolError> {
        let Some(mut loaded) = load_segment(&self.journal.disk, segment)? else {
            return self.set_aside(segment);
        };
        if let Some(&length) = self.cuts.get(&segment) {
            let contents = &mut loaded.contents;
            contents.entries.retain(|entry| u64::from(entry.offset) + entry.header.record_bytes() as u64 <= length);
            contents.end = contents.end.min(length);
            // What lies beyond the cut was refused when it was written; that it is unreadable is no news.
            loaded.dropped.retain(|(offset, ..)| *offset < length);
        }
        let damaged = loaded.dropped.iter().any(|(.., why)| *why != DropReason::TornTail);
        for (offset, octets, why) in loaded.dropped.drain(..) {
            self.dropped.push(Dropped { file: segment_name(segment), offset, octets, why });
        }
        let state = self.journal.ledger.segment_mut(segment);
        state.total = loaded.contents.end;
        state.damaged = damaged;
        for entry in loaded.contents.entries.iter().rev() {
            self.read_entry(segment, entry, loaded.contents.meta(entry))?;
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
        let disk = &self.journal.disk;
        let octets = read_whole(disk, &name).map_err(|error| failed("reading", &name, error))?;
        let empty = octets.len() <= SEGMENT_HEADER_BYTES || octets.iter().all(|octet| *octet == 0);
        let result = if empty { disk.remove(&name) } else { disk.rename(&name, &damaged_name(segment)) };
        result.map_err(|error| failed("setting aside", &name, error))?;
        if !empty {
            let octets = octets.len() as u64;
            self.dropped.push(Dropped { file: damaged_name(segment), offset: 0, octets, why: DropReason::BadSegment });
        }
        self.journal.ledger.forget_segment(segment);
        Ok(())
    }

    /// Cuts a torn tail off, makes what was read durable (a process that died may have left it unsynced), and
    /// writes the missing index. A damaged segment gets no index, so that each start reports it until it is gone.
    fn tidy(&self, segment: u32, contents: &Contents, octets: &[u8], damaged: bool) -> Result<(), SpoolError> {
        let disk = &self.journal.disk;
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
                of
            }),
            Kind::Recorded => {
                let Some(point) = point_meta(meta) else { return Err(newer(segment, entry)) };
                self.journal.ledger.note_recorded(point);
                return Ok(());
            }
            kind => progress_meta(kind, meta).map(|progress| {
                let id = entry.header.id;
                // Behind a copy stands what was known when it was made, unless a crash has parted them.
                let stories = if self.is_met(id) { self.copied.entry(id).or_default() } else { self.story(id) };
                stories.add(kind, progress.recipients, progress.standing);
                progress.segment
            }),
        };
        match tells_of {
            Some(of) => self.journal.ledger.refer(segment, of, octets),
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
        self.journal.ledger.place(id).is_some() || self.finished.contains_key(&id)
    }

    fn read_message(&mut self, segment: u32, entry: &Entry, meta: &[u8]) -> Result<(), SpoolError> {
        let id = entry.header.id;
        let head = entry.header.head_bytes() as u32;
        let place = Place { segment, offset: entry.offset, head, body: entry.header.body };
        let ledger = &mut self.journal.ledger;
        ledger.note_message(place);
        // A record that tells of it stands behind it, so it has been met.
        let recorded = ledger.is_recorded(place);
        if self.is_met(id) {
            self.copied.entry(id).or_default();
            if recorded {
                self.recorded_after_all.insert(id);
            }
            self.journal.ledger.segment_mut(segment).superseded = true;
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
            self.journal.ledger.insert_recovered(id, place, count, &open);
            let location = location(self.journal.spool, place);
            self.messages.push(RecoveredMessage { envelope, location, open });
        }
        Ok(())
    }

    /// Tells of copied messages what stands only before their newest copies. A crash may have parted a copy from the
    /// progress that was written with it. With the older segment its progress would go too, so it is told again of the
    /// newer copy, before anything else happens.
    fn repair_copies(&mut self) {
        let ledger = &mut self.journal.ledger;
        let mut repair = Vec::new();
        self.messages.retain_mut(|message| {
            let id = message.envelope.id();
            let Some(story) = self.copied.remove(&id) else { return true };
            let segment = message.location.segment;
            let count = u16::try_from(message.envelope.recipient_count()).unwrap_or(u16::MAX);
            for &(index, standing) in &story.standings {
                let known = message.open.iter().find(|open| open.index == index).map(|open| open.standing);
                if known == Some(Standing::default()) {
                    ledger.tried(id, &[index], standing);
                }
            }
            ledger.finish(id, &story.done);
            if ledger.place(id).is_none() {
                repair.push(Small::Done { id, segment, recipients: (0..count).collect() });
                return false;
            }
            let snapshot = ledger.snapshot(id);
            repair.extend(Small::of_snapshot(id, segment, &snapshot));
            message.open.retain(|open| !snapshot.done.contains(&open.index));
            for open in &mut message.open {
                let tried = snapshot.tried.iter().find(|(index, _)| *index == open.index);
                open.standing = tried.map_or(open.standing, |(_, standing)| *standing);
            }
            true
        });
        for id in std::mem::take(&mut self.copied).into_keys() {
            if let Some(Finished { segment, done }) = self.finished.remove(&id) {
                repair.push(Small::Done { id, segment, recipients: done });
            }
        }
        self.journal.staged.extend(repair.into_iter().map(Staged::Small));
    }

    fn finish(mut self) -> Result<(Journal<D>, Recovered), SpoolError> {
        self.repair_copies();
        let Self { mut journal, mut messages, mut unrecorded, mut dropped, recorded_after_all, .. } = self;
        unrecorded.retain(|envelope| !recorded_after_all.contains(&envelope.id()));
        // All was read backwards.
        messages.reverse();
        unrecorded.reverse();
        dropped.reverse();
        let recovered = Recovered { messages, unrecorded, dropped, recorded: journal.ledger.behind_all() };
        if recovered.unrecorded.is_empty() {
            journal.ledger.note_recorded(recovered.recorded);
        }
        journal.new_segment().map_err(|error| failed("creating a segment in", "the spool's directory", error))?;
        let mut out = Vec::new();
        journal.commit(true, &mut out);
        if journal.is_failing() {
            let error = io::Error::other(format!("{out:?}"));
            return Err(failed("writing to", "the spool's directory", error));
        }
        Ok((journal, recovered))
    }
}

fn newer(segment: u32, entry: &Entry) -> SpoolError {
    SpoolError::NewerVersion { file: segment_name(segment), offset: u64::from(entry.offset) }
}
