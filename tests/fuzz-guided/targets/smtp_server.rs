//! The SMTP server session, by coverage. What must hold is what `tests/fuzz/smtp_server.rs` says; here is nothing else.

#![no_main]

#[path = "../../../shards/tests/pure_server/driver.rs"]
#[allow(dead_code)]
mod driver;
#[path = "../../fuzz/mutation.rs"]
#[allow(dead_code)]
mod mutation;
#[path = "../../fuzz/smtp_server.rs"]
#[allow(dead_code)]
mod smtp_server;

libfuzzer_sys::fuzz_target!(|input: &[u8]| smtp_server::check(input));
