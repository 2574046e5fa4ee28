//! What is sent next, written straight into the caller's buffer. A flight's stage says how far it is; nothing is
//! buffered here, so a body of any size costs no memory.

use super::EndOfDataMark;
use super::flight::{Flight, Stage};
use super::session::Session;
use super::state::{Awaited, State, Step, body_timeout};
use crate::limits::{BLIND_BODY_BYTES_MAX, REFERRED_BYTES_MIN, REFERRED_TAIL_BYTES};
use crate::message::Body;
use crate::smtp::command;
use crate::time::Instant;
use memchr::memmem;

impl Session {
    /// Appends pending output to `out`: about `room` octets, at most one command or line end more. Call it again
    /// until it appends nothing. `marks` gets one entry for each message completed by what was appended.
    pub fn fill(&mut self, out: &mut Vec<u8>, room: usize, marks: &mut Vec<EndOfDataMark>, now: Instant) {
        let stop = out.len().saturating_add(room);
        while out.len() < stop && self.fill_next(out, stop, marks, now) {}
    }

    /// The same, but octets of a body that go as they are, and are many, are not copied: what comes back goes behind
    /// `out`, and completes no message.
    pub fn fill_or_refer(
        &mut self,
        out: &mut Vec<u8>,
        room: usize,
        marks: &mut Vec<EndOfDataMark>,
        now: Instant,
    ) -> Option<Body> {
        let stop = out.len().saturating_add(room);
        while out.len() < stop {
            if let Some(piece) = self.refer_to_body() {
                return Some(piece);
            }
            if !self.fill_next(out, stop, marks, now) {
                break;
            }
        }
        None
    }

    /// Passes over most of a body that comes next and goes as it is. Its end goes with the commands behind it.
    fn refer_to_body(&mut self) -> Option<Body> {
        if self.pending || self.state != State::Ready {
            return None;
        }
        let chunking = self.capabilities.chunking;
        let flight = self.flights.iter_mut().find(|flight| flight.stage != Stage::Done)?;
        let Stage::Body(at) = flight.stage else { return None };
        let transaction = &flight.transaction;
        let stuffed = !chunking && transaction.envelope.flags().dot_lines;
        let end = transaction.body.len().saturating_sub(REFERRED_TAIL_BYTES);
        if stuffed || end < at + REFERRED_BYTES_MIN {
            return None;
        }
        let piece = transaction.body.slice(at..end);
        flight.stage = Stage::Body(end);
        Some(piece)
    }

    /// Appends the next command or piece of a body; false when nothing may be sent now.
    fn fill_next(&mut self, out: &mut Vec<u8>, stop: usize, marks: &mut Vec<EndOfDataMark>, now: Instant) -> bool {
        if self.pending {
            self.fill_greeting(out, now);
            return true;
        }
        if self.state != State::Ready {
            return false;
        }
        let Some(index) = self.flights.iter().position(|flight| flight.stage != Stage::Done) else {
            return false;
        };
        match self.flights[index].stage {
            Stage::Queued | Stage::Recipients(_) | Stage::Envelope => self.fill_command(index, out, marks, now),
            Stage::Go | Stage::Done => false,
            Stage::Body(at) => {
                self.fill_body(index, at, out, stop, marks, now);
                true
            }
            Stage::Dot => {
                let body = &self.flights[index].transaction.body;
                out.extend_from_slice(if lacks_line_end(body) { b"\r\n.\r\n" } else { b".\r\n" });
                self.complete(index, out, marks, now);
                true
            }
            Stage::LoneDot => {
                out.extend_from_slice(b".\r\n");
                self.flights[index].stage = Stage::Done;
                self.await_reply(Step::LoneDot, index, now);
                true
            }
        }
    }

    fn fill_greeting(&mut self, out: &mut Vec<u8>, now: Instant) {
        match self.state {
            State::Ehlo => command::ehlo(out, &self.config.ehlo),
            State::Helo => command::helo(out, &self.config.ehlo),
            State::StartTls => command::starttls(out),
            State::Quit => command::quit(out),
            _ => unreachable!("{:?} has no command", self.state),
        }
        self.pending = false;
        self.reply_since = now;
    }

