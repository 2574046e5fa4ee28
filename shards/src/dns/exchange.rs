//! Questions to servers and their replies: one [`Lookup`] per name and record type, tried at one server after
//! the other until an answer is had or the bounds are reached. It must never believe a reply that does not
//! come back on the socket, with the id and for the question of a query under way (RFC 5452 §9.1).

use super::DnsStats;
use super::answer::{self, Answer, Meaning};
use super::port::{Port, Ports};
use super::query::{self, Code, Kind, NoReply};
use super::server::{Asked, Servers};
use crate::limits::{
    DNS_IN_FLIGHT_MAX, DNS_LOOKUP_MS, DNS_LOOKUPS_MAX, DNS_TCP_IN_FLIGHT_MAX, DNS_TCP_TRY_MS, DNS_TRIES_MAX,
    DNS_TTL_MAX_S, DNS_UDP_TRY_MS,
};
use crate::time::Instant;
use hashbrown::HashMap;
use slab::Slab;
use smallvec::SmallVec;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// A query to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// To whom.
    pub server: SocketAddr,
    /// From which socket.
    pub via: Via,
    /// The message, without the length that precedes it on TCP.
    pub message: Vec<u8>,
}

/// How a query travels, and so must its reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Via {
    /// One of the connected UDP sockets.
    Udp(Port),
    /// A TCP connection for this query alone, numbered.
    Tcp(u32),
}

/// A resolution that waits for an answer; its meaning is the caller's.
pub type Waiter = u64;

/// A question that has ended.
#[derive(Debug)]
pub struct Finished {
    /// Name that was asked for.
    pub name: Arc<str>,
    /// Record type.
    pub kind: Kind,
    /// What came of it.
    pub answer: Arc<Answer>,
    /// Who waited for it.
    pub waiters: SmallVec<[Waiter; 2]>,
}

/// All questions under way. Belongs to one resolver.
#[derive(Debug)]
pub struct Exchange {
    servers: Servers,
    ports: Ports,
    lookups: Slab<Lookup>,
    by_name: [HashMap<Arc<str>, usize>; Kind::COUNT],
    /// New questions, by deadline.
    fresh: VecDeque<usize>,
    /// Questions to be tried again, which go first.
    again: VecDeque<usize>,
    /// Questions to be tried by TCP.
    again_tcp: VecDeque<usize>,
    tries: HashMap<u16, Try>,
    tcp_in_flight: usize,
    tcp_count: u32,
    /// No deadline of a try or a fresh question is earlier.
    earliest: Instant,
    finished: VecDeque<Finished>,
}

#[derive(Debug)]
struct Lookup {
    name: Arc<str>,
    kind: Kind,
    /// What is asked now: `name`, or a name further down its CNAME chain.
    question: Arc<str>,
    aliases: usize,
    chain_ttl_s: u32,
    server: usize,
    asked: Asked,
    tries: u8,
    next: Next,
    edns: bool,
    deadline: Instant,
    waiters: SmallVec<[Waiter; 2]>,
}

/// How the next try of a lookup goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// By UDP to a server that was not asked yet.
    Other,
    /// By UDP to the same server.
    Same,
    /// By TCP to the same server.
    Tcp,
}

#[derive(Clone, Copy, Debug)]
struct Try {
    lookup: usize,
    via: Via,
    deadline: Instant,
}

const NEVER: Instant = Instant(u64::MAX);

impl Exchange {
    /// For the given servers, between 1 and `DNS_SERVERS_MAX`.
    #[must_use]
    pub fn new(servers: &[SocketAddr]) -> Self {
        Self {
            servers: Servers::new(servers),
            ports: Ports::new(servers.len()),
            lookups: Slab::new(),
            by_name: Default::default(),
            fresh: VecDeque::new(),
            again: VecDeque::new(),
            again_tcp: VecDeque::new(),
            tries: HashMap::new(),
            tcp_in_flight: 0,
            tcp_count: 0,
            earliest: NEVER,
            finished: VecDeque::new(),
        }
    }

    /// Asks for records, or joins whoever already does. False when too many questions are under way.
    pub fn ask(&mut self, name: &Arc<str>, kind: Kind, waiter: Waiter, now: Instant) -> bool {
        if let Some(&lookup) = self.by_name[kind.index()].get(name) {
            self.lookups[lookup].waiters.push(waiter);
            return true;
        }
        if self.lookups.len() >= DNS_LOOKUPS_MAX {
            return false;
        }
        let deadline = now.after(Duration::from_millis(DNS_LOOKUP_MS));
        let lookup = self.lookups.insert(Lookup {
            name: name.clone(),
            kind,
            question: name.clone(),
            aliases: 0,
            chain_ttl_s: DNS_TTL_MAX_S,
            server: 0,
            asked: Asked::default(),
            tries: 0,
            next: Next::Other,
            edns: true,
            deadline,
            waiters: SmallVec::from_slice(&[waiter]),
        });
        self.by_name[kind.index()].insert(name.clone(), lookup);
        self.fresh.push_back(lookup);
        self.earliest = self.earliest.min(deadline);
        true
    }

