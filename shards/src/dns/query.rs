//! The wire format of DNS: questions out, replies in, as values of our own. The only file that knows
//! hickory-proto. It must never believe a reply to be more than what it says: what may be used of it is
//! decided in `answer`.

use crate::limits::DNS_UDP_PAYLOAD_BYTES;
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RData, Record as WireRecord, RecordType};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Mail exchangers.
    Mx,
    /// IPv4 addresses.
    A,
    /// IPv6 addresses.
    Aaaa,
}

impl Kind {
    /// How many kinds there are.
    pub const COUNT: usize = 3;

    /// Its number, below [`Self::COUNT`].
    #[must_use]
    pub fn index(self) -> usize {
        self as usize
    }

    fn record_type(self) -> RecordType {
        match self {
            Self::Mx => RecordType::MX,
            Self::A => RecordType::A,
            Self::Aaaa => RecordType::AAAA,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Mx => "MX",
            Self::A => "A",
            Self::Aaaa => "AAAA",
        })
    }
}

/// The response code, by what it asks of us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// NOERROR: the records say the rest.
    Success,
    /// NXDOMAIN: the last name of the chain does not exist (RFC 6604).
    NoName,
    /// FORMERR, NOTIMP or BADVERS: a server that knows no EDNS0 answers so (RFC 6891 §7).
    Format,
    /// SERVFAIL, REFUSED and the rest, under its name.
    Failure(&'static str),
}

/// One record of an answer section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Owner, lower case, no root dot.
    pub owner: Arc<str>,
    /// Seconds; zero when the wire says more than 31 bits (RFC 2181 §8).
    pub ttl_s: u32,
    /// Content.
    pub data: RecordData,
}

/// Content of a record. Names are lower case, without root dot; `None` is a name that no host can have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecordData {
    /// MX: preference and exchange. The root is `.`.
    Exchanger(u16, Option<Arc<str>>),
    /// A or AAAA.
    Address(IpAddr),
    /// CNAME.
    Alias(Option<Arc<str>>),
}

/// A reply to our question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Response code.
    pub code: Code,
    /// TC: the rest is to be had by TCP.
    pub truncated: bool,
    /// MX, A, AAAA and CNAME records of the answer section.
    pub records: Vec<Record>,
    /// How long the absence of records may be believed, when an SOA says so (RFC 2308 §5), seconds.
    pub negative_ttl_s: Option<u32>,
}

/// Why octets are no reply to our question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoReply {
    /// A readable message that answers something else, or is no answer.
    Stray,
    /// Not a DNS message.
    Unreadable,
}

/// The query id of a message, when it is long enough to have one.
#[must_use]
pub fn id_of(octets: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes([*octets.first()?, *octets.get(1)?]))
}

/// A query for records of `kind` at `name` (checked by `name::checked`), recursion desired, with EDNS0 when
/// `edns`. `None` when the name does not fit the wire, which a checked name does.
#[must_use]
pub fn encode(id: u16, name: &str, kind: Kind, edns: bool) -> Option<Vec<u8>> {
    let mut wire_name = Name::from_ascii(name).ok()?;
    wire_name.set_fqdn(true);
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(wire_name, kind.record_type()));
    if edns {
        let mut options = Edns::new();
        options.set_max_payload(DNS_UDP_PAYLOAD_BYTES);
        message.set_edns(options);
    }
    message.to_vec().ok()
}

/// Reads a reply to the question for `kind` at `name`. The id is the caller's to check.
///
/// # Errors
/// The octets are no DNS message, no reply, or answer another question.
pub fn decode(octets: &[u8], name: &str, kind: Kind) -> Result<Reply, NoReply> {
    let message = Message::from_vec(octets).map_err(|_| NoReply::Unreadable)?;
    let code = match message.metadata.response_code {
        ResponseCode::NoError => Code::Success,
        ResponseCode::NXDomain => Code::NoName,
        ResponseCode::FormErr | ResponseCode::NotImp | ResponseCode::BADVERS => Code::Format,
        ResponseCode::ServFail => Code::Failure("SERVFAIL"),
        ResponseCode::Refused => Code::Failure("REFUSED"),
        ResponseCode::NotAuth => Code::Failure("NOTAUTH"),
        _ => Code::Failure("an unusual response code"),
    };
    let is_reply = message.metadata.message_type == MessageType::Response && message.metadata.op_code == OpCode::Query;
    // A server that could not read the question may leave it out of its FORMERR.
    let is_ours = match &*message.queries {
        [question] => answers(question, name, kind),
        [] => code == Code::Format,
        _ => false,
    };
    if !is_reply || !is_ours {
        return Err(NoReply::Stray);
    }
    Ok(Reply {
        code,
        truncated: message.metadata.truncation,
        records: message.answers.iter().filter_map(record).collect(),
        negative_ttl_s: message.authorities.iter().find_map(negative_ttl),
    })
}

fn answers(question: &Query, name: &str, kind: Kind) -> bool {
    question.query_class() == DNSClass::IN
        && question.query_type() == kind.record_type()
        && question.name().iter().len() == name.split('.').count()
        && question.name().iter().zip(name.split('.')).all(|(wire, ours)| wire.eq_ignore_ascii_case(ours.as_bytes()))
}

fn record(record: &WireRecord) -> Option<Record> {
    if record.dns_class != DNSClass::IN {
        return None;
    }
    let data = match &record.data {
        RData::MX(mx) => RecordData::Exchanger(mx.preference, host_name(&mx.exchange)),
        RData::A(address) => RecordData::Address(IpAddr::V4(address.0)),
        RData::AAAA(address) => RecordData::Address(IpAddr::V6(address.0)),
        RData::CNAME(target) => RecordData::Alias(host_name(&target.0)),
        _ => return None,
    };
    Some(Record { owner: host_name(&record.name)?, ttl_s: ttl(record.ttl), data })
}

fn negative_ttl(record: &WireRecord) -> Option<u32> {
    match &record.data {
        RData::SOA(soa) => Some(ttl(record.ttl).min(ttl(soa.minimum))),
        _ => None,
    }
}

fn ttl(wire: u32) -> u32 {
    if wire > i32::MAX.unsigned_abs() { 0 } else { wire }
}

/// A name as text. Octets that no host name has would make the text ambiguous (a dot inside a label) or
/// dangerous in logs and SMTP, so such names are no names here.
fn host_name(name: &Name) -> Option<Arc<str>> {
    if name.is_root() {
        return Some(".".into());
    }
    let mut text = String::with_capacity(64);
    for label in name.iter() {
        if label.is_empty() || !label.iter().all(|&octet| super::name::is_name_octet(octet)) {
            return None;
        }
        if !text.is_empty() {
            text.push('.');
        }
        text.extend(label.iter().map(|octet| char::from(octet.to_ascii_lowercase())));
    }
    Some(text.into())
}
