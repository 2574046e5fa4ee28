//! Control headers: removed from everybody's mail, obeyed when trusted, refused when they cannot be obeyed.

use crate::driver::{ALL_PIECES, FRIEND, Pieces, STRANGER, config, inject, inject_chunk, text_of};
use mailrace_shards::message::Extras;
use mailrace_shards::smtp::server::PeerFacts;
use mailrace_shards::time::Timestamp;

const FULL: &str = "From: a\r\n\
    X-MQ-Tag: One\r\n\
    x-mq-tag:two\r\n words \r\n\
    Subject: x\r\n\
    x-campaign: \r\n Spring Sale\r\n\
    X-Tenant: T\u{e9}nant\r\n\
    x-mq-envelope: <Bounce@B\u{fc}cher.test>\r\n\
    X-Mq-Ip: 192.0.2.9\r\n\
    x-mq-ip: 2001:db8::9\r\n\
    x-mq-pool: fast\r\n\
    x-mq-delayed: 2026-12-01 10:00:00\r\n\
    x-mq-maxdelivertime: 2026-12-02T10:00:00+01:00\r\n\
    x-mq-maxattempts: 3\r\n\
    x-mq-retries: 60, 300,\r\n\t600\r\n\
    x-mq-smarthost-port : 2525\r\n\
    x-mq-smarthost-hostname: Relay.test\r\n\
    To: b\r\n\
    \r\n\
    x-mq-tag: text\r\n";

const LEFT: &str = "From: a\r\nSubject: x\r\nTo: b\r\n\r\nx-mq-tag: text\r\n";

fn extras() -> Extras {
    Extras {
        tags: vec!["One".into(), "two words".into()],
        campaign: Some("Spring Sale".into()),
        tenant: Some("T\u{e9}nant".into()),
        pool: Some("fast".into()),
        ips: vec!["192.0.2.9".parse().expect("an address"), "2001:db8::9".parse().expect("an address")],
        smarthost: Some("relay.test:2525".into()),
        not_before: Some(Timestamp(1_796_119_200_000)),
        expires: Some(Timestamp(1_796_202_000_000)),
        max_attempts: Some(3),
        retries: vec![60, 300, 600],
        ..Extras::default()
    }
}

#[test]
fn all_of_them_from_a_trusted_peer() {
    for pieces in ALL_PIECES {
        let (replies, messages) = inject(config(), FRIEND, format!("{FULL}.\r\n").as_bytes(), pieces);
        assert!(replies[1].starts_with("S: 250 "), "{replies:?}");
        assert_eq!(String::from_utf8_lossy(text_of(&messages[0])), LEFT, "{pieces:?}");
        assert_eq!(messages[0].extras.as_deref(), Some(&extras()));
        assert_eq!(&*messages[0].sender, "Bounce@xn--bcher-kva.test");
        assert!(!messages[0].flags.eight_bit, "what was removed needs nothing of the next hop");
        let (_, chunked) = inject_chunk(config(), FRIEND, FULL.as_bytes(), pieces);
        assert_eq!(chunked, messages);
    }
}

#[test]
fn none_of_them_from_another_peer() {
    let peer = PeerFacts { may_relay: true, ..STRANGER };
    for pieces in ALL_PIECES {
        let text = format!("x-mq-dsn-notify: never\r\nx-mq-maxattempts: x\r\n{FULL}.\r\n");
        let (_, messages) = inject(config(), peer, text.as_bytes(), pieces);
        assert_eq!(String::from_utf8_lossy(text_of(&messages[0])), LEFT, "{pieces:?}");
        assert_eq!((&messages[0].extras, &*messages[0].sender), (&None, "a@a.test"));
    }
}

/// Behind our own Received header a folded line belongs to that, and the header goes on behind it.
#[test]
fn none_of_them_gets_past_behind_a_first_line_that_is_folded() {
    let peer = PeerFacts { may_relay: true, ..STRANGER };
    for pieces in ALL_PIECES {
        let text = format!(" folded\r\n\tagain\r\n{FULL}.\r\n");
        let left = format!(" folded\r\n\tagain\r\n{LEFT}");
        let (_, messages) = inject(config(), peer, text.as_bytes(), pieces);
        assert_eq!(String::from_utf8_lossy(text_of(&messages[0])), left, "{pieces:?}");
        assert_eq!(messages[0].extras, None);
        let (_, messages) = inject(config(), FRIEND, text.as_bytes(), pieces);
        assert_eq!(String::from_utf8_lossy(text_of(&messages[0])), left, "{pieces:?}");
        assert_eq!(messages[0].extras.as_deref(), Some(&extras()));
    }
}

