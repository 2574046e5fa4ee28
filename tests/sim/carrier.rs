//! One outgoing connection: moves octets between the network and the real SMTP client session, and messages and
//! results between the session and the brain, in the order of steps of the real runtime. It decides nothing.

use crate::network::{Chunk, Load, Way};
use crate::plan::{SECOND, Spot};
use crate::sink::Act;
use crate::storage::BodyAnswer;
use crate::world::{Happening, World};
use mailrace_shards::event::{Connect, SessionId};
use mailrace_shards::outcome::Verb;
use mailrace_shards::shard::{Delivery, Next};
use mailrace_shards::smtp::classify::{Failure, FailureKind};
use mailrace_shards::smtp::client::{ClientConfig, ClientEvent, Outgoing, Session, Transaction};
use mailrace_shards::time::Instant;

pub struct Carrier {
    pub core: usize,
    pub order: Connect,
    client: Session,
    outgoing: Outgoing,
    ready: bool,
    finishing: bool,
    failed: bool,
    woken: bool,
    open: bool,
    /// What waits for its body.
    awaits: Option<Delivery>,
    /// The handshake of TLS is under way.
    shaking: bool,
    /// When its deadline is looked at next.
    alarm: Option<u64>,
}

/// How a connection ended, if it did.
type End = Option<Option<Failure>>;

impl World {
    pub fn begin_carrier(&mut self, conn: u64, core: usize, order: Connect) {
        let client = client_of(&order, self.now().instant);
        let carrier = Carrier {
            core,
            order,
            client,
            outgoing: Outgoing::default(),
            ready: false,
            finishing: false,
            failed: false,
            woken: false,
            open: false,
            awaits: None,
            shaking: false,
            alarm: None,
        };
        self.carriers.insert(conn, carrier);
    }

    /// The connection stands, or it was refused.
    pub fn opened(&mut self, conn: u64, works: bool) {
        let Some(carrier) = self.carriers.get_mut(&conn) else { return };
        if works {
            carrier.open = true;
            let peer = carrier.order.peer;
            let now = self.now().instant;
            let carrier = self.carriers.get_mut(&conn).expect("looked at above");
            // The time of the greeting counts from here.
            carrier.client = client_of(&carrier.order, now);
            self.sink_accepts(conn, peer);
            return self.drive(conn);
        }
        self.report.count("peer", "connection refused");
        let carrier = self.carriers.remove(&conn).expect("looked at above");
        let text = format!("{}: refused", carrier.order.peer);
        let failure = Failure::own(FailureKind::ConnectRefused, Verb::Connect, text);
        self.end_carrier(conn, &carrier, Some(failure));
    }

    pub fn wake(&mut self, core: usize, session: SessionId) {
        let Some(&conn) = self.cores[core].sessions.get(&session) else { return };
        if let Some(carrier) = self.carriers.get_mut(&conn) {
            carrier.woken = true;
            if carrier.open {
                self.drive(conn);
            }
        }
    }

    /// Does all that can be done on a connection now.
    pub fn drive(&mut self, conn: u64) {
        let Some(mut carrier) = self.carriers.remove(&conn) else { return };
        if carrier.alarm.is_some_and(|at| at <= self.time) {
            carrier.alarm = None;
        }
        // Its task stands where octets are moved; only when something has come of that does it look further.
        let stands = carrier.awaits.is_none() && self.pump(conn, &mut carrier);
        let end = if stands { self.carry(conn, &mut carrier) } else { None };
        self.settle_carrier(conn, carrier, end);
    }

    fn settle_carrier(&mut self, conn: u64, mut carrier: Carrier, end: End) {
        if let Some(failure) = end {
            return self.end_carrier(conn, &carrier, failure);
        }
        if let Some(deadline) = carrier.client.deadline().filter(|_| carrier.awaits.is_none()) {
            let at = self.time_of(deadline);
            if carrier.alarm.is_none_or(|alarm| at < alarm) {
                // Deadlines are looked at ten times a second.
                let at = at + self.random.below(SECOND / 10);
                carrier.alarm = Some(at);
                let delay = at.saturating_sub(self.time);
                self.on_core(carrier.core, delay, Happening::Drive(conn));
            }
        }
        self.carriers.insert(conn, carrier);
    }

    fn end_carrier(&mut self, conn: u64, carrier: &Carrier, failure: Option<Failure>) {
        self.close_by_core(conn);
        self.oracle.closed(conn, self.moment());
        let session = carrier.order.session;
        self.cores[carrier.core].sessions.remove(&session);
        self.with_shard(carrier.core, |shard, now| shard.handle_closed(session, failure, now));
    }

