//! An injector that says exactly what a test wants said.

use super::certificate::Certificate;
use super::wait::PATIENCE;
use super::wire::Wire;
use std::io;
use std::net::{SocketAddr, TcpStream};

/// A server's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Three digits.
    pub code: u16,
    /// The lines without the code.
    pub lines: Vec<String>,
}

impl Reply {
    /// The lines in one.
    pub fn text(&self) -> String {
        self.lines.join("\n")
    }
}

/// One connection to a server. Methods whose names begin with `try` give the error back; the others panic.
pub struct Client {
    wire: Wire,
    /// Lines of the last EHLO's answer.
    pub features: Vec<String>,
}

impl Client {
    /// Connects and reads the greeting.
    pub fn connect(address: SocketAddr) -> Self {
        Self::try_connect(address).unwrap()
    }

    /// Connects and reads the greeting, which must be 220.
    pub fn try_connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut client = Self { wire: Wire::new(stream), features: Vec::new() };
        let greeting = client.try_reply()?;
        if greeting.code == 220 { Ok(client) } else { Err(io::Error::other(greeting.text())) }
    }

    /// EHLO, which must be answered by 250.
    pub fn ehlo(&mut self) {
        let reply = self.command("EHLO injector.example");
        assert_eq!(reply.code, 250, "{reply:?}");
        self.features = reply.lines;
    }

    /// Whether the last EHLO's answer has a line that begins so.
    pub fn offers(&self, feature: &str) -> bool {
        self.features.iter().any(|line| line.starts_with(feature))
    }

    /// STARTTLS and the handshake, then EHLO again.
    pub fn start_tls(&mut self, certificate: &Certificate, host: &str) {
        let reply = self.command("STARTTLS");
        assert_eq!(reply.code, 220, "{reply:?}");
        self.wire.start_client(certificate.client(), host).unwrap();
        self.ehlo();
    }

    /// Sends a line and reads the reply.
    pub fn command(&mut self, line: &str) -> Reply {
        self.try_command(line).unwrap_or_else(|error| panic!("{error} after {line}"))
    }

    /// Sends a line and reads the reply.
    pub fn try_command(&mut self, line: &str) -> io::Result<Reply> {
        self.wire.write(format!("{line}\r\n").as_bytes())?;
        self.try_reply()
    }

    /// Sends octets as they are.
    pub fn write(&mut self, octets: &[u8]) {
        self.wire.write(octets).unwrap();
    }

    /// Sends octets as they are.
    pub fn try_write(&mut self, octets: &[u8]) -> io::Result<()> {
        self.wire.write(octets)
    }

    /// Reads a reply.
    pub fn reply(&mut self) -> Reply {
        self.try_reply().unwrap()
    }

    /// Reads a reply.
    pub fn try_reply(&mut self) -> io::Result<Reply> {
        let mut lines = Vec::new();
        loop {
            let line = String::from_utf8(self.wire.read_line()?).map_err(io::Error::other)?;
            let Some(line) = line.strip_suffix("\r\n") else {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("the connection ended: {line:?}")));
            };
            let code: u16 = line.get(..3).unwrap_or(line).parse().map_err(io::Error::other)?;
            lines.push(line.get(4..).unwrap_or("").to_owned());
            if line.as_bytes().get(3) != Some(&b'-') {
                return Ok(Reply { code, lines });
            }
        }
    }

    /// MAIL and RCPTs, each of which must be accepted. `sender` and recipients may carry parameters after `>`.
    fn try_envelope(&mut self, sender: &str, recipients: &[&str]) -> io::Result<Option<Reply>> {
        let bracketed = |address: &str| match address.split_once(' ') {
            Some((address, parameters)) => format!("<{address}> {parameters}"),
            None => format!("<{address}>"),
        };
        let reply = self.try_command(&format!("MAIL FROM:{}", bracketed(sender)))?;
        if reply.code != 250 {
            return Ok(Some(reply));
        }
        for recipient in recipients {
            let reply = self.try_command(&format!("RCPT TO:{}", bracketed(recipient)))?;
            if reply.code != 250 {
                return Ok(Some(reply));
            }
        }
        Ok(None)
    }

    /// A whole transaction by DATA. The body is dot-stuffed here; it must end with CRLF (or be empty). Gives the
    /// final reply, or the first that refused.
    pub fn send(&mut self, sender: &str, recipients: &[&str], body: &[u8]) -> Reply {
        self.try_send(sender, recipients, body).unwrap()
    }

    /// As [`Client::send`].
    pub fn try_send(&mut self, sender: &str, recipients: &[&str], body: &[u8]) -> io::Result<Reply> {
        if let Some(refused) = self.try_envelope(sender, recipients)? {
            return Ok(refused);
        }
        let reply = self.try_command("DATA")?;
        if reply.code != 354 {
            return Ok(reply);
        }
        self.wire.write(&stuffed(body))?;
        self.try_reply()
    }

    /// A whole transaction by BDAT, in chunks of at most `chunk` octets, the last one marked LAST.
    pub fn send_chunks(&mut self, sender: &str, recipients: &[&str], body: &[u8], chunk: usize) -> Reply {
        if let Some(refused) = self.try_envelope(sender, recipients).unwrap() {
            return refused;
        }
        let mut rest = body;
        loop {
            let (now, later) = rest.split_at(rest.len().min(chunk));
            let last = if later.is_empty() { " LAST" } else { "" };
            self.write(format!("BDAT {}{last}\r\n", now.len()).as_bytes());
            self.write(now);
            let reply = self.reply();
            if later.is_empty() || reply.code != 250 {
                return reply;
            }
            rest = later;
        }
    }
}

/// A body as DATA carries it, with its end (RFC 5321 §4.5.2).
pub fn stuffed(body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(body.len() + body.len() / 64 + 8);
    for line in body.split_inclusive(|octet| *octet == b'\n') {
        if line.first() == Some(&b'.') {
            out.push(b'.');
        }
        out.extend_from_slice(line);
    }
    out.extend_from_slice(b".\r\n");
    out
}
