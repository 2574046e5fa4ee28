//! Who must not be mailed: addresses and domains, ten million of them, kept once (on the core of their
//! domain). A value is known by a keyed 128-bit hash, never by its text: with a key that nobody outside
//! knows, two values share one with a probability below 10⁻²⁴ at ten million entries, and that is accepted
//! as identity. The texts are in the control core's store.

use super::rule::Answer;
use super::scope::normal_address;
use super::subtables::Subtables;
use crate::limits::CAUSES_A_CHUNK;
use siphasher::sip128::{Hasher128, SipHasher13};
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;

/// The key of all hashes of the rule tables. Secret, the same on all cores, and the same in the control core,
/// which computes the hashes of the suppressions that it posts.
#[derive(Clone, Copy)]
pub struct HashKey(pub u64, pub u64);

impl std::fmt::Debug for HashKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HashKey(..)")
    }
}

impl HashKey {
    /// The identity of a suppression by its value: a domain in lower case and A-labels, or an address, whose
    /// local part may have any case. The two never meet, since only addresses hold an `@`.
    #[must_use]
    pub fn suppression(self, value: &str) -> SuppressionKey {
        let mut hasher = SipHasher13::new_with_keys(self.0, self.1);
        hasher.write(normal_address(value).as_bytes());
        SuppressionKey(hasher.finish128().as_u128())
    }

    /// The hashes of a message's tags, for [`super::MessageFacts::tag_hashes`].
    #[must_use]
    pub fn tags(self, tags: &[Box<str>]) -> Box<[u64]> {
        tags.iter().map(|tag| self.fast(tag.as_bytes())).collect()
    }

    /// Tells values made with this key from those made with another.
    pub(super) fn fingerprint(self) -> u64 {
        self.fast(b"fingerprint")
    }

    /// A hash for the tables, whose entries are compared in full.
    pub(super) fn fast(self, bytes: &[u8]) -> u64 {
        foldhash::fast::FixedState::with_seed(self.0 ^ self.1.rotate_left(32)).hash_one(bytes)
    }
}

/// A suppressed value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SuppressionKey(u128);

impl SuppressionKey {
    fn octets(self) -> [u8; 16] {
        self.0.to_ne_bytes()
    }

    fn hash(self) -> u64 {
        #[expect(clippy::cast_possible_truncation, reason = "half of a uniform hash is a uniform hash")]
        let half = self.0 as u64;
        half
    }
}

/// What the record of a suppressed message says. Equal causes are kept once.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Cause {
    /// Code and text.
    pub answer: Answer,
    /// Name of the token that made it.
    pub by: Arc<str>,
}

/// One entry, kept at 20 octets: alignment of one, so that nothing is padded.
#[derive(Debug)]
struct Entry {
    key: [u8; 16],
    cause: [u8; 4],
}

impl Entry {
    fn hash(&self) -> u64 {
        SuppressionKey(u128::from_ne_bytes(self.key)).hash()
    }
}

const _: () = assert!(size_of::<Entry>() == 20, "an entry stays below 48 octets at the lowest load of its table");

/// The suppressions of one core.
#[derive(Debug)]
pub struct Suppressions {
    entries: Subtables<Entry>,
    causes: Causes,
}

impl Suppressions {
    /// None. `key` is that of the whole engine.
    #[must_use]
    pub fn new(key: HashKey) -> Self {
        Self { entries: Subtables::new(), causes: Causes::new(key) }
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.len() == 0
    }

    /// Octets that the tables occupy, without the texts of their causes.
    #[must_use]
    pub fn memory(&self) -> usize {
        self.entries.memory() + self.causes.memory()
    }

    /// What is said of `key`, when it is suppressed.
    #[must_use]
    pub fn find(&self, key: SuppressionKey) -> Option<&Arc<Cause>> {
        let octets = key.octets();
        let entry = self.entries.find(key.hash(), |entry| entry.key == octets)?;
        Some(self.causes.get(u32::from_ne_bytes(entry.cause)))
    }

    /// Adds or overwrites.
    pub fn put(&mut self, key: SuppressionKey, cause: &Arc<Cause>) {
        let index = self.causes.keep(cause);
        let octets = key.octets();
        if let Some(entry) = self.entries.find_mut(key.hash(), |entry| entry.key == octets) {
            let old = std::mem::replace(&mut entry.cause, index.to_ne_bytes());
            self.causes.drop_one(u32::from_ne_bytes(old));
        } else {
            self.entries.insert(key.hash(), Entry { key: octets, cause: index.to_ne_bytes() }, Entry::hash);
        }
    }

    /// Removes; whether it was there.
    pub fn remove(&mut self, key: SuppressionKey) -> bool {
        let octets = key.octets();
        let Some(entry) = self.entries.remove(key.hash(), |entry| entry.key == octets) else { return false };
        self.causes.drop_one(u32::from_ne_bytes(entry.cause));
        true
    }
}

/// Causes by number, counted, so that one that nobody uses goes. In chunks: growing never moves them.
#[derive(Debug)]
struct Causes {
    key: HashKey,
    chunks: Vec<Vec<Slot>>,
    free: Vec<u32>,
    numbers: Subtables<(u64, u32)>,
}

#[derive(Debug)]
struct Slot {
    cause: Option<Arc<Cause>>,
    uses: u64,
}

impl Causes {
    fn new(key: HashKey) -> Self {
        Self { key, chunks: Vec::new(), free: Vec::new(), numbers: Subtables::new() }
    }

