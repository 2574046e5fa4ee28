//! Message text: what arrives must be what was sent, and what ends it must be what ends it for everybody.

use mailrace_shards::limits::TEXT_LINE_BYTES_MAX;

use crate::driver::{ALL_PIECES, Driver, FRIEND, Pieces, config, inject, inject_chunk, large, text_of};

/// Awkward texts, with their flags (eight_bit, dot_lines).
fn awkward() -> Vec<(Vec<u8>, bool, bool)> {
    let long = [&b"A: b\r\n\r\n"[..], &vec![b'x'; 1_000_000], b"\r\n"].concat();
    let all_octets: Vec<u8> = (1..=255).filter(|octet| !b"\r\n".contains(octet)).chain(*b"\r\n").collect();
    vec![
        (b"".to_vec(), false, false),
        (b"\r\n".to_vec(), false, false),
        (b"\r\n\r\n\r\n".to_vec(), false, false),
        (b"a\r\n".to_vec(), false, false),
        (b".\r\n".to_vec(), false, true),
        (b"..\r\n".to_vec(), false, true),
        (b"A: b\r\n\r\n.\r\n..\r\n.x\r\nx.\r\n.\r\n".to_vec(), false, true),
        (b"A: b\r\n\r\nx..\r\n".to_vec(), false, false),
        (b"A: b\r\n folded\r\n\tagain\r\n\r\n folded\r\n".to_vec(), false, false),
        (b"no header\r\n.x: y\r\n".to_vec(), false, true),
        (b"A: b\r\nB: c\r\n".to_vec(), false, false),
        (b" folded\r\nA: b\r\n\r\nx-mq-tag: text, not header\r\n".to_vec(), false, false),
        ("A: é\r\n\r\ntext\r\n".into(), true, false),
        ("A: b\r\n\r\ntéxt\r\n".into(), true, false),
        (all_octets, true, false),
        (long, false, false),
    ]
}

fn stuffed(text: &[u8]) -> Vec<u8> {
    let mut wire = vec![];
    for line in text.split_inclusive(|&octet| octet == b'\n') {
        if line.starts_with(b".") {
            wire.push(b'.');
        }
        wire.extend_from_slice(line);
    }
    wire.extend_from_slice(b".\r\n");
    wire
}

/// A megabyte is cut in two ways only, to save time.
fn pieces_for(text: &[u8]) -> Vec<Pieces> {
    if text.len() > 10_000 { vec![Pieces::Whole, Pieces::Random(9)] } else { ALL_PIECES.to_vec() }
}

#[test]
fn awkward_texts_arrive_by_data() {
    for (text, eight_bit, dot_lines) in awkward() {
        for pieces in pieces_for(&text) {
            let (replies, messages) = inject(large(), FRIEND, &stuffed(&text), pieces);
            assert!(replies[1].starts_with("S: 250 "), "{replies:?}");
            assert!(text_of(&messages[0]) == text, "{pieces:?} {}", String::from_utf8_lossy(&text));
            assert_eq!((messages[0].flags.eight_bit, messages[0].flags.dot_lines), (eight_bit, dot_lines));
        }
    }
}

#[test]
fn awkward_texts_arrive_by_chunks() {
    let mut texts = awkward();
    texts.extend([(b"a".to_vec(), false, false), (b"A: b\r\n\r\nno end".to_vec(), false, false)]);
    texts.extend([(b".".to_vec(), false, true), (b"A: b\r\n\r\n\r\n.".to_vec(), false, true)]);
    for (text, eight_bit, dot_lines) in texts {
        for pieces in pieces_for(&text) {
            let (replies, messages) = inject_chunk(large(), FRIEND, &text, pieces);
            assert!(replies[1].starts_with("S: 250 "), "{replies:?}");
            assert!(text_of(&messages[0]) == text, "{pieces:?} {}", String::from_utf8_lossy(&text));
            assert_eq!((messages[0].flags.eight_bit, messages[0].flags.dot_lines), (eight_bit, dot_lines));
        }
    }
}

