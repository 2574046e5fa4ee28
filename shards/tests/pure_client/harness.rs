//! Runs a script against a session. Each line of a script is one of
//!
//! | line | means |
//! |---|---|
//! | `S: text` | the server sends this line; neighbouring lines come together |
//! | `C: text` | the client has sent this line next |
//! | `c: text` | the client has sent these octets next, without a line end |
//! | `E: text` | this event came next, see [`describe`] |
//! | `submit T NAME` | submit the message [`transaction`] calls NAME as token T |
//! | `finish`, `eof`, `io-error`, `tls-ready`, `tls-failed` | as the methods |
//! | `withdraw T RESULT`, `withdraw T R,R RESULT` | withdraw, which returns RESULT |
//! | `hold`, `fill N` | stop filling by itself; fill once with room N |
//! | `unsent`, `sent T` | stop reporting marks by itself; report one |
//! | `wants`, `full` | `wants_transaction` is true, false |
//! | `wait N` | N seconds pass, with `handle_deadline` at the end |
//! | `deadline N`, `no-deadline` | the deadline is in N seconds; there is none |
//!
//! Everything that the client sends and every event must be named before the next action. After an `Ending`
//! withdrawal and after `Closed` the client must not send anything.

use mailrace_shards::message::{Body, ContentFlags, Envelope, MessageId};
use mailrace_shards::outcome::Response;
use mailrace_shards::settings::TlsPolicy;
use mailrace_shards::smtp::client::{
    ClientConfig, ClientEvent, EndOfDataMark, Failure, RecipientResult, Session, Transaction, Withdrawal,
};
use mailrace_shards::time::{Instant, Timestamp};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// A random number generator that a seed reproduces (xorshift64*).
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % bound
    }
}

/// How the octets of a script are cut.
#[derive(Clone, Copy, Debug)]
pub enum Cut {
    Whole,
    OctetByOctet,
    Random(u64),
}

pub fn config(tls: TlsPolicy) -> ClientConfig {
    ClientConfig { ehlo: Arc::from("me.example"), host: Arc::from("mx.example"), tls, pipelined_chunks: 3 }
}

pub fn envelope(sender: &str, recipients: &[&str], body: &[u8], smtputf8: bool) -> Arc<Envelope> {
    let dot_lines = body.starts_with(b".") || body.windows(2).any(|pair| pair == b"\n.");
    let flags = ContentFlags { eight_bit: !body.is_ascii(), smtputf8, dot_lines };
    let size = u32::try_from(body.len()).unwrap();
    Arc::new(Envelope::new(MessageId::default(), Timestamp(0), size, flags, sender, recipients, None))
}

/// The messages of the scripts.
pub fn transaction(token: u64, name: &str) -> Transaction {
    let one = ["r@d.example"];
    let three = ["r@d.example", "s@d.example", "t@d.example"];
    let (sender, recipients, body, smtputf8): (&str, &[&str], &[u8], bool) = match name {
        "plain" => ("a@o.example", &one, b"hi\r\n", false),
        "other" => ("b@o.example", &one, b"ho\r\n", false),
        "third" => ("c@o.example", &one, b"hu\r\n", false),
        "three" => ("a@o.example", &three, b"hi\r\n", false),
        "null" => ("", &one, b"hi\r\n", false),
        "dots" => ("a@o.example", &one, b".\r\n.a\r\nb.\r\n..c\r\n", false),
        "no-end" => ("a@o.example", &one, b"hi", false),
        "empty" => ("a@o.example", &one, b"", false),
        "8bit" => ("a@o.example", &one, "h\u{e4}\r\n".as_bytes(), false),
        "utf8" => ("a@o.example", &["\u{fc}@d.example"], b"hi\r\n", true),
        "big" => return big(token),
        "evil-sender" => ("a@o.example>\r\nDATA", &one, b"hi\r\n", false),
        "evil-recipient" => ("a@o.example", &["r@d.example\r\nDATA"], b"hi\r\n", false),
        "half-evil" => ("a@o.example", &["r@d.example\r\nDATA", "s@d.example"], b"hi\r\n", false),
        _ => panic!("no message {name}"),
    };
    Transaction {
        token,
        envelope: envelope(sender, recipients, body, smtputf8),
        recipients: (0..u16::try_from(recipients.len()).unwrap()).collect(),
        body: Body::copy_from_slice(body),
    }
}

/// 300,000 octets, more than is sent blindly.
fn big(token: u64) -> Transaction {
    let body = Body::from(b"0123456789012345678901234567\r\n".repeat(10_000));
    let envelope = envelope("a@o.example", &["r@d.example", "s@d.example"], &body, false);
    Transaction { token, envelope, recipients: [0, 1].into_iter().collect(), body }
}

fn codes(response: &Response) -> String {
    let enhanced = response.enhanced.map_or(String::new(), |code| format!(" {code}"));
    format!("{}{enhanced}", response.code)
}

