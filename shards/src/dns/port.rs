//! From which socket a query goes. Each server has a few sockets with random ports of their own, replaced after
//! a number of queries, so that forging a reply takes guessing port and id (RFC 5452 §4.5, §9.2).

use crate::limits::{DNS_QUERIES_PER_SOCKET, DNS_SOCKETS_PER_SERVER, DNS_UDP_TRY_MS};
use crate::time::Instant;
use std::collections::VecDeque;
use std::time::Duration;

/// Names a UDP socket: the runtime opens one for each port it has not seen, connected to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Port {
    /// Index of the server.
    pub server: u8,
    /// Which of the server's sockets.
    pub slot: u8,
    /// Counts the sockets that stood in this slot.
    pub generation: u32,
}

/// All ports of a resolver.
#[derive(Debug)]
pub struct Ports {
    slots: Vec<[Slot; DNS_SOCKETS_PER_SERVER]>,
    /// Ports that send no more, and when the last reply to them is due.
    retired: VecDeque<(Instant, Port)>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    generation: u32,
    queries: u32,
}

impl Ports {
    /// Ports to so many servers.
    #[must_use]
    pub fn new(servers: usize) -> Self {
        Self { slots: vec![Default::default(); servers], retired: VecDeque::new() }
    }

    /// The port for the next query to `server`, chosen by `random`.
    pub fn take(&mut self, server: usize, random: u16, now: Instant) -> Port {
        let chosen = usize::from(random) % DNS_SOCKETS_PER_SERVER;
        let slot = &mut self.slots[server][chosen];
        let port = |slot: &Slot| Port { server: server as u8, slot: chosen as u8, generation: slot.generation };
        if slot.queries == DNS_QUERIES_PER_SOCKET {
            self.retired.push_back((now.after(Duration::from_millis(DNS_UDP_TRY_MS)), port(slot)));
            *slot = Slot { generation: slot.generation.wrapping_add(1), queries: 0 };
        }
        slot.queries += 1;
        port(slot)
    }

    /// A port whose socket may be closed: no reply to it is awaited any more.
    pub fn poll_retired(&mut self, now: Instant) -> Option<Port> {
        let (due, port) = *self.retired.front()?;
        if due > now {
            return None;
        }
        self.retired.pop_front();
        Some(port)
    }

    /// Whether sockets wait to be closed.
    #[must_use]
    pub fn has_retired(&self) -> bool {
        !self.retired.is_empty()
    }
}
