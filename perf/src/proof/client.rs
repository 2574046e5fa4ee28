//! The client of the traced sample: one command at a time, one message at a time on each connection, so that the reply
//! behind each 354 is the reply to a known message.
//!
//! It must never share code with the generator: what judges a server should be small enough to be read at once.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use crate::generator::template::fill;

/// A traced server may be slow, and a far one is.
const REPLY: Duration = Duration::from_secs(60);

/// What is sent.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// The server.
    pub target: SocketAddr,
    /// How many.
    pub messages: u32,
    /// Octets of each, or a little more.
    pub size: u32,
    /// Destination domains, in turn.
    pub domains: u32,
    /// Connections side by side.
    pub at_once: u32,
}

/// A connection of the sample.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conversation {
    /// Our port, by which the server's calls on it are known.
    pub port: u16,
    /// The messages whose end of data was sent and answered, in this order.
    pub messages: Vec<u32>,
}

impl Sample {
    /// Sends it.
    ///
    /// # Errors
    /// A connection that broke, or a reply that refused what every server takes.
    pub fn send(self) -> io::Result<Vec<Conversation>> {
        let at_once = self.at_once.clamp(1, self.messages.max(1));
        let threads: Vec<_> = (0..at_once)
            .map(|first| thread::spawn(move || self.converse((first..self.messages).step_by(at_once as usize))))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    }

    fn converse(self, numbers: impl Iterator<Item = u32>) -> io::Result<Conversation> {
        let stream = TcpStream::connect(self.target)?;
        stream.set_read_timeout(Some(REPLY))?;
        stream.set_write_timeout(Some(REPLY))?;
        stream.set_nodelay(true)?;
        let mut conversation = Conversation { port: stream.local_addr()?.port(), messages: Vec::new() };
        let mut replies = BufReader::new(&stream);
        let mut say = |octets: &[u8], expected: &[u16]| -> io::Result<()> {
            (&stream).write_all(octets)?;
            let code = reply(&mut replies)?;
            if expected.contains(&code) { Ok(()) } else { Err(io::Error::other(format!("answered {code}"))) }
        };
        say(b"", &[220])?;
        say(b"EHLO gen.perf.test\r\n", &[250])?;
        for number in numbers {
            let recipient = format!("RCPT TO:<u@d{:05}.perf.test>\r\n", number % self.domains.max(1));
            say(b"MAIL FROM:<load@gen.perf.test>\r\n", &[250])?;
            say(recipient.as_bytes(), &[250])?;
            say(b"DATA\r\n", &[354])?;
            // What isn't acknowledged isn't promised, so any refusal will do.
            say(&content(number, self.size), &[250, 421, 450, 451, 452, 550, 552, 554])?;
            conversation.messages.push(number);
        }
        say(b"QUIT\r\n", &[221])?;
        Ok(conversation)
    }
}

/// What marks the beginning and the end of a message, nowhere else to be found.
pub fn tokens(number: u32) -> [String; 2] {
    ["begin", "end"].map(|place| format!("perf-sample/{}/{number}/{place};", std::process::id()))
}

fn content(number: u32, size: u32) -> Vec<u8> {
    let [begin, end] = tokens(number);
    let mut text = format!("X-Perf-Sample: {begin}\r\nFrom: <load@gen.perf.test>\r\nSubject: A traced message\r\n\r\n");
    let last = format!("{end}\r\n.\r\n");
    let mut octets = std::mem::take(&mut text).into_bytes();
    fill(&mut octets, (size as usize).saturating_sub(last.len()));
    octets.extend_from_slice(last.as_bytes());
    octets
}

/// The code of the next whole reply (RFC 5321 §4.2.1).
fn reply(replies: &mut impl BufRead) -> io::Result<u16> {
    loop {
        let mut line = String::new();
        if io::Read::take(&mut *replies, 1_024).read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if line.as_bytes().get(3) != Some(&b'-') {
            let code = line.get(..3).and_then(|code| code.parse().ok());
            return code.ok_or_else(|| io::Error::other("what was answered is no reply"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_has_its_tokens_at_both_ends_and_lines_that_end() {
        for size in [512, 4_096, 102_400] {
            let text = String::from_utf8(content(17, size)).unwrap();
            let [begin, end] = tokens(17);
            assert!(text.find(&begin).is_some_and(|at| at < 64), "{text}");
            assert!(text.ends_with(&format!("\r\n{end}\r\n.\r\n")), "{text}");
            assert_eq!(text.matches('\n').count(), text.matches("\r\n").count());
            assert!((text.len() as i64 - i64::from(size)).abs() <= 100, "{} for {size}", text.len());
        }
    }
}