pub fn describe_failure(failure: &Failure) -> String {
    let verb = failure.response.verb.as_str().replace(' ', "-");
    let maybe = if failure.maybe_delivered { " maybe" } else { "" };
    format!("{:?} {} at {verb}{maybe}", failure.kind, codes(&failure.response))
}

/// `ready`, `starttls`, `finished T: R delivered CODES TEXT, R failed KIND CODES at VERB`, `aborted T: R R REASON`,
/// `closed`, `closed KIND CODES at VERB`; results by recipient.
pub fn describe(event: &ClientEvent) -> String {
    match event {
        ClientEvent::StartTls => "starttls".to_owned(),
        ClientEvent::Ready(_) => "ready".to_owned(),
        ClientEvent::Finished { token, results } => {
            let mut results = results.to_vec();
            results.sort_by_key(|(index, _)| *index);
            let text = results.iter().map(|(index, result)| match result {
                RecipientResult::Delivered(response) => {
                    format!("{index} delivered {} {}", codes(response), response.text)
                }
                RecipientResult::Failed(failure) => format!("{index} failed {}", describe_failure(failure)),
            });
            format!("finished {token}: {}", text.collect::<Vec<_>>().join(", "))
        }
        ClientEvent::Aborted { token, recipients, reason } => {
            let recipients = recipients.iter().map(u16::to_string).collect::<Vec<_>>().join(" ");
            format!("aborted {token}: {recipients} {reason:?}")
        }
        ClientEvent::Closed { failure: None } => "closed".to_owned(),
        ClientEvent::Closed { failure: Some(failure) } => format!("closed {}", describe_failure(failure)),
    }
}

struct Run {
    session: Session,
    now: Instant,
    cut: Cut,
    random: Random,
    output: VecDeque<u8>,
    events: VecDeque<String>,
    holding: bool,
    reporting: bool,
    silent: bool,
    settled: Vec<u64>,
    place: String,
}

/// Runs `script` cut in every way.
pub fn run(tls: TlsPolicy, script: &str) {
    run_cut(tls, script, Cut::Whole);
    run_cut(tls, script, Cut::OctetByOctet);
    for seed in 1..20 {
        run_cut(tls, script, Cut::Random(seed));
    }
}

/// Runs `script` behind a banner and an EHLO reply that offers `offers`.
pub fn run_ready(offers: &[&str], script: &str) {
    let offers: String = offers.iter().map(|offer| format!("S: 250-{offer}\n")).collect();
    let greeting = format!("S: 220 mx.example\nC: EHLO me.example\nS: 250-mx.example\n{offers}S: 250 HELP\nE: ready\n");
    run(TlsPolicy::Opportunistic, &format!("{greeting}{script}"));
}

pub fn run_cut(tls: TlsPolicy, script: &str, cut: Cut) {
    let start = Instant(1_000_000);
    let mut run = Run {
        session: Session::new(config(tls), start),
        now: start,
        cut,
        random: Random(if let Cut::Random(seed) = cut { seed } else { 1 }),
        output: VecDeque::new(),
        events: VecDeque::new(),
        holding: false,
        reporting: true,
        silent: false,
        settled: Vec::new(),
        place: String::new(),
    };
    let mut lines = script.lines().map(str::trim).filter(|line| !line.is_empty()).peekable();
    let mut number = 0;
    while let Some(line) = lines.next() {
        number += 1;
        run.place = format!("{cut:?}, line {number} `{line}` of\n{script}\n");
        if let Some(text) = line.strip_prefix("S: ") {
            let mut octets = format!("{text}\r\n").into_bytes();
            while let Some(more) = lines.next_if(|line| line.starts_with("S: ")) {
                number += 1;
                octets.extend_from_slice(format!("{}\r\n", &more[3..]).as_bytes());
            }
            run.nothing_unnamed();
            run.serve(&octets);
        } else {
            run.step(line);
        }
    }
    run.nothing_unnamed();
}

impl Run {
    fn nothing_unnamed(&self) {
        let place = &self.place;
        assert!(self.output.is_empty(), "sent, not named: {:?}\n{place}", text(&self.output));
        assert!(self.events.is_empty(), "came, not named: {:?}\n{place}", self.events);
    }

    fn serve(&mut self, mut octets: &[u8]) {
        while !octets.is_empty() {
            let length = match self.cut {
                Cut::Whole => octets.len(),
                Cut::OctetByOctet => 1,
                Cut::Random(_) => usize::try_from(self.random.below(12) + 1).unwrap().min(octets.len()),
            };
            let (piece, rest) = octets.split_at(length);
            octets = rest;
            self.session.handle_bytes(piece, self.now);
            self.turn();
        }
    }