/// A line end may fall between two chunks.
#[test]
fn line_end_across_chunks() {
    let mut driver = Driver::new(config(), FRIEND);
    driver.feed(b"HELO client.test\r\nMAIL FROM:<a@a.test>\r\nRCPT TO:<b@b.test>\r\n", Pieces::Whole);
    driver.feed(b"BDAT 5\r\nA: b\rBDAT 4 LAST\r\n\n\r\nx", Pieces::Whole);
    assert_eq!(text_of(&driver.messages[0]), b"A: b\r\n\r\nx");
}

/// An independent reading of the rules: where the text ends, and what it is, or `None` when it is refused.
fn oracle(wire: &[u8]) -> (usize, Option<Vec<u8>>) {
    let framed = [b"\r\n", wire].concat();
    let end = framed.windows(5).position(|part| part == b"\r\n.\r\n").expect("the table ends its texts");
    let mut text = vec![];
    for line in String::from_utf8(framed[2..end + 2].to_vec()).expect("the table is ASCII").split_inclusive("\r\n") {
        let inner = line.strip_suffix("\r\n").unwrap_or(line);
        if inner.contains(['\r', '\n']) {
            return (end + 3, None);
        }
        text.extend_from_slice(line.strip_prefix('.').unwrap_or(line).as_bytes());
    }
    (end + 3, Some(text))
}

/// Every text of up to seven of CR, LF, dot and a letter: one reader must agree with the rules on where it ends.
#[test]
fn no_smuggling() {
    const ALPHABET: [u8; 4] = *b"\r\n.a";
    let mut refused = 0;
    for length in 0..=7_u32 {
        for number in 0..4_usize.pow(length) {
            let mut wire: Vec<u8> = (0..length).map(|place| ALPHABET[number >> (2 * place) & 3]).collect();
            wire.extend_from_slice(b"\r\n.\r\n");
            let (end, text) = oracle(&wire);
            wire.truncate(end);
            let cuts: &[Pieces] = if length < 6 { &[Pieces::Whole, Pieces::Single] } else { &[Pieces::Whole] };
            for &pieces in cuts {
                let (replies, messages) = inject(config(), FRIEND, &wire, pieces);
                match &text {
                    Some(text) => assert!(messages.len() == 1 && text_of(&messages[0]) == text, "{wire:?}"),
                    None => {
                        refused += 1;
                        assert_eq!(replies, ["S: 550 5.6.11 Message holds a CR or LF that stands alone"], "{wire:?}");
                    }
                }
            }
        }
    }
    assert!(refused > 5_000, "the table must hold texts to refuse: {refused}");
}

/// The same in the midst of a text that is long enough to be taken many lines at a time.
#[test]
fn no_smuggling_in_long_texts() {
    const ALPHABET: [u8; 4] = *b"\r\n.a";
    let filler = "forty octets and no dot at its beginning\r\n".repeat(8);
    let (mut taken, mut refused) = (0, 0);
    for length in 0..=5_u32 {
        for number in 0..4_usize.pow(length) {
            let mut wire = format!("A: b\r\n\r\n{filler}").into_bytes();
            wire.extend((0..length).map(|place| ALPHABET[number >> (2 * place) & 3]));
            wire.extend_from_slice(format!("\r\n{filler}\r\n.\r\n").as_bytes());
            let (end, text) = oracle(&wire);
            wire.truncate(end);
            let (replies, messages) = inject(config(), FRIEND, &wire, Pieces::Whole);
            match &text {
                Some(text) => {
                    taken += 1;
                    assert!(messages.len() == 1 && text_of(&messages[0]) == text, "{number} of {length}");
                }
                None => {
                    refused += 1;
                    let refusal = "S: 550 5.6.11 Message holds a CR or LF that stands alone";
                    assert_eq!(replies, [refusal], "{number} of {length}");
                }
            }
        }
    }
    assert!(taken > 100 && refused > 500, "{taken} taken, {refused} refused");
}

