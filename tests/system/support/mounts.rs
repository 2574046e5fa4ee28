//! File systems of a test's own: small, breakable, and gone with the test. They are mounted where no other process
//! sees them, which needs root; without it, tests say so and pass.

use std::path::Path;
use std::process::{Command, Output};

const INSIDE: &str = "MAILRACE_PRIVATE_MOUNTS";

/// Runs `test` (its full name) again in a process that has its mounts for itself. True in that process; in the first
/// one false, when the other has passed or cannot be.
pub fn in_private_mounts(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let unshare = ["--mount", "--propagation", "private"];
    if let Err(why) = done(Command::new("unshare").args(unshare).args(["mount", "-t", "tmpfs", "none", "/mnt"])) {
        eprintln!("SKIPPED: no file system can be mounted here: {why}");
        return false;
    }
    let mut again = Command::new("unshare");
    again.args(unshare).arg(std::env::current_exe().unwrap()).args(["--exact", test, "--nocapture"]);
    let status = again.env(INSIDE, "1").status().unwrap();
    assert!(status.success(), "{test} has failed; its words stand above");
    false
}

/// Which kind of small file system it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SmallDisk {
    /// ext4 in a file, by a loop device.
    Ext4,
    /// In memory, where there is no loop device.
    Memory,
}

/// Mounts a file system of so many MiB at `directory`, which is made; an ext4 in `image` when the machine can.
pub fn mount_small(directory: &Path, image: &Path, mebibytes: u64) -> SmallDisk {
    std::fs::create_dir_all(directory).unwrap();
    let file = std::fs::File::create(image).unwrap();
    file.set_len(mebibytes << 20).unwrap();
    // Five percent for root would make "full" a question of who asks.
    let made = done(Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0"]).arg(image));
    if made.and_then(|()| mount(directory, image)).is_ok() {
        return SmallDisk::Ext4;
    }
    let size = format!("size={mebibytes}m");
    done(Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(directory)).unwrap();
    SmallDisk::Memory
}

/// Mounts an image that has a file system.
pub fn mount(directory: &Path, image: &Path) -> Result<(), String> {
    done(Command::new("mount").args(["-o", "loop"]).arg(image).arg(directory))
}

/// What a disk does that loses its journal: every write is refused from now on.
pub fn abort(directory: &Path) {
    done(Command::new("mount").args(["-o", "remount,abort"]).arg(directory)).unwrap_or_default();
}

/// Takes an ext4 away, repairs it, and mounts it again.
pub fn repair(directory: &Path, image: &Path) {
    done(Command::new("umount").arg(directory)).unwrap();
    // It ends with 1 when it had something to repair.
    let status = Command::new("fsck.ext4").args(["-y", "-f"]).arg(image).output().unwrap().status;
    assert!(status.code().is_some_and(|code| code < 4), "{status}");
    mount(directory, image).unwrap();
}

fn done(command: &mut Command) -> Result<(), String> {
    match command.output() {
        Ok(Output { status, .. }) if status.success() => Ok(()),
        Ok(Output { stderr, .. }) => Err(String::from_utf8_lossy(&stderr).trim().to_owned()),
        Err(error) => Err(format!("{:?}: {error}", command.get_program())),
    }
}
