//! What each failure of a delivery means: to whom it applies and what helps. The one place for that policy; the
//! session reports failures and the resolver and connector make them, none of them decides anything from them.
//!
//! This file never looks at queues, hosts or time.

use crate::outcome::{EnhancedCode, Response, Verb};
use crate::settings::TlsPolicy;

/// What went wrong. Where in the conversation it did stands in the failure's `response.verb`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FailureKind {
    /// No host was found to connect to. `response.verb` is `None`.
    Dns(DnsFailure),
    /// The message would come back to us (the best MX is this host), or has passed too many hosts.
    Loop,
    /// The host refused the connection (a TCP reset in answer to the SYN).
    ConnectRefused,
    /// The host did not answer the connection attempt.
    ConnectTimedOut,
    /// The network says that the host or its network cannot be reached.
    ConnectUnreachable,
    /// Our own source address cannot be used on this machine.
    ConnectBadLocalAddress,
    /// The message names a pool or an address of ours that is not configured.
    NoSource,
    /// STARTTLS is required, and was not offered or was refused.
    TlsUnavailable,
    /// The TLS handshake failed, its certificate was not accepted, or plaintext was injected before it.
    TlsHandshake,
    /// A 4yz or 5yz reply.
    Refused,
    /// A 452 or 552 reply to RCPT after others of the same transaction were accepted, RFC 5321 §4.5.3.1.10.
    TooManyRecipients,
    /// A 421 reply: the peer ends the session.
    Closing,
    /// The peer broke the protocol.
    Protocol,
    /// A reply, or room for our octets, did not come in time.
    TimedOut,
    /// The connection was closed or reset.
    Lost,
    /// The body has 8-bit octets and the peer does not offer 8BITMIME; bodies are not transcoded.
    NeedsEightBitMime,
    /// The message needs SMTPUTF8 and the peer does not offer it.
    NeedsSmtpUtf8,
    /// The message is larger than the peer's SIZE.
    TooLarge,
    /// The sender's address cannot be written in a command.
    BadSender,
    /// The recipient's address cannot be written in a command.
    BadRecipient,
}

/// Why the resolver gave no host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DnsFailure {
    /// The domain does not exist.
    NoSuchDomain,
    /// The domain says that it takes no mail, RFC 7505.
    NullMx,
    /// Neither the domain nor any of its MX hosts has an address.
    NoAddress,
    /// The resolver gave no answer, or SERVFAIL.
    Temporary,
    /// All addresses are private, loopback and the like, and are not allowed (`egress.allow_private`).
    PrivateAddress,
}

/// One failure, of one recipient, message or session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What went wrong.
    pub kind: FailureKind,
    /// The peer's reply, or our own words.
    pub response: Response,
    /// The end of data was sent and not answered: the message may have got through.
    pub maybe_delivered: bool,
}

impl Failure {
    /// A failure that no reply of the peer states: `text` is our own words, the codes follow from `kind`.
    #[must_use]
    pub fn own(kind: FailureKind, verb: Verb, text: impl Into<Box<str>>) -> Self {
        let (code, class, subject, detail) = own_codes(kind);
        let enhanced = Some(EnhancedCode { class, subject, detail });
        Self { kind, response: Response { code, enhanced, text: text.into(), verb }, maybe_delivered: false }
    }
}

/// Reply code and enhanced code (RFC 3463, RFC 7505 §4, RFC 6531 §3.5) for failures in our own words.
fn own_codes(kind: FailureKind) -> (u16, u8, u16, u16) {
    match kind {
        FailureKind::Dns(DnsFailure::NoSuchDomain) => (550, 5, 1, 2),
        FailureKind::Dns(DnsFailure::NullMx) => (556, 5, 1, 10),
        FailureKind::Dns(DnsFailure::NoAddress | DnsFailure::PrivateAddress) => (550, 5, 4, 4),
        FailureKind::Dns(DnsFailure::Temporary) => (451, 4, 4, 3),
        FailureKind::Loop => (554, 5, 4, 6),
        FailureKind::ConnectRefused | FailureKind::ConnectTimedOut | FailureKind::ConnectUnreachable => (451, 4, 4, 1),
        FailureKind::ConnectBadLocalAddress | FailureKind::NoSource => (451, 4, 3, 5),
        FailureKind::TlsUnavailable => (454, 4, 7, 4),
        FailureKind::TlsHandshake => (454, 4, 7, 5),
        FailureKind::Refused | FailureKind::Closing => (451, 4, 0, 0),
        FailureKind::TooManyRecipients => (452, 4, 5, 3),
        FailureKind::Protocol => (451, 4, 5, 0),
        FailureKind::TimedOut | FailureKind::Lost => (451, 4, 4, 2),
        FailureKind::NeedsEightBitMime => (554, 5, 6, 3),
        FailureKind::NeedsSmtpUtf8 => (553, 5, 6, 7),
        FailureKind::TooLarge => (552, 5, 3, 4),
        FailureKind::BadSender => (553, 5, 1, 7),
        FailureKind::BadRecipient => (553, 5, 1, 3),
    }
}

