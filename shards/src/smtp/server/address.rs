//! Addresses of the envelope (RFC 5321 §4.1.2, RFC 6531 §3.3): checked, source routes dropped, domains made
//! lower-case A-labels. The local part is never changed: only its own domain may read meaning into it.

use crate::limits::{ADDRESS_BYTES_MAX, LOCAL_PART_BYTES_MAX};
use std::borrow::Cow;
use std::net::{Ipv4Addr, Ipv6Addr};

/// What is wrong with an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressError {
    /// Not `<path>`, or characters that have to be quoted.
    Syntax,
    /// No domain.
    NoDomain,
    /// Not a domain name.
    Domain,
    /// Not an address literal that we know (RFC 5321 §4.1.3).
    Literal,
    /// Local part or whole over the bounds of RFC 5321 §4.5.3.1.
    TooLong,
    /// Octets above 127 that are not UTF-8.
    Encoding,
}

impl AddressError {
    /// For a reply or a log line.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Syntax => "Address syntax",
            Self::NoDomain => "Address needs a domain",
            Self::Domain => "Not a domain name",
            Self::Literal => "Not an address literal",
            Self::TooLong => "Address too long",
            Self::Encoding => "Address is not UTF-8",
        }
    }
}

/// A path and what follows it on the line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Path<'a> {
    /// Without brackets and source route; empty for `<>`.
    pub(super) address: Box<str>,
    /// It was given without octets above 127.
    pub(super) ascii: bool,
    /// What follows the closing bracket.
    pub(super) rest: &'a [u8],
}

/// Parses `<path>` at the beginning of `text`.
pub(super) fn path(text: &[u8]) -> Result<Path<'_>, AddressError> {
    let inner = text.strip_prefix(b"<").ok_or(AddressError::Syntax)?;
    if let Some(rest) = inner.strip_prefix(b">") {
        return delimited(rest).map(|rest| Path { address: Box::default(), ascii: true, rest });
    }
    let inner = without_route(inner)?;
    let end = closing_bracket(inner).ok_or(AddressError::Syntax)?;
    let address = &inner[..end];
    let rest = delimited(&inner[end + 1..])?;
    let text = std::str::from_utf8(address).map_err(|_| AddressError::Encoding)?;
    Ok(Path { address: mailbox(text)?, ascii: text.is_ascii(), rest })
}

/// Checks `local@domain` without brackets, and makes its domain lower-case A-labels or a canonical literal.
pub fn mailbox(text: &str) -> Result<Box<str>, AddressError> {
    let octets = text.as_bytes();
    let local = local_part(octets)?;
    let domain = match octets.get(local) {
        None => return Err(AddressError::NoDomain),
        Some(b'@') => &text[local + 1..],
        Some(_) => return Err(AddressError::Syntax),
    };
    if local > LOCAL_PART_BYTES_MAX {
        return Err(AddressError::TooLong);
    }
    let domain = match domain.as_bytes() {
        [] => return Err(AddressError::NoDomain),
        [b'[', ..] => Cow::Owned(literal(domain)?),
        _ => normal_domain(domain)?,
    };
    if local + 1 + domain.len() > ADDRESS_BYTES_MAX {
        return Err(AddressError::TooLong);
    }
    let mut address = String::with_capacity(local + 1 + domain.len());
    address.push_str(&text[..=local]);
    address.push_str(&domain);
    let domain_start = local + 1;
    if !address.as_bytes()[domain_start..].starts_with(b"[") {
        address[domain_start..].make_ascii_lowercase();
    }
    Ok(address.into_boxed_str())
}

/// A path ends the line or is followed by a blank.
fn delimited(rest: &[u8]) -> Result<&[u8], AddressError> {
    match rest {
        [] => Ok(rest),
        [b' ' | b'\t', ..] => Ok(rest.trim_ascii()),
        _ => Err(AddressError::Syntax),
    }
}

