//! A client that hands mail in by SMTP: with or without pipelining, in one piece or many, now and then gone in the
//! middle. It knows an acknowledgement only by the words on the wire.

use crate::plan::MAX_AGE;
use crate::random::Random;
use mailrace_shards::time::Timestamp;
use std::collections::VecDeque;

/// A message as its author knows it.
#[derive(Clone, Debug)]
pub struct Letter {
    pub serial: usize,
    pub sender: String,
    pub recipients: Vec<String>,
    pub tags: Vec<String>,
    pub campaign: Option<String>,
    pub tenant: Option<String>,
    pub pool: Option<String>,
    /// Milliseconds UTC.
    pub expires: Option<i64>,
    pub not_before: Option<i64>,
    pub max_attempts: Option<u16>,
    /// The body behind the header section, canonical.
    pub text: String,
}

impl Letter {
    /// When it expires, received at that moment.
    pub fn expires_after(&self, received: Timestamp) -> Timestamp {
        let begins = self.not_before.map_or(received, |begins| received.max(Timestamp(begins)));
        self.expires.map_or(begins.after(MAX_AGE), Timestamp)
    }

    /// Whether a recipient is of a domain.
    pub fn goes_to(&self, domain: &str) -> bool {
        self.recipients.iter().any(|address| address.rsplit('@').next() == Some(domain))
    }

    /// Header section without those that ask something of the engine, and the body: what must arrive.
    pub fn content(&self) -> String {
        format!("Subject: letter {}\r\nX-Serial: {}\r\n\r\n{}", self.serial, self.serial, self.text)
    }

    /// As it is handed in.
    fn submitted(&self) -> String {
        let mut headers = String::new();
        for tag in &self.tags {
            headers += &format!("X-MQ-Tag: {tag}\r\n");
        }
        let mut add = |name: &str, value: Option<String>| {
            if let Some(value) = value {
                headers += &format!("{name}: {value}\r\n");
            }
        };
        add("X-Campaign", self.campaign.clone());
        add("X-Tenant", self.tenant.clone());
        add("X-MQ-Pool", self.pool.clone());
        add("X-MQ-MaxDeliverTime", self.expires.map(iso));
        add("X-MQ-Delayed", self.not_before.map(iso));
        add("X-MQ-MaxAttempts", self.max_attempts.map(|most| most.to_string()));
        headers + &self.content()
    }
}

/// RFC 3339, to the millisecond, in UTC.
pub fn iso(millis: i64) -> String {
    let (days, rest) = (millis.div_euclid(86_400_000), millis.rem_euclid(86_400_000));
    // Howard Hinnant's civil_from_days.
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let (day, month) = (doy - (153 * mp + 2) / 5 + 1, if mp < 10 { mp + 3 } else { mp - 9 });
    let year = yoe + era * 400 + i64::from(month <= 2);
    let (hour, minute) = (rest / 3_600_000, rest / 60_000 % 60);
    let (second, milli) = (rest / 1000 % 60, rest % 1000);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z")
}

/// What the client does next.
#[derive(Debug)]
pub enum Step {
    /// Sends octets, each piece after so many microseconds.
    Send(Vec<(Vec<u8>, u64)>),
    /// The message with this serial is on its way; an answer to its end is awaited.
    Submitted(usize),
    /// Closes the connection.
    Leave,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Awaits {
    Banner,
    Ehlo,
    Mail,
    Recipients(usize),
    Data,
    End,
    Quit,
}

/// One connection of a client.
pub struct Injector {
    letters: VecDeque<Letter>,
    pipelining: bool,
    chunking: bool,
    /// Sends its content in pieces of about so many octets.
    piece: usize,
    /// Is gone after so many replies.
    leaves_after: u64,
    awaits: Awaits,
    line: Vec<u8>,
}

impl Injector {
    pub fn new(letters: Vec<Letter>, leaves: bool, random: &mut Random) -> Self {
        Self {
            letters: letters.into(),
            pipelining: random.permille(500),
            chunking: random.permille(300),
            piece: *random.pick(&[7, 80, 500, 4000, 100_000]),
            leaves_after: if leaves { random.between(1, 12) } else { u64::MAX },
            awaits: Awaits::Banner,
            line: Vec::new(),
        }
    }

