//! The spool against a disk that stops at any operation, loses what was not synced, tears writes and fails on
//! demand. What was acknowledged is never lost, nor is its reception; what was durably finished never rises again.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use bytes::Bytes;
use mailrace_shards::message::{ContentFlags, Envelope, MessageId};
use mailrace_shards::spool::envelope::encode;
use mailrace_shards::spool::journal::{Journal, JournalOptions};
use mailrace_shards::spool::memory_disk::{Fault, MemoryDisk, Survival};
use mailrace_shards::spool::record::{Kind, Mark, TRAILER_BYTES, begin_head, end_head, put_trailer, trailer_matches};
use mailrace_shards::spool::recover::{begin, open};
use mailrace_shards::spool::report::{DropReason, Point, Progress, Recovered, SpoolCompletion, Standing};
use mailrace_shards::spool::search::search;
use mailrace_shards::spool::segment::{segment_header, segment_name};
use mailrace_shards::time::Timestamp;
use smallvec::{SmallVec, smallvec};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::sync::Arc;

const SEGMENT: u64 = 3000;

fn options(seed: u64) -> JournalOptions {
    JournalOptions { segment_bytes: SEGMENT, slack_bytes: 0, ..JournalOptions::new(true, seed) }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    Open,
    /// Told to the spool, not yet known to be durable: a crash may leave either.
    Told,
    Durable,
}

#[derive(Clone, Debug)]
struct Known {
    acknowledged: bool,
    /// Answered with a failure; `Durable` once the spool has worked since, so that it must not come back.
    refused: Option<End>,
    recipients: Vec<End>,
    /// Attempts: known to be durable, and told.
    attempts: Vec<(u16, u16)>,
    /// The outcome log has its reception, and the spool was told.
    recorded: End,
    /// Where it was stored, as far as that was answered.
    place: Option<Point>,
    /// Compaction has moved it: its reception may be asked for again.
    moved: bool,
}

/// What must hold of the spool, learned from what it was told and what it answered.
#[derive(Clone, Default)]
struct Model {
    messages: BTreeMap<MessageId, Known>,
    /// What the spool may be told next of receptions, in the order of the log: up to which point, and of whom.
    receptions: VecDeque<(Point, Vec<MessageId>)>,
    next: u64,
    moved: u32,
}

#[derive(Clone)]
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

fn body_of(id: MessageId) -> Bytes {
    let length = 50 + (id.sequence * 37 % 900) as usize;
    Bytes::from(vec![b'a' + (id.sequence % 26) as u8; length])
}

fn envelope_of(id: MessageId, recipients: usize) -> Arc<Envelope> {
    let names: Vec<String> = (0..recipients).map(|n| format!("r{n}@d{}.example", id.sequence)).collect();
    let size = body_of(id).len() as u32;
    Arc::new(Envelope::new(id, Timestamp(5), size, ContentFlags::default(), "s@example", &names, None))
}

impl Model {
    /// One turn of a busy spool, chosen by `random`.
    fn turn(&mut self, journal: &mut Journal<MemoryDisk>, random: &mut Random) {
        let mut out = Vec::new();
        for _ in 0..random.below(3) {
            self.next += 1;
            let id = MessageId { generation: 7, core: 1, sequence: self.next };
            let recipients = if random.below(8) == 0 { 40 } else { 1 + random.below(3) as usize };
            let known = Known {
                acknowledged: false,
                refused: None,
                recipients: vec![End::Open; recipients],
                attempts: vec![(0, 0); recipients],
                recorded: End::Open,
                place: None,
                moved: false,
            };
            self.messages.insert(id, known);
            journal.store(self.next, envelope_of(id, recipients), body_of(id), &mut out);
        }
        for _ in 0..random.below(5) {
            self.advance(journal, random);
        }
        // The log comes up in leaps, so that segments end and messages are finished before it does.
        let leap = if random.below(10) == 0 { 20 } else { 0 };
        for _ in 0..leap {
            let Some((point, messages)) = self.receptions.pop_front() else { break };
            messages.iter().for_each(|id| self.messages.get_mut(id).unwrap().recorded = End::Told);
            journal.progress(Progress::Recorded(point));
        }
        journal.maintain(&mut out);
        if random.below(6) == 0 {
            self.advance(journal, random);
        }
        journal.commit(random.below(3) == 0, &mut out);
        if random.below(20) == 0 {
            journal.idle(&mut out);
        }
        self.hear(&out, journal);
    }

