//! The engine of mailrace: everything between "a message was accepted" and "its outcome is recorded".
//!
//! Two state machines hold all decisions and do no I/O: an SMTP session (`smtp`) and a [`shard::Shard`]
//! (one core's brain). Everything that waits, reads a clock, opens a socket or a file, or crosses a core
//! is in [`runtime`].
//!
//! Imports go one way: `runtime → shard, event → {queue, path, smtp, dns, spool, rules} →
//! {message, outcome, limits, time, route, settings}`; the six in the middle never import each other.

pub mod dns;
pub mod event;
pub mod limits;
pub mod message;
pub mod outcome;
pub mod path;
pub mod queue;
pub mod route;
pub mod rules;
pub mod runtime;
pub mod settings;
pub mod shard;
pub mod smtp;
pub mod spool;
pub mod time;
