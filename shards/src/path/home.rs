//! Stub.
use super::permit::{ToHolder, ToHome};
use crate::message::CoreId;
use crate::time::Instant;
use std::collections::VecDeque;
/// The home's side.
#[derive(Debug, Default)]
pub struct PermitHome {
    to_others: VecDeque<(CoreId, ToHolder)>,
}
impl PermitHome {
    /// Nothing granted.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
    /// A message arrived.
    pub fn handle(&mut self, _from: CoreId, _message: ToHome, _now: Instant) {}
    /// Time passed.
    pub fn handle_tick(&mut self, _now: Instant) {}
    /// Next.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        None
    }
    /// Next message.
    pub fn poll_message(&mut self) -> Option<(CoreId, ToHolder)> {
        self.to_others.pop_front()
    }
    /// Next message to `core`.
    pub fn poll_message_for(&mut self, _core: CoreId) -> Option<ToHolder> {
        None
    }
}
