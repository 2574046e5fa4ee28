//! One rule on every node: calls on one engine that hold on all of them before they answer, in both dialects; joining,
//! leaving and coming back.

use crate::support::cluster::{pending, state_of};
use crate::support::etcd::Etcd;
use crate::support::{Api, Cluster, Config, Engine, Features, Node, Sink, until};
use rustix::process::Signal;
use serde_json::{Value, json};

/// A call that makes something for all nodes, and the call that takes it back.
struct Shared {
    make: (&'static str, Value),
    undo: (&'static str, Value),
    /// What is found of it on each node.
    shows: &'static str,
}

/// Every kind, in both dialects.
fn every_kind() -> Vec<Shared> {
    let case = |make, undo, shows| Shared { make, undo, shows };
    let pause = json!({"tag": "p", "cluster": true});
    let error = json!({"tag": "e", "code": 550, "description": "no", "cluster": true});
    let suppression = json!({"value": "anna@cluster.example", "type": "address", "code": 550});
    let path_name = "unspecified->127.0.0.1:9@smtp_client";
    vec![
        case(("/v1/pauses", pause.clone()), ("/v1/pauses", pause), "\"p\""),
        case(("/v1/errors", error.clone()), ("/v1/errors", json!({"tag": "e", "cluster": true})), "\"e\""),
        case(
            ("/v1/suppressions", suppression),
            ("/v1/suppressions", json!({"value": "anna@cluster.example"})),
            "anna@cluster.example",
        ),
        case(
            ("/v1/pools", json!({"name": "shared", "description": "of all"})),
            ("/v1/pools", json!({"name": "shared"})),
            "of all",
        ),
        case(
            ("/api/admin/suspend/v1", json!({"campaign": "c", "reason": "later", "cluster": true})),
            ("/api/admin/suspend/v1", Value::Null),
            "\"c\"",
        ),
        case(
            ("/api/admin/bounce/v1", json!({"tenant": "t", "reason": "not at all", "cluster": true})),
            ("/api/admin/bounce/v1", Value::Null),
            "\"t\"",
        ),
        case(
            ("/api/admin/suspend-ready-q/v1", json!({"name": path_name, "reason": "that way", "cluster": true})),
            ("/api/admin/suspend-ready-q/v1", Value::Null),
            "127.0.0.1:9",
        ),
    ]
}

/// Everything that a node knows to be shared, as one text.
fn text(node: &Node) -> String {
    node.shared().iter().map(|(name, value)| format!("{name} {value}\n")).collect()
}

#[test]
fn every_kind_of_call_on_one_node_holds_on_all_when_it_answers() {
    let cluster = Cluster::start();
    let nodes = &cluster.nodes;
    for (at, case) in every_kind().iter().enumerate() {
        let (maker, remover) = (&nodes[at % 3], &nodes[(at + 1) % 3]);
        let answer = maker.api().post(case.make.0, &case.make.1);
        // Nobody is waited for: the answer says that it is so.
        for node in nodes {
            assert!(
                text(node).contains(case.shows),
                "{} of {} on {}: {}",
                case.make.0,
                maker.name,
                node.name,
                text(node)
            );
        }
        assert_eq!(text(&nodes[0]), text(&nodes[1]));
        assert_eq!(text(&nodes[0]), text(&nodes[2]));
        // Whoever takes it back need not be who made it.
        let undo = if case.undo.1.is_null() { json!({"id": answer["id"]}) } else { case.undo.1.clone() };
        remover.api().call("DELETE", case.undo.0, Some(&undo));
        for node in nodes {
            assert!(!text(node).contains(case.shows), "{} taken back on {}: {}", case.undo.0, remover.name, text(node));
        }
    }
}

#[test]
fn a_rule_names_who_made_it_on_every_node_and_in_its_trail() {
    let cluster = Cluster::start();
    let [first, second, third] = &cluster.nodes[..] else { unreachable!("three") };
    let id = first.api().post("/v1/errors", &json!({"tag": "spring", "code": 550, "cluster": true}))["id"].clone();
    let id = id.as_str().unwrap();
    for node in [first, second, third] {
        let rule = node.api().get(&format!("/v1/rules/{id}"));
        assert_eq!(rule["origin"]["node"], json!(first.name), "{rule}");
    }
    // Any node takes it back, by its id as well.
    third.api().remove(id);
    for node in [first, second, third] {
        let found = node.api().try_call("GET", &format!("/v1/rules/{id}"), None).unwrap();
        assert_eq!(found.status, 404, "{}", node.name);
        let trail = node.api().get("/v1/audit?limit=1000");
        let of_rule: Vec<&Value> =
            trail.as_array().unwrap().iter().filter(|entry| entry.to_string().contains("spring")).collect();
        assert_eq!(of_rule.len(), 2, "{}: {trail}", node.name);
        assert!(of_rule[0].to_string().contains(&first.name), "{}", of_rule[0]);
        assert!(of_rule[1].to_string().contains(&third.name), "{}", of_rule[1]);
    }
}

#[test]
fn mail_that_arrives_after_the_answer_meets_the_rule_on_every_node() {
    let cluster = Cluster::start();
    let pause = json!({"domain": "held.example", "cluster": true});
    let id = cluster.nodes[1].api().post("/v1/pauses", &pause)["id"].clone();
    cluster.nodes[2].api().post("/v1/errors", &json!({"tag": "spring", "code": 550, "cluster": true}));
    for node in &cluster.nodes {
        node.send("one@held.example", "");
        node.send("two@ended.example", "x-mq-tag: spring\r\n");
        node.send("three@free.example", "");
    }
    for node in &cluster.nodes {
        node.await_delivered("three@free.example");
        until("the tagged one is ended", || node.engine.records().iter().any(|record| record.kind() == "Bounce"));
        until("the other is held", || node.in_state("held.example", "held").iter().all(|held| held["rule"] == id));
        assert!(!node.has_delivered("one@held.example") && !node.has_delivered("two@ended.example"));
    }
    cluster.nodes[0].api().call("DELETE", "/v1/pauses", Some(&pause));
    for node in &cluster.nodes {
        node.await_delivered("one@held.example");
        assert!(!node.has_delivered("two@ended.example"));
    }
}

#[test]
fn what_is_said_to_be_local_stays_local() {
    let cluster = Cluster::start();
    let id = cluster.nodes[0].api().post("/v1/pauses", &json!({"tag": "own"}))["id"].clone();
    cluster.nodes[0].api().post("/v1/pauses", &json!({"tag": "own", "cluster": true}));
    let has = |node: &Node, id: &Value| {
        let path = format!("/v1/rules/{}", id.as_str().unwrap());
        node.api().try_call("GET", &path, None).unwrap().status == 200
    };
    assert!(has(&cluster.nodes[0], &id));
    assert!(!has(&cluster.nodes[1], &id) && !has(&cluster.nodes[2], &id));
    // The local one goes, the shared one stays.
    cluster.nodes[0].api().remove(id.as_str().unwrap());
    assert!(cluster.nodes.iter().all(|node| node.shared().len() == 1));
}

#[test]
fn two_who_change_the_same_at_once_both_hear_what_came_of_it() {
    let cluster = Cluster::start();
    let makers: Vec<Api> = cluster.nodes.iter().map(Node::api).collect();
    for round in 0..10 {
        let calls: Vec<_> = makers
            .iter()
            .cloned()
            .enumerate()
            .map(|(maker, api)| {
                let body = json!({"tag": "same", "code": 550 + (round + maker) % 3, "cluster": true});
                std::thread::spawn(move || api.post("/v1/errors", &body)["id"].clone())
            })
            .collect();
        let ids: Vec<Value> = calls.into_iter().map(|call| call.join().unwrap()).collect();
        assert!(ids.iter().all(|id| *id == ids[0]), "one identity is one rule: {ids:?}");
        let known: Vec<_> = cluster.nodes.iter().map(Node::shared).collect();
        assert_eq!(known[0].len(), 1);
        assert!(known.iter().all(|rules| *rules == known[0]), "{known:?}");
    }
}

#[test]
fn a_node_that_stops_is_not_waited_for_and_has_caught_up_before_it_delivers_again() {
    let mut cluster = Cluster::start();
    assert!(cluster.nodes[2].engine.stop().success());
    let [first, second, _] = &cluster.nodes[..] else { unreachable!("three") };
    assert_eq!(state_of(&first.view(), "node-2"), "stopped", "it has said so before it ended");
    let answer = first.post("/v1/errors", &json!({"tag": "spring", "code": 550, "cluster": true}));
    assert_eq!((answer.status, pending(&answer)), (200, vec![]), "{}", answer.text);
    second.api().post("/v1/pauses", &json!({"domain": "held.example", "cluster": true}));
    // It comes back without etcd: it takes mail in and lets none out, whatever its local copy says.
    cluster.nodes[2].net(crate::support::relay::Flow::Cut);
    cluster.nodes[2].engine.run();
    let third = &cluster.nodes[2];
    third.send("one@held.example", "");
    third.send("two@ended.example", "x-mq-tag: spring\r\n");
    third.send("three@free.example", "");
    until("all of it is held", || {
        let states =
            ["held.example", "ended.example", "free.example"].map(|domain| third.in_state(domain, "held").len());
        states == [1; 3]
    });
    let held = third.in_state("free.example", "held");
    let rule = third.api().get(&format!("/v1/rules/{}", held[0]["rule"].as_str().unwrap()));
    assert!(rule.to_string().contains("cluster"), "the reason is seen: {rule}");
    assert!(third.sink.attempts().is_empty());
    // With etcd it knows what was decided meanwhile, before anything leaves.
    third.net(crate::support::relay::Flow::Pass);
    third.await_delivered("three@free.example");
    until("the tagged one is ended", || third.engine.records().iter().any(|record| record.kind() == "Bounce"));
    until("the other is held by the rule", || third.in_state("held.example", "held").len() == 1);
    assert!(!third.has_delivered("one@held.example") && !third.has_delivered("two@ended.example"));
    cluster.await_together();
    assert_eq!(cluster.await_agreement().len(), 2);
}

#[test]
fn a_rolling_restart_of_engines_and_members_loses_nothing_and_stops_nobody() {
    let mut cluster = Cluster::start();
    for at in 0..3 {
        assert!(cluster.nodes[at].engine.stop().success());
        let maker = &cluster.nodes[(at + 1) % 3];
        let answer = maker.post("/v1/pauses", &json!({"tag": format!("engine-{at}"), "cluster": true}));
        assert_eq!(answer.status, 200, "while node {at} is down: {}", answer.text);
        cluster.nodes[at].engine.run();
        cluster.await_together();
    }
    for at in 0..3 {
        cluster.etcd.kill(at);
        let body = json!({"tag": format!("member-{at}"), "cluster": true});
        // A leader has to be found first, if it was the one that is gone; repeating does no harm.
        until("a call is answered with two members", || cluster.nodes[at].post("/v1/pauses", &body).status == 200);
        cluster.etcd.restart(at);
        cluster.etcd.await_leader();
    }
    cluster.await_together();
    assert_eq!(cluster.await_agreement().len(), 6);
}

#[test]
fn one_engine_becomes_a_cluster_and_one_again_and_keeps_its_rules() {
    let sink = Sink::start(Features::default());
    let alone = Config::to(sink.address);
    let mut engine = Engine::start(&alone);
    let api = Api::of(&engine);
    let local = api.post("/v1/pauses", &json!({"tag": "local"}))["id"].clone();
    let shared = api.post("/v1/errors", &json!({"tag": "shared", "code": 550, "cluster": true}))["id"].clone();
    api.post("/v1/suppressions", &json!({"value": "anna@cluster.example", "type": "address", "code": 550}));
    api.post("/v1/pools", &json!({"name": "made", "description": "before"}));
    assert!(engine.stop().success());
    // The same directory, now as a node; and a second node that has never known anything.
    let etcd = Etcd::start(1);
    let cluster = |config: Config, name: &str| {
        config
            .line("cluster", &format!("endpoints = [{:?}]", etcd.url(0)))
            .line("cluster", &format!("node = {name:?}"))
            .line("cluster", "lease = \"2s\"")
    };
    engine.configure(&cluster(alone.clone(), "old"));
    engine.run();
    let mut fresh = Engine::start(&cluster(Config::to(sink.address), "fresh"));
    let ids = |engine: &Engine| {
        let rules = Api::of(engine).get("/v1/rules");
        let of_rule = |rule: &Value| (rule["id"].clone(), rule["cluster"].clone());
        let mut ids: Vec<String> = rules.as_array().unwrap().iter().map(of_rule).map(|id| format!("{id:?}")).collect();
        ids.sort();
        ids
    };
    let has = |engine: &Engine, id: &Value| {
        let path = format!("/v1/rules/{}", id.as_str().unwrap());
        Api::of(engine).try_call("GET", &path, None).unwrap().status == 200
    };
    until("the new node has what the old one brought", || {
        let known = |path: &str, what: &str| Api::of(&fresh).get(path).to_string().contains(what);
        has(&fresh, &shared) && known("/v1/suppressions", "anna@") && known("/v1/pools", "before")
    });
    assert!(!has(&fresh, &local) && has(&engine, &local) && has(&engine, &shared));
    Api::of(&fresh).post("/v1/pauses", &json!({"tag": "later", "cluster": true}));
    until("the old one has caught up", || !has(&engine, &json!("cluster-fence")));
    let before = ids(&engine);
    // Alone again: everything stays, and can be changed without anybody.
    assert!(engine.stop().success());
    engine.configure(&alone);
    engine.run();
    assert_eq!(ids(&engine), before);
    let api = Api::of(&engine);
    api.remove(shared.as_str().unwrap());
    api.post("/v1/pauses", &json!({"tag": "alone", "cluster": true}));
    assert!(has(&fresh, &shared), "the other has not heard of it");
    // And back: what the cluster decided meanwhile counts, what was made alone is brought in.
    assert!(engine.stop().success());
    engine.configure(&cluster(alone, "old"));
    engine.run();
    until("the two agree", || {
        let tags = |engine: &Engine| {
            let rules = Api::of(engine).get("/v1/rules");
            let shared = rules.as_array().unwrap().iter().filter(|rule| rule["cluster"] == json!(true));
            let mut all: Vec<String> = shared.map(|rule| rule["id"].to_string()).collect();
            all.sort();
            all
        };
        has(&engine, &shared) && tags(&engine).len() == 3 && tags(&engine) == tags(&fresh)
    });
    fresh.signal(Signal::TERM);
    assert!(fresh.await_end().success());
}