/// Drops `@one,@two:`, as RFC 5321 §4.1.1.3 asks of those who meet it.
fn without_route(text: &[u8]) -> Result<&[u8], AddressError> {
    if !text.starts_with(b"@") {
        return Ok(text);
    }
    let colon = memchr::memchr(b':', text).ok_or(AddressError::Syntax)?;
    let hops = text[..colon].split(|&octet| octet == b',');
    let named = |hop: &[u8]| {
        hop.len() > 1 && hop[0] == b'@' && hop[1..].iter().all(|o| o.is_ascii_alphanumeric() || b"-._".contains(o))
    };
    if hops.into_iter().all(named) { Ok(&text[colon + 1..]) } else { Err(AddressError::Syntax) }
}

/// Where the path ends: the first `>` outside quotes.
fn closing_bracket(text: &[u8]) -> Option<usize> {
    let start = if text.starts_with(b"\"") { quoted_end(text)? } else { 0 };
    memchr::memchr(b'>', &text[start..]).map(|at| start + at)
}

/// Octets of the local part at the beginning of `text`, not empty.
fn local_part(text: &[u8]) -> Result<usize, AddressError> {
    if text.starts_with(b"\"") {
        return quoted_end(text).ok_or(AddressError::Syntax);
    }
    // Dots may stand anywhere: providers have given out addresses like `a..b@` and `a.@`, and only the
    // domain itself can say whether one exists.
    let end = text.iter().position(|&octet| !is_atom(octet) && octet != b'.').unwrap_or(text.len());
    if end == 0 { Err(AddressError::Syntax) } else { Ok(end) }
}

/// Octets of the quoted string at the beginning of `text`, both quotes included.
fn quoted_end(text: &[u8]) -> Option<usize> {
    let mut at = 1;
    loop {
        match *text.get(at)? {
            b'"' => return Some(at + 1),
            b'\\' if text.get(at + 1).is_some_and(|next| (b' '..=b'~').contains(next)) => at += 2,
            b'\\' | 0..=0x1f | 0x7f => return None,
            _ => at += 1,
        }
    }
}

/// `atext` of RFC 5322 §3.2.3, widened by RFC 6531 §3.3.
fn is_atom(octet: u8) -> bool {
    octet.is_ascii_alphanumeric() || octet >= 0x80 || b"!#$%&'*+-/=?^_`{|}~".contains(&octet)
}

/// `domain` in A-labels; letters may still be upper case.
fn normal_domain(domain: &str) -> Result<Cow<'_, str>, AddressError> {
    let foreign = !domain.is_ascii() || domain.as_bytes().windows(4).any(|part| part.eq_ignore_ascii_case(b"xn--"));
    let domain = if foreign {
        let deny = idna::AsciiDenyList::EMPTY;
        idna::domain_to_ascii_cow(domain.as_bytes(), deny).map_err(|_| AddressError::Domain)?
    } else {
        Cow::Borrowed(domain)
    };
    // The underscore is no host name's, but mail domains with it exist in the DNS.
    let label = |label: &str| {
        (1..=63).contains(&label.len()) && label.bytes().all(|o| o.is_ascii_alphanumeric() || o == b'-' || o == b'_')
    };
    // A last label of digits would be an address without brackets, which some resolvers take for one.
    let last_is_number = domain.rsplit('.').next().is_some_and(|last| last.bytes().all(|o| o.is_ascii_digit()));
    if domain.len() > 253 || last_is_number || !domain.split('.').all(label) {
        return Err(AddressError::Domain);
    }
    Ok(domain)
}

/// `[192.0.2.1]` or `[IPv6:2001:db8::1]`, in the one canonical form.
fn literal(domain: &str) -> Result<String, AddressError> {
    let inner = domain.strip_prefix('[').and_then(|text| text.strip_suffix(']')).ok_or(AddressError::Literal)?;
    if let Some((tag, address)) = inner.split_at_checked(5)
        && tag.eq_ignore_ascii_case("IPv6:")
    {
        let address: Ipv6Addr = address.parse().map_err(|_| AddressError::Literal)?;
        return Ok(format!("[IPv6:{address}]"));
    }
    let address: Ipv4Addr = inner.parse().map_err(|_| AddressError::Literal)?;
    Ok(format!("[{address}]"))
}
