//! The queue itself: entries, buckets and destinations with their indexes, and every look-up. The moves between
//! states are in `moves`.

use super::bucket::{Bucket, BucketId, BucketIndexKey, BucketKey, BucketQuery, HeldBy};
use super::destination::{Destination, DestinationId, DestinationKey, DestinationQuery, NextHop, queue_name};
use super::entries::Entries;
use super::entry::{Entry, EntryId, NewEntry, State};
use super::order::Order;
use super::timers::Timers;
use crate::message::{Location, MessageId};
use crate::time::Timestamp;
use hashbrown::{HashMap, HashTable};
use slab::Slab;
use std::collections::VecDeque;
use std::sync::Arc;

/// How many entries are in which state, over the whole queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Ready, and not in a held bucket.
    pub ready: u64,
    /// Waiting for their due time.
    pub waiting: u64,
    /// Held one by one, or ready but in a held bucket.
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
    pub(super) entries: Entries,
    pub(super) buckets: Slab<Bucket>,
    pub(super) destinations: Slab<Destination>,
    bucket_index: HashMap<BucketIndexKey, BucketId>,
    destination_index: HashMap<DestinationKey, DestinationId>,
    /// Entries by message, for what comes by message id.
    pub(super) by_message: HashTable<EntryId>,
    pub(super) timers: Timers,
    next_place: u64,
    /// By the entries' own state: what is ready in held buckets counts as ready here.
    pub(super) counts: Counts,
    /// Ready entries in held buckets.
    pub(super) under_hold: u64,
}

impl Queue {
    /// Takes a message in. `NewEntry::recipients` are of one domain, which names the destination.
    pub fn insert(&mut self, new: NewEntry, now: Timestamp) -> EntryId {
        let bucket = self.bucket_for(&new);
        let place = self.new_place();
        let due = new.due.filter(|due| *due > now);
        let state = if due.is_some() { State::Waiting } else { State::Ready };
        let timer = due.map_or(new.expires, |due| due.min(new.expires));
        let id = EntryId(index(self.entries.insert(Entry::new(new, bucket, state, place, timer))));
        self.timers.push(timer, place, id);
        let hash = hash_of(self.entries[id.0 as usize].envelope.id());
        let entries = &self.entries;
        self.by_message.insert_unique(hash, id, |id| hash_of(entries[id.0 as usize].envelope.id()));
        let destination = self.buckets[bucket.0 as usize].destination;
        self.buckets[bucket.0 as usize].total += 1;
        self.destinations[destination.0 as usize].total += 1;
        self.count(state, 1);
        if state == State::Ready {
            self.buckets[bucket.0 as usize].order.append(&mut self.entries, id);
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
            self.entries[entry.0 as usize].set_location(location);
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
            let bucket = &mut self.buckets[bucket_id.0 as usize];
            let ring = &mut self.destinations[destination.0 as usize].ring;
            let Some(entry) = bucket.front(&self.entries).filter(|_| bucket.held.is_none()) else {
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
        self.buckets[id.0 as usize].front(&self.entries)
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

    /// Buckets with a number from `from` on, `limit` numbers at most, and how many entries each has.
    pub fn bucket_totals(&self, from: usize, limit: usize) -> impl Iterator<Item = (BucketId, u32)> {
        let until = self.buckets.capacity().min(from.saturating_add(limit));
        (from..until).filter_map(|at| self.buckets.get(at).map(|bucket| (BucketId(index(at)), bucket.total)))
    }

    /// Upper bound of bucket ids.
    #[must_use]
    pub fn bucket_id_bound(&self) -> usize {
        self.buckets.capacity()
    }

    /// Name and entries of a bucket, if there is one of that number.
    #[must_use]
    pub fn bucket_size(&self, id: BucketId) -> Option<(&Arc<str>, u32)> {
        self.buckets.get(id.0 as usize).map(|bucket| (&bucket.queue_name, bucket.total))
    }

    /// Entries by state.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let Counts { ready, held, .. } = self.counts;
        Counts { ready: ready - self.under_hold, held: held + self.under_hold, ..self.counts }
    }

    /// Entries in all.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.len() == 0
    }

    /// Ids of all entries, for sweeps in slices: `after` is the last id seen.
    pub fn entries_after(&self, after: Option<EntryId>, limit: usize) -> impl Iterator<Item = (EntryId, &Entry)> {
        let from = after.map_or(0, |id| id.0 as usize + 1);
        let until = self.entries.bound().min(from.saturating_add(limit));
        (from..until).filter_map(|at| self.entries.get(at).map(|entry| (EntryId(index(at)), entry)))
    }

    /// Upper bound of entry ids, for sweeps.
    #[must_use]
    pub fn entry_id_bound(&self) -> usize {
        self.entries.bound()
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
            order: Order::default(),
            total: 0,
            ready_count: 0,
            held: None,
            listed: false,
        })));
        self.destinations[destination.0 as usize].buckets.push(id);
        self.bucket_index.insert(BucketIndexKey(destination, key), id);
        id
    }

    pub(super) fn new_place(&mut self) -> u64 {
        self.next_place += 1;
        self.next_place
    }

    pub(super) fn trim_timers(&mut self) {
        if self.timers.overgrown(self.entries.len()) {
            let live = self.entries.iter().map(|(at, entry)| (entry.timer, entry.place, EntryId(index(at))));
            self.timers.rebuild(live);
        }
    }
}

/// Ids count up, so a multiplication spreads them well enough.
pub(super) fn hash_of(id: MessageId) -> u64 {
    let mixed = id.sequence ^ u64::from(id.core) << 48 ^ u64::from(id.generation) << 16;
    let hash = mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    hash ^ hash >> 29
}

fn index(at: usize) -> u32 {
    u32::try_from(at).expect("memory ends before four thousand million entries")
}
