//! The sections about this server itself: `[server] [limits] [smtp] [api] [spool] [log] [dns]`.

use super::section::{Item, Section};
use super::{ApiSettings, Overrides, connections, units};
use crate::machine::Machine;
use mailrace_shards::limits::{CORES_MAX, DNS_SERVERS_MAX, MESSAGE_BYTES_MAX};
use mailrace_shards::settings::{
    ConnectionSettings, DnsSettings, LogSettings, Network, SmtpSettings, SpoolSettings, SyncPolicy, TlsFiles,
};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

const DATA_DIR: &str = "mailrace-data";
const SMTP_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 2525);
const API_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8000);
const STOP_WITHIN: Duration = Duration::from_secs(30);
const BODY_MEMORY_BYTES: u64 = 256 << 20;

/// Least memory with which the engine is worth starting.
const MEMORY_BYTES_MIN: u64 = 64 << 20;

/// Most networks in one list, and listening addresses.
const NETWORKS_MAX: usize = 10_000;
const LISTENERS_MAX: usize = 64;

/// What the sections of this file say.
pub struct Core {
    pub data_dir: PathBuf,
    pub hostname: Arc<str>,
    pub shards: usize,
    pub stop_within: Duration,
    pub memory_bytes: u64,
    pub connections: ConnectionSettings,
    pub smtp: SmtpSettings,
    pub api: ApiSettings,
    pub spool: SpoolSettings,
    pub log: LogSettings,
    pub dns: DnsSettings,
}

/// Reads them. `base` is where relative paths start.
pub fn read(
    root: &Section<'_>,
    base: &Path,
    overrides: &Overrides,
    machine: &Machine,
    warnings: &mut Vec<String>,
) -> Core {
    let server = root.table("server");
    let file_data_dir = server.optional("data_dir", |item| path(item, base));
    let data_dir = overrides.data_dir.clone().or(file_data_dir).unwrap_or_else(|| PathBuf::from(DATA_DIR));
    let hostname = server.or("hostname", machine.hostname.clone(), |item| item.parse(units::domain));
    let shards = server.or("shards", 0, |item| item.integer(0..=CORES_MAX as u32)) as usize;
    let stop_within =
        server.or("stop_within", STOP_WITHIN, |item| duration(item, Duration::ZERO..=Duration::from_secs(3600)));
    server.finish();

    let limits = root.table("limits");
    let memory_bytes = limits.or("memory_bytes", 0, |item| {
        let bytes: u64 = item.integer(0..=u64::MAX)?;
        let fits = bytes == 0 || bytes >= MEMORY_BYTES_MIN;
        if !fits {
            item.problem(format!("{bytes} is too little; it must be 0 (choose for me) or at least {MEMORY_BYTES_MIN}"));
        }
        fits.then_some(bytes)
    });
    limits.finish();
    let memory_bytes = if memory_bytes == 0 { machine.memory_budget_bytes() } else { memory_bytes };

    let (smtp, max_connections) = smtp(root, base, overrides);
    let api = api(root, base, overrides, &smtp.listen);
    let dns = root.table("dns");
    let servers = dns.or("servers", machine.resolvers.clone(), |item| {
        let servers = item.list(DNS_SERVERS_MAX, |item| item.parse(units::resolver));
        if item.is_empty_list() {
            item.problem("is empty; name a resolver, or leave the key out to use /etc/resolv.conf");
        }
        Some(servers)
    });
    dns.finish();

    let shards = if shards == 0 { machine.default_shards() } else { shards };
    if shards > machine.cpus.len() {
        warnings.push(format!(
            "server.shards is {shards}, but this process may use {} cores; shards will share them",
            machine.cpus.len()
        ));
    }
    let connections = connections::share_out(machine.open_files, shards, max_connections);
    if let Some(most) = max_connections.filter(|most| *most > connections.injecting) {
        warnings.push(format!(
            "smtp.max_connections is {most}, but of the {} files that this process may have open (RLIMIT_NOFILE) {} are left for them",
            machine.open_files, connections.injecting
        ));
    }
    Core {
        data_dir,
        hostname,
        shards,
        stop_within,
        memory_bytes,
        connections,
        smtp,
        api,
        spool: spool(root, memory_bytes),
        log: log(root),
        dns: DnsSettings { servers },
    }
}

/// The section, and how many connections it allows, unless the choice is ours.
fn smtp(root: &Section<'_>, base: &Path, overrides: &Overrides) -> (SmtpSettings, Option<usize>) {
    let section = root.table("smtp");
    let max_connections = section.or("max_connections", 0, |item| item.integer(0..=1_000_000_u32));
    let listen = section.or("listen", vec![SMTP_LISTEN], |item| Some(item.list(LISTENERS_MAX, listener)));
    for (index, address) in listen.iter().enumerate() {
        if listen[..index].contains(address) {
            section.problem("listen", format!("names {address} twice"));
        }
    }
    let networks = |item: &Item<'_>| Some(item.list(NETWORKS_MAX, |item| item.parse(units::network)));
    let settings = SmtpSettings {
        listen: overrides.smtp.map_or(listen, |address| vec![address]),
        relay_from: section.or("relay_from", loopback(), networks),
        users_file: section.optional("users_file", |item| path(item, base)),
        max_message_bytes: section.or("max_message_bytes", 52_428_800, |item| item.integer(1024..=MESSAGE_BYTES_MAX)),
        max_recipients: section.or("max_recipients", 1000, |item| item.integer(1..=65_000_u16)),
        tls: tls_files(&section, base),
        trust_headers_from: section.or("trust_headers_from", loopback(), networks),
        campaign_header: section.or("campaign_header", "X-Campaign".into(), |item| item.parse(units::header_name)),
        tenant_header: section.or("tenant_header", "X-Tenant".into(), |item| item.parse(units::header_name)),
    };
    section.finish();
    (settings, (max_connections > 0).then_some(max_connections as usize))
}

