//! Which `[[limit]]` entries apply to a message on a path, and what they count. Decides nothing about
//! connections itself: [`crate::path::permit`] does, with what this file computes.
//!
//! How entries combine. An entry applies when all of its match fields do. Among applying entries with the same
//! `per`, for each setting, those with the most match fields replace the others. What then remains over all
//! `per`s applies together, so the smallest allowance wins.
//!
//! What an entry counts: what it governs. Match fields that the counted thing does not imply belong to the
//! counter (`per = "path", domain = "gmail.com"` counts a path's connections for gmail.com), so a more specific
//! entry takes its traffic out of the general one's count, and cannot be starved by it.

use crate::limits::{IDLE_TIMEOUT_DEFAULT_MS, MESSAGES_PER_CONNECTION_DEFAULT, PATH_CONNECTIONS_DEFAULT};
use crate::settings::{LimitPer, LimitSettings, Rate, TlsPolicy};
use hashbrown::HashMap;
use smallvec::SmallVec;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

/// Names a counter all over the engine: a 128-bit hash of what is counted. Made once for each [`Limits`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CounterKey(pub u128);

/// Names a set of message-rate counters: messages with equal keys use the same tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenKey(pub u128);

/// Says which messages of a path may share a connection: those with equal keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShareKey(pub u128);

/// One thing that is counted, and how much of it is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counter {
    /// Its name.
    pub key: CounterKey,
    /// What it counts, to say why something waits.
    pub per: LimitPer,
    /// Connections at once. `None` in a message counter, or when only the rate is limited.
    pub connections: Option<u32>,
    /// New connections in a connection counter, messages in a message counter.
    pub rate: Option<Rate>,
}

/// Who grants permits and tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Arbiter {
    /// The domain's own core: only it has mail that these counters count.
    Own,
    /// The engine's home core, core 0: the counters span cores.
    Engine,
}

/// What applies to the messages of one (domain, site, source, pool). Computed once, then kept by the caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Number of the settings from which it was made; greater after each reload.
    pub version: u32,
    /// What a connection needs a permit for. Empty: no permit is needed.
    pub connections: SmallVec<[Counter; 2]>,
    /// Who grants the permit.
    pub connection_arbiter: Arbiter,
    /// What a message needs a token for. Empty: no token is needed.
    pub messages: SmallVec<[Counter; 2]>,
    /// Who grants the tokens.
    pub message_arbiter: Arbiter,
    /// Which tokens.
    pub tokens: TokenKey,
    /// Which messages of the path may share a connection.
    pub share: ShareKey,
    /// A connection counter or a property of the connection is the domain's alone, so the connection carries only
    /// that domain's messages. (The same is said, more finely, by `share`.)
    pub exclusive_domain: bool,
    /// Most connections that this core may have at once for the path: the smallest of the configured ones, or the
    /// per-core default when none of path, site and domain is configured.
    pub core_connections: u32,
    /// Messages on one connection.
    pub messages_per_connection: u32,
    /// How long an idle connection is kept.
    pub idle_timeout: Duration,
    /// STARTTLS.
    pub tls: TlsPolicy,
}

/// Whose limits are asked for.
#[derive(Clone, Copy, Debug)]
pub struct Combination<'a> {
    /// Recipient domain (lower case, A-labels).
    pub domain: &'a str,
    /// Site name.
    pub site: &'a str,
    /// Source name, `unspecified` when none is configured.
    pub source: &'a str,
    /// Pool from which the source was chosen, if any.
    pub pool: Option<&'a str>,
}

/// All `[[limit]]` entries. Every core has its own copy; replaced as a whole by a reload.
#[derive(Clone, Debug)]
pub struct LimitTable {
    version: u32,
    entries: Vec<LimitSettings>,
    by_domain: HashMap<Arc<str>, Vec<u32>>,
    /// Entries that match a site and no domain.
    by_site: HashMap<Arc<str>, Vec<u32>>,
    /// The others.
    general: Vec<u32>,
    /// An entry without a domain counts connections (messages) of something that several domains use.
    shared_connections: bool,
    shared_messages: bool,
}

/// The settings that counters have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Purpose {
    Connections,
    Messages,
}

const ALL_PER: [LimitPer; 5] = [LimitPer::Path, LimitPer::Domain, LimitPer::Site, LimitPer::Source, LimitPer::Pool];

impl LimitTable {
    /// From the settings. `version` grows with each reload, and all cores give the same settings the same one.
    #[must_use]
    pub fn new(entries: &[LimitSettings], version: u32) -> Self {
        let mut table = Self {
            version,
            entries: entries.to_vec(),
            by_domain: HashMap::new(),
            by_site: HashMap::new(),
            general: Vec::new(),
            shared_connections: false,
            shared_messages: false,
        };
        for (index, entry) in (0_u32..).zip(entries) {
            if entry.domain.is_none() {
                table.shared_connections |= counts_shared(entry, Purpose::Connections);
                table.shared_messages |= counts_shared(entry, Purpose::Messages);
            }
            match (&entry.domain, &entry.site) {
                (Some(domain), _) => table.by_domain.entry(domain.clone()).or_default().push(index),
                (None, Some(site)) => table.by_site.entry(site.clone()).or_default().push(index),
                (None, None) => table.general.push(index),
            }
        }
        table
    }

