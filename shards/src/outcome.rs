//! What became of a message: the record that every attempt and every end leaves (operator's surface,
//! "Outcome record"). Built by the shard, written as a JSON line by `runtime::outcome_log`.

use crate::message::Envelope;
use crate::time::Timestamp;
use std::fmt;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::sync::Arc;

/// Which record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RecordType {
    /// Accepted durably.
    Reception,
    /// The next hop answered 2yz to the end of data.
    Delivery,
    /// An attempt failed; another will follow.
    TransientFailure,
    /// Ended by a permanent failure, of the peer or ours.
    Bounce,
    /// Ended by an administrative bounce.
    AdminBounce,
    /// Ended because its time ran out.
    Expiration,
    /// Ended because its recipient is suppressed.
    Suppression,
}

impl RecordType {
    /// Whether the recipient is finished after this record.
    #[must_use]
    pub fn ends(self) -> bool {
        !matches!(self, Self::Reception | Self::TransientFailure)
    }
}

/// Enhanced mail system status code, RFC 3463.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EnhancedCode {
    /// 2, 4 or 5.
    pub class: u8,
    /// Up to three digits.
    pub subject: u16,
    /// Up to three digits.
    pub detail: u16,
}

impl fmt::Display for EnhancedCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.class, self.subject, self.detail)
    }
}

/// The command that a response answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verb {
    /// No command: the engine's own decision.
    None,
    /// TCP connect.
    Connect,
    /// The greeting.
    Banner,
    /// EHLO or HELO.
    Ehlo,
    /// STARTTLS and the handshake.
    StartTls,
    /// MAIL FROM.
    MailFrom,
    /// RCPT TO.
    RcptTo,
    /// DATA.
    Data,
    /// The final dot, or BDAT LAST.
    EndOfData,
}

impl Verb {
    /// As written in records.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Connect => "CONNECT",
            Self::Banner => "BANNER",
            Self::Ehlo => "EHLO",
            Self::StartTls => "STARTTLS",
            Self::MailFrom => "MAIL FROM",
            Self::RcptTo => "RCPT TO",
            Self::Data => "DATA",
            Self::EndOfData => ".",
        }
    }
}

/// A reply of the peer, or our own words in its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// Three-digit code.
    pub code: u16,
    /// Enhanced code, when the text began with one.
    pub enhanced: Option<EnhancedCode>,
    /// Text without codes; the lines of a multi-line reply joined by `\n`; made valid UTF-8.
    pub text: Box<str>,
    /// What it answers.
    pub verb: Verb,
}

/// Which rule made an outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleMark {
    /// Id of the rule.
    pub id: Arc<str>,
    /// `suppression`, `bounce`, `error`, `pause`, `suspension`.
    pub kind: &'static str,
    /// Name of the token that made it.
    pub by: Arc<str>,
}

/// The connection that carried an attempt; shared by all records of the connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Carrier {
    /// Number of the session, unique within this start of the engine.
    pub session: u64,
    /// Site name, `contracts` "Site names"; empty before resolution.
    pub site: Arc<str>,
    /// Name of the remote host; empty when none was reached.
    pub peer_name: Arc<str>,
    /// Address of the remote host.
    pub peer: Option<SocketAddr>,
    /// Pool from which the source was chosen.
    pub pool: Option<Arc<str>>,
    /// Name of the source.
    pub source: Option<Arc<str>>,
    /// Own address.
    pub source_address: Option<IpAddr>,
    /// Negotiated suite, when TLS was used.
    pub tls_cipher: Option<&'static str>,
    /// Negotiated version, when TLS was used.
    pub tls_version: Option<&'static str>,
}

/// One line of the outcome log: one recipient of one message.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Which record.
    pub kind: RecordType,
    /// The message.
    pub envelope: Arc<Envelope>,
    /// Index of the recipient in the envelope; `None` in a `Reception`, which is about the whole message.
    pub recipient: Option<u16>,
    /// Scheduled queue name, `campaign:tenant@domain!routing_domain`.
    pub queue: Arc<str>,
    /// When it happened.
    pub at: Timestamp,
    /// Attempts made so far, this one included.
    pub attempts: u16,
    /// What was answered.
    pub response: Response,
    /// How it travelled; for a `Reception`, `peer` is the injector.
    pub carrier: Option<Arc<Carrier>>,
    /// `ESMTP`, `HTTP`…, for a `Reception`.
    pub reception_protocol: Option<&'static str>,
    /// The rule that made it.
    pub rule: Option<RuleMark>,
    /// An earlier attempt may have got through.
    pub maybe_delivered: bool,
    /// It is only counted: whoever made the rule wants no record (`suppress_logging`).
    pub unlogged: bool,
}

impl Outcome {
    /// The rule whose list counts this end.
    #[must_use]
    pub fn counted_rule(&self) -> Option<&RuleMark> {
        self.rule.as_ref().filter(|rule| self.kind.ends() && is_listed(rule.kind))
    }
}

/// Whether rules of this kind are listed with what they have ended: suppressions are not, and a cancelled message is
/// no rule.
#[must_use]
pub fn is_listed(kind: &str) -> bool {
    matches!(kind, "bounce" | "error")
}
