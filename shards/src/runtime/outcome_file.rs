//! The files of one shard's outcome log: the one that is written, `delivery-NNN.jsonl`, and the rotated ones,
//! `delivery-NNN.<time>.jsonl`; beside them `unlogged-NNN.counts`, for ends that leave no record. Writes whole lines
//! only; knows nothing of what is in them.

use super::spool_disk::create_directory;
use super::tally::Place;
use crate::time::Timestamp;
use siphasher::sip::SipHasher13;
use std::fs::{self, File, OpenOptions};
use std::hash::Hasher as _;
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

/// The file that is written.
pub(super) struct LogFile {
    path: PathBuf,
    shard: u16,
    file: File,
    /// Fingerprint of its first line, once that is known.
    first: Option<u64>,
    /// Octets up to the end of the last line written.
    length: u64,
    /// Octets that are durable.
    synced: u64,
    /// The time in the name of the file rotated last.
    rotated_at: Timestamp,
}

impl LogFile {
    /// Opens or makes the file, durably, and cuts off what stands behind its last line end. Also says how many
    /// octets that were.
    pub(super) fn open(directory: &Path, shard: u16) -> io::Result<(Self, u64)> {
        create_directory(directory)?;
        let (file, torn) = Self::open_at(directory.join(current_name(shard)), shard)?;
        // Names sort over starts, too: a reception that is recorded again bears the time of the first.
        let rotated_at = newest_rotation(directory, shard)?;
        Ok((Self { rotated_at, ..file }, torn))
    }

    /// The same of the file of unlogged ends.
    pub(super) fn open_unlogged(directory: &Path, shard: u16) -> io::Result<(Self, u64)> {
        create_directory(directory)?;
        Self::open_at(directory.join(unlogged_name(shard)), shard)
    }

    fn open_at(path: PathBuf, shard: u16) -> io::Result<(Self, u64)> {
        let (file, length, torn) = open_file(&path)?;
        File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()?;
        let rotated_at = Timestamp(i64::MIN);
        Ok((Self { path, shard, file, first: None, length, synced: length, rotated_at }, torn))
    }

    /// Path of the file, for messages.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    fn directory(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("."))
    }

    /// The end of what is durable, where everything was before `at`.
    pub(super) fn place(&mut self, at: Timestamp) -> io::Result<Place> {
        if self.first.is_none() {
            self.first = fingerprint(&self.file)?;
        }
        Ok(Place { first: self.first, octets: self.synced, at: at.max(self.rotated_at) })
    }

    /// Forgets all of it, durably.
    pub(super) fn restart(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.sync_data()?;
        (self.first, self.length, self.synced) = (None, 0, 0);
        Ok(())
    }

    /// Octets of the file.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// Finds out whether somebody has cut the file (a rotation that copies and truncates), or removed it, and goes on at
    /// its end, or in a new one. True when it was so: what was not synced is to be written again.
    pub(super) fn follow(&mut self) -> io::Result<bool> {
        let now = self.file.metadata()?;
        if !now.is_file() {
            return Ok(false);
        }
        if now.nlink() == 0 {
            self.reopen()?;
            return Ok(true);
        }
        if now.len() >= self.length {
            return Ok(false);
        }
        let whole = whole_lines(&self.file, now.len())?;
        self.file.set_len(whole)?;
        (self.first, self.length, self.synced) = (None, whole, whole);
        Ok(true)
    }

    /// Writes whole lines at the end. On an error the file is cut back to its last whole line, as far as the
    /// disk lets it; `reopen_after_failure` does it again.
    pub(super) fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        if let Err(error) = self.file.write_all_at(lines, self.length) {
            let _ = self.file.set_len(self.length);
            return Err(error);
        }
        self.length += lines.len() as u64;
        Ok(())
    }

    /// Makes what was written durable.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        self.file.sync_data()?;
        self.synced = self.length;
        Ok(())
    }

    /// After a failed write or sync: opens the file anew, and cuts off all that is not known to be durable, which
    /// the caller writes again. (A failed sync marks what it could not write as clean; only writing it again
    /// makes the next sync mean something.)
    pub(super) fn reopen_after_failure(&mut self) -> io::Result<()> {
        let path = self.path().to_path_buf();
        let before = self.file.metadata()?;
        if let Ok(now) = fs::metadata(&path) {
            let same = (before.dev(), before.ino()) == (now.dev(), now.ino());
            if same && now.len() > self.synced {
                OpenOptions::new().write(true).open(&path)?.set_len(self.synced)?;
            }
        }
        self.reopen()
    }

    /// Opens whatever now has the file's name, or makes it.
    pub(super) fn reopen(&mut self) -> io::Result<()> {
        create_directory(self.directory())?;
        let (fresh, _) = Self::open_at(self.path.clone(), self.shard)?;
        *self = Self { rotated_at: self.rotated_at.max(fresh.rotated_at), ..fresh };
        Ok(())
    }

    /// Gives the file, all of which is durable, a name with `at` in it (or a later moment, so that names sort
    /// even when the clock went back) and begins a new one.
    pub(super) fn rotate(&mut self, at: Timestamp) -> io::Result<()> {
        let at = at.max(Timestamp(self.rotated_at.0.saturating_add(1)));
        self.rotated_at = at;
        let mut count = 0;
        let name = loop {
            let name = self.directory().join(rotated_name(self.shard, at, count));
            if !name.try_exists()? {
                break name;
            }
            count += 1;
            if count > SAME_NAME_MAX {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
        };
        match fs::rename(self.path(), name) {
            // Somebody has moved it away, or an earlier rotation got no further than this.
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => self.reopen(),
        }
    }

    /// Removes the oldest rotated files, of all shards, until the rest holds at most `keep_bytes`.
    pub(super) fn prune(&self, keep_bytes: u64) -> io::Result<()> {
        let mut rotated = Vec::new();
        let mut total = 0;
        for entry in fs::read_dir(self.directory())? {
            let entry = entry?;
            let Some(stamp) = entry.file_name().to_str().and_then(stamp_of).map(str::to_owned) else { continue };
            // Another shard's log may have removed it just now.
            let Ok(metadata) = entry.metadata() else { continue };
            total += metadata.len();
            rotated.push((stamp, entry.path(), metadata.len()));
        }
        rotated.sort_unstable();
        for (_, path, length) in rotated {
            if total <= keep_bytes {
                break;
            }
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => total -= length,
            }
        }
        Ok(())
    }
}

