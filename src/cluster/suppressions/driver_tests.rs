//! Listening and merging against keys in memory: what is heard, what is read anew, and that segments stay few.

use super::Grounds;
use super::difference::{Row, Table};
use super::keys::{Kept, Keys, Replacement, Take};
use super::listener::{Known, Listener, Segments};
use super::merging::{Done, Merging};
use super::segment::{of_removals, of_suppressions};
use super::segment_tests::{origin, suppression};
use crate::cluster::heard::{Hearing, Missed};
use crate::rules::change::Suppression;
use crate::rules::shared::{Revision, Shared};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// Keys in memory, every revision kept.
#[derive(Default)]
pub struct MemoryKeys(Mutex<Vec<BTreeMap<Vec<u8>, Kept>>>);

impl MemoryKeys {
    fn now(&self) -> BTreeMap<Vec<u8>, Kept> {
        self.0.lock().unwrap().last().cloned().unwrap_or_default()
    }

    fn write(&self, value: Vec<u8>) -> (Vec<u8>, Revision) {
        // Not in the order of age.
        let key = format!("p/{:08x}", self.0.lock().unwrap().len() * 0x9e37 % 0x10000).into_bytes();
        let new = Replacement { compare: vec![(key.clone(), 0)], put: Some((key.clone(), value)), delete: vec![] };
        (key, self.replace(new).unwrap().expect("each key is made once"))
    }

    fn suppress(&self, entries: &[Suppression]) {
        of_suppressions(entries, &origin()).into_iter().for_each(|segment| drop(self.write(segment)));
    }
}

impl Keys for MemoryKeys {
    fn each(&self, at: Option<Revision>, take: &mut Take<'_>) -> Result<Revision, Missed> {
        let history = self.0.lock().unwrap().clone();
        let at = at.unwrap_or(history.len() as Revision);
        let keys = if at > 0 { history[at as usize - 1].clone() } else { BTreeMap::default() };
        keys.into_values().try_for_each(take)?;
        Ok(at)
    }

    fn one(&self, key: &[u8]) -> Result<Option<Kept>, Missed> {
        Ok(self.now().get(key).cloned())
    }

    fn replace(&self, replacement: Replacement) -> Result<Option<Revision>, Missed> {
        let mut keys = self.now();
        let changed = |key: &Vec<u8>| keys.get(key).map_or(0, |kept| kept.changed);
        if replacement.compare.iter().any(|(key, revision)| changed(key) != *revision) {
            return Ok(None);
        }
        let mut history = self.0.lock().unwrap();
        let revision = history.len() as Revision + 1;
        replacement.delete.iter().for_each(|key| drop(keys.remove(key).expect("its revision was compared")));
        if let Some((key, value)) = replacement.put {
            let made = keys.get(&key).map_or(revision, |kept| kept.made);
            keys.insert(key.clone(), Kept { key, value, made, changed: revision });
        }
        history.push(keys);
        Ok(Some(revision))
    }
}

#[derive(Clone, Default)]
struct Stored(Arc<Mutex<BTreeMap<Arc<str>, Row>>>);

impl Stored {
    fn apply(&self, changes: Vec<Shared>) {
        let mut rows = self.0.lock().unwrap();
        for change in changes {
            match change {
                Shared::Suppress(Suppression { value, verdict }, token) => {
                    let row = Row { value: value.clone(), grounds: Grounds { verdict, token }, is_shared: true };
                    rows.insert(value, row);
                }
                Shared::Unsuppress(value) => drop(rows.remove(&value)),
                other => panic!("{other:?} is no suppression"),
            }
        }
    }

    fn codes(&self) -> BTreeMap<String, u16> {
        let rows = self.0.lock().unwrap();
        rows.values().map(|row| (row.value.to_string(), row.grounds.verdict.code)).collect()
    }
}

impl Table for Stored {
    type Error = String;

    fn rows_after(&mut self, value: &str, limit: u32) -> Result<Vec<Row>, String> {
        let after = (std::ops::Bound::Excluded(value), std::ops::Bound::Unbounded);
        Ok(self.0.lock().unwrap().range::<str, _>(after).take(limit as usize).map(|(_, row)| row.clone()).collect())
    }
}

struct World {
    keys: Arc<MemoryKeys>,
    known: Known,
    listener: Listener<Stored>,
    stored: Stored,
    heard: BTreeMap<Vec<u8>, Kept>,
}

impl World {
    fn new(keys: &Arc<MemoryKeys>) -> Self {
        let (known, stored) = (Known::default(), Stored::default());
        let listener = Listener::new(keys.clone(), known.clone(), stored.clone());
        Self { keys: keys.clone(), known, listener, stored, heard: BTreeMap::new() }
    }

    /// Hears what has changed since it last did, in the order of revisions.
    fn hear(&mut self) {
        let now = self.keys.now();
        let gone: Vec<_> = self.heard.keys().filter(|key| !now.contains_key(*key)).cloned().collect();
        gone.iter().for_each(|key| self.listener.delete(key, 0));
        let mut new: Vec<_> = now.values().filter(|kept| self.heard.get(&kept.key) != Some(kept)).collect();
        new.sort_by_key(|kept| kept.changed);
        for kept in new {
            if let Some(news) = self.listener.put(&kept.key, &kept.value, kept.made, kept.changed).unwrap() {
                assert_eq!(news.origin, Some(origin()));
                self.stored.apply(news.changes);
            }
        }
        self.heard = now;
    }

