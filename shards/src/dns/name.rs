//! Names that are given to us: whether they can be asked for, and whether they are an address written out.
//! Nothing here asks anybody.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

/// What a recipient domain or a host text says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A name to ask for: lower case, no root dot.
    Name(Arc<str>),
    /// An address; nothing to ask.
    Address(IpAddr),
    /// Neither: no such domain can exist.
    Invalid,
}

/// Reads a recipient domain: a name, or an address literal in brackets (RFC 5321 §4.1.3).
#[must_use]
pub fn domain(text: &str) -> Subject {
    match bracketed(text) {
        Some(inside) => literal(inside).map_or(Subject::Invalid, Subject::Address),
        None => checked(text).map_or(Subject::Invalid, Subject::Name),
    }
}

/// Reads a host of a route: a name, an address, or an address literal in brackets.
#[must_use]
pub fn host(text: &str) -> Subject {
    let inside = bracketed(text).unwrap_or(text);
    if let Some(address) = inside.parse().ok().or_else(|| literal(inside)) {
        return Subject::Address(address);
    }
    if inside.len() == text.len() { domain(text) } else { Subject::Invalid }
}

/// Whether the octet may stand in a label of a host's name: letters, digits, hyphen (RFC 1123 §2.1), and the
/// underscore that some mail hosts have all the same.
#[must_use]
pub fn is_name_octet(octet: u8) -> bool {
    octet.is_ascii_alphanumeric() || octet == b'-' || octet == b'_'
}

/// RFC 6761 §6.3: `localhost` and names below it are never asked for.
#[must_use]
pub fn is_localhost(name: &str) -> bool {
    name.rsplit('.').next() == Some("localhost")
}

fn bracketed(text: &str) -> Option<&str> {
    text.strip_prefix('[')?.strip_suffix(']')
}

/// IPv4-address-literal or IPv6-address-literal; a General-address-literal names no protocol that we speak.
fn literal(inside: &str) -> Option<IpAddr> {
    const TAG: &str = "IPv6:";
    match inside.get(..TAG.len()) {
        Some(tag) if tag.eq_ignore_ascii_case(TAG) => inside[TAG.len()..].parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        _ => inside.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
    }
}

/// The name in lower case without its root dot, when it fits RFC 1035 §2.3.4 (labels of at most 63 octets,
/// 253 in all) and has only [`is_name_octet`]s.
fn checked(text: &str) -> Option<Arc<str>> {
    let name = text.strip_suffix('.').unwrap_or(text);
    let fits = name.len() <= 253
        && name.split('.').all(|label| (1..=63).contains(&label.len()) && label.bytes().all(is_name_octet));
    if !fits {
        return None;
    }
    if name.bytes().any(|octet| octet.is_ascii_uppercase()) {
        return Some(name.to_ascii_lowercase().into());
    }
    Some(name.into())
}
