//! What comes through etcd, and what is remembered of the cluster.

use super::super::Store;
use crate::rules::change::{Changed, Effect, Pool, PoolIp, Request, Suppression};
use crate::rules::entry::{Collection, Decree, Draft, Origin, Verdict};
use crate::rules::schedule::Schedule;
use crate::rules::shared::{Follow, Shared, SharedPool, SharedRule};
use crate::test_directory::TestDirectory;
use mailrace_shards::rules::Scope;
use mailrace_shards::time::Timestamp;

const NOON: Timestamp = Timestamp(1_772_366_400_000);

fn origin(node: &str) -> Origin {
    Origin { token: "ops".into(), peer: "192.0.2.1".into(), at: NOON, node: node.into() }
}

fn draft(collection: Collection, tag: &str, end: Option<i64>) -> Draft {
    let scope = Scope { tag: Some(tag.into()), ..Scope::default() };
    let decree = match collection {
        Collection::Pauses => Decree::Pause,
        _ => Decree::Suspend { reason: "r".into() },
    };
    let schedule = Schedule { end: end.map(Timestamp), ..Schedule::default() };
    Draft { collection, scope, decree, cluster: true, schedule }
}

fn rule(id: &str, revision: i64, draft: Draft) -> Shared {
    let key = format!("{}/{}", draft.collection.as_str(), draft.scope.tag.as_deref().unwrap_or(""));
    let origin = origin("b");
    Shared::Rule(Box::new(SharedRule { key: key.into(), revision, id: id.into(), draft, origin, created: NOON }))
}

fn suppress(value: &str, code: u16) -> Shared {
    let verdict = Verdict { code, extended: None, description: None };
    Shared::Suppress(Suppression { value: value.into(), verdict }, "sync".into())
}

struct Fixture {
    _directory: TestDirectory,
    store: Store,
}

impl Fixture {
    fn new(name: &str) -> Self {
        let directory = TestDirectory::new(name);
        let mut store = Store::open(directory.path()).unwrap();
        store.enter_cluster("uuid-1").unwrap();
        Self { _directory: directory, store }
    }

    fn revision(&self) -> i64 {
        self.store.membership().unwrap().unwrap().revision
    }

    fn follow(&mut self, after: i64, revision: i64, changes: Vec<Shared>) -> Result<Changed, String> {
        let by = Some(origin("c"));
        let follow = Follow { revision, after, completes: true, changes, origin: by };
        self.carry_out(Request::Follow(Box::new(follow)))
    }

    fn carry_out(&mut self, request: Request) -> Result<Changed, String> {
        let mut outcomes = self.store.carry_out(&[(request, origin("a"))]).unwrap();
        outcomes.remove(0).map_err(|refused| refused.text)
    }

    fn rules(&self) -> Vec<String> {
        let known = |entry: &crate::rules::entry::RuleEntry| {
            let known = self.store.known_rule_by_id(None, &entry.id).unwrap().unwrap();
            format!("{} {} {}", entry.id, known.revision, entry.origin.node)
        };
        self.store.rules(None, 0, 100).unwrap().iter().map(known).collect()
    }

    fn audit(&self) -> Vec<String> {
        let text = |entry: &crate::rules::store::AuditEntry| {
            let json = entry.to_json();
            let word = |name: &str| json.get(name).and_then(|value| value.text()).unwrap_or("-").to_owned();
            let revision = json.get("revision").and_then(|value| value.integer()).expect("it came through etcd");
            format!("{} {} {revision}", word("what"), word("node"))
        };
        self.store.audit(0, 100).unwrap().iter().map(text).collect()
    }
}

fn effects(changed: &Changed) -> Vec<String> {
    let text = |effect: &Effect| match effect {
        Effect::Put(entry) => format!("put {}", entry.id),
        Effect::Remove(entry) => format!("remove {}", entry.id),
        Effect::Suppress(entry, by) => format!("suppress {} {by}", entry.value),
        Effect::Unsuppress(value) => format!("unsuppress {value}"),
        Effect::Pools => "pools".to_owned(),
    };
    changed.effects.iter().map(text).collect()
}