    /// The next command of a flight whose data has not begun.
    fn fill_command(&mut self, index: usize, out: &mut Vec<u8>, marks: &mut Vec<EndOfDataMark>, now: Instant) -> bool {
        if !self.capabilities.pipelining && !self.awaited.is_empty() {
            return false;
        }
        let size = self.transfer_size(&self.flights[index].transaction.body);
        let flight = &mut self.flights[index];
        let transaction = &flight.transaction;
        let step = match flight.stage {
            Stage::Queued if self.left_open.is_some() => {
                self.left_open = None;
                command::rset(out);
                Step::Reset
            }
            Stage::Queued => {
                let envelope = &transaction.envelope;
                command::mail(out, envelope.sender(), size, envelope.flags(), &self.capabilities);
                flight.stage = Stage::Recipients(0);
                Step::Mail
            }
            Stage::Recipients(count) => {
                command::rcpt(out, transaction.envelope.recipient(transaction.recipients[count].into()));
                let all = count + 1 == transaction.recipients.len();
                flight.stage = if all { Stage::Envelope } else { Stage::Recipients(count + 1) };
                Step::Rcpt
            }
            _ if self.capabilities.chunking => {
                if transaction.body.len() > BLIND_BODY_BYTES_MAX && !flight.all_recipients_answered() {
                    return false;
                }
                command::bdat_last(out, size);
                flight.stage = Stage::Body(0);
                self.body_until = Some(now.after(body_timeout(size)));
                if size == 0 {
                    self.complete(index, out, marks, now);
                }
                return true;
            }
            _ => {
                command::data(out);
                flight.stage = Stage::Go;
                Step::Data
            }
        };
        self.await_reply(step, index, now);
        true
    }

    /// Copies the body from `at`, as much as there is room for.
    fn fill_body(
        &mut self,
        index: usize,
        at: usize,
        out: &mut Vec<u8>,
        stop: usize,
        marks: &mut Vec<EndOfDataMark>,
        now: Instant,
    ) {
        let chunking = self.capabilities.chunking;
        let flight = &mut self.flights[index];
        let body = &flight.transaction.body;
        let end = body.len().min(at + (stop - out.len()));
        if !chunking && flight.transaction.envelope.flags().dot_lines {
            copy_stuffed(out, body, at, end);
        } else {
            out.extend_from_slice(&body[at..end]);
        }
        let all = end == body.len();
        flight.stage = if all { Stage::Dot } else { Stage::Body(end) };
        if all && chunking {
            self.complete(index, out, marks, now);
        }
    }

    /// The octet just written completes the message.
    fn complete(&mut self, index: usize, out: &[u8], marks: &mut Vec<EndOfDataMark>, now: Instant) {
        let flight: &mut Flight = &mut self.flights[index];
        flight.stage = Stage::Done;
        if self.capabilities.chunking {
            // A BDAT that is refused because no recipient was accepted may leave the transaction open: the next MAIL
            // would be refused and its RCPTs join this sender's envelope. Only a positive reply rules that out.
            self.left_open = Some(flight.number);
        }
        if !flight.settled {
            marks.push(EndOfDataMark { position: out.len() - 1, token: flight.token() });
        }
        let number = flight.number;
        self.body_until = None;
        self.await_reply(Step::EndOfData, index, now);
        self.note_progress(number, now);
    }

    fn await_reply(&mut self, step: Step, index: usize, now: Instant) {
        if self.awaited.is_empty() {
            self.reply_since = now;
        }
        self.awaited.push_back(Awaited { step, flight: self.flights[index].number });
    }

    /// Octets of `body` as transferred, stuffed dots and the final dot not counted (RFC 1870 §5).
    pub(super) fn transfer_size(&self, body: &[u8]) -> usize {
        body.len() + if !self.capabilities.chunking && lacks_line_end(body) { 2 } else { 0 }
    }
}

/// Whether DATA must add a line end before the final dot. An empty body is complete.
fn lacks_line_end(body: &[u8]) -> bool {
    !body.is_empty() && !body.ends_with(b"\r\n")
}

/// Copies `body[at..end]` with each dot at the beginning of a line doubled, RFC 5321 §4.5.2. A line begins after any
/// LF, so that a stray one cannot make a peer see the end of the data.
fn copy_stuffed(out: &mut Vec<u8>, body: &[u8], at: usize, end: usize) {
    let mut from = at;
    if at < end && body[at] == b'.' && (at == 0 || body[at - 1] == b'\n') {
        out.push(b'.');
    }
    for found in memmem::find_iter(&body[at..end], b"\n.") {
        let dot = at + found + 1;
        out.extend_from_slice(&body[from..dot]);
        out.push(b'.');
        from = dot;
    }
    out.extend_from_slice(&body[from..end]);
}
