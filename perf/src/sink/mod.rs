//! A fast SMTP server that accepts (almost) everything and remembers what it saw.
//!
//! One thread, one event loop. It must never keep a message, and never say 250 for one that it did not count.

pub mod control;
pub mod conversation;
pub mod line;
pub mod profile;
pub mod server;
pub mod session;
pub mod tally;
pub mod tls;
