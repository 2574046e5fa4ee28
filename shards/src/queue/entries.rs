//! All entries of a core, in blocks that stay where they are. A queue that grows copies nothing, so it neither pauses
//! for that nor leaves room behind that held it when it was half as long.

use super::entry::Entry;
use std::ops::{Index, IndexMut};

/// Entries of a block, 360 KB.
const BLOCK: usize = 1 << BLOCK_BITS;
const BLOCK_BITS: u32 = 12;

#[derive(Debug)]
enum Slot {
    Taken(Entry),
    /// The number of the next free one, if there is one.
    Free(Option<u32>),
}

const _: () = assert!(size_of::<Slot>() == size_of::<Entry>(), "what is free is told in an entry's own room");

/// Entries by number; numbers of removed ones are used again, the last one first.
#[derive(Debug, Default)]
pub(super) struct Entries {
    /// All but the last are full of slots.
    blocks: Vec<Vec<Slot>>,
    free: Option<u32>,
    len: usize,
}

impl Entries {
    /// Entries that there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// No number is as great.
    pub fn bound(&self) -> usize {
        self.blocks.last().map_or(0, |last| (self.blocks.len() - 1) * BLOCK + last.len())
    }

    /// Takes an entry in and numbers it.
    pub fn insert(&mut self, entry: Entry) -> usize {
        self.len += 1;
        if let Some(free) = self.free {
            let at = free as usize;
            let slot = std::mem::replace(self.slot(at).expect("it was taken once"), Slot::Taken(entry));
            let Slot::Free(next) = slot else { unreachable!("only free slots are in the list") };
            self.free = next;
            return at;
        }
        let at = self.bound();
        if at.is_multiple_of(BLOCK) {
            self.blocks.push(Vec::with_capacity(BLOCK));
        }
        self.blocks[at >> BLOCK_BITS].push(Slot::Taken(entry));
        at
    }

    /// Takes an entry out. Panics when there is none of that number.
    pub fn remove(&mut self, at: usize) -> Entry {
        let free = Slot::Free(self.free);
        let number = u32::try_from(at).expect("memory ends before four thousand million entries");
        match std::mem::replace(self.slot(at).expect("there is such an entry"), free) {
            Slot::Taken(entry) => {
                self.free = Some(number);
                self.len -= 1;
                entry
            }
            Slot::Free(_) => panic!("entry {at} was removed before"),
        }
    }

    /// The entry of that number, if there is one.
    pub fn get(&self, at: usize) -> Option<&Entry> {
        match self.blocks.get(at >> BLOCK_BITS)?.get(at & (BLOCK - 1))? {
            Slot::Taken(entry) => Some(entry),
            Slot::Free(_) => None,
        }
    }

    /// All of them with their numbers.
    pub fn iter(&self) -> impl Iterator<Item = (usize, &Entry)> {
        self.blocks.iter().flatten().enumerate().filter_map(|(at, slot)| match slot {
            Slot::Taken(entry) => Some((at, entry)),
            Slot::Free(_) => None,
        })
    }

    fn slot(&mut self, at: usize) -> Option<&mut Slot> {
        self.blocks.get_mut(at >> BLOCK_BITS)?.get_mut(at & (BLOCK - 1))
    }
}

impl Index<usize> for Entries {
    type Output = Entry;

    fn index(&self, at: usize) -> &Entry {
        self.get(at).expect("ids are the shard's own")
    }
}

impl IndexMut<usize> for Entries {
    fn index_mut(&mut self, at: usize) -> &mut Entry {
        match self.slot(at) {
            Some(Slot::Taken(entry)) => entry,
            _ => panic!("ids are the shard's own"),
        }
    }
}
