//! Tokens and the database as such: durability, versions, rubbish.

use super::{MIGRATIONS, Store, StoreError};
use crate::rules::change::{ExternalMta, Pool, PoolIp, Request};
use crate::rules::entry::{Collection, Decree, Draft, Origin};
use crate::rules::schedule::Schedule;
use crate::test_directory::TestDirectory;
use crate::token::{Scope, first_token};
use mailrace_shards::limits::{API_POOLS_MAX, AUDIT_ENTRIES_MAX};
use mailrace_shards::time::Timestamp;
use rusqlite::Connection;
use std::os::unix::fs::PermissionsExt;

const NOW: Timestamp = Timestamp(1_700_000_000_000);

fn names(store: &Store) -> Vec<String> {
    store.tokens().unwrap().list().iter().map(|token| format!("{} {}", token.name, token.scope)).collect()
}

#[test]
fn tokens_last_and_end() {
    let directory = TestDirectory::new("tokens");
    let mut store = Store::open(directory.path()).unwrap();
    store.add_token("ci", Scope::Inject, "first", NOW).unwrap();
    store.add_token("anna", Scope::Admin, "second", NOW).unwrap();
    let taken = store.add_token("ci", Scope::Read, "third", NOW).unwrap_err();
    assert!(taken.to_string().contains("there is a token named \"ci\""), "{taken}");
    drop(store);

    let mut store = Store::open(directory.path()).unwrap();
    assert_eq!(names(&store), ["ci inject", "anna admin"]);
    assert_eq!(store.tokens().unwrap().find("first").unwrap().created, NOW);
    store.revoke_token("ci", NOW).unwrap();
    assert!(store.tokens().unwrap().find("first").is_none());
    let gone = store.revoke_token("ci", NOW).unwrap_err();
    assert_eq!(gone.to_string(), "there is no token named \"ci\"");
    store.add_token("ci", Scope::Read, "fourth", NOW).unwrap();
    assert_eq!(names(&store), ["anna admin", "ci read"]);
    let raw = std::fs::read(directory.path().join("rules.db")).unwrap();
    assert!(!raw.windows(6).any(|window| window == b"fourth"), "the text itself must not be kept");
}

/// Who changes rules a hundred times a second must not fill the disk with the trail of it.
#[test]
fn the_audit_trail_keeps_its_newest_entries() {
    let directory = TestDirectory::new("trail");
    let mut store = Store::open(directory.path()).unwrap();
    store.add_token("first", Scope::Read, "1", NOW).unwrap();
    store.add_token("second", Scope::Read, "2", NOW).unwrap();
    let other = Connection::open(directory.path().join("rules.db")).unwrap();
    // As if nearly as many had been made since.
    other.execute("UPDATE sqlite_sequence SET seq = ?1 WHERE name = 'audit'", [AUDIT_ENTRIES_MAX]).unwrap();
    store.add_token("third", Scope::Read, "3", NOW).unwrap();
    let kept: Vec<u64> = store.audit(0, 10).unwrap().iter().map(|entry| entry.sequence).collect();
    assert_eq!(kept, [2, AUDIT_ENTRIES_MAX as u64 + 1]);
    store.revoke_token("first", NOW).unwrap();
    let kept: Vec<u64> = store.audit(0, 10).unwrap().iter().map(|entry| entry.sequence).collect();
    assert_eq!(kept, [AUDIT_ENTRIES_MAX as u64 + 1, AUDIT_ENTRIES_MAX as u64 + 2]);
}

/// What becomes sources and pools of the cores is bounded; what is there can be changed all the same.
#[test]
fn pools_and_what_is_in_them_are_bounded() {
    let directory = TestDirectory::new("pools");
    let mut store = Store::open(directory.path()).unwrap();
    let tables = [
        ("pool (name)", "'p' || n"),
        ("pool_ip (ip, pool)", "'10.1.' || (n / 256) || '.' || (n % 256), 'p1'"),
        ("external_mta (public_ip, local_ip, protocol)", "'10.1.' || (n / 256) || '.' || (n % 256), '10.0.0.1', 'nat'"),
    ];
    for (table, row) in tables {
        store.spoil(&format!(
            "WITH RECURSIVE number (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < {API_POOLS_MAX})
             INSERT INTO {table} SELECT {row} FROM number"
        ));
    }
    let ip = |text: &str| text.parse().unwrap();
    let pool = |name: &str| Request::PutPool(Pool { name: name.into(), description: None });
    let member = |address: &str| Request::PutPoolIp(PoolIp { pool: "p2".into(), ip: ip(address) });
    let mta = |address: &str| {
        let (public_ip, local_ip) = (ip(address), ip("10.0.0.2"));
        Request::PutExternalMta(ExternalMta {
            public_ip,
            local_ip,
            connect_ip: None,
            connect_port: None,
            protocol: "nat".into(),
        })
    };
    let origin = Origin { token: "t".into(), peer: "".into(), at: NOW, node: "".into() };
    let mut ask = |request: Request| store.carry_out(&[(request, origin.clone())]).unwrap().remove(0);
    for (known, new) in
        [(pool("p1"), pool("more")), (member("10.1.0.1"), member("10.9.9.9")), (mta("10.1.0.1"), mta("10.9.9.9"))]
    {
        assert_eq!(ask(known).unwrap().updated, 1);
        let refused = ask(new).unwrap_err();
        assert!(refused.field.is_empty() && refused.text.contains("which is the most"), "{refused:?}");
    }
    assert_eq!(ask(Request::RemovePoolIp(None, ip("10.1.0.1"))).unwrap().removed, 1);
    assert_eq!(ask(member("10.9.9.9")).unwrap().created, 1);
}

