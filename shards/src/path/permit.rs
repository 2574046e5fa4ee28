//! Leave to open a connection and to send a message, where a limit counts: exact over all cores.
//!
//! One core is the home of every counter that spans cores (core 0); counters of a domain that lives on one core
//! are that core's own business. Each core has one [`Permits`]: the home's side ([`PermitHome`]) and the holder's
//! side ([`PermitHolder`]). A core that asks itself uses the same code without leaving this file.
//!
//! What the shard does:
//! 1. To open a connection: [`Permits::request`], and when [`PermitEvent::Granted`] says so (or at once), open
//!    it; when it is closed, or was never opened, [`Permits::release`].
//! 2. To send a message: [`Permits::take_token`] with the message's limits, just before it is handed to the session.
//! 3. On [`PermitEvent::Recalled`]: let the connection end after the current message, then release.
//! 4. Each turn: carry every [`Permits::poll_message`] to its core, where [`Permits::handle`] takes it. Messages
//!    between two cores must arrive in the order in which they were sent, and none may be lost.

use crate::message::CoreId;
use crate::path::holder::PermitHolder;
use crate::path::home::PermitHome;
use crate::path::limit::{Limits, TokenKey};
use crate::time::Instant;
use std::sync::Arc;

/// The core whose home arbitrates what spans cores.
pub const HOME_CORE: CoreId = CoreId(0);

/// A permit of this core, asked for or held. Given once, never again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PermitId(pub u64);

impl PermitId {
    /// The permit of a connection that needs none: always granted, never recalled.
    pub const UNLIMITED: Self = Self(0);
}

/// Where a permit stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PermitState {
    /// Asked for.
    Waiting,
    /// Held.
    Granted,
    /// Held, and to be released after the current message.
    Recalled,
}

/// Answer to a wish for a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tokens {
    /// Send the message.
    Taken,
    /// A rate is used up; [`PermitEvent::Tokens`] with this key will follow.
    Wait(TokenKey),
}

/// What the shard learns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PermitEvent {
    /// Open the connection.
    Granted(PermitId),
    /// Release it after the current message, at once when idle.
    Recalled(PermitId),
    /// Messages with these tokens may be sent again.
    Tokens(TokenKey),
}

/// From a core to the home. `limits` is shared, not copied.
#[derive(Clone, Debug)]
pub enum ToHome {
    /// A permit is wanted for `limits.connections`.
    Connect {
        /// Named by the asking core.
        permit: PermitId,
        /// Permits that the same destination holds or waits for already.
        held: u32,
        /// What is counted.
        limits: Arc<Limits>,
    },
    /// The permit is given back, or no longer wanted.
    Return {
        /// Which.
        permit: PermitId,
        /// A connection was opened with it; else what it took of rates goes back.
        used: bool,
    },
    /// Tokens are wanted for `limits.messages`. One such request for each key and core at a time.
    Tokens {
        /// What is counted.
        limits: Arc<Limits>,
        /// How many at most, at least 1.
        want: u32,
    },
    /// Tokens lapsed unused.
    TokensBack {
        /// What is counted.
        limits: Arc<Limits>,
        /// How many.
        count: u32,
        /// When they were granted.
        granted_at: Instant,
    },
    /// Limits changed by a reload, for permits in force.
    Changed {
        /// The new ones.
        limits: Arc<Limits>,
    },
}

/// From the home to a core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToHolder {
    /// The permit is the core's.
    Granted {
        /// Which.
        permit: PermitId,
    },
    /// Others wait for it.
    Recalled {
        /// Which.
        permit: PermitId,
    },
    /// Tokens are the core's until `lapse_at`.
    Tokens {
        /// Which.
        tokens: TokenKey,
        /// How many, at least 1.
        count: u32,
        /// When.
        granted_at: Instant,
        /// From then on they must not be used.
        lapse_at: Instant,
    },
}

/// What goes from core to core over the mail lane.
#[derive(Clone, Debug)]
pub enum PermitMessage {
    /// For the home of the receiving core.
    ToHome(ToHome),
    /// For the holder of the receiving core.
    ToHolder(ToHolder),
}

/// One core's side of it all.
#[derive(Debug)]
pub struct Permits {
    core: CoreId,
    home: PermitHome,
    holder: PermitHolder,
}

impl Permits {
    /// For core `core`.
    #[must_use]
    pub fn new(core: CoreId) -> Self {
        Self { core, home: PermitHome::new(core), holder: PermitHolder::new(core) }
    }

