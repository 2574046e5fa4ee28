//! A bounded cache by name. When it is full, the entry that makes room is one that has expired or was not used
//! since the hand came by last (the CLOCK approximation of least recently used): O(1), no lists to mend.

use crate::time::Instant;
use hashbrown::HashMap;
use std::sync::Arc;

/// How many entries the hand passes at most for one insertion; then it takes the one it stands at.
const HAND_STEPS_MAX: usize = 64;

/// Values by name, each until it expires. Belongs to one resolver.
#[derive(Debug)]
pub struct Cache<V> {
    places: HashMap<Arc<str>, usize>,
    entries: Vec<Entry<V>>,
    hand: usize,
    capacity: usize,
}

#[derive(Debug)]
struct Entry<V> {
    name: Arc<str>,
    value: V,
    expires: Instant,
    used: bool,
}

impl<V> Cache<V> {
    /// An empty cache of at most `capacity` entries, at least one.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        assert!(capacity > 0, "a cache has room for an entry");
        Self { places: HashMap::new(), entries: Vec::new(), hand: 0, capacity }
    }

    /// The value of `name`, unless it has expired.
    pub fn get(&mut self, name: &str, now: Instant) -> Option<&V> {
        let entry = &mut self.entries[*self.places.get(name)?];
        if entry.expires <= now {
            return None;
        }
        entry.used = true;
        Some(&entry.value)
    }

    /// Keeps `value` until `expires`, in place of what was kept for `name`.
    pub fn insert(&mut self, name: Arc<str>, value: V, expires: Instant, now: Instant) {
        if let Some(&place) = self.places.get(&name) {
            let entry = &mut self.entries[place];
            (entry.value, entry.expires) = (value, expires);
            return;
        }
        let entry = Entry { name: name.clone(), value, expires, used: false };
        let place = if self.entries.len() < self.capacity {
            self.entries.push(entry);
            self.entries.len() - 1
        } else {
            let place = self.victim(now);
            self.places.remove(&self.entries[place].name);
            self.entries[place] = entry;
            place
        };
        self.places.insert(name, place);
    }

    /// How many entries it holds, expired ones included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn victim(&mut self, now: Instant) -> usize {
        for _ in 0..HAND_STEPS_MAX {
            let place = self.hand;
            self.hand = (self.hand + 1) % self.entries.len();
            let entry = &mut self.entries[place];
            if entry.expires <= now || !entry.used {
                return place;
            }
            entry.used = false;
        }
        self.hand
    }
}

#[cfg(test)]
mod tests {
    use super::{Cache, Instant};

    #[test]
    fn what_is_used_stays_and_what_expired_goes_first() {
        let (now, later) = (Instant(10), Instant(1000));
        let mut cache = Cache::new(4);
        for (name, expires) in [("a", later), ("b", later), ("c", Instant(20)), ("d", later)] {
            cache.insert(name.into(), name, expires, now);
        }
        assert_eq!(cache.get("c", Instant(19)), Some(&"c"));
        assert_eq!(cache.get("c", Instant(20)), None);
        let now = Instant(30);
        assert!(cache.get("a", now).is_some() && cache.get("b", now).is_some() && cache.get("d", now).is_some());
        cache.insert("e".into(), "e", later, now);
        assert_eq!((cache.len(), cache.get("c", now)), (4, None), "the expired one went");
        assert!(cache.get("e", now).is_some() && cache.get("d", now).is_some());
        cache.insert("f".into(), "f", later, now);
        cache.insert("g".into(), "g", later, now);
        assert_eq!(cache.len(), 4);
        assert!(cache.get("f", now).is_some() && cache.get("g", now).is_some() && cache.get("d", now).is_some());
        cache.insert("g".into(), "new", Instant(40), now);
        assert_eq!((cache.len(), cache.get("g", now)), (4, Some(&"new")));
        assert_eq!(cache.get("g", Instant(40)), None);
    }

    #[test]
    fn thousands_of_names_stay_within_bounds() {
        let mut cache = Cache::new(100);
        for n in 0..5000_u64 {
            cache.insert(n.to_string().into(), n, Instant(n + 500), Instant(n));
            assert_eq!(cache.get(&n.to_string(), Instant(n)), Some(&n), "the newest is there");
        }
        assert_eq!((cache.len(), cache.places.len()), (100, 100));
    }
}
