//! Segments: what is written is read; what is not one is refused by name.

use super::segment::{Packer, Segment, of_removals, of_suppressions};
use super::{Broken, CHANGE_BYTES_MAX, Grounds, SEGMENT_BYTES_MAX, Word};
use crate::mutation::Random;
use crate::rules::change::Suppression;
use crate::rules::entry::{Origin, Verdict};
use crate::rules::stored::enhanced_code;
use mailrace_shards::time::Timestamp;
use std::sync::Arc;

pub fn origin() -> Origin {
    let at = Timestamp(1_763_800_000_123);
    Origin { token: "sync".into(), peer: "192.0.2.7".into(), at, node: "mx1.example.net".into() }
}

pub fn suppression(value: &str, code: u16, description: Option<&str>) -> Suppression {
    let verdict = Verdict { code, extended: enhanced_code("5.1.1"), description: description.map(Arc::from) };
    Suppression { value: value.into(), verdict }
}

pub fn read(octets: &[u8]) -> Result<Vec<(String, Word)>, Broken> {
    let mut cursor = Segment::parse(octets)?.entries();
    let mut entries = Vec::new();
    while cursor.advance()? {
        entries.push((cursor.value().to_owned(), cursor.word().clone()));
    }
    Ok(entries)
}

fn put(entry: &Suppression, token: &str) -> (String, Word) {
    let grounds = Grounds { verdict: entry.verdict.clone(), token: token.into() };
    (entry.value.to_string(), Word::Put(Arc::new(grounds)))
}

#[test]
fn a_single_entry_is_small_and_says_who_made_it() {
    let entry = suppression("anna@example.com", 550, Some("unsubscribed"));
    let segments = of_suppressions(std::slice::from_ref(&entry), &origin());
    let [segment] = &segments[..] else { panic!("one segment") };
    assert!(segment.len() < 128, "{} octets", segment.len());
    let parsed = Segment::parse(segment).unwrap();
    assert_eq!((parsed.head.puts, parsed.head.removals, parsed.head.origin), (1, 0, Some(origin())));
    assert_eq!(read(segment), Ok(vec![put(&entry, "sync")]));
    let removal = of_removals(&["anna@example.com".into()], &origin());
    assert_eq!(read(&removal[0]), Ok(vec![("anna@example.com".to_owned(), Word::Removed)]));
    assert!(of_suppressions(&[], &origin()).is_empty() && of_removals(&[], &origin()).is_empty());
}

#[test]
fn of_a_value_that_is_there_twice_the_later_counts() {
    let [one, two] = [550, 551].map(|code| suppression("b@example.com", code, None));
    let other = suppression("a@example.com", 550, Some(""));
    let segments = of_suppressions(&[one, other.clone(), two.clone()], &origin());
    assert_eq!(read(&segments[0]), Ok(vec![put(&other, "sync"), put(&two, "sync")]));
    let removals = of_removals(&["b.example".into(), "a.example".into(), "b.example".into()], &origin());
    assert_eq!(read(&removals[0]).unwrap().len(), 2);
}

#[test]
fn a_change_that_cannot_be_packed_becomes_several_segments() {
    let mut random = Random(7);
    let mut word = |length| -> String { (0..length).map(|_| char::from(b'a' + random.below(26) as u8)).collect() };
    let entries: Vec<_> = (0..10_000)
        .map(|n| suppression(&format!("{}{n}@{}.example", word(50), word(60)), 550, Some(&word(200))))
        .collect();
    let segments = of_suppressions(&entries, &origin());
    assert!(segments.len() > 5, "{}", segments.len());
    let mut all = Vec::new();
    for segment in &segments {
        assert!(
            segment.len() <= SEGMENT_BYTES_MAX
                && Segment::parse(segment).unwrap().head.raw as usize <= CHANGE_BYTES_MAX
        );
        all.extend(read(segment).unwrap());
    }
    let mut expected: Vec<_> = entries.iter().map(|entry| put(entry, "sync")).collect();
    expected.sort_by(|a, b| a.0.cmp(&b.0));
    assert!(all == expected, "each entry is in one of them, in order");
    // The worst that a single entry can be goes into one.
    let worst =
        Suppression { value: word(1024).as_str().into(), verdict: suppression("", 599, Some(&word(4096))).verdict };
    assert_eq!(read(&of_suppressions(std::slice::from_ref(&worst), &origin())[0]), Ok(vec![put(&worst, "sync")]));
}

#[test]
fn more_grounds_than_are_kept() {
    let entries: Vec<_> = (0..300)
        .map(|n| suppression(&format!("{n:04}@example.com"), 550, Some(&format!("because of {}", n % 100))))
        .collect();
    let segments = of_suppressions(&entries, &origin());
    assert_eq!(read(&segments[0]), Ok(entries.iter().map(|entry| put(entry, "sync")).collect()));
}

