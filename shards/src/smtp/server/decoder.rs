//! Message text off the wire into a body: dots unstuffed, line ends checked, control headers removed.
//!
//! The end of data is CRLF.CRLF and nothing else; a CR or LF that stands alone gets the whole message refused,
//! after reading to that one true end, so that no two readers can disagree on where a message ends
//! (RFC 5321 §2.3.8, §4.1.1.4). Text that comes by BDAT is held to the same line ends.
//! Works on runs of octets, never on single ones: this is the hottest loop of injection.

use super::control::Marks;
use super::header::HeaderScan;
use super::{ServerConfig, StoreRefusal};
use crate::limits::{BODY_RESERVE_BYTES, BODY_RESERVE_BYTES_MAX, TEXT_LINE_BYTES_MAX};
use crate::message::ContentFlags;
use std::sync::Arc;

/// Why a content is not taken. The first reason found stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ContentRefusal {
    /// It is long, and memory has become short meanwhile.
    Pressure(Box<StoreRefusal>),
    /// More octets than SIZE allows.
    TooLarge,
    /// CR or LF alone.
    BareLineEnd,
    /// An octet of value zero.
    Nul,
    /// A line over [`TEXT_LINE_BYTES_MAX`].
    LongLine,
    /// A header block over `HEADER_BYTES_MAX`.
    LargeHeader,
    /// More Received headers than any route has hops.
    Loop,
    /// A control header that is wrong, or that is not carried out: its name, and why.
    Control(Box<str>, &'static str),
}

/// A content that was taken.
#[derive(Debug)]
pub(super) struct Content {
    pub(super) body: Vec<u8>,
    /// Where in it the header ends.
    pub(super) header_end: usize,
    pub(super) eight_bit: bool,
    pub(super) dot_lines: bool,
    pub(super) marks: Marks,
}

/// Where in a line the next octet stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    /// First of a line.
    Start,
    /// Behind a dot that began a line and was taken off.
    Dot,
    /// Behind such a dot and CR.
    DotCr,
    /// Within.
    Inside,
    /// Behind CR.
    Cr,
}

/// Takes one message's text in any pieces.
#[derive(Debug)]
pub(super) struct Decoder {
    body: Vec<u8>,
    /// Octets of `body` before the message: our Received header.
    prefix: usize,
    /// Octets of `body` up to the end of the header, once that has come.
    header_end: usize,
    line: Line,
    line_bytes: usize,
    /// Octets of text so far, kept or not, without stuffing.
    octets: u64,
    max_octets: u64,
    flags: ContentFlags,
    scan: HeaderScan,
    refusal: Option<ContentRefusal>,
}

impl Decoder {
    /// `body` holds our own header and has room for what is expected.
    pub(super) fn new(body: Vec<u8>, config: Arc<ServerConfig>, trusted: bool) -> Self {
        let max_octets = u64::from(config.max_message_bytes);
        Self {
            prefix: body.len(),
            header_end: body.len(),
            line: Line::Start,
            line_bytes: 0,
            octets: 0,
            max_octets,
            flags: ContentFlags::default(),
            scan: HeaderScan::new(config, trusted, body.len()),
            refusal: None,
            body,
        }
    }

    /// Octets of text that came, those that were thrown away included.
    pub(super) fn octets(&self) -> u64 {
        self.octets
    }

    /// Octets of memory that the body occupies.
    pub(super) fn memory(&self) -> usize {
        self.body.capacity()
    }

    /// Why the content will not be taken, as soon as it is known.
    pub(super) fn refusal(&self) -> Option<&ContentRefusal> {
        self.refusal.as_ref()
    }

    /// Refuses the content; what still comes is read and thrown away.
    pub(super) fn refuse(&mut self, reason: ContentRefusal) {
        if self.refusal.is_none() {
            self.refusal = Some(reason);
            self.body = Vec::new();
            self.scan.stop();
        }
    }

    /// Takes octets of a DATA text up to the end of data. Says how many, and whether the end was among them.
    pub(super) fn data(&mut self, input: &[u8]) -> (usize, bool) {
        self.run(input, true)
    }

    /// Takes all octets of (a piece of) a BDAT chunk.
    pub(super) fn chunk(&mut self, input: &[u8]) {
        let (taken, ended) = self.run(input, false);
        debug_assert!(taken == input.len() && !ended, "a chunk has no end-of-data mark");
    }

    /// The message is complete.
    pub(super) fn finish(mut self) -> Result<Content, ContentRefusal> {
        if self.line == Line::Cr {
            self.refuse(ContentRefusal::BareLineEnd);
        }
        if self.scan.active() {
            if let Err(reason) = self.scan.end(&mut self.body) {
                self.refuse(reason);
            }
            self.header_ended();
        }
        match self.refusal {
            Some(reason) => Err(reason),
            None => Ok(Content {
                eight_bit: self.flags.eight_bit,
                dot_lines: self.flags.dot_lines,
                header_end: self.header_end,
                body: self.body,
                marks: self.scan.into_marks(),
            }),
        }
    }

