//! One SMTP conversation, client side, as a state machine: replies in, commands out.
//!
//! It opens no socket. It must never send a number again that it has taken, nor count a reply to the wrong message.

use std::collections::VecDeque;

use memchr::memchr;

use super::tally::Tally;
use super::template::Template;
use super::work::{Order, Work};
use super::{Load, Pipelining};
use crate::clock::now_ns;

/// Longest reply line (RFC 5321 §4.5.3.1.5 says 512; some servers say more).
const MAX_LINE_OCTETS: usize = 2_048;
/// Lines of one reply.
const MAX_REPLY_LINES: usize = 128;

/// What the next reply answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    Greeting,
    Ehlo,
    Mail,
    Rcpt,
    Data,
    Dot,
    /// The reply to a command whose outcome doesn't matter: RSET, a lone dot.
    Ignored,
    Quit,
}

/// A message whose envelope is under way.
struct Envelope {
    order: Order,
    mail_accepted: bool,
    recipient_accepted: bool,
    counted: bool,
}

/// A message whose end of data is sent.
struct Sent {
    number: u32,
    since_ns: u64,
}

/// What the driver does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// Wait for replies.
    Waiting,
    /// Nothing under way: offer work with [`Session::start`] when there is some.
    Idle,
    /// Close, because of this; the conversation ended in order when it is [`FINISHED`].
    Close(&'static str),
}

/// The reason given when nothing went wrong.
pub const FINISHED: &str = "finished";

/// What all conversations of a generator share.
pub struct Shared {
    /// The numbers left.
    pub work: Work,
    /// The counts.
    pub tally: Tally,
    /// The messages.
    pub template: Template,
    /// What was ordered.
    pub load: Load,
}

/// One conversation.
pub struct Session {
    expected: VecDeque<Expected>,
    envelope: Option<Envelope>,
    sent: Option<Sent>,
    pipelining: Pipelining,
    messages: u64,
    pending: Vec<u8>,
    reply_lines: usize,
    offers_pipelining: bool,
    needs_reset: bool,
}

impl Session {
    /// A conversation that waits for the greeting.
    pub fn new() -> Session {
        Session {
            expected: VecDeque::from([Expected::Greeting]),
            envelope: None,
            sent: None,
            pipelining: Pipelining::None,
            messages: 0,
            pending: Vec::new(),
            reply_lines: 0,
            offers_pipelining: false,
            needs_reset: false,
        }
    }

    /// Takes what arrived, appends what is to be sent to `out`.
    pub fn receive(&mut self, input: &[u8], shared: &mut Shared, out: &mut Vec<u8>) -> Flow {
        let mut joined = Vec::new();
        let mut rest = input;
        if !self.pending.is_empty() {
            joined = std::mem::take(&mut self.pending);
            joined.extend_from_slice(input);
            rest = &joined;
        }
        while let Some(end) = memchr(b'\n', rest) {
            let (line, after) = rest.split_at(end + 1);
            rest = after;
            match self.line(line, shared, out) {
                Flow::Close(reason) => return Flow::Close(reason),
                Flow::Waiting | Flow::Idle => {}
            }
        }
        if rest.len() > MAX_LINE_OCTETS {
            return Flow::Close("reply line too long");
        }
        self.pending = rest.to_vec();
        drop(joined);
        if self.expected.is_empty() { self.start(shared, out) } else { Flow::Waiting }
    }

    /// Begins the next message if there is one that is due; ends the conversation when there are none left.
    pub fn start(&mut self, shared: &mut Shared, out: &mut Vec<u8>) -> Flow {
        debug_assert!(self.expected.is_empty() && self.sent.is_none() && self.envelope.is_none());
        let limit = shared.load.messages_per_connection;
        if shared.work.is_done() || (limit > 0 && self.messages >= limit) {
            out.extend_from_slice(b"QUIT\r\n");
            self.expected.push_back(Expected::Quit);
            return Flow::Waiting;
        }
        if self.begin_envelope(shared, out) { Flow::Waiting } else { Flow::Idle }
    }

    /// Whether the server has said anything at all.
    pub fn is_greeted(&self) -> bool {
        self.expected.front() != Some(&Expected::Greeting)
    }

    /// The connection is gone: accounts for what was under way.
    pub fn abandon(&mut self, tally: &mut Tally) {
        tally.uncertain += u64::from(self.sent.take().is_some());
        tally.unsent += u64::from(self.envelope.take().is_some_and(|envelope| !envelope.counted));
    }

