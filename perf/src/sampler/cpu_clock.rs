//! The CPU-time clock of another process (clock_getcpuclockid(3)): nanoseconds, ended threads included.
//!
//! `/proc/PID/stat` cuts user and system time to whole ticks for each process; over the 150 processes of a busy Postfix
//! that hides more than a second. The two calls have no safe wrapper, so they stand here, alone.

/// CPU time of a process so far, all its threads, nanoseconds; `None` when it has ended.
#[expect(unsafe_code, reason = "the two calls write to variables of ours and have no safe wrapper")]
pub fn process_cpu_ns(pid: u32) -> Option<u64> {
    let pid = libc::pid_t::try_from(pid).ok().filter(|pid| *pid > 0)?;
    let mut clock: libc::clockid_t = 0;
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: both pointers are to living, writable variables of the type that the call expects.
    let failed = unsafe {
        libc::clock_getcpuclockid(pid, &raw mut clock) != 0 || libc::clock_gettime(clock, &raw mut time) != 0
    };
    // A CPU time is never negative.
    (!failed).then(|| time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}
