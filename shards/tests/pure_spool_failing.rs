//! A spool whose disk refuses: what it says, how often, and how it finds that the disk works again.

use bytes::Bytes;
use mailrace_shards::message::{ContentFlags, Envelope, MessageId};
use mailrace_shards::spool::journal::{Journal, JournalOptions};
use mailrace_shards::spool::memory_disk::{MemoryDisk, Survival};
use mailrace_shards::spool::recover::open;
use mailrace_shards::spool::report::{Recovered, SpoolCompletion};
use mailrace_shards::time::Timestamp;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Segments of 4 KiB.
fn opened(disk: &MemoryDisk) -> (Journal<MemoryDisk>, Recovered) {
    let options = JournalOptions { segment_bytes: 1 << 12, ..JournalOptions::new(true, 42) };
    open(disk.clone(), 2, options).expect("the disk works")
}

fn store(journal: &mut Journal<MemoryDisk>, sequence: u64, body: &Bytes) -> Vec<SpoolCompletion> {
    let id = MessageId { generation: 1, core: 2, sequence };
    let envelope = Envelope::new(id, Timestamp(1), 9, ContentFlags::default(), "s@a", &["r@b"], None);
    let mut out = Vec::new();
    journal.store(sequence, Arc::new(envelope), body.clone(), &mut out);
    journal.commit(false, &mut out);
    out
}

fn is_stored(out: &[SpoolCompletion]) -> bool {
    out.iter().any(|of| matches!(of, SpoolCompletion::Stored { .. }))
}

/// Mail is refused while the spool fails, so nothing comes by which it could be seen to work again.
#[test]
fn a_spool_that_failed_works_again_although_nothing_is_written() {
    let disk = MemoryDisk::new();
    let (mut journal, _) = opened(&disk);
    let large = Bytes::from(vec![b'x'; 3000]);
    assert!(is_stored(&store(&mut journal, 1, &large)));
    // The second message needs another segment, which cannot be made.
    disk.set_free(0);
    let out = store(&mut journal, 2, &large);
    assert!(matches!(out[0], SpoolCompletion::Failed { ticket: 2, .. }), "{out:?}");
    let said = |out: &[SpoolCompletion]| out.iter().filter(|of| matches!(of, SpoolCompletion::Failing { .. })).count();
    assert_eq!(said(&out), 1, "{out:?}");
    let mut out = Vec::new();
    journal.commit(true, &mut out);
    assert!(out.is_empty() && journal.is_failing(), "nothing new: {out:?}");
    disk.set_free(1 << 20);
    journal.commit(true, &mut out);
    assert_eq!((out, journal.is_failing()), (vec![SpoolCompletion::Working], false));
    assert!(is_stored(&store(&mut journal, 3, &large)));
    let (_, recovered) = opened(&disk.after_crash(Survival::Nothing));
    let open: BTreeSet<u64> = recovered.messages.iter().map(|of| of.envelope.id().sequence).collect();
    assert_eq!(open, BTreeSet::from([1, 3]));
}
