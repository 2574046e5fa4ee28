//! Replies up to readiness: banner, EHLO with HELO behind it, STARTTLS. RFC 5321 §3.1, §3.2, §4.1.1.1; RFC 3207.

use super::session::Session;
use super::state::State;
use super::{Capabilities, ClientEvent};
use crate::outcome::Verb;
use crate::settings::TlsPolicy;
use crate::smtp::classify::{Failure, FailureKind};
use crate::smtp::reply::Reply;
use crate::time::Instant;

impl Session {
    pub(super) fn handle_banner(&mut self, reply: Reply<'_>, now: Instant) {
        match reply.code {
            200..=299 => self.enter(State::Ehlo, now),
            _ => self.refuse_greeting(reply, now),
        }
    }

    pub(super) fn handle_ehlo_reply(&mut self, reply: Reply<'_>, now: Instant) {
        match reply.code {
            _ if self.pending => self.break_off(FailureKind::Protocol, "a reply before the command"),
            200..=299 => self.greeted(Capabilities::parse(&reply, self.secure), now),
            // RFC 5321 §3.2: an old server refuses EHLO for good and takes HELO.
            500..=599 => self.enter(State::Helo, now),
            _ => self.refuse_greeting(reply, now),
        }
    }

    pub(super) fn handle_helo_reply(&mut self, reply: Reply<'_>, now: Instant) {
        match reply.code {
            _ if self.pending => self.break_off(FailureKind::Protocol, "a reply before the command"),
            200..=299 => self.greeted(Capabilities { secure: self.secure, ..Capabilities::default() }, now),
            _ => self.refuse_greeting(reply, now),
        }
    }

    pub(super) fn handle_starttls_reply(&mut self, reply: Reply<'_>, now: Instant) {
        match reply.code {
            _ if self.pending => self.break_off(FailureKind::Protocol, "a reply before the command"),
            200..=299 => {
                self.enter(State::Handshake, now);
                self.events.push_back(ClientEvent::StartTls);
            }
            421 => self.refuse_greeting(reply, now),
            400..=599 if self.config.tls == TlsPolicy::Opportunistic => self.ready(now),
            400..=599 => {
                let response = reply.response(Verb::StartTls);
                self.quit(Some(Failure { kind: FailureKind::TlsUnavailable, response, maybe_delivered: false }), now);
            }
            _ => self.refuse_greeting(reply, now),
        }
    }

    /// Plaintext between the 220 to STARTTLS and the handshake comes from somebody in between, who wants it to be
    /// read as if it had come over TLS (CVE-2011-0411).
    pub(super) fn refuse_injected_plaintext(&mut self) {
        if self.events.back() == Some(&ClientEvent::StartTls) {
            self.events.pop_back();
        }
        self.break_off(FailureKind::TlsHandshake, "plaintext after the reply to STARTTLS");
    }

    fn greeted(&mut self, offers: Capabilities, now: Instant) {
        self.capabilities = offers;
        match self.config.tls {
            _ if self.secure => self.ready(now),
            TlsPolicy::Disabled => self.ready(now),
            _ if offers.starttls => self.enter(State::StartTls, now),
            TlsPolicy::Opportunistic => self.ready(now),
            TlsPolicy::Required | TlsPolicy::Verified => {
                let text = format!("TLS is required, and {} does not offer STARTTLS", self.config.host);
                self.quit(Some(Failure::own(FailureKind::TlsUnavailable, Verb::StartTls, text)), now);
            }
        }
    }

    fn ready(&mut self, now: Instant) {
        self.enter(State::Ready, now);
        self.events.push_back(ClientEvent::Ready(self.capabilities));
        self.quit_when_done(now);
    }

    /// The peer does not want to talk to us, or not like this.
    fn refuse_greeting(&mut self, reply: Reply<'_>, now: Instant) {
        let kind = match reply.code {
            421 => FailureKind::Closing,
            400..=599 => FailureKind::Refused,
            _ => {
                let text = format!("an unexpected reply {}", reply.code);
                return self.break_off(FailureKind::Protocol, &text);
            }
        };
        let failure = Failure { kind, response: reply.response(self.state.verb()), maybe_delivered: false };
        match kind {
            FailureKind::Closing => self.close_with(failure),
            // RFC 5321 §3.1: after a refusal the client says QUIT.
            _ => self.quit(Some(failure), now),
        }
    }
}
