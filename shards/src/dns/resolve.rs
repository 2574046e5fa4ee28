//! The resolver of one core: from a domain to its mail hosts, from a host to its addresses, through a cache. A
//! state machine: ask it, send what [`Resolver::poll_query`] gives, hand it replies and the passing of time,
//! take results from [`Resolver::poll_answer`]. It must never do I/O.

use super::answer::{self, Answer, Data};
use super::cache::Cache;
use super::candidate::{Candidate, Tally};
use super::exchange::{Exchange, Transmit, Via};
use super::name::{self, Subject};
use super::port::Port;
use super::private::is_private;
use super::query::Kind;
use super::{DnsFailure, DnsStats, MailHost, MailHosts, NamedBy};
use crate::limits::{
    DNS_CACHED_RECORDS_MAX, DNS_CACHED_RESOLUTIONS_MAX, DNS_PARTIAL_TTL_S, DNS_RESOLUTIONS_MAX, DNS_SERVERS_MAX,
    DNS_TTL_MAX_S, DNS_TTL_MIN_S,
};
use crate::time::Instant;
use hashbrown::HashMap;
use smallvec::SmallVec;
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// What a resolution came to.
pub type Outcome = Result<Arc<MailHosts>, DnsFailure>;

/// Names a resolution under way; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(u64);

/// What a request for a resolution gives at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It was known.
    Ready(Outcome),
    /// [`Resolver::poll_answer`] will give it under this ticket; requests for the same share the ticket.
    Pending(Ticket),
}

/// What is resolved, which decides where its outcome is cached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    Mail,
    OperatorHost,
    CallerHost,
}

const PURPOSES: usize = 3;

/// See the file's head. Owned by one core.
#[derive(Debug)]
pub struct Resolver {
    allow_private: bool,
    exchange: Exchange,
    records: [Cache<Arc<Answer>>; Kind::COUNT],
    outcomes: [Cache<Outcome>; PURPOSES],
    under_way: [HashMap<Arc<str>, Ticket>; PURPOSES],
    resolutions: HashMap<Ticket, Resolution>,
    tickets: u64,
    answers: VecDeque<(Ticket, Outcome)>,
    /// State of the generator that orders equals.
    shuffle: u64,
    stats: DnsStats,
}

#[derive(Debug)]
struct Resolution {
    purpose: Purpose,
    name: Arc<str>,
    stage: Stage,
    /// The least lifetime of what the outcome rests on.
    expires: Instant,
}

#[derive(Debug)]
enum Stage {
    /// Waits for the MX records.
    Exchangers,
    /// Waits for addresses of the hosts.
    Addresses { hosts: SmallVec<[Candidate; 2]>, names: Box<[Arc<str>]>, missing: usize },
}

impl Resolver {
    /// Asks `servers`, of which there are between 1 and `DNS_SERVERS_MAX`, in this order of preference. Unless
    /// `allow_private`, addresses that no public host has are not given out. `seed` orders equals.
    #[must_use]
    pub fn new(servers: &[SocketAddr], allow_private: bool, seed: u64) -> Self {
        assert!((1..=DNS_SERVERS_MAX).contains(&servers.len()), "the number of servers was checked at start");
        Self {
            allow_private,
            exchange: Exchange::new(servers),
            records: std::array::from_fn(|_| Cache::new(DNS_CACHED_RECORDS_MAX)),
            outcomes: std::array::from_fn(|_| Cache::new(DNS_CACHED_RESOLUTIONS_MAX)),
            under_way: Default::default(),
            resolutions: HashMap::new(),
            tickets: 0,
            answers: VecDeque::new(),
            shuffle: seed,
            stats: DnsStats::default(),
        }
    }

    /// Resolves the mail hosts of a domain or address literal (RFC 5321 §5.1).
    pub fn mail_hosts(&mut self, now: Instant, domain: &str) -> Progress {
        self.resolve(now, domain, Purpose::Mail)
    }

