//! One counter at its home: how much of it is in use, what its rate has left, who waits for it and who could
//! give something back. Grants nothing itself.

use crate::limits::{PERMIT_HELD_MIN_MS, PERMIT_PATIENCE_MS, TOKEN_BATCH_MIN_MS};
use crate::path::bucket::Bucket;
use crate::path::limit::{Counter, CounterKey};
use crate::settings::{LimitPer, Rate};
use crate::time::Instant;
use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::time::Duration;

/// Orders requests: by their arrival, those of destinations that have connections already somewhat later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Ticket {
    /// Arrival, and [`PERMIT_PATIENCE_MS`] for each of at most four permits that the destination has. It is later by
    /// a bounded time, so those who ask for their first again and again cannot keep the others out.
    pub(super) due: Instant,
    /// Makes it unique; in order of arrival.
    pub(super) number: u64,
}

/// Numbers grants in their order, so also by how long they are held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct GrantNumber(pub u64);

/// What is claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Claim {
    /// A connection, until its permit is returned.
    Connection,
    /// So many messages, which are gone when they are granted.
    Messages(u32),
}

impl Claim {
    /// Tokens that it takes of a rate.
    pub(super) fn count(self) -> u32 {
        match self {
            Self::Connection => 1,
            Self::Messages(count) => count,
        }
    }
}

/// In which order old requests claim their counters: the slowest rate first, since a claim on it disturbs others
/// least, then from the narrow to the broad. Fixed when a counter is made, so that it is the same for all.
pub(super) type ClaimOrder = (Reverse<u128>, LimitPer, CounterKey);

/// The state of one counter. Lives on the home core from its first use until nothing refers to it and its rate
/// has recovered.
#[derive(Debug)]
pub(super) struct CounterState {
    pub(super) order: ClaimOrder,
    /// Of the settings from which limit and rate are.
    version: u32,
    limit: Option<u32>,
    bucket: Option<Bucket>,
    /// Requests and permits that refer to it.
    pub(super) references: u32,
    /// Permits, and claims of requests that take their counters one by one.
    in_use: u32,
    /// Requests that wait for this counter, in the order of their tickets.
    pub(super) parked: BTreeSet<Ticket>,
    /// Of those, requests of destinations that have no connection yet.
    pub(super) urgent: u32,
    /// Permits that were not recalled yet: those of the destinations with most, then the longest-held, first.
    recallable: BTreeSet<(Reverse<u32>, GrantNumber)>,
    /// Permits recalled and not yet returned.
    recalled: u32,
    /// When it is to be looked at again.
    pub(super) check_at: Option<Instant>,
    /// It is in the queue of counters that may have room.
    pub(super) stirred: bool,
}

/// The request at the head of the line.
#[derive(Clone, Copy, Debug)]
pub(super) struct Head {
    pub(super) held: u32,
    pub(super) since: Instant,
    pub(super) claim: Claim,
}

/// Whether the first recallable permit is to be recalled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Recall {
    /// Yes.
    Now(GrantNumber),
    /// Not before then.
    At(GrantNumber, Instant),
    /// Nobody needs it.
    None,
}

impl CounterState {
    pub(super) fn new(counter: &Counter, version: u32, now: Instant) -> Self {
        Self {
            order: (Reverse(counter.rate.map_or(0, nanos_each)), counter.per, counter.key),
            version,
            limit: counter.connections,
            bucket: counter.rate.map(|rate| Bucket::new(rate, now)),
            references: 0,
            in_use: 0,
            parked: BTreeSet::new(),
            urgent: 0,
            recallable: BTreeSet::new(),
            recalled: 0,
            check_at: None,
            stirred: false,
        }
    }

    /// Takes over the allowance of newer settings. Says whether something changed.
    pub(super) fn learn(&mut self, counter: &Counter, version: u32, now: Instant) -> bool {
        if version <= self.version {
            return false;
        }
        self.version = version;
        let old = (self.limit, self.bucket.as_ref().map(Bucket::rate));
        if old == (counter.connections, counter.rate) {
            return false;
        }
        self.limit = counter.connections;
        match (&mut self.bucket, counter.rate) {
            (Some(bucket), Some(rate)) => bucket.set_rate(rate, now),
            (bucket, rate) => *bucket = rate.map(|rate| Bucket::new(rate, now)),
        }
        true
    }

    /// Whether one connection or `count` messages may be granted now.
    pub(super) fn has_room(&self, count: u32, now: Instant) -> bool {
        !self.is_full() && self.tokens(now) >= count
    }

