//! Every bound of the HTTP server, and what happens when it is met.

use std::time::Duration;

/// Octets of a request's head, from its first to the empty line. A longer one is 431 and the end.
pub const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Octets of a request's first line. A longer one is 414 and the end.
pub const REQUEST_LINE_BYTES_MAX: usize = 8 * 1024;
/// Header fields of one request. More is 431 and the end.
pub const HEADERS_MAX: usize = 64;
/// Octets of a chunk's size line, extensions included. A longer one is 400 and the end.
pub const CHUNK_LINE_BYTES_MAX: usize = 256;
/// Octets of all chunk extensions of one body. More is 400 and the end: they carry nothing that we use.
pub const CHUNK_EXTENSION_BYTES_MAX: usize = 4 * 1024;
/// Octets of the trailer section. More is 431 and the end.
pub const TRAILER_BYTES_MAX: usize = 4 * 1024;
/// Octets that one turn inflates; the rest follows in the next.
pub const INFLATE_CHUNK_BYTES: usize = 32 * 1024;
/// Octets of one read from a socket.
pub const READ_BYTES: usize = 16 * 1024;
/// Octets that one connection moves or inflates before other tasks have their turn.
pub const TURN_BYTES: usize = 64 * 1024;
/// Fields of one form or query string. More are refused with 400.
pub const FIELDS_MAX: usize = 64;

/// A body, or the reading of an answer, may stand still for a while ([`Deadlines::stall`]); each second of it is
/// made good by so many octets. Below that rate: 408, or the end.
pub const OCTETS_PER_SECOND_MIN: u64 = 4 * 1024;
/// How long the last octets of a peer that is being refused are thrown away, so that it reads the answer
/// before it hears of the reset (RFC 9112 §9.6).
pub const LINGER_MILLIS: u64 = 2_000;
/// Octets of the same. Then the connection is reset.
pub const LINGER_BYTES: u64 = 8 << 20;
/// Octets of an unread body that are read for the sake of the next request. With more the connection ends.
pub const DISCARD_BYTES: u64 = 64 * 1024;

/// Octets of all bodies that handlers have collected and are at work on. A body beyond it is refused with 503.
pub const BODIES_BYTES_MAX: usize = 256 << 20;

/// Octets of an answer that are not counted…
pub const ANSWER_BYTES_FREE: usize = 64 * 1024;
/// …and octets of all larger ones that are in memory until their peers have read them. One beyond it becomes 503: else peers
/// that ask for much and read slowly could have all memory.
pub const ANSWERS_BYTES_MAX: usize = 256 << 20;

/// Connections that are being turned away at a time. Further ones hear nothing.
pub const TURNED_AWAY_MAX: usize = 64;
/// Connections at a time. A further one gets 503 and the end. They come out of
/// `mailrace_shards::limits::DESCRIPTORS_RESERVED`.
pub const CONNECTIONS_MAX: usize = 256;
/// The same of one peer (one address of IPv4, one /64 of IPv6).
pub const CONNECTIONS_PER_PEER_MAX: usize = 128;

const _: () = assert!(REQUEST_LINE_BYTES_MAX < HEAD_BYTES_MAX && HEAD_BYTES_MAX <= u16::MAX as usize);
const _: () = assert!(CONNECTIONS_PER_PEER_MAX <= CONNECTIONS_MAX);
const _: () = assert!(CONNECTIONS_MAX * 2 <= mailrace_shards::limits::DESCRIPTORS_RESERVED);

/// How long is waited for a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadlines {
    /// For a request's head, from its first octet; on a new connection from the first moment, TLS included.
    /// Then 408 and the end.
    pub head: Duration,
    /// For the next request of a connection. Then it is closed.
    pub idle: Duration,
    /// For a pause in a body, or in the reading of an answer (see [`OCTETS_PER_SECOND_MIN`]).
    pub stall: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self { head: Duration::from_secs(10), idle: Duration::from_secs(60), stall: Duration::from_secs(20) }
    }
}