fn api(root: &Section<'_>, base: &Path, overrides: &Overrides, smtp_listen: &[SocketAddr]) -> ApiSettings {
    let section = root.table("api");
    let listen = overrides.api.unwrap_or_else(|| section.or("listen", API_LISTEN, listener));
    if overrides.api.is_some() {
        // Still read, so that a mistake in the file does not wait for the day the override goes.
        section.or("listen", API_LISTEN, listener);
    }
    if smtp_listen.contains(&listen) {
        section.problem("listen", format!("is {listen}, as smtp.listen; each needs its own port"));
    }
    let settings = ApiSettings {
        listen,
        trusted_hosts: section
            .or("trusted_hosts", Vec::new(), |item| Some(item.list(NETWORKS_MAX, |item| item.parse(units::network)))),
        max_body_bytes: section.or("max_body_bytes", 2_097_152, |item| item.integer(1024..=1_073_741_824_u32)),
        tls: tls_files(&section, base),
    };
    section.finish();
    settings
}

fn spool(root: &Section<'_>, memory_bytes: u64) -> SpoolSettings {
    let section = root.table("spool");
    let every = section.take("sync_interval");
    let interval = every.as_ref().and_then(|item| duration(item, Duration::from_millis(10)..=Duration::from_secs(60)));
    let sync = section.or("sync", SyncPolicy::Always, |item| {
        let interval = SyncPolicy::Interval(interval.unwrap_or(Duration::from_secs(1)));
        item.word(&[("always", SyncPolicy::Always), ("interval", interval)])
    });
    if let (Some(item), SyncPolicy::Always) = (&every, sync) {
        item.problem("has no effect unless spool.sync is \"interval\"");
    }
    // On a small machine the default gives way; what the operator wrote is checked instead.
    let default_body_memory = BODY_MEMORY_BYTES.min(memory_bytes / 2);
    let body_memory_bytes = section.or("body_memory_bytes", default_body_memory, |item| {
        let bytes: u64 = item.integer(0..=u64::MAX)?;
        if bytes > memory_bytes {
            item.problem(format!("{bytes} is more than limits.memory_bytes, which is {memory_bytes}"));
        }
        Some(bytes)
    });
    let min_free_bytes = section.or("min_free_bytes", 1 << 30, |item| item.integer(0..=u64::MAX));
    section.finish();
    SpoolSettings { sync, body_memory_bytes, min_free_bytes }
}

fn log(root: &Section<'_>) -> LogSettings {
    let section = root.table("log");
    let settings = LogSettings {
        rotate_bytes: section.or("rotate_bytes", 1 << 30, |item| item.integer(4096..=u64::MAX)),
        keep_bytes: section.or("keep_bytes", 0, |item| item.integer(0..=u64::MAX)),
    };
    section.finish();
    settings
}

fn tls_files(section: &Section<'_>, base: &Path) -> Option<TlsFiles> {
    let certificate = section.take("tls_certificate");
    let key = section.take("tls_key");
    match (certificate, key) {
        (None, None) => None,
        (Some(certificate), None) => {
            certificate.problem(format!("needs {} beside it", section.key("tls_key")));
            None
        }
        (None, Some(key)) => {
            key.problem(format!("needs {} beside it", section.key("tls_certificate")));
            None
        }
        (Some(certificate), Some(key)) => {
            let (certificate, key) = (path(&certificate, base), path(&key, base));
            Some(TlsFiles { certificate: certificate?, key: key? })
        }
    }
}

/// A duration within `range`.
pub fn duration(item: &Item<'_>, range: RangeInclusive<Duration>) -> Option<Duration> {
    let value = item.parse(units::duration)?;
    if range.contains(&value) {
        return Some(value);
    }
    let (low, high) = (humantime::format_duration(*range.start()), humantime::format_duration(*range.end()));
    item.problem(format!("is out of bounds; it must be from {low} to {high}"));
    None
}

fn listener(item: &Item<'_>) -> Option<SocketAddr> {
    let address = item.parse(units::listener)?;
    if address.port() == 0 {
        item.problem("has port 0; name the port");
        return None;
    }
    Some(address)
}

/// A path, relative ones from `base`.
pub fn path(item: &Item<'_>, base: &Path) -> Option<PathBuf> {
    let text = item.string()?;
    if text.is_empty() {
        item.problem("is empty; write a path");
        return None;
    }
    Some(base.join(text))
}

fn loopback() -> Vec<Network> {
    vec![
        Network { address: Ipv4Addr::new(127, 0, 0, 0).into(), prefix: 8 },
        Network { address: Ipv6Addr::LOCALHOST.into(), prefix: 128 },
    ]
}
