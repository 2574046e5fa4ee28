//! The demonstration's engine: this very binary as a child process, with a directory of its own that goes with it.

use crate::client::http::Server;
use crate::client::request::{Method, Request};
use crate::machine::Machine;
use rustix::process::{Pid, Signal, kill_process};
use std::fs::File;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

/// Cores are not the point of a demonstration.
const SHARDS_MAX: usize = 2;

/// How often the end is looked for before the child is killed, and how long between.
const STOP_LOOKS: u32 = 100;
const STOP_LOOK_MS: u64 = 100;

/// A running engine. Ended, and its directory removed, when dropped.
pub struct Engine {
    child: Child,
    directory: TempDir,
    /// Where it takes mail.
    pub smtp: SocketAddr,
    api: SocketAddr,
}

/// What it is given.
pub struct Plan<'a> {
    /// Next hop of all mail.
    pub sink: SocketAddr,
    /// Domains, each delivered at `rate` messages a second.
    pub domains: &'a [&'a str],
    /// Messages a second.
    pub rate: u32,
}

impl Engine {
    /// Starts it; it is not ready yet.
    pub fn start(plan: &Plan<'_>) -> io::Result<Self> {
        let directory = tempfile::Builder::new().prefix("mailrace-demo-").tempdir()?;
        // Both at once, so that they differ; whoever takes one before the engine does makes its start fail.
        let listeners = [TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?];
        let [smtp, api] = [listeners[0].local_addr()?, listeners[1].local_addr()?];
        drop(listeners);
        let shards = SHARDS_MAX.min(Machine::detect().default_shards());
        let mut text = format!(
            "[server]\ndata_dir = \"data\"\nhostname = \"demo.example\"\nshards = {shards}\nstop_within = \"5s\"\n\
             [smtp]\nlisten = [\"{smtp}\"]\n[api]\nlisten = \"{api}\"\n[spool]\nmin_free_bytes = 67108864\n\
             [dns]\nservers = [\"127.0.0.1:9\"]\n[[route]]\ndomain = \"*\"\nhosts = [\"{}\"]\n",
            plan.sink
        );
        for domain in plan.domains {
            text +=
                &format!("[[limit]]\nper = \"domain\"\ndomain = \"{domain}\"\nmessage_rate = \"{}/s\"\n", plan.rate);
        }
        let config = directory.path().join("mailrace.toml");
        std::fs::write(&config, text)?;
        let words = File::create(directory.path().join("stderr"))?;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("serve").arg("--config").arg(&config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(words);
        for name in ["JOURNAL_STREAM", "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"] {
            command.env_remove(name);
        }
        // A group of its own: Ctrl-C is for us, and we end it in order.
        let child = command.process_group(0).spawn()?;
        Ok(Self { child, directory, smtp, api })
    }

    /// The way to its API, once it answers there.
    pub fn ready(&self) -> Option<Server> {
        let token = std::fs::read_to_string(self.directory.path().join("data/token")).ok()?;
        let server = Server::new(&format!("http://{}", self.api), Some(token.trim().to_owned()));
        server.ask(&Request::new(Method::Get, "/metrics.json")).ok().map(|_| server)
    }

    /// Its configuration file.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.directory.path().join("mailrace.toml")
    }

    /// Why it ended, when it did.
    pub fn ended(&mut self) -> Option<String> {
        let how = match self.child.try_wait() {
            Ok(None) => return None,
            Ok(Some(status)) => status.to_string(),
            Err(error) => error.to_string(),
        };
        let words = std::fs::read_to_string(self.directory.path().join("stderr")).unwrap_or_default();
        Some(format!("the engine ended: {how}\n{}", words.trim_end()))
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let process = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        // Only a child that was not waited for still has its number.
        if let (Ok(None), Some(process)) = (self.child.try_wait(), process) {
            let _ = kill_process(process, Signal::TERM);
            for _ in 0..STOP_LOOKS {
                if !matches!(self.child.try_wait(), Ok(None)) {
                    return;
                }
                super::pause(STOP_LOOK_MS);
            }
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}
