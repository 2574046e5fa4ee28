//! The HTTP parser, by coverage. What must hold is what `src/http/fuzz_tests.rs` says; here is nothing but the parser's
//! files, which belong to a program and so cannot be had as a crate.

#![no_main]
#![allow(dead_code, unused_imports)]

#[path = "../../fuzz/mutation.rs"]
mod mutation;

/// As in the program, without what waits.
#[path = "../../../src/http"]
mod http {
    mod body;
    mod framing;
    pub mod fuzz_tests;
    mod head;
    mod limits;
    mod parse;
    mod refusal;
    mod response;

    pub use refusal::Refusal;
    pub use response::Response;
    /// Anything that is waited for.
    pub type Waiting<'a, T> = std::pin::Pin<Box<dyn Future<Output = T> + 'a>>;
}

libfuzzer_sys::fuzz_target!(|input: &[u8]| http::fuzz_tests::check(input));
