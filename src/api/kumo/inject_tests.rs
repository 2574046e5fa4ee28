//! What `POST /api/inject/v1` takes and what it refuses: pairs of a body and what comes of it.

use super::{Addressed, Tally, read};
use crate::submit::{Failure, Terms};
use mailrace_shards::event::{NotTaken, Pressure};
use mailrace_shards::message::{Extras, MessageId};
use mailrace_shards::smtp::server::ServerConfig;
use std::sync::Arc;

fn terms() -> Terms {
    let server = ServerConfig {
        hostname: "mx.test".into(),
        max_message_bytes: 1000,
        campaign_header: "X-Campaign".into(),
        tenant_header: "X-Tenant".into(),
        ..ServerConfig::default()
    };
    Terms { server: Arc::new(server), ..Terms::default() }
}

/// A whole body, with `more` members.
fn body(recipients: &str, content: &str, more: &str) -> String {
    let comma = if more.is_empty() { "" } else { "," };
    format!(r#"{{"envelope_sender":"s@s.test","recipients":[{recipients}],"content":"{content}"{comma}{more}}}"#)
}

const ONE: &str = r#"{"email":"r@r.test"}"#;

#[test]
fn a_message_for_each_recipient() {
    let recipients = r#"{"email":"One@R.Test","name":"Eins"},{"email":"two"},{"email":"<three@bücher.test>","metadata":{"k":[1],"campaign":"Own"}},{"email":"One@R.Test"}"#;
    let mailing = read(body(recipients, r"X-Tenant: T\nX-Campaign: Sale\nA: b\n\nc", "").as_bytes(), &terms()).unwrap();
    assert_eq!(mailing.composed.text, b"A: b\r\n\r\nc\r\n");
    let marked = Extras { tenant: Some("T".into()), campaign: Some("Sale".into()), ..Extras::default() };
    let own = Extras {
        tenant: Some("T".into()),
        campaign: Some("Own".into()),
        meta: r#"{"k":[1],"campaign":"Own"}"#.into(),
        ..Extras::default()
    };
    let table = [
        ("One@R.Test", Ok(("One@r.test", &marked))),
        ("two", Err("Address needs a domain")),
        ("<three@bücher.test>", Ok(("three@xn--bcher-kva.test", &own))),
        ("One@R.Test", Ok(("One@r.test", &marked))),
    ];
    assert_eq!(mailing.addressed.len(), table.len());
    for (addressed, (email, expected)) in mailing.addressed.into_iter().zip(table) {
        assert_eq!(addressed.email, email);
        let draft = addressed.recipient.map(|recipient| mailing.common.draft(recipient, addressed.own));
        let shown = draft.as_ref().map(|draft| (&*draft.recipient, draft.extras.as_deref().unwrap()));
        assert_eq!(shown.map_err(|why| *why), expected);
        assert!(draft.is_err() || &*draft.unwrap().sender == "s@s.test");
    }
}

/// 100,000 recipients and 64 KiB of tags in the one content were 6.5 GB of memory, of a call of two megabytes.
#[test]
fn what_the_headers_say_for_all_is_kept_once() {
    const RECIPIENTS: usize = 1000;
    let tag = format!("x-mq-tag: {}\\n", "t".repeat(100));
    let content = format!("{}A: b\\n\\nc", tag.repeat(4));
    let recipients = vec![ONE; RECIPIENTS].join(",");
    let mailing = read(body(&recipients, &content, "").as_bytes(), &terms()).unwrap();
    assert_eq!(mailing.addressed.len(), RECIPIENTS);
    let has_nothing_more = |one: &Addressed| one.own.is_none() && one.recipient.is_ok();
    assert!(mailing.addressed.iter().all(has_nothing_more), "each has its address and no more");
    let draft = mailing.common.draft("r@r.test".into(), None);
    assert_eq!(draft.extras.unwrap().tags.len(), 4);
}

#[test]
fn what_is_taken() {
    for (recipients, content, more) in [
        ("", "A: b", ""),
        (ONE, "A: {{ b }}", r#""template_dialect":"Static""#),
        (ONE, "A: b", r#""template_dialect":"Static","substitutions":{"a":1}"#),
        (r#"{"email":"r@r.test","substitutions":{}}"#, "A: b", r#""substitutions":{},"template_dialect":"Handlebars""#),
        (ONE, "A: { b }", r#""deferred_spool":false,"deferred_generation":false,"trace_headers":{}"#),
        (ONE, "A: b", r#""trace_headers":{"received_header":true,"supplemental_header":false}"#),
        (ONE, "A: b", r#""trace_headers":null,"substitutions":null,"template_dialect":null"#),
    ] {
        let body = body(recipients, content, more);
        assert!(read(body.as_bytes(), &terms()).is_ok(), "{body}");
    }
    for (sender, expected) in [("", ""), ("<>", ""), ("<S@S.Test>", "S@s.test"), ("S@S.Test", "S@s.test")] {
        let body = body(ONE, "A: b", "").replace("s@s.test", sender);
        let mailing = read(body.as_bytes(), &terms()).unwrap();
        assert_eq!(&*mailing.common.draft("r@r.test".into(), None).sender, expected);
    }
}

/// Each refusal names the field.
#[test]
fn what_is_refused() {
    let one = |recipient: &str| body(recipient, "A: b", "");
    let more = |more: &str| body(ONE, "A: b", more);
    let content = |content: &str| body(ONE, "A: b", "").replace(r#""A: b""#, content);
    let table = [
        ("[]".to_owned(), "`body` must be an object"),
        ("{}".to_owned(), "`envelope_sender` is missing"),
        (r#"{"envelope_sender":1}"#.to_owned(), "`envelope_sender` must be a string"),
        (r#"{"envelope_sender":"x"}"#.to_owned(), "`envelope_sender` is no mail address: Address needs a domain"),
        (r#"{"envelope_sender":""}"#.to_owned(), "`recipients` is missing"),
        (r#"{"envelope_sender":"","recipients":[]}"#.to_owned(), "`content` is missing"),
        (
            r#"{"envelope_sender":"","recipients":"r@r.test","content":"A: b"}"#.to_owned(),
            "`recipients` must be an array",
        ),
        (one("1"), "`recipients[0]` must be an object"),
        (one(r#"{"email":"a@b.test"},{"name":"x"}"#), "`recipients[1].email` is missing"),
        (one(r#"{"email":1}"#), "`recipients[0].email` must be a string"),
        (one(r#"{"email":"a@b.test","name":1}"#), "`recipients[0].name` must be a string"),
        (one(r#"{"email":"a@b.test","mail":1}"#), "`recipients[0].mail` is an unknown field"),
        (
            one(r#"{"email":"a@b.test","substitutions":{"a":1}}"#),
            "`recipients[0].substitutions` is not supported: there are no templates",
        ),
        (one(r#"{"email":"a@b.test","metadata":[]}"#), "`recipients[0].metadata` must be an object"),
        (
            one(r#"{"email":"a@b.test","metadata":{"tenant":1}}"#),
            "`recipients[0].metadata` has a member `tenant` that must be a string",
        ),
        (
            one(r#"{"email":"a@b.test","metadata":{"routing_domain":"a b"}}"#),
            "`recipients[0].metadata` has a member `routing_domain` that is no domain: \"a b\"",
        ),
        (content(r#"{"text_body":"x"}"#), "`content` must be the text of a message; building one is not supported"),
        (content("1"), "`content` must be a string"),
        (content(r#""""#), "`content` is refused: the message is empty"),
        (content(r#""a\rb""#), "`content` is refused: the message holds a CR that stands alone"),
        (content(r#""x-mq-pool: x\n\nc""#), "`content` has a header x-mq-pool that names \"x\", which is no pool"),
        (
            content(r#""A: {{b}}""#),
            "`content` holds \"{{\", and templates are not supported; say \"template_dialect\": \"Static\" if it is none",
        ),
        (
            content(r#""A: {# b""#),
            "`content` holds \"{#\", and templates are not supported; say \"template_dialect\": \"Static\" if it is none",
        ),
        (
            content(r#""A: {% b""#),
            "`content` holds \"{%\", and templates are not supported; say \"template_dialect\": \"Static\" if it is none",
        ),
        (more(r#""substitutions":{"a":1}"#), "`substitutions` is not supported: there are no templates"),
        (more(r#""template_dialect":"jinja""#), "`template_dialect` must be Jinja, Handlebars or Static"),
        (more(r#""deferred_spool":true"#), "`deferred_spool` cannot be true: that is not supported"),
        (more(r#""deferred_generation":true"#), "`deferred_generation` cannot be true: that is not supported"),
        (more(r#""trace_headers":true"#), "`trace_headers` must be an object"),
        (
            more(r#""trace_headers":{"received_header":false}"#),
            "`trace_headers.received_header` cannot be false: that is not supported",
        ),
        (
            more(r#""trace_headers":{"supplemental_header":true}"#),
            "`trace_headers.supplemental_header` cannot be true: that is not supported",
        ),
        (more(r#""trace_headers":{"header_name":"X"}"#), "`trace_headers.header_name` is not supported"),
        (more(r#""recipient":"x""#), "`recipient` is an unknown field"),
        (more(r#""recipients":[]"#), "`recipients` is there twice"),
    ];
    for (body, why) in table {
        let refusal = read(body.as_bytes(), &terms()).unwrap_err();
        let expected = format!("Failed to deserialize the JSON body into the target type: {why}");
        assert_eq!((refusal.status, &*refusal.text), (422, &*expected), "{body}");
    }
    let refusal = read(b"{", &terms()).unwrap_err();
    assert_eq!(refusal.status, 400);
    assert!(refusal.text.starts_with("Failed to parse the request body as JSON: "), "{refusal}");
}

#[test]
fn the_answer_counts() {
    let mut tally = Tally::default();
    assert!(tally.note(Some(("a@a.test".to_owned(), Ok(MessageId::default())))));
    tally.fail("b".to_owned(), "Address needs a domain");
    let full = Failure::NotTaken(NotTaken::Pressure(Pressure::LowSpace));
    assert!(tally.note(Some(("c@c.test".to_owned(), Err(full)))));
    assert!(!tally.note(None));
    assert_eq!(tally.refusal, Some(full));
    assert_eq!(
        tally.to_json().to_text(),
        r#"{"success_count":1,"fail_count":2,"failed_recipients":["b","c@c.test"],"errors":["b: Address needs a domain","c@c.test: the spool's file system is nearly full, try again later"]}"#
    );
}
