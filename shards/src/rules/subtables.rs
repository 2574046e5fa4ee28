//! A hash table that grows a small part at a time. One large table doubles in one go, which for a million
//! entries stops the core for tens of milliseconds; here each of many sub-tables doubles on its own.

use hashbrown::HashTable;

/// At ten million entries a sub-table holds ten thousand, which move in some hundred microseconds.
const SUBTABLES: usize = 1024;

/// Sub-tables of values whose 64-bit hash the caller computes. Values remember or can recompute their hash.
#[derive(Debug)]
pub(super) struct Subtables<T> {
    tables: Box<[HashTable<T>]>,
    len: usize,
}

impl<T> Subtables<T> {
    pub(super) fn new() -> Self {
        Self { tables: (0..SUBTABLES).map(|_| HashTable::new()).collect(), len: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// How many parts [`Self::part`] knows.
    pub(super) fn parts(&self) -> usize {
        SUBTABLES
    }

    /// All values of one part, for work in slices.
    pub(super) fn part(&self, index: usize) -> impl Iterator<Item = &T> {
        self.tables[index].iter()
    }

    pub(super) fn find(&self, hash: u64, is: impl FnMut(&T) -> bool) -> Option<&T> {
        self.tables[place(hash)].find(hash, is)
    }

    pub(super) fn find_mut(&mut self, hash: u64, is: impl FnMut(&T) -> bool) -> Option<&mut T> {
        self.tables[place(hash)].find_mut(hash, is)
    }

    /// Every value that may have this hash; the caller compares.
    pub(super) fn candidates(&self, hash: u64) -> impl Iterator<Item = &T> {
        self.tables[place(hash)].iter_hash(hash)
    }

    /// Adds a value without looking whether an equal one is there.
    pub(super) fn insert(&mut self, hash: u64, value: T, rehash: impl Fn(&T) -> u64) {
        self.tables[place(hash)].insert_unique(hash, value, rehash);
        self.len += 1;
    }

    pub(super) fn remove(&mut self, hash: u64, is: impl FnMut(&T) -> bool) -> Option<T> {
        let (value, _) = self.tables[place(hash)].find_entry(hash, is).ok()?.remove();
        self.len -= 1;
        Some(value)
    }

    /// Octets of the tables themselves, without what values point to.
    pub(super) fn memory(&self) -> usize {
        SUBTABLES * size_of::<HashTable<T>>() + self.tables.iter().map(HashTable::allocation_size).sum::<usize>()
    }
}

/// The sub-table of a hash, from its middle: the table itself tells entries apart by the top seven bits
/// and places them by the low ones.
fn place(hash: u64) -> usize {
    (hash >> 40) as usize % SUBTABLES
}
