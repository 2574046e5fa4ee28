//! Hands out message numbers: each once, in order, and in the open loop not before its moment.

use crate::clock::now_ns;

/// A message to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    /// Its number.
    pub number: u32,
    /// When it was due (open loop); 0 in the closed loop.
    pub due_ns: u64,
}

/// The numbers not yet handed out.
pub struct Work {
    next: u32,
    messages: u32,
    /// Start and distance of the moments in the open loop, nanoseconds.
    schedule: Option<(u64, f64)>,
}

impl Work {
    /// Numbers below `messages`; with a rate, spaced from now on.
    pub fn new(messages: u32, rate: Option<f64>) -> Work {
        Work { next: 0, messages, schedule: rate.map(|rate| (now_ns(), 1e9 / rate.max(1e-3))) }
    }

    /// The next message, unless there is none or it isn't due.
    pub fn take(&mut self) -> Option<Order> {
        let due_ns = self.next_due_ns()?;
        if due_ns > 0 && due_ns > now_ns() {
            return None;
        }
        let number = self.next;
        self.next += 1;
        Some(Order { number, due_ns })
    }

    /// When the next message is due: 0 is at once, `None` is never.
    pub fn next_due_ns(&self) -> Option<u64> {
        (self.next < self.messages).then(|| match self.schedule {
            Some((start_ns, gap_ns)) => start_ns + (f64::from(self.next) * gap_ns) as u64,
            None => 0,
        })
    }

    /// Gives up what was not handed out; returns how many that are.
    pub fn abandon(&mut self) -> u32 {
        let left = self.messages - self.next;
        self.next = self.messages;
        left
    }

    /// Whether all numbers have been handed out.
    pub fn is_done(&self) -> bool {
        self.next == self.messages
    }
}
