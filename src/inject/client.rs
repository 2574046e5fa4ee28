//! One SMTP transaction with one server (RFC 5321), blocking: for a command, not for the engine.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// RFC 5321 §4.5.3.2 asks for five minutes a command and ten for the answer to the data.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
const COMMAND_WITHIN: Duration = Duration::from_secs(300);
const FAREWELL_WITHIN: Duration = Duration::from_secs(10);
const DATA_WITHIN: Duration = Duration::from_secs(600);

/// Octets of a reply line and lines of a reply; a server that says more is not answering.
const REPLY_LINE_BYTES_MAX: u64 = 4096;
const REPLY_LINES_MAX: usize = 200;

/// What is to be handed in.
pub struct Message<'a> {
    pub helo: &'a str,
    /// Without brackets; empty for the null reverse-path.
    pub sender: &'a str,
    pub recipients: &'a [String],
    /// With any line ends, not stuffed.
    pub body: &'a [u8],
}

/// Why it was not.
#[derive(Debug)]
pub enum Failure {
    /// The server answered 4yz or 5yz, or cannot take such a message.
    Refused(String),
    /// No connection, or one that broke.
    Unreachable(String),
}

/// A reply: its code and its text lines.
struct Reply {
    code: u16,
    lines: Vec<String>,
}

struct Connection {
    address: SocketAddr,
    reader: BufReader<TcpStream>,
}

/// Hands `message` in at `address`; the text of the server's last answer.
pub fn send(address: SocketAddr, message: &Message<'_>) -> Result<String, Failure> {
    let mut session = Session::open(address, message.helo)?;
    let answer = session.hand_in(message);
    session.quit();
    answer
}

/// A greeted connection, for one message or many.
pub struct Session {
    connection: Connection,
    /// Lines of the answer to EHLO.
    offers: Vec<String>,
}

impl Session {
    /// Connects and greets.
    pub fn open(address: SocketAddr, helo: &str) -> Result<Self, Failure> {
        let stream = TcpStream::connect_timeout(&address, CONNECT_WITHIN).map_err(|error| {
            Failure::Unreachable(format!("{address} cannot be reached: {error}; is mailrace running?"))
        })?;
        let mut connection = Connection { address, reader: BufReader::new(stream) };
        connection.within(COMMAND_WITHIN)?;
        connection.read()?.expect(2, "the connection")?;
        let offers = connection.command(&format!("EHLO {helo}"))?.expect(2, "EHLO")?.lines;
        Ok(Self { connection, offers })
    }

    /// One transaction; the text of the server's last answer. After a failure the session is of no more use.
    pub fn hand_in(&mut self, message: &Message<'_>) -> Result<String, Failure> {
        let (data, size) = stuffed(message.body);
        let parameters = parameters(message, size as u64, &self.offers)?;
        let connection = &mut self.connection;
        connection.within(COMMAND_WITHIN)?;
        connection.command(&format!("MAIL FROM:<{}>{parameters}", message.sender))?.expect(2, "the sender")?;
        let mut refusals = Vec::new();
        for recipient in message.recipients {
            let reply = connection.command(&format!("RCPT TO:<{recipient}>"))?;
            if let Err(Failure::Refused(text)) = reply.expect(2, recipient) {
                refusals.push(text);
            }
        }
        if !refusals.is_empty() {
            refusals.push("nothing was handed in".to_owned());
            return Err(Failure::Refused(refusals.join("\n")));
        }
        connection.command("DATA")?.expect(3, "DATA")?;
        connection.within(DATA_WITHIN)?;
        connection.write(&data)?;
        let reply = connection.read().map_err(|failure| match failure {
            Failure::Unreachable(text) => Failure::Unreachable(format!("{text}; the message may have been accepted")),
            refused @ Failure::Refused(_) => refused,
        })?;
        let answer = format!("{} {}", reply.code, reply.lines.join(" "));
        reply.expect(2, "the message")?;
        Ok(answer)
    }

    /// Says farewell. It ends a transaction that was begun, and changes nothing for a message that was taken,
    /// whatever becomes of the farewell.
    pub fn quit(mut self) {
        if self.connection.within(FAREWELL_WITHIN).is_ok() {
            let _ = self.connection.command("QUIT");
        }
    }
}

/// The parameters of MAIL for this message, as far as the server offers what it needs.
fn parameters(message: &Message<'_>, size: u64, offers: &[String]) -> Result<String, Failure> {
    let offer = |keyword: &str| {
        offers.iter().skip(1).find_map(|line| {
            let mut words = line.split_ascii_whitespace();
            words.next().filter(|word| word.eq_ignore_ascii_case(keyword)).map(|_| words.next())
        })
    };
    let mut parameters = String::new();
    if let Some(most) = offer("SIZE") {
        let most: u64 = most.and_then(|digits| digits.parse().ok()).unwrap_or(0);
        // RFC 1870 §4: zero is no fixed limit.
        if most > 0 && size > most {
            return Err(Failure::Refused(format!("the message has {size} octets; the server takes {most}")));
        }
        let written = write!(parameters, " SIZE={size}");
        debug_assert!(written.is_ok(), "a String takes all");
    }
    if !message.body.is_ascii() && offer("8BITMIME").is_some() {
        parameters.push_str(" BODY=8BITMIME");
    }
    let addresses = message.recipients.iter().map(String::as_str).chain([message.sender]);
    if let Some(address) = addresses.into_iter().find(|address| !address.is_ascii()) {
        if offer("SMTPUTF8").is_none() {
            return Err(Failure::Refused(format!("{address} needs SMTPUTF8, which the server does not offer")));
        }
        parameters.push_str(" SMTPUTF8");
    }
    Ok(parameters)
}

