//! Resolution without sockets: zones as text in, mail hosts or failures out.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod dns_stub;

use dns_stub::Zone;
use dns_stub::world::{Server, World, ZONE, text};
use mailrace_shards::dns::{DnsFailure, NamedBy};

#[test]
fn mail_hosts_of_domains() {
    let cases = [
        ("two.test", "10 a.two.test 198.18.0.1,198.18.0.2,2001:db8::1 | 20 b.two.test 2001:db8::2"),
        ("TWO.Test.", "10 a.two.test 198.18.0.1,198.18.0.2,2001:db8::1 | 20 b.two.test 2001:db8::2"),
        ("implicit.test", "0 implicit.test 198.18.0.3"),
        ("v6only.test", "0 v6only.test 2001:db8::3"),
        ("empty.test", "NoAddress"),
        ("null.test", "NullMx"),
        ("notnull.test", "5 a.two.test 198.18.0.1,198.18.0.2,2001:db8::1"),
        ("missing.test", "NoSuchDomain"),
        ("gone.test", "NoAddress"),
        ("half.test", "20 b.two.test 2001:db8::2"),
        ("odd.test", "NoAddress"),
        ("alias.test", "10 a.two.test 198.18.0.1,198.18.0.2,2001:db8::1 | 20 b.two.test 2001:db8::2"),
        ("alias2.test", "0 implicit.test 198.18.0.3"),
        ("aliasgone.test", "NoSuchDomain"),
        ("mxalias.test", "10 alias2.test 198.18.0.3"),
        ("loop1.test", r#"Temporary("DNS: CNAME chain too long from 192.0.2.1:53 for MX of loop1.test")"#),
        ("twice.test", "10 a.two.test 198.18.0.1,198.18.0.2,2001:db8::1"),
        ("fail.test", r#"Temporary("DNS: SERVFAIL from 192.0.2.1:53 for MX of fail.test")"#),
        ("refused.test", r#"Temporary("DNS: REFUSED from 192.0.2.1:53 for MX of refused.test")"#),
        ("silent.test", r#"Temporary("DNS: no answer from 192.0.2.1:53 for MX of silent.test")"#),
        ("mxfails.test", r#"Temporary("DNS: SERVFAIL from 192.0.2.1:53 for A of fail.test")"#),
        ("partly.test", "20 b.two.test 2001:db8::2"),
        ("failgone.test", r#"Temporary("DNS: SERVFAIL from 192.0.2.1:53 for A of fail.test")"#),
        ("noaaaa.test", "0 noaaaa.test 198.18.0.4"),
        ("oldserver.test", "0 oldserver.test 198.18.0.5"),
        ("garbled.test", "0 garbled.test 198.18.0.6"),
        ("under_score.test", "0 under_score.test 198.18.0.7"),
        ("local.test", "10 localhost 127.0.0.1,::1"),
        ("localhost", "0 localhost 127.0.0.1,::1"),
        ("[127.0.0.1]", "0 [127.0.0.1] 127.0.0.1"),
        ("[IPv6:2001:db8::5]", "0 [IPv6:2001:db8::5] 2001:db8::5"),
        ("[ipv6:::1]", "0 [ipv6:::1] ::1"),
        ("[2001:db8::5]", "NoSuchDomain"),
        ("[x400:foo]", "NoSuchDomain"),
        ("[127.0.0.1", "NoSuchDomain"),
        ("[]", "NoSuchDomain"),
        ("", "NoSuchDomain"),
        (".", "NoSuchDomain"),
        ("a..b", "NoSuchDomain"),
        ("spa ce.test", "NoSuchDomain"),
        ("münchen.test", "NoSuchDomain"),
    ];
    for (domain, expected) in cases {
        assert_eq!(text(&World::of(ZONE).mail_hosts(domain)), expected, "{domain}");
    }
    let long = format!("{}.test", "a".repeat(64));
    assert_eq!(World::of(ZONE).mail_hosts(&long), Err(DnsFailure::NoSuchDomain));
    let long = ["a"; 128].join(".");
    assert_eq!(World::of(ZONE).mail_hosts(&long), Err(DnsFailure::NoSuchDomain));
}

#[test]
fn the_same_with_a_server_that_sends_aliases_alone() {
    let cases = [
        ("alias.test", "10 a.two.test 198.18.0.1,198.18.0.2,2001:db8::1 | 20 b.two.test 2001:db8::2"),
        ("alias2.test", "0 implicit.test 198.18.0.3"),
        ("aliasgone.test", "NoSuchDomain"),
        ("mxalias.test", "10 alias2.test 198.18.0.3"),
        ("loop1.test", r#"Temporary("DNS: CNAME chain too long from 192.0.2.1:53 for MX of loop1.test")"#),
    ];
    for (domain, expected) in cases {
        let mut world = World::of(ZONE);
        world.zone().bare_aliases = true;
        let outcome = text(&world.mail_hosts(domain));
        // The failing question is the one at which the chain was given up.
        let outcome = outcome.replace("MX of loop2.test", "MX of loop1.test");
        assert_eq!(outcome, expected, "{domain}");
    }
}

#[test]
fn a_chain_of_eight_is_followed_and_one_of_nine_is_not() {
    let mut zone = String::from("n8.test 300 A 198.18.0.1\n");
    (0..8).for_each(|n| zone += &format!("n{n}.test 300 CNAME n{}.test\n", n + 1));
    zone += "n.test 300 CNAME n0.test\n";
    assert_eq!(text(&World::of(&zone).mail_hosts("n0.test")), "0 n8.test 198.18.0.1");
    assert!(text(&World::of(&zone).mail_hosts("n.test")).contains("CNAME chain too long"));
}

#[test]
fn hosts_named_by_routes_and_callers() {
    let zone = "
        relay.test 300 A 10.0.0.1
        relay.test 300 MX 10 other.test
        public.test 300 A 198.51.99.1
        both.test 300 A 10.0.0.2
        both.test 300 A 198.51.99.2
        empty.test 300 TXT x
        fail.test 300 SERVFAIL
    ";
    let private = |text: &str| format!("PrivateAddress({text})");
    let cases = [
        ("relay.test", NamedBy::Operator, "0 relay.test 10.0.0.1".into()),
        ("relay.test", NamedBy::Caller, private("10.0.0.1")),
        ("both.test", NamedBy::Caller, "0 both.test 198.51.99.2".into()),
        ("public.test", NamedBy::Caller, "0 public.test 198.51.99.1".into()),
        ("127.0.0.1", NamedBy::Operator, "0 127.0.0.1 127.0.0.1".into()),
        ("127.0.0.1", NamedBy::Caller, private("127.0.0.1")),
        ("::1", NamedBy::Operator, "0 ::1 ::1".into()),
        ("[::1]", NamedBy::Operator, "0 [::1] ::1".into()),
        ("[IPv6:::1]", NamedBy::Caller, private("::1")),
        ("localhost", NamedBy::Operator, "0 localhost 127.0.0.1,::1".into()),
        ("localhost", NamedBy::Caller, private("127.0.0.1")),
        ("empty.test", NamedBy::Operator, "NoAddress".into()),
        ("missing.test", NamedBy::Operator, "NoSuchDomain".into()),
        ("[relay.test]", NamedBy::Operator, "NoSuchDomain".into()),
        ("fail.test", NamedBy::Caller, r#"Temporary("DNS: SERVFAIL from 192.0.2.1:53 for A of fail.test")"#.into()),
    ];
    let mut world = World::new(vec![Server::Zone(Zone::new(zone))], false);
    for (host, named_by, expected) in cases {
        assert_eq!(text(&world.host(host, named_by)), expected, "{host} {named_by:?}");
        assert_eq!(text(&world.host(host, named_by)), expected, "{host} {named_by:?}, from the cache");
    }
    assert!(world.sent.iter().all(|(_, question, _)| question.kind != dns_stub::MX), "hosts have no MX");
}

#[test]
fn private_addresses_are_refused() {
    let private = "
        0.0.0.0 0.1.2.3 10.1.2.3 100.64.0.1 100.127.255.255 127.0.0.1 127.255.0.1 169.254.169.254 172.16.0.1
        172.31.255.255 192.0.0.1 192.0.2.1 192.88.99.1 192.168.1.1 198.18.0.1 198.19.255.1 198.51.100.1
        203.0.113.9 224.0.0.1 239.1.1.1 240.0.0.1 255.255.255.255 :: ::1 ::10.0.0.1 ::ffff:127.0.0.1
        ::ffff:169.254.169.254 ::ffff:192.168.0.1 64:ff9b::10.0.0.1 64:ff9b:1::808:808 100::1 2001::1
        2001:2::1 2001:10::1 2001:db8::1 2002:a00:1::1 2002:7f00:1:: 3fff::1 4000::1 5f00::1 fc00::1
        fd12:3456::1 fe80::1 fec0::1 ff02::1";
    let public = "
        1.1.1.1 8.8.8.8 9.255.255.255 11.0.0.1 100.63.255.255 100.128.0.1 128.0.0.1 169.253.1.1 172.15.0.1
        172.32.0.1 192.0.1.1 192.167.1.1 192.169.1.1 198.17.1.1 198.20.1.1 198.51.99.1 203.0.112.1
        223.255.255.1 ::ffff:8.8.8.8 64:ff9b::808:808 2001:200::1 2001:4860:4860::8888 2002:808:808::1
        2606:4700::1111 2a00:1450::1";
    for (addresses, expected) in [(private, true), (public, false)] {
        for address in addresses.split_whitespace() {
            let parsed: std::net::IpAddr = address.parse().unwrap();
            assert_eq!(mailrace_shards::dns::private::is_private(parsed), expected, "{address}");
        }
    }
    let zone = "
        bad.test   300 MX 10 bad.test
        bad.test   300 A 169.254.169.254
        bad.test   300 AAAA ::ffff:10.0.0.1
        mixed.test 300 MX 10 bad.test
        mixed.test 300 MX 20 good.test
        good.test  300 A 10.0.0.9
        good.test  300 A 8.8.8.8
        wait.test  300 MX 10 bad.test
        wait.test  300 MX 20 fail.test
        fail.test  300 SERVFAIL
    ";
    let mut world = World::new(vec![Server::Zone(Zone::new(zone))], false);
    assert_eq!(text(&world.mail_hosts("bad.test")), "PrivateAddress(169.254.169.254)");
    assert_eq!(text(&world.mail_hosts("mixed.test")), "20 good.test 8.8.8.8");
    assert!(world.mail_hosts("wait.test").unwrap_err().is_temporary());
    assert_eq!(text(&world.mail_hosts("[10.0.0.1]")), "PrivateAddress(10.0.0.1)");
    assert_eq!(text(&world.mail_hosts("[8.8.8.8]")), "0 [8.8.8.8] 8.8.8.8");
    assert_eq!(text(&world.mail_hosts("localhost")), "PrivateAddress(127.0.0.1)");
}

#[test]
fn equal_preferences_are_shuffled_and_the_rest_is_not() {
    let mut zone = String::new();
    for n in 0..4 {
        zone += &format!("d.test 10 MX 10 e{n}.test\ne{n}.test 10 A 198.18.0.{n}\n");
    }
    zone +=
        "d.test 10 MX 5 first.test\nfirst.test 10 A 198.18.1.1\nd.test 10 MX 90 last.test\nlast.test 10 A 198.18.1.2";
    let mut world = World::of(&zone);
    let mut seconds = std::collections::HashMap::new();
    for _ in 0..400 {
        let mail = world.mail_hosts("d.test").unwrap();
        assert_eq!((&*mail.hosts[0].name, &*mail.hosts[5].name), ("first.test", "last.test"));
        let names: Vec<&str> = mail.names.iter().map(|name| &**name).collect();
        assert_eq!(names, ["first.test", "e0.test", "e1.test", "e2.test", "e3.test", "last.test"]);
        *seconds.entry(mail.hosts[1].name.to_string()).or_insert(0) += 1;
        world.pass(11);
    }
    assert!(seconds.len() == 4 && seconds.values().all(|&count| (60..140).contains(&count)), "{seconds:?}");
}

#[test]
fn hosts_and_addresses_are_bounded() {
    let mut zone = String::new();
    for n in 0..40 {
        zone += &format!("d.test 300 MX {n} h{n}.test\nh{n}.test 300 A 198.18.0.{n}\nmany.test 300 A 198.18.1.{n}\n");
    }
    let mail = World::of(&zone).mail_hosts("d.test").unwrap();
    assert_eq!((mail.hosts.len(), mail.hosts[15].preference), (16, 15));
    assert_eq!(World::of(&zone).mail_hosts("many.test").unwrap().hosts[0].addresses.len(), 16);
}

#[test]
fn answers_are_kept_for_their_time() {
    // (zone, SOA minimum, seconds for which nobody is asked again)
    let cases = [
        ("d.test 100 A 198.18.0.1", 100, 100),
        ("d.test 0 A 198.18.0.1", 100, 5),
        ("d.test 4294967295 A 198.18.0.1", 3600, 5),
        ("d.test 2000000000 MX 1 m.test\nm.test 2000000000 A 198.18.0.1\nm.test 2000000000 AAAA ::2", 60, 86_400),
        ("d.test 1000 MX 1 m.test\nm.test 300 A 198.18.0.1\nm.test 300 AAAA ::2", 60, 300),
        ("d.test 30 CNAME e.test\ne.test 300 A 198.18.0.1\ne.test 300 AAAA ::2", 1000, 30),
        ("d.test 300 MX 0 .", 60, 300),
        ("", 50, 50),
        ("", 1, 5),
        ("", 1_000_000, 3600),
        ("d.test 300 SERVFAIL", 60, 10),
        ("d.test 300 SILENT", 60, 10),
        ("d.test 9000 MX 1 m.test\nd.test 9000 MX 2 n.test\nn.test 300 SERVFAIL\nm.test 9000 A 198.18.0.1", 9000, 300),
    ];
    for (zone, minimum, seconds) in cases {
        let mut world = World::of(zone);
        world.zone().minimum = Some(minimum);
        let first = world.mail_hosts("d.test");
        let asked = world.sent.len();
        world.pass(seconds - 1);
        assert_eq!(world.mail_hosts("d.test"), first, "{zone}");
        assert_eq!(world.sent.len(), asked, "{zone}: asked again before {seconds} s");
        world.pass(2);
        world.mail_hosts("d.test").ok();
        assert!(world.sent.len() > asked, "{zone}: not asked again after {seconds} s");
        if let Ok(mail) = first {
            assert!(mail.expires.0 <= world.now.0, "{zone}");
        }
    }
}

#[test]
fn hosts_shared_by_domains_are_asked_for_once() {
    let mut world = World::of("d.test 300 MX 1 m.test\ne.test 300 MX 1 m.test\nm.test 300 A 198.18.0.1");
    let one = world.resolver.mail_hosts(world.now, "d.test");
    let same = world.resolver.mail_hosts(world.now, "D.test");
    assert_eq!(one, same, "requests for one domain share one resolution");
    world.finish(one).unwrap();
    world.mail_hosts("e.test").unwrap();
    let names: Vec<String> = world.sent.iter().map(|sent| format!("{} {}", sent.1.name, sent.1.kind)).collect();
    assert_eq!(names, ["d.test 15", "m.test 1", "m.test 28", "e.test 15"]);
    let stats = world.resolver.stats();
    assert_eq!((stats.cache_misses, stats.queries_udp, stats.replies), (2, 4, 4));
}
