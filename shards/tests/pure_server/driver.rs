//! Plays the runtime: feeds a session in pieces, answers its events, and notes what happens.

use mailrace_shards::message::MessageId;
use mailrace_shards::smtp::server::{Accepted, PeerFacts, ServerConfig, ServerEvent, Session, StoreRefusal};
use mailrace_shards::time::{Instant, Now, Timestamp};
use std::sync::Arc;

/// 2026-11-22T01:44:03Z.
pub const NOW: Now = Now { instant: Instant(1_000_000), utc: Timestamp(1_795_311_843_000) };

/// A session, and what it did.
pub struct Driver {
    pub session: Session,
    /// `S: reply`, `M: message`, `A: credentials`, `X` for the close.
    pub transcript: Vec<String>,
    pub messages: Vec<Accepted>,
    /// What the spool says next; `Ok` when empty.
    pub refusals: Vec<StoreRefusal>,
    wants_tls: bool,
    next: u64,
}

/// How input is cut.
#[derive(Clone, Copy, Debug)]
pub enum Pieces {
    Whole,
    Single,
    Random(u64),
}

/// All the ways a table is run.
pub const ALL_PIECES: [Pieces; 7] = [
    Pieces::Whole,
    Pieces::Single,
    Pieces::Random(1),
    Pieces::Random(2),
    Pieces::Random(3),
    Pieces::Random(4),
    Pieces::Random(5),
];

pub fn config() -> ServerConfig {
    ServerConfig {
        hostname: "mx.test".into(),
        max_message_bytes: 2000,
        max_recipients: 30,
        tls_available: true,
        auth_available: true,
        campaign_header: "X-Campaign".into(),
        tenant_header: "X-Tenant".into(),
    }
}

pub fn large() -> ServerConfig {
    ServerConfig { max_message_bytes: 10_000_000, ..config() }
}

pub const FRIEND: PeerFacts = PeerFacts {
    address: std::net::SocketAddr::V4(std::net::SocketAddrV4::new(std::net::Ipv4Addr::new(192, 0, 2, 1), 4321)),
    may_relay: true,
    trusted_headers: true,
};

pub const STRANGER: PeerFacts = PeerFacts { may_relay: false, trusted_headers: false, ..FRIEND };

pub fn id(sequence: u64) -> MessageId {
    MessageId { generation: 1, core: 2, sequence }
}

impl Driver {
    pub fn new(config: ServerConfig, peer: PeerFacts) -> Self {
        let session = Session::new(Arc::new(config), peer, id(1), NOW);
        Self { session, transcript: vec![], messages: vec![], refusals: vec![], wants_tls: false, next: 1 }
    }

    /// Feeds `input`, cut as `pieces` says, and answers what the session asks.
    pub fn feed(&mut self, input: &[u8], pieces: Pieces) {
        let mut seed = if let Pieces::Random(seed) = pieces { seed } else { 0 };
        let mut rest = input;
        while !rest.is_empty() {
            let length = match pieces {
                Pieces::Whole => rest.len(),
                Pieces::Single => 1,
                Pieces::Random(_) => {
                    seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    (1 + (seed >> 33) as usize % 23).min(rest.len())
                }
            };
            let (piece, behind) = rest.split_at(length);
            self.offer(piece);
            rest = behind;
        }
        self.secure();
    }

    /// Gives it all of one piece, and answers what it asks, but for the handshake.
    pub fn offer(&mut self, mut piece: &[u8]) {
        while !piece.is_empty() {
            let taken = self.session.handle_bytes(piece, NOW);
            piece = &piece[taken..];
            let before = self.transcript.len();
            self.pump();
            assert!(taken > 0 || self.transcript.len() > before, "the session neither takes input nor acts");
        }
    }

    /// Carries out the handshake that it asked for.
    pub fn secure(&mut self) {
        self.pump();
        if std::mem::take(&mut self.wants_tls) {
            self.session.handle_tls_ready("TLSv1.3", "SUITE", NOW);
            self.pump();
        }
    }

