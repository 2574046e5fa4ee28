//! Replies of an SMTP server, RFC 5321 §4.2: found in the octets as they come, parsed in place.
//!
//! Tolerated, because peers do it and nothing hangs on it: lines that end in a bare LF, a code with nothing after
//! it, any second and third digit, lines up to [`REPLY_LINE_BYTES_MAX`]. Refused: lines without a code from 200 to
//! 599, lines of one reply with different codes, anything longer than the bounds.
//!
//! This file never decides what a reply means and never allocates before a [`Response`] is asked for, except to
//! hold a reply that arrives in pieces.

use crate::limits::{REPLY_BYTES_MAX, REPLY_EXCERPT_BYTES_MAX, REPLY_LINE_BYTES_MAX, REPLY_TEXT_BYTES_MAX};
use crate::outcome::{EnhancedCode, Response, Verb};
use std::fmt;

/// What came is not an SMTP reply. The connection cannot be used any further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyError {
    /// A line does not begin with a reply code, or not with that of the line before it.
    Malformed,
    /// A line is longer than [`REPLY_LINE_BYTES_MAX`].
    LineTooLong,
    /// A reply is longer than [`REPLY_BYTES_MAX`].
    TooLong,
}

impl fmt::Display for ReplyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed => "a line that is no SMTP reply",
            Self::LineTooLong => "a reply line that is too long",
            Self::TooLong => "a reply that is too long",
        })
    }
}

impl std::error::Error for ReplyError {}

/// One complete reply, borrowed from where it arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply<'a> {
    /// Three-digit code, 200 to 599.
    pub code: u16,
    raw: &'a [u8],
}

impl<'a> Reply<'a> {
    /// The text of each line, without code, separator and line end.
    pub fn lines(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        self.raw.split_inclusive(|&octet| octet == b'\n').map(|line| without_line_end(line).get(4..).unwrap_or(&[]))
    }

    /// The enhanced code at the beginning of the text, RFC 2034, when its class agrees with the reply code.
    #[must_use]
    pub fn enhanced(&self) -> Option<EnhancedCode> {
        let (code, _) = split_enhanced(self.lines().next()?)?;
        (u16::from(code.class) == self.code / 100).then_some(code)
    }

    /// The reply as records keep it: text without codes, lines joined by `\n`, valid UTF-8, cut at
    /// [`REPLY_TEXT_BYTES_MAX`]. One allocation for the usual one-line reply.
    #[must_use]
    pub fn response(&self, verb: Verb) -> Response {
        let enhanced = self.enhanced();
        let strip = |line: &'a [u8]| match split_enhanced(line) {
            Some((_, rest)) if enhanced.is_some() => rest,
            _ => line,
        };
        let mut lines = self.lines().map(strip);
        let first = lines.next().unwrap_or(&[]);
        // A line that is not UTF-8 may grow beyond the bound, too.
        let text = match (lines.next(), std::str::from_utf8(first)) {
            (None, Ok(first)) => Box::from(first),
            (second, _) => joined(self.raw.len(), first, second.into_iter().chain(lines)),
        };
        Response { code: self.code, enhanced, text, verb }
    }
}

