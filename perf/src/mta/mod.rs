//! The servers under test, each started privately and stopped with everything it started.
//!
//! The harness knows of a server: where it listens, which processes it is, and how it says that it went wrong.

pub mod direct;
pub mod exim;
pub mod external;
pub mod mailrace;
pub mod opensmtpd;
pub mod postfix;

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use crate::cli::{MtaName, ShapeArgs};
use crate::clock::now_ns;
use crate::error::{Context, Result, fail};
use crate::rules::http::Api;
use crate::sampler::process::Roots;
use crate::stop;

/// A server greets within this time or it has failed.
const GREETING: Duration = Duration::from_secs(30);
/// Lines of a log that a failure quotes.
const LOG_LINES: usize = 15;

/// A server under test, running. Dropping it stops it.
pub trait Mta {
    /// Name and version.
    fn version(&self) -> &str;
    /// Where it takes mail by SMTP.
    fn address(&self) -> SocketAddr;
    /// Its REST API for rules; a server without one has none.
    fn api(&self) -> Option<Result<Api>> {
        None
    }
    /// Holds all mail, keeps it; in force when it returns.
    fn pause(&mut self) -> Result<()> {
        fail(format!("no way to hold the mail of {} is known here", self.version()))
    }
    /// Ends what [`Mta::pause`] began.
    fn release(&mut self) -> Result<()> {
        fail(format!("no way to hold the mail of {} is known here", self.version()))
    }
    /// The processes that are the server; empty for none.
    fn roots(&self) -> Roots;
    /// How it ended, if it did.
    fn exited(&mut self) -> Option<String>;
    /// The end of its log.
    fn log_tail(&self) -> String;
    /// Stops it in order; fails if it had to be forced.
    fn stop(&mut self) -> Result<()>;
}

/// Starts a server that relays everything to `sink`, and waits until it greets.
pub fn start(name: MtaName, sink: SocketAddr, shape: &ShapeArgs, directory: &Path) -> Result<Box<dyn Mta>> {
    let mut mta: Box<dyn Mta> = match name {
        MtaName::Mailrace => Box::new(mailrace::Mailrace::start(sink, shape, directory)?),
        MtaName::Postfix => Box::new(postfix::Postfix::start(sink, shape, directory)?),
        MtaName::Exim => Box::new(exim::Exim::start(sink, shape, directory)?),
        MtaName::Opensmtpd => Box::new(opensmtpd::OpenSmtpd::start(sink, shape, directory)?),
        MtaName::External => Box::new(external::External::new(&shape.server)?),
        MtaName::None => Box::new(direct::Direct::new(sink)),
    };
    wait_for_greeting(mta.as_mut())?;
    Ok(mta)
}

fn wait_for_greeting(mta: &mut dyn Mta) -> Result<()> {
    let end_ns = now_ns() + GREETING.as_nanos() as u64;
    loop {
        if greets(mta.address()) {
            return Ok(());
        }
        if let Some(how) = mta.exited() {
            return fail(format!("{} ended before it greeted ({how}):\n{}", mta.version(), mta.log_tail()));
        }
        if now_ns() > end_ns {
            return fail(format!("{} did not greet on {}:\n{}", mta.version(), mta.address(), mta.log_tail()));
        }
        if stop::requested() {
            return fail("stopped");
        }
        sleep(Duration::from_millis(20));
    }
}

fn greets(address: SocketAddr) -> bool {
    let attempt = || -> std::io::Result<bool> {
        let stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let mut line = Vec::new();
        let mut reader = BufReader::new(std::io::Read::take(&stream, 1_024));
        reader.read_until(b'\n', &mut line)?;
        // RFC 5321 §4.1.1.10: say goodbye before closing.
        std::io::Write::write_all(&mut &stream, b"QUIT\r\n")?;
        line.clear();
        let greeted = reader.read_until(b'\n', &mut line).is_ok();
        Ok(greeted && line.starts_with(b"221"))
    };
    attempt().unwrap_or(false)
}

/// A loopback port that nobody has at the moment. Somebody may take it before its user does; the start then fails.
pub fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("find a free port")?;
    Ok(listener.local_addr().context("find a free port")?.port())
}

/// The last lines of a file, or why there are none.
pub fn tail(path: &Path) -> String {
    match fs::read(path) {
        Ok(octets) => {
            let text = String::from_utf8_lossy(&octets);
            let lines: Vec<&str> = text.lines().collect();
            lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
        }
        Err(error) => format!("({}: {error})", path.display()),
    }
}

/// The program beside our own.
pub fn beside_ourselves(name: &str) -> Result<PathBuf> {
    Ok(std::env::current_exe().context("find our own program")?.with_file_name(name))
}
