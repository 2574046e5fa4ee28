//! What the control core executes for each request before it knows what is wanted: taking the head apart. `cargo bench --bench
//! http_head`. The parser belongs to a program, so its files are read here, without what waits.

#![allow(clippy::cast_precision_loss, reason = "figures for people")]
#![allow(dead_code, unused_imports, reason = "only the parser is counted")]

mod counted;

/// As in the program.
#[path = "../src/http"]
mod http {
    mod body;
    mod framing;
    mod head;
    mod limits;
    pub mod parse;
    mod refusal;
    mod response;

    pub use refusal::Refusal;
    pub use response::Response;
    /// Anything that is waited for.
    pub type Waiting<'a, T> = std::pin::Pin<Box<dyn Future<Output = T> + 'a>>;
}

use counted::Case;
use http::parse::{Parsed, parse};
use std::hint::black_box;
use std::path::Path;
use std::process::ExitCode;

const MANY: u64 = 1_000;

const RULE: &[u8] =
    b"POST /v1/pauses HTTP/1.1\r\nHost: mailrace.example:8000\r\nUser-Agent: curl/7.88.1\r\nAccept: */*\r\n\
Authorization: Bearer 0123456789abcdef0123456789abcdef\r\nContent-Type: application/json\r\nContent-Length: 64\r\n\r\n";

fn main() -> ExitCode {
    let cases = [
        Case { name: "HTTP: the head of a rule call", operations: MANY, ready: || heads(RULE.len()) },
        Case { name: "HTTP: the same in pieces of 64 octets", operations: MANY, ready: || heads(64) },
    ];
    counted::main(&cases, Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/benches/http_head.tsv")))
}

fn heads(piece: usize) -> Box<dyn FnMut()> {
    Box::new(move || {
        for _ in 0..MANY {
            let mut scanned = 0;
            let mut until = 0;
            while until < RULE.len() {
                until = (until + piece).min(RULE.len());
                if let Parsed::Whole(head, length) =
                    parse(black_box(&RULE[..until]), &mut scanned).expect("it is right")
                {
                    assert_eq!(length, RULE.len());
                    black_box(head);
                }
            }
        }
    })
}
