//! One SMTP conversation, server side, as a state machine: octets in, replies out.
//!
//! It reads no socket. Pipelined commands are answered in order into one buffer (RFC 2920 §3.2), so that the
//! server writes once per readable event. It must never keep more of a message than is needed to find its marker.

use std::sync::Arc;

use memchr::{memchr, memmem::Finder};
use rustls::ServerConfig;

use super::profile::{Dice, Profile, RefusalStage, Verdict};
use super::tally::Tally;
use crate::marker::{Marker, MarkerFinder};

/// Longest command line; RFC 5321 §4.5.3.1.4 asks for 512, parameters of extensions add to it.
const MAX_COMMAND_OCTETS: usize = 2_048;
/// The marker is looked for in so much of the beginning of a message.
const MARKER_WITHIN_OCTETS: usize = 16 << 10;

/// What all conversations of a sink share.
pub struct Shared {
    /// How the sink behaves.
    pub profile: Profile,
    /// What it saw.
    pub tally: Tally,
    /// Which messages it refuses.
    pub dice: Dice,
    /// With it, STARTTLS is offered (RFC 3207).
    pub tls: Option<Arc<ServerConfig>>,
    markers: MarkerFinder,
    end_of_data: Finder<'static>,
}

impl Shared {
    /// A sink that saw nothing yet.
    pub fn new(profile: Profile) -> Shared {
        Shared {
            dice: Dice::new(&profile),
            profile,
            tally: Tally::new(),
            tls: None,
            markers: MarkerFinder::new(),
            end_of_data: Finder::new(b"\r\n.\r\n"),
        }
    }
}

/// What the server does after a session has answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// Read on.
    Open,
    /// The reply to an end of data is due after the profile's delay: call [`Session::resume`] then, read nothing meanwhile.
    Delayed,
    /// Write what is left; what follows is TLS, see [`Session::secured`].
    StartTls,
    /// Write what is left and close.
    Close,
}

enum State {
    /// Between commands.
    Command,
    /// After 354, until CRLF.CRLF.
    Data,
    /// Inside a BDAT chunk of which so many octets are to come.
    Chunk { remaining: u64, last: bool },
    /// An end of data waits for its reply.
    Delayed,
    /// STARTTLS was answered with 220.
    StartTls,
    /// QUIT or 421 was answered; whatever follows is ignored.
    Closed,
}

/// The transaction in progress (RFC 5321 §3.3).
struct Transaction {
    recipients: u32,
    verdict: Verdict,
    octets: u64,
    marker: Option<Marker>,
    chunked: bool,
}

/// One conversation.
pub struct Session {
    state: State,
    greeted: bool,
    /// Whether TLS carries it.
    secure: bool,
    transaction: Option<Transaction>,
    messages: u64,
    pending: Vec<u8>,
}

impl Session {
    /// A conversation that begins with the greeting, written to `out`.
    pub fn new(out: &mut Vec<u8>) -> Session {
        out.extend_from_slice(b"220 sink.perf.test ESMTP mailrace-perf\r\n");
        Session {
            state: State::Command,
            greeted: false,
            secure: false,
            transaction: None,
            messages: 0,
            pending: Vec::new(),
        }
    }

    /// Takes what arrived, appends the replies to `out`.
    pub fn receive(&mut self, input: &[u8], shared: &mut Shared, out: &mut Vec<u8>) -> Flow {
        if self.pending.is_empty() {
            let used = self.consume(input, shared, out);
            self.pending.extend_from_slice(&input[used..]);
        } else {
            let mut pending = std::mem::take(&mut self.pending);
            pending.extend_from_slice(input);
            let used = self.consume(&pending, shared, out);
            pending.drain(..used);
            self.pending = pending;
        }
        self.flow()
    }

    /// The delay is over: answers the end of data and goes on with what came in meanwhile.
    pub fn resume(&mut self, shared: &mut Shared, out: &mut Vec<u8>) -> Flow {
        if matches!(self.state, State::Delayed) {
            self.answer_message(shared, out);
        }
        self.receive(&[], shared, out)
    }

