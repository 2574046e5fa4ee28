//! Nodes that are killed, nodes that never come back, and stores that come back older than they were.

use crate::support::cluster::{pending, state_of};
use crate::support::relay::Flow;
use crate::support::{Cluster, Node, until};
use serde_json::{Value, json};

fn spring() -> Value {
    json!({"tag": "spring", "code": 550, "cluster": true})
}

#[test]
fn a_killed_node_counts_as_delivering_until_it_is_back_or_forgotten() {
    let mut cluster = Cluster::start();
    cluster.nodes[2].engine.kill();
    let first = &cluster.nodes[0];
    let answer = first.post("/v1/errors", &spring());
    assert_eq!((answer.status, pending(&answer)), (503, vec!["node-2".to_owned()]), "{}", answer.text);
    first.await_sees("node-2", "lost");
    let answer = first.post("/v1/errors", &spring());
    assert_eq!((answer.status, pending(&answer)), (503, vec!["node-2".to_owned()]), "{}", answer.text);
    // Back, it catches up, and calls are answered again.
    cluster.nodes[2].engine.run();
    cluster.await_together();
    assert_eq!(cluster.nodes[2].shared(), cluster.nodes[0].shared());
    assert_eq!(cluster.nodes[0].post("/v1/pauses", &json!({"tag": "again", "cluster": true})).status, 200);
    // Gone for good: while it is live nobody may forget it.
    let forget =
        |cluster: &Cluster| cluster.nodes[0].api().try_call("DELETE", "/v1/cluster/nodes/node-2", None).unwrap();
    let answer = forget(&cluster);
    assert_eq!(answer.status, 409, "{}", answer.text);
    cluster.nodes[2].engine.kill();
    cluster.nodes[0].await_sees("node-2", "lost");
    assert_eq!(forget(&cluster).status, 200);
    until("nobody knows it any more", || {
        cluster.nodes[..2].iter().all(|node| state_of(&node.view(), "node-2").is_empty())
    });
    let answer = cluster.nodes[0].post("/v1/pauses", &json!({"tag": "without", "cluster": true}));
    assert_eq!((answer.status, pending(&answer)), (200, vec![]), "{}", answer.text);
    // Somebody was wrong, and it comes back: it joins as anybody does, and lets nothing out before it has caught up.
    cluster.nodes[2].engine.run();
    cluster.await_together();
    assert_eq!(cluster.await_agreement().len(), 3);
}

#[test]
fn a_node_killed_while_others_change_rules_has_them_all_when_it_is_back() {
    let mut cluster = Cluster::start();
    for round in 0..5 {
        let made = |tag: String| json!({"tag": tag, "cluster": true});
        cluster.nodes[0].post("/v1/pauses?wait=local", &made(format!("before-{round}")));
        cluster.nodes[1].engine.kill();
        cluster.nodes[2].post("/v1/pauses?wait=local", &made(format!("while-{round}")));
        let tag = json!({"tag": format!("before-{round}"), "cluster": true});
        cluster.nodes[0].api().try_call("DELETE", "/v1/pauses?wait=local", Some(&tag)).unwrap();
        cluster.nodes[1].engine.run();
    }
    cluster.await_together();
    let rules = cluster.await_agreement();
    let tags: Vec<String> = rules.values().map(|rule| rule["scope"]["tag"].to_string()).collect();
    assert_eq!(rules.len(), 5, "{tags:?}");
}

#[test]
fn all_members_killed_at_once_lose_nothing_that_was_answered() {
    let mut cluster = Cluster::start();
    let mut answered = Vec::new();
    for round in 0..3 {
        for number in 0..5 {
            let tag = format!("r{round}-{number}");
            let body = json!({"tag": tag, "cluster": true});
            until("a call is answered", || cluster.nodes[number % 3].post("/v1/pauses", &body).status == 200);
            answered.push(tag);
        }
        cluster.etcd.kill_all();
        cluster.etcd.start_all();
        cluster.await_together();
    }
    let rules = cluster.await_agreement();
    let mut tags: Vec<String> =
        rules.values().map(|rule| rule["scope"]["tag"].as_str().unwrap_or_default().to_owned()).collect();
    tags.sort();
    answered.sort();
    assert_eq!(tags, answered);
}

