//! What is open, where it lies, and which segments are still needed. Pure bookkeeping; one per spool, owned by
//! the spool's thread.
//!
//! A segment may go when nothing in it is open, no done- or cut-record in it tells of a segment that still exists
//! (without its done-record a finished message would rise again), and no attempt-record in it is the newest one of an
//! open recipient. While a segment holds
//! superseded copies (compaction moved messages out of it), no later segment may go before it, because a
//! message's done-record is only kept for as long as its newest copy. And it stays while the outcome log may lack
//! the reception of a message that came in there.

use super::open::{Open, OpenMessages};
use super::report::{OpenRecipient, Point, Standing};
use crate::message::MessageId;
use hashbrown::HashMap;
use smallvec::SmallVec;
use std::collections::BTreeMap;

/// Where a message's record lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Segment.
    pub segment: u32,
    /// Where the record begins.
    pub offset: u32,
    /// Octets before the body.
    pub head: u32,
    /// Octets of the body.
    pub body: u32,
}

impl Place {
    /// Octets of the whole record.
    #[must_use]
    pub fn record_bytes(&self) -> u64 {
        u64::from(self.head) + u64::from(self.body) + super::record::TRAILER_BYTES as u64
    }

    /// Where the record begins.
    fn begin(&self) -> Point {
        Point { segment: self.segment, offset: self.offset.into() }
    }
}

/// Recipients that fit into the entry's own bitmap.
const INLINE_RECIPIENTS: u16 = 16;

/// In the place of a number of recipients: it and the bitmap are among what is rare.
const MANY: u8 = u8::MAX;

/// In the place of the octets before the body: they are among what is rare.
const LONG_HEAD: u16 = u16::MAX;

/// What most open messages do not have.
#[derive(Default)]
struct Rare {
    /// How many, when there are more than [`INLINE_RECIPIENTS`].
    recipients: u16,
    /// Their bitmap.
    bits: Vec<u64>,
    /// Open recipients that were tried, by index.
    standings: Vec<Tried>,
    /// Octets before the body, when [`LONG_HEAD`] says so.
    head: u32,
}

/// How far an open recipient is, and where that is written.
#[derive(Clone, Copy)]
pub(super) struct Tried {
    pub(super) index: u16,
    /// Of the record that tells it, the octets for this recipient; zero before it is written…
    pub(super) share: u16,
    /// …and its segment.
    pub(super) at: u32,
    pub(super) standing: Standing,
}

impl Tried {
    /// Nobody needs its record any more.
    fn untell(&self, segments: &mut BTreeMap<u32, SegmentState>) {
        if let Some(state) = segments.get_mut(&self.at) {
            state.told -= u64::from(self.share);
        }
    }
}

/// What the ledger knows of one segment.
#[derive(Clone, Debug, Default)]
pub struct SegmentState {
    /// Octets of its records and header.
    pub total: u64,
    /// Octets of the records of open messages.
    pub live: u64,
    /// Open messages whose newest copy it holds.
    pub open: u32,
    /// Nothing will be appended.
    pub sealed: bool,
    /// It holds copies of messages that have a newer copy.
    pub superseded: bool,
    /// Part of it was unreadable; it is to be kept for the operator under another name.
    pub damaged: bool,
    /// Compaction could not read it; not to be tried again in this start.
    pub stuck: bool,
    /// Where the last message begins that came in here; copies apart, which came in elsewhere.
    last_message: Option<u32>,
    /// Octets of done- and cut-records here that tell of another segment, by that segment.
    refers: BTreeMap<u32, u64>,
    /// Octets of attempt-records here that tell how far open recipients are. Where they were tried again since, a newer
    /// record does.
    told: u64,
}

impl SegmentState {
    /// Octets that must outlive a compaction.
    #[must_use]
    pub fn needed(&self) -> u64 {
        self.live + self.refers.values().sum::<u64>() + self.told
    }

    /// Nothing in it is needed: it only waits for those before it to go.
    fn is_idle(&self) -> bool {
        self.open == 0 && self.refers.is_empty() && self.told == 0
    }
}

/// What became of a message's recipients so far, for writing it again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Recipients that are finished.
    pub done: SmallVec<[u16; 4]>,
    /// Open recipients that were tried.
    pub tried: Vec<(u16, Standing)>,
}

/// See the module.
#[derive(Default)]
pub struct Ledger {
    messages: OpenMessages,
    rare: HashMap<MessageId, Rare>,
    segments: BTreeMap<u32, SegmentState>,
    /// The receptions of all messages before it are in the outcome log.
    recorded: Point,
    /// Where the last message begins that came in.
    last_message: Point,
}

