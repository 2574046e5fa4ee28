//! Hosts whose addresses are being asked for, and what the answers come to: which of them can be used, or why
//! none can. Here the address policy is applied.

use super::answer::{Answer, Data};
use super::private::is_private;
use super::query::Kind;
use super::{Addresses, DnsFailure, MailHost};
use crate::time::Instant;
use std::net::IpAddr;
use std::sync::Arc;

/// A mail host whose addresses are being asked for.
#[derive(Debug)]
pub struct Candidate {
    /// Lower case.
    pub name: Arc<str>,
    /// MX preference.
    pub preference: u16,
    /// What is known of its A records.
    pub v4: Option<Arc<Answer>>,
    /// What is known of its AAAA records.
    pub v6: Option<Arc<Answer>>,
}

impl Candidate {
    /// Where its answer about `kind` (A or AAAA) belongs.
    pub fn place(&mut self, kind: Kind) -> &mut Option<Arc<Answer>> {
        if kind == Kind::A { &mut self.v4 } else { &mut self.v6 }
    }
}

/// What the answers about all hosts come to.
#[derive(Debug)]
pub struct Tally {
    /// Whether private addresses are refused.
    checked: bool,
    /// The first address that was refused.
    refused: Option<IpAddr>,
    /// Why the first name that failed did so.
    failed: Option<Box<str>>,
    /// Some name exists.
    exists: bool,
    /// When the first of the answers ends.
    pub known_until: Instant,
    /// When the first of the failures may be asked for again.
    pub failed_until: Instant,
}

impl Tally {
    /// Nothing counted yet. `checked` when the address policy holds.
    #[must_use]
    pub fn new(checked: bool) -> Self {
        let never = Instant(u64::MAX);
        Self { checked, refused: None, failed: None, exists: false, known_until: never, failed_until: never }
    }

    /// The host with its usable addresses, if it has any.
    pub fn add(&mut self, host: &Candidate) -> Option<MailHost> {
        let mut addresses = Addresses::new();
        for answer in host.v4.iter().chain(&host.v6) {
            if let Data::Failed(text) = &answer.data {
                self.failed.get_or_insert_with(|| text.clone());
                self.failed_until = self.failed_until.min(answer.expires);
                continue;
            }
            self.known_until = self.known_until.min(answer.expires);
            self.exists |= answer.data != Data::NoName;
            let Data::Addresses(found) = &answer.data else { continue };
            for &address in found {
                if self.checked && is_private(address) {
                    self.refused.get_or_insert(address);
                } else {
                    addresses.push(address);
                }
            }
        }
        let usable = !addresses.is_empty();
        usable.then(|| MailHost { name: host.name.clone(), preference: host.preference, addresses })
    }

    /// Whether some host could not be resolved for the moment.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.failed.is_some()
    }

    /// Why no host is usable: temporary when one may still turn out to be, otherwise the policy, otherwise that
    /// there is no address.
    #[must_use]
    pub fn failure(self) -> DnsFailure {
        match (self.failed, self.refused) {
            (Some(text), _) => DnsFailure::Temporary(text),
            (None, Some(address)) => DnsFailure::PrivateAddress(address),
            (None, None) => DnsFailure::NoAddress,
        }
    }

    /// Whether a host that was named, and not found by MX, does not exist at all.
    #[must_use]
    pub fn has_no_name(&self) -> bool {
        !self.exists && self.failed.is_none()
    }
}
