//! A message in steady state costs the session one allocation: the text of the reply that is kept for its record.

#![expect(unsafe_code, reason = "an allocator can only be counted from inside")]

use mailrace_shards::message::{Body, ContentFlags, Envelope, MessageId};
use mailrace_shards::settings::TlsPolicy;
use mailrace_shards::smtp::client::{ClientConfig, ClientEvent, Session, Transaction};
use mailrace_shards::time::{Instant, Timestamp};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: hands everything on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promises are those that `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

fn transaction(token: u64) -> Transaction {
    let flags = ContentFlags::default();
    let recipients = ["r@d.example"];
    let envelope = Envelope::new(MessageId::default(), Timestamp(0), 4096, flags, "a@o.example", &recipients, None);
    let body = Body::from([b'x'; 4094].iter().chain(b"\r\n").copied().collect::<Vec<u8>>());
    Transaction { token, envelope: Arc::new(envelope), recipients: std::iter::once(0).collect(), body }
}

/// Allocations of each of `count` messages, after some that warm the buffers up.
fn allocations(offers: &[u8], dialogue: &[&[u8]], count: u64) -> Vec<usize> {
    let config = ClientConfig {
        ehlo: Arc::from("me.example"),
        host: Arc::from("mx.example"),
        tls: TlsPolicy::Disabled,
        pipelined_chunks: 4,
    };
    let now = Instant(0);
    let (mut out, mut marks) = (Vec::with_capacity(65_536), Vec::with_capacity(8));
    let mut session = Session::new(config, now);
    session.handle_bytes(b"220 hello\r\n", now);
    session.fill(&mut out, 60_000, &mut marks, now);
    session.handle_bytes(offers, now);
    assert!(matches!(session.poll_event(), Some(ClientEvent::Ready(_))));
    let mut each = Vec::with_capacity(128);
    for transaction in (0..count + 8).map(transaction) {
        let before = ALLOCATIONS.get();
        let token = transaction.token;
        session.submit(transaction, now);
        for replies in dialogue {
            out.clear();
            marks.clear();
            session.fill(&mut out, 60_000, &mut marks, now);
            for mark in &marks {
                session.handle_end_of_data_sent(mark.token, now);
            }
            session.handle_bytes(replies, now);
        }
        let event = session.poll_event();
        each.push(ALLOCATIONS.get() - before);
        assert!(matches!(event, Some(ClientEvent::Finished { token: done, .. }) if done == token), "{event:?}");
    }
    each.split_off(8)
}

#[test]
fn one_allocation_a_message() {
    let data: &[&[u8]] = &[b"250 2.1.0 ok\r\n250 2.1.5 ok\r\n354 go\r\n", b"250 2.0.0 queued as 12345\r\n"];
    let split: &[&[u8]] = &[b"250 2.1.0 ok\r\n250 2.", b"1.5 ok\r\n354 go\r\n", b"250 2.0.0 que", b"ued\r\n"];
    let chunks: &[&[u8]] = &[b"250 2.1.0 ok\r\n250 2.1.5 ok\r\n250 2.0.0 queued as 12345\r\n"];
    let lock_step: &[&[u8]] = &[b"250 ok\r\n", b"250 ok\r\n", b"354 go\r\n", b"250 2.0.0 queued\r\n"];
    for (offers, dialogue) in [
        (&b"250-mx\r\n250 PIPELINING\r\n"[..], data),
        (b"250-mx\r\n250 PIPELINING\r\n", split),
        (b"250-mx\r\n250-CHUNKING\r\n250 PIPELINING\r\n", chunks),
        (b"250 mx\r\n", lock_step),
    ] {
        assert_eq!(allocations(offers, dialogue, 100), [1; 100]);
    }
}
