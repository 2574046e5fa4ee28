//! The content of the generated messages: one prepared text, patched in place for each message.
//!
//! No line of it begins with a dot, so nothing has to be stuffed (RFC 5321 §4.5.2), and all lines end with CRLF.

use super::{Load, Spread};
use crate::marker::{self, Marker};
use crate::sink::profile::mix;

/// Octets of a body line without its CRLF.
const LINE_OCTETS: usize = 76;
/// Digits of the domain number.
const DOMAIN_DIGITS: usize = 5;

/// The prepared message.
pub struct Template {
    /// Content, then the dot line.
    text: Vec<u8>,
    /// Where the marker's value stands.
    marker_at: usize,
    /// Where the digits of the domain stand.
    domain_at: usize,
    /// Where the number that makes the Message-ID unique stands.
    number_at: usize,
    run: u32,
    domains: u32,
    spread: Spread,
}

impl Template {
    /// Prepares messages of `load.size` octets; a size too small for the header is made just large enough.
    pub fn new(load: &Load) -> Template {
        let mut text = marker::NAME.as_bytes().to_vec();
        let marker_at = text.len();
        text.resize(marker_at + marker::VALUE_OCTETS, b'0');
        text.extend_from_slice(b"\r\nFrom: Load <load@gen.perf.test>\r\nTo: Reader <u@d");
        let domain_at = text.len();
        text.extend_from_slice(b"00000.perf.test>\r\nMessage-ID: <");
        text.extend_from_slice(format!("{:08x}.", load.run).as_bytes());
        let number_at = text.len();
        text.extend_from_slice(b"0000000000@gen.perf.test>\r\nSubject: A generated message\r\n");
        text.extend_from_slice(b"Date: Thu, 1 Jan 2026 00:00:00 +0000\r\nMIME-Version: 1.0\r\n");
        text.extend_from_slice(b"Content-Type: text/plain; charset=us-ascii\r\n\r\n");
        fill(&mut text, load.size);
        text.extend_from_slice(b".\r\n");
        Template {
            text,
            marker_at,
            domain_at,
            number_at,
            run: load.run,
            domains: load.domains.clamp(1, 100_000),
            spread: load.spread,
        }
    }

    /// The domain of message `number`.
    pub fn domain(&self, number: u32) -> u32 {
        match self.spread {
            Spread::RoundRobin => number % self.domains,
            Spread::Random => (mix(u64::from(number) + 1) % u64::from(self.domains)) as u32,
        }
    }

    /// Appends the RCPT command for message `number`.
    pub fn append_rcpt(&self, number: u32, out: &mut Vec<u8>) {
        out.extend_from_slice(b"RCPT TO:<u@d");
        append_digits(self.domain(number), DOMAIN_DIGITS, out);
        out.extend_from_slice(b".perf.test>\r\n");
    }

    /// Appends the whole content of message `number` with its end of data.
    pub fn append_message(&self, number: u32, sent_ns: u64, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&self.text);
        let message = &mut out[start..];
        let value = &mut message[self.marker_at..self.marker_at + marker::VALUE_OCTETS];
        Marker { run: self.run, number, sent_ns }.write(value);
        put_digits(self.domain(number), &mut message[self.domain_at..self.domain_at + DOMAIN_DIGITS]);
        put_digits(number, &mut message[self.number_at..self.number_at + 10]);
    }
}

/// Adds body lines until `text` has `size` octets, ending with CRLF.
pub fn fill(text: &mut Vec<u8>, size: usize) {
    let letters: Vec<u8> = (b'a'..=b'z').chain(*b"     ").cycle().take(LINE_OCTETS * 8).collect();
    let mut shift = 0;
    while text.len() + 2 < size {
        let mut length = LINE_OCTETS.min(size - text.len() - 2);
        // What remains after this line must have room for a CRLF of its own.
        let left = size - text.len() - 2 - length;
        if left == 1 || left == 2 {
            length = length.saturating_sub(2).max(1);
        }
        text.extend_from_slice(&letters[shift..shift + length]);
        text.extend_from_slice(b"\r\n");
        shift = (shift + 7) % (LINE_OCTETS * 7);
    }
}

fn put_digits(mut value: u32, place: &mut [u8]) {
    for octet in place.iter_mut().rev() {
        *octet = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

fn append_digits(value: u32, digits: usize, out: &mut Vec<u8>) {
    let start = out.len();
    out.resize(start + digits, b'0');
    put_digits(value, &mut out[start..]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::marker::MarkerFinder;

    fn load(size: usize, spread: Spread) -> Load {
        Load {
            target: ([127, 0, 0, 1], 25).into(),
            run: 0xabcd,
            messages: 1,
            size,
            domains: 100,
            spread,
            connections: 1,
            messages_per_connection: 0,
            pipelining: super::super::Pipelining::Full,
            cpu: None,
            rate: None,
            time_limit: std::time::Duration::from_secs(1),
            reply_timeout: std::time::Duration::from_secs(1),
        }
    }

    #[test]
    fn every_size_is_exact_and_no_line_is_broken() {
        for size in (400..700).chain([1_024, 4_096, 65_536, 1 << 20]) {
            let mut out = Vec::new();
            let template = Template::new(&load(size, Spread::RoundRobin));
            template.append_message(123, 456, &mut out);
            assert_eq!(out.len(), size + 3);
            assert!(out.ends_with(b"\r\n.\r\n"));
            let text = std::str::from_utf8(&out[..size]).unwrap();
            assert!(!text.contains("\n."), "a line begins with a dot");
            assert_eq!(text.matches('\n').count(), text.matches("\r\n").count());
            assert_eq!(MarkerFinder::new().find(&out), Some(Marker { run: 0xabcd, number: 123, sent_ns: 456 }));
            assert!(text.contains("To: Reader <u@d00023.perf.test>") && text.contains("<0000abcd.0000000123@gen"));
        }
    }

    #[test]
    fn both_spreads_reach_every_domain() {
        for spread in [Spread::RoundRobin, Spread::Random] {
            let template = Template::new(&load(4_096, spread));
            let mut counts = [0_u32; 100];
            (0..20_000).for_each(|number| counts[template.domain(number) as usize] += 1);
            assert!(counts.iter().all(|count| (130..=270).contains(count)), "{spread:?}: {counts:?}");
        }
    }
}
