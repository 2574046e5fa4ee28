//! The sink's control channel: one command a line on standard input, one line of JSON back on standard output.
//!
//! `count` → `{"delivered":n}`; `report` → everything ([`super::tally::Report`]); `seen` → the numbers of the
//! run as hexadecimal digits; `reset RUN CAPACITY` → `{"delivered":0}`.
//! The runner sends one command and waits for its answer. The end of input ends the sink.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsRawFd;

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use serde::Serialize;

use super::tally::Tally;

/// Longest command line.
const MAX_LINE_OCTETS: usize = 256;

/// Whether the channel is still there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControlFlow {
    /// Go on.
    Open,
    /// The runner has gone.
    Ended,
}

/// The channel on standard input and output.
pub struct Control {
    line: Vec<u8>,
}

#[derive(Serialize)]
struct Count {
    delivered: u32,
}

#[derive(Serialize)]
struct Seen {
    seen: String,
}

#[derive(Serialize)]
struct Refusal<'a> {
    error: &'a str,
}

impl Control {
    /// Watches standard input, which must be a pipe, a socket or a terminal.
    pub fn register(registry: &Registry, token: Token) -> io::Result<Control> {
        let descriptor = io::stdin().as_raw_fd();
        registry.register(&mut SourceFd(&descriptor), token, Interest::READABLE)?;
        Ok(Control { line: Vec::new() })
    }

    /// Answers what has arrived. Called only when standard input is readable, so that the read doesn't wait.
    pub fn serve(&mut self, tally: &mut Tally) -> io::Result<ControlFlow> {
        let mut octets = [0; MAX_LINE_OCTETS];
        let count = match io::stdin().lock().read(&mut octets) {
            Ok(0) => return Ok(ControlFlow::Ended),
            Ok(count) => count,
            Err(error) if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock) => 0,
            Err(error) => return Err(error),
        };
        self.line.extend_from_slice(&octets[..count]);
        while let Some(end) = memchr::memchr(b'\n', &self.line) {
            let answer = answer(&self.line[..end], tally);
            self.line.drain(..=end);
            let mut output = io::stdout().lock();
            output.write_all(answer.as_bytes())?;
            output.write_all(b"\n")?;
            output.flush()?;
        }
        Ok(if self.line.len() > MAX_LINE_OCTETS { ControlFlow::Ended } else { ControlFlow::Open })
    }
}

fn answer(line: &[u8], tally: &mut Tally) -> String {
    let text = std::str::from_utf8(line).unwrap_or("");
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    match words[..] {
        ["count"] => to_line(&Count { delivered: tally.delivered() }),
        ["seen"] => to_line(&Seen { seen: tally.seen().to_text() }),
        ["report"] => to_line(&tally.report()),
        ["reset", run, capacity] => match (run.parse(), capacity.parse()) {
            (Ok(run), Ok(capacity)) => {
                tally.reset(run, capacity);
                to_line(&Count { delivered: 0 })
            }
            _ => to_line(&Refusal { error: "reset RUN CAPACITY, both numbers" }),
        },
        _ => to_line(&Refusal { error: "count, report, seen or reset RUN CAPACITY" }),
    }
}

/// One line of JSON. The types sent here are plain structures, for which serialising can't fail.
pub fn to_line(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_else(|error| format!("{{\"error\":\"{error}\"}}"))
}
