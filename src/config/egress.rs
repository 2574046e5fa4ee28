//! The sections about mail that leaves: `[egress] [[source]] [[pool]] [[route]] [[limit]] [retry]`.

use super::section::{Item, Section};
use super::server::duration;
use super::units;
use mailrace_shards::limits::{CORES_MAX, SOURCES_CONFIGURED_MAX};
use mailrace_shards::settings::{
    LimitPer, LimitSettings, PoolSettings, RetrySettings, RouteSettings, SourceSettings, TlsPolicy,
};
use std::collections::{HashMap, HashSet};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

/// Members of one pool, and hosts of one route.
const POOL_MEMBERS_MAX: usize = 65_535;
const ROUTE_HOSTS_MAX: usize = 64;

/// Waits of a retry schedule.
const RETRY_INTERVALS_MAX: usize = 256;

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// What the sections of this file say.
pub struct Egress {
    pub allow_private: bool,
    pub sources: Vec<SourceSettings>,
    pub pools: Vec<PoolSettings>,
    pub routes: Vec<RouteSettings>,
    pub limits: Vec<LimitSettings>,
    pub retry: RetrySettings,
}

/// Reads them. `hostname` is the EHLO name of a source that has none.
pub fn read(root: &Section<'_>, hostname: &Arc<str>, warnings: &mut Vec<String>) -> Egress {
    let section = root.table("egress");
    let allow_private = section.or("allow_private", false, Item::boolean);
    section.finish();
    let (sources, places) = sources(root, hostname);
    let pools = pools(root, &places);
    let routes = routes(root);
    let limits = limits(root);
    for limit in &limits {
        warn_of_unknown_names(limit, &places, &pools, warnings);
    }
    Egress { allow_private, sources, pools, routes, limits, retry: retry(root) }
}

/// The sources, and where in the list each name stands.
fn sources(root: &Section<'_>, hostname: &Arc<str>) -> (Vec<SourceSettings>, HashMap<Arc<str>, usize>) {
    let mut sources = Vec::new();
    let mut places = HashMap::new();
    for section in root.tables("source") {
        if sources.len() == SOURCES_CONFIGURED_MAX {
            let text = format!("is one more than the {SOURCES_CONFIGURED_MAX} sources that there may be");
            section.problems().add(section.span(), section.name(), text);
            break;
        }
        let name = section.required("name", |item| item.parse(units::name));
        let address = section.optional("address", |item| item.parse(|text| own_address::<Ipv4Addr>(text, "IPv4")));
        let address_v6 =
            section.optional("address_v6", |item| item.parse(|text| own_address::<Ipv6Addr>(text, "IPv6")));
        if !section.has("address") && !section.has("address_v6") {
            section.problems().add(section.span(), section.name(), "needs address, address_v6 or both");
        }
        let ehlo = section.or("ehlo", hostname.clone(), |item| item.parse(units::domain));
        if let Some(name) = name {
            if places.insert(name.clone(), sources.len()).is_some() {
                section.problem("name", format!("{name:?} is the name of an earlier source"));
            }
            sources.push(SourceSettings { name, address, address_v6, ehlo });
        }
        section.finish();
    }
    (sources, places)
}

fn own_address<A: std::str::FromStr>(text: &str, family: &str) -> Result<A, String> {
    text.parse().map_err(|_| format!("is not an {family} address"))
}

fn pools(root: &Section<'_>, places: &HashMap<Arc<str>, usize>) -> Vec<PoolSettings> {
    let mut pools: Vec<PoolSettings> = Vec::new();
    let mut names = HashSet::new();
    for section in root.tables("pool") {
        let name = section.required("name", |item| item.parse(units::name));
        let members = section.required("sources", |item| {
            if item.is_empty_list() {
                item.problem("is empty; a pool needs at least one source");
            }
            Some(item.list(POOL_MEMBERS_MAX, |item| member(item, places)))
        });
        let sources = members.unwrap_or_default();
        let mut seen = HashSet::new();
        for (index, _) in &sources {
            if !seen.insert(index) {
                section.problem("sources", "names a source twice; give it one entry and a weight");
            }
        }
        if let Some(name) = name {
            if !names.insert(name.clone()) {
                section.problem("name", format!("{name:?} is the name of an earlier pool"));
            }
            pools.push(PoolSettings { name, sources });
        }
        section.finish();
    }
    pools
}

/// One `{ name, weight }`. The name must be a `[[source]]`'s, wherever in the file that stands.
fn member(item: &Item<'_>, places: &HashMap<Arc<str>, usize>) -> Option<(usize, u32)> {
    let section = item.table()?;
    let place = section.required("name", |item| {
        item.parse(|name| places.get(name).copied().ok_or("is not the name of a [[source]] in this file"))
    });
    let weight = section.or("weight", 1, |item| item.integer(1..=1_000_000_u32));
    section.finish();
    place.map(|place| (place, weight))
}