/// What is wrong with an octet or a line is found among many that are right.
#[test]
fn one_wrong_octet_in_a_long_text() {
    let lines = "forty octets and no dot at its beginning\r\n".repeat(30);
    let long = "x".repeat(TEXT_LINE_BYTES_MAX + 1);
    for (wrong, code) in [("\0", "550 5.6.0"), ("\r", "550 5.6.11"), ("\n", "550 5.6.11"), (&*long, "550 5.6.0")] {
        for at in [0, 1, 39, 40, 41, 42, 500, 1259, 1260] {
            let (before, behind) = lines.split_at(at);
            let code = if before.ends_with('\r') { "550 5.6.11" } else { code };
            let wire = format!("A: b\r\n\r\n{before}{wrong}{behind}\r\n.\r\n");
            let (replies, messages) = inject(large(), FRIEND, wire.as_bytes(), Pieces::Whole);
            // A CR before a CRLF, or an LF behind one, is as alone as any; and what comes first is what is said.
            assert!(messages.is_empty() && replies[0].starts_with(&format!("S: {code} ")), "{at}: {replies:?}");
        }
    }
}

/// Each pair of line ends round a dot, with commands behind it: none but CRLF.CRLF lets them be read as commands.
#[test]
fn odd_line_ends_round_a_dot() {
    const ENDS: [&str; 9] = ["\r\n", "\n", "\r", "\n\r", "\r\r\n", "\r\n\n", "\n\n", "\r\0\n", "\u{85}"];
    for before in ENDS {
        for behind in ENDS {
            let evil = "MAIL FROM:<evil@a.test>\r\nRCPT TO:<b@b.test>\r\nDATA\r\n";
            let wire = format!("A: b\r\n\r\ntext{before}.{behind}{evil}x\r\n.\r\n");
            let ended = before.ends_with("\r\n") && behind.starts_with("\r\n");
            for pieces in ALL_PIECES {
                let (replies, messages) = inject(config(), FRIEND, wire.as_bytes(), pieces);
                let evil_messages = messages.iter().filter(|message| &*message.sender == "evil@a.test").count();
                assert_eq!(evil_messages, usize::from(ended), "{before:?} {behind:?} {replies:?}");
                let harmless = (before, behind) == ("\u{85}", "\u{85}")
                    || (before, behind) == ("\r\n", "\r\n")
                    || (before, behind) == ("\u{85}", "\r\n")
                    || (before, behind) == ("\r\n", "\u{85}")
                    || (before, behind) == ("\r\n", "\r\n\n");
                let refused = replies.iter().any(|line| line.starts_with("S: 550 5.6."));
                assert_eq!(refused, !harmless, "{before:?} {behind:?} {replies:?}");
            }
        }
    }
}

/// The same line ends are refused in chunks, whose end they cannot move.
#[test]
fn odd_line_ends_in_chunks() {
    for text in ["a\nb", "a\rb", "a\r", "a\n", "\n", "\r", "a\r\r\n", "\r\n.\n", "\n.\r\n", "A: b\n\r\n"] {
        for pieces in ALL_PIECES {
            let (replies, _) = inject_chunk(config(), FRIEND, text.as_bytes(), pieces);
            assert_eq!(replies, ["S: 550 5.6.11 Message holds a CR or LF that stands alone"], "{text:?}");
        }
    }
}

#[test]
fn what_is_refused_is_read_to_its_end() {
    let received = "Received: x\r\n".repeat(51);
    let long_line = format!("{}\r\n", "x".repeat(1_048_577));
    let large_header = format!("A: {}\r\n", "x".repeat(990)).repeat(265);
    let large_fold = format!("A: b\r\n{}", format!(" {}\r\n", "x".repeat(990)).repeat(265));
    let too_large = "0123456789abcde\r\n".repeat(700_000);
    let table = [
        ("a\0b\r\n", "550 5.6.0 Message holds a NUL octet"),
        (&*received, "554 5.4.6 Too many Received headers, a loop"),
        (&*long_line, "550 5.6.0 Message holds a line that is too long"),
        (&*large_header, "552 5.3.4 Header is too large"),
        (&*large_fold, "552 5.3.4 Header is too large"),
        (&*too_large, "552 5.3.4 Message is over 10000000 octets"),
    ];
    for (text, reply) in table {
        let wire = format!("{text}.\r\nQUIT\r\n");
        for pieces in [Pieces::Whole, Pieces::Random(7)] {
            let (replies, messages) = inject(large(), FRIEND, wire.as_bytes(), pieces);
            assert_eq!(replies, [&format!("S: {reply}"), "S: 221 2.0.0 Bye", "X"]);
            assert!(messages.is_empty());
        }
    }
}

