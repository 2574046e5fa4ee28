//! The client against real etcd processes, and against servers that lie. Everything is on the loopback, on free ports.

#![allow(clippy::disallowed_methods, reason = "the tests watch the client by the clock")]

mod access;
mod faults;
mod pure;
mod store;
mod watching;

use crate::cluster::test_etcd::{ports, relay, server, wait};

use super::{Compare, Etcd, EtcdSettings, Event, Events, Op, Revision, Txn, TxnAnswer, Watch};
use std::time::Duration;

/// Long enough for whatever must come on a busy machine.
const PATIENT: Duration = Duration::from_secs(60);

/// A client of these endpoints.
fn client(endpoints: &[String]) -> Etcd {
    Etcd::new(&EtcdSettings { endpoints: endpoints.to_vec(), ..EtcdSettings::default() }).unwrap()
}

fn put(key: &str, value: &[u8]) -> Op {
    Op::Put { key: key.as_bytes().to_vec(), value: value.to_vec(), lease: None }
}

fn delete(key: &str) -> Op {
    Op::Delete { key: key.as_bytes().to_vec() }
}

/// Without a condition; must be done.
fn write(etcd: &Etcd, success: Vec<Op>) -> TxnAnswer {
    let answer = etcd.txn(&Txn { success, ..Txn::default() }, PATIENT).unwrap();
    assert!(answer.succeeded);
    answer
}

/// If the key is as it was then.
fn guarded(key: &str, mod_revision: Revision, success: Vec<Op>) -> Txn {
    Txn { compare: vec![Compare::unchanged(key.as_bytes(), mod_revision)], success, failure: Vec::new() }
}

/// The next revision, which must come.
fn next(watch: &mut Watch) -> Events {
    watch.next(PATIENT).unwrap().expect("something comes")
}

/// Keys of the events, with `-` before those that were removed.
fn keys(events: &Events) -> Vec<String> {
    let name = |event: &Event| match event {
        Event::Put(kv) => String::from_utf8(kv.key.clone()).unwrap(),
        Event::Delete { key, .. } => format!("-{}", String::from_utf8(key.clone()).unwrap()),
    };
    events.events.iter().map(name).collect()
}
