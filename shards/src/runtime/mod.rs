//! Everything that waits, reads a clock, opens a socket or a file, or crosses a core.

pub mod alarm;
pub mod bodies;
pub mod clock;
pub mod control;
pub mod core;
pub mod delivery;
pub mod dns_socket;
pub mod engine;
pub mod injection;
pub mod local;
pub mod mailbox;
pub mod memory;
pub mod outcome_file;
pub mod outcome_line;
pub mod outcome_log;
pub mod pump;
pub mod reply;
pub mod report;
pub mod resolution;
pub mod socket;
pub mod spool_disk;
pub mod spool_file;
pub mod spool_generation;
pub mod spool_reader;
pub mod tls;
