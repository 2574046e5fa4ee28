//! The AUTH exchange (RFC 4954): PLAIN (RFC 4616) and LOGIN. Takes credentials apart; checks none.

use super::session::Session;
use super::state::{Greeting, State};
use super::{Credentials, ServerEvent};
use crate::limits::CREDENTIAL_BYTES_MAX;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::fmt;

/// What the next line of the peer holds.
#[derive(PartialEq, Eq)]
pub(super) enum Exchange {
    /// The whole PLAIN message.
    Plain,
    /// LOGIN: the user's name.
    Name,
    /// LOGIN: the secret of this user.
    Secret(String),
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain => "Plain",
            Self::Name => "Name",
            Self::Secret(_) => "Secret",
        })
    }
}

/// What follows a line of the exchange.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Send this challenge, and wait for a line.
    Challenge(&'static str, Exchange),
    /// Have them checked.
    Check(Credentials),
    /// Send this reply; the exchange is over.
    Refuse(&'static str),
}

const CANCELLED: &str = "501 5.7.0 Authentication cancelled";
const UNDECODABLE: &str = "501 5.5.2 Not base64";
const UNUSABLE: &str = "535 5.7.8 Credentials not usable";
const NAME_CHALLENGE: &str = "334 VXNlcm5hbWU6";
const SECRET_CHALLENGE: &str = "334 UGFzc3dvcmQ6";

impl Session {
    pub(super) fn auth(&mut self, mechanism: &[u8], initial: Option<&[u8]>) {
        if !self.config.auth_available {
            self.error("502 5.5.1 AUTH is not offered");
        } else if self.tls.is_none() {
            // Credentials in clear are not even looked at (RFC 4954 §4, §9).
            self.error("538 5.7.11 STARTTLS first");
        } else if self.greeting != Greeting::Ehlo || self.authenticated || self.transaction.is_some() {
            self.error("503 5.5.1 AUTH does not belong here");
        } else {
            self.auth_step(begin(mechanism, initial));
        }
    }

    pub(super) fn auth_step(&mut self, step: Step) {
        match step {
            Step::Challenge(line, exchange) => {
                self.reply(line);
                self.state = State::Exchange(exchange);
            }
            Step::Check(credentials) => {
                self.event = Some(ServerEvent::Authenticate(credentials));
                self.state = State::Authenticating;
            }
            Step::Refuse(line) => self.refuse_login(line),
        }
    }

    pub(super) fn refuse_login(&mut self, line: &str) {
        self.counters.failed_logins += 1;
        self.error(line);
    }
}

/// `AUTH mechanism [initial]`; an initial response of `=` is an empty one.
fn begin(mechanism: &[u8], initial: Option<&[u8]>) -> Step {
    let exchange = if mechanism.eq_ignore_ascii_case(b"PLAIN") {
        Exchange::Plain
    } else if mechanism.eq_ignore_ascii_case(b"LOGIN") {
        Exchange::Name
    } else {
        return Step::Refuse("504 5.5.4 Mechanism not offered");
    };
    match (initial, exchange) {
        (Some(b"="), exchange) => exchange.answer(b""),
        (Some(initial), exchange) => exchange.answer(initial),
        (None, Exchange::Plain) => Step::Challenge("334 ", Exchange::Plain),
        (None, exchange) => Step::Challenge(NAME_CHALLENGE, exchange),
    }
}

impl Exchange {
    /// Takes the peer's line, without its line end.
    pub(super) fn answer(self, line: &[u8]) -> Step {
        if line == b"*" {
            return Step::Refuse(CANCELLED);
        }
        let Ok(decoded) = STANDARD.decode(line) else { return Step::Refuse(UNDECODABLE) };
        let Ok(text) = String::from_utf8(decoded) else { return Step::Refuse(UNUSABLE) };
        match self {
            Self::Plain => plain(&text).map_or(Step::Refuse(UNUSABLE), Step::Check),
            Self::Name if usable(&text) => Step::Challenge(SECRET_CHALLENGE, Self::Secret(text)),
            Self::Secret(name) if usable(&text) => Step::Check(Credentials { mechanism: "LOGIN", name, secret: text }),
            Self::Name | Self::Secret(_) => Step::Refuse(UNUSABLE),
        }
    }
}

/// `[authorization] NUL name NUL secret`. Nobody may act for somebody else.
fn plain(text: &str) -> Option<Credentials> {
    let mut parts = text.split('\0');
    let (authorization, name, secret) = (parts.next()?, parts.next()?, parts.next()?);
    let right = parts.next().is_none() && (authorization.is_empty() || authorization == name);
    (right && usable(name) && usable(secret)).then(|| Credentials {
        mechanism: "PLAIN",
        name: name.to_owned(),
        secret: secret.to_owned(),
    })
}

fn usable(text: &str) -> bool {
    !text.is_empty() && text.len() <= CREDENTIAL_BYTES_MAX && !text.contains('\0')
}
