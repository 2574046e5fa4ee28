//! The seam between the spool and a disk: one directory of files, named without their path.
//!
//! `runtime::spool_disk` is the real one; [`super::memory_disk`] is one that fails on demand.

use std::io::{self, IoSlice};

/// One spool directory. Every method either does all of its work or reports an error, after which nothing
/// may be assumed of the file.
pub trait Disk {
    /// An open file.
    type File;

    /// Names of the files in the directory, in any order.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Creates a file that must not exist, for reading and writing. Durable after [`Disk::sync_directory`].
    fn create(&self, name: &str) -> io::Result<Self::File>;

    /// Opens a file that exists, for reading and writing.
    fn open(&self, name: &str) -> io::Result<Self::File>;

    /// Octets of the file.
    fn length(&self, file: &Self::File) -> io::Result<u64>;

    /// Writes all of `parts`, one behind the other, from `offset` on.
    fn write_at(&self, file: &Self::File, offset: u64, parts: &mut [IoSlice<'_>]) -> io::Result<()>;

    /// Fills `buffer` from `offset` on; an error of kind `UnexpectedEof` when the file ends before.
    fn read_exact_at(&self, file: &Self::File, offset: u64, buffer: &mut [u8]) -> io::Result<()>;

    /// Makes content and length durable (fdatasync).
    fn sync(&self, file: &Self::File) -> io::Result<()>;

    /// Cuts the file to `length`, or extends it with zeros.
    fn set_length(&self, file: &Self::File, length: u64) -> io::Result<()>;

    /// Gives a file another name, replacing what had it. Durable after [`Disk::sync_directory`].
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file. Durable after [`Disk::sync_directory`].
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes creations, renames and removals durable.
    fn sync_directory(&self) -> io::Result<()>;

    /// Octets that may still be written to the file system.
    fn free_bytes(&self) -> io::Result<u64>;
}
