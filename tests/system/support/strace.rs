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
            let all = ["strace", "--daemonize", "--follow-forks", "--quiet=all"];
            return Some(all.iter().chain(arguments).map(|text| (*text).to_owned()).collect());
        }
        Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        Err(error) => error.to_string(),
    };
    eprintln!("SKIPPED: strace cannot be used here: {why}");
    None
}

/// Waits until strace has written down the end of the process, and gives all that it wrote.
pub fn finished(trace: &Path, process: u32) -> String {
    let last = format!("{process} +++ ");
    let read = || String::from_utf8_lossy(&std::fs::read(trace).unwrap_or_default()).into_owned();
    until("strace has written all of it", || read().lines().rev().take(3).any(|line| line.starts_with(&last)));
    read()
}
