//! Segments against a plain map. Several nodes write, merge and sweep by plans that may be old when they are carried out,
//! follow late, and read all anew at any revision: what each sees is always what the map held at its revision.

use super::catalogue::{Catalogue, Known};
use super::difference::{Difference, Pass, Row, Step, Table};
use super::merge::{Replaced, Survey, merge};
use super::segment::{Segment, of_removals, of_suppressions};
use super::segment_tests::{origin, read, suppression};
use super::{Grounds, Merged, Revision, Word};
use crate::mutation::Random;
use crate::rules::change::Suppression;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;

const NODES: usize = 3;

type Set = BTreeMap<String, Grounds>;

#[derive(Clone)]
struct Key {
    made: Revision,
    changed: Revision,
    value: Arc<[u8]>,
}

#[derive(Clone)]
enum Event {
    Put(Vec<u8>, Key),
    Delete(Vec<u8>),
}

/// What a change was, and the keys after it.
type Past = (Vec<Event>, BTreeMap<Vec<u8>, Key>);

/// As much of etcd as segments need: keys with revisions, transactions with guards, history.
#[derive(Default)]
struct Etcd {
    keys: BTreeMap<Vec<u8>, Key>,
    /// Of each revision, from 1 on: what happened, and what there was after.
    history: Vec<Past>,
    /// What the map held after each.
    expected: Vec<Set>,
}

/// A transaction: it is made if each of the keys is as it was.
struct Guarded {
    compare: Vec<(Vec<u8>, Revision)>,
    put: Vec<(Vec<u8>, Vec<u8>)>,
    delete: Vec<Vec<u8>>,
}

impl Etcd {
    fn revision(&self) -> Revision {
        self.history.len() as Revision
    }

    fn at(&self, revision: Revision) -> BTreeMap<Vec<u8>, Key> {
        if revision == 0 { BTreeMap::new() } else { self.history[revision as usize - 1].1.clone() }
    }

    fn expected(&self, revision: Revision) -> Set {
        if revision == 0 { Set::new() } else { self.expected[revision as usize - 1].clone() }
    }

    fn commit(&mut self, guarded: Guarded, change: impl FnOnce(&mut Set)) -> bool {
        let changed = |key: &Vec<u8>| self.keys.get(key).map_or(0, |key| key.changed);
        if !guarded.compare.iter().all(|(key, revision)| changed(key) == *revision) {
            return false;
        }
        let revision = self.revision() + 1;
        let mut events = Vec::new();
        for key in guarded.delete {
            self.keys.remove(&key).expect("its revision was compared");
            events.push(Event::Delete(key));
        }
        for (key, value) in guarded.put {
            let made = self.keys.get(&key).map_or(revision, |old| old.made);
            let new = Key { made, changed: revision, value: value.into() };
            self.keys.insert(key.clone(), new.clone());
            events.push(Event::Put(key, new));
        }
        let mut set = self.expected(self.revision());
        change(&mut set);
        self.history.push((events, self.keys.clone()));
        self.expected.push(set);
        true
    }
}

/// What all segments say, by reading them plainly: a check on `Merged` too.
fn visible(keys: &BTreeMap<Vec<u8>, Key>) -> Set {
    let by_age: BTreeMap<(Revision, &Vec<u8>), &Key> = keys.iter().map(|(name, key)| ((key.made, name), key)).collect();
    let mut set = Set::new();
    for key in by_age.values() {
        for (value, word) in read(&key.value).expect("what was written is read") {
            match word {
                Word::Put(grounds) => drop(set.insert(value, (*grounds).clone())),
                Word::Removed => drop(set.remove(&value)),
            }
        }
    }
    set
}

/// One that follows, and holds what it has heard.
#[derive(Default)]
struct Node {
    at: Revision,
    catalogue: Catalogue,
    table: Set,
    /// Decided some time ago.
    pending: Option<Guarded>,
    /// A sweep under way: what is still to be done, the oldest first.
    sweep: Vec<Guarded>,
}

struct Rows<'a>(&'a Set);

impl Table for Rows<'_> {
    type Error = Infallible;

    fn rows_after(&mut self, value: &str, limit: u32) -> Result<Vec<Row>, Infallible> {
        let after = (std::ops::Bound::Excluded(value.to_owned()), std::ops::Bound::Unbounded);
        let row = |(value, grounds): (&String, &Grounds)| Row {
            value: value.as_str().into(),
            grounds: grounds.clone(),
            is_shared: true,
        };
        Ok(self.0.range(after).take(limit as usize).map(row).collect())
    }
}

