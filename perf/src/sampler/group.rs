//! A control group (cgroups(7), version 2) around a server whose processes neither descend from its first one for long
//! nor are waited for: the kernel counts the CPU time of all that were ever in it.
//!
//! It must never hold a process of anybody else, since its end is the end of all in it.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use crate::error::{Context, Result, fail};

/// Looks at a group that is to become empty, and the time between two of them.
const LOOKS: u32 = 500;
const LOOK: Duration = Duration::from_millis(10);

/// A group of ours. Dropping it ends what is in it.
pub struct ControlGroup(PathBuf);

impl ControlGroup {
    /// Makes one; needs root and a mounted hierarchy of version 2.
    pub fn new() -> Result<ControlGroup> {
        let mounts = fs::read_to_string("/proc/self/mounts").context("read the mounts")?;
        let Some(root) = mount(&mounts) else { return fail("no control groups of version 2 are mounted here") };
        let path = Path::new(root).join(format!("mailrace-perf-{}", std::process::id()));
        fs::create_dir(&path).context(format_args!("create the control group {}", path.display()))?;
        Ok(ControlGroup(path))
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Ends all that is in it; whether nothing is left.
    pub fn end(&self) -> bool {
        for look in 0..LOOKS {
            if pids(&self.0).is_empty() {
                return true;
            }
            if look == LOOKS / 2 {
                // Kernels before 5.14 don't know it; then the processes end by themselves or are reported.
                let _ = fs::write(self.0.join("cgroup.kill"), "1");
            }
            sleep(LOOK);
        }
        false
    }
}

impl Drop for ControlGroup {
    fn drop(&mut self) {
        self.end();
        let _ = fs::remove_dir(&self.0);
    }
}

/// The processes in a group now.
pub fn pids(group: &Path) -> Vec<u32> {
    let text = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

/// User and system time of all that was ever in a group, µs.
pub fn cpu_us(group: &Path) -> Option<(u64, u64)> {
    let text = fs::read_to_string(group.join("cpu.stat")).ok()?;
    let value = |label: &str| text.lines().find_map(|line| line.strip_prefix(label))?.trim().parse().ok();
    Some((value("user_usec ")?, value("system_usec ")?))
}

/// Puts the calling process, and what it will start, into a group.
pub fn join(group: &Path) -> Result<()> {
    let file = group.join("cgroup.procs");
    fs::write(&file, std::process::id().to_string()).context(format_args!("write to {}", file.display()))
}

fn mount(mounts: &str) -> Option<&str> {
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let (point, kind) = (fields.nth(1)?, fields.next()?);
        (kind == "cgroup2").then_some(point)
    })
}

#[cfg(test)]
mod tests {
    use super::mount;

    #[test]
    fn the_second_version_is_found_beside_the_first() {
        let both = "cgroup /sys/fs/cgroup/cpu cgroup rw 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        assert_eq!(mount(both), Some("/sys/fs/cgroup/unified"));
        assert_eq!(mount("tmpfs /sys/fs/cgroup tmpfs rw 0 0\n"), None);
    }
}
