//! strace(1), attached to all processes and threads of a server for a while.
//!
//! Its lines stand in the order in which it saw the calls begin and end. Where one thread's call caused another's, it saw
//! the first end before the second could begin, so a 250 that waited for a sync stands behind it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread::sleep;
use std::time::Duration;

use rustix::process::Signal;

use crate::clock::now_ns;
use crate::error::{Context, Result, fail};
use crate::guard::Guarded;
use crate::sampler::process::{Roots, tree};

/// The calls by which octets go to files and peers, and by which files become durable.
const CALLS: &str = "trace=write,writev,pwrite64,pwritev,pwritev2,sendto,sendmsg,sendmmsg,fsync,fdatasync,sync,syncfs,openat,open,\
     rename,renameat,renameat2,link,linkat";
/// Each sync is held up for so long before it begins, µs: a 250 that didn't wait for it then leaves first.
const HOLD_UP: &str = "inject=fsync,fdatasync,sync,syncfs:delay_enter=5000";
/// It attaches and lets go within this time, or something is wrong.
const ATTACH: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(20);

/// A tracer at work.
pub struct Strace {
    process: Guarded,
    output: PathBuf,
}

impl Strace {
    /// Attaches to the tree below `roots`, its lines into `output`; returns when every thread is traced.
    pub fn attach(roots: &Roots, output: &Path) -> Result<Strace> {
        let pids: Vec<u32> = tree(roots).into_iter().map(|(pid, _)| pid).collect();
        let mut process = Guarded::start(Path::new("strace"), Duration::from_secs(5), |command| {
            command
                // Paths and peers beside the descriptors, no string cut short, no signals.
                .args(["-f", "-qq", "-yy", "-s", "100000000", "-e", "signal=none", "-e", CALLS, "-e", HOLD_UP, "-o"])
                .arg(output)
                .args(pids.iter().map(|pid| format!("--attach={pid}")))
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
        })?;
        let end_ns = now_ns() + ATTACH.as_nanos() as u64;
        while !pids.iter().all(|pid| is_traced(*pid)) {
            if process.exited().is_some() {
                let mut said = String::new();
                if let Some(mut errors) = process.child().stderr.take() {
                    std::io::Read::read_to_string(&mut errors, &mut said).context("read what strace said")?;
                }
                return fail(format!("strace doesn't run: {}", said.lines().next().unwrap_or("it says nothing")));
            }
            if now_ns() > end_ns {
                return fail("strace doesn't attach");
            }
            sleep(LOOK);
        }
        Ok(Strace { process, output: output.to_owned() })
    }

    /// Lets go; the lines.
    pub fn finish(mut self) -> Result<String> {
        self.process.signal(Signal::INT);
        if !self.process.wait(ATTACH) {
            return fail("strace did not let go");
        }
        let octets = fs::read(&self.output).context("read the trace")?;
        // All but printable ASCII is escaped in it.
        String::from_utf8(octets).context("read the trace")
    }
}

/// Whether all threads of a process are traced; one that has ended needs no tracer.
fn is_traced(pid: u32) -> bool {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return true };
    threads.flatten().all(|thread| {
        let status = fs::read_to_string(thread.path().join("status")).unwrap_or_default();
        status.is_empty() || status.lines().any(|line| line.starts_with("TracerPid:") && !line.ends_with("\t0"))
    })
}
