//! Names of sites and paths. A site is a set of MX hosts (or of a route's hosts); its name appears in
//! records and in `suspend-ready-q`. This file compares labels as text and resolves nothing.

use crate::limits::{SITE_HOSTS_MAX, SITE_LABELS_MAX};
use crate::path::source::UNSPECIFIED;
use hashbrown::HashSet;

/// Labels at one position, counted from the right.
#[derive(Default)]
struct Position<'a> {
    /// In order of first appearance.
    labels: Vec<&'a str>,
    seen: HashSet<&'a str>,
    /// Hosts that have a label here.
    hosts: usize,
}

/// The name of the site that `hosts` make: host names in order of preference, any case, with or without the
/// root dot, each with `:port` when it is not 25. Empty without hosts.
///
/// Labels are aligned from the right; at each position the distinct ones stand in order of first appearance,
/// alone or as `(a|b)`, with `?` after a position that some hosts lack. An IPv6 address is one label.
#[must_use]
pub fn site_name(hosts: &[&str]) -> String {
    let hosts: Vec<String> = hosts.iter().take(SITE_HOSTS_MAX).map(|host| canonical(host)).collect();
    let mut positions: Vec<Position> = Vec::new();
    for host in &hosts {
        for (index, label) in labels_from_right(host).enumerate() {
            if index == positions.len() {
                positions.push(Position::default());
            }
            let position = &mut positions[index];
            position.hosts += 1;
            if position.seen.insert(label) {
                position.labels.push(label);
            }
        }
    }
    let mut name = String::new();
    for position in positions.iter().rev() {
        if !name.is_empty() {
            name.push('.');
        }
        match position.labels.as_slice() {
            [only] => name.push_str(only),
            several => {
                name.push('(');
                name.push_str(&several.join("|"));
                name.push(')');
            }
        }
        if position.hosts < hosts.len() {
            name.push('?');
        }
    }
    name
}

/// `<source>-><site>@smtp_client`; without a source it is `unspecified`.
#[must_use]
pub fn path_name(source: Option<&str>, site: &str) -> String {
    format!("{}->{site}@smtp_client", source.unwrap_or(UNSPECIFIED))
}

/// Lower case, without the root dot, which may stand before a port.
fn canonical(host: &str) -> String {
    let mut host = host.to_ascii_lowercase();
    if is_ipv6(&host) {
        return host;
    }
    if let Some(colon) = host.rfind(':') {
        if host[..colon].ends_with('.') {
            host.remove(colon - 1);
        }
    } else if host.ends_with('.') {
        host.pop();
    }
    host
}

/// Host names and IPv4 addresses have at most the colon of a port.
fn is_ipv6(host: &str) -> bool {
    host.starts_with('[') || host.bytes().filter(|&byte| byte == b':').count() > 1
}

fn labels_from_right(host: &str) -> impl Iterator<Item = &str> {
    let most = if is_ipv6(host) { 1 } else { SITE_LABELS_MAX };
    host.rsplitn(most, '.')
}

#[cfg(test)]
mod tests {
    use super::{path_name, site_name};

    #[test]
    fn names_follow_the_table() {
        let google = "gmail-smtp-in.l.google.com";
        let cases: &[(&[&str], &str)] = &[
            (
                &[
                    google,
                    "alt1.gmail-smtp-in.l.google.com",
                    "alt2.gmail-smtp-in.l.google.com",
                    "alt3.gmail-smtp-in.l.google.com",
                    "alt4.gmail-smtp-in.l.google.com",
                ],
                "(alt1|alt2|alt3|alt4)?.gmail-smtp-in.l.google.com",
            ),
            (
                &["mta5.am0.yahoodns.net", "mta6.am0.yahoodns.net", "mta7.am0.yahoodns.net"],
                "(mta5|mta6|mta7).am0.yahoodns.net",
            ),
            (&["mx.Example.ORG."], "mx.example.org"),
            (&["mx1.a.com", "mx1.b.net"], "mx1.(a|b).(com|net)"),
            (&["a.test", "mx.a.test"], "mx?.a.test"),
            (&["mx.a.test", "a.test"], "mx?.a.test"),
            (&["127.0.0.1:2526"], "127.0.0.1:2526"),
            (&["127.0.0.1:2526", "127.0.0.1:2527"], "127.0.0.(1:2526|1:2527)"),
            (&["Mx.A.test.:2526"], "mx.a.test:2526"),
            (&["mx.a.test", "mx.a.test:2526"], "mx.a.(test|test:2526)"),
            (&["[2001:DB8::1]:2526"], "[2001:db8::1]:2526"),
            (&["[::ffff:192.0.2.1]:25"], "[::ffff:192.0.2.1]:25"),
            (&["2001:db8::1", "2001:db8::2"], "(2001:db8::1|2001:db8::2)"),
            (&["localhost"], "localhost"),
            (&["x.a.test", "a.test", "x.y.a.test"], "x?.(x|y)?.a.test"),
            (&["mx.a.test", "mx.a.test"], "mx.a.test"),
            (&[], ""),
        ];
        for (hosts, name) in cases {
            assert_eq!(site_name(hosts), *name, "{hosts:?}");
        }
    }

    #[test]
    fn paths_without_a_source_say_so() {
        assert_eq!(path_name(Some("ip-1"), "mx.a.test"), "ip-1->mx.a.test@smtp_client");
        assert_eq!(path_name(None, "mx.a.test"), "unspecified->mx.a.test@smtp_client");
    }

    /// The root dot goes wherever a name may have it; an address has none, and its colons are no port's.
    #[test]
    fn names_are_told_from_addresses() {
        let table = [
            ("mx.a.test.", "mx.a.test"),
            ("mx.a.test.:25", "mx.a.test:25"),
            ("mx.a.test:25", "mx.a.test:25"),
            ("[2001:db8::1]", "[2001:db8::1]"),
            ("[::1].", "[::1]."),
            ("2001:DB8::1.", "2001:db8::1."),
            ("::ffff:192.0.2.1", "::ffff:192.0.2.1"),
        ];
        for (host, name) in table {
            assert_eq!(super::canonical(host), name);
        }
        for (host, is) in [("[::1]", true), ("[x", true), ("::", true), ("a:b:c", true), ("a:25", false), ("a", false)]
        {
            assert_eq!(super::is_ipv6(host), is, "{host}");
        }
        assert_eq!(super::labels_from_right("a.b:25").count(), 2);
        assert_eq!(super::labels_from_right("[::ffff:192.0.2.1]:25").count(), 1);
    }
}