#[test]
fn the_running_process_sees_what_a_command_changed() {
    let directory = TestDirectory::new("changed");
    let mut serving = Store::open(directory.path()).unwrap();
    let mut command = Store::open(directory.path()).unwrap();
    assert!(!serving.changed_by_others().unwrap());
    command.add_token("ci", Scope::Inject, "first", NOW).unwrap();
    assert!(serving.changed_by_others().unwrap());
    assert!(!serving.changed_by_others().unwrap());
    assert_eq!(names(&serving), ["ci inject"]);
    serving.revoke_token("ci", NOW).unwrap();
    assert!(!serving.changed_by_others().unwrap(), "its own changes are no news");
}

#[test]
fn the_first_start_makes_one_admin_token() {
    let directory = TestDirectory::new("first");
    let mut store = Store::open(directory.path()).unwrap();
    let path = first_token(&mut store, directory.path(), NOW).unwrap().unwrap();
    assert_eq!(path, directory.path().join("token"));
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let text = std::fs::read_to_string(&path).unwrap();
    assert_eq!(store.tokens().unwrap().find(text.trim()).unwrap().scope, Scope::Admin);
    // Neither a later start nor one after the last token was revoked makes another.
    assert!(first_token(&mut store, directory.path(), NOW).unwrap().is_none());
    store.revoke_token("admin", NOW).unwrap();
    std::fs::remove_file(&path).unwrap();
    assert!(first_token(&mut store, directory.path(), NOW).unwrap().is_none());
}

#[test]
fn durability_and_versions() {
    let directory = TestDirectory::new("versions");
    let store = Store::open(directory.path()).unwrap();
    let pragma =
        |name: &str| store.connection.pragma_query_value(None, name, |row| row.get::<_, rusqlite::types::Value>(0));
    assert_eq!(pragma("journal_mode").unwrap(), rusqlite::types::Value::Text("wal".into()));
    assert_eq!(pragma("synchronous").unwrap(), rusqlite::types::Value::Integer(2));
    assert_eq!(pragma("user_version").unwrap(), rusqlite::types::Value::Integer(MIGRATIONS.len() as i64));
    drop(store);
    for version in [MIGRATIONS.len() as i64 + 1, -1] {
        let later = Connection::open(directory.path().join("rules.db")).unwrap();
        later.pragma_update(None, "user_version", version).unwrap();
        drop(later);
        assert!(matches!(Store::open(directory.path()), Err(StoreError::TooNew { .. })), "{version}");
    }
}

#[test]
fn rubbish_is_named() {
    let directory = TestDirectory::new("rubbish");
    std::fs::write(
        directory.path().join("rules.db"),
        "no database at all, but long enough to be read as one".repeat(20),
    )
    .unwrap();
    let error = Store::open(directory.path()).unwrap_err().to_string();
    assert!(error.contains("rules.db cannot be used"), "{error}");
}

/// Who may make no further rule may yet change those that there are.
#[test]
fn a_rule_takes_the_place_of_another_where_there_is_room_for_none() {
    let directory = TestDirectory::new("full-of-rules");
    let mut store = Store::open(directory.path()).unwrap();
    let origin = || Origin { token: "t".into(), peer: "p".into(), at: NOW, node: "n".into() };
    let put = |store: &mut Store, collection, decree, tag: &str| {
        let scope = mailrace_shards::rules::Scope { tag: Some(tag.into()), ..Default::default() };
        let draft = Draft { collection, scope, decree, cluster: false, schedule: Schedule::default() };
        let id = format!("{tag}-{}", collection.as_str()).into();
        let request = Request::Put { id, draft: Box::new(draft) };
        store.carry_out(&[(request, origin())]).unwrap().remove(0).map(|changed| (changed.created, changed.updated))
    };
    let suspend = || Decree::Suspend { reason: "".into() };
    assert_eq!(put(&mut store, Collection::Pauses, Decree::Pause, "a").unwrap(), (1, 0));
    assert_eq!(put(&mut store, Collection::Suspensions, suspend(), "a").unwrap(), (1, 0));
    store.rules = super::RULES_MAX;
    assert!(put(&mut store, Collection::Pauses, Decree::Pause, "b").is_err());
    assert_eq!(put(&mut store, Collection::Pauses, Decree::Pause, "a").unwrap(), (0, 1));
    assert!(put(&mut store, Collection::Suspensions, suspend(), "a").is_ok());
    assert_eq!(store.rules, super::RULES_MAX);
}