#[test]
fn a_revision_is_stored_as_a_whole_with_who_made_it_and_none_is_passed_over() {
    let mut fixture = Fixture::new("follow");
    let pause = || draft(Collection::Pauses, "t", None);
    let changed = fixture.follow(0, 5, vec![rule("r1", 5, pause())]).unwrap();
    assert_eq!((changed.created, effects(&changed)), (1, vec!["put r1".to_owned()]));
    assert_eq!((fixture.revision(), fixture.rules()), (5, vec!["r1 5 b".to_owned()]));
    let missed = fixture.follow(7, 8, vec![Shared::RemoveRule("pause/t".into())]).unwrap_err();
    assert_eq!(missed, "revision 8 of etcd follows 7, here is 5");
    assert_eq!((fixture.revision(), fixture.rules().len()), (5, 1));
    let changed = fixture.follow(5, 8, vec![rule("r1", 8, pause())]).unwrap();
    assert_eq!((changed.updated, effects(&changed)), (1, vec!["put r1".to_owned()]));
    let changed = fixture.follow(8, 9, vec![Shared::RemoveRule("pause/t".into())]).unwrap();
    assert_eq!((changed.removed, effects(&changed)), (1, vec!["remove r1".to_owned()]));
    assert_eq!((fixture.revision(), fixture.store.rule_count()), (9, 0));
    assert_eq!(fixture.audit(), ["pause created b 5", "pause replaced b 8", "pause removed c 9"]);
}

#[test]
fn what_is_heard_twice_is_done_once() {
    let mut fixture = Fixture::new("twice");
    let changes = || vec![rule("r1", 5, draft(Collection::Pauses, "t", None)), suppress("a.test", 550)];
    fixture.follow(0, 5, changes()).unwrap();
    let again = fixture.follow(5, 5, changes()).unwrap();
    assert_eq!((again.created, again.updated, effects(&again)), (0, 1, vec!["suppress a.test sync".to_owned()]));
    fixture.follow(5, 9, vec![suppress("a.test", 551)]).unwrap();
    let older = fixture.follow(9, 7, vec![suppress("a.test", 550)]).unwrap();
    assert!(effects(&older).is_empty(), "{older:?}");
    assert_eq!(fixture.store.suppressions("", 10).unwrap()[0].0.verdict.code, 551);
    assert_eq!(fixture.revision(), 9);
}

#[test]
fn a_rule_of_kumomta_that_is_replaced_is_never_missing_at_a_core() {
    let mut fixture = Fixture::new("replaced");
    let suspension = || draft(Collection::Suspensions, "t", None);
    fixture.follow(0, 5, vec![rule("r1", 5, suspension())]).unwrap();
    let changed = fixture.follow(5, 6, vec![rule("r2", 6, suspension())]).unwrap();
    assert_eq!((changed.created, effects(&changed)), (1, vec!["put r2".to_owned(), "remove r1".to_owned()]));
    let mut local = suspension();
    local.cluster = false;
    let put = Request::Put { id: "r3".into(), draft: Box::new(local) };
    assert_eq!(fixture.carry_out(put).unwrap().created, 1);
    assert_eq!(fixture.rules(), ["r2 6 b", "r3 0 a"], "one for all and one for this engine stand beside each other");
}

#[test]
fn what_etcd_has_ends_there_and_only_outside_a_cluster_here() {
    let mut fixture = Fixture::new("ends");
    let over = NOON.0 - 1;
    fixture.follow(0, 5, vec![rule("r1", 5, draft(Collection::Pauses, "t", Some(over)))]).unwrap();
    assert_eq!(fixture.store.next_end().unwrap(), None);
    assert_eq!(fixture.carry_out(Request::Sweep(10)).unwrap().removed, 0);
    assert_eq!(fixture.store.ended_shared_rules(Timestamp(over - 1), 10).unwrap(), []);
    assert_eq!(fixture.store.ended_shared_rules(Timestamp(over), 10).unwrap().len(), 1);
    fixture.store.leave_cluster().unwrap();
    assert_eq!(fixture.store.next_end().unwrap(), Some(Timestamp(over)));
    assert_eq!(fixture.carry_out(Request::Sweep(10)).unwrap().removed, 1);
}

