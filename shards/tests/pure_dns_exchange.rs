//! Questions to servers without sockets: fail-over, forged and broken replies, bounds.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod dns_stub;

use dns_stub::world::{Server, World, ZONE, text};
use dns_stub::{Question, Zone, question, reply};
use mailrace_shards::dns::DnsFailure;
use mailrace_shards::dns::exchange::Via;
use mailrace_shards::dns::resolve::Progress;
use std::time::Duration;

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

    let zone = Zone::new(&zone);
    let mut world = World::new(vec![Server::UdpOnly(zone.clone()), Server::Zone(zone.clone())], true);
    assert_eq!(world.mail_hosts("big.test").unwrap().hosts[0].addresses.len(), 16);
    let mut world = World::new(vec![Server::UdpOnly(zone)], true);
    let start = world.now;
    assert!(world.mail_hosts("big.test").unwrap_err().is_temporary());
    assert!(world.now.since(start) < Duration::from_secs(17), "{:?}", world.now.since(start));
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
