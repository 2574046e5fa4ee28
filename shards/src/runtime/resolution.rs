//! Carries a shard's look-ups to the resolver and its answers back.

use crate::dns::resolve::Outcome;
use crate::dns::{DnsFailure as Dns, MailHosts, NamedBy};
use crate::event::{Host, Lookup, Resolved};
use crate::limits::DNS_PARTIAL_TTL_S;
use crate::outcome::Verb;
use crate::queue::DestinationId;
use crate::runtime::clock;
use crate::runtime::local::Local;
use crate::runtime::socket::leads_to_itself;
use crate::settings::{RouteHost, SourceSettings};
use crate::smtp::classify::{DnsFailure, Failure, FailureKind};
use crate::time::Instant;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// The port of mail exchangers.
const SMTP_PORT: u16 = 25;

/// Looks up in the background, and tells the shard.
pub fn start(local: Rc<Local>, destination: DestinationId, lookup: Lookup) {
    let core = local.clone();
    core.spawn(async move {
        let answer = match &lookup {
            Lookup::MailHosts(domain) => mail_hosts(&local, domain).await,
            Lookup::Hosts { hosts, by_operator } => routed_hosts(&local, hosts, *by_operator).await,
        };
        let settings = local.settings();
        let answer = answer.map(|resolved| without_this_machine(resolved, &settings.smtp.listen, &settings.sources));
        local.with_shard(|shard, now| shard.handle_resolved(destination, answer, now));
    });
}

async fn mail_hosts(local: &Local, domain: &str) -> Result<Resolved, Failure> {
    let found = local.dns().mail_hosts(domain).await.map_err(|failure| failure_of(&failure, domain))?;
    let hosts = found
        .hosts
        .iter()
        .map(|host| Host {
            name: host.name.clone(),
            addresses: host.addresses.iter().map(|ip| SocketAddr::new(*ip, SMTP_PORT)).collect(),
        })
        .collect();
    Ok(Resolved { hosts, names: found.names.to_vec(), expires: found.expires })
}

/// Hosts that a route or a message names.
async fn routed_hosts(local: &Local, hosts: &[RouteHost], by_operator: bool) -> Result<Resolved, Failure> {
    let named_by = if by_operator { NamedBy::Operator } else { NamedBy::Caller };
    let mut answers = Vec::with_capacity(hosts.len());
    for host in hosts {
        answers.push((host, local.dns().host_addresses(&host.host, named_by).await));
    }
    together(&answers, clock::recent().instant)
}

/// What the answers about a route's hosts, of which there is one at least, come to. Hosts that do not resolve are left out
/// while others do, but asked for again before long: a route must not be without its second host for a day because that
/// failed once.
fn together(answers: &[(&RouteHost, Outcome)], now: Instant) -> Result<Resolved, Failure> {
    let mut resolved = Resolved { hosts: Vec::new(), names: Vec::new(), expires: Instant(u64::MAX) };
    let mut failure = None;
    for (host, answer) in answers {
        resolved.names.push(site_part(host));
        match answer {
            Ok(found) => {
                let MailHosts { hosts: of, expires, .. } = &**found;
                let addresses = of.iter().flat_map(|host| &host.addresses);
                resolved.hosts.push(Host {
                    name: host.host.clone(),
                    addresses: addresses.map(|ip| SocketAddr::new(*ip, host.port)).collect(),
                });
                resolved.expires = resolved.expires.min(*expires);
            }
            Err(error) => {
                resolved.expires = resolved.expires.min(now.after(Duration::from_secs(DNS_PARTIAL_TTL_S.into())));
                // A temporary failure of one host must not turn into a bounce by another's absence.
                let worse = failure.as_ref().is_none_or(|_: &Failure| error.is_temporary());
                if worse {
                    failure = Some(failure_of(error, &host.host));
                }
            }
        }
    }
    if resolved.hosts.is_empty() {
        return Err(failure.expect("a route has at least one host, and none resolved"));
    }
    Ok(resolved)
}

/// Whoever listens at all addresses is reached at each of this machine's. Such a host and those after it do not count, as the
/// shard has it for addresses that are listened at by name (RFC 5321 §5.1).
fn without_this_machine(mut resolved: Resolved, listeners: &[SocketAddr], sources: &[SourceSettings]) -> Resolved {
    let ours = |address: &SocketAddr| listens_everywhere(listeners, *address) && is_own(sources, *address);
    if let Some(at) = resolved.hosts.iter().position(|host| host.addresses.iter().any(ours)) {
        resolved.hosts.truncate(at);
    }
    resolved
}

