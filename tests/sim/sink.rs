//! A host that takes mail: a small SMTP server written for the simulation alone, so that it shares no mistakes with
//! the engine. It may answer wrongly, late or never at each phase, as its behaviour says.

use crate::network::Moment;
use crate::random::Random;

/// Where in a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    Banner,
    Ehlo,
    StartTls,
    Handshake,
    Mail,
    Rcpt,
    Data,
    Body,
    EndOfData,
}

/// What a host does at one point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Act {
    Good,
    Later,
    Never,
    /// 421, then the end.
    Closing,
    /// What is no reply.
    Garbage,
    /// A reply in two parts with a pause between.
    Halves,
    /// The end without a word.
    Close,
    /// The connection breaks.
    Reset,
    /// No word any more.
    Stall,
    /// Nothing that either side sends arrives any more.
    Vanish,
    /// The right answer, late.
    Slow,
    /// At the end of data: takes the message and is gone before the answer.
    TakeAndClose,
}

pub const FAULTS: [Act; 11] = [
    Act::Later,
    Act::Never,
    Act::Closing,
    Act::Garbage,
    Act::Halves,
    Act::Close,
    Act::Reset,
    Act::Stall,
    Act::Vanish,
    Act::Slow,
    Act::TakeAndClose,
];

/// How a host is.
#[derive(Clone, Debug)]
pub struct Manner {
    pub pipelining: bool,
    pub chunking: bool,
    pub starttls: bool,
    /// In a thousand, at each phase.
    pub faults: u64,
    /// Which faults it knows.
    pub known: Vec<Act>,
    /// Microseconds before a slow answer.
    pub slow: u64,
}

impl Manner {
    fn act(&self, phase: Phase, random: &mut Random) -> Act {
        // Phases that each message passes several times must not make all of them fail.
        let chance = if matches!(phase, Phase::Rcpt | Phase::Body) { self.faults / 2 } else { self.faults };
        if self.known.is_empty() || !random.permille(chance) {
            return Act::Good;
        }
        let act = *random.pick(&self.known);
        match (act, phase) {
            (Act::TakeAndClose, phase) if phase != Phase::EndOfData => Act::Close,
            (Act::Later | Act::Never | Act::Garbage | Act::Halves | Act::Slow | Act::Closing, Phase::Body) => Act::Good,
            _ => act,
        }
    }
}

/// A message that the host has read to its end.
#[derive(Debug)]
pub struct Taken {
    pub sender: String,
    pub recipients: Vec<String>,
    pub body: Vec<u8>,
    /// When the octet that completed it was passed to the network.
    pub completed: Moment,
    /// Whether the host takes responsibility.
    pub good: bool,
}

/// What a session does in answer to what it was fed.
#[derive(Debug)]
pub enum Reaction {
    /// Says this after so many microseconds.
    Say(Vec<u8>, u64),
    /// A message is complete; the next thing said answers it.
    Complete(Taken),
    /// It did what is no part of good service.
    Fault(Phase, Act),
    Close,
    Reset,
    Vanish,
}

enum Reading {
    Line,
    Text,
    Chunk { left: usize, last: bool },
    Nothing,
}

/// One conversation.
pub struct Session {
    manner: Manner,
    reading: Reading,
    line: Vec<u8>,
    sender: Option<String>,
    recipients: Vec<String>,
    body: Vec<u8>,
    /// A handshake was begun.
    secure: bool,
    out: Vec<Reaction>,
}

impl Session {
    pub fn new(manner: Manner, random: &mut Random) -> (Self, Vec<Reaction>) {
        let mut session = Self {
            manner,
            reading: Reading::Line,
            line: Vec::new(),
            sender: None,
            recipients: Vec::new(),
            body: Vec::new(),
            secure: false,
            out: Vec::new(),
        };
        session.answer(Phase::Banner, "220 sink ESMTP\r\n", random);
        let out = std::mem::take(&mut session.out);
        (session, out)
    }

