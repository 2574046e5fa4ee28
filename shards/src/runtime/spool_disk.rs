//! A spool directory on a real file system.

use crate::spool::disk::Disk;
use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::unix::fs::{FileExt, MetadataExt as _};
use std::path::{Path, PathBuf};

/// One directory, made when it does not exist.
pub struct DirectoryDisk {
    path: PathBuf,
    directory: File,
}

impl DirectoryDisk {
    /// Opens `path`, makes it and what is missing above it, and makes that durable.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn open(path: &Path) -> io::Result<Self> {
        create_directory(path)?;
        Ok(Self { path: path.to_path_buf(), directory: File::open(path)? })
    }
}

/// A file, under which name it was made or opened, and what tells it from any other (device and number).
pub struct NamedFile {
    file: File,
    path: PathBuf,
    identity: (u64, u64),
}

impl NamedFile {
    fn new(file: File, path: PathBuf) -> io::Result<Self> {
        let found = file.metadata()?;
        Ok(Self { file, path, identity: (found.dev(), found.ino()) })
    }

    /// Whoever syncs a file that has gone from its place makes nothing durable that the next start would find: it was
    /// removed, or its directory was moved away, perhaps with another one in its place.
    fn is_in_its_place(&self) -> bool {
        fs::metadata(&self.path).is_ok_and(|there| (there.dev(), there.ino()) == self.identity)
    }
}

/// Makes a directory and what is missing above it, each made durable in its parent.
pub(super) fn create_directory(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    create_directory(parent)?;
    match fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    File::open(parent)?.sync_all()
}

impl Disk for DirectoryDisk {
    type File = NamedFile;

    fn list(&self) -> io::Result<Vec<String>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            // A name that is not UTF-8 is not one of ours.
            files.extend(entry?.file_name().into_string());
        }
        Ok(files)
    }

    fn create(&self, name: &str) -> io::Result<NamedFile> {
        let path = self.path.join(name);
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
        NamedFile::new(file, path)
    }

    fn open(&self, name: &str) -> io::Result<NamedFile> {
        let path = self.path.join(name);
        let file = OpenOptions::new().read(true).write(true).open(&path)?;
        NamedFile::new(file, path)
    }

    fn length(&self, file: &NamedFile) -> io::Result<u64> {
        Ok(file.file.metadata()?.len())
    }

    fn write_at(&self, file: &NamedFile, mut offset: u64, mut parts: &mut [IoSlice<'_>]) -> io::Result<()> {
        IoSlice::advance_slices(&mut parts, 0);
        while !parts.is_empty() {
            let group = &parts[..parts.len().min(IOV_MAX)];
            match rustix::io::pwritev(&file.file, group, offset) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    offset += written as u64;
                    IoSlice::advance_slices(&mut parts, written);
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn read_exact_at(&self, file: &NamedFile, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        file.file.read_exact_at(buffer, offset)
    }

    fn sync(&self, file: &NamedFile) -> io::Result<()> {
        file.file.sync_data()?;
        if !file.is_in_its_place() {
            let why = "somebody has removed the file, or moved its directory away";
            return Err(io::Error::new(io::ErrorKind::NotFound, why));
        }
        Ok(())
    }

    fn set_length(&self, file: &NamedFile, length: u64) -> io::Result<()> {
        file.file.set_len(length)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path.join(from), self.path.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path.join(name))
    }

    fn sync_directory(&self) -> io::Result<()> {
        // Not the one that was opened at the start: it may have been removed, and made again.
        File::open(&self.path)?.sync_all()
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let space = rustix::fs::fstatvfs(&self.directory)?;
        Ok(space.f_bavail.saturating_mul(space.f_frsize))
    }
}

/// Parts that one pwritev takes on Linux (UIO_MAXIOV).
const IOV_MAX: usize = 1024;

/// Held by a thread that the engine cannot do without: when the thread panics, the process stops.
pub(super) struct StopProcessOnPanic(pub(super) &'static str);

impl Drop for StopProcessOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("mailrace: {} has panicked; stopping, nothing that was acknowledged is lost", self.0);
            std::process::abort();
        }
    }
}
