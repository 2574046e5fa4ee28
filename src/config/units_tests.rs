//! Durations, rates, sizes, networks and hosts as operators write them.

use super::*;
use std::fmt::Debug;

fn check<T: Debug>(parse: impl Fn(&str) -> Result<T, String>, show: impl Fn(&T) -> String, table: &[(&str, &str)]) {
    for (text, expected) in table {
        let got = match parse(text) {
            Ok(value) => show(&value),
            Err(error) => format!("! {error}"),
        };
        let matches = if expected.ends_with('…') {
            got.starts_with(expected.trim_end_matches('…'))
        } else {
            got == *expected
        };
        assert!(matches, "{text:?}: got {got:?}, expected {expected:?}");
    }
}

#[test]
fn durations() {
    check(
        duration,
        |value| format!("{value:?}"),
        &[
            ("30s", "30s"),
            ("1h 30m", "5400s"),
            ("1h30m", "5400s"),
            (" 5d ", "432000s"),
            ("250ms", "250ms"),
            ("0", "0ns"),
            ("0s", "0ns"),
            ("30", "! is not a duration…"),
            ("", "! is not a duration…"),
            ("-5s", "! is not a duration…"),
            ("5 parsecs", "! is not a duration…"),
            ("99999999999999999999s", "! is not a duration…"),
        ],
    );
}

#[test]
fn rates() {
    check(
        rate,
        |rate| format!("{} in {:?}", rate.count, rate.period),
        &[
            ("10/s", "10 in 1s"),
            ("1000/min", "1000 in 60s"),
            ("5/h", "5 in 3600s"),
            ("3/2m", "3 in 120s"),
            ("1/1d", "1 in 86400s"),
            ("7 / 500ms", "7 in 500ms"),
            ("0/s", "! allows nothing…"),
            ("5/0s", "! has a period…"),
            ("5/1ms", "5 in 1ms"),
            ("5/999us", "! has a period…"),
            ("5/1ns", "! has a period…"),
            ("5/60d", "! has a period…"),
            ("10", "! is not a rate…"),
            ("/s", "! is not a rate…"),
            ("10/", "! is not a rate…"),
            ("-1/s", "! is not a rate…"),
            ("5000000000/s", "! is not a rate…"),
            ("1.5/s", "! is not a rate…"),
        ],
    );
}

#[test]
fn networks() {
    check(
        network,
        |network| format!("{}/{}", network.address, network.prefix),
        &[
            ("127.0.0.0/8", "127.0.0.0/8"),
            ("::1", "::1/128"),
            ("192.0.2.7", "192.0.2.7/32"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("::/0", "::/0"),
            ("2001:db8::/32", "2001:db8::/32"),
            ("10.1.2.3/8", "! has bits set beyond its prefix; the network is \"10.0.0.0/8\""),
            ("2001:db8::1/64", "! has bits set beyond its prefix; the network is \"2001:db8::/64\""),
            ("10.0.0.0/33", "! has a prefix above 32"),
            ("::/129", "! has a prefix above 128"),
            ("10.0.0.0/+8", "! is not a network…"),
            ("10.0.0.0/", "! is not a network…"),
            ("10.0.0/8", "! is not a network…"),
            ("localhost", "! is not a network…"),
        ],
    );
}

#[test]
fn domains() {
    check(
        domain,
        ToString::to_string,
        &[
            ("Example.COM", "example.com"),
            ("example.com.", "example.com"),
            ("bücher.example", "xn--bcher-kva.example"),
            ("a_b.example", "a_b.example"),
            ("localhost", "localhost"),
            ("[192.0.2.1]", "[192.0.2.1]"),
            ("[ipv6:2001:DB8:0::1]", "[IPv6:2001:db8::1]"),
            ("[2001:db8::1]", "! is not an address literal…"),
            ("", "! is not a domain name"),
            (".", "! is not a domain name"),
            ("a..b", "! is not a domain name"),
            ("-a.example", "! is not a domain name"),
            ("a b.example", "! is not a domain name"),
            ("*.example", "! is not a domain name"),
            ("192.0.2.1", "! is not a domain name (an address…"),
            ("a234567890123456789012345678901234567890123456789012345678901234.example", "! is not a domain name"),
        ],
    );
}

/// A rule over a domain is found by the domain of an address, so both are written alike.
#[test]
fn domains_are_those_of_addresses() {
    let texts = ["Example.COM", "b\u{fc}cher.example", "XN--BCHER-KVA.example", "a_b.example", "[192.0.2.1]"];
    for text in texts.into_iter().chain(["[IPv6:2001:DB8:0::1]", "[ipv6:::ffff:192.0.2.1]"]) {
        let address = mailrace_shards::smtp::server::mailbox(&format!("u@{text}")).unwrap();
        assert_eq!(&*domain(text).unwrap(), mailrace_shards::message::domain_of(&address), "{text}");
    }
}

#[test]
fn route_hosts() {
    check(
        route_host,
        |host| format!("{} {}", host.host, host.port),
        &[
            ("MX.Example.net", "mx.example.net 25"),
            ("mx.example.net:2525", "mx.example.net 2525"),
            ("127.0.0.1:2526", "127.0.0.1 2526"),
            ("127.0.0.1", "127.0.0.1 25"),
            ("[::1]:25", "::1 25"),
            ("[::1]", "::1 25"),
            ("::1", "::1 25"),
            ("mx.example.net:0", "! is not a host…"),
            ("127.0.0.1:0", "! names port 0"),
            ("mx.example.net:99999", "! is not a host…"),
            ("mx.example.net:", "! is not a host…"),
            (":25", "! is not a host…"),
            ("a b", "! is not a host…"),
        ],
    );
}

#[test]
fn resolvers() {
    check(
        resolver,
        ToString::to_string,
        &[
            ("127.0.0.1", "127.0.0.1:53"),
            ("127.0.0.1:5353", "127.0.0.1:5353"),
            ("::1", "[::1]:53"),
            ("[::1]:5353", "[::1]:5353"),
            ("127.0.0.1:0", "! is not a resolver's…"),
            ("dns.example", "! is not a resolver's…"),
        ],
    );
}

#[test]
fn header_names() {
    check(
        header_name,
        ToString::to_string,
        &[
            ("X-Campaign", "X-Campaign"),
            ("X-Campaign:", "! is not a header name…"),
            ("", "! is not a header name…"),
            ("X Y", "! is not…"),
        ],
    );
}
