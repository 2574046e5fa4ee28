//! The queue against a plain model of it: each move at random, and after each one everything that can be asked.

#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

use mailrace_shards::message::{ContentFlags, Envelope, Extras, Location, MessageId};
use mailrace_shards::queue::{BucketId, DestinationId, Due, EntryId, HeldBy, NewEntry, Queue, State};
use mailrace_shards::time::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

fn millis(from: Timestamp, more: i64) -> Timestamp {
    Timestamp(from.0 + more)
}

/// What is known of an entry.
#[derive(Debug)]
struct Known {
    message: MessageId,
    state: State,
    bucket: BucketId,
    /// Its place in the line: when it came, or came back from waiting.
    turn: u64,
    due: Timestamp,
    expires: Timestamp,
    location: Location,
}

#[derive(Default)]
struct Model {
    queue: Queue,
    known: BTreeMap<EntryId, Known>,
    held: BTreeSet<BucketId>,
    /// Its expiry has rung, and does so again when it is put back.
    rung: BTreeSet<EntryId>,
    turn: u64,
    sequence: u64,
    now: Timestamp,
}

impl Model {
    fn pick(&self, random: &mut Random, wanted: impl Fn(&Known) -> bool) -> Option<EntryId> {
        let fitting: Vec<EntryId> = self.known.iter().filter(|(_, known)| wanted(known)).map(|(id, _)| *id).collect();
        (!fitting.is_empty()).then(|| fitting[random.below(fitting.len() as u64) as usize])
    }

    fn set(&mut self, id: EntryId, state: State) {
        self.known.get_mut(&id).unwrap().state = state;
    }

    fn insert(&mut self, random: &mut Random) {
        self.sequence += u64::from(random.below(3) > 0);
        let message = MessageId { generation: 7, core: 3, sequence: self.sequence };
        let recipient = format!("r@d{}.test", random.below(3));
        let campaign = [None, Some("spring"), Some("summer")][random.below(3) as usize];
        let routing_domain = [None, None, Some("far.test")][random.below(3) as usize];
        let extras = Extras {
            campaign: campaign.map(Into::into),
            routing_domain: routing_domain.map(Into::into),
            ..Extras::default()
        };
        let extras = (extras != Extras::default()).then(|| Box::new(extras));
        let flags = ContentFlags::default();
        let envelope = Arc::new(Envelope::new(message, self.now, 9, flags, "s@s.test", &[recipient], extras));
        let due = (random.below(3) == 0).then(|| millis(self.now, random.below(50) as i64 - 10));
        let expires = millis(self.now, 20 + random.below(200) as i64);
        let location = Location { spool: 1, segment: 2, offset: self.turn, length: 9 };
        let new = NewEntry {
            envelope,
            recipients: std::iter::once(0).collect(),
            location,
            body: None,
            attempts: 0,
            due,
            expires,
            maybe_delivered: false,
        };
        let id = self.queue.insert(new, self.now);
        self.turn += 1;
        let waits = due.is_some_and(|due| due > self.now);
        let state = if waits { State::Waiting } else { State::Ready };
        let (bucket, turn, due) = (self.queue.entry(id).bucket, self.turn, due.unwrap_or(self.now));
        let before = self.known.insert(id, Known { message, state, bucket, turn, due, expires, location });
        assert!(before.is_none(), "an id is used once at a time");
    }

    /// Gives what a destination sends next to a session. Buckets take turns.
    fn take(&mut self, random: &mut Random) {
        let destinations = self.queue.destination_ids();
        if destinations.is_empty() {
            return;
        }
        let destination = destinations[random.below(destinations.len() as u64) as usize];
        let shunned = self.queue.buckets(destination).iter().copied().find(|_| random.below(8) == 0);
        let Some((bucket, id)) = self.queue.next(destination, |bucket, _| Some(bucket) != shunned) else {
            let flows = self.flowing(destination).into_iter().filter(|bucket| Some(*bucket) != shunned).count();
            return assert_eq!(flows, 0, "nothing was offered");
        };
        assert!(!self.held.contains(&bucket) && Some(bucket) != shunned);
        assert_eq!(Some(id), self.first_of(bucket));
        self.queue.take(id);
        self.set(id, State::InFlight);
        let others: Vec<BucketId> = self.flowing(destination).into_iter().filter(|other| *other != bucket).collect();
        let next = self.queue.next(destination, |_, _| true).map(|(bucket, _)| bucket);
        assert!(others.is_empty() || next.is_some_and(|next| others.contains(&next)), "buckets take turns");
    }

