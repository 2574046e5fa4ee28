//! How many files, hence connections, a process may have open.
//!
//! It takes what the hard limit allows and never asks for more.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What a process has open besides connections.
const OWN: u64 = 64;

/// Raises the soft limit to the hard one, for this process and those it starts.
pub fn take_all() {
    let limit = getrlimit(Resource::Nofile);
    // Where that fails the soft limit stays, and [`connections`] says what it is.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

/// Connections that one process can hold.
pub fn connections() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX).saturating_sub(OWN).max(1)
}

/// Processes that it takes to hold so many connections.
pub fn processes(connections: u64, each: u64) -> u64 {
    connections.div_ceil(each.max(1)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_processes_as_are_needed() {
        assert_eq!(processes(10_000, 19_936), 1);
        assert_eq!(processes(100_000, 19_936), 6);
        assert_eq!(processes(0, 1), 1);
        take_all();
        let limit = getrlimit(Resource::Nofile);
        assert_eq!(limit.current, limit.maximum);
        assert!(connections() > 0);
    }
}
