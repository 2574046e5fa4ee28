//! Calls of delivery control that act on mail or show it, on the real binary: flushing, inspection, single messages,
//! dry runs, suppressions in bulk, and the guard before a rule over everything.

use crate::rules::Post;
use crate::support::api::NDJSON;
use crate::support::{Action, Api, Step, until};
use serde_json::{Value, json};

const REBIND: &str = "/api/admin/rebind/v1";
const SUPPRESSIONS: &str = "/v1/suppressions";

/// The status and the body of a call that may be refused.
fn ask(api: &Api, method: &str, path: &str, body: &Value) -> (u16, String) {
    let answer = api.try_call(method, path, Some(body)).unwrap();
    (answer.status, answer.text)
}

/// An engine whose retries are an hour away, with a message waiting for each recipient, refused once. Gives their ids.
fn waiting(post: &Post, recipients: &[&str]) -> Vec<String> {
    post.sink.script(|step| match step {
        Step::Recipient(_) => Action::reply("451 4.2.1 later"),
        _ => Action::Default,
    });
    for recipient in recipients {
        post.send(&[recipient], "X-Campaign: spring\r\nX-Tenant: acme\r\n");
    }
    let ids = recipients.iter().map(|recipient| post.await_record("TransientFailure", recipient).id().to_owned());
    let ids = ids.collect();
    post.sink.script(|_| Action::Default);
    ids
}

fn patient() -> Post {
    Post::new(|config| config.line("retry", "intervals = [\"1h\"]").line("retry", "max_age = \"2h\""))
}

#[test]
fn rebind_makes_mail_due_that_its_criteria_cover() {
    let post = patient();
    waiting(&post, &["r@a.example", "r@b.example"]);
    // Field by field what kcli sends.
    let mut request = json!({
        "campaign": "spring", "tenant": null, "domain": "a.example", "routing_domain": null, "reason": "again",
        "suppress_logging": false, "data": {}, "trigger_rebind_event": false, "always_flush": false,
    });
    assert_eq!(post.api.post(REBIND, &request), json!({}));
    assert_eq!(post.in_state("a.example", "waiting").len(), 1, "nothing was to be flushed");
    request["always_flush"] = json!(true);
    assert_eq!(post.api.post(REBIND, &request), json!({}));
    assert_eq!(post.await_record("Delivery", "r@a.example").attempts(), 2);
    assert_eq!(post.in_state("b.example", "waiting").len(), 1);
    for (field, value) in [("trigger_rebind_event", json!(true)), ("data", json!({"queue": "x"})), ("typo", json!(1))] {
        let mut wrong = request.clone();
        wrong["domain"] = json!("b.example");
        wrong[field] = value;
        let (status, text) = ask(&post.api, "POST", REBIND, &wrong);
        assert!(status == 422 && text.contains(&format!("`{field}`")), "{status} {text}");
    }
    assert_eq!(post.in_state("b.example", "waiting").len(), 1);
}

#[test]
fn single_messages_are_hastened_and_cancelled() {
    let post = patient();
    let recipients = ["one@a.example", "two@a.example", "three@a.example"];
    let ids = waiting(&post, &recipients);
    let path = |at: usize, verb: &str| format!("/v1/messages/{}{verb}", ids[at]);
    let shown = post.api.get(&path(0, ""));
    assert_eq!(
        (&shown["parts"][0]["state"], &shown["parts"][0]["attempts"]),
        (&json!("waiting"), &json!(1)),
        "{shown}"
    );
    assert_eq!(post.api.post(&path(0, "/retry"), &json!({}))["count"], 1);
    assert_eq!(post.await_record("Delivery", recipients[0]).attempts(), 2);
    // A held one is cancelled where it is.
    let pause = post.api.post("/v1/pauses", &json!({"domain": "a.example"}));
    for at in [1, 2] {
        assert_eq!(post.api.post(&path(at, "/cancel"), &json!({}))["count"], 1);
        let record = post.await_record("Bounce", recipients[at]);
        assert_eq!((record.code(), record.enhanced().as_str()), (550, "5.7.1"), "{record:?}");
        assert_eq!(record.0["rule"]["kind"], "cancel", "{record:?}");
    }
    post.api.remove(pause["id"].as_str().unwrap());
    until("none is left", || ask(&post.api, "GET", &path(1, ""), &json!(null)).0 == 404);
    for verb in ["/retry", "/cancel"] {
        assert_eq!(ask(&post.api, "POST", &path(1, verb), &json!({})).0, 404);
        assert_eq!(ask(&post.api, "POST", &format!("/v1/messages/nonsense{verb}"), &json!({})).0, 404);
    }
    assert_eq!(post.sink.count(), 1);
}

