//! Spool directories, by coverage. What must hold is what `tests/fuzz/spool.rs` says; here is nothing else.

#![no_main]

#[path = "../../fuzz/spool.rs"]
#[allow(dead_code)]
mod spool;

libfuzzer_sys::fuzz_target!(|input: &[u8]| spool::check(input));
