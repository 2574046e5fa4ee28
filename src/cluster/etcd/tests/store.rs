//! Ranges, transactions, leases: what etcd does when everything is well.

use super::server::Etcd as Server;
use super::wait::until;
use super::{PATIENT, client, delete, guarded, put, write};
use crate::cluster::etcd::{Answer, Compare, Etcd, EtcdError, Op, Txn, after_prefix};
use std::time::Duration;

#[test]
fn a_range_is_read_page_by_page_at_one_revision() {
    let server = Server::start(1);
    let etcd = client(&server.urls());
    for ten in 0..10 {
        let batch = (0..10).map(|one| put(&format!("/p/{ten}{one}"), format!("v{ten}{one}").as_bytes()));
        write(&etcd, batch.collect());
    }
    write(&etcd, vec![put("/q", b"outside")]);
    let (end, mut from) = (after_prefix(b"/p/"), b"/p/".to_vec());
    let mut found = Vec::new();
    let mut pinned = None;
    loop {
        let page = etcd.range(&from, &end, pinned, 7).unwrap();
        let at = *pinned.get_or_insert(page.header.revision);
        // What happens meanwhile is not seen.
        write(&etcd, vec![put(&format!("/p/{}", found.len()), b"new"), delete("/p/99")]);
        assert!(page.kvs.iter().all(|kv| kv.mod_revision <= at && kv.version == 1 && kv.lease.is_none()));
        assert!(page.header.revision >= at && page.header.cluster_id != 0 && page.header.member_id != 0);
        from = page.kvs.last().unwrap().key.clone();
        from.push(0);
        found.extend(page.kvs);
        if !page.more {
            break;
        }
    }
    let names: Vec<_> = found.iter().map(|kv| String::from_utf8(kv.key.clone()).unwrap()).collect();
    assert_eq!(names, (0..100).map(|number| format!("/p/{number:02}")).collect::<Vec<_>>());
    assert_eq!(found[42].value, b"v42");
    // One key; none; a revision that is forgotten; one that has not been yet.
    assert_eq!(etcd.range(b"/q", b"", None, 0).unwrap().kvs[0].value, b"outside");
    assert_eq!(etcd.range(b"/r", b"", None, 0).unwrap().kvs, []);
    let newest = server.revision(0);
    server.compact(0, newest);
    assert_eq!(etcd.range(b"/q", b"", pinned, 0), Err(EtcdError::Compacted { oldest: 0 }));
    let future = etcd.range(b"/q", b"", Some(newest + 1000), 0);
    assert!(matches!(&future, Err(EtcdError::Refused(why)) if why.contains("future")), "{future:?}");
}

#[test]
fn a_transaction_is_done_as_a_whole_or_not_at_all() {
    let server = Server::start(1);
    let etcd = client(&server.urls());
    let first = etcd.txn(&guarded("/a", 0, vec![put("/a", b"1"), put("/b", b"1")]), PATIENT).unwrap();
    assert!(first.succeeded);
    assert_eq!(first.answers, [Answer::Put, Answer::Put]);
    let at = first.header.revision;
    // Somebody else was faster: nothing of it, but what is there instead.
    let mut late = guarded("/a", 0, vec![put("/a", b"2"), delete("/b")]);
    late.failure = vec![Op::Range { from: b"/a".to_vec(), end: b"/c".to_vec(), limit: 0 }];
    let conflict = etcd.txn(&late, PATIENT).unwrap();
    assert!(!conflict.succeeded);
    assert_eq!(conflict.header.revision, at, "a conflict writes nothing");
    let [Answer::Range(page)] = &conflict.answers[..] else { panic!("{conflict:?}") };
    assert_eq!(page.kvs.iter().map(|kv| (&kv.value[..], kv.mod_revision)).collect::<Vec<_>>(), [(&b"1"[..], at); 2]);
    // With what is known now it is done.
    let second = etcd.txn(&guarded("/a", at, vec![delete("/a"), delete("/none"), put("/c", b"")]), PATIENT).unwrap();
    assert_eq!(second.answers, [Answer::Deleted(1), Answer::Deleted(0), Answer::Put]);
    assert_eq!(second.header.revision, at + 1);
    let mut there = Txn { compare: vec![Compare::unchanged(b"/c", at + 1), Compare::absent(b"/a")], ..Txn::default() };
    assert!(etcd.txn(&there, PATIENT).unwrap().succeeded);
    there.compare.push(Compare::absent(b"/c"));
    assert!(!etcd.txn(&there, PATIENT).unwrap().succeeded);
    let empty = etcd.range(b"/c", b"", None, 0).unwrap();
    assert_eq!(empty.kvs[0].value, b"", "an empty value is one");
}