    /// Number of the settings.
    #[must_use]
    pub fn version(&self) -> u32 {
        self.version
    }

    /// How many cores share `domain`, at least 1: the most specific entry that says so without naming a site,
    /// source or pool, which are not known when a message is routed.
    #[must_use]
    pub fn lanes(&self, domain: &str) -> u16 {
        let lanes = |indices: Option<&Vec<u32>>| {
            let entries = indices.into_iter().flatten().map(|&index| self.entry(index));
            entries
                .filter(|entry| entry.site.is_none() && entry.source.is_none() && entry.pool.is_none())
                .filter_map(|entry| entry.lanes)
                .min()
        };
        lanes(self.by_domain.get(domain)).or_else(|| lanes(Some(&self.general))).unwrap_or(1).max(1)
    }

    /// What applies to `of`.
    #[must_use]
    pub fn resolve(&self, of: &Combination) -> Limits {
        let matching = self.matching(of);
        let connections = counters(&matching, of, Purpose::Connections);
        let messages = counters(&matching, of, Purpose::Messages);
        let messages_per_connection = smallest(&matching, |entry| entry.messages_per_connection)
            .unwrap_or(MESSAGES_PER_CONNECTION_DEFAULT)
            .max(1);
        let idle_timeout =
            smallest(&matching, |entry| entry.idle_timeout).unwrap_or(Duration::from_millis(IDLE_TIMEOUT_DEFAULT_MS));
        let tls = strictest_tls(&matching);
        let narrow = |counter: &Counter| !matches!(counter.per, LimitPer::Source | LimitPer::Pool);
        let has_narrow = connections.iter().any(|counter| counter.connections.is_some() && narrow(counter));
        let default = (!has_narrow).then_some(PATH_CONNECTIONS_DEFAULT);
        let configured = connections.iter().filter_map(|counter| counter.connections).min();
        let keys: SmallVec<[CounterKey; 4]> = connections.iter().map(|counter| counter.key).collect();
        Limits {
            version: self.version,
            connection_arbiter: self.arbiter(of.domain, Purpose::Connections),
            message_arbiter: self.arbiter(of.domain, Purpose::Messages),
            tokens: TokenKey(hash(&messages.iter().map(|counter| counter.key).collect::<SmallVec<[_; 4]>>())),
            share: ShareKey(hash(&(keys, messages_per_connection, idle_timeout, tls))),
            exclusive_domain: is_exclusive(&matching),
            core_connections: configured.into_iter().chain(default).min().unwrap_or(PATH_CONNECTIONS_DEFAULT),
            connections,
            messages,
            messages_per_connection,
            idle_timeout,
            tls,
        }
    }

    fn entry(&self, index: u32) -> &LimitSettings {
        &self.entries[index as usize]
    }

    fn matching(&self, of: &Combination) -> SmallVec<[&LimitSettings; 8]> {
        let candidates = [self.by_domain.get(of.domain), self.by_site.get(of.site), Some(&self.general)];
        let applies = |wanted: &Option<Arc<str>>, value: Option<&str>| match wanted {
            Some(wanted) => value == Some(&**wanted),
            None => true,
        };
        candidates
            .into_iter()
            .flatten()
            .flatten()
            .map(|&index| self.entry(index))
            .filter(|entry| {
                applies(&entry.site, Some(of.site))
                    && applies(&entry.source, Some(of.source))
                    && applies(&entry.pool, of.pool)
            })
            .collect()
    }

    /// A domain's counters are its core's own business when the domain is on one core and no limit on anything
    /// that other domains use can apply to it. It must not depend on the path, so that a counter has one home.
    fn arbiter(&self, domain: &str, purpose: Purpose) -> Arbiter {
        let shared = match purpose {
            Purpose::Connections => self.shared_connections,
            Purpose::Messages => self.shared_messages,
        };
        let own_entries = self.by_domain.get(domain).into_iter().flatten().map(|&index| self.entry(index));
        if shared || self.lanes(domain) > 1 || own_entries.into_iter().any(|entry| counts_shared(entry, purpose)) {
            Arbiter::Engine
        } else {
            Arbiter::Own
        }
    }
}

impl Limits {
    /// Whether a connection needs a permit.
    #[must_use]
    pub fn needs_permit(&self) -> bool {
        !self.connections.is_empty()
    }

    /// Whether each new connection takes a token of some rate.
    #[must_use]
    pub fn has_connection_rate(&self) -> bool {
        self.connections.iter().any(|counter| counter.rate.is_some())
    }

    /// Whether a message needs a token.
    #[must_use]
    pub fn needs_token(&self) -> bool {
        !self.messages.is_empty()
    }
}

fn counts_shared(entry: &LimitSettings, purpose: Purpose) -> bool {
    entry.per != LimitPer::Domain
        && match purpose {
            Purpose::Connections => entry.connections.is_some() || entry.connection_rate.is_some(),
            Purpose::Messages => entry.message_rate.is_some(),
        }
}

