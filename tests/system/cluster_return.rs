//! Who comes back when the others do not count with it any more: copies, forgotten nodes, stores with another past; and
//! what is noticed of a change that never was heard.

use crate::support::cluster::state_of;
use crate::support::etcd::base64;
use crate::support::relay::Flow;
use crate::support::wait::linger;
use crate::support::{Cluster, Node, until};
use serde_json::{Value, json};
use std::time::Duration;

fn pause(tag: &str) -> Value {
    json!({"tag": tag, "cluster": true})
}

/// Runs a copy of the second node's data directory, as the third node, under the name of that number. It is refused, and
/// names the process that it is a copy of, as this does.
fn run_copy(cluster: &mut Cluster, number: usize) -> String {
    cluster.nodes[1].engine.kill();
    let copy = Node::prepare(&cluster.etcd, number, |config| config);
    copy_directory(&cluster.nodes[1].engine.data(), &copy.engine.data());
    cluster.nodes.push(copy);
    cluster.nodes[1].engine.run();
    cluster.nodes[1].await_link("following");
    // The others see the first one live, and so does etcd; now the copy comes.
    cluster.nodes[0].await_sees("node-1", "live");
    cluster.nodes[2].engine.run();
    let [_, original, copy] = &cluster.nodes[..] else { unreachable!("three") };
    copy.await_link("refused");
    let (view, place) = (copy.view(), format!("process {}", original.engine.id()));
    let why = view["why"].as_str().unwrap();
    assert!(why.contains("copy of this data directory") && why.contains(&place), "{why}");
    place
}

#[test]
fn a_copy_of_a_data_directory_delivers_nothing_and_names_the_engine_that_it_is_a_copy_of() {
    let mut cluster = Cluster::with(2, |_, config| config);
    cluster.nodes[0].api().post("/v1/pauses", &pause("kept"));
    let place = run_copy(&mut cluster, 1);
    let [other, original, copy] = &cluster.nodes[..] else { unreachable!("three") };
    copy.send("one@copy.example", "");
    until("it is held", || copy.in_state("copy.example", "held").len() == 1);
    assert!(copy.engine.stderr().contains(&place), "{}", copy.engine.stderr());
    // Whoever was there goes on, and calls are answered by it.
    for round in 0..3 {
        let answer = other.post("/v1/pauses", &pause(&format!("round-{round}")));
        assert_eq!(answer.status, 200, "{}", answer.text);
        assert!(original.shared().values().any(|rule| rule["scope"]["tag"] == format!("round-{round}")));
    }
    assert_eq!(original.view()["state"], "following");
    original.send("two@copy.example", "");
    original.await_delivered("two@copy.example");
    assert!(!copy.has_delivered("one@copy.example"));
    // Once the other is gone for good, this one is the engine.
    assert!(cluster.nodes[1].engine.stop().success());
    cluster.nodes[2].await_link("following");
    cluster.nodes[2].await_delivered("one@copy.example");
    assert_eq!(cluster.nodes[2].shared().len(), 4);
}

fn copy_directory(from: &std::path::Path, to: &std::path::Path) {
    let status = std::process::Command::new("cp").arg("-aT").args([from, to]).status().unwrap();
    assert!(status.success());
}

#[test]
fn a_forgotten_node_that_returns_lets_nothing_out_that_was_ended_without_it() {
    let mut cluster = Cluster::start();
    // Mail that waits for a rule of its own, so that it is there when the node comes back.
    let own = cluster.nodes[2].api().post("/v1/pauses", &json!({"domain": "old.example"}))["id"].clone();
    cluster.nodes[2].send("one@old.example", "x-mq-tag: spring\r\n");
    until("it waits", || cluster.nodes[2].in_state("old.example", "held").len() == 1);
    cluster.nodes[2].engine.kill();
    let first = &cluster.nodes[0];
    first.await_sees("node-2", "lost");
    first.api().call("DELETE", "/v1/cluster/nodes/node-2", None);
    let answer = first.post("/v1/errors", &json!({"tag": "spring", "code": 550, "cluster": true}));
    assert_eq!(answer.status, 200, "nobody waits for it: {}", answer.text);
    // It is slow to hear that it was forgotten, and what was decided: until then nothing leaves it.
    cluster.nodes[2].net(Flow::Late(Duration::from_millis(450)));
    let told = |node: &Node| node.engine.stderr().matches("has not caught up with etcd").count();
    let before = told(&cluster.nodes[2]);
    cluster.nodes[2].engine.run();
    let third = &cluster.nodes[2];
    third.api().remove(own.as_str().unwrap());
    third.send("two@new.example", "x-mq-tag: spring\r\n");
    until("it hears that it was forgotten", || told(third) > before);
    assert!(third.sink.attempts().is_empty(), "nothing left it while it asked");
    third.net(Flow::Pass);
    until("it has caught up and ended both", || {
        third.engine.records().iter().filter(|record| record.kind() == "Bounce").count() == 2
    });
    assert!(third.sink.attempts().is_empty(), "nothing that the rule covers left it");
    cluster.await_together();
    cluster.nodes[2].send("three@free.example", "");
    cluster.nodes[2].await_delivered("three@free.example");
}

