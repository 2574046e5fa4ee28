//! A segment's records as they are read from disk: from its index, or else from all of it. Changes nothing there.

use super::disk::Disk;
use super::record::BadRecord;
use super::report::{DropReason, SpoolError};
use super::segment::{Contents, Entry, Scan, index_name, read_index, scan, segment_name};
use std::io;

/// A segment's records, and how they were found.
pub(super) struct Loaded {
    pub(super) contents: Contents,
    pub(super) dropped: Vec<(u64, u64, DropReason)>,
    /// The file's octets when it had no valid index.
    pub(super) octets: Option<Vec<u8>>,
}

impl Loaded {
    /// What lies beyond `length` was refused when it was written; that it is unreadable is no news.
    pub(super) fn cut(&mut self, length: u64) {
        let contents = &mut self.contents;
        contents.entries.retain(|entry| u64::from(entry.offset) + entry.header.record_bytes() as u64 <= length);
        contents.end = contents.end.min(length);
        self.dropped.retain(|(offset, ..)| *offset < length);
    }
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

/// All octets of a file.
pub(super) fn read_whole<D: Disk>(disk: &D, name: &str) -> io::Result<Vec<u8>> {
    let file = disk.open(name)?;
    let length = usize::try_from(disk.length(&file)?).map_err(|_| io::ErrorKind::FileTooLarge)?;
    let mut octets = vec![0; length];
    disk.read_exact_at(&file, 0, &mut octets)?;
    Ok(octets)
}

/// A refusal of the disk as an error.
pub(super) fn failed(doing: &str, file: &str, error: io::Error) -> SpoolError {
    SpoolError::Disk { doing: format!("{doing} {file}"), error }
}

/// A record that this program cannot read although its checksum is right.
pub(super) fn newer(segment: u32, entry: &Entry) -> SpoolError {
    SpoolError::NewerVersion { file: segment_name(segment), offset: u64::from(entry.offset) }
}
