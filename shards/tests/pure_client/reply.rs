//! The reply reader and the EHLO reply.

use mailrace_shards::limits::{REPLY_BYTES_MAX, REPLY_LINE_BYTES_MAX, REPLY_TEXT_BYTES_MAX};
use mailrace_shards::outcome::Verb;
use mailrace_shards::smtp::ehlo::Capabilities;
use mailrace_shards::smtp::reply::ReplyReader;

/// Everything that comes out of `octets` given in pieces of `size`: `code enhanced|text`, or the error's words.
fn read(octets: &[u8], size: usize) -> Vec<String> {
    let mut reader = ReplyReader::default();
    let mut found = Vec::new();
    for mut piece in octets.chunks(size) {
        while let Some(reply) = reader.next(&mut piece) {
            match reply {
                Ok(reply) => {
                    let response = reply.response(Verb::EndOfData);
                    let enhanced = response.enhanced.map_or(String::new(), |code| format!(" {code}"));
                    found.push(format!("{}{enhanced}|{}", response.code, response.text));
                }
                Err(error) => {
                    found.push(error.to_string());
                    return found;
                }
            }
        }
    }
    found
}

#[test]
fn replies() {
    let malformed = "a line that is no SMTP reply";
    let cases: &[(&[u8], &[&str])] = &[
        (b"", &[]),
        (b"250 ok", &[]),
        (b"250 ok\r\n", &["250|ok"]),
        (b"250 ok\n", &["250|ok"]),
        (b"250\r\n", &["250|"]),
        (b"250 \r\n", &["250|"]),
        (b"250 2.0.0 ok queued\r\n", &["250 2.0.0|ok queued"]),
        (b"250 2.0.0\r\n", &["250 2.0.0|"]),
        (b"550 5.1.1 a\r\n250 b\r\n", &["550 5.1.1|a", "250|b"]),
        (b"550-5.7.1 one\r\n550-5.7.1 two\r\n550 5.7.1 three\r\n", &["550 5.7.1|one\ntwo\nthree"]),
        (b"550-5.7.1 one\r\n550-bare\r\n550\r\n", &["550 5.7.1|one\nbare\n"]),
        (b"250-one\r\n250 2.0.0 two\r\n", &["250|one\n2.0.0 two"]),
        // No enhanced codes: class of its own, too long, other things that begin with digits.
        (b"550 4.1.1 a\r\n", &["550|4.1.1 a"]),
        (b"550 5.1111.1 a\r\n", &["550|5.1111.1 a"]),
        (b"550 5.1 a\r\n", &["550|5.1 a"]),
        (b"550 5.1.1.2 a\r\n", &["550|5.1.1.2 a"]),
        (b"550 5.123.456 a\r\n", &["550 5.123.456|a"]),
        (b"550 5.7.1:a\r\n", &["550|5.7.1:a"]),
        // Not UTF-8.
        (b"250 \xff\xc3\xa4\r\n", &["250|\u{fffd}\u{e4}"]),
        // A bare CR is text.
        (b"250 a\rb\r\n", &["250|a\rb"]),
        // Codes from 200 to 599, nothing else.
        (b"299 a\r\n599 b\r\n", &["299|a", "599|b"]),
        (b"199 a\r\n", &[malformed]),
        (b"600 a\r\n", &[malformed]),
        (b"25 a\r\n", &[malformed]),
        (b"2500 a\r\n", &[malformed]),
        (b"250_a\r\n", &[malformed]),
        (b" 250 a\r\n", &[malformed]),
        (b"\r\n", &[malformed]),
        (b"hello\r\n", &[malformed]),
        (b"\xff\xff\xff\xff\r\n", &[malformed]),
        (b"250-a\r\n550 b\r\n", &[malformed]),
        (b"250-a\r\nb\r\n", &[malformed]),
        (b"250 a\r\nb\r\n", &["250|a", malformed]),
    ];
    for (octets, expected) in cases {
        for size in [1, 2, 3, 7, 1000] {
            assert_eq!(read(octets, size), *expected, "{:?} by {size}", String::from_utf8_lossy(octets));
        }
    }
}

