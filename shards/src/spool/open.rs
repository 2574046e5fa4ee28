//! The open messages of a spool, packed: there is one entry for each message that waits, however long it does.
//!
//! Ids count up, so those that differ in their last octet only share a page, and the page is what is hashed. An entry
//! needs 21 octets with its share of that, where a hash table of ids needed 40 to 80. Pure bookkeeping: what an entry
//! means is the ledger's business.

use crate::message::MessageId;
use hashbrown::HashMap;
use hashbrown::hash_map::Entry;

/// All but the last octet of an id.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct PageKey([u32; 3]);

/// The page of an id, and its place there. Only the low 48 bits of a sequence are used.
fn parts(id: MessageId) -> (PageKey, u8) {
    let [low, ..] = id.sequence.to_le_bytes();
    let (middle, high) = ((id.sequence >> 8) as u32, (id.sequence >> 40) as u32 & 0xff);
    (PageKey([id.generation, u32::from(id.core) << 16 | high, middle]), low)
}

/// What is kept of an open message. Its fields are what the ledger makes of them.
#[derive(Clone, Copy)]
pub(super) struct Open {
    pub segment: u32,
    pub offset: u32,
    pub body: u32,
    pub head: u16,
    pub bits: u16,
    pub recipients: u8,
    /// Last octet of the id.
    low: u8,
}

const _: () = assert!(size_of::<Open>() == 20, "there is one for each open message");

impl Open {
    pub(super) fn new(id: MessageId) -> Self {
        Self { segment: 0, offset: 0, body: 0, head: 0, bits: 0, recipients: 0, low: parts(id).1 }
    }
}

/// See the module.
#[derive(Default)]
pub(super) struct OpenMessages {
    /// Each page in the order of ids, never empty.
    pages: HashMap<PageKey, Vec<Open>>,
    len: usize,
}

impl OpenMessages {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Octets of memory. Looks at each page.
    pub(super) fn memory(&self) -> usize {
        let entries: usize = self.pages.values().map(|page| page.capacity() * size_of::<Open>()).sum();
        self.pages.allocation_size() + entries
    }

    pub(super) fn get(&self, id: MessageId) -> Option<&Open> {
        let (key, low) = parts(id);
        let page = self.pages.get(&key)?;
        page.binary_search_by_key(&low, |open| open.low).ok().map(|at| &page[at])
    }

    pub(super) fn get_mut(&mut self, id: MessageId) -> Option<&mut Open> {
        let (key, low) = parts(id);
        let page = self.pages.get_mut(&key)?;
        page.binary_search_by_key(&low, |open| open.low).ok().map(|at| &mut page[at])
    }

    /// Puts `open`, which was made for `id`, in the place of what was known of it.
    pub(super) fn insert(&mut self, id: MessageId, open: Open) {
        let (key, low) = parts(id);
        let page = self.pages.entry(key).or_default();
        match page.binary_search_by_key(&low, |open| open.low) {
            Ok(at) => page[at] = open,
            Err(at) => {
                page.insert(at, open);
                self.len += 1;
            }
        }
    }

    /// Takes over other messages.
    pub(super) fn absorb(&mut self, other: Self) {
        // The smaller one moves.
        let (more, less) = if other.pages.len() > self.pages.len() {
            (other, std::mem::take(self))
        } else {
            (std::mem::take(self), other)
        };
        *self = more;
        self.len += less.len;
        for (key, mut page) in less.pages {
            match self.pages.entry(key) {
                Entry::Vacant(place) => drop(place.insert(page)),
                // Ids go on in the page in which another run's end, or where a test wants it so.
                Entry::Occupied(mut known) => {
                    known.get_mut().append(&mut page);
                    known.get_mut().sort_unstable_by_key(|open| open.low);
                }
            }
        }
    }

    pub(super) fn remove(&mut self, id: MessageId) {
        let (key, low) = parts(id);
        let Entry::Occupied(mut page) = self.pages.entry(key) else { return };
        let Ok(at) = page.get().binary_search_by_key(&low, |open| open.low) else { return };
        self.len -= 1;
        let entries = page.get_mut();
        entries.remove(at);
        if entries.is_empty() {
            page.remove();
        } else if entries.len() <= entries.capacity() / 4 {
            // A few messages that stay long shall not keep the room of those that went.
            entries.shrink_to(entries.len() * 2);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn pages_hold_what_a_map_holds() {
        let (mut packed, mut model) = (OpenMessages::default(), BTreeMap::new());
        let mut random = 7_u64;
        for step in 0..40_000_u32 {
            random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            let sequence = random >> 53 | (random >> 20 & 1) << 39 | (random >> 21 & 1) << 47;
            let id = MessageId { generation: step % 2, core: (random >> 22 & 1) as u16, sequence };
            if random >> 30 & 3 > 1 {
                packed.insert(id, Open { offset: step, ..Open::new(id) });
                model.insert(id, step);
            } else {
                packed.remove(id);
                model.remove(&id);
            }
            assert_eq!(packed.get(id).map(|open| open.offset), model.get(&id).copied());
            assert_eq!(packed.len(), model.len());
        }
        assert!(model.len() > 1000);
        for (&id, &step) in &model {
            assert_eq!(packed.get_mut(id).map(|open| open.offset), Some(step));
            packed.remove(id);
        }
        assert_eq!((packed.len(), packed.pages.len()), (0, 0));
    }
}
