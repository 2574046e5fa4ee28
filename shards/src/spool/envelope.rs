//! An envelope as octets. The id is not among them: it stands in the record's header.
//!
//! Version 1: version, flags, received, size, count of recipients, sender, recipients, then (flagged) the
//! extras, each field only when present. Integers are little-endian; lengths and counts are LEB128. Decoding
//! never trusts a length: garbage gives an error, not a panic and not an allocation beyond the input's size.

use crate::message::{ContentFlags, Envelope, Extras, MessageId};
use crate::time::Timestamp;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const VERSION: u8 = 1;

const EIGHT_BIT: u8 = 1;
const SMTPUTF8: u8 = 2;
const DOT_LINES: u8 = 4;
const EXTRAS: u8 = 8;

const TAGS: u16 = 1;
const CAMPAIGN: u16 = 1 << 1;
const TENANT: u16 = 1 << 2;
const ROUTING_DOMAIN: u16 = 1 << 3;
const POOL: u16 = 1 << 4;
const IPS: u16 = 1 << 5;
const SMARTHOST: u16 = 1 << 6;
const NOT_BEFORE: u16 = 1 << 7;
const EXPIRES: u16 = 1 << 8;
const MAX_ATTEMPTS: u16 = 1 << 9;
const RETRIES: u16 = 1 << 10;
const META: u16 = 1 << 11;
const KNOWN: u16 = (1 << 12) - 1;

/// Octets are not an envelope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadEnvelope {
    /// Written by a newer version of this program.
    NewerVersion,
    /// Not what [`encode`] writes.
    Malformed,
}

/// Appends `envelope` to `out`.
pub fn encode(envelope: &Envelope, out: &mut Vec<u8>) {
    let flags = envelope.flags();
    let bit = |set: bool, bit: u8| if set { bit } else { 0 };
    out.push(VERSION);
    out.push(
        bit(flags.eight_bit, EIGHT_BIT)
            | bit(flags.smtputf8, SMTPUTF8)
            | bit(flags.dot_lines, DOT_LINES)
            | bit(envelope.extras().is_some(), EXTRAS),
    );
    out.extend_from_slice(&envelope.received().0.to_le_bytes());
    out.extend_from_slice(&envelope.size().to_le_bytes());
    put_length(out, envelope.recipient_count());
    put_text(out, envelope.sender());
    for index in 0..envelope.recipient_count() {
        put_text(out, envelope.recipient(index));
    }
    if let Some(extras) = envelope.extras() {
        encode_extras(extras, out);
    }
}

fn encode_extras(extras: &Extras, out: &mut Vec<u8>) {
    let bit = |set: bool, bit: u16| if set { bit } else { 0 };
    let present = bit(!extras.tags.is_empty(), TAGS)
        | bit(extras.campaign.is_some(), CAMPAIGN)
        | bit(extras.tenant.is_some(), TENANT)
        | bit(extras.routing_domain.is_some(), ROUTING_DOMAIN)
        | bit(extras.pool.is_some(), POOL)
        | bit(!extras.ips.is_empty(), IPS)
        | bit(extras.smarthost.is_some(), SMARTHOST)
        | bit(extras.not_before.is_some(), NOT_BEFORE)
        | bit(extras.expires.is_some(), EXPIRES)
        | bit(extras.max_attempts.is_some(), MAX_ATTEMPTS)
        | bit(!extras.retries.is_empty(), RETRIES)
        | bit(!extras.meta.is_empty(), META);
    out.extend_from_slice(&present.to_le_bytes());
    if present & TAGS != 0 {
        put_length(out, extras.tags.len());
        extras.tags.iter().for_each(|tag| put_text(out, tag));
    }
    for text in [&extras.campaign, &extras.tenant, &extras.routing_domain, &extras.pool].into_iter().flatten() {
        put_text(out, text);
    }
    if present & IPS != 0 {
        put_length(out, extras.ips.len());
        extras.ips.iter().for_each(|ip| put_address(out, *ip));
    }
    if let Some(text) = &extras.smarthost {
        put_text(out, text);
    }
    for moment in [extras.not_before, extras.expires].into_iter().flatten() {
        out.extend_from_slice(&moment.0.to_le_bytes());
    }
    if let Some(attempts) = extras.max_attempts {
        out.extend_from_slice(&attempts.to_le_bytes());
    }
    if present & RETRIES != 0 {
        put_length(out, extras.retries.len());
        extras.retries.iter().for_each(|seconds| out.extend_from_slice(&seconds.to_le_bytes()));
    }
    if present & META != 0 {
        put_text(out, &extras.meta);
    }
}

