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

/// What is known of one message so far.
#[derive(Default)]
struct Story {
    /// The newest copy, once met.
    newest: Option<Place>,
    /// Kept while some recipient looks open.
    envelope: Option<Arc<Envelope>>,
    done: SmallVec<[u16; 4]>,
    standings: Vec<(u16, Standing)>,
    /// There is an older copy too.
    copied: bool,
    /// The outcome log has its reception.
    recorded: bool,
}

impl Story {
    fn open(&self) -> SmallVec<[OpenRecipient; 1]> {
        let Some(envelope) = &self.envelope else { return SmallVec::new() };
        let done: BTreeSet<u16> = self.done.iter().copied().collect();
        let count = u16::try_from(envelope.recipient_count()).unwrap_or(u16::MAX);
        let standing = |index| {
            let found = self.standings.iter().find(|(known, _)| *known == index);
            found.map(|(_, standing)| *standing).unwrap_or_default()
        };
        let open = (0..count).filter(|index| !done.contains(index));
        open.map(|index| OpenRecipient { index, standing: standing(index) }).collect()
    }
}

struct Recovery<D: Disk> {
    journal: Journal<D>,
    stories: HashMap<MessageId, Story>,
    /// Segments that are valid only up to a length.
    cuts: BTreeMap<u32, u64>,
    dropped: Vec<Dropped>,
}

impl<D: Disk> Recovery<D> {
    fn new(journal: Journal<D>) -> Self {
        Self { journal, stories: HashMap::new(), cuts: BTreeMap::new(), dropped: Vec::new() }
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
        self.journal.next_segment = highest.saturating_add(1);
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
                let story = self.stories.entry(entry.header.id).or_default();
                if kind == Kind::Done {
                    story.done.extend(progress.recipients);
                } else {
                    for index in progress.recipients {
                        if !story.standings.iter().any(|(known, _)| *known == index) {
                            story.standings.push((index, progress.standing));
                        }
                    }
                }
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

    fn read_message(&mut self, segment: u32, entry: &Entry, meta: &[u8]) -> Result<(), SpoolError> {
        let id = entry.header.id;
        let head = entry.header.head_bytes() as u32;
        let place = Place { segment, offset: entry.offset, head, body: entry.header.body };
        self.journal.ledger.note_message(place);
        let story = self.stories.entry(id).or_default();
        if story.newest.is_some() {
            story.copied = true;
            story.recorded |= self.journal.ledger.is_recorded(place);
            self.journal.ledger.segment_mut(segment).superseded = true;
            return Ok(());
        }
        story.newest = Some(place);
        match decode(id, meta) {
            Ok(envelope) => story.envelope = Some(Arc::new(envelope)),
            Err(BadEnvelope::NewerVersion | BadEnvelope::Malformed) => return Err(newer(segment, entry)),
        }
        // A record that tells of it stands behind it, so it has been met.
        story.recorded = self.journal.ledger.is_recorded(place);
        if story.recorded && story.open().is_empty() {
            story.envelope = None;
        }
        Ok(())
    }

    fn finish(self) -> Result<(Journal<D>, Recovered), SpoolError> {
        let Self { mut journal, stories, dropped, .. } = self;
        let mut recovered = Recovered { dropped, ..Recovered::default() };
        let (mut places, mut unrecorded) = (Vec::new(), Vec::new());
        for (id, story) in stories {
            let Some(place) = story.newest else { continue };
            let open = story.open();
            let mut repair = Vec::new();
            if let Some(envelope) = story.envelope.as_ref().filter(|_| !story.recorded) {
                unrecorded.push(((place.segment, place.offset), envelope.clone()));
            }
            if story.copied && open.is_empty() && !story.done.is_empty() {
                repair.push(Small::Done { id, segment: place.segment, recipients: story.done.clone() });
            }
            if let Some(envelope) = story.envelope.filter(|_| !open.is_empty()) {
                let count = u16::try_from(envelope.recipient_count()).unwrap_or(u16::MAX);
                journal.ledger.insert_recovered(id, place, count, &open);
                if story.copied {
                    repair = Small::of_snapshot(id, place.segment, &journal.ledger.snapshot(id));
                }
                let location = location(journal.spool, place);
                places.push(((place.segment, place.offset), RecoveredMessage { envelope, location, open }));
            }
            // A crash may have parted a copy from the progress that was written with it. With the older segment its
            // progress would go too, so it is told again of the newer copy, before anything else happens.
            journal.staged.extend(repair.into_iter().map(Staged::Small));
        }
        places.sort_unstable_by_key(|(place, _)| *place);
        recovered.messages = places.into_iter().map(|(_, message)| message).collect();
        unrecorded.sort_unstable_by_key(|(place, _)| *place);
        recovered.unrecorded = unrecorded.into_iter().map(|(_, envelope)| envelope).collect();
        recovered.recorded = journal.ledger.behind_all();
        if recovered.unrecorded.is_empty() {
            journal.ledger.note_recorded(recovered.recorded);
        }
        recovered.dropped.reverse();
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
