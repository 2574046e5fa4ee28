//! One outcome as one JSON line, in KumoMTA's field names ("Outcome record" of the operator's surface).
//!
//! Pure formatting. Whatever the strings hold, a line is one JSON object and holds no line break but its end.

use crate::message::{Envelope, Extras, hexadecimal};
use crate::outcome::{Carrier, Outcome, RecordType, Response, RuleMark, Verb};
use crate::time::Timestamp;
use serde::de::IgnoredAny;
use std::io::Write as _;
use std::net::IpAddr;

/// Appends `outcome` as a line to `out`; `nodeid` names the engine that wrote it.
pub fn put_line(out: &mut Vec<u8>, outcome: &Outcome, nodeid: &str) {
    let envelope = &*outcome.envelope;
    let carrier = outcome.carrier.as_deref();
    out.extend_from_slice(b"{\"type\":\"");
    out.extend_from_slice(type_name(outcome.kind).as_bytes());
    out.extend_from_slice(b"\",\"id\":\"");
    out.extend_from_slice(&envelope.id().digits());
    out.push(b'"');
    text(out, "sender", envelope.sender());
    recipient(out, outcome);
    text(out, "queue", &outcome.queue);
    text(out, "site", carrier.map_or("", |carrier| &carrier.site));
    number(out, "size", envelope.size().into());
    response(out, &outcome.response);
    peer(out, carrier);
    moment(out, "timestamp", "event_time", outcome.at);
    moment(out, "created", "created_time", envelope.received());
    number(out, "num_attempts", outcome.attempts.into());
    out.extend_from_slice(b",\"bounce_classification\":\"Uncategorized\"");
    optional(out, "egress_pool", carrier.and_then(|c| c.pool.as_deref()));
    optional(out, "egress_source", carrier.and_then(|c| c.source.as_deref()));
    source_address(out, carrier.and_then(|c| c.source_address));
    let delivered_by = carrier.filter(|_| outcome.kind != RecordType::Reception).map(|_| "ESMTP");
    optional(out, "delivery_protocol", delivered_by);
    optional(out, "reception_protocol", outcome.reception_protocol);
    text(out, "nodeid", nodeid);
    optional(out, "tls_cipher", carrier.and_then(|c| c.tls_cipher));
    optional(out, "tls_protocol_version", carrier.and_then(|c| c.tls_version));
    match carrier {
        Some(carrier) => {
            let mut digits = [0; 16];
            hexadecimal(carrier.session, &mut digits);
            out.extend_from_slice(b",\"session_id\":\"");
            out.extend_from_slice(&digits);
            out.push(b'"');
        }
        None => out.extend_from_slice(b",\"session_id\":null"),
    }
    marks(out, envelope);
    if let Some(rule) = &outcome.rule {
        put_rule(out, rule);
    }
    if outcome.maybe_delivered {
        out.extend_from_slice(b",\"maybe_delivered\":true");
    }
    out.extend_from_slice(b"}\n");
}

/// Appends a line of the file of unlogged ends: so many recipients of a queue were ended by a rule.
pub fn put_ends(out: &mut Vec<u8>, rule: &str, queue: &str, count: u64, at: Timestamp) {
    print(out, format_args!("{{\"at\":{}", at.0));
    text(out, "rule", rule);
    text(out, "queue", queue);
    print(out, format_args!(",\"count\":{count}}}\n"));
}

fn type_name(kind: RecordType) -> &'static str {
    match kind {
        RecordType::Reception => "Reception",
        RecordType::Delivery => "Delivery",
        RecordType::TransientFailure => "TransientFailure",
        RecordType::Bounce => "Bounce",
        RecordType::AdminBounce => "AdminBounce",
        RecordType::Expiration => "Expiration",
        RecordType::Suppression => "Suppression",
    }
}

/// One address; all of them, as an array, in a record about a message with several.
fn recipient(out: &mut Vec<u8>, outcome: &Outcome) {
    let envelope = &*outcome.envelope;
    match (outcome.recipient, envelope.recipient_count()) {
        (Some(index), count) if usize::from(index) < count => {
            text(out, "recipient", envelope.recipient(usize::from(index)));
        }
        (_, 1) => text(out, "recipient", envelope.recipient(0)),
        (_, count) => {
            out.extend_from_slice(b",\"recipient\":");
            array(out, (0..count).map(|index| envelope.recipient(index)));
        }
    }
}

fn response(out: &mut Vec<u8>, response: &Response) {
    out.extend_from_slice(b",\"response\":{\"code\":");
    integer(out, response.code.into());
    match response.enhanced {
        Some(code) => print(
            out,
            format_args!(
                ",\"enhanced_code\":{{\"class\":{},\"subject\":{},\"detail\":{}}}",
                code.class, code.subject, code.detail
            ),
        ),
        None => out.extend_from_slice(b",\"enhanced_code\":null"),
    }
    text(out, "content", &response.text);
    optional(out, "command", (response.verb != Verb::None).then(|| response.verb.as_str()));
    out.push(b'}');
}

