//! Hostile input to the reader of segments. The checksum would keep nearly all of it out, so an input is also tried as
//! the body of a segment whose head and checksum are right.

use super::merge::{Replaced, merge};
use super::segment::Segment;
use super::segment_tests::{framed, read};
use super::{RAW_BYTES_MAX, VALUE_BYTES_MAX, Word};
use crate::mutation::{Target, fuzz};

#[test]
fn whatever_a_segment_says() {
    let words: &[&[u8]] = &[
        b"mrsg\x01",
        b"\x00\x01a\x00",
        b"\x01\x01b\x00",
        b"\x00\x09a.example\x01\xa6\x04\x05\x01\x01\x01\x04gone\x05token",
        b"\x00\x09b.example\x02",
        b"\x00\x09c.example\x03",
        b"\xff\xff\xff\xff\x0f",
        b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        b"\x80",
        b"\xc3\xa9",
        b"\xed\xa0\x80",
    ];
    fuzz(&Target { name: "segment", words, check });
}

fn check(input: &[u8]) {
    judge(input);
    // Two octets say what the head says of numbers, the rest is the body.
    let Some((&[puts, removals], body)) = input.split_first_chunk::<2>() else { return };
    judge(&framed(puts.into(), removals.into(), body.len() as u64, body));
    let Some((_, rest)) = input.split_at_checked(9) else { return };
    let mut summed = [b"mrsg\x01".as_slice(), &crc32fast::hash(rest).to_le_bytes(), rest].concat();
    judge(&summed);
    summed.truncate(summed.len() / 2);
    judge(&summed);
}

/// What is taken is as it may be, and is the same when it is written and read again.
fn judge(input: &[u8]) {
    let Ok(entries) = read(input) else { return };
    let segment = Segment::parse(input).expect("it was just read");
    let puts = entries.iter().filter(|(_, word)| *word != Word::Removed).count();
    assert_eq!((puts, entries.len() - puts), (segment.head.puts as usize, segment.head.removals as usize));
    assert!(segment.head.raw as usize <= RAW_BYTES_MAX);
    assert!(entries.windows(2).all(|pair| pair[0].0 < pair[1].0), "in order, each once");
    for (value, word) in &entries {
        assert!(value.len() <= VALUE_BYTES_MAX);
        if let Word::Put(grounds) = word {
            let _ = grounds.verdict.answer();
        }
    }
    match merge(std::slice::from_ref(&segment), false).expect("it was just read") {
        Replaced::By(octets) => assert!(read(&octets) == Ok(entries), "written again, it says the same"),
        Replaced::ByNothing => assert!(entries.is_empty()),
        Replaced::NotInOne => {}
    }
}
