//! The Received header that every message gets (RFC 5321 §4.4), and the name of the protocol it came by.

use super::state::Greeting;
use crate::message::MessageId;
use crate::time::Timestamp;
use jiff::fmt::rfc2822::DateTimePrinter;
use jiff::tz::TimeZone;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};

/// TLS as negotiated, for the comment in Received.
#[derive(Clone, Copy, Debug)]
pub(super) struct TlsFacts {
    pub(super) version: &'static str,
    pub(super) suite: &'static str,
}

/// What the header tells.
#[derive(Debug)]
pub(super) struct Received<'a> {
    /// Name that the peer gave, safe to print.
    pub(super) greeted_as: &'a str,
    pub(super) peer: SocketAddr,
    pub(super) hostname: &'a str,
    pub(super) protocol: &'static str,
    pub(super) tls: Option<TlsFacts>,
    pub(super) id: MessageId,
    pub(super) at: Timestamp,
}

impl Received<'_> {
    /// Appends the header with its line end.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let Self { greeted_as, hostname, protocol, id, .. } = self;
        let written = match self.peer.ip().to_canonical() {
            IpAddr::V4(address) => write!(out, "Received: from {greeted_as} ([{address}])\r\n\tby {hostname}"),
            IpAddr::V6(address) => write!(out, "Received: from {greeted_as} ([IPv6:{address}])\r\n\tby {hostname}"),
        };
        written.expect("a vector takes any octets");
        let written = match self.tls {
            Some(TlsFacts { version, suite }) => write!(out, " with {protocol} ({version} {suite}) id {id};\r\n\t"),
            None => write!(out, " with {protocol} id {id};\r\n\t"),
        };
        written.expect("a vector takes any octets");
        // Outside the years that a date can name (a clock gone mad), the epoch stands in.
        let moment = jiff::Timestamp::from_millisecond(self.at.0).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
        let date = DateTimePrinter::new().print_zoned(&moment.to_zoned(TimeZone::UTC), &mut *out);
        if date.is_err() {
            out.extend_from_slice(b"Thu, 1 Jan 1970 00:00:00 +0000");
        }
        out.extend_from_slice(b"\r\n");
    }
}

/// The protocol type: RFC 3848, and RFC 6531 §4.3 for SMTPUTF8.
pub(super) fn protocol(greeting: Greeting, tls: bool, authenticated: bool, smtputf8: bool) -> &'static str {
    match (greeting, smtputf8, tls, authenticated) {
        (Greeting::None | Greeting::Helo, ..) => "SMTP",
        (Greeting::Ehlo, false, false, false) => "ESMTP",
        (Greeting::Ehlo, false, false, true) => "ESMTPA",
        (Greeting::Ehlo, false, true, false) => "ESMTPS",
        (Greeting::Ehlo, false, true, true) => "ESMTPSA",
        (Greeting::Ehlo, true, false, false) => "UTF8SMTP",
        (Greeting::Ehlo, true, false, true) => "UTF8SMTPA",
        (Greeting::Ehlo, true, true, false) => "UTF8SMTPS",
        (Greeting::Ehlo, true, true, true) => "UTF8SMTPSA",
    }
}
