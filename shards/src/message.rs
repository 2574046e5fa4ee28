//! A message as the engine holds it: its id, its envelope (shared, immutable) and its body (shared bytes).

use crate::time::Timestamp;
use bytes::Bytes;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::OnceLock;

/// Which core. Cores are numbered from 0 without gaps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CoreId(pub u16);

/// Names a message for ever: the start that accepted it, the core, and a count on that core.
///
/// `generation` is made durable before a core accepts anything and is greater at each start (it is at
/// least the start's Unix second), so an id is never reused, not even over an emptied data directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId {
    /// The start of the engine.
    pub generation: u32,
    /// The accepting core at that start.
    pub core: u16,
    /// Counts messages of that core; only the low 48 bits are used.
    pub sequence: u64,
}

impl MessageId {
    /// The id as it is written everywhere: 24 hexadecimal digits, lower case.
    #[must_use]
    pub fn digits(&self) -> [u8; 24] {
        let mut digits = [0; 24];
        hexadecimal(self.generation.into(), &mut digits[..8]);
        hexadecimal(self.core.into(), &mut digits[8..12]);
        hexadecimal(self.sequence, &mut digits[12..]);
        digits
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = self.digits();
        f.write_str(std::str::from_utf8(&digits).expect("hexadecimal digits are ASCII"))
    }
}

/// Writes the lowest digits of `number`, as many as there is room for. A message is written about several times, and
/// the standard library's way takes five times as long.
pub fn hexadecimal(mut number: u64, digits: &mut [u8]) {
    for digit in digits.iter_mut().rev() {
        *digit = b"0123456789abcdef"[(number & 15) as usize];
        number >>= 4;
    }
}

/// The text is not 24 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadMessageId;

impl fmt::Display for BadMessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a message id is 24 hexadecimal digits")
    }
}

impl std::error::Error for BadMessageId {}

impl FromStr for MessageId {
    type Err = BadMessageId;

    fn from_str(text: &str) -> Result<Self, BadMessageId> {
        if text.len() != 24 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(BadMessageId);
        }
        let part = |range: std::ops::Range<usize>| u64::from_str_radix(&text[range], 16).map_err(|_| BadMessageId);
        Ok(Self {
            generation: u32::try_from(part(0..8)?).map_err(|_| BadMessageId)?,
            core: u16::try_from(part(8..12)?).map_err(|_| BadMessageId)?,
            sequence: part(12..24)?,
        })
    }
}

/// What the SMTP transaction said of the content, and what was found in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ContentFlags {
    /// The body holds octets above 127 (BODY=8BITMIME is needed to send it).
    pub eight_bit: bool,
    /// An address needs SMTPUTF8, or the header does and the injector has said so.
    pub smtputf8: bool,
    /// At least one line begins with a dot, so DATA must stuff.
    pub dot_lines: bool,
}

/// Marks and wishes that most messages do not have; boxed so that the others do not pay for them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extras {
    /// Tags (`x-mq-tag`), case kept.
    pub tags: Vec<Box<str>>,
    /// Campaign, case kept.
    pub campaign: Option<Box<str>>,
    /// Tenant, case kept.
    pub tenant: Option<Box<str>>,
    /// Routing domain: resolved instead of the recipient domain. Lower case, A-labels.
    pub routing_domain: Option<Box<str>>,
    /// Pool to send from.
    pub pool: Option<Box<str>>,
    /// Own addresses to send from; when not empty, `pool` is ignored.
    pub ips: Vec<IpAddr>,
    /// Next hop, `host` or `host:port`, instead of MX.
    pub smarthost: Option<Box<str>>,
    /// No attempt before this moment.
    pub not_before: Option<Timestamp>,
    /// Expires then, instead of `retry.max_age` after reception or `not_before`.
    pub expires: Option<Timestamp>,
    /// Attempts after which it fails, at least 1.
    pub max_attempts: Option<u16>,
    /// Own retry schedule in seconds; the last repeats. Empty: the configured one.
    pub retries: Vec<u32>,
    /// A JSON object of the injector's own properties, returned in records as `meta`. Empty: none.
    pub meta: Box<str>,
    /// Derived from the tags; no part of what the message is.
    pub tag_hashes: TagHashes,
}

/// Hashes of a message's tags, once somebody has wanted them: rules are looked up by these, and to read all tags again
/// for each look-up would cost more than the look-up. Filled by the first core that asks, then never changed.
#[derive(Clone, Default)]
pub struct TagHashes(OnceLock<(u64, Box<[u64]>)>);

impl TagHashes {
    /// The hashes. `key` tells those of one hash function from those of another, and only the first key's are kept:
    /// for another one there are none.
    pub fn get(&self, key: u64, make: impl FnOnce() -> Box<[u64]>) -> &[u64] {
        let (made_with, hashes) = self.0.get_or_init(|| (key, make()));
        if *made_with == key { hashes } else { &[] }
    }
}

/// Whatever is derived is equal when its source is.
impl PartialEq for TagHashes {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for TagHashes {}

/// Made with a secret.
impl fmt::Debug for TagHashes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TagHashes(..)")
    }
}

