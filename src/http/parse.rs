//! A request's head: octets to [`Head`], or why not. The one door to httparse, which takes the fields apart;
//! what it tolerates and we do not is looked for first. Waits for nothing and keeps nothing.

use super::framing;
use super::head::{Head, Headers, Method, Version};
use super::limits::{HEAD_BYTES_MAX, HEADERS_MAX, REQUEST_LINE_BYTES_MAX};
use super::refusal::Refusal;
use std::ops::Range;

/// What the octets received so far are.
#[derive(Debug)]
pub enum Parsed {
    /// The beginning of a head that may still be right.
    Partial,
    /// A head, and how many octets it took.
    Whole(Box<Head>, usize),
}

/// Looks at the beginning of `octets`. Call again when there are more; `scanned` remembers how far they were
/// looked at (zero at first), so that a head that comes octet by octet is not searched again each time.
///
/// # Errors
/// 400, 411, 414, 417, 431 or 505: the connection must end, for nobody knows where the next request begins.
pub fn parse(octets: &[u8], scanned: &mut usize) -> Result<Parsed, Refusal> {
    // A server should let an empty line before a request pass (RFC 9112 §2.2); one is enough.
    let leading = if octets.starts_with(b"\r\n") { 2 } else { 0 };
    let Some(end) = find_end(octets, leading, scanned)? else {
        return Ok(Parsed::Partial);
    };
    let block = &octets[leading..end];
    if block.starts_with(b"\r") {
        return Err(bad("there is no request line"));
    }
    if block.windows(3).any(|three| matches!(three, b"\r\n " | b"\r\n\t")) {
        return Err(bad("a header field goes on in a second line"));
    }
    head(block).map(|head| Parsed::Whole(Box::new(head), end))
}

/// The path that a head seems to ask for which was refused, or did not come to its end; empty where there is none to be
/// seen. For the form of the refusal, and nothing else.
pub fn asked_path(octets: &[u8]) -> &str {
    let octets = octets.strip_prefix(b"\r\n").unwrap_or(octets);
    let line = octets.split(|octet| matches!(octet, b'\r' | b'\n')).next().unwrap_or_default();
    let target = line.split(|octet| *octet == b' ').nth(1).unwrap_or_default();
    let target = match std::str::from_utf8(target) {
        Ok(text) => text,
        Err(error) => std::str::from_utf8(&target[..error.valid_up_to()]).unwrap_or_default(),
    };
    let path = target.split_once("://").map_or(target, |(_, rest)| rest.find('/').map_or("", |at| &rest[at..]));
    path.split('?').next().unwrap_or_default()
}

/// Where the head ends, behind its empty line. Refuses what no head may hold on the way: line ends that are
/// not CR LF, and NUL; some implementations end a line there, and then see other fields than we do.
fn find_end(octets: &[u8], leading: usize, scanned: &mut usize) -> Result<Option<usize>, Refusal> {
    let within = octets.len().min(HEAD_BYTES_MAX);
    let seen = octets.get(leading..*scanned).unwrap_or_default();
    let mut line_ended = seen.contains(&b'\n');
    for at in (*scanned).max(leading)..within {
        let before = if at > leading { octets[at - 1] } else { 0 };
        match octets[at] {
            b'\n' if before != b'\r' => return Err(bad("a line ends with LF alone")),
            b'\n' if octets[leading..=at].ends_with(b"\r\n\r\n") => return Ok(Some(at + 1)),
            b'\n' => line_ended = true,
            _ if before == b'\r' => return Err(bad("a CR stands alone")),
            0 => return Err(bad("the head holds NUL")),
            _ if !line_ended && at - leading > REQUEST_LINE_BYTES_MAX => {
                let text = format!("the request line is longer than {REQUEST_LINE_BYTES_MAX} octets");
                return Err(Refusal::closing(414, text));
            }
            _ => {}
        }
        *scanned = at + 1;
    }
    if octets.len() >= HEAD_BYTES_MAX {
        return Err(Refusal::closing(431, format!("the request's head is longer than {HEAD_BYTES_MAX} octets")));
    }
    Ok(None)
}

