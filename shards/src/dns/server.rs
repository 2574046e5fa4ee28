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

    /// Whether some server is not among `asked`.
    #[must_use]
    pub fn has_other(&self, asked: Asked) -> bool {
        (0..self.servers.len()).any(|server| !asked.has(server))
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
