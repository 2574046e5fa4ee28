//! Own sending identities. Names and addresses only: whether an address exists on the machine shows when a
//! connection is bound to it, elsewhere.

use crate::limits::SOURCES_MAX;
use crate::settings::Settings;
use hashbrown::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

/// Name of the source that stands for the system's choice of address, when none is configured.
pub const UNSPECIFIED: &str = "unspecified";

/// A source: its index in [`Sources`]. After a reload the same index may mean another source: look it up
/// again by name.
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
    list: Vec<Source>,
    by_name: HashMap<Arc<str>, SourceIndex>,
    by_address: HashMap<IpAddr, SourceIndex>,
}

impl Sources {
    /// From the settings. Never empty.
    #[must_use]
    pub fn new(settings: &Settings) -> Self {
        assert!(
            settings.sources.len() <= SOURCES_MAX,
            "the settings are checked to have at most {SOURCES_MAX} sources"
        );
        let mut list: Vec<Source> = settings
            .sources
            .iter()
            .map(|source| Source {
                name: source.name.clone(),
                ehlo: source.ehlo.clone(),
                addresses: Addresses::Own { v4: source.address, v6: source.address_v6 },
            })
            .collect();
        if list.is_empty() {
            list.push(Source {
                name: UNSPECIFIED.into(),
                ehlo: settings.hostname.clone(),
                addresses: Addresses::System,
            });
        }
        let mut by_name = HashMap::with_capacity(list.len());
        let mut by_address = HashMap::with_capacity(list.len());
        for (index, source) in (0_u16..).map(SourceIndex).zip(&list) {
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

    /// All, with their indices.
    pub fn iter(&self) -> impl Iterator<Item = (SourceIndex, &Source)> {
        (0_u16..).map(SourceIndex).zip(&self.list)
    }
}
