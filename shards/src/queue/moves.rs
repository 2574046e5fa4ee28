//! Every move of an entry or a bucket between states. Which entry moves, and why, is the shard's business.
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
use super::bucket::{BucketId, HeldBy};
use super::entry::{Entry, EntryId, State};
use super::store::{Due, Queue, hash_of};
use crate::time::Timestamp;

impl Queue {
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
        entry.drop_body();
        entry.in_vain = 0;
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
        let entries = &self.entries;
        self.timers.gather(now, |id| entries.get(id.0 as usize).map(|entry| (entry.timer, entry.place)));
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
            self.under_hold += u64::from(ready);
        }
    }

    /// Lets a held bucket flow again.
    pub fn release_bucket(&mut self, id: BucketId) {
        let bucket = &mut self.buckets[id.0 as usize];
        if bucket.held.take().is_some() {
            let ready = bucket.ready_count;
            self.destinations[bucket.destination.0 as usize].ready += ready;
            self.under_hold -= u64::from(ready);
            self.list(id);
        }
    }

    /// Waiting → Ready, behind what is ready.
    fn wake(&mut self, id: EntryId) {
        let place = self.new_place();
        let entry = &mut self.entries[id.0 as usize];
        assert_eq!(entry.state, State::Waiting, "only a waiting entry wakes");
        entry.place = place;
        entry.timer = entry.expires;
        self.timers.push(entry.expires, place, id);
        let bucket = self.note_ready(id);
        self.buckets[bucket.0 as usize].order.append(&mut self.entries, id);
    }

    /// Ready again, at its old place.
    fn become_ready(&mut self, id: EntryId) {
        let place = self.entry(id).place;
        let bucket = self.note_ready(id);
        self.buckets[bucket.0 as usize].order.go_back(place, id);
    }

    fn note_ready(&mut self, id: EntryId) -> BucketId {
        let entry = &mut self.entries[id.0 as usize];
        let (before, bucket) = (entry.state, entry.bucket);
        entry.state = State::Ready;
        self.count(before, -1);
        self.count(State::Ready, 1);
        self.list(bucket);
        self.add_ready(bucket, 1);
        bucket
    }

    /// Ready → `state`.
    fn leave_ready(&mut self, id: EntryId, state: State) {
        let entry = &mut self.entries[id.0 as usize];
        assert_eq!(entry.state, State::Ready, "only a ready entry leaves its bucket's order");
        entry.state = state;
        let bucket = entry.bucket;
        self.count(State::Ready, -1);
        self.count(state, 1);
        self.add_ready(bucket, -1);
        self.buckets[bucket.0 as usize].order.leave(&mut self.entries, id);
    }

    pub(super) fn list(&mut self, id: BucketId) {
        let bucket = &mut self.buckets[id.0 as usize];
        if !bucket.listed && bucket.held.is_none() {
            bucket.listed = true;
            self.destinations[bucket.destination.0 as usize].ring.push_back(id);
        }
    }

    pub(super) fn add_ready(&mut self, bucket: BucketId, change: i32) {
        let bucket = &mut self.buckets[bucket.0 as usize];
        bucket.ready_count =
            bucket.ready_count.checked_add_signed(change).expect("ready entries are counted one by one");
        if bucket.held.is_none() {
            let ready = &mut self.destinations[bucket.destination.0 as usize].ready;
            *ready = ready.checked_add_signed(change).expect("ready entries are counted one by one");
        } else {
            let held = self.under_hold.checked_add_signed(i64::from(change));
            self.under_hold = held.expect("ready entries are counted one by one");
        }
    }

    pub(super) fn count(&mut self, state: State, change: i64) {
        let counter = match state {
            State::Ready => &mut self.counts.ready,
            State::Waiting => &mut self.counts.waiting,
            State::Held => &mut self.counts.held,
            State::InFlight => &mut self.counts.in_flight,
        };
        *counter = counter.checked_add_signed(change).expect("entries are counted one by one");
    }
}