#[test]
fn what_is_changed_outside_the_cluster_is_not_what_etcd_has() {
    let mut fixture = Fixture::new("outside");
    let pool = |description: Option<&str>| Pool { name: "p".into(), description: description.map(Into::into) };
    let shared_pool = Shared::Pool(Box::new(SharedPool { pool: pool(None), revision: 5, origin: origin("b") }));
    let kept = draft(Collection::Pauses, "kept", None);
    let changes = vec![
        rule("r1", 5, draft(Collection::Pauses, "t", None)),
        rule("r2", 5, kept),
        suppress("a.test", 550),
        suppress("b.test", 550),
        shared_pool,
    ];
    fixture.follow(0, 5, changes).unwrap();
    fixture.store.settle_in("here", false).unwrap();
    fixture.store.set_joined().unwrap();
    fixture.store.leave_cluster().unwrap();
    let left = fixture.store.membership().unwrap().unwrap();
    assert_eq!((left.revision, left.behind, left.joined), (0, 5, false));
    fixture.carry_out(Request::Put { id: "x".into(), draft: Box::new(draft(Collection::Pauses, "t", None)) }).unwrap();
    fixture.carry_out(Request::PutPool(pool(Some("d")))).unwrap();
    let verdict = Verdict { code: 551, extended: None, description: None };
    fixture.carry_out(Request::Suppress(vec![Suppression { value: "a.test".into(), verdict }])).unwrap();
    assert_eq!(fixture.rules(), ["r1 0 a", "r2 5 b"]);
    let shared: Vec<bool> = fixture.store.known_suppressions("", 9).unwrap().iter().map(|row| row.2).collect();
    assert_eq!(shared, [false, true]);
    assert_eq!(fixture.store.known_pools().unwrap(), [(pool(Some("d")), 0)]);
    // It comes back, to another etcd: nothing of it is known there.
    let back = fixture.store.enter_cluster("uuid-2").unwrap();
    assert_eq!((back.uuid.as_str(), back.place.as_deref()), ("uuid-1", Some("here")));
    fixture.store.settle_in("there", true).unwrap();
    assert_eq!(fixture.store.unshared_rules(0, 9).unwrap().len(), 2);
    assert_eq!(fixture.store.shared_keys("", 9).unwrap(), []);
}

#[test]
fn pools_of_all_take_their_members_here_along() {
    let mut fixture = Fixture::new("pools");
    let pool = |revision| {
        let pool = Pool { name: "p".into(), description: None };
        Shared::Pool(Box::new(SharedPool { pool, revision, origin: origin("b") }))
    };
    fixture.follow(0, 5, vec![pool(5)]).unwrap();
    let member = PoolIp { pool: "p".into(), ip: "192.0.2.1".parse().unwrap() };
    fixture.carry_out(Request::PutPoolIp(member)).unwrap();
    assert!(effects(&fixture.follow(5, 6, vec![pool(5)]).unwrap()).is_empty(), "nothing new");
    let changed = fixture.follow(6, 7, vec![Shared::RemovePool("p".into())]).unwrap();
    assert_eq!((changed.removed, fixture.store.pool_ips(None).unwrap().len()), (1, 0));
}

#[test]
fn many_suppressions_are_one_line_of_the_trail() {
    let mut fixture = Fixture::new("many");
    let changes = (0..100).map(|n| suppress(&format!("{n:03}.test"), 550)).collect();
    assert_eq!(fixture.follow(0, 5, changes).unwrap().created, 100);
    let gone = vec![Shared::Unsuppress("001.test".into())];
    assert_eq!(fixture.follow(5, 6, gone.clone()).unwrap().removed, 1);
    assert_eq!(fixture.follow(6, 7, gone).unwrap().removed, 0);
    assert_eq!(fixture.audit(), ["suppressions changed c 5", "suppression removed c 6"]);
}
