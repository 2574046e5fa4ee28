//! Moves octets between a socket and an SMTP client session, with the gate in the middle.
//!
//! The gate: before every `send(2)` whose octets complete a message, in the same poll and with nothing
//! awaited in between, orders are carried out and the brain is asked whether the message may still go. It is
//! asked again on each re-poll while the unsent octets hold that one. If it may not go, none of the unsent
//! octets goes: the session ends without the end-of-data.

use crate::event::SessionId;
use crate::limits::{FILL_BYTES, READ_BYTES};
use crate::runtime::clock;
use crate::runtime::local::{Local, SessionSlot};
use crate::runtime::stream::Stream;
use crate::runtime::tls::Tls;
use crate::smtp::client::{Outgoing, Session};
use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::rc::Rc;
use std::task::{Context, Poll};

thread_local! {
    /// What a read brings is used before the next read, so one buffer serves all connections of a core.
    static READ: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BYTES].into());
    /// Room for output that no connection has just now.
    static ROOMS: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// Room of more octets is not kept when it is given back…
const ROOM_BYTES_KEPT: usize = 2 * FILL_BYTES;
/// …nor are more rooms than these.
const ROOMS_KEPT: usize = 4;

/// One connection's octets.
pub struct Pump {
    stream: Stream,
    /// The SMTP session.
    pub client: Session,
    /// TLS, once it was begun.
    pub tls: Option<Tls>,
    outgoing: Outgoing,
    plain: Vec<u8>,
    /// The connection failed; the session was told.
    pub failed: bool,
}

impl Pump {
    /// Over a connection that stands.
    #[must_use]
    pub fn new(stream: Stream, client: Session) -> Self {
        Self { stream, client, tls: None, outgoing: Outgoing::default(), plain: Vec::new(), failed: false }
    }

    /// Our end of the connection.
    #[must_use]
    pub fn own_address(&self) -> Option<IpAddr> {
        self.stream.local_addr().ok().map(|address| address.ip())
    }

    /// Whether TLS was begun and is not agreed on.
    #[must_use]
    pub fn handshaking(&self) -> bool {
        self.tls.as_ref().is_some_and(Tls::handshaking)
    }

    /// Sends and reads what can be, until something has happened that the session's task must look at.
    pub async fn step(&mut self, local: &Rc<Local>, id: SessionId, slot: &SessionSlot) {
        poll_fn(|cx| {
            let mut happened = slot.woken.take();
            if !self.failed {
                happened |= self.poll_send(cx, local, id);
            }
            if !self.failed {
                happened |= self.poll_receive(cx);
            }
            let now = clock::recent().instant;
            if self.client.deadline().is_some_and(|deadline| deadline <= now) {
                self.client.handle_deadline(now);
                happened = true;
            }
            if happened {
                return Poll::Ready(());
            }
            slot.alarm.set(self.client.deadline(), cx.waker());
            Poll::Pending
        })
        .await;
    }

    /// Sends until the socket is full or nothing is left. Whether the session changed.
    fn poll_send(&mut self, cx: &mut Context<'_>, local: &Rc<Local>, id: SessionId) -> bool {
        let mut happened = false;
        loop {
            if self.outgoing.unsent().is_empty() {
                self.refill();
                if self.outgoing.unsent().is_empty() {
                    return happened;
                }
            }
            if self.outgoing.completes_message() && !self.pass_gate(local, id) {
                return true;
            }
            match self.stream.poll_write_parts(cx, self.outgoing.parts()) {
                Poll::Ready(Ok(count)) => happened |= self.note_sent(count, local, id),
                Poll::Ready(Err(error)) => {
                    self.hear_out();
                    if !self.failed {
                        self.fail(&error);
                    }
                    return true;
                }
                Poll::Pending => return happened,
            }
        }
    }