#[test]
fn a_node_that_is_forgotten_while_it_is_cut_off_holds_its_mail_once_it_hears_of_it() {
    let mut cluster = Cluster::start();
    cluster.nodes[2].net(Flow::Cut);
    cluster.nodes[2].await_link("cut off");
    let first = &cluster.nodes[0];
    first.await_sees("node-2", "lost");
    // By what it was told when it joined, it goes on.
    cluster.nodes[2].send("one@free.example", "");
    cluster.nodes[2].await_delivered("one@free.example");
    first.api().call("DELETE", "/v1/cluster/nodes/node-2", None);
    assert_eq!(first.post("/v1/errors", &json!({"tag": "spring", "code": 550, "cluster": true})).status, 200);
    cluster.nodes[2].net(Flow::Pass);
    cluster.await_together();
    let third = &cluster.nodes[2];
    let said = third.engine.stderr();
    let at = |text: &str| said.rfind(text).unwrap_or_else(|| panic!("{text:?} is not in {said}"));
    assert!(at("has not caught up with etcd yet") < at("mail is delivered again"), "{said}");
    third.send("two@free.example", "x-mq-tag: spring\r\n");
    until("it knows the rule", || third.engine.records().iter().any(|record| record.kind() == "Bounce"));
    assert!(!third.has_delivered("two@free.example"));
    assert_eq!(state_of(&cluster.nodes[0].view(), "node-2"), "live");
    for node in &cluster.nodes {
        let trail = node.api().get("/v1/audit").to_string();
        assert_eq!(trail.matches("node forgotten").count(), 1, "{}: {trail}", node.name);
    }
}

#[test]
fn where_etcd_is_away_a_crashed_node_delivers_by_what_it_knows_after_two_seconds() {
    let mut cluster = Cluster::with(1, |_, config| config);
    cluster.nodes[0].api().post("/v1/pauses", &pause("kept"));
    cluster.nodes[0].engine.kill();
    cluster.etcd.kill_all();
    cluster.nodes[0].engine.run();
    let node = &cluster.nodes[0];
    node.send("one@kept.example", "x-mq-tag: kept\r\n");
    node.send("two@free.example", "");
    node.await_delivered("two@free.example");
    until("its own rule is in force", || node.in_state("kept.example", "held").len() == 1);
}

#[test]
fn an_etcd_that_came_back_older_and_went_on_is_not_taken_for_the_one_that_was() {
    let mut cluster = Cluster::with(2, |_, config| config);
    cluster.nodes[0].api().post("/v1/pauses", &pause("old"));
    cluster.etcd.kill_all();
    cluster.etcd.keep("backup");
    cluster.etcd.start_all();
    cluster.await_together();
    cluster.nodes[0].api().post("/v1/pauses", &pause("lost"));
    let before = cluster.await_agreement();
    let known = cluster.etcd.revision(0);
    for node in &cluster.nodes {
        node.net(Flow::Cut);
        node.await_link("cut off");
    }
    cluster.etcd.kill_all();
    cluster.etcd.restore("backup");
    cluster.etcd.start_all();
    // Others have been at work there: its revision tells nothing any more.
    while cluster.etcd.revision(0) <= known + 5 {
        cluster.etcd.put(0, "/elsewhere", "x");
    }
    for node in &cluster.nodes {
        node.net(Flow::Pass);
        node.await_link("refused");
        assert_eq!(node.shared(), before, "{}", node.name);
        assert!(node.view()["why"].as_str().unwrap().contains("restored from a backup"), "{}", node.view());
    }
    // The operator decides for the backup: once without the section. What etcd lacks is brought in again.
    for at in 0..2 {
        let node = &mut cluster.nodes[at];
        assert!(node.engine.stop().success());
        let clustered = node.config.clone();
        node.engine.configure(&clustered.clone().without("cluster"));
        node.engine.run();
        assert_eq!(node.shared(), before, "{} alone", node.name);
        assert!(node.engine.stop().success());
        node.engine.configure(&clustered);
        node.engine.run();
        node.await_link("following");
    }
    cluster.await_together();
    assert_eq!(cluster.await_agreement(), before);
    assert_eq!(cluster.nodes[1].post("/v1/pauses", &pause("next")).status, 200);
}