/// The body as DATA sends it, its end included: every line end CRLF, a dot before each leading dot
/// (RFC 5321 §4.5.2); and its octets as RFC 1870 §3 counts them, without those dots and the end.
fn stuffed(body: &[u8]) -> (Vec<u8>, usize) {
    let mut out = Vec::with_capacity(body.len() + body.len() / 32 + 5);
    let mut line_start = true;
    let mut dots = 0;
    let mut octets = body.iter().copied().peekable();
    while let Some(octet) = octets.next() {
        if octet == b'\r' || octet == b'\n' {
            // A lone CR ends a line too: passed on, the next server might take it for one, or not.
            if octet == b'\r' {
                octets.next_if_eq(&b'\n');
            }
            out.extend_from_slice(b"\r\n");
            line_start = true;
            continue;
        }
        if line_start && octet == b'.' {
            out.push(b'.');
            dots += 1;
        }
        out.push(octet);
        line_start = false;
    }
    if !line_start {
        out.extend_from_slice(b"\r\n");
    }
    let size = out.len() - dots;
    out.extend_from_slice(b".\r\n");
    (out, size)
}

impl Connection {
    fn lost(&self, error: &dyn std::fmt::Display) -> Failure {
        Failure::Unreachable(format!("the connection to {} was lost: {error}", self.address))
    }

    fn within(&self, timeout: Duration) -> Result<(), Failure> {
        let stream = self.reader.get_ref();
        let set = stream.set_read_timeout(Some(timeout)).and_then(|()| stream.set_write_timeout(Some(timeout)));
        set.map_err(|error| self.lost(&error))
    }

    fn write(&mut self, octets: &[u8]) -> Result<(), Failure> {
        self.reader.get_mut().write_all(octets).map_err(|error| self.lost(&error))
    }

    fn command(&mut self, line: &str) -> Result<Reply, Failure> {
        self.write(format!("{line}\r\n").as_bytes())?;
        self.read()
    }

    fn read(&mut self) -> Result<Reply, Failure> {
        let mut lines = Vec::new();
        while lines.len() < REPLY_LINES_MAX {
            let mut octets = Vec::new();
            let read = self.reader.by_ref().take(REPLY_LINE_BYTES_MAX).read_until(b'\n', &mut octets);
            read.map_err(|error| self.lost(&error))?;
            if octets.last() != Some(&b'\n') {
                return Err(self.lost(&if octets.is_empty() { "closed by the server" } else { "a reply was cut off" }));
            }
            let line = String::from_utf8_lossy(&octets);
            let line = line.trim_end();
            let code = line.get(..3).and_then(|digits| digits.parse().ok()).filter(|code| (200..600).contains(code));
            let (Some(code), Some(rest)) = (code, line.get(3..)) else {
                return Err(self.lost(&format!("{line:?} is not an SMTP reply")));
            };
            lines.push(rest.get(1..).unwrap_or_default().to_owned());
            if !rest.starts_with('-') {
                return Ok(Reply { code, lines });
            }
        }
        Err(self.lost(&"a reply does not end"))
    }
}

impl Reply {
    /// This reply if its first digit is `digit`, else the refusal of `what`.
    fn expect(self, digit: u16, what: &str) -> Result<Self, Failure> {
        if self.code / 100 == digit {
            return Ok(self);
        }
        Err(Failure::Refused(format!("{what} was refused: {} {}", self.code, self.lines.join(" "))))
    }
}

#[cfg(test)]
mod tests {
    use super::stuffed;

    #[test]
    fn bodies_are_stuffed() {
        for (body, expected, octets) in [
            ("", ".\r\n", 0),
            ("a", "a\r\n.\r\n", 3),
            ("a\n", "a\r\n.\r\n", 3),
            (".\n", "..\r\n.\r\n", 3),
            ("a\r\n.\r\n.b\r\n", "a\r\n..\r\n..b\r\n.\r\n", 10),
            ("a\r.\rb", "a\r\n..\r\nb\r\n.\r\n", 9),
            ("a\n\n.", "a\r\n\r\n..\r\n.\r\n", 8),
            ("a.b\n", "a.b\r\n.\r\n", 5),
        ] {
            let (data, size) = stuffed(body.as_bytes());
            assert_eq!((String::from_utf8(data).unwrap().as_str(), size), (expected, octets), "{body:?}");
        }
    }
}
