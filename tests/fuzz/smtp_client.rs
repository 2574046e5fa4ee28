//! The SMTP client session against any server. An input is what a server sends; at each 0x1E it waits for what the
//! client has to say (and for the handshake, if it is the time for it). `R` in front makes TLS required, `F` makes
//! handshakes fail.
//!
//! Beside the session stands a judge that counts what was passed to the server and what came back.

use crate::mutation::Cut;
use mailrace_shards::message::{Body, ContentFlags, Envelope, MessageId};
use mailrace_shards::settings::TlsPolicy;
use mailrace_shards::smtp::client::{ClientConfig, ClientEvent, EndOfDataMark, RecipientResult, Session, Transaction};
use mailrace_shards::time::{Instant, Timestamp};
use std::collections::BTreeMap;
use std::sync::Arc;

const WAIT: u8 = 0x1e;
const NOW: Instant = Instant(1_000_000);
/// Messages of one conversation.
const MESSAGES: u64 = 4;
/// Octets that are asked for at a time.
const ROOM: usize = 4096;

/// What replies are made of.
pub const WORDS: &[&[u8]] = &[
    b"220 hello\r\n\x1e",
    b"250 ok\r\n",
    b"250 ok\r\n\x1e",
    b"250-mx\r\n250-PIPELINING\r\n250-CHUNKING\r\n250 STARTTLS\r\n\x1e",
    b"250-mx\r\n250 8BITMIME\r\n\x1e",
    b"354 go\r\n",
    b"354 go\r\n\x1e",
    b"550 5.1.1 no\r\n",
    b"452 4.5.3 many\r\n",
    b"421 4.3.2 over\r\n",
    b"503 what\n",
    b"250-",
    b"334 \r\n",
    b"\x1e",
    b"\r\n",
    b"\n",
    b"\0",
    b"5",
];

/// One input.
pub fn check(input: &[u8]) {
    let (tls, fails, input) = match input {
        [b'R', rest @ ..] => (TlsPolicy::Required, false, rest),
        [b'F', rest @ ..] => (TlsPolicy::Opportunistic, true, rest),
        rest => (TlsPolicy::Opportunistic, false, rest),
    };
    let whole = converse(input, tls, fails, Cut::Whole);
    for cut in [Cut::Single, Cut::Random(input.len() as u64)] {
        assert_eq!(whole, converse(input, tls, fails, cut), "whole, and cut so: {cut:?}");
    }
}

/// One conversation, and all that it does.
struct Conversation {
    session: Session,
    handshakes_fail: bool,
    /// Octets sent, and events, in order.
    log: Vec<String>,
    submitted: u64,
    /// Octets of the server so far.
    received: Vec<u8>,
    /// By token: how much was received when the end of its data was passed on.
    completed: BTreeMap<u64, usize>,
    /// Tokens that have a fate.
    settled: Vec<u64>,
    wants_tls: bool,
    closed: bool,
}

fn converse(input: &[u8], tls: TlsPolicy, handshakes_fail: bool, cut: Cut) -> Vec<String> {
    let config =
        ClientConfig { ehlo: Arc::from("me.example"), host: Arc::from("mx.example"), tls, pipelined_chunks: 3 };
    let mut conversation = Conversation {
        session: Session::new(config, NOW),
        handshakes_fail,
        log: Vec::new(),
        submitted: 0,
        received: Vec::new(),
        completed: BTreeMap::new(),
        settled: Vec::new(),
        wants_tls: false,
        closed: false,
    };
    for flight in input.split(|octet| *octet == WAIT) {
        conversation.flight(flight, cut);
    }
    conversation.session.handle_eof(NOW);
    conversation.poll();
    conversation.end()
}

impl Conversation {
    fn flight(&mut self, flight: &[u8], cut: Cut) {
        let before = self.wants_tls;
        for piece in cut.pieces(flight) {
            self.received.extend_from_slice(piece);
            self.session.handle_bytes(piece, NOW);
        }
        self.poll();
        assert!(self.closed || before || self.wants_tls || !broken(flight), "what is no reply ends the session");
        if std::mem::take(&mut self.wants_tls) {
            if self.handshakes_fail {
                self.session.handle_tls_failed("bad certificate", NOW);
            } else {
                self.session.handle_tls_ready(NOW);
            }
            self.poll();
        }
        self.speak();
    }

