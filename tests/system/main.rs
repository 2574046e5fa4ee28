//! System tests: the real binary between real sockets. Each test starts its own engine on ports and a data
//! directory of its own and judges it from outside only: by replies, by what destinations received, and by the
//! outcome log.

#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

mod bodies;
mod count;
mod crash;
mod dns;
mod failures;
mod gate;
mod independent;
mod limits;
mod recipients;
mod retry;
mod rules;
mod rules_ending;
mod rules_survival;
mod signals;
mod support;
mod tls;