fn listens_everywhere(listeners: &[SocketAddr], address: SocketAddr) -> bool {
    let reaches = |listener: &SocketAddr| {
        listener.ip().is_unspecified()
            && listener.port() == address.port()
            && listener.is_ipv4() == address.ip().to_canonical().is_ipv4()
    };
    listeners.iter().any(reaches)
}

/// Addresses from which mail is sent are this machine's for sure; of the others the system is asked.
fn is_own(sources: &[SourceSettings], address: SocketAddr) -> bool {
    let ip = address.ip().to_canonical();
    let sends = |source: &SourceSettings| match ip {
        IpAddr::V4(v4) => source.address == Some(v4),
        IpAddr::V6(v6) => source.address_v6 == Some(v6),
    };
    sources.iter().any(sends) || ip.is_loopback() || leads_to_itself(SocketAddr::new(ip, address.port()))
}

/// A routed host as it stands in a site's name: with its port when that is not 25.
fn site_part(host: &RouteHost) -> Arc<str> {
    if host.port == SMTP_PORT { host.host.clone() } else { format!("{}:{}", host.host, host.port).into() }
}

fn failure_of(failure: &Dns, name: &str) -> Failure {
    let kind = match failure {
        Dns::NoSuchDomain => DnsFailure::NoSuchDomain,
        Dns::NullMx => DnsFailure::NullMx,
        Dns::NoAddress => DnsFailure::NoAddress,
        Dns::PrivateAddress(_) => DnsFailure::PrivateAddress,
        Dns::Temporary(_) => DnsFailure::Temporary,
    };
    Failure::own(FailureKind::Dns(kind), Verb::None, format!("{name}: {failure}"))
}

#[cfg(test)]
mod tests {
    use super::{
        Dns, DnsFailure, FailureKind, Host, Outcome, Resolved, RouteHost, SourceSettings, together,
        without_this_machine,
    };
    use crate::dns::{MailHost, MailHosts};
    use crate::time::Instant;
    use std::sync::Arc;

    const DAY: Instant = Instant(86_400_000_000);

    fn found(name: &str) -> Outcome {
        let addresses = [[192, 0, 2, 1].into()].into_iter().collect();
        let host = MailHost { name: name.into(), preference: 0, addresses };
        Ok(Arc::new(MailHosts { hosts: vec![host], names: [name.into()].into(), expires: DAY }))
    }

    /// Of two hosts, one of which is an address, the other was not asked for again for a day when it failed once.
    #[test]
    fn a_host_of_a_route_that_fails_is_asked_for_again_before_long() {
        let hosts = ["192.0.2.1", "backup.test"].map(|host| RouteHost { host: host.into(), port: 25 });
        let [first, second] = &hosts;
        let temporary = || Err(Dns::Temporary("no answer".into()));
        let both = together(&[(first, found("192.0.2.1")), (second, found("backup.test"))], Instant(0)).unwrap();
        assert_eq!((both.hosts.len(), both.expires), (2, DAY));
        for failure in [temporary(), Err(Dns::NoSuchDomain)] {
            let one = together(&[(first, found("192.0.2.1")), (second, failure)], Instant(0)).unwrap();
            assert_eq!((one.hosts.len(), one.names.len(), one.expires), (1, 2, Instant(300_000_000)));
        }
        for answers in [[Err(Dns::NoSuchDomain), temporary()], [temporary(), Err(Dns::NoSuchDomain)]] {
            let failure =
                together(&[(first, answers[0].clone()), (second, answers[1].clone())], Instant(0)).unwrap_err();
            assert_eq!(failure.kind, FailureKind::Dns(DnsFailure::Temporary));
        }
    }

    /// Hosts from the first that is this machine on do not count, when a listener is reached there.
    #[test]
    fn a_host_at_an_address_of_ours_ends_the_list_where_we_listen_at_all_addresses() {
        let table = [("0.0.0.0:25", 1), ("0.0.0.0:26", 3), ("[::]:25", 3), ("198.51.100.9:25", 3)];
        let address = Some([192, 0, 2, 9].into());
        let sources = [SourceSettings { name: "a".into(), address, address_v6: None, ehlo: "a.test".into() }];
        for (listen, left) in table {
            let host =
                |ip: [u8; 4]| Host { name: "mx.test".into(), addresses: [(ip, 25).into()].into_iter().collect() };
            let hosts = [[198, 51, 100, 1], [192, 0, 2, 9], [198, 51, 100, 2]].map(host).into();
            let resolved = Resolved { hosts, names: Vec::new(), expires: DAY };
            assert_eq!(
                without_this_machine(resolved, &[listen.parse().unwrap()], &sources).hosts.len(),
                left,
                "{listen}"
            );
        }
    }
}
