//! Bounds of the server to the octet: what just fits is taken, and one more is not.

use crate::driver::{ALL_PIECES, Driver, FRIEND, NOW, Pieces, config, inject, inject_chunk, large};
use mailrace_shards::limits::{
    BODY_RESERVE_BYTES, BODY_RESERVE_BYTES_MAX, BODY_RESERVE_USUAL_BYTES_MAX, DISCARDED_BYTES_MAX, HEADER_BYTES_MAX,
    SESSION_ERRORS_MAX, SESSION_IDLE_COMMANDS_MAX, SESSION_OUTPUT_BYTES_MAX, SKIPPED_LINE_BYTES_MAX,
    TEXT_LINE_BYTES_MAX,
};

const BEGIN: &[u8] = b"HELO c\r\nMAIL FROM:<a@a.test>\r\nRCPT TO:<b@b.test>\r\n";

fn begun(command: &[u8]) -> Driver {
    let mut driver = Driver::new(config(), FRIEND);
    driver.feed(BEGIN, Pieces::Whole);
    driver.feed(command, Pieces::Whole);
    driver
}

#[test]
fn a_line_is_skipped_up_to_its_bound() {
    let line = |octets: usize| [&vec![b'x'; octets - 2][..], b"\r\nNOOP\r\n"].concat();
    for pieces in ALL_PIECES {
        let mut driver = Driver::new(config(), FRIEND);
        driver.feed(&line(SKIPPED_LINE_BYTES_MAX), pieces);
        assert_eq!(driver.transcript[1..], ["S: 500 5.5.2 Line too long", "S: 250 2.0.0 Ok"], "{pieces:?}");
        let mut driver = Driver::new(config(), FRIEND);
        driver.feed(&line(SKIPPED_LINE_BYTES_MAX + 1), pieces);
        assert_eq!(driver.transcript[1..], ["S: 421 4.7.0 Line without end", "X"], "{pieces:?}");
    }
}

/// The header block counts without our own field in front of it, and without the line that ends it.
#[test]
fn a_header_block_may_be_as_large_as_its_bound() {
    let text = |octets: usize| format!("A: {}\r\n\r\ntext\r\n", "x".repeat(octets - 5));
    let folded = |octets: usize| format!("A:\r\n {}\r\n\r\ntext\r\n", "x".repeat(octets - 7));
    for text in [&text as &dyn Fn(usize) -> String, &folded] {
        let (fits, over) = (text(HEADER_BYTES_MAX), text(HEADER_BYTES_MAX + 1));
        for pieces in [Pieces::Whole, Pieces::Random(3)] {
            let by_data = |text: &str| inject(large(), FRIEND, format!("{text}.\r\n").as_bytes(), pieces).0;
            let by_chunk = |text: &str| inject_chunk(large(), FRIEND, text.as_bytes(), pieces).0;
            for (fits, over) in [(by_data(&fits), by_data(&over)), (by_chunk(&fits), by_chunk(&over))] {
                assert!(fits.last().unwrap().starts_with("S: 250 2.0.0 "), "{pieces:?}: {fits:?}");
                assert_eq!(over, ["S: 552 5.3.4 Header is too large"], "{pieces:?}");
            }
        }
    }
}

#[test]
fn a_text_line_may_be_as_long_as_its_bound() {
    let text = |octets: usize| format!("A: b\r\n\r\nfirst\r\n{}\r\nlast\r\n", "x".repeat(octets));
    let (fits, over) = (text(TEXT_LINE_BYTES_MAX), text(TEXT_LINE_BYTES_MAX + 1));
    for pieces in [Pieces::Whole, Pieces::Random(3)] {
        let by_data = |text: &str| inject(large(), FRIEND, format!("{text}.\r\n").as_bytes(), pieces);
        let by_chunk = |text: &str| inject_chunk(large(), FRIEND, text.as_bytes(), pieces);
        for ((_, messages), (replies, _)) in [(by_data(&fits), by_data(&over)), (by_chunk(&fits), by_chunk(&over))] {
            assert!(messages[0].body.ends_with(fits.as_bytes()), "{pieces:?}");
            assert_eq!(replies, ["S: 550 5.6.0 Message holds a line that is too long"], "{pieces:?}");
        }
    }
}