fn head(block: &[u8]) -> Result<Head, Refusal> {
    let mut fields = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut fields);
    match request.parse(block) {
        Ok(httparse::Status::Complete(length)) if length == block.len() => {}
        Ok(_) => return Err(bad("the request's head is malformed")),
        Err(httparse::Error::Version) => return Err(version_refused(block)),
        Err(httparse::Error::TooManyHeaders) => {
            return Err(Refusal::closing(431, format!("the request has more than {HEADERS_MAX} header fields")));
        }
        Err(error) => return Err(bad(format!("the request's head is malformed: {error}"))),
    }
    let (Some(method), Some(target), Some(minor)) = (request.method, request.path, request.version) else {
        return Err(bad("the request line is malformed"));
    };
    let version = if minor == 0 { Version::Http10 } else { Version::Http11 };
    let method = Method::of(method);
    let place = |part: &[u8]| -> Range<u16> {
        // Both point into the block: httparse copies nothing.
        let start = part.as_ptr() as usize - block.as_ptr() as usize;
        let position = |at: usize| u16::try_from(at).expect("a head is shorter than 64 KiB");
        position(start)..position(start + part.len())
    };
    let places = request
        .headers
        .iter()
        .map(|field| {
            // An empty value may point at nothing.
            let value = if field.value.is_empty() { 0..0 } else { place(field.value) };
            (place(field.name.as_bytes()), value)
        })
        .collect();
    let target = Target::parse(method, target)?;
    let headers = Headers { block: block.into(), fields: places };
    let host = host(&headers, version, target.authority)?;
    let (framing, coding) = framing::of(&headers, version)?;
    let may_carry = matches!(method, Method::Post | Method::Put);
    if version == Version::Http10 && may_carry && !headers.has("content-length") {
        // Such a body would end with the connection, and so could not be told from one that was cut off.
        return Err(Refusal::closing(411, "with HTTP/1.0 a body needs a Content-Length"));
    }
    Ok(Head {
        method,
        path: target.path.into(),
        query: target.query.into(),
        host,
        version,
        expects_continue: framing::expects_continue(&headers, version)?,
        keep_alive: framing::keep_alive(&headers, version),
        headers,
        framing,
        coding,
    })
}

/// A version that we do not speak, HTTP/2's preface among them, or something that is no version.
fn version_refused(block: &[u8]) -> Refusal {
    let line = block.split(|octet| *octet == b'\r').next().unwrap_or_default();
    let version = line.rsplit(|octet| *octet == b' ').next().unwrap_or_default();
    match version {
        // The version is right, so something before it was not.
        b"HTTP/1.0" | b"HTTP/1.1" => bad("the request line is malformed"),
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor] if major.is_ascii_digit() && minor.is_ascii_digit() => {
            Refusal::closing(505, "only HTTP/1.0 and HTTP/1.1 are spoken here")
        }
        _ => bad("the request line names no version of HTTP"),
    }
}

struct Target<'a> {
    authority: Option<&'a str>,
    path: &'a str,
    query: &'a str,
}

impl<'a> Target<'a> {
    /// Origin form, absolute form, or the asterisk of OPTIONS (RFC 9112 §3.2). The authority form is
    /// CONNECT's, which nobody needs here.
    fn parse(method: Method, target: &'a str) -> Result<Self, Refusal> {
        if !target.bytes().all(|octet| octet.is_ascii_graphic()) || target.contains('#') {
            return Err(bad("the request's target holds octets that no URL may hold"));
        }
        let split = |text: &'a str| text.split_once('?').unwrap_or((text, ""));
        if target.starts_with('/') {
            let (path, query) = split(target);
            return Ok(Self { authority: None, path, query });
        }
        if target == "*" && method == Method::Options {
            return Ok(Self { authority: None, path: "*", query: "" });
        }
        let (scheme, rest) = target.split_once("://").ok_or_else(|| bad("the request's target is malformed"))?;
        if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
            return Err(bad("the request's target is of a scheme that is not spoken here"));
        }
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, rest) = rest.split_at(end);
        let (path, query) = split(rest);
        if authority.is_empty() || authority.contains('@') {
            return Err(bad("the request's target names no host, or a user"));
        }
        Ok(Self { authority: Some(authority), path: if path.is_empty() { "/" } else { path }, query })
    }
}

/// The authority asked for. Host must be there once in HTTP/1.1 (RFC 9112 §3.2), and agree with the target:
/// who differs about that may be told two stories.
fn host(headers: &Headers, version: Version, authority: Option<&str>) -> Result<Box<str>, Refusal> {
    let mut all = headers.all("host");
    let value = match (all.next(), all.next()) {
        (None, _) if version == Version::Http11 => return Err(bad("the Host field is missing")),
        (None, _) => return Ok(authority.unwrap_or_default().into()),
        (Some(_), Some(_)) => return Err(bad("the Host field is there twice")),
        (Some(value), None) => value,
    };
    let fits = |octet: &u8| octet.is_ascii_alphanumeric() || b"-._~:[]%".contains(octet);
    let value = std::str::from_utf8(value).ok().filter(|text| text.as_bytes().iter().all(fits));
    let value = value.ok_or_else(|| bad("the Host field holds no host"))?;
    match authority {
        Some(authority) if !authority.eq_ignore_ascii_case(value) => {
            Err(bad("the Host field and the request's target differ"))
        }
        _ => Ok(value.into()),
    }
}

/// 400, and the end.
pub(super) fn bad(text: impl Into<std::borrow::Cow<'static, str>>) -> Refusal {
    Refusal::closing(400, text)
}

#[cfg(test)]
#[path = "parse_tests.rs"]
mod tests;