#[test]
fn a_dry_run_counts_and_changes_nothing() {
    let post = patient();
    waiting(&post, &["one@a.example", "two@a.example", "one@b.example"]);
    post.api.post("/v1/pauses", &json!({"domain": "c.example"}));
    post.send(&["one@c.example", "two@c.example"], "X-Campaign: spring\r\n");
    until("it is held", || post.in_state("c.example", "held").len() == 1);
    let cases = [
        ("/api/admin/bounce/v1", json!({"reason": "", "campaign": "spring"}), 5, 2),
        ("/api/admin/bounce/v1", json!({"reason": "", "campaign": "spring", "tenant": "acme"}), 3, 0),
        ("/v1/errors", json!({"domain": "a.example", "code": 550}), 2, 0),
        ("/v1/pauses", json!({}), 5, 2),
        ("/api/admin/suspend/v1", json!({"reason": "", "queue_names": ["spring:acme@b.example"]}), 1, 0),
        (SUPPRESSIONS, json!({"value": "two@c.example", "type": "address", "code": 550}), 1, 1),
    ];
    for (path, rule, matched, held) in &cases {
        for (path, dry) in [(format!("{path}?dry_run=true"), json!(null)), ((*path).to_owned(), json!(true))] {
            let mut body = rule.clone();
            body["dry_run"] = dry;
            if body["dry_run"].is_null() {
                body.as_object_mut().unwrap().remove("dry_run");
            }
            let thought = post.api.post(&path, &body);
            let counts = ["matched", "held", "in_flight"].map(|name| thought[name].as_u64());
            assert_eq!(counts, [Some(*matched), Some(*held), Some(0)], "{path} {body}: {thought}");
            assert_eq!((&thought["dry_run"], &thought["counting"]), (&json!(true), &json!(false)), "{thought}");
            assert!(thought["first_expiry"].is_string(), "{thought}");
            let sum =
                |all: &Value| all.as_array().unwrap().iter().map(|one| one["count"].as_u64().unwrap()).sum::<u64>();
            assert_eq!(sum(&thought["destinations"]), *matched, "{thought}");
        }
    }
    let largest = post.api.post("/v1/pauses?dry_run=true", &json!({}))["destinations"].clone();
    assert_eq!(largest[2], json!({"domain": "b.example", "count": 1}), "{largest}");
    assert_eq!(post.api.get("/v1/rules").as_array().unwrap().len(), 1, "only the pause");
    assert_eq!(post.api.get(SUPPRESSIONS), json!([]));
    assert!(post.engine.records().iter().all(|record| matches!(record.kind(), "Reception" | "TransientFailure")));
}

#[test]
fn what_would_end_all_mail_must_say_so() {
    let post = Post::new(|config| config);
    post.api.post("/v1/pauses", &json!({}));
    post.send(&["r@a.example"], "");
    until("it is held", || post.in_state("a.example", "held").len() == 1);
    for (path, body, status) in [
        ("/v1/errors", json!({"code": 550}), 400),
        ("/v1/errors", json!({"code": 550, "everything": false, "cluster": true}), 400),
        ("/api/admin/bounce/v1", json!({"reason": "all"}), 422),
        ("/api/admin/bounce/v1", json!({"reason": "all", "domain": null, "queue_names": []}), 422),
    ] {
        let (answered, text) = ask(&post.api, "POST", path, &body);
        assert!(answered == status && text.contains("everything"), "{path} {body}: {answered} {text}");
    }
    assert_eq!(post.in_state("a.example", "held").len(), 1);
    post.api.post("/v1/errors", &json!({"code": 554, "everything": true}));
    assert_eq!(post.await_record("Bounce", "r@a.example").code(), 554);
}