impl Node {
    fn follow(&mut self, etcd: &Etcd) {
        let Some((events, _)) = etcd.history.get(self.at as usize) else { return };
        self.at += 1;
        for event in events {
            match event {
                Event::Delete(key) => self.catalogue.delete(key),
                Event::Put(key, kv) => {
                    let segment = Segment::parse(&kv.value).unwrap();
                    if !self.catalogue.put(key, kv.made, kv.changed, &segment) {
                        continue;
                    }
                    for (value, word) in read(&kv.value).unwrap() {
                        match word {
                            Word::Put(grounds) => drop(self.table.insert(value, (*grounds).clone())),
                            Word::Removed => drop(self.table.remove(&value)),
                        }
                    }
                }
            }
        }
    }

    /// History was compacted: all is read at one revision, and the difference is made up for, some at a time.
    fn read_anew(&mut self, etcd: &Etcd, revision: Revision, random: &mut Random) {
        let keys = etcd.at(revision);
        let mut by_age: Vec<_> = keys.iter().collect();
        by_age.sort_by_key(|(name, key)| (key.made, *name));
        for pass in [Pass::Puts, Pass::Removals] {
            let before = self.table.clone();
            let parsed: Vec<_> = by_age.iter().map(|(_, key)| Segment::parse(&key.value).unwrap()).collect();
            let merged = Merged::new(parsed.iter().map(Segment::entries)).unwrap();
            let mut difference = Difference::new(merged, Rows(&before), pass);
            loop {
                let Ok(steps) = difference.steps(1 + random.below(5)) else { panic!("nothing is broken") };
                if steps.is_empty() {
                    break;
                }
                for step in steps {
                    match step {
                        Step::Put(Suppression { value, verdict }, token) => {
                            assert_eq!(pass, Pass::Puts);
                            self.table.insert(value.to_string(), Grounds { verdict, token });
                        }
                        Step::Remove(value) => {
                            assert_eq!(pass, Pass::Removals);
                            self.table.remove(&*value).expect("it is there");
                        }
                    }
                }
            }
        }
        self.catalogue = Catalogue::default();
        for (key, kv) in &keys {
            self.catalogue.put(key, kv.made, kv.changed, &Segment::parse(&kv.value).unwrap());
        }
        self.at = revision;
    }

    /// Decides on a merge of some neighbours, or on the one that the catalogue proposes.
    fn plan(&mut self, etcd: &Etcd, random: &mut Random) {
        let all: Vec<Known> = self.catalogue.segments().cloned().collect();
        if all.is_empty() {
            return;
        }
        let (run, is_oldest) = match self.catalogue.run_due() {
            Some(run) if random.below(2) == 0 => (run.segments, run.is_oldest),
            _ => {
                let start = random.below(all.len());
                let end = start + 1 + random.below((all.len() - start).min(6));
                (all[start..end].to_vec(), start == 0)
            }
        };
        let now: Option<Vec<_>> = run.iter().map(|known| Some((known, etcd.keys.get(&known.key)?))).collect();
        let Some(now) = now.filter(|now| now.iter().all(|(known, key)| known.changed == key.changed)) else { return };
        let segments: Vec<_> = now.iter().map(|(_, key)| Segment::parse(&key.value).unwrap()).collect();
        let replaced = merge(&segments, is_oldest).unwrap();
        self.pending = Some(guarded(&run, replaced));
    }

    /// Decides on all of a sweep, as of some revision.
    fn begin_sweep(&mut self, etcd: &Etcd) {
        let keys = etcd.at(self.at);
        let mut by_age: Vec<(&Vec<u8>, &Key)> = keys.iter().collect();
        by_age.sort_by_key(|(name, key)| (key.made, *name));
        let segments: Vec<_> = by_age.iter().map(|(_, key)| Segment::parse(&key.value).unwrap()).collect();
        let survey = Survey::of(&segments).unwrap();
        assert_eq!(survey.live as usize, etcd.expected(self.at).len());
        self.sweep.clear();
        for (place, segment) in segments.iter().enumerate() {
            let Some(replaced) = survey.without_idle(place, segment).unwrap() else { continue };
            let (key, kv) = by_age[place];
            let known = Known { key: key.clone(), made: kv.made, changed: kv.changed, octets: 0, raw: 0, entries: 0 };
            self.sweep.push(guarded(&[known], replaced));
        }
        self.sweep.reverse();
    }
}

fn guarded(run: &[Known], replaced: Replaced) -> Guarded {
    let compare = run.iter().map(|known| (known.key.clone(), known.changed)).collect();
    let keys = |run: &[Known]| run.iter().map(|known| known.key.clone()).collect();
    let (last, others) = run.split_last().expect("a run is not empty");
    match replaced {
        Replaced::By(value) => Guarded { compare, put: vec![(last.key.clone(), value)], delete: keys(others) },
        Replaced::ByNothing => Guarded { compare, put: Vec::new(), delete: keys(run) },
        Replaced::NotInOne => panic!("these are small"),
    }
}

