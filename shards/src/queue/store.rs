//! The queue itself: entries, buckets and destinations with their indexes, and every move between states.
//!
//! | from | by | to |
//! |---|---|---|
//! | – | `insert` | Ready, or Waiting when its due time is ahead |
//! | Ready | `take` | InFlight |
//! | Ready | `hold` | Held |
//! | InFlight | `put_back` | Ready, at its old place |
//! | InFlight, Ready | `defer` | Waiting |
//! | Waiting | `pop_due` (due time) | Ready, behind what is ready |
//! | Held | `release` | Ready, at its old place |
//! | any | `remove` | – |

use super::bucket::{Bucket, BucketId, BucketIndexKey, BucketKey, BucketQuery, HeldBy};
use super::destination::{Destination, DestinationId, DestinationKey, DestinationQuery, NextHop, queue_name};
use super::entry::{Entry, EntryId, NewEntry, State};
use super::timers::Timers;
use crate::message::{Location, MessageId};
use crate::time::Timestamp;
use hashbrown::{HashMap, HashTable};
use slab::Slab;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;

/// How many entries are in which state, over the whole queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Ready.
    pub ready: u64,
    /// Waiting for their due time.
    pub waiting: u64,
    /// Held one by one.
    pub held: u64,
    /// With a session.
    pub in_flight: u64,
}

/// What a timer brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// The entry became ready.
    Ready(EntryId),
    /// The entry's time ran out; it is in the state it was, and the caller ends it.
    Expired(EntryId),
}

/// One core's queue.
#[derive(Debug, Default)]
pub struct Queue {
    entries: Slab<Entry>,
    buckets: Slab<Bucket>,
    destinations: Slab<Destination>,
    bucket_index: HashMap<BucketIndexKey, BucketId>,
    destination_index: HashMap<DestinationKey, DestinationId>,
    /// Entries by message, for what comes by message id.
    by_message: HashTable<EntryId>,
    timers: Timers,
    next_place: u64,
    counts: Counts,
}

impl Queue {
    /// Takes a message in. `NewEntry::recipients` are of one domain, which names the destination.
    pub fn insert(&mut self, new: NewEntry, now: Timestamp) -> EntryId {
        let bucket = self.bucket_for(&new);
        let place = self.new_place();
        let due = new.due.filter(|due| *due > now);
        let state = if due.is_some() { State::Waiting } else { State::Ready };
        let timer = due.map_or(new.expires, |due| due.min(new.expires));
        let id = EntryId(index(self.entries.insert(Entry {
            envelope: new.envelope,
            recipients: new.recipients,
            location: new.location,
            body: new.body,
            bucket,
            attempts: new.attempts,
            state,
            maybe_delivered: new.maybe_delivered,
            place,
            timer,
            expires: new.expires,
        })));
        self.timers.push(timer, place, id);
        let hash = hash_of(self.entries[id.0 as usize].envelope.id());
        let entries = &self.entries;
        self.by_message.insert_unique(hash, id, |id| hash_of(entries[id.0 as usize].envelope.id()));
        let destination = self.buckets[bucket.0 as usize].destination;
        self.buckets[bucket.0 as usize].total += 1;
        self.destinations[destination.0 as usize].total += 1;
        self.count(state, 1);
        if state == State::Ready {
            self.buckets[bucket.0 as usize].ready.push_back((place, id));
            self.list(bucket);
            self.add_ready(bucket, 1);
        }
        id
    }

    /// An entry. Panics when it was removed: ids are the shard's own.
    #[must_use]
    pub fn entry(&self, id: EntryId) -> &Entry {
        &self.entries[id.0 as usize]
    }

    /// An entry if it is there and still the one that had `place`.
    #[must_use]
    pub fn entry_at(&self, id: EntryId, place: u64) -> Option<&Entry> {
        self.entries.get(id.0 as usize).filter(|entry| entry.place == place)
    }

