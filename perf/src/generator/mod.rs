//! The load generator: many SMTP client connections on one thread, an exact count, a histogram of waits.
//!
//! Every message number is used once: whatever happens to a connection, no message is sent or counted twice.

pub mod drive;
pub mod session;
pub mod tally;
pub mod template;
pub mod work;

use std::net::SocketAddr;
use std::time::Duration;

/// How much a client sends before it waits for replies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Pipelining {
    /// One command at a time: five round trips a message.
    None,
    /// MAIL, RCPT and DATA together, when the server offers PIPELINING: two round trips a message.
    Envelope,
    /// Besides, the next envelope with this message's end of data (RFC 2920 §3.1): one round trip a message.
    Full,
}

/// How the destination of a message is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Spread {
    /// One domain after the other.
    RoundRobin,
    /// Pseudo-random, the same in every run.
    Random,
}

/// What is to be sent, and how.
#[derive(Clone, Debug)]
pub struct Load {
    /// The server under test.
    pub target: SocketAddr,
    /// Which run the messages belong to.
    pub run: u32,
    /// How many messages.
    pub messages: u32,
    /// Octets of content of each, header fields included, the final dot not.
    pub size: usize,
    /// Recipient domains, `d00000.perf.test` and so on.
    pub domains: u32,
    /// How they are chosen.
    pub spread: Spread,
    /// Connections at once.
    pub connections: usize,
    /// A connection is closed after so many messages; 0 means never.
    pub messages_per_connection: u64,
    /// Round trips.
    pub pipelining: Pipelining,
    /// The core to which its thread is confined.
    pub cpu: Option<u32>,
    /// Open loop: messages per second. `None`: as fast as the server answers.
    pub rate: Option<f64>,
    /// The whole run takes no longer.
    pub time_limit: Duration,
    /// No reply takes longer.
    pub reply_timeout: Duration,
}