    fn run(&mut self, input: &[u8], stuffed: bool) -> (usize, bool) {
        // `input[kept..at]` is looked at, wanted, and not yet copied.
        let (mut kept, mut at) = (0, 0);
        let mut plain = !self.scan.active();
        while let Some(&octet) = input.get(at) {
            if plain && self.line == Line::Start && input.len() - at >= PLAIN_BYTES_MIN {
                let lines = plain_lines(&input[at..]);
                // Where there is something wrong, each line is looked at, and not all of them anew for each.
                plain = lines.is_some();
                at += lines.unwrap_or(0);
                if lines.is_some_and(|length| length > 0) {
                    continue;
                }
            }
            match self.line {
                Line::Inside => {
                    let (end, wrong) = self.within_line(input, at);
                    if let Some(reason) = wrong {
                        kept = self.refuse_at(reason, input, kept, end - 1);
                    }
                    at = end;
                }
                Line::Cr if octet == b'\n' => {
                    at += 1;
                    (self.line, self.line_bytes) = (Line::Start, 0);
                }
                Line::Cr => {
                    kept = self.refuse_at(ContentRefusal::BareLineEnd, input, kept, at);
                    self.line = Line::Inside;
                }
                Line::Start if stuffed && octet == b'.' => {
                    self.keep(&input[kept..at]);
                    at += 1;
                    kept = at;
                    self.line = Line::Dot;
                }
                Line::Dot if octet == b'\r' => {
                    at += 1;
                    kept = at;
                    self.line = Line::DotCr;
                }
                Line::Start | Line::Dot => {
                    if self.scan.active() {
                        self.keep(&input[kept..at]);
                        kept = at;
                        self.header_line(octet);
                        plain = !self.scan.active();
                    }
                    self.flags.dot_lines |= octet == b'.';
                    self.line = Line::Inside;
                }
                Line::DotCr if octet == b'\n' => return (at + 1, true),
                Line::DotCr => {
                    self.refuse(ContentRefusal::BareLineEnd);
                    self.line = Line::Inside;
                }
            }
        }
        self.keep(&input[kept..at]);
        (at, false)
    }

    /// Refuses for what was found at `at`, once what stands before it, from `kept` on, is counted: which of two reasons
    /// comes first must not depend on how the octets arrived. Gives the new `kept`.
    fn refuse_at(&mut self, reason: ContentRefusal, input: &[u8], kept: usize, at: usize) -> usize {
        self.keep(&input[kept..at]);
        self.refuse(reason);
        at
    }

    /// Goes on from `at` to behind the next octet that matters, or to the end; what is wrong with that octet, if so.
    fn within_line(&mut self, input: &[u8], at: usize) -> (usize, Option<ContentRefusal>) {
        let found = memchr::memchr3(b'\r', b'\n', 0, &input[at..]);
        let length = found.unwrap_or(input.len() - at);
        self.line_bytes += length;
        if self.line_bytes > TEXT_LINE_BYTES_MAX {
            self.refuse(ContentRefusal::LongLine);
        }
        if found.is_none() {
            return (input.len(), None);
        }
        let wrong = match input[at + length] {
            b'\r' => {
                self.line = Line::Cr;
                None
            }
            b'\n' => Some(ContentRefusal::BareLineEnd),
            _ => Some(ContentRefusal::Nul),
        };
        (at + length + 1, wrong)
    }

    fn keep(&mut self, run: &[u8]) {
        self.octets += run.len() as u64;
        if self.octets > self.max_octets {
            self.refuse(ContentRefusal::TooLarge);
        }
        if self.refusal.is_some() {
            return;
        }
        // Header fields that are removed must not count; `header_ended` looks at those that stay.
        if !self.scan.active() && !self.flags.eight_bit {
            self.flags.eight_bit = !run.is_ascii();
        }
        self.make_room(run.len());
        self.body.extend_from_slice(run);
    }

    /// A body whose size was not announced grows in few steps, since each of them copies it; in the end at most half of
    /// what it got may stand empty, or it would be copied once more.
    fn make_room(&mut self, more: usize) {
        let (has, needs) = (self.body.capacity(), self.body.len() + more);
        if needs > has && has < BODY_RESERVE_BYTES_MAX {
            let factor = if has < 4 * BODY_RESERVE_BYTES { 4 } else { 2 };
            let wanted = has.saturating_mul(factor).min(BODY_RESERVE_BYTES_MAX).max(needs);
            self.body.reserve_exact(wanted - self.body.len());
        }
    }

