//! The holder's side of permits: what one core has asked for and holds. Grants nothing itself.

use crate::limits::{PERMIT_REQUESTS_MAX, TOKEN_BATCH_MAX};
use crate::message::CoreId;
use crate::path::limit::{Arbiter, Limits, TokenKey};
use crate::path::permit::{HOME_CORE, PermitEvent, PermitId, PermitState, ToHolder, ToHome, Tokens};
use crate::time::Instant;
use hashbrown::HashMap;
use std::collections::VecDeque;
use std::sync::Arc;

/// Permits and tokens of one core.
#[derive(Debug)]
pub struct PermitHolder {
    core: CoreId,
    last_permit: u64,
    permits: HashMap<PermitId, Held>,
    waiting: usize,
    stashes: HashMap<TokenKey, Stash>,
    to_own: VecDeque<ToHome>,
    to_engine: VecDeque<ToHome>,
    events: VecDeque<PermitEvent>,
}

#[derive(Clone, Copy, Debug)]
struct Held {
    state: PermitState,
    arbiter: Arbiter,
}

/// Tokens of one kind.
#[derive(Debug)]
struct Stash {
    limits: Arc<Limits>,
    /// In the order of their grants, which is the order in which they lapse.
    batches: VecDeque<Batch>,
    /// A request is on its way.
    asked: bool,
    /// A message was told to wait.
    wanted: bool,
}

#[derive(Clone, Copy, Debug)]
struct Batch {
    count: u32,
    granted_at: Instant,
    lapse_at: Instant,
}

