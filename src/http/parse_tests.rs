//! What the parser reads, and what it refuses: tables of whole conversations.

use super::{HEAD_BYTES_MAX, HEADERS_MAX, Parsed, REQUEST_LINE_BYTES_MAX, asked_path, parse};
use crate::http::body::BodyDecoder;
use crate::http::head::{Coding, Version};

/// What a connection makes of octets that come in pieces of the given sizes: a line for each request, and one
/// for the refusal that ends it, or for what is unfinished.
fn read(octets: &[u8], mut piece: impl FnMut() -> usize) -> Vec<String> {
    let (mut found, mut input, mut rest) = (Vec::new(), Vec::new(), octets);
    loop {
        let mut scanned = 0;
        let head = loop {
            match parse(&input, &mut scanned) {
                Ok(Parsed::Whole(head, length)) => {
                    input.drain(..length);
                    break head;
                }
                Ok(Parsed::Partial) if rest.is_empty() => {
                    if !input.is_empty() {
                        found.push("partial".to_owned());
                    }
                    return found;
                }
                Ok(Parsed::Partial) => take(&mut rest, &mut input, piece()),
                Err(refusal) => {
                    assert!(refusal.closes, "{refusal}");
                    found.push(refusal.to_string());
                    return found;
                }
            }
        };
        let mut decoder = BodyDecoder::new(head.framing);
        let mut body = Vec::new();
        while !decoder.is_done() {
            if input.is_empty() {
                if rest.is_empty() {
                    found.push("cut off".to_owned());
                    return found;
                }
                take(&mut rest, &mut input, piece());
            }
            match decoder.decode(&input, &mut body, 7) {
                Ok(taken) => drop(input.drain(..taken)),
                Err(refusal) => {
                    assert!(refusal.closes, "{refusal}");
                    found.push(refusal.to_string());
                    return found;
                }
            }
        }
        let version = if head.version == Version::Http10 { "1.0" } else { "1.1" };
        let query = if head.query.is_empty() { String::new() } else { format!("?{}", head.query) };
        let mut line = format!("{} {}{query} {version} at {}", head.method, head.path, head.host);
        for (is, word) in [(!head.keep_alive, " close"), (head.expects_continue, " continue")] {
            line.push_str(if is { word } else { "" });
        }
        if head.coding != Coding::Identity {
            line.push_str(&format!(" {:?}", head.coding));
        }
        if !body.is_empty() {
            line.push_str(&format!(" body {}", String::from_utf8_lossy(&body)));
        }
        found.push(line);
    }
}

fn take(rest: &mut &[u8], input: &mut Vec<u8>, count: usize) {
    let (now, later) = rest.split_at(count.min(rest.len()));
    input.extend_from_slice(now);
    *rest = later;
}

/// A generator of numbers that look random (xorshift), the same in each run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap() % bound
    }
}

/// Whole, octet by octet, and in pieces of any sizes: always the same.
fn check(text: &str, expected: &[&str]) {
    let octets = octets(text);
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    assert_eq!(read(&octets, || usize::MAX), expected, "{text}");
    assert_eq!(read(&octets, || 1), expected, "{text}, octet by octet");
    for _ in 0..20 {
        assert_eq!(read(&octets, || 1 + numbers.below(40)), expected, "{text}, in pieces");
    }
}

/// In the tables CR LF is written as `|`. `\n`, `\r` and `\0` stand for themselves, and
/// `¿` for an octet of no meaning in ASCII.
fn octets(text: &str) -> Vec<u8> {
    let mut octets = Vec::new();
    for character in text.chars() {
        match character {
            '|' => octets.extend_from_slice(b"\r\n"),
            '¿' => octets.push(0xff),
            other => octets.push(u8::try_from(other).unwrap()),
        }
    }
    octets
}