impl Ledger {
    /// Takes over what another one knows of other messages, in other segments.
    pub(super) fn absorb(&mut self, other: Self) {
        let Self { messages, rare, segments, recorded, last_message } = other;
        self.messages.absorb(messages);
        self.rare.extend(rare);
        self.segments.extend(segments);
        self.recorded = self.recorded.max(recorded);
        self.last_message = self.last_message.max(last_message);
    }

    /// Open messages.
    #[must_use]
    pub fn open_messages(&self) -> usize {
        self.messages.len()
    }

    /// Octets in all segments, and how many of them are needed.
    #[must_use]
    pub fn octets(&self) -> (u64, u64) {
        self.segments.values().fold((0, 0), |(total, needed), s| (total + s.total, needed + s.needed()))
    }

    /// Octets of memory that the ledger holds, roughly. Looks at everything.
    #[must_use]
    pub fn memory(&self) -> usize {
        self.messages.memory() + self.rare.allocation_size() + self.rare.len() * 64
    }

    /// A segment that now exists, or its state for changing it.
    pub fn segment_mut(&mut self, segment: u32) -> &mut SegmentState {
        self.segments.entry(segment).or_default()
    }

    /// The segment's state, when it exists.
    #[must_use]
    pub fn segment(&self, segment: u32) -> Option<&SegmentState> {
        self.segments.get(&segment)
    }

    /// The segment is gone; records that tell of it are no longer needed.
    pub fn forget_segment(&mut self, segment: u32) {
        self.segments.remove(&segment);
        for other in self.segments.values_mut() {
            other.refers.remove(&segment);
        }
    }

    /// A record of `octets` in segment `at` tells of segment `of`.
    pub fn refer(&mut self, at: u32, of: u32, octets: u64) {
        if at != of && self.segments.contains_key(&of) {
            *self.segment_mut(at).refers.entry(of).or_default() += octets;
        }
    }

    /// Whatever in this segment tells of others has been written again elsewhere. Whether nothing else is needed of it.
    pub fn carried_over(&mut self, segment: u32) -> bool {
        let state = self.segment_mut(segment);
        state.refers.clear();
        state.is_idle()
    }

    /// A record of `octets` in segment `at` tells how far these recipients are, and nobody needs those that did before.
    pub fn told(&mut self, id: MessageId, recipients: &[u16], at: u32, octets: u64) {
        let share = u16::try_from(octets / recipients.len().max(1) as u64).unwrap_or(u16::MAX);
        let Self { rare, segments, .. } = self;
        let Some(rare) = rare.get_mut(&id) else { return };
        for index in recipients {
            if let Ok(found) = rare.standings.binary_search_by_key(index, |tried| tried.index) {
                let tried = &mut rare.standings[found];
                tried.untell(segments);
                (tried.at, tried.share) = (at, share);
                segments.entry(at).or_default().told += u64::from(share);
            }
        }
    }

    /// Of these recipients, those of which a record in this segment tells how far they are, with their standing of now.
    #[must_use]
    pub fn told_in(&self, id: MessageId, recipients: &[u16], segment: u32) -> Vec<(u16, Standing)> {
        let Some(rare) = self.rare.get(&id) else { return Vec::new() };
        let find = |index| rare.standings.binary_search_by_key(index, |tried| tried.index).ok();
        let tried = recipients.iter().filter_map(find).map(|found| rare.standings[found]);
        tried.filter(|tried| tried.at == segment).map(|tried| (tried.index, tried.standing)).collect()
    }

    /// A message came in, or was found, at `place`.
    pub fn note_message(&mut self, place: Place) {
        let state = self.segment_mut(place.segment);
        state.last_message = state.last_message.max(Some(place.offset));
        self.last_message = self.last_message.max(place.begin());
    }

    /// The receptions of all messages before `point` are in the outcome log.
    pub fn note_recorded(&mut self, point: Point) {
        self.recorded = self.recorded.max(point);
    }

    /// The receptions of all messages before it are in the outcome log.
    #[must_use]
    pub fn recorded(&self) -> Point {
        self.recorded
    }

    /// A point behind the beginnings of all messages; zero when there has been none.
    #[must_use]
    pub fn behind_all(&self) -> Point {
        match self.last_message {
            none if none == Point::default() => none,
            Point { segment, offset } => Point { segment, offset: offset + 1 },
        }
    }

    /// Whether the outcome log has the reception of the message at `place`.
    #[must_use]
    pub fn is_recorded(&self, place: Place) -> bool {
        place.begin() < self.recorded
    }

    /// The same of every message that came in into the segment. Before that it must not go, whatever became of
    /// them: recovery writes the records again from it.
    fn all_recorded(&self, segment: u32, state: &SegmentState) -> bool {
        state.last_message.is_none_or(|at| Point { segment, offset: at.into() } < self.recorded)
    }

