//! What a destination got.

use std::net::IpAddr;
use std::time::Instant;

/// One message, as it came.
#[derive(Clone, Debug)]
pub struct Received {
    /// Number of the connection at this destination, from 0.
    pub connection: usize,
    /// From which address.
    pub client: IpAddr,
    /// The name that EHLO or HELO gave.
    pub hello: String,
    /// Whether it came over TLS.
    pub tls: bool,
    /// Whether it came by BDAT.
    pub chunked: bool,
    /// The reverse-path, without brackets.
    pub sender: String,
    /// What followed the reverse-path.
    pub parameters: String,
    /// The recipients that were accepted, without brackets.
    pub recipients: Vec<String>,
    /// Every octet, without dot-stuffing and without the final dot.
    pub content: Vec<u8>,
    /// When its end was read.
    pub at: Instant,
    /// Octets that the connection had brought by then.
    pub octets: u64,
    /// Code of the reply to the end of the data; 0 when the connection was dropped instead.
    pub code: u16,
}

impl Received {
    /// The content behind the Received header that the engine put in front.
    pub fn body(&self) -> &[u8] {
        let mut end = 0;
        for line in self.content.split_inclusive(|octet| *octet == b'\n') {
            let folded = line.first().is_some_and(|octet| matches!(octet, b' ' | b'\t'));
            if end == 0 {
                assert!(line.starts_with(b"Received: "), "no Received header in front: {:?}", self.head());
            } else if !folded {
                break;
            }
            end += line.len();
        }
        &self.content[end..]
    }

    /// The value of a header field (the first of its name), unfolded lines only.
    pub fn header(&self, name: &str) -> Option<String> {
        let head = String::from_utf8_lossy(&self.content).into_owned();
        let head = head.split("\r\n\r\n").next().unwrap_or("");
        head.lines().find_map(|line| {
            let (field, value) = line.split_once(':')?;
            field.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
        })
    }

    fn head(&self) -> String {
        String::from_utf8_lossy(&self.content[..self.content.len().min(200)]).into_owned()
    }
}