#[test]
fn requests_are_read() {
    for (text, expected) in [
        ("GET / HTTP/1.1|Host: a||", &["GET / 1.1 at a"][..]),
        ("|GET / HTTP/1.1|Host: a||", &["GET / 1.1 at a"]),
        ("GET /x?y=1?2 HTTP/1.0||", &["GET /x?y=1?2 1.0 at  close"]),
        ("GET / HTTP/1.0|Host: h|Connection: Keep-Alive||", &["GET / 1.0 at h"]),
        ("GET / HTTP/1.1|Host:||", &["GET / 1.1 at "]),
        ("GET / HTTP/1.1|hOST:  [::1]:8000\t||", &["GET / 1.1 at [::1]:8000"]),
        ("GET / HTTP/1.1|Host: a|Connection: foo, CLOSE||", &["GET / 1.1 at a close"]),
        ("GET / HTTP/1.1|Host: a|Connection: a|Connection: close||", &["GET / 1.1 at a close"]),
        ("GET http://a:1/x?y HTTP/1.1|Host: A:1||", &["GET /x?y 1.1 at A:1"]),
        ("GET https://a?y HTTP/1.1|Host: a||", &["GET /?y 1.1 at a"]),
        ("GET HTTP://a HTTP/1.0||", &["GET / 1.0 at a close"]),
        ("OPTIONS * HTTP/1.1|Host: a||", &["OPTIONS * 1.1 at a"]),
        ("BREW /pot HTTP/1.1|Host: a||", &["(other) /pot 1.1 at a"]),
        ("get / HTTP/1.1|Host: a||", &["(other) / 1.1 at a"]),
        ("GET / HTTP/1.1|Host: a|X: ¿é|Empty:|E2: ||", &["GET / 1.1 at a"]),
        ("POST / HTTP/1.1|Host: a|Content-Length: 5||hello", &["POST / 1.1 at a body hello"]),
        ("POST / HTTP/1.1|Host: a|Content-Length: 005||hello", &["POST / 1.1 at a body hello"]),
        ("POST / HTTP/1.1|Host: a|Content-Length: 0||", &["POST / 1.1 at a"]),
        ("POST / HTTP/1.1|Host: a||", &["POST / 1.1 at a"]),
        ("GET / HTTP/1.1|Host: a|Content-Length: 4||null", &["GET / 1.1 at a body null"]),
        (
            "POST / HTTP/1.1|Host: a|Content-Length: 20||hello, this is longer",
            &["POST / 1.1 at a body hello, this is longe", "partial"],
        ),
        ("POST / HTTP/1.1|Host: a|Expect: 100-Continue|Content-Length: 1||x", &["POST / 1.1 at a continue body x"]),
        ("POST / HTTP/1.0|Expect: 100-continue|Content-Length: 1||x", &["POST / 1.0 at  close body x"]),
        ("POST / HTTP/1.1|Host: a|Content-Encoding: GZIP|Content-Length: 1||x", &["POST / 1.1 at a Gzip body x"]),
        ("POST / HTTP/1.1|Host: a|Content-Encoding: deflate||", &["POST / 1.1 at a Deflate"]),
        ("POST / HTTP/1.1|Host: a|Content-Encoding: identity||", &["POST / 1.1 at a"]),
        ("POST / HTTP/1.1|Host: a|Content-Encoding: gzip, gzip||", &["POST / 1.1 at a Unknown"]),
        ("POST / HTTP/1.1|Host: a|Content-Encoding: gzip|Content-Encoding: br||", &["POST / 1.1 at a Unknown"]),
        (
            "GET /1 HTTP/1.1|Host: a||POST /2 HTTP/1.1|Host: b|Content-Length: 2||hiGET /3 HTTP/1.1|Host: c||GET",
            &["GET /1 1.1 at a", "POST /2 1.1 at b body hi", "GET /3 1.1 at c", "partial"],
        ),
        ("GET / HTTP/1.1|Host: a|", &["partial"]),
        ("POST / HTTP/1.1|Host: a|Content-Length: 5||hell", &["cut off"]),
    ] {
        check(text, expected);
    }
}