/// Everything known of a message beside its body. Made once at intake, never changed, shared by `Arc`
/// between the accepting core, the owner cores and the outcome log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    received: Timestamp,
    /// Sender and recipients one after the other.
    text: Box<str>,
    extras: Option<Box<Extras>>,
    /// Where each recipient ends in `text`, when there are several.
    ends: Option<Box<Ends>>,
    /// Generation; core and the high part of the sequence; its low part.
    id: [u32; 3],
    size: u32,
    /// Where the sender ends in `text`.
    sender_end: u32,
    flags: ContentFlags,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Ends(Vec<u32>);

const _: () = assert!(size_of::<Envelope>() <= 64, "there is one for each queued message");

impl Envelope {
    /// `sender` and `recipients` are addresses without angle brackets; the sender may be empty (null
    /// reverse-path). Recipient domains are lower case, in A-label form or an address literal.
    /// `size` is the body's octets.
    #[must_use]
    pub fn new<R: AsRef<str>>(
        id: MessageId,
        received: Timestamp,
        size: u32,
        flags: ContentFlags,
        sender: &str,
        recipients: &[R],
        extras: Option<Box<Extras>>,
    ) -> Self {
        let mut text = String::with_capacity(sender.len() + recipients.iter().map(|r| r.as_ref().len()).sum::<usize>());
        let end = |text: &String| u32::try_from(text.len()).unwrap_or(u32::MAX);
        text.push_str(sender);
        let sender_end = end(&text);
        let mut ends = Vec::new();
        for recipient in recipients {
            text.push_str(recipient.as_ref());
            if recipients.len() > 1 {
                ends.push(end(&text));
            }
        }
        let ends = (recipients.len() != 1).then(|| Box::new(Ends(ends)));
        // Only the low 48 bits of a sequence are used.
        let high = (id.sequence >> 32) as u32 & 0xffff;
        let id = [id.generation, u32::from(id.core) << 16 | high, id.sequence as u32];
        Self { received, text: text.into_boxed_str(), extras, ends, id, size, sender_end, flags }
    }

    /// The message's id.
    #[must_use]
    pub fn id(&self) -> MessageId {
        let [generation, middle, low] = self.id;
        let sequence = u64::from(middle & 0xffff) << 32 | u64::from(low);
        MessageId { generation, core: (middle >> 16) as u16, sequence }
    }

    /// When it was accepted.
    #[must_use]
    pub fn received(&self) -> Timestamp {
        self.received
    }

    /// Octets of the body as stored (CRLF line ends, no dot-stuffing).
    #[must_use]
    pub fn size(&self) -> u32 {
        self.size
    }

    /// What the body needs of the next hop.
    #[must_use]
    pub fn flags(&self) -> ContentFlags {
        self.flags
    }

    /// Reverse-path without angle brackets; empty for the null reverse-path.
    #[must_use]
    pub fn sender(&self) -> &str {
        &self.text[..self.sender_end as usize]
    }

    /// How many recipients, at least one.
    #[must_use]
    pub fn recipient_count(&self) -> usize {
        self.ends.as_ref().map_or(1, |ends| ends.0.len())
    }

    /// Address of recipient `index` (from 0). Panics when there is no such recipient.
    #[must_use]
    pub fn recipient(&self, index: usize) -> &str {
        let Some(ends) = &self.ends else {
            assert_eq!(index, 0, "it has one recipient");
            return &self.text[self.sender_end as usize..];
        };
        let start = index.checked_sub(1).map_or(self.sender_end, |before| ends.0[before]);
        &self.text[start as usize..ends.0[index] as usize]
    }

    /// Domain of recipient `index`: what follows its last `@`.
    #[must_use]
    pub fn domain(&self, index: usize) -> &str {
        domain_of(self.recipient(index))
    }

    /// Marks and wishes, when it has any.
    #[must_use]
    pub fn extras(&self) -> Option<&Extras> {
        self.extras.as_deref()
    }

    /// Octets of memory this value occupies with its heap parts, for the memory budget.
    #[must_use]
    pub fn memory(&self) -> usize {
        let ends = self.ends.as_ref().map_or(0, |ends| 24 + ends.0.len() * 4);
        let extras = self.extras.as_ref().map_or(0, |e| {
            size_of::<Extras>()
                + e.tags.iter().map(|t| t.len() + 24).sum::<usize>()
                + e.meta.len()
                + e.ips.len() * 17
                + e.retries.len() * 4
                + [&e.campaign, &e.tenant, &e.routing_domain, &e.pool, &e.smarthost]
                    .iter()
                    .map(|s| s.as_ref().map_or(0, |s| s.len()))
                    .sum::<usize>()
        });
        size_of::<Self>() + 16 + self.text.len() + ends + extras
    }
}

/// What follows the last `@` of an address; empty when it has none.
#[must_use]
pub fn domain_of(address: &str) -> &str {
    address.rfind('@').map_or("", |at| &address[at + 1..])
}

/// Where a body lies on disk: in the accepting core's spool. Segments are immutable once written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Location {
    /// Number of the spool directory (`shard-NNN`), which may belong to a core that no longer runs.
    pub spool: u16,
    /// Segment number in that directory; never reused.
    pub segment: u32,
    /// Offset of the body's first octet in the segment file.
    pub offset: u64,
    /// Octets of the body.
    pub length: u32,
}

/// A body: octets with CRLF line ends, not dot-stuffed, the last line ended by CRLF unless the message
/// came by BDAT without one.
pub type Body = Bytes;