    /// Octets came that were sent at `sent`.
    pub fn feed(&mut self, octets: &[u8], sent: Moment, random: &mut Random) -> Vec<Reaction> {
        let mut rest = octets;
        while !rest.is_empty() {
            match self.reading {
                Reading::Nothing => break,
                Reading::Chunk { left, last } => {
                    let count = left.min(rest.len());
                    self.body.extend_from_slice(&rest[..count]);
                    rest = &rest[count..];
                    self.reading = Reading::Chunk { left: left - count, last };
                    if left == count {
                        self.chunk_ended(last, sent, random);
                    }
                }
                Reading::Line | Reading::Text => {
                    let end = rest.iter().position(|octet| *octet == b'\n');
                    let count = end.map_or(rest.len(), |at| at + 1);
                    self.line.extend_from_slice(&rest[..count]);
                    rest = &rest[count..];
                    if end.is_some() {
                        let line = std::mem::take(&mut self.line);
                        if matches!(self.reading, Reading::Text) {
                            self.text(&line, sent, random);
                        } else {
                            self.command(&line, sent, random);
                        }
                    }
                }
            }
        }
        std::mem::take(&mut self.out)
    }

    /// What it does in the handshake, and how long it takes where it is slow.
    pub fn shake(&mut self, random: &mut Random) -> (Act, u64) {
        self.secure = true;
        let act = self.manner.act(Phase::Handshake, random);
        if !matches!(act, Act::Good | Act::Slow) {
            self.reading = Reading::Nothing;
        }
        (act, self.manner.slow)
    }

    fn command(&mut self, line: &[u8], sent: Moment, random: &mut Random) {
        let text = String::from_utf8_lossy(line);
        let text = text.trim_end();
        let upper = text.to_ascii_uppercase();
        if upper.starts_with("EHLO") {
            let mut reply = "250-sink\r\n".to_owned();
            reply += if self.manner.pipelining { "250-PIPELINING\r\n" } else { "" };
            reply += if self.manner.chunking { "250-CHUNKING\r\n" } else { "" };
            reply += if self.manner.starttls && !self.secure { "250-STARTTLS\r\n" } else { "" };
            reply += "250 8BITMIME\r\n";
            self.answer(Phase::Ehlo, &reply, random);
        } else if upper.starts_with("HELO") {
            self.answer(Phase::Ehlo, "250 sink\r\n", random);
        } else if upper.starts_with("STARTTLS") {
            self.answer(Phase::StartTls, "220 2.0.0 go\r\n", random);
        } else if upper.starts_with("MAIL FROM:") {
            self.sender = None;
            self.recipients.clear();
            self.body.clear();
            if self.answer(Phase::Mail, "250 2.1.0 ok\r\n", random) {
                self.sender = Some(path_of(text));
            }
        } else if upper.starts_with("RCPT TO:") {
            let recipient = path_of(text);
            if self.sender.is_none() {
                self.say("503 5.5.1 MAIL first\r\n");
            } else if self.answer(Phase::Rcpt, "250 2.1.5 ok\r\n", random) {
                self.recipients.push(recipient);
            }
        } else if upper.starts_with("DATA") {
            if self.recipients.is_empty() {
                self.say("503 5.5.1 RCPT first\r\n");
            } else if self.answer(Phase::Data, "354 go on\r\n", random) {
                self.reading = Reading::Text;
            }
        } else if let Some(arguments) = upper.strip_prefix("BDAT ") {
            let left = arguments.split(' ').next().and_then(|text| text.parse().ok()).unwrap_or(0);
            let last = arguments.ends_with(" LAST");
            self.reading = Reading::Chunk { left, last };
            if left == 0 {
                self.chunk_ended(last, sent, random);
            }
        } else if upper.starts_with("RSET") {
            self.sender = None;
            self.recipients.clear();
            self.say("250 2.0.0 ok\r\n");
        } else if upper.starts_with("QUIT") {
            self.say("221 2.0.0 bye\r\n");
            self.out.push(Reaction::Close);
            self.reading = Reading::Nothing;
        } else {
            self.say("500 5.5.2 what?\r\n");
        }
    }