    fn carry(&mut self, conn: u64, carrier: &mut Carrier) -> End {
        loop {
            while let Some(event) = carrier.client.poll_event() {
                if let Some(end) = self.client_event(conn, carrier, event) {
                    return Some(end);
                }
            }
            if carrier.ready && self.submit(conn, carrier) {
                if carrier.awaits.is_some() {
                    return None;
                }
                continue;
            }
            if !self.pump(conn, carrier) {
                return None;
            }
        }
    }

    fn client_event(&mut self, conn: u64, carrier: &mut Carrier, event: ClientEvent) -> End {
        let (core, id) = (carrier.core, carrier.order.session);
        match event {
            ClientEvent::StartTls => {
                carrier.shaking = true;
                self.shake(conn, core);
            }
            ClientEvent::Ready(_) => {
                carrier.ready = true;
                let own = carrier.order.source.or(Some(crate::oracle::SYSTEM_ADDRESS));
                self.with_shard(core, |shard, _| shard.handle_ready(id, None, own));
            }
            ClientEvent::Finished { token, results } => {
                self.with_shard(core, |shard, now| shard.handle_finished(id, token, results, now));
            }
            ClientEvent::Aborted { token, .. } => {
                self.with_shard(core, |shard, now| shard.handle_aborted(id, token, now));
            }
            ClientEvent::Closed { failure } => return Some(failure),
        }
        None
    }

    /// Both sides begin the handshake. Its octets are not played, only what comes of it.
    fn shake(&mut self, conn: u64, core: usize) {
        let latency = 2 * self.conns[&conn].latency;
        let Some(sink) = self.sinks.get_mut(&conn) else { return };
        let (act, slow) = sink.shake(&mut self.random);
        if act != Act::Good {
            self.report.fault(&format!("peer: {act:?}"), "Handshake");
        }
        match act {
            Act::Good => self.on_core(core, latency, Happening::Handshake(conn, true)),
            Act::Slow => self.on_core(core, latency + slow, Happening::Handshake(conn, true)),
            Act::Close | Act::TakeAndClose => self.close_by_far(conn, Load::End, 0),
            Act::Reset => self.close_by_far(conn, Load::Reset, 0),
            Act::Stall | Act::Vanish => {}
            _ => self.on_core(core, latency, Happening::Handshake(conn, false)),
        }
    }

    /// The handshake is over. The session may have lost its patience meanwhile.
    pub fn shaken(&mut self, conn: u64, works: bool) {
        let Some(mut carrier) = self.carriers.remove(&conn) else { return };
        if std::mem::take(&mut carrier.shaking) {
            let now = self.now().instant;
            if works {
                self.report.count("tls", "handshake");
                self.oracle.secured(conn);
                carrier.client.handle_tls_ready(now);
            } else {
                self.report.count("tls", "handshake failed");
                carrier.client.handle_tls_failed("simulated", now);
            }
            let end = self.carry(conn, &mut carrier);
            return self.settle_carrier(conn, carrier, end);
        }
        self.carriers.insert(conn, carrier);
    }

    fn submit(&mut self, conn: u64, carrier: &mut Carrier) -> bool {
        if carrier.finishing || !carrier.client.wants_transaction() {
            return false;
        }
        let (core, id) = (carrier.core, carrier.order.session);
        carrier.woken = false;
        match self.with_shard(core, |shard, now| shard.next_delivery(id, now)) {
            Next::Wait => false,
            Next::Finish => {
                carrier.finishing = true;
                carrier.client.finish(self.now().instant);
                true
            }
            Next::Deliver(delivery) => {
                self.pass(Spot::HandedOver);
                self.tell(|| format!("conn {conn} is handed {}", delivery.envelope.sender()));
                for &recipient in &delivery.recipients {
                    self.oracle.carried(conn, delivery.envelope.recipient(usize::from(recipient)));
                }
                if delivery.body.is_none() {
                    self.request_body(conn, core, &delivery);
                    carrier.awaits = Some(delivery);
                } else {
                    self.deliver(carrier, delivery);
                }
                true
            }
        }
    }

    fn deliver(&mut self, carrier: &mut Carrier, delivery: Delivery) {
        let Delivery { token, envelope, recipients, body, .. } = delivery;
        let body = body.expect("it was in memory or was read");
        carrier.client.submit(Transaction { token, envelope, recipients, body }, self.now().instant);
    }

