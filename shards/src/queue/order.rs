//! In which order ready entries leave their bucket: those that came, in a chain through the entries themselves, and those
//! that go back to an earlier place. Nothing here changes an entry's state or counts it.

use super::bucket::Bucket;
use super::entries::Entries;
use super::entry::{Entry, EntryId, State};
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// The order of one bucket. Owned by it.
#[derive(Debug, Default)]
pub(super) struct Order {
    /// The ends of the chain, whose places ascend.
    first: Option<EntryId>,
    last: Option<EntryId>,
    /// Entries that went back to an earlier place, and some that are no longer ready.
    returned: BinaryHeap<Reverse<(u64, EntryId)>>,
}

/// An entry's neighbours in the chain.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Links {
    before: Option<Link>,
    behind: Option<Link>,
}

/// An entry's number in which an absent one costs no octets.
type Link = std::num::NonZeroU32;

fn link(id: EntryId) -> Option<Link> {
    // As many entries do not fit into any memory.
    Link::new(id.0.wrapping_add(1))
}

fn linked(link: Option<Link>) -> Option<EntryId> {
    link.map(|link| EntryId(link.get() - 1))
}

impl Order {
    /// Puts an entry behind all others; its place is the greatest.
    pub fn append(&mut self, entries: &mut Entries, id: EntryId) {
        let last = self.last.replace(id);
        let entry = &mut entries[id.0 as usize];
        entry.links = Links { before: last.and_then(link), behind: None };
        entry.chained = true;
        match last {
            Some(last) => entries[last.0 as usize].links.behind = link(id),
            None => self.first = Some(id),
        }
    }

    /// Lets an entry go to its old place.
    pub fn go_back(&mut self, place: u64, id: EntryId) {
        self.returned.push(Reverse((place, id)));
    }

    /// Takes an entry out. One that had gone back is forgotten when it comes to the front.
    pub fn leave(&mut self, entries: &mut Entries, id: EntryId) {
        let entry = &mut entries[id.0 as usize];
        let (place, links) = (entry.place, std::mem::take(&mut entry.links));
        if !std::mem::take(&mut entry.chained) {
            if self.returned.peek() == Some(&Reverse((place, id))) {
                self.returned.pop();
            }
            return;
        }
        match linked(links.before) {
            Some(before) => entries[before.0 as usize].links.behind = links.behind,
            None => self.first = linked(links.behind),
        }
        match linked(links.behind) {
            Some(behind) => entries[behind.0 as usize].links.before = links.before,
            None => self.last = linked(links.before),
        }
    }

    /// The entry that leaves next.
    pub fn front(&mut self, entries: &Entries) -> Option<EntryId> {
        while let Some(&Reverse((place, id))) = self.returned.peek() {
            let waits = |entry: &&Entry| entry.place == place && entry.state == State::Ready;
            if entries.get(id.0 as usize).filter(waits).is_none() {
                self.returned.pop();
                continue;
            }
            let first = self.first.filter(|first| entries[first.0 as usize].place < place);
            return Some(first.unwrap_or(id));
        }
        self.first
    }
}

impl Bucket {
    /// The entry that leaves next, whether the bucket is held or not.
    pub fn front(&mut self, entries: &Entries) -> Option<EntryId> {
        self.order.front(entries)
    }
}
