//! What is asked of the kernel directly: limits of this process, io_uring, the clock. The only file of this
//! package with unsafe code.

use mailrace_shards::time::Timestamp;
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The wall clock, for records of the control core.
#[must_use]
pub fn now() -> Timestamp {
    Timestamp(jiff::Timestamp::now().as_millisecond())
}

/// Raises the soft limit of `resource` to the hard one and returns what is then in force; `None` is unlimited.
pub fn raise_limit(resource: Resource) -> Option<u64> {
    let limit = getrlimit(resource);
    if limit.current != limit.maximum && setrlimit(resource, Rlimit { current: limit.maximum, ..limit }).is_ok() {
        return limit.maximum;
    }
    limit.current
}

/// Descriptors that this process may have at most; a million where nothing limits them.
#[must_use]
pub fn open_files() -> usize {
    let most = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX).min(1 << 20);
    usize::try_from(most).unwrap_or(usize::MAX)
}

/// From now on nothing that this process makes can be read by others, nor changed by its group; a stricter
/// mask stays.
pub fn keep_files_private() {
    use rustix::fs::Mode;
    // The mask can only be read by setting it.
    let found = rustix::process::umask(Mode::from_raw_mode(0o077));
    rustix::process::umask(found | Mode::from_raw_mode(0o027));
}

/// Makes an io_uring and drops it again.
pub fn try_io_uring() -> Result<(), Errno> {
    /// Enough to learn whether we may; the engine sizes its own.
    const ENTRIES: u32 = 8;
    let mut parameters = rustix::io_uring::io_uring_params::default();
    #[expect(unsafe_code, reason = "io_uring_setup(2) is asked only whether it works")]
    // SAFETY: the parameters are valid and zeroed, no memory of ours is registered, and the descriptor is
    // closed before anything is submitted.
    let ring = unsafe { rustix::io_uring::io_uring_setup(ENTRIES, &mut parameters) };
    ring.map(drop)
}

/// Octets of memory of the machine.
#[must_use]
pub fn memory_bytes() -> u64 {
    let figures = rustix::system::sysinfo();
    figures.totalram.saturating_mul(u64::from(figures.mem_unit.max(1)))
}

/// Processors that this process may run on, as the kernel numbers them; at least one.
#[must_use]
pub fn affinity() -> Vec<usize> {
    use rustix::thread::{CpuSet, sched_getaffinity};
    let cpus: Vec<usize> = match sched_getaffinity(None) {
        Ok(set) => (0..CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect(),
        // More processors than the set holds: take what the standard library counts.
        Err(_) => (0..std::thread::available_parallelism().map_or(1, Into::into)).collect(),
    };
    if cpus.is_empty() { vec![0] } else { cpus }
}

/// Major and minor version of the running kernel.
#[must_use]
pub fn kernel_version() -> Option<(u32, u32)> {
    parse_kernel_version(&rustix::system::uname().release().to_string_lossy())
}

fn parse_kernel_version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::parse_kernel_version;

    #[test]
    fn kernel_versions() {
        for (release, expected) in
            [("6.18.44-fc-v595", Some((6, 18))), ("5.8.0", Some((5, 8))), ("5.15", Some((5, 15))), ("six", None)]
        {
            assert_eq!(parse_kernel_version(release), expected, "{release}");
        }
    }
}
