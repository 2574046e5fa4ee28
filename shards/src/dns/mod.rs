//! DNS for mail routing: from a domain to the hosts that take its mail (RFC 5321 §5.1), and from a host
//! name to its addresses. [`resolve::Resolver`] is a state machine: queries come out, replies and time go
//! in. It must never open a socket, read a clock or draw a random number; `runtime::dns_socket` does.

pub mod answer;
pub mod cache;
pub mod candidate;
pub mod exchange;
pub mod name;
pub mod port;
pub mod private;
pub mod query;
pub mod resolve;
pub mod server;

use crate::time::Instant;
use smallvec::SmallVec;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

/// Addresses of one host: those of its A records, then those of its AAAA records, each in the order of
/// the reply (RFC 5321 §5.1 has the client try them "in the order presented").
pub type Addresses = SmallVec<[IpAddr; 2]>;

/// A host that takes the domain's mail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MailHost {
    /// Lower case, no root dot; an address literal keeps its brackets.
    pub name: Arc<str>,
    /// MX preference, smaller first; 0 for an implicit MX or a literal.
    pub preference: u16,
    /// At least one.
    pub addresses: Addresses,
}

/// Where a domain's mail goes, or the one host of a route. Belongs to one core; shared there by `Arc` until it expires.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MailHosts {
    /// Hosts with an address, at least one, by preference; equals were shuffled for this answer.
    pub hosts: Vec<MailHost>,
    /// The names of all mail hosts that the domain publishes, with or without an address, by preference
    /// and among equals by name: the same for every core and answer, so it can name a site.
    pub names: Box<[Arc<str>]>,
    /// When it must be asked for again.
    pub expires: Instant,
}

/// Why there are no mail hosts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DnsFailure {
    /// NXDOMAIN, or a text that cannot be a domain name. Permanent.
    NoSuchDomain,
    /// The domain takes no mail: null MX, RFC 7505. Permanent.
    NullMx,
    /// No host of the domain has an address. Permanent.
    NoAddress,
    /// All addresses are ones that the policy refuses (`egress.allow_private`); this is one of them.
    PrivateAddress(IpAddr),
    /// No usable answer now; the text says from which server. Try again later.
    Temporary(Box<str>),
}

impl DnsFailure {
    /// Whether trying again later makes sense.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        matches!(self, Self::Temporary(_))
    }
}

impl fmt::Display for DnsFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSuchDomain => f.write_str("domain does not exist"),
            Self::NullMx => f.write_str("domain accepts no mail (null MX)"),
            Self::NoAddress => f.write_str("no mail host of the domain has an address"),
            Self::PrivateAddress(address) => write!(f, "mail host has the private address {address}"),
            Self::Temporary(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for DnsFailure {}

/// Who named a host, which decides whether its addresses are subject to the policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NamedBy {
    /// The configuration file: a static route may name any address.
    Operator,
    /// A caller or a message (a smarthost): `egress.allow_private` holds, for literals too.
    Caller,
}

/// What a resolver has done since it was made. Counts of the core that owns it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DnsStats {
    /// Answers from the cache.
    pub cache_hits: u64,
    /// Answers that needed at least one query.
    pub cache_misses: u64,
    /// Queries sent by UDP.
    pub queries_udp: u64,
    /// Queries sent by TCP.
    pub queries_tcp: u64,
    /// Replies that matched a query.
    pub replies: u64,
    /// Datagrams dropped: no query of that id on that socket, other question, no reply.
    pub mismatched: u64,
    /// Replies that could not be read.
    pub malformed: u64,
    /// SERVFAIL, REFUSED and other error codes.
    pub server_errors: u64,
    /// Tries without an answer in time.
    pub timeouts: u64,
    /// Servers found unreachable.
    pub unreachable: u64,
    /// Resolutions that ended without a host.
    pub failed: u64,
    /// Resolutions refused because too many were under way.
    pub overflows: u64,
    /// Tries under way now.
    pub in_flight: u64,
    /// Queries waiting to be sent now.
    pub waiting: u64,
    /// Entries of all caches now.
    pub cached: u64,
}
