//! A resolver without sockets, the servers it asks, and a clock that goes on when nothing else does.

use super::{Question, UDP_MAX, Zone, question};
use mailrace_shards::dns::exchange::{Transmit, Via};
use mailrace_shards::dns::resolve::{Outcome, Progress, Resolver};
use mailrace_shards::dns::{MailHost, NamedBy};
use mailrace_shards::time::Instant;
use std::net::SocketAddr;
use std::time::Duration;

/// A resolver and the servers that it talks to; time passes when nothing else happens.
pub struct World {
    pub resolver: Resolver,
    pub now: Instant,
    pub random: u64,
    pub servers: Vec<Server>,
    /// (server, question, by TCP), in the order sent.
    pub sent: Vec<(usize, Question, bool)>,
}

#[derive(Clone)]
pub enum Server {
    Zone(Zone),
    /// The same, but nobody listens on its TCP port.
    UdpOnly(Zone),
    Silent,
    Refusing,
}

impl World {
    pub fn new(servers: Vec<Server>, allow_private: bool) -> Self {
        let addresses: Vec<SocketAddr> =
            (0..servers.len()).map(|n| format!("192.0.2.{}:53", n + 1).parse().unwrap()).collect();
        let resolver = Resolver::new(&addresses, allow_private, 1);
        Self { resolver, now: Instant(1_000_000), random: 7, servers, sent: Vec::new() }
    }

    pub fn of(zone: &str) -> Self {
        Self::new(vec![Server::Zone(Zone::new(zone))], true)
    }

    pub fn zone(&mut self) -> &mut Zone {
        match &mut self.servers[0] {
            Server::Zone(zone) => zone,
            _ => panic!("the first server has a zone"),
        }
    }

    pub fn poll_query(&mut self) -> Option<Transmit> {
        let random = &mut self.random;
        let mut draw = || {
            *random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *random >> 16
        };
        let query = self.resolver.poll_query(self.now, &mut draw)?;
        let server = index(&query);
        self.sent.push((server, question(&query.message), matches!(query.via, Via::Tcp(_))));
        Some(query)
    }

    /// Lets the server answer one query.
    pub fn serve(&mut self, query: &Transmit) {
        let server = index(query);
        let limit = if matches!(query.via, Via::Tcp(_)) { 65_535 } else { UDP_MAX };
        match &self.servers[server] {
            Server::UdpOnly(_) if limit > UDP_MAX => self.resolver.handle_unreachable(self.now, query.via),
            Server::Zone(zone) | Server::UdpOnly(zone) => {
                if let Some(octets) = zone.reply(&query.message, limit) {
                    self.resolver.handle_response(self.now, query.via, &octets);
                }
            }
            Server::Silent => {}
            Server::Refusing => self.resolver.handle_unreachable(self.now, query.via),
        }
    }

    pub fn finish(&mut self, progress: Progress) -> Outcome {
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

    pub fn mail_hosts(&mut self, domain: &str) -> Outcome {
        let progress = self.resolver.mail_hosts(self.now, domain);
        self.finish(progress)
    }

    pub fn host(&mut self, host: &str, named_by: NamedBy) -> Outcome {
        let progress = self.resolver.host_addresses(self.now, host, named_by);
        self.finish(progress)
    }

    pub fn pass(&mut self, seconds: u64) {
        self.now = self.now.after(Duration::from_secs(seconds));
        self.resolver.handle_timeout(self.now);
    }
}

fn index(query: &Transmit) -> usize {
    let SocketAddr::V4(address) = query.server else { panic!("servers have IPv4 addresses") };
    usize::from(address.ip().octets()[3]) - 1
}

/// `preference name address,address` for each host, joined by ` | `, or the failure.
pub fn text(outcome: &Outcome) -> String {
    match outcome {
        Ok(mail) => {
            let host = |host: &MailHost| {
                let addresses: Vec<String> = host.addresses.iter().map(ToString::to_string).collect();
                format!("{} {} {}", host.preference, host.name, addresses.join(","))
            };
            mail.hosts.iter().map(host).collect::<Vec<_>>().join(" | ")
        }
        Err(failure) => format!("{failure:?}"),
    }
}

/// A zone with one domain of each sort.
pub const ZONE: &str = "
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