fn specificity(entry: &LimitSettings) -> usize {
    [&entry.domain, &entry.site, &entry.source, &entry.pool].iter().filter(|field| field.is_some()).count()
}

/// Those of the matching entries of `per` that set something and that no more specific one replaces.
fn winners<'a>(
    matching: &'a [&'a LimitSettings],
    per: LimitPer,
    sets: impl Fn(&LimitSettings) -> bool + Copy + 'a,
) -> impl Iterator<Item = &'a LimitSettings> {
    let candidates = move || matching.iter().copied().filter(move |entry| entry.per == per && sets(entry));
    let most = candidates().map(specificity).max().unwrap_or(0);
    candidates().filter(move |entry| specificity(entry) == most)
}

fn counters(matching: &[&LimitSettings], of: &Combination, purpose: Purpose) -> SmallVec<[Counter; 2]> {
    let mut counters = SmallVec::new();
    for per in ALL_PER {
        if per == LimitPer::Pool && of.pool.is_none() {
            continue;
        }
        if purpose == Purpose::Connections {
            for entry in winners(matching, per, |entry| entry.connections.is_some()) {
                let counter = counter_of(&mut counters, entry, of, purpose);
                counter.connections = counter.connections.into_iter().chain(entry.connections).min();
            }
        }
        let rate = move |entry: &LimitSettings| match purpose {
            Purpose::Connections => entry.connection_rate,
            Purpose::Messages => entry.message_rate,
        };
        for entry in winners(matching, per, move |entry| rate(entry).is_some()) {
            let counter = counter_of(&mut counters, entry, of, purpose);
            counter.rate = slower(counter.rate, rate(entry));
        }
    }
    counters
}

fn counter_of<'a>(
    counters: &'a mut SmallVec<[Counter; 2]>,
    entry: &LimitSettings,
    of: &Combination,
    purpose: Purpose,
) -> &'a mut Counter {
    let key = counter_key(entry, of, purpose);
    let place = counters.iter().position(|counter| counter.key == key).unwrap_or_else(|| {
        counters.push(Counter { key, per: entry.per, connections: None, rate: None });
        counters.len() - 1
    });
    &mut counters[place]
}

/// The counted thing, and the match fields that it does not imply.
fn counter_key(entry: &LimitSettings, of: &Combination, purpose: Purpose) -> CounterKey {
    let per = entry.per;
    let domain = (per == LimitPer::Domain || entry.domain.is_some()).then_some(of.domain);
    let site = (matches!(per, LimitPer::Path | LimitPer::Site) || entry.site.is_some()).then_some(of.site);
    let source = (matches!(per, LimitPer::Path | LimitPer::Source) || entry.source.is_some()).then_some(of.source);
    let pool = of.pool.filter(|_| per == LimitPer::Pool || entry.pool.is_some());
    CounterKey(hash(&(purpose, per, domain, site, source, pool)))
}

fn slower(one: Option<Rate>, other: Option<Rate>) -> Option<Rate> {
    match (one, other) {
        (Some(one), Some(other)) => {
            // count / period, compared crosswise.
            let left = u128::from(one.count) * other.period.as_micros();
            let right = u128::from(other.count) * one.period.as_micros();
            Some(if right < left { other } else { one })
        }
        (one, other) => one.or(other),
    }
}

fn smallest<T: Ord>(matching: &[&LimitSettings], field: impl Fn(&LimitSettings) -> Option<T> + Copy) -> Option<T> {
    ALL_PER.iter().flat_map(|&per| winners(matching, per, move |e| field(e).is_some())).filter_map(field).min()
}

/// TLS is nothing that is counted, so the most specific entries of all count; among them the strictest.
fn strictest_tls(matching: &[&LimitSettings]) -> TlsPolicy {
    let strictness = |policy: TlsPolicy| match policy {
        TlsPolicy::Disabled => 0,
        TlsPolicy::Opportunistic => 1,
        TlsPolicy::Required => 2,
        TlsPolicy::Verified => 3,
    };
    matching
        .iter()
        .filter_map(|entry| entry.tls.map(|tls| (specificity(entry), strictness(tls), tls)))
        .max_by_key(|&(specific, strict, _)| (specific, strict))
        .map_or(TlsPolicy::default(), |(_, _, tls)| tls)
}

fn is_exclusive(matching: &[&LimitSettings]) -> bool {
    matching.iter().any(|entry| {
        let counts = entry.connections.is_some() || entry.connection_rate.is_some();
        let shapes = entry.messages_per_connection.is_some() || entry.idle_timeout.is_some() || entry.tls.is_some();
        (entry.per == LimitPer::Domain && counts) || (entry.domain.is_some() && (counts || shapes))
    })
}

/// Two 64-bit SipHashes with fixed keys and different beginnings: the same on every core.
fn hash(value: &impl Hash) -> u128 {
    let half = |begin: u8| {
        let mut hasher = DefaultHasher::new();
        begin.hash(&mut hasher);
        value.hash(&mut hasher);
        u128::from(hasher.finish())
    };
    half(0) << 64 | half(1)
}
