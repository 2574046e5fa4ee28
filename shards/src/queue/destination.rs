//! A destination: a recipient domain and where its mail goes. Its buckets take turns.

use super::bucket::BucketId;
use crate::message::Envelope;
use hashbrown::Equivalent;
use std::collections::VecDeque;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// Index of a destination in its core's queue; reused after removal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DestinationId(pub u32);

/// Where the mail of a destination goes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum NextHop {
    /// The route or the MX of the recipient domain.
    Recipient,
    /// The route or the MX of this domain instead (routing domain).
    Domain(Box<str>),
    /// This host, `name` or `name:port` (smart host).
    Host(Box<str>),
}

/// One destination. Owned by the queue.
#[derive(Debug)]
pub(super) struct Destination {
    pub domain: Arc<str>,
    pub next_hop: NextHop,
    /// All its buckets.
    pub buckets: Vec<BucketId>,
    /// Buckets that have ready entries and are not held, in turn.
    pub ring: VecDeque<BucketId>,
    /// Entries in any state.
    pub total: u32,
    /// Ready entries in buckets that are not held.
    pub ready: u32,
}

/// Looks a destination up without copying.
pub(super) struct DestinationQuery<'a> {
    pub domain: &'a str,
    pub envelope: &'a Envelope,
}

/// A destination's identity, as the index stores it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct DestinationKey(pub Arc<str>, pub NextHop);

fn wanted(envelope: &Envelope) -> (u8, &str) {
    match envelope.extras() {
        Some(extras) => match (&extras.smarthost, &extras.routing_domain) {
            (Some(host), _) => (2, host),
            (None, Some(domain)) => (1, domain),
            (None, None) => (0, ""),
        },
        None => (0, ""),
    }
}

impl NextHop {
    /// What a message asks for: its smart host, else its routing domain, else its recipient domain.
    #[must_use]
    pub fn of(envelope: &Envelope) -> Self {
        match wanted(envelope) {
            (2, host) => Self::Host(host.into()),
            (1, domain) => Self::Domain(domain.into()),
            _ => Self::Recipient,
        }
    }

    fn parts(&self) -> (u8, &str) {
        match self {
            Self::Recipient => (0, ""),
            Self::Domain(domain) => (1, domain),
            Self::Host(host) => (2, host),
        }
    }
}

impl Hash for DestinationKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (&*self.0, self.1.parts()).hash(state);
    }
}

impl Hash for DestinationQuery<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.domain, wanted(self.envelope)).hash(state);
    }
}

impl Equivalent<DestinationKey> for DestinationQuery<'_> {
    fn equivalent(&self, key: &DestinationKey) -> bool {
        self.domain == &*key.0 && wanted(self.envelope) == key.1.parts()
    }
}

/// The scheduled queue's name, `campaign:tenant@domain!routing_domain`, absent parts left out; a campaign
/// without a tenant is `campaign:@domain`.
#[must_use]
pub fn queue_name(campaign: Option<&str>, tenant: Option<&str>, domain: &str, routing_domain: Option<&str>) -> String {
    let mut name = String::with_capacity(domain.len() + 32);
    if let Some(campaign) = campaign {
        name.push_str(campaign);
        name.push(':');
    }
    if let Some(tenant) = tenant {
        name.push_str(tenant);
    }
    if !name.is_empty() {
        name.push('@');
    }
    name.push_str(domain);
    if let Some(routing_domain) = routing_domain {
        name.push('!');
        name.push_str(routing_domain);
    }
    name
}

#[cfg(test)]
mod tests {
    use super::queue_name;

    #[test]
    fn queue_names_leave_absent_parts_out() {
        assert_eq!(queue_name(None, None, "d", None), "d");
        assert_eq!(queue_name(Some("c"), None, "d", None), "c:@d");
        assert_eq!(queue_name(None, Some("t"), "d", None), "t@d");
        assert_eq!(queue_name(Some("c"), Some("t"), "d", Some("r")), "c:t@d!r");
    }
}
