//! Bounds of a session: each is hit, and what is said then.

use crate::driver::{ALL_PIECES, Driver, FRIEND, NOW, Pieces, config, large};
use mailrace_shards::limits::{MESSAGE_CHUNKS_MAX, SESSION_IDLE_COMMANDS_MAX, SESSION_OUTPUT_BYTES_MAX};
use mailrace_shards::smtp::server::{ServerConfig, StoreRefusal};
use mailrace_shards::time::{Instant, Now};
use std::time::Duration;

fn last_words(driver: &Driver) -> &[String] {
    &driver.transcript[driver.transcript.len() - 2..]
}

#[test]
fn lines() {
    let longest = format!("NOOP {}\r\n", "x".repeat(2041));
    let table = [
        (longest.clone(), "250 2.0.0 Ok"),
        (longest.replace("\r\n", "x\r\n"), "500 5.5.2 Line too long"),
        (format!("{}\r\n", "x".repeat(60_000)), "500 5.5.2 Line too long"),
        ("NOOP\n".to_owned(), "500 5.5.2 Lines end with CR LF"),
        ("NOOP\r\r\n".to_owned(), "500 5.5.2 Control characters in a command"),
        ("NO\0OP\r\n".to_owned(), "500 5.5.2 Control characters in a command"),
    ];
    for (line, reply) in table {
        for pieces in ALL_PIECES {
            let mut driver = Driver::new(config(), FRIEND);
            driver.feed(format!("{line}RSET\r\n").as_bytes(), pieces);
            assert_eq!(driver.transcript[1..], [format!("S: {reply}"), "S: 250 2.0.0 Ok".to_owned()], "{pieces:?}");
        }
    }
}

#[test]
fn a_line_without_end() {
    for pieces in ALL_PIECES {
        let mut driver = Driver::new(config(), FRIEND);
        driver.feed(format!("{}\r\nNOOP\r\n", "x".repeat(70_000)).as_bytes(), pieces);
        assert_eq!(driver.transcript[1..], ["S: 421 4.7.0 Line without end", "X"], "{pieces:?}");
    }
}

#[test]
fn errors_and_idle_commands() {
    let mut driver = Driver::new(config(), FRIEND);
    driver.feed(&b"BAD\r\n".repeat(30), Pieces::Whole);
    assert_eq!(driver.transcript.len(), 1 + 20 + 2);
    assert_eq!(last_words(&driver), ["S: 421 4.7.0 Too many errors", "X"]);

    let mut driver = Driver::new(config(), FRIEND);
    driver.feed(&b"NOOP\r\n".repeat(SESSION_IDLE_COMMANDS_MAX as usize + 5), Pieces::Single);
    assert_eq!(driver.transcript.len(), 1 + SESSION_IDLE_COMMANDS_MAX as usize + 2);
    assert_eq!(last_words(&driver), ["S: 421 4.7.0 Too many commands without a message", "X"]);
}

/// An accepted message clears the counts, and bad addresses are not counted.
#[test]
fn good_mail_is_not_held_back() {
    let mut driver = Driver::new(config(), FRIEND);
    driver.feed(b"HELO c\r\n", Pieces::Whole);
    for _ in 0..50 {
        driver.feed(b"BAD\r\nMAIL FROM:<a@a.test>\r\nRCPT TO:<x>\r\nRCPT TO:<y@>\r\n", Pieces::Whole);
        driver.feed(b"RCPT TO:<b@b.test>\r\nDATA\r\n.\r\n", Pieces::Whole);
    }
    assert_eq!(driver.messages.len(), 50);
}

#[test]
fn recipients() {
    let mut driver = Driver::new(config(), FRIEND);
    driver.feed(b"HELO c\r\nMAIL FROM:<a@a.test>\r\n", Pieces::Whole);
    for number in 0..30 {
        // Each twice, so that both ways of finding them are used.
        let line = format!("RCPT TO:<r{number}@b.test>\r\nRCPT TO:<r{}@B.test>\r\n", number / 2);
        driver.feed(line.as_bytes(), Pieces::Whole);
    }
    driver.feed(b"RCPT TO:<other@b.test>\r\nDATA\r\n.\r\n", Pieces::Whole);
    assert!(driver.transcript.contains(&"S: 452 4.5.3 Too many recipients".to_owned()));
    let expected: Vec<Box<str>> = (0..30).map(|number| format!("r{number}@b.test").into()).collect();
    assert_eq!(driver.messages[0].recipients, expected);
}

/// A peer that does not read its replies is not read from.
#[test]
fn output_is_bounded() {
    let mut driver = Driver::new(config(), FRIEND);
    let input = b"NOOP\r\n".repeat(1500);
    let taken = driver.session.handle_bytes(&input, NOW);
    assert!(taken < input.len() && !driver.session.wants_input());
    assert!(driver.session.output().len() < SESSION_OUTPUT_BYTES_MAX + 512);
    driver.feed(&input[taken..], Pieces::Whole);
    assert_eq!(driver.transcript.len(), 1501);
}

