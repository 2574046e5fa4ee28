//! MAIL, RCPT and RSET: the envelope of the message to come.

use super::address::{self, AddressError};
use super::decoder::Decoder;
use super::parameters::{self, ParameterError};
use super::session::Session;
use super::state::{DataClock, Greeting};
use crate::limits::SESSION_TRANSACTIONS_MAX;
use hashbrown::{DefaultHashBuilder, HashTable};
use std::hash::BuildHasher;

/// From MAIL to the end of data.
#[derive(Debug)]
pub(super) struct Transaction {
    pub(super) sender: Box<str>,
    pub(super) smtputf8: bool,
    /// Octets that SIZE announced, 0 when it did not.
    pub(super) announced_bytes: u64,
    pub(super) recipients: Recipients,
    /// Recipients that were refused.
    pub(super) refused: u32,
    /// BDAT commands so far.
    pub(super) chunks: u32,
    pub(super) content: Option<(Decoder, DataClock)>,
    /// A chunk was refused: nothing but RSET makes sense any more (RFC 3030 §2).
    pub(super) spoilt: bool,
}

/// Recipients in order, none twice.
#[derive(Debug, Default)]
pub(super) struct Recipients {
    list: Vec<Box<str>>,
    /// Indices into `list` by hash; filled only when the list is too long to be compared one by one.
    index: HashTable<u32>,
    hasher: DefaultHashBuilder,
}

impl Recipients {
    /// So many are compared one by one.
    const COMPARED: usize = 16;

    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    pub(super) fn into_list(self) -> Vec<Box<str>> {
        self.list
    }

    /// Adds `address` unless it is there.
    fn add(&mut self, address: Box<str>) {
        if self.list.len() < Self::COMPARED {
            if !self.list.contains(&address) {
                self.list.push(address);
            }
            return;
        }
        let Self { list, index, hasher } = self;
        let hash = |place: &u32| hasher.hash_one(&list[*place as usize]);
        if index.is_empty() {
            for place in 0..list.len() as u32 {
                index.insert_unique(hash(&place), place, hash);
            }
        }
        let found = index.find(hasher.hash_one(&address), |&place| list[place as usize] == address);
        if found.is_none() {
            let place = list.len() as u32;
            index.insert_unique(hasher.hash_one(&address), place, hash);
            list.push(address);
        }
    }
}

impl Session {
    pub(super) fn mail(&mut self, arguments: &[u8]) {
        if self.greeting == Greeting::None {
            return self.error("503 5.5.1 EHLO first");
        }
        if self.transaction.is_some() {
            return self.error("503 5.5.1 A transaction is open");
        }
        self.mail_refused = true;
        if !self.peer.may_relay && !self.authenticated {
            return match self.config.auth_available {
                true => self.error("530 5.7.0 Authentication required"),
                false => self.error("550 5.7.1 Relaying denied"),
            };
        }
        if let Some(refusal) = self.pressure.take() {
            self.reply_refusal(&refusal);
            self.pressure = Some(refusal);
            return;
        }
        if self.counters.transactions >= SESSION_TRANSACTIONS_MAX {
            return self.end("421 4.7.0 Enough for one connection");
        }
        let path = match address::path(arguments) {
            Ok(path) => path,
            Err(error) => return self.refuse_address(error, 7),
        };
        let parameters = match parameters::mail(path.rest, self.auth_offered()) {
            Ok(parameters) => parameters,
            Err(error) => return self.refuse_parameter(&error),
        };
        if !path.ascii && !parameters.smtputf8 {
            return self.reply("553 5.6.7 Address needs SMTPUTF8");
        }
        if parameters.size > u64::from(self.config.max_message_bytes) {
            let max = self.config.max_message_bytes;
            return self.reply(&format!("552 5.3.4 Message is over {max} octets"));
        }
        self.counters.transactions += 1;
        self.mail_refused = false;
        self.transaction = Some(Transaction {
            sender: path.address,
            smtputf8: parameters.smtputf8,
            announced_bytes: parameters.size,
            recipients: Recipients::default(),
            refused: 0,
            chunks: 0,
            content: None,
            spoilt: false,
        });
        self.reply("250 2.1.0 Ok");
    }