fn joined<'a>(capacity: usize, first: &[u8], rest: impl Iterator<Item = &'a [u8]>) -> Box<str> {
    let mut text = String::with_capacity(capacity.min(REPLY_TEXT_BYTES_MAX));
    text.push_str(&String::from_utf8_lossy(first));
    for line in rest {
        if text.len() >= REPLY_TEXT_BYTES_MAX {
            break;
        }
        text.push('\n');
        text.push_str(&String::from_utf8_lossy(line));
    }
    let mut end = text.len().min(REPLY_TEXT_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text.into_boxed_str()
}

/// Splits a leading `class.subject.detail` and the blank after it from a line's text, RFC 3463 §2.
fn split_enhanced(text: &[u8]) -> Option<(EnhancedCode, &[u8])> {
    let class = match text {
        [digit @ (b'2' | b'4' | b'5'), b'.', ..] => digit - b'0',
        _ => return None,
    };
    let (subject, rest) = split_number(&text[2..])?;
    let (detail, rest) = split_number(rest.strip_prefix(b".")?)?;
    let rest = match rest {
        [] => rest,
        [b' ' | b'\t', after @ ..] => after,
        _ => return None,
    };
    Some((EnhancedCode { class, subject, detail }, rest))
}

fn split_number(text: &[u8]) -> Option<(u16, &[u8])> {
    let digits = text.iter().take(4).take_while(|octet| octet.is_ascii_digit()).count();
    if !(1..=3).contains(&digits) {
        return None;
    }
    let (number, rest) = text.split_at(digits);
    Some((number.iter().fold(0, |sum, digit| sum * 10 + u16::from(digit - b'0')), rest))
}

fn without_line_end(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// Cuts octets into replies. Lives as long as its connection; owned by the session of one core.
#[derive(Debug, Default)]
pub struct ReplyReader {
    /// The beginning of a reply whose end has not come yet, or a complete one that was just given out.
    held: Vec<u8>,
    /// Where in `held` its last, unfinished line begins.
    line: usize,
    /// Code of the reply in `held`, once a line of it is complete.
    code: Option<u16>,
    /// `held` is a reply that was given out.
    given: bool,
}

impl ReplyReader {
    /// Takes the next complete reply off `input`. `None`: all of `input` was taken and no reply is complete.
    /// After an error the reader must not be used again.
    pub fn next<'r, 'i: 'r>(&'r mut self, input: &mut &'i [u8]) -> Option<Result<Reply<'r>, ReplyError>> {
        if self.given {
            self.forget();
        }
        if self.held.is_empty() {
            // What is wrong is found again below, which keeps the line for `offending_line`.
            if let Ok(Some((code, length))) = scan(input) {
                let (raw, rest) = input.split_at(length);
                *input = rest;
                return Some(Ok(Reply { code, raw }));
            }
        }
        match self.gather(input) {
            Ok(None) => None,
            Ok(Some(code)) => {
                self.given = true;
                Some(Ok(Reply { code, raw: &self.held }))
            }
            Err(error) => Some(Err(error)),
        }
    }

    /// Drops what is held, because the octets to come belong to another conversation (after STARTTLS).
    pub fn forget(&mut self) {
        self.held.clear();
        self.line = 0;
        self.code = None;
        self.given = false;
    }

    /// The beginning of the line that made the error, for words about it.
    #[must_use]
    pub fn offending_line(&self) -> String {
        let line = without_line_end(&self.held[self.line..]);
        String::from_utf8_lossy(&line[..line.len().min(REPLY_EXCERPT_BYTES_MAX)]).into_owned()
    }

    /// Copies `input` line by line behind what is held, to the end of the reply or of `input`.
    fn gather(&mut self, input: &mut &[u8]) -> Result<Option<u16>, ReplyError> {
        while !input.is_empty() {
            let end = memchr::memchr(b'\n', input).map_or(input.len(), |at| at + 1);
            let (part, rest) = input.split_at(end);
            let error = if self.held.len() - self.line + part.len() > REPLY_LINE_BYTES_MAX {
                Some(ReplyError::LineTooLong)
            } else if self.held.len() + part.len() > REPLY_BYTES_MAX {
                Some(ReplyError::TooLong)
            } else {
                None
            };
            if let Some(error) = error {
                // As much as is quoted, however the line came.
                self.held.extend_from_slice(&part[..part.len().min(REPLY_EXCERPT_BYTES_MAX)]);
                return Err(error);
            }
            self.held.extend_from_slice(part);
            *input = rest;
            if self.held.last() == Some(&b'\n') {
                let (code, last) = line_code(&self.held[self.line..], self.code)?;
                self.line = self.held.len();
                self.code = Some(code);
                if last {
                    return Ok(Some(code));
                }
            }
        }
        Ok(None)
    }
}

/// Finds a complete reply at the beginning of `input`: its code and its length.
fn scan(input: &[u8]) -> Result<Option<(u16, usize)>, ReplyError> {
    let mut at = 0;
    let mut code = None;
    while let Some(end) = memchr::memchr(b'\n', &input[at..]) {
        let line = &input[at..=at + end];
        if line.len() > REPLY_LINE_BYTES_MAX {
            return Err(ReplyError::LineTooLong);
        }
        at += line.len();
        if at > REPLY_BYTES_MAX {
            return Err(ReplyError::TooLong);
        }
        let (found, last) = line_code(line, code)?;
        if last {
            return Ok(Some((found, at)));
        }
        code = Some(found);
    }
    Ok(None)
}

/// The code of a line, which must be `before` when there was a line before it, and whether it is the last line.
fn line_code(line: &[u8], before: Option<u16>) -> Result<(u16, bool), ReplyError> {
    let line = without_line_end(line);
    let (code, last) = match line {
        [a @ b'2'..=b'5', b @ b'0'..=b'9', c @ b'0'..=b'9', rest @ ..] => {
            let last = match rest {
                [] | [b' ', ..] => true,
                [b'-', ..] => false,
                _ => return Err(ReplyError::Malformed),
            };
            (u16::from(a - b'0') * 100 + u16::from(b - b'0') * 10 + u16::from(c - b'0'), last)
        }
        _ => return Err(ReplyError::Malformed),
    };
    match before {
        Some(before) if before != code => Err(ReplyError::Malformed),
        _ => Ok((code, last)),
    }
}

#[cfg(test)]
mod tests {
    use super::ReplyReader;
    use crate::limits::{REPLY_BYTES_MAX, REPLY_LINE_BYTES_MAX, REPLY_TEXT_BYTES_MAX};

    /// A reply that is there as a whole, as nearly all are, is not copied, up to the longest that is taken.
    #[test]
    fn a_whole_reply_is_read_where_it_stands() {
        let line = |octets: usize, mark: &str| format!("250{mark}{}\r\n", "x".repeat(octets - 6));
        let longest = line(REPLY_LINE_BYTES_MAX, " ");
        let many = line(1024, "-").repeat(REPLY_BYTES_MAX / 1024 - 1) + &line(1024, " ");
        assert_eq!(many.len(), REPLY_BYTES_MAX);
        for reply in ["250 ok\r\n", "250-a\r\n250-b\r\n250 c\r\n", &longest, &many] {
            let all = format!("{reply}354 go\r\n");
            let mut reader = ReplyReader::default();
            let mut input = all.as_bytes();
            let first = reader.next(&mut input).expect("it is whole").expect("it is one");
            assert_eq!((first.code, first.raw.len()), (250, reply.len()));
            assert_eq!(input, b"354 go\r\n");
            assert!(reader.held.capacity() == 0, "nothing was copied");
            assert_eq!(reader.next(&mut input).expect("it is whole").expect("it is one").code, 354);
        }
    }

    /// A reply with more text than is kept is cut between characters.
    #[test]
    fn a_long_text_is_cut_where_a_character_ends() {
        for before in 0..4 {
            let text = "x".repeat(before) + &"\u{20ac}".repeat(500);
            let lines = format!("250-{text}\r\n").repeat(3) + &format!("250 {text}\r\n");
            let mut reader = ReplyReader::default();
            let reply = reader.next(&mut lines.as_bytes()).expect("it is whole").expect("it is one");
            let kept = reply.response(crate::outcome::Verb::Ehlo).text;
            assert!((REPLY_TEXT_BYTES_MAX - 2..=REPLY_TEXT_BYTES_MAX).contains(&kept.len()), "{}", kept.len());
            assert!(format!("{text}\n{text}\n{text}\n{text}").starts_with(&*kept));
        }
    }

    /// Each octet that is no UTF-8 becomes three.
    #[test]
    fn one_line_that_is_not_utf8_is_cut_too() {
        let line = [b"554 ", &b"\xff".repeat(REPLY_LINE_BYTES_MAX - 6)[..], b"\r\n"].concat();
        let mut reader = ReplyReader::default();
        let reply = reader.next(&mut &line[..]).expect("it is whole").expect("it is one");
        let kept = reply.response(crate::outcome::Verb::EndOfData).text;
        assert_eq!(*kept, *"\u{fffd}".repeat(REPLY_TEXT_BYTES_MAX / 3));
    }
}
