//! What a rule may name, and what is known of a message. A scope is an AND of the fields that it names;
//! a field that it does not name is any. Never does a value here get parsed or normalised a second time:
//! domains arrive in lower case and A-labels, addresses of rules through [`normal_address`].

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

/// A set of scope fields, one bit each. The order is that of the stages at which they become known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fields(pub(super) u16);

impl Fields {
    /// No field.
    pub const NONE: Self = Self(0);
    /// The pool that the message is sent from.
    pub const POOL: Self = Self(1);
    /// The recipient's domain.
    pub const DOMAIN: Self = Self(1 << 1);
    /// The campaign.
    pub const CAMPAIGN: Self = Self(1 << 2);
    /// The tenant.
    pub const TENANT: Self = Self(1 << 3);
    /// The routing domain.
    pub const ROUTING_DOMAIN: Self = Self(1 << 4);
    /// The whole name of the scheduled queue.
    pub const QUEUE: Self = Self(1 << 5);
    /// One of the message's tags.
    pub const TAG: Self = Self(1 << 6);
    /// The recipient's address.
    pub const ADDRESS: Self = Self(1 << 7);
    /// Our own address.
    pub const SOURCE_IP: Self = Self(1 << 8);
    /// The egress path, `<source>-><site>@<protocol>`.
    pub const PATH: Self = Self(1 << 9);
    /// The remote host's address.
    pub const REMOTE_IP: Self = Self(1 << 10);
    /// Known of a whole bucket.
    pub const OF_BUCKET: Self = Self(0b000_0011_1111);
    /// Known of one message.
    pub const OF_MESSAGE: Self = Self(0b000_1100_0000);
    /// Known once a path is chosen.
    pub const OF_PATH: Self = Self(0b111_0000_0000);
    /// How many there are.
    pub(super) const COUNT: usize = 11;

    /// Both sets together.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all of `self` are in `other`.
    #[must_use]
    pub const fn within(self, other: Self) -> bool {
        self.0 & !other.0 == 0
    }

    /// Whether at least one field is in both.
    #[must_use]
    pub const fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// How many fields.
    #[must_use]
    pub const fn count(self) -> u32 {
        self.0.count_ones()
    }
}

/// What a rule covers: the AND of the fields named. The default names none and covers everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Scope {
    /// Sender pool, exactly.
    pub pool: Option<Arc<str>>,
    /// Own address (`mta` in MailerQ's dialect), canonical.
    pub source_ip: Option<IpAddr>,
    /// Recipient domain: lower case, A-labels.
    pub domain: Option<Arc<str>>,
    /// Address of the remote host, canonical.
    pub remote_ip: Option<IpAddr>,
    /// Tag, case kept; one of a message's tags is enough.
    pub tag: Option<Arc<str>>,
    /// Campaign, case kept.
    pub campaign: Option<Arc<str>>,
    /// Tenant, case kept.
    pub tenant: Option<Arc<str>>,
    /// Routing domain: lower case, A-labels.
    pub routing_domain: Option<Arc<str>>,
    /// Whole names of scheduled queues, any of them; empty: any. At most
    /// [`crate::limits::RULE_QUEUES_MAX`].
    pub queues: Arc<[Arc<str>]>,
    /// Path name, `<source>-><site>@<protocol>`.
    pub path: Option<Arc<str>>,
    /// Recipient address as [`normal_address`] makes it.
    pub address: Option<Arc<str>>,
}

impl Scope {
    /// The fields that it names.
    #[must_use]
    pub fn fields(&self) -> Fields {
        let named = [
            (self.pool.is_some(), Fields::POOL),
            (self.domain.is_some(), Fields::DOMAIN),
            (self.campaign.is_some(), Fields::CAMPAIGN),
            (self.tenant.is_some(), Fields::TENANT),
            (self.routing_domain.is_some(), Fields::ROUTING_DOMAIN),
            (!self.queues.is_empty(), Fields::QUEUE),
            (self.tag.is_some(), Fields::TAG),
            (self.address.is_some(), Fields::ADDRESS),
            (self.source_ip.is_some(), Fields::SOURCE_IP),
            (self.path.is_some(), Fields::PATH),
            (self.remote_ip.is_some(), Fields::REMOTE_IP),
        ];
        named.into_iter().filter(|(is, _)| *is).fold(Fields::NONE, |all, (_, field)| all.with(field))
    }

    /// Whether it covers a message of which `facts` are known. A field that is named but not yet known
    /// does not match. This is the plain definition; [`super::RuleTable`] answers the same faster.
    #[must_use]
    pub fn covers(&self, facts: &Facts<'_>) -> bool {
        let tag_matches = match (&self.tag, &facts.message) {
            (None, _) => true,
            (Some(tag), Some(message)) => message.tags.iter().any(|t| **t == **tag),
            (Some(_), None) => false,
        };
        let queue_matches = self.queues.is_empty() || self.queues.iter().any(|name| **name == *facts.bucket.queue);
        tag_matches && queue_matches && self.covers_rest(facts)
    }