    /// TLS carries the conversation from now on. What was learnt or received before is forgotten (RFC 3207 §4.2).
    pub fn secured(&mut self) {
        *self = Session { secure: true, ..Session::new(&mut Vec::new()) };
    }

    /// Whether a transaction has begun that has neither been completed nor given up.
    pub fn in_transaction(&self) -> bool {
        self.transaction.is_some()
    }

    fn flow(&self) -> Flow {
        match self.state {
            State::Closed => Flow::Close,
            State::Delayed => Flow::Delayed,
            State::StartTls => Flow::StartTls,
            _ => Flow::Open,
        }
    }

    /// Works through `input` as far as it goes; returns how many octets are done with.
    fn consume(&mut self, input: &[u8], shared: &mut Shared, out: &mut Vec<u8>) -> usize {
        let mut used = 0;
        loop {
            let rest = &input[used..];
            let step = match self.state {
                State::Command => self.command_line(rest, shared, out),
                State::Data => self.data(rest, shared, out),
                State::Chunk { remaining, last } => self.chunk(rest, remaining, last, shared, out),
                State::Delayed => None,
                State::StartTls | State::Closed => return input.len(),
            };
            match step {
                Some(octets) => used += octets,
                None => return used,
            }
        }
    }

    fn command_line(&mut self, input: &[u8], shared: &mut Shared, out: &mut Vec<u8>) -> Option<usize> {
        let Some(end) = memchr(b'\n', input) else {
            if input.len() > MAX_COMMAND_OCTETS {
                shared.tally.totals.protocol_errors += 1;
                out.extend_from_slice(b"500 5.5.2 line too long\r\n");
                self.state = State::Closed;
            }
            return None;
        };
        match input[..end].strip_suffix(b"\r") {
            Some(line) => self.command(line, shared, out),
            // RFC 5321 §2.3.8: a line ends with CRLF and nothing else.
            None => reject(shared, out, b"500 5.5.2 bare line feed\r\n"),
        }
        Some(end + 1)
    }

    fn command(&mut self, line: &[u8], shared: &mut Shared, out: &mut Vec<u8>) {
        let verb_end = memchr(b' ', line).unwrap_or(line.len());
        let (verb, rest) = line.split_at(verb_end);
        let is = |name: &[u8]| verb.eq_ignore_ascii_case(name);
        if is(b"MAIL") {
            self.mail(rest, shared, out);
        } else if is(b"RCPT") {
            self.rcpt(rest, shared, out);
        } else if is(b"DATA") {
            match &self.transaction {
                Some(transaction) if transaction.recipients > 0 && !transaction.chunked => {
                    self.state = State::Data;
                    out.extend_from_slice(b"354 go ahead\r\n");
                }
                // RFC 5321 §3.3: no valid recipient, no data. Pipelining clients send DATA all the same: not their error.
                Some(_) => out.extend_from_slice(b"554 5.5.1 no valid recipients\r\n"),
                None if refuses_early(shared) => out.extend_from_slice(b"503 5.5.1 MAIL first\r\n"),
                None => reject(shared, out, b"503 5.5.1 MAIL first\r\n"),
            }
        } else if is(b"BDAT") && shared.profile.chunking {
            self.bdat(rest, shared, out);
        } else if is(b"EHLO") {
            self.transaction = None;
            self.greeted = true;
            self.ehlo(shared, out);
        } else if is(b"HELO") {
            self.transaction = None;
            self.greeted = true;
            out.extend_from_slice(b"250 sink.perf.test\r\n");
        } else if is(b"STARTTLS") && shared.tls.is_some() && !self.secure {
            out.extend_from_slice(b"220 2.0.0 go ahead\r\n");
            self.state = State::StartTls;
        } else if is(b"RSET") {
            self.transaction = None;
            out.extend_from_slice(b"250 2.0.0 reset\r\n");
        } else if is(b"NOOP") {
            out.extend_from_slice(b"250 2.0.0 nothing done\r\n");
        } else if is(b"VRFY") {
            out.extend_from_slice(b"252 2.5.0 send some mail\r\n");
        } else if is(b"QUIT") {
            out.extend_from_slice(b"221 2.0.0 bye\r\n");
            self.state = State::Closed;
        } else {
            reject(shared, out, b"500 5.5.1 unknown command\r\n");
        }
    }

