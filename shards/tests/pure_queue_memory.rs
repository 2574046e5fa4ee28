//! What a queued message occupies, structure by structure, counted in the allocator. A million may wait, so an octet here
//! is a megabyte there.

#![expect(unsafe_code, reason = "an allocator can only be counted from inside")]

use mailrace_shards::message::{ContentFlags, Envelope, Location, MessageId};
use mailrace_shards::queue::{NewEntry, Queue};
use mailrace_shards::spool::ledger::{Ledger, Place};
use mailrace_shards::time::Timestamp;
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

static OCTETS: AtomicUsize = AtomicUsize::new(0);

struct Counting;

// SAFETY: hands everything on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        OCTETS.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promises are those that `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        OCTETS.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// As many as fill tables that double in size by three quarters.
const MESSAGES: u64 = 196_608;

const NOW: Timestamp = Timestamp(1_700_000_000_000);

fn id(sequence: u64) -> MessageId {
    MessageId { generation: 1_700_000_000, core: 1, sequence }
}

/// Octets for each message that `make` leaves allocated, and what it made.
fn weighed<T>(make: impl FnOnce() -> T) -> (usize, T) {
    let before = OCTETS.load(Ordering::Relaxed);
    let made = make();
    (OCTETS.load(Ordering::Relaxed).saturating_sub(before) / MESSAGES as usize, made)
}

fn envelope(sequence: u64) -> Arc<Envelope> {
    let recipient = format!("recipient.{:05}@domain{:03}.example", sequence % 100_000, sequence % 1000);
    let flags = ContentFlags::default();
    Arc::new(Envelope::new(id(sequence), NOW, 4096, flags, "bounces@sender.example", &[recipient], None))
}

fn queued(envelope: &Arc<Envelope>, due: Option<Timestamp>) -> NewEntry {
    let location = Location { spool: 1, segment: 3, offset: envelope.id().sequence * 64, length: 4096 };
    NewEntry {
        envelope: envelope.clone(),
        recipients: std::iter::once(0).collect(),
        location,
        body: None,
        attempts: 0,
        due,
        // As if they had come over a day.
        expires: Timestamp(NOW.0 + 86_400_000 + envelope.id().sequence as i64 * 440),
        maybe_delivered: false,
    }
}

#[test]
fn a_queued_message_is_small() {
    let (envelopes, all) = weighed(|| (0..MESSAGES).map(envelope).collect::<Vec<_>>());
    let (ready, queue) = weighed(|| {
        let mut queue = Queue::default();
        for envelope in &all {
            queue.insert(queued(envelope, None), NOW);
        }
        queue
    });
    let (waiting, later) = weighed(|| {
        let mut queue = Queue::default();
        for envelope in &all {
            queue.insert(queued(envelope, Some(Timestamp(NOW.0 + 3_600_000))), NOW);
        }
        queue
    });
    let (spool, ledger) = weighed(|| {
        let mut ledger = Ledger::default();
        for sequence in 0..MESSAGES {
            ledger.insert(id(sequence), Place { segment: 1, offset: sequence as u32, head: 150, body: 4096 }, 1);
        }
        ledger
    });
    let entries = size_of::<mailrace_shards::queue::Entry>();
    println!("envelope {envelopes}, queue {ready} (waiting {waiting}; the entry alone {entries}), spool {spool}");
    assert_eq!(
        (queue.len(), later.len(), ledger.open_messages()),
        (MESSAGES as usize, MESSAGES as usize, MESSAGES as usize)
    );
    // The vector of envelopes takes eight.
    assert!(envelopes <= 80 + 60 + 8, "{envelopes} octets of envelope");
    assert!(ready <= 108, "{ready} octets of queue");
    assert!(waiting <= 108, "{waiting} octets of queue when it waits");
    assert!(spool <= 24, "{spool} octets of spool");
}
