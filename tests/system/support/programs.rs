//! Other people's programs, as clients and as destinations: Postfix's smtp-source and smtp-sink, swaks, aiosmtpd.

use super::ports::free_address;
use super::wait::{until, until_some};
use std::io::Read as _;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use tempfile::TempDir;

/// Where Debian keeps what is not for everybody.
fn program(name: &str) -> PathBuf {
    let places = ["/usr/sbin", "/usr/bin", "/usr/local/bin"];
    let found = places.iter().map(|place| PathBuf::from(place).join(name)).find(|path| path.exists());
    found.unwrap_or_else(|| panic!("{name} is not installed; tests/run installs it"))
}

/// The library that shifts the clocks of the programs that it is loaded into.
pub fn faketime() -> PathBuf {
    let places = std::fs::read_dir("/usr/lib").unwrap().map(|entry| entry.unwrap().path());
    let mut files = places.map(|place| place.join("faketime/libfaketimeMT.so.1"));
    files.find(|file| file.exists()).expect("libfaketime is not installed; tests/run installs it")
}

/// A child that is killed when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a program to its end, which must come.
fn run(mut command: Command) -> Output {
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut child = Running(child);
    let (mut stdout, mut stderr) = (child.0.stdout.take().unwrap(), child.0.stderr.take().unwrap());
    let reader = std::thread::spawn(move || {
        let mut octets = Vec::new();
        stderr.read_to_end(&mut octets).map(|_| octets)
    });
    let waited = std::thread::spawn(move || {
        let mut octets = Vec::new();
        stdout.read_to_end(&mut octets).map(|_| octets)
    });
    let status = until_some("a program ends", || child.0.try_wait().unwrap());
    Output { status, stdout: waited.join().unwrap().unwrap(), stderr: reader.join().unwrap().unwrap() }
}

/// smtp-source with `arguments`; every message must be accepted.
pub fn smtp_source(to: SocketAddr, arguments: &[&str]) {
    let mut command = Command::new(program("smtp-source"));
    command.args(arguments).arg(to.to_string());
    let output = run(command);
    assert!(output.status.success(), "smtp-source: {}", String::from_utf8_lossy(&output.stderr));
}

/// swaks against a server, with `arguments`.
pub fn swaks(server: SocketAddr, arguments: &[&str]) -> Output {
    let mut command = Command::new(program("swaks"));
    command.args(["--server", &server.ip().to_string(), "--port", &server.port().to_string()]).args(arguments);
    run(command)
}

/// smtp-sink, which writes every message to a file.
pub struct SmtpSink {
    /// Where it listens.
    pub address: SocketAddr,
    directory: TempDir,
    _child: Running,
}

/// One message of smtp-sink's file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dumped {
    /// Arguments of MAIL.
    pub sender: String,
    /// Arguments of the RCPTs.
    pub recipients: Vec<String>,
}

impl SmtpSink {
    /// Starts one and waits until it listens.
    pub fn start() -> Self {
        let directory = tempfile::Builder::new().prefix("mailrace-smtp-sink-").tempdir().unwrap();
        let mut command = Command::new(program("smtp-sink"));
        command.current_dir(directory.path());
        if rustix::process::geteuid().is_root() {
            // It refuses to run as root, and its user must be able to write here.
            std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
            command.args(["-u", "postfix"]);
        }
        let address = free_address();
        command.args(["-m", "1000", "-D", "dump", &address.to_string(), "1024"]);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::inherit()).spawn().unwrap();
        let sink = Self { address, directory, _child: Running(child) };
        until("smtp-sink listens", || TcpStream::connect(address).is_ok());
        sink
    }

    /// How many messages its file has.
    pub fn count(&self) -> usize {
        self.dump().lines().filter(|line| line.starts_with("X-Mail-Args: ")).count()
    }

    fn dump(&self) -> String {
        let octets = std::fs::read(self.directory.path().join("dump")).unwrap_or_default();
        String::from_utf8_lossy(&octets).into_owned()
    }

    /// What its file has.
    pub fn messages(&self) -> Vec<Dumped> {
        let mut found: Vec<Dumped> = Vec::new();
        for line in self.dump().lines() {
            if let Some(sender) = line.strip_prefix("X-Mail-Args: ") {
                found.push(Dumped { sender: sender.to_owned(), recipients: Vec::new() });
            } else if let Some(recipient) = line.strip_prefix("X-Rcpt-Args: ") {
                let recipient = recipient.trim_matches(['<', '>']).to_owned();
                found.last_mut().expect("MAIL comes first").recipients.push(recipient);
            }
        }
        found
    }
}

/// aiosmtpd as a destination that prints each envelope as a line of JSON.
pub struct Aiosmtpd {
    /// Where it listens.
    pub address: SocketAddr,
    directory: TempDir,
    _child: Running,
}

impl Aiosmtpd {
    /// Starts one and waits until it listens.
    pub fn start(smtputf8: bool) -> Self {
        let directory = tempfile::Builder::new().prefix("mailrace-aiosmtpd-").tempdir().unwrap();
        let address = free_address();
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/system/support/destination.py");
        let mut command = Command::new("/usr/bin/python3");
        command.arg(script).arg(address.ip().to_string()).arg(address.port().to_string());
        command.arg(if smtputf8 { "smtputf8" } else { "ascii" }).arg(directory.path().join("envelopes"));
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::inherit()).spawn().unwrap();
        let sink = Self { address, directory, _child: Running(child) };
        until("aiosmtpd listens", || TcpStream::connect(address).is_ok());
        sink
    }

    /// The envelopes so far: `sender`, `recipients`, `options`, `content` (as Latin-1).
    pub fn envelopes(&self) -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(self.directory.path().join("envelopes")).unwrap_or_default();
        text.split_inclusive('\n')
            .filter(|line| line.ends_with('\n'))
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }
}
