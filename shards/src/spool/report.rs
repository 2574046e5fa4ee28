//! What a spool is told and what it answers: plain values, no behaviour.

use crate::message::{Envelope, Location, MessageId};
use crate::time::Timestamp;
use smallvec::SmallVec;
use std::fmt;
use std::io;
use std::sync::Arc;

/// Something that became of recipients of a stored message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// These recipients are finished; the spool forgets them.
    Done {
        /// The message.
        id: MessageId,
        /// Indexes into the envelope.
        recipients: SmallVec<[u16; 4]>,
    },
    /// These recipients were tried and will be tried again.
    Attempt {
        /// The message.
        id: MessageId,
        /// Indexes into the envelope.
        recipients: SmallVec<[u16; 4]>,
        /// Their standing now.
        standing: Standing,
    },
    /// The `Reception` records of all messages that begin before this point are durable.
    Recorded(Point),
}

/// A place in a spool. What was stored earlier lies before what was stored later; copies lie behind their originals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Point {
    /// Segment.
    pub segment: u32,
    /// Octets from its beginning.
    pub offset: u64,
}

impl From<Location> for Point {
    /// Within the message's record: before the beginning of whatever was stored after it.
    fn from(location: Location) -> Self {
        Self { segment: location.segment, offset: location.offset }
    }
}

/// How far the delivery to one recipient has come. All zero before the first attempt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Attempts made.
    pub attempts: u16,
    /// When the next one is due.
    pub due: Timestamp,
    /// An earlier attempt may have got through.
    pub maybe_delivered: bool,
}

/// What the spool has to say after a group was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SpoolCompletion {
    /// The message is durable (or written, when the policy is an interval).
    Stored {
        /// The caller's number for it.
        ticket: u64,
        /// Where its body lies.
        location: Location,
    },
    /// The message is not stored and will not be: answer the injector with a failure.
    Failed {
        /// The caller's number for it.
        ticket: u64,
        /// Why, for the log and the operator.
        why: Arc<str>,
    },
    /// Compaction copied the message; the old location will go.
    Moved {
        /// The message.
        id: MessageId,
        /// Where its body lies now.
        location: Location,
    },
    /// A write or a sync failed; the segment is given up. Always followed by `Working` some day, or by more of these.
    Failing {
        /// Why, with the file's name.
        why: Arc<str>,
    },
    /// Written and synced again after `Failing`.
    Working,
    /// While it fails, as many ends of messages wait to be written as may; or they wait no longer.
    Behind(bool),
    /// An old segment could not be removed or compacted. Mail is stored all the same; the disk may fill.
    Housekeeping {
        /// What, with the file's name.
        why: Arc<str>,
    },
    /// A stored body is no longer what was stored: its checksum is wrong. Found while copying it.
    Damaged {
        /// The message, still open.
        id: MessageId,
        /// Where it lies.
        location: Location,
    },
}

/// Why new mail should not be accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Free space of the file system is below `min_free_bytes`.
    LowSpace,
    /// The last write or sync failed, and none has succeeded since.
    Failing,
}

/// One recipient that is not finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenRecipient {
    /// Index into the envelope.
    pub index: u16,
    /// How far its delivery has come.
    pub standing: Standing,
}

/// A message found at start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveredMessage {
    /// Its envelope.
    pub envelope: Arc<Envelope>,
    /// Where its body lies.
    pub location: Location,
    /// Its unfinished recipients, at least one, in the envelope's order.
    pub open: SmallVec<[OpenRecipient; 1]>,
}

/// Octets that recovery could not use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dropped {
    /// Name of the file in the spool's directory.
    pub file: String,
    /// Where they begin.
    pub offset: u64,
    /// How many.
    pub octets: u64,
    /// Why.
    pub why: DropReason,
}

/// Why octets were dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropReason {
    /// No valid record begins there and none follows: the tail of a write that a crash cut short.
    TornTail,
    /// No valid record begins there although one follows: the file was damaged.
    NoRecord,
    /// A message's header is valid but its body is not what was stored.
    BadBody(MessageId),
    /// The segment's own header is unreadable and no record told what it was.
    BadSegment,
}

impl fmt::Display for Dropped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} octets at {}: ", self.file, self.octets, self.offset)?;
        match self.why {
            DropReason::TornTail => f.write_str("the end of a write that a crash cut short"),
            DropReason::NoRecord => f.write_str("damaged, no record to be read"),
            DropReason::BadBody(id) => write!(f, "the body of message {id} is damaged"),
            DropReason::BadSegment => f.write_str("the segment's header is damaged"),
        }
    }
}

/// What a spool holds at start.
#[derive(Debug, Default)]
pub struct Recovered {
    /// Open messages in the order in which they lie on disk. Take them with `into_iter`: nothing else holds them.
    pub messages: Vec<RecoveredMessage>,
    /// What could not be read; the operator must hear of each.
    pub dropped: Vec<Dropped>,
    /// Messages, open or finished, whose `Reception` record may have been lost: it is to be written (again), and then
    /// the spool told so by [`Progress::Recorded`] with `recorded`. In the order in which they lie on disk.
    pub unrecorded: Vec<Arc<Envelope>>,
    /// Behind all messages.
    pub recorded: Point,
}

/// A spool cannot be opened.
#[derive(Debug)]
pub enum SpoolError {
    /// The disk refused an operation that recovery cannot do without.
    Disk {
        /// What was attempted, with the file's name.
        doing: String,
        /// What it said.
        error: io::Error,
    },
    /// A record of a version that this program does not know: it was written by a newer one.
    NewerVersion {
        /// Name of the file.
        file: String,
        /// Where the record begins.
        offset: u64,
    },
    /// The thread could not be started.
    Thread(io::Error),
}

impl fmt::Display for SpoolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disk { doing, error } => write!(f, "{doing}: {error}"),
            Self::NewerVersion { file, offset } => {
                write!(f, "{file}: the record at {offset} was written by a newer version of mailrace")
            }
            Self::Thread(error) => write!(f, "the spool's thread: {error}"),
        }
    }
}

impl std::error::Error for SpoolError {}
