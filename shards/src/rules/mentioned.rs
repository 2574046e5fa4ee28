//! Which values rules name at all. A message mostly carries values that no rule names, and then the keys that would
//! be made of them need not be looked for. The answer "perhaps" may be wrong, about one time in thirty; "no" never is.
//!
//! A blocked Bloom filter (Putze, Sanders, Singler 2007): all bits of a value are in one word, so that a question is
//! one access to memory. Beside it stand the values themselves with their numbers of uses, so that one that goes is
//! forgotten and a part can grow on its own.

use super::lookup::Key;
use super::scope::Fields;
use hashbrown::HashTable;

/// At two million values a part holds eight thousand, which are entered anew in some twenty microseconds.
const PARTS: usize = 256;

/// Values to a word of 64 bits, at most; then a part doubles.
const VALUES_A_WORD: usize = 8;

/// A value of a field, as it is known here. The same as the key of a rule that names this field alone.
pub(super) fn mark(field: Fields, hash: u64) -> u64 {
    Key::of_group(field).add(hash).0
}

/// The values that the rules of a table name.
#[derive(Debug)]
pub(super) struct Mentioned {
    /// Apart from the values, since only these are asked.
    filters: Box<[Box<[u64]>]>,
    values: Box<[HashTable<Value>]>,
}

#[derive(Debug)]
struct Value {
    mark: u64,
    uses: u32,
}

impl Mentioned {
    pub(super) fn new() -> Self {
        Self {
            filters: (0..PARTS).map(|_| Box::from([0_u64])).collect(),
            values: (0..PARTS).map(|_| HashTable::new()).collect(),
        }
    }

    /// Whether a rule may name it; certainly none does when this says no.
    pub(super) fn perhaps(&self, mark: u64) -> bool {
        let filter = &self.filters[part(mark)];
        let bits = bits(mark);
        filter[word(mark, filter.len())] & bits == bits
    }

    /// One more rule names it.
    pub(super) fn add(&mut self, mark: u64) {
        let part = part(mark);
        let values = &mut self.values[part];
        if let Some(value) = values.find_mut(mark, |value| value.mark == mark) {
            value.uses += 1;
            return;
        }
        values.insert_unique(mark, Value { mark, uses: 1 }, |value| value.mark);
        let words = self.filters[part].len();
        if values.len() > words * VALUES_A_WORD {
            self.enter_anew(part, words * 2);
        } else {
            self.filters[part][word(mark, words)] |= bits(mark);
        }
    }

    /// One rule less names it.
    pub(super) fn remove(&mut self, mark: u64) {
        let part = part(mark);
        let Ok(mut entry) = self.values[part].find_entry(mark, |value| value.mark == mark) else {
            panic!("a rule's values are taken out as often as they were put in");
        };
        entry.get_mut().uses -= 1;
        if entry.get().uses == 0 {
            entry.remove();
            let words = self.filters[part].len();
            let shrinks = words > 1 && self.values[part].len() * 4 < words * VALUES_A_WORD;
            self.enter_anew(part, if shrinks { words / 2 } else { words });
        }
    }

    fn enter_anew(&mut self, part: usize, words: usize) {
        let mut filter = vec![0_u64; words].into_boxed_slice();
        for value in &self.values[part] {
            filter[word(value.mark, words)] |= bits(value.mark);
        }
        self.filters[part] = filter;
    }
}

/// Part, word and bits come from different ends of the hash.
fn part(mark: u64) -> usize {
    (mark >> 56) as usize % PARTS
}

/// `words` is a power of two.
fn word(mark: u64, words: usize) -> usize {
    (mark >> 24) as usize & (words - 1)
}

fn bits(mark: u64) -> u64 {
    1 << (mark % 64) | 1 << (mark / 64 % 64)
}

#[cfg(test)]
mod tests {
    use super::{Mentioned, mark};
    use crate::rules::scope::Fields;

    fn marks(range: std::ops::Range<u64>) -> impl Iterator<Item = u64> {
        range.map(|n| mark(Fields::TAG, n.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
    }

    #[test]
    fn what_is_named_is_found_and_little_else() {
        let mut mentioned = Mentioned::new();
        marks(0..100_000).for_each(|mark| mentioned.add(mark));
        assert!(marks(0..100_000).all(|mark| mentioned.perhaps(mark)));
        let wrong = marks(100_000..200_000).filter(|mark| mentioned.perhaps(*mark)).count();
        assert!(wrong < 8_000, "{wrong} of 100000");
    }

    #[test]
    fn what_is_named_twice_stays_until_it_is_named_no_more() {
        let mut mentioned = Mentioned::new();
        let named: Vec<u64> = marks(0..5_000).collect();
        named.iter().for_each(|mark| mentioned.add(*mark));
        named.iter().for_each(|mark| mentioned.add(*mark));
        named.iter().for_each(|mark| mentioned.remove(*mark));
        assert!(named.iter().all(|mark| mentioned.perhaps(*mark)));
        named.iter().for_each(|mark| mentioned.remove(*mark));
        assert!(!named.iter().any(|mark| mentioned.perhaps(*mark)));
        assert!(mentioned.filters.iter().all(|filter| filter.len() == 1), "an empty filter is small again");
    }

    /// The values of a part are spread over words, eight to each at most; a part that shrinks gives words back late, so
    /// that one value that comes and goes does not have all entered anew each time.
    #[test]
    fn a_part_grows_with_the_ninth_value_and_shrinks_with_the_fourth() {
        let mut mentioned = Mentioned::new();
        // All of one part.
        let mark = |number: u64| 3 << 56 | number << 24 | number;
        let words = |mentioned: &Mentioned| mentioned.filters[super::part(mark(0))].len();
        let mut grown = Vec::new();
        for number in 0..33 {
            mentioned.add(mark(number));
            grown.push(words(&mentioned));
        }
        let expected: Vec<usize> =
            [(8, 1), (8, 2), (16, 4), (1, 8)].iter().flat_map(|&(n, words)| [words].repeat(n)).collect();
        assert_eq!(grown, expected);
        assert!((0..33).all(|number| mentioned.perhaps(mark(number))));
        let mut shrunk = Vec::new();
        for number in (0..33).rev() {
            mentioned.remove(mark(number));
            shrunk.push(words(&mentioned));
            assert!((0..number).all(|number| mentioned.perhaps(mark(number))), "{number} are left");
        }
        // Half as many words when less than a quarter of what they hold is left.
        let left = |words| shrunk.iter().position(|of| *of == words).map(|at| 32 - at);
        assert_eq!([left(8), left(4), left(2), left(1)], [Some(32), Some(15), Some(7), Some(3)]);
    }

    #[test]
    fn marks_are_spread_over_all_parts() {
        let mut mentioned = Mentioned::new();
        marks(0..10_000).for_each(|mark| mentioned.add(mark));
        let most = mentioned.values.iter().map(|values| values.len()).max();
        assert!(most < Some(100) && mentioned.values.iter().all(|values| !values.is_empty()), "{most:?} of 39");
    }
}
