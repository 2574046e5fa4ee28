//! The holder's side of permits: what one core has asked for and holds. Grants nothing itself.

use crate::limits::{PERMIT_REQUESTS_MAX, TOKEN_BATCH_MAX};
use crate::message::CoreId;
use crate::path::limit::{Arbiter, Limits, TokenKey};
use crate::path::permit::{HOME_CORE, PermitEvent, PermitId, PermitState, ToHolder, ToHome, Tokens};
use crate::time::Instant;
use hashbrown::HashMap;
use smallvec::SmallVec;
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

/// Permits and tokens of one core.
#[derive(Debug)]
pub struct PermitHolder {
    core: CoreId,
    last_permit: u64,
    permits: HashMap<PermitId, Held>,
    waiting: usize,
    stashes: HashMap<TokenKey, Stash>,
    /// When which tokens lapse, one entry for each batch.
    agenda: BTreeSet<(Instant, TokenKey)>,
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
#[derive(Debug, Default)]
struct Stash {
    /// In the order of their grants, which is the order in which they lapse.
    batches: VecDeque<Batch>,
    /// With which limits a request is on its way.
    asked: Option<Arc<Limits>>,
    /// A message was told to wait.
    wanted: bool,
}

#[derive(Clone, Debug)]
struct Batch {
    limits: Arc<Limits>,
    granted: u32,
    left: u32,
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
            agenda: BTreeSet::new(),
            to_own: VecDeque::new(),
            to_engine: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    /// See [`Permits::request`](crate::path::permit::Permits::request).
    pub fn request(&mut self, limits: &Arc<Limits>, held: u32) -> Option<PermitId> {
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
        self.send(arbiter, ToHome::Connect { permit, held, limits: limits.clone() });
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
    pub fn release(&mut self, permit: PermitId, used: bool) {
        if permit == PermitId::UNLIMITED {
            return;
        }
        let held = self.permits.remove(&permit).expect("a permit is released once, by the one who asked for it");
        if held.state == PermitState::Waiting {
            self.waiting -= 1;
        }
        self.send(held.arbiter, ToHome::Return { permit, used });
    }

    /// Takes a token when there is one; asks for more when few are left.
    pub fn take_token(&mut self, limits: &Arc<Limits>, ready: u32, now: Instant) -> Tokens {
        let stash = self.stashes.entry(limits.tokens).or_default();
        let taken = stash.take(now);
        let left = stash.left(now);
        let still_ready = ready.saturating_sub(u32::from(taken));
        // Ask when half of a batch is left, so that the answer is there before the rest is used.
        let running_out = still_ready > left && left <= stash.last_granted() / 2;
        let is_older =
            |of: &&mut Arc<Limits>| of.version < limits.version && of.message_arbiter == limits.message_arbiter;
        if let Some(asked) = stash.asked.as_mut().filter(is_older) {
            // The request waits by what held before a reload.
            *asked = limits.clone();
            self.send(limits.message_arbiter, ToHome::Changed { limits: limits.clone() });
        } else if stash.asked.is_none() && (!taken || running_out) {
            stash.asked = Some(limits.clone());
            let want = still_ready.saturating_sub(left).clamp(1, TOKEN_BATCH_MAX);
            self.send(limits.message_arbiter, ToHome::Tokens { limits: limits.clone(), want });
        }
        if taken { Tokens::Taken } else { Tokens::Wait(limits.tokens) }
    }

    /// See [`Permits::put_back_token`](crate::path::permit::Permits::put_back_token).
    pub fn put_back_token(&mut self, tokens: TokenKey, now: Instant) {
        let Some(stash) = self.stashes.get_mut(&tokens) else { return };
        let mut valid = stash.batches.iter_mut().filter(|batch| batch.lapse_at > now);
        if let Some(batch) = valid.find(|batch| batch.left < batch.granted) {
            batch.left += 1;
        }
    }

    /// Whether a token of that kind is there.
    #[must_use]
    pub fn has_token(&self, tokens: TokenKey, now: Instant) -> bool {
        self.stashes.get(&tokens).is_some_and(|stash| stash.left(now) > 0)
    }

    /// A message waits for the tokens that were asked for: say so when they come.
    pub fn wait_for(&mut self, tokens: TokenKey) {
        if let Some(stash) = self.stashes.get_mut(&tokens) {
            stash.wanted = true;
        }
    }

    /// Tells the home of limits that a reload changed.
    pub fn changed(&mut self, limits: &Arc<Limits>) {
        let arbiters = [
            limits.needs_permit().then_some(limits.connection_arbiter),
            limits.needs_token().then_some(limits.message_arbiter),
        ];
        for arbiter in [Arbiter::Own, Arbiter::Engine] {
            if arbiters.contains(&Some(arbiter)) {
                self.send(arbiter, ToHome::Changed { limits: limits.clone() });
            }
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
                let limits = stash.asked.take().expect("tokens come only when asked for, once for each request");
                stash.batches.push_back(Batch { limits, granted: count, left: count, granted_at, lapse_at });
                self.agenda.insert((lapse_at, tokens));
                if std::mem::take(&mut stash.wanted) {
                    self.events.push_back(PermitEvent::Tokens(tokens));
                }
            }
        }
    }

    /// Returns lapsed tokens and forgets kinds that nobody uses.
    pub fn handle_tick(&mut self, now: Instant) {
        let mut back: SmallVec<[ToHome; 4]> = SmallVec::new();
        while let Some(&(lapse_at, tokens)) = self.agenda.first()
            && lapse_at <= now
        {
            self.agenda.pop_first();
            // Several batches may have lapsed since, and the first entry took care of them all.
            let Some(stash) = self.stashes.get_mut(&tokens) else { continue };
            while stash.batches.front().is_some_and(|batch| batch.lapse_at <= now)
                && let Some(batch) = stash.batches.pop_front()
            {
                if batch.left > 0 {
                    let Batch { limits, left: count, granted_at, .. } = batch;
                    back.push(ToHome::TokensBack { limits, count, granted_at });
                }
            }
            if stash.batches.is_empty() && stash.asked.is_none() {
                self.stashes.remove(&tokens);
            }
        }
        for message in back {
            if let ToHome::TokensBack { limits, .. } = &message {
                self.send(limits.message_arbiter, message);
            }
        }
    }

    /// When the next tokens lapse.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        self.agenda.first().map(|&(lapse_at, _)| lapse_at)
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
        match self.batches.iter_mut().find(|batch| batch.left > 0 && batch.lapse_at > now) {
            Some(batch) => {
                batch.left -= 1;
                true
            }
            None => false,
        }
    }

    fn left(&self, now: Instant) -> u32 {
        self.batches.iter().filter(|batch| batch.lapse_at > now).map(|batch| batch.left).sum()
    }

    fn last_granted(&self) -> u32 {
        self.batches.back().map_or(0, |batch| batch.granted)
    }
}