    /// Changes what the shard may change of an entry: recipients, attempts, body, location, marks.
    /// State, place, bucket and timer are the queue's.
    pub fn entry_mut(&mut self, id: EntryId) -> &mut Entry {
        &mut self.entries[id.0 as usize]
    }

    /// All entries of a message.
    pub fn of_message(&self, id: MessageId) -> impl Iterator<Item = EntryId> {
        let of = self.by_message.iter_hash(hash_of(id)).copied();
        of.filter(move |entry| self.entry(*entry).envelope.id() == id)
    }

    /// The body of a message lies somewhere else now.
    pub fn relocate(&mut self, id: MessageId, location: Location) {
        let entries: Vec<EntryId> = self.of_message(id).collect();
        for entry in entries {
            self.entries[entry.0 as usize].location = location;
        }
    }

    /// The bucket whose turn it is at `destination` among those for which `eligible` holds, and the entry that
    /// leaves it next. Looks at each listed bucket at most once.
    pub fn next(
        &mut self,
        destination: DestinationId,
        mut eligible: impl FnMut(BucketId, &BucketKey) -> bool,
    ) -> Option<(BucketId, EntryId)> {
        let turns = self.destinations[destination.0 as usize].ring.len();
        for _ in 0..turns {
            let bucket_id = *self.destinations[destination.0 as usize].ring.front()?;
            self.drop_stale(bucket_id);
            let bucket = &mut self.buckets[bucket_id.0 as usize];
            let ring = &mut self.destinations[destination.0 as usize].ring;
            let Some((_, entry)) = bucket.front().filter(|_| bucket.held.is_none()) else {
                bucket.listed = false;
                ring.pop_front();
                continue;
            };
            if eligible(bucket_id, &bucket.key) {
                return Some((bucket_id, entry));
            }
            ring.rotate_left(1);
        }
        None
    }

    /// Gives a ready entry to a session; the next turn goes to the bucket after its own.
    pub fn take(&mut self, id: EntryId) -> &mut Entry {
        self.leave_ready(id, State::InFlight);
        let bucket = self.entries[id.0 as usize].bucket;
        let destination = self.buckets[bucket.0 as usize].destination;
        let ring = &mut self.destinations[destination.0 as usize].ring;
        if ring.front() == Some(&bucket) {
            ring.rotate_left(1);
        }
        &mut self.entries[id.0 as usize]
    }

    /// Holds one ready entry. The caller remembers under which rule.
    pub fn hold(&mut self, id: EntryId) {
        self.leave_ready(id, State::Held);
    }

    /// Lets a held entry go to its old place.
    pub fn release(&mut self, id: EntryId) {
        assert_eq!(self.entry(id).state, State::Held, "only a held entry is released");
        self.become_ready(id);
    }

    /// Takes an entry back from a session without anything having happened to it.
    pub fn put_back(&mut self, id: EntryId) {
        let entry = self.entry(id);
        assert_eq!(entry.state, State::InFlight, "only an entry in flight is put back");
        // Its expiry may have rung meanwhile.
        self.timers.push(entry.timer, entry.place, id);
        self.become_ready(id);
    }

    /// Lets an entry that is ready or in flight wait until `due`; its body leaves memory.
    pub fn defer(&mut self, id: EntryId, due: Timestamp) {
        if self.entry(id).state == State::Ready {
            self.leave_ready(id, State::Waiting);
        } else {
            let before = self.entry(id).state;
            self.count(before, -1);
            self.count(State::Waiting, 1);
        }
        let entry = &mut self.entries[id.0 as usize];
        entry.state = State::Waiting;
        entry.body = None;
        entry.timer = due.min(entry.expires);
        self.timers.push(entry.timer, entry.place, id);
        self.trim_timers();
    }

    /// Makes a waiting entry due now.
    pub fn hasten(&mut self, id: EntryId) {
        if self.entry(id).state == State::Waiting {
            self.wake(id);
        }
    }

