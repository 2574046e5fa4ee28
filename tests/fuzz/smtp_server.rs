//! The SMTP server session against any client. An input is what a client sends; 0x1E stands where it waits for answers
//! (and for the handshake that it asked for), `!` in front makes it a stranger, `%` one whose mail finds no room.
//!
//! Beside the session stands a judge that shares nothing with it: what was a command, where a content ended and what was
//! in it is found again in the octets as they were sent.

use crate::driver::{Driver, FRIEND, Pieces, STRANGER, config};
use crate::mutation::Cut;
use mailrace_shards::message::MessageId;
use mailrace_shards::smtp::server::{Accepted, PeerFacts, StoreRefusal};

/// What a client waits at.
const WAIT: u8 = 0x1e;

/// Octets that a session may hold with messages of at most 2,000 octets: the content, the longest line, and replies that
/// nobody has read, each in a vector that has grown to twice of what is in it.
const MEMORY_MAX: usize = 96 * 1024;

/// What SMTP is made of.
pub const WORDS: &[&[u8]] = &[
    b"EHLO c\r\n",
    b"HELO c\r\n",
    b"MAIL FROM:<a@a.test>\r\n",
    b"MAIL FROM:<a@a.test> SIZE=10 BODY=8BITMIME SMTPUTF8\r\n",
    b"RCPT TO:<b@b.test>\r\n",
    b"DATA\r\n",
    b"BDAT 7\r\n",
    b"BDAT 12 LAST\r\n",
    b"BDAT 0 LAST\r\n",
    b"RSET\r\n",
    b"NOOP\r\n",
    b"QUIT\r\n",
    b"STARTTLS\r\n",
    b"AUTH PLAIN AGEAcmlnaHQ=\r\n",
    b"AUTH LOGIN\r\n",
    b"\r\n.\r\n",
    b"\r\n..\r\n",
    b"\n.\n",
    b"\r.\r",
    b"\r\n",
    b".",
    b"\n",
    b"\r",
    b"\0",
    b"\x1e",
    b"x-mq-tag: t\r\n",
    b"X-Campaign: c\r\n",
    b"Received: x\r\n",
    b" folded\r\n",
    b"\xc3\xa9",
    b"\"a b\"@[IPv6:::1]",
];

/// One input.
pub fn check(input: &[u8]) {
    let (peer, refusing, input) = match input {
        [b'!', rest @ ..] => (STRANGER, false, rest),
        [b'%', rest @ ..] => (FRIEND, true, rest),
        rest => (FRIEND, false, rest),
    };
    let judged = judge(input, peer, refusing);
    for cut in [Cut::Whole, Cut::Random(input.len() as u64), Cut::Random(7)] {
        let mut driver = prepared(peer, refusing);
        for flight in input.split(|octet| *octet == WAIT) {
            for piece in cut.pieces(flight) {
                driver.offer(piece);
                assert!(driver.session.memory() <= MEMORY_MAX, "{} octets are held", driver.session.memory());
            }
            driver.secure();
        }
        let outcome = ended(driver);
        assert_eq!(judged, outcome, "octet by octet, and cut so: {cut:?}");
    }
}

fn prepared(peer: PeerFacts, refusing: bool) -> Driver {
    let mut driver = Driver::new(config(), peer);
    driver.pump();
    if refusing {
        driver.refusals = vec![StoreRefusal::storage("full"), StoreRefusal::failed("broken")];
    }
    driver
}

/// What was said and what was taken, once the client has gone.
fn ended(mut driver: Driver) -> (Vec<String>, Vec<Accepted>) {
    driver.session.handle_eof();
    driver.pump();
    assert_eq!(driver.transcript.last().map(String::as_str), Some("X"), "an end of file closes");
    driver.feed(b"NOOP\r\n", Pieces::Whole);
    assert_eq!(driver.transcript.last().map(String::as_str), Some("X"), "nothing is said after the end");
    (driver.transcript, driver.messages)
}

/// Where the judge believes the conversation to be.
#[derive(Default)]
struct Judge {
    /// Every octet sent.
    sent: Vec<u8>,
    /// Where the content of DATA begins.
    data: Option<usize>,
    /// Chunks of the open transaction that were taken.
    chunks: Vec<u8>,
}

/// Octet by octet, each followed by a look at what the session did about it.
fn judge(input: &[u8], peer: PeerFacts, refusing: bool) -> (Vec<String>, Vec<Accepted>) {
    let mut driver = prepared(peer, refusing);
    let mut judge = Judge::default();
    for flight in input.split(|octet| *octet == WAIT) {
        for octet in flight {
            let (said, taken) = (driver.transcript.len(), driver.messages.len());
            driver.offer(std::slice::from_ref(octet));
            judge.sent.push(*octet);
            assert!(driver.messages.len() <= taken + 1, "one octet completes one message");
            if let Some(message) = driver.messages.get(taken) {
                judge.message(message);
            }
            judge.replies(&driver.transcript[said..]);
        }
        driver.secure();
    }
    ended(driver)
}