    /// The next query to send, if there is one. `random` gives fresh unpredictable bits for id and port.
    pub fn poll_query(
        &mut self,
        now: Instant,
        random: &mut dyn FnMut() -> u64,
        stats: &mut DnsStats,
    ) -> Option<Transmit> {
        while self.tries.len() < DNS_IN_FLIGHT_MAX {
            let tcp = if self.tcp_in_flight < DNS_TCP_IN_FLIGHT_MAX { self.again_tcp.pop_front() } else { None };
            let key = tcp.or_else(|| self.again.pop_front()).or_else(|| self.fresh.pop_front())?;
            if self.lookups[key].deadline <= now {
                self.fail(key, "no answer in time", now);
                continue;
            }
            if let Some(transmit) = self.transmit(key, now, random(), stats) {
                return Some(transmit);
            }
            self.fail(key, "name that cannot be asked for", now);
        }
        None
    }

    fn transmit(&mut self, key: usize, now: Instant, random: u64, stats: &mut DnsStats) -> Option<Transmit> {
        let lookup = &mut self.lookups[key];
        if lookup.next == Next::Other {
            lookup.server = self.servers.choose(lookup.asked, now).or_else(|| {
                lookup.asked = Asked::default();
                self.servers.choose(lookup.asked, now)
            })?;
        }
        let mut id = random as u16;
        while self.tries.contains_key(&id) {
            id = id.wrapping_add(1);
        }
        let message = query::encode(id, &lookup.question, lookup.kind, lookup.edns)?;
        let (via, wait_ms) = if lookup.next == Next::Tcp {
            self.tcp_count = self.tcp_count.wrapping_add(1);
            self.tcp_in_flight += 1;
            stats.queries_tcp += 1;
            (Via::Tcp(self.tcp_count), DNS_TCP_TRY_MS)
        } else {
            stats.queries_udp += 1;
            (Via::Udp(self.ports.take(lookup.server, (random >> 16) as u16, now)), DNS_UDP_TRY_MS)
        };
        lookup.tries += 1;
        lookup.asked.add(lookup.server);
        let deadline = now.after(Duration::from_millis(wait_ms));
        self.earliest = self.earliest.min(deadline);
        self.tries.insert(id, Try { lookup: key, via, deadline });
        Some(Transmit { server: self.servers.address(lookup.server), via, message })
    }

    /// Takes in what a socket received.
    pub fn handle_response(&mut self, now: Instant, via: Via, octets: &[u8], stats: &mut DnsStats) {
        let matching = query::id_of(octets).and_then(|id| Some((id, *self.tries.get(&id)?)));
        let Some((id, attempt)) = matching.filter(|(_, attempt)| attempt.via == via) else {
            stats.mismatched += 1;
            return;
        };
        let key = attempt.lookup;
        let lookup = &self.lookups[key];
        let reply = match query::decode(octets, &lookup.question, lookup.kind) {
            Err(NoReply::Stray) => {
                stats.mismatched += 1;
                return;
            }
            Err(NoReply::Unreadable) => None,
            Ok(reply) => Some(reply),
        };
        self.forget(id);
        self.servers.answered(self.lookups[key].server);
        stats.replies += 1;
        let Some(reply) = reply else {
            stats.malformed += 1;
            return self.retry_larger(key, via, "unreadable answer", now);
        };
        if reply.truncated {
            return self.retry_larger(key, via, "truncated answer", now);
        }
        match reply.code {
            Code::Success | Code::NoName => self.conclude(key, &reply, now),
            Code::Format if self.lookups[key].edns => {
                self.lookups[key].edns = false;
                self.try_again(key, Next::Same, "format error", now);
            }
            Code::Format => self.refused(key, "format error", now, stats),
            Code::Failure(name) => self.refused(key, name, now, stats),
        }
    }

    fn conclude(&mut self, key: usize, reply: &query::Reply, now: Instant) {
        let lookup = &mut self.lookups[key];
        let meaning = answer::interpret(reply, &lookup.question, lookup.kind, lookup.aliases, lookup.chain_ttl_s, now);
        match meaning {
            Meaning::Answer(answer) => self.finish(key, answer),
            Meaning::Follow { target, aliases, ttl_s } => {
                (lookup.question, lookup.aliases, lookup.chain_ttl_s) = (target, aliases, ttl_s);
                (lookup.tries, lookup.asked) = (0, Asked::default());
                self.try_again(key, Next::Other, "no answer in time", now);
            }
            Meaning::TooManyAliases => self.fail(key, "CNAME chain too long", now),
        }
    }

