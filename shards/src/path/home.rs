//! The home's side of permits: grants connections and messages to cores so that no counter is ever exceeded.
//! It opens nothing, and knows the destinations behind the requests only by how many permits they have.
//!
//! A request is under several counters and gets all of them at once. While it must wait, it is parked on one
//! counter that has no room, so it blocks nobody who needs others. Each counter serves who is parked on it in
//! order of arrival, destinations that have no connection yet somewhat earlier. So that a request under two busy counters is not overtaken for ever by those that need only
//! one, it claims its counters one by one once it is old ([`PERMIT_AGED_MS`]): always in the same order, so two
//! such requests cannot wait for each other.

use crate::limits::{PERMIT_AGED_MS, PERMIT_PATIENCE_MS, PERMIT_SCAN_MAX, PERMIT_SWEEP_MAX, TOKEN_LAPSE_MS};
use crate::message::CoreId;
use crate::path::counter::{Claim, CounterState, GrantNumber, Head, Recall, Ticket};
use crate::path::limit::{Counter, CounterKey, Limits, TokenKey};
use crate::path::permit::{PermitId, ToHolder, ToHome};
use crate::time::Instant;
use hashbrown::HashMap;
use slab::Slab;
use smallvec::SmallVec;
use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

/// Index of a counter in the slab.
type CounterIndex = usize;
type CounterIndices = SmallVec<[CounterIndex; 4]>;

/// All counters that have their home on this core, and what was granted and asked of them.
#[derive(Debug)]
pub struct PermitHome {
    core: CoreId,
    counters: Slab<CounterState>,
    by_key: HashMap<CounterKey, CounterIndex>,
    requests: HashMap<Ticket, Request>,
    grants: HashMap<GrantNumber, Grant>,
    permits: HashMap<(CoreId, PermitId), Place>,
    last_number: u64,
    /// Counters that may have room for one who waits.
    stirred: VecDeque<CounterIndex>,
    /// When to look at which counter again; each is in it at most once.
    agenda: BTreeSet<(Instant, CounterIndex)>,
    swept: CounterIndex,
    to_own: VecDeque<ToHolder>,
    to_others: VecDeque<(CoreId, ToHolder)>,
}

#[derive(Debug)]
struct Request {
    core: CoreId,
    ask: Ask,
    /// In the order in which they are claimed.
    counters: CounterIndices,
    since: Instant,
    parked_on: CounterIndex,
    /// So many of the first counters are claimed already; only an old request claims them one by one.
    claimed: usize,
}

#[derive(Clone, Copy, Debug)]
enum Ask {
    Connection { permit: PermitId, held: u32 },
    Messages { tokens: TokenKey, want: u32, least: u32 },
}

impl Ask {
    fn claim(self) -> Claim {
        match self {
            Self::Connection { .. } => Claim::Connection,
            Self::Messages { least, .. } => Claim::Messages(least),
        }
    }

    /// Permits that the destination has.
    fn held(self) -> u32 {
        match self {
            Self::Connection { held, .. } => held,
            Self::Messages { .. } => 0,
        }
    }
}

#[derive(Debug)]
struct Grant {
    core: CoreId,
    permit: PermitId,
    counters: CounterIndices,
    at: Instant,
    /// The how-manieth of its destination, from 1.
    rank: u32,
    recalled: bool,
}

#[derive(Clone, Copy, Debug)]
enum Place {
    Waiting(Ticket),
    Granted(GrantNumber),
}

impl PermitHome {
    /// The home on core `core`; nothing is granted.
    #[must_use]
    pub fn new(core: CoreId) -> Self {
        Self {
            core,
            counters: Slab::new(),
            by_key: HashMap::new(),
            requests: HashMap::new(),
            grants: HashMap::new(),
            permits: HashMap::new(),
            last_number: 0,
            stirred: VecDeque::new(),
            agenda: BTreeSet::new(),
            swept: 0,
            to_own: VecDeque::new(),
            to_others: VecDeque::new(),
        }
    }

    /// A core said something.
    pub fn handle(&mut self, from: CoreId, message: ToHome, now: Instant) {
        match message {
            ToHome::Connect { permit, held, limits } => {
                let counters = self.learn(&limits.connections, limits.version, now);
                self.arrive(from, Ask::Connection { permit, held }, counters, now);
            }
            ToHome::Tokens { limits, want } => {
                let counters = self.learn(&limits.messages, limits.version, now);
                let batch_min = counters.iter().map(|&index| self.counters[index].batch_min()).min();
                let least = batch_min.map_or(1, |batch| batch.min(want)).max(1);
                self.arrive(from, Ask::Messages { tokens: limits.tokens, want, least }, counters, now);
            }
            ToHome::Return { permit, used } => self.take_back(from, permit, used, now),
            ToHome::TokensBack { limits, count, granted_at } => self.tokens_back(&limits, count, granted_at, now),
            ToHome::Changed { limits } => {
                self.relearn(&limits.connections, limits.version, now);
                self.relearn(&limits.messages, limits.version, now);
            }
        }
        self.settle(now);
    }

