//! Suppressions as all engines share them: a million entries in some dozens of keys of etcd. Reads no clock, and asks
//! etcd through [`keys::Keys`] alone.
//!
//! A **segment** is the value of one key: entries in the order of their values, packed. Segments have an order, that in
//! which their keys were made (`create_revision`, then the key), and of the entries of one value the one in the latest
//! segment counts. What is written is a new segment: a single entry is a small one, a batch of an import a large one, or
//! several in one transaction that have no value in common.
//!
//! Segments that lie beside each other in that order are **merged**: one transaction puts what all of them say into the
//! key of the latest, where it keeps that one's place, and deletes the others. A reader sees the same before and after,
//! so one that follows the keys takes only new ones, and whoever merges needs to know nothing but the segments. The
//! transaction compares the revision of every key that it touches: of two that merge at once, one is in vain.
//!
//! | file | what it is |
//! |---|---|
//! | `segment` | a segment as octets: writes it, and reads its head |
//! | `cursor` | reads its entries one by one, without trust |
//! | `merged` | many segments as one list in the order of values, the latest word on each |
//! | `merge` | what replaces a run of segments; which entries say nothing any more |
//! | `catalogue` | which segments there are, and which of them should be merged |
//! | `difference` | what has to be done to a table for it to hold what the segments say |
//! | `keys` | what is needed of etcd |
//! | `listener` | what the follower hears of segments |
//! | `merging` | carries out what the catalogue proposes |

pub mod catalogue;
mod cursor;
pub mod difference;
pub mod keys;
pub mod listener;
pub mod merge;
mod merged;
pub mod merging;
pub mod segment;

pub use cursor::Cursor;
pub use merged::{BrokenAt, Merged};

#[cfg(test)]
mod driver_tests;
#[cfg(test)]
mod fuzz_tests;
#[cfg(test)]
mod model_tests;
#[cfg(test)]
pub(super) mod segment_tests;

use crate::rules::entry::Verdict;
use crate::rules::shared::Revision;
use std::fmt;
use std::sync::Arc;

/// Octets of a segment, as etcd holds it. etcd takes requests of 1.5 MiB, and a merge puts one segment.
pub const SEGMENT_BYTES_MAX: usize = 512 << 10;

/// Octets of all segments; more are not read. Ten million suppressions have a fifth of it.
pub const SEGMENTS_BYTES_MAX: usize = 1 << 30;

/// Octets of a segment's entries before they are packed. Bounds what a reader inflates.
pub const RAW_BYTES_MAX: usize = 8 << 20;

/// The same for one that is written for a change: it fits into [`SEGMENT_BYTES_MAX`] even if nothing of it can be packed.
pub const CHANGE_BYTES_MAX: usize = 448 << 10;

/// Octets of a value. The longest address has 254, a few more once its domain is in A-labels.
pub const VALUE_BYTES_MAX: usize = 1024;

/// Octets of a description, of a token's or a node's name.
pub const TEXT_BYTES_MAX: usize = 4096;

// The head is small, and deflate adds five octets to each 16 KiB that it cannot pack.
const _: () = assert!(CHANGE_BYTES_MAX + 4 * TEXT_BYTES_MAX + CHANGE_BYTES_MAX / 1024 < SEGMENT_BYTES_MAX);

/// What a segment says of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Word {
    /// It is suppressed.
    Put(Arc<Grounds>),
    /// It is not, whatever older segments say.
    Removed,
}

/// Why a value is suppressed, and who said so. Many entries have the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Grounds {
    /// What the records say.
    pub verdict: Verdict,
    /// Name of the token that made the entry.
    pub token: Arc<str>,
}

/// What is wrong with octets that should be a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// They do not begin as one does.
    NoSegment,
    /// A later mailrace wrote it.
    Later(u8),
    /// They are not what was written.
    Checksum,
    /// They end too early.
    Cut,
    /// Something follows its end.
    Trailing,
    /// It cannot be inflated.
    Packing,
    /// Something in it is longer than it may be.
    TooLong(&'static str),
    /// A text is not UTF-8.
    Text,
    /// A value is not greater than the one before it.
    Order,
    /// A code that is none.
    Code,
    /// It holds another number of entries than it says.
    Count,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSegment => f.write_str("it does not begin as a segment does"),
            Self::Later(version) => write!(f, "it has version {version}, which a later mailrace wrote"),
            Self::Checksum => f.write_str("its checksum is wrong"),
            Self::Cut => f.write_str("it ends too early"),
            Self::Trailing => f.write_str("something follows its end"),
            Self::Packing => f.write_str("it cannot be inflated"),
            Self::TooLong(what) => write!(f, "its {what} is too long"),
            Self::Text => f.write_str("a text in it is not UTF-8"),
            Self::Order => f.write_str("its values are not in their order"),
            Self::Code => f.write_str("a code in it is none"),
            Self::Count => f.write_str("it does not hold as many entries as it says"),
        }
    }
}

impl std::error::Error for Broken {}