/// Refused text is thrown away, but not for ever; the same for chunks, announced or not.
#[test]
fn waste_is_bounded() {
    let begin = b"HELO c\r\nMAIL FROM:<a@a.test>\r\nRCPT TO:<b@b.test>\r\n";
    let block = [&[b'x'; 1022][..], b"\r\n"].concat().repeat(1 << 10);
    let mut driver = Driver::new(config(), FRIEND);
    driver.feed(begin, Pieces::Whole);
    driver.feed(b"DATA\r\n", Pieces::Whole);
    for _ in 0..70 {
        driver.feed(&block, Pieces::Whole);
    }
    assert_eq!(last_words(&driver), ["S: 421 4.3.4 Message is far over the size limit", "X"]);

    let mut driver = Driver::new(config(), FRIEND);
    driver.feed(begin, Pieces::Whole);
    driver.feed(b"BDAT 999999999999999999 LAST\r\n", Pieces::Whole);
    assert_eq!(last_words(&driver), ["S: 421 4.3.4 Chunk is far over the size limit", "X"]);
}

#[test]
fn chunks() {
    let mut driver = Driver::new(config(), FRIEND);
    driver.feed(b"HELO c\r\nMAIL FROM:<a@a.test>\r\nRCPT TO:<b@b.test>\r\n", Pieces::Whole);
    driver.feed(&b"BDAT 0\r\n".repeat(MESSAGE_CHUNKS_MAX as usize + 1), Pieces::Whole);
    assert_eq!(driver.transcript.len(), 4 + MESSAGE_CHUNKS_MAX as usize + 2);
    assert_eq!(last_words(&driver), ["S: 421 4.7.0 Too many chunks", "X"]);
}

/// What a session holds is known, and given back when it ends.
#[test]
fn memory_is_counted() {
    let mut driver = Driver::new(large(), FRIEND);
    driver.feed(b"HELO c\r\nMAIL FROM:<a@a.test>\r\nRCPT TO:<b@b.test>\r\nDATA\r\n", Pieces::Whole);
    assert!(driver.session.memory() < 20_000);
    driver.feed(&[b'x'; 100_000], Pieces::Whole);
    assert!((100_000..300_000).contains(&driver.session.memory()));
    driver.session.handle_eof();
    assert!(driver.session.memory() < 1_000);
}

fn at(seconds: u64) -> Now {
    NOW.after(Duration::from_secs(seconds))
}

fn seconds_left(driver: &Driver) -> Option<u64> {
    driver.session.deadline().map(|deadline| deadline.since(NOW.instant).as_secs())
}

/// The wait for a command is counted from the last reply; octets of the next command do not prolong it.
#[test]
fn a_dripped_command_times_out() {
    let mut driver = Driver::new(config(), FRIEND);
    assert_eq!(seconds_left(&driver), Some(300));
    driver.session.handle_bytes(b"NOOP\r\n", at(100));
    assert_eq!(seconds_left(&driver), Some(400));
    for second in 101..400 {
        driver.session.handle_bytes(b"x", at(second));
        driver.session.handle_deadline(at(second));
    }
    assert_eq!(seconds_left(&driver), Some(400));
    driver.session.handle_deadline(at(400));
    driver.pump();
    assert_eq!(last_words(&driver), ["S: 421 4.4.2 Timed out", "X"]);
    assert_eq!(driver.session.deadline(), None);
}

/// Content has to keep coming, and at a rate.
#[test]
fn dripped_content_times_out() {
    let begin = b"HELO c\r\nMAIL FROM:<a@a.test>\r\nRCPT TO:<b@b.test>\r\n";
    for command in ["DATA\r\n", "BDAT 9999999 LAST\r\n"] {
        let config = ServerConfig { max_message_bytes: 1 << 30, ..large() };
        let mut driver = Driver::new(config.clone(), FRIEND);
        driver.feed(begin, Pieces::Whole);
        driver.feed(command.as_bytes(), Pieces::Whole);
        assert_eq!(seconds_left(&driver), Some(180));
        driver.session.handle_bytes(b"x", at(170));
        assert_eq!(seconds_left(&driver), Some(180), "one octet earns nothing");
        driver.session.handle_bytes(&[b'x'; 20 * 1024], at(170));
        assert_eq!(seconds_left(&driver), Some(200));
        driver.session.handle_bytes(&[b'x'; 1_000_000], at(190));
        assert_eq!(seconds_left(&driver), Some(370), "silence has its own bound");
        driver.session.handle_deadline(at(370));
        driver.pump();
        assert_eq!(last_words(&driver), ["S: 421 4.4.2 Timed out", "X"]);
    }
}

