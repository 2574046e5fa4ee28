//! What this machine offers: its name, cores, memory and resolvers. Read once at the start and passed down,
//! so that the rest can be tested with a machine of its own making.

use crate::config::host_name;
use mailrace_shards::limits::DNS_SERVERS_MAX;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Octets read of any file of the system; such files are short.
const SYSTEM_FILE_BYTES_MAX: u64 = 256 << 10;

/// The machine, as far as the engine's settings depend on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// The host's name, lower case; `localhost` when it has none that SMTP could say.
    pub hostname: Arc<str>,
    /// Processors that this process may use, as the kernel numbers them, at least one: its affinity, cut to
    /// what the cgroup's CPU quota pays for.
    pub cpus: Vec<usize>,
    /// Whether a quota cut them: then which processors they are means nothing, and other containers with a
    /// quota would name the same first ones.
    pub quota: bool,
    /// What the cgroup or the machine allows, octets.
    pub memory_bytes: u64,
    /// Descriptors that this process may have, once its limit is raised as far as it may be.
    pub open_files: usize,
    /// Resolvers of /etc/resolv.conf, at least one.
    pub resolvers: Vec<SocketAddr>,
}

impl Machine {
    /// This one.
    #[must_use]
    pub fn detect() -> Self {
        let root = Path::new("/");
        let mut cpus = crate::system::affinity();
        let quota = cpu_quota(root).filter(|quota| *quota < cpus.len());
        cpus.truncate(quota.unwrap_or(cpus.len()));
        Self {
            hostname: host_name(&rustix::system::uname().nodename().to_string_lossy())
                .unwrap_or_else(|_| "localhost".into()),
            cpus,
            quota: quota.is_some(),
            memory_bytes: memory_bytes(root, crate::system::memory_bytes()),
            open_files: crate::system::open_files(),
            resolvers: resolvers(&read(&root.join("etc/resolv.conf")).unwrap_or_default()),
        }
    }

    /// What the engine may use when the operator names no figure: 60 %.
    #[must_use]
    pub fn memory_budget_bytes(&self) -> u64 {
        self.memory_bytes / 10 * 6
    }

    /// Shards when the operator names no figure: one per core less the control core; on one or two cores, as
    /// many as cores.
    #[must_use]
    pub fn default_shards(&self) -> usize {
        match self.cpus.len() {
            0 | 1 => 1,
            2 => 2,
            cores => (cores - 1).min(mailrace_shards::limits::CORES_MAX),
        }
    }
}

fn read(path: &Path) -> Option<String> {
    let mut bytes = Vec::new();
    std::fs::File::open(path).ok()?.take(SYSTEM_FILE_BYTES_MAX).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// Whole processors that the cgroup's quota pays for, rounded up: a container of 1.5 CPUs can keep two busy
/// most of the time.
fn cpu_quota(root: &Path) -> Option<usize> {
    let v2 = cgroup_directories(root, "").into_iter().filter_map(|directory| {
        let text = read(&directory.join("cpu.max"))?;
        let (quota, period) = text.trim().split_once(' ')?;
        whole_cpus(quota.parse().ok()?, period.parse().ok()?)
    });
    let v1 = cgroup_directories(root, "cpu").into_iter().filter_map(|directory| {
        let figure = |name: &str| read(&directory.join(name))?.trim().parse().ok();
        // -1 stands for no quota and does not parse as u64.
        whole_cpus(figure("cpu.cfs_quota_us")?, figure("cpu.cfs_period_us")?)
    });
    v2.chain(v1).min()
}

fn whole_cpus(quota: u64, period: u64) -> Option<usize> {
    (period > 0 && quota > 0).then(|| usize::try_from(quota.div_ceil(period)).unwrap_or(usize::MAX))
}

/// The least of the cgroup's limits and `total`, the machine's memory.
fn memory_bytes(root: &Path, total: u64) -> u64 {
    let figure = |path: PathBuf| read(&path)?.trim().parse::<u64>().ok().filter(|bytes| *bytes > 0);
    let v2 = cgroup_directories(root, "").into_iter().filter_map(|directory| figure(directory.join("memory.max")));
    let v1 = cgroup_directories(root, "memory")
        .into_iter()
        .filter_map(|directory| figure(directory.join("memory.limit_in_bytes")));
    v2.chain(v1).fold(total, u64::min)
}

/// The directories of this process's cgroup and of all its ancestors (a limit anywhere above holds too), in
/// the unified hierarchy when `controller` is empty, else in that controller's own.
fn cgroup_directories(root: &Path, controller: &str) -> Vec<PathBuf> {
    let base = root.join("sys/fs/cgroup").join(controller);
    let Some(text) = read(&root.join("proc/self/cgroup")) else { return vec![base] };
    let own = text.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?);
        controllers.split(',').any(|name| name == controller).then(|| path.trim_start_matches('/').to_owned())
    });
    let Some(own) = own else { return vec![base] };
    // A container sees its cgroup as the root, while the path may still be the host's: missing files are skipped.
    Path::new(&own).ancestors().map(|path| base.join(path)).collect()
}

/// `nameserver` lines (resolv.conf(5)); the local host's port 53 when there is none. A scoped address
/// (`fe80::1%eth0`) is left out: it has no meaning without its interface.
fn resolvers(text: &str) -> Vec<SocketAddr> {
    let address = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        (words.next()? == "nameserver").then(|| words.next()?.parse::<IpAddr>().ok()).flatten()
    };
    let mut found: Vec<_> = text.lines().filter_map(address).map(|ip| SocketAddr::new(ip, 53)).collect();
    found.truncate(DNS_SERVERS_MAX);
    if found.is_empty() {
        found.push(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 53));
    }
    found
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