    /// Hands in what it wants and takes what it has to say.
    fn speak(&mut self) {
        while self.submitted < MESSAGES && self.session.wants_transaction() {
            self.session.submit(transaction(self.submitted), NOW);
            self.submitted += 1;
            self.take_all();
        }
        self.take_all();
    }

    fn take_all(&mut self) {
        loop {
            let mut out = Vec::new();
            let mut marks: Vec<EndOfDataMark> = Vec::new();
            self.session.fill(&mut out, ROOM, &mut marks, NOW);
            assert!(out.len() <= ROOM + 600, "{} octets for a room of {ROOM}", out.len());
            assert!(out.is_empty() || !self.closed, "said behind the end: {}", out.escape_ascii());
            for mark in marks {
                assert!(out.get(mark.position).is_some(), "a mark stands in what was said");
                let before = self.completed.insert(mark.token, self.received.len());
                assert_eq!(before, None, "message {} is completed twice", mark.token);
                self.session.handle_end_of_data_sent(mark.token, NOW);
            }
            self.poll();
            if out.is_empty() {
                return;
            }
            self.log.push(out.escape_ascii().to_string());
        }
    }

    fn poll(&mut self) {
        while let Some(event) = self.session.poll_event() {
            assert!(!self.closed, "an event behind the last: {event:?}");
            self.log.push(format!("{event:?}"));
            match &event {
                ClientEvent::StartTls => self.wants_tls = true,
                ClientEvent::Ready(_) => {}
                ClientEvent::Finished { token, results } => {
                    self.settled.push(*token);
                    let delivered = results.iter().any(|(_, result)| matches!(result, RecipientResult::Delivered(_)));
                    assert!(!delivered || self.was_taken(*token), "message {token} was never taken");
                }
                ClientEvent::Aborted { token, .. } => self.settled.push(*token),
                ClientEvent::Closed { .. } => {
                    self.closed = true;
                    self.wants_tls = false;
                }
            }
        }
    }

    /// Whether its end was passed on, and a line that begins with 2 ended behind it. That a line begins before is no
    /// proof of anything: its sender may have been quick.
    fn was_taken(&self, token: u64) -> bool {
        self.completed.get(&token).is_some_and(|received| {
            let begun = self.received[..*received].iter().rposition(|octet| *octet == b'\n').map_or(0, |at| at + 1);
            let lines = self.received[begun..].split_inclusive(|octet| *octet == b'\n');
            lines.filter(|line| line.ends_with(b"\n")).any(|line| line[0] == b'2')
        })
    }

    /// Looks at what is left, and gives the log.
    fn end(mut self) -> Vec<String> {
        assert!(self.closed, "an end of file closes");
        self.settled.sort_unstable();
        assert_eq!(self.settled, (0..self.submitted).collect::<Vec<_>>(), "each message has one fate");
        self.take_all();
        self.log
    }
}

/// Whether a whole line of it can be no part of any reply.
fn broken(flight: &[u8]) -> bool {
    let Some((_, lines)) = flight
        .split(|octet| *octet == b'\n')
        .collect::<Vec<_>>()
        .split_last()
        .map(|(last, lines)| (*last, lines.to_vec()))
    else {
        return false;
    };
    // The first may be the end of a line that began before.
    lines.iter().skip(1).any(|line| !matches!(line, [b'2'..=b'5', b'0'..=b'9', b'0'..=b'9', ..]))
}

/// One to two recipients, one with stuffing, one large; one that does without a final line end.
fn transaction(token: u64) -> Transaction {
    let bodies: [&[u8]; MESSAGES as usize] = [b"hi\r\n", b".\r\n.a\r\n..b\r\n", b"no end", &[b'x'; 5000]];
    let body = bodies[token as usize];
    let recipients = ["r@d.example", "s@d.example"];
    let recipients = &recipients[..1 + token as usize % 2];
    let flags = ContentFlags { dot_lines: body.starts_with(b"."), ..ContentFlags::default() };
    let size = u32::try_from(body.len()).unwrap();
    let id = MessageId::default();
    let envelope = Envelope::new(id, Timestamp(0), size, flags, "a@o.example", recipients, None);
    Transaction {
        token,
        envelope: Arc::new(envelope),
        recipients: (0..u16::try_from(recipients.len()).unwrap()).collect(),
        body: Body::copy_from_slice(body),
    }
}
