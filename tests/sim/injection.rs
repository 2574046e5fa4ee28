//! One injecting connection on a core: moves octets between the network and the real SMTP server session, and
//! messages between the session and the brain, in the order of steps of the real runtime.

use crate::core::Waiter;
use crate::network::{Chunk, Load, Way};
use crate::plan::{CLIENT, SECOND, Spot};
use crate::world::{Happening, World};
use mailrace_shards::message::{Body, MessageId};
use mailrace_shards::shard::Submission;
use mailrace_shards::smtp::server::{Accepted, PeerFacts, ServerConfig, ServerEvent, Session, StoreRefusal};
use std::sync::Arc;

pub struct Injection {
    pub core: usize,
    session: Session,
    /// Octets read that the session has not taken yet.
    pending: Vec<u8>,
    gone: bool,
    /// The spool's word is awaited.
    storing: bool,
    alarm: Option<u64>,
}

impl World {
    /// A client's connection reached a core.
    pub fn accept_client(&mut self, conn: u64, core: usize) {
        let config = Arc::new(ServerConfig::from(&self.plan.settings));
        let id = self.with_shard(core, |shard, _| shard.next_message_id());
        let peer = PeerFacts { address: CLIENT, may_relay: true, trusted_headers: true };
        let session = Session::new(config, peer, id, self.now());
        let injection = Injection { core, session, pending: Vec::new(), gone: false, storing: false, alarm: None };
        self.injections.insert(conn, injection);
        self.converse(conn);
    }

    /// Does all that can be done on an injecting connection now.
    pub fn converse(&mut self, conn: u64) {
        let Some(mut injection) = self.injections.remove(&conn) else { return };
        if injection.alarm.is_some_and(|at| at <= self.time) {
            injection.alarm = None;
        }
        if !injection.storing && !self.go_on(conn, &mut injection) {
            self.flush_injection(conn, &mut injection);
            return self.close_by_core(conn);
        }
        if let Some(deadline) = injection.session.deadline() {
            let at = self.time_of(deadline);
            if injection.alarm.is_none_or(|alarm| at < alarm) {
                let at = at + self.random.below(SECOND / 10);
                injection.alarm = Some(at);
                let delay = at.saturating_sub(self.time);
                self.on_core(injection.core, delay, Happening::Inject(conn));
            }
        }
        self.injections.insert(conn, injection);
    }

    /// Whether the conversation goes on; when it returns, it waits for something.
    fn go_on(&mut self, conn: u64, injection: &mut Injection) -> bool {
        while !injection.gone {
            if let Some(event) = injection.session.poll_event() {
                match event {
                    ServerEvent::Message(message) => {
                        self.flush_injection(conn, injection);
                        self.store(conn, injection, *message);
                        return true;
                    }
                    ServerEvent::Close => return false,
                    ServerEvent::StartTls | ServerEvent::Authenticate(_) => unreachable!("neither is offered"),
                }
            } else if !injection.pending.is_empty() && injection.session.wants_input() {
                self.set_pressure(injection);
                let now = self.now();
                let taken = injection.session.handle_bytes(&injection.pending, now);
                injection.pending.drain(..taken);
            } else {
                self.flush_injection(conn, injection);
                if !injection.pending.is_empty() && injection.session.wants_input() {
                    continue;
                }
                if !self.read_injection(conn, injection) {
                    return true;
                }
            }
        }
        // A connection that is gone may have left the session its last words.
        while let Some(event) = injection.session.poll_event() {
            if let ServerEvent::Message(message) = event {
                self.store(conn, injection, *message);
                return true;
            }
        }
        false
    }

    /// Whether something came.
    fn read_injection(&mut self, conn: u64, injection: &mut Injection) -> bool {
        let now = self.now();
        let pipe = &mut self.conns.get_mut(&conn).expect("an injection has its connection").to_core;
        match pipe.arrived.pop_front() {
            Some(Chunk { load: Load::Octets(octets), .. }) => {
                self.trace(&octets);
                injection.pending.extend_from_slice(&octets);
                true
            }
            Some(_) => {
                injection.session.handle_eof();
                injection.gone = true;
                true
            }
            None if injection.session.deadline().is_some_and(|deadline| deadline <= now.instant) => {
                injection.session.handle_deadline(now);
                true
            }
            None => false,
        }
    }

    fn store(&mut self, conn: u64, injection: &mut Injection, message: Accepted) {
        let Accepted { id, sender, recipients, flags, extras, body, protocol } = message;
        let body = Body::from(body);
        let submission = Submission { id, sender, recipients, flags, extras, body, protocol, peer: Some(CLIENT) };
        injection.storing = true;
        let core = injection.core;
        // The waiting session is known before any command is carried out.
        let now = self.now();
        let ticket = self.cores[core].shard.accept(submission, now);
        self.cores[core].waiting.insert(ticket, Waiter::Client(conn));
        self.with_shard(core, |_, _| ());
        self.report.count("engine", "message received");
    }

    /// The spool's word on a message.
    pub fn stored(&mut self, conn: u64, result: Result<MessageId, Box<str>>) {
        let Some(mut injection) = self.injections.remove(&conn) else { return };
        // Its own task goes on after the brain's commands are carried out.
        let next_id = self.cores[injection.core].shard.next_message_id();
        let result = result.map_err(|_| StoreRefusal::failed("the message could not be made durable, try again later"));
        injection.session.handle_stored(result, next_id, self.now());
        injection.storing = false;
        self.on_core(injection.core, 0, Happening::Inject(conn));
        self.injections.insert(conn, injection);
    }

    /// The engine stops: the session ends after its transaction.
    pub fn shut_down_injection(&mut self, conn: u64) {
        let now = self.now();
        if let Some(injection) = self.injections.get_mut(&conn) {
            injection.session.shutdown(now);
            self.converse(conn);
        }
    }

    fn set_pressure(&mut self, injection: &mut Injection) {
        let refusing = self.refusing(injection.core as u16);
        if refusing {
            self.report.count("engine", "mail refused for pressure");
        }
        injection.session.set_pressure(refusing.then(|| StoreRefusal::storage("the spool takes no mail")));
    }

    fn flush_injection(&mut self, conn: u64, injection: &mut Injection) {
        let output = std::mem::take(injection.session.output());
        if output.is_empty() || self.conns[&conn].closed_by_core {
            return;
        }
        self.trace(&output);
        // The words on the wire are the acknowledgement.
        let text = String::from_utf8_lossy(&output).into_owned();
        for line in text.lines().filter(|line| line.starts_with("250 2.0.0 ") && line.ends_with(" queued")) {
            let id: MessageId = line.split(' ').nth(2).and_then(|id| id.parse().ok()).expect("the reply names the id");
            let serial = self.injectors.get(&conn).and_then(|injector| injector.current());
            let serial = serial.or_else(|| self.oracle.submitted_on(conn));
            self.oracle.acknowledged(serial.expect("a message was handed in"), id, self.moment(), self.utc());
            self.pass(Spot::Acknowledged);
        }
        self.send(conn, Way::FromCore, Load::Octets(output), 0, Vec::new());
    }
}