impl PermitHolder {
    /// Holds nothing.
    #[must_use]
    pub fn new(core: CoreId) -> Self {
        Self {
            core,
            last_permit: PermitId::UNLIMITED.0,
            permits: HashMap::new(),
            waiting: 0,
            stashes: HashMap::new(),
            to_own: VecDeque::new(),
            to_engine: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    /// See [`Permits::request`](crate::path::permit::Permits::request).
    pub fn request(&mut self, limits: &Arc<Limits>) -> Option<PermitId> {
        if !limits.needs_permit() {
            return Some(PermitId::UNLIMITED);
        }
        if self.waiting >= PERMIT_REQUESTS_MAX {
            return None;
        }
        self.last_permit += 1;
        let permit = PermitId(self.last_permit);
        let arbiter = limits.connection_arbiter;
        self.permits.insert(permit, Held { state: PermitState::Waiting, arbiter });
        self.waiting += 1;
        self.send(arbiter, ToHome::Connect { permit, limits: limits.clone() });
        Some(permit)
    }

    /// Where a permit stands; `None` once it is released.
    #[must_use]
    pub fn state(&self, permit: PermitId) -> Option<PermitState> {
        if permit == PermitId::UNLIMITED {
            return Some(PermitState::Granted);
        }
        self.permits.get(&permit).map(|held| held.state)
    }

    /// Gives back a permit, or withdraws the request.
    pub fn release(&mut self, permit: PermitId) {
        if permit == PermitId::UNLIMITED {
            return;
        }
        let held = self.permits.remove(&permit).expect("a permit is released once, by the one who asked for it");
        if held.state == PermitState::Waiting {
            self.waiting -= 1;
        }
        self.send(held.arbiter, ToHome::Return { permit });
    }

    /// Takes a token when there is one; asks for more when few are left.
    pub fn take_token(&mut self, limits: &Arc<Limits>, ready: u32, now: Instant) -> Tokens {
        let stash = self.stashes.entry(limits.tokens).or_insert_with(|| Stash {
            limits: limits.clone(),
            batches: VecDeque::new(),
            asked: false,
            wanted: false,
        });
        if stash.limits.version != limits.version {
            stash.limits = limits.clone();
        }
        let taken = stash.take(now);
        stash.wanted |= !taken;
        let left = stash.left(now);
        let still_ready = ready.saturating_sub(u32::from(taken));
        // Ask when half of a batch is left, so that the answer is there before the rest is used.
        let ask = !stash.asked && (!taken || (still_ready > left && left <= stash.last_batch() / 2));
        if ask {
            stash.asked = true;
            let want = still_ready.saturating_sub(left).clamp(1, TOKEN_BATCH_MAX);
            self.send(limits.message_arbiter, ToHome::Tokens { limits: limits.clone(), want });
        }
        if taken { Tokens::Taken } else { Tokens::Wait(limits.tokens) }
    }

    /// Whether a token of that kind is there.
    #[must_use]
    pub fn has_token(&self, tokens: TokenKey, now: Instant) -> bool {
        self.stashes.get(&tokens).is_some_and(|stash| stash.left(now) > 0)
    }

    /// Tells the home of limits that a reload changed.
    pub fn changed(&mut self, limits: &Arc<Limits>) {
        if limits.needs_permit() {
            self.send(limits.connection_arbiter, ToHome::Changed { limits: limits.clone() });
        }
        if limits.needs_token() && limits.message_arbiter != limits.connection_arbiter {
            self.send(limits.message_arbiter, ToHome::Changed { limits: limits.clone() });
        }
    }

    /// The home said something.
    pub fn handle(&mut self, message: ToHolder) {
        match message {
            ToHolder::Granted { permit } => {
                // A permit released meanwhile is unknown here; its return is on the way to the home.
                if let Some(held) = self.permits.get_mut(&permit) {
                    assert!(held.state == PermitState::Waiting, "a permit is granted once");
                    held.state = PermitState::Granted;
                    self.waiting -= 1;
                    self.events.push_back(PermitEvent::Granted(permit));
                }
            }
            ToHolder::Recalled { permit } => {
                if let Some(held) = self.permits.get_mut(&permit) {
                    assert!(held.state == PermitState::Granted, "only a granted permit is recalled, and once");
                    held.state = PermitState::Recalled;
                    self.events.push_back(PermitEvent::Recalled(permit));
                }
            }
            ToHolder::Tokens { tokens, count, granted_at, lapse_at } => {
                let stash = self.stashes.get_mut(&tokens).expect("a stash stays while its request is on its way");
                stash.asked = false;
                stash.batches.push_back(Batch { count, granted_at, lapse_at });
                if std::mem::take(&mut stash.wanted) {
                    self.events.push_back(PermitEvent::Tokens(tokens));
                }
            }
        }
    }

    /// Returns lapsed tokens and forgets kinds that nobody uses.
    pub fn handle_tick(&mut self, now: Instant) {
        let mut back: Vec<ToHome> = Vec::new();
        self.stashes.retain(|_, stash| {
            while let Some(batch) = stash.batches.front().copied()
                && (batch.lapse_at <= now || batch.count == 0)
            {
                stash.batches.pop_front();
                if batch.count > 0 {
                    let limits = stash.limits.clone();
                    back.push(ToHome::TokensBack { limits, count: batch.count, granted_at: batch.granted_at });
                }
            }
            stash.asked || !stash.batches.is_empty()
        });
        for message in back {
            let ToHome::TokensBack { limits, .. } = &message else { continue };
            self.send(limits.message_arbiter, message);
        }
    }

    /// When the next tokens lapse.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        self.stashes.values().filter_map(|stash| stash.batches.front().map(|batch| batch.lapse_at)).min()
    }

    /// The next message to another core's home.
    pub fn poll_message(&mut self) -> Option<(CoreId, ToHome)> {
        self.to_engine.pop_front().map(|message| (HOME_CORE, message))
    }

    /// The next message to the home on this core.
    pub fn poll_own_message(&mut self) -> Option<ToHome> {
        self.to_own.pop_front()
    }

    /// The next thing the shard must know.
    pub fn poll_event(&mut self) -> Option<PermitEvent> {
        self.events.pop_front()
    }

    fn send(&mut self, arbiter: Arbiter, message: ToHome) {
        if arbiter == Arbiter::Own || self.core == HOME_CORE {
            self.to_own.push_back(message);
        } else {
            self.to_engine.push_back(message);
        }
    }
}

impl Stash {
    fn take(&mut self, now: Instant) -> bool {
        for batch in &mut self.batches {
            if batch.count > 0 && batch.lapse_at > now {
                batch.count -= 1;
                return true;
            }
        }
        false
    }

    fn left(&self, now: Instant) -> u32 {
        self.batches.iter().filter(|batch| batch.lapse_at > now).map(|batch| batch.count).sum()
    }

    fn last_batch(&self) -> u32 {
        self.batches.back().map_or(0, |batch| batch.count)
    }
}
