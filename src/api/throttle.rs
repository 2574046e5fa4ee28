//! How long a peer waits that shows wrong credentials again and again. A token cannot be guessed; this keeps
//! whoever tries from costing much, and tells the operator. Right credentials never wait: others may share
//! the address. Pure.

use crate::http::network_of;
use hashbrown::HashMap;
use mailrace_shards::time::Instant;
use std::net::IpAddr;
use std::time::Duration;

/// Peers remembered; beyond it the one heard of longest ago is forgotten.
const PEERS_MAX: usize = 4096;
/// One failure is forgotten after this.
const FORGOTTEN_SECONDS: u64 = 10;
/// First wait, doubled with each failure…
const WAIT_MILLIS: u64 = 50;
/// …up to this.
const WAIT_MILLIS_MAX: u64 = 2_000;
/// Failures remembered of a peer.
const FAILURES_MAX: u32 = 64;
/// Failures in a row that the operator hears of, and then at each doubling.
const WORTH_TELLING: u32 = 8;

/// Who failed lately.
#[derive(Debug, Default)]
pub struct Failures {
    peers: HashMap<IpAddr, (u32, Instant)>,
    total: u64,
}

/// What follows from a failure.
#[derive(Debug, PartialEq, Eq)]
pub struct Consequence {
    /// How long its answer waits.
    pub wait: Duration,
    /// How many there were lately, when the operator should hear of it.
    pub telling: Option<u32>,
}

impl Failures {
    /// Notes one.
    pub fn note(&mut self, peer: IpAddr, now: Instant) -> Consequence {
        self.total += 1;
        let peer = network_of(peer);
        let (before, last) = self.peers.get(&peer).copied().unwrap_or((0, now));
        let forgotten = now.since(last).as_secs() / FORGOTTEN_SECONDS;
        let before = before.saturating_sub(u32::try_from(forgotten).unwrap_or(u32::MAX));
        let count = (before + 1).min(FAILURES_MAX);
        if self.peers.len() >= PEERS_MAX && !self.peers.contains_key(&peer) {
            let oldest = self.peers.iter().min_by_key(|(_, (_, last))| *last).map(|(peer, _)| *peer);
            oldest.map(|oldest| self.peers.remove(&oldest));
        }
        self.peers.insert(peer, (count, now));
        let wait = (WAIT_MILLIS << (count - 1).min(16)).min(WAIT_MILLIS_MAX);
        let telling = count > before && count >= WORTH_TELLING && count.is_power_of_two();
        Consequence { wait: Duration::from_millis(wait), telling: telling.then_some(count) }
    }

    /// All since the start.
    pub fn total(&self) -> u64 {
        self.total
    }
}

#[cfg(test)]
mod tests {
    use super::{FAILURES_MAX, Failures, Instant, PEERS_MAX};
    use std::net::{IpAddr, Ipv4Addr};

    #[test]
    fn failures_wait_ever_longer_and_are_forgotten() {
        let mut failures = Failures::default();
        let peer = IpAddr::from([192, 0, 2, 1]);
        let seconds = |seconds: u64| Instant(seconds * 1_000_000);
        let waits: Vec<u128> = (0..8).map(|_| failures.note(peer, seconds(1)).wait.as_millis()).collect();
        assert_eq!(waits, [50, 100, 200, 400, 800, 1600, 2000, 2000]);
        assert_eq!(failures.note([192, 0, 2, 2].into(), seconds(1)).wait.as_millis(), 50, "another peer");
        assert_eq!(failures.note(peer, seconds(61)).wait.as_millis(), 200, "six of eight are forgotten");
        assert_eq!(failures.note(peer, seconds(1_000_000)).wait.as_millis(), 50);
        let told: Vec<u32> = (0..200).filter_map(|_| failures.note(peer, seconds(2_000_000)).telling).collect();
        assert_eq!(told, [8, 16, 32, FAILURES_MAX]);
        assert_eq!(failures.total(), 211);
    }

    #[test]
    fn the_table_is_bounded() {
        let mut failures = Failures::default();
        for n in 0..u32::try_from(PEERS_MAX).unwrap() + 100 {
            failures.note(IpAddr::V4(Ipv4Addr::from_bits(n)), Instant(u64::from(n)));
        }
        assert_eq!(failures.peers.len(), PEERS_MAX);
        assert!(!failures.peers.contains_key(&IpAddr::V4(Ipv4Addr::from_bits(99))));
        assert!(failures.peers.contains_key(&IpAddr::V4(Ipv4Addr::from_bits(100))));
    }

    #[test]
    fn one_network_of_ipv6_is_one_peer() {
        let mut failures = Failures::default();
        failures.note("2001:db8::1".parse().unwrap(), Instant(0));
        assert_eq!(failures.note("2001:db8::2".parse().unwrap(), Instant(0)).wait.as_millis(), 100);
        assert_eq!(failures.note("2001:db8:0:1::2".parse().unwrap(), Instant(0)).wait.as_millis(), 50);
    }
}
