//! The writer against a real etcd that is not the one which this engine follows.

use super::{Order, Task, Writer};
use crate::cluster::board::{Board, Link};
use crate::cluster::etcd::{Etcd, EtcdSettings};
use crate::cluster::fence::Gate;
use crate::cluster::record::Keys;
use crate::cluster::test_etcd::server;
use crate::rules::authority::Failure;
use crate::rules::change::{Request, Suppression};
use crate::rules::entry::{Collection, Decree, Draft, Origin, Verdict};
use crate::rules::schedule::Schedule;
use crate::rules::store::Store;
use crate::test_directory::TestDirectory;
use futures_lite::future::block_on;
use mailrace_shards::rules::Scope;
use mailrace_shards::runtime::clock;
use mailrace_shards::runtime::reply::reply;
use std::sync::Arc;
use std::time::Duration;

const WITHIN: Duration = Duration::from_secs(5);

fn requests() -> [Request; 3] {
    let scope = Scope { tag: Some("spring".into()), ..Scope::default() };
    let (decree, schedule) = (Decree::Pause, Schedule::default());
    let draft = Draft { collection: Collection::Pauses, scope, decree, cluster: true, schedule };
    let identity = draft.identity();
    let verdict = Verdict { code: 550, extended: None, description: None };
    [
        Request::Put { id: "r1".into(), draft: Box::new(draft) },
        Request::RemoveIdentity { collection: Collection::Pauses, identity, cluster: true },
        Request::Suppress(vec![Suppression { value: "a.test".into(), verdict }]),
    ]
}

/// What whoever asks for each is told by a node that has heard everything up to a revision of that etcd.
fn told(etcd: &Etcd, prefix: &str, cluster_id: u64, heard: i64) -> Vec<Result<(), String>> {
    let directory = TestDirectory::new("writer");
    let store = Store::open(directory.path()).unwrap();
    let board = Arc::new(Board::new("a".into(), Gate::new(false, Duration::ZERO, true), heard));
    board.change(|state| {
        state.cluster_id = Some(cluster_id);
        state.set_link(Link::CutOff("its watch has ended".to_owned()));
    });
    let keys = Keys::new(prefix);
    let writer = Writer { board: board.clone(), etcd: etcd.clone(), keys, reader: store.reader().unwrap() };
    let (orders, received) = crossbeam::channel::bounded(8);
    let answers = requests().map(|request| {
        let (replier, answer) = reply();
        let call = board.with(|state| state.call(true, replier));
        let origin = Origin { token: "t".into(), peer: "".into(), at: clock::now().utc, node: "a".into() };
        let deadline = clock::now().instant.after(WITHIN);
        orders.send(Order { call, task: Task::Change(request), origin, deadline }).unwrap();
        answer
    });
    drop(orders);
    writer.run(&received);
    // Whoever was not told waits for a revision that nobody will hear.
    board.change(|state| state.saw(i64::MAX));
    let said = answers.map(|answer| match block_on(answer).expect("each is told") {
        Ok(_) => Ok(()),
        Err(Failure::Unavailable(why)) => Err(why),
        Err(other) => panic!("{other:?}"),
    });
    said.into()
}

#[test]
fn what_is_written_into_an_etcd_with_another_past_is_not_taken_for_being_in_force() {
    let server = server::Etcd::start(1);
    let etcd = Etcd::new(&EtcdSettings { endpoints: vec![server.url(0)], ..EtcdSettings::default() }).unwrap();
    let header = etcd.range(b"/x", b"", None, 1).unwrap().header;
    let heard = header.revision;
    // Nobody hears anything here: a removal cannot know that there is nothing.
    let said = told(&etcd, "/followed/", header.cluster_id, heard);
    assert!(said[0].is_ok() && said[2].is_ok(), "{said:?}");
    // It was restored from a backup, or is another one, and the follower has not noticed yet.
    for (cluster_id, heard) in [(header.cluster_id, 1000), (header.cluster_id + 1, 1)] {
        for said in told(&etcd, "/restored/", cluster_id, heard) {
            let why = said.expect_err("it is in force nowhere");
            assert!(why.contains("restored from a backup"), "{why}");
        }
    }
}
