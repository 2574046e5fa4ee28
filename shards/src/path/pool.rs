//! Which sources a message may use, and which of them is next. Keeps to the weights; knows nothing of
//! connections or of limits.

use crate::path::source::{SourceIndex, Sources};
use crate::settings::Settings;
use hashbrown::HashMap;
use smallvec::SmallVec;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

/// Name of the pool of messages that name none.
pub const DEFAULT_POOL: &str = "default";

/// One eligible source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// The source.
    pub source: SourceIndex,
    /// Its share of the connections, at least 1.
    pub weight: u32,
    /// It may be used for IPv4 hosts.
    pub v4: bool,
    /// It may be used for IPv6 hosts.
    pub v6: bool,
}

impl Member {
    /// Whether it may be used for that remote host.
    #[must_use]
    pub fn reaches(&self, remote: IpAddr) -> bool {
        match remote.to_canonical() {
            IpAddr::V4(_) => self.v4,
            IpAddr::V6(_) => self.v6,
        }
    }
}

/// The sources that a message may use: at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Eligible {
    /// The pool they come from; none when the message names addresses, or when no pool is configured.
    pub pool: Option<Arc<str>>,
    /// The sources.
    pub members: Arc<[Member]>,
}

/// What a message names is not configured. The text names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PoolError {
    /// No pool of that name.
    UnknownPool(Box<str>),
    /// The pool has no sources.
    EmptyPool(Box<str>),
    /// No source sends from that address.
    UnknownAddress(IpAddr),
}

impl fmt::Display for PoolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownPool(name) => write!(f, "there is no pool named {name}, or it has no sources"),
            Self::EmptyPool(name) => write!(f, "pool {name} has no sources"),
            Self::UnknownAddress(address) => write!(f, "no source sends from {address}"),
        }
    }
}

impl std::error::Error for PoolError {}

/// All pools. Every core has its own copy; replaced as a whole by a reload.
#[derive(Clone, Debug)]
pub struct Pools {
    by_name: HashMap<Arc<str>, Eligible>,
    /// For messages that name no pool when there is none called `default`.
    all: Eligible,
}

impl Pools {
    /// From the settings and the sources made from the same settings.
    #[must_use]
    pub fn new(settings: &Settings, sources: &Sources) -> Self {
        let member = |source: SourceIndex, weight: u32| {
            let identity = sources.get(source);
            Member { source, weight: weight.max(1), v4: identity.reaches_v4(), v6: identity.reaches_v6() }
        };
        let by_name = settings
            .pools
            .iter()
            .map(|pool| {
                let members = pool.sources.iter().map(|&(place, weight)| {
                    let name = &settings.sources[place].name;
                    member(sources.find(name).expect("the sources are those of the same settings"), weight)
                });
                (pool.name.clone(), Eligible { pool: Some(pool.name.clone()), members: members.collect() })
            })
            .collect();
        let all = Eligible { pool: None, members: sources.iter().map(|(source, _)| member(source, 1)).collect() };
        Self { by_name, all }
    }

    /// The sources for a message that names `pool` or, taking precedence, own addresses `ips`.
    ///
    /// A message that names neither uses the pool `default`; without one, every source; without sources,
    /// the system's address. Every address must belong to a source, and only that address of it is used.
    pub fn choose(&self, sources: &Sources, pool: Option<&str>, ips: &[IpAddr]) -> Result<Eligible, PoolError> {
        if !ips.is_empty() {
            return choose_addresses(sources, ips);
        }
        let name = pool.unwrap_or(DEFAULT_POOL);
        match self.by_name.get(name) {
            Some(eligible) if eligible.members.is_empty() => Err(PoolError::EmptyPool(name.into())),
            Some(eligible) => Ok(eligible.clone()),
            None if pool.is_none() => Ok(self.all.clone()),
            None => Err(PoolError::UnknownPool(name.into())),
        }
    }
}

fn choose_addresses(sources: &Sources, ips: &[IpAddr]) -> Result<Eligible, PoolError> {
    let mut members: Vec<Member> = Vec::with_capacity(ips.len());
    let mut places: HashMap<SourceIndex, usize> = HashMap::with_capacity(ips.len());
    for &address in ips {
        let source = sources.find_address(address).ok_or(PoolError::UnknownAddress(address))?;
        let place = *places.entry(source).or_insert(members.len());
        if place == members.len() {
            members.push(Member { source, weight: 1, v4: false, v6: false });
        }
        match address.to_canonical() {
            IpAddr::V4(_) => members[place].v4 = true,
            IpAddr::V6(_) => members[place].v6 = true,
        }
    }
    Ok(Eligible { pool: None, members: members.into() })
}

/// Whose turn it is among eligible sources: smooth weighted round-robin, so that heavy sources do not come in
/// runs. One for each (eligible set, site) on a core, kept by the caller. Starting at different `turns` on
/// different cores keeps them from all beginning with the same source.
#[derive(Clone, Debug, Default)]
pub struct Rotation {
    credit: SmallVec<[i64; 4]>,
}

impl Rotation {
    /// A rotation that has already taken `turns` turns over `members` (for instance the core's number).
    #[must_use]
    pub fn starting_at(members: &[Member], turns: u16) -> Self {
        let mut rotation = Self::default();
        for _ in 0..turns {
            rotation.next(members, |_| true);
        }
        rotation
    }

    /// The next source among those `members` that are `usable` (family, window, limits). `None` when none is.
    ///
    /// Over many calls each source gets its weight's share. `members` must be the same at each call; a
    /// different number of them starts the rotation afresh.
    pub fn next(&mut self, members: &[Member], mut usable: impl FnMut(&Member) -> bool) -> Option<SourceIndex> {
        if self.credit.len() != members.len() {
            self.credit.clear();
            self.credit.resize(members.len(), 0);
        }
        let mut total = 0;
        let mut best: Option<usize> = None;
        for (index, member) in members.iter().enumerate() {
            if !usable(member) {
                continue;
            }
            total += i64::from(member.weight);
            self.credit[index] += i64::from(member.weight);
            if best.is_none_or(|b| self.credit[index] > self.credit[b]) {
                best = Some(index);
            }
        }
        let best = best?;
        self.credit[best] -= total;
        Some(members[best].source)
    }
}