    /// Asks for a permit to open one connection, for a destination that on this path holds or waits for `held`
    /// others already. `None` when too many requests wait: ask later.
    ///
    /// [`PermitId::UNLIMITED`] may be used at once, and no event follows. Any other may be used when
    /// [`PermitEvent::Granted`] has come, which may be in the queue already.
    ///
    /// For a destination that has none, permits of others are recalled as soon as they were held long enough;
    /// for others only those of destinations that have clearly more. So the share of each destination evens out,
    /// and equals do not take each other's connections to and fro.
    pub fn request(&mut self, limits: &Arc<Limits>, held: u32, now: Instant) -> Option<PermitId> {
        let permit = self.holder.request(limits, held)?;
        self.deliver_own(now);
        Some(permit)
    }

    /// Where a permit stands; `None` once it is released.
    #[must_use]
    pub fn state(&self, permit: PermitId) -> Option<PermitState> {
        self.holder.state(permit)
    }

    /// The connection is closed (`used`), or no longer wanted before it was opened. Once for each permit.
    pub fn release(&mut self, permit: PermitId, used: bool, now: Instant) {
        self.holder.release(permit, used);
        self.deliver_own(now);
    }

    /// Takes a token for one message, of about `ready` that wait for tokens of the same kind.
    pub fn take_token(&mut self, limits: &Arc<Limits>, ready: u32, now: Instant) -> Tokens {
        if !limits.needs_token() {
            return Tokens::Taken;
        }
        let mut answer = self.holder.take_token(limits, ready, now);
        self.deliver_own(now);
        if answer != Tokens::Taken && self.holder.has_token(limits.tokens, now) {
            // This core is the home and granted at once.
            answer = self.holder.take_token(limits, ready, now);
        }
        if answer != Tokens::Taken {
            self.holder.wait_for(limits.tokens);
        }
        answer
    }

    /// Whether a message with these limits could be sent now, without taking a token.
    #[must_use]
    pub fn has_token(&self, limits: &Limits, now: Instant) -> bool {
        !limits.needs_token() || self.holder.has_token(limits.tokens, now)
    }

    /// The message for which a token was taken was not sent after all. The token may be used for another until it
    /// lapses.
    pub fn put_back_token(&mut self, limits: &Limits, now: Instant) {
        if limits.needs_token() {
            self.holder.put_back_token(limits.tokens, now);
        }
    }

    /// The limits of a path with connections in force were computed anew after a reload: permits in force are kept,
    /// those beyond the new limit are recalled. A request that waits keeps waiting for what it asked for: release
    /// it and ask anew when its limits are other ones now.
    pub fn changed(&mut self, limits: &Arc<Limits>, now: Instant) {
        self.holder.changed(limits);
        self.deliver_own(now);
    }

    /// A message of core `from` arrived.
    pub fn handle(&mut self, from: CoreId, message: PermitMessage, now: Instant) {
        match message {
            PermitMessage::ToHome(message) => self.home.handle(from, message, now),
            PermitMessage::ToHolder(message) => self.holder.handle(message),
        }
        self.deliver_own(now);
    }

    /// Time passed: refills rates, recalls permits, lets tokens lapse. Call at [`next_deadline`](Self::next_deadline).
    pub fn handle_tick(&mut self, now: Instant) {
        self.holder.handle_tick(now);
        self.home.handle_tick(now);
        self.deliver_own(now);
    }

    /// When to call [`handle_tick`](Self::handle_tick) at the latest.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        [self.home.next_deadline(), self.holder.next_deadline()].into_iter().flatten().min()
    }

    /// The next message to another core; carry it there in order.
    pub fn poll_message(&mut self) -> Option<(CoreId, PermitMessage)> {
        if let Some((core, message)) = self.holder.poll_message() {
            return Some((core, PermitMessage::ToHome(message)));
        }
        self.home.poll_message().map(|(core, message)| (core, PermitMessage::ToHolder(message)))
    }

    /// The next thing the shard must know.
    pub fn poll_event(&mut self) -> Option<PermitEvent> {
        self.holder.poll_event()
    }

    /// Carries what this core says to itself, until nothing is left.
    fn deliver_own(&mut self, now: Instant) {
        while let Some(message) = self.holder.poll_own_message() {
            self.home.handle(self.core, message, now);
        }
        while let Some(message) = self.home.poll_own_message() {
            self.holder.handle(message);
        }
    }
}