struct World {
    etcd: Etcd,
    nodes: Vec<Node>,
    random: Random,
    merged: usize,
    in_vain: usize,
    swept: usize,
    /// The last revision that was looked at.
    checked: Revision,
}

impl World {
    fn write(&mut self) {
        let most = if self.random.below(8) == 0 { 30 } else { 3 };
        let many = 1 + self.random.below(most);
        let value = |random: &mut Random| format!("{}@d.example", random.below(60));
        let values: Vec<String> = (0..many).map(|_| value(&mut self.random)).collect();
        let is_removal = self.random.below(3) == 0;
        let code = 550 + self.random.below(5) as u16;
        let entries: Vec<_> = values.iter().map(|value| suppression(value, code, None)).collect();
        let removed: Vec<Arc<str>> = values.iter().map(|value| value.as_str().into()).collect();
        // Now and then it is two segments at once, that have no value in common.
        let halves = if self.random.below(4) == 0 { 2 } else { 1 };
        let half = |value: &str| value.len() % halves;
        let mut put = Vec::new();
        for number in 0..halves {
            let segments = if is_removal {
                of_removals(
                    &removed.iter().filter(|value| half(value) == number).cloned().collect::<Vec<_>>(),
                    &origin(),
                )
            } else {
                let entries: Vec<_> = entries.iter().filter(|entry| half(&entry.value) == number).cloned().collect();
                of_suppressions(&entries, &origin())
            };
            let key = format!("{:016x}", self.random.below(usize::MAX)).into_bytes();
            put.extend(segments.into_iter().map(|segment| (key.clone(), segment)));
        }
        let compare = put.iter().map(|(key, _)| (key.clone(), 0)).collect();
        let write = Guarded { compare, put, delete: Vec::new() };
        let made = self.etcd.commit(write, |set| {
            for value in &values {
                set.remove(value);
            }
            for entry in entries.into_iter().filter(|_| !is_removal) {
                let grounds = Grounds { verdict: entry.verdict, token: origin().token };
                set.insert(entry.value.to_string(), grounds);
            }
        });
        assert!(made, "keys are made once");
    }

    fn act(&mut self) {
        let at = self.random.below(NODES);
        let node = &mut self.nodes[at];
        match self.random.below(20) {
            0..6 => self.write(),
            6..11 => node.follow(&self.etcd),
            11 => (0..20).for_each(|_| node.follow(&self.etcd)),
            12..14 => node.plan(&self.etcd, &mut self.random),
            14..16 => {
                if let Some(guarded) = node.pending.take() {
                    let count = if self.etcd.commit(guarded, |_| ()) { &mut self.merged } else { &mut self.in_vain };
                    *count += 1;
                }
            }
            16 if self.random.below(4) == 0 => node.begin_sweep(&self.etcd),
            16..19 => {
                if let Some(guarded) = node.sweep.pop() {
                    if self.etcd.commit(guarded, |_| ()) {
                        self.swept += 1;
                    } else {
                        node.sweep.clear();
                        self.in_vain += 1;
                    }
                }
            }
            _ if self.random.below(5) == 0 => {
                let ahead = (self.etcd.revision() - node.at) as usize;
                let revision = node.at + self.random.below(ahead + 1) as Revision;
                node.read_anew(&self.etcd, revision, &mut self.random);
            }
            _ => {}
        }
    }

    fn check(&mut self, seed: u64) {
        let revision = self.etcd.revision();
        if std::mem::replace(&mut self.checked, revision) != revision {
            assert!(visible(&self.etcd.keys) == self.etcd.expected(revision), "seed {seed}, revision {revision}");
        }
        for (at, node) in self.nodes.iter().enumerate() {
            assert!(node.table == self.etcd.expected(node.at), "seed {seed}, node {at} at {} of {revision}", node.at);
        }
    }
}

#[test]
fn every_reader_sees_what_the_map_held() {
    let first = std::env::var("MAILRACE_SEGMENTS_SEED").ok().map(|seed| seed.parse().expect("a number"));
    let seeds = first.map_or(1..6, |seed| seed..seed + 1);
    let (mut merged, mut in_vain, mut swept) = (0, 0, 0);
    for seed in seeds {
        let nodes = (0..NODES).map(|_| Node::default()).collect();
        let (etcd, random) = (Etcd::default(), Random(seed));
        let mut world = World { etcd, nodes, random, merged: 0, in_vain: 0, swept: 0, checked: 0 };
        for _ in 0..400 {
            world.act();
            world.check(seed);
        }
        // In the end all have heard all.
        for node in &mut world.nodes {
            while node.at < world.etcd.revision() {
                node.follow(&world.etcd);
            }
        }
        world.check(seed);
        (merged, in_vain, swept) = (merged + world.merged, in_vain + world.in_vain, swept + world.swept);
    }
    assert!(merged > 40 && in_vain > 15 && swept > 15, "{merged} merged, {in_vain} in vain, {swept} swept");
}
