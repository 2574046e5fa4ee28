//! Client side of SMTP (delivery), RFC 5321 §3 and §4, as a state machine without I/O.
//!
//! The runtime owns the socket and the clock. It feeds [`Session`] with replies and moments, asks it for output and
//! events, and tells it when the octet that completes a message was passed to `send(2)`. The session speaks
//! whatever the peer offers: PIPELINING (RFC 2920) with the next envelope in the flight of this message's final
//! dot, CHUNKING (RFC 3030) with several messages unanswered, or one command at a time.
//!
//! | file | noun |
//! |---|---|
//! | `session` | the session: what it is told, what it is asked |
//! | `state` | its states, what it waits for and how long |
//! | `flight` | one transaction on its way: what was sent of it, what was answered |
//! | `greeting` | replies up to readiness: banner, EHLO, STARTTLS |
//! | `transaction` | replies to MAIL, RCPT, DATA and the end of data |
//! | `output` | what is sent next |
//! | `outgoing` | octets ready to send, and the gate before those that complete a message |
//! | `ending` | how sessions end, and which transaction is charged with it |
//!
//! Nothing here decides what a failure means (`smtp::classify` does), retries anything, or knows of rules.

mod ending;
mod flight;
mod greeting;
mod outgoing;
mod output;
mod session;
mod state;
mod transaction;

pub use super::classify::{Failure, FailureKind};
pub use super::ehlo::Capabilities;
pub use outgoing::Outgoing;
pub use session::Session;

use crate::message::{Body, Envelope};
use crate::outcome::Response;
use crate::settings::TlsPolicy;
use smallvec::SmallVec;
use std::sync::Arc;

/// What a session needs to know of its connection.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// Our name in EHLO.
    pub ehlo: Arc<str>,
    /// The remote host's name, for words about failures.
    pub host: Arc<str>,
    /// Policy of STARTTLS.
    pub tls: TlsPolicy,
    /// Messages that may be unanswered at once with PIPELINING and CHUNKING, at least 1, at most
    /// [`crate::limits::CLIENT_FLIGHTS_MAX`]; values beyond are brought within. Usual: 4.
    pub pipelined_chunks: u8,
}

/// One message to some of its recipients.
#[derive(Clone, Debug)]
pub struct Transaction {
    /// The caller's name for it; unique within the session.
    pub token: u64,
    /// The message.
    pub envelope: Arc<Envelope>,
    /// Indexes of recipients in the envelope, at least one, each once.
    pub recipients: SmallVec<[u16; 4]>,
    /// The body, CRLF line ends, not dot-stuffed.
    pub body: Body,
}

/// Where in the output a message is completed. The gate stands before this octet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndOfDataMark {
    /// Index in `out` of the octet that completes the message: the LF after the dot, the last octet of BDAT LAST.
    pub position: usize,
    /// The transaction. When the peer has refused it meanwhile it is already finished: the octet then goes out like
    /// any other.
    pub token: u64,
}

/// What became of one recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecipientResult {
    /// The peer took responsibility.
    Delivered(Response),
    /// It did not, or not surely.
    Failed(Failure),
}

/// Results by index of the recipient in the envelope.
pub type Results = SmallVec<[(u16, RecipientResult); 4]>;

/// Why a transaction is given back, not charged with an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AbortReason {
    /// [`Session::withdraw`] was called for it.
    Withdrawn,
    /// Another transaction was withdrawn when only closing the connection could stop it.
    OtherWithdrawn,
    /// The session ended by what belongs to an earlier transaction, before this one's turn.
    Behind,
    /// The session ended before anything of it was sent.
    NotSent,
    /// The peer ended a session that had served before, instead of answering this one's MAIL.
    SessionOver,
}

/// What the runtime must do or know, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientEvent {
    /// Handshake now, then [`Session::handle_tls_ready`] or [`Session::handle_tls_failed`].
    StartTls,
    /// Greeting done; transactions may be submitted.
    Ready(Capabilities),
    /// Every recipient of the transaction has a result.
    Finished {
        /// The transaction.
        token: u64,
        /// One for each of its recipients, in no particular order.
        results: Results,
    },
    /// Not this message's fault: give it back without counting an attempt. The end of its data was not sent, except
    /// when the peer had announced by 421, before it, that it would not serve it any more.
    Aborted {
        /// The transaction.
        token: u64,
        /// All its recipients.
        recipients: SmallVec<[u16; 4]>,
        /// Why.
        reason: AbortReason,
    },
    /// Close the socket. The last event.
    Closed {
        /// What ended the session, `None` when it ended in order. A transaction that was charged with it has it in
        /// its results too.
        failure: Option<Failure>,
    },
}

/// What [`Session::withdraw`] could do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[must_use]
pub enum Withdrawal {
    /// No such transaction is open, none of the covered recipients is in it, or the end of its data was already
    /// passed to `send(2)`: nothing changes.
    TooLate,
    /// It is given back; the session goes on. Output filled before still goes out.
    GivenBack,
    /// It is given back, and the session ends: the caller must pass nothing more to `send(2)`, not even what was
    /// filled before. Replies to messages whose end of data was sent are still awaited, then comes `Closed`.
    Ending,
}
