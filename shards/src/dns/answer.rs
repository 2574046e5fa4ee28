//! What a reply means for the name that was asked for: its records, their absence, or an alias to follow.
//! Only records of the asked name and of its CNAME chain count; anything else in a reply is ignored, so that
//! nobody can slip in records for names that are not theirs.

use super::query::{Code, Kind, Record, RecordData, Reply};
use crate::limits::{
    DNS_ADDRESSES_MAX, DNS_ALIASES_MAX, DNS_FAILURE_TTL_S, DNS_MAIL_HOSTS_MAX, DNS_NEGATIVE_TTL_MAX_S,
    DNS_NEGATIVE_TTL_MIN_S, DNS_TTL_MAX_S, DNS_TTL_MIN_S,
};
use crate::time::Instant;
use smallvec::SmallVec;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

/// An answer about one name and record type, as it is cached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The name at the end of the CNAME chain.
    pub canonical: Arc<str>,
    /// What is there.
    pub data: Data,
    /// Until when it may be used.
    pub expires: Instant,
}

/// What is at a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Data {
    /// Mail exchangers by preference, then name; each name once; at most [`DNS_MAIL_HOSTS_MAX`]. Empty when
    /// there are MX records of which none names a possible host.
    Exchangers(Vec<(u16, Arc<str>)>),
    /// RFC 7505.
    NullMx,
    /// Addresses in the order of the reply, at least one, at most [`DNS_ADDRESSES_MAX`].
    Addresses(SmallVec<[IpAddr; 2]>),
    /// The name exists, records of this type do not.
    NoRecords,
    /// The name does not exist.
    NoName,
    /// The servers could not say; why.
    Failed(Box<str>),
}

/// What to do with a reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// It answers the question.
    Answer(Answer),
    /// It ends in an alias whose target it says nothing about: ask for that.
    Follow {
        /// Name to ask for next.
        target: Arc<str>,
        /// Links of the chain so far.
        aliases: usize,
        /// Smallest TTL of the chain so far, seconds.
        ttl_s: u32,
    },
    /// The chain has more than [`DNS_ALIASES_MAX`] links.
    TooManyAliases,
}

/// Reads `reply` to the question for `kind` at `name`, which was reached by `aliases` links of which the
/// shortest lives `ttl_s` seconds. The reply's code is [`Code::Success`] or [`Code::NoName`].
#[must_use]
pub fn interpret(reply: &Reply, name: &Arc<str>, kind: Kind, aliases: usize, ttl_s: u32, now: Instant) -> Meaning {
    let (mut name, mut links, mut ttl_s) = (name.clone(), aliases, ttl_s);
    loop {
        let here = reply.records.iter().filter(|record| record.owner == name);
        let wanted: SmallVec<[&Record; 8]> = here.clone().filter(|record| is_of(record, kind)).collect();
        if !wanted.is_empty() {
            let ttl_s = wanted.iter().fold(ttl_s, |least, record| least.min(record.ttl_s));
            let expires = positive_expiry(now, ttl_s);
            return Meaning::Answer(Answer { canonical: name, data: data_of(&wanted, kind), expires });
        }
        let alias = here.clone().find_map(|record| match &record.data {
            RecordData::Alias(target) => Some((target.clone(), record.ttl_s)),
            _ => None,
        });
        match alias {
            Some((Some(target), ttl)) if &*target != "." => {
                links += 1;
                if links > DNS_ALIASES_MAX {
                    return Meaning::TooManyAliases;
                }
                ttl_s = ttl_s.min(ttl);
                name = target;
            }
            // An alias to a name that cannot exist, or the end of the chain.
            unusable => {
                let ended = unusable.is_some() || reply.code == Code::NoName || reply.negative_ttl_s.is_some();
                if !ended && links > aliases {
                    return Meaning::Follow { target: name, aliases: links, ttl_s };
                }
                return Meaning::Answer(absence(reply, name, ttl_s, now));
            }
        }
    }
}

