//! The task of one outgoing connection: connect, then move octets between the socket and the SMTP client
//! session, and messages and results between the session and the brain. It decides nothing.

use crate::event::{Connect, SessionId};
use crate::limits::{CONNECT_TIMEOUT_SECONDS, TICK_MILLIS};
use crate::message::Location;
use crate::outcome::Verb;
use crate::runtime::clock;
use crate::runtime::local::{Local, SessionSlot};
use crate::runtime::pump::Pump;
use crate::runtime::report::report;
use crate::runtime::socket::{ConnectError, connect};
use crate::runtime::tasks;
use crate::runtime::tls::Tls;
use crate::settings::TlsPolicy;
use crate::shard::{Delivery, Next, TlsFacts};
use crate::smtp::classify::{Failure, FailureKind};
use crate::smtp::client::{ClientConfig, ClientEvent, Session, Transaction};
use futures_lite::FutureExt;
use glommio::timer::sleep;
use std::io;
use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::time::Duration;

/// BDAT messages that may be unanswered at once. More would only raise how much a lost connection leaves
/// unknown.
const PIPELINED_CHUNKS: u8 = 4;

/// Starts the task. It ends with one `handle_closed`.
pub fn start(local: Rc<Local>, order: Connect) {
    tasks::spawn(async move {
        let id = order.session;
        let outcome = AssertUnwindSafe(run(&local, order)).catch_unwind().await;
        // The next connection of the same session (another host) makes a new slot.
        local.drop_slot(id);
        match outcome {
            Ok(failure) => local.with_shard(|shard, now| shard.handle_closed(id, failure, now)),
            Err(_) if local.in_brain() => {
                local.stop_for_panic();
            }
            Err(_) => {
                report("a panic in a delivery session: its messages are put aside and not tried again by this start");
                local.with_shard(|shard, now| shard.handle_session_panic(id, now));
            }
        }
    });
}

async fn run(local: &Rc<Local>, order: Connect) -> Option<Failure> {
    let slot = local.slot(order.session);
    let deadline = clock::now().instant.after(Duration::from_secs(CONNECT_TIMEOUT_SECONDS));
    let stream = match connect(order.source, order.peer, deadline, &slot.alarm, &local.ring).await {
        Ok(stream) => stream,
        Err(error) => return Some(connect_failure(&error, &order)),
    };
    let config = ClientConfig {
        ehlo: order.ehlo.clone(),
        host: order.host.clone(),
        tls: order.tls,
        pipelined_chunks: PIPELINED_CHUNKS,
    };
    let client = Session::new(config, clock::recent().instant);
    let mut carrier = Carrier {
        local: local.clone(),
        id: order.session,
        slot,
        pump: Pump::new(stream, client),
        order,
        ready: false,
        finishing: false,
    };
    carrier.carry().await
}

/// One running connection.
struct Carrier {
    local: Rc<Local>,
    id: SessionId,
    slot: Rc<SessionSlot>,
    pump: Pump,
    order: Connect,
    ready: bool,
    finishing: bool,
}

impl Carrier {
    async fn carry(&mut self) -> Option<Failure> {
        loop {
            while let Some(event) = self.pump.client.poll_event() {
                if let Some(end) = self.handle(event).await {
                    return end;
                }
            }
            if self.ready && self.submit().await {
                continue;
            }
            let (local, id, slot) = (&self.local, self.id, &self.slot);
            self.pump.step(local, id, slot).await;
        }
    }

    /// Returns what `Closed` told.
    async fn handle(&mut self, event: ClientEvent) -> Option<Option<Failure>> {
        let id = self.id;
        match event {
            ClientEvent::StartTls => self.start_tls().await,
            ClientEvent::Ready(_) => {
                self.ready = true;
                let tls = self.pump.tls.as_ref().map(|tls| TlsFacts { cipher: tls.suite(), version: tls.version() });
                let own = self.pump.own_address();
                self.local.with_shard(|shard, _| shard.handle_ready(id, tls, own));
            }
            ClientEvent::Finished { token, results } => {
                self.local.with_shard(|shard, now| shard.handle_finished(id, token, results, now));
            }
            ClientEvent::Aborted { token, .. } => {
                self.local.with_shard(|shard, now| shard.handle_aborted(id, token, now));
            }
            ClientEvent::Closed { failure } => {
                self.pump.close();
                return Some(failure);
            }
        }
        None
    }

