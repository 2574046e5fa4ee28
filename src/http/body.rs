//! Takes a request's body out of the octets that carry it: a state machine over whatever pieces they come in.
//! Trailers are checked and thrown away: nothing here uses them, and a field that arrives after the decision
//! was made must not change it (RFC 9110 §6.5.1).

use super::head::Framing;
use super::limits::{CHUNK_EXTENSION_BYTES_MAX, CHUNK_LINE_BYTES_MAX, TRAILER_BYTES_MAX};
use super::parse::bad;
use super::refusal::Refusal;

/// Hexadecimal digits of a chunk's size.
const SIZE_DIGITS_MAX: usize = 15;

/// Where in a body we are.
#[derive(Debug)]
pub struct BodyDecoder {
    state: State,
    /// Octets of the line that we are in.
    line: usize,
    /// Octets of all chunk extensions so far.
    extensions: usize,
    /// Octets of trailers so far.
    trailers: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// So many octets, then the end.
    Length(u64),
    /// In a chunk's size: the value, and how many digits were there.
    Size(u64, usize),
    /// In what follows a size up to the line's end. Whether the last octet was a CR.
    Extension(u64, bool),
    /// In a chunk.
    Data(u64),
    /// Before the CR, and before the LF, behind a chunk.
    DataCr,
    DataLf,
    /// At the start of a line of the trailers.
    Trailer,
    /// In the name of a trailer field, and in its value.
    TrailerName,
    TrailerValue,
    /// Behind the CR of a trailer, and of the last line.
    TrailerLf,
    LastLf,
    Done,
}

impl BodyDecoder {
    /// At the beginning of a body.
    #[must_use]
    pub fn new(framing: Framing) -> Self {
        let state = match framing {
            Framing::None => State::Done,
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::Size(0, 0),
        };
        Self { state, line: 0, extensions: 0, trailers: 0 }
    }

    /// Whether the body is complete.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Octets still to come, when that is known.
    #[must_use]
    pub fn remaining(&self) -> Option<u64> {
        match self.state {
            State::Length(left) => Some(left),
            State::Done => Some(0),
            _ => None,
        }
    }

    /// Takes octets of the connection and appends what they hold of the body to `out`, at most `room` octets.
    /// How many were taken: all of them, unless `out` is full or the body ends before.
    ///
    /// # Errors
    /// 400 or 431: the connection must end.
    pub fn decode(&mut self, octets: &[u8], out: &mut Vec<u8>, room: usize) -> Result<usize, Refusal> {
        let (mut at, mut room) = (0, room);
        while at < octets.len() && self.state != State::Done {
            match self.state {
                State::Length(left) | State::Data(left) => {
                    let most = usize::try_from(left).unwrap_or(usize::MAX);
                    let count = (octets.len() - at).min(room).min(most);
                    if count == 0 {
                        break;
                    }
                    out.extend_from_slice(&octets[at..at + count]);
                    at += count;
                    room -= count;
                    let left = left - count as u64;
                    self.state = match self.state {
                        State::Length(_) if left == 0 => State::Done,
                        State::Length(_) => State::Length(left),
                        _ if left == 0 => State::DataCr,
                        _ => State::Data(left),
                    };
                }
                _ => {
                    self.state = self.step(octets[at])?;
                    at += 1;
                }
            }
        }
        Ok(at)
    }

    /// One octet of what is not the body itself.
    fn step(&mut self, octet: u8) -> Result<State, Refusal> {
        let next = match (self.state, octet) {
            (State::Size(size, digits), _) if octet.is_ascii_hexdigit() => {
                if digits == SIZE_DIGITS_MAX {
                    return Err(bad("a chunk's size has too many digits"));
                }
                let digit = char::from(octet).to_digit(16).expect("it is a hexadecimal digit");
                State::Size(size << 4 | u64::from(digit), digits + 1)
            }
            (State::Size(_, 0), _) => return Err(bad("a chunk has no size")),
            (State::Size(size, _), b'\r') => State::Extension(size, true),
            (State::Size(size, _), b';') => State::Extension(size, false),
            (State::Size(..), _) => return Err(bad("a chunk's size is no hexadecimal number")),
            (State::Extension(0, true), b'\n') => State::Trailer,
            (State::Extension(size, true), b'\n') => State::Data(size),
            (State::Extension(size, false), b'\r') => State::Extension(size, true),
            (State::Extension(size, false), _) if is_text(octet) => State::Extension(size, false),
            (State::Extension(..), _) => return Err(bad("a chunk's size line is malformed")),
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => State::Size(0, 0),
            (State::DataCr | State::DataLf, _) => return Err(bad("a chunk is longer than its size")),
            (State::Trailer, b'\r') => State::LastLf,
            (State::Trailer, _) if is_token(octet) => State::TrailerName,
            (State::TrailerName, b':') => State::TrailerValue,
            (State::TrailerName, _) if is_token(octet) => State::TrailerName,
            (State::TrailerValue, b'\r') => State::TrailerLf,
            (State::TrailerValue, _) if is_text(octet) => State::TrailerValue,
            (State::TrailerLf, b'\n') => State::Trailer,
            (State::LastLf, b'\n') => State::Done,
            _ => return Err(bad("the trailer section is malformed")),
        };
        self.count(next)?;
        Ok(next)
    }

    fn count(&mut self, next: State) -> Result<(), Refusal> {
        match next {
            State::Size(_, 0) | State::Data(_) => self.line = 0,
            State::Size(..) | State::Extension(_, true) => self.line += 1,
            State::Extension(_, false) => {
                self.line += 1;
                self.extensions += 1;
            }
            State::Trailer | State::TrailerName | State::TrailerValue | State::TrailerLf => self.trailers += 1,
            _ => {}
        }
        if self.line > CHUNK_LINE_BYTES_MAX {
            return Err(bad(format!("a chunk's size line is longer than {CHUNK_LINE_BYTES_MAX} octets")));
        }
        if self.extensions > CHUNK_EXTENSION_BYTES_MAX {
            return Err(bad(format!("the chunk extensions are longer than {CHUNK_EXTENSION_BYTES_MAX} octets")));
        }
        if self.trailers > TRAILER_BYTES_MAX {
            return Err(Refusal::closing(431, format!("the trailers are longer than {TRAILER_BYTES_MAX} octets")));
        }
        Ok(())
    }
}

/// What may stand in a field's name (RFC 9110 §5.6.2).
fn is_token(octet: u8) -> bool {
    octet.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&octet)
}

/// What may stand in a field's value: anything but controls; the tab is none.
fn is_text(octet: u8) -> bool {
    octet == b'\t' || (octet >= b' ' && octet != 0x7f)
}