fn routes(root: &Section<'_>) -> Vec<RouteSettings> {
    let mut routes = Vec::new();
    let mut domains = HashSet::new();
    for section in root.tables("route") {
        let domain = section.required("domain", |item| item.parse(wildcard_or_domain));
        let hosts = section.required("hosts", |item| {
            if item.is_empty_list() {
                item.problem("is empty; a route needs at least one host");
            }
            Some(item.list(ROUTE_HOSTS_MAX, |item| item.parse(units::route_host)))
        });
        if let Some(domain) = domain {
            if !domains.insert(domain.clone()) {
                let shown = domain.as_deref().unwrap_or("*");
                section.problem("domain", format!("{shown:?} has an earlier route; list all hosts in one"));
            }
            routes.push(RouteSettings { domain, hosts: hosts.unwrap_or_default() });
        }
        section.finish();
    }
    routes
}

fn wildcard_or_domain(text: &str) -> Result<Option<Arc<str>>, String> {
    if text == "*" { Ok(None) } else { units::domain(text).map(Some) }
}

fn limits(root: &Section<'_>) -> Vec<LimitSettings> {
    const PER: [(&str, LimitPer); 5] = [
        ("path", LimitPer::Path),
        ("domain", LimitPer::Domain),
        ("site", LimitPer::Site),
        ("source", LimitPer::Source),
        ("pool", LimitPer::Pool),
    ];
    let mut limits: Vec<LimitSettings> = Vec::new();
    let mut keys = HashSet::new();
    for section in root.tables("limit") {
        let limit = LimitSettings {
            per: section.or("per", LimitPer::Path, |item| item.word(&PER)),
            domain: section.optional("domain", |item| item.parse(units::domain)),
            site: section.optional("site", |item| item.parse(units::site)),
            source: section.optional("source", |item| item.parse(units::name)),
            pool: section.optional("pool", |item| item.parse(units::name)),
            connections: section.optional("connections", |item| item.integer(1..=1_000_000_u32)),
            connection_rate: section.optional("connection_rate", |item| item.parse(units::rate)),
            message_rate: section.optional("message_rate", |item| item.parse(units::rate)),
            messages_per_connection: section
                .optional("messages_per_connection", |item| item.integer(1..=1_000_000_u32)),
            idle_timeout: section
                .optional("idle_timeout", |item| duration(item, Duration::ZERO..=Duration::from_secs(HOUR))),
            tls: section.optional("tls", tls_policy),
            lanes: section.optional("lanes", |item| item.integer(1..=CORES_MAX as u16)),
        };
        if section.has("lanes") && !section.has("domain") {
            section.problem("lanes", "needs domain: only a named domain can be spread over cores");
        }
        const ALLOWANCES: [&str; 7] = [
            "connections",
            "connection_rate",
            "message_rate",
            "messages_per_connection",
            "idle_timeout",
            "tls",
            "lanes",
        ];
        if !ALLOWANCES.iter().any(|key| section.has(key)) {
            let text = format!("limits nothing; give at least one of {}", ALLOWANCES.join(", "));
            section.problems().add(section.span(), section.name(), text);
        }
        let key = (limit.per, limit.domain.clone(), limit.site.clone(), limit.source.clone(), limit.pool.clone());
        if !keys.insert(key) {
            let text = "has the same `per` and the same domain, site, source and pool as an earlier limit";
            section.problems().add(section.span(), section.name(), text);
        }
        section.finish();
        limits.push(limit);
    }
    limits
}

fn tls_policy(item: &Item<'_>) -> Option<TlsPolicy> {
    item.word(&[
        ("disabled", TlsPolicy::Disabled),
        ("opportunistic", TlsPolicy::Opportunistic),
        ("optional", TlsPolicy::Opportunistic),
        ("required", TlsPolicy::Required),
        ("verified", TlsPolicy::Verified),
    ])
}

/// A source or pool may yet be made by the API, so an unknown name is no error; mostly it is a slip.
fn warn_of_unknown_names(
    limit: &LimitSettings,
    places: &HashMap<Arc<str>, usize>,
    pools: &[PoolSettings],
    warnings: &mut Vec<String>,
) {
    let source = limit.source.as_ref().filter(|name| !places.contains_key(*name)).map(|name| ("source", name));
    let pool = limit.pool.as_ref().filter(|name| !pools.iter().any(|pool| pool.name == **name));
    for (kind, name) in source.into_iter().chain(pool.map(|name| ("pool", name))) {
        warnings.push(format!(
            "a [[limit]] names {kind} {name:?}, which this file does not define; it acts only if the API makes one of that name"
        ));
    }
}

fn retry(root: &Section<'_>) -> RetrySettings {
    let minutes = |minutes: u64| Duration::from_secs(minutes * MINUTE);
    let section = root.table("retry");
    let default = [10, 10, 30, 30, 60, 60, 120].map(minutes).to_vec();
    let wait = Duration::from_secs(1)..=Duration::from_secs(30 * DAY);
    let intervals = section.or("intervals", default, |item| {
        if item.is_empty_list() {
            item.problem("is empty; write at least one wait");
        }
        Some(item.list(RETRY_INTERVALS_MAX, |item| duration(item, wait.clone())))
    });
    let max_age = section.or("max_age", Duration::from_secs(5 * DAY), |item| {
        duration(item, Duration::from_secs(1)..=Duration::from_secs(365 * DAY))
    });
    section.finish();
    RetrySettings { intervals, max_age }
}