    /// Gives the session a message if it wants one and there is one. Whether something changed.
    async fn submit(&mut self) -> bool {
        if self.finishing || !self.pump.client.wants_transaction() {
            return false;
        }
        let id = self.id;
        self.slot.woken.set(false);
        match self.local.with_shard(|shard, now| shard.next_delivery(id, now)) {
            Next::Wait => false,
            Next::Finish => {
                self.finishing = true;
                self.pump.client.finish(clock::recent().instant);
                true
            }
            Next::Deliver(delivery) => {
                self.deliver(delivery).await;
                true
            }
        }
    }

    async fn deliver(&mut self, delivery: Delivery) {
        let Delivery { token, envelope, recipients, body, location } = delivery;
        let id = self.id;
        let body = match body {
            Some(body) => body,
            None if !self.has_room_for(location).await => {
                return self.local.with_shard(|shard, now| shard.handle_aborted(id, token, now));
            }
            None => match self.local.read_body(envelope.id(), location).await {
                Ok(body) => body,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    // Compaction has moved it; the new place is on its way.
                    return self.local.with_shard(|shard, now| shard.handle_body_moved(id, token, now));
                }
                Err(error) => {
                    report(&format!("message {}: its body cannot be read: {error}", envelope.id()));
                    return self.local.with_shard(|shard, now| shard.handle_body_unreadable(id, token, now));
                }
            },
        };
        self.pump.client.submit(Transaction { token, envelope, recipients, body }, clock::recent().instant);
    }

    /// Waits until there is room for a body of the spool beside those that were read back and still are in use: as many as
    /// there are sessions may be more than all memory. False when a stop comes first.
    async fn has_room_for(&self, location: Location) -> bool {
        while !self.local.reader.has_room(location) {
            if self.local.stopping() {
                return false;
            }
            sleep(Duration::from_millis(TICK_MILLIS)).await;
        }
        true
    }

    async fn start_tls(&mut self) {
        let verify = self.order.tls == TlsPolicy::Verified;
        match Tls::client(&self.local.client_tls, &self.order.host, verify) {
            Ok(tls) => self.pump.tls = Some(tls),
            Err(error) => {
                return self.pump.client.handle_tls_failed(&error.to_string(), clock::recent().instant);
            }
        }
        let (local, id, slot) = (&self.local, self.id, &self.slot);
        while self.pump.handshaking() && self.pump.client.deadline().is_some() {
            self.pump.step(local, id, slot).await;
            if self.pump.failed {
                return;
            }
        }
        if !self.pump.handshaking() {
            self.pump.client.handle_tls_ready(clock::recent().instant);
        }
    }
}

fn connect_failure(error: &ConnectError, order: &Connect) -> Failure {
    let peer = order.peer;
    let (kind, text) = match error {
        ConnectError::Source(error) => {
            let source = order.source.map_or_else(|| "unspecified".to_owned(), |source| source.to_string());
            (FailureKind::ConnectBadLocalAddress, format!("source address {source} cannot be used: {error}"))
        }
        ConnectError::TimedOut => (FailureKind::ConnectTimedOut, format!("{peer}: connection timed out")),
        ConnectError::Peer(error) => {
            let kind = match error.kind() {
                io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset => FailureKind::ConnectRefused,
                io::ErrorKind::TimedOut => FailureKind::ConnectTimedOut,
                _ => FailureKind::ConnectUnreachable,
            };
            (kind, format!("{peer}: {error}"))
        }
    };
    Failure::own(kind, Verb::Connect, text)
}
