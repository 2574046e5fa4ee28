//! The segment that is being written, and its index, which is written alongside.

use super::disk::Disk;
use super::record::Mark;
use super::segment::{
    SEGMENT_HEADER_BYTES, index_header, index_name, index_temporary_name, index_trailer, put_index_entry,
    segment_header, segment_name,
};
use crate::limits::{INDEX_BUFFER_BYTES, SPOOL_SMALL_GROUP_BYTES, SPOOL_ZERO_AHEAD_BYTES};
use std::io::{self, ErrorKind, IoSlice};

/// Zeros are put ahead only in a run of so many small groups: where large ones come between (those of a busy
/// engine, with what became of recipients in small ones between them), the next would write over them at once.
const SMALL_RUN: u8 = 4;

static ZEROS: [u8; SPOOL_ZERO_AHEAD_BYTES] = [0; SPOOL_ZERO_AHEAD_BYTES];

/// Octets of zeros written at a time in a segment of at most `limit` octets.
fn zero_step(limit: u64) -> u64 {
    (ZEROS.len() as u64).min(limit / 8)
}

/// The segment at the end of the log.
pub(super) struct Current<F> {
    pub(super) number: u32,
    pub(super) mark: Mark,
    file: F,
    /// Where the next record goes.
    pub(super) tail: u64,
    /// Everything before it is durable.
    pub(super) synced: u64,
    /// Everything before it was acknowledged to somebody: never less than `synced`.
    pub(super) acknowledged: u64,
    /// The file holds zeros from `tail` to here.
    zeroed: u64,
    /// Small groups in a row before the next one.
    small_run: u8,
    index: Option<IndexWriter<F>>,
}

impl<F> Current<F> {
    /// Makes a new, durable segment with nothing in it.
    pub(super) fn create<D: Disk<File = F>>(disk: &D, spool: u16, number: u32, mark: Mark) -> io::Result<Self> {
        let name = segment_name(number);
        let file = disk.create(&name)?;
        let header = segment_header(spool, number, mark);
        let made = disk
            .write_at(&file, 0, &mut [IoSlice::new(&header)])
            .and_then(|()| disk.sync(&file))
            .and_then(|()| disk.sync_directory());
        if let Err(error) = made {
            // Whatever is left of it has no records; recovery removes it if this does not.
            let _ = disk.remove(&name);
            return Err(error);
        }
        let tail = SEGMENT_HEADER_BYTES as u64;
        let index = Some(IndexWriter::new(number, mark));
        Ok(Self {
            number,
            mark,
            file,
            tail,
            synced: tail,
            acknowledged: tail,
            zeroed: tail,
            small_run: SMALL_RUN,
            index,
        })
    }

    /// Whether it holds no record yet.
    pub(super) fn is_empty(&self) -> bool {
        self.tail == SEGMENT_HEADER_BYTES as u64
    }