    /// Ends an entry in any state and gives it to the caller.
    pub fn remove(&mut self, id: EntryId) -> Entry {
        if self.entry(id).state == State::Ready {
            self.leave_ready(id, State::InFlight);
        }
        let hash = hash_of(self.entry(id).envelope.id());
        if let Ok(found) = self.by_message.find_entry(hash, |of| *of == id) {
            found.remove();
        }
        let entry = self.entries.remove(id.0 as usize);
        self.count(entry.state, -1);
        let bucket = &mut self.buckets[entry.bucket.0 as usize];
        bucket.total -= 1;
        self.destinations[bucket.destination.0 as usize].total -= 1;
        self.trim_timers();
        entry
    }

    /// What the earliest timer brings at `now`, if anything.
    pub fn pop_due(&mut self, now: Timestamp) -> Option<Due> {
        while let Some((at, place, id)) = self.timers.pop_due(now) {
            let Some(entry) = self.entry_at(id, place).filter(|entry| entry.timer == at) else {
                continue;
            };
            if entry.expires <= now {
                return Some(Due::Expired(id));
            }
            if entry.state == State::Waiting {
                self.wake(id);
                return Some(Due::Ready(id));
            }
        }
        None
    }

    /// When to call [`Queue::pop_due`] next.
    #[must_use]
    pub fn next_due(&self) -> Option<Timestamp> {
        self.timers.next()
    }

    /// Flags a bucket as held: it leaves its destination's ring, whatever its depth.
    pub fn hold_bucket(&mut self, id: BucketId, by: HeldBy) {
        let bucket = &mut self.buckets[id.0 as usize];
        if bucket.held.replace(by).is_none() {
            let ready = bucket.ready_count;
            self.destinations[bucket.destination.0 as usize].ready -= ready;
        }
    }

    /// Lets a held bucket flow again.
    pub fn release_bucket(&mut self, id: BucketId) {
        let bucket = &mut self.buckets[id.0 as usize];
        if bucket.held.take().is_some() {
            let ready = bucket.ready_count;
            self.destinations[bucket.destination.0 as usize].ready += ready;
            self.list(id);
        }
    }

    /// Why a bucket does not flow, if so.
    #[must_use]
    pub fn bucket_held(&self, id: BucketId) -> Option<&HeldBy> {
        self.buckets.get(id.0 as usize)?.held.as_ref()
    }

    /// What the entries of a bucket have in common.
    #[must_use]
    pub fn bucket_key(&self, id: BucketId) -> &BucketKey {
        &self.buckets[id.0 as usize].key
    }

    /// Name of the scheduled queue that a bucket belongs to.
    #[must_use]
    pub fn bucket_name(&self, id: BucketId) -> &Arc<str> {
        &self.buckets[id.0 as usize].queue_name
    }

    /// Entries of a bucket in any state.
    #[must_use]
    pub fn bucket_total(&self, id: BucketId) -> u32 {
        self.buckets.get(id.0 as usize).map_or(0, |bucket| bucket.total)
    }

    /// Destination of a bucket.
    #[must_use]
    pub fn destination_of(&self, id: BucketId) -> DestinationId {
        self.buckets[id.0 as usize].destination
    }

    /// Domain and next hop of a destination.
    #[must_use]
    pub fn destination(&self, id: DestinationId) -> (&Arc<str>, &NextHop) {
        let destination = &self.destinations[id.0 as usize];
        (&destination.domain, &destination.next_hop)
    }

    /// All buckets of a destination.
    #[must_use]
    pub fn buckets(&self, id: DestinationId) -> &[BucketId] {
        &self.destinations[id.0 as usize].buckets
    }

    /// Ready entries of a destination in buckets that are not held.
    #[must_use]
    pub fn ready(&self, id: DestinationId) -> u32 {
        self.destinations.get(id.0 as usize).map_or(0, |destination| destination.ready)
    }