    fn get(&self, number: u32) -> &Arc<Cause> {
        let slot = &self.chunks[number as usize / CAUSES_A_CHUNK][number as usize % CAUSES_A_CHUNK];
        slot.cause.as_ref().expect("an entry counts as a use, so its cause is kept")
    }

    fn memory(&self) -> usize {
        self.chunks.len() * CAUSES_A_CHUNK * size_of::<Slot>() + self.free.capacity() * 4 + self.numbers.memory()
    }

    fn slot(&mut self, number: u32) -> &mut Slot {
        &mut self.chunks[number as usize / CAUSES_A_CHUNK][number as usize % CAUSES_A_CHUNK]
    }

    fn hash(&self, cause: &Cause) -> u64 {
        foldhash::fast::FixedState::with_seed(self.key.0 ^ self.key.1.rotate_left(32)).hash_one(cause)
    }

    /// The number of an equal cause, counted once more.
    fn keep(&mut self, cause: &Arc<Cause>) -> u32 {
        let hash = self.hash(cause);
        let known = self.numbers.find(hash, |(_, number)| self.get(*number) == cause).map(|(_, number)| *number);
        if let Some(number) = known {
            self.slot(number).uses += 1;
            return number;
        }
        let slot = Slot { cause: Some(Arc::clone(cause)), uses: 1 };
        let number = if let Some(number) = self.free.pop() {
            *self.slot(number) = slot;
            number
        } else {
            self.append(slot)
        };
        self.numbers.insert(hash, (hash, number), |(hash, _)| *hash);
        number
    }

    fn append(&mut self, slot: Slot) -> u32 {
        if self.chunks.last().is_none_or(|chunk| chunk.len() == CAUSES_A_CHUNK) {
            self.chunks.push(Vec::with_capacity(CAUSES_A_CHUNK));
        }
        let full = (self.chunks.len() - 1) * CAUSES_A_CHUNK;
        let last = self.chunks.last_mut().expect("one was just made if there was none");
        last.push(slot);
        u32::try_from(full + last.len() - 1).expect("four thousand million causes do not fit into memory")
    }

    fn drop_one(&mut self, number: u32) {
        let slot = self.slot(number);
        assert!(slot.uses > 0, "a cause is dropped as often as it was kept");
        slot.uses -= 1;
        if slot.uses > 0 {
            return;
        }
        let cause = slot.cause.take().expect("its uses were above zero");
        let hash = self.hash(&cause);
        self.numbers.remove(hash, |(_, other)| *other == number);
        self.free.push(number);
    }
}

#[cfg(test)]
mod tests {
    use super::{Answer, Cause, Causes, HashKey, Slot};
    use crate::limits::CAUSES_A_CHUNK;
    use std::sync::Arc;

    fn cause(number: usize) -> Arc<Cause> {
        let answer = Answer::new(550, None, format!("cause {number}").into()).expect("it is one");
        Arc::new(Cause { answer, by: "t".into() })
    }

    /// Chunks, numbers that are free, and the table of numbers.
    #[test]
    fn the_memory_of_causes_is_that_of_their_chunks_and_of_what_finds_them() {
        let mut causes = Causes::new(HashKey(1, 2));
        assert_eq!(causes.memory(), causes.numbers.memory());
        let mut numbers = Vec::new();
        for number in 0..=CAUSES_A_CHUNK {
            numbers.push(causes.keep(&cause(number)));
        }
        let chunks = 2 * CAUSES_A_CHUNK * size_of::<Slot>();
        assert_eq!(causes.memory(), chunks + causes.numbers.memory());
        assert_eq!(causes.chunks.len(), 2);
        for number in numbers {
            causes.drop_one(number);
        }
        let free = causes.free.capacity();
        assert!(free > CAUSES_A_CHUNK);
        assert_eq!(causes.memory(), chunks + 4 * free + causes.numbers.memory());
    }

    #[test]
    fn equal_causes_have_one_number_until_the_last_use_goes() {
        let mut causes = Causes::new(HashKey(1, 2));
        let (first, second) = (causes.keep(&cause(1)), causes.keep(&cause(2)));
        assert_eq!((causes.keep(&cause(1)), causes.get(first), causes.get(second)), (first, &cause(1), &cause(2)));
        assert_ne!(first, second);
        causes.drop_one(first);
        assert_eq!(causes.get(first), &cause(1));
        causes.drop_one(first);
        assert_eq!(causes.keep(&cause(3)), first, "its place is used again");
        assert_ne!(causes.keep(&cause(1)), first);
    }

    /// A rule that names a tag must not be found by the tags of another engine's, whichever half of the key they share.
    #[test]
    fn both_halves_of_the_key_make_the_hashes() {
        let hash = |one, other| HashKey(one, other).fast(b"tag");
        let all = [hash(0, 0), hash(0, 1), hash(1, 0), hash(1, 1), hash(1, 2), hash(2, 1), hash(3, 1), hash(1, 3)];
        for (at, hash) in all.iter().enumerate() {
            assert!(!all[..at].contains(hash), "{at}");
        }
        assert_ne!(hash(1 << 32, 1), hash(1 << 32, 0), "where both have the same bits");
        let own = [HashKey(1, 2), HashKey(1, 3), HashKey(2, 2)].map(HashKey::fingerprint);
        assert!(own[0] != own[1] && own[0] != own[2] && own[1] != own[2]);
    }

    #[test]
    fn a_key_is_not_written_into_logs() {
        assert_eq!(format!("{:?}", HashKey(123, 456)), "HashKey(..)");
    }
}
