//! All peers: accepts connections within their bounds, until a stop.

use super::connection::Connection;
use super::limits::{CONNECTIONS_MAX, CONNECTIONS_PER_PEER_MAX, Deadlines, LINGER_MILLIS, TURNED_AWAY_MAX};
use super::wire::{Patience, Wire};
use super::{Refusal, Service, render};
use hashbrown::HashMap;
use mailrace_shards::runtime::clock;
use mailrace_shards::runtime::control::{Control, Stream};
use std::cell::{Cell, RefCell};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

/// Octets that a peer who is turned away may still send before it is reset.
const TURNED_AWAY_BYTES: u64 = 64 * 1024;

/// How long it is waited for.
const LINGER: Duration = Duration::from_millis(LINGER_MILLIS / 8);

/// An HTTP server on the control core.
pub struct Server<S> {
    service: Rc<S>,
    control: Control,
    statistics: Rc<Statistics>,
    deadlines: Deadlines,
    bodies: Rc<Cell<usize>>,
    answers: Rc<Cell<usize>>,
    peers: RefCell<HashMap<IpAddr, usize>>,
    turning_away: Cell<usize>,
}

/// What a server has done since it started.
#[derive(Debug, Default)]
pub struct Statistics {
    /// Open connections.
    pub connections: Cell<usize>,
    /// Connections turned away because there were too many.
    pub turned_away: Cell<u64>,
    /// Answers by the first digit of their status, from 1.
    pub answers: [Cell<u64>; 5],
}

impl Statistics {
    /// Counts an answer.
    pub fn count_answer(&self, status: u16) {
        if let Some(count) = self.answers.get(usize::from(status / 100).wrapping_sub(1)) {
            count.set(count.get() + 1);
        }
    }
}

impl<S: Service> Server<S> {
    /// Listens at `socket` until a stop of the control core. Connections then finish their request.
    pub fn start(
        control: &Control,
        socket: socket2::Socket,
        deadlines: Deadlines,
        service: Rc<S>,
        statistics: Rc<Statistics>,
    ) {
        let server = Rc::new(Self {
            service,
            control: control.clone(),
            statistics,
            deadlines,
            bodies: Rc::default(),
            answers: Rc::default(),
            peers: RefCell::default(),
            turning_away: Cell::new(0),
        });
        let own = control.clone();
        control.spawn("the HTTP listener", async move {
            own.listen(socket, |stream, peer| server.accept(stream, peer)).await;
        });
    }

    fn accept(self: &Rc<Self>, stream: Stream, peer: SocketAddr) {
        let tls = self.service.tls();
        let Ok(wire) = Wire::new(stream, tls.as_deref(), &self.control) else { return };
        let Some(place) = Place::take(self, peer) else {
            let turned_away = &self.statistics.turned_away;
            turned_away.set(turned_away.get() + 1);
            return self.turn_away(wire, tls.is_some());
        };
        let connection = Connection {
            service: self.service.clone(),
            control: self.control.clone(),
            statistics: self.statistics.clone(),
            deadlines: self.deadlines,
            bodies: self.bodies.clone(),
            answers: self.answers.clone(),
            peer,
        };
        self.control.spawn("an HTTP connection", async move {
            // Given up when the connection ends, however it does.
            let _place = place;
            connection.serve(wire).await;
        });
    }

    /// Says 503, unless that would take a handshake, and ends the connection.
    fn turn_away(self: &Rc<Self>, mut wire: Wire, encrypted: bool) {
        if encrypted || self.turning_away.get() == TURNED_AWAY_MAX {
            return;
        }
        self.turning_away.set(self.turning_away.get() + 1);
        let server = self.clone();
        let response = self.service.refuse("", &Refusal::unavailable("too many connections", 1));
        self.control.spawn("an HTTP connection that was turned away", async move {
            let head = render::head(&response, super::Version::Http11, false, clock::now().utc);
            if let (Some(head), super::Content::Full(body)) = (head, &response.content) {
                let words = [head.as_bytes(), body].concat();
                // It fits into the socket's empty buffer, or the peer is gone.
                let _ = wire.send(&words, &mut Patience::new(LINGER)).await;
            }
            let linger = (LINGER, TURNED_AWAY_BYTES);
            wire.close(Some(linger)).await;
            server.turning_away.set(server.turning_away.get() - 1);
        });
    }
}

/// One of the connections that there may be.
struct Place<S> {
    server: Rc<Server<S>>,
    peer: IpAddr,
}

impl<S> Place<S> {
    fn take(server: &Rc<Server<S>>, peer: SocketAddr) -> Option<Self> {
        let open = &server.statistics.connections;
        let peer = network_of(peer.ip());
        let mut peers = server.peers.borrow_mut();
        let of_peer = peers.get(&peer).copied().unwrap_or(0);
        if open.get() >= CONNECTIONS_MAX || of_peer >= CONNECTIONS_PER_PEER_MAX {
            return None;
        }
        open.set(open.get() + 1);
        peers.insert(peer, of_peer + 1);
        drop(peers);
        Some(Self { server: server.clone(), peer })
    }
}

impl<S> Drop for Place<S> {
    fn drop(&mut self) {
        let open = &self.server.statistics.connections;
        open.set(open.get() - 1);
        let mut peers = self.server.peers.borrow_mut();
        if let Some(count) = peers.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                peers.remove(&self.peer);
            }
        }
    }
}

/// What counts as one peer: an IPv4 address, or the /64 that one host is usually given.
pub fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => IpAddr::V4(v4),
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
    }
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
