//! A set of message numbers, one bit each: which were accepted, which arrived.
//!
//! It must never grow beyond the capacity it was made with; a number outside it is refused, not stored.

/// Numbers from zero to a fixed capacity.
#[derive(Clone, Default)]
pub struct NumberSet {
    words: Vec<u64>,
    capacity: u32,
    count: u32,
}

impl NumberSet {
    /// An empty set of numbers below `capacity`.
    pub fn new(capacity: u32) -> NumberSet {
        NumberSet { words: vec![0; (capacity as usize).div_ceil(64)], capacity, count: 0 }
    }

    /// Adds a number; says whether it was new. A number beyond the capacity is `None`.
    pub fn insert(&mut self, number: u32) -> Option<bool> {
        if number >= self.capacity {
            return None;
        }
        let word = &mut self.words[number as usize / 64];
        let bit = 1 << (number % 64);
        let new = *word & bit == 0;
        *word |= bit;
        self.count += u32::from(new);
        Some(new)
    }

    /// The set as text, sixteen hexadecimal digits for 64 numbers.
    pub fn to_text(&self) -> String {
        self.words.iter().map(|word| format!("{word:016x}")).collect()
    }

    /// Adds all numbers of a set that was made text; false when that one has another capacity.
    pub fn unite(&mut self, text: &str) -> bool {
        if text.len() != self.words.len() * 16 || !text.is_ascii() {
            return false;
        }
        for (index, word) in self.words.iter_mut().enumerate() {
            let Ok(more) = u64::from_str_radix(&text[index * 16..index * 16 + 16], 16) else { return false };
            *word |= more;
        }
        self.count = self.words.iter().map(|word| word.count_ones()).sum();
        true
    }

    /// Whether the number is in the set.
    pub fn contains(&self, number: u32) -> bool {
        number < self.capacity && self.words[number as usize / 64] & (1 << (number % 64)) != 0
    }

    /// How many numbers are in the set.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// The numbers below the capacity that are *not* in the set, as inclusive ranges, at most `limit` of them.
    /// The second value is false when there were more.
    pub fn missing(&self, limit: usize) -> (Vec<(u32, u32)>, bool) {
        let mut ranges: Vec<(u32, u32)> = Vec::new();
        for number in (0..self.capacity).filter(|number| !self.contains(*number)) {
            if let Some((_, last)) = ranges.last_mut().filter(|(_, last)| *last + 1 == number) {
                *last = number;
            } else if ranges.len() == limit {
                return (ranges, false);
            } else {
                ranges.push((number, number));
            }
        }
        (ranges, true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_united_as_text() {
        let (mut one, mut other) = (NumberSet::new(130), NumberSet::new(130));
        assert!([0, 64, 129].into_iter().all(|number| one.insert(number) == Some(true)));
        assert!([1, 64].into_iter().all(|number| other.insert(number) == Some(true)));
        assert!(one.unite(&other.to_text()) && !one.unite("00"));
        assert_eq!((one.count(), one.missing(9).0), (4, vec![(2, 63), (65, 128)]));
    }

    #[test]
    fn a_number_counts_once_and_the_missing_ones_are_named() {
        let mut set = NumberSet::new(70);
        assert_eq!(set.missing(10), (vec![(0, 69)], true));
        for number in [0, 1, 2, 5, 64, 65] {
            assert_eq!(set.insert(number), Some(true));
            assert_eq!(set.insert(number), Some(false));
        }
        assert_eq!(set.insert(70), None);
        assert_eq!(set.count(), 6);
        assert_eq!(set.missing(10), (vec![(3, 4), (6, 63), (66, 69)], true));
        assert_eq!(set.missing(2), (vec![(3, 4), (6, 63)], false));
    }
}
