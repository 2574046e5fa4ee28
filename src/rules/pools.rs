//! Pools made by the API, laid over the configuration's. The configuration wins: its pools are not changed here, and
//! an address that it names keeps the source that it gave it.

use super::change::{ExternalMta, Pool, PoolIp};
use mailrace_shards::limits::SOURCES_MAX;
use mailrace_shards::settings::{PoolSettings, Settings, SourceSettings};
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

/// All pools made by the API.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ApiPools {
    /// The pools.
    pub pools: Vec<Pool>,
    /// Their members.
    pub members: Vec<PoolIp>,
    /// Public addresses that are reached through own addresses behind them. Only `nat` is carried out.
    pub external_mtas: Vec<ExternalMta>,
}

/// The settings with these pools in them. A member becomes a source named by its address, with the host's name as
/// EHLO. A pool without members is left out: nothing could be sent from it. An external MTA with `nat` is a source
/// named by its public address that sends from its local one.
#[must_use]
pub fn lay_over(settings: &Settings, api: &ApiPools) -> Settings {
    let mut settings = settings.clone();
    let of_nat = api.external_mtas.iter().filter(|mta| &*mta.protocol == "nat");
    let nat: HashMap<IpAddr, IpAddr> = of_nat.map(|mta| (mta.public_ip, mta.local_ip)).collect();
    let configured: HashSet<Arc<str>> = settings.pools.iter().map(|pool| pool.name.clone()).collect();
    let mut members: HashMap<&str, Vec<IpAddr>> = HashMap::new();
    for member in &api.members {
        members.entry(&member.pool).or_default().push(member.ip);
    }
    let mut places = Places::of(std::mem::take(&mut settings.sources));
    for mta in api.external_mtas.iter().filter(|mta| nat.contains_key(&mta.public_ip)) {
        places.of_address(mta.public_ip, mta.local_ip, &settings.hostname);
    }
    for pool in api.pools.iter().filter(|pool| !configured.contains(&pool.name)) {
        let mut seen = HashSet::new();
        let mut sources = Vec::new();
        for public in members.get(&*pool.name).into_iter().flatten() {
            let local = nat.get(public).unwrap_or(public);
            let place = places.of_address(*public, *local, &settings.hostname);
            sources.extend(place.filter(|place| seen.insert(*place)).map(|place| (place, 1)));
        }
        if !sources.is_empty() {
            settings.pools.push(PoolSettings { name: pool.name.clone(), sources });
        }
    }
    settings.sources = places.sources;
    settings
}

/// Sources, and the first that sends from an address.
struct Places {
    sources: Vec<SourceSettings>,
    by_address: HashMap<IpAddr, usize>,
}

impl Places {
    fn of(sources: Vec<SourceSettings>) -> Self {
        let mut by_address = HashMap::new();
        for (place, source) in sources.iter().enumerate() {
            for address in [source.address.map(IpAddr::V4), source.address_v6.map(IpAddr::V6)].into_iter().flatten() {
                by_address.entry(address).or_insert(place);
            }
        }
        Self { sources, by_address }
    }

    /// The place of the source that sends from `local`; a new one is named by the public address. `None` when there are
    /// as many as a core takes: what an earlier version let in without a bound must not keep the engine from starting.
    fn of_address(&mut self, public: IpAddr, local: IpAddr, hostname: &Arc<str>) -> Option<usize> {
        if let Some(place) = self.by_address.get(&local) {
            return Some(*place);
        }
        let place = self.sources.len();
        if place >= SOURCES_MAX {
            return None;
        }
        let (address, address_v6) = match local {
            IpAddr::V4(v4) => (Some(v4), None),
            IpAddr::V6(v6) => (None, Some(v6)),
        };
        let name = public.to_string().into();
        self.sources.push(SourceSettings { name, address, address_v6, ehlo: hostname.clone() });
        self.by_address.insert(local, place);
        Some(place)
    }
}

#[cfg(test)]
mod tests {
    use super::{ApiPools, SOURCES_MAX, lay_over};
    use crate::config::{Overrides, parse};
    use crate::machine::Machine;
    use crate::rules::change::{ExternalMta, Pool, PoolIp};
    use std::path::Path;

    #[test]
    fn the_configuration_wins_and_keeps_its_sources() {
        let text = "server.hostname = \"mx.example.net\"\n[[source]]\nname = \"ip-1\"\naddress = \"192.0.2.10\"\n\
                    ehlo = \"a.example.net\"\n[[pool]]\nname = \"fixed\"\nsources = [{ name = \"ip-1\", weight = 3 }]\n";
        let settings = parse(Path::new("x"), text, &Overrides::default(), &Machine::detect()).unwrap().settings;
        let pool = |name: &str| Pool { name: name.into(), description: None };
        let member = |pool: &str, ip: &str| PoolIp { pool: pool.into(), ip: ip.parse().unwrap() };
        let mta = |public: &str, local: &str, protocol: &str| ExternalMta {
            public_ip: public.parse().unwrap(),
            local_ip: local.parse().unwrap(),
            connect_ip: None,
            connect_port: None,
            protocol: protocol.into(),
        };
        let api = ApiPools {
            pools: vec![pool("bulk"), pool("empty"), pool("fixed")],
            members: vec![
                member("bulk", "192.0.2.10"),
                member("bulk", "2001:db8::5"),
                member("fixed", "192.0.2.66"),
                member("gone", "192.0.2.67"),
                member("bulk", "203.0.113.7"),
            ],
            external_mtas: vec![mta("203.0.113.7", "10.0.0.7", "nat"), mta("203.0.113.8", "10.0.0.8", "socks")],
        };
        let laid = lay_over(&settings, &api);
        let sources: Vec<String> =
            laid.sources.iter().map(|source| format!("{} {:?} {}", source.name, source.address, source.ehlo)).collect();
        assert_eq!(
            sources,
            [
                "ip-1 Some(192.0.2.10) a.example.net",
                "203.0.113.7 Some(10.0.0.7) mx.example.net",
                "2001:db8::5 None mx.example.net"
            ]
        );
        let pools: Vec<_> = laid.pools.iter().map(|pool| (&*pool.name, pool.sources.clone())).collect();
        assert_eq!(pools, [("fixed", vec![(0, 3)]), ("bulk", vec![(0, 1), (2, 1), (1, 1)])]);
    }

    /// More addresses than sources that a core takes ended every core, and each start after it.
    #[test]
    fn a_core_is_never_given_more_sources_than_it_takes() {
        let settings = parse(Path::new("x"), "", &Overrides::default(), &Machine::detect()).unwrap().settings;
        let member = |number: usize| {
            let number = u32::try_from(number).unwrap();
            PoolIp { pool: "bulk".into(), ip: std::net::Ipv4Addr::from_bits(number).into() }
        };
        let api = ApiPools {
            pools: vec![Pool { name: "bulk".into(), description: None }],
            members: (1..=SOURCES_MAX + 10).map(member).collect(),
            external_mtas: Vec::new(),
        };
        let laid = lay_over(&settings, &api);
        assert_eq!((laid.sources.len(), laid.pools[0].sources.len()), (SOURCES_MAX, SOURCES_MAX));
        assert_eq!(laid.sources[SOURCES_MAX - 1].name, "0.0.255.255".into());
    }
}