    fn step(&mut self, line: &str) {
        if let Some(expected) = line.strip_prefix("C: ") {
            return self.expect_output(&format!("{expected}\r\n"));
        }
        if let Some(expected) = line.strip_prefix("c: ") {
            return self.expect_output(expected);
        }
        if let Some(expected) = line.strip_prefix("E: ") {
            let event = self.events.pop_front();
            assert_eq!(event.as_deref(), Some(expected), "{}", self.place);
            return;
        }
        let words: Vec<&str> = line.split(' ').collect();
        if self.query(&words) {
            return;
        }
        self.nothing_unnamed();
        let number = || words[1].parse::<u64>().unwrap();
        match words[0] {
            "submit" => self.session.submit(transaction(number(), words[2]), self.now),
            "finish" => self.session.finish(self.now),
            "eof" => self.session.handle_eof(self.now),
            "io-error" => self.session.handle_io_error("reset", self.now),
            "tls-ready" => self.session.handle_tls_ready(self.now),
            "tls-failed" => self.session.handle_tls_failed("bad certificate", self.now),
            "withdraw" => self.withdraw(&words),
            "hold" => self.holding = true,
            "unsent" => self.reporting = false,
            "sent" => self.session.handle_end_of_data_sent(number(), self.now),
            "wait" => {
                self.now = self.now.after(Duration::from_secs(number()));
                self.session.handle_deadline(self.now);
            }
            "fill" => {
                self.fill(usize::try_from(number()).unwrap());
            }
            _ => panic!("what does it mean? {}", self.place),
        }
        self.turn();
    }

    /// Lines that only ask.
    fn query(&self, words: &[&str]) -> bool {
        let left = self.session.deadline().map(|at| at.since(self.now));
        match words {
            ["wants"] => assert!(self.session.wants_transaction(), "{}", self.place),
            ["full"] => assert!(!self.session.wants_transaction(), "{}", self.place),
            ["deadline", seconds] => {
                assert_eq!(left, Some(Duration::from_secs(seconds.parse().unwrap())), "{}", self.place);
            }
            ["no-deadline"] => assert_eq!(left, None, "{}", self.place),
            _ => return false,
        }
        true
    }

    fn withdraw(&mut self, words: &[&str]) {
        let covered: Vec<u16> = match words {
            [_, _, covered, _] => covered.split(',').map(|index| index.parse().unwrap()).collect(),
            _ => Vec::new(),
        };
        let result = self.session.withdraw(words[1].parse().unwrap(), &covered, self.now);
        assert_eq!(format!("{result:?}"), *words.last().unwrap(), "{}", self.place);
        self.silent |= result == Withdrawal::Ending;
    }

    fn turn(&mut self) {
        self.poll();
        while !self.holding {
            let room = if let Cut::Random(_) = self.cut { self.random.below(40) + 1 } else { 4096 };
            if !self.fill(usize::try_from(room).unwrap()) {
                break;
            }
        }
        self.poll();
    }

    fn poll(&mut self) {
        while let Some(event) = self.session.poll_event() {
            assert!(!self.events.back().is_some_and(|last| last.starts_with("closed")), "{}", self.place);
            self.silent |= matches!(event, ClientEvent::Closed { .. });
            if let ClientEvent::Finished { token, .. } = &event {
                self.settled.push(*token);
            }
            self.events.push_back(describe(&event).trim_end().to_owned());
        }
    }

    fn fill(&mut self, room: usize) -> bool {
        let mut out = vec![b'#'; 3];
        let mut marks: Vec<EndOfDataMark> = Vec::new();
        self.session.fill(&mut out, room, &mut marks, self.now);
        assert!(out.len() <= 3 + room + 600, "room was {room}, came {}\n{}", out.len(), self.place);
        assert!(!self.silent || out.len() == 3, "sent after its end\n{}", self.place);
        for mark in &marks {
            assert!(mark.position < out.len(), "{}", self.place);
            assert!(!self.settled.contains(&mark.token), "a mark for what is refused\n{}", self.place);
            if self.reporting {
                self.session.handle_end_of_data_sent(mark.token, self.now);
            }
        }
        self.output.extend(&out[3..]);
        out.len() > 3
    }

    fn expect_output(&mut self, expected: &str) {
        // `{big}` stands for the body of the message of that name.
        let expected = match expected.strip_prefix("{big}") {
            Some(_) => transaction(0, "big").body.to_vec(),
            None => expected.as_bytes().to_vec(),
        };
        let length = expected.len().min(self.output.len());
        let came: Vec<u8> = self.output.drain(..length).collect();
        assert!(
            came == expected,
            "expected {:?}, came {:?}\n{}",
            String::from_utf8_lossy(&expected[..expected.len().min(200)]),
            String::from_utf8_lossy(&came[..came.len().min(200)]),
            self.place
        );
    }
}

fn text(octets: &VecDeque<u8>) -> String {
    let octets: Vec<u8> = octets.iter().copied().take(300).collect();
    String::from_utf8_lossy(&octets).into_owned()
}
