//! The number of this start of the engine, from which message ids are made.

use super::spool_disk::create_directory;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;

const NAME: &str = "generation";

/// Takes the next generation and makes it durable before it returns: greater than every earlier one in
/// `spool_root`, and at least `unix_seconds`, so that an emptied directory does not repeat ids either.
///
/// # Errors
/// The file system's, `InvalidData` when the file holds anything but a number (it must then be looked at by a
/// human: guessing could repeat ids), or when the numbers have run out.
pub fn next_generation(spool_root: &Path, unix_seconds: u32) -> io::Result<u32> {
    create_directory(spool_root)?;
    let path = spool_root.join(NAME);
    let stored = match fs::read_to_string(&path) {
        Ok(text) => text.trim().parse::<u32>().map_err(|_| invalid("does not hold a number"))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
        Err(error) => return Err(error),
    };
    let next = stored.checked_add(1).ok_or_else(|| invalid("has run out of numbers"))?.max(unix_seconds);
    let temporary = spool_root.join("generation.tmp");
    let mut file = File::create(&temporary)?;
    writeln!(file, "{next}")?;
    file.sync_all()?;
    fs::rename(&temporary, &path)?;
    File::open(spool_root)?.sync_all()?;
    Ok(next)
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the spool's file \"{NAME}\" {what}"))
}
