//! A segment as octets. Writes them, and reads the head; the entries are `cursor`'s. Must never write what the reader
//! refuses.
//!
//! ```text
//! "mrsg"  version: 1 octet  checksum of all that follows: CRC-32, 4 octets, little end first
//! puts  removals  octets of the body: numbers
//! 0, or 1 and who made the change: node, token, peer: texts; when: number
//! the body, deflated (RFC 1951): entry after entry
//!     octets shared with the value before it, number; the rest of the value, text
//!     0: removed | 1: its grounds follow | n: grounds n - 2 of those kept
//! grounds: code, number; 0, or class, subject and detail, numbers; 0, or 1 and a description, text; token, text
//! number: seven bits an octet, the lowest first, the highest bit set in all but the last
//! text: its octets' number, and they
//! ```
//!
//! The first [`KEPT`] grounds that follow an entry are kept by writer and reader, in their order.

use super::cursor::{Cursor, Take};
use super::{Broken, Grounds, RAW_BYTES_MAX, SEGMENT_BYTES_MAX, VALUE_BYTES_MAX, Word};
use crate::rules::change::Suppression;
use crate::rules::entry::Origin;
use flate2::Compression;
use flate2::write::DeflateEncoder;
use mailrace_shards::time::Timestamp;
use std::io::Write;
use std::sync::Arc;

const MAGIC: &[u8; 4] = b"mrsg";
const VERSION: u8 = 1;
/// Where the checksum ends and what it covers begins.
const SUMMED_FROM: usize = 9;

/// Grounds that entries refer to by number. A reader of all segments at once keeps these of each.
pub(super) const KEPT: usize = 64;

/// Entries of one segment. More do not fit with three octets each.
pub(super) const ENTRIES_MAX: u32 = (RAW_BYTES_MAX / 3) as u32;

/// A segment's head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Entries that suppress.
    pub puts: u32,
    /// Entries that say that a value is not suppressed any more.
    pub removals: u32,
    /// Octets of the body, inflated.
    pub raw: u32,
    /// Who made the change that it is; nobody when it was merged.
    pub origin: Option<Origin>,
}

/// A segment: its head was read, and its checksum is right.
#[derive(Clone, Debug)]
pub struct Segment<'a> {
    /// What it says of itself.
    pub head: Head,
    /// How long it is.
    pub octets: usize,
    body: &'a [u8],
}

impl<'a> Segment<'a> {
    /// Reads the head.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(octets: &'a [u8]) -> Result<Self, Broken> {
        let rest = octets.strip_prefix(MAGIC).ok_or(Broken::NoSegment)?;
        if octets.len() > SEGMENT_BYTES_MAX {
            return Err(Broken::TooLong("value"));
        }
        let (&version, rest) = rest.split_first().ok_or(Broken::Cut)?;
        if version != VERSION {
            return Err(Broken::Later(version));
        }
        let (sum, mut rest) = rest.split_first_chunk::<4>().ok_or(Broken::Cut)?;
        if u32::from_le_bytes(*sum) != crc32fast::hash(rest) {
            return Err(Broken::Checksum);
        }
        let (puts, removals, raw) = (rest.number()?, rest.number()?, rest.number()?);
        if raw as usize > RAW_BYTES_MAX {
            return Err(Broken::TooLong("body"));
        }
        if puts.checked_add(removals).is_none_or(|entries| entries > ENTRIES_MAX) {
            return Err(Broken::TooLong("list"));
        }
        let origin = match rest.number()? {
            0 => None,
            1 => {
                let (node, token, peer) = (rest.text()?, rest.text()?, rest.text()?);
                let at = i64::try_from(rest.long_number()?).map_err(|_| Broken::TooLong("time"))?;
                Some(Origin { token, peer, at: Timestamp(at), node })
            }
            _ => return Err(Broken::Count),
        };
        Ok(Self { head: Head { puts, removals, raw, origin }, octets: octets.len(), body: rest })
    }

    /// Reads the entries.
    #[must_use]
    pub fn entries(&self) -> Cursor<&'a [u8]> {
        Cursor::new(&self.head, self.body)
    }
}

/// Writes a segment, entry by entry.
pub struct Packer {
    body: DeflateEncoder<Vec<u8>>,
    /// One entry.
    scratch: Vec<u8>,
    raw: usize,
    puts: u32,
    removals: u32,
    last: String,
    kept: Vec<Arc<Grounds>>,
}

impl Default for Packer {
    fn default() -> Self {
        Self {
            body: DeflateEncoder::new(Vec::new(), Compression::new(LEVEL)),
            scratch: Vec::new(),
            raw: 0,
            puts: 0,
            removals: 0,
            last: String::new(),
            kept: Vec::new(),
        }
    }
}

/// Of 1 to 9. See the figures in `segment_tests`.
const LEVEL: u32 = 6;