    /// Resolves a host that was named instead of being found by MX. The outcome holds that one host.
    pub fn host_addresses(&mut self, now: Instant, host: &str, named_by: NamedBy) -> Progress {
        let purpose = match named_by {
            NamedBy::Operator => Purpose::OperatorHost,
            NamedBy::Caller => Purpose::CallerHost,
        };
        self.resolve(now, host, purpose)
    }

    /// The next query to send, if there is one. `random` gives fresh unpredictable bits (RFC 5452 §9.2).
    pub fn poll_query(&mut self, now: Instant, random: &mut dyn FnMut() -> u64) -> Option<Transmit> {
        self.exchange.poll_query(now, random, &mut self.stats)
    }

    /// Takes in what a socket received. Whatever the octets, nothing worse than a wait comes of them.
    pub fn handle_response(&mut self, now: Instant, via: Via, octets: &[u8]) {
        self.exchange.handle_response(now, via, octets, &mut self.stats);
    }

    /// Takes in that a socket could not be opened or was refused.
    pub fn handle_unreachable(&mut self, now: Instant, via: Via) {
        self.exchange.handle_unreachable(now, via, &mut self.stats);
    }

    /// Takes in the time. To be called at [`Self::next_timeout`] or a little later.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.exchange.handle_timeout(now, &mut self.stats);
    }

    /// The result of a resolution that has ended, if there is one.
    pub fn poll_answer(&mut self, now: Instant) -> Option<(Ticket, Outcome)> {
        while self.answers.is_empty() {
            let finished = self.exchange.poll_finished()?;
            self.records[finished.kind.index()].insert(
                finished.name.clone(),
                finished.answer.clone(),
                finished.answer.expires,
                now,
            );
            for waiter in finished.waiters {
                self.advance(now, Ticket(waiter), &finished.name, finished.kind, &finished.answer);
            }
        }
        let answer = self.answers.pop_front();
        self.stats.failed += u64::from(answer.as_ref().is_some_and(|(_, outcome)| outcome.is_err()));
        answer
    }

    /// Whether [`Self::poll_answer`] has something to do.
    #[must_use]
    pub fn has_answers(&self) -> bool {
        !self.answers.is_empty() || self.exchange.has_finished()
    }

    /// A port whose socket may be closed.
    pub fn poll_retired(&mut self, now: Instant) -> Option<Port> {
        self.exchange.poll_retired(now)
    }

    /// When [`Self::handle_timeout`] next has something to do; may be too early.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Instant> {
        self.exchange.next_timeout()
    }

    /// Whether nothing is under way, so that time needs not be told.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.exchange.is_idle()
    }

    /// What it has done so far.
    #[must_use]
    pub fn stats(&self) -> DnsStats {
        let (in_flight, waiting) = self.exchange.load();
        let cached = self.records.iter().map(Cache::len).chain(self.outcomes.iter().map(Cache::len)).sum::<usize>();
        DnsStats { in_flight: in_flight as u64, waiting: waiting as u64, cached: cached as u64, ..self.stats }
    }

    fn resolve(&mut self, now: Instant, text: &str, purpose: Purpose) -> Progress {
        // Domains come lower-cased, so the text itself is nearly always the key.
        if let Some(outcome) = self.outcomes[purpose as usize].get(text, now) {
            self.stats.cache_hits += 1;
            return Progress::Ready(outcome.clone());
        }
        let subject = if purpose == Purpose::Mail { name::domain(text) } else { name::host(text) };
        let name = match subject {
            Subject::Name(name) => name,
            Subject::Address(address) => return Progress::Ready(self.literal(now, text, address, purpose)),
            Subject::Invalid => return Progress::Ready(Err(DnsFailure::NoSuchDomain)),
        };
        if let Some(outcome) = self.outcomes[purpose as usize].get(&name, now) {
            self.stats.cache_hits += 1;
            return Progress::Ready(outcome.clone());
        }
        if let Some(&ticket) = self.under_way[purpose as usize].get(&name) {
            return Progress::Pending(ticket);
        }
        if self.resolutions.len() >= DNS_RESOLUTIONS_MAX {
            self.stats.overflows += 1;
            return Progress::Ready(Err(overloaded()));
        }
        self.begin(now, name, purpose)
    }

    fn begin(&mut self, now: Instant, name: Arc<str>, purpose: Purpose) -> Progress {
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        let expires = seconds_after(now, DNS_TTL_MAX_S);
        let mut resolution = Resolution { purpose, name: name.clone(), stage: Stage::Exchangers, expires };
        let outcome = if purpose == Purpose::Mail {
            match self.fetch(now, &name, Kind::Mx, ticket) {
                Some(answer) => self.take_exchangers(now, ticket, &mut resolution, &answer),
                None => None,
            }
        } else {
            let only = [(0, name.clone())];
            self.seek_addresses(now, ticket, &mut resolution, &only)
        };
        if let Some(outcome) = outcome {
            self.stats.cache_hits += 1;
            self.remember(now, &resolution, &outcome);
            return Progress::Ready(outcome);
        }
        self.stats.cache_misses += 1;
        self.under_way[purpose as usize].insert(name, ticket);
        self.resolutions.insert(ticket, resolution);
        Progress::Pending(ticket)
    }

    /// One answer that `ticket` waited for has come.
    fn advance(&mut self, now: Instant, ticket: Ticket, name: &Arc<str>, kind: Kind, answer: &Arc<Answer>) {
        let Some(mut resolution) = self.resolutions.remove(&ticket) else { return };
        let outcome = match &mut resolution.stage {
            Stage::Exchangers => self.take_exchangers(now, ticket, &mut resolution, answer),
            Stage::Addresses { hosts, missing, .. } => {
                if let Some(host) = hosts.iter_mut().find(|host| host.name == *name) {
                    *host.place(kind) = Some(answer.clone());
                    *missing -= 1;
                }
                (*missing == 0).then(|| self.conclude(now, &mut resolution))
            }
        };
        match outcome {
            Some(outcome) => {
                self.under_way[resolution.purpose as usize].remove(&resolution.name);
                self.remember(now, &resolution, &outcome);
                self.answers.push_back((ticket, outcome));
            }
            None => {
                self.resolutions.insert(ticket, resolution);
            }
        }
    }

    /// Goes on from the answer about MX records.
    fn take_exchangers(
        &mut self,
        now: Instant,
        ticket: Ticket,
        resolution: &mut Resolution,
        answer: &Arc<Answer>,
    ) -> Option<Outcome> {
        resolution.expires = resolution.expires.min(answer.expires);
        match &answer.data {
            Data::Exchangers(hosts) => {
                let hosts = self.shuffled(hosts);
                self.seek_addresses(now, ticket, resolution, &hosts)
            }
            // Implicit MX: the domain, or what it is an alias of, as its own host (RFC 5321 §5.1).
            Data::NoRecords => self.seek_addresses(now, ticket, resolution, &[(0, answer.canonical.clone())]),
            Data::NullMx => Some(Err(DnsFailure::NullMx)),
            Data::NoName => Some(Err(DnsFailure::NoSuchDomain)),
            Data::Failed(text) => Some(Err(DnsFailure::Temporary(text.clone()))),
            Data::Addresses(_) => unreachable!("an MX question is answered by exchangers or their absence"),
        }
    }

    /// Asks for the addresses of `hosts`, given in the order in which they will be tried.
    fn seek_addresses(
        &mut self,
        now: Instant,
        ticket: Ticket,
        resolution: &mut Resolution,
        hosts: &[(u16, Arc<str>)],
    ) -> Option<Outcome> {
        let mut sorted: SmallVec<[&(u16, Arc<str>); 8]> = hosts.iter().collect();
        sorted.sort_unstable();
        let names = sorted.iter().map(|host| host.1.clone()).collect();
        let mut missing = 0;
        let hosts = hosts
            .iter()
            .map(|(preference, name)| {
                let v4 = self.fetch(now, name, Kind::A, ticket);
                let v6 = self.fetch(now, name, Kind::Aaaa, ticket);
                missing += usize::from(v4.is_none()) + usize::from(v6.is_none());
                Candidate { name: name.clone(), preference: *preference, v4, v6 }
            })
            .collect();
        resolution.stage = Stage::Addresses { hosts, names, missing };
        (missing == 0).then(|| self.conclude(now, resolution))
    }

    /// An answer that is known, or `None` and `ticket` will be told.
    fn fetch(&mut self, now: Instant, name: &Arc<str>, kind: Kind, ticket: Ticket) -> Option<Arc<Answer>> {
        if name::is_localhost(name) {
            return Some(Arc::new(answer::localhost(name, kind, now)));
        }
        if let Some(answer) = self.records[kind.index()].get(name, now) {
            return Some(answer.clone());
        }
        if self.exchange.ask(name, kind, ticket.0, now) {
            return None;
        }
        self.stats.overflows += 1;
        // Not to be remembered: the next moment may have room.
        let data = Data::Failed("DNS: too many queries under way".into());
        Some(Arc::new(Answer { canonical: name.clone(), data, expires: now }))
    }

    /// All addresses are known or known to be missing.
    fn conclude(&self, now: Instant, resolution: &mut Resolution) -> Outcome {
        let Stage::Addresses { hosts, names, .. } = &mut resolution.stage else {
            unreachable!("addresses were asked for before");
        };
        let checked = !self.allow_private && resolution.purpose != Purpose::OperatorHost;
        let mut tally = Tally::new(checked);
        let usable: Vec<MailHost> = hosts.iter().filter_map(|host| tally.add(host)).collect();
        if usable.is_empty() {
            resolution.expires = resolution.expires.min(tally.known_until).min(tally.failed_until);
            let unknown_host = resolution.purpose != Purpose::Mail && tally.has_no_name();
            return Err(if unknown_host { DnsFailure::NoSuchDomain } else { tally.failure() });
        }
        resolution.expires = resolution.expires.min(tally.known_until);
        if tally.has_failed() {
            // The hosts that failed are asked for again before long, but not at each retry of the failure.
            resolution.expires = resolution.expires.min(seconds_after(now, DNS_PARTIAL_TTL_S));
        }
        resolution.expires = resolution.expires.max(seconds_after(now, DNS_TTL_MIN_S));
        Ok(Arc::new(MailHosts { hosts: usable, names: std::mem::take(names), expires: resolution.expires }))
    }

    fn remember(&mut self, now: Instant, resolution: &Resolution, outcome: &Outcome) {
        let cache = &mut self.outcomes[resolution.purpose as usize];
        cache.insert(resolution.name.clone(), outcome.clone(), resolution.expires, now);
    }

    fn literal(&mut self, now: Instant, text: &str, address: IpAddr, purpose: Purpose) -> Outcome {
        if !self.allow_private && purpose != Purpose::OperatorHost && is_private(address) {
            return Err(DnsFailure::PrivateAddress(address));
        }
        let name: Arc<str> = text.into();
        let expires = seconds_after(now, DNS_TTL_MAX_S);
        let host = MailHost { name: name.clone(), preference: 0, addresses: SmallVec::from_slice(&[address]) };
        let outcome = Ok(Arc::new(MailHosts { hosts: vec![host], names: [name.clone()].into(), expires }));
        self.outcomes[purpose as usize].insert(name, outcome.clone(), expires, now);
        outcome
    }

    /// Hosts by preference, equals in random order (RFC 5321 §5.1 wants the load spread over them).
    fn shuffled(&mut self, hosts: &[(u16, Arc<str>)]) -> SmallVec<[(u16, Arc<str>); 8]> {
        let mut keyed: SmallVec<[(u16, u64, &Arc<str>); 8]> =
            hosts.iter().map(|(preference, name)| (*preference, self.draw(), name)).collect();
        keyed.sort_unstable_by_key(|(preference, key, _)| (*preference, *key));
        keyed.into_iter().map(|(preference, _, name)| (preference, name.clone())).collect()
    }

    /// SplitMix64; only orders equals, so it need not be hard to guess.
    fn draw(&mut self) -> u64 {
        self.shuffle = self.shuffle.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.shuffle;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }
}

fn overloaded() -> DnsFailure {
    DnsFailure::Temporary("DNS: too many resolutions under way".into())
}

fn seconds_after(now: Instant, seconds: u32) -> Instant {
    now.after(Duration::from_secs(u64::from(seconds)))
}