#[test]
fn a_text_may_be_as_long_as_the_limit_however_it_comes() {
    let most = config().max_message_bytes as usize;
    let text = |octets: usize| format!("\r\n{}\r\n", "x".repeat(octets - 4));
    for pieces in ALL_PIECES {
        let (replies, messages) = inject_chunk(config(), FRIEND, text(most).as_bytes(), pieces);
        assert_eq!(messages.len(), 1, "{replies:?}");
        let (replies, _) = inject_chunk(config(), FRIEND, text(most + 1).as_bytes(), pieces);
        assert_eq!(replies, ["S: 552 5.3.4 Message is over 2000 octets"]);
        let (replies, _) = inject(config(), FRIEND, format!("{}.\r\n", text(most + 1)).as_bytes(), pieces);
        assert_eq!(replies, ["S: 552 5.3.4 Message is over 2000 octets"]);
    }
}

#[test]
fn the_size_that_mail_announces_is_compared_with_the_limit() {
    for (size, reply) in [(2000, "S: 250 2.1.0 Ok"), (2001, "S: 552 5.3.4 Message is over 2000 octets")] {
        let mut driver = Driver::new(config(), FRIEND);
        driver.feed(format!("EHLO c\r\nMAIL FROM:<a@a.test> SIZE={size}\r\n").as_bytes(), Pieces::Whole);
        assert_eq!(driver.transcript.last().unwrap(), reply);
    }
}

/// A chunk is read whatever it is answered with, unless it is longer than anybody would throw away.
#[test]
fn a_chunk_may_be_announced_up_to_what_is_thrown_away() {
    let bound = u64::from(config().max_message_bytes) + DISCARDED_BYTES_MAX;
    let driver = begun(format!("BDAT {bound} LAST\r\n").as_bytes());
    assert_eq!(driver.transcript.last().unwrap(), "S: 250 2.1.5 Ok");
    assert!(driver.session.wants_input());
    let driver = begun(format!("BDAT {} LAST\r\n", bound + 1).as_bytes());
    assert_eq!(driver.transcript[4..], ["S: 421 4.3.4 Chunk is far over the size limit", "X"]);
}

#[test]
fn so_much_is_thrown_away_and_not_an_octet_more() {
    let bound = u64::from(config().max_message_bytes) + DISCARDED_BYTES_MAX;
    let line = [&[b'x'; (1 << 20) - 2][..], b"\r\n"].concat();
    for command in [&b"DATA\r\n"[..], b"BDAT 67110864\r\n"] {
        let mut driver = begun(command);
        let mut left = usize::try_from(bound).unwrap();
        let before = driver.transcript.len();
        while left > 0 {
            let piece = &line[..left.min(line.len())];
            driver.offer(piece);
            left -= piece.len();
        }
        let said = &driver.transcript[before..];
        if command == b"DATA\r\n" {
            assert_eq!(said.len(), 0, "{said:?}");
            driver.offer(b"x");
            assert_eq!(driver.transcript[before..], ["S: 421 4.3.4 Message is far over the size limit", "X"]);
        } else {
            assert_eq!(said, ["S: 552 5.3.4 Message is over 2000 octets"]);
        }
    }
}

/// A list with bad addresses gets its good ones through, however many are bad; but not without end.
#[test]
fn recipients_may_be_refused_so_often_and_then_it_is_over() {
    let mut driver = begun(b"");
    let before = driver.transcript.len();
    driver.feed(&b"RCPT TO:<x>\r\n".repeat(usize::from(u16::MAX)), Pieces::Whole);
    assert_eq!(driver.transcript.len() - before, usize::from(u16::MAX));
    assert!(driver.transcript.last().unwrap().starts_with("S: 5"), "{:?}", driver.transcript.last());
    driver.feed(b"RCPT TO:<x>\r\nNOOP\r\n", Pieces::Whole);
    let end = &driver.transcript[driver.transcript.len() - 2..];
    assert_eq!(end, ["S: 421 4.7.0 Too many recipients refused", "X"]);
}