    /// A message is open, all of its `recipients`.
    pub fn insert(&mut self, id: MessageId, place: Place, recipients: u16) {
        self.note_message(place);
        let mut open = Open::new(id);
        if recipients > INLINE_RECIPIENTS {
            let rare = self.rare.entry(id).or_default();
            (rare.recipients, rare.bits) = (recipients, full_bits(recipients));
            open.recipients = MANY;
        } else {
            open.bits = u16::MAX >> (16 - recipients.max(1));
            open.recipients = recipients as u8;
        }
        put_place(&mut self.rare, id, &mut open, place);
        self.messages.insert(id, open);
        self.count(place, true);
    }

    /// A message found at start: only `open` of its recipients are.
    pub fn insert_recovered(&mut self, id: MessageId, place: Place, recipients: u16, open: &[OpenRecipient]) {
        self.insert(id, place, recipients);
        let mut next_open = open.iter().map(|o| o.index).peekable();
        let done: Vec<u16> = (0..recipients).filter(|index| next_open.next_if_eq(index).is_none()).collect();
        self.finish(id, &done);
        for recipient in open.iter().filter(|o| o.standing != Standing::default()) {
            self.tried(id, &[recipient.index], recipient.standing);
        }
    }

    /// Where an open message lies.
    #[must_use]
    pub fn place(&self, id: MessageId) -> Option<Place> {
        self.messages.get(id).map(|open| self.place_of(id, open))
    }

    fn place_of(&self, id: MessageId, open: &Open) -> Place {
        let head = match open.head {
            LONG_HEAD => self.rare.get(&id).map_or(0, |rare| rare.head),
            short => short.into(),
        };
        Place { segment: open.segment, offset: open.offset, head, body: open.body }
    }

    /// Recipients are finished; the message's place when any of them was open until now.
    pub fn finish(&mut self, id: MessageId, recipients: &[u16]) -> Option<Place> {
        let place = self.place(id)?;
        let open = self.messages.get_mut(id)?;
        let (mut changed, closed);
        if open.recipients == MANY {
            changed = false;
            let rare = self.rare.get_mut(&id).expect("many recipients have an entry there");
            for &index in recipients.iter().filter(|&&index| index < rare.recipients) {
                let (word, bit) = (&mut rare.bits[usize::from(index / 64)], 1_u64 << (index % 64));
                changed |= *word & bit != 0;
                *word &= !bit;
            }
            closed = rare.bits.iter().all(|word| *word == 0);
        } else {
            let mask = recipients.iter().filter(|&&i| i < INLINE_RECIPIENTS).fold(0, |mask, i| mask | 1_u16 << i);
            changed = open.bits & mask != 0;
            open.bits &= !mask;
            closed = open.bits == 0;
        }
        if closed {
            self.messages.remove(id);
            let standings = self.rare.remove(&id).map(|rare| rare.standings).unwrap_or_default();
            standings.iter().for_each(|tried| tried.untell(&mut self.segments));
            self.count(place, false);
        } else if let Some(rare) = self.rare.get_mut(&id) {
            rare.standings.retain(|tried| {
                let ended = recipients.contains(&tried.index);
                if ended {
                    tried.untell(&mut self.segments);
                }
                !ended
            });
        }
        changed.then_some(place)
    }

    /// Recipients were tried; the message's place when it is open.
    pub fn tried(&mut self, id: MessageId, recipients: &[u16], standing: Standing) -> Option<Place> {
        let open = *self.messages.get(id)?;
        for &index in recipients.iter().filter(|&&index| self.is_open(id, &open, index)).collect::<Vec<_>>() {
            let standings = &mut self.rare.entry(id).or_default().standings;
            match standings.binary_search_by_key(&index, |tried| tried.index) {
                Ok(at) => standings[at].standing = standing,
                Err(at) => standings.insert(at, Tried { index, share: 0, at: 0, standing }),
            }
        }
        Some(self.place_of(id, &open))
    }

    /// The message has a newer copy; the old one stays behind in its segment.
    pub fn relocate(&mut self, id: MessageId, place: Place) {
        let Some(old) = self.place(id) else { return };
        if let Some(open) = self.messages.get_mut(id) {
            put_place(&mut self.rare, id, open, place);
        }
        self.count(old, false);
        self.count(place, true);
        self.segment_mut(old.segment).superseded = true;
        if self.recorded > self.last_message {
            // All that came in is recorded, so this is too, wherever it lies.
            self.last_message = place.begin();
            self.recorded = self.recorded.max(self.behind_all());
        }
    }