    /// Whether it has room, and nobody who came before `ticket` waits for it.
    pub(super) fn has_room_for(&self, ticket: Ticket, count: u32, now: Instant) -> bool {
        self.has_room(count, now) && self.parked.first().is_none_or(|&first| first > ticket)
    }

    /// What the rate has left; without a rate there is no end.
    pub(super) fn tokens(&self, now: Instant) -> u32 {
        self.bucket.as_ref().map_or(u32::MAX, |bucket| bucket.available(now))
    }

    /// The least batch of messages that is worth a grant.
    pub(super) fn batch_min(&self) -> u32 {
        let time = Duration::from_millis(TOKEN_BATCH_MIN_MS);
        self.bucket.as_ref().map_or(1, |bucket| bucket.yields_in(time).max(1))
    }

    /// Takes `count` tokens, which must be there.
    pub(super) fn take_tokens(&mut self, count: u32, now: Instant) {
        if let Some(bucket) = &mut self.bucket {
            bucket.take(count, now);
        }
    }

    pub(super) fn put_tokens_back(&mut self, count: u32, taken_at: Instant, now: Instant) {
        if let Some(bucket) = &mut self.bucket {
            bucket.put_back(count, taken_at, now);
        }
    }

    /// What is claimed is taken; there must be room.
    pub(super) fn claim(&mut self, claim: Claim, now: Instant) {
        assert!(!self.is_full(), "a counter is not granted beyond its limit");
        self.in_use += u32::from(claim == Claim::Connection);
        if let Some(bucket) = &mut self.bucket {
            bucket.claim(claim.count(), now);
        }
    }

    /// A claim is given up before a connection came of it.
    pub(super) fn unclaim(&mut self, claim: Claim, now: Instant) {
        self.in_use -= u32::from(claim == Claim::Connection);
        if let Some(bucket) = &mut self.bucket {
            bucket.unclaim(claim.count(), now);
        }
    }

    /// A claim became a permit or tokens.
    pub(super) fn use_claim(&mut self, claim: Claim, now: Instant) {
        if let Some(bucket) = &mut self.bucket {
            bucket.use_claim(claim.count(), now);
        }
    }

    /// A permit under this counter is out.
    pub(super) fn add_permit(&mut self, rank: u32, number: GrantNumber) {
        self.recallable.insert((Reverse(rank), number));
    }

    pub(super) fn mark_recalled(&mut self, rank: u32, number: GrantNumber) {
        let was_there = self.recallable.remove(&(Reverse(rank), number));
        assert!(was_there, "a permit is recalled once");
        self.recalled += 1;
    }

    /// The permit came back.
    pub(super) fn remove_permit(&mut self, rank: u32, number: GrantNumber, recalled: bool) {
        self.in_use -= 1;
        if recalled {
            self.recalled -= 1;
        } else {
            self.recallable.remove(&(Reverse(rank), number));
        }
    }

    /// Whether a permit is to be recalled for those who wait, `head` being the first of them, or because a
    /// reload lowered the limit. `granted_at` tells when a grant was made.
    pub(super) fn recall(
        &self,
        head: Option<Head>,
        granted_at: impl Fn(GrantNumber) -> Instant,
        now: Instant,
    ) -> Recall {
        let Some(&(Reverse(rank), number)) = self.recallable.first() else { return Recall::None };
        let over = self.limit.map_or(0, |limit| self.in_use.saturating_sub(limit));
        if self.recalled < over {
            return Recall::Now(number);
        }
        let Some(head) = head.filter(|_| self.is_full()) else { return Recall::None };
        let settled = granted_at(number).after(Duration::from_millis(PERMIT_HELD_MIN_MS));
        let at = if self.recalled < over + self.urgent || (self.recalled == over && rank > head.held + 1) {
            settled
        } else if self.recalled == over {
            settled.max(head.since.after(Duration::from_millis(PERMIT_PATIENCE_MS)))
        } else {
            return Recall::None;
        };
        if at <= now { Recall::Now(number) } else { Recall::At(number, at) }
    }

    /// When the rate will have `count` tokens again, if that is what is missing.
    pub(super) fn refilled_at(&self, count: u32, now: Instant) -> Option<Instant> {
        self.bucket.as_ref().filter(|_| !self.is_full()).map(|bucket| bucket.ready_at(count, now))
    }

    /// Whether it is as good as a new one.
    pub(super) fn is_unused(&self, now: Instant) -> bool {
        self.references == 0 && self.bucket.as_ref().is_none_or(|bucket| bucket.is_full(now))
    }

