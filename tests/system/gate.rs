//! The gate on the real binary: after a rule call has answered, no message that the rule covers is completed at its
//! destination, unless its end had left before and the answer says so.
//!
//! `MAILRACE_GATE_ROUNDS` sets how often each kind of rule is tried (1).

#![allow(clippy::disallowed_methods, reason = "the tests are outside the engine and watch it by the clock")]

use crate::support::certificate::Certificate;
use crate::support::received::Received;
use crate::support::wait::linger;
use crate::support::{Api, Config, Engine, Features, Record, Sink, setting, until};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::time::{Duration, Instant};

const CONNECTIONS: usize = 2;

/// Octets of a large message. More than both socket buffers can ever hold.
const LARGE: usize = 6 << 20;

/// What a connection may bring quickly before a rule is made.
const BEGINNING: u64 = 256 << 10;

/// Octets that may be in the two socket buffers and in the destination's reader: the most that Linux gives a sender,
/// and what the destination was given.
const BUFFERED: u64 = (4 << 20) + (512 << 10);

/// What becomes of the mail that a rule covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effect {
    Holds,
    /// Ends it with records of this type.
    Ends(&'static str),
}

struct Case {
    path: &'static str,
    body: Value,
    effect: Effect,
}

/// Every kind of rule. All mail of the test has the tag, the campaign, the tenant and the recipient.
fn cases(recipient: &str, sink: &Sink) -> Vec<Case> {
    let path_name = format!("unspecified->{}@smtp_client", sink.address);
    let case = |path, body, effect| Case { path, body, effect };
    vec![
        case("/v1/pauses", json!({"domain": "gate.example"}), Effect::Holds),
        case("/v1/pauses", json!({"tag": "gated"}), Effect::Holds),
        case("/v1/pauses", json!({}), Effect::Holds),
        case("/v1/errors", json!({"tag": "gated", "code": 550, "description": "stopped"}), Effect::Ends("Bounce")),
        case(
            "/v1/suppressions",
            json!({"value": recipient, "type": "address", "code": 550, "description": "never again"}),
            Effect::Ends("Suppression"),
        ),
        case("/api/admin/suspend/v1", json!({"campaign": "spring", "reason": "later"}), Effect::Holds),
        case("/api/admin/bounce/v1", json!({"tenant": "acme", "reason": "not at all"}), Effect::Ends("AdminBounce")),
        case("/api/admin/suspend-ready-q/v1", json!({"name": path_name, "reason": "that way"}), Effect::Holds),
    ]
}

impl Case {
    /// Takes back what `answer` says was made.
    fn undo(&self, api: &Api, answer: &Value) {
        if self.path == "/v1/suppressions" {
            assert_eq!(api.delete(self.path, &json!({"value": self.body["value"]}))["removed"], 1);
        } else {
            api.remove(answer["id"].as_str().unwrap());
        }
    }
}

struct Scene {
    tls: bool,
    chunking: bool,
    engine: Engine,
    api: Api,
    sink: Sink,
}

impl Scene {
    fn new(tls: bool, chunking: bool) -> Self {
        let starttls = tls.then(|| Certificate::new("localhost"));
        let sink = Sink::start_narrow(64 << 10, Features { chunking, starttls, ..Features::default() });
        let limit = format!("per = \"path\"\nconnections = {CONNECTIONS}");
        let engine = Engine::start(&Config::to(sink.address).table("limit", &limit));
        Self { tls, chunking, api: Api::of(&engine), engine, sink }
    }

    fn send(&self, recipient: &str, count: usize, octets: usize) {
        let mut client = self.engine.client();
        for number in 0..count {
            let mut body = format!(
                "Subject: {recipient} {number}\r\nx-mq-tag: gated\r\nX-Campaign: spring\r\nX-Tenant: acme\r\n\r\n"
            );
            while body.len() < octets {
                body.push_str(&"a line of a message. ".repeat(40));
                body.push_str("\r\n");
            }
            assert_eq!(client.send("s@test.example", &[recipient], body.as_bytes()).code, 250);
        }
    }

    /// Messages to `recipient` that came completely.
    fn complete(&self, recipient: &str) -> Vec<Received> {
        let mut all = self.sink.attempts();
        all.retain(|message| message.recipients == [recipient]);
        all
    }

    fn records(&self, recipient: &str, kind: &str) -> Vec<Record> {
        let mut all = self.engine.records();
        all.retain(|record| record.kind() == kind && record.recipient() == recipient);
        all
    }

    /// How many messages are in a state.
    fn in_state(&self, state: &str) -> usize {
        self.api.get(&format!("/v1/messages?domain=gate.example&state={state}&limit=1000")).as_array().unwrap().len()
    }

    /// Makes the rule; the answer, when it was there, and what each connection had brought by then.
    fn rule(&self, case: &Case) -> (Value, Instant, HashMap<usize, u64>) {
        let answer = self.api.post(case.path, &case.body);
        (answer, Instant::now(), self.sink.valve().read())
    }