#[test]
fn suppressions_come_and_go_and_are_paged_by_lines() {
    let post = Post::new(|config| config);
    let line =
        |number: usize| format!("{{\"value\":\"R{number:03}@A.example\",\"type\":\"address\",\"code\":\"550\"}}\n");
    let lines: String = (0..250).map(line).collect();
    // The last one needs no line end; an empty line is none; what is wrong is named by its line.
    let wrong = "\n{\"value\":\"x\",\"type\":\"planet\",\"code\":550}\nnonsense\n{\"value\":\"b.example\",\"type\":\"domain\",\"code\":554}";
    let answer = post.api.exchange("POST", SUPPRESSIONS, NDJSON, &format!("{lines}{wrong}")).unwrap();
    let counts = answer.json();
    assert_eq!((answer.status, &counts["created"], &counts["error_count"]), (200, &json!(251), &json!(2)), "{counts}");
    assert_eq!((&counts["errors"][0]["line"], &counts["errors"][1]["line"]), (&json!(252), &json!(253)), "{counts}");
    let again = post.api.exchange("POST", SUPPRESSIONS, NDJSON, &line(7)).unwrap().json();
    assert_eq!((&again["created"], &again["updated"]), (&json!(0), &json!(1)), "{again}");
    post.send(&["r007@a.example"], "");
    assert_eq!(post.await_record("Suppression", "r007@a.example").code(), 550);
    post.send(&["r@b.example"], "");
    assert_eq!(post.await_record("Suppression", "r@b.example").code(), 554);
    // Page by page, and as a whole.
    let page = |after: &str| {
        let answer = post.api.exchange("GET", &format!("{SUPPRESSIONS}?limit=100&after={after}"), NDJSON, "").unwrap();
        assert!(answer.head.to_lowercase().contains("content-type: application/x-ndjson"), "{}", answer.head);
        let value = |line: &str| serde_json::from_str::<Value>(line).unwrap()["value"].as_str().unwrap().to_owned();
        answer.text.lines().map(value).collect::<Vec<_>>()
    };
    let mut all = Vec::new();
    loop {
        let more = page(all.last().map_or("", String::as_str));
        if more.is_empty() {
            break;
        }
        assert!(more.len() <= 100);
        all.extend(more);
    }
    let expected =
        std::iter::once("b.example".to_owned()).chain((0..250).map(|number| format!("r{number:03}@a.example")));
    assert_eq!(all, expected.collect::<Vec<_>>());
    assert_eq!(post.api.get(SUPPRESSIONS).as_array().unwrap().len(), 251);
    let gone: String = (0..250).map(|number| format!("{{\"value\":\"r{number:03}@a.example\"}}\n")).collect();
    let answer = post.api.exchange("DELETE", SUPPRESSIONS, NDJSON, &format!("{gone}{gone}")).unwrap().json();
    assert_eq!((&answer["removed"], &answer["error_count"]), (&json!(250), &json!(0)), "{answer}");
    post.send(&["r007@a.example"], "");
    post.await_record("Delivery", "r007@a.example");
    let left = post.api.get(SUPPRESSIONS);
    assert_eq!(left, json!([{"value": "b.example", "type": "domain", "code": 554}]));
}