    /// Whether somebody waits, or too many permits are out.
    pub(super) fn needs_care(&self) -> bool {
        !self.parked.is_empty() || self.limit.is_some_and(|limit| self.in_use > limit)
    }

    /// Its name.
    pub(super) fn key(&self) -> CounterKey {
        self.order.2
    }

    fn is_full(&self) -> bool {
        self.limit.is_some_and(|limit| self.in_use >= limit)
    }
}

fn nanos_each(rate: Rate) -> u128 {
    rate.period.as_nanos() / u128::from(rate.count.max(1))
}

#[cfg(test)]
mod tests {
    use super::{Claim, CounterState, GrantNumber, Head, Recall, Ticket, nanos_each};
    use crate::limits::{PERMIT_HELD_MIN_MS, PERMIT_PATIENCE_MS};
    use crate::path::limit::{Counter, CounterKey};
    use crate::settings::{LimitPer, Rate};
    use crate::time::Instant;
    use std::time::Duration;

    const LATE: Instant = Instant(1_000_000_000);

    fn at(millis: u64) -> Instant {
        Instant(0).after(Duration::from_millis(millis))
    }

    fn counter(connections: Option<u32>, rate: Option<Rate>) -> Counter {
        Counter { key: CounterKey(1), per: LimitPer::Site, connections, rate }
    }

    /// One with a limit, and permits out to destinations with so many each.
    fn with_permits(limit: u32, ranks: &[u32]) -> CounterState {
        let mut state = CounterState::new(&counter(Some(ranks.len() as u32), None), 1, Instant(0));
        for (number, rank) in (1..).zip(ranks) {
            state.claim(Claim::Connection, Instant(0));
            state.add_permit(*rank, GrantNumber(number));
        }
        assert!(state.learn(&counter(Some(limit), None), 2, Instant(0)) || limit as usize == ranks.len());
        state
    }

    fn head(held: u32) -> Option<Head> {
        Some(Head { held, since: Instant(0), claim: Claim::Connection })
    }

    fn recall(state: &CounterState, head: Option<Head>, now: Instant) -> Recall {
        state.recall(head, |_| Instant(0), now)
    }

    #[test]
    fn what_is_beyond_a_lower_limit_is_recalled_at_once_and_no_more() {
        let mut state = with_permits(2, &[1, 1, 1, 1]);
        assert!(state.needs_care());
        for number in 1..=2 {
            assert_eq!(recall(&state, None, Instant(0)), Recall::Now(GrantNumber(number)));
            state.mark_recalled(1, GrantNumber(number));
        }
        assert_eq!(recall(&state, None, LATE), Recall::None);
        state.remove_permit(1, GrantNumber(1), true);
        assert_eq!(recall(&state, None, LATE), Recall::None, "one is under way");
        state.remove_permit(1, GrantNumber(2), true);
        assert!(!state.needs_care() && !state.has_room(1, LATE));
        state.remove_permit(1, GrantNumber(3), false);
        assert!(state.has_room(1, LATE));
    }

    /// Who has none yet gets one of a destination with two or more, as soon as that was held for its least time.
    #[test]
    fn a_permit_is_recalled_for_one_who_waits_by_what_both_have() {
        let settled = at(PERMIT_HELD_MIN_MS);
        let patient = at(PERMIT_PATIENCE_MS);
        let before = |instant: Instant| Instant(instant.0 - 1);
        let first = GrantNumber(1);
        // By what the holder and who waits have.
        for (rank, held, expected) in
            [(3, 1, settled), (2, 0, settled), (2, 1, patient), (1, 0, patient), (3, 2, patient)]
        {
            let state = with_permits(1, &[rank]);
            assert_eq!(recall(&state, head(held), before(expected)), Recall::At(first, expected), "{rank} {held}");
            assert_eq!(recall(&state, head(held), expected), Recall::Now(first), "{rank} {held}");
        }
        let mut state = with_permits(2, &[1, 1]);
        state.urgent = 1;
        assert_eq!(recall(&state, head(0), settled), Recall::Now(first), "it has none, and is the first of such");
        state.mark_recalled(1, first);
        assert_eq!(recall(&state, head(0), LATE), Recall::None, "one is on its way to it");
        state.urgent = 2;
        assert_eq!(recall(&state, head(0), settled), Recall::Now(GrantNumber(2)));
        // Nobody waits, or there is room.
        assert_eq!(recall(&with_permits(1, &[3]), None, LATE), Recall::None);
        let mut roomy = with_permits(1, &[3]);
        roomy.learn(&counter(Some(2), None), 3, Instant(0));
        assert_eq!(recall(&roomy, head(0), LATE), Recall::None);
    }