    /// Something becomes of a recipient of an acknowledged message.
    fn advance(&mut self, journal: &mut Journal<MemoryDisk>, random: &mut Random) {
        let open: Vec<MessageId> = self.messages.iter().filter(|(_, k)| is_open(k)).map(|(id, _)| *id).collect();
        if open.is_empty() {
            return;
        }
        let id = open[random.below(open.len() as u64) as usize];
        let known = self.messages.get_mut(&id).unwrap();
        // The last recipient of some messages stays for long, so that segments are left with little in them.
        let stays = id.sequence.is_multiple_of(5);
        let last = known.recipients.iter().filter(|end| **end == End::Open).count() == 1;
        if stays && last && random.below(12) > 0 {
            return;
        }
        let all = !stays && random.below(2) == 0;
        if random.below(4) == 0 {
            let index = known.recipients.iter().position(|end| *end == End::Open).unwrap();
            known.attempts[index].1 += 1;
            let attempts = known.attempts[index].1;
            let standing = Standing { attempts, due: Timestamp(99), maybe_delivered: index % 2 == 1 };
            journal.progress(Progress::Attempt { id, recipients: smallvec![index as u16], standing });
            return;
        }
        let mut recipients = smallvec![];
        for (index, end) in known.recipients.iter_mut().enumerate().filter(|(_, end)| **end == End::Open) {
            *end = End::Told;
            recipients.push(index as u16);
            if !all {
                break;
            }
        }
        journal.progress(Progress::Done { id, recipients });
    }

    fn hear(&mut self, out: &[SpoolCompletion], journal: &Journal<MemoryDisk>) {
        for completion in out {
            match completion {
                SpoolCompletion::Stored { ticket, location } => {
                    let id = MessageId { generation: 7, core: 1, sequence: *ticket };
                    let known = self.messages.get_mut(&id).unwrap();
                    known.acknowledged = true;
                    known.place = Some((*location).into());
                    self.receptions.push_back(((*location).into(), vec![id]));
                }
                SpoolCompletion::Failed { ticket, .. } => {
                    let id = MessageId { generation: 7, core: 1, sequence: *ticket };
                    self.messages.get_mut(&id).unwrap().refused = Some(End::Told);
                }
                SpoolCompletion::Moved { id, .. } => {
                    self.moved += 1;
                    self.messages.get_mut(id).unwrap().moved = true;
                }
                SpoolCompletion::Damaged { .. } => panic!("nothing was damaged: {completion:?}"),
                _ => {}
            }
        }
        if !journal.has_unsynced() && !journal.is_failing() {
            for known in self.messages.values_mut() {
                known.recipients.iter_mut().filter(|end| **end == End::Told).for_each(|end| *end = End::Durable);
                known.refused = known.refused.map(|_| End::Durable);
                known.recorded = if known.recorded == End::Told { End::Durable } else { known.recorded };
                known.attempts.iter_mut().for_each(|(durable, told)| *durable = *told);
            }
        }
    }

    /// Checks what recovery found, and takes it for the truth from now on.
    fn check(&mut self, recovered: Recovered, disk: &MemoryDisk, what: &str) {
        let mut found = BTreeMap::new();
        for message in recovered.messages {
            let id = message.envelope.id();
            let file = disk.content(&segment_name(message.location.segment)).expect("the segment exists");
            let record = &file[message.location.offset as usize..];
            let (body, rest) = record.split_at(message.location.length as usize);
            assert_eq!(body, body_of(id), "{what}: body of {id}");
            assert!(trailer_matches(&rest[..TRAILER_BYTES], id, body), "{what}: trailer of {id}");
            let known = self.messages.get_mut(&id).unwrap_or_else(|| panic!("{what}: {id} rose again"));
            // A crash may have come between the copy and the word of it.
            known.moved |= known.place != Some(message.location.into());
            assert_eq!(*message.envelope, *envelope_of(id, known.recipients.len()), "{what}");
            assert!(found.insert(id, message.open).is_none(), "{what}: {id} twice");
        }
        let unrecorded: Vec<MessageId> = recovered.unrecorded.iter().map(|envelope| envelope.id()).collect();
        self.receptions = VecDeque::from([(recovered.recorded, unrecorded.clone())]);
        for (id, known) in &mut self.messages {
            let asked = unrecorded.contains(id);
            let lost = known.acknowledged && known.recorded == End::Open && !asked;
            assert!(!lost, "{what}: the reception of {id} is lost");
            assert!(!asked || known.recorded != End::Durable || known.moved, "{what}: {id} is recorded again");
            known.recorded = if asked { End::Open } else { End::Durable };
            let open = found.remove(id).unwrap_or_default();
            assert!(known.refused != Some(End::Durable) || open.is_empty(), "{what}: {id} was refused and is back");
            known.refused = None;
            for (index, end) in known.recipients.iter_mut().enumerate() {
                let standing = open.iter().find(|o| usize::from(o.index) == index).map(|o| o.standing);
                match (*end, standing) {
                    (End::Durable, Some(_)) => panic!("{what}: {id}/{index} rose again"),
                    (End::Open, None) if known.acknowledged => panic!("{what}: {id}/{index} is lost"),
                    (_, None) => *end = End::Durable,
                    (_, Some(standing)) => {
                        let (durable, told) = known.attempts[index];
                        let range = durable..=told;
                        assert!(range.contains(&standing.attempts), "{what}: {id}/{index} {standing:?} {range:?}");
                        known.attempts[index] = (standing.attempts, standing.attempts);
                        *end = End::Open;
                    }
                }
            }
            // What was never acknowledged may have survived all the same; then it stays.
            known.acknowledged = true;
        }
    }
}

