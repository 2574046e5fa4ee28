//! The SMTP server session: how mail is injected (RFC 5321 and the extensions that EHLO names).
//!
//! Octets, answers of the runtime and `now` go in; replies and [`ServerEvent`]s come out. Nothing here reads
//! a clock, waits, or touches a socket, a file or TLS: it says when each is needed.
//!
//! How a runtime drives a [`Session`]:
//! 1. write what [`Session::output`] holds, then act on each [`Session::poll_event`], in that order;
//! 2. while [`Session::wants_input`], give it octets with [`Session::handle_bytes`] and keep those that it did
//!    not take for the next call; while it does not want input, do not read from the peer;
//! 3. call [`Session::handle_deadline`] when [`Session::deadline`] has passed.

mod address;
mod auth;
mod command;
mod compose;
mod content;
mod control;
mod decoder;
mod envelope;
mod greeting;
mod header;
mod line;
mod parameters;
mod received;
mod session;
mod state;

pub use address::{AddressError, mailbox};
pub use compose::{ComposeError, Composed, Origin, compose};
pub use control::{host as control_host, time as control_time};
pub use session::Session;

use crate::message::{ContentFlags, Extras, MessageId};
use crate::outcome::EnhancedCode;
use crate::settings::Settings;
use std::borrow::Cow;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

/// What all sessions have in common. Read-only; make one `Arc` per core, because each message counts it up and
/// down. A reload makes a new one for new sessions. The default takes no mail.
#[derive(Clone, Debug, Default)]
pub struct ServerConfig {
    /// Name in the greeting and in Received.
    pub hostname: Arc<str>,
    /// Octets of one message, as in SIZE (RFC 1870).
    pub max_message_bytes: u32,
    /// Recipients of one transaction; more are answered 452.
    pub max_recipients: u16,
    /// Whether STARTTLS is offered.
    pub tls_available: bool,
    /// Whether AUTH is offered (only ever inside TLS).
    pub auth_available: bool,
    /// Header that names the campaign.
    pub campaign_header: Arc<str>,
    /// Header that names the tenant.
    pub tenant_header: Arc<str>,
}

impl From<&Settings> for ServerConfig {
    /// STARTTLS is offered when the settings name a certificate, and AUTH whenever STARTTLS is: users come
    /// from the users file and from API tokens.
    fn from(settings: &Settings) -> Self {
        let smtp = &settings.smtp;
        Self {
            hostname: settings.hostname.clone(),
            max_message_bytes: smtp.max_message_bytes,
            max_recipients: smtp.max_recipients,
            tls_available: smtp.tls.is_some(),
            auth_available: smtp.tls.is_some(),
            campaign_header: smtp.campaign_header.clone(),
            tenant_header: smtp.tenant_header.clone(),
        }
    }
}

/// What the peer's address says of it.
#[derive(Clone, Copy, Debug)]
pub struct PeerFacts {
    /// Where it connects from.
    pub address: SocketAddr,
    /// May inject without AUTH (`relay_from`).
    pub may_relay: bool,
    /// Its control headers are honoured (`trust_headers_from`).
    pub trusted_headers: bool,
}

/// What the runtime must do next.
#[derive(Debug)]
pub enum ServerEvent {
    /// Make the message durable, then call [`Session::handle_stored`]. No input is taken meanwhile.
    Message(Box<Accepted>),
    /// Write the output, then begin the handshake as the server; everything read so far in clear and not yet
    /// given to the session is to be thrown away (RFC 3207 §4.2). Then call [`Session::handle_tls_ready`].
    StartTls,
    /// Check the credentials, then call [`Session::handle_authenticated`]. No input is taken meanwhile.
    Authenticate(Credentials),
    /// Write the output, then close the connection. Nothing follows.
    Close,
}

/// What the peer says that it is. Never logged: `Debug` leaves the secret out.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// SASL mechanism, `PLAIN` or `LOGIN`.
    pub mechanism: &'static str,
    /// Who.
    pub name: String,
    /// Password or token.
    pub secret: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("mechanism", &self.mechanism)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// A complete message that the session accepts, if it becomes durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// The id that its Received header names.
    pub id: MessageId,
    /// Reverse-path without brackets, empty for the null one.
    pub sender: Box<str>,
    /// At least one, in the order given, none twice; domains as in [`crate::message::Envelope::new`].
    pub recipients: Vec<Box<str>>,
    /// What the content needs of the next hop.
    pub flags: ContentFlags,
    /// Marks and wishes from control headers, when there are any.
    pub extras: Option<Box<Extras>>,
    /// Our Received header, then the message: CRLF line ends, no dot-stuffing, control headers removed.
    pub body: Vec<u8>,
    /// Protocol type of RFC 3848 or RFC 6531: `SMTP`, `ESMTPS`, `UTF8SMTPSA`…
    pub protocol: &'static str,
}

/// Why new mail, or a message that was received, is not taken: a reply in parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreRefusal {
    /// 4yz or 5yz. 421 also ends the session.
    pub code: u16,
    /// Enhanced code of the same class.
    pub enhanced: EnhancedCode,
    /// Text of one line.
    pub text: Cow<'static, str>,
}

impl StoreRefusal {
    /// `452 4.3.1`: the disk or the memory is short.
    #[must_use]
    pub fn storage(text: impl Into<Cow<'static, str>>) -> Self {
        Self { code: 452, enhanced: EnhancedCode { class: 4, subject: 3, detail: 1 }, text: text.into() }
    }

    /// `451 4.3.0`: the message could not be made durable.
    #[must_use]
    pub fn failed(text: impl Into<Cow<'static, str>>) -> Self {
        Self { code: 451, enhanced: EnhancedCode { class: 4, subject: 3, detail: 0 }, text: text.into() }
    }
}
