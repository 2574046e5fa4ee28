//! The ledger of the spool: which recipients are open, which segments are needed, in which order segments go, and what it
//! costs in memory.

#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

use mailrace_shards::message::MessageId;
use mailrace_shards::spool::ledger::{Ledger, Place, Snapshot};
use mailrace_shards::spool::report::{OpenRecipient, Point, Standing};
use mailrace_shards::time::Timestamp;

const ALL_RECORDED: Point = Point { segment: u32::MAX, offset: 0 };

fn id(sequence: u64) -> MessageId {
    MessageId { generation: 1, core: 2, sequence }
}

#[test]
fn segments_go_in_an_order_that_a_crash_cannot_turn_around() {
    let place = |segment| Place { segment, offset: 0, head: 50, body: 0 };
    let mut ledger = Ledger::default();
    ledger.note_recorded(ALL_RECORDED);
    for segment in 1..=5 {
        ledger.segment_mut(segment).sealed = true;
    }
    assert_eq!(ledger.removable(), [1, 2, 3, 4], "the last stays, so that numbers are not used again");
    // Message 1 lies in segment 1 and ends in 2; message 2 lies in 2.
    ledger.insert(id(1), place(1), 1);
    ledger.insert(id(2), place(2), 1);
    assert_eq!(ledger.removable(), [3, 4]);
    assert_eq!(ledger.finish(id(1), &[0]), Some(place(1)));
    ledger.refer(2, 1, 50);
    assert_eq!(ledger.removable(), [1, 3, 4]);
    assert_eq!(ledger.finish(id(2), &[0, 7]), Some(place(2)));
    assert_eq!(ledger.finish(id(2), &[0]), None, "it is closed");
    assert_eq!(ledger.removable(), [1, 3, 4], "segment 2 tells of a message in segment 1");
    ledger.forget_segment(1);
    assert_eq!(ledger.removable(), [2, 3, 4]);
    // Message 3 is moved from segment 2 to 3 and ends: the old copy must be gone before the newer one.
    ledger.insert(id(3), place(2), 1);
    ledger.relocate(id(3), place(3));
    ledger.finish(id(3), &[0]);
    assert_eq!(ledger.removable(), [2]);
    assert_eq!(ledger.victim(u64::MAX), None, "nothing in it is needed: it is to be removed, not compacted again");
    ledger.insert(id(4), place(2), 1);
    assert_eq!(ledger.victim(u64::MAX), Some(2), "what was begun is finished first");
    ledger.finish(id(4), &[0]);
    ledger.forget_segment(2);
    assert_eq!(ledger.removable(), [3, 4]);
}

#[test]
fn the_ledger_knows_each_recipient() {
    for recipients in [1_u16, 2, 31, 32, 33, 64, 65, 1000, u16::MAX] {
        let mut ledger = Ledger::default();
        ledger.insert(id(1), Place { segment: 1, offset: 0, head: 50, body: 0 }, recipients);
        let standing = Standing { attempts: 1, due: Timestamp(1), maybe_delivered: false };
        ledger.tried(id(1), &[recipients - 1, recipients], standing);
        let order = (0..recipients).step_by(2).chain((1..recipients).step_by(2)).collect::<Vec<_>>();
        let (last, rest) = order.split_last().unwrap();
        ledger.finish(id(1), rest);
        let snapshot = ledger.snapshot(id(1));
        assert_eq!(snapshot.done.len(), rest.len(), "of {recipients}");
        assert!(!snapshot.done.contains(last), "of {recipients}");
        let tried = if *last == recipients - 1 { vec![(*last, standing)] } else { vec![] };
        assert_eq!(snapshot.tried, tried, "of {recipients}");
        assert_eq!(ledger.open_messages(), 1);
        // Whom the message does not have cannot be finished, nor be tried.
        for stranger in [recipients, 16, 64, 128].into_iter().filter(|&index| index >= recipients && index < u16::MAX) {
            assert_eq!(ledger.finish(id(1), &[stranger]), None, "{stranger} of {recipients}");
        }
        assert_eq!(ledger.snapshot(id(1)), snapshot, "of {recipients}");
        // Who is named twice is finished all the same.
        ledger.finish(id(1), &[*last, *last]);
        assert_eq!((ledger.open_messages(), ledger.segment(1).unwrap().live), (0, 0), "of {recipients}");
    }
}

