//! Random conversations with a server that keeps the rules and remembers what it took: what the session says became
//! of each message must agree with what the server has.

use super::harness::{Random, config, envelope};
use mailrace_shards::message::Body;
use mailrace_shards::settings::TlsPolicy;
use mailrace_shards::smtp::client::{ClientEvent, EndOfDataMark, RecipientResult, Session, Transaction, Withdrawal};
use mailrace_shards::time::Instant;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

type Taken = (Vec<u8>, Vec<Vec<u8>>, Vec<u8>);

/// A server of RFC 5321, 2920 and 3030 that refuses at random.
struct Server {
    random: Random,
    chunking: bool,
    sender: Option<Vec<u8>>,
    recipients: Vec<Vec<u8>>,
    /// Inside DATA, or inside a chunk of so many octets.
    data: bool,
    chunk: Option<usize>,
    input: Vec<u8>,
    replies: Vec<u8>,
    hung_up: bool,
    /// Sender, recipients and body of each message taken.
    taken: Vec<Taken>,
    /// Percentages.
    refuses: u64,
    ends: u64,
}

impl Server {
    fn reply(&mut self, good: &str) -> bool {
        if self.random.below(1000) < self.ends {
            self.replies.extend_from_slice(b"421 4.3.2 over\r\n");
            self.hung_up = true;
            return false;
        }
        let refused = self.random.below(100) < self.refuses;
        let text = match (refused, self.random.below(3)) {
            (false, _) => good,
            (true, 0) => "550 5.7.1 no\r\n",
            (true, 1) => "452 many\r\n",
            _ => "451-4.0.0 not\r\n451 4.0.0 now\r\n",
        };
        self.replies.extend_from_slice(text.as_bytes());
        !refused
    }

    fn serve(&mut self, octets: &[u8]) {
        self.input.extend_from_slice(octets);
        while !self.hung_up && self.step() {}
    }

    fn step(&mut self) -> bool {
        if let Some(size) = self.chunk {
            if self.input.len() < size {
                return false;
            }
            let body = self.input.drain(..size).collect();
            self.chunk = None;
            if self.recipients.is_empty() {
                // The transaction stays open, the harshest reading of RFC 3030.
                self.replies.extend_from_slice(b"503 5.5.1 no recipients\r\n");
            } else {
                self.take(body);
            }
            return true;
        }
        if self.data {
            let end = if self.input.starts_with(b".\r\n") {
                Some(0)
            } else {
                find(&self.input, b"\r\n.\r\n").map(|at| at + 2)
            };
            let Some(end) = end else { return false };
            let body: Vec<u8> = self.input.drain(..end + 3).take(end).collect();
            self.data = false;
            let mut plain = Vec::new();
            for line in body.split_inclusive(|&octet| octet == b'\n') {
                plain.extend_from_slice(line.strip_prefix(b".").unwrap_or(line));
            }
            self.take(plain);
            return true;
        }
        let Some(end) = find(&self.input, b"\r\n") else { return false };
        let line: Vec<u8> = self.input.drain(..end + 2).take(end).collect();
        self.command(&line);
        true
    }

    fn take(&mut self, body: Vec<u8>) {
        let sender = self.sender.take().expect("a transaction is open");
        let recipients = std::mem::take(&mut self.recipients);
        if recipients.is_empty() {
            self.replies.extend_from_slice(b"554 5.5.1 no recipients\r\n");
        } else if self.reply("250 2.0.0 taken\r\n") {
            self.taken.push((sender, recipients, body));
        }
    }

    fn command(&mut self, line: &[u8]) {
        if let Some(sender) = line.strip_prefix(b"MAIL FROM:<") {
            assert!(self.sender.is_none(), "nested MAIL");
            let end = sender.iter().position(|&octet| octet == b'>').unwrap();
            if self.reply("250 ok\r\n") {
                self.sender = Some(sender[..end].to_vec());
            }
        } else if let Some(recipient) = line.strip_prefix(b"RCPT TO:<") {
            if self.sender.is_none() {
                self.replies.extend_from_slice(b"503 5.5.1 MAIL first\r\n");
            } else if self.reply("250 ok\r\n") {
                self.recipients.push(recipient[..recipient.len() - 1].to_vec());
            }
        } else if line == b"DATA" {
            assert!(!self.chunking);
            // With no recipient, both a refusal and 354 are right, RFC 2920 §3.1.
            let open = self.sender.is_some() && (!self.recipients.is_empty() || self.random.below(2) == 0);
            if !open {
                self.replies.extend_from_slice(b"503 5.5.1 RCPT first\r\n");
            } else if self.reply("354 go\r\n") {
                self.data = true;
            }
        } else if let Some(size) = line.strip_prefix(b"BDAT ") {
            assert!(self.chunking);
            let size = size.strip_suffix(b" LAST").expect("one chunk");
            self.chunk = Some(std::str::from_utf8(size).unwrap().parse().unwrap());
        } else if line == b"RSET" {
            self.sender = None;
            self.recipients.clear();
            self.replies.extend_from_slice(b"250 reset\r\n");
        } else if line == b"QUIT" {
            self.replies.extend_from_slice(b"221 bye\r\n");
            self.hung_up = true;
        } else {
            panic!("no command: {:?}", String::from_utf8_lossy(line));
        }
    }
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window == what)
}