/// A pause between chunks is a pause before a command; but all chunks together have two hours.
#[test]
fn chunks_may_pause_but_not_for_ever() {
    let mut driver = Driver::new(config(), FRIEND);
    driver.feed(b"HELO c\r\nMAIL FROM:<a@a.test>\r\nRCPT TO:<b@b.test>\r\nBDAT 1\r\nx", Pieces::Whole);
    assert_eq!(seconds_left(&driver), Some(300));
    for time in [250, 500] {
        driver.session.handle_bytes(b"BDAT 2\r\n", at(time));
        assert_eq!(seconds_left(&driver), Some(time + 180));
        driver.session.handle_bytes(b"xx", at(time));
        assert_eq!(seconds_left(&driver), Some(time + 300));
    }
    for time in (750..7200).step_by(250) {
        driver.session.handle_bytes(b"BDAT 1\r\nx", at(time));
    }
    assert_eq!(seconds_left(&driver), Some(7200));
}

/// A chunk that nobody asked for is read, but not for ever.
#[test]
fn a_dripped_stray_chunk_times_out() {
    let mut driver = Driver::new(config(), FRIEND);
    driver.session.handle_bytes(b"BDAT 1000\r\nx", at(10));
    driver.session.handle_bytes(b"x", at(100));
    assert_eq!(seconds_left(&driver), Some(190));
}

/// While the runtime works, the peer is not to blame for the time.
#[test]
fn no_deadline_while_the_runtime_works() {
    let mut driver = Driver::new(config(), FRIEND);
    let lines = b"HELO c\r\nMAIL FROM:<a@a.test>\r\nRCPT TO:<b@b.test>\r\nDATA\r\n.\r\nQUIT\r\n";
    let taken = driver.session.handle_bytes(lines, NOW);
    assert_eq!(&lines[taken..], b"QUIT\r\n");
    assert_eq!(driver.session.deadline(), None);
    driver.session.handle_deadline(Now { instant: Instant(u64::MAX), ..NOW });
    driver.session.handle_eof();
    driver.pump();
    assert_eq!(last_words(&driver), ["S: 250 2.0.0 000000010002000000000001 queued", "X"]);
}

/// A handshake that does not end leaves without a word in clear.
#[test]
fn a_handshake_times_out() {
    let mut driver = Driver::new(config(), FRIEND);
    driver.session.handle_bytes(b"STARTTLS\r\n", NOW);
    assert_eq!(seconds_left(&driver), Some(60));
    driver.session.output().clear();
    driver.session.handle_deadline(at(59));
    assert!(driver.session.awaits_tls());
    driver.session.handle_deadline(at(60));
    assert!(driver.session.output().is_empty());
    assert!(!driver.session.awaits_tls(), "else the runtime would go on with it for ever, without a deadline");
}

/// A handshake is no transaction that a stop would wait for.
#[test]
fn a_stop_ends_a_handshake_without_a_word() {
    let mut driver = Driver::new(config(), FRIEND);
    driver.session.handle_bytes(b"STARTTLS\r\n", NOW);
    driver.session.output().clear();
    driver.session.shutdown(NOW);
    assert!(driver.session.output().is_empty() && !driver.session.awaits_tls());
}

/// Content that is short is taken to its end when memory has become short. A long one's octets are let go at once: whatever
/// was begun by however many could be sent to its end before.
#[test]
fn long_content_when_memory_is_short() {
    let line = b"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcd\r\n";
    for (command, lines, end, taken) in [
        ("DATA\r\n", 900, ".\r\n", true),
        ("DATA\r\n", 1100, ".\r\n", false),
        ("BDAT 640000\r\n", 900, "", true),
        ("BDAT 640000\r\n", 1100, "", false),
    ] {
        let mut driver = Driver::new(ServerConfig { max_message_bytes: 1 << 20, ..config() }, FRIEND);
        driver.feed(b"HELO c\r\nMAIL FROM:<a@a.test>\r\nRCPT TO:<b@b.test>\r\n", Pieces::Whole);
        driver.feed(command.as_bytes(), Pieces::Whole);
        driver.feed(&line.repeat(lines), Pieces::Whole);
        driver.session.relieve(&StoreRefusal::storage("Memory is short"));
        driver.feed(line, Pieces::Whole);
        assert_eq!(driver.session.memory() > lines * line.len(), taken, "{command} {lines}");
        let rest = if end.is_empty() { 10_000 - lines - 1 } else { 0 };
        driver.feed(&line.repeat(rest), Pieces::Whole);
        driver.feed(if end.is_empty() { b"BDAT 0 LAST\r\n" } else { end.as_bytes() }, Pieces::Whole);
        assert_eq!(driver.messages.len(), usize::from(taken), "{command} {lines}");
        assert_eq!(
            driver.transcript.contains(&"S: 452 4.3.1 Memory is short".to_owned()),
            !taken,
            "{:?}",
            driver.transcript
        );
    }
}
