//! Messages over which the engine died. A shard that panics notes what it had in flight; what was in flight at
//! two such ends in a row starts in quarantine, so that one message cannot keep the engine from running.
//!
//! Files in the spool's root: `in-flight-NNN`, left by a core that panicked, and `suspects`, what the end before
//! had in flight. A start after any other end (a stop, a power cut) forgets them.

use crate::message::{CoreId, MessageId};
use hashbrown::HashSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

const SUSPECTS: &str = "suspects";
const IN_FLIGHT: &str = "in-flight-";

/// Ids in one file; more in flight than that are not one message's doing.
const IDS_MAX: usize = 65_536;

/// Notes what a core had in flight when it panicked. The process ends right after, so a failure is only told.
///
/// # Errors
/// The file system's.
pub fn note(spool_root: &Path, core: CoreId, ids: &[MessageId]) -> io::Result<()> {
    let mut file = File::create(spool_root.join(format!("{IN_FLIGHT}{:03}", core.0)))?;
    for id in ids.iter().take(IDS_MAX) {
        writeln!(file, "{id}")?;
    }
    file.sync_all()
}

/// At a start: which messages were in flight at the last two ends, both by a panic.
///
/// # Errors
/// The file system's.
pub fn take(spool_root: &Path) -> io::Result<HashSet<MessageId>> {
    let earlier = read(&spool_root.join(SUSPECTS))?;
    let mut last = HashSet::new();
    for entry in fs::read_dir(spool_root)? {
        let path = entry?.path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(IN_FLIGHT)) {
            last.extend(read(&path)?);
            fs::remove_file(&path)?;
        }
    }
    if last.is_empty() {
        forget(spool_root)?;
    } else {
        let mut file = File::create(spool_root.join(SUSPECTS))?;
        for id in &last {
            writeln!(file, "{id}")?;
        }
        file.sync_all()?;
    }
    Ok(earlier.intersection(&last).copied().collect())
}

/// After an end in order, nothing is suspect.
///
/// # Errors
/// The file system's.
pub fn forget(spool_root: &Path) -> io::Result<()> {
    match fs::remove_file(spool_root.join(SUSPECTS)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The ids in a file; lines that are none (a torn write) are passed over.
fn read(path: &Path) -> io::Result<HashSet<MessageId>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(text.lines().take(IDS_MAX).filter_map(|line| line.parse().ok()).collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(HashSet::new()),
        Err(error) => Err(error),
    }
}
