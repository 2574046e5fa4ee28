//! Nets that are cut and an etcd that is gone: what every node knows it keeps enforcing; calls say who has not heard; and
//! when all is well again, all agree.

#![allow(clippy::disallowed_methods, reason = "the tests are outside the engine and watch it by the clock")]

use crate::support::cluster::{pending, state_of};
use crate::support::relay::Flow;
use crate::support::{Cluster, Node, until};
use serde_json::{Value, json};
use std::time::Duration;

fn holding(count: usize) -> Cluster {
    Cluster::with(count, |_, config| config.line("cluster", "on_partition = \"hold\""))
}

fn spring() -> Value {
    json!({"tag": "spring", "code": 550, "cluster": true})
}

#[test]
fn a_call_waits_for_a_node_that_is_cut_off_and_delivers_and_says_so() {
    let mut cluster = Cluster::start();
    let [first, second, third] = &cluster.nodes[..] else { unreachable!("three") };
    second.net(Flow::Stall);
    // It may deliver, so the answer is no 200 while it has its lease, nor when it has lost it.
    for _ in 0..2 {
        let answer = first.post("/v1/errors", &spring());
        assert_eq!(answer.status, 503, "{}", answer.text);
        assert_eq!((answer.json()["stored"].clone(), pending(&answer)), (json!(true), vec!["node-1".to_owned()]));
        assert!(answer.head.to_ascii_lowercase().contains("retry-after:"), "{}", answer.head);
        first.await_sees("node-1", "lost");
    }
    // Whoever does not want to wait hears at once who has not heard.
    let answer = first.post("/v1/pauses?wait=local", &json!({"tag": "later", "cluster": true}));
    assert!(answer.status == 200 && pending(&answer).contains(&"node-1".to_owned()), "{}", answer.text);
    // The others enforce it already; the one that is cut off goes on with what it knew.
    for node in [first, second, third] {
        node.send("one@cut.example", "x-mq-tag: spring\r\n");
    }
    second.await_delivered("one@cut.example");
    second.await_link("cut off");
    for node in [first, third] {
        until("it is ended there", || node.engine.records().iter().any(|record| record.kind() == "Bounce"));
        assert!(!node.has_delivered("one@cut.example"));
    }
    // It is cut off from the others' calls, not from its own.
    let local = second.post("/v1/pauses", &json!({"tag": "local"}));
    assert_eq!(local.status, 200, "{}", local.text);
    let shared = second.post("/v1/pauses", &json!({"tag": "shared", "cluster": true}));
    assert_eq!(shared.status, 503, "{}", shared.text);
    assert!(shared.head.to_ascii_lowercase().contains("retry-after:"), "{}", shared.head);
    // Healed, all agree, and the same call again is answered.
    second.net(Flow::Pass);
    cluster.await_together();
    let rules = cluster.await_agreement();
    assert!(rules.len() >= 2, "{rules:?}");
    assert_eq!(cluster.nodes[0].post("/v1/errors", &spring()).status, 200);
}

#[test]
fn a_node_that_holds_when_cut_off_is_not_waited_for_and_delivers_nothing() {
    let mut cluster = holding(3);
    let [first, second, _] = &cluster.nodes[..] else { unreachable!("three") };
    second.send("before@cut.example", "");
    second.await_delivered("before@cut.example");
    second.net(Flow::Stall);
    first.await_sees("node-1", "lost");
    let answer = first.post("/v1/errors", &spring());
    assert_eq!((answer.status, pending(&answer)), (200, vec![]), "it has fenced itself: {}", answer.text);
    // From the moment that nobody waits for it, nothing leaves it, tagged or not.
    second.send("one@cut.example", "x-mq-tag: spring\r\n");
    second.send("two@free.example", "");
    until("it holds everything", || {
        second.in_state("cut.example", "held").len() == 1 && second.in_state("free.example", "held").len() == 1
    });
    let rule = second.in_state("free.example", "held")[0]["rule"].clone();
    let rule = second.api().get(&format!("/v1/rules/{}", rule.as_str().unwrap()));
    assert!(rule.to_string().contains("etcd cannot be reached"), "{rule}");
    assert!(!second.has_delivered("one@cut.example") && !second.has_delivered("two@free.example"));
    second.net(Flow::Pass);
    second.await_delivered("two@free.example");
    until("it knows the rule first", || second.engine.records().iter().any(|record| record.kind() == "Bounce"));
    assert!(!second.has_delivered("one@cut.example"));
    cluster.await_together();
    cluster.await_agreement();
}