    /// Time passed: rates have more, permits were held long enough.
    pub fn handle_tick(&mut self, now: Instant) {
        while let Some(&(at, index)) = self.agenda.first()
            && at <= now
        {
            self.agenda.pop_first();
            self.counters[index].check_at = None;
            self.stir(index);
        }
        self.settle(now);
    }

    /// When to call [`handle_tick`](Self::handle_tick) at the latest.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        if self.stirred.is_empty() { self.agenda.first().map(|&(at, _)| at) } else { Some(Instant(0)) }
    }

    /// The next message to another core.
    pub fn poll_message(&mut self) -> Option<(CoreId, ToHolder)> {
        self.to_others.pop_front()
    }

    /// The next message to the holder on this core.
    pub fn poll_own_message(&mut self) -> Option<ToHolder> {
        self.to_own.pop_front()
    }

    /// The counters of a request, made when they are new, one reference more each.
    fn learn(&mut self, wanted: &[Counter], version: u32, now: Instant) -> CounterIndices {
        self.relearn(wanted, version, now);
        let mut indices = CounterIndices::new();
        for counter in wanted {
            let index = match self.by_key.get(&counter.key) {
                Some(&index) => index,
                None => self.make(counter, version, now),
            };
            self.counters[index].references += 1;
            indices.push(index);
        }
        indices.sort_unstable_by_key(|&index| self.counters[index].order);
        indices
    }

    /// Newer allowances of counters that are in use.
    fn relearn(&mut self, wanted: &[Counter], version: u32, now: Instant) {
        for counter in wanted {
            if let Some(&index) = self.by_key.get(&counter.key)
                && self.counters[index].learn(counter, version, now)
            {
                self.stir(index);
            }
        }
    }

    fn make(&mut self, counter: &Counter, version: u32, now: Instant) -> CounterIndex {
        self.sweep(now);
        let index = self.counters.insert(CounterState::new(counter, version, now));
        self.by_key.insert(counter.key, index);
        index
    }

    /// Forgets a few counters that nobody uses any more.
    fn sweep(&mut self, now: Instant) {
        for _ in 0..PERMIT_SWEEP_MAX.min(self.counters.capacity()) {
            self.swept = (self.swept + 1) % self.counters.capacity();
            if self.counters.get(self.swept).is_some_and(|counter| counter.is_unused(now) && !counter.stirred) {
                let counter = self.counters.remove(self.swept);
                self.by_key.remove(&counter.key());
                if let Some(at) = counter.check_at {
                    self.agenda.remove(&(at, self.swept));
                }
            }
        }
    }

    fn arrive(&mut self, core: CoreId, ask: Ask, counters: CounterIndices, now: Instant) {
        assert!(!counters.is_empty(), "what no limit counts needs no leave");
        let patience = Duration::from_millis(PERMIT_PATIENCE_MS) * ask.held().min(4);
        let ticket = Ticket { due: now.after(patience), number: self.next_number() };
        if let Ask::Connection { permit, .. } = ask {
            let before = self.permits.insert((core, permit), Place::Waiting(ticket));
            assert!(before.is_none(), "a core gives each permit its own number");
        }
        let parked_on = counters[0];
        self.requests.insert(ticket, Request { core, ask, counters, since: now, parked_on, claimed: 0 });
        self.admit(ticket, now);
    }

    /// Grants the request, which is parked nowhere, or parks it.
    fn admit(&mut self, ticket: Ticket, now: Instant) {
        self.lower_batch(ticket, now);
        let request = self.requests.get_mut(&ticket).expect("only waiting requests are admitted");
        let is_aged = now.since(request.since) >= Duration::from_millis(PERMIT_AGED_MS);
        let rest = &request.counters[request.claimed..];
        let claim = request.ask.claim();
        let lacks = |index: CounterIndex| !self.counters[index].has_room_for(ticket, claim.count(), now);
        let lacking = rest.iter().copied().position(lacks);
        let parked_on = lacking.map(|position| rest[position]);
        if lacking.is_none() || is_aged {
            let may_claim = lacking.unwrap_or(rest.len());
            for &index in &rest[..may_claim] {
                self.counters[index].claim(claim, now);
            }
            request.claimed += may_claim;
        }
        let Some(index) = parked_on else {
            return self.grant(ticket, now);
        };
        request.parked_on = index;
        let counter = &mut self.counters[index];
        counter.parked.insert(ticket);
        counter.urgent += u32::from(request.ask.held() == 0);
        self.stir(index);
    }

    /// A reload may have made a rate so slow that the least batch that was to be worth a grant is never there at once.
    fn lower_batch(&mut self, ticket: Ticket, now: Instant) {
        let request = self.requests.get_mut(&ticket).expect("only waiting requests are admitted");
        let claim = request.ask.claim();
        let Ask::Messages { least, .. } = &mut request.ask else { return };
        let batch_min = request.counters.iter().map(|&index| self.counters[index].batch_min()).min();
        let Some(batch_min) = batch_min.filter(|batch_min| batch_min < least) else { return };
        *least = batch_min;
        let claimed = std::mem::take(&mut request.claimed);
        for index in CounterIndices::from_slice(&request.counters[..claimed]) {
            self.counters[index].unclaim(claim, now);
            self.stir(index);
        }
    }

    /// Everything that the request needs is claimed.
    fn grant(&mut self, ticket: Ticket, now: Instant) {
        let Request { core, ask, counters, .. } =
            self.requests.remove(&ticket).expect("only waiting requests are granted");
        for &index in &counters {
            self.counters[index].use_claim(ask.claim(), now);
        }
        match ask {
            Ask::Connection { permit, held } => {
                let number = GrantNumber(self.next_number());
                let rank = held.saturating_add(1);
                for &index in &counters {
                    self.counters[index].add_permit(rank, number);
                    // Those who wait for it may have found nothing to recall until now.
                    self.stir(index);
                }
                self.grants.insert(number, Grant { core, permit, counters, at: now, rank, recalled: false });
                self.permits.insert((core, permit), Place::Granted(number));
                self.send(core, ToHolder::Granted { permit });
            }
            Ask::Messages { tokens, want, least } => {
                // Those who wait get a share each, so that the first does not take what has come together.
                let share = |&index: &CounterIndex| {
                    let counter = &self.counters[index];
                    let waiting = u32::try_from(counter.parked.len()).unwrap_or(u32::MAX - 1);
                    counter.tokens(now) / (waiting + 1)
                };
                let more = counters.iter().map(share).min().unwrap_or(0).min(want.saturating_sub(least));
                for &index in &counters {
                    self.counters[index].take_tokens(more, now);
                    self.counters[index].references -= 1;
                }
                let lapse_at = now.after(Duration::from_millis(TOKEN_LAPSE_MS));
                self.send(core, ToHolder::Tokens { tokens, count: least + more, granted_at: now, lapse_at });
            }
        }
    }

    /// A permit is returned, or a request withdrawn.
    fn take_back(&mut self, core: CoreId, permit: PermitId, used: bool, now: Instant) {
        let place = self.permits.remove(&(core, permit)).expect("a core returns only what it asked for, once");
        let counters = match place {
            Place::Waiting(ticket) => {
                let request = self.requests.remove(&ticket).expect("a waiting request is known");
                self.unpark(ticket, &request);
                for &index in &request.counters[..request.claimed] {
                    self.counters[index].unclaim(request.ask.claim(), now);
                }
                request.counters
            }
            Place::Granted(number) => {
                let grant = self.grants.remove(&number).expect("a granted permit is known");
                for &index in &grant.counters {
                    let counter = &mut self.counters[index];
                    counter.remove_permit(grant.rank, number, grant.recalled);
                    if !used {
                        counter.put_tokens_back(1, grant.at, now);
                    }
                }
                grant.counters
            }
        };
        for index in counters {
            self.counters[index].references -= 1;
            self.stir(index);
        }
    }

    fn unpark(&mut self, ticket: Ticket, request: &Request) {
        let counter = &mut self.counters[request.parked_on];
        let was_there = counter.parked.remove(&ticket);
        assert!(was_there, "a waiting request is parked");
        counter.urgent -= u32::from(request.ask.held() == 0);
    }

    fn tokens_back(&mut self, limits: &Limits, count: u32, granted_at: Instant, now: Instant) {
        for counter in &limits.messages {
            if let Some(&index) = self.by_key.get(&counter.key) {
                self.counters[index].put_tokens_back(count, granted_at, now);
                self.stir(index);
            }
        }
    }

    fn stir(&mut self, index: CounterIndex) {
        let counter = &mut self.counters[index];
        if !counter.stirred && counter.needs_care() {
            counter.stirred = true;
            self.stirred.push_back(index);
        }
    }

    /// Serves those who are parked on counters with room, a bounded number of them.
    fn settle(&mut self, now: Instant) {
        let mut budget = PERMIT_SCAN_MAX;
        while let Some(index) = self.stirred.pop_front() {
            self.counters[index].stirred = false;
            while let Some(head) = self.head(index)
                && self.counters[index].has_room(head.claim.count(), now)
                && let Some(&ticket) = self.counters[index].parked.first()
            {
                if budget == 0 {
                    self.counters[index].stirred = true;
                    self.stirred.push_front(index);
                    return;
                }
                budget -= 1;
                let request = self.requests.remove(&ticket).expect("who is parked waits");
                self.unpark(ticket, &request);
                self.requests.insert(ticket, request);
                self.admit(ticket, now);
            }
            self.care(index, now);
        }
    }

    /// Recalls permits for those who wait for a full counter, and sees to it that it is looked at again.
    fn care(&mut self, index: CounterIndex, now: Instant) {
        let mut check_at = None;
        while self.counters[index].needs_care() {
            let counter = &self.counters[index];
            let head = self.head(index);
            match counter.recall(head, |number| self.grants[&number].at, now) {
                Recall::Now(number) => self.recall(number),
                Recall::At(_, at) => {
                    check_at = Some(at);
                    break;
                }
                Recall::None => {
                    check_at = head.and_then(|head| counter.refilled_at(head.claim.count(), now));
                    break;
                }
            }
        }
        let counter = &mut self.counters[index];
        if let Some(old) = std::mem::replace(&mut counter.check_at, check_at) {
            self.agenda.remove(&(old, index));
        }
        if let Some(at) = check_at {
            self.agenda.insert((at, index));
        }
    }

    fn head(&self, index: CounterIndex) -> Option<Head> {
        let counter = &self.counters[index];
        let request = &self.requests[counter.parked.first()?];
        let claim = match request.ask.claim() {
            Claim::Messages(least) => Claim::Messages(least.min(counter.batch_min())),
            Claim::Connection => Claim::Connection,
        };
        Some(Head { held: request.ask.held(), since: request.since, claim })
    }

    fn recall(&mut self, number: GrantNumber) {
        let grant = self.grants.get_mut(&number).expect("a recallable permit is granted");
        grant.recalled = true;
        let (core, permit, rank) = (grant.core, grant.permit, grant.rank);
        for &index in &grant.counters {
            self.counters[index].mark_recalled(rank, number);
        }
        self.send(core, ToHolder::Recalled { permit });
    }

    fn send(&mut self, core: CoreId, message: ToHolder) {
        if core == self.core {
            self.to_own.push_back(message);
        } else {
            self.to_others.push_back((core, message));
        }
    }

    fn next_number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }
}

