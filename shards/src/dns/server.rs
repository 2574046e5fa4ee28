//! The configured servers and their health: whom to ask next. A server that stays silent is left alone for a
//! while and then probed by a single query, so that a dead one costs one query its time and not all of them.

use crate::limits::{DNS_PENALTY_MAX_MS, DNS_PENALTY_MIN_MS, DNS_SERVER_FAILURES_MAX, DNS_UDP_TRY_MS};
use crate::time::Instant;
use std::net::SocketAddr;
use std::time::Duration;

/// Which servers a question was put to, as bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked(u8);

impl Asked {
    /// Notes `server`.
    pub fn add(&mut self, server: usize) {
        self.0 |= 1 << server;
    }

    /// Whether `server` was asked.
    #[must_use]
    pub fn has(self, server: usize) -> bool {
        self.0 & (1 << server) != 0
    }
}

/// Servers in the order of the configuration. Belongs to one resolver.
#[derive(Debug)]
pub struct Servers {
    servers: Vec<Server>,
}

#[derive(Debug)]
struct Server {
    address: SocketAddr,
    /// Tries in a row without answer.
    failures: u32,
    /// Not to be asked before, when `failures` has reached its bound.
    penalty_until: Instant,
}

impl Servers {
    /// `addresses` holds between 1 and `DNS_SERVERS_MAX`.
    #[must_use]
    pub fn new(addresses: &[SocketAddr]) -> Self {
        let server = |&address| Server { address, failures: 0, penalty_until: Instant(0) };
        Self { servers: addresses.iter().map(server).collect() }
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.servers.len()
    }

    /// Address of `server`.
    #[must_use]
    pub fn address(&self, server: usize) -> SocketAddr {
        self.servers[server].address
    }

    /// Whether some healthy server is not among `asked`.
    #[must_use]
    pub fn has_other(&self, asked: Asked, now: Instant) -> bool {
        (0..self.servers.len()).any(|server| !asked.has(server) && self.servers[server].is_ready(now))
    }

    /// The server to ask: the first healthy one that was not asked yet, otherwise the one whose penalty ends
    /// first. `None` when all were asked.
    pub fn choose(&mut self, asked: Asked, now: Instant) -> Option<usize> {
        let untried = (0..self.servers.len()).filter(|&server| !asked.has(server));
        let ready = |&server: &usize| self.servers[server].is_ready(now);
        let chosen =
            untried.clone().find(ready).or_else(|| untried.min_by_key(|&server| self.servers[server].penalty_until))?;
        let server = &mut self.servers[chosen];
        if server.failures >= DNS_SERVER_FAILURES_MAX {
            // This query is the probe; the others stay away until it had its time.
            let probed_until = now.after(Duration::from_millis(DNS_UDP_TRY_MS));
            server.penalty_until = server.penalty_until.max(probed_until);
        }
        Some(chosen)
    }

    /// `server` answered, whatever it said.
    pub fn answered(&mut self, server: usize) {
        self.servers[server].failures = 0;
    }

    /// `server` stayed silent or could not be reached.
    pub fn failed(&mut self, server: usize, now: Instant) {
        let server = &mut self.servers[server];
        if !server.is_ready(now) {
            // It is known to be dead; the queries that were under way then say nothing new.
            return;
        }
        server.failures = server.failures.saturating_add(1);
        let Some(beyond) = server.failures.checked_sub(DNS_SERVER_FAILURES_MAX) else { return };
        let penalty_ms = (DNS_PENALTY_MIN_MS << beyond.min(16)).min(DNS_PENALTY_MAX_MS);
        server.penalty_until = server.penalty_until.max(now.after(Duration::from_millis(penalty_ms)));
    }
}

impl Server {
    fn is_ready(&self, now: Instant) -> bool {
        self.failures < DNS_SERVER_FAILURES_MAX || self.penalty_until <= now
    }
}

#[cfg(test)]
mod tests {
    use super::{Asked, Instant, Servers};

    fn at(milliseconds: u64) -> Instant {
        Instant(milliseconds * 1000)
    }

    fn choose(servers: &mut Servers, milliseconds: u64) -> Option<usize> {
        servers.choose(Asked::default(), at(milliseconds))
    }

    #[test]
    fn penalties_grow_with_probes_and_not_with_bursts() {
        let addresses = ["192.0.2.1:53".parse().unwrap(), "192.0.2.2:53".parse().unwrap()];
        let mut servers = Servers::new(&addresses);
        servers.failed(0, at(0));
        servers.failed(0, at(0));
        assert_eq!(choose(&mut servers, 1), Some(0), "two failures are an accident");
        (0..1000).for_each(|_| servers.failed(0, at(10)));
        let mut only_first = Asked::default();
        only_first.add(1);
        assert!(!servers.has_other(only_first, at(20)));
        assert_eq!(servers.choose(only_first, at(20)), Some(0), "better a dead server than none");
        // That was a probe: two seconds for itself. It fails, then each penalty is twice the one before.
        let mut ends = 2_020;
        for penalty in [2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000] {
            assert_eq!(choose(&mut servers, ends - 1), Some(1));
            servers.failed(0, at(ends));
            assert_eq!(choose(&mut servers, ends + penalty - 1), Some(1), "after {penalty}");
            assert_eq!(choose(&mut servers, ends + penalty), Some(0), "one query probes");
            assert_eq!(choose(&mut servers, ends + penalty), Some(1), "and only one");
            ends += penalty + 2_000;
        }
        servers.answered(0);
        assert_eq!((choose(&mut servers, ends), choose(&mut servers, ends)), (Some(0), Some(0)));
        let mut both = only_first;
        both.add(0);
        assert_eq!(servers.choose(both, at(ends)), None);
    }
}
