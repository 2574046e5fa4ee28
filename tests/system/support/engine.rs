//! The engine as a child process with a directory of its own.

use super::api::Api;
use super::client::Client;
use super::config::Config;
use super::log::{self, Record};
use super::ports::free_address;
use super::wait::{until, until_some};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// A running (or stopped) engine. Killed when dropped.
pub struct Engine {
    directory: TempDir,
    /// Where it takes mail.
    pub smtp: SocketAddr,
    /// Where its REST API listens.
    pub api: SocketAddr,
    child: Option<Child>,
    /// A command that runs the one given to it, in place of itself or beside it.
    under: Vec<String>,
}

impl Engine {
    /// Starts one and waits until it greets.
    pub fn start(config: &Config) -> Self {
        let mut engine = Self::prepare(config);
        engine.run();
        engine
    }

    /// Makes the directory and the file, starts nothing.
    pub fn prepare(config: &Config) -> Self {
        let directory = tempfile::Builder::new().prefix("mailrace-system-").tempdir().unwrap();
        let engine = Self { directory, smtp: free_address(), api: free_address(), child: None, under: Vec::new() };
        engine.configure(config);
        engine
    }

    /// Writes the configuration file; the engine reads it at its next start or reload.
    pub fn configure(&self, config: &Config) {
        let listen = |address: SocketAddr| format!("listen = \"{address}\"");
        let config = config
            .clone()
            .line("server", "data_dir = \"data\"")
            .line("smtp", &format!("listen = [\"{}\"]", self.smtp))
            .line("api", &listen(self.api));
        self.write("mailrace.toml", &config.text());
    }

    /// A file in the engine's directory, where relative paths of its configuration start.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// A path in the engine's directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Its data directory.
    pub fn data(&self) -> PathBuf {
        self.path("data")
    }

    /// From now on the process is started by `command`, which gets the command line appended and must give its own
    /// process to it (`prlimit`, `setpriv`, `strace --daemonize`). Nothing in it: directly.
    pub fn under(&mut self, command: Vec<String>) {
        self.under = command;
    }

    /// Starts the process, waits for nothing.
    pub fn spawn(&mut self) {
        assert!(self.child.is_none(), "it runs already");
        let errors = OpenOptions::new().create(true).append(true).open(self.path("stderr")).unwrap();
        let direct = self.command();
        let mut command = match self.under.split_first() {
            None => direct,
            Some((program, arguments)) => {
                let mut command = self.clean(program);
                command.args(arguments).arg(direct.get_program());
                command
            }
        };
        command.arg("serve").arg("--config").arg(self.path("mailrace.toml"));
        self.child = Some(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(errors).spawn().unwrap());
    }

    /// Starts the process and waits until it greets, or ends with a failure: then gives what it said to its operator.
    pub fn try_run(&mut self) -> Option<String> {
        let said = self.stderr().len();
        self.spawn();
        let mut ended = false;
        until("the engine starts, or ends", || {
            ended = !self.is_running();
            ended || self.greets()
        });
        ended.then(|| {
            assert!(!self.await_end().success(), "an end at the start is a failure");
            self.stderr()[said..].to_owned()
        })
    }

    /// Starts the process, waits until it greets, and until the mail of earlier runs is in its queues.
    pub fn run(&mut self) {
        self.run_at_once();
        let api = Api::of(self);
        // An API that speaks TLS does not tell it to this client; nobody here asks one for the queue after a restart.
        until("mail of earlier runs is in the queues", || {
            let metrics = api.try_call("GET", "/metrics", None);
            !metrics.is_ok_and(|metrics| metrics.text.contains("\nmailrace_recovery_active 1\n"))
        });
    }

    /// Starts the process and waits until it greets.
    pub fn run_at_once(&mut self) {
        self.spawn();
        until("the engine greets", || {
            if let Some(status) = self.child.as_mut().unwrap().try_wait().unwrap() {
                panic!("the engine ended with {status} instead of starting:\n{}", self.stderr());
            }
            greets(self.smtp)
        });
    }

    /// Whether it greets now.
    pub fn greets(&self) -> bool {
        greets(self.smtp)
    }

    /// The binary, to be given arguments.
    pub fn command(&self) -> Command {
        self.clean(env!("CARGO_BIN_EXE_mailrace"))
    }

    fn clean(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.current_dir(self.directory.path());
        for name in ["JOURNAL_STREAM", "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "MAILRACE_TOKEN"] {
            command.env_remove(name);
        }
        command
    }

    /// Runs a command of the binary with `stdin`, and gives its output back.
    pub fn tool(&self, arguments: &[&str], stdin: &str) -> Output {
        let mut command = self.command();
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // A command that refuses before it reads closes the pipe; that is its right.
        let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
        child.wait_with_output().unwrap()
    }

    /// The process's id.
    pub fn id(&self) -> u32 {
        self.child.as_ref().expect("the engine runs").id()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.id()).unwrap();
        kill_process(Pid::from_raw(id).unwrap(), signal).unwrap();
    }

    /// SIGKILL, and waits for the end.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("the engine runs");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// SIGTERM, and waits for the end.
    pub fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.await_end()
    }

    /// Waits for the end of a process that was told to end.
    pub fn await_end(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("the engine runs");
        until_some("the engine ends", || child.try_wait().unwrap())
    }

    /// Whether the process has not ended.
    pub fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| child.try_wait().unwrap().is_none())
    }

    /// SIGHUP, and waits until the engine says what came of it.
    pub fn reload(&self) {
        let before = self.stderr().matches("the configuration was read again").count();
        self.signal(Signal::HUP);
        until("the engine has read its configuration again", || {
            self.stderr().matches("the configuration was read again").count() > before
        });
    }

    /// What it has said to its operator, over all its runs.
    pub fn stderr(&self) -> String {
        std::fs::read_to_string(self.path("stderr")).unwrap_or_default()
    }

    /// All records of the outcome log so far.
    pub fn records(&self) -> Vec<Record> {
        log::read(&self.data().join("log"))
    }

    /// Waits until there are `count` records of a type, and gives all records of that type.
    pub fn await_records(&self, kind: &str, count: usize) -> Vec<Record> {
        let of_kind = || self.records().into_iter().filter(|record| record.kind() == kind).collect::<Vec<_>>();
        until_some(&format!("{count} records of type {kind}"), || {
            let found = of_kind();
            (found.len() >= count).then_some(found)
        })
    }

    /// A connection to it, greeted, after EHLO.
    pub fn client(&self) -> Client {
        let mut client = Client::connect(self.smtp);
        client.ehlo();
        client
    }

    /// The admin token that the first start made.
    pub fn token(&self) -> String {
        std::fs::read_to_string(self.data().join("token")).unwrap().trim().to_owned()
    }

    /// Files in the data directory whose names satisfy `wanted`.
    pub fn files(&self, under: &str, wanted: impl Fn(&str) -> bool) -> Vec<PathBuf> {
        let mut found = Vec::new();
        collect(&self.data().join(under), &mut found);
        found.retain(|path| wanted(path.file_name().unwrap().to_str().unwrap()));
        found
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            eprintln!("the engine's words:\n{}", self.stderr());
        }
    }
}

fn greets(address: SocketAddr) -> bool {
    let Ok(mut stream) = TcpStream::connect(address) else { return false };
    let _ = stream.set_read_timeout(Some(Duration::from_secs(10)));
    let mut greeting = [0; 4];
    stream.read_exact(&mut greeting).is_ok() && &greeting == b"220 "
}

fn collect(directory: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(directory) else { return };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, found);
        } else if File::open(&path).is_ok() {
            found.push(path);
        }
    }
}
