//! Injection by both HTTP dialects: what was handed in arrives octet for octet, an answer of 200 means durable, and
//! an engine that takes no mail says so.

use crate::support::api::{Answer, Api};
use crate::support::ports::free_address;
use crate::support::{Config, Engine, Features, Sink, until};
use serde_json::json;

const MAILERQ: &str = "/v1/inject";
const KUMO: &str = "/api/inject/v1";

/// Everything that a careless copy would spoil: dots, blanks, 8-bit text, lines of any length, no end to the last.
fn awkward() -> String {
    let long = "0123456789".repeat(200);
    format!(
        "From: s@s.example\nX-Folded: a\n\tb\nSubject: x\n\n.\n..\n.dot\n \t \n\n\n{long}\n\u{fc} {{{{x}}}}\n\n.\nend"
    )
}

fn canonical(text: &str) -> String {
    text.replace('\n', "\r\n") + "\r\n"
}

/// What came to `recipient`: the sender, and the text behind our own header.
fn arrived(sink: &Sink, recipient: &str) -> (String, Vec<u8>) {
    until(&format!("a message arrives for {recipient}"), || count(sink, recipient) > 0);
    assert_eq!(count(sink, recipient), 1);
    let messages = sink.messages();
    let message = messages.iter().find(|message| message.recipients == [recipient]).unwrap();
    (message.sender.clone(), message.body().to_vec())
}

fn count(sink: &Sink, recipient: &str) -> usize {
    sink.messages().iter().filter(|message| message.recipients == [recipient]).count()
}

#[test]
fn messages_of_both_dialects_arrive_octet_for_octet() {
    let sink = Sink::start(Features::default());
    let engine = Engine::start(&Config::to(sink.address));
    let api = Api::of(&engine);
    let content = awkward();

    let mailerq = json!({
        "envelope": "Bounce@S.example", "recipient": "one@R.example", "tags": ["t1", "t2"], "customer": {"id": 7},
        "mime": format!("x-mq-tag: t0\nX-Tenant: T\n{content}"),
    });
    let answer = api.post_text(MAILERQ, &mailerq.to_string());
    assert_eq!(answer.status, 200, "{answer:?}");
    let id = answer.json()["id"].as_str().unwrap().to_owned();
    assert_eq!(answer.text, format!("{{\"id\":\"{id}\"}}"));
    let (sender, text) = arrived(&sink, "one@r.example");
    assert_eq!((&*sender, &*String::from_utf8_lossy(&text)), ("Bounce@s.example", &*canonical(&content)));
    let trace = sink.messages()[0].content.clone();
    let trace = String::from_utf8_lossy(&trace[..trace.len() - text.len()]).into_owned();
    let expected =
        format!("Received: from [127.0.0.1] ([127.0.0.1])\r\n\tby mailrace.example with HTTP id {id};\r\n\t");
    assert!(trace.starts_with(&expected), "{trace}");
    let reception = engine.await_records("Reception", 1).remove(0);
    assert_eq!(reception.id(), id);
    let reception = reception.0;
    assert_eq!(reception["reception_protocol"], "HTTP");
    assert_eq!(reception["tags"], json!(["t0", "t1", "t2"]));
    assert_eq!((&reception["tenant"], &reception["meta"]), (&json!("T"), &json!({"customer": {"id": 7}})));

    let kumo = json!({
        "envelope_sender": "<>", "content": content.replace('\n', "\r\n"), "template_dialect": "Static",
        "recipients": [
            {"email": "two@a.example", "metadata": {"k": "v"}}, {"email": "nobody"}, {"email": "three@b.example"},
        ],
    });
    let answer = api.post_text(KUMO, &kumo.to_string());
    let expected = json!({
        "success_count": 2, "fail_count": 1, "failed_recipients": ["nobody"],
        "errors": ["nobody: Address needs a domain"],
    });
    assert_eq!((answer.status, answer.json()), (200, expected));
    for recipient in ["two@a.example", "three@b.example"] {
        let (sender, text) = arrived(&sink, recipient);
        assert_eq!((&*sender, &*String::from_utf8_lossy(&text)), ("", &*canonical(&content)), "{recipient}");
    }
}

