//! A bucket: the entries of one destination that every whole-bucket rule sees alike. Holding a bucket is one
//! flag, however many entries it has.

use super::destination::DestinationId;
use super::order::Order;
use crate::message::{Envelope, Extras};
use crate::time::Timestamp;
use hashbrown::Equivalent;
use std::hash::{Hash, Hasher};
use std::net::IpAddr;
use std::sync::Arc;

/// Index of a bucket in its core's queue; reused after removal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BucketId(pub u32);

/// What the entries of a bucket have in common beside their destination.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BucketKey {
    /// Campaign, case kept.
    pub campaign: Option<Box<str>>,
    /// Tenant, case kept.
    pub tenant: Option<Box<str>>,
    /// Pool by name; `None` when the message names none or names addresses.
    pub pool: Option<Box<str>>,
    /// Own addresses to send from; excludes `pool`.
    pub ips: Box<[IpAddr]>,
}

/// A destination and the bucket part of a message's marks, borrowed: looks a bucket up without copying.
pub(super) struct BucketQuery<'a>(pub DestinationId, pub &'a Envelope);

/// Why a bucket does not flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldBy {
    /// The rule.
    pub rule: Arc<str>,
    /// When it ends by itself.
    pub until: Timestamp,
}

/// One bucket. Owned by the queue.
#[derive(Debug)]
pub(super) struct Bucket {
    pub key: BucketKey,
    pub destination: DestinationId,
    pub queue_name: Arc<str>,
    /// Its ready entries.
    pub order: Order,
    /// Entries in any state.
    pub total: u32,
    /// Entries that are ready, held bucket or not.
    pub ready_count: u32,
    pub held: Option<HeldBy>,
    /// Whether it is in its destination's ring.
    pub listed: bool,
}

fn extras(envelope: &Envelope) -> (&str, &str, &str, &[IpAddr]) {
    envelope.extras().map_or(("", "", "", &[]), |e: &Extras| {
        let pool = if e.ips.is_empty() { e.pool.as_deref().unwrap_or("") } else { "" };
        (e.campaign.as_deref().unwrap_or(""), e.tenant.as_deref().unwrap_or(""), pool, &e.ips)
    })
}

impl BucketKey {
    /// The bucket part of a message's marks. An empty campaign, tenant or pool counts as none.
    #[must_use]
    pub fn of(envelope: &Envelope) -> Self {
        let (campaign, tenant, pool, ips) = extras(envelope);
        let some = |text: &str| (!text.is_empty()).then(|| Box::from(text));
        Self { campaign: some(campaign), tenant: some(tenant), pool: some(pool), ips: ips.into() }
    }

    fn parts(&self) -> (&str, &str, &str, &[IpAddr]) {
        (
            self.campaign.as_deref().unwrap_or(""),
            self.tenant.as_deref().unwrap_or(""),
            self.pool.as_deref().unwrap_or(""),
            &self.ips,
        )
    }
}

/// A bucket key within its destination, as the index stores it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BucketIndexKey(pub DestinationId, pub BucketKey);

impl Hash for BucketIndexKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.0, self.1.parts()).hash(state);
    }
}

impl Hash for BucketQuery<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.0, extras(self.1)).hash(state);
    }
}

impl Equivalent<BucketIndexKey> for BucketQuery<'_> {
    fn equivalent(&self, key: &BucketIndexKey) -> bool {
        self.0 == key.0 && extras(self.1) == key.1.parts()
    }
}
