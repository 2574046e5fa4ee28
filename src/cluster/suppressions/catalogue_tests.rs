//! What is merged when: how many segments there are at most, and how often an entry is written again on its way.

use super::{Catalogue, KEYS_ENOUGH, Known, Run};
use crate::cluster::suppressions::SEGMENT_BYTES_MAX;

/// As measured of random addresses: eight octets an entry beside a head of some ninety.
fn known(made: i64, entries: u64) -> Known {
    let octets = 90 + 8 * entries as usize;
    Known { key: made.to_be_bytes().to_vec(), made, changed: made, octets, raw: 22 * entries as usize, entries }
}

fn add(catalogue: &mut Catalogue, known: Known) {
    catalogue.by_key.insert(known.key.clone(), known.made);
    catalogue.by_age.insert((known.made, known.key.clone()), known);
}

/// Carries it out, as if no two entries had the same value; how many octets that writes.
fn carry_out(catalogue: &mut Catalogue, run: &Run) -> usize {
    let (first, last) = (&run.segments[0], run.segments.last().unwrap());
    let neighbours = catalogue.segments().filter(|known| (first.made..=last.made).contains(&known.made)).count();
    assert_eq!(neighbours, run.segments.len(), "nothing lies between them");
    assert_eq!(run.is_oldest, catalogue.segments().next() == Some(first));
    run.segments.iter().for_each(|known| catalogue.delete(&known.key));
    let merged = known(last.made, run.segments.iter().map(|known| known.entries).sum());
    assert!(merged.octets <= SEGMENT_BYTES_MAX && run.segments.len() > 1);
    let octets = merged.octets;
    add(catalogue, merged);
    octets
}

/// So many entries by calls of so many, merged after each few calls. The most segments at once after merging, and how
/// often an octet was written.
fn history(calls: i64, entries: u64, between: i64) -> (usize, f64) {
    let mut catalogue = Catalogue::default();
    let (mut most, mut written, mut new) = (0, 0, 0);
    for made in 1..=calls {
        let added = known(made, entries);
        new += added.octets;
        add(&mut catalogue, added);
        if made % between == 0 {
            while let Some(run) = catalogue.run_due() {
                written += carry_out(&mut catalogue, &run);
            }
            most = most.max(catalogue.segments().count());
        }
    }
    assert_eq!(catalogue.entries(), calls as u64 * entries, "none is lost");
    (most, written as f64 / new as f64)
}

#[test]
fn segments_stay_few_and_entries_are_written_a_few_times() {
    for (calls, entries, between, most, times) in [
        (100_000, 1, 1, 60, 4.0),
        (100_000, 1, 500, 60, 2.0),
        (2_000, 100, 1, 60, 4.0),
        (100, 10_000, 1, 100, 0.1),
        (1_000, 10_000, 10, KEYS_ENOUGH, 4.0),
    ] {
        let (keys, written) = history(calls, entries, between);
        assert!(keys <= most && written <= times, "{calls} of {entries}: {keys} segments, written {written:.1} times");
    }
}

#[test]
fn small_ones_between_large_ones_do_not_stay() {
    let mut catalogue = Catalogue::default();
    for made in 1..=600 {
        add(&mut catalogue, known(made, if made % 10 == 0 { 40_000 } else { 1 }));
    }
    while let Some(run) = catalogue.run_due() {
        carry_out(&mut catalogue, &run);
    }
    assert!(catalogue.segments().count() <= KEYS_ENOUGH);
}
