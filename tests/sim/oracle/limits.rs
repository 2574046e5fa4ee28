//! Limits as the operator configured them, against what the wires show.

use crate::network::ConnId;
use crate::plan::{Plan, SECOND};
use mailrace_shards::settings::{LimitPer, LimitSettings, Rate, TlsPolicy};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// One connection to a host, as long as the engine has it open.
struct Open {
    source: Option<IpAddr>,
    site: usize,
    domains: BTreeSet<String>,
    mails: u32,
    /// The MAIL that has no recipient yet.
    fresh: Option<u64>,
    /// It was opened before the limits that hold now, and goes on as it was made.
    old: bool,
    /// A handshake of TLS has succeeded on it.
    secure: bool,
}

/// What a limit counts.
type Counted = (usize, Option<IpAddr>, Option<usize>, Option<String>);

pub struct Limits {
    entries: Vec<LimitSettings>,
    /// Site of each host's address.
    sites: BTreeMap<IpAddr, usize>,
    /// Name of the source of each own address.
    sources: BTreeMap<IpAddr, String>,
    open: BTreeMap<ConnId, Open>,
    /// Over all cores; each may have at least one.
    most_open: usize,
    /// Times at which each counted thing happened, in this life.
    times: BTreeMap<Counted, Vec<u64>>,
}

impl Limits {
    pub fn new(plan: &Plan) -> Self {
        let mut sites = BTreeMap::new();
        for domain in &plan.domains {
            for host in &domain.hosts {
                sites.insert(plan.hosts[*host].address.ip(), domain.hosts[0]);
            }
        }
        let of_source = |source: &mailrace_shards::settings::SourceSettings| {
            source.address.map(|address| (IpAddr::V4(address), source.name.to_string()))
        };
        let sources = plan.settings.sources.iter().filter_map(of_source).collect();
        let entries = plan.settings.limits.clone();
        let most_open = plan.settings.connections.delivering.max(4);
        Self { entries, sites, sources, open: BTreeMap::new(), most_open, times: BTreeMap::new() }
    }

    /// Others hold from now on, for what is opened from now on.
    pub fn change(&mut self, entries: &[LimitSettings]) {
        self.entries = entries.to_vec();
        self.times.clear();
        self.open.values_mut().for_each(|open| open.old = true);
    }

    pub fn engine_started(&mut self) {
        self.times.clear();
        self.open.clear();
    }

    pub fn closed(&mut self, conn: ConnId) {
        self.open.remove(&conn);
    }

    /// A connection is opened. What is wrong with that.
    pub fn connecting(
        &mut self,
        conn: ConnId,
        source: Option<IpAddr>,
        peer: IpAddr,
        time: u64,
        trouble: bool,
    ) -> Option<String> {
        let site = self.sites[&peer];
        let (domains, mails, fresh, old, secure) = (BTreeSet::new(), 0, None, false, false);
        self.open.insert(conn, Open { source, site, domains, mails, fresh, old, secure });
        self.exceeded(conn, None).or_else(|| {
            let rates = |limit: &LimitSettings| limit.connection_rate.filter(|_| limit.domain.is_none());
            self.too_fast(conn, None, time, trouble, 0, rates)
        })
    }

    /// A handshake of TLS has succeeded.
    pub fn secured(&mut self, conn: ConnId) {
        if let Some(open) = self.open.get_mut(&conn) {
            open.secure = true;
        }
    }

    /// A message is begun.
    pub fn mail(&mut self, conn: ConnId, time: u64, _trouble: bool) {
        if let Some(open) = self.open.get_mut(&conn) {
            open.mails += 1;
            open.fresh = Some(time);
        }
    }

    /// A recipient of a domain is named. What is wrong with that.
    pub fn named(&mut self, conn: ConnId, domain: &str, time: u64, trouble: bool) -> Option<String> {
        let open = self.open.get_mut(&conn)?;
        let fresh = open.fresh.take();
        let first = open.domains.insert(domain.to_owned());
        if fresh.is_none() && !first {
            return None;
        }
        let mails = open.mails;
        if self.is_in_the_clear(conn, domain) {
            return Some(format!("mail for {domain} in the clear on connection {conn}, where TLS is required"));
        }
        for (at, limit) in self.entries.iter().enumerate() {
            let most = limit.messages_per_connection.filter(|_| self.counted(at, conn, Some(domain)).is_some());
            if let Some(most) = most.filter(|most| mails > *most && !self.open[&conn].old) {
                return Some(format!("message {mails} on connection {conn}, at most {most}"));
            }
        }
        self.exceeded(conn, Some(domain)).or_else(|| {
            fresh?;
            // A message that has its token may wait on its connection for the one before.
            let slack = 2 * self.open.len();
            self.too_fast(conn, Some(domain), time, trouble, slack, |limit| limit.message_rate)
        })
    }