#[test]
fn chunks_are_read() {
    let request = |rest: &str| format!("POST / HTTP/1.1|Host: a|Transfer-Encoding: Chunked||{rest}");
    for (rest, expected) in [
        ("5|hello|0||", &["POST / 1.1 at a body hello"][..]),
        ("0||", &["POST / 1.1 at a"]),
        ("000||", &["POST / 1.1 at a"]),
        ("5|hello|B|, it's me, |0001|x|0||", &["POST / 1.1 at a body hello, it's me, x"]),
        ("5;a=b;c=\"d e\"|hello|0;x||", &["POST / 1.1 at a body hello"]),
        ("1|x|0|X-Sum: 1|Content-Length: 9||GET / HTTP/1.1|Host: b||", &["POST / 1.1 at a body x", "GET / 1.1 at b"]),
        ("1|x|0||0|", &["POST / 1.1 at a body x", "partial"]),
        ("1|x|0|", &["cut off"]),
        ("|", &["400 a chunk has no size"]),
        (";a|", &["400 a chunk has no size"]),
        ("-1|x|", &["400 a chunk has no size"]),
        ("+1|x|", &["400 a chunk has no size"]),
        (" 1|x|", &["400 a chunk has no size"]),
        ("0x1|x|", &["400 a chunk's size is no hexadecimal number"]),
        ("1 |x|", &["400 a chunk's size is no hexadecimal number"]),
        ("1_0|x|", &["400 a chunk's size is no hexadecimal number"]),
        ("1\nx\n0\n\n", &["400 a chunk's size is no hexadecimal number"]),
        ("1\rx", &["400 a chunk's size line is malformed"]),
        ("1;a\nx", &["400 a chunk's size line is malformed"]),
        ("1;a\0|x|0||", &["400 a chunk's size line is malformed"]),
        ("1;a\rb|x|0||", &["400 a chunk's size line is malformed"]),
        ("1|xy|0||", &["400 a chunk is longer than its size"]),
        ("1|x\n0||", &["400 a chunk is longer than its size"]),
        ("1|x\r0||", &["400 a chunk is longer than its size"]),
        ("1000000000000000|", &["400 a chunk's size has too many digits"]),
        ("0|X-A b||", &["400 the trailer section is malformed"]),
        ("0|: b||", &["400 the trailer section is malformed"]),
        ("0|X: b\n||", &["400 the trailer section is malformed"]),
        ("0|X: b|\tc||", &["400 the trailer section is malformed"]),
        ("0|X : b||", &["400 the trailer section is malformed"]),
        ("0\n\n", &["400 a chunk's size is no hexadecimal number"]),
        ("0|\n", &["400 the trailer section is malformed"]),
        ("0|\rx", &["400 the trailer section is malformed"]),
    ] {
        check(&request(rest), expected);
    }
    let long_line = format!("1;{}|x|0||", "e".repeat(300));
    check(&request(&long_line), &["400 a chunk's size line is longer than 256 octets"]);
    let many = format!("1;{}|x|", "e".repeat(200)).repeat(30);
    check(&request(&many), &["400 the chunk extensions are longer than 4096 octets"]);
    let small = format!("{}0||", "1|x|".repeat(10_000));
    check(&request(&small), &[&format!("POST / 1.1 at a body {}", "x".repeat(10_000))]);
    let trailers = format!("0|{}", "X: y|".repeat(1000));
    check(&request(&trailers), &["431 the trailers are longer than 4096 octets"]);
}

/// Everything by which one implementation could be made to see another request than the next.
#[test]
fn ambiguous_requests_are_refused() {
    let one_chunked = "400 the only Transfer-Encoding taken is one `chunked`";
    let length = "400 Content-Length must be there once, and be a number";
    for (fields, expected) in [
        ("Content-Length: 1|Transfer-Encoding: chunked", "400 both Content-Length and Transfer-Encoding are there"),
        ("Transfer-Encoding: chunked|Content-Length: 0", "400 both Content-Length and Transfer-Encoding are there"),
        ("Content-Length: 5|Content-Length: 5", length),
        ("Content-Length: 5|Content-Length: 6", length),
        ("Content-Length: 5, 5", length),
        ("Content-Length: +5", length),
        ("Content-Length: -5", length),
        ("Content-Length: 0x5", length),
        ("Content-Length: 5 5", length),
        ("Content-Length: 5;", length),
        ("Content-Length: ¿", length),
        ("Content-Length:", length),
        ("Content-Length: 9999999999999999999", length),
        ("Transfer-Encoding: gzip, chunked", one_chunked),
        ("Transfer-Encoding: chunked, chunked", one_chunked),
        ("Transfer-Encoding: chunked, identity", one_chunked),
        ("Transfer-Encoding: identity", one_chunked),
        ("Transfer-Encoding: xchunked", one_chunked),
        ("Transfer-Encoding: chunked;q=1", one_chunked),
        ("Transfer-Encoding: \"chunked\"", one_chunked),
        ("Transfer-Encoding: chunk\u{b}ed", "400 the request's head is malformed: invalid header value"),
        ("Transfer-Encoding:", one_chunked),
        ("Transfer-Encoding: chunked|Transfer-Encoding: chunked", one_chunked),
        ("Transfer-Encoding: gzip|Transfer-Encoding: chunked", one_chunked),
        ("Transfer-Encoding : chunked", "400 the request's head is malformed: invalid header name"),
        ("Transfer-Encoding\t: chunked", "400 the request's head is malformed: invalid header name"),
        (" Transfer-Encoding: chunked", "400 a header field goes on in a second line"),
        ("X: a|\tTransfer-Encoding: chunked", "400 a header field goes on in a second line"),
        ("X: a| ", "400 a header field goes on in a second line"),
        ("X: a\nTransfer-Encoding: chunked", "400 a line ends with LF alone"),
        ("X: a\rTransfer-Encoding: chunked", "400 a CR stands alone"),
        ("X: a\r\r\nY: b", "400 a CR stands alone"),
        ("X: a\0", "400 the head holds NUL"),
        ("X: a\u{7f}", "400 the request's head is malformed: invalid header value"),
        ("Transfer\0-Encoding: chunked", "400 the head holds NUL"),
        ("X", "400 the request's head is malformed: invalid header name"),
        (": x", "400 the request's head is malformed: invalid header name"),
        ("X(: x", "400 the request's head is malformed: invalid header name"),
        ("Host: b", "400 the Host field is there twice"),
        ("Expect: 200-ok", "417 the only expectation met is `100-continue`"),
        ("Expect: 100-continue|Expect: 100-continue", "417 the only expectation met is `100-continue`"),
    ] {
        check(&format!("POST / HTTP/1.1|Host: a|{fields}||0||"), &[expected]);
    }
    check("POST / HTTP/1.0|Transfer-Encoding: chunked||0||", &["400 HTTP/1.0 has no Transfer-Encoding"]);
    check("POST / HTTP/1.0||{}", &["411 with HTTP/1.0 a body needs a Content-Length"]);
}