    fn ehlo(&self, shared: &Shared, out: &mut Vec<u8>) {
        out.extend_from_slice(b"250-sink.perf.test\r\n250-8BITMIME\r\n250-ENHANCEDSTATUSCODES\r\n");
        let profile = &shared.profile;
        let offers: [(bool, &[u8]); 3] = [
            (profile.pipelining, b"250-PIPELINING\r\n"),
            (profile.chunking, b"250-CHUNKING\r\n"),
            (shared.tls.is_some() && !self.secure, b"250-STARTTLS\r\n"),
        ];
        offers.iter().filter(|(offered, _)| *offered).for_each(|(_, line)| out.extend_from_slice(line));
        out.extend_from_slice(format!("250 SIZE {}\r\n", profile.max_message_octets).as_bytes());
    }

    fn mail(&mut self, argument: &[u8], shared: &mut Shared, out: &mut Vec<u8>) {
        if !self.greeted || self.transaction.is_some() || !is_path(argument, b" FROM:") {
            return reject(shared, out, b"503 5.5.1 no MAIL here\r\n");
        }
        let limit = shared.profile.messages_per_connection;
        if limit > 0 && self.messages >= limit {
            out.extend_from_slice(b"421 4.7.0 enough for one connection\r\n");
            self.state = State::Closed;
            return;
        }
        let verdict = shared.dice.throw(&shared.profile);
        if verdict != Verdict::Accept && shared.profile.stage == RefusalStage::Mail {
            return self.refuse(verdict, shared, out);
        }
        self.transaction = Some(Transaction { recipients: 0, verdict, octets: 0, marker: None, chunked: false });
        out.extend_from_slice(b"250 2.1.0 ok\r\n");
    }

    fn rcpt(&mut self, argument: &[u8], shared: &mut Shared, out: &mut Vec<u8>) {
        match &mut self.transaction {
            Some(transaction) if is_path(argument, b" TO:") && !transaction.chunked => {
                if transaction.verdict != Verdict::Accept && shared.profile.stage == RefusalStage::Rcpt {
                    let verdict = transaction.verdict;
                    return self.refuse(verdict, shared, out);
                }
                transaction.recipients += 1;
                out.extend_from_slice(b"250 2.1.5 ok\r\n");
            }
            None if refuses_early(shared) => out.extend_from_slice(b"503 5.5.1 no RCPT here\r\n"),
            _ => reject(shared, out, b"503 5.5.1 no RCPT here\r\n"),
        }
    }

    /// BDAT (RFC 3030 §2): the chunk follows whatever the reply will be.
    fn bdat(&mut self, argument: &[u8], shared: &mut Shared, out: &mut Vec<u8>) {
        let text = std::str::from_utf8(argument).unwrap_or("");
        let mut words = text.split_ascii_whitespace();
        let size = words.next().and_then(|size| size.parse::<u64>().ok());
        let last = match words.next() {
            None => Some(false),
            Some(word) if word.eq_ignore_ascii_case("LAST") => Some(true),
            Some(_) => None,
        };
        match (size, last) {
            (Some(size), Some(last)) if size <= shared.profile.max_message_octets => {
                if let Some(transaction) = &mut self.transaction {
                    transaction.chunked = true;
                }
                self.state = State::Chunk { remaining: size, last };
            }
            _ => {
                reject(shared, out, b"501 5.5.4 BDAT size [LAST]\r\n");
                self.state = State::Closed;
            }
        }
    }

    /// Content after DATA. Everything up to the end of data is consumed, save what may be the beginning of that end.
    fn data(&mut self, input: &[u8], shared: &mut Shared, out: &mut Vec<u8>) -> Option<usize> {
        let transaction = self.transaction.as_mut()?;
        let end = if transaction.octets == 0 && input.starts_with(b".\r\n") {
            Some(3)
        } else {
            shared.end_of_data.find(input).map(|start| start + 5)
        };
        let used = match end {
            Some(end) => end,
            // The marker is looked for in one piece.
            None if transaction.octets == 0 && input.len() < MARKER_WITHIN_OCTETS => return None,
            None => input.len().saturating_sub(4),
        };
        if transaction.octets == 0 {
            transaction.marker = shared.markers.find(&input[..used.min(MARKER_WITHIN_OCTETS)]);
        }
        transaction.octets += used as u64;
        shared.tally.totals.octets += used as u64;
        match end {
            Some(_) => self.end_of_data(shared, out),
            None if used == 0 => return None,
            None => {}
        }
        Some(used)
    }