#[test]
fn the_fence_falls_before_the_others_stop_waiting_under_steady_mail() {
    let cluster = holding(2);
    let [first, second] = &cluster.nodes[..] else { unreachable!("two") };
    // Mail flows on the second node all the time.
    let smtp = second.engine.smtp;
    let sending = std::sync::atomic::AtomicBool::new(true);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut client = crate::support::Client::connect(smtp);
            client.ehlo();
            while sending.load(std::sync::atomic::Ordering::SeqCst) {
                let body = b"x-mq-tag: spring\r\nSubject: steady\r\n\r\nflows\r\n";
                client.send("s@test.example", &["steady@cut.example"], body);
            }
        });
        until("mail flows", || second.sink.count() > 20);
        second.net(Flow::Stall);
        // The first answer that does not name it: from then on, not one message more.
        let mut tries = 0;
        until("the call is answered", || {
            tries += 1;
            first.post("/v1/errors", &spring()).status == 200
        });
        let answered = std::time::Instant::now();
        assert!(tries >= 1);
        std::thread::sleep(Duration::from_secs(1));
        sending.store(false, std::sync::atomic::Ordering::SeqCst);
        let late = second.sink.attempts().iter().filter(|message| message.at > answered).count();
        assert_eq!(late, 0, "messages that were completed after the answer");
    });
    second.net(Flow::Pass);
    until("what waited is ended by the rule", || second.in_state("cut.example", "held").is_empty());
}

#[test]
fn without_etcd_nothing_shared_is_stored_and_everything_else_goes_on() {
    let mut cluster = Cluster::start();
    let body = json!({"domain": "held.example", "cluster": true});
    cluster.nodes[0].api().post("/v1/pauses", &body);
    cluster.etcd.kill_all();
    for node in &cluster.nodes {
        node.await_link("cut off");
        let answer = node.post("/v1/errors", &spring());
        assert_eq!(answer.status, 503, "{}", answer.text);
        assert!(answer.head.to_ascii_lowercase().contains("retry-after:"), "{}", answer.head);
        assert_ne!(answer.json()["stored"], json!(true), "{}", answer.text);
        assert_eq!(node.post("/v1/pauses", &json!({"tag": "local"})).status, 200);
        node.send("one@held.example", "");
        node.send("two@free.example", "");
        node.await_delivered("two@free.example");
        until("what is known is enforced", || node.in_state("held.example", "held").len() == 1);
        assert_eq!(
            node.api().try_call("GET", "/api/check-liveness/v1", None).unwrap().status,
            200,
            "it is alive without etcd"
        );
    }
    // A restart without etcd: by the local copy.
    cluster.nodes[0].engine.kill();
    cluster.nodes[0].engine.run();
    cluster.nodes[0].send("three@free.example", "");
    cluster.nodes[0].await_delivered("three@free.example");
    assert_eq!(cluster.nodes[0].in_state("held.example", "held").len(), 1);
    cluster.etcd.start_all();
    cluster.await_together();
    let rules = cluster.await_agreement();
    assert_eq!(rules.len(), 1, "nothing of what was refused has been stored: {rules:?}");
}

#[test]
fn an_etcd_without_a_majority_is_no_etcd() {
    let mut cluster = Cluster::start();
    cluster.etcd.kill(0);
    cluster.etcd.kill(1);
    let answer = cluster.nodes[2].post("/v1/errors", &spring());
    assert_eq!(answer.status, 503, "{}", answer.text);
    cluster.nodes[2].send("two@free.example", "");
    cluster.nodes[2].await_delivered("two@free.example");
    cluster.etcd.start_all();
    cluster.await_together();
    cluster.await_agreement();
    let again = cluster.nodes[2].post("/v1/errors", &spring());
    assert_eq!(again.status, 200, "{}", again.text);
    assert_eq!(cluster.await_agreement().len(), 1);
}