/// Whose failure it is: the widest thing that should not be tried in the same way again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// This recipient; the rest of the message and the connection are good.
    Recipient,
    /// This message; the connection and other messages are good.
    Message,
    /// The remote host: other messages should not be sent there for a while either.
    Host,
    /// All hosts of the destination.
    Site,
    /// Our own source address: neither message nor peer is to blame.
    Source,
}

/// What helps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Remedy {
    /// The same host at once, in a further transaction.
    Again,
    /// The same host at once, without TLS.
    InClear,
    /// Another host of the site within this attempt; when none is left, later.
    Elsewhere,
    /// The retry schedule.
    Later,
    /// Nothing: bounce.
    Never,
}

/// What a failure means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Consequence {
    /// Whose failure it is.
    pub scope: Scope,
    /// What helps.
    pub remedy: Remedy,
}

/// What `failure` means under the path's `tls` policy.
#[must_use]
pub fn consequence(failure: &Failure, tls: TlsPolicy) -> Consequence {
    let verb = failure.response.verb;
    let (scope, remedy) = match failure.kind {
        FailureKind::Dns(DnsFailure::Temporary) => (Scope::Site, Remedy::Later),
        FailureKind::Dns(_) | FailureKind::Loop => (Scope::Site, Remedy::Never),
        FailureKind::ConnectRefused | FailureKind::ConnectTimedOut | FailureKind::ConnectUnreachable => {
            (Scope::Host, Remedy::Elsewhere)
        }
        // Ours to repair. Who has left a pool out of the configuration by mistake gets it back with its mail.
        FailureKind::ConnectBadLocalAddress | FailureKind::NoSource => (Scope::Source, Remedy::Later),
        FailureKind::TlsUnavailable => (Scope::Host, Remedy::Elsewhere),
        // RFC 7435: without a requirement, some privacy is better than none and mail is better than no mail.
        FailureKind::TlsHandshake if tls == TlsPolicy::Opportunistic => (Scope::Host, Remedy::InClear),
        FailureKind::TlsHandshake => (Scope::Host, Remedy::Elsewhere),
        FailureKind::TooManyRecipients => (Scope::Recipient, Remedy::Again),
        FailureKind::Refused => refused(&failure.response),
        FailureKind::Closing => (Scope::Host, if is_greeting(verb) { Remedy::Elsewhere } else { Remedy::Later }),
        FailureKind::Protocol | FailureKind::TimedOut | FailureKind::Lost => broken(verb),
        FailureKind::NeedsEightBitMime
        | FailureKind::NeedsSmtpUtf8
        | FailureKind::TooLarge
        | FailureKind::BadSender => (Scope::Message, Remedy::Never),
        FailureKind::BadRecipient => (Scope::Recipient, Remedy::Never),
    };
    Consequence { scope, remedy }
}

/// A session that broke off. Before the body any other host may do better. From the body on the message itself may
/// be the cause (a filter that hangs up), and after its end it may have got through: neither is tried elsewhere in
/// the same breath.
fn broken(verb: Verb) -> (Scope, Remedy) {
    match verb {
        Verb::EndOfData => (Scope::Message, Remedy::Later),
        _ => (Scope::Host, Remedy::Elsewhere),
    }
}

/// A 4yz or 5yz reply other than 421.
fn refused(response: &Response) -> (Scope, Remedy) {
    let permanent = response.code >= 500;
    match response.verb {
        // A host that refuses everybody, even by 554, says nothing of the message, RFC 5321 §3.1.
        verb if is_greeting(verb) => (Scope::Host, Remedy::Elsewhere),
        // X.3.z with 4yz: the host's own system is in trouble, e.g. its disk full.
        Verb::MailFrom if !permanent && response.enhanced.is_some_and(|code| code.subject == 3) => {
            (Scope::Host, Remedy::Elsewhere)
        }
        // RFC 5321 §4.5.3.1.10: 552 to RCPT means 452, unless an enhanced code says more.
        Verb::RcptTo if response.code == 552 && response.enhanced.is_none() => (Scope::Recipient, Remedy::Later),
        Verb::RcptTo => (Scope::Recipient, if permanent { Remedy::Never } else { Remedy::Later }),
        // Bad sequence: the two sides disagree about the session, which is not the message's fault.
        _ if response.code == 503 => (Scope::Message, Remedy::Later),
        _ => (Scope::Message, if permanent { Remedy::Never } else { Remedy::Later }),
    }
}

fn is_greeting(verb: Verb) -> bool {
    matches!(verb, Verb::Connect | Verb::Banner | Verb::Ehlo | Verb::StartTls)
}
