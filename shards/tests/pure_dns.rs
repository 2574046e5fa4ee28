//! The resolver without sockets: zones as text in, mail hosts or failures out.

mod dns_stub;

use dns_stub::{Question, UDP_MAX, Zone, question, reply};
use mailrace_shards::dns::exchange::{Transmit, Via};
use mailrace_shards::dns::resolve::{Outcome, Progress, Resolver};
use mailrace_shards::dns::{DnsFailure, NamedBy};
use mailrace_shards::time::Instant;
use std::net::SocketAddr;
use std::time::Duration;

/// A resolver and the servers that it talks to; time passes when nothing else happens.
struct World {
    resolver: Resolver,
    now: Instant,
    random: u64,
    servers: Vec<Server>,
    /// (server, question, by TCP), in the order sent.
    sent: Vec<(usize, Question, bool)>,
}

#[derive(Clone)]
enum Server {
    Zone(Zone),
    Silent,
    Refusing,
}

impl World {
    fn new(servers: Vec<Server>, allow_private: bool) -> Self {
        let addresses: Vec<SocketAddr> =
            (0..servers.len()).map(|n| format!("192.0.2.{}:53", n + 1).parse().unwrap()).collect();
        let resolver = Resolver::new(&addresses, allow_private, 1);
        Self { resolver, now: Instant(1_000_000), random: 7, servers, sent: Vec::new() }
    }

    fn of(zone: &str) -> Self {
        Self::new(vec![Server::Zone(Zone::new(zone))], true)
    }

    fn zone(&mut self) -> &mut Zone {
        match &mut self.servers[0] {
            Server::Zone(zone) => zone,
            _ => panic!("the first server has a zone"),
        }
    }

    fn poll_query(&mut self) -> Option<Transmit> {
        let random = &mut self.random;
        let mut draw = || {
            *random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *random >> 16
        };
        let query = self.resolver.poll_query(self.now, &mut draw)?;
        let IndexedBy(server) = self.index(&query);
        self.sent.push((server, question(&query.message), matches!(query.via, Via::Tcp(_))));
        Some(query)
    }

    fn index(&self, query: &Transmit) -> IndexedBy {
        let SocketAddr::V4(address) = query.server else { panic!("servers have IPv4 addresses") };
        IndexedBy(usize::from(address.ip().octets()[3]) - 1)
    }

    /// Lets the server answer one query.
    fn serve(&mut self, query: &Transmit) {
        let IndexedBy(server) = self.index(query);
        let limit = if matches!(query.via, Via::Tcp(_)) { 65_535 } else { UDP_MAX };
        match &self.servers[server] {
            Server::Zone(zone) => {
                if let Some(octets) = zone.reply(&query.message, limit) {
                    self.resolver.handle_response(self.now, query.via, &octets);
                }
            }
            Server::Silent => {}
            Server::Refusing => self.resolver.handle_unreachable(self.now, query.via),
        }
    }

    fn finish(&mut self, progress: Progress) -> Outcome {
        let wanted = match progress {
            Progress::Ready(outcome) => return outcome,
            Progress::Pending(ticket) => ticket,
        };
        for _ in 0..10_000 {
            if let Some((ticket, outcome)) = self.resolver.poll_answer(self.now) {
                if ticket == wanted {
                    return outcome;
                }
            } else if let Some(query) = self.poll_query() {
                self.serve(&query);
            } else if !self.resolver.has_answers() {
                self.now = self.resolver.next_timeout().expect("something is awaited").max(self.now);
                self.resolver.handle_timeout(self.now);
            }
        }
        panic!("the resolution does not end");
    }

    fn mail_hosts(&mut self, domain: &str) -> Outcome {
        let progress = self.resolver.mail_hosts(self.now, domain);
        self.finish(progress)
    }

    fn host(&mut self, host: &str, named_by: NamedBy) -> Outcome {
        let progress = self.resolver.host_addresses(self.now, host, named_by);
        self.finish(progress)
    }

