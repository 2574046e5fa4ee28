//! Counts system calls with the kernel's own tracepoint, through `perf stat`.
//!
//! Counting slows each call a little, so it is never on while CPU time is measured.

use std::path::Path;
use std::process::Stdio;
use std::thread::sleep;
use std::time::Duration;

use rustix::process::Signal;

use super::process::{Roots, tree};
use crate::error::{Context, Result, fail};
use crate::guard::Guarded;

/// `perf` attaches to every thread; it says nothing when it is done, so it is given this long.
const ATTACH: Duration = Duration::from_millis(700);

/// A count in progress.
pub struct SyscallCount {
    perf: Guarded,
}

impl SyscallCount {
    /// Starts counting in the tree below `roots`; fails where `perf` is missing or not permitted.
    pub fn start(roots: &Roots) -> Result<SyscallCount> {
        let pids: Vec<String> = tree(roots).into_iter().map(|(pid, _)| pid.to_string()).collect();
        let mut perf = Guarded::start(Path::new("perf"), Duration::from_secs(5), |command| {
            command
                .args(["stat", "-x", ",", "-e", "raw_syscalls:sys_enter", "-p", &pids.join(",")])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
        })?;
        sleep(ATTACH);
        match perf.exited() {
            Some(how) => fail(format!("perf stat ended at once ({how})")),
            None => Ok(SyscallCount { perf }),
        }
    }

    /// Ends the count and returns it.
    pub fn finish(mut self) -> Result<u64> {
        self.perf.signal(Signal::INT);
        if !self.perf.wait(Duration::from_secs(10)) {
            return fail("perf stat did not end");
        }
        let mut said = String::new();
        if let Some(mut output) = self.perf.child().stderr.take() {
            std::io::Read::read_to_string(&mut output, &mut said).context("read what perf stat said")?;
        }
        match parse(&said) {
            Some(count) => Ok(count),
            None => fail(format!("perf stat gave no count: {}", said.trim())),
        }
    }
}

/// A line of `perf stat -x,`: the count, the unit, the event, …
fn parse(text: &str) -> Option<u64> {
    text.lines().find(|line| line.contains("raw_syscalls:sys_enter"))?.split(',').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn a_count_is_read_and_a_refusal_is_not() {
        assert_eq!(parse("123456,,raw_syscalls:sys_enter,3000,100.00,,\n"), Some(123_456));
        assert_eq!(parse("<not supported>,,raw_syscalls:sys_enter,0,100.00,,\n"), None);
        assert_eq!(parse("No permission to enable raw_syscalls:sys_enter"), None);
    }
}