fn is_open(known: &Known) -> bool {
    known.acknowledged && known.recipients.contains(&End::Open)
}

fn survivals(seed: u64) -> [Survival; 5] {
    [Survival::Nothing, Survival::Everything, Survival::Some(seed), Survival::Some(!seed), Survival::Some(seed * 31)]
}

/// Runs `turns` turns on an empty disk, which fails as `fault` says, then crashes it in several ways. Returns how
/// many operations the disk has done, and how many messages compaction has moved.
fn run(seed: u64, turns: u64, fault: Option<(u64, Fault)>) -> (u64, u32) {
    let disk = MemoryDisk::new();
    let mut random = Random(seed);
    let (mut journal, _) = open(disk.clone(), 3, options(seed)).unwrap();
    let start = disk.operations();
    if let Some((at, fault)) = fault {
        disk.fail_at(start + at, fault);
    }
    let mut model = Model::default();
    for _ in 0..turns {
        model.turn(&mut journal, &mut random);
    }
    for survival in survivals(seed + 1) {
        let (mut model, mut random) = (model.clone(), random.clone());
        let what = format!("seed {seed}, {fault:?}, {survival:?}");
        let after = disk.after_crash(survival);
        let (mut journal, recovered) = open(after.clone(), 3, options(seed + 1)).expect(&what);
        model.check(recovered, &after, &what);
        for _ in 0..12 {
            model.turn(&mut journal, &mut random);
        }
        // Once more, losing all that is not synced: removals after the first recovery must not have been rash.
        let last = after.after_crash(Survival::Nothing);
        let (_, recovered) = open(last.clone(), 3, options(seed + 2)).expect(&what);
        model.check(recovered, &last, &format!("{what}, second crash"));
    }
    (disk.operations() - start, model.moved)
}

#[test]
fn a_crash_at_any_operation_loses_nothing_and_raises_nothing() {
    for seed in [1, 2] {
        let (operations, moved) = run(seed, 90, None);
        assert!(operations > 100 && moved > 3, "the script does something: {operations} operations, {moved} moved");
        println!("seed {seed}: {operations} operations, {moved} moved");
        for at in 0..operations {
            run(seed, 90, Some((at, Fault::Crash)));
        }
    }
}

#[test]
fn any_operation_may_fail_or_tear() {
    for seed in [11] {
        let (operations, _) = run(seed, 80, None);
        for at in 0..operations {
            run(seed, 80, Some((at, Fault::Error(io::ErrorKind::Other))));
            run(seed, 80, Some((at, Fault::Torn)));
        }
    }
}

#[test]
fn many_lives() {
    let mut moved = 0;
    for seed in 0..300 {
        let mut random = Random(seed * 7919);
        let mut disk = MemoryDisk::new();
        let mut model = Model::default();
        for life in 0..10 {
            // The disk may also stop during recovery; then the next life recovers what that left.
            disk.fail_at(random.below(400), Fault::Crash);
            if random.below(3) == 0 {
                disk.fail_at(random.below(100), Fault::Torn);
            }
            if let Ok((mut journal, recovered)) = open(disk.clone(), 3, options(seed * 100 + life)) {
                model.check(recovered, &disk, &format!("seed {seed}, life {life}"));
                for _ in 0..random.below(120) {
                    model.turn(&mut journal, &mut random);
                }
                if random.below(4) == 0 {
                    let mut out = Vec::new();
                    journal.progress(Progress::Done { id: MessageId::default(), recipients: smallvec![0] });
                    journal.commit(true, &mut out);
                    model.hear(&out, &journal);
                    journal.close(&mut out);
                }
            }
            disk = disk.after_crash(survivals(random.below(1 << 30) + 1)[random.below(5) as usize]);
        }
        moved += model.moved;
    }
    assert!(moved > 1000, "compaction was at work: {moved} moved");
}

