//! Which addresses learned from others may be connected to. Without this policy a domain owner could
//! point an MX at the cloud's metadata service or at a host behind the firewall.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Whether `address` belongs to no host on the public Internet: loopback, unspecified, link-local (with the
/// metadata service 169.254.169.254), private, shared (RFC 6598), unique local, multicast, documentation,
/// benchmarking, reserved; or is an IPv6 form that leads to such an IPv4 address.
#[must_use]
pub fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_private_v4(v4),
        IpAddr::V6(v6) => embedded_v4(v6).map_or_else(|| is_private_v6(v6), is_private_v4),
    }
}

/// The IPv4 special-purpose registry of IANA (RFC 6890), as prefixes that are not "globally reachable".
fn is_private_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    match a {
        0 | 10 | 127 => true,
        100 => b & 0xc0 == 64,
        169 => b == 254,
        172 => b & 0xf0 == 16,
        192 => matches!((b, c), (0, 0 | 2) | (88, 99) | (168, _)),
        198 => matches!(b, 18 | 19) || (b, c) == (51, 100),
        203 => (b, c) == (0, 113),
        // 224/4 is multicast, 240/4 reserved, 255.255.255.255 the limited broadcast.
        _ => a >= 224,
    }
}

/// Only 2000::/3 is global unicast (RFC 4291 §2.4); inside it, what IANA's registry takes out.
fn is_private_v6(address: Ipv6Addr) -> bool {
    let [a, b, ..] = address.segments();
    let global = a & 0xe000 == 0x2000;
    // 2001::/23 is for protocols (Teredo, ORCHID, benchmarking); 2001:db8::/32 and 3fff::/20 for documents.
    let protocol = a == 0x2001 && b < 0x200;
    let document = (a == 0x2001 && b == 0xdb8) || (a == 0x3fff && b < 0x1000);
    !global || protocol || document
}

/// The IPv4 address that a packet to `address` would reach in the end: mapped (::ffff:0:0/96), compatible
/// (::/96), translated (64:ff9b::/96, RFC 6052; 64:ff9b:1::/48, RFC 8215) and 6to4 (2002::/16, RFC 3056).
fn embedded_v4(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let segments = address.segments();
    let joined = |high: u16, low: u16| Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low));
    match segments {
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => Some(joined(high, low)),
        // Any local translation prefix may lead anywhere inside: never public.
        [0x64, 0xff9b, 1, ..] => Some(Ipv4Addr::UNSPECIFIED),
        [0x2002, high, low, ..] => Some(joined(high, low)),
        _ => None,
    }
}
