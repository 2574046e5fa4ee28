//! Reads a segment's entries one by one, in bounded memory and without trust: whatever the octets say, an entry is
//! valid, or what is wrong has a name. Never reads further than the segment says it goes.

use super::segment::{Head, KEPT};
use super::{Broken, Grounds, TEXT_BYTES_MAX, VALUE_BYTES_MAX, Word};
use crate::rules::entry::Verdict;
use flate2::bufread::DeflateDecoder;
use mailrace_shards::outcome::EnhancedCode;
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::sync::Arc;

/// Octets inflated at a time.
const INFLATED_BYTES: usize = 4096;

/// The entries of one segment. Stands on one of them, or before the first or behind the last.
pub struct Cursor<R> {
    body: BufReader<DeflateDecoder<R>>,
    /// Entries and octets that are still to come.
    puts: u32,
    removals: u32,
    raw: u64,
    value: Vec<u8>,
    word: Word,
    kept: Vec<Arc<Grounds>>,
    /// Which entry it stands on, counted from one.
    number: u32,
}

impl<R: BufRead> Cursor<R> {
    pub(super) fn new(head: &Head, body: R) -> Self {
        Self {
            body: BufReader::with_capacity(INFLATED_BYTES, DeflateDecoder::new(body)),
            puts: head.puts,
            removals: head.removals,
            raw: head.raw.into(),
            value: Vec::new(),
            word: Word::Removed,
            kept: Vec::new(),
            number: 0,
        }
    }

    /// Goes to the next entry; false behind the last.
    ///
    /// # Errors
    /// What is wrong with it. The segment as a whole is worth nothing then.
    pub fn advance(&mut self) -> Result<bool, Broken> {
        if self.puts == 0 && self.removals == 0 {
            return self.end().map(|()| false);
        }
        let mut body = (&mut self.body).take(self.raw);
        let shared = body.number()? as usize;
        let rest = body.length("value", VALUE_BYTES_MAX)?;
        let (last, is_first) = (self.value.len(), self.number == 0);
        if shared > last || shared + rest > VALUE_BYTES_MAX {
            return Err(Broken::TooLong("value"));
        }
        let mut new = [0; VALUE_BYTES_MAX];
        let new = &mut new[..rest];
        body.octets(new)?;
        if !is_first && self.value[shared..] >= *new {
            return Err(Broken::Order);
        }
        self.value.truncate(shared);
        self.value.extend_from_slice(new);
        std::str::from_utf8(&self.value).map_err(|_| Broken::Text)?;
        self.word = match body.number()? {
            0 => Word::Removed,
            1 => {
                let grounds = Arc::new(grounds(&mut body)?);
                if self.kept.len() < KEPT {
                    self.kept.push(grounds.clone());
                }
                Word::Put(grounds)
            }
            number => Word::Put(self.kept.get(number as usize - 2).ok_or(Broken::Count)?.clone()),
        };
        self.raw = body.limit();
        let left = if self.word == Word::Removed { &mut self.removals } else { &mut self.puts };
        *left = left.checked_sub(1).ok_or(Broken::Count)?;
        self.number += 1;
        Ok(true)
    }

    /// Nothing may follow the last entry, neither within the body nor behind it.
    fn end(&mut self) -> Result<(), Broken> {
        if self.raw != 0 {
            return Err(Broken::Count);
        }
        let more = self.body.fill_buf().map_err(|error| inflating(&error))?;
        let packed = |body: &mut BufReader<DeflateDecoder<R>>| body.get_mut().get_mut().fill_buf().map(<[u8]>::len);
        if !more.is_empty() || packed(&mut self.body).map_err(|error| inflating(&error))? > 0 {
            return Err(Broken::Trailing);
        }
        Ok(())
    }

    /// The value of the entry.
    #[must_use]
    pub fn value(&self) -> &str {
        std::str::from_utf8(&self.value).expect("asked when the entry was read")
    }

    /// What it says.
    #[must_use]
    pub fn word(&self) -> &Word {
        &self.word
    }

    /// Which one it is of the segment, from zero on. None before the first.
    #[must_use]
    pub fn index(&self) -> Option<u32> {
        self.number.checked_sub(1)
    }
}

fn grounds(body: &mut impl Read) -> Result<Grounds, Broken> {
    let code = u16::try_from(body.number()?).ok().filter(|code| (200..600).contains(code)).ok_or(Broken::Code)?;
    let extended = match body.number()? {
        0 => None,
        class @ (2 | 4 | 5) => {
            let mut detail = || u16::try_from(body.number()?).ok().filter(|n| *n < 1000).ok_or(Broken::Code);
            Some(EnhancedCode { class: class as u8, subject: detail()?, detail: detail()? })
        }
        _ => return Err(Broken::Code),
    };
    let description = match body.number()? {
        0 => None,
        1 => Some(body.text()?),
        _ => return Err(Broken::Count),
    };
    Ok(Grounds { verdict: Verdict { code, extended, description }, token: body.text()? })
}

/// What segments are made of.
pub(super) trait Take {
    /// As many octets as fit.
    fn octets(&mut self, into: &mut [u8]) -> Result<(), Broken>;

    fn long_number(&mut self) -> Result<u64, Broken> {
        let mut number = 0_u64;
        for shift in (0..64).step_by(7) {
            let mut octet = [0];
            self.octets(&mut octet)?;
            let part = u64::from(octet[0] & 0x7f);
            number |= part << shift;
            if number >> shift != part {
                break;
            }
            if octet[0] < 0x80 {
                return Ok(number);
            }
        }
        Err(Broken::TooLong("number"))
    }

    fn number(&mut self) -> Result<u32, Broken> {
        u32::try_from(self.long_number()?).map_err(|_| Broken::TooLong("number"))
    }

    fn length(&mut self, what: &'static str, most: usize) -> Result<usize, Broken> {
        Some(self.number()? as usize).filter(|length| *length <= most).ok_or(Broken::TooLong(what))
    }

    fn text(&mut self) -> Result<Arc<str>, Broken> {
        let mut text = vec![0; self.length("text", TEXT_BYTES_MAX)?];
        self.octets(&mut text)?;
        String::from_utf8(text).map(Arc::from).map_err(|_| Broken::Text)
    }
}

impl<R: Read> Take for R {
    fn octets(&mut self, into: &mut [u8]) -> Result<(), Broken> {
        self.read_exact(into).map_err(|error| inflating(&error))
    }
}

fn inflating(error: &std::io::Error) -> Broken {
    if error.kind() == ErrorKind::UnexpectedEof { Broken::Cut } else { Broken::Packing }
}