    fn relist(&mut self) -> Vec<usize> {
        let at = self.keys.0.lock().unwrap().len() as Revision;
        let (stored, mut portions) = (self.stored.clone(), Vec::new());
        let relisted = self.listener.relist(at, &mut |changes| {
            portions.push(changes.len());
            stored.apply(changes);
            Ok(())
        });
        relisted.unwrap();
        self.heard = self.keys.now();
        portions
    }
}

#[test]
fn single_entries_become_few_segments_and_everybody_sees_the_same() {
    let keys = Arc::new(MemoryKeys::default());
    let mut world = World::new(&keys);
    let mut merging = Merging::new(keys.clone(), world.known.clone());
    let mut expected = BTreeMap::new();
    let mut most = 0;
    for n in 0..400_u16 {
        let value = format!("u{}@d.example", n * 37 % 300);
        if n % 7 == 3 {
            of_removals(&[value.as_str().into()], &origin()).into_iter().for_each(|segment| drop(keys.write(segment)));
            expected.remove(&value);
        } else {
            keys.suppress(&[suppression(&value, 500 + n % 100, None)]);
            expected.insert(value, 500 + n % 100);
        }
        world.hear();
        while merging.step(&mut || panic!("there are few")).unwrap() != Done::Nothing {
            world.hear();
        }
        most = most.max(keys.now().len());
    }
    assert!(most <= 50, "{most} keys at once");
    assert_eq!(world.stored.codes(), expected);
    // One that comes later, and one that has something else.
    let mut fresh = World::new(&keys);
    assert_eq!(fresh.relist(), [expected.len()]);
    assert_eq!(fresh.stored.codes(), expected);
    fresh.stored.apply(vec![
        Shared::Suppress(suppression("not.there", 550, None), "x".into()),
        Shared::Unsuppress(expected.keys().next().unwrap().as_str().into()),
    ]);
    let mut own = BTreeMap::from([("made.here".to_owned(), 551)]);
    let grounds = Grounds { verdict: suppression("", 551, None).verdict, token: "x".into() };
    let row = Row { value: "made.here".into(), grounds, is_shared: false };
    fresh.stored.0.lock().unwrap().insert("made.here".into(), row);
    assert_eq!(fresh.relist(), [1, 1], "what is missing, then what is too much");
    own.extend(expected);
    assert_eq!(fresh.stored.codes(), own, "what etcd never had stays");
}

#[test]
fn what_says_nothing_any_more_is_swept() {
    let keys = Arc::new(MemoryKeys::default());
    let mut world = World::new(&keys);
    let entries: Vec<_> = (0..2500).map(|n| suppression(&format!("u{n}@d.example"), 550, None)).collect();
    // Too few to be merged.
    (0..10).for_each(|_| keys.suppress(&entries));
    let removed: Vec<Arc<str>> = entries[..1500].iter().map(|entry| entry.value.clone()).collect();
    of_removals(&removed, &origin()).into_iter().for_each(|segment| drop(keys.write(segment)));
    world.hear();
    let expected = world.stored.codes();
    let mut merging = Merging::new(keys.clone(), world.known.clone());
    let mut asked = 0;
    let mut live = || {
        asked += 1;
        Ok(1000)
    };
    assert_eq!(merging.step(&mut live), Ok(Done::Swept(11)));
    assert_eq!(merging.step(&mut live), Ok(Done::Nothing));
    assert_eq!(asked, 1);
    let left = Segments::read(&*keys, None).unwrap().0.catalogue().unwrap();
    assert_eq!((left.segments().count(), left.entries()), (1, 1000));
    let mut fresh = World::new(&keys);
    fresh.relist();
    assert_eq!(fresh.stored.codes(), expected);
}

#[test]
fn a_plan_that_is_old_is_in_vain_and_forgotten() {
    let keys = Arc::new(MemoryKeys::default());
    (0..40).for_each(|n| keys.suppress(&[suppression(&format!("u{n}@d.example"), 550, None)]));
    let mut world = World::new(&keys);
    world.relist();
    let mut merging = Merging::new(keys.clone(), world.known.clone());
    let mut other = Merging::new(keys.clone(), Known::default());
    let mut few = || panic!("there are few");
    assert_eq!(other.step(&mut few).unwrap(), Done::Merged);
    let before = keys.now();
    let mut steps = Vec::new();
    while steps.last() != Some(&Done::Nothing) {
        steps.push(merging.step(&mut few).unwrap());
    }
    assert!(steps.len() > 1 && steps[..steps.len() - 1].iter().all(|done| *done == Done::InVain), "{steps:?}");
    assert_eq!(keys.now(), before);
}

#[test]
fn a_segment_that_cannot_be_read_is_named() {
    let keys = Arc::new(MemoryKeys::default());
    keys.suppress(&[suppression("u@d.example", 550, None)]);
    let (key, at) = keys.write(b"mrsg\x02...".to_vec());
    let mut world = World::new(&keys);
    let name = String::from_utf8(key.clone()).unwrap();
    let expected =
        format!("suppressions in etcd cannot be read: {name}: it has version 2, which a later mailrace wrote");
    assert_eq!(world.listener.put(&key, b"mrsg\x02...", at, at), Err(expected.clone()));
    let relisted = world.listener.relist(at, &mut |_| panic!("nothing is applied"));
    assert_eq!(relisted, Err(Missed::Ever(expected.clone())));
    let merged = Merging::new(keys.clone(), Known::default()).step(&mut || Ok(1));
    assert_eq!(merged, Err(Missed::Ever(expected)));
}