#[test]
fn bounds() {
    let line = |length: usize| {
        let mut line = vec![b'x'; length];
        line[..4].copy_from_slice(b"250-");
        line[length - 2..].copy_from_slice(b"\r\n");
        line
    };
    let last = |length: usize| {
        let mut line = line(length);
        line[3] = b' ';
        line
    };
    for size in [1, 100, 100_000] {
        // The longest line, the longest reply, and one octet more of each.
        assert_eq!(read(&last(REPLY_LINE_BYTES_MAX), size).len(), 1);
        assert_eq!(read(&last(REPLY_LINE_BYTES_MAX + 1), size), ["a reply line that is too long"]);
        let mut reply = line(1024).repeat(REPLY_BYTES_MAX / 1024 - 1);
        reply.extend(last(1024));
        let found = read(&reply, size);
        assert_eq!((found.len(), found[0].len()), (1, "250|".len() + REPLY_TEXT_BYTES_MAX));
        let mut reply = line(1024).repeat(REPLY_BYTES_MAX / 1024 - 1);
        reply.extend(last(1025));
        assert_eq!(read(&reply, size), ["a reply that is too long"]);
        // Without end.
        assert_eq!(read(&[b'2'; REPLY_LINE_BYTES_MAX + 1], size), ["a reply line that is too long"]);
    }
}

#[test]
fn offers() {
    let parse = |text: &str| {
        let mut reader = ReplyReader::default();
        let mut input = text.as_bytes();
        Capabilities::parse(&reader.next(&mut input).expect("complete").expect("a reply"), false)
    };
    let none = Capabilities::default();
    for (text, expected) in [
        ("250 PIPELINING\r\n", none),
        ("250-mx\r\n250 PIPELINING\r\n", Capabilities { pipelining: true, ..none }),
        ("250-mx\r\n250 pipelining \r\n", Capabilities { pipelining: true, ..none }),
        ("250-mx\r\n250-PIPELININGS\r\n250-\r\n250 X PIPELINING\r\n", none),
        ("250-mx\r\n250-CHUNKING\r\n250 STARTTLS\r\n", Capabilities { chunking: true, starttls: true, ..none }),
        (
            "250-mx\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250 ENHANCEDSTATUSCODES\r\n",
            Capabilities { eight_bit_mime: true, smtputf8: true, enhanced_status_codes: true, ..none },
        ),
        ("250-mx\r\n250 SIZE\r\n", Capabilities { size: Some(0), ..none }),
        ("250-mx\r\n250 SIZE 35882577\r\n", Capabilities { size: Some(35_882_577), ..none }),
        // A bound that cannot be read is no bound.
        ("250-mx\r\n250 SIZE 99999999999999999999999\r\n", Capabilities { size: Some(0), ..none }),
    ] {
        assert_eq!(parse(text), expected, "{text}");
    }
}

#[test]
fn of_a_line_that_is_too_long_the_beginning_is_quoted_however_it_came() {
    let lines = [b"220 ".to_vec(), vec![b'x'; 2 * REPLY_LINE_BYTES_MAX]].concat();
    let many =
        format!("220-{}\r\n", "y".repeat(REPLY_LINE_BYTES_MAX - 8)).repeat(1 + REPLY_BYTES_MAX / REPLY_LINE_BYTES_MAX);
    for (octets, quoted) in [(lines, "220 xx"), (many.into_bytes(), "220-yy")] {
        for size in [1, 7, octets.len()] {
            let mut reader = ReplyReader::default();
            let mut pieces = octets.chunks(size);
            let failed = pieces.any(|mut piece| reader.next(&mut piece).is_some_and(|reply| reply.is_err()));
            assert!(failed && reader.offending_line().starts_with(quoted), "by {size}: {:?}", reader.offending_line());
        }
    }
}
