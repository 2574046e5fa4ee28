//! The open messages of previous runs, read again a segment at a time once the search has told which they are. Of what
//! has become of them since, it knows nothing: each is given once.

use super::disk::Disk;
use super::envelope::decode;
use super::journal::location;
use super::ledger::Place;
use super::load::{failed, load_segment, newer};
use super::record::Kind;
use super::report::{OpenRecipient, RecoveredMessage, SpoolError, Standing};
use super::segment::{Contents, segment_name};
use crate::message::MessageId;
use hashbrown::HashMap;
use smallvec::SmallVec;
use std::collections::BTreeMap;
use std::io;
use std::iter::Peekable;
use std::sync::Arc;
use std::vec::IntoIter;

/// See the module. Gives messages in the order in which they lie on disk.
#[derive(Debug)]
pub struct FoundMessages {
    spool: u16,
    /// Where open messages begin, by segment, ascending in each.
    places: BTreeMap<u32, Vec<u32>>,
    /// Of those, whose recipients are not all open and untried.
    uneven: HashMap<MessageId, SmallVec<[OpenRecipient; 1]>>,
    /// Segments that are valid only up to a length.
    cuts: BTreeMap<u32, u64>,
    reading: Option<Reading>,
}

/// A segment that is being read.
#[derive(Debug)]
struct Reading {
    segment: u32,
    contents: Contents,
    /// The next of its entries.
    next: usize,
    wanted: Peekable<IntoIter<u32>>,
}

impl FoundMessages {
    pub(super) fn new(
        spool: u16,
        places: BTreeMap<u32, Vec<u32>>,
        uneven: HashMap<MessageId, SmallVec<[OpenRecipient; 1]>>,
        cuts: BTreeMap<u32, u64>,
    ) -> Self {
        Self { spool, places, uneven, cuts, reading: None }
    }

    /// How many have not been given yet.
    #[must_use]
    pub fn left(&self) -> u64 {
        let reading = self.reading.as_ref().map_or(0, |reading| reading.wanted.len());
        self.places.values().map(|places| places.len() as u64).sum::<u64>() + reading as u64
    }

    /// The next ones, `most` at most; none when there are no more.
    ///
    /// # Errors
    /// A segment cannot be read any more, or holds something else than it did.
    pub fn next<D: Disk>(&mut self, disk: &D, most: usize) -> Result<Vec<RecoveredMessage>, SpoolError> {
        let mut messages = Vec::new();
        while messages.len() < most {
            let mut reading = match self.reading.take() {
                Some(reading) => reading,
                None => match self.places.pop_first() {
                    Some((segment, places)) => self.begin(disk, segment, places)?,
                    None => break,
                },
            };
            self.read(&mut reading, &mut messages, most)?;
            self.reading = (reading.wanted.len() > 0).then_some(reading);
        }
        Ok(messages)
    }

    fn begin<D: Disk>(&self, disk: &D, segment: u32, places: Vec<u32>) -> Result<Reading, SpoolError> {
        let mut loaded = load_segment(disk, segment)?.ok_or_else(|| changed(segment))?;
        if let Some(&length) = self.cuts.get(&segment) {
            loaded.cut(length);
        }
        Ok(Reading { segment, contents: loaded.contents, next: 0, wanted: places.into_iter().peekable() })
    }

    fn read(
        &mut self,
        reading: &mut Reading,
        messages: &mut Vec<RecoveredMessage>,
        most: usize,
    ) -> Result<(), SpoolError> {
        let Reading { segment, contents, next, wanted } = reading;
        while wanted.len() > 0 && messages.len() < most {
            let entry = contents.entries.get(*next).ok_or_else(|| changed(*segment))?;
            *next += 1;
            if wanted.next_if_eq(&entry.offset).is_none() {
                continue;
            }
            let header = entry.header;
            if header.kind != Kind::Message {
                return Err(changed(*segment));
            }
            let envelope = decode(header.id, contents.meta(entry)).map_err(|_| newer(*segment, entry))?;
            let head = header.head_bytes() as u32;
            let place = Place { segment: *segment, offset: entry.offset, head, body: header.body };
            let count = u16::try_from(envelope.recipient_count()).unwrap_or(u16::MAX);
            let untried = |index| OpenRecipient { index, standing: Standing::default() };
            let open = self.uneven.remove(&header.id).unwrap_or_else(|| (0..count).map(untried).collect());
            let location = location(self.spool, place);
            messages.push(RecoveredMessage { envelope: Arc::new(envelope), location, open });
        }
        Ok(())
    }
}

fn changed(segment: u32) -> SpoolError {
    let error = io::Error::new(io::ErrorKind::InvalidData, "it has changed since it was read first");
    failed("reading", &segment_name(segment), error)
}