    /// A line of the header block begins with `first`; those before it are in the body.
    fn header_line(&mut self, first: u8) {
        if let Err(reason) = self.scan.line_begins(&mut self.body, first) {
            self.refuse(reason);
        }
        if !self.scan.active() {
            self.header_ended();
        }
    }

    fn header_ended(&mut self) {
        self.header_end = self.body.len();
        self.flags.eight_bit |= self.body.get(self.prefix..).is_some_and(|header| !header.is_ascii());
    }
}

/// Fewer octets are looked at line by line at once.
const PLAIN_BYTES_MIN: usize = 256;

/// How many octets at the beginning of `input` are whole lines that are taken as they are: each ends with CRLF, none
/// begins with a dot. None when there is a CR or a NUL among them that must not be. `input` begins with a line.
fn plain_lines(input: &[u8]) -> Option<usize> {
    let (mut end, mut lines) = (0, 0);
    for at in memchr::memchr_iter(b'\n', input) {
        let line = &input[end..at];
        if line.first() == Some(&b'.') || line.last() != Some(&b'\r') || line.len() > TEXT_LINE_BYTES_MAX {
            break;
        }
        end = at + 1;
        lines += 1;
    }
    let plain = &input[..end];
    // As many CRs as lines: each of them ends one.
    let clean = memchr::memchr_iter(b'\r', plain).count() == lines && memchr::memchr(0, plain).is_none();
    clean.then_some(end)
}

#[cfg(test)]
mod tests {
    use super::{Decoder, PLAIN_BYTES_MIN, plain_lines};
    use crate::limits::BODY_RESERVE_BYTES_MAX;
    use crate::smtp::server::ServerConfig;
    use std::sync::Arc;

    fn decoder(room: usize) -> Decoder {
        let config = ServerConfig {
            hostname: "mx.test".into(),
            max_message_bytes: 16 << 20,
            max_recipients: 1,
            tls_available: false,
            auth_available: false,
            campaign_header: "X-Campaign".into(),
            tenant_header: "X-Tenant".into(),
        };
        Decoder::new(Vec::with_capacity(room), Arc::new(config), false)
    }

    /// The rooms that a body has had, when text comes in pieces of `piece` octets.
    fn rooms(room: usize, piece: usize, octets: usize) -> Vec<usize> {
        let mut decoder = decoder(room);
        decoder.chunk(b"\r\n");
        let mut rooms = vec![decoder.memory()];
        for _ in 0..octets / piece {
            decoder.chunk(&[&vec![b'x'; piece - 2][..], b"\r\n"].concat());
            if rooms.last() != Some(&decoder.memory()) {
                rooms.push(decoder.memory());
            }
        }
        rooms
    }

    /// Each step copies all that is there, so there are few; none of a body that came with its size. From the usual size on
    /// each at most doubles, so that half of the last is used.
    #[test]
    fn a_body_gets_room_in_few_steps() {
        let all = BODY_RESERVE_BYTES_MAX;
        assert_eq!(
            rooms(1000, 500, all - 1000),
            [1000, 4000, 16_000, 64_000, 128_000, 256_000, 512_000, 1_024_000, all]
        );
        assert_eq!(rooms(all / 2, 1000, all - 2000), [all / 2, all]);
        assert_eq!(rooms(4002, 1000, 4000), [4002], "just enough");
        assert_eq!(rooms(100, 3000, 3000), [100, 3002], "one piece that is longer than four times the room");
        let beyond = rooms(all, 1 << 16, 3 * all);
        assert!(beyond.len() <= 3 && beyond.iter().all(|room| *room >= all), "{beyond:?}");
    }

    #[test]
    fn whole_lines_without_dots_are_taken_as_they_are() {
        let many = "0123456789\r\n".repeat(PLAIN_BYTES_MIN);
        let table = [
            ("a\r\nb\r\n", Some(6)),
            ("a\r\nb", Some(3)),
            ("\r\n\r\n", Some(4)),
            ("a\r\n.b\r\nc\r\n", Some(3)),
            ("a\r\n.\r\n", Some(3)),
            (".\r\n", Some(0)),
            ("a\r\nb\n", Some(3)),
            ("a\n", Some(0)),
            ("no end", Some(0)),
            ("a\rb\r\n", None),
            ("a\0b\r\n", None),
            ("a\r\r\n", None),
            ("a\r\nb\rc\r\nd\r\n", None),
            ("a\r\nb.\r\n", Some(7)),
            (&*many, Some(many.len())),
        ];
        for (input, length) in table {
            assert_eq!(plain_lines(input.as_bytes()), length, "{input:?}");
        }
    }
}
