//! The words of configuration values: durations, rates, networks, addresses, domains. Each parser answers
//! with what is allowed; none of them looks at the machine.

use mailrace_shards::settings::{Network, Rate, RouteHost};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// Shortest and longest period of a rate.
const RATE_PERIOD_MIN: Duration = Duration::from_millis(1);
const RATE_PERIOD_MAX: Duration = Duration::from_secs(31 * 86_400);

/// Octets of a domain name without its root dot (RFC 1035 §2.3.4).
const DOMAIN_MAX: usize = 253;

/// Octets of one label (RFC 1035 §2.3.4).
const LABEL_MAX: usize = 63;

/// `"30s"`, `"1h 30m"`, `"5d"`.
pub fn duration(text: &str) -> Result<Duration, String> {
    // A bare 0 needs no unit; humantime would ask for one, and it names no bound of its own.
    if text.trim() == "0" {
        return Ok(Duration::ZERO);
    }
    humantime::parse_duration(text.trim())
        .map_err(|_| "is not a duration; write a number with ms, s, m, h or d, such as \"30s\" or \"1h 30m\"".into())
}

/// `"10/s"`, `"1000/min"`, `"5/h"`, `"3/2m"`.
pub fn rate(text: &str) -> Result<Rate, String> {
    let wrong = || "is not a rate; write count/period, such as \"10/s\", \"1000/min\" or \"3/2m\"".to_owned();
    let (count, period) = text.split_once('/').ok_or_else(wrong)?;
    let count: u32 = count.trim().parse().map_err(|_| wrong())?;
    let period = period.trim();
    // A period may leave out its number: "/s" is one second.
    let period =
        if period.starts_with(|c: char| c.is_ascii_digit()) { period.to_owned() } else { format!("1{period}") };
    let period = humantime::parse_duration(&period).map_err(|_| wrong())?;
    if count == 0 {
        return Err("allows nothing; the count must be at least 1 (to stop mail, make a rule)".to_owned());
    }
    if !(RATE_PERIOD_MIN..=RATE_PERIOD_MAX).contains(&period) {
        return Err("has a period outside 1ms to 31d".to_owned());
    }
    Ok(Rate { count, period })
}

/// `"127.0.0.0/8"`, `"::1"` (a bare address is that one host).
pub fn network(text: &str) -> Result<Network, String> {
    let wrong = || "is not a network; write an address, or address/prefix such as \"192.0.2.0/24\"".to_owned();
    let (address, prefix) = match text.split_once('/') {
        None => (text, None),
        Some((address, prefix)) => (address, Some(prefix)),
    };
    let address: IpAddr = address.parse().map_err(|_| wrong())?;
    let bits = if address.is_ipv4() { 32 } else { 128 };
    let prefix = match prefix {
        None => bits,
        Some(digits) if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) => {
            digits.parse().ok().filter(|prefix| *prefix <= bits).ok_or_else(|| format!("has a prefix above {bits}"))?
        }
        Some(_) => return Err(wrong()),
    };
    let base = Network { address: masked(address, prefix), prefix };
    if base.address == address {
        Ok(base)
    } else {
        // Silently widening "10.1.2.3/8" would trust more than its author may have meant.
        Err(format!("has bits set beyond its prefix; the network is \"{}/{prefix}\"", base.address))
    }
}

fn masked(address: IpAddr, prefix: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
            IpAddr::from((v4.to_bits() & mask).to_be_bytes())
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
            IpAddr::from((v6.to_bits() & mask).to_be_bytes())
        }
    }
}

/// `"127.0.0.1:2525"`, `"[::]:25"`: where we listen.
pub fn listener(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        "is not an address with a port; write \"192.0.2.1:25\", \"[2001:db8::1]:25\" or \"0.0.0.0:25\"".into()
    })
}

/// A resolver: an address, with a port when it is not 53.
pub fn resolver(text: &str) -> Result<SocketAddr, String> {
    let bare = text.parse::<IpAddr>().map(|address| SocketAddr::new(address, 53));
    match bare.or_else(|_| text.parse()) {
        Ok(server) if server.port() != 0 => Ok(server),
        _ => Err("is not a resolver's address; write \"127.0.0.1\", \"127.0.0.1:53\" or \"[::1]:53\"".into()),
    }
}

