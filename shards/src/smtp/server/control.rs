//! Control headers: what a trusted injector asks of the engine for one message, in the headers that MailerQ
//! knows (`x-mq-*`) and in those that the operator names for campaign and tenant. A wish that is malformed or
//! that is not carried out refuses the message; none is ever dropped in silence.

use super::address::mailbox;
use crate::limits::{CONTROL_LIST_MAX, CONTROL_VALUE_BYTES_MAX};
use crate::message::Extras;
use crate::time::Timestamp;
use std::borrow::Cow;

/// Why a control header is refused.
type Why = &'static str;

/// A control header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Field {
    Campaign,
    Tenant,
    Envelope,
    Ip,
    Pool,
    Tag,
    Delayed,
    MaxDeliverTime,
    MaxAttempts,
    Retries,
    SmarthostName,
    SmarthostPort,
    /// One of the family that is not carried out.
    Unsupported,
}

impl Field {
    /// The `x-mq-` header of that name, in any case; `None` for headers that are not ours.
    pub(super) fn named(name: &[u8]) -> Option<Self> {
        const PREFIX: &[u8] = b"x-mq-";
        let (start, rest) = name.split_at_checked(PREFIX.len())?;
        if !start.eq_ignore_ascii_case(PREFIX) {
            return None;
        }
        const KNOWN: [(&[u8], Field); 10] = [
            (b"envelope", Field::Envelope),
            (b"ip", Field::Ip),
            (b"pool", Field::Pool),
            (b"tag", Field::Tag),
            (b"delayed", Field::Delayed),
            (b"maxdelivertime", Field::MaxDeliverTime),
            (b"maxattempts", Field::MaxAttempts),
            (b"retries", Field::Retries),
            (b"smarthost-hostname", Field::SmarthostName),
            (b"smarthost-port", Field::SmarthostPort),
        ];
        let known = KNOWN.iter().find(|(name, _)| rest.eq_ignore_ascii_case(name));
        Some(known.map_or(Self::Unsupported, |(_, field)| *field))
    }
}

/// What the control headers of one message come to.
#[derive(Debug)]
pub(super) struct Wishes {
    /// The reverse-path that replaces MAIL's.
    pub(super) envelope: Option<Box<str>>,
    pub(super) extras: Option<Box<Extras>>,
}

/// What the control headers of one message said so far.
#[derive(Debug, Default)]
pub(super) struct Marks {
    envelope: Option<Box<str>>,
    port: Option<u16>,
    extras: Option<Box<Extras>>,
}

impl Marks {
    /// Takes the value of one header, as it stands behind the colon, folds and all.
    pub(super) fn set(&mut self, field: Field, raw: &[u8]) -> Result<(), Why> {
        if field == Field::Unsupported {
            return Err("not supported");
        }
        let text = unfolded(raw)?;
        let value = text.trim();
        if field == Field::Envelope {
            return once(&mut self.envelope, envelope(value)?);
        }
        if field == Field::SmarthostPort {
            let port = value.parse().ok().filter(|&port: &u16| port > 0).ok_or("not a port")?;
            return once(&mut self.port, port);
        }
        if value.is_empty() {
            // A template that leaves the campaign or tenant empty means none; an empty wish means nothing.
            let harmless = matches!(field, Field::Campaign | Field::Tenant);
            return if harmless { Ok(()) } else { Err("empty") };
        }
        let extras = self.extras.get_or_insert_default();
        match field {
            Field::Campaign => once(&mut extras.campaign, value.into()),
            Field::Tenant => once(&mut extras.tenant, value.into()),
            Field::Ip => push(&mut extras.ips, value.parse().map_err(|_| "not an IP address")?),
            Field::Pool => once(&mut extras.pool, value.into()),
            Field::Tag => push(&mut extras.tags, value.into()),
            Field::Delayed => once(&mut extras.not_before, time(value)?),
            Field::MaxDeliverTime => once(&mut extras.expires, time(value)?),
            Field::MaxAttempts => {
                let attempts = value.parse().ok().filter(|&attempts: &u16| attempts > 0);
                once(&mut extras.max_attempts, attempts.ok_or("not a number from 1 to 65535")?)
            }
            Field::Retries if extras.retries.is_empty() => {
                // Who wrote 0 would have the host asked without end.
                let seconds = |part: &str| part.trim().parse().ok().filter(|&seconds: &u32| seconds > 0);
                let seconds = |part| seconds(part).ok_or("not a list of seconds, each 1 at least");
                value.split(',').try_for_each(|part| push(&mut extras.retries, seconds(part)?))
            }
            Field::Retries => Err("given twice"),
            Field::SmarthostName => once(&mut extras.smarthost, host(value)?),
            Field::Envelope | Field::SmarthostPort | Field::Unsupported => unreachable!("handled above"),
        }
    }

