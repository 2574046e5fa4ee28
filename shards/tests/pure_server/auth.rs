//! What AUTH takes for a line and for credentials.

use crate::driver::{Driver, NOW, Pieces, STRANGER, config};
use mailrace_shards::limits::COMMAND_WAIT;
use std::time::Duration;

/// The answers to some lines behind a handshake.
fn answers(lines: &[&str]) -> Vec<String> {
    let mut driver = Driver::new(config(), STRANGER);
    driver.feed(b"STARTTLS\r\n", Pieces::Whole);
    driver.feed(b"EHLO c\r\n", Pieces::Whole);
    driver.transcript.clear();
    for line in lines {
        driver.feed(format!("{line}\r\n").as_bytes(), Pieces::Whole);
    }
    driver.transcript
}

#[test]
fn login_takes_neither_an_empty_name_or_secret_nor_one_with_a_nul() {
    const REFUSED: &str = "S: 535 5.7.8 Credentials not usable";
    const NAME: &str = "S: 334 VXNlcm5hbWU6";
    const SECRET: &str = "S: 334 UGFzc3dvcmQ6";
    assert_eq!(answers(&["AUTH LOGIN", ""]), [NAME, REFUSED]);
    assert_eq!(answers(&["AUTH LOGIN", "AGI="]), [NAME, REFUSED]);
    assert_eq!(answers(&["AUTH LOGIN", "Ym9i", ""]), [NAME, SECRET, REFUSED]);
    assert_eq!(answers(&["AUTH LOGIN", "Ym9i", "AGI="]), [NAME, SECRET, REFUSED]);
    let taken = answers(&["AUTH LOGIN", "Ym9i", "cmlnaHQ="]);
    assert_eq!(taken, [NAME, SECRET, "A: LOGIN bob right", "S: 235 2.7.0 Authenticated"]);
}

/// RFC 4954 §4: a line of AUTH may have 12,288 octets, with the command and behind it.
#[test]
fn lines_of_auth_may_be_longer_than_commands() {
    let long = "QUJD".repeat(1500);
    assert_eq!(answers(&[&format!("AUTH PLAIN {long}")]), ["S: 535 5.7.8 Credentials not usable"]);
    assert_eq!(answers(&["AUTH PLAIN", &long]), ["S: 334 ", "S: 535 5.7.8 Credentials not usable"]);
    assert_eq!(answers(&[&format!("NOOP {long}")]), ["S: 500 5.5.2 Line too long"]);
    assert_eq!(answers(&[&format!("AUTH PLAIN {long}{long}{long}")]), ["S: 500 5.5.2 Line too long"]);
}

/// A peer has as long for each line of AUTH as for a command.
#[test]
fn each_line_of_auth_may_be_waited_for_anew() {
    let mut driver = Driver::new(config(), STRANGER);
    driver.feed(b"STARTTLS\r\n", Pieces::Whole);
    driver.feed(b"EHLO c\r\n", Pieces::Whole);
    for (at, line) in [(100, "AUTH LOGIN\r\n"), (250, "Ym9i\r\n")] {
        let now = NOW.after(Duration::from_secs(at));
        driver.session.handle_bytes(line.as_bytes(), now);
        assert_eq!(driver.session.deadline(), Some(now.instant.after(COMMAND_WAIT)), "{line}");
    }
}