#[test]
fn what_is_too_large_is_refused_in_clear_words() {
    let server = Server::start(1);
    let etcd = client(&server.urls());
    let refusal = |operations: Vec<Op>| match etcd.txn(&Txn { success: operations, ..Txn::default() }, PATIENT) {
        Err(EtcdError::Refused(why)) => why,
        other => panic!("{other:?}"),
    };
    let why = refusal(vec![put("/big", &vec![7; (1 << 20) + 1])]);
    assert!(why.contains("/big") && why.contains("1048577"), "{why}");
    let why = refusal(vec![put("/a", &vec![7; 1 << 20]), put("/b", &vec![7; 1 << 20])]);
    assert!(why.contains("a transaction of"), "{why}");
    // The largest that we send is taken by a server with its defaults, and comes back as it was.
    let value: Vec<u8> = (0..1 << 20).map(|at: u32| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    write(&etcd, vec![put("/most", &value)]);
    assert_eq!(etcd.range(b"/most", b"", None, 0).unwrap().kvs[0].value, value);
    // What only etcd knows to be too much is refused by it.
    let why = refusal((0..200).map(|number| put(&format!("/{number}"), b"")).collect());
    assert!(why.contains("too many operations"), "{why}");
}

/// Keys below `/l/`, with their leases.
fn leased(etcd: &Etcd) -> Vec<i64> {
    let page = etcd.range(b"/l/", &after_prefix(b"/l/"), None, 0).unwrap();
    page.kvs.iter().map(|kv| kv.lease.map_or(0, |lease| lease.0)).collect()
}

#[test]
fn a_lease_lives_as_long_as_it_is_kept_alive() {
    let server = Server::start(1);
    let etcd = client(&server.urls());
    let short = Duration::from_secs(2);
    let (kept, granted) = etcd.grant(short, PATIENT).unwrap();
    assert!(granted >= short);
    let (lost, _) = etcd.grant(short, PATIENT).unwrap();
    let (ended, _) = etcd.grant(Duration::from_secs(600), PATIENT).unwrap();
    for (name, lease) in [("/l/a", kept), ("/l/b", lost), ("/l/c", ended)] {
        write(&etcd, vec![Op::Put { key: name.into(), value: b"here".to_vec(), lease: Some(lease) }]);
    }
    assert_eq!(leased(&etcd), [kept.0, lost.0, ended.0]);
    etcd.revoke(ended, PATIENT).unwrap();
    etcd.revoke(ended, PATIENT).expect("what has ended is ended");
    assert_eq!(leased(&etcd), [kept.0, lost.0]);
    until("the lease that nobody keeps alive ends", || {
        assert_eq!(etcd.keep_alive(kept, PATIENT).unwrap(), Some(granted));
        leased(&etcd) == [kept.0]
    });
    assert_eq!(etcd.keep_alive(lost, PATIENT).unwrap(), None);
    let put_to_none =
        Txn { success: vec![Op::Put { key: b"/x".to_vec(), value: Vec::new(), lease: Some(lost) }], ..Txn::default() };
    let refused = etcd.txn(&put_to_none, PATIENT);
    assert!(matches!(&refused, Err(EtcdError::Refused(why)) if why.contains("lease not found")), "{refused:?}");
}