/// What etcd calls the one rule that it has.
fn key_of_the_rule(cluster: &Cluster) -> String {
    let request = json!({"key": base64(b"/mailrace/rules/"), "range_end": base64(b"/mailrace/rules0")});
    let page = cluster.etcd.call(0, "/v3/kv/range", &request);
    assert_eq!(page["kvs"].as_array().map(Vec::len), Some(1), "{page}");
    page["kvs"][0]["key"].as_str().unwrap().to_owned()
}

fn figure(node: &Node, name: &str) -> f64 {
    let text = node.api().try_call("GET", "/metrics", None).unwrap().text;
    let line = text.lines().find(|line| line.starts_with(name) && !line.starts_with('#'));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or_else(|| panic!("no {name} in {text}"))
}

#[test]
fn a_change_that_etcd_said_and_a_node_never_heard_is_found_out_and_made_up_for() {
    let mut cluster = Cluster::with(2, |_, config| config.line("cluster", "compare_every = \"1s\""));
    // The key is known only when the rule has been there once.
    cluster.nodes[0].api().post("/v1/pauses", &pause("unheard"));
    let key = key_of_the_rule(&cluster);
    cluster.nodes[0].api().call("DELETE", "/v1/pauses", Some(&pause("unheard")));
    until("it has compared", || figure(&cluster.nodes[1], "mailrace_cluster_comparisons_total") >= 1.0);
    assert_eq!(figure(&cluster.nodes[1], "mailrace_cluster_differences_total"), 0.0, "nothing was missing");
    cluster.nodes[1].leave_out(Some(&key));
    cluster.nodes[0].api().post("/v1/pauses?wait=local", &pause("unheard"));
    cluster.nodes[0].api().post("/v1/pauses", &pause("heard"));
    // What came later is in force there, as the answer said, and what was left out is found.
    cluster.nodes[1].leave_out(None);
    let rules = cluster.await_agreement();
    assert_eq!(rules.len(), 2);
    assert!(figure(&cluster.nodes[1], "mailrace_cluster_differences_total") >= 1.0);
    assert!(cluster.nodes[1].engine.stderr().contains("has missed something"), "{}", cluster.nodes[1].engine.stderr());
    assert_eq!(figure(&cluster.nodes[0], "mailrace_cluster_differences_total"), 0.0);
}

#[test]
fn a_suppression_that_a_node_never_heard_is_found_out_and_made_up_for() {
    let mut cluster = Cluster::with(2, |_, config| config.line("cluster", "compare_every = \"1s\""));
    let prefix = base64(b"/mailrace/suppressions/");
    // Whatever the key is: base64 of three octets at a time says how it begins.
    cluster.nodes[1].leave_out(Some(&prefix[..28]));
    let entry = json!({"value": "anna@cluster.example", "type": "address", "code": 550});
    cluster.nodes[0].api().post("/v1/suppressions?wait=local", &entry);
    linger(Duration::from_millis(300));
    cluster.nodes[1].leave_out(None);
    let known = cluster.await_agreement();
    assert!(known.contains_key("suppression \"anna@cluster.example\""), "{known:?}");
}

#[test]
fn a_copy_that_was_given_another_name_is_a_copy_all_the_same() {
    let mut cluster = Cluster::with(2, |_, config| config);
    // Mail that both have, as after a machine was cloned.
    cluster.nodes[1].api().post("/v1/pauses", &json!({"domain": "both.example"}));
    cluster.nodes[1].send("one@both.example", "");
    until("it waits", || cluster.nodes[1].in_state("both.example", "held").len() == 1);
    run_copy(&mut cluster, 2);
    let [other, original, copy] = &cluster.nodes[..] else { unreachable!("three") };
    copy.send("two@free.example", "");
    until("it is held", || copy.in_state("free.example", "held").len() == 1);
    assert_eq!(other.post("/v1/pauses", &pause("without-it")).status, 200);
    assert_eq!(original.view()["state"], "following");
    assert!(copy.sink.attempts().is_empty());
    // Once the other is gone for good, this one is an engine of its own.
    assert!(cluster.nodes[1].engine.stop().success());
    cluster.nodes[2].await_delivered("two@free.example");
}