    fn line(&mut self, line: &[u8], shared: &mut Shared, out: &mut Vec<u8>) -> Flow {
        let digits = line.get(..3).filter(|digits| digits.iter().all(u8::is_ascii_digit));
        let Some(digits) = digits else { return Flow::Close("not a reply") };
        let code = digits.iter().fold(0_u16, |code, digit| code * 10 + u16::from(digit - b'0'));
        let Some(&expected) = self.expected.front() else {
            return Flow::Close(if code == 421 { "closed by the server (421)" } else { "reply without a command" });
        };
        if expected == Expected::Ehlo && line[4..].trim_ascii().eq_ignore_ascii_case(b"PIPELINING") {
            self.offers_pipelining = true;
        }
        if line[3] == b'-' {
            self.reply_lines += 1;
            return if self.reply_lines > MAX_REPLY_LINES { Flow::Close("endless reply") } else { Flow::Waiting };
        }
        self.reply_lines = 0;
        self.expected.pop_front();
        self.reply(expected, code, shared, out)
    }

    fn reply(&mut self, expected: Expected, code: u16, shared: &mut Shared, out: &mut Vec<u8>) -> Flow {
        let positive = (200..300).contains(&code);
        match expected {
            Expected::Greeting if positive => {
                out.extend_from_slice(b"EHLO gen.perf.test\r\n");
                self.expected.push_back(Expected::Ehlo);
            }
            Expected::Greeting => return Flow::Close("refused at the greeting"),
            Expected::Ehlo if positive => {
                if self.offers_pipelining {
                    self.pipelining = shared.load.pipelining;
                }
            }
            Expected::Ehlo => return Flow::Close("refused at EHLO"),
            Expected::Mail | Expected::Rcpt | Expected::Data => self.envelope_reply(expected, code, shared, out),
            Expected::Dot => {
                if let Some(sent) = self.sent.take() {
                    match positive {
                        true => shared.tally.accept(sent.number, sent.since_ns),
                        false => shared.tally.refuse(code),
                    }
                }
            }
            Expected::Ignored => {}
            Expected::Quit => return Flow::Close(FINISHED),
        }
        // RFC 5321 §3.8: after 421 the server closes the channel.
        if code == 421 { Flow::Close("closed by the server (421)") } else { Flow::Waiting }
    }

    fn envelope_reply(&mut self, expected: Expected, code: u16, shared: &mut Shared, out: &mut Vec<u8>) {
        let Some(envelope) = &mut self.envelope else { return };
        let accepted = (200..300).contains(&code) || (expected == Expected::Data && code == 354);
        if !accepted && !envelope.counted {
            envelope.counted = true;
            shared.tally.refuse(code);
        }
        match expected {
            Expected::Mail => envelope.mail_accepted = accepted,
            Expected::Rcpt => envelope.recipient_accepted = accepted,
            _ => {}
        }
        if expected == Expected::Data && accepted {
            if envelope.recipient_accepted {
                return self.send_message(shared, out);
            }
            // RFC 2920 §3.1: DATA was pipelined, no recipient was valid, the server wants data all the same.
            out.extend_from_slice(b".\r\n");
            self.expected.push_back(Expected::Ignored);
            self.envelope = None;
            return;
        }
        if self.pipelining == Pipelining::None && accepted {
            match expected {
                Expected::Mail => {
                    shared.template.append_rcpt(envelope.order.number, out);
                    self.expected.push_back(Expected::Rcpt);
                }
                _ => {
                    out.extend_from_slice(b"DATA\r\n");
                    self.expected.push_back(Expected::Data);
                }
            }
            return;
        }
        let over = self.pipelining == Pipelining::None || expected == Expected::Data;
        if over {
            self.needs_reset = envelope.mail_accepted;
            self.envelope = None;
        }
    }

    fn send_message(&mut self, shared: &mut Shared, out: &mut Vec<u8>) {
        let Some(envelope) = self.envelope.take() else { return };
        let sent_ns = now_ns();
        shared.template.append_message(envelope.order.number, sent_ns, out);
        self.messages += 1;
        let since_ns = if envelope.order.due_ns > 0 { envelope.order.due_ns } else { sent_ns };
        self.sent = Some(Sent { number: envelope.order.number, since_ns });
        self.expected.push_back(Expected::Dot);
        let limit = shared.load.messages_per_connection;
        if self.pipelining == Pipelining::Full && (limit == 0 || self.messages < limit) {
            self.begin_envelope(shared, out);
        }
    }

    /// Takes the next number and sends its envelope, or the part of it that may be sent at once.
    fn begin_envelope(&mut self, shared: &mut Shared, out: &mut Vec<u8>) -> bool {
        let Some(order) = shared.work.take() else { return false };
        if shared.tally.first_ns == 0 {
            shared.tally.first_ns = now_ns();
        }
        if std::mem::take(&mut self.needs_reset) {
            out.extend_from_slice(b"RSET\r\n");
            self.expected.push_back(Expected::Ignored);
        }
        out.extend_from_slice(b"MAIL FROM:<load@gen.perf.test>\r\n");
        self.expected.push_back(Expected::Mail);
        if self.pipelining != Pipelining::None {
            shared.template.append_rcpt(order.number, out);
            out.extend_from_slice(b"DATA\r\n");
            self.expected.extend([Expected::Rcpt, Expected::Data]);
        }
        self.envelope = Some(Envelope { order, mail_accepted: false, recipient_accepted: false, counted: false });
        true
    }
}
