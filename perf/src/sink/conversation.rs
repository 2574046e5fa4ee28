//! One client's octets, as they come from and go to its socket: the session, with TLS before it once it was asked for.
//!
//! It reads no socket. Nothing that a client sent in clear behind its STARTTLS ever reaches the session (RFC 3207 §5).

use super::session::{Flow, Session, Shared};
use super::tls::Records;

/// One conversation.
pub struct Conversation {
    session: Session,
    records: Option<Box<Records>>,
}

impl Conversation {
    /// A conversation that begins with the greeting, written to `out`.
    pub fn new(out: &mut Vec<u8>) -> Conversation {
        Conversation { session: Session::new(out), records: None }
    }

    /// Whether a transaction has begun that has neither been completed nor given up.
    pub fn in_transaction(&self) -> bool {
        self.session.in_transaction()
    }

    /// Takes what arrived, appends to `out` what is to be sent.
    pub fn receive(&mut self, input: &[u8], shared: &mut Shared, out: &mut Vec<u8>) -> Flow {
        let Some(records) = &mut self.records else {
            let flow = self.session.receive(input, shared, out);
            return if flow == Flow::StartTls { self.start_tls(shared) } else { flow };
        };
        let mut plain = Vec::new();
        // What came before the octets that are no TLS was said all the same.
        let broken = records.receive(input, &mut plain, out).is_err();
        if broken {
            shared.tally.totals.protocol_errors += 1;
        }
        let flow = self.step(out, |session, replies| session.receive(&plain, shared, replies));
        if broken { Flow::Close } else { flow }
    }

    /// The delay is over, see [`Session::resume`].
    pub fn resume(&mut self, shared: &mut Shared, out: &mut Vec<u8>) -> Flow {
        self.step(out, |session, replies| session.resume(shared, replies))
    }

    fn step(&mut self, out: &mut Vec<u8>, step: impl FnOnce(&mut Session, &mut Vec<u8>) -> Flow) -> Flow {
        let Some(records) = &mut self.records else { return step(&mut self.session, out) };
        let mut replies = Vec::new();
        let flow = step(&mut self.session, &mut replies);
        match records.send(&replies, out) {
            Ok(()) => flow,
            Err(_) => Flow::Close,
        }
    }

    fn start_tls(&mut self, shared: &Shared) -> Flow {
        match shared.tls.as_ref().map(Records::new) {
            Some(Ok(records)) => {
                self.records = Some(Box::new(records));
                self.session.secured();
                Flow::Open
            }
            _ => Flow::Close,
        }
    }
}

#[cfg(test)]
mod tests;
