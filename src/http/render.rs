//! A response's head, as octets. Pure: the date is given.

use super::head::{Method, Version};
use super::response::{Content, Response};
use mailrace_shards::time::Timestamp;
use std::fmt::Write;

/// How a response's body is told from what follows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delimiter {
    /// Content-Length, or there is no body.
    Length,
    /// Chunks.
    Chunks,
    /// The connection's end (HTTP/1.0).
    Close,
}

/// How this response's body is to be sent to a peer of that version.
#[must_use]
pub fn delimiter(response: &Response, version: Version) -> Delimiter {
    match (&response.content, version) {
        (Content::Full(_), _) => Delimiter::Length,
        (Content::Stream(_), Version::Http11) => Delimiter::Chunks,
        (Content::Stream(_), Version::Http10) => Delimiter::Close,
    }
}

/// The status line and all header fields, to the empty line. `None` when a header's value holds what none may
/// hold: a line end in it would make two answers of one.
#[must_use]
pub fn head(response: &Response, version: Version, keep_alive: bool, now: Timestamp) -> Option<String> {
    let mut out = String::with_capacity(256);
    let mut line = |name: &str, value: &str| {
        let written = write!(out, "{name}{value}\r\n");
        debug_assert!(written.is_ok(), "a String takes all");
    };
    line("HTTP/1.1 ", &format!("{} {}", response.status, reason(response.status)));
    line("Date: ", &date(now));
    if let Some(content_type) = response.content_type {
        line("Content-Type: ", content_type);
    }
    for (name, value) in &response.headers {
        if !value.bytes().all(|octet| octet == b'\t' || (b' '..=b'~').contains(&octet)) {
            return None;
        }
        line(name, &format!(": {value}"));
    }
    match (&response.content, delimiter(response, version)) {
        // Neither has a body, nor a length (RFC 9110 §8.6).
        _ if matches!(response.status, 204 | 304) => {}
        (Content::Full(body), _) => line("Content-Length: ", &body.len().to_string()),
        (Content::Stream(_), Delimiter::Chunks) => line("Transfer-Encoding: ", "chunked"),
        (Content::Stream(_), _) => {}
    }
    // Answers tell of mail and rules as they are now, and to this peer; and a browser must not guess at them.
    line("Cache-Control: ", "no-store");
    line("X-Content-Type-Options: ", "nosniff");
    match (keep_alive, version) {
        (false, _) => line("Connection: ", "close"),
        (true, Version::Http10) => line("Connection: ", "keep-alive"),
        (true, Version::Http11) => {}
    }
    out.push_str("\r\n");
    Some(out)
}

/// Whether the body is sent.
#[must_use]
pub fn has_body(response: &Response, method: Method) -> bool {
    method != Method::Head && !matches!(response.status, 204 | 304)
}

/// RFC 9110 §5.6.7.
fn date(now: Timestamp) -> String {
    jiff::Timestamp::from_millisecond(now.0)
        .ok()
        .and_then(|at| jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&at).ok())
        .unwrap_or_else(|| "Thu, 01 Jan 1970 00:00:00 GMT".to_owned())
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        304 => "Not Modified",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        411 => "Length Required",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        417 => "Expectation Failed",
        422 => "Unprocessable Content",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        507 => "Insufficient Storage",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::super::response::{Chunk, Stream};
    use super::super::{Response, Version, Waiting};
    use super::{Delimiter, date, delimiter, head};
    use mailrace_shards::time::Timestamp;

    struct Nothing;

    impl Stream for Nothing {
        fn next(&mut self) -> Waiting<'_, Chunk> {
            Box::pin(async { Chunk::End })
        }
    }

    const NOW: Timestamp = Timestamp(784_111_777_000);
    const COMMON: &str = "Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n";

    #[test]
    fn heads() {
        let stream = || Response::stream(200, "application/x-ndjson", Box::new(Nothing));
        for (response, version, keep_alive, expected) in [
            (
                Response::text(200, "OK"),
                Version::Http11,
                true,
                format!("200 OK\r\n@Content-Type: text/plain; charset=utf-8\r\nContent-Length: 2\r\n{COMMON}\r\n"),
            ),
            (
                Response::empty(405).with("Allow", "GET, HEAD"),
                Version::Http10,
                false,
                format!(
                    "405 Method Not Allowed\r\n@Allow: GET, HEAD\r\nContent-Length: 0\r\n{COMMON}Connection: close\r\n\r\n"
                ),
            ),
            (
                Response::empty(204),
                Version::Http10,
                true,
                format!("204 No Content\r\n@{COMMON}Connection: keep-alive\r\n\r\n"),
            ),
            (
                stream(),
                Version::Http11,
                true,
                format!("200 OK\r\n@Content-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n{COMMON}\r\n"),
            ),
            (
                stream(),
                Version::Http10,
                false,
                format!("200 OK\r\n@Content-Type: application/x-ndjson\r\n{COMMON}Connection: close\r\n\r\n"),
            ),
            (Response::empty(299), Version::Http11, true, format!("299 \r\n@Content-Length: 0\r\n{COMMON}\r\n")),
        ] {
            let expected = expected.replace('@', "Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n");
            assert_eq!(head(&response, version, keep_alive, NOW).unwrap(), format!("HTTP/1.1 {expected}"));
        }
        assert_eq!(delimiter(&stream(), Version::Http10), Delimiter::Close);
    }

    #[test]
    fn a_header_holds_no_line_end() {
        for value in ["a\r\nSet-Cookie: b", "a\nb", "a\0", "é"] {
            assert_eq!(head(&Response::empty(200).with("X-A", value), Version::Http11, true, NOW), None, "{value:?}");
        }
    }

    #[test]
    fn dates_are_of_the_fixed_format() {
        assert_eq!(date(Timestamp(0)), "Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(date(Timestamp(i64::MAX)), "Thu, 01 Jan 1970 00:00:00 GMT");
    }
}