/// Files rotated within the same millisecond; more is a fault of the clock.
const SAME_NAME_MAX: u32 = 999;

pub(super) fn current_name(shard: u16) -> String {
    format!("delivery-{shard:03}.jsonl")
}

/// Not a name that readers of the log take for a part of it.
pub(super) fn unlogged_name(shard: u16) -> String {
    format!("unlogged-{shard:03}.counts")
}

/// The beginning of the names of files rotated after `at`, and not before, as they sort.
pub(super) fn rotated_stamp(at: Timestamp) -> String {
    let moment = jiff::Timestamp::from_millisecond(at.0).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    format!("{}Z", moment.strftime("%Y%m%dT%H%M%S%.3f"))
}

/// The time in the name of the file of a shard that was rotated last; before all times when there is none.
fn newest_rotation(directory: &Path, shard: u16) -> io::Result<Timestamp> {
    let mut newest = None;
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name();
        let Some((of, stamp)) = name.to_str().and_then(rotated) else { continue };
        if of == shard && newest.as_deref().is_none_or(|newest| newest < stamp) {
            newest = Some(stamp.to_owned());
        }
    }
    let moment = newest.as_deref().and_then(|stamp| stamp.split_once('Z')).and_then(|(moment, _)| {
        let moment = jiff::civil::DateTime::strptime("%Y%m%dT%H%M%S%.f", moment).ok()?;
        moment.in_tz("UTC").ok()
    });
    Ok(moment.map_or(Timestamp(i64::MIN), |moment| Timestamp(moment.timestamp().as_millisecond())))
}

/// Sorts by time as text: `delivery-000.20260131T235959.123Z-000.jsonl`.
fn rotated_name(shard: u16, at: Timestamp, count: u32) -> String {
    format!("delivery-{shard:03}.{}-{count:03}.jsonl", rotated_stamp(at))
}

/// The time in a rotated file's name; `None` when it is not one.
fn stamp_of(name: &str) -> Option<&str> {
    rotated(name).map(|(_, stamp)| stamp)
}

/// The shard and the time in a rotated file's name; `None` when it is not one.
pub(super) fn rotated(name: &str) -> Option<(u16, &str)> {
    let (shard, stamp) = name.strip_prefix("delivery-")?.strip_suffix(".jsonl")?.split_once('.')?;
    let digits = !shard.is_empty() && shard.bytes().all(|octet| octet.is_ascii_digit());
    Some((shard.parse().ok().filter(|_| digits)?, stamp))
}

/// What tells a file from all others: a hash of its number in the file system and of its first line, or of as much of
/// it as lines are looked at. `None` while it has no line. (Numbers are used again, and two files may begin with the
/// same reception, which is recorded again after a crash; not both.)
pub(super) fn fingerprint(file: &File) -> io::Result<Option<u64>> {
    let number = file.metadata()?.ino();
    let mut head = vec![0; FINGERPRINT_BYTES];
    let mut filled = 0;
    while filled < head.len() {
        match file.read_at(&mut head[filled..], filled as u64)? {
            0 => break,
            more => filled += more,
        }
    }
    let end = memchr::memchr(b'\n', &head[..filled]).or((filled == head.len()).then_some(filled));
    Ok(end.map(|end| {
        let mut hasher = SipHasher13::new();
        hasher.write_u64(number);
        hasher.write(&head[..end]);
        hasher.finish()
    }))
}

/// Octets of a file's first line that make its fingerprint.
const FINGERPRINT_BYTES: usize = 4096;

/// The file, its length up to its last line end, and how many octets stood behind that.
fn open_file(path: &Path) -> io::Result<(File, u64, u64)> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
    let length = file.metadata()?.len();
    let whole = whole_lines(&file, length)?;
    if whole < length {
        file.set_len(whole)?;
        file.sync_data()?;
    }
    Ok((file, whole, length - whole))
}

/// Octets up to and with the last line end.
pub(super) fn whole_lines(file: &File, length: u64) -> io::Result<u64> {
    const STEP: u64 = 64 << 10;
    let mut buffer = vec![0; STEP as usize];
    let mut end = length;
    while end > 0 {
        let start = end.saturating_sub(STEP);
        let part = &mut buffer[..(end - start) as usize];
        file.read_exact_at(part, start)?;
        if let Some(at) = memchr::memrchr(b'\n', part) {
            return Ok(start + at as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}