#[test]
fn a_node_killed_before_it_caught_up_does_not_deliver_by_what_it_knew_before() {
    let mut cluster = Cluster::with(2, |_, config| config);
    assert!(cluster.nodes[1].engine.stop().success());
    // Nobody waits for it, and it will take a while to hear all of this.
    let lines: String = (0..60_000)
        .map(|number| format!("{{\"value\":\"r{number}@import.example\",\"type\":\"address\",\"code\":550}}\n"))
        .collect();
    let api = cluster.nodes[0].api();
    let answer = api.exchange("POST", "/v1/suppressions", "application/x-ndjson", &lines).unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text);
    let answer = cluster.nodes[0].post("/v1/errors", &json!({"tag": "spring", "code": 550, "cluster": true}));
    assert_eq!(answer.status, 200, "{}", answer.text);
    cluster.nodes[1].engine.run();
    cluster.nodes[0].await_sees("node-1", "live");
    cluster.nodes[1].engine.kill();
    // It was counted with, but not for what was decided before that.
    cluster.nodes[1].net(Flow::Cut);
    cluster.nodes[1].engine.run();
    let second = &cluster.nodes[1];
    second.send("one@spring.example", "x-mq-tag: spring\r\n");
    linger(Duration::from_millis(3500));
    assert!(second.sink.attempts().is_empty(), "nothing that the rule covers left it");
    second.net(Flow::Pass);
    until("it knows the rule", || second.engine.records().iter().any(|record| record.kind() == "Bounce"));
    assert!(second.sink.attempts().is_empty());
}

#[test]
fn an_engine_that_was_forgotten_while_it_ran_alone_catches_up_before_it_delivers() {
    let mut cluster = Cluster::with(2, |_, config| config);
    // It crashed, and is run without the cluster for a while.
    cluster.nodes[1].engine.kill();
    let clustered = cluster.nodes[1].config.clone();
    cluster.nodes[1].engine.configure(&clustered.clone().without("cluster"));
    cluster.nodes[1].engine.run();
    assert!(cluster.nodes[1].engine.stop().success());
    cluster.nodes[0].await_sees("node-1", "lost");
    cluster.nodes[0].api().call("DELETE", "/v1/cluster/nodes/node-1", None);
    let answer = cluster.nodes[0].post("/v1/errors", &json!({"tag": "spring", "code": 550, "cluster": true}));
    assert_eq!(answer.status, 200, "{}", answer.text);
    cluster.nodes[1].engine.configure(&clustered);
    cluster.nodes[1].net(Flow::Cut);
    cluster.nodes[1].engine.run();
    let second = &cluster.nodes[1];
    second.send("one@spring.example", "x-mq-tag: spring\r\n");
    linger(Duration::from_millis(3500));
    assert!(second.sink.attempts().is_empty(), "nothing that the rule covers left it");
    second.net(Flow::Pass);
    until("it knows the rule", || second.engine.records().iter().any(|record| record.kind() == "Bounce"));
    assert!(second.sink.attempts().is_empty());
}

#[test]
fn a_farewell_that_arrives_late_does_not_stop_the_next_run() {
    let mut cluster = Cluster::with(2, |_, config| config);
    let said = |text: &str| base64(text.as_bytes());
    // What a run said that ended long ago, as an etcd may carry it out that was slow for a while.
    let uuid = {
        let kvs = cluster.etcd.call(0, "/v3/kv/range", &json!({"key": said("/mailrace/nodes/node-1/member")}));
        let value = kvs["kvs"][0]["value"].as_str().unwrap().to_owned();
        serde_json::from_slice::<Value>(&{
            use base64::Engine as _;
            base64::prelude::BASE64_STANDARD.decode(&value).unwrap()
        })
        .unwrap()["uuid"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let before = cluster.nodes[1].engine.stderr().matches("announces itself again").count();
    let stopped =
        json!({"v": 1, "uuid": uuid, "state": "stopped", "on_partition": "deliver", "since": 1, "applied": 1});
    cluster.etcd.put(0, "/mailrace/nodes/node-1/member", &stopped.to_string());
    let second = &cluster.nodes[1];
    until("it notices", || second.engine.stderr().matches("announces itself again").count() > before);
    cluster.await_together();
    // It counts again, also when it is lost.
    cluster.nodes[1].net(Flow::Cut);
    cluster.nodes[0].await_sees("node-1", "lost");
    let answer = cluster.nodes[0].post("/v1/pauses", &pause("late"));
    assert_eq!((answer.status, crate::support::cluster::pending(&answer)), (503, vec!["node-1".to_owned()]));
    // What was answered as pending is so for whoever asks again, too.
    let gone = |cluster: &Cluster| {
        cluster.nodes[0].api().try_call("DELETE", "/v1/pauses", Some(&json!({"tag": "late", "cluster": true}))).unwrap()
    };
    for _ in 0..2 {
        let answer = gone(&cluster);
        assert_eq!((answer.status, crate::support::cluster::pending(&answer)), (503, vec!["node-1".to_owned()]));
    }
    cluster.nodes[1].net(Flow::Pass);
    cluster.await_together();
    until("it is gone everywhere", || gone(&cluster).status != 503);
    cluster.await_agreement();
}
