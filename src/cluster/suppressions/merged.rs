//! Many segments as one list, in the order of values: of each value the latest word, and which entries speak of it. Holds
//! of each segment one entry and what inflating it takes, some 64 KiB, however large the segment is.

use super::{Broken, Cursor, Word};
use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;
use std::io::BufRead;

/// A segment that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BrokenAt {
    /// Its place among those that were given, from zero on.
    pub place: usize,
    /// What is wrong.
    pub broken: Broken,
}

/// An entry of one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The segment's place among those that were given.
    pub segment: usize,
    /// The entry's number in it. Both from zero on.
    pub entry: u32,
}

/// The list. Stands on a value, or before the first or behind the last.
pub struct Merged<R> {
    /// Those that stand on an entry; the one that comes next is the greatest.
    heads: BinaryHeap<Ranked<R>>,
    value: String,
    word: Word,
    speakers: Vec<Place>,
}

struct Ranked<R> {
    cursor: Cursor<R>,
    place: usize,
}

impl<R: BufRead> Merged<R> {
    /// Of segments, the oldest first.
    ///
    /// # Errors
    /// The segment that cannot be read.
    pub fn new(oldest_first: impl IntoIterator<Item = Cursor<R>>) -> Result<Self, BrokenAt> {
        let mut heads = BinaryHeap::new();
        for (place, mut cursor) in oldest_first.into_iter().enumerate() {
            if cursor.advance().map_err(|broken| BrokenAt { place, broken })? {
                heads.push(Ranked { cursor, place });
            }
        }
        Ok(Self { heads, value: String::new(), word: Word::Removed, speakers: Vec::new() })
    }

    /// Goes to the next value; false behind the last.
    ///
    /// # Errors
    /// The segment that cannot be read. What was read of it before is not to be used either.
    pub fn advance(&mut self) -> Result<bool, BrokenAt> {
        self.speakers.clear();
        while let Some(mut head) = self.heads.peek_mut() {
            let Ranked { cursor, place } = &mut *head;
            if self.speakers.is_empty() {
                self.value.clear();
                self.value.push_str(cursor.value());
                self.word = cursor.word().clone();
            } else if *cursor.value() != *self.value {
                break;
            }
            let entry = cursor.index().expect("what is among the heads stands on an entry");
            self.speakers.push(Place { segment: *place, entry });
            if !cursor.advance().map_err(|broken| BrokenAt { place: *place, broken })? {
                PeekMut::pop(head);
            }
        }
        Ok(!self.speakers.is_empty())
    }

    /// The value.
    #[must_use]
    pub fn value(&self) -> &str {
        &self.value
    }

    /// The latest word on it.
    #[must_use]
    pub fn word(&self) -> &Word {
        &self.word
    }

    /// The entries that speak of it, the latest first.
    #[must_use]
    pub fn speakers(&self) -> &[Place] {
        &self.speakers
    }
}

impl<R: BufRead> Ord for Ranked<R> {
    fn cmp(&self, other: &Self) -> Ordering {
        other.cursor.value().cmp(self.cursor.value()).then(self.place.cmp(&other.place))
    }
}

impl<R: BufRead> PartialOrd for Ranked<R> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<R: BufRead> PartialEq for Ranked<R> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<R: BufRead> Eq for Ranked<R> {}