    /// Entries of a destination in any state; `None` when there is no such destination.
    #[must_use]
    pub fn total(&self, id: DestinationId) -> Option<u32> {
        self.destinations.get(id.0 as usize).map(|destination| destination.total)
    }

    /// Forgets a destination that has no entries. Whether it did.
    pub fn forget(&mut self, id: DestinationId) -> bool {
        if self.total(id) != Some(0) {
            return false;
        }
        let destination = self.destinations.remove(id.0 as usize);
        for bucket_id in destination.buckets {
            let bucket = self.buckets.remove(bucket_id.0 as usize);
            self.bucket_index.remove(&BucketIndexKey(id, bucket.key));
        }
        self.destination_index.remove(&DestinationKey(destination.domain, destination.next_hop));
        true
    }

    /// The entry that leaves a bucket next, whether it is held or not.
    pub fn next_of(&mut self, id: BucketId) -> Option<EntryId> {
        self.drop_stale(id);
        self.buckets[id.0 as usize].front().map(|(_, entry)| entry)
    }

    /// The place given last: whatever comes later has a greater one.
    #[must_use]
    pub fn last_place(&self) -> u64 {
        self.next_place
    }

    /// All destinations. Copied, so that they can be attended to.
    #[must_use]
    pub fn destination_ids(&self) -> Vec<DestinationId> {
        self.destinations.iter().map(|(at, _)| DestinationId(index(at))).collect()
    }

    /// Entries by state.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Entries in all.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Ids of all entries, for sweeps in slices: `after` is the last id seen.
    pub fn entries_after(&self, after: Option<EntryId>, limit: usize) -> impl Iterator<Item = (EntryId, &Entry)> {
        let from = after.map_or(0, |id| id.0 as usize + 1);
        let until = self.entries.capacity().min(from.saturating_add(limit));
        (from..until).filter_map(|at| self.entries.get(at).map(|entry| (EntryId(index(at)), entry)))
    }

    /// Upper bound of entry ids, for sweeps.
    #[must_use]
    pub fn entry_id_bound(&self) -> usize {
        self.entries.capacity()
    }

    fn bucket_for(&mut self, new: &NewEntry) -> BucketId {
        let domain = new.envelope.domain(usize::from(new.recipients[0]));
        let query = DestinationQuery { domain, envelope: &new.envelope };
        let destination = match self.destination_index.get(&query) {
            Some(id) => *id,
            None => self.new_destination(Arc::from(domain), NextHop::of(&new.envelope)),
        };
        match self.bucket_index.get(&BucketQuery(destination, &new.envelope)) {
            Some(id) => *id,
            None => self.new_bucket(destination, BucketKey::of(&new.envelope)),
        }
    }

    fn new_destination(&mut self, domain: Arc<str>, next_hop: NextHop) -> DestinationId {
        let id = DestinationId(index(self.destinations.insert(Destination {
            domain: domain.clone(),
            next_hop: next_hop.clone(),
            buckets: Vec::new(),
            ring: VecDeque::new(),
            total: 0,
            ready: 0,
        })));
        self.destination_index.insert(DestinationKey(domain, next_hop), id);
        id
    }

    fn new_bucket(&mut self, destination: DestinationId, key: BucketKey) -> BucketId {
        let of = &self.destinations[destination.0 as usize];
        let routing_domain = match &of.next_hop {
            NextHop::Domain(domain) => Some(&**domain),
            NextHop::Recipient | NextHop::Host(_) => None,
        };
        let name = queue_name(key.campaign.as_deref(), key.tenant.as_deref(), &of.domain, routing_domain);
        let id = BucketId(index(self.buckets.insert(Bucket {
            key: key.clone(),
            destination,
            queue_name: Arc::from(name),
            ready: VecDeque::new(),
            returned: BinaryHeap::new(),
            total: 0,
            ready_count: 0,
            held: None,
            listed: false,
        })));
        self.destinations[destination.0 as usize].buckets.push(id);
        self.bucket_index.insert(BucketIndexKey(destination, key), id);
        id
    }