    fn chunk(
        &mut self,
        input: &[u8],
        remaining: u64,
        last: bool,
        shared: &mut Shared,
        out: &mut Vec<u8>,
    ) -> Option<usize> {
        let available = (input.len() as u64).min(remaining);
        if let Some(transaction) = &mut self.transaction {
            if transaction.octets == 0 {
                if available < remaining && available < MARKER_WITHIN_OCTETS as u64 {
                    return None;
                }
                let head = (available as usize).min(MARKER_WITHIN_OCTETS);
                transaction.marker = shared.markers.find(&input[..head]);
            }
            transaction.octets += available;
        }
        if available == 0 && remaining > 0 {
            return None;
        }
        shared.tally.totals.octets += available;
        let remaining = remaining - available;
        self.state = State::Chunk { remaining, last };
        if remaining == 0 {
            self.state = State::Command;
            match &self.transaction {
                None => reject(shared, out, b"503 5.5.1 MAIL first\r\n"),
                Some(transaction) if transaction.recipients == 0 => {
                    out.extend_from_slice(b"554 5.5.1 no valid recipients\r\n");
                    self.transaction = None;
                }
                Some(_) if last => self.end_of_data(shared, out),
                Some(_) => out.extend_from_slice(b"250 2.0.0 chunk taken\r\n"),
            }
        }
        Some(available as usize)
    }

    fn end_of_data(&mut self, shared: &mut Shared, out: &mut Vec<u8>) {
        if shared.profile.delay.is_zero() {
            self.answer_message(shared, out);
        } else {
            self.state = State::Delayed;
        }
    }

    fn answer_message(&mut self, shared: &mut Shared, out: &mut Vec<u8>) {
        self.state = State::Command;
        self.messages += 1;
        let Some(transaction) = self.transaction.take() else { return };
        match transaction.verdict {
            Verdict::Accept => {
                shared.tally.accept(transaction.marker, transaction.recipients);
                shared.tally.totals.tls_messages += u64::from(self.secure);
                shared.tally.totals.chunked_messages += u64::from(transaction.chunked);
                out.extend_from_slice(b"250 2.0.0 taken\r\n");
            }
            verdict => self.refuse(verdict, shared, out),
        }
    }

    /// A refusal that the profile asked for.
    fn refuse(&mut self, verdict: Verdict, shared: &mut Shared, out: &mut Vec<u8>) {
        let totals = &mut shared.tally.totals;
        let (count, reply): (_, &[u8]) = match verdict {
            Verdict::Accept => return,
            Verdict::Tempfail => (&mut totals.tempfailed, b"451 4.3.0 try again later\r\n"),
            Verdict::Permfail => (&mut totals.permfailed, b"550 5.1.1 not here\r\n"),
            Verdict::Drop => {
                self.state = State::Closed;
                (&mut totals.dropped, b"")
            }
        };
        *count += 1;
        out.extend_from_slice(reply);
    }
}

/// Whether this sink itself makes MAIL fail, so that what was pipelined behind it comes out of order.
fn refuses_early(shared: &Shared) -> bool {
    shared.profile.stage == RefusalStage::Mail && shared.profile.refused_share() > 0.0
}

fn is_path(argument: &[u8], prefix: &[u8]) -> bool {
    argument.len() >= prefix.len() + 2
        && argument[..prefix.len()].eq_ignore_ascii_case(prefix)
        && argument[prefix.len()] == b'<'
        && memchr(b'>', argument).is_some()
}

/// A refusal that the client earned by breaking the protocol.
fn reject(shared: &mut Shared, out: &mut Vec<u8>, reply: &[u8]) {
    shared.tally.totals.protocol_errors += 1;
    out.extend_from_slice(reply);
}

#[cfg(test)]
mod tests;