    fn first_of(&self, bucket: BucketId) -> Option<EntryId> {
        let ready = self.known.iter().filter(|(_, known)| known.bucket == bucket && known.state == State::Ready);
        ready.min_by_key(|(_, known)| known.turn).map(|(id, _)| *id)
    }

    /// Buckets of a destination that are not held and have ready mail.
    fn flowing(&self, destination: DestinationId) -> Vec<BucketId> {
        let buckets = self.queue.buckets(destination).iter().copied();
        buckets.filter(|bucket| !self.held.contains(bucket) && self.first_of(*bucket).is_some()).collect()
    }

    fn remove(&mut self, id: EntryId) {
        let known = self.known.remove(&id).unwrap();
        assert_eq!(self.queue.remove(id).envelope.id(), known.message);
        self.rung.remove(&id);
    }

    fn wake(&mut self, id: EntryId) {
        self.turn += 1;
        let known = self.known.get_mut(&id).unwrap();
        assert_eq!(known.state, State::Waiting);
        (known.state, known.turn) = (State::Ready, self.turn);
    }

    /// Time passes: what is due comes, all of it and nothing else; what has expired is removed unless a session has it.
    fn pass(&mut self, random: &mut Random) {
        self.now = millis(self.now, random.below(20) as i64);
        while let Some(due) = self.queue.pop_due(self.now) {
            match due {
                Due::Ready(id) => {
                    assert!(self.known[&id].due <= self.now && self.known[&id].expires > self.now);
                    self.wake(id);
                }
                Due::Expired(id) => {
                    assert!(self.known[&id].expires <= self.now);
                    if self.known[&id].state == State::InFlight {
                        // It may ring again: once for each time that it was put back.
                        self.rung.insert(id);
                    } else {
                        self.remove(id);
                    }
                }
            }
        }
        for (id, known) in &self.known {
            assert!(known.expires > self.now || self.rung.contains(id), "{known:?} has expired");
            assert!(known.state != State::Waiting || known.due > self.now, "{known:?} is due");
        }
    }

    fn bucket(&mut self, random: &mut Random) {
        let Some(id) = self.pick(random, |_| true) else { return };
        let bucket = self.known[&id].bucket;
        if random.below(2) == 0 {
            self.queue.hold_bucket(bucket, HeldBy { rule: "p".into(), until: Timestamp::NEVER });
            self.held.insert(bucket);
        } else {
            self.queue.release_bucket(bucket);
            self.held.remove(&bucket);
        }
    }

    fn forget(&mut self, random: &mut Random) {
        let destinations = self.queue.destination_ids();
        if let Some(&id) = destinations.get(random.below(4) as usize) {
            let buckets = self.queue.buckets(id).to_vec();
            let is_empty = self.known.values().all(|known| !buckets.contains(&known.bucket));
            assert_eq!(self.queue.forget(id), is_empty);
            if is_empty {
                self.held.retain(|bucket| !buckets.contains(bucket));
            }
        }
    }

    fn step(&mut self, random: &mut Random) {
        let ready = |known: &Known| known.state == State::Ready;
        let flying = |known: &Known| known.state == State::InFlight;
        match random.below(12) {
            0..=3 => self.insert(random),
            4 => self.take(random),
            5 => self.pass(random),
            6 => self.bucket(random),
            7 => self.forget(random),
            8 => {
                if let Some(id) = self.pick(random, ready) {
                    self.queue.hold(id);
                    self.set(id, State::Held);
                }
                if let Some(id) = self.pick(random, |known| known.state == State::Held).filter(|_| random.below(2) == 0)
                {
                    self.queue.release(id);
                    self.set(id, State::Ready);
                }
            }
            9 => {
                if let Some(id) = self.pick(random, flying) {
                    self.queue.put_back(id);
                    self.rung.remove(&id);
                    self.set(id, State::Ready);
                }
            }
            10 => {
                if let Some(id) = self.pick(random, |known| ready(known) || flying(known)) {
                    let due = millis(self.now, 1 + random.below(30) as i64);
                    self.queue.defer(id, due);
                    self.rung.remove(&id);
                    let known = self.known.get_mut(&id).unwrap();
                    (known.state, known.due) = (State::Waiting, due);
                }
                if let Some(id) = self.pick(random, |_| true).filter(|_| random.below(2) == 0) {
                    self.queue.hasten(id);
                    if self.known[&id].state == State::Waiting {
                        self.wake(id);
                    }
                }
            }
            _ => {
                if let Some(id) = self.pick(random, |_| true) {
                    self.remove(id);
                }
                if let Some(id) = self.pick(random, |_| true) {
                    self.relocate(self.known[&id].message, random);
                }
            }
        }
        // What has expired meanwhile rings at the next step of time, and is not looked for before.
    }

