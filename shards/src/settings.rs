//! What the operator configured, as the engine uses it. `src/config.rs` makes it from the TOML file and has
//! checked it: names are unique, references resolve, numbers are within their bounds.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// All of it. Shared read-only by every core; a reload replaces the whole.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Directory of spool, rules and logs.
    pub data_dir: PathBuf,
    /// Name of this host in greetings, EHLO and Received.
    pub hostname: Arc<str>,
    /// Number of shards, at least 1 (already resolved from 0).
    pub shards: usize,
    /// Bound on a graceful stop.
    pub stop_within: Duration,
    /// Bound on the engine's memory, octets (already resolved from 0).
    pub memory_bytes: u64,
    /// How the process's descriptors are shared out (already resolved from 0).
    pub connections: ConnectionSettings,
    /// Injection by SMTP.
    pub smtp: SmtpSettings,
    /// Spool.
    pub spool: SpoolSettings,
    /// Outcome log.
    pub log: LogSettings,
    /// Resolvers.
    pub dns: DnsSettings,
    /// Whether addresses learned from DNS or callers may be private, loopback and the like.
    pub allow_private: bool,
    /// Sending identities.
    pub sources: Vec<SourceSettings>,
    /// Pools of sources.
    pub pools: Vec<PoolSettings>,
    /// Static next hops, in the file's order.
    pub routes: Vec<RouteSettings>,
    /// Limits, in the file's order.
    pub limits: Vec<LimitSettings>,
    /// Retry schedule.
    pub retry: RetrySettings,
}

/// How many connections there may be at once, each of which takes a descriptor. Over all cores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionSettings {
    /// Of injectors by SMTP; further ones are turned away with 421.
    pub injecting: usize,
    /// To other hosts, an equal share for each core; further ones wait.
    pub delivering: usize,
}

/// `[smtp]`.
#[derive(Clone, Debug)]
pub struct SmtpSettings {
    /// Listening addresses.
    pub listen: Vec<SocketAddr>,
    /// Who may inject without AUTH.
    pub relay_from: Vec<Network>,
    /// AUTH users: `name:argon2-hash`, read by the runtime.
    pub users_file: Option<PathBuf>,
    /// Octets of one message.
    pub max_message_bytes: u32,
    /// Recipients of one message.
    pub max_recipients: u16,
    /// PEM chain and key; both or none.
    pub tls: Option<TlsFiles>,
    /// Whose control headers are honoured.
    pub trust_headers_from: Vec<Network>,
    /// Header that names the campaign.
    pub campaign_header: Arc<str>,
    /// Header that names the tenant.
    pub tenant_header: Arc<str>,
}

/// Certificate chain and key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// PEM file with the chain, leaf first.
    pub certificate: PathBuf,
    /// PEM file with the private key.
    pub key: PathBuf,
}

/// `[spool]`.
#[derive(Clone, Debug)]
pub struct SpoolSettings {
    /// When a record is made durable.
    pub sync: SyncPolicy,
    /// Octets of bodies kept in memory over all cores.
    pub body_memory_bytes: u64,
    /// Free octets of the file system below which new mail is refused.
    pub min_free_bytes: u64,
}

/// When the spool syncs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncPolicy {
    /// Before each acknowledgement.
    Always,
    /// Every so often; unsafe, and said at start-up.
    Interval(Duration),
}

/// `[log]`.
#[derive(Clone, Debug)]
pub struct LogSettings {
    /// Octets after which a file is rotated.
    pub rotate_bytes: u64,
    /// Octets of old files kept; 0 for ever.
    pub keep_bytes: u64,
}

/// `[dns]`.
#[derive(Clone, Debug)]
pub struct DnsSettings {
    /// Servers in order of preference, at least one.
    pub servers: Vec<SocketAddr>,
}

/// One sending identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceSettings {
    /// Name.
    pub name: Arc<str>,
    /// Address for IPv4 destinations.
    pub address: Option<Ipv4Addr>,
    /// Address for IPv6 destinations.
    pub address_v6: Option<Ipv6Addr>,
    /// EHLO name; default: `Settings::hostname`.
    pub ehlo: Arc<str>,
}

/// One pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolSettings {
    /// Name.
    pub name: Arc<str>,
    /// Members: index into `Settings::sources`, and weight (≥ 1).
    pub sources: Vec<(usize, u32)>,
}

/// Next hop instead of MX.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteSettings {
    /// Recipient domain (lower case, A-labels); `None` for `*`.
    pub domain: Option<Arc<str>>,
    /// Hosts in order of preference: name or address, and port.
    pub hosts: Vec<RouteHost>,
}

/// One host of a route.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RouteHost {
    /// Host name (lower case) or address text without brackets.
    pub host: Arc<str>,
    /// Port; 25 when the file names none.
    pub port: u16,
}

/// What a limit counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LimitPer {
    /// (source, site).
    Path,
    /// Recipient domain.
    Domain,
    /// Set of MX hosts.
    Site,
    /// Sending identity.
    Source,
    /// Pool.
    Pool,
}

/// So many in so long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// How many, at least 1.
    pub count: u32,
    /// In how long, more than zero.
    pub period: Duration,
}

/// Policy of STARTTLS towards a destination.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum TlsPolicy {
    /// Never.
    Disabled,
    /// When offered, any certificate; in clear when the handshake fails.
    #[default]
    Opportunistic,
    /// Always, any certificate.
    Required,
    /// Always, with a certificate that is valid for the host's name.
    Verified,
}

/// One `[[limit]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitSettings {
    /// What is counted.
    pub per: LimitPer,
    /// Applies only to this recipient domain.
    pub domain: Option<Arc<str>>,
    /// Applies only to this site name.
    pub site: Option<Arc<str>>,
    /// Applies only to this source.
    pub source: Option<Arc<str>>,
    /// Applies only to this pool.
    pub pool: Option<Arc<str>>,
    /// Connections at once.
    pub connections: Option<u32>,
    /// New connections.
    pub connection_rate: Option<Rate>,
    /// Messages.
    pub message_rate: Option<Rate>,
    /// Messages on one connection.
    pub messages_per_connection: Option<u32>,
    /// How long an idle connection is kept.
    pub idle_timeout: Option<Duration>,
    /// STARTTLS.
    pub tls: Option<TlsPolicy>,
    /// Cores that share the domain.
    pub lanes: Option<u16>,
}

impl LimitSettings {
    /// One that applies to all mail and limits nothing yet.
    #[must_use]
    pub fn new(per: LimitPer) -> Self {
        Self {
            per,
            domain: None,
            site: None,
            source: None,
            pool: None,
            connections: None,
            connection_rate: None,
            message_rate: None,
            messages_per_connection: None,
            idle_timeout: None,
            tls: None,
            lanes: None,
        }
    }
}

/// `[retry]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetrySettings {
    /// Waits after the first, second… failed attempt; the last repeats. At least one.
    pub intervals: Vec<Duration>,
    /// From reception to expiration.
    pub max_age: Duration,
}

/// An address prefix in CIDR notation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    /// Base address, host bits zero.
    pub address: IpAddr,
    /// Prefix length, at most 32 or 128.
    pub prefix: u8,
}

impl Network {
    /// Whether `address` lies in it. An IPv4-mapped IPv6 address counts as its IPv4 address.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(net), IpAddr::V4(host)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0);
                net.to_bits() & mask == host.to_bits() & mask
            }
            (IpAddr::V6(net), IpAddr::V6(host)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix)).unwrap_or(0);
                net.to_bits() & mask == host.to_bits() & mask
            }
            _ => false,
        }
    }
}
