//! Files of the operator's: bounded reading, private writing, and the lock on the data directory.

use rustix::fs::{FlockOperation, flock};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

/// All of `path`; the error names the file and the remedy.
pub fn read_bounded(path: &Path, bytes_max: u64) -> Result<Vec<u8>, String> {
    let shown = path.display();
    let file = File::open(path).map_err(|error| format!("{shown} cannot be opened: {error}"))?;
    let mut bytes = Vec::new();
    file.take(bytes_max + 1).read_to_end(&mut bytes).map_err(|error| format!("{shown} cannot be read: {error}"))?;
    if bytes.len() as u64 > bytes_max {
        return Err(format!("{shown} is longer than {bytes_max} octets"));
    }
    Ok(bytes)
}

/// Makes `path`, its parents too, closed to others: mail is private. What is made is durable: whatever is synced in
/// a directory is lost with it when its own name is not.
pub fn make_private_directory(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    if parent != Path::new(".") {
        make_private_directory(parent)?;
    }
    match std::fs::DirBuilder::new().mode(0o750).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists || !path.is_dir() => return Err(error),
        _ => {}
    }
    File::open(parent)?.sync_all()
}

/// Makes `path` with mode 0600 unless it is there.
pub fn make_private_file(path: &Path) -> io::Result<()> {
    OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path).map(drop)
}

/// Puts `content` into `path` with mode 0600, wholly or not at all, durably.
pub fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("."));
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let temporary = directory.join(name);
    // What a crash left behind may carry another mode, so it is not written into.
    match std::fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    File::open(directory)?.sync_all()
}

/// Held for the life of the process that owns a data directory; the kernel lets go when it ends, however.
#[derive(Debug)]
pub struct DataLock {
    _file: File,
}

impl DataLock {
    /// Locks `data_dir/lock`, and writes this process's id into it for the next one's message.
    pub fn take(data_dir: &Path) -> Result<Self, String> {
        let path = data_dir.join("lock");
        let shown = path.display();
        let failed = |error: io::Error| format!("{shown} cannot be locked: {error}");
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(failed)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut holder = String::new();
                // The holder's id is a courtesy; without it the refusal stands all the same.
                let _ = file.take(32).read_to_string(&mut holder);
                let holder = match holder.trim() {
                    "" => "another process".to_owned(),
                    id => format!("process {id}"),
                };
                return Err(format!(
                    "the data directory {} is held by {holder}; stop it first, or name another directory with --data-dir",
                    data_dir.display()
                ));
            }
            Err(error) => return Err(failed(error.into())),
        }
        file.set_len(0).map_err(failed)?;
        file.rewind().map_err(failed)?;
        writeln!(file, "{}", std::process::id()).map_err(failed)?;
        Ok(Self { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use super::{DataLock, make_private_directory, write_private};
    use crate::test_directory::TestDirectory;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_second_lock_names_the_holder() {
        let directory = TestDirectory::new("lock");
        let first = DataLock::take(directory.path()).unwrap();
        let error = DataLock::take(directory.path()).unwrap_err();
        assert!(error.contains(&format!("held by process {}", std::process::id())), "{error}");
        drop(first);
        DataLock::take(directory.path()).unwrap();
    }

    #[test]
    fn private_files_are_private() {
        let directory = TestDirectory::new("private");
        let path = directory.path().join("a/b/token");
        make_private_directory(path.parent().unwrap()).unwrap();
        std::fs::write(path.with_extension("new"), "left over").unwrap();
        write_private(&path, b"one").unwrap();
        write_private(&path, b"two").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
