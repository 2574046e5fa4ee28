//! Conversations as data: what a client sends, what the sink must answer, however the octets are cut into reads.

use std::time::Duration;

use super::*;

const HEAD: &str = "EHLO a\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n";

/// Name, profile changes, input, codes of all replies after the greeting and EHLO, messages, protocol errors.
type Row = (&'static str, fn(&mut Profile), String, &'static [u16], u64, u64);

fn rows() -> Vec<Row> {
    let mut rows = plain_rows();
    rows.extend(refusing_rows());
    rows
}

fn plain_rows() -> Vec<Row> {
    let plain: fn(&mut Profile) = |_| {};
    let chunking: fn(&mut Profile) = |profile| profile.chunking = true;
    let message = format!("X-Perf-Id: 00000001/0000000003/{:020}\r\n\r\n..hi\r\n.x\r\n", 5);
    let bdat = |last: &str| format!("BDAT {}{last}\r\n{message}", message.len());
    vec![
        ("pipelined", plain, format!("{HEAD}DATA\r\n{message}.\r\nQUIT\r\n"), &[250, 250, 354, 250, 221], 1, 0),
        ("empty", plain, format!("{HEAD}DATA\r\n.\r\n"), &[250, 250, 354, 250], 1, 0),
        ("dot alone is no end", plain, format!("{HEAD}DATA\r\na\n.\n\r\n"), &[250, 250, 354], 0, 0),
        (
            "next envelope with the dot",
            plain,
            format!("{HEAD}DATA\r\n{message}.\r\n{}DATA\r\n{message}.\r\n", &HEAD[8..]),
            &[250, 250, 354, 250, 250, 250, 354, 250],
            2,
            0,
        ),
        ("bdat last", chunking, format!("{HEAD}{}", bdat(" LAST")), &[250, 250, 250], 1, 0),
        (
            "bdat in two, the last empty",
            chunking,
            format!("{HEAD}{}BDAT 0 LAST\r\nNOOP\r\n", bdat("")),
            &[250, 250, 250, 250, 250],
            1,
            0,
        ),
        ("bdat not offered", plain, "EHLO a\r\nBDAT 0 LAST\r\n".into(), &[500], 0, 1),
        ("no MAIL", plain, "EHLO a\r\nRCPT TO:<c@d>\r\nDATA\r\n".into(), &[503, 503], 0, 2),
        ("no recipient", plain, "EHLO a\r\nMAIL FROM:<>\r\nDATA\r\n".into(), &[250, 554], 0, 0),
        ("bare LF", plain, "EHLO a\r\nNOOP\nNOOP\r\n".into(), &[500, 250], 0, 1),
        ("endless line", plain, format!("EHLO a\r\n{}", "x".repeat(5_000)), &[500], 0, 1),
    ]
}

/// Destinations that refuse, hang up or take their time.
fn refusing_rows() -> Vec<Row> {
    let plain: fn(&mut Profile) = |_| {};
    let message = format!("X-Perf-Id: 00000001/0000000003/{:020}\r\n\r\n..hi\r\n.x\r\n", 5);
    vec![
        (
            "451 at RCPT",
            |profile| (profile.tempfail_share, profile.stage) = (1.0, RefusalStage::Rcpt),
            format!("{HEAD}DATA\r\nRSET\r\n"),
            &[250, 451, 554, 250],
            0,
            0,
        ),
        (
            "550 at MAIL",
            |profile| (profile.permfail_share, profile.stage) = (1.0, RefusalStage::Mail),
            format!("{HEAD}DATA\r\n"),
            &[550, 503, 503],
            0,
            0,
        ),
        (
            "451 at the dot",
            |profile| profile.tempfail_share = 1.0,
            format!("{HEAD}DATA\r\nx\r\n.\r\n"),
            &[250, 250, 354, 451],
            0,
            0,
        ),
        (
            "two messages a connection",
            |profile| profile.messages_per_connection = 1,
            format!("{HEAD}DATA\r\n{message}.\r\nMAIL FROM:<>\r\nNOOP\r\n"),
            &[250, 250, 354, 250, 421],
            1,
            0,
        ),
        (
            "delayed",
            |profile| profile.delay = Duration::from_millis(1),
            format!("{HEAD}DATA\r\n{message}.\r\nNOOP\r\n"),
            &[250, 250, 354, 250, 250],
            1,
            0,
        ),
        (
            "long body, marker at its head",
            plain,
            format!("{HEAD}DATA\r\n{message}{}.\r\n", "0123456789\r\n".repeat(9_000)),
            &[250, 250, 354, 250],
            1,
            0,
        ),
    ]
}

fn codes(out: &[u8]) -> Vec<u16> {
    let text = std::str::from_utf8(out).unwrap();
    text.lines().filter(|line| line.as_bytes()[3] == b' ').map(|line| line[..3].parse().unwrap()).collect()
}

fn converse(profile: Profile, input: &[u8], cut: usize) -> (Vec<u16>, Shared) {
    let mut shared = Shared::new(profile);
    shared.tally.reset(1, 10);
    let mut out = Vec::new();
    let mut session = Session::new(&mut out);
    for piece in input.chunks(cut) {
        let mut flow = session.receive(piece, &mut shared, &mut out);
        while flow == Flow::Delayed {
            flow = session.resume(&mut shared, &mut out);
        }
    }
    (codes(&out), shared)
}

#[test]
fn every_conversation_is_answered_the_same_however_it_is_cut() {
    for (name, change, input, expected, messages, errors) in rows() {
        for cut in [1, 2, 3, 7, 64, 1_000, 70_000] {
            let mut profile = Profile::default();
            change(&mut profile);
            let (codes, shared) = converse(profile, input.as_bytes(), cut);
            assert_eq!(codes[..2], [220, 250], "{name}, cut {cut}");
            assert_eq!(&codes[2..], expected, "{name}, cut {cut}");
            assert_eq!(shared.tally.totals.messages, messages, "{name}, cut {cut}");
            assert_eq!(shared.tally.totals.protocol_errors, errors, "{name}, cut {cut}");
            if input.contains("X-Perf-Id") {
                assert_eq!(shared.tally.delivered(), 1, "{name}, cut {cut}: the marker was not found");
            }
        }
    }
}

#[test]
fn a_big_message_is_not_kept() {
    let mut shared = Shared::new(Profile::default());
    let mut out = Vec::new();
    let mut session = Session::new(&mut out);
    session.receive(format!("{HEAD}DATA\r\n").as_bytes(), &mut shared, &mut out);
    for _ in 0..1_000 {
        session.receive(&[b'x'; 10_000], &mut shared, &mut out);
        assert!(session.pending.len() < 2 * MARKER_WITHIN_OCTETS);
    }
    session.receive(b"\r\n.\r\n", &mut shared, &mut out);
    assert_eq!(shared.tally.totals.messages, 1);
}
