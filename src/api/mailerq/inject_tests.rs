//! What `POST /v1/inject` takes and what it refuses: pairs of a body and what comes of it.

use super::read;
use crate::submit::{Draft, Terms};
use mailrace_shards::message::Extras;
use mailrace_shards::smtp::server::ServerConfig;
use mailrace_shards::time::Timestamp;
use std::sync::Arc;

fn terms() -> Terms {
    Terms {
        server: Arc::new(ServerConfig {
            hostname: "mx.test".into(),
            max_message_bytes: 1000,
            campaign_header: "X-Campaign".into(),
            tenant_header: "X-Tenant".into(),
            ..ServerConfig::default()
        }),
        pools: vec!["fast".into()],
        addresses: vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()],
    }
}

/// A body with the properties that must be there and `more`.
fn body(more: &str) -> String {
    let comma = if more.is_empty() { "" } else { "," };
    format!(r#"{{"recipient":"r@r.test","mime":"A: b\n\nc\n"{comma}{more}}}"#)
}

fn draft(body: &str) -> Draft {
    read(body.as_bytes(), &terms()).unwrap_or_else(|refusal| panic!("{refusal} to {body}")).0
}

#[test]
fn wishes_that_are_carried_out() {
    let none = Extras::default;
    let table: [(&str, Extras); 19] = [
        ("", none()),
        (r#""pool":null,"ips":[],"tags":[],"retries":[]"#, none()),
        (r#""pool":"fast""#, Extras { pool: Some("fast".into()), ..none() }),
        (
            r#""ips":["2001:DB8::1","192.0.2.1"]"#,
            Extras { ips: vec!["2001:db8::1".parse().unwrap(), "192.0.2.1".parse().unwrap()], ..none() },
        ),
        // The pool is ignored, so it need not be there.
        (
            r#""ips":["192.0.2.1"],"pool":"none""#,
            Extras { ips: vec!["192.0.2.1".parse().unwrap()], pool: Some("none".into()), ..none() },
        ),
        (r#""tags":["a","B c"]"#, Extras { tags: vec!["a".into(), "B c".into()], ..none() }),
        (
            r#""nextattempt":{"time":"2026-12-01 10:00:00"}"#,
            Extras { not_before: Some(Timestamp(1_796_119_200_000)), ..none() },
        ),
        (
            r#""maxdelivertime":"2026-12-01T11:00:00+01:00""#,
            Extras { expires: Some(Timestamp(1_796_119_200_000)), ..none() },
        ),
        (r#""maxattempts":3"#, Extras { max_attempts: Some(3), ..none() }),
        (r#""maxattempts":"3""#, Extras { max_attempts: Some(3), ..none() }),
        (r#""retries":[60,"300"]"#, Extras { retries: vec![60, 300], ..none() }),
        (r#""smarthost":{"hostname":"Relay.Test"}"#, Extras { smarthost: Some("relay.test".into()), ..none() }),
        (r#""smarthost":{"hostname":"::1","port":2525}"#, Extras { smarthost: Some("[::1]:2525".into()), ..none() }),
        (r#""security":"opportunistic""#, none()),
        (r#""security":"optional""#, none()),
        (r#""keepmime":false,"dkim":[],"dsn":{},"headers":null,"key":"""#, none()),
        (r#""data":{"a":[1]},"x":null"#, Extras { meta: r#"{"data":{"a":[1]},"x":null}"#.into(), ..none() }),
        (r#""y":"ä","customer":7"#, Extras { meta: r#"{"customer":7,"y":"ä"}"#.into(), ..none() }),
        (r#""Pool":"none""#, Extras { meta: r#"{"Pool":"none"}"#.into(), ..none() }),
    ];
    for (more, extras) in table {
        let expected = (extras != Extras::default()).then(|| Box::new(extras));
        assert_eq!(draft(&body(more)).extras, expected, "{more}");
    }
}

#[test]
fn senders_and_recipients() {
    for (envelope, sender) in [
        ("", ""),
        (r#","envelope":null"#, ""),
        (r#","envelope":"""#, ""),
        (r#","envelope":"<>""#, ""),
        (r#","envelope":"<S@S.Test>""#, "S@s.test"),
        (r#","envelope":"s@Bücher.test""#, "s@xn--bcher-kva.test"),
    ] {
        let draft = draft(&format!(r#"{{"recipient":" <R@R.Test> ","mime":"A: b"{envelope}}}"#));
        assert_eq!((&*draft.sender, &*draft.recipient), (sender, "R@r.test"), "{envelope}");
    }
}

#[test]
fn headers_of_the_message_say_the_same() {
    let text = r#"{"recipient":"r@r.test","tags":["c"],"mime":"x-mq-tag: a\r\nx-mq-envelope: s@s.test\r\nX-Campaign: Sale\r\nA: b\r\n\r\nc"}"#;
    let (draft, composed) = read(text.as_bytes(), &terms()).unwrap();
    let extras = Extras { tags: vec!["a".into(), "c".into()], campaign: Some("Sale".into()), ..Extras::default() };
    assert_eq!((&*draft.sender, draft.extras.as_deref()), ("s@s.test", Some(&extras)));
    assert_eq!(composed.text, b"A: b\r\n\r\nc\r\n");
    for (header, property) in [
        ("x-mq-envelope: s@s.test", r#""envelope":"""#),
        ("x-mq-pool: fast", r#""pool":"fast""#),
        ("x-mq-delayed: 2026-12-01 10:00:00", r#""nextattempt":{"time":"2026-12-01 10:00:00"}"#),
        ("x-mq-retries: 1", r#""retries":[1]"#),
        ("x-mq-smarthost-hostname: h", r#""smarthost":{"hostname":"h"}"#),
    ] {
        let text = format!(r#"{{"recipient":"r@r.test","mime":"{header}\n\nc",{property}}}"#);
        let refusal = read(text.as_bytes(), &terms()).unwrap_err();
        assert!(refusal.text.ends_with("is also given by a header of the message"), "{header}: {refusal}");
    }
}

/// Each refusal names the property.
#[test]
fn what_is_refused() {
    let long = format!(r#""own":"{}""#, "x".repeat(17_000));
    let many_tags = format!(r#""tags":[{}"t"]"#, r#""t","#.repeat(64));
    let table = [
        (r#""pool":"""#, "pool", "`pool` must not be empty"),
        (r#""pool":"none""#, "pool", "`pool` names \"none\", which is no pool"),
        (r#""pool":7"#, "pool", "`pool` must be a string"),
        (r#""ips":["192.0.2.2"]"#, "ips", "`ips` names 192.0.2.2, which belongs to no source"),
        (r#""ips":["x"]"#, "ips", "`ips` holds \"x\", which is no IP address"),
        (r#""ips":"192.0.2.1""#, "ips", "`ips` must be an array"),
        (r#""tags":[1]"#, "tags", "`tags` must be an array of strings"),
        (r#""tags":["a\nb"]"#, "tags", "`tags` holds a tag that holds control characters"),
        (&many_tags, "tags", "`tags` has more than 64 items"),
        (r#""nextattempt":"2026-12-01 10:00:00""#, "nextattempt", "`nextattempt` must be an object"),
        (r#""nextattempt":{}"#, "nextattempt", "`nextattempt` must have a `time`"),
        (
            r#""nextattempt":{"time":"now","x":1}"#,
            "nextattempt",
            "`nextattempt` has a member `x`, which is not supported",
        ),
        (
            r#""nextattempt":{"time":"now"}"#,
            "nextattempt",
            "`nextattempt` has a `time` that is not a time (YYYY-MM-DD HH:MM:SS, UTC)",
        ),
        (r#""maxdelivertime":"x""#, "maxdelivertime", "`maxdelivertime` is not a time (YYYY-MM-DD HH:MM:SS, UTC)"),
        (r#""maxattempts":0"#, "maxattempts", "`maxattempts` must be a whole number from 1 to 65535"),
        (r#""maxattempts":1.5"#, "maxattempts", "`maxattempts` must be a whole number from 1 to 65535"),
        (r#""retries":[-1]"#, "retries", "`retries` must be an array of seconds, each 1 at least"),
        (r#""retries":[60,0]"#, "retries", "`retries` must be an array of seconds, each 1 at least"),
        (
            r#""smarthost":{"hostname":"h","username":"u","password":"p"}"#,
            "smarthost",
            "`smarthost` has a member `password`, which is not supported",
        ),
        (r#""smarthost":{"port":25}"#, "smarthost", "`smarthost` must have a `hostname`"),
        (
            r#""smarthost":{"hostname":"h","port":0}"#,
            "smarthost",
            "`smarthost` has a `port` that must be a whole number from 1 to 65535",
        ),
        (r#""security":"required""#, "security", "`security` above opportunistic is not supported for single messages"),
        (r#""security":"x""#, "security", "`security` must be optional, opportunistic, required or verified"),
        (r#""dsn":{"notify":"never"}"#, "dsn", "`dsn` is not supported"),
        (r#""keepmime":true"#, "keepmime", "`keepmime` is not supported"),
        (r#""headers":{"remove":["x"]}"#, "headers", "`headers` is not supported"),
        (r#""dkim":[{"domain":"x"}]"#, "dkim", "`dkim` is not supported"),
        (r#""queues":{"success":"x"}"#, "queues", "`queues` is not supported"),
        (r#""key":"x""#, "key", "`key` is not supported"),
        (r#""inlinecss":true"#, "inlinecss", "`inlinecss` is not supported"),
        (r#""envelope":"nobody""#, "envelope", "`envelope` is no mail address: Address needs a domain"),
        (r#""envelope":["s@s.test"]"#, "envelope", "`envelope` must be a string"),
        (&long, "", "the properties of your own come to more than 16384 octets"),
    ];
    for (more, field, text) in table {
        let refusal = read(body(more).as_bytes(), &terms()).unwrap_err();
        assert_eq!(refusal.status, 400);
        assert_eq!((refusal.field.as_deref().unwrap_or(""), &*refusal.text), (field, text));
    }
}

#[test]
fn what_is_no_message() {
    let large = format!(r#"{{"recipient":"r@r.test","mime":"{}"}}"#, "x".repeat(1000));
    let table = [
        ("", "", "the body is no JSON: the body is empty"),
        ("[]", "", "the body must be an object"),
        ("{}", "recipient", "`recipient` is required"),
        (r#"{"recipient":"r@r.test"}"#, "mime", "`mime` is required"),
        (r#"{"recipient":null,"mime":"A: b"}"#, "recipient", "`recipient` is required"),
        (r#"{"recipient":["r@r.test"],"mime":"A: b"}"#, "recipient", "`recipient` must be a string"),
        (r#"{"recipient":"","mime":"A: b"}"#, "recipient", "`recipient` is no mail address: Address syntax"),
        (
            r#"{"recipient":"r@r.test, q@q.test","mime":"A: b"}"#,
            "recipient",
            "`recipient` is no mail address: Not a domain name",
        ),
        (r#"{"recipient":"r@r.test","mime":""}"#, "mime", "`mime` is refused: the message is empty"),
        (
            r#"{"recipient":"r@r.test","mime":"A: b\n\n\u0000"}"#,
            "",
            "the body is no JSON: a string holds NUL, or half a surrogate pair",
        ),
        (
            r#"{"recipient":"r@r.test","mime":"x-mq-dsn-notify: never\n\nc"}"#,
            "mime",
            "`mime` is refused: the message's header x-mq-dsn-notify: not supported",
        ),
        (
            r#"{"recipient":"r@r.test","mime":"x-mq-pool: none\n\nc"}"#,
            "pool",
            "`pool` names \"none\", which is no pool",
        ),
        (&large, "mime", "`mime` is refused: the message is over 1000 octets"),
    ];
    for (body, field, text) in table {
        let refusal = read(body.as_bytes(), &terms()).unwrap_err();
        assert_eq!(refusal.status, 400);
        assert_eq!((refusal.field.as_deref().unwrap_or(""), &*refusal.text), (field, text), "{body}");
    }
}
