//! Whole messages into bodies: line ends, headers, flags, refusals, and our own header in front.

use mailrace_shards::limits::{HEADER_BYTES_MAX, TEXT_LINE_BYTES_MAX};
use mailrace_shards::message::{ContentFlags, Extras, MessageId};
use mailrace_shards::smtp::server::{ComposeError, Origin, ServerConfig, compose};
use mailrace_shards::time::Timestamp;
use std::sync::Arc;

fn config() -> Arc<ServerConfig> {
    Arc::new(ServerConfig {
        hostname: "mx.test".into(),
        max_message_bytes: 4 << 20,
        max_recipients: 1,
        tls_available: false,
        auth_available: false,
        campaign_header: "X-Campaign".into(),
        tenant_header: "X-Tenant".into(),
    })
}

#[test]
fn line_ends_become_canonical_and_nothing_else_changes() {
    for (content, text) in [
        ("A: b\n\nc\n", "A: b\r\n\r\nc\r\n"),
        ("A: b\r\n\r\nc\r\n", "A: b\r\n\r\nc\r\n"),
        ("A: b\r\n\nc\nd\r\n", "A: b\r\n\r\nc\r\nd\r\n"),
        ("A: b\n\nc", "A: b\r\n\r\nc\r\n"),
        ("A: b\r\n\r\nc", "A: b\r\n\r\nc\r\n"),
        ("A: b", "A: b\r\n"),
        ("\n", "\r\n"),
        ("\n\n\n", "\r\n\r\n\r\n"),
        ("A: b\n c\n\td\n\n", "A: b\r\n c\r\n\td\r\n\r\n"),
        ("A: b\n\n.\n..\n.c\n", "A: b\r\n\r\n.\r\n..\r\n.c\r\n"),
        ("A: b\n\n \t trailing \t \n", "A: b\r\n\r\n \t trailing \t \r\n"),
        ("no header at all\n", "no header at all\r\n"),
    ] {
        let composed = compose(&config(), content.as_bytes()).expect(content);
        assert_eq!(String::from_utf8_lossy(&composed.text), text, "{content:?}");
        assert_eq!((composed.envelope, composed.extras), (None, None));
    }
}

#[test]
fn flags_say_what_the_next_hop_needs() {
    let flags = |eight_bit, smtputf8, dot_lines| ContentFlags { eight_bit, smtputf8, dot_lines };
    let table: [(&[u8], ContentFlags); 11] = [
        (b"A: b\n\nc\n", flags(false, false, false)),
        ("A: b\n\n\u{fc}\n".as_bytes(), flags(true, false, false)),
        (b"A: b\n\n\xfc\n", flags(true, false, false)),
        ("A: \u{fc}\n\nc\n".as_bytes(), flags(true, true, false)),
        (b"A: \xfc\n\nc\n", flags(true, false, false)),
        ("\n\u{fc}\n\n\u{fc}".as_bytes(), flags(true, false, false)),
        ("X-Campaign: \u{fc}\nA: b\n\nc\n".as_bytes(), flags(false, false, false)),
        (b"A: b\n\n.c\n", flags(false, false, true)),
        (b"A: b\n\nc.\n.", flags(false, false, true)),
        (b"A: b\n\nc.\n", flags(false, false, false)),
        ("A: b\r\n\r\n.\u{fc}\n".as_bytes(), flags(true, false, true)),
    ];
    for (content, expected) in table {
        let composed = compose(&config(), content).expect("a message");
        assert_eq!(composed.flags, expected, "{:?}", String::from_utf8_lossy(content));
    }
}

#[test]
fn control_headers_are_obeyed_and_removed() {
    let content = "X-MQ-Tag: one\nFrom: a\nx-mq-tag: two\n words\nX-Campaign: Sale\nx-tenant: T\n\
        x-mq-envelope: <Bounce@B.Test>\nx-mq-pool: fast\nTo: b\n\nx-mq-tag: text\n";
    for content in [content.to_owned(), content.replace('\n', "\r\n")] {
        let composed = compose(&config(), content.as_bytes()).expect("a message");
        assert_eq!(String::from_utf8_lossy(&composed.text), "From: a\r\nTo: b\r\n\r\nx-mq-tag: text\r\n");
        assert_eq!(composed.envelope.as_deref(), Some("Bounce@b.test"));
        let extras = Extras {
            tags: vec!["one".into(), "two words".into()],
            campaign: Some("Sale".into()),
            tenant: Some("T".into()),
            pool: Some("fast".into()),
            ..Extras::default()
        };
        assert_eq!(composed.extras.as_deref(), Some(&extras));
    }
}