    /// Waits until no connection has anything of the rule's mail, takes the rule back, and looks at what became of
    /// each message.
    fn settle(&self, case: &Case, answer: &Value, recipient: &str, count: usize) {
        until("no connection has any of it", || self.in_state("in_flight") == 0);
        let got_through = self.complete(recipient).len();
        match case.effect {
            Effect::Holds => {
                until("the rest is held", || self.in_state("held") == count - got_through);
                assert_eq!(self.complete(recipient).len(), got_through, "{} delivers what it holds", case.path);
            }
            Effect::Ends(kind) => until("the rest is ended", || {
                self.records(recipient, kind).len() == count - got_through && self.in_state("ready") == 0
            }),
        }
        case.undo(&self.api, answer);
        let delivered = if case.effect == Effect::Holds { count } else { got_through };
        until("each message has its record", || self.records(recipient, "Delivery").len() >= delivered);
        let deliveries = self.records(recipient, "Delivery");
        assert_eq!(deliveries.len(), delivered, "{} {}", case.path, case.body);
        assert!(deliveries.iter().all(|record| record.attempts() == 1), "{}: a hold is no attempt", case.path);
        let mut subjects: Vec<_> = self.complete(recipient).iter().map(|message| message.header("Subject")).collect();
        subjects.sort();
        assert_eq!(subjects.len(), delivered, "{} {}: {subjects:?}", case.path, case.body);
        let as_meant = |message: &Received| message.tls == self.tls && message.chunked == self.chunking;
        assert!(self.complete(recipient).iter().all(as_meant), "TLS and BDAT are not as the test means");
        subjects.dedup();
        assert_eq!(subjects.len(), delivered, "{} {}: delivered twice", case.path, case.body);
        for record in ["Bounce", "AdminBounce", "Suppression"].iter().flat_map(|kind| self.records(recipient, kind)) {
            assert!(!record.0["rule"].is_null(), "{}", record.0);
        }
        until("nothing is left", || ["ready", "waiting", "held"].iter().all(|state| self.in_state(state) == 0));
    }

    /// Large messages whose ends are far from having left when the rule is made.
    fn large(&self, case: &Case, recipient: &str, round: usize) {
        self.sink.break_connections();
        until("no connection is left", || self.sink.open_connections() == 0);
        let first = self.sink.connections();
        self.sink.valve().narrow_after(BEGINNING);
        self.send(recipient, CONNECTIONS, LARGE);
        // The second message may have to wait for the first one's connection.
        let far = |(connection, octets): (&usize, &u64)| *connection >= first && *octets >= BEGINNING;
        until("a message is on its way", || self.sink.valve().read().iter().any(far));
        linger(Duration::from_millis(round as u64 * 7 % 40));
        let (answer, answered, before) = self.rule(case);
        assert!(self.complete(recipient).is_empty(), "too late for the test");
        self.sink.valve().open();
        until("no connection has any of it", || self.in_state("in_flight") == 0);
        self.judge(case, &answer, recipient, answered, &before);
        for message in self.complete(recipient) {
            let left = message.octets - before.get(&message.connection).copied().unwrap_or(0);
            assert!(left <= BUFFERED, "{} {}: completed {left} octets after the answer", case.path, case.body);
        }
        self.settle(case, &answer, recipient, CONNECTIONS);
    }

    /// Many small ones, in the midst of which the rule comes.
    fn small(&self, case: &Case, recipient: &str, round: usize) {
        const COUNT: usize = 40;
        self.sink.valve().narrow_after(1);
        self.send(recipient, COUNT, 3000);
        until("some have arrived", || self.complete(recipient).len() > round % 5);
        let (answer, answered, before) = self.rule(case);
        until("no connection has any of it", || self.in_state("in_flight") == 0);
        self.sink.valve().open();
        self.judge(case, &answer, recipient, answered, &before);
        self.settle(case, &answer, recipient, COUNT);
    }

    /// What was completed after the answer is at most what the answer said may be.
    fn judge(&self, case: &Case, answer: &Value, recipient: &str, answered: Instant, before: &HashMap<usize, u64>) {
        let in_flight =
            usize::try_from(answer["in_flight"].as_u64().expect("an answer says what is in flight")).unwrap();
        let late: Vec<_> = self.complete(recipient).into_iter().filter(|message| message.at > answered).collect();
        let octets: Vec<_> =
            late.iter().map(|message| message.octets - before.get(&message.connection).copied().unwrap_or(0)).collect();
        assert!(
            late.len() <= in_flight,
            "{} {}: {} messages were completed after the answer, {in_flight} were in flight; octets to read: {octets:?}",
            case.path,
            case.body,
            late.len()
        );
    }
}

fn rounds() -> usize {
    setting("MAILRACE_GATE_ROUNDS", 1)
}

fn large(tls: bool, chunking: bool) {
    for round in 0..rounds() {
        let scene = Scene::new(tls, chunking);
        for at in 0..cases("", &scene.sink).len() {
            let recipient = format!("large-{at}-{round}@gate.example");
            scene.large(&cases(&recipient, &scene.sink)[at], &recipient, round);
            scene.sink.clear();
        }
    }
}

fn small(tls: bool, chunking: bool) {
    for round in 0..rounds() {
        let scene = Scene::new(tls, chunking);
        for at in 0..cases("", &scene.sink).len() {
            let recipient = format!("small-{at}-{round}@gate.example");
            scene.small(&cases(&recipient, &scene.sink)[at], &recipient, round);
            scene.sink.clear();
        }
    }
}

#[test]
fn no_large_message_is_completed_by_data_after_the_answer() {
    large(false, false);
}

#[test]
fn no_large_message_is_completed_by_bdat_after_the_answer() {
    large(false, true);
}

#[test]
fn no_large_message_is_completed_by_data_over_tls_after_the_answer() {
    large(true, false);
}

#[test]
fn no_large_message_is_completed_by_bdat_over_tls_after_the_answer() {
    large(true, true);
}

#[test]
fn small_messages_completed_by_data_after_the_answer_were_in_flight() {
    small(false, false);
}

#[test]
fn small_messages_completed_by_bdat_after_the_answer_were_in_flight() {
    small(false, true);
}

#[test]
fn small_messages_completed_over_tls_after_the_answer_were_in_flight() {
    small(true, false);
    small(true, true);
}
