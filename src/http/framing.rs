//! Where a request's body ends, whether it is compressed, whether the connection goes on: from the header
//! fields alone (RFC 9112 §6, §9.3). Anything that two implementations could read differently is refused: a
//! proxy in front of us must never see another request than we do.

use super::head::{Coding, Framing, Headers, Version};
use super::parse::bad;
use super::refusal::Refusal;

/// Digits of a length; nobody sends more octets than eighteen digits tell.
const LENGTH_DIGITS_MAX: usize = 18;

/// The body's end and its compression.
///
/// # Errors
/// 400.
pub fn of(headers: &Headers, version: Version) -> Result<(Framing, Coding), Refusal> {
    let lengths = headers.all("content-length").count();
    let framing = match headers.all("transfer-encoding").count() {
        0 => length(headers, lengths)?,
        _ if lengths > 0 => return Err(bad("both Content-Length and Transfer-Encoding are there")),
        _ if version == Version::Http10 => return Err(bad("HTTP/1.0 has no Transfer-Encoding")),
        // Of two fields one might be overlooked; of two codings we would have to undo the first.
        1 if headers.get("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) => {
            Framing::Chunked
        }
        _ => return Err(bad("the only Transfer-Encoding taken is one `chunked`")),
    };
    Ok((framing, coding(headers)))
}

fn length(headers: &Headers, fields: usize) -> Result<Framing, Refusal> {
    if fields == 0 {
        return Ok(Framing::None);
    }
    // More than one field, or a list in one, could be read as either (RFC 9112 §6.3 lets us refuse equal ones, too).
    let digits = headers.get("content-length").filter(|text| {
        (1..=LENGTH_DIGITS_MAX).contains(&text.len()) && text.bytes().all(|octet| octet.is_ascii_digit())
    });
    match digits.and_then(|text| text.parse().ok()) {
        None => Err(bad("Content-Length must be there once, and be a number")),
        Some(0) => Ok(Framing::None),
        Some(length) => Ok(Framing::Length(length)),
    }
}

/// A coding that is not known here is no matter until somebody wants to read the body.
fn coding(headers: &Headers) -> Coding {
    if !headers.has("content-encoding") {
        return Coding::Identity;
    }
    match headers.get("content-encoding").unwrap_or("?").to_ascii_lowercase().as_str() {
        "identity" | "" => Coding::Identity,
        "gzip" | "x-gzip" => Coding::Gzip,
        "deflate" => Coding::Deflate,
        _ => Coding::Unknown,
    }
}

/// Whether the peer waits for `100 Continue`. HTTP/1.0 knows no such thing (RFC 9110 §10.1.1).
///
/// # Errors
/// 417 for any other expectation.
pub fn expects_continue(headers: &Headers, version: Version) -> Result<bool, Refusal> {
    if version == Version::Http10 || !headers.has("expect") {
        return Ok(false);
    }
    match headers.get("expect") {
        Some(value) if value.eq_ignore_ascii_case("100-continue") => Ok(true),
        _ => Err(Refusal::closing(417, "the only expectation met is `100-continue`")),
    }
}

/// Whether the connection may carry another request (RFC 9112 §9.3).
pub fn keep_alive(headers: &Headers, version: Version) -> bool {
    let has = |option: &str| {
        headers.all("connection").any(|value| {
            value.split(|octet| *octet == b',').any(|word| word.trim_ascii().eq_ignore_ascii_case(option.as_bytes()))
        })
    };
    !has("close") && (version == Version::Http11 || has("keep-alive"))
}