#[test]
fn request_lines_and_hosts_are_checked() {
    let other = "505 only HTTP/1.0 and HTTP/1.1 are spoken here";
    for (text, expected) in [
        ("PRI * HTTP/2.0||SM||", other),
        ("GET / HTTP/1.2|Host: a||", other),
        ("GET / HTTP/0.9|Host: a||", other),
        ("GET / HTTP/3.0|Host: a||", other),
        ("GET / http/1.1|Host: a||", "400 the request line names no version of HTTP"),
        ("GET / HTTP/1.10|Host: a||", "400 the request's head is malformed: invalid new line"),
        ("GET /||", "400 "),
        ("GET||", "400 "),
        ("||||", "400 there is no request line"),
        ("GET  / HTTP/1.1|Host: a||", "400 "),
        ("GET /  HTTP/1.1|Host: a||", "400 "),
        ("GET / HTTP/1.1 |Host: a||", "400 "),
        (" GET / HTTP/1.1|Host: a||", "400 "),
        ("GET\t/ HTTP/1.1|Host: a||", "400 "),
        ("G(T / HTTP/1.1|Host: a||", "400 "),
        ("GET /\u{7f} HTTP/1.1|Host: a||", "400 "),
        ("GET /é HTTP/1.1|Host: a||", "400 "),
        ("GET /¿ HTTP/1.1|Host: a||", "400 "),
        ("GET /#x HTTP/1.1|Host: a||", "400 the request's target holds octets that no URL may hold"),
        ("GET x HTTP/1.1|Host: a||", "400 the request's target is malformed"),
        ("GET * HTTP/1.1|Host: a||", "400 the request's target is malformed"),
        ("CONNECT a:1 HTTP/1.1|Host: a||", "400 the request's target is malformed"),
        ("GET ftp://a/ HTTP/1.1|Host: a||", "400 the request's target is of a scheme that is not spoken here"),
        ("GET http:///x HTTP/1.1|Host: a||", "400 the request's target names no host, or a user"),
        ("GET http://u@a/x HTTP/1.1|Host: a||", "400 the request's target names no host, or a user"),
        ("GET http://b/ HTTP/1.1|Host: a||", "400 the Host field and the request's target differ"),
        ("GET http://b/ HTTP/1.1||", "400 the Host field is missing"),
        ("GET / HTTP/1.1||", "400 the Host field is missing"),
        ("GET / HTTP/1.0|Host: a|Host: a||", "400 the Host field is there twice"),
        ("GET / HTTP/1.1|Host: a b||", "400 the Host field holds no host"),
        ("GET / HTTP/1.1|Host: a,b||", "400 the Host field holds no host"),
        ("GET / HTTP/1.1|Host: a/b||", "400 the Host field holds no host"),
        ("GET / HTTP/1.1|Host: u@a||", "400 the Host field holds no host"),
        ("GET / HTTP/1.1|Host: ¿||", "400 the Host field holds no host"),
        ("\u{16}\u{3}\u{1}\u{2}\0\u{1}", "400 the head holds NUL"),
    ] {
        let found = read(&octets(text), || usize::MAX);
        if expected == "400 " {
            assert!(found.len() == 1 && found[0].starts_with(expected), "{text}: {found:?}");
        } else {
            check(text, &[expected]);
        }
    }
}