    fn pass(&mut self, seconds: u64) {
        self.now = self.now.after(Duration::from_secs(seconds));
        self.resolver.handle_timeout(self.now);
    }
}

struct IndexedBy(usize);

/// `preference name address,address` for each host, joined by ` | `, or the failure.
fn text(outcome: &Outcome) -> String {
    match outcome {
        Ok(mail) => {
            let host = |host: &mailrace_shards::dns::MailHost| {
                let addresses: Vec<String> = host.addresses.iter().map(ToString::to_string).collect();
                format!("{} {} {}", host.preference, host.name, addresses.join(","))
            };
            mail.hosts.iter().map(host).collect::<Vec<_>>().join(" | ")
        }
        Err(failure) => format!("{failure:?}"),
    }
}

const ZONE: &str = "
    two.test      300 MX 20 b.two.test
    two.test      300 MX 10 A.Two.Test
    a.two.test    300 A 198.18.0.1
    a.two.test    300 A 198.18.0.2
    a.two.test    300 AAAA 2001:db8::1
    b.two.test    300 AAAA 2001:db8::2
    implicit.test 300 A 198.18.0.3
    v6only.test   300 AAAA 2001:db8::3
    empty.test    300 TXT x
    null.test     300 MX 0 .
    notnull.test  300 MX 0 .
    notnull.test  300 MX 5 a.two.test
    gone.test     300 MX 10 nowhere.test
    half.test     300 MX 10 nowhere.test
    half.test     300 MX 20 b.two.test
    odd.test      300 MX 10 b@d.test
    alias.test    300 CNAME two.test
    alias2.test   300 CNAME implicit.test
    aliasgone.test 300 CNAME nowhere.test
    mxalias.test  300 MX 10 alias2.test
    loop1.test    300 CNAME loop2.test
    loop2.test    300 CNAME loop1.test
    twice.test    300 MX 10 a.two.test
    twice.test    300 MX 20 a.two.test
    fail.test     300 SERVFAIL
    refused.test  300 REFUSED
    silent.test   300 SILENT
    mxfails.test  300 MX 10 fail.test
    partly.test   300 MX 10 fail.test
    partly.test   300 MX 20 b.two.test
    failgone.test 300 MX 10 fail.test
    failgone.test 300 MX 20 nowhere.test
    noaaaa.test   300 A 198.18.0.4
    noaaaa.test   300 SERVFAIL AAAA
    oldserver.test 300 FORMERR
    oldserver.test 300 A 198.18.0.5
    garbled.test  300 GARBAGE
    garbled.test  300 A 198.18.0.6
    under_score.test 300 A 198.18.0.7
    local.test    300 MX 10 localhost