    /// Waiting → Ready, behind what is ready.
    fn wake(&mut self, id: EntryId) {
        let place = self.new_place();
        let entry = &mut self.entries[id.0 as usize];
        assert_eq!(entry.state, State::Waiting, "only a waiting entry wakes");
        entry.place = place;
        entry.timer = entry.expires;
        self.timers.push(entry.expires, place, id);
        self.become_ready(id);
    }

    fn become_ready(&mut self, id: EntryId) {
        let entry = &mut self.entries[id.0 as usize];
        let (before, bucket, place) = (entry.state, entry.bucket, entry.place);
        entry.state = State::Ready;
        self.count(before, -1);
        self.count(State::Ready, 1);
        self.buckets[bucket.0 as usize].returned.push(std::cmp::Reverse((place, id)));
        self.list(bucket);
        self.add_ready(bucket, 1);
    }

    /// Ready → `state`. The entry at the front of its bucket leaves at once, another one leaves a stale item
    /// behind, which `drop_stale` removes when it comes to the front.
    fn leave_ready(&mut self, id: EntryId, state: State) {
        let entry = &mut self.entries[id.0 as usize];
        assert_eq!(entry.state, State::Ready, "only a ready entry leaves its bucket's order");
        entry.state = state;
        let (bucket, place) = (entry.bucket, entry.place);
        self.count(State::Ready, -1);
        self.count(state, 1);
        self.add_ready(bucket, -1);
        let bucket = &mut self.buckets[bucket.0 as usize];
        if bucket.front() == Some((place, id)) {
            bucket.pop_front();
        }
    }

    fn drop_stale(&mut self, bucket: BucketId) {
        let bucket = &mut self.buckets[bucket.0 as usize];
        while let Some((place, id)) = bucket.front() {
            let live = self
                .entries
                .get(id.0 as usize)
                .is_some_and(|entry| entry.place == place && entry.state == State::Ready);
            if live {
                break;
            }
            bucket.pop_front();
        }
    }

    fn list(&mut self, id: BucketId) {
        let bucket = &mut self.buckets[id.0 as usize];
        if !bucket.listed && bucket.held.is_none() {
            bucket.listed = true;
            self.destinations[bucket.destination.0 as usize].ring.push_back(id);
        }
    }

    fn add_ready(&mut self, bucket: BucketId, change: i32) {
        let bucket = &mut self.buckets[bucket.0 as usize];
        bucket.ready_count =
            bucket.ready_count.checked_add_signed(change).expect("ready entries are counted one by one");
        if bucket.held.is_none() {
            let ready = &mut self.destinations[bucket.destination.0 as usize].ready;
            *ready = ready.checked_add_signed(change).expect("ready entries are counted one by one");
        }
    }

    fn count(&mut self, state: State, change: i64) {
        let counter = match state {
            State::Ready => &mut self.counts.ready,
            State::Waiting => &mut self.counts.waiting,
            State::Held => &mut self.counts.held,
            State::InFlight => &mut self.counts.in_flight,
        };
        *counter = counter.checked_add_signed(change).expect("entries are counted one by one");
    }

    fn new_place(&mut self) -> u64 {
        self.next_place += 1;
        self.next_place
    }

    fn trim_timers(&mut self) {
        if self.timers.overgrown(self.entries.len()) {
            let entries = &self.entries;
            self.timers.rebuild(|at, place, id| {
                entries.get(id.0 as usize).is_some_and(|entry| entry.place == place && entry.timer == at)
            });
        }
    }
}

/// Ids count up, so a multiplication spreads them well enough.
fn hash_of(id: MessageId) -> u64 {
    let mixed = id.sequence ^ u64::from(id.core) << 48 ^ u64::from(id.generation) << 16;
    let hash = mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    hash ^ hash >> 29
}

fn index(at: usize) -> u32 {
    u32::try_from(at).expect("memory ends before four thousand million entries")
}
