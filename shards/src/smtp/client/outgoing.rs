//! Octets on their way to `send(2)`, and which of them complete a message. The gate stands here: octets that
//! complete a message are handed out only through [`Outgoing::pass_gate`], each time that some of them are left.
//!
//! Nothing here sends anything, and no octet is taken back once it was sent.

use super::{EndOfDataMark, Session, Withdrawal};
use crate::limits::FILL_BYTES;
use crate::message::Body;
use crate::time::Instant;
use smallvec::SmallVec;

/// What one connection has ready to send. Lives on the connection's core and ends with it.
#[derive(Debug, Default)]
pub struct Outgoing {
    /// In their final form.
    octets: Vec<u8>,
    /// What goes behind them, where it stands in a body. Completes no message.
    piece: Body,
    /// Of both.
    sent: usize,
    /// Octets that complete a message and were not sent yet.
    marks: Vec<EndOfDataMark>,
}

impl Outgoing {
    /// What is ready and was not sent, in two parts; the first is empty only when both are.
    #[must_use]
    pub fn parts(&self) -> [&[u8]; 2] {
        match self.octets.get(self.sent..) {
            Some(octets) if !octets.is_empty() => [octets, &self.piece],
            _ => [&self.piece[self.sent - self.octets.len()..], &[]],
        }
    }

    /// What is ready and was not sent, as far as it lies together: all of it when this is empty.
    #[must_use]
    pub fn unsent(&self) -> &[u8] {
        self.parts()[0]
    }

    /// Whether the unsent octets hold one that completes a message, so that the gate must be asked before they go.
    #[must_use]
    pub fn completes_message(&self) -> bool {
        !self.marks.is_empty()
    }

    /// Makes its output in what `room` gives from now on, unless it has some. An idle connection keeps none; what one
    /// has given back is warm for the next.
    pub fn lend(&mut self, room: impl FnOnce() -> Vec<u8>) {
        if self.octets.capacity() == 0 {
            self.octets = room();
        }
    }

    /// Gives its room back when there is nothing in it.
    pub fn give_back(&mut self) -> Option<Vec<u8>> {
        self.octets.is_empty().then(|| std::mem::take(&mut self.octets))
    }

    /// Takes the session's next output as it is. Only when nothing is unsent.
    pub fn refill(&mut self, client: &mut Session, now: Instant) {
        self.clear();
        let piece = client.fill_or_refer(&mut self.octets, FILL_BYTES, &mut self.marks, now);
        self.piece = piece.unwrap_or_default();
    }

    /// Takes the next output of `client` as whole TLS records; of nobody as long as hands are shaken. `seal` appends what it
    /// makes of octets, and what TLS has to say itself. Each message ends a record: it is complete with the last octet of
    /// that, before which the peer cannot read it, and not only when what goes with it is sent, too.
    pub fn refill_sealed(
        &mut self,
        client: Option<&mut Session>,
        plain: &mut Vec<u8>,
        now: Instant,
        mut seal: impl FnMut(&[u8], &mut Vec<u8>),
    ) {
        self.clear();
        plain.clear();
        if let Some(client) = client {
            client.fill(plain, FILL_BYTES, &mut self.marks, now);
        }
        let mut from = 0;
        for mark in &mut self.marks {
            let end = mark.position + 1;
            seal(&plain[from..end], &mut self.octets);
            mark.position = self.octets.len() - 1;
            from = end;
        }
        seal(&plain[from..], &mut self.octets);
    }

    /// Whether the unsent octets may go, as far as their messages are concerned. `covered` carries out the orders
    /// that have come and says which recipients of a message a rule covers now. If they may not go, none of them
    /// does: they are forgotten, and the session ends without the end-of-data.
    pub fn pass_gate<C: AsRef<[u16]>>(
        &mut self,
        client: &mut Session,
        now: Instant,
        mut covered: impl FnMut(u64) -> Option<C>,
    ) -> bool {
        for at in 0..self.marks.len() {
            let token = self.marks[at].token;
            let Some(recipients) = covered(token) else {
                continue;
            };
            if client.withdraw(token, recipients.as_ref(), now) == Withdrawal::Ending {
                self.clear();
                return false;
            }
        }
        true
    }

    /// So many octets were passed to `send(2)`. Tells the session, and returns the messages that are now complete.
    pub fn note_sent(&mut self, count: usize, client: &mut Session, now: Instant) -> SmallVec<[u64; 4]> {
        self.sent += count;
        let passed = self.marks.iter().take_while(|mark| mark.position < self.sent).count();
        let tokens: SmallVec<[u64; 4]> = self.marks.drain(..passed).map(|mark| mark.token).collect();
        for token in &tokens {
            client.handle_end_of_data_sent(*token, now);
        }
        tokens
    }

    fn clear(&mut self) {
        self.octets.clear();
        self.piece = Body::new();
        self.sent = 0;
        self.marks.clear();
    }
}