#[test]
fn heads_are_bounded() {
    let line = |octets: usize| format!("GET /{} HTTP/1.1|Host: a||", "x".repeat(octets - "GET / HTTP/1.1".len()));
    let path = "x".repeat(REQUEST_LINE_BYTES_MAX - "GET / HTTP/1.1".len());
    check(&line(REQUEST_LINE_BYTES_MAX), &[&format!("GET /{path} 1.1 at a")]);
    let long_line = format!("414 the request line is longer than {REQUEST_LINE_BYTES_MAX} octets");
    check(&line(REQUEST_LINE_BYTES_MAX + 1), &[&long_line]);
    check(&"x".repeat(REQUEST_LINE_BYTES_MAX + 2), &[&long_line]);
    check(&format!("|{}", line(REQUEST_LINE_BYTES_MAX + 1)), &[&long_line]);
    let head = |octets: usize| {
        let rest = "GET / HTTP/1.1|Host: a|X: ||";
        let of_rest = rest.len() + rest.matches('|').count();
        rest.replace("X: ", &format!("X: {}", "x".repeat(octets - of_rest)))
    };
    check(&head(HEAD_BYTES_MAX), &["GET / 1.1 at a"]);
    let long_head = format!("431 the request's head is longer than {HEAD_BYTES_MAX} octets");
    check(&head(HEAD_BYTES_MAX + 1), &[&long_head]);
    check(&head(HEAD_BYTES_MAX * 3), &[&long_head]);
    let fields = |count: usize| format!("GET / HTTP/1.1|Host: a|{}|", "X: y|".repeat(count - 1));
    check(&fields(HEADERS_MAX), &["GET / 1.1 at a"]);
    check(&fields(HEADERS_MAX + 1), &[&format!("431 the request has more than {HEADERS_MAX} header fields")]);
}

#[test]
fn a_head_that_is_refused_asks_for_a_path_all_the_same() {
    for (octets, path) in [
        (&b""[..], ""),
        (b"GET", ""),
        (b"GET ", ""),
        (b"GET /v1/rul", "/v1/rul"),
        (b"GET /v1/rules?a=/b HTTP/9.9\r\n", "/v1/rules"),
        (b"\r\nPOST /v1/inject HTTP/1.1\r\nHost: /x y\r\n", "/v1/inject"),
        (b"GET http://a.test/v1/rules?b HTTP/1.1\r\n", "/v1/rules"),
        (b"GET http://a.test HTTP/1.1\r\n", ""),
        (b"GET /v1/\xff\xfe HTTP/1.1\r\n", "/v1/"),
        (b"GET /v1/a\n/b HTTP/1.1\r\n", "/v1/a"),
        (b"\x16\x03\x01 \xff", ""),
    ] {
        assert_eq!(asked_path(octets), path, "{}", octets.escape_ascii());
    }
}

/// Whatever comes, nothing panics, nothing is read twice, and pieces make no difference.
#[test]
fn nonsense_is_survived() {
    let seeds = [
        "POST /a?b HTTP/1.1|Host: a|Transfer-Encoding: chunked|X: y||5;e|hello|a|0123456789|0|T: u||GET / HTTP/1.0||",
        "PUT http://a/ HTTP/1.1|Host: a|Content-Length: 12|Connection: close||hello, world",
        "|GET / HTTP/1.1|Host: [::1]:80|Expect: 100-continue|Content-Encoding: gzip||GET / HTTP/1.1|Host: x||",
    ];
    let mut numbers = Numbers(42);
    let telling = b"\r\n\t :;,0159aAf/?%\0\x7f\x80\xff";
    for round in 0..60_000 {
        let mut octets = octets(seeds[round % seeds.len()]);
        for _ in 0..=numbers.below(4) {
            let at = numbers.below(octets.len());
            let octet = telling[numbers.below(telling.len())];
            match numbers.below(4) {
                0 => octets[at] = octet,
                1 => octets.insert(at, octet),
                2 => drop(octets.remove(at)),
                _ => {
                    let end = (at + numbers.below(20)).min(octets.len());
                    let copy = octets[at..end].to_vec();
                    octets.splice(at..at, copy);
                }
            }
        }
        let whole = read(&octets, || usize::MAX);
        let total: usize = whole.iter().map(|line| line.split(" body ").nth(1).map_or(0, str::len)).sum();
        assert!(total <= octets.len() * 3, "a body is never longer than what carried it: {whole:?}");
        assert_eq!(read(&octets, || 1 + numbers.below(9)), whole, "{:?}", String::from_utf8_lossy(&octets));
    }
}