#[derive(Default)]
pub struct Ledger {
    bodies: BTreeMap<u64, (usize, Vec<u8>)>,
    delivered: BTreeSet<(u64, u16)>,
    maybe: BTreeSet<(u64, u16)>,
    failed: BTreeSet<(u64, u16)>,
    given_back: BTreeSet<(u64, u16)>,
    complete: BTreeSet<u64>,
    withdrawn: BTreeSet<u64>,
    pub closed: bool,
}

impl Ledger {
    fn note(&mut self, event: ClientEvent) {
        assert!(!self.closed, "nothing comes after Closed: {event:?}");
        match event {
            ClientEvent::StartTls => panic!("TLS was not offered"),
            ClientEvent::Ready(_) => {}
            ClientEvent::Finished { token, results } => {
                assert!(!self.withdrawn.contains(&token));
                for (index, result) in results {
                    let set = match &result {
                        RecipientResult::Delivered(_) => &mut self.delivered,
                        RecipientResult::Failed(failure) if failure.maybe_delivered => {
                            assert!(self.complete.contains(&token), "only what is complete may be delivered");
                            &mut self.maybe
                        }
                        RecipientResult::Failed(_) => &mut self.failed,
                    };
                    assert!(set.insert((token, index)));
                }
            }
            ClientEvent::Aborted { token, recipients, .. } => {
                for index in recipients {
                    assert!(self.given_back.insert((token, index)));
                }
            }
            ClientEvent::Closed { .. } => self.closed = true,
        }
    }

    /// Every recipient has one fate, and the server has what is delivered and nothing that is not.
    fn check(&self, server: &Server) {
        let mut held = BTreeSet::new();
        for (sender, recipients, body) in &server.taken {
            let token: u64 = std::str::from_utf8(sender).unwrap()[1..].split('@').next().unwrap().parse().unwrap();
            let (_, expected) = &self.bodies[&token];
            let with_end = [expected.as_slice(), b"\r\n"].concat();
            let ended = server.chunking || expected.is_empty() || expected.ends_with(b"\r\n");
            assert!(body == if ended { expected } else { &with_end }, "the body arrived as it was");
            assert!(!self.withdrawn.contains(&token), "a withdrawn message arrived");
            for recipient in recipients {
                let index: u16 = std::str::from_utf8(&recipient[1..2]).unwrap().parse().unwrap();
                assert!(held.insert((token, index)), "nothing arrives twice");
            }
        }
        self.check_fates();
        for (&token, (recipients, _)) in &self.bodies {
            for index in 0..u16::try_from(*recipients).unwrap() {
                let key = (token, index);
                assert!(!self.delivered.contains(&key) || held.contains(&key), "{key:?} is not there");
                assert!(!self.failed.contains(&key) || !held.contains(&key), "{key:?} is there");
                assert!(!self.given_back.contains(&key) || !held.contains(&key), "{key:?} is there, given back");
            }
        }
    }
}

impl Ledger {
    pub fn has_delivered(&self) -> bool {
        !self.delivered.is_empty()
    }

    /// Every recipient of every message has one fate.
    pub fn check_fates(&self) {
        for (&token, (recipients, _)) in &self.bodies {
            for key in (0..u16::try_from(*recipients).unwrap()).map(|index| (token, index)) {
                let sets = [&self.delivered, &self.maybe, &self.failed, &self.given_back];
                assert_eq!(sets.iter().filter(|set| set.contains(&key)).count(), 1, "{key:?} has one fate");
            }
        }
    }
}

fn message(token: u64, random: &mut Random) -> (Transaction, Vec<u8>) {
    let count = usize::try_from(random.below(3) + 1).unwrap();
    let addresses: Vec<String> = (0..count).map(|index| format!("r{index}@d.example")).collect();
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    let mut body = Vec::new();
    for _ in 0..random.below(12) {
        let line: &[u8] = [&b"\r\n"[..], b".", b"..\r\n", b"a.\r\n", b".\r\n", b"text\r\n"][random.below(6) as usize];
        body.extend_from_slice(line);
    }
    let envelope = envelope(&format!("s{token}@o.example"), &addresses, &body, false);
    let recipients = (0..u16::try_from(count).unwrap()).collect();
    (Transaction { token, envelope, recipients, body: Body::copy_from_slice(&body) }, body)
}

/// The caller's side: the session, the octets it has filled and not sent, and the connection.
pub struct Caller {
    pub session: Session,
    pub random: Random,
    pub ledger: Ledger,
    unsent: VecDeque<u8>,
    /// Positions in `unsent` after which a token is complete.
    marks: VecDeque<(usize, u64)>,
    pub now: Instant,
    tokens: u64,
}

impl Caller {
    pub fn new(random: Random) -> Self {
        let now = Instant(0);
        Self {
            session: Session::new(config(TlsPolicy::Opportunistic), now),
            random,
            ledger: Ledger::default(),
            unsent: VecDeque::new(),
            marks: VecDeque::new(),
            now,
            tokens: 0,
        }
    }

