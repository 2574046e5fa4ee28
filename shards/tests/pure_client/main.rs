//! The SMTP client session as data: scripts of a conversation, run with every way of cutting its octets.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod chunking;
mod classify;
mod data;
mod endings;
mod greeting;
mod harness;
mod hostile;
mod model;
mod outgoing;
mod referred;
mod reply;
mod time;
mod withdraw;
