//! The line between a client and the sink: octets go in, and come out when they have been under way long enough.
//!
//! The delay is the line's, not the server's: whatever is sent together arrives together, on any number of connections at
//! once, and nobody waits meanwhile. It must never change the order of what is on one connection.

use std::collections::VecDeque;
use std::time::Duration;

/// Both ways, and the handshake of TCP, which on loopback takes no time: SYN, SYN-ACK and ACK with what follows.
const HANDSHAKE_WAYS: u64 = 3;

/// A connection that can't be confused with a later one in the same place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its key in the server's table.
    pub key: usize,
    /// Which of the connections that had this key.
    pub serial: u64,
}

/// What is under way.
#[derive(Debug, PartialEq, Eq)]
pub enum Cargo {
    /// Octets from the client.
    Inbound(Vec<u8>),
    /// The client's end of the connection.
    Ended,
    /// Replies.
    Outbound(Vec<u8>),
    /// Our end of the connection.
    Close,
}

struct Item {
    due_ns: u64,
    place: Place,
    cargo: Cargo,
}

/// Everything under way, to and from all connections.
pub struct Line {
    way_ns: u64,
    /// In the order in which it arrives: the way is equally long for all.
    items: VecDeque<Item>,
    /// Greetings, which come later because the handshake precedes them; in the order in which they arrive as well.
    greetings: VecDeque<Item>,
}

impl Line {
    /// A line on which octets are under way so long in each direction; zero is no line.
    pub fn new(way: Duration) -> Line {
        Line { way_ns: way.as_nanos() as u64, items: VecDeque::new(), greetings: VecDeque::new() }
    }

    /// Whether there is a delay at all.
    pub fn is_long(&self) -> bool {
        self.way_ns > 0
    }

    /// Something leaves now.
    pub fn send(&mut self, now_ns: u64, place: Place, cargo: Cargo) {
        self.items.push_back(Item { due_ns: now_ns + self.way_ns, place, cargo });
    }

    /// The greeting of a connection whose handshake would begin now.
    pub fn greet(&mut self, now_ns: u64, place: Place, greeting: Vec<u8>) {
        let due_ns = now_ns + (HANDSHAKE_WAYS + 1) * self.way_ns;
        self.greetings.push_back(Item { due_ns, place, cargo: Cargo::Outbound(greeting) });
    }

    /// When the next thing arrives.
    pub fn next_ns(&self) -> Option<u64> {
        [&self.items, &self.greetings].into_iter().filter_map(|queue| Some(queue.front()?.due_ns)).min()
    }

    /// What has arrived by now, one at a time.
    pub fn arrived(&mut self, now_ns: u64) -> Option<(Place, Cargo)> {
        for queue in [&mut self.greetings, &mut self.items] {
            if queue.front().is_some_and(|item| item.due_ns <= now_ns) {
                return queue.pop_front().map(|item| (item.place, item.cargo));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_leaves_together_arrives_together_and_in_order() {
        let mut line = Line::new(Duration::from_nanos(50));
        let place = |key| Place { key, serial: 1 };
        line.greet(0, place(1), b"220".to_vec());
        line.send(10, place(2), Cargo::Inbound(b"MAIL".to_vec()));
        line.send(10, place(2), Cargo::Inbound(b"RCPT".to_vec()));
        assert_eq!((line.next_ns(), line.arrived(59)), (Some(60), None));
        assert_eq!(line.arrived(60), Some((place(2), Cargo::Inbound(b"MAIL".to_vec()))));
        assert_eq!(line.arrived(60), Some((place(2), Cargo::Inbound(b"RCPT".to_vec()))));
        assert_eq!((line.next_ns(), line.arrived(199)), (Some(200), None));
        assert_eq!(line.arrived(200), Some((place(1), Cargo::Outbound(b"220".to_vec()))));
        assert_eq!(line.next_ns(), None);
    }
}