/// Mail is stored, and its reception told, while what an earlier run left is being searched for. A crash at any
/// operation of that, and once all is known, loses neither of them.
#[test]
fn mail_that_comes_in_during_the_search_and_what_it_finds_survive_together() {
    let stored = |journal: &mut Journal<MemoryDisk>, sequence: u64| {
        let id = MessageId { generation: 7, core: 1, sequence };
        let mut out = Vec::new();
        journal.store(sequence, envelope_of(id, 2), body_of(id), &mut out);
        journal.commit(true, &mut out);
        let location = out.iter().find_map(|of| match of {
            SpoolCompletion::Stored { location, .. } => Some(*location),
            _ => None,
        });
        location.map(Point::from)
    };
    let first = MemoryDisk::new();
    let (mut journal, _) = open(first.clone(), 3, options(1)).unwrap();
    let old: Vec<u64> = (1..=12).filter(|sequence| stored(&mut journal, *sequence).is_some()).collect();
    assert_eq!(old.len(), 12);
    // Of the first, a recipient is finished; the reception of all but it is not known to be in the log.
    let of_first = MessageId { generation: 7, core: 1, sequence: 1 };
    journal.progress(Progress::Done { id: of_first, recipients: smallvec![1] });
    journal.commit(true, &mut Vec::new());
    let all = |recovered: &Recovered| recovered.messages.iter().map(|m| m.envelope.id().sequence).collect::<Vec<_>>();
    for at in 0..60 {
        for survival in survivals(at + 1) {
            let disk = first.after_crash(Survival::Nothing);
            disk.fail_at(at, Fault::Crash);
            let mut expected = old.clone();
            let Ok((mut journal, older)) = begin(disk.clone(), 3, options(2)) else { continue };
            let mut told = Vec::new();
            let mut take = |journal: &mut Journal<MemoryDisk>, sequence| {
                if let Some(point) = stored(journal, sequence) {
                    expected.push(sequence);
                    told.push(point);
                    journal.progress(Progress::Recorded(point));
                }
            };
            take(&mut journal, 21);
            let found = search(&disk, &older, |_| true);
            take(&mut journal, 22);
            if let Ok(Some(found)) = found {
                assert_eq!(found.unrecorded.len(), 12, "what this run has recorded says nothing of an earlier one's");
                assert_eq!(found.messages.left(), 12);
                journal.adopt(found.findings);
                journal.commit(true, &mut Vec::new());
                take(&mut journal, 23);
                journal.progress(Progress::Done { id: of_first, recipients: smallvec![0] });
                journal.commit(true, &mut Vec::new());
            }
            let crashed = disk.after_crash(survival);
            let (_, recovered) = open(crashed, 3, options(3)).unwrap();
            let what = format!("crash at {at}, {survival:?}");
            let found = all(&recovered);
            let missing: Vec<_> = expected.iter().filter(|of| **of != 1 && !found.contains(of)).collect();
            assert!(missing.is_empty(), "{what}: {missing:?} lost");
            let unique: BTreeSet<_> = found.iter().collect();
            assert_eq!(unique.len(), found.len(), "{what}: one twice");
            let asked: BTreeSet<u64> = recovered.unrecorded.iter().map(|of| of.id().sequence).collect();
            assert!(old.iter().all(|of| asked.contains(of)), "{what}: receptions are lost: {asked:?}");
            for message in recovered.messages.iter().filter(|of| of.envelope.id() == of_first) {
                assert_eq!(message.open.iter().map(|of| of.index).collect::<Vec<_>>(), [0], "{what}");
            }
        }
    }
}