    /// A reply that UDP could not carry: RFC 7766 §5 has us ask again by TCP.
    fn retry_larger(&mut self, key: usize, via: Via, what: &str, now: Instant) {
        match via {
            Via::Udp(_) => self.try_again(key, Next::Tcp, what, now),
            Via::Tcp(_) => self.next_server(key, what, now),
        }
    }

    /// The server answered that it has no answer: another may; the same would say it again.
    fn refused(&mut self, key: usize, what: &str, now: Instant, stats: &mut DnsStats) {
        stats.server_errors += 1;
        self.next_server(key, what, now);
    }

    fn next_server(&mut self, key: usize, what: &str, now: Instant) {
        if self.servers.has_other(self.lookups[key].asked, now) {
            self.try_again(key, Next::Other, what, now);
        } else {
            self.fail(key, what, now);
        }
    }

    fn try_again(&mut self, key: usize, next: Next, what: &str, now: Instant) {
        let lookup = &mut self.lookups[key];
        if lookup.tries >= DNS_TRIES_MAX || lookup.deadline <= now {
            return self.fail(key, what, now);
        }
        lookup.next = next;
        let queue = if next == Next::Tcp { &mut self.again_tcp } else { &mut self.again };
        queue.push_back(key);
    }

    /// The socket or connection cannot be opened, or the other side refuses: whoever waits for it asks another
    /// server. When there is none, the try is left to its time, so that a restart of the server is waited out.
    pub fn handle_unreachable(&mut self, now: Instant, via: Via, stats: &mut DnsStats) {
        let affected: SmallVec<[(u16, usize); 8]> = (self.tries.iter())
            .filter(|(_, attempt)| attempt.via == via)
            .map(|(&id, attempt)| (id, attempt.lookup))
            .collect();
        if let Some(&(_, key)) = affected.first() {
            stats.unreachable += 1;
            self.servers.failed(self.lookups[key].server, now);
        }
        for (id, key) in affected {
            if self.servers.has_other(self.lookups[key].asked, now) {
                self.forget(id);
                self.try_again(key, Next::Other, "connection refused", now);
            }
        }
    }

    /// Ends what has had its time.
    pub fn handle_timeout(&mut self, now: Instant, stats: &mut DnsStats) {
        if now < self.earliest {
            return;
        }
        let silent: SmallVec<[(u16, usize); 16]> = (self.tries.iter())
            .filter(|(_, attempt)| attempt.deadline <= now)
            .map(|(&id, attempt)| (id, attempt.lookup))
            .collect();
        for (id, key) in silent {
            self.forget(id);
            stats.timeouts += 1;
            self.servers.failed(self.lookups[key].server, now);
            self.try_again(key, Next::Other, "no answer", now);
        }
        while let Some(&key) = self.fresh.front()
            && self.lookups[key].deadline <= now
        {
            self.fresh.pop_front();
            self.fail(key, "no answer in time", now);
        }
        let tries = self.tries.values().map(|attempt| attempt.deadline).min().unwrap_or(NEVER);
        self.earliest = self.fresh.front().map_or(tries, |&key| tries.min(self.lookups[key].deadline));
    }

    /// A question that has ended, if there is one.
    pub fn poll_finished(&mut self) -> Option<Finished> {
        self.finished.pop_front()
    }

    /// Whether [`Self::poll_finished`] has something to give.
    #[must_use]
    pub fn has_finished(&self) -> bool {
        !self.finished.is_empty()
    }

    /// A port whose socket may be closed.
    pub fn poll_retired(&mut self, now: Instant) -> Option<Port> {
        self.ports.poll_retired(now)
    }

    /// Not later than the next moment at which [`Self::handle_timeout`] has something to do.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Instant> {
        (self.earliest < NEVER).then_some(self.earliest)
    }

    /// Whether no question is under way and no socket waits to be closed.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.lookups.is_empty() && !self.ports.has_retired()
    }

    /// Tries under way, and questions waiting to be sent.
    #[must_use]
    pub fn load(&self) -> (usize, usize) {
        (self.tries.len(), self.fresh.len() + self.again.len() + self.again_tcp.len())
    }

    fn forget(&mut self, id: u16) {
        if let Some(Try { via: Via::Tcp(_), .. }) = self.tries.remove(&id) {
            self.tcp_in_flight -= 1;
        }
    }

    fn fail(&mut self, key: usize, what: &str, now: Instant) {
        let lookup = &self.lookups[key];
        let server = self.servers.address(lookup.server);
        let text = format!("DNS: {what} from {server} for {} of {}", lookup.kind, lookup.question);
        let answer = answer::failure(lookup.name.clone(), text.into(), now);
        self.finish(key, answer);
    }

    fn finish(&mut self, key: usize, answer: Answer) {
        let Lookup { name, kind, waiters, .. } = self.lookups.remove(key);
        self.by_name[kind.index()].remove(&name);
        self.finished.push_back(Finished { name, kind, answer: Arc::new(answer), waiters });
    }
}
