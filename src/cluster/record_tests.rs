//! What is written into etcd is read, and what is not understood is refused.

use super::{
    Key, Keys, Run, Said, read_by, read_member, read_pool, read_rule, read_said, rule_key, write_by, write_member,
    write_pool, write_rule, write_said,
};
use crate::cluster::waiting::Member;
use crate::json::parse;
use crate::rules::change::Pool;
use crate::rules::entry::{Collection, Decree, Draft, Origin, Verdict};
use crate::rules::schedule::{Schedule, Window};
use crate::rules::shared::SharedPool;
use mailrace_shards::rules::Scope;
use mailrace_shards::time::Timestamp;

fn origin() -> Origin {
    Origin { token: "ops".into(), peer: "192.0.2.1".into(), at: Timestamp(1_772_366_400_001), node: "mx1".into() }
}

fn drafts() -> Vec<Draft> {
    let window =
        Window::from_json(&parse(br#"{"from":"22:00","to":"08:00","tz":"Europe/Amsterdam"}"#).unwrap()).unwrap();
    let schedule = Schedule { start: Some(Timestamp(5)), end: Some(Timestamp(7)), windows: vec![window] };
    let verdict = Verdict { code: 550, extended: None, description: Some("\"gone\"".into()) };
    let scope = Scope { tag: Some("spring".into()), domain: Some("a.test".into()), ..Scope::default() };
    let queues = Scope { queues: ["b.test".into(), "a.test".into()].into(), ..Scope::default() };
    let path = Scope { path: Some("ip-1->mx".into()), ..Scope::default() };
    let suspend = Decree::Suspend { reason: "why".into() };
    let bounce = Decree::Bounce { reason: "why".into(), suppress_logging: true };
    [
        (Collection::Pauses, scope.clone(), Decree::Pause, schedule),
        (Collection::Errors, scope, Decree::Error(verdict), Schedule::default()),
        (Collection::Suspensions, Scope::default(), suspend.clone(), Schedule::default()),
        (Collection::PathSuspensions, path, suspend, Schedule::default()),
        (Collection::Bounces, queues, bounce, Schedule::default()),
    ]
    .map(|(collection, scope, decree, schedule)| Draft { collection, scope, decree, cluster: true, schedule })
    .into()
}

#[test]
fn rules_of_every_kind_come_back_as_they_were() {
    for draft in drafts() {
        let key = rule_key(draft.collection, &draft.identity());
        let value = write_rule("id-1", &draft, &origin(), Timestamp(3));
        let rule = read_rule(&key, &value, 17).unwrap();
        assert_eq!((&rule.key, rule.revision, &*rule.id, rule.created), (&key, 17, "id-1", Timestamp(3)));
        assert_eq!(rule.origin, origin());
        assert_eq!(rule.draft.identity(), draft.identity());
        assert_eq!((rule.draft.decree, rule.draft.schedule), (draft.decree, draft.schedule));
    }
}

#[test]
fn a_rule_that_is_not_understood_is_refused() {
    let draft = &drafts()[1];
    let key = rule_key(draft.collection, &draft.identity());
    let value = String::from_utf8(write_rule("id-1", draft, &origin(), Timestamp(3))).unwrap();
    let other = rule_key(draft.collection, "{}");
    assert!(read_rule(&other, value.as_bytes(), 1).unwrap_err().contains("the key of another"));
    assert!(read_rule("quota/00", value.as_bytes(), 1).unwrap_err().contains("does not know"));
    for (from, to, why) in [
        ("\"v\":1", "\"v\":2", "run the newer one here"),
        ("\"v\":1", "\"w\":1", "no version"),
        ("\"tag\"", "\"colour\"", "colour"),
        ("550", "700", "action"),
        ("\"created\":3", "\"created\":\"3\"", "created"),
        ("\"node\"", "\"mode\"", "node"),
        ("}", "", ""),
    ] {
        let error = read_rule(&key, value.replacen(from, to, 1).as_bytes(), 1).unwrap_err();
        assert!(error.contains(why) && error.contains(&*key), "{from}: {error}");
    }
}

#[test]
fn nodes_pools_and_who_removed_something() {
    for (running, delivers_when_lost) in [(true, true), (false, true), (true, false)] {
        let member = Member { uuid: "u".into(), running, delivers_when_lost };
        assert_eq!(read_member(&write_member(&member, 7, Timestamp(1))), Ok(member));
    }
    let run = Run { uuid: "u".into(), id: "1".into(), place: "mx1, process 7".into() };
    let said = Said { run, announced_at: 8, applied: 9, clock: Timestamp(5), version: "0.1.0".into() };
    assert_eq!(read_said(&write_said(&said)), Ok(said));
    for description in [None, Some("all of it".into())] {
        let pool = Pool { name: "bulk/eu".into(), description };
        let expected = SharedPool { pool: pool.clone(), revision: 5, origin: origin() };
        assert_eq!(read_pool("bulk/eu", &write_pool(&pool, &origin()), 5), Ok(expected));
    }
    assert_eq!(read_by(&write_by(&origin())), Some(origin()));
    assert_eq!(read_by(b"{}"), None);
}

#[test]
fn keys_are_known_again() {
    let keys = Keys::new("/mail/eu/");
    for (key, expected) in [
        (keys.rule("pause/00ff"), Key::Rule("pause/00ff")),
        (keys.pool("bulk/eu"), Key::Pool("bulk/eu")),
        (keys.suppressions("0001"), Key::Suppressions),
        (keys.member("mx1"), Key::Member("mx1")),
        (keys.word("mx1"), Key::Word("mx1")),
        (keys.by(), Key::By),
        (keys.identity(), Key::Identity),
        (b"/mail/eu/later/x".to_vec(), Key::Other),
        (b"/mail/us/rules/x".to_vec(), Key::Other),
        (vec![0xff], Key::Other),
    ] {
        assert_eq!(keys.read(&key), expected, "{}", String::from_utf8_lossy(&key));
    }
}