    /// What an entry counts a connection (or a message for `domain` on it) under, when it applies.
    fn counted(&self, at: usize, conn: ConnId, domain: Option<&str>) -> Option<Counted> {
        let (limit, open) = (&self.entries[at], &self.open[&conn]);
        let name = open.source.and_then(|source| self.sources.get(&source));
        if let Some(source) = &limit.source
            && name.is_none_or(|name| **name != **source)
        {
            return None;
        }
        if let Some(of) = &limit.domain
            && domain != Some(&**of)
        {
            return None;
        }
        let own = limit.domain.as_ref().map(|domain| domain.to_string());
        Some(match limit.per {
            LimitPer::Path => (at, open.source, Some(open.site), own),
            LimitPer::Domain => (at, limit.source.as_ref().and(open.source), None, Some(domain?.to_owned())),
            LimitPer::Site => (at, limit.source.as_ref().and(open.source), Some(open.site), own),
            LimitPer::Source => (at, open.source, None, own),
            LimitPer::Pool => return None,
        })
    }

    /// Whether TLS is required for what is on a connection, and it has none.
    fn is_in_the_clear(&self, conn: ConnId, domain: &str) -> bool {
        let open = &self.open[&conn];
        let required = |at: usize| self.entries[at].tls == Some(TlsPolicy::Required);
        let applies = |at: usize| self.counted(at, conn, Some(domain)).is_some();
        !open.secure && !open.old && (0..self.entries.len()).any(|at| required(at) && applies(at))
    }

    fn exceeded(&self, conn: ConnId, domain: Option<&str>) -> Option<String> {
        if self.open.len() > self.most_open {
            return Some(format!(
                "{} connections, at most {} for lack of descriptors",
                self.open.len(),
                self.most_open
            ));
        }
        if self.open[&conn].old {
            return None;
        }
        for (at, limit) in self.entries.iter().enumerate() {
            let Some(most) = limit.connections else { continue };
            let Some(key) = self.counted(at, conn, domain) else { continue };
            let of_domain = key.3.is_some();
            let same = |(id, open): &(&ConnId, &Open)| {
                let carries = domain.is_some_and(|domain| open.domains.contains(domain));
                !open.old && (!of_domain || carries) && self.counted(at, **id, domain) == Some(key.clone())
            };
            let count = self.open.iter().filter(same).count();
            if count > most as usize {
                return Some(format!("{count} connections, at most {most}: {limit:?}"));
            }
        }
        None
    }

    /// Counts one more for each rate and looks at the last ten seconds.
    fn too_fast(
        &mut self,
        conn: ConnId,
        domain: Option<&str>,
        time: u64,
        trouble: bool,
        slack: usize,
        rate: impl Fn(&LimitSettings) -> Option<Rate>,
    ) -> Option<String> {
        for at in 0..self.entries.len() {
            let Some(Rate { count, period }) = rate(&self.entries[at]) else { continue };
            let Some(key) = self.counted(at, conn, domain) else { continue };
            let times = self.times.entry(key).or_default();
            times.push(time);
            if trouble {
                continue;
            }
            let since = times.partition_point(|at| *at + 10 * SECOND <= time);
            for first in since..times.len() {
                let number = times.len() - first;
                // A burst is one and what the rate yields in 100 ms; a grant may be some ms on its way.
                let span = (time - times[first]) as f64 / 1e6 + 0.15;
                let allowed = f64::from(count) / period.as_secs_f64() * span + 2.0 + slack as f64;
                if number as f64 > allowed {
                    let limit = &self.entries[at];
                    return Some(format!("{number} in {span} s, at most {allowed}: {limit:?}"));
                }
            }
        }
        None
    }
}