    /// The fields other than tag and queue names, which a look-up compares one by one.
    pub(super) fn covers_rest(&self, facts: &Facts<'_>) -> bool {
        let bucket = &facts.bucket;
        same(self.domain.as_deref(), Some(bucket.domain))
            && same(self.pool.as_deref(), bucket.pool)
            && same(self.campaign.as_deref(), bucket.campaign)
            && same(self.tenant.as_deref(), bucket.tenant)
            && same(self.routing_domain.as_deref(), bucket.routing_domain)
            && same(self.path.as_deref(), facts.path.path)
            && same_ip(self.source_ip, facts.path.source_ip)
            && same_ip(self.remote_ip, facts.path.remote_ip)
            && self.address.as_deref().is_none_or(|address| {
                facts.message.as_ref().is_some_and(|message| *normal_address(message.address) == *address)
            })
    }
}

fn same(named: Option<&str>, known: Option<&str>) -> bool {
    named.is_none() || named == known
}

fn same_ip(named: Option<IpAddr>, known: Option<IpAddr>) -> bool {
    named.is_none() || named.map(|ip| ip.to_canonical()) == known.map(|ip| ip.to_canonical())
}

/// What is known of every message of a bucket.
#[derive(Clone, Copy, Debug, Default)]
pub struct BucketFacts<'a> {
    /// Recipient domain: lower case, A-labels, or an address literal.
    pub domain: &'a str,
    /// Routing domain: lower case, A-labels.
    pub routing_domain: Option<&'a str>,
    /// Campaign, case kept.
    pub campaign: Option<&'a str>,
    /// Tenant, case kept.
    pub tenant: Option<&'a str>,
    /// The pool that its mail goes out from: the one named, or `default`; `None` when the message names own
    /// addresses instead.
    pub pool: Option<&'a str>,
    /// Scheduled queue name, `campaign:tenant@domain!routing_domain`.
    pub queue: &'a str,
}

/// What is known of one message for one recipient, beside its bucket.
#[derive(Clone, Copy, Debug, Default)]
pub struct MessageFacts<'a> {
    /// Recipient address, its local part in any case.
    pub address: &'a str,
    /// Tags, case kept.
    pub tags: &'a [Box<str>],
    /// What [`super::HashKey::tags`] made of the tags with the key of the table that is asked; empty: the table hashes
    /// them itself, which takes longer than all the rest.
    pub tag_hashes: &'a [u64],
}

/// What is known of an attempt; each part once it is chosen.
#[derive(Clone, Copy, Debug, Default)]
pub struct PathFacts<'a> {
    /// Own address that the connection uses or will use.
    pub source_ip: Option<IpAddr>,
    /// Path name, `<source>-><site>@<protocol>`.
    pub path: Option<&'a str>,
    /// Address of the remote host.
    pub remote_ip: Option<IpAddr>,
}

/// All that is known, from the bucket to the connection.
#[derive(Clone, Copy, Debug, Default)]
pub struct Facts<'a> {
    /// Of the bucket.
    pub bucket: BucketFacts<'a>,
    /// Of the message; `None` while asking about the bucket as a whole.
    pub message: Option<MessageFacts<'a>>,
    /// Of the attempt.
    pub path: PathFacts<'a>,
}

/// An address as rules and suppressions compare it: in lower case, and quoted no more than it must be. Its domain is
/// expected in A-labels already. Local parts are case-sensitive by RFC 5321 §2.4, yet no known receiver uses that, and
/// quotes that are not needed mean nothing (RFC 5321 §4.1.2): a suppressed person must not be mailed because of a
/// capital or of quotes. Borrows unless something changes.
#[must_use]
pub fn normal_address(address: &str) -> Cow<'_, str> {
    if address.starts_with('"')
        && let Some(plain) = without_quotes(address)
    {
        return Cow::Owned(plain.to_lowercase());
    }
    if address.bytes().any(|octet| octet.is_ascii_uppercase() || !octet.is_ascii()) {
        Cow::Owned(address.to_lowercase())
    } else {
        Cow::Borrowed(address)
    }
}

/// The same address with as few quotes as it can have; `None` for what is no address.
fn without_quotes(address: &str) -> Option<String> {
    let (quoted, domain) = address.rsplit_once('@')?;
    let quoted = quoted.strip_prefix('"')?.strip_suffix('"')?;
    let mut meant = String::with_capacity(quoted.len());
    let mut rest = quoted.chars();
    while let Some(character) = rest.next() {
        meant.push(if character == '\\' { rest.next()? } else { character });
    }
    // `atext` of RFC 5322 §3.2.3, and what RFC 6531 §3.3 adds to it.
    let is_bare = |c: char| c.is_ascii_alphanumeric() || !c.is_ascii() || ".!#$%&'*+-/=?^_`{|}~".contains(c);
    if !meant.is_empty() && meant.chars().all(is_bare) {
        return Some(format!("{meant}@{domain}"));
    }
    let escaped = meant.replace('\\', "\\\\").replace('"', "\\\"");
    Some(format!("\"{escaped}\"@{domain}"))
}
