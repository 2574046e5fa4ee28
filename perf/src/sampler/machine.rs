//! The machine a figure was measured on; without it the figure says nothing.

use std::fs;
use std::path::Path;

use serde::Serialize;

/// The facts that belong beside every figure.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// Kernel release.
    pub kernel: String,
    /// The processor's own name.
    pub cpu_model: String,
    /// Cores that we may use.
    pub cores: usize,
    /// Memory of the machine.
    pub memory_bytes: u64,
    /// The three load averages when the measurement began: anything but near zero disturbs it.
    pub load_average: String,
    /// File system under the work directory; on `tmpfs` a sync costs nothing and the figures flatter.
    pub work_filesystem: String,
    /// When the measurement began, UTC.
    pub date: String,
}

/// Reads the facts.
pub fn facts(work_dir: &Path) -> Machine {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let meminfo = read("/proc/meminfo");
    let value = |text: &str, label: &str| {
        let line = text.lines().find(|line| line.starts_with(label));
        line.and_then(|line| line.split_once(':')).map_or_else(String::new, |(_, value)| value.trim().to_owned())
    };
    let kilobytes = value(&meminfo, "MemTotal");
    Machine {
        kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        cpu_model: value(&cpuinfo, "model name"),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        memory_bytes: kilobytes.split(' ').next().and_then(|text| text.parse().ok()).unwrap_or(0_u64) * 1_024,
        load_average: read("/proc/loadavg").split(' ').take(3).collect::<Vec<_>>().join(" "),
        work_filesystem: filesystem(&read("/proc/self/mounts"), work_dir),
        date: jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
    }
}

/// The type of the longest mount point above `path`.
fn filesystem(mounts: &str, path: &Path) -> String {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let fields = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ');
        Some((fields.nth(1)?, fields.next()?))
    });
    let above = fields.filter(|(point, _)| path.starts_with(point));
    above.max_by_key(|(point, _)| point.len()).map_or_else(|| "unknown".to_owned(), |(_, kind)| kind.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_mount_decides() {
        let mounts = "/dev/vda / ext4 rw 0 0\ntmpfs /run tmpfs rw 0 0\ntmpfs /run/a xfs rw 0 0\n";
        for (path, kind) in [("/run/x", "tmpfs"), ("/run/a/b", "xfs"), ("/runner", "ext4")] {
            assert_eq!(filesystem(mounts, Path::new(path)), kind);
        }
    }
}