";

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
    let private = [
        "0.0.0.0",
        "0.1.2.3",
        "10.1.2.3",
        "100.64.0.1",
        "100.127.255.255",
        "127.0.0.1",
        "127.255.0.1",
        "169.254.169.254",
        "172.16.0.1",
        "172.31.255.255",
        "192.0.0.1",
        "192.0.2.1",
        "192.88.99.1",
        "192.168.1.1",
        "198.18.0.1",
        "198.19.255.1",
        "198.51.100.1",
        "203.0.113.9",
        "224.0.0.1",
        "239.1.1.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::10.0.0.1",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "::ffff:192.168.0.1",
        "64:ff9b::10.0.0.1",
        "64:ff9b:1::808:808",
        "100::1",
        "2001::1",
        "2001:2::1",
        "2001:10::1",
        "2001:db8::1",
        "2002:a00:1::1",
        "2002:7f00:1::",
        "3fff::1",
        "4000::1",
        "5f00::1",
        "fc00::1",
        "fd12:3456::1",
        "fe80::1",
        "fec0::1",
        "ff02::1",
    ];
    let public = [
        "1.1.1.1",
        "8.8.8.8",
        "9.255.255.255",
        "11.0.0.1",
        "100.63.255.255",
        "100.128.0.1",
        "128.0.0.1",
        "169.253.1.1",
        "172.15.0.1",
        "172.32.0.1",
        "192.0.1.1",
        "192.167.1.1",
        "192.169.1.1",
        "198.17.1.1",
        "198.20.1.1",
        "198.51.99.1",
        "203.0.112.1",
        "223.255.255.1",
        "::ffff:8.8.8.8",
        "64:ff9b::808:808",
        "2001:200::1",
        "2001:4860:4860::8888",
        "2002:808:808::1",
        "2606:4700::1111",
        "2a00:1450::1",
    ];
    for (addresses, expected) in [(&private[..], true), (&public[..], false)] {
        for address in addresses {
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
fn a_truncated_reply_is_asked_for_by_tcp() {
    let mut zone = String::new();
    for n in 0..100 {
        zone += &format!("big.test 300 A 198.18.0.{n}\n");
    }
    let mut world = World::of(&zone);
    assert_eq!(world.mail_hosts("big.test").unwrap().hosts[0].addresses.len(), 16);
    let by_tcp: Vec<u16> = world.sent.iter().filter(|sent| sent.2).map(|sent| sent.1.kind).collect();
    assert_eq!(by_tcp, [dns_stub::A]);
    assert_eq!(world.resolver.stats().queries_tcp, 1);
}

#[test]
fn another_server_is_asked_when_one_does_not_help() {
    let good = || Server::Zone(Zone::new("d.test 300 A 198.18.0.1"));
    let bad = || Server::Zone(Zone::new("d.test 300 SERVFAIL"));
    let expected = "0 d.test 198.18.0.1";
    let cases = [
        (vec![bad(), good()], expected),
        (vec![Server::Silent, good()], expected),
        (vec![Server::Refusing, good()], expected),
        (vec![Server::Refusing, Server::Silent, bad(), good()], expected),
        (vec![bad(), bad()], r#"Temporary("DNS: SERVFAIL from 192.0.2.2:53 for MX of d.test")"#),
        (vec![Server::Refusing], r#"Temporary("DNS: no answer from 192.0.2.1:53 for MX of d.test")"#),
    ];
    for (index, (servers, expected)) in cases.into_iter().enumerate() {
        let mut world = World::new(servers, true);
        let start = world.now;
        assert_eq!(text(&world.mail_hosts("d.test")), expected, "case {index}");
        assert!(world.now.since(start) <= Duration::from_secs(14), "case {index}: {:?}", world.now.since(start));
        assert!(world.sent.len() <= 12, "case {index}: {} queries", world.sent.len());
    }
}

#[test]
fn a_dead_server_is_left_alone_and_probed_by_one_query() {
    let mut zone = String::new();
    (0..60).for_each(|n| zone += &format!("d{n}.test 300 A 198.18.0.1\n"));
    let zone = Server::Zone(Zone::new(&zone));
    let mut world = World::new(vec![Server::Silent, zone.clone()], true);
    for n in 0..3 {
        world.mail_hosts(&format!("d{n}.test")).unwrap();
    }
    let to_first = |world: &World| world.sent.iter().filter(|sent| sent.0 == 0).count();
    let before = to_first(&world);
    let start = world.now;
    for n in 3..30 {
        world.mail_hosts(&format!("d{n}.test")).unwrap();
    }
    assert!(to_first(&world) <= before + 1, "{} queries to a dead server", to_first(&world) - before);
    assert!(world.now.since(start) < Duration::from_secs(3));
    // It comes back: after its penalty a probe finds it, and it is preferred again.
    world.servers[0] = zone;
    world.pass(61);
    world.mail_hosts("d30.test").unwrap();
    world.sent.clear();
    world.mail_hosts("d31.test").unwrap();
    assert!(world.sent.iter().all(|sent| sent.0 == 0), "{:?}", world.sent);
}

#[test]
fn replies_that_are_not_to_our_query_are_ignored() {
    let mut world = World::of("");
    let Progress::Pending(_) = world.resolver.mail_hosts(world.now, "d.test") else { panic!("nothing is known yet") };
    let query = world.poll_query().unwrap();
    let Via::Udp(port) = query.via else { panic!("UDP comes first") };
    let asked = question(&query.message);
    let null = Zone::new("d.test 300 MX 0 .").records;
    let with = |change: fn(&mut Question)| {
        let mut other = asked.clone();
        change(&mut other);
        reply(&other, 0, &null, None)
    };
    let other_port = |change: fn(&mut mailrace_shards::dns::port::Port)| {
        let mut other = port;
        change(&mut other);
        Via::Udp(other)
    };
    let good = with(|_| {});
    let mut a_query = good.clone();
    a_query[2] &= 0x7f;
    let mut a_notify = good.clone();
    a_notify[2] |= 0x20;
    let mut of_chaos = good.clone();
    let class = 12 + "d.test".len() + 2 + 3;
    of_chaos[class] = 3;
    let cases: [(&str, Via, Vec<u8>); 11] = [
        ("other id", query.via, with(|q| q.id = q.id.wrapping_add(1))),
        ("other name", query.via, with(|q| q.name = "e.test".into())),
        ("longer name", query.via, with(|q| q.name = "d.test.test".into())),
        ("shorter name", query.via, with(|q| q.name = "d".into())),
        ("other type", query.via, with(|q| q.kind = dns_stub::A)),
        ("other socket", other_port(|port| port.slot ^= 1), good.clone()),
        ("older socket", other_port(|port| port.generation = port.generation.wrapping_sub(1)), good.clone()),
        ("TCP", Via::Tcp(1), good.clone()),
        ("a query", query.via, a_query),
        ("a notification", query.via, a_notify),
        ("other class", query.via, of_chaos),
    ];
    for (what, via, octets) in cases {
        world.resolver.handle_response(world.now, via, &octets);
        assert!(!world.resolver.has_answers(), "{what}");
    }
    assert_eq!(world.resolver.stats().mismatched, 11);
    // The question may come back in any case.
    let upper = with(|q| q.name = "D.tEsT".into());
    let answers = Zone::new("D.tEsT 300 MX 0 .").records;
    let upper = [&upper[..12], &reply(&Question { name: "D.tEsT".into(), ..asked }, 0, &answers, None)[12..]].concat();
    world.resolver.handle_response(world.now, query.via, &upper);
    assert_eq!(world.resolver.poll_answer(world.now).unwrap().1, Err(DnsFailure::NullMx));
}

#[test]
fn records_of_other_names_are_ignored() {
    let mut world = World::of("");
    let Progress::Pending(_) = world.resolver.mail_hosts(world.now, "d.test") else { panic!("nothing is known yet") };
    let query = world.poll_query().unwrap();
    let slipped = Zone::new("victim.test 300 MX 0 .\nd.test 300 A 198.18.0.1\ne.test 300 CNAME d.test").records;
    let octets = reply(&question(&query.message), 0, &slipped, Some(60));
    world.resolver.handle_response(world.now, query.via, &octets);
    assert!(world.resolver.poll_answer(world.now).is_none());
    let next: Vec<Question> = std::iter::from_fn(|| world.poll_query()).map(|query| question(&query.message)).collect();
    assert!(next.len() == 2 && next.iter().all(|question| question.name == "d.test"), "implicit MX: {next:?}");
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

#[test]
fn what_is_under_way_is_bounded() {
    let mut world = World::new(vec![Server::Silent], true);
    let mut tickets = Vec::new();
    let mut refused = 0;
    for n in 0..9_000 {
        match world.resolver.mail_hosts(world.now, &format!("d{n}.test")) {
            Progress::Pending(ticket) => tickets.push(ticket),
            Progress::Ready(outcome) => {
                assert!(outcome.unwrap_err().is_temporary());
                refused += 1;
            }
        }
    }
    assert_eq!((tickets.len(), refused), (8_192, 808));
    let start = world.now;
    let mut answered = std::collections::HashSet::new();
    while answered.len() < tickets.len() {
        while world.poll_query().is_some() {
            assert!(world.resolver.stats().in_flight <= 1024);
        }
        while let Some((ticket, outcome)) = world.resolver.poll_answer(world.now) {
            assert!(outcome.unwrap_err().is_temporary() && answered.insert(ticket));
        }
        world.now = world.now.after(Duration::from_millis(20));
        world.resolver.handle_timeout(world.now);
        assert!(world.now.since(start) < Duration::from_secs(15), "waiting questions have a deadline too");
    }
    world.pass(30);
    while world.resolver.poll_retired(world.now).is_some() {}
    assert!(world.resolver.is_idle());
    let stats = world.resolver.stats();
    assert_eq!((stats.in_flight, stats.waiting), (0, 0));
}

#[test]
fn ids_and_ports_change() {
    let mut zone = String::new();
    (0..1500).for_each(|n| zone += &format!("d{n}.test 300 MX 0 .\n"));
    let mut world = World::of(&zone);
    let mut ports = std::collections::HashSet::new();
    let mut ids = std::collections::HashSet::new();
    for n in 0..1500 {
        let Progress::Pending(_) = world.resolver.mail_hosts(world.now, &format!("d{n}.test")) else { panic!() };
        let query = world.poll_query().unwrap();
        let Via::Udp(port) = query.via else { panic!() };
        ports.insert(port);
        ids.insert(question(&query.message).id);
        world.serve(&query);
        assert_eq!(world.resolver.poll_answer(world.now).unwrap().1, Err(DnsFailure::NullMx));
    }
    assert!(ports.len() >= 7 && ids.len() > 1400, "{} ports, {} ids", ports.len(), ids.len());
    assert!(world.resolver.poll_retired(world.now).is_none(), "replies may still come");
    world.pass(3);
    let retired: Vec<_> = std::iter::from_fn(|| world.resolver.poll_retired(world.now)).collect();
    assert_eq!(retired.len(), ports.len() - 4);
}

/// Whatever a server sends, the resolver neither panics nor forgets a resolution.
#[test]
fn mutated_replies_do_no_harm() {
    let mut state = 42_u64;
    let mut draw = |bound: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % bound
    };
    for round in 0..3_000 {
        let mut world = World::of(ZONE);
        let domain = ["two.test", "alias.test", "null.test", "half.test", "missing.test"][round % 5];
        let Progress::Pending(ticket) = world.resolver.mail_hosts(world.now, domain) else { panic!() };
        let zone = world.zone().clone();
        let mut outcome = None;
        for _ in 0..2_000 {
            if let Some((answered, result)) = world.resolver.poll_answer(world.now) {
                assert!(answered == ticket && outcome.replace(result).is_none());
            } else if let Some(query) = world.poll_query() {
                let mut octets = zone.reply(&query.message, 65_535).unwrap();
                for _ in 0..draw(6) {
                    // Ids mostly stay, so that the reply is read at all.
                    let at = if draw(20) == 0 { draw(octets.len()) } else { 2 + draw(octets.len() - 2) };
                    octets[at] = if draw(3) == 0 { 0xc0 | draw(2) as u8 } else { draw(256) as u8 };
                }
                if draw(4) == 0 {
                    octets.truncate(draw(octets.len()));
                }
                world.resolver.handle_response(world.now, query.via, &octets);
            } else if outcome.is_some() {
                break;
            } else if !world.resolver.has_answers() {
                world.now = world.resolver.next_timeout().expect("something is awaited").max(world.now);
                world.resolver.handle_timeout(world.now);
            }
        }
        assert!(outcome.is_some(), "round {round}: {domain} has no outcome");
    }
    let noise: Vec<u8> = (0..4_096).map(|_| draw(256) as u8).collect();
    let mut world = World::of(ZONE);
    let Progress::Pending(_) = world.resolver.mail_hosts(world.now, "two.test") else { panic!() };
    let query = world.poll_query().unwrap();
    for length in 0..noise.len() {
        world.resolver.handle_response(world.now, query.via, &noise[..length]);
    }
}
