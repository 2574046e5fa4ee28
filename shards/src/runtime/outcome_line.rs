//! One outcome as one JSON line, in KumoMTA's field names ("Outcome record" of the operator's surface).
//!
//! Pure formatting. Whatever the strings hold, a line is one JSON object and holds no line break but its end. Each
//! message leaves two lines, so names are written with what stands around them, and what can be is copied.

use crate::message::{Envelope, Extras, hexadecimal};
use crate::outcome::{Carrier, Outcome, RecordType, Response, RuleMark, Verb};
use crate::time::Timestamp;
use serde::de::IgnoredAny;
use std::io::Write as _;
use std::net::IpAddr;

/// Octets that a line seldom exceeds.
const LINE_BYTES: usize = 2048;

/// Formats lines one after the other, and remembers what they share.
#[derive(Debug)]
pub struct Lines {
    /// The field that names the engine.
    nodeid: Vec<u8>,
    /// The second in which the last event was…
    event: Second,
    /// …and the one in which the last message came.
    created: Second,
}

impl Lines {
    /// Of the engine `nodeid`.
    #[must_use]
    pub fn new(nodeid: &str) -> Self {
        let mut field = Vec::new();
        text(&mut field, b",\"nodeid\":", nodeid);
        Self { nodeid: field, event: Second::default(), created: Second::default() }
    }

    /// Appends `outcome` as a line to `out`.
    pub fn put(&mut self, out: &mut Vec<u8>, outcome: &Outcome) {
        let envelope = &*outcome.envelope;
        let carrier = outcome.carrier.as_deref();
        out.reserve(LINE_BYTES);
        out.extend_from_slice(b"{\"type\":\"");
        out.extend_from_slice(type_name(outcome.kind).as_bytes());
        out.extend_from_slice(b"\",\"id\":\"");
        out.extend_from_slice(&envelope.id().digits());
        text(out, b"\",\"sender\":", envelope.sender());
        recipient(out, outcome);
        text(out, b",\"queue\":", &outcome.queue);
        text(out, b",\"site\":", carrier.map_or("", |carrier| &carrier.site));
        number(out, b",\"size\":", envelope.size().into());
        response(out, &outcome.response);
        peer(out, carrier);
        number(out, b",\"timestamp\":", outcome.at.seconds());
        self.event.put(out, b",\"event_time\":", outcome.at);
        number(out, b",\"created\":", envelope.received().seconds());
        self.created.put(out, b",\"created_time\":", envelope.received());
        number(out, b",\"num_attempts\":", outcome.attempts.into());
        out.extend_from_slice(b",\"bounce_classification\":\"Uncategorized\"");
        optional(out, b",\"egress_pool\":", carrier.and_then(|c| c.pool.as_deref()));
        optional(out, b",\"egress_source\":", carrier.and_then(|c| c.source.as_deref()));
        source_address(out, carrier.and_then(|c| c.source_address));
        let delivered_by = carrier.filter(|_| outcome.kind != RecordType::Reception).map(|_| "ESMTP");
        optional(out, b",\"delivery_protocol\":", delivered_by);
        optional(out, b",\"reception_protocol\":", outcome.reception_protocol);
        out.extend_from_slice(&self.nodeid);
        optional(out, b",\"tls_cipher\":", carrier.and_then(|c| c.tls_cipher));
        optional(out, b",\"tls_protocol_version\":", carrier.and_then(|c| c.tls_version));
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
}

/// Appends a line of the file of unlogged ends: so many recipients of a queue were ended by a rule.
pub fn put_ends(out: &mut Vec<u8>, rule: &str, queue: &str, count: u64, at: Timestamp) {
    print(out, format_args!("{{\"at\":{}", at.0));
    text(out, b",\"rule\":", rule);
    text(out, b",\"queue\":", queue);
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
            text(out, b",\"recipient\":", envelope.recipient(usize::from(index)));
        }
        (_, 1) => text(out, b",\"recipient\":", envelope.recipient(0)),
        (_, count) => {
            out.extend_from_slice(b",\"recipient\":");
            array(out, (0..count).map(|index| envelope.recipient(index)));
        }
    }
}

fn response(out: &mut Vec<u8>, response: &Response) {
    number(out, b",\"response\":{\"code\":", response.code.into());
    match response.enhanced {
        Some(code) => {
            number(out, b",\"enhanced_code\":{\"class\":", code.class.into());
            number(out, b",\"subject\":", code.subject.into());
            number(out, b",\"detail\":", code.detail.into());
            out.push(b'}');
        }
        None => out.extend_from_slice(b",\"enhanced_code\":null"),
    }
    text(out, b",\"content\":", &response.text);
    optional(out, b",\"command\":", (response.verb != Verb::None).then(|| response.verb.as_str()));
    out.push(b'}');
}

fn peer(out: &mut Vec<u8>, carrier: Option<&Carrier>) {
    match carrier {
        Some(carrier) if carrier.peer.is_some() || !carrier.peer_name.is_empty() => {
            text(out, b",\"peer_address\":{\"name\":", &carrier.peer_name);
            match carrier.peer {
                Some(peer) => {
                    out.extend_from_slice(b",\"addr\":\"");
                    address(out, peer.ip().to_canonical());
                    out.extend_from_slice(b"\"}");
                }
                None => out.extend_from_slice(b",\"addr\":null}"),
            }
        }
        _ => out.extend_from_slice(b",\"peer_address\":null"),
    }
}