    pub(super) fn rcpt(&mut self, arguments: &[u8]) {
        let Some(transaction) = &mut self.transaction else { return self.out_of_order("503 5.5.1 MAIL first") };
        if transaction.content.is_some() || transaction.spoilt {
            return self.error("503 5.5.1 The content has begun");
        }
        if transaction.recipients.len() >= usize::from(self.config.max_recipients) {
            return self.refuse_recipient("452 4.5.3 Too many recipients");
        }
        let path = match address::path(arguments) {
            Ok(path) if path.address.is_empty() => return self.refuse_address(AddressError::Syntax, 3),
            Ok(path) => path,
            Err(error) => return self.refuse_address(error, 3),
        };
        if let Err(error) = parameters::rcpt(path.rest) {
            return self.refuse_parameter(&error);
        }
        if !path.ascii && !transaction.smtputf8 {
            return self.refuse_recipient("553 5.6.7 Address needs SMTPUTF8");
        }
        transaction.recipients.add(path.address);
        self.reply("250 2.1.5 Ok");
    }

    pub(super) fn rset(&mut self) {
        self.transaction = None;
        self.mail_refused = false;
        self.reply("250 2.0.0 Ok");
    }

    /// `detail` is that of the enhanced code 5.1: 7 for senders, 3 for recipients.
    fn refuse_address(&mut self, error: AddressError, detail: u8) {
        let code = if error == AddressError::Syntax { 501 } else { 553 };
        self.refuse_recipient(&format!("{code} 5.1.{detail} {}", error.as_str()));
    }

    /// Counts apart from errors: a list with bad addresses must still get its good ones through.
    fn refuse_recipient(&mut self, line: &str) {
        self.reply(line);
        let Some(transaction) = &mut self.transaction else { return };
        transaction.refused += 1;
        if transaction.refused > u32::from(u16::MAX) {
            self.end("421 4.7.0 Too many recipients refused");
        }
    }

    fn refuse_parameter(&mut self, error: &ParameterError) {
        match error {
            ParameterError::Unsupported(name) => self.error(&format!("555 5.5.4 {name} is not supported")),
            ParameterError::Malformed(name) => self.error(&format!("501 5.5.4 {name} is malformed or given twice")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::MessageId;
    use crate::smtp::server::{PeerFacts, ServerConfig};
    use crate::time::Now;
    use std::sync::Arc;

    /// The one after the last is answered 421, and that is the end.
    #[test]
    fn transactions_are_bounded() {
        let config = ServerConfig {
            hostname: "mx.test".into(),
            max_message_bytes: 1000,
            max_recipients: 1,
            tls_available: false,
            auth_available: false,
            campaign_header: "X-Campaign".into(),
            tenant_header: "X-Tenant".into(),
        };
        let address = "192.0.2.1:1".parse().expect("an address");
        let peer = PeerFacts { address, may_relay: true, trusted_headers: false };
        let mut session = Session::new(Arc::new(config), peer, MessageId::default(), Now::default());
        session.counters.transactions = SESSION_TRANSACTIONS_MAX - 1;
        session.handle_bytes(b"HELO c\r\nMAIL FROM:<>\r\nRSET\r\nMAIL FROM:<>\r\nNOOP\r\n", Now::default());
        let output = String::from_utf8_lossy(session.output());
        assert!(
            output.ends_with("250 2.1.0 Ok\r\n250 2.0.0 Ok\r\n421 4.7.0 Enough for one connection\r\n"),
            "{output}"
        );
    }

    /// However many there are, each is kept once, in the order in which they came.
    #[test]
    fn recipients_are_kept_once() {
        let name = |number: usize| Box::<str>::from(format!("r{number}@b.test"));
        for count in [1, 15, 16, 17, 18, 40] {
            let mut recipients = Recipients::default();
            for number in 0..count {
                recipients.add(name(number));
                (0..=number).for_each(|before| recipients.add(name(before)));
            }
            assert_eq!(recipients.len(), count);
            assert_eq!(recipients.into_list(), (0..count).map(name).collect::<Vec<_>>());
        }
    }
}