#[test]
fn the_ledger_is_small() {
    let mut ledger = Ledger::default();
    let mut measured = Vec::new();
    for sequence in 0..400_000 {
        ledger.insert(id(sequence), Place { segment: 1, offset: 0, head: 100, body: 4096 }, 1);
        if sequence > 100_000 && sequence % 10_000 == 0 {
            measured.push(ledger.memory() as u64 / (sequence + 1));
        }
    }
    let mean = measured.iter().sum::<u64>() / measured.len() as u64;
    assert!((8..=24).contains(&mean), "{mean} octets for each open message: {measured:?}");
    // What is rarer than one open recipient of few comes on top.
    let plain = ledger.memory();
    for sequence in 0..1000 {
        ledger.tried(id(sequence), &[0], Standing { attempts: 1, due: Timestamp(1), maybe_delivered: false });
    }
    let rare = ledger.memory() - plain;
    assert!((64_000..1_000_000).contains(&rare), "{rare} octets for a thousand that were tried");
    // The table has room for one more; what hangs on an entry is reckoned with 64 octets.
    let before = ledger.memory();
    ledger.tried(id(1000), &[0], Standing { attempts: 1, due: Timestamp(1), maybe_delivered: false });
    assert_eq!(ledger.memory() - before, 64);
}

fn place(segment: u32, offset: u32) -> Place {
    Place { segment, offset, head: 50, body: 100 }
}

#[test]
fn what_was_carried_over_is_no_longer_told_by_the_old_segment() {
    let mut ledger = Ledger::default();
    (1..=3).for_each(|segment| ledger.segment_mut(segment).sealed = true);
    ledger.refer(3, 1, 10);
    ledger.refer(3, 2, 5);
    ledger.refer(2, 1, 7);
    ledger.carried_over(3);
    assert_eq!(ledger.octets().1, 7, "what segment 2 tells of segment 1");
}

/// The reception of a message is recorded when it lies before the point, and not when it begins there.
#[test]
fn the_point_of_what_is_recorded_lies_behind_it() {
    let mut ledger = Ledger::default();
    assert_eq!(ledger.behind_all(), Point::default());
    ledger.insert(id(1), place(1, 32), 1);
    ledger.insert(id(2), place(1, 500), 1);
    assert_eq!(ledger.behind_all(), Point { segment: 1, offset: 501 });
    ledger.note_recorded(Point { segment: 1, offset: 500 });
    ledger.note_recorded(Point { segment: 1, offset: 40 });
    assert_eq!(ledger.recorded(), Point { segment: 1, offset: 500 }, "it only grows");
    assert_eq!([32, 499, 500, 501].map(|at| ledger.is_recorded(place(1, at))), [true, true, false, false]);
    assert!(!ledger.is_recorded(place(2, 32)));
    ledger.finish(id(1), &[0]);
    ledger.finish(id(2), &[0]);
    (1..=2).for_each(|segment| ledger.segment_mut(segment).sealed = true);
    assert!(ledger.removable().is_empty(), "the reception of the second would be lost");
    ledger.note_recorded(Point { segment: 1, offset: 501 });
    assert_eq!(ledger.removable(), [1]);
}

/// A copy is recorded as its original was, when all is recorded; else its place says nothing of those behind it.
#[test]
fn a_copy_of_what_is_recorded_is_recorded() {
    for (recorded, after) in [(501, true), (500, false), (100, false)] {
        let mut ledger = Ledger::default();
        ledger.insert(id(1), place(1, 32), 1);
        ledger.insert(id(2), place(1, 500), 1);
        ledger.note_recorded(Point { segment: 1, offset: recorded });
        ledger.relocate(id(1), place(2, 32));
        assert_eq!(ledger.is_recorded(place(2, 32)), after, "recorded up to {recorded}");
        assert_eq!(ledger.place(id(1)), Some(place(2, 32)));
        let live = |segment: u32| ledger.segment(segment).unwrap().live;
        assert!(live(1) > 0 && live(1) == live(2), "one message in each");
    }
}

#[test]
fn a_message_that_is_found_again_has_the_recipients_that_were_open() {
    for recipients in [3_u16, 16, 17, 200] {
        let standing = Standing { attempts: 2, due: Timestamp(9), maybe_delivered: false };
        let last = recipients - 1;
        let open = [OpenRecipient { index: 1, standing: Standing::default() }, OpenRecipient { index: last, standing }];
        let mut ledger = Ledger::default();
        ledger.insert_recovered(id(1), place(1, 32), recipients, &open);
        assert_eq!((ledger.recipients(id(1)), ledger.recipients(id(2))), (recipients, 0));
        let snapshot = ledger.snapshot(id(1));
        let done: Vec<u16> = (0..recipients).filter(|index| *index != 1 && *index != last).collect();
        assert_eq!((&snapshot.done[..], snapshot.tried), (&done[..], vec![(last, standing)]), "of {recipients}");
        assert_eq!(ledger.finish(id(1), &[0]), None, "it was finished before");
        assert_eq!(ledger.finish(id(1), &[1]), Some(place(1, 32)));
        assert_eq!(ledger.open_messages(), 1);
        assert_eq!(ledger.finish(id(1), &[last]), Some(place(1, 32)));
        assert_eq!((ledger.open_messages(), ledger.snapshot(id(1))), (0, Snapshot::default()));
    }
}