impl Judge {
    /// Looks at what was said after the last octet.
    fn replies(&mut self, said: &[String]) {
        let finals: Vec<&str> =
            said.iter().filter_map(|line| line.strip_prefix("S: ")).filter(|line| last(line)).collect();
        let closed = said.iter().any(|line| line == "X");
        assert!(finals.len() <= 1 + usize::from(closed), "one command, and these replies: {finals:?}");
        let Some(reply) = finals.first() else { return };
        if let Some(start) = self.data.take()
            && !closed
        {
            assert!(ends_data(&self.sent[start..]), "a content was answered before or behind its end: {reply}");
        }
        if reply.starts_with("354 ") {
            assert!(self.sent.to_ascii_uppercase().ends_with(b"\r\n"), "a command ends with CR LF");
            self.data = Some(self.sent.len());
        } else if reply.starts_with("250 2.1.0 ") {
            self.chunks.clear();
        } else if let Some(octets) = reply.strip_prefix("250 2.0.0 ").and_then(|rest| rest.strip_suffix(" octets")) {
            let octets: usize = octets.parse().expect("a chunk's length is a number");
            self.chunks.extend_from_slice(&self.sent[self.sent.len() - octets..]);
        }
    }

    /// Looks at a message that the last octet completed.
    fn message(&self, message: &Accepted) {
        let text = behind_received(&message.body);
        canonical(text);
        assert!(!message.recipients.is_empty(), "a message has recipients");
        assert_ne!(message.id, MessageId::default(), "a message has an id");
        let expected = match self.data {
            Some(start) => {
                let raw = &self.sent[start..];
                assert!(ends_data(raw), "a message ends with CR LF . CR LF and nothing else: {}", shown(raw));
                unstuffed(raw)
            }
            None => {
                let last = text.len().checked_sub(self.chunks.len());
                // Removed header fields make the text shorter than what was sent.
                let Some(last) = last.filter(|_| !removes_fields(&self.sent)) else { return };
                let (command, chunk) = self.sent.split_at(self.sent.len() - last);
                let command = String::from_utf8_lossy(command).to_ascii_uppercase();
                assert!(announces(&command, last), "a message of {last} octets behind {:?}", shown(command.as_bytes()));
                [&self.chunks, chunk].concat()
            }
        };
        if !removes_fields(&expected) {
            assert!(text == expected, "sent {}, taken {}", shown(&expected), shown(text));
        }
    }
}

/// Whether the line is the last, or the only, one of a reply.
fn last(line: &str) -> bool {
    line.as_bytes().get(3) != Some(&b'-')
}

/// Whether what was sent behind the line of DATA ends with the first end of data in it.
fn ends_data(raw: &[u8]) -> bool {
    let lines = [b"\r\n", raw].concat();
    let first = lines.windows(5).position(|five| five == b"\r\n.\r\n");
    first == lines.len().checked_sub(5)
}

/// The text that a DATA content stands for (RFC 5321 §4.5.2); its line ends are known to be canonical.
fn unstuffed(raw: &[u8]) -> Vec<u8> {
    let mut text = Vec::new();
    for line in raw[..raw.len() - 3].split_inclusive(|octet| *octet == b'\n') {
        text.extend_from_slice(line.strip_prefix(b".").unwrap_or(line));
    }
    text
}

/// Whether the last command is the BDAT of so many octets that ends a message.
fn announces(sent: &str, octets: usize) -> bool {
    let Some(line) = sent.strip_suffix("\r\n") else { return false };
    let line = line.rsplit('\n').next().unwrap_or(line);
    // Behind a chunk without a line end there is no other beginning of the line to be found.
    let Some(at) = line.rfind("BDAT") else { return false };
    let words: Vec<&str> = line[at + 4..].split_ascii_whitespace().collect();
    words.len() == 2 && words[0].parse() == Ok(octets) && words[1] == "LAST"
}

/// Whether there are header fields in it that are taken out of messages.
fn removes_fields(text: &[u8]) -> bool {
    let text = text.to_ascii_lowercase();
    [&b"x-mq-"[..], b"x-campaign", b"x-tenant"].iter().any(|name| text.windows(name.len()).any(|part| part == *name))
}

/// What stands behind our own header, which has three lines. A text whose first line is folded makes it longer for
/// who reads the message, so it is not looked for where the field ends.
fn behind_received(body: &[u8]) -> &[u8] {
    assert!(body.starts_with(b"Received: from "), "our Received header comes first: {}", shown(body));
    let ends: Vec<usize> =
        body.windows(2).enumerate().filter(|(_, two)| *two == b"\r\n").map(|(at, _)| at + 2).collect();
    let lines: Vec<&[u8]> = ends.windows(2).take(2).map(|two| &body[two[0]..two[1]]).collect();
    let own =
        lines.len() == 2 && lines[0].starts_with(b"\tby mx.test with ") && lines[1].starts_with(b"\tSun, 22 Nov 2026 ");
    assert!(own, "our Received header: {}", shown(body));
    &body[ends[2]..]
}

/// What is stored has no line end but CR LF, and no NUL.
fn canonical(text: &[u8]) {
    for (at, octet) in text.iter().enumerate() {
        let (before, after) = (at.checked_sub(1).map(|at| text[at]), text.get(at + 1));
        let right = match octet {
            b'\r' => after == Some(&b'\n'),
            b'\n' => before == Some(b'\r'),
            octet => *octet != 0,
        };
        assert!(right, "octet {at} of {}", shown(text));
    }
}

fn shown(octets: &[u8]) -> String {
    octets.escape_ascii().to_string()
}
