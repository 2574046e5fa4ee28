//! Own sending identities. Names and addresses only: whether an address exists on the machine shows when a
//! connection is bound to it, elsewhere.

use crate::limits::SOURCES_MAX;
use crate::settings::Settings;
use hashbrown::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

/// Name of the source that stands for the system's choice of address, when none is configured.
pub const UNSPECIFIED: &str = "unspecified";

/// A source: its index in [`Sources`]. It means the same source after a reload, since paths and connections keep it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceIndex(pub u16);

/// One sending identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Name, `unspecified` for the implicit one.
    pub name: Arc<str>,
    /// Name in EHLO.
    pub ehlo: Arc<str>,
    /// Which addresses it sends from.
    pub addresses: Addresses,
}

/// Which addresses a source sends from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Addresses {
    /// The system chooses, for either family.
    System,
    /// Those configured; a family without an address cannot be reached from it.
    Own {
        /// For IPv4 hosts.
        v4: Option<Ipv4Addr>,
        /// For IPv6 hosts.
        v6: Option<Ipv6Addr>,
    },
}

/// From which address to connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bind {
    /// Do not bind: the system chooses.
    System,
    /// This one.
    Address(IpAddr),
    /// The source has no address of the remote host's family.
    Unusable,
}

impl Source {
    /// From which address to connect to `remote`.
    #[must_use]
    pub fn bind_for(&self, remote: IpAddr) -> Bind {
        let address = match (self.addresses, remote.to_canonical()) {
            (Addresses::System, _) => return Bind::System,
            (Addresses::Own { v4, .. }, IpAddr::V4(_)) => v4.map(IpAddr::V4),
            (Addresses::Own { v6, .. }, IpAddr::V6(_)) => v6.map(IpAddr::V6),
        };
        address.map_or(Bind::Unusable, Bind::Address)
    }

    /// Whether it can connect to IPv4 hosts.
    #[must_use]
    pub fn reaches_v4(&self) -> bool {
        !matches!(self.addresses, Addresses::Own { v4: None, .. })
    }

    /// Whether it can connect to IPv6 hosts.
    #[must_use]
    pub fn reaches_v6(&self) -> bool {
        !matches!(self.addresses, Addresses::Own { v6: None, .. })
    }
}

/// All sources: those configured, or the one implicit `unspecified`. Every core has its own copy; replaced
/// as a whole by a reload.
#[derive(Clone, Debug)]
pub struct Sources {
    /// Also those that a reload has taken away: a connection may still be theirs.
    list: Vec<Source>,
    by_name: HashMap<Arc<str>, SourceIndex>,
    by_address: HashMap<IpAddr, SourceIndex>,
}

impl Sources {
    /// From the settings. Never empty.
    #[must_use]
    pub fn new(settings: &Settings) -> Self {
        Self::over(Vec::new(), settings)
    }

    /// From new settings. A source that stays keeps its index, whatever else of it has changed; a new one takes none
    /// that an earlier one had, until there is no other left.
    #[must_use]
    pub fn renewed(&self, settings: &Settings) -> Self {
        Self::over(self.list.clone(), settings)
    }

    fn over(mut list: Vec<Source>, settings: &Settings) -> Self {
        assert!(
            settings.sources.len() <= SOURCES_MAX,
            "the settings are checked to have at most {SOURCES_MAX} sources"
        );
        let configured = configured(settings);
        let names: HashSet<&str> = configured.iter().map(|source| &*source.name).collect();
        let earlier: HashMap<Arc<str>, usize> =
            list.iter().enumerate().map(|(at, source)| (source.name.clone(), at)).collect();
        // Only after tens of thousands of sources were taken away is an index of one of them used again.
        let mut gone: Vec<usize> = (0..list.len()).filter(|at| !names.contains(&*list[*at].name)).collect();
        let (mut by_name, mut by_address) = (HashMap::new(), HashMap::new());
        for source in &configured {
            let at = earlier.get(&source.name).copied().or_else(|| {
                let full = list.len() > usize::from(u16::MAX);
                if full { gone.pop() } else { None }
            });
            let at = match at {
                Some(at) => {
                    list[at] = source.clone();
                    at
                }
                None => {
                    list.push(source.clone());
                    list.len() - 1
                }
            };
            let index = SourceIndex(u16::try_from(at).expect("as many indices as sources may be configured"));
            by_name.insert(source.name.clone(), index);
            if let Addresses::Own { v4, v6 } = source.addresses {
                let addresses = v4.map(IpAddr::V4).into_iter().chain(v6.map(IpAddr::V6));
                // Two sources may share an address under two EHLO names; `ips` then mean the first.
                addresses.for_each(|address| {
                    by_address.entry(address).or_insert(index);
                });
            }
        }
        Self { list, by_name, by_address }
    }

    /// The source at `index`. Panics when the index is not of these sources.
    #[must_use]
    pub fn get(&self, index: SourceIndex) -> &Source {
        &self.list[usize::from(index.0)]
    }

    /// The source of that name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<SourceIndex> {
        self.by_name.get(name).copied()
    }

    /// The source that sends from `address`.
    #[must_use]
    pub fn find_address(&self, address: IpAddr) -> Option<SourceIndex> {
        self.by_address.get(&address.to_canonical()).copied()
    }

    /// All that are configured, with their indices, in the order of these.
    pub fn iter(&self) -> impl Iterator<Item = (SourceIndex, &Source)> {
        let all = (0..=u16::MAX).map(SourceIndex).zip(&self.list);
        all.filter(|(index, source)| self.by_name.get(&source.name) == Some(index))
    }
}

/// What the settings say, or the implicit source.
fn configured(settings: &Settings) -> Vec<Source> {
    if settings.sources.is_empty() {
        let (name, ehlo) = (UNSPECIFIED.into(), settings.hostname.clone());
        return vec![Source { name, ehlo, addresses: Addresses::System }];
    }
    let own = settings.sources.iter().map(|source| Source {
        name: source.name.clone(),
        ehlo: source.ehlo.clone(),
        addresses: Addresses::Own { v4: source.address, v6: source.address_v6 },
    });
    own.collect()
}