fn peer(out: &mut Vec<u8>, carrier: Option<&Carrier>) {
    match carrier {
        Some(carrier) if carrier.peer.is_some() || !carrier.peer_name.is_empty() => {
            out.extend_from_slice(b",\"peer_address\":{\"name\":");
            string(out, &carrier.peer_name);
            match carrier.peer {
                Some(peer) => print(out, format_args!(",\"addr\":\"{}\"}}", peer.ip().to_canonical())),
                None => out.extend_from_slice(b",\"addr\":null}"),
            }
        }
        _ => out.extend_from_slice(b",\"peer_address\":null"),
    }
}

fn source_address(out: &mut Vec<u8>, address: Option<IpAddr>) {
    match address {
        Some(address) => print(out, format_args!(",\"source_address\":{{\"address\":\"{address}\"}}")),
        None => out.extend_from_slice(b",\"source_address\":null"),
    }
}

/// A moment twice: as whole Unix seconds, and as RFC 3339 with milliseconds.
fn moment(out: &mut Vec<u8>, seconds: &str, time: &str, at: Timestamp) {
    number(out, seconds, at.seconds());
    name(out, time);
    match jiff::Timestamp::from_millisecond(at.0).map(|moment| jiff::tz::Offset::UTC.to_datetime(moment)) {
        Ok(moment) if moment.year() >= 0 => rfc3339(out, moment),
        // Before the year 0 and beyond 9999 there is no RFC 3339.
        _ => out.extend_from_slice(b"null"),
    }
}

/// Four of these stand in the records of one message; a general formatter takes ten times as long.
fn rfc3339(out: &mut Vec<u8>, moment: jiff::civil::DateTime) {
    let (date, time) = (moment.date(), moment.time());
    let mut text = *b"\"0000-00-00T00:00:00.000Z\"";
    let mut put = |at: usize, digits: usize, value: i16| {
        let mut rest = value.unsigned_abs();
        for digit in text[at..at + digits].iter_mut().rev() {
            *digit = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
    };
    put(1, 4, date.year());
    put(6, 2, date.month().into());
    put(9, 2, date.day().into());
    put(12, 2, time.hour().into());
    put(15, 2, time.minute().into());
    put(18, 2, time.second().into());
    put(21, 3, time.millisecond());
    out.extend_from_slice(&text);
}

/// What the injector marked the message with.
fn marks(out: &mut Vec<u8>, envelope: &Envelope) {
    let Some(extras) = envelope.extras() else {
        out.extend_from_slice(b",\"meta\":{},\"headers\":{},\"tags\":[],\"campaign\":null,\"tenant\":null");
        return;
    };
    out.extend_from_slice(b",\"meta\":");
    meta(out, extras);
    out.extend_from_slice(b",\"headers\":{},\"tags\":");
    array(out, extras.tags.iter().map(|tag| &**tag));
    optional(out, "campaign", extras.campaign.as_deref());
    optional(out, "tenant", extras.tenant.as_deref());
}

fn meta(out: &mut Vec<u8>, extras: &Extras) {
    let given = extras.meta.trim();
    if given.is_empty() {
        out.extend_from_slice(b"{}");
    } else if given.starts_with('{') && serde_json::from_str::<IgnoredAny>(given).is_ok() {
        // In valid JSON a raw line break stands only between tokens, where a space does as well.
        out.extend(given.bytes().map(|octet| if matches!(octet, b'\n' | b'\r') { b' ' } else { octet }));
    } else {
        out.extend_from_slice(b"{\"text\":");
        string(out, given);
        out.push(b'}');
    }
}

fn put_rule(out: &mut Vec<u8>, rule: &RuleMark) {
    out.extend_from_slice(b",\"rule\":{\"id\":");
    string(out, &rule.id);
    text(out, "kind", rule.kind);
    text(out, "by", &rule.by);
    out.push(b'}');
}

fn array<'a>(out: &mut Vec<u8>, items: impl Iterator<Item = &'a str>) {
    out.push(b'[');
    for (index, item) in items.enumerate() {
        if index > 0 {
            out.push(b',');
        }
        string(out, item);
    }
    out.push(b']');
}

fn optional(out: &mut Vec<u8>, name: &str, value: Option<&str>) {
    match value {
        Some(value) => text(out, name, value),
        None => {
            self::name(out, name);
            out.extend_from_slice(b"null");
        }
    }
}

fn number(out: &mut Vec<u8>, name: &str, value: i64) {
    self::name(out, name);
    integer(out, value);
}

fn text(out: &mut Vec<u8>, name: &str, value: &str) {
    self::name(out, name);
    string(out, value);
}

fn name(out: &mut Vec<u8>, name: &str) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
}

fn integer(out: &mut Vec<u8>, value: i64) {
    serde_json::to_writer(out, &value).expect("an integer is JSON, and a vector takes all that is written");
}

fn string(out: &mut Vec<u8>, value: &str) {
    serde_json::to_writer(out, value).expect("a string is JSON, and a vector takes all that is written");
}

fn print(out: &mut Vec<u8>, arguments: std::fmt::Arguments<'_>) {
    out.write_fmt(arguments).expect("a vector takes all that is written");
}