    pub fn poll(&mut self) {
        while let Some(event) = self.session.poll_event() {
            self.ledger.note(event);
        }
    }

    /// Submits, withdraws, fills and sends at random; gives the octets that were sent.
    pub fn turn(&mut self) -> Vec<u8> {
        self.poll();
        if self.session.wants_transaction() && self.tokens < 8 && self.random.below(3) > 0 {
            let (transaction, body) = message(self.tokens, &mut self.random);
            self.ledger.bodies.insert(self.tokens, (transaction.recipients.len(), body));
            self.tokens += 1;
            self.session.submit(transaction, self.now);
        }
        if self.tokens == 8 {
            self.session.finish(self.now);
        }
        self.fill();
        if self.random.below(12) == 0 && self.tokens > 0 {
            self.withdraw();
        }
        self.send()
    }

    fn fill(&mut self) {
        let mut out = Vec::new();
        let mut marks: Vec<EndOfDataMark> = Vec::new();
        self.session.fill(&mut out, usize::try_from(self.random.below(90) + 1).unwrap(), &mut marks, self.now);
        for mark in marks {
            assert!(!self.ledger.withdrawn.contains(&mark.token), "no end of data after a withdrawal");
            self.marks.push_back((self.unsent.len() + mark.position + 1, mark.token));
        }
        self.unsent.extend(out);
    }

    fn withdraw(&mut self) {
        let token = self.random.below(self.tokens);
        match self.session.withdraw(token, &[], self.now) {
            Withdrawal::TooLate => return,
            Withdrawal::GivenBack => {}
            Withdrawal::Ending => {
                self.unsent.clear();
                self.marks.clear();
            }
        }
        self.ledger.withdrawn.insert(token);
    }

    fn send(&mut self) -> Vec<u8> {
        let length = usize::try_from(self.random.below(120)).unwrap().min(self.unsent.len());
        let octets: Vec<u8> = self.unsent.drain(..length).collect();
        while let Some(&(end, token)) = self.marks.front()
            && end <= length
        {
            self.marks.pop_front();
            self.ledger.complete.insert(token);
            self.session.handle_end_of_data_sent(token, self.now);
        }
        for (end, _) in &mut self.marks {
            *end -= length;
        }
        octets
    }

    fn receive(&mut self, server: &mut Server) {
        if self.random.below(3) > 0 {
            return;
        }
        let length = usize::try_from(self.random.below(60)).unwrap().min(server.replies.len());
        let octets: Vec<u8> = server.replies.drain(..length).collect();
        if !octets.is_empty() {
            self.session.handle_bytes(&octets, self.now);
        }
    }
}

fn converse(seed: u64) -> Ledger {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let (pipelining, chunking) = (random.below(4) > 0, random.below(2) == 0);
    let (refuses, ends) = ([0, 10, 40][random.below(3) as usize], [0, 0, 30][random.below(3) as usize]);
    let loss_after = random.below(120);
    let mut server = Server {
        random: Random(random.below(u64::MAX) | 1),
        chunking,
        sender: None,
        recipients: Vec::new(),
        data: false,
        chunk: None,
        input: Vec::new(),
        replies: Vec::new(),
        hung_up: false,
        taken: Vec::new(),
        refuses,
        ends,
    };
    let now = Instant(0);
    let mut caller = Caller::new(random);
    caller.session.handle_bytes(b"220 hello\r\n", now);
    caller.session.fill(&mut Vec::new(), 100, &mut Vec::new(), now);
    let mut offers = "250-mx\r\n".to_owned();
    offers.push_str(if pipelining { "250-PIPELINING\r\n" } else { "" });
    offers.push_str(if chunking { "250-CHUNKING\r\n" } else { "" });
    caller.session.handle_bytes(format!("{offers}250 HELP\r\n").as_bytes(), now);
    for turn in 0..5000 {
        caller.now = caller.now.after(Duration::from_millis(1));
        server.serve(&caller.turn());
        caller.receive(&mut server);
        if turn == loss_after && seed.is_multiple_of(2) || server.hung_up && server.replies.is_empty() {
            server.hung_up = true;
            caller.session.handle_eof(caller.now);
        }
        caller.poll();
        if caller.ledger.closed {
            caller.ledger.check(&server);
            return caller.ledger;
        }
    }
    panic!("the conversation does not end");
}

#[test]
fn fates_agree_with_the_server() {
    let mut fates = [0; 5];
    for seed in 0..2000 {
        match std::panic::catch_unwind(|| converse(seed)) {
            Ok(ledger) => {
                let sets = [&ledger.delivered, &ledger.maybe, &ledger.failed, &ledger.given_back];
                for (count, set) in fates.iter_mut().zip(sets) {
                    *count += set.len();
                }
                fates[4] += ledger.withdrawn.len();
            }
            Err(panic) => {
                eprintln!("seed {seed}");
                std::panic::resume_unwind(panic);
            }
        }
    }
    assert!(fates.iter().all(|&count| count > 100), "every fate is tried: {fates:?}");
}