#[cfg(test)]
mod tests {
    use super::PermitHome;
    use crate::limits::PERMIT_SWEEP_MAX;
    use crate::message::CoreId;
    use crate::path::limit::{Combination, LimitTable};
    use crate::path::permit::{PermitId, ToHome};
    use crate::settings::{LimitPer, LimitSettings};
    use crate::time::Instant;
    use std::sync::Arc;

    /// Domains come and go; their counters do not stay, but for those that are in use.
    #[test]
    fn counters_that_nobody_uses_are_forgotten() {
        let table =
            LimitTable::new(&[LimitSettings { connections: Some(1), ..LimitSettings::new(LimitPer::Domain) }], 1);
        let connect = |home: &mut PermitHome, number: u64| {
            let of = Combination { domain: &format!("d{number}.test"), site: "mx.test", source: "s", pool: None };
            let limits = Arc::new(table.resolve(&of));
            home.handle(CoreId(1), ToHome::Connect { permit: PermitId(number), held: 0, limits }, Instant(number));
        };
        let mut home = PermitHome::new(CoreId(0));
        connect(&mut home, 1);
        for number in 2..=1000 {
            connect(&mut home, number);
            home.handle(CoreId(1), ToHome::Return { permit: PermitId(number), used: true }, Instant(number));
            assert!(home.counters.len() <= 2 * PERMIT_SWEEP_MAX, "{} counters", home.counters.len());
            assert_eq!(home.by_key.len(), home.counters.len());
        }
        home.handle(CoreId(1), ToHome::Return { permit: PermitId(1), used: true }, Instant(1001));
    }
}