#[test]
fn messages_and_queues_are_inspected() {
    let post = patient();
    let ids = waiting(&post, &["r@a.example"]);
    post.api.post("/api/admin/suspend/v1", &json!({"reason": "talking to them", "domain": "held.example"}));
    for number in 0..3 {
        post.send(&[&format!("r{number}@held.example")], "X-Campaign: spring\r\n");
    }
    until("they are held", || post.in_state("held.example", "held").len() == 3);
    let inspect = |id: &str, more: &str| post.api.get(&format!("/api/admin/inspect-message/v1?id={id}{more}"));
    let one = inspect(&ids[0], "");
    // KumoMTA's client reads a UUID.
    let id = one["id"].as_str().unwrap();
    assert!(id.len() == 32 && id.ends_with(&ids[0]), "{one}");
    let message = &one["message"];
    assert_eq!(
        (&message["sender"], &message["recipient"]),
        (&json!("s@test.example"), &json!(["r@a.example"])),
        "{one}"
    );
    assert_eq!((&message["num_attempts"], &message["meta"]["queue"]), (&json!(1), &json!("spring:acme@a.example")));
    assert!(message["due"].is_string() && message.get("data").is_none(), "{one}");
    let with_body = inspect(id, "&want_body=true");
    assert!(with_body["message"]["data"].as_str().unwrap().ends_with("held or not\r\n"), "{with_body}");
    let path = "/api/admin/inspect-sched-q/v1?queue_name=spring%3A%40held.example";
    let queue = post.api.get(&format!("{path}&want_body=true&limit=2"));
    let messages = queue["messages"].as_array().unwrap();
    assert_eq!((messages.len(), &queue["num_scheduled"]), (2, &json!(3)), "a sample, and how many there are: {queue}");
    for message in messages {
        assert!(message["message"]["data"].as_str().unwrap().ends_with("held or not\r\n"), "{message}");
        let why = message["message"]["meta"]["waits_for"].as_str().unwrap();
        assert_eq!(why, "mailrace internal: scheduled queue is suspended: talking to them");
    }
    assert!(["now", "last_changed"].iter().all(|name| queue[name].is_string()), "{queue}");
    assert_eq!(post.api.get(path)["messages"].as_array().unwrap().len(), 3, "all, without a limit");
    for (path, status) in [
        ("/api/admin/inspect-sched-q/v1?queue_name=none", 404),
        ("/api/admin/inspect-sched-q/v1", 400),
        ("/api/admin/inspect-message/v1?id=00000000000000000000000000000000", 404),
        ("/api/admin/inspect-message/v1?id=x", 400),
        ("/api/admin/inspect-message/v1?id=00000000000000000000000000000000&want_body=1", 400),
    ] {
        assert_eq!(ask(&post.api, "GET", path, &Value::Null).0, status, "{path}");
    }
}

#[test]
fn metrics_tell_what_rules_ended_and_which_queues_are_large() {
    let post = Post::new(|config| config);
    post.api.post("/v1/pauses", &json!({"domain": "held.example"}));
    for number in 0..5 {
        post.send(&[&format!("r{number}@held.example")], "X-Campaign: spring \"1\"\r\n");
    }
    post.send(&["r@other.example"], "");
    post.await_record("Delivery", "r@other.example");
    post.api.post(SUPPRESSIONS, &json!({"value": "r0@held.example", "type": "address", "code": 550}));
    post.await_record("Suppression", "r0@held.example");
    post.api.post("/v1/errors", &json!({"tag": "none", "code": 550}));
    post.api.post("/api/admin/bounce/v1", &json!({"reason": "", "domain": "bounced.example"}));
    post.send(&["r@bounced.example"], "");
    post.await_record("AdminBounce", "r@bounced.example");
    let name = "spring \"1\":@held.example";
    // Reports of the cores are some moments old.
    until("the largest queue is named", || {
        // With the body that kcli sends.
        let metrics = post.api.call("GET", "/metrics.json", Some(&Value::Null)).json();
        metrics["scheduled_count"]["value"]["queue"] == json!({name: 4}) && metrics["message_count"]["value"] == 4
    });
    let metrics = post.api.get("/metrics.json");
    let ends = |kind: &str| {
        let shards = metrics["mailrace_rule_ends_total"]["value"]["shard"].as_object().unwrap();
        shards.values().map(|shard| shard["kind"][kind].as_u64().unwrap()).sum::<u64>()
    };
    assert_eq!(["suppression", "bounce", "error", "cancel"].map(ends), [1, 1, 0, 0], "{metrics}");
    let text = post.api.call("GET", "/metrics", None).text;
    assert!(text.contains("\nscheduled_count{queue=\"spring \\\"1\\\":@held.example\"} 4\n"), "{text}");
    assert!(text.contains("\n# TYPE mailrace_dns_queries_total counter\n"), "{text}");
}