#[test]
fn a_node_that_missed_a_compaction_reads_everything_anew_and_lets_nothing_out_meanwhile() {
    let mut cluster = Cluster::start();
    let make = |node: &Node, tag: &str| node.api().post("/v1/pauses?wait=local", &json!({"tag": tag, "cluster": true}));
    make(&cluster.nodes[0], "kept");
    let gone = make(&cluster.nodes[0], "gone")["id"].clone();
    cluster.await_agreement();
    cluster.nodes[1].net(Flow::Cut);
    cluster.nodes[1].await_link("cut off");
    cluster.nodes[1].send("one@kept.example", "x-mq-tag: kept\r\n");
    for round in 0..20 {
        make(&cluster.nodes[0], &format!("new-{round}"));
    }
    cluster.nodes[0].api().call("DELETE", &format!("/v1/rules/{}?wait=local", gone.as_str().unwrap()), None);
    cluster.etcd.compact(0, cluster.etcd.revision(0));
    cluster.nodes[1].net(Flow::Pass);
    cluster.await_together();
    let rules = cluster.await_agreement();
    assert_eq!(rules.len(), 21);
    let second = &cluster.nodes[1];
    assert_eq!(second.in_state("kept.example", "held").len(), 1);
    assert!(!second.has_delivered("one@kept.example"), "held throughout");
    second.send("two@kept.example", "x-mq-tag: gone\r\n");
    second.await_delivered("two@kept.example");
}

#[test]
fn a_slow_net_makes_calls_slow_and_nothing_else() {
    let mut cluster = Cluster::start();
    cluster.nodes[1].net(Flow::Late(Duration::from_millis(100)));
    let answer = cluster.nodes[0].post("/v1/errors", &spring());
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_eq!(cluster.nodes[1].shared().len(), 1, "also there, when it answers");
    cluster.nodes[1].net(Flow::Pass);
    cluster.await_together();
}

#[test]
fn an_answer_of_etcd_that_is_lost_is_told_and_the_call_can_be_made_again() {
    let mut cluster = Cluster::start();
    cluster.nodes[0].net(Flow::Swallow);
    let answer = cluster.nodes[0].post("/v1/errors", &spring());
    assert_eq!(answer.status, 503, "{}", answer.text);
    cluster.nodes[0].net(Flow::Cut);
    cluster.nodes[0].net(Flow::Pass);
    cluster.await_together();
    let again = cluster.nodes[0].post("/v1/errors", &spring());
    assert_eq!(again.status, 200, "{}", again.text);
    assert_eq!(cluster.await_agreement().len(), 1);
}

#[test]
fn a_rule_ends_on_each_node_by_its_own_clock_and_goes_from_etcd_later() {
    let cluster = Cluster::start();
    let end = (jiff::Timestamp::now() + jiff::SignedDuration::from_secs(4)).as_second();
    let short = json!({"tag": "short", "expire": end, "cluster": true});
    cluster.nodes[0].api().post("/v1/pauses", &short);
    for node in &cluster.nodes {
        node.send("one@short.example", "x-mq-tag: short\r\n");
        until("it is held", || {
            node.in_state("short.example", "held").len() == 1 || node.has_delivered("one@short.example")
        });
    }
    for node in &cluster.nodes {
        node.await_delivered("one@short.example");
    }
    // The key stays for a while, so that no clock that goes ahead takes it from the others.
    assert_eq!(cluster.etcd.keys(0, "/mailrace/rules/"), 1);
}

#[test]
fn a_clock_that_goes_wrong_is_shown() {
    let cluster = Cluster::with(2, |_, config| config);
    let [first, second] = &cluster.nodes[..] else { unreachable!("two") };
    let skew = |view: &Value, name: &str| {
        let node = view["nodes"].as_array().unwrap().iter().find(|node| node["node"] == name).unwrap().clone();
        node["clock_skew_ms"].as_i64()
    };
    until("each knows the other's clock", || {
        let near = |millis: Option<i64>| millis.is_some_and(|millis| millis.abs() < 1000);
        near(skew(&first.view(), "node-1")) && near(skew(&second.view(), "node-0"))
    });
    assert_eq!(state_of(&first.view(), "node-1"), "live");
}

#[test]
fn an_import_that_waits_for_this_node_alone_names_the_others_that_are_pending() {
    let cluster = Cluster::start();
    cluster.nodes[2].net(Flow::Stall);
    let lines: String = (0..12_000)
        .map(|number| format!("{{\"value\":\"r{number}@import.example\",\"type\":\"address\",\"code\":550}}\n"))
        .collect();
    let api = cluster.nodes[0].api();
    let answer = api.exchange("POST", "/v1/suppressions?wait=local", "application/x-ndjson", &lines).unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert!(pending(&answer).contains(&"node-2".to_owned()), "{}", answer.text);
    assert_eq!(answer.json()["created"], 12_000);
    cluster.nodes[2].net(Flow::Pass);
    until("all have it, and nobody is named", || {
        let one = "{\"value\":\"r1@import.example\"}\n";
        let answer = api.exchange("DELETE", "/v1/suppressions", "application/x-ndjson", one).unwrap();
        answer.status == 200 && answer.json().get("pending").is_none()
    });
}