#[test]
fn what_is_no_segment_is_refused_by_name() {
    let entries = ["a.example", "b.example"].map(|value| suppression(value, 550, None));
    let segment = of_suppressions(&entries, &origin()).remove(0);
    assert_eq!(read(b""), Err(Broken::NoSegment));
    assert_eq!(read(b"{\"v\":1}"), Err(Broken::NoSegment));
    assert_eq!(read(&segment[..4]), Err(Broken::Cut));
    assert_eq!(read(&segment[..7]), Err(Broken::Cut));
    for at in 9..segment.len() {
        assert_eq!(read(&segment[..at]), Err(Broken::Checksum), "cut at {at}");
        let mut other = segment.clone();
        other[at] ^= 1;
        assert_eq!(read(&other), Err(Broken::Checksum), "other at {at}");
    }
    let mut later = segment.clone();
    later[4] = 2;
    assert_eq!(read(&later), Err(Broken::Later(2)));
    let mut longer = segment;
    longer.resize(SEGMENT_BYTES_MAX + 1, 0);
    assert_eq!(read(&longer), Err(Broken::TooLong("value")));
}

/// A segment with a right checksum whose head says this, around a body that is so.
pub fn framed(puts: u64, removals: u64, raw: u64, body: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(body).unwrap();
    let mut rest = Vec::new();
    for number in [puts, removals, raw, 0] {
        super::segment::number(&mut rest, number);
    }
    rest.extend(encoder.finish().unwrap());
    [b"mrsg\x01".as_slice(), &crc32fast::hash(&rest).to_le_bytes(), &rest].concat()
}

#[test]
fn a_body_that_lies_is_refused_by_name() {
    let of = |puts, removals, body: &[u8]| read(&framed(puts, removals, body.len() as u64, body));
    let a = b"\x00\x01a\x00";
    assert_eq!(of(0, 1, a), Ok(vec![("a".to_owned(), Word::Removed)]));
    for (puts, removals, body, expected) in [
        (1, 0, &a[..], Broken::Count),
        (0, 2, &a[..], Broken::Cut),
        (0, 0, &a[..], Broken::Count),
        (0, 1, b"\x00\x01a\x00\x00", Broken::Count),
        (0, 1, b"\x01\x01a\x00", Broken::TooLong("value")),
        (0, 2, b"\x00\x01a\x00\x00\x01a\x00", Broken::Order),
        (0, 2, b"\x00\x01b\x00\x00\x01a\x00", Broken::Order),
        (0, 2, b"\x00\x02ab\x00\x01\x00\x00", Broken::Order),
        (0, 1, b"\x00\x01\xff\x00", Broken::Text),
        (0, 1, b"\x00\x81\x08", Broken::TooLong("value")),
        (0, 1, b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02\x01a\x00", Broken::TooLong("number")),
        (0, 1, b"\xff\xff\xff\xff\x1f\x01a\x00", Broken::TooLong("number")),
        (1, 0, b"\x00\x01a\x02", Broken::Count),
        (1, 0, b"\x00\x01a\x01\xc7\x01\x00\x00\x00", Broken::Code),
        (1, 0, b"\x00\x01a\x01\xa6\x04\x03\x00\x00\x00", Broken::Code),
        (1, 0, b"\x00\x01a\x01\xa6\x04\x05\xe8\x07\x00\x00\x00", Broken::Code),
        (1, 0, b"\x00\x01a\x01\xa6\x04\x00\x02\x00", Broken::Count),
        (1, 0, b"\x00\x01a\x01\xa6\x04\x00\x00\x81\x20", Broken::TooLong("text")),
        (1, 0, b"\x00\x01a\x01\xa6\x04\x00\x00\x01\xff", Broken::Text),
    ] {
        assert_eq!(of(puts, removals, body), Err(expected), "{puts} {removals} {}", body.escape_ascii());
    }
    // What the head says of the body's length is the most that is read of it.
    assert_eq!(read(&framed(0, 1, 3, a)), Err(Broken::Cut));
    assert_eq!(read(&framed(0, 1, 5, a)), Err(Broken::Count));
    assert_eq!(read(&framed(0, 1, 1 << 24, a)), Err(Broken::TooLong("body")));
    assert_eq!(read(&framed(1 << 31, 1 << 31, 4, a)), Err(Broken::TooLong("list")));
    let mut trailing = framed(0, 1, 4, a);
    trailing.push(0);
    let sum = crc32fast::hash(&trailing[9..]);
    trailing[5..9].copy_from_slice(&sum.to_le_bytes());
    assert_eq!(read(&trailing), Err(Broken::Trailing));
    let mut packer = Packer::default();
    packer.push("a", &Word::Removed);
    assert_eq!(packer.raw(), 4);
}