#[test]
fn what_is_no_message_is_refused_and_why() {
    use ComposeError::{BareCr, Control, Empty, LargeHeader, LongLine, Loop, Nul, TooLarge};
    let long_line = format!("A: b\n\n{}\n", "x".repeat(TEXT_LINE_BYTES_MAX + 1));
    let large_header = format!("{}\nc\n", "A: 0123456789\n".repeat(HEADER_BYTES_MAX / 14));
    let hops = |count| format!("{}\nc\n", "Received: x\n".repeat(count));
    let too_large = "A: b\n\n".to_owned() + &"0123456789\n".repeat(400_000);
    // Its LFs alone bring it over: what counts is the canonical form.
    let just_too_large = "\n".repeat((2 << 20) + 1);
    let table: [(&str, Result<(), ComposeError>); 19] = [
        ("", Err(Empty)),
        ("A: b\r\rc\n", Err(BareCr)),
        ("A: b\n\nc\r", Err(BareCr)),
        ("A: b\n\nc\r\r\n", Err(BareCr)),
        ("A: b\r\n\r\n\rc", Err(BareCr)),
        ("\r", Err(BareCr)),
        ("A: \0\n\nc\n", Err(Nul)),
        ("A: b\n\n\0", Err(Nul)),
        (&long_line, Err(LongLine)),
        (&large_header, Err(LargeHeader)),
        (&hops(51), Err(Loop)),
        (&hops(50), Ok(())),
        (&too_large, Err(TooLarge(4 << 20))),
        (&just_too_large, Err(TooLarge(4 << 20))),
        (&just_too_large[1..], Ok(())),
        ("X-MQ-DSN-Notify: never\n\nc\n", Err(Control("X-MQ-DSN-Notify".into(), "not supported"))),
        ("x-mq-ip: 1.2.3\n\nc\n", Err(Control("x-mq-ip".into(), "not an IP address"))),
        ("x-mq-pool: a\nx-mq-pool: b\n\nc\n", Err(Control("x-mq-pool".into(), "given twice"))),
        ("x-mq-smarthost-port: 25", Err(Control("x-mq-smarthost-port".into(), "needs x-mq-smarthost-hostname"))),
    ];
    for (content, expected) in table {
        let result = compose(&config(), content.as_bytes()).map(drop);
        assert_eq!(result, expected, "{:?}", &content[..content.len().min(40)]);
    }
    assert_eq!(
        compose(&config(), b"x-mq-x: 1\n").expect_err("unknown").to_string(),
        "the message's header x-mq-x: not supported"
    );
}

/// However the text is cut by its line ends, it comes out as if each had been replaced.
#[test]
fn mixed_line_ends_of_all_kinds() {
    const PARTS: [&str; 5] = ["a", ".", "\n", "\r\n", "b: c"];
    for number in 0..5_usize.pow(6) {
        let content: String = (0..6).map(|place| PARTS[number / 5_usize.pow(place) % 5]).collect();
        let mut expected = content.replace("\r\n", "\n").replace('\n', "\r\n");
        if !expected.ends_with('\n') {
            expected.push_str("\r\n");
        }
        let composed = compose(&config(), content.as_bytes()).expect("a message");
        assert_eq!(String::from_utf8_lossy(&composed.text), expected, "{content:?}");
        let dot = expected.split("\r\n").any(|line| line.starts_with('.'));
        assert_eq!(composed.flags.dot_lines, dot, "{content:?}");
    }
}

#[test]
fn our_header_stands_in_front() {
    let composed = compose(&config(), b"A: b\n\nc\n").expect("a message");
    for (peer, from) in [
        ("192.0.2.7:99", "[192.0.2.7] ([192.0.2.7])"),
        ("[2001:db8::7]:99", "[IPv6:2001:db8::7] ([IPv6:2001:db8::7])"),
        ("[::ffff:192.0.2.7]:99", "[192.0.2.7] ([192.0.2.7])"),
    ] {
        let origin = Origin {
            peer: peer.parse().expect("an address"),
            hostname: "mx.test",
            protocol: "HTTP",
            id: MessageId { generation: 1, core: u16::MAX, sequence: 7 },
            at: Timestamp(1_795_311_843_000),
        };
        let expected = format!(
            "Received: from {from}\r\n\tby mx.test with HTTP id 00000001ffff000000000007;\r\n\t\
             Sun, 22 Nov 2026 01:44:03 +0000\r\nA: b\r\n\r\nc\r\n"
        );
        assert_eq!(String::from_utf8_lossy(&composed.body(&origin)), expected);
    }
}

/// The text is copied once, into room that it fills nearly.
#[test]
fn a_text_gets_the_room_that_it_needs() {
    for lines in [1, 100, 10_000] {
        let content = "0123456789 0123456789 0123456789 0123456789\r\n".repeat(lines);
        let text = compose(&config(), content.as_bytes()).expect("a message").text;
        assert_eq!(text.len(), content.len());
        assert_eq!(text.capacity(), content.len() + content.len() / 32);
    }
}

#[test]
fn each_refusal_is_said_in_words() {
    use ComposeError::{BareCr, Control, Empty, LargeHeader, LongLine, Loop, Nul, TooLarge};
    let words = [
        (Empty, "the message is empty"),
        (TooLarge(7), "the message is over 7 octets"),
        (BareCr, "the message holds a CR that stands alone"),
        (Nul, "the message holds a NUL octet"),
        (LongLine, "the message holds a line that is too long"),
        (LargeHeader, "the message's header is too large"),
        (Loop, "the message has too many Received headers, a loop"),
        (Control("x-mq-x".into(), "not supported"), "the message's header x-mq-x: not supported"),
    ];
    for (error, text) in words {
        assert_eq!(error.to_string(), text);
    }
}