    /// How many recipients an open message has, finished ones with the others.
    #[must_use]
    pub fn recipients(&self, id: MessageId) -> u16 {
        match self.messages.get(id).map(|open| open.recipients) {
            Some(MANY) => self.rare.get(&id).map_or(0, |rare| rare.recipients),
            few => few.unwrap_or(0).into(),
        }
    }

    /// What became of a message so far.
    #[must_use]
    pub fn snapshot(&self, id: MessageId) -> Snapshot {
        let Some(open) = self.messages.get(id) else { return Snapshot::default() };
        let rare = self.rare.get(&id);
        let done = (0..self.recipients(id)).filter(|&index| !self.is_open(id, open, index)).collect();
        let standings = rare.map(|rare| &*rare.standings).unwrap_or_default();
        Snapshot { done, tried: standings.iter().map(|tried| (tried.index, tried.standing)).collect() }
    }

    /// Segments that may be removed now, ascending.
    #[must_use]
    pub fn removable(&self) -> Vec<u32> {
        let mut found = Vec::new();
        for (&segment, state) in &self.segments {
            if state.sealed && state.is_idle() && self.all_recorded(segment, state) {
                found.push(segment);
            }
            if state.superseded {
                break;
            }
        }
        // The highest number stays, so that numbers are never used again.
        found.retain(|segment| Some(segment) != self.segments.keys().next_back());
        found
    }

    /// The segment to compact now: one that a compaction has begun with, or, when the files hold more than
    /// twice what is needed and `slack` octets besides, the one with the least in it.
    #[must_use]
    pub fn victim(&self, slack: u64) -> Option<u32> {
        let candidates = || {
            let ready = |segment, state: &SegmentState| {
                state.sealed && !state.stuck && !state.is_idle() && self.all_recorded(segment, state)
            };
            self.segments.iter().filter(move |(segment, state)| ready(**segment, state))
        };
        if let Some((&segment, _)) = candidates().find(|(_, state)| state.superseded) {
            return Some(segment);
        }
        let (total, needed) = self.octets();
        if total <= needed.saturating_mul(2).saturating_add(slack) {
            return None;
        }
        // Some segment is at most half needed, as the sum is; below three quarters, copying gains.
        candidates()
            .filter(|(_, state)| state.needed().saturating_mul(4) < state.total.saturating_mul(3))
            .min_by_key(|(_, state)| state.needed())
            .map(|(&segment, _)| segment)
    }

    fn is_open(&self, id: MessageId, open: &Open, index: u16) -> bool {
        if open.recipients == MANY {
            let Some(rare) = self.rare.get(&id).filter(|rare| index < rare.recipients) else { return false };
            return rare.bits.get(usize::from(index / 64)).is_some_and(|word| word >> (index % 64) & 1 == 1);
        }
        index < u16::from(open.recipients) && open.bits >> index & 1 == 1
    }

    fn count(&mut self, place: Place, more: bool) {
        let octets = place.record_bytes();
        let state = self.segment_mut(place.segment);
        if more {
            state.live += octets;
            state.open += 1;
        } else {
            state.live -= octets;
            state.open -= 1;
        }
    }
}

fn put_place(rare: &mut HashMap<MessageId, Rare>, id: MessageId, open: &mut Open, place: Place) {
    (open.segment, open.offset, open.body) = (place.segment, place.offset, place.body);
    open.head = u16::try_from(place.head).unwrap_or(LONG_HEAD);
    if open.head == LONG_HEAD {
        rare.entry(id).or_default().head = place.head;
    }
}

/// A bitmap with `count` bits set.
fn full_bits(count: u16) -> Vec<u64> {
    let mut bits = vec![u64::MAX; usize::from(count).div_ceil(64)];
    if let (Some(last), surplus @ 1..) = (bits.last_mut(), count % 64) {
        *last = (1 << surplus) - 1;
    }
    bits
}

#[cfg(test)]
mod tests {
    use super::Ledger;

    /// A record keeps a segment only for another one that exists.
    #[test]
    fn what_tells_of_the_own_or_of_no_segment_is_not_needed() {
        let mut ledger = Ledger::default();
        for segment in [1, 2] {
            ledger.segment_mut(segment).sealed = true;
        }
        let needed = |ledger: &Ledger| ledger.segments[&2].needed();
        ledger.refer(2, 2, 10);
        ledger.refer(2, 7, 10);
        assert_eq!((needed(&ledger), ledger.segment(7).is_none()), (0, true));
        ledger.refer(2, 1, 10);
        ledger.refer(2, 1, 5);
        assert_eq!(needed(&ledger), 15);
        ledger.forget_segment(1);
        assert_eq!(needed(&ledger), 0);
    }
}