    /// The message whose acknowledgement may come now.
    pub fn current(&self) -> Option<usize> {
        self.letters.front().map(|letter| letter.serial)
    }

    /// Octets of the server came.
    pub fn feed(&mut self, octets: &[u8], random: &mut Random) -> Vec<Step> {
        let mut steps = Vec::new();
        for octet in octets {
            self.line.push(*octet);
            if *octet == b'\n' {
                let line = std::mem::take(&mut self.line);
                // A line that goes on says nothing yet.
                if line.get(3) == Some(&b'-') {
                    continue;
                }
                self.leaves_after -= 1;
                if self.leaves_after == 0 {
                    steps.push(Step::Leave);
                    return steps;
                }
                self.reply(line[0], &mut steps, random);
            }
        }
        steps
    }

    fn reply(&mut self, class: u8, steps: &mut Vec<Step>, random: &mut Random) {
        let good = class == b'2' || class == b'3';
        match self.awaits {
            Awaits::Banner if good => self.say("EHLO client.test\r\n", Awaits::Ehlo, steps),
            Awaits::Ehlo if good => self.begin(steps),
            Awaits::Mail if good => self.recipient(0, steps),
            Awaits::Recipients(next) if good => self.recipient(next, steps),
            Awaits::Data if good => self.content(steps, random),
            Awaits::End => {
                // Taken or refused: the next one.
                self.letters.pop_front();
                self.begin(steps);
            }
            Awaits::Quit => steps.push(Step::Leave),
            // Refused on the way: it gives up.
            _ => self.say("QUIT\r\n", Awaits::Quit, steps),
        }
    }

    fn say(&mut self, text: &str, awaits: Awaits, steps: &mut Vec<Step>) {
        self.awaits = awaits;
        steps.push(Step::Send(vec![(text.into(), 0)]));
    }

    fn begin(&mut self, steps: &mut Vec<Step>) {
        match self.letters.front() {
            None => self.say("QUIT\r\n", Awaits::Quit, steps),
            Some(letter) => {
                let text = format!("MAIL FROM:<{}> BODY=8BITMIME\r\n", letter.sender);
                self.say(&text, Awaits::Mail, steps);
            }
        }
    }

    fn recipient(&mut self, next: usize, steps: &mut Vec<Step>) {
        let letter = &self.letters[0];
        let rcpt = |recipient: &String| format!("RCPT TO:<{recipient}>\r\n");
        if self.pipelining && next == 0 {
            // All at once; each is answered.
            let text: String = letter.recipients.iter().map(rcpt).collect();
            return self.say(&text, Awaits::Recipients(1), steps);
        }
        if self.pipelining && next < letter.recipients.len() {
            self.awaits = Awaits::Recipients(next + 1);
            return;
        }
        match letter.recipients.get(next) {
            Some(recipient) => {
                let text = rcpt(recipient);
                self.say(&text, Awaits::Recipients(next + 1), steps);
            }
            None if self.chunking => {
                let content = letter.submitted();
                let (serial, mut octets) = (letter.serial, format!("BDAT {} LAST\r\n", content.len()).into_bytes());
                octets.extend_from_slice(content.as_bytes());
                self.awaits = Awaits::End;
                steps.push(Step::Submitted(serial));
                steps.push(Step::Send(self.pieces(&octets)));
            }
            None => self.say("DATA\r\n", Awaits::Data, steps),
        }
    }

    fn content(&mut self, steps: &mut Vec<Step>, random: &mut Random) {
        let letter = &self.letters[0];
        let mut octets = String::new();
        for line in letter.submitted().split_inclusive("\r\n") {
            if line.starts_with('.') {
                octets.push('.');
            }
            octets += line;
        }
        octets += ".\r\n";
        steps.push(Step::Submitted(letter.serial));
        if random.permille(20) {
            // Cut off before the end.
            let cut = random.below(octets.len() as u64) as usize;
            steps.push(Step::Send(self.pieces(&octets.as_bytes()[..cut])));
            steps.push(Step::Leave);
            return;
        }
        self.awaits = Awaits::End;
        steps.push(Step::Send(self.pieces(octets.as_bytes())));
    }

    fn pieces(&self, octets: &[u8]) -> Vec<(Vec<u8>, u64)> {
        octets.chunks(self.piece.max(octets.len() / 20 + 1)).map(|piece| (piece.to_vec(), 100)).collect()
    }
}