    fn text(&mut self, line: &[u8], sent: Moment, random: &mut Random) {
        if line == b".\r\n" {
            self.reading = Reading::Line;
            return self.complete(sent, random);
        }
        self.body.extend_from_slice(line.strip_prefix(b".").unwrap_or(line));
        self.in_body(random);
    }

    /// Now and then something goes wrong while the text comes.
    fn in_body(&mut self, random: &mut Random) {
        if random.permille(200) {
            let act = self.manner.act(Phase::Body, random);
            if act != Act::Good {
                self.out.push(Reaction::Fault(Phase::Body, act));
                self.misbehave(act);
            }
        }
    }

    fn chunk_ended(&mut self, last: bool, sent: Moment, random: &mut Random) {
        self.reading = Reading::Line;
        if self.sender.is_none() || self.recipients.is_empty() {
            self.body.clear();
            return self.say("503 5.5.1 RCPT first\r\n");
        }
        if last {
            self.complete(sent, random);
        } else {
            self.answer(Phase::Data, "250 2.0.0 chunk\r\n", random);
        }
    }

    fn complete(&mut self, sent: Moment, random: &mut Random) {
        let mut act = self.manner.act(Phase::EndOfData, random);
        if act == Act::Garbage || act == Act::Halves {
            act = Act::Slow;
        }
        let good = matches!(act, Act::Good | Act::Slow | Act::TakeAndClose | Act::Stall | Act::Vanish);
        let taken = Taken {
            sender: self.sender.take().unwrap_or_default(),
            recipients: std::mem::take(&mut self.recipients),
            body: std::mem::take(&mut self.body),
            completed: sent,
            good,
        };
        self.out.push(Reaction::Complete(taken));
        if act != Act::Good {
            self.out.push(Reaction::Fault(Phase::EndOfData, act));
        }
        self.answer_by(act, "250 2.0.0 taken\r\n");
    }

    /// Answers at a phase; whether that was the good answer.
    fn answer(&mut self, phase: Phase, good: &str, random: &mut Random) -> bool {
        let act = self.manner.act(phase, random);
        if act != Act::Good {
            self.out.push(Reaction::Fault(phase, act));
        }
        self.answer_by(act, good)
    }

    fn answer_by(&mut self, act: Act, good: &str) -> bool {
        match act {
            Act::Good => self.say(good),
            Act::Slow => self.out.push(Reaction::Say(good.into(), self.manner.slow)),
            Act::Halves => {
                let (first, second) = good.split_at(good.len() / 2);
                self.say(first);
                self.out.push(Reaction::Say(second.into(), self.manner.slow / 4));
            }
            Act::Later => self.say("451 4.7.1 not now\r\n"),
            Act::Never => self.say("550 5.7.1 never\r\n"),
            Act::Garbage => self.say("bananas\r\n"),
            Act::Closing => {
                self.say("421 4.3.2 closing\r\n");
                self.misbehave(Act::Close);
            }
            Act::Close | Act::Reset | Act::Stall | Act::Vanish | Act::TakeAndClose => self.misbehave(act),
        }
        matches!(act, Act::Good | Act::Slow | Act::Halves)
    }

    fn misbehave(&mut self, act: Act) {
        self.reading = Reading::Nothing;
        match act {
            Act::Close | Act::TakeAndClose => self.out.push(Reaction::Close),
            Act::Reset => self.out.push(Reaction::Reset),
            Act::Vanish => self.out.push(Reaction::Vanish),
            _ => {}
        }
    }

    fn say(&mut self, text: &str) {
        self.out.push(Reaction::Say(text.into(), 0));
    }
}

/// What stands between angle brackets.
fn path_of(line: &str) -> String {
    let start = line.find('<').map_or(0, |at| at + 1);
    let end = line[start..].find('>').map_or(line.len(), |at| start + at);
    line[start..end].to_owned()
}