    /// The spool's answer to a request for a body.
    pub fn body_read(&mut self, conn: u64, token: u64, answer: BodyAnswer) {
        let Some(mut carrier) = self.carriers.remove(&conn) else { return };
        let (core, id) = (carrier.core, carrier.order.session);
        let Some(mut delivery) = carrier.awaits.take_if(|delivery| delivery.token == token) else {
            return drop(self.carriers.insert(conn, carrier));
        };
        match answer {
            BodyAnswer::Body(body) => {
                delivery.body = Some(body);
                self.deliver(&mut carrier, delivery);
            }
            BodyAnswer::Gone => {
                self.with_shard(core, |shard, now| shard.handle_body_moved(id, token, now));
            }
            BodyAnswer::Damaged => self.with_shard(core, |shard, now| shard.handle_body_unreadable(id, token, now)),
        }
        let end = self.carry(conn, &mut carrier);
        self.settle_carrier(conn, carrier, end);
    }

    /// Sends and reads what can be; whether something happened that must be looked at.
    fn pump(&mut self, conn: u64, carrier: &mut Carrier) -> bool {
        let mut happened = std::mem::take(&mut carrier.woken);
        if !carrier.failed {
            happened |= self.pump_out(conn, carrier);
        }
        if !carrier.failed {
            happened |= self.pump_in(conn, carrier);
        }
        let now = self.now().instant;
        if carrier.client.deadline().is_some_and(|deadline| deadline <= now) {
            carrier.client.handle_deadline(now);
            happened = true;
        }
        happened
    }

    fn pump_out(&mut self, conn: u64, carrier: &mut Carrier) -> bool {
        let mut happened = false;
        loop {
            let now = self.now().instant;
            if carrier.outgoing.unsent().is_empty() {
                carrier.outgoing.refill(&mut carrier.client, now);
                if carrier.outgoing.unsent().is_empty() {
                    return happened;
                }
            }
            if carrier.outgoing.completes_message() && !self.pass_gate(carrier) {
                return true;
            }
            let room = self.conns[&conn].writable();
            if self.conns[&conn].is_reset() {
                carrier.failed = true;
                carrier.client.handle_io_error("broken pipe", now);
                return true;
            }
            if room == 0 {
                self.conns.get_mut(&conn).expect("a carrier has its connection").blocked = true;
                return happened;
            }
            let octets = carrier.outgoing.unsent();
            let octets = octets[..room.min(octets.len())].to_vec();
            let count = octets.len();
            self.oracle.written(conn, &octets, self.moment());
            self.send(conn, Way::FromCore, Load::Octets(octets), 0, Vec::new());
            let complete = carrier.outgoing.note_sent(count, &mut carrier.client, now);
            let (core, id) = (carrier.core, carrier.order.session);
            for token in &complete {
                self.with_shard(core, |shard, _| shard.handle_end_of_data_sent(id, *token));
                self.pass(Spot::EndOfData);
                happened = true;
            }
        }
    }

    fn pass_gate(&mut self, carrier: &mut Carrier) -> bool {
        let (core, id) = (carrier.core, carrier.order.session);
        self.take_orders(core);
        let now = self.now().instant;
        let passes = carrier.outgoing.pass_gate(&mut carrier.client, now, |token| {
            self.with_shard(core, |shard, now| shard.gate(id, token, now))
        });
        if !passes {
            self.report.count("gate", "end-of-data stopped");
        }
        passes
    }

    fn pump_in(&mut self, conn: u64, carrier: &mut Carrier) -> bool {
        let pipe = &mut self.conns.get_mut(&conn).expect("a carrier has its connection").to_core;
        let Some(Chunk { load, answers, .. }) = pipe.arrived.pop_front() else { return false };
        let now = self.now().instant;
        match load {
            Load::Octets(octets) => {
                self.trace(&octets);
                carrier.client.handle_bytes(&octets, now);
                for taken in answers {
                    self.oracle.answered(taken, self.moment());
                    self.pass(Spot::Answered);
                }
            }
            Load::End => {
                carrier.failed = true;
                carrier.client.handle_eof(now);
            }
            Load::Reset => {
                carrier.failed = true;
                carrier.client.handle_io_error("connection reset", now);
            }
        }
        true
    }
}

fn client_of(order: &Connect, now: Instant) -> Session {
    let config =
        ClientConfig { ehlo: order.ehlo.clone(), host: order.host.clone(), tls: order.tls, pipelined_chunks: 4 };
    Session::new(config, now)
}