/// Fifty hops are a long way, but no loop; the limit is on the text without stuffing, to the octet.
#[test]
fn what_is_just_within_bounds() {
    let received = format!("{}.\r\n", "Received: x\r\n".repeat(50));
    let exact = format!("{}.\r\n", "..34567\r\n".repeat(250));
    for wire in [received, exact] {
        let (replies, _) = inject(config(), FRIEND, wire.as_bytes(), Pieces::Whole);
        assert!(replies[1].starts_with("S: 250 "), "{replies:?}");
    }
}

#[test]
fn received_header_in_full() {
    let (_, messages) = inject(config(), FRIEND, b".\r\n", Pieces::Whole);
    let expected = "Received: from client.test ([192.0.2.1])\r\n\tby mx.test with ESMTP id 000000010002000000000001;\r\n\
                    \tSun, 22 Nov 2026 01:44:03 +0000\r\n";
    assert_eq!(String::from_utf8_lossy(&messages[0].body), expected);
    let mut driver = Driver::new(config(), FRIEND);
    driver.feed(b"STARTTLS\r\n", Pieces::Whole);
    driver.feed("EHLO e;vil)\u{e9} x\r\nMAIL FROM:<>\r\nRCPT TO:<b@b.test>\r\nDATA\r\n.\r\n".as_bytes(), Pieces::Whole);
    let expected = "Received: from e?vil????x ([192.0.2.1])\r\n\tby mx.test with ESMTPS (TLSv1.3 SUITE) id \
                    000000010002000000000001;\r\n\tSun, 22 Nov 2026 01:44:03 +0000\r\n";
    assert_eq!(String::from_utf8_lossy(&driver.messages[0].body), expected);
}

#[test]
fn of_two_reasons_the_first_is_given_however_the_text_is_cut() {
    let long = b"0123456789\r\n".repeat(200);
    for wrong in [&b"a\nb\r\n"[..], b"a\rb\r\n", b"a\0b\r\n"] {
        for pieces in ALL_PIECES {
            let first_too_large = [&long[..], wrong, b".\r\n"].concat();
            let (replies, _) = inject(config(), FRIEND, &first_too_large, pieces);
            assert_eq!(replies, ["S: 552 5.3.4 Message is over 2000 octets"], "{pieces:?} {wrong:?}");
            let first_wrong = [wrong, &long, b".\r\n"].concat();
            let (replies, _) = inject(config(), FRIEND, &first_wrong, pieces);
            assert!(replies[0].starts_with("S: 550 5.6."), "{pieces:?} {wrong:?}: {replies:?}");
        }
    }
}

/// What stands empty would be copied out of the way, or count as memory of a message that waits.
#[test]
fn a_large_body_without_an_announced_size_fills_at_least_half_of_what_it_got() {
    for thousands in [40, 70, 100, 130, 200, 260, 400, 600, 1_100] {
        let text = b"A: b\r\n\r\n".iter().copied().chain(b"0123456\r\n".repeat(thousands * 111)).collect::<Vec<u8>>();
        let (replies, messages) = inject(large(), FRIEND, &stuffed(&text), Pieces::Random(3));
        assert!(replies[1].starts_with("S: 250 "), "{replies:?}");
        let body = &messages[0].body;
        assert!(body.capacity() <= 2 * body.len(), "{} for {}", body.capacity(), body.len());
    }
}
