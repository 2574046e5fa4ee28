//! Waiting, against a plain model: random nodes that start, stop, are lost, apply and are forgotten.

use super::{Member, State, Waiting, Word};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

fn member(uuid: &str, running: bool, delivers_when_lost: bool) -> Option<Member> {
    Some(Member { uuid: uuid.into(), running, delivers_when_lost })
}

fn word(uuid: &str, applied: i64) -> Option<Word> {
    Some(Word { uuid: uuid.into(), run: "".into(), applied })
}

fn names(waiting: &Waiting, revision: i64) -> String {
    waiting.pending(revision).join(" ")
}

#[test]
fn a_call_waits_for_everybody_who_may_be_delivering() {
    let mut waiting = Waiting::new("a".into());
    let (b, c) = ("b".into(), "c".into());
    for (name, uuid) in [(&b, "ub"), (&c, "uc")] {
        waiting.announced(name, member(uuid, true, true));
        waiting.said(name, word(uuid, 10));
    }
    waiting.applied_here(10);
    waiting.wait(1, 11, false);
    waiting.wait(2, 11, true);
    assert_eq!((waiting.settle(), names(&waiting, 11)), (vec![], "a b c".to_owned()));
    waiting.applied_here(11);
    assert_eq!(waiting.settle(), [2], "one asked for this node only");
    waiting.said(&b, word("ub", 11));
    assert_eq!((waiting.settle(), names(&waiting, 11)), (vec![], "c".to_owned()));
    waiting.said(&c, word("uc", 12));
    assert_eq!((waiting.settle(), names(&waiting, 11)), (vec![1], String::new()));
    assert!(waiting.settle().is_empty(), "it is said once");
}

#[test]
fn who_is_lost_is_waited_for_as_it_announced() {
    let mut waiting = Waiting::new("a".into());
    waiting.applied_here(20);
    for (name, delivers) in [("b", true), ("c", false)] {
        waiting.announced(&name.into(), member(name, true, delivers));
        waiting.said(&name.into(), word(name, 10));
        waiting.said(&name.into(), None);
    }
    assert_eq!(names(&waiting, 20), "b");
    assert_eq!(names(&waiting, 10), "", "what it had in force before it was lost is stored there");
    waiting.announced(&"b".into(), member("b", false, true));
    assert_eq!((names(&waiting, 20), waiting.node("b").unwrap().state()), (String::new(), State::Stopped));
    waiting.announced(&"b".into(), None);
    assert!(waiting.node("b").is_none());
}

#[test]
fn another_data_directory_does_not_inherit_the_word_of_the_one_before() {
    let mut waiting = Waiting::new("a".into());
    waiting.applied_here(20);
    waiting.announced(&"b".into(), member("old", true, true));
    waiting.said(&"b".into(), word("old", 20));
    waiting.said(&"b".into(), None);
    assert_eq!(names(&waiting, 20), "");
    waiting.announced(&"b".into(), member("new", true, true));
    assert_eq!(names(&waiting, 20), "b");
    waiting.said(&"b".into(), word("new", 5));
    assert_eq!(names(&waiting, 20), "b");
}

#[test]
fn only_those_named_stay() {
    let mut waiting = Waiting::new("a".into());
    for name in ["b", "c"] {
        waiting.announced(&name.into(), member(name, true, true));
    }
    waiting.only(&BTreeSet::from(["c".into()]));
    assert_eq!(names(&waiting, 1), "a c");
}

/// What a node really does, beside what is known of it.
#[derive(Default)]
struct Real {
    uuid: u64,
    applied: i64,
    running: bool,
    delivers: bool,
    leased: bool,
    known: bool,
}

impl Real {
    /// Mail may leave it by rules as of `applied`.
    fn may_deliver(&self) -> bool {
        self.known && self.running && (self.leased || self.delivers)
    }
}

/// A linear congruential generator (Knuth's MMIX constants); a failure names its seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, most: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % most
    }
}

