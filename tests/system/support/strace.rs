//! strace: what the engine asks of the system, and answers that a healthy system does not give.

use super::wait::until;
use std::path::Path;
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

/// Waits until strace, which has nothing left to trace, has ended, and gives all that it wrote.
pub fn finished(trace: &Path, tracer: u32) -> String {
    until("strace has written all of it", || {
        let stat = std::fs::read_to_string(format!("/proc/{tracer}/stat")).unwrap_or_default();
        // Nobody may be there to bury it.
        stat.is_empty() || stat.contains(") Z ")
    });
    String::from_utf8_lossy(&std::fs::read(trace).unwrap()).into_owned()
}
