//! What a session waits for, and what it counts. No transitions here: those are the handlers'.

use super::auth::Exchange;
use crate::time::Instant;

/// What the next octets, or the next call, mean.
#[derive(Debug)]
pub(super) enum State {
    /// A command line.
    Command,
    /// The rest of a command line that is too long, or of one that is refused already.
    Skipping,
    /// Message text up to CRLF.CRLF.
    Data,
    /// Octets of a BDAT chunk.
    Chunk(Chunk),
    /// A line of an AUTH exchange.
    Exchange(Exchange),
    /// The runtime's word on credentials.
    Authenticating,
    /// The runtime's word that the message is durable.
    Storing,
    /// The end of the TLS handshake.
    StartingTls,
    /// Nothing: the session is over.
    Closed,
}

/// A BDAT chunk, RFC 3030.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chunk {
    /// Octets of the chunk.
    pub(super) octets: u64,
    /// Octets still to come.
    pub(super) left: u64,
    /// The message ends with it.
    pub(super) last: bool,
}

/// How the peer introduced itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Greeting {
    /// Not yet.
    None,
    /// HELO.
    Helo,
    /// EHLO.
    Ehlo,
}

/// What a session counts against its bounds.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counters {
    /// Errors since the last accepted message.
    pub(super) errors: u32,
    /// Commands other than RCPT since the last accepted message.
    pub(super) commands: u32,
    /// MAIL commands accepted.
    pub(super) transactions: u32,
    /// AUTH attempts that failed.
    pub(super) failed_logins: u32,
    /// Octets skipped of the present line.
    pub(super) skipped_bytes: usize,
}

/// How fast content comes: a peer may be slow, but not dripping.
#[derive(Clone, Copy, Debug)]
pub(super) struct DataClock {
    /// When the content began.
    pub(super) began: Instant,
    /// The same, moved by the pauses between chunks, for which the rate is not to blame.
    pub(super) started: Instant,
    /// When some of it last came.
    pub(super) progress: Instant,
    /// How much came.
    pub(super) octets: u64,
}
