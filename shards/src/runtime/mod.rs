//! Everything that waits, reads a clock, opens a socket or a file, or crosses a core.

pub mod clock;
pub mod dns_socket;
pub mod outcome_log;
pub mod spool_file;
pub mod tls;