    /// What they come to; or the header that is missing its other half, and why it needs it.
    pub(super) fn into_wishes(self) -> Result<Wishes, (&'static str, Why)> {
        let Self { envelope, port, mut extras } = self;
        let smarthost = extras.as_mut().and_then(|extras| extras.smarthost.as_mut());
        match (port, smarthost) {
            (Some(port), Some(host)) => *host = format!("{host}:{port}").into_boxed_str(),
            (Some(_), None) => return Err(("x-mq-smarthost-port", "needs x-mq-smarthost-hostname")),
            (None, _) => {}
        }
        Ok(Wishes { envelope, extras })
    }
}

/// A moment as MailerQ writes it, `YYYY-MM-DD HH:MM:SS` in UTC, or in ISO 8601 with or without an offset.
pub fn time(text: &str) -> Result<Timestamp, &'static str> {
    let with_offset = text.parse::<jiff::Timestamp>().ok();
    let moment = with_offset.or_else(|| {
        let civil = text.parse::<jiff::civil::DateTime>().ok()?;
        civil.to_zoned(jiff::tz::TimeZone::UTC).ok().map(|zoned| zoned.timestamp())
    });
    moment.map(|moment| Timestamp(moment.as_millisecond())).ok_or("not a time (YYYY-MM-DD HH:MM:SS, UTC)")
}

/// The value without its line ends (RFC 5322 §2.2.3), bounded, without control characters.
fn unfolded(raw: &[u8]) -> Result<Cow<'_, str>, Why> {
    if raw.len() > CONTROL_VALUE_BYTES_MAX {
        return Err("too long");
    }
    let text = std::str::from_utf8(raw).map_err(|_| "not UTF-8")?;
    let text = text.strip_suffix("\r\n").unwrap_or(text);
    let text = if text.contains("\r\n") { Cow::Owned(text.replace("\r\n", "")) } else { Cow::Borrowed(text) };
    if text.chars().any(|c| c.is_control() && c != '\t') {
        return Err("control characters");
    }
    Ok(text)
}

fn once<T>(slot: &mut Option<T>, value: T) -> Result<(), Why> {
    if slot.is_some() {
        return Err("given twice");
    }
    *slot = Some(value);
    Ok(())
}

fn push<T>(list: &mut Vec<T>, value: T) -> Result<(), Why> {
    if list.len() >= CONTROL_LIST_MAX {
        return Err("too many");
    }
    list.push(value);
    Ok(())
}

/// A reverse-path, with or without brackets; empty or `<>` for the null one.
fn envelope(value: &str) -> Result<Box<str>, Why> {
    let inner = value.strip_prefix('<').and_then(|rest| rest.strip_suffix('>')).unwrap_or(value);
    if inner.is_empty() { Ok(Box::default()) } else { mailbox(inner).map_err(super::AddressError::as_str) }
}

/// A host name or an address; an IPv6 address gets brackets, so that a port can follow.
///
/// # Errors
/// Neither.
pub fn host(value: &str) -> Result<Box<str>, &'static str> {
    let bare = value.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(value);
    if let Ok(address) = bare.parse::<std::net::IpAddr>() {
        let text = if address.is_ipv6() { format!("[{address}]") } else { address.to_string() };
        return Ok(text.into_boxed_str());
    }
    let plain = |octet: u8| octet.is_ascii_alphanumeric() || b"-._".contains(&octet);
    if value.len() > 253 || !value.bytes().all(plain) {
        return Err("not a host name");
    }
    Ok(value.to_ascii_lowercase().into_boxed_str())
}
