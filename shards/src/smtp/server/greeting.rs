//! EHLO, HELO and STARTTLS: who speaks, what is offered, and through what.

use super::ServerEvent;
use super::session::Session;
use super::state::{Greeting, State};
use crate::limits::GREETING_NAME_BYTES_MAX;

impl Session {
    pub(super) fn ehlo(&mut self, name: &[u8]) {
        if !self.greet(Greeting::Ehlo, name) {
            return;
        }
        // No DSN: delivery reports are records and REST results, not mail (RFC 3461 is not offered).
        let hostname = self.config.hostname.clone();
        let size = self.config.max_message_bytes;
        self.reply(&format!("250-{hostname}\r\n250-PIPELINING\r\n250-SIZE {size}\r\n250-8BITMIME\r\n250-SMTPUTF8"));
        self.reply("250-CHUNKING");
        if self.config.tls_available && self.tls.is_none() {
            self.reply("250-STARTTLS");
        }
        if self.auth_offered() {
            self.reply("250-AUTH PLAIN LOGIN");
        }
        self.reply("250 ENHANCEDSTATUSCODES");
    }

    pub(super) fn helo(&mut self, name: &[u8]) {
        if self.greet(Greeting::Helo, name) {
            let hostname = self.config.hostname.clone();
            self.reply(&format!("250 {hostname}"));
        }
    }

    /// AUTH is offered inside TLS only, and not twice.
    pub(super) fn auth_offered(&self) -> bool {
        self.config.auth_available && self.tls.is_some()
    }

    pub(super) fn starttls(&mut self) {
        if !self.config.tls_available {
            self.error("502 5.5.1 STARTTLS is not offered");
        } else if self.tls.is_some() {
            self.error("503 5.5.1 TLS is in use already");
        } else if self.transaction.is_some() {
            self.error("503 5.5.1 Finish the transaction first");
        } else {
            self.reply("220 2.0.0 Go ahead");
            self.state = State::StartingTls;
            self.event = Some(ServerEvent::StartTls);
        }
    }

    /// Notes the name. What it says is not checked, since mail must not be refused for it (RFC 5321 §4.1.4);
    /// octets that could break our Received header are replaced.
    fn greet(&mut self, greeting: Greeting, name: &[u8]) -> bool {
        if name.len() > GREETING_NAME_BYTES_MAX {
            self.error("501 5.5.4 Name too long");
            return false;
        }
        let printable = |&octet: &u8| {
            let plain = octet.is_ascii_alphanumeric() || b".-_:[]".contains(&octet);
            if plain { char::from(octet) } else { '?' }
        };
        self.greeted_as = name.iter().map(printable).collect::<String>().into_boxed_str();
        self.greeting = greeting;
        // A greeting also does what RSET does, RFC 5321 §4.1.4.
        self.transaction = None;
        self.mail_refused = false;
        true
    }
}
