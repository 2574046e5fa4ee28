//! SMTP, RFC 5321 and its extensions, as state machines without I/O.

pub mod classify;
pub mod client;
pub mod command;
pub mod ehlo;
pub mod reply;
pub mod server;
