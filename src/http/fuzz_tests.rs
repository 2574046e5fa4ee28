//! Hostile input to the HTTP parser: requests behind each other, however they arrive, and what must hold of each that is
//! understood. What the program then does with one is no question here.

use super::body::BodyDecoder;
use super::head::{Framing, Head, Version};
use super::limits::{HEAD_BYTES_MAX, HEADERS_MAX};
use super::parse::{Parsed, parse};
use crate::mutation::{Cut, Target, fuzz};

const WORDS: &[&[u8]] = &[
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"POST /v1/pauses HTTP/1.1\r\nHost: x\r\n",
    b"Content-Length: 5\r\n",
    b"Content-Length: 0\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: identity, chunked\r\n",
    b"Content-Encoding: gzip\r\n",
    b"Connection: keep-alive, close\r\n",
    b"Expect: 100-continue\r\n",
    b"Host: y\r\n",
    b" folded\r\n",
    b"HTTP/1.0",
    b"HTTP/2.0",
    b"5\r\nabcde\r\n",
    b"0\r\n\r\n",
    b"0\r\nTrailer: x\r\n\r\n",
    b"5;a=\"b\"\r\n",
    b"fffffffffffffff\r\n",
    b"http://x/",
    b"\r\n\r\n",
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b":",
    b"\t",
    b"%",
];

#[test]
fn whatever_a_client_requests() {
    fuzz(&Target { name: "http", words: WORDS, check });
}

/// One connection's octets.
pub fn check(input: &[u8]) {
    let whole = converse(input, Cut::Whole, 4096);
    for (cut, room) in [(Cut::Single, 4096), (Cut::Random(input.len() as u64), 7), (Cut::Whole, 1)] {
        assert_eq!(whole, converse(input, cut, room), "whole, and cut so: {cut:?}, {room} at a time");
    }
}

/// What becomes of the requests in turn: each with its body, and how it ends. Bodies are taken `room` octets at a time.
fn converse(input: &[u8], cut: Cut, room: usize) -> Vec<String> {
    let mut connection = Connection { log: Vec::new(), input: Vec::new(), scanned: 0, body: None, over: false };
    for piece in cut.pieces(input) {
        connection.input.extend_from_slice(piece);
        connection.go_on(room);
        assert!(connection.body.is_some() || connection.over || connection.input.len() < HEAD_BYTES_MAX);
    }
    let unfinished = connection.body.as_ref().map_or(0, |(_, body)| body.len());
    let left = if connection.over { 0 } else { connection.input.len() };
    connection.log.push(format!("over: {}, left {left}, of a body {unfinished}", connection.over));
    connection.log
}

struct Connection {
    log: Vec<String>,
    input: Vec<u8>,
    scanned: usize,
    body: Option<(BodyDecoder, Vec<u8>)>,
    /// Refused: nothing more is looked at.
    over: bool,
}

impl Connection {
    fn go_on(&mut self, room: usize) {
        while !self.over && if self.body.is_some() { self.take_body(room) } else { self.take_head() } {}
    }

    /// Whether there was one.
    fn take_head(&mut self) -> bool {
        match parse(&self.input, &mut self.scanned) {
            Ok(Parsed::Partial) => false,
            Ok(Parsed::Whole(head, length)) => {
                judge(&head, &self.input[..length]);
                let Head { method, path, query, host, version, framing, coding, .. } = &*head;
                let rest = format!("{framing:?} {coding:?} {} {}", head.keep_alive, head.expects_continue);
                self.log.push(format!("{method} {path} ? {query} @ {host} {version:?} {rest} {:?}", fields(&head)));
                self.input.drain(..length);
                self.scanned = 0;
                self.body = Some((BodyDecoder::new(*framing), Vec::new()));
                true
            }
            Err(refusal) => self.refuse(&refusal),
        }
    }

    /// Whether there was more of it.
    fn take_body(&mut self, room: usize) -> bool {
        let (decoder, body) = self.body.as_mut().expect("a head came before");
        let before = body.len();
        match decoder.decode(&self.input, body, room) {
            Ok(count) => {
                let came = body.len() - before;
                assert!(came <= room && came <= count, "{came} octets out of {count}, with room for {room}");
                self.input.drain(..count);
                if decoder.is_done() {
                    self.log.push(format!("body {}", body.escape_ascii()));
                    self.body = None;
                    return true;
                }
                count > 0
            }
            Err(refusal) => self.refuse(&refusal),
        }
    }

    fn refuse(&mut self, refusal: &super::Refusal) -> bool {
        assert!(refusal.closes, "who cannot be understood cannot go on");
        assert!(matches!(refusal.status, 400 | 408 | 411 | 414 | 417 | 431 | 505), "{refusal}");
        self.log.push(refusal.to_string());
        self.over = true;
        false
    }
}

fn fields(head: &Head) -> Vec<(String, String)> {
    head.headers.iter().map(|(name, value)| (name.to_owned(), value.escape_ascii().to_string())).collect()
}

/// Reads the head again, line by line: what is understood must be what any other reader sees.
fn judge(head: &Head, octets: &[u8]) {
    assert!(octets.len() <= HEAD_BYTES_MAX && octets.ends_with(b"\r\n\r\n"));
    assert!(!octets.contains(&0), "NUL in a head");
    let text: String = octets.iter().map(|octet| char::from(*octet)).collect();
    let text = text.strip_prefix("\r\n").unwrap_or(&text);
    let lines: Vec<&str> = text.split("\r\n").collect();
    assert!(lines.iter().all(|line| !line.contains(['\r', '\n'])), "a line end that is none: {text:?}");
    let lines = &lines[1..lines.len() - 2];
    assert!(lines.len() <= HEADERS_MAX && lines.len() == head.headers.iter().count(), "{text:?}");
    let mut named: Vec<(String, &str)> = Vec::new();
    for line in lines {
        let (name, value) = line.split_once(':').expect("a field has a colon");
        assert!(!name.is_empty() && !name.contains([' ', '\t']), "a name with blanks in {text:?}");
        named.push((name.to_ascii_lowercase(), value.trim_matches([' ', '\t'])));
    }
    let all = |name: &str| named.iter().filter(|(own, _)| own == name).map(|(_, value)| *value).collect::<Vec<_>>();
    match (&*all("content-length"), &*all("transfer-encoding")) {
        ([], []) => assert_eq!(head.framing, Framing::None),
        ([], [coding]) => {
            assert!(coding.eq_ignore_ascii_case("chunked"), "{text:?}");
            assert_eq!((head.framing, head.version), (Framing::Chunked, Version::Http11));
        }
        ([length], []) => {
            assert!(length.bytes().all(|octet| octet.is_ascii_digit()), "{text:?}");
            match head.framing {
                Framing::Length(own) => assert_eq!(length.parse(), Ok(own)),
                Framing::None => assert_eq!(length.parse(), Ok(0_u64)),
                Framing::Chunked => panic!("chunked? {text:?}"),
            }
        }
        _ => panic!("two framings: {text:?}"),
    }
    assert!(head.version == Version::Http10 || all("host").len() == 1, "one Host: {text:?}");
    assert!(head.path.starts_with('/') || &*head.path == "*", "{text:?}");
}