#[test]
fn an_etcd_that_came_back_older_takes_no_rule_away() {
    let mut cluster = Cluster::start();
    cluster.nodes[0].api().post("/v1/pauses", &json!({"tag": "old", "cluster": true}));
    cluster.etcd.kill_all();
    cluster.etcd.keep("backup");
    cluster.etcd.start_all();
    cluster.await_together();
    for number in 0..5 {
        cluster.nodes[1].api().post("/v1/pauses", &json!({"tag": format!("new-{number}"), "cluster": true}));
    }
    let before = cluster.await_agreement();
    assert_eq!(before.len(), 6);
    // The operator brings back the backup.
    for node in &cluster.nodes {
        node.net(Flow::Cut);
    }
    cluster.etcd.kill_all();
    cluster.etcd.restore("backup");
    cluster.etcd.start_all();
    for node in &cluster.nodes {
        node.net(Flow::Pass);
    }
    for node in &cluster.nodes {
        until(&format!("{} says that somebody has to decide", node.name), || node.view()["state"] == "refused");
        assert_eq!(node.shared(), before, "{}", node.name);
        node.send("one@new.example", "x-mq-tag: new-3\r\n");
        until("it is enforced still", || node.in_state("new.example", "held").len() == 1);
        let view = node.view().to_string();
        assert!(view.contains("older") || view.contains("revision"), "it says why: {view}");
    }
    // Also over a restart.
    assert!(cluster.nodes[0].engine.stop().success());
    cluster.nodes[0].engine.run();
    assert_eq!(cluster.nodes[0].shared(), before);
}

#[test]
fn nobody_announces_itself_in_an_etcd_that_came_in_the_place_of_another() {
    let mut etcd = crate::support::etcd::Etcd::start(1);
    etcd.kill_all();
    etcd.keep("empty");
    etcd.start_all();
    let nodes = (0..2).map(|number| Node::prepare(&etcd, number, |config| config)).collect();
    let mut cluster = Cluster { nodes, etcd };
    cluster.nodes.iter_mut().for_each(|node| node.engine.run());
    cluster.await_together();
    cluster.nodes[0].api().post("/v1/pauses", &json!({"tag": "kept", "cluster": true}));
    cluster.etcd.kill_all();
    cluster.etcd.restore("empty");
    cluster.etcd.start_all();
    for node in &cluster.nodes {
        node.await_link("refused");
    }
    // Whoever is new there would take what they have in force for what is decided there.
    assert_eq!(cluster.etcd.keys(0, "/mailrace/nodes/"), 0);
}

#[test]
fn another_etcd_takes_no_rule_away() {
    let mut cluster = Cluster::with(2, |_, config| config);
    cluster.nodes[0].api().post("/v1/pauses", &json!({"tag": "kept", "cluster": true}));
    let before = cluster.await_agreement();
    let node = &mut cluster.nodes[1];
    assert!(node.engine.stop().success());
    let other = crate::support::etcd::Etcd::start(1);
    // Further than the first has ever been.
    for number in 0..100 {
        other.put(0, "/elsewhere", &number.to_string());
    }
    let config = crate::support::Config::to(node.sink.address)
        .line("cluster", &format!("endpoints = [{:?}]", other.url(0)))
        .line("cluster", "node = \"node-1\"")
        .line("cluster", "lease = \"2s\"");
    node.engine.configure(&config);
    node.engine.run();
    until("it says that somebody has to decide", || node.view()["state"] == "refused");
    assert_eq!(node.shared(), before);
    assert_eq!(other.keys(0, "/mailrace/"), 0, "and it has written nothing there");
}