/// A domain in lower-case A-labels (RFC 5890), or an address literal (RFC 5321 §4.1.3) in the one form that addresses of
/// mail have, too.
pub fn domain(text: &str) -> Result<Arc<str>, String> {
    if let Some(literal) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        let ipv6 = literal.get(..5).filter(|tag| tag.eq_ignore_ascii_case("IPv6:")).map(|_| &literal[5..]);
        let canonical = match ipv6 {
            Some(address) => address.parse::<std::net::Ipv6Addr>().map(|address| format!("[IPv6:{address}]")),
            None => literal.parse::<std::net::Ipv4Addr>().map(|address| format!("[{address}]")),
        };
        let wrong = "is not an address literal; write \"[192.0.2.1]\" or \"[IPv6:2001:db8::1]\"";
        return canonical.map(Into::into).map_err(|_| wrong.to_owned());
    }
    host_name(text)
}

/// A host name in lower-case A-labels.
pub fn host_name(text: &str) -> Result<Arc<str>, String> {
    let wrong = || "is not a domain name".to_owned();
    let ascii = idna::domain_to_ascii(text.strip_suffix('.').unwrap_or(text)).map_err(|_| wrong())?;
    let label_fits = |label: &str| {
        (1..=LABEL_MAX).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            // Underscores are no host names (RFC 952), yet mail domains with them exist and are resolved.
            && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_')
    };
    if ascii.len() > DOMAIN_MAX || !ascii.split('.').all(label_fits) {
        return Err(wrong());
    }
    // "192.0.2.1" would pass as labels; a name whose last label is digits is an address (RFC 3696 §2).
    if ascii.rsplit('.').next().is_some_and(|top| top.bytes().all(|b| b.is_ascii_digit())) {
        return Err("is not a domain name (an address literal stands in brackets)".to_owned());
    }
    Ok(ascii.into())
}

/// A next hop: `"mx.example.net"`, `"mx.example.net:2525"`, `"127.0.0.1:2526"`, `"[::1]:25"`, `"::1"`.
pub fn route_host(text: &str) -> Result<RouteHost, String> {
    const SMTP_PORT: u16 = 25;
    let wrong = || "is not a host; write \"name\", \"name:port\", \"192.0.2.1:25\" or \"[::1]:25\"".to_owned();
    if let Ok(socket) = text.parse::<SocketAddr>() {
        return if socket.port() == 0 {
            Err("names port 0".to_owned())
        } else {
            Ok(RouteHost { host: socket.ip().to_string().into(), port: socket.port() })
        };
    }
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    if let Ok(address) = bare.parse::<IpAddr>() {
        return Ok(RouteHost { host: address.to_string().into(), port: SMTP_PORT });
    }
    let (name, port) = match text.rsplit_once(':') {
        None => (text, SMTP_PORT),
        Some((name, port)) => (name, port.parse().ok().filter(|port| *port != 0).ok_or_else(wrong)?),
    };
    Ok(RouteHost { host: host_name(name).map_err(|_| wrong())?, port })
}

/// The name of a header field (RFC 5322 §2.2: printable ASCII without the colon).
pub fn header_name(text: &str) -> Result<Arc<str>, String> {
    let fits = (1..=100).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic() && b != b':');
    if fits { Ok(text.into()) } else { Err("is not a header name; write one without its colon".to_owned()) }
}

/// The name of a source or pool, as rules and records will show it.
pub fn name(text: &str) -> Result<Arc<str>, String> {
    let fits = (1..=100).contains(&text.len()) && !text.chars().any(|c| c.is_control() || c.is_whitespace());
    if fits { Ok(text.into()) } else { Err("is not a name; write 1 to 100 octets without spaces".to_owned()) }
}

/// A site name, lower case (`(mx1|mx2).example.net`).
pub fn site(text: &str) -> Result<Arc<str>, String> {
    let fits = (1..=2000).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
    if fits { Ok(text.to_ascii_lowercase().into()) } else { Err("is not a site name".to_owned()) }
}

#[cfg(test)]
#[path = "units_tests.rs"]
mod tests;