/// The envelope of message `id` from the octets that [`encode`] wrote.
///
/// # Errors
/// See [`BadEnvelope`].
pub fn decode(id: MessageId, octets: &[u8]) -> Result<Envelope, BadEnvelope> {
    let mut input = Input(octets);
    match input.octet() {
        Some(VERSION) => {}
        Some(newer) if newer > VERSION => return Err(BadEnvelope::NewerVersion),
        _ => return Err(BadEnvelope::Malformed),
    }
    decode_fields(id, &mut input).filter(|_| input.0.is_empty()).ok_or(BadEnvelope::Malformed)
}

fn decode_fields(id: MessageId, input: &mut Input<'_>) -> Option<Envelope> {
    let bits = input.octet()?;
    let flags = ContentFlags {
        eight_bit: bits & EIGHT_BIT != 0,
        smtputf8: bits & SMTPUTF8 != 0,
        dot_lines: bits & DOT_LINES != 0,
    };
    let received = Timestamp(i64::from_le_bytes(input.array()?));
    let size = u32::from_le_bytes(input.array()?);
    let count = input.count(1)?;
    let sender = input.text()?;
    let mut recipients = Vec::with_capacity(count);
    for _ in 0..count {
        recipients.push(input.text()?);
    }
    let extras = if bits & EXTRAS != 0 { Some(Box::new(decode_extras(input)?)) } else { None };
    let known = EIGHT_BIT | SMTPUTF8 | DOT_LINES | EXTRAS;
    (count > 0 && bits & !known == 0).then(|| Envelope::new(id, received, size, flags, sender, &recipients, extras))
}

fn decode_extras(input: &mut Input<'_>) -> Option<Extras> {
    let present = u16::from_le_bytes(input.array()?);
    if present & !KNOWN != 0 {
        return None;
    }
    let has = |bit: u16| present & bit != 0;
    let mut extras = Extras::default();
    if has(TAGS) {
        for _ in 0..input.count(1)? {
            extras.tags.push(input.text()?.into());
        }
    }
    for (bit, field) in [
        (CAMPAIGN, &mut extras.campaign),
        (TENANT, &mut extras.tenant),
        (ROUTING_DOMAIN, &mut extras.routing_domain),
        (POOL, &mut extras.pool),
    ] {
        if has(bit) {
            *field = Some(input.text()?.into());
        }
    }
    if has(IPS) {
        for _ in 0..input.count(5)? {
            extras.ips.push(input.address()?);
        }
    }
    if has(SMARTHOST) {
        extras.smarthost = Some(input.text()?.into());
    }
    for (bit, field) in [(NOT_BEFORE, &mut extras.not_before), (EXPIRES, &mut extras.expires)] {
        if has(bit) {
            *field = Some(Timestamp(i64::from_le_bytes(input.array()?)));
        }
    }
    if has(MAX_ATTEMPTS) {
        extras.max_attempts = Some(u16::from_le_bytes(input.array()?));
    }
    if has(RETRIES) {
        for _ in 0..input.count(4)? {
            extras.retries.push(u32::from_le_bytes(input.array()?));
        }
    }
    if has(META) {
        extras.meta = input.text()?.into();
    }
    Some(extras)
}

fn put_length(out: &mut Vec<u8>, length: usize) {
    let mut rest = length;
    while rest >= 0x80 {
        out.push((rest & 0x7f) as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    put_length(out, text.len());
    out.extend_from_slice(text.as_bytes());
}

fn put_address(out: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(v4) => {
            out.push(4);
            out.extend_from_slice(&v4.octets());
        }
        IpAddr::V6(v6) => {
            out.push(6);
            out.extend_from_slice(&v6.octets());
        }
    }
}

/// What is left to decode.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(head)
    }

    fn octet(&mut self) -> Option<u8> {
        self.take(1).map(|octets| octets[0])
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn length(&mut self) -> Option<usize> {
        let mut length = 0_usize;
        for shift in [0, 7, 14, 21, 28] {
            let octet = self.octet()?;
            length |= usize::from(octet & 0x7f) << shift;
            if octet & 0x80 == 0 {
                return Some(length);
            }
        }
        None
    }

    /// A count of things of at least `octets_each`: never more than the input could hold.
    fn count(&mut self, octets_each: usize) -> Option<usize> {
        self.length().filter(|count| *count <= self.0.len() / octets_each)
    }

    fn text(&mut self) -> Option<&'a str> {
        let length = self.length()?;
        std::str::from_utf8(self.take(length)?).ok()
    }

    fn address(&mut self) -> Option<IpAddr> {
        match self.octet()? {
            4 => self.array().map(|octets: [u8; 4]| IpAddr::V4(Ipv4Addr::from(octets))),
            6 => self.array().map(|octets: [u8; 16]| IpAddr::V6(Ipv6Addr::from(octets))),
            _ => None,
        }
    }
}
