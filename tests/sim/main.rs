//! The seeded simulation of the whole engine: the real brains of several cores, the real SMTP sessions of both sides,
//! rules, queue, spool and recovery, against a simulated network, name service, disk and clock, single-threaded. An
//! oracle outside the code keeps the ledger. A failure prints its seed; `MAILRACE_SIM_SEED=n` replays it exactly,
//! `MAILRACE_SIM_TRACE=1` shows each event, and `MAILRACE_SIM_SECONDS=600` runs that long.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "in a test, a panic is the report")]
#![expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the world's numbers are small")]

mod carrier;
mod control;
mod core;
mod engine;
mod far;
mod faults;
mod found;
mod injection;
mod injector;
mod network;
mod operator;
mod oracle;
mod plan;
mod planted;
mod random;
mod report;
mod run;
mod sink;
mod storage;
mod world;
