//! What the outcome log of one shard holds behind the place up to which ends were counted: read at a start, because
//! the last run may have ended before it could store what it had counted last.
//!
//! Bounded by what was written since the last counts were stored (a second, or so many octets of records without an
//! end). Never changes a file, and counts no line without an end.

use super::outcome_file::{current_name, fingerprint, rotated, rotated_stamp, unlogged_name, whole_lines};
use super::tally::{Place, Places, Tally};
use crate::outcome::is_listed;
use crate::time::Timestamp;
use serde::Deserialize;
use std::borrow::Cow;
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

/// Of a record, what counts an end.
#[derive(Deserialize)]
struct Record<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    queue: Cow<'a, str>,
    #[serde(borrow)]
    rule: Option<Mark<'a>>,
}

#[derive(Deserialize)]
struct Mark<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow)]
    kind: Cow<'a, str>,
}

/// A line of the file of unlogged ends.
#[derive(Deserialize)]
struct Unlogged<'a> {
    #[serde(borrow)]
    rule: Cow<'a, str>,
    #[serde(borrow)]
    queue: Cow<'a, str>,
    count: u64,
}

/// The ends of `shard` behind `counted`, and the places up to which they go. `None`, for a shard that never counted
/// before: none, and the ends of its files.
///
/// # Errors
/// A file cannot be read.
pub fn uncounted(directory: &Path, shard: u16, counted: Option<&Places>, now: Timestamp) -> io::Result<Tally> {
    let mut tally = Tally::default();
    let current = directory.join(current_name(shard));
    let unlogged = directory.join(unlogged_name(shard));
    let Some(counted) = counted else {
        tally.places = Places { log: end_of(&current, now)?, unlogged: end_of(&unlogged, now)? };
        return Ok(tally);
    };
    for (path, from) in files_behind(directory, shard, &counted.log)? {
        each_line(&path, from, |line| count_record(&mut tally, line))?;
    }
    if let Some((path, from)) = only_file_behind(&unlogged, &counted.unlogged)? {
        each_line(&path, from, |line| {
            if let Ok(ends) = serde_json::from_slice::<Unlogged<'_>>(line) {
                tally.add(&ends.rule.into(), &ends.queue.into(), ends.count);
            }
        })?;
    }
    tally.places = Places { log: end_of(&current, now)?, unlogged: end_of(&unlogged, now)? };
    Ok(tally)
}

fn count_record(tally: &mut Tally, line: &[u8]) {
    // Most records name no rule and need not be understood. A line that power took half of is nobody's end.
    if memchr::memmem::find(line, b"\"rule\":{").is_none() {
        return;
    }
    let Ok(record) = serde_json::from_slice::<Record<'_>>(line) else { return };
    let ends = !matches!(&*record.kind, "Reception" | "TransientFailure");
    if let Some(mark) = record.rule.filter(|mark| ends && is_listed(&mark.kind)) {
        tally.add(&mark.id.into(), &record.queue.into(), 1);
    }
}

/// The files that hold something behind a place, oldest first, and from where on.
fn files_behind(directory: &Path, shard: u16, place: &Place) -> io::Result<Vec<(PathBuf, u64)>> {
    let mut files: Vec<(String, PathBuf)> = Vec::new();
    match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
        Ok(entries) => {
            for entry in entries {
                let entry = entry?;
                let name = entry.file_name();
                if let Some((_, stamp)) = name.to_str().and_then(rotated).filter(|(of, _)| *of == shard) {
                    files.push((stamp.to_owned(), entry.path()));
                }
            }
        }
    }
    files.sort_unstable();
    // The file that is written sorts behind all.
    files.push(("~".to_owned(), directory.join(current_name(shard))));
    for at in (0..files.len()).rev() {
        if place.first.is_some() && first_of(&files[at].1)? == place.first {
            let mut behind: Vec<(PathBuf, u64)> = files.drain(at..).map(|(_, path)| (path, 0)).collect();
            behind[0].1 = place.octets;
            return Ok(behind);
        }
    }
    // It is gone, or there was none yet: what is left was begun later, but for files given away before.
    let known = rotated_stamp(place.at);
    files.retain(|(stamp, _)| stamp.get(..known.len()).is_none_or(|stamp| stamp > known.as_str()));
    Ok(files.into_iter().map(|(_, path)| (path, 0)).collect())
}

/// The same of a file that has no older ones.
fn only_file_behind(path: &Path, place: &Place) -> io::Result<Option<(PathBuf, u64)>> {
    let first = first_of(path)?;
    let from = if place.first == first { place.octets } else { 0 };
    Ok(first.map(|_| (path.to_path_buf(), from)))
}

fn open(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        // It does not exist yet, or was removed to make room.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn first_of(path: &Path) -> io::Result<Option<u64>> {
    open(path)?.map_or(Ok(None), |file| fingerprint(&file))
}

/// Where the next line will stand. All before it is made durable, so that nothing is counted that power may still
/// take.
fn end_of(path: &Path, now: Timestamp) -> io::Result<Place> {
    let Some(file) = open(path)? else { return Ok(Place { at: now, ..Place::default() }) };
    file.sync_data()?;
    let octets = whole_lines(&file, file.metadata()?.len())?;
    Ok(Place { first: fingerprint(&file)?, octets, at: now })
}

/// Each whole line from an offset on, without its end.
fn each_line(path: &Path, from: u64, mut each: impl FnMut(&[u8])) -> io::Result<()> {
    let Some(mut file) = open(path)? else { return Ok(()) };
    let end = whole_lines(&file, file.metadata()?.len())?;
    let Some(left) = end.checked_sub(from) else { return Ok(()) };
    file.seek(SeekFrom::Start(from))?;
    let mut lines = BufReader::with_capacity(READ_BYTES, file.take(left));
    let mut line = Vec::new();
    while lines.read_until(b'\n', &mut line)? > 0 {
        each(&line);
        line.clear();
    }
    Ok(())
}

/// Octets read at a time.
const READ_BYTES: usize = 256 << 10;