    /// The gate. Whether the unsent octets may go.
    fn pass_gate(&mut self, local: &Rc<Local>, id: SessionId) -> bool {
        local.take_orders();
        // A rule may begin or end by the clock, too.
        let now = clock::now().instant;
        let covered = |token| local.with_shard(|shard, now| shard.gate(id, token, now));
        self.outgoing.pass_gate(&mut self.client, now, covered)
    }

    fn note_sent(&mut self, count: usize, local: &Rc<Local>, id: SessionId) -> bool {
        let complete = self.outgoing.note_sent(count, &mut self.client, clock::recent().instant);
        for token in &complete {
            local.with_shard(|shard, _| shard.handle_end_of_data_sent(id, *token));
        }
        !complete.is_empty()
    }

    /// Makes the next octets ready to send.
    fn refill(&mut self) {
        self.outgoing.lend(|| ROOMS.with_borrow_mut(Vec::pop).unwrap_or_default());
        self.fill();
        if let Some(room) = self.outgoing.give_back() {
            if room.capacity() <= ROOM_BYTES_KEPT {
                ROOMS.with_borrow_mut(|rooms| {
                    if rooms.len() < ROOMS_KEPT {
                        rooms.push(room)
                    }
                });
            }
            // An idle connection keeps no buffers.
            self.plain = Vec::new();
        }
    }

    fn fill(&mut self) {
        let Self { client, outgoing, plain, .. } = self;
        let now = clock::recent().instant;
        let Some(tls) = &mut self.tls else {
            return outgoing.refill(client, now);
        };
        let client = (!tls.handshaking()).then_some(client);
        outgoing.refill_sealed(client, plain, now, |octets, out| {
            if !octets.is_empty() {
                tls.encrypt(octets);
            }
            tls.pull(out);
        });
    }

    /// Reads what has come. Whether the session changed.
    fn poll_receive(&mut self, cx: &mut Context<'_>) -> bool {
        READ.with_borrow_mut(|buffer| match self.stream.poll_read(cx, buffer) {
            Poll::Pending => false,
            Poll::Ready(Ok(0)) => {
                self.failed = true;
                self.client.handle_eof(clock::recent().instant);
                true
            }
            Poll::Ready(Ok(count)) => {
                self.take_in(&buffer[..count]);
                true
            }
            Poll::Ready(Err(error)) => {
                self.fail(&error);
                true
            }
        })
    }

    /// Takes in what the peer said before the connection broke, which is still there to be read: a message that it took
    /// must not be sent again because octets of the next one were on their way, nor one that it refused.
    fn hear_out(&mut self) {
        READ.with_borrow_mut(|buffer| {
            while !self.failed
                && let Ok(count @ 1..) = self.stream.read_left(buffer)
            {
                self.take_in(&buffer[..count]);
            }
        });
    }

    fn take_in(&mut self, octets: &[u8]) {
        let now = clock::recent().instant;
        let Some(tls) = &mut self.tls else {
            return self.client.handle_bytes(octets, now);
        };
        let handshaking = tls.handshaking();
        let mut plain = Vec::new();
        let result = tls.feed(octets, &mut plain);
        if !plain.is_empty() {
            self.client.handle_bytes(&plain, now);
        }
        match result {
            Ok(()) if tls.peer_closed() => {
                self.failed = true;
                self.client.handle_eof(now);
            }
            Ok(()) => {}
            Err(error) => {
                self.failed = true;
                if handshaking {
                    self.client.handle_tls_failed(&error.to_string(), now);
                } else {
                    self.client.handle_io_error(&error.to_string(), now);
                }
            }
        }
    }

    fn fail(&mut self, error: &io::Error) {
        self.failed = true;
        let now = clock::recent().instant;
        if self.handshaking() {
            self.client.handle_tls_failed(&error.to_string(), now);
        } else {
            self.client.handle_io_error(&error.to_string(), now);
        }
    }

    /// Closes the connection. What is unsent stays unsent.
    pub fn close(&self) {
        // The descriptor itself may be closed a turn later; the peer hears of the end now.
        self.stream.shut_down();
    }
}