#[test]
fn large_messages_and_many_recipients() {
    let sink = Sink::start(Features::default());
    let engine = Engine::start(&Config::to(sink.address).line("smtp", "max_message_bytes = 4194304"));
    let api = Api::of(&engine);
    let line = "0123456789 abcdefghijklmnopqrstuvwxyz\n";
    let content = format!("Subject: large\n\n{}", line.repeat((3 << 20) / line.len()));
    let large = json!({"envelope": "", "recipient": "large@r.example", "mime": content}).to_string();
    assert_eq!(api.post_text(MAILERQ, &large).status, 200);
    let (_, text) = arrived(&sink, "large@r.example");
    assert_eq!(text.len() + 2, canonical(&content).len(), "its last line had its end");
    assert!(canonical(&content).as_bytes().starts_with(&text));

    let many: Vec<_> = (0..500).map(|number| json!({"email": format!("r{number}@d{}.example", number % 7)})).collect();
    let many = json!({"envelope_sender": "s@s.example", "recipients": many, "content": "Subject: many\n\nx\n"});
    let answer = api.post_text(KUMO, &many.to_string());
    assert_eq!((answer.status, &answer.json()["success_count"]), (200, &json!(500)), "{answer:?}");
    until("all of them arrive", || sink.messages().len() >= 501);
    let mut recipients: Vec<_> = sink.messages().into_iter().flat_map(|message| message.recipients).collect();
    recipients.sort();
    recipients.dedup();
    assert_eq!((recipients.len(), sink.messages().len()), (501, 501), "each once");
}

#[test]
fn an_answer_of_200_survives_sigkill() {
    let destination = free_address();
    let mut engine = Engine::start(&Config::to(destination));
    let api = Api::of(&engine);
    let mut expected = Vec::new();
    for round in 0..5 {
        let (first, second) = (format!("m{round}@r.example"), format!("k{round}@r.example"));
        let content = format!("Subject: {round}\n\n{}", awkward());
        let mailerq = json!({"envelope": "s@s.example", "recipient": first, "mime": content}).to_string();
        let kumo = json!({
            "envelope_sender": "s@s.example", "recipients": [{"email": second}], "content": content,
            "template_dialect": "Static",
        });
        assert_eq!(api.post_text(MAILERQ, &mailerq).status, 200);
        let answer = api.post_text(KUMO, &kumo.to_string());
        engine.kill();
        assert_eq!((answer.status, &answer.json()["success_count"]), (200, &json!(1)), "{answer:?}");
        expected.extend([(first, canonical(&content)), (second, canonical(&content))]);
        engine.run();
    }
    let sink = Sink::start_at(destination, Features::default());
    for (recipient, content) in expected {
        let (sender, text) = arrived(&sink, &recipient);
        assert_eq!((&*sender, &*String::from_utf8_lossy(&text)), ("s@s.example", &*content), "{recipient}");
    }
}

#[test]
fn who_takes_no_mail_says_so() {
    let sink = Sink::start(Features::default());
    let full = Config::to(sink.address).line("spool", "min_free_bytes = 1000000000000000000");
    let mut engine = Engine::start(&full);
    let token = engine.token();
    let api = Api::of(&engine);
    let mailerq = json!({"recipient": "one@r.example", "mime": "A: b\n\nc"}).to_string();
    let kumo =
        json!({"envelope_sender": "", "recipients": [{"email": "two@r.example"}], "content": "A: b\n\nc"}).to_string();
    let retry = |answer: &Answer| assert!(answer.head.contains("\r\nRetry-After: "), "{answer:?}");

    let why = "the spool's file system is nearly full, try again later";
    let answer = api.post_text(MAILERQ, &mailerq);
    assert_eq!((answer.status, answer.json()), (503, json!({"error": why})));
    retry(&answer);
    let answer = api.post_text(KUMO, &kumo);
    assert_eq!((answer.status, &*answer.text), (503, &*format!("Error: {why}")));
    retry(&answer);

    for (path, body, token, status) in [
        (MAILERQ, &*mailerq, "", 401),
        (KUMO, &*kumo, "mailrace_wrong", 401),
        (MAILERQ, "{", &*token, 400),
        (KUMO, "{", &*token, 400),
        (MAILERQ, "{}", &*token, 400),
        (KUMO, "{}", &*token, 422),
    ] {
        assert_eq!(api.with_token(token).post_text(path, body).status, status, "{path} {body}");
    }
    engine.configure(&Config::to(sink.address));
    engine.stop();
    engine.run();
    assert_eq!(api.post_text(KUMO, &kumo).status, 200);
    arrived(&sink, "two@r.example");
    assert_eq!(sink.messages().len(), 1, "what was refused was not kept");
}