#[test]
fn as_many_errors_as_are_borne_but_one_leave_the_session_open() {
    let mut driver = Driver::new(config(), FRIEND);
    driver.feed(&b"BAD\r\n".repeat(SESSION_ERRORS_MAX as usize - 1), Pieces::Whole);
    driver.feed(b"NOOP\r\n", Pieces::Whole);
    assert_eq!(driver.transcript.last().unwrap(), "S: 250 2.0.0 Ok");
    driver.feed(b"BAD\r\n", Pieces::Whole);
    assert_eq!(driver.transcript.last().unwrap(), "X");
}

/// Input is taken while there is room for replies, and again as soon as there is.
#[test]
fn a_peer_that_reads_nothing_is_heard_until_its_replies_are_too_many() {
    let mut driver = Driver::new(config(), FRIEND);
    let output = driver.session.output();
    output.resize(SESSION_OUTPUT_BYTES_MAX - 1, b'x');
    assert!(driver.session.wants_input());
    assert_eq!(driver.session.handle_bytes(b"NOOP\r\nNOOP\r\n", NOW), 6);
    driver.session.output().truncate(SESSION_OUTPUT_BYTES_MAX);
    assert!(!driver.session.wants_input());
    driver.session.output().truncate(SESSION_OUTPUT_BYTES_MAX - 1);
    assert!(driver.session.wants_input());
}

/// A content, a line that has begun and the replies count together.
#[test]
fn memory_is_the_sum_of_what_is_held() {
    let mut driver = Driver::new(large(), FRIEND);
    driver.feed(BEGIN, Pieces::Whole);
    driver.feed(b"BDAT 50000\r\n", Pieces::Whole);
    driver.feed(&b"x".repeat(50_000), Pieces::Whole);
    driver.session.output().shrink_to_fit();
    let content = driver.session.memory();
    assert!((50_000..150_000).contains(&content), "{content}");
    driver.session.handle_bytes(&b"x".repeat(9000), NOW);
    let line = driver.session.memory() - content;
    assert!((9000..=18_000).contains(&line), "{line}");
    driver.session.output().reserve_exact(7000);
    let output = driver.session.memory() - content - line;
    assert_eq!(output, 7000);
}

/// Commands that come behind a MAIL that was refused are no errors, but they are counted.
#[test]
fn commands_behind_a_refused_mail_are_bounded_like_others() {
    let mut driver = Driver::new(config(), FRIEND);
    driver.feed(b"EHLO c\r\nMAIL FROM:<a@a.test> SIZE=999999\r\n", Pieces::Whole);
    let before = driver.transcript.len();
    // EHLO and MAIL are two, and each RCPT here is one.
    let left = SESSION_IDLE_COMMANDS_MAX as usize - 2;
    driver.feed(&b"RCPT TO:<b@b.test>\r\n".repeat(left - 1), Pieces::Whole);
    assert_eq!(driver.transcript.len() - before, left - 1);
    assert!(driver.transcript[before..].iter().all(|line| line == "S: 503 5.5.1 MAIL first"));
    driver.feed(b"RCPT TO:<b@b.test>\r\n", Pieces::Whole);
    assert_eq!(driver.transcript.last().unwrap(), "X");
}

