//! Hostile input to the engine's state machines: mutations of a corpus, and what must hold whatever comes. Touches no
//! socket and no disk.
//!
//! The corpus is in `tests/data/fuzz`; `mutation` says how long is tried and what to do with an input that fails. The
//! program's own parsers are tried in the same way beside them (`src/fuzz_tests.rs`, `src/http/fuzz_tests.rs`), and
//! `tests/fuzz-guided` looks for new inputs by coverage.

#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

mod dns;
#[path = "../../shards/tests/pure_server/driver.rs"]
#[allow(dead_code, reason = "shared with the tables of the server session")]
mod driver;
mod mutation;
mod smtp_client;
mod smtp_server;
mod spool;
mod spool_corpus;

use mutation::{Target, fuzz};

#[test]
fn whatever_a_client_sends() {
    fuzz(&Target { name: "smtp-server", words: smtp_server::WORDS, check: smtp_server::check });
}

#[test]
fn whatever_a_server_replies() {
    fuzz(&Target { name: "smtp-client", words: smtp_client::WORDS, check: smtp_client::check });
}

#[test]
fn whatever_a_name_server_replies() {
    fuzz(&Target { name: "dns", words: dns::WORDS, check: dns::check });
}

#[test]
fn whatever_is_found_in_a_spool_directory() {
    fuzz(&Target { name: "spool", words: spool::WORDS, check: spool::check });
}