impl Packer {
    /// Adds an entry. Its value must be greater than that of the one before.
    pub fn push(&mut self, value: &str, word: &Word) {
        assert!(self.is_empty() || *self.last < *value, "entries come in the order of their values");
        assert!(value.len() <= VALUE_BYTES_MAX, "values were checked where they were read");
        let shared = self.last.bytes().zip(value.bytes()).take_while(|(a, b)| a == b).count();
        self.scratch.clear();
        number(&mut self.scratch, shared as u64);
        text(&mut self.scratch, &value.as_bytes()[shared..]);
        match word {
            Word::Removed => {
                self.removals += 1;
                number(&mut self.scratch, 0);
            }
            Word::Put(grounds) => {
                self.puts += 1;
                self.grounds(grounds);
            }
        }
        self.raw += self.scratch.len();
        self.body.write_all(&self.scratch).expect("a vector takes all that is written");
        self.last.clear();
        self.last.push_str(value);
    }

    fn grounds(&mut self, grounds: &Arc<Grounds>) {
        let known = self.kept.iter().position(|kept| Arc::ptr_eq(kept, grounds) || kept == grounds);
        if let Some(index) = known {
            return number(&mut self.scratch, index as u64 + 2);
        }
        let out = &mut self.scratch;
        let Grounds { verdict, token } = &**grounds;
        number(out, 1);
        number(out, verdict.code.into());
        match verdict.extended {
            None => number(out, 0),
            Some(extended) => {
                number(out, extended.class.into());
                number(out, extended.subject.into());
                number(out, extended.detail.into());
            }
        }
        number(out, verdict.description.is_some().into());
        if let Some(description) = &verdict.description {
            text(out, description.as_bytes());
        }
        text(out, token.as_bytes());
        if self.kept.len() < KEPT {
            self.kept.push(grounds.clone());
        }
    }

    /// Whether nothing was added.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.puts + self.removals == 0
    }

    /// Octets of the body so far, before packing.
    #[must_use]
    pub fn raw(&self) -> usize {
        self.raw
    }

    /// The segment; of a change, with who made it.
    #[must_use]
    pub fn finish(self, origin: Option<&Origin>) -> Vec<u8> {
        let body = self.body.finish().expect("a vector takes all that is written");
        let mut out = [MAGIC.as_slice(), &[VERSION], &[0; 4]].concat();
        number(&mut out, self.puts.into());
        number(&mut out, self.removals.into());
        number(&mut out, self.raw as u64);
        number(&mut out, origin.is_some().into());
        if let Some(Origin { token, peer, at, node }) = origin {
            for word in [node, token, peer] {
                text(&mut out, word.as_bytes());
            }
            number(&mut out, u64::try_from(at.0).unwrap_or(0));
        }
        out.extend_from_slice(&body);
        let sum = crc32fast::hash(&out[SUMMED_FROM..]);
        out[SUMMED_FROM - 4..SUMMED_FROM].copy_from_slice(&sum.to_le_bytes());
        out
    }
}

/// The segments of a change that suppresses; mostly it is one. They have no value in common: of one that is there twice
/// the later entry counts.
#[must_use]
pub fn of_suppressions(entries: &[Suppression], origin: &Origin) -> Vec<Vec<u8>> {
    let mut ordered: Vec<&Suppression> = entries.iter().collect();
    ordered.sort_by(|a, b| a.value.cmp(&b.value));
    let mut grounds: Option<Arc<Grounds>> = None;
    let words = ordered.iter().enumerate().filter_map(|(index, entry)| {
        if ordered.get(index + 1).is_some_and(|next| next.value == entry.value) {
            return None;
        }
        let same = grounds.take().filter(|grounds| grounds.verdict == entry.verdict);
        let new = || Arc::new(Grounds { verdict: entry.verdict.clone(), token: origin.token.clone() });
        let word = Word::Put(grounds.insert(same.unwrap_or_else(new)).clone());
        Some((&*entry.value, word))
    });
    pack(words, origin)
}

/// The segments of a change that removes.
#[must_use]
pub fn of_removals(values: &[Arc<str>], origin: &Origin) -> Vec<Vec<u8>> {
    let mut ordered: Vec<&str> = values.iter().map(|value| &**value).collect();
    ordered.sort_unstable();
    ordered.dedup();
    pack(ordered.into_iter().map(|value| (value, Word::Removed)), origin)
}

fn pack<'a>(entries: impl Iterator<Item = (&'a str, Word)>, origin: &Origin) -> Vec<Vec<u8>> {
    // An entry with the longest value and description that there are.
    const ENTRY_BYTES_MAX: usize = VALUE_BYTES_MAX + 2 * super::TEXT_BYTES_MAX + 64;
    let (mut segments, mut packer) = (Vec::new(), Packer::default());
    for (value, word) in entries {
        if packer.raw() + ENTRY_BYTES_MAX > super::CHANGE_BYTES_MAX {
            segments.push(std::mem::take(&mut packer).finish(Some(origin)));
        }
        packer.push(value, &word);
    }
    if !packer.is_empty() {
        segments.push(packer.finish(Some(origin)));
    }
    segments
}

pub(super) fn number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn text(out: &mut Vec<u8>, octets: &[u8]) {
    number(out, octets.len() as u64);
    out.extend_from_slice(octets);
}