/// Room for a body whose size is not announced is what the last one took and a little more, up to a bound.
#[test]
fn room_is_made_for_one_message_like_another() {
    let text = |octets: usize| format!("{}\r\n", "x".repeat(octets - 2));
    let begin = b"MAIL FROM:<a@a.test>\r\nRCPT TO:<b@b.test>\r\nDATA\r\n";
    for octets in [16_000, 32_000, 500_000] {
        let mut driver = Driver::new(large(), FRIEND);
        driver.feed(b"HELO c\r\n", Pieces::Whole);
        let room = |driver: &mut Driver| {
            driver.feed(begin, Pieces::Whole);
            driver.session.memory() - driver.session.output().capacity()
        };
        let first = room(&mut driver);
        assert!((BODY_RESERVE_BYTES..BODY_RESERVE_BYTES + 1000).contains(&first), "{first}");
        driver.feed(format!("{}.\r\n", text(octets)).as_bytes(), Pieces::Whole);
        let taken = driver.messages[0].body.len();
        let usual = (taken + taken / 16).min(BODY_RESERVE_USUAL_BYTES_MAX);
        let second = room(&mut driver);
        assert!((usual..usual + 1000).contains(&second), "{second} after {taken}");
    }
    // What is announced is believed up to a bound.
    for (size, room) in [(100, 100), (300_000, 300_000), (5_000_000, BODY_RESERVE_BYTES_MAX)] {
        let mut driver = Driver::new(large(), FRIEND);
        let begin = format!("EHLO c\r\nMAIL FROM:<a@a.test> SIZE={size}\r\nRCPT TO:<b@b.test>\r\nDATA\r\n");
        driver.feed(begin.as_bytes(), Pieces::Whole);
        let memory = driver.session.memory() - driver.session.output().capacity();
        assert!((room..room + 1000).contains(&memory), "{memory} for {size}");
    }
}

#[test]
fn what_the_peer_calls_itself_is_known_once_it_has_greeted() {
    let mut driver = Driver::new(config(), FRIEND);
    assert_eq!(driver.session.greeted_as(), "");
    driver.feed(b"EHLO client.test\r\n", Pieces::Whole);
    assert_eq!(driver.session.greeted_as(), "client.test");
}

/// A source route is dropped when it is one: each hop has its sign and a name of letters, digits, dots, `-` and `_`.
#[test]
fn source_routes_are_dropped_and_nothing_else_is_taken_for_one() {
    let table = [
        ("@one.test:r@b.test", true),
        ("@one.test,@two-2.test,@t_3:r@b.test", true),
        ("@one.test,two.test:r@b.test", false),
        ("@:r@b.test", false),
        ("@one.test,@:r@b.test", false),
        ("@one.test,:r@b.test", false),
        ("@one test:r@b.test", false),
        ("@one;test:r@b.test", false),
        ("@@one.test:r@b.test", false),
        ("@one.test", false),
    ];
    for (path, taken) in table {
        let mut driver = begun(b"");
        driver.feed(format!("RCPT TO:<{path}>\r\nDATA\r\n.\r\n").as_bytes(), Pieces::Whole);
        let expected: &[&str] = if taken { &["b@b.test", "r@b.test"] } else { &["b@b.test"] };
        let recipients: Vec<&str> = driver.messages[0].recipients.iter().map(|recipient| &**recipient).collect();
        assert_eq!(recipients, expected, "{path}");
    }
}

/// A message needs SMTPUTF8 of the next hop when its injector has said so and something in it does need it: libraries that
/// say it whenever it is offered had their plain mail bounced by hosts that do not offer it.
#[test]
fn only_what_holds_such_text_needs_smtputf8() {
    let table = [
        ("", "b@b.test", "Subject: x", false),
        (" SMTPUTF8", "b@b.test", "Subject: x", false),
        (" SMTPUTF8", "b@b\u{fc}.test", "Subject: x", false),
        (" SMTPUTF8", "\u{fc}@b.test", "Subject: x", true),
        (" SMTPUTF8", "b@b.test", "Subject: \u{fc}", true),
        ("", "b@b.test", "Subject: \u{fc}", false),
    ];
    for (parameter, recipient, header, needs) in table {
        let mut driver = Driver::new(config(), FRIEND);
        let lines = format!(
            "EHLO c\r\nMAIL FROM:<a@a.test>{parameter}\r\nRCPT TO:<c@c.test>\r\nRCPT TO:<{recipient}>\r\nDATA\r\n\
             {header}\r\n\r\n\u{fc}\r\n.\r\n"
        );
        driver.feed(lines.as_bytes(), Pieces::Whole);
        assert_eq!(driver.messages[0].flags.smtputf8, needs, "{parameter}, {recipient}, {header}");
    }
}