fn source_address(out: &mut Vec<u8>, source: Option<IpAddr>) {
    match source {
        Some(source) => {
            out.extend_from_slice(b",\"source_address\":{\"address\":\"");
            address(out, source);
            out.extend_from_slice(b"\"}");
        }
        None => out.extend_from_slice(b",\"source_address\":null"),
    }
}

/// The text of a second, for all moments in it.
#[derive(Debug, Default)]
struct Second {
    /// Since the Unix epoch; of `text`, when there is one.
    at: i64,
    /// RFC 3339 up to the second.
    text: Option<[u8; 19]>,
}

impl Second {
    /// A moment in RFC 3339 with milliseconds; `null` before the year 0 and beyond 9999, where there is none.
    fn put(&mut self, out: &mut Vec<u8>, name: &[u8], moment: Timestamp) {
        out.extend_from_slice(name);
        let second = moment.seconds();
        if self.at != second || self.text.is_none() {
            *self = Self { at: second, text: rfc3339(second) };
        }
        let Some(text) = &self.text else {
            return out.extend_from_slice(b"null");
        };
        let mut rest = *b".000Z\"";
        let millis = moment.0.rem_euclid(1000);
        for (digit, of) in rest[1..4].iter_mut().zip([100, 10, 1]) {
            *digit += (millis / of % 10) as u8;
        }
        out.push(b'"');
        out.extend_from_slice(text);
        out.extend_from_slice(&rest);
    }
}

/// A general formatter takes ten times as long.
fn rfc3339(second: i64) -> Option<[u8; 19]> {
    let moment = jiff::tz::Offset::UTC.to_datetime(jiff::Timestamp::from_second(second).ok()?);
    let (date, time) = (moment.date(), moment.time());
    let mut text = *b"0000-00-00T00:00:00";
    let mut put = |at: usize, digits: usize, value: i16| {
        let mut rest = value.unsigned_abs();
        for digit in text[at..at + digits].iter_mut().rev() {
            *digit = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
    };
    put(0, 4, date.year());
    put(5, 2, date.month().into());
    put(8, 2, date.day().into());
    put(11, 2, time.hour().into());
    put(14, 2, time.minute().into());
    put(17, 2, time.second().into());
    (date.year() >= 0).then_some(text)
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
    optional(out, b",\"campaign\":", extras.campaign.as_deref());
    optional(out, b",\"tenant\":", extras.tenant.as_deref());
}

fn meta(out: &mut Vec<u8>, extras: &Extras) {
    let given = extras.meta.trim();
    if given.is_empty() {
        out.extend_from_slice(b"{}");
    } else if given.starts_with('{') && serde_json::from_str::<IgnoredAny>(given).is_ok() {
        // In valid JSON a raw line break stands only between tokens, where a space does as well.
        out.extend(given.bytes().map(|octet| if matches!(octet, b'\n' | b'\r') { b' ' } else { octet }));
    } else {
        text(out, b"{\"text\":", given);
        out.push(b'}');
    }
}

fn put_rule(out: &mut Vec<u8>, rule: &RuleMark) {
    text(out, b",\"rule\":{\"id\":", &rule.id);
    text(out, b",\"kind\":", rule.kind);
    text(out, b",\"by\":", &rule.by);
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

fn optional(out: &mut Vec<u8>, name: &[u8], value: Option<&str>) {
    match value {
        Some(value) => text(out, name, value),
        None => {
            out.extend_from_slice(name);
            out.extend_from_slice(b"null");
        }
    }
}

/// `name` is the octets up to the value, here and below.
fn number(out: &mut Vec<u8>, name: &[u8], value: i64) {
    out.extend_from_slice(name);
    if value < 0 {
        out.push(b'-');
    }
    decimal(out, value.unsigned_abs());
}

fn text(out: &mut Vec<u8>, name: &[u8], value: &str) {
    out.extend_from_slice(name);
    string(out, value);
}

fn decimal(out: &mut Vec<u8>, mut value: u64) {
    let mut digits = [0; 20];
    let mut begin = digits.len();
    loop {
        begin -= 1;
        digits[begin] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            return out.extend_from_slice(&digits[begin..]);
        }
    }
}

fn address(out: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(address) => {
            for (index, octet) in address.octets().into_iter().enumerate() {
                if index > 0 {
                    out.push(b'.');
                }
                decimal(out, octet.into());
            }
        }
        IpAddr::V6(address) => print(out, format_args!("{address}")),
    }
}

fn string(out: &mut Vec<u8>, value: &str) {
    // Without a way out of the loop it is done for many octets at a time.
    let escapes = value.bytes().fold(false, |any, octet| any | (octet < b' ') | (octet == b'"') | (octet == b'\\'));
    if escapes {
        serde_json::to_writer(out, value).expect("a string is JSON, and a vector takes all that is written");
    } else {
        out.push(b'"');
        out.extend_from_slice(value.as_bytes());
        out.push(b'"');
    }
}

fn print(out: &mut Vec<u8>, arguments: std::fmt::Arguments<'_>) {
    out.write_fmt(arguments).expect("a vector takes all that is written");
}
