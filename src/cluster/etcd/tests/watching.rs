//! Watches: whole revisions in their order, however etcd cuts its answers; silence; compaction; an end.

use super::server::Etcd as Server;
use super::wait::until;
use super::{PATIENT, client, delete, keys, next, put, write};
use crate::cluster::etcd::{EtcdError, Event, after_prefix};
use std::time::{Duration, Instant};

#[test]
fn a_watch_hands_out_whole_revisions_in_order() {
    let server = Server::start(1);
    let etcd = client(&server.urls());
    let first = write(&etcd, vec![put("/w/a", b"1"), put("/w/b", b"1"), put("/x", b"not watched")]).header.revision;
    write(&etcd, vec![put("/x", b"nor this")]);
    write(&etcd, vec![put("/w/a", b"2"), delete("/w/b"), delete("/w/none")]);
    let mut watch = etcd.watch(b"/w/", &after_prefix(b"/w/"), first).unwrap();
    // The past first, then what comes while it is watched.
    let events = next(&mut watch);
    assert_eq!((events.revision, keys(&events)), (first, vec!["/w/a".into(), "/w/b".into()]));
    let events = next(&mut watch);
    assert_eq!((events.revision, keys(&events)), (first + 2, vec!["/w/a".into(), "-/w/b".into()]));
    let Event::Put(kv) = &events.events[0] else { panic!("{events:?}") };
    assert_eq!((&kv.value[..], kv.create_revision, kv.mod_revision, kv.version), (&b"2"[..], first, first + 2, 2));
    assert_eq!(watch.next(Duration::from_millis(50)), Ok(None), "silence is no error");
    for round in 0..50 {
        let revision = write(&etcd, vec![put("/w/c", format!("{round}").as_bytes())]).header.revision;
        let events = next(&mut watch);
        assert_eq!((events.revision, keys(&events)), (revision, vec!["/w/c".to_owned()]));
    }
}

#[test]
fn revisions_of_many_octets_come_whole_though_etcd_cuts_them() {
    let server = Server::start(1);
    let etcd = client(&server.urls());
    let value = vec![7; 100 << 10];
    let revisions: Vec<_> = (0..30)
        .map(|_| write(&etcd, (0..10).map(|number| put(&format!("/w/{number}"), &value)).collect()).header.revision)
        .collect();
    // 30 MB at once, of which etcd makes parts of at most 2 MB, some within a revision.
    let mut watch = etcd.watch(b"/w/", &after_prefix(b"/w/"), revisions[0]).unwrap();
    for revision in revisions {
        let events = next(&mut watch);
        assert_eq!((events.revision, events.events.len()), (revision, 10));
        assert!(events.events.iter().all(|event| matches!(event, Event::Put(kv) if kv.value == value)));
    }
}

#[test]
fn a_watch_from_a_forgotten_revision_says_which_is_the_oldest() {
    let server = Server::start(1);
    let etcd = client(&server.urls());
    let first = write(&etcd, vec![put("/w/a", b"1")]).header.revision;
    let mut oldest = first;
    for _ in 0..5 {
        oldest = write(&etcd, vec![put("/w/a", b"2")]).header.revision;
    }
    server.compact(0, oldest);
    let mut watch = etcd.watch(b"/w/", &after_prefix(b"/w/"), first).unwrap();
    for _ in 0..2 {
        assert_eq!(watch.next(PATIENT), Err(EtcdError::Compacted { oldest }), "it stays over");
    }
    let mut watch = etcd.watch(b"/w/", &after_prefix(b"/w/"), oldest).unwrap();
    assert_eq!(next(&mut watch).revision, oldest);
}

#[test]
fn a_watch_ends_with_its_member_and_goes_on_at_another() {
    let mut server = Server::start(3);
    let etcd = client(&server.urls());
    let first = write(&etcd, vec![put("/w/a", b"1")]).header.revision;
    let mut watch = etcd.watch(b"/w/", &after_prefix(b"/w/"), first).unwrap();
    assert_eq!(next(&mut watch).revision, first);
    server.kill(0);
    let over = watch.next(PATIENT);
    assert!(matches!(&over, Err(EtcdError::Unreachable(_))), "{over:?}");
    let second = {
        // A read waits for the new leader, if it was the leader that went.
        etcd.range(b"/w/a", b"", None, 0).unwrap();
        write(&etcd, vec![put("/w/a", b"2")]).header.revision
    };
    let mut watch = etcd.watch(b"/w/", &after_prefix(b"/w/"), first + 1).unwrap();
    assert_eq!(next(&mut watch).revision, second);
    // A member that has lost the others says so, since its watch would be silent for ever.
    let alone = (1..3).find(|&member| server.url(member) == etcd.endpoint()).expect("one of the two");
    server.kill(3 - alone);
    let over = watch.next(PATIENT);
    assert!(matches!(&over, Err(EtcdError::Unreachable(why)) if why.contains("no leader")), "{over:?}");
}

#[test]
fn a_dropped_watch_leaves_nothing_behind() {
    let server = Server::start(1);
    let relay = super::relay::Relay::to(server.address(0));
    let etcd = client(&[relay.url()]);
    let threads = || std::fs::read_dir("/proc/self/task").unwrap().count();
    let watch = etcd.watch(b"/w/", b"", 1).unwrap();
    drop(watch);
    let before = threads();
    for _ in 0..20 {
        let begun = Instant::now();
        drop(etcd.watch(b"/w/", &after_prefix(b"/w/"), 1).unwrap());
        assert!(begun.elapsed() < PATIENT);
    }
    super::wait::until("the readers and their connections have ended", || threads() <= before + 2);
}

#[test]
fn the_leader_is_asked_if_there_is_one() {
    let mut server = Server::start(3);
    let etcd = client(&server.urls());
    etcd.prefer_leader(PATIENT);
    let first = server.leader();
    assert_eq!(etcd.endpoint(), server.url(first));
    server.kill(first);
    // The others take a while to find another one, and name the one that is gone until then.
    until("another one leads and is asked", || {
        etcd.prefer_leader(Duration::from_secs(1));
        let leader = server.leader();
        leader != first && etcd.endpoint() == server.url(leader)
    });
    server.kill_all();
    let before = etcd.endpoint().to_owned();
    etcd.prefer_leader(Duration::from_millis(100));
    assert_eq!(etcd.endpoint(), before, "nobody says anything");
}