#[test]
fn the_second_engine_of_a_name_does_not_take_part_and_says_so() {
    let mut cluster = Cluster::with(1, |_, config| config);
    let second = Node::prepare(&cluster.etcd, 1, |config| config.line("cluster", "node = \"node-0\""));
    cluster.nodes.push(second);
    cluster.nodes[1].engine.run();
    let second = &cluster.nodes[1];
    until("the second one is refused", || second.view()["state"] == "refused");
    let view = second.view().to_string();
    assert!(view.contains("node-0"), "{view}");
    let answer = second.post("/v1/errors", &spring());
    assert_eq!(answer.status, 503, "{}", answer.text);
    assert_eq!(cluster.nodes[0].post("/v1/errors", &spring()).status, 200, "the first one goes on");
    assert_eq!(cluster.nodes[1].shared().len(), 0);
    // The first one goes, and the second one may have the name once it is free.
    assert!(cluster.nodes[0].engine.stop().success());
    let second = &cluster.nodes[1];
    until("it takes part", || second.view()["state"] == "following");
    assert_eq!(second.shared().len(), 1);
}

/// Puts a node into etcd that only says what a real one would.
fn pretend(cluster: &Cluster, name: &str, clock_ahead: i64) {
    let clock = jiff::Timestamp::now().as_millisecond() + clock_ahead;
    let member =
        json!({"v": 1, "uuid": "pretended", "state": "running", "on_partition": "hold", "since": clock, "applied": 0});
    let live = json!({"v": 1, "uuid": "pretended", "applied": i64::MAX, "clock": clock, "version": "0.0.0"});
    cluster.etcd.put(0, &format!("/mailrace/nodes/{name}/member"), &member.to_string());
    cluster.etcd.put(0, &format!("/mailrace/nodes/{name}/live"), &live.to_string());
}

#[test]
fn a_clock_that_is_ahead_is_shown() {
    let cluster = Cluster::with(1, |_, config| config);
    let node = &cluster.nodes[0];
    let skew = |name: &str| {
        let view = node.view();
        let other = view["nodes"].as_array().unwrap().iter().find(|other| other["node"] == name).cloned();
        other.and_then(|other| other["clock_skew_ms"].as_i64())
    };
    for (name, ahead) in [("early", 5_000), ("late", -7_000), ("right", 0)] {
        until(&format!("the clock of {name} is judged"), || {
            pretend(&cluster, name, ahead);
            skew(name).is_some_and(|skew| (skew - ahead).abs() < 900)
        });
    }
}

#[test]
fn no_clock_ends_a_rule_of_another_early() {
    // One engine lives an hour ahead: for it the rule is over at once.
    let faked = crate::support::programs::faketime();
    let mut cluster = Cluster::with(2, |_, config| config);
    assert!(cluster.nodes[1].engine.stop().success());
    let environment = ["env", &format!("LD_PRELOAD={}", faked.display()), "FAKETIME=+3600s", "DONT_FAKE_MONOTONIC=1"];
    cluster.nodes[1].engine.under(environment.iter().map(|&word| word.to_owned()).collect());
    cluster.nodes[1].engine.run();
    cluster.await_together();
    let expire = jiff::Timestamp::now().as_second() + 1800;
    let pause = json!({"tag": "half", "expire": expire, "cluster": true});
    let answer = cluster.nodes[0].post("/v1/pauses", &pause);
    assert_eq!(answer.status, 200, "{}", answer.text);
    let [right, ahead] = &cluster.nodes[..] else { unreachable!("two") };
    ahead.send("one@half.example", "x-mq-tag: half\r\n");
    ahead.await_delivered("one@half.example");
    right.send("two@half.example", "x-mq-tag: half\r\n");
    until("it is held where the clock is right", || right.in_state("half.example", "held").len() == 1);
    // Whatever the other one does about rules that have ended, it is not done to this one.
    crate::support::wait::linger(std::time::Duration::from_secs(5));
    assert_eq!(cluster.etcd.keys(0, "/mailrace/rules/"), 1);
    assert_eq!(right.in_state("half.example", "held").len(), 1);
    assert!(!right.has_delivered("two@half.example"));
    let view = right.view();
    let skew = view["nodes"].as_array().unwrap().iter().find(|node| node["node"] == "node-1").unwrap()["clock_skew_ms"]
        .clone();
    assert!(skew.as_i64().is_some_and(|skew| (skew - 3_600_000).abs() < 5_000), "{view}");
}