/// The answer when the servers failed.
#[must_use]
pub fn failure(name: Arc<str>, text: Box<str>, now: Instant) -> Answer {
    let expires = now.after(Duration::from_secs(u64::from(DNS_FAILURE_TTL_S)));
    Answer { canonical: name, data: Data::Failed(text), expires }
}

/// The answer about `localhost` and names below it, which nobody is asked for (RFC 6761 §6.3).
#[must_use]
pub fn localhost(name: &Arc<str>, kind: Kind, now: Instant) -> Answer {
    let data = match kind {
        Kind::Mx => Data::NoRecords,
        Kind::A => Data::Addresses(SmallVec::from_slice(&[IpAddr::V4(Ipv4Addr::LOCALHOST)])),
        Kind::Aaaa => Data::Addresses(SmallVec::from_slice(&[IpAddr::V6(Ipv6Addr::LOCALHOST)])),
    };
    Answer { canonical: name.clone(), data, expires: positive_expiry(now, DNS_TTL_MAX_S) }
}

/// RFC 2308 §5: for as long as the SOA says, within our bounds; without SOA for the least time.
fn absence(reply: &Reply, name: Arc<str>, chain_ttl_s: u32, now: Instant) -> Answer {
    let ttl_s = reply.negative_ttl_s.unwrap_or(0).min(chain_ttl_s);
    let ttl_s = ttl_s.clamp(DNS_NEGATIVE_TTL_MIN_S, DNS_NEGATIVE_TTL_MAX_S);
    let data = if reply.code == Code::NoName { Data::NoName } else { Data::NoRecords };
    Answer { canonical: name, data, expires: now.after(Duration::from_secs(u64::from(ttl_s))) }
}

fn positive_expiry(now: Instant, ttl_s: u32) -> Instant {
    now.after(Duration::from_secs(u64::from(ttl_s.clamp(DNS_TTL_MIN_S, DNS_TTL_MAX_S))))
}

fn is_of(record: &Record, kind: Kind) -> bool {
    match (&record.data, kind) {
        (RecordData::Exchanger(..), Kind::Mx) => true,
        (RecordData::Address(address), Kind::A) => address.is_ipv4(),
        (RecordData::Address(address), Kind::Aaaa) => address.is_ipv6(),
        _ => false,
    }
}

fn data_of(records: &[&Record], kind: Kind) -> Data {
    if kind == Kind::Mx { exchangers(records) } else { Data::Addresses(addresses(records)) }
}

/// A null MX stands alone (RFC 7505 §3); beside others the root is just no host.
fn exchangers(records: &[&Record]) -> Data {
    let mut hosts: Vec<(u16, Arc<str>)> = Vec::with_capacity(records.len().min(DNS_MAIL_HOSTS_MAX));
    let mut only_root = true;
    for record in records {
        let RecordData::Exchanger(preference, exchange) = &record.data else { continue };
        match exchange {
            Some(name) if &**name == "." => {}
            Some(name) => {
                only_root = false;
                hosts.push((*preference, name.clone()));
            }
            None => only_root = false,
        }
    }
    if only_root {
        return Data::NullMx;
    }
    hosts.sort_unstable();
    let mut distinct: Vec<(u16, Arc<str>)> = Vec::with_capacity(hosts.len().min(DNS_MAIL_HOSTS_MAX));
    for host in hosts {
        if distinct.len() < DNS_MAIL_HOSTS_MAX && distinct.iter().all(|(_, name)| *name != host.1) {
            distinct.push(host);
        }
    }
    Data::Exchangers(distinct)
}

fn addresses(records: &[&Record]) -> SmallVec<[IpAddr; 2]> {
    let mut addresses = SmallVec::new();
    for record in records {
        if let RecordData::Address(address) = record.data
            && addresses.len() < DNS_ADDRESSES_MAX
            && !addresses.contains(&address)
        {
            addresses.push(address);
        }
    }
    addresses
}