    fn relocate(&mut self, message: MessageId, random: &mut Random) {
        let location = Location { spool: 2, segment: 9, offset: random.below(1 << 20), length: 9 };
        self.queue.relocate(message, location);
        let of_it = self.known.values_mut().filter(|known| known.message == message);
        of_it.for_each(|known| known.location = location);
    }

    fn check(&mut self) {
        let count = |state| self.known.values().filter(|known| known.state == state).count() as u64;
        let is_under_hold =
            |known: &&Known| known.state == State::Ready && self.queue.bucket_held(known.bucket).is_some();
        let under_hold = self.known.values().filter(is_under_hold).count() as u64;
        let counts = self.queue.counts();
        assert_eq!(
            (counts.ready, counts.waiting, counts.held, counts.in_flight),
            (
                count(State::Ready) - under_hold,
                count(State::Waiting),
                count(State::Held) + under_hold,
                count(State::InFlight)
            )
        );
        assert_eq!((self.queue.len(), self.queue.is_empty()), (self.known.len(), self.known.is_empty()));
        let ids: Vec<EntryId> = self.queue.entries_after(None, usize::MAX).map(|(id, _)| id).collect();
        assert!(ids.iter().eq(self.known.keys()));
        assert_eq!(self.queue.last_place(), self.turn);
        for (id, known) in &self.known {
            let entry = self.queue.entry(*id);
            let told = (entry.envelope.id(), entry.state, entry.place, entry.location());
            assert_eq!(told, (known.message, known.state, known.turn, known.location));
            let of_message: BTreeSet<EntryId> = self.queue.of_message(known.message).collect();
            assert!(of_message.contains(id) && of_message.iter().all(|of| self.known[of].message == known.message));
            let rings = if known.state == State::Waiting { known.due.min(known.expires) } else { known.expires };
            assert!(self.rung.contains(id) || self.queue.next_due().is_some_and(|at| at <= rings), "{known:?}");
        }
        let totals: BTreeMap<BucketId, u32> = self.queue.bucket_totals(0, usize::MAX).collect();
        for destination in self.queue.destination_ids() {
            let (mut total, mut flowing) = (0, 0);
            for &bucket in self.queue.buckets(destination) {
                let inside: Vec<&Known> = self.known.values().filter(|known| known.bucket == bucket).collect();
                let ready = inside.iter().filter(|known| known.state == State::Ready).count() as u32;
                let told = (self.queue.bucket_total(bucket), totals[&bucket], self.queue.bucket_held(bucket).is_some());
                assert_eq!(told, (inside.len() as u32, inside.len() as u32, self.held.contains(&bucket)));
                assert_eq!(self.queue.bucket_size(bucket).unwrap().1, told.0);
                assert_eq!(self.queue.destination_of(bucket), destination);
                total += told.0;
                flowing += if told.2 { 0 } else { ready };
            }
            assert_eq!((self.queue.total(destination), self.queue.ready(destination)), (Some(total), flowing));
        }
    }
}

#[test]
fn a_queue_does_what_its_moves_say() {
    for seed in 1..=20 {
        let mut random = Random(seed);
        let mut model = Model { now: Timestamp(1_700_000_000_000), ..Model::default() };
        for _ in 0..400 {
            model.step(&mut random);
            model.check();
        }
        // In the end all of it can go, and nothing of it is left.
        while let Some(id) = model.pick(&mut random, |_| true) {
            model.remove(id);
        }
        assert_eq!(model.queue.pop_due(Timestamp::NEVER), None);
        for destination in model.queue.destination_ids() {
            assert!(model.queue.forget(destination));
        }
        assert_eq!((model.queue.bucket_totals(0, usize::MAX).count(), model.queue.next_due()), (0, None));
    }
}