/// Once the log has the receptions of an earlier run, those of this run that were told before count too.
#[test]
fn receptions_told_during_the_search_count_when_the_older_ones_are_recorded() {
    let id = |sequence| MessageId { generation: 7, core: 1, sequence };
    for unrecorded in [true, false] {
        let disk = MemoryDisk::new();
        let (mut journal, _) = open(disk.clone(), 3, options(1)).unwrap();
        journal.store(1, envelope_of(id(1), 1), body_of(id(1)), &mut Vec::new());
        journal.commit(true, &mut Vec::new());
        if !unrecorded {
            journal.progress(Progress::Recorded(journal.ledger().behind_all()));
            journal.commit(true, &mut Vec::new());
        }
        let disk = disk.after_crash(Survival::Nothing);
        let (mut journal, older) = begin(disk.clone(), 3, options(2)).unwrap();
        journal.store(2, envelope_of(id(2), 1), body_of(id(2)), &mut Vec::new());
        journal.commit(true, &mut Vec::new());
        journal.progress(Progress::Recorded(journal.ledger().behind_all()));
        let found = search(&disk, &older, |_| true).unwrap().unwrap();
        assert_eq!(found.unrecorded.len(), usize::from(unrecorded));
        journal.adopt(found.findings);
        match unrecorded {
            true => journal.progress(Progress::Recorded(found.recorded)),
            false => journal.older_are_recorded(found.recorded),
        }
        journal.commit(true, &mut Vec::new());
        let (_, recovered) = open(disk.after_crash(Survival::Nothing), 3, options(3)).unwrap();
        assert_eq!((recovered.messages.len(), recovered.unrecorded.len()), (2, 0));
    }
}

/// A crash parted a moved message from the progress that was written with it: the copy is there, the progress
/// stands only in the old segment. When that goes, the progress must not go with it.
#[test]
fn progress_survives_a_copy_that_was_parted_from_it() {
    for (finished, expected) in [(vec![0], vec![1]), (vec![0, 1], vec![])] {
        let disk = MemoryDisk::new();
        let id = MessageId { generation: 7, core: 1, sequence: 1 };
        let (mut journal, _) = open(disk.clone(), 3, options(1)).unwrap();
        journal.store(1, envelope_of(id, 2), body_of(id), &mut Vec::new());
        journal.commit(true, &mut Vec::new());
        journal.progress(Progress::Done { id, recipients: SmallVec::from_slice(&finished) });
        journal.commit(true, &mut Vec::new());

        let mark = Mark(77);
        let mut segment = segment_header(3, 2, mark).to_vec();
        let start = begin_head(&mut segment);
        encode(&envelope_of(id, 2), &mut segment);
        end_head(&mut segment, start, mark, Kind::Message, id, body_of(id).len() as u32);
        segment.extend_from_slice(&body_of(id));
        put_trailer(&mut segment, id, &body_of(id));
        let mut disk = disk.after_crash(Survival::Nothing);
        disk.put(&segment_name(2), &segment);

        for seed in 2..6 {
            let (mut journal, recovered) = open(disk.clone(), 3, options(seed)).unwrap();
            journal.progress(Progress::Recorded(recovered.recorded));
            let open: Vec<u16> = recovered.messages.iter().flat_map(|m| &m.open).map(|o| o.index).collect();
            assert_eq!(open, expected, "start {seed}, finished {finished:?}");
            for _ in 0..5 {
                journal.maintain(&mut Vec::new());
                journal.commit(true, &mut Vec::new());
            }
            assert!(disk.content(&segment_name(1)).is_none(), "the older copy is gone");
            disk = disk.after_crash(Survival::Nothing);
        }
    }
}

/// What a crash left of a creation goes; what else has no sign of a segment in it is kept for the operator and told.
#[test]
fn a_file_that_is_no_segment_is_removed_when_empty_and_set_aside_otherwise() {
    for (octets, kept) in [(vec![], false), (vec![0; 5000], false), (vec![b'?'; 5000], true)] {
        let disk = MemoryDisk::new();
        let name = segment_name(7);
        disk.put(&name, &octets);
        let (_, recovered) = open(disk.clone(), 2, options(1)).unwrap();
        let told: Vec<_> = recovered.dropped.iter().map(|of| (of.file.clone(), of.octets, of.why)).collect();
        let expected = vec![("segment-00000007.damaged".to_owned(), octets.len() as u64, DropReason::BadSegment)];
        assert_eq!(told, if kept { expected } else { vec![] }, "{} octets", octets.len());
        assert_eq!(disk.content(&name), None, "{} octets", octets.len());
        assert_eq!(disk.content("segment-00000007.damaged"), kept.then_some(octets));
    }
}
