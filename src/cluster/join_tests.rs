//! Bringing in what was made alone, with a real etcd whose answer is lost on its way.

use super::{Join, Progress};
use crate::cluster::board::Board;
use crate::cluster::etcd::{Etcd, EtcdSettings, after_prefix};
use crate::cluster::fence::Gate;
use crate::cluster::record::Keys;
use crate::cluster::test_etcd::relay::{Flow, Relay};
use crate::cluster::test_etcd::server;
use crate::rules::authority::{Cores, prepare, start};
use crate::rules::change::{Request, Suppression};
use crate::rules::entry::{Origin, Verdict};
use crate::rules::pools::ApiPools;
use crate::rules::store::Store;
use crate::test_directory::TestDirectory;
use crossbeam::channel::Sender;
use mailrace_shards::message::CoreId;
use mailrace_shards::rules::{HashKey, Update};
use mailrace_shards::runtime::clock;
use std::sync::Arc;
use std::time::Duration;

/// Applies everything.
struct Willing;

impl Cores for Willing {
    fn post(&self, core: CoreId, update: Arc<Update>, applied: &Sender<(CoreId, u64)>) {
        applied.send((core, update.epoch)).unwrap();
    }

    fn pools(&self, _: ApiPools) {}
}

#[test]
fn what_is_in_is_not_put_in_again_after_an_answer_that_was_lost() {
    let directory = TestDirectory::new("join");
    let mut store = Store::open(directory.path()).unwrap();
    let verdict = Verdict { code: 550, extended: None, description: None };
    let entries = ["a.test", "b.test"].map(|value| Suppression { value: value.into(), verdict: verdict.clone() });
    let origin = Origin { token: "ops".into(), peer: "".into(), at: clock::now().utc, node: "a".into() };
    store.carry_out(&[(Request::Suppress(entries.into()), origin)]).unwrap();
    store.enter_cluster("uuid-1").unwrap();
    let prepared = prepare(store, 1, HashKey(3, 4), Arc::new(|_| 1)).unwrap();
    let (authority, thread) = start(prepared, Willing, "a".into(), clock::now, Duration::from_secs(2)).unwrap();

    let server = server::Etcd::start(1);
    let relay = Relay::to(server.address(0));
    let client = |url: String| Etcd::new(&EtcdSettings { endpoints: vec![url], ..EtcdSettings::default() }).unwrap();
    let (etcd, direct) = (client(relay.url()), client(server.url(0)));
    let (keys, node, mut progress) = (Keys::new("/mailrace/"), Arc::from("a"), Progress::default());
    let board = Board::new("a".into(), Gate::new(false, Duration::ZERO, true), 1);
    let from = keys.suppressions("");
    let segments = || direct.range(&from, &after_prefix(&from), None, 0).unwrap().kvs.len();
    let mut join = Join { etcd: &etcd, keys: &keys, authority: &authority, node: &node, progress: &mut progress };
    relay.set(Flow::Swallow);
    assert!(join.bring_in(&board).is_err());
    assert_eq!(segments(), 1, "it is in, and nobody said so");
    relay.set(Flow::Pass);
    assert!(join.bring_in(&board).is_ok());
    assert_eq!(segments(), 1, "a second one would suppress again what was removed meanwhile");
    assert!(authority.look(Store::membership).unwrap().unwrap().joined);
    authority.stop();
    thread.join().unwrap();
}
