//! Carries a shard's look-ups to the resolver and its answers back.

use crate::dns::{DnsFailure as Dns, MailHosts, NamedBy};
use crate::event::{Host, Lookup, Resolved};
use crate::outcome::Verb;
use crate::queue::DestinationId;
use crate::runtime::local::Local;
use crate::settings::RouteHost;
use crate::smtp::classify::{DnsFailure, Failure, FailureKind};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

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

/// Hosts that a route or a message names. Those that do not resolve are left out while others do.
async fn routed_hosts(local: &Local, hosts: &[RouteHost], by_operator: bool) -> Result<Resolved, Failure> {
    let named_by = if by_operator { NamedBy::Operator } else { NamedBy::Caller };
    let mut resolved = Resolved { hosts: Vec::new(), names: Vec::new(), expires: crate::time::Instant(u64::MAX) };
    let mut failure = None;
    for host in hosts {
        resolved.names.push(site_part(host));
        match local.dns().host_addresses(&host.host, named_by).await {
            Ok(found) => {
                let MailHosts { hosts: of, expires, .. } = &*found;
                let addresses = of.iter().flat_map(|host| &host.addresses);
                resolved.hosts.push(Host {
                    name: host.host.clone(),
                    addresses: addresses.map(|ip| SocketAddr::new(*ip, host.port)).collect(),
                });
                resolved.expires = resolved.expires.min(*expires);
            }
            Err(error) => {
                // A temporary failure of one host must not turn into a bounce by another's absence.
                let worse = failure.as_ref().is_none_or(|_: &Failure| error.is_temporary());
                if worse {
                    failure = Some(failure_of(&error, &host.host));
                }
            }
        }
    }
    if resolved.hosts.is_empty() {
        return Err(failure.expect("a route has at least one host, and none resolved"));
    }
    Ok(resolved)
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
