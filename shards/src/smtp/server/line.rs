//! Lines of the peer: put together, bounded, and handed to whom they concern.

use super::command::{self, Command, CommandError};
use super::session::Session;
use super::state::State;
use crate::limits::{AUTH_LINE_BYTES_MAX, COMMAND_LINE_BYTES_MAX, SKIPPED_LINE_BYTES_MAX};
use crate::time::Now;

impl Session {
    /// Takes octets up to the end of a line, and acts on the line.
    pub(super) fn take_line(&mut self, bytes: &[u8], now: Now) -> usize {
        let Some(end) = memchr::memchr(b'\n', bytes).map(|at| at + 1) else {
            return self.take_partial(bytes);
        };
        if self.partial.is_empty() {
            self.line(&bytes[..end], now);
        } else {
            let mut line = std::mem::take(&mut self.partial);
            line.extend_from_slice(&bytes[..end]);
            self.line(&line, now);
        }
        end
    }

    fn take_partial(&mut self, bytes: &[u8]) -> usize {
        let room = AUTH_LINE_BYTES_MAX - self.partial.len();
        if bytes.len() <= room {
            self.partial.extend_from_slice(bytes);
            return bytes.len();
        }
        self.counters.skipped_bytes = self.partial.len();
        self.partial = Vec::new();
        self.state = State::Skipping;
        0
    }

    /// Throws away the rest of a line that is too long.
    pub(super) fn skip_line(&mut self, bytes: &[u8], now: Now) -> usize {
        let end = memchr::memchr(b'\n', bytes).map(|at| at + 1);
        let length = end.unwrap_or(bytes.len());
        self.counters.skipped_bytes += length;
        if self.counters.skipped_bytes > SKIPPED_LINE_BYTES_MAX {
            self.end("421 4.7.0 Line without end");
        } else if end.is_some() {
            self.state = State::Command;
            self.error("500 5.5.2 Line too long");
            self.ready(now);
        }
        length
    }

    /// Acts on a line with its line end.
    fn line(&mut self, line: &[u8], now: Now) {
        let exchange = match std::mem::replace(&mut self.state, State::Command) {
            State::Exchange(exchange) => Some(exchange),
            _ => None,
        };
        let long = exchange.is_some() || command::is_auth(line);
        let bound = if long { AUTH_LINE_BYTES_MAX } else { COMMAND_LINE_BYTES_MAX };
        if line.len() > SKIPPED_LINE_BYTES_MAX {
            return self.end("421 4.7.0 Line without end");
        }
        match line.strip_suffix(b"\r\n") {
            _ if line.len() > bound => self.error("500 5.5.2 Line too long"),
            None => self.error("500 5.5.2 Lines end with CR LF"),
            Some(text) => match exchange {
                Some(exchange) => self.auth_step(exchange.answer(text)),
                None => self.command(text, now),
            },
        }
        self.ready(now);
    }

    fn command(&mut self, line: &[u8], now: Now) {
        let command = match command::parse(line) {
            Ok(command) => command,
            Err(CommandError::Unknown) => return self.error("500 5.5.1 Command unknown"),
            Err(CommandError::Control) => return self.error("500 5.5.2 Control characters in a command"),
            Err(CommandError::Syntax(usage)) => return self.error(&format!("501 5.5.4 Syntax: {usage}")),
            // How many octets follow is not known, so whatever comes could be text or commands.
            Err(CommandError::ChunkLength) => return self.end("501 5.5.4 Syntax: BDAT octets [LAST]"),
        };
        if !matches!(command, Command::Rcpt(_) | Command::Bdat { .. }) {
            self.counters.commands += 1;
        }
        match command {
            Command::Ehlo(name) => self.ehlo(name),
            Command::Helo(name) => self.helo(name),
            Command::Mail(arguments) => self.mail(arguments),
            Command::Rcpt(arguments) => self.rcpt(arguments),
            Command::Data => self.data(now),
            Command::Bdat { octets, last } => self.bdat(octets, last, now),
            Command::Rset => self.rset(),
            Command::Noop => self.reply("250 2.0.0 Ok"),
            Command::Quit => self.end("221 2.0.0 Bye"),
            Command::Vrfy => self.reply("252 2.0.0 Not verified; send it some mail"),
            Command::Expn => self.error("502 5.5.1 Not implemented"),
            Command::Help => self.reply("214 2.0.0 See RFC 5321"),
            Command::StartTls => self.starttls(),
            Command::Auth { mechanism, initial } => self.auth(mechanism, initial),
            Command::Http => self.end("421 4.7.0 This is not HTTP"),
        }
    }
}
