//! Publication against cores that answer late, never, or in another order.

use super::{Lanes, Publication, Standing, Target, Ticket};
use mailrace_shards::limits::RULE_CHANGES_MAX;
use mailrace_shards::message::CoreId;
use mailrace_shards::route::owner;
use mailrace_shards::rules::{Change, Kind, Rule, Scope, Update, Validity};
use mailrace_shards::time::Instant;
use std::sync::Arc;

const SOON: Instant = Instant(100);

fn lanes() -> Lanes {
    Arc::new(|domain| if domain == "wide.test" { 2 } else { 1 })
}

fn put(id: &str, domain: Option<&str>, queues: usize) -> (Target, Change) {
    let queues = (0..queues).map(|n| Arc::from(format!("q{n}"))).collect();
    let scope = Scope { domain: domain.map(Into::into), queues, ..Scope::default() };
    let validity = Validity::always();
    let rule = Rule { id: id.into(), order: 1, kind: Kind::Pause, scope: scope.clone(), validity, by: "t".into() };
    (Target::Rule(scope), Change::Put(Arc::new(rule)))
}

fn updates(publication: &mut Publication) -> Vec<(u16, Update)> {
    std::iter::from_fn(|| publication.next_update()).map(|(core, update)| (core.0, update)).collect()
}

fn in_force(tickets: &[Ticket]) -> Vec<(Ticket, Standing)> {
    tickets.iter().map(|ticket| (*ticket, Standing::InForce)).collect()
}

#[test]
fn a_change_is_in_force_when_every_core_concerned_has_said_so() {
    let mut publication = Publication::new(&[0, 0, 0], lanes());
    let ticket = publication.take(vec![put("a", None, 0)], SOON);
    let posted = updates(&mut publication);
    assert_eq!(posted.iter().map(|(core, update)| (*core, update.after)).collect::<Vec<_>>(), [(0, 0), (1, 0), (2, 0)]);
    assert!(updates(&mut publication).is_empty(), "one batch is outstanding per core");
    for (core, update) in &posted {
        assert!(publication.settle(Instant(1)).is_empty());
        publication.acknowledged(CoreId(*core), update.epoch);
    }
    assert_eq!(publication.settle(Instant(1)), in_force(&[ticket]));
    assert!(publication.settle(Instant(1)).is_empty(), "it is said once");
    assert_eq!(publication.owed(), 0);
}

#[test]
fn only_the_cores_of_a_domain_hear_of_it() {
    let mut publication = Publication::new(&[0; 4], lanes());
    publication.take(vec![put("a", Some("one.test"), 0)], SOON);
    let one: Vec<u16> = updates(&mut publication).iter().map(|(core, _)| *core).collect();
    assert_eq!(one, [owner("one.test", 4).0]);
    let mut publication = Publication::new(&[0; 4], lanes());
    publication.take(vec![put("b", Some("wide.test"), 0)], SOON);
    assert_eq!(updates(&mut publication).len(), 2);
}

#[test]
fn what_comes_meanwhile_is_one_batch_and_follows_the_one_before() {
    let mut publication = Publication::new(&[7], lanes());
    let first = publication.take(vec![put("a", None, 0)], SOON);
    let (_, update) = publication.next_update().unwrap();
    assert_eq!((update.after, update.epoch), (7, 8));
    let later: Vec<Ticket> = (0..3).map(|n| publication.take(vec![put(&format!("b{n}"), None, 0)], SOON)).collect();
    publication.acknowledged(CoreId(0), 7);
    assert!(publication.next_update().is_none(), "an old answer is no answer");
    publication.acknowledged(CoreId(0), 8);
    let (_, update) = publication.next_update().unwrap();
    assert_eq!((update.after, update.epoch, update.changes.len()), (8, 9, 3));
    assert_eq!(publication.settle(Instant(1)), in_force(&[first]));
    publication.acknowledged(CoreId(0), 9);
    assert_eq!(publication.settle(Instant(1)), in_force(&later));
}

#[test]
fn a_core_that_does_not_answer_makes_it_late_and_gets_it_all_the_same() {
    let mut publication = Publication::new(&[0, 0], lanes());
    let late = publication.take(vec![put("a", None, 0)], SOON);
    let posted = updates(&mut publication);
    publication.acknowledged(CoreId(0), posted[0].1.epoch);
    assert_eq!(publication.next_deadline(), Some(SOON));
    assert!(publication.settle(Instant(99)).is_empty());
    assert_eq!(publication.settle(SOON), [(late, Standing::Late(vec![1]))]);
    // What concerns the other core alone does not wait for the silent one.
    let domain = (0..).map(|n| format!("d{n}.test")).find(|domain| owner(domain, 2).0 == 0).unwrap();
    let other = publication.take(vec![put("b", Some(&domain), 0)], Instant(300));
    let (core, update) = publication.next_update().unwrap();
    publication.acknowledged(core, update.epoch);
    assert_eq!(publication.settle(Instant(200)), in_force(&[other]));
    assert_eq!(publication.owed(), 1);
    publication.acknowledged(CoreId(1), posted[1].1.epoch);
    assert_eq!(publication.owed(), 0);
}

#[test]
fn updates_are_within_their_bound_and_what_belongs_together_stays_so() {
    let mut publication = Publication::new(&[0], lanes());
    publication.take(vec![put("a", None, RULE_CHANGES_MAX - 2)], SOON);
    publication.take(vec![put("b", None, 2), put("c", None, 1)], SOON);
    let many = (0..RULE_CHANGES_MAX + 10).map(|n| put(&format!("m{n}"), None, 0)).collect();
    let last = publication.take(many, SOON);
    let mut costs = Vec::new();
    while let Some((core, update)) = publication.next_update() {
        costs.push(update.cost());
        publication.acknowledged(core, update.epoch);
        if publication.owed() > 0 {
            assert!(!publication.settle(Instant(1)).iter().any(|(ticket, _)| *ticket == last));
        }
    }
    assert_eq!(costs, [RULE_CHANGES_MAX - 2, 3, RULE_CHANGES_MAX, 10]);
    assert!(publication.settle(Instant(1)).iter().any(|(ticket, _)| *ticket == last));
}

#[test]
fn what_concerns_nobody_is_in_force_at_once() {
    let mut publication = Publication::new(&[0], lanes());
    let ticket = publication.take(Vec::new(), SOON);
    assert_eq!(publication.settle(Instant(1)), in_force(&[ticket]));
}
