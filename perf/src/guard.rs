//! Child processes that end with us, however we end.
//!
//! A child is started through our own `guard` command, which asks the kernel for a signal at its parent's death and
//! then becomes the program. It must be started from the main thread: the kernel watches the thread, not the process.

use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use rustix::process::{Pid, Signal, getppid, kill_process, set_parent_process_death_signal};

use crate::clock::now_ns;
use crate::error::{Context, Result, fail};

/// How often a wait looks again.
const LOOK: Duration = Duration::from_millis(10);

/// A child that is ended when this is dropped.
pub struct Guarded {
    child: Child,
    grace: Duration,
}

impl Guarded {
    /// Starts `program`; `prepare` sets arguments, input and output. At the end it gets SIGTERM and `grace`, then SIGKILL.
    pub fn start(
        program: &Path,
        grace: Duration,
        prepare: impl FnOnce(&mut Command) -> &mut Command,
    ) -> Result<Guarded> {
        Guarded::start_on(None, program, grace, prepare)
    }

    /// The same, with all of it on one core.
    pub fn start_on(
        cpu: Option<u32>,
        program: &Path,
        grace: Duration,
        prepare: impl FnOnce(&mut Command) -> &mut Command,
    ) -> Result<Guarded> {
        Guarded::start_in(None, cpu, program, grace, prepare)
    }

    /// The same, with all of it in a control group.
    pub fn start_in(
        group: Option<&Path>,
        cpu: Option<u32>,
        program: &Path,
        grace: Duration,
        prepare: impl FnOnce(&mut Command) -> &mut Command,
    ) -> Result<Guarded> {
        let ourselves = std::env::current_exe().context("find our own program")?;
        let mut command = Command::new(ourselves);
        command.args(["guard", "--parent"]).arg(std::process::id().to_string());
        command.args(group.map(|group| format!("--group={}", group.display())));
        command.args(cpu.map(|cpu| format!("--cpu={cpu}"))).arg("--").arg(program);
        let child = prepare(&mut command).spawn().context(format_args!("start {}", program.display()))?;
        Ok(Guarded { child, grace })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The child itself, to take its pipes.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Whether it is still running; if not, how it ended.
    pub fn exited(&mut self) -> Option<String> {
        match self.child.try_wait() {
            Ok(None) => None,
            Ok(Some(status)) => Some(status.to_string()),
            Err(error) => Some(error.to_string()),
        }
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        if let Some(pid) = Pid::from_raw(self.child.id() as i32) {
            // The child is not reaped before `wait`, so the number is still its own; a failure means it has ended.
            let _ = kill_process(pid, signal);
        }
    }

    /// Waits for its end, but no longer than `limit`; whether it came.
    pub fn wait(&mut self, limit: Duration) -> bool {
        let end_ns = now_ns() + limit.as_nanos() as u64;
        while self.exited().is_none() {
            if now_ns() > end_ns {
                return false;
            }
            sleep(LOOK);
        }
        true
    }

    /// Ends it: SIGTERM, the grace, SIGKILL. Says whether SIGTERM was enough.
    pub fn stop(&mut self) -> bool {
        if self.exited().is_some() {
            return true;
        }
        self.signal(Signal::TERM);
        let obeyed = self.wait(self.grace);
        if !obeyed {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        obeyed
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The `guard` command: dies with `parent` and becomes `program`. Returns only if it can't.
pub fn become_program(
    parent: u32,
    cpu: Option<u32>,
    group: Option<&Path>,
    program: &OsStr,
    arguments: &[OsString],
) -> Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL)).context("ask for a signal at the parent's death")?;
    // The parent may have died before we asked.
    if getppid().map(|pid| pid.as_raw_nonzero().get() as u32) != Some(parent) {
        return fail("the parent has gone");
    }
    cpu.map_or(Ok(()), crate::pin::to)?;
    group.map_or(Ok(()), crate::sampler::group::join)?;
    let error = Command::new(program).args(arguments).exec();
    fail(format!("cannot run {}: {error}", program.display()))
}

/// Runs a command to its end and returns its standard output; its standard error becomes part of a failure.
pub fn output(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().context(format_args!("run {:?}", command.get_program()))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return fail(format!("{:?} failed ({}): {}", command.get_program(), output.status, said.trim()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