    /// Writes `parts` (`octets` together) at the tail.
    pub(super) fn write<D: Disk<File = F>>(
        &mut self,
        disk: &D,
        parts: &mut [IoSlice<'_>],
        octets: u64,
        limit: u64,
    ) -> io::Result<()> {
        let small = octets <= SPOOL_SMALL_GROUP_BYTES;
        if small && self.small_run >= SMALL_RUN && self.tail + octets > self.zeroed {
            // Refused space is no failure yet: the records themselves may still fit.
            let _ = self.put_zeros(disk, limit);
        }
        self.small_run = if small { self.small_run.saturating_add(1) } else { 0 };
        disk.write_at(&self.file, self.tail, parts)?;
        self.tail += octets;
        self.zeroed = self.zeroed.max(self.tail);
        Ok(())
    }

    /// Notes the record whose header and meta part are `head` in the index.
    pub(super) fn note<D: Disk<File = F>>(&mut self, disk: &D, offset: u32, head: &[u8]) {
        let failed = self.index.as_mut().is_some_and(|index| index.note(disk, offset, head).is_err());
        if failed {
            self.abandon_index(disk);
        }
    }

    /// Makes everything written durable.
    pub(super) fn sync<D: Disk<File = F>>(&mut self, disk: &D) -> io::Result<()> {
        disk.sync(&self.file)?;
        self.synced = self.tail;
        self.acknowledged = self.tail;
        Ok(())
    }

    /// Ends the segment, all of which is durable: gives the unused space back and publishes its index. Both can
    /// fail without harm: recovery then reads the whole file.
    pub(super) fn seal<D: Disk<File = F>>(mut self, disk: &D) {
        debug_assert_eq!(self.synced, self.tail, "a segment is synced before it is sealed");
        if self.zeroed > self.tail {
            let _ = disk.set_length(&self.file, self.tail);
        }
        let Some(index) = self.index.take() else { return };
        if index.publish(disk, self.tail).is_err() {
            let _ = disk.remove(&index_temporary_name(self.number));
        }
    }

    /// Gives the segment up after a failed write or sync: cuts off what is not acknowledged, as far as the disk
    /// lets it, and never syncs it again. Returns the length up to which it is valid.
    pub(super) fn poison<D: Disk<File = F>>(mut self, disk: &D) -> u64 {
        let _ = disk.set_length(&self.file, self.acknowledged);
        self.abandon_index(disk);
        self.acknowledged
    }

    /// Writes zeros ahead of the tail, and syncs them, when little is left of the last ones. An error means that
    /// the segment must be poisoned.
    pub(super) fn zero_ahead<D: Disk<File = F>>(&mut self, disk: &D, limit: u64) -> io::Result<()> {
        let wanted = self.small_run >= SMALL_RUN && self.zeroed - self.tail <= zero_step(limit) / 4;
        if !wanted {
            return Ok(());
        }
        match self.put_zeros(disk, limit) {
            Ok(true) => self.sync(disk),
            Ok(false) => Ok(()),
            Err(error) if matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) => {
                // Where there is no room for zeros, there may be some for records.
                self.small_run = 0;
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Appends zeros to the file, within `limit`: a sync after overwriting them is cheaper than one after growing
    /// the file, because it has no length to record. Says whether it did.
    fn put_zeros<D: Disk<File = F>>(&mut self, disk: &D, limit: u64) -> io::Result<bool> {
        let step = zero_step(limit);
        if self.zeroed + step > limit {
            return Ok(false);
        }
        disk.write_at(&self.file, self.zeroed, &mut [IoSlice::new(&ZEROS[..step as usize])])?;
        self.zeroed += step;
        Ok(true)
    }

    fn abandon_index<D: Disk<File = F>>(&mut self, disk: &D) {
        if self.index.take().is_some_and(|index| index.file.is_some()) {
            let _ = disk.remove(&index_temporary_name(self.number));
        }
    }
}

/// Writes a segment's index under a temporary name until the segment ends.
struct IndexWriter<F> {
    segment: u32,
    file: Option<F>,
    written: u64,
    buffer: Vec<u8>,
    hasher: crc32fast::Hasher,
}

impl<F> IndexWriter<F> {
    fn new(segment: u32, mark: Mark) -> Self {
        let buffer = index_header(segment, mark).to_vec();
        Self { segment, file: None, written: 0, buffer, hasher: crc32fast::Hasher::new() }
    }

    fn note<D: Disk<File = F>>(&mut self, disk: &D, offset: u32, head: &[u8]) -> io::Result<()> {
        put_index_entry(&mut self.buffer, offset, head);
        if self.buffer.len() < INDEX_BUFFER_BYTES {
            return Ok(());
        }
        self.hasher.update(&self.buffer);
        self.append(disk)
    }

    fn append<D: Disk<File = F>>(&mut self, disk: &D) -> io::Result<()> {
        let file = match self.file.take() {
            Some(file) => file,
            None => disk.create(&index_temporary_name(self.segment))?,
        };
        disk.write_at(&file, self.written, &mut [IoSlice::new(&self.buffer)])?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        self.file = Some(file);
        Ok(())
    }

    fn publish<D: Disk<File = F>>(mut self, disk: &D, end: u64) -> io::Result<()> {
        self.hasher.update(&self.buffer);
        let trailer = index_trailer(end, self.hasher.clone());
        self.buffer.extend_from_slice(&trailer);
        self.append(disk)?;
        let file = self.file.as_ref().expect("append leaves the file open");
        disk.sync(file)?;
        disk.rename(&index_temporary_name(self.segment), &index_name(self.segment))
    }
}