#[test]
fn what_cannot_be_obeyed_is_refused_by_name() {
    let long = "x".repeat(1100);
    let table: [(&str, &str); 25] = [
        ("x-mq-dsn-notify: never", "x-mq-dsn-notify: not supported"),
        ("X-MQ-Smarthost-Password: p", "X-MQ-Smarthost-Password: not supported"),
        ("x-mq-smarthost-username: u", "x-mq-smarthost-username: not supported"),
        ("x-mq-future: 1", "x-mq-future: not supported"),
        ("x-mq-ip: 1.2.3", "x-mq-ip: not an IP address"),
        ("x-mq-pool:", "x-mq-pool: empty"),
        ("x-mq-pool: a\r\nx-mq-pool: b", "x-mq-pool: given twice"),
        ("x-campaign: a\r\nx-campaign: b", "x-campaign: given twice"),
        ("x-mq-tag:  ", "x-mq-tag: empty"),
        ("x-mq-delayed: tomorrow", "x-mq-delayed: not a time (YYYY-MM-DD HH:MM:SS, UTC)"),
        ("x-mq-maxdelivertime: 2026-13-01 00:00:00", "x-mq-maxdelivertime: not a time (YYYY-MM-DD HH:MM:SS, UTC)"),
        ("x-mq-maxattempts: 0", "x-mq-maxattempts: not a number from 1 to 65535"),
        ("x-mq-maxattempts: 65536", "x-mq-maxattempts: not a number from 1 to 65535"),
        ("x-mq-retries: 1,,2", "x-mq-retries: not a list of seconds, each 1 at least"),
        ("x-mq-retries: 60,0", "x-mq-retries: not a list of seconds, each 1 at least"),
        ("x-mq-retries: 1\r\nx-mq-retries: 1", "x-mq-retries: given twice"),
        ("x-mq-envelope: nobody", "x-mq-envelope: Address needs a domain"),
        ("x-mq-envelope: <a@b", "x-mq-envelope: Address syntax"),
        ("x-mq-smarthost-hostname: a b", "x-mq-smarthost-hostname: not a host name"),
        ("x-mq-smarthost-hostname: h\r\nx-mq-smarthost-port: 0", "x-mq-smarthost-port: not a port"),
        ("x-mq-smarthost-port: 25", "x-mq-smarthost-port: needs x-mq-smarthost-hostname"),
        (&format!("x-mq-tag: {long}"), "x-mq-tag: too long"),
        ("x-mq-tag: a\u{7}b", "x-mq-tag: control characters"),
        (&"x-mq-tag: t\r\n".repeat(65), "x-mq-tag: too many"),
        (&format!("x-mq-{long}: 1"), &format!("x-mq-{}: not supported", "x".repeat(59))),
    ];
    for (header, reason) in table {
        let wire = format!("{}\r\nTo: b\r\n\r\ntext\r\n.\r\n", header.trim_end_matches("\r\n"));
        let config = crate::driver::large();
        let (replies, messages) = inject(config, FRIEND, wire.as_bytes(), Pieces::Whole);
        assert_eq!(replies, [format!("S: 550 5.6.0 {reason}")]);
        assert!(messages.is_empty());
    }
}

#[test]
fn small_variations() {
    type Check = fn(&Extras) -> bool;
    let table: [(&str, Check); 5] = [
        ("x-mq-smarthost-hostname: [2001:db8::1]\r\nx-mq-smarthost-port: 25", |e| {
            e.smarthost.as_deref() == Some("[2001:db8::1]:25")
        }),
        ("x-mq-smarthost-hostname: 192.0.2.1", |e| e.smarthost.as_deref() == Some("192.0.2.1")),
        ("x-mq-delayed: 2026-12-01T10:00:00Z", |e| e.not_before == Some(Timestamp(1_796_119_200_000))),
        ("x-mq-retries: 5", |e| e.retries == [5]),
        ("x-mq-tag: a,b", |e| e.tags == ["a,b".into()]),
    ];
    for (header, check) in table {
        let (_, messages) = inject(config(), FRIEND, format!("{header}\r\n.\r\n").as_bytes(), Pieces::Whole);
        assert!(check(messages[0].extras.as_ref().unwrap()), "{header} {:?}", messages[0].extras);
        assert_eq!(text_of(&messages[0]), b"");
    }
}

/// The null reverse-path can be asked for, and an empty campaign is none.
#[test]
fn empty_values() {
    for value in ["", "<>"] {
        let wire = format!("x-mq-envelope: {value}\r\nX-Campaign:\r\nX-Tenant: \r\n.\r\n");
        let (_, messages) = inject(config(), FRIEND, wire.as_bytes(), Pieces::Whole);
        assert_eq!((&*messages[0].sender, &messages[0].extras), ("", &None));
    }
}
