//! Pools made by the API, laid over the configuration's. The configuration wins: its pools are not changed here, and
//! an address that it names keeps the source that it gave it.

use super::change::{ExternalMta, Pool, PoolIp};
use mailrace_shards::settings::{PoolSettings, Settings, SourceSettings};
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
    let local_of = |public: IpAddr| {
        let nat = api.external_mtas.iter().find(|mta| mta.public_ip == public && &*mta.protocol == "nat");
        nat.map_or(public, |mta| mta.local_ip)
    };
    for mta in api.external_mtas.iter().filter(|mta| &*mta.protocol == "nat") {
        place_of(&mut settings.sources, (mta.public_ip, mta.local_ip), &settings.hostname);
    }
    for pool in &api.pools {
        if settings.pools.iter().any(|configured| configured.name == pool.name) {
            continue;
        }
        let mut sources = Vec::new();
        for member in api.members.iter().filter(|member| member.pool == pool.name) {
            let place = place_of(&mut settings.sources, (member.ip, local_of(member.ip)), &settings.hostname);
            if !sources.contains(&(place, 1)) {
                sources.push((place, 1));
            }
        }
        if !sources.is_empty() {
            settings.pools.push(PoolSettings { name: pool.name.clone(), sources });
        }
    }
    settings
}

/// The place of the source that sends from `local`; a new one is named by the public address.
fn place_of(sources: &mut Vec<SourceSettings>, (public, local): (IpAddr, IpAddr), hostname: &Arc<str>) -> usize {
    let known = sources.iter().position(|source| match local {
        IpAddr::V4(v4) => source.address == Some(v4),
        IpAddr::V6(v6) => source.address_v6 == Some(v6),
    });
    known.unwrap_or_else(|| {
        let (address, address_v6) = match local {
            IpAddr::V4(v4) => (Some(v4), None),
            IpAddr::V6(v6) => (None, Some(v6)),
        };
        sources.push(SourceSettings { name: public.to_string().into(), address, address_v6, ehlo: hostname.clone() });
        sources.len() - 1
    })
}

#[cfg(test)]
mod tests {
    use super::{ApiPools, lay_over};
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
}