    /// Takes output and events until there are none.
    pub fn pump(&mut self) {
        loop {
            let output = std::mem::take(self.session.output());
            let text = String::from_utf8(output).expect("replies are ASCII");
            assert!(text.is_empty() || text.ends_with("\r\n"), "replies are whole lines: {text:?}");
            self.transcript.extend(text.split_terminator("\r\n").map(|line| format!("S: {line}")));
            let Some(event) = self.session.poll_event() else { return };
            self.answer(event);
        }
    }

    fn answer(&mut self, event: ServerEvent) {
        match event {
            ServerEvent::Message(accepted) => {
                let Accepted { sender, recipients, protocol, .. } = &*accepted;
                self.transcript.push(format!("M: <{sender}> <{}> {protocol}", recipients.join("> <")));
                assert_eq!(accepted.id, id(self.next));
                assert!(!self.session.wants_input(), "a session waits for its message to be stored");
                self.next += 1;
                let result = self.refusals.pop().map_or(Ok(accepted.id), Err);
                self.messages.push(*accepted);
                self.session.handle_stored(result, id(self.next), NOW);
            }
            ServerEvent::StartTls => self.wants_tls = true,
            ServerEvent::Authenticate(credentials) => {
                self.transcript
                    .push(format!("A: {} {} {}", credentials.mechanism, credentials.name, credentials.secret));
                self.session.handle_authenticated(credentials.secret == "right", NOW);
            }
            ServerEvent::Close => self.transcript.push("X".to_owned()),
        }
    }
}

/// Greets as `client.test`, sends one message from a@a.test to b@b.test with `text` by DATA, and gives back the
/// replies behind 354 and the messages.
pub fn inject(config: ServerConfig, peer: PeerFacts, text: &[u8], pieces: Pieces) -> (Vec<String>, Vec<Accepted>) {
    let mut driver = Driver::new(config, peer);
    driver.feed(b"EHLO client.test\r\nMAIL FROM:<a@a.test>\r\nRCPT TO:<b@b.test>\r\nDATA\r\n", pieces);
    driver.feed(text, pieces);
    after(driver, "S: 354 ")
}

/// As [`inject`], by BDAT in one chunk.
pub fn inject_chunk(
    config: ServerConfig,
    peer: PeerFacts,
    text: &[u8],
    pieces: Pieces,
) -> (Vec<String>, Vec<Accepted>) {
    let mut driver = Driver::new(config, peer);
    driver.feed(b"EHLO client.test\r\nMAIL FROM:<a@a.test>\r\nRCPT TO:<b@b.test>\r\n", pieces);
    driver.feed(format!("BDAT {} LAST\r\n", text.len()).as_bytes(), pieces);
    driver.feed(text, pieces);
    after(driver, "S: 250 2.1.5 ")
}

fn after(driver: Driver, mark: &str) -> (Vec<String>, Vec<Accepted>) {
    let place = driver.transcript.iter().position(|line| line.starts_with(mark)).expect("the content may begin");
    (driver.transcript[place + 1..].to_vec(), driver.messages)
}

/// The message behind our Received header, whose form is checked.
pub fn text_of(message: &Accepted) -> &[u8] {
    let body = &message.body;
    assert!(body.starts_with(b"Received: from client.test ([192.0.2.1])\r\n\tby mx.test with "));
    let lines: Vec<usize> = memchr_lines(body).take(3).collect();
    assert!(body[lines[1]..lines[2]].starts_with(b"\tSun, 22 Nov 2026 01:44:03 +0000"));
    &body[lines[2]..]
}

fn memchr_lines(body: &[u8]) -> impl Iterator<Item = usize> {
    body.windows(2).enumerate().filter(|(_, pair)| *pair == b"\r\n").map(|(at, _)| at + 2)
}