    #[test]
    fn newer_settings_are_taken_over_and_older_ones_not() {
        let rate = |count| Some(Rate { count, period: Duration::from_secs(1) });
        let mut state = CounterState::new(&counter(Some(1), None), 5, Instant(0));
        assert!(
            !state.learn(&counter(Some(9), None), 5, Instant(0)) && !state.learn(&counter(None, None), 4, Instant(0))
        );
        assert!(!state.learn(&counter(Some(1), None), 6, Instant(0)), "nothing changes");
        assert!(!state.learn(&counter(Some(9), None), 6, Instant(0)), "that was taken over");
        assert!(state.learn(&counter(Some(1), rate(10)), 7, Instant(0)));
        assert_eq!(state.tokens(Instant(0)), 2);
        assert!(state.learn(&counter(Some(1), rate(20)), 8, Instant(0)));
        assert!(state.learn(&counter(None, None), 9, Instant(0)));
        assert_eq!(state.tokens(Instant(0)), u32::MAX);
    }

    #[test]
    fn whoever_came_before_goes_before() {
        let ticket = |number| Ticket { due: Instant(5), number };
        let mut state = CounterState::new(&counter(Some(1), None), 1, Instant(0));
        assert!(state.has_room_for(ticket(7), 1, Instant(0)));
        state.parked.insert(ticket(7));
        let may = [6, 7, 8].map(|number| state.has_room_for(ticket(number), 1, Instant(0)));
        assert_eq!(may, [true, false, false]);
        assert!(state.needs_care());
        state.claim(Claim::Connection, Instant(0));
        assert!(!state.has_room_for(ticket(6), 1, Instant(0)));
        state.unclaim(Claim::Connection, Instant(0));
        assert!(state.has_room_for(ticket(6), 1, Instant(0)));
    }

    #[test]
    fn the_slowest_rate_is_claimed_first() {
        let rate = |count, seconds| Rate { count, period: Duration::from_secs(seconds) };
        assert_eq!((nanos_each(rate(4, 1)), nanos_each(rate(1, 3600))), (250_000_000, 3_600_000_000_000));
        let order = |rate| CounterState::new(&counter(None, rate), 1, Instant(0)).order;
        assert!(order(Some(rate(1, 60))) < order(Some(rate(2, 60))) && order(Some(rate(2, 60))) < order(None));
    }

    #[test]
    fn batches_of_tokens_are_what_the_rate_yields_in_a_while() {
        let of = |count| {
            let rate = Some(Rate { count, period: Duration::from_secs(1) });
            CounterState::new(&counter(None, rate), 1, Instant(0)).batch_min()
        };
        assert_eq!([of(1), of(200), of(400), of(10_000)], [1, 1, 2, 50]);
        assert_eq!(CounterState::new(&counter(None, None), 1, Instant(0)).batch_min(), 1);
    }

    #[test]
    fn a_counter_without_tokens_has_them_again_when_its_rate_says_so() {
        let rate = Some(Rate { count: 10, period: Duration::from_secs(1) });
        let mut state = CounterState::new(&counter(Some(2), rate), 1, Instant(0));
        state.take_tokens(2, Instant(0));
        assert_eq!((state.has_room(1, Instant(0)), state.refilled_at(1, Instant(0))), (false, Some(at(100))));
        assert_eq!((state.refilled_at(2, Instant(0)), state.has_room(1, at(100))), (Some(at(200)), true));
        state.put_tokens_back(1, Instant(0), Instant(0));
        assert!(state.has_room(1, Instant(0)));
        // A full counter waits for a permit, one without a rate for nothing.
        let mut full = CounterState::new(&counter(Some(0), rate), 1, Instant(0));
        full.take_tokens(2, Instant(0));
        assert_eq!(full.refilled_at(1, Instant(0)), None);
        assert_eq!(CounterState::new(&counter(None, None), 1, Instant(0)).refilled_at(1, Instant(0)), None);
    }

    #[test]
    fn a_counter_is_unused_when_a_new_one_would_be_the_same() {
        let rate = Some(Rate { count: 10, period: Duration::from_secs(1) });
        let mut state = CounterState::new(&counter(None, rate), 1, Instant(0));
        assert!(state.is_unused(Instant(0)));
        state.take_tokens(1, Instant(0));
        assert_eq!((state.is_unused(at(99)), state.is_unused(at(100))), (false, true));
        state.references += 1;
        assert!(!state.is_unused(at(100)));
    }
}