/// One event, told in full to the machine, as the watch tells it.
fn step(dice: &mut Dice, names: &[Arc<str>], real: &mut BTreeMap<Arc<str>, Real>, waiting: &mut Waiting, newest: i64) {
    let name = &names[usize::try_from(dice.below(names.len() as u64)).unwrap()];
    let node = real.entry(name.clone()).or_default();
    let uuid: Arc<str> = format!("{name}{}", node.uuid).into();
    match dice.below(6) {
        // It applies something, and says so if it can.
        0 | 1 if node.known && node.running => {
            node.applied += i64::try_from(dice.below(4)).unwrap();
            node.applied = node.applied.min(newest);
            if node.leased {
                waiting.said(name, Some(Word { uuid, run: "".into(), applied: node.applied }));
            }
        }
        // It starts: it announces itself and gets a lease; nothing leaves it before it has caught up.
        2 if !node.known || !node.leased => {
            if !node.known && dice.below(2) == 0 {
                *node = Real { uuid: node.uuid + 1, ..Real::default() };
            }
            let uuid: Arc<str> = format!("{name}{}", node.uuid).into();
            (node.known, node.running, node.leased) = (true, true, true);
            node.delivers = dice.below(2) == 0;
            node.applied = newest;
            waiting
                .announced(name, Some(Member { uuid: uuid.clone(), running: true, delivers_when_lost: node.delivers }));
            waiting.said(name, Some(Word { uuid, run: "".into(), applied: newest }));
        }
        3 if node.leased => {
            node.leased = false;
            waiting.said(name, None);
        }
        4 if node.leased => {
            (node.leased, node.running) = (false, false);
            waiting.said(name, None);
            waiting.announced(name, Some(Member { uuid, running: false, delivers_when_lost: node.delivers }));
        }
        5 if node.known && !node.leased && dice.below(4) == 0 => {
            node.known = false;
            waiting.announced(name, None);
        }
        _ => {}
    }
}

#[test]
fn nobody_is_answered_while_somebody_may_deliver_without_the_change() {
    for seed in 0..200 {
        let mut dice = Dice(seed);
        let names: Vec<Arc<str>> = ["b", "c", "d"].map(Arc::from).to_vec();
        let mut real = BTreeMap::new();
        let mut waiting = Waiting::new("a".into());
        let (mut newest, mut here) = (1, 1);
        let mut open: BTreeMap<u64, (i64, bool)> = BTreeMap::new();
        for round in 0..400 {
            match dice.below(4) {
                0 => {
                    newest += 1;
                    let local = dice.below(4) == 0;
                    waiting.wait(round, newest, local);
                    open.insert(round, (newest, local));
                }
                1 => {
                    here = (here + 1).min(newest);
                    waiting.applied_here(here);
                }
                _ => step(&mut dice, &names, &mut real, &mut waiting, newest),
            }
            let answered = waiting.settle();
            let behind = |revision: i64| -> Vec<Arc<str>> {
                let own = (here < revision).then(|| Arc::from("a"));
                let others = real.iter().filter(|(_, node)| node.may_deliver() && node.applied < revision);
                own.into_iter().chain(others.map(|(name, _)| name.clone())).collect()
            };
            for call in answered {
                let (revision, local) = open.remove(&call).expect("each call is answered once");
                assert!(here >= revision, "seed {seed}: not even in force here");
                assert!(local || behind(revision).is_empty(), "seed {seed} round {round}: {:?}", behind(revision));
            }
            for (revision, local) in open.values() {
                let waits = if *local { here < *revision } else { !waiting.pending(*revision).is_empty() };
                assert!(waits, "seed {seed} round {round}: nobody is waited for, yet there is no answer");
                // A word that got lost on its way may be waited for; whoever is named otherwise must be behind.
                let named = waiting.pending(*revision);
                assert!(behind(*revision).iter().all(|name| named.contains(name)), "seed {seed} round {round}");
            }
        }
    }
}
