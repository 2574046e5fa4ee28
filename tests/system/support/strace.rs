//! strace: what the engine asks of the system, and answers that a healthy system does not give.

use super::wait::{until, until_some};
use rustix::process::{Pid, Signal, kill_process};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The command under which an engine is to be started so that strace, with these arguments, is beside it and not
/// above it; `None`, said aloud, when this machine does not let one process trace another.
pub fn strace(arguments: &[&str]) -> Option<Vec<String>> {
    let tried = Command::new("strace").args(["-o", "/dev/null", "true"]).output();
    let why = match tried {
        Ok(output) if output.status.success() => {
            let all = ["strace", "--daemonize", "--follow-forks", "--quiet=attach,personality"];
            return Some(all.iter().chain(arguments).map(|text| (*text).to_owned()).collect());
        }
        Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        Err(error) => error.to_string(),
    };
    eprintln!("SKIPPED: strace cannot be used here: {why}");
    None
}

/// The process that traces another.
pub fn tracer_of(process: u32) -> u32 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:")).unwrap();
    tracer.trim().parse().unwrap()
}

/// The command under which an engine is to be started so that each of its threads stands still when it opens one of
/// `files` for the `time`th time, until its [`Hold`] is dropped.
pub fn held_at_opening(files: &[PathBuf], time: u32) -> Option<Vec<String>> {
    // Longer than any test has patience.
    let inject = format!("inject=openat:delay_enter=3600s:when={time}");
    let mut options = vec!["-o", "/dev/null", "-e", "trace=openat", "-e", &inject];
    options.extend(files.iter().flat_map(|file| ["-P", file.to_str().unwrap()]));
    strace(&options)
}

/// strace beside a process that it holds up. When this is dropped it goes away: what it held goes on, and nothing is
/// injected any more. That must come before the process's end, for which a thread that is held would keep it.
pub struct Hold {
    tracer: Pid,
}

impl Hold {
    /// Of a process that is just being started under strace.
    pub fn of(process: u32) -> Self {
        let tracer = || Pid::from_raw(i32::try_from(tracer_of(process)).unwrap());
        Self { tracer: until_some("strace is beside the process", tracer) }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        // Asked kindly, it would first see the delay to its end.
        let _ = kill_process(self.tracer, Signal::KILL);
    }
}

/// Waits until strace, which has nothing left to trace, has ended, and gives all that it wrote.
pub fn finished(trace: &Path, tracer: u32) -> String {
    until("strace has written all of it", || {
        let stat = std::fs::read_to_string(format!("/proc/{tracer}/stat")).unwrap_or_default();
        // Nobody may be there to bury it.
        stat.is_empty() || stat.contains(") Z ")
    });
    String::from_utf8_lossy(&std::fs::read(trace).unwrap()).into_owned()
}
