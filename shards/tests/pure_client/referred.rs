//! Large bodies are sent from where they stand: the octets and their order are those of a session that copies them.

use super::harness::config;
use mailrace_shards::limits::{BLIND_BODY_BYTES_MAX, FILL_BYTES, REFERRED_BYTES_MIN, REFERRED_TAIL_BYTES};
use mailrace_shards::message::{Body, ContentFlags, Envelope, MessageId};
use mailrace_shards::settings::TlsPolicy;
use mailrace_shards::smtp::client::{ClientEvent, Outgoing, Session, Transaction};
use mailrace_shards::time::{Instant, Timestamp};
use std::collections::VecDeque;
use std::sync::Arc;

const NOW: Instant = Instant(0);

/// A session over a connection that offers this, and three messages for it, two of this size.
fn session(offers: &[u8], size: usize, dot_lines: bool) -> (Session, VecDeque<Transaction>) {
    let mut session = Session::new(config(TlsPolicy::Disabled), NOW);
    session.handle_bytes(b"220 hello\r\n", NOW);
    session.fill(&mut Vec::new(), 1000, &mut Vec::new(), NOW);
    session.handle_bytes(offers, NOW);
    assert!(matches!(session.poll_event(), Some(ClientEvent::Ready(_))));
    let mut transactions = VecDeque::new();
    for (token, size) in (1..).zip([size, 10, size]) {
        let line = if dot_lines { &b"..a line that begins with dots\r\n"[..] } else { b"a line like others\r\n" };
        let mut body: Vec<u8> = line.iter().copied().cycle().take(size.saturating_sub(2)).collect();
        body.extend_from_slice(b"\r\n");
        let flags = ContentFlags { dot_lines, ..ContentFlags::default() };
        let envelope = Envelope::new(
            MessageId::default(),
            Timestamp(0),
            body.len() as u32,
            flags,
            "a@o.example",
            &["r@d.example"],
            None,
        );
        let recipients = std::iter::once(0).collect();
        let body = Body::from(body);
        transactions.push_back(Transaction { token, envelope: Arc::new(envelope), recipients, body });
    }
    (session, transactions)
}

/// A peer that takes everything.
#[derive(Default)]
struct Peer {
    read: usize,
    in_data: bool,
}

impl Peer {
    /// What it answers to what it has not read yet of `all`.
    fn answer(&mut self, all: &[u8]) -> Vec<u8> {
        let mut replies = Vec::new();
        loop {
            let rest = &all[self.read..];
            let end = if self.in_data { &b"\r\n.\r\n"[..] } else { b"\r\n" };
            let Some(at) = rest.windows(end.len()).position(|octets| octets == end) else { return replies };
            let mut taken = at + end.len();
            let line = String::from_utf8_lossy(&rest[..at]);
            if let Some(words) = line.strip_prefix("BDAT ").filter(|_| !self.in_data) {
                taken += words.trim_end_matches(" LAST").parse::<usize>().unwrap();
                if taken > rest.len() {
                    return replies;
                }
            }
            self.in_data = line == "DATA" && !self.in_data;
            replies.extend_from_slice(if self.in_data { b"354 go\r\n" } else { b"250 ok\r\n" });
            self.read += taken;
        }
    }
}

/// Everything sent up to the end, and the places of the octets that complete a message; `take` sends what can go.
fn sent(
    (mut session, mut transactions): (Session, VecDeque<Transaction>),
    mut take: impl FnMut(&mut Session, &mut Vec<u8>, &mut Vec<usize>),
) -> (Vec<u8>, Vec<usize>) {
    let (mut all, mut completing, mut peer, mut finished) = (Vec::new(), Vec::new(), Peer::default(), 0);
    loop {
        while session.wants_transaction()
            && let Some(transaction) = transactions.pop_front()
        {
            session.submit(transaction, NOW);
        }
        take(&mut session, &mut all, &mut completing);
        let replies = peer.answer(&all);
        session.handle_bytes(&replies, NOW);
        while let Some(event) = session.poll_event() {
            finished += usize::from(matches!(event, ClientEvent::Finished { .. }));
        }
        if replies.is_empty() {
            assert_eq!(finished, 3);
            return (all, completing);
        }
    }
}

fn copied(session: &mut Session, all: &mut Vec<u8>, completing: &mut Vec<usize>) {
    loop {
        let (mut out, mut marks) = (Vec::new(), Vec::new());
        session.fill(&mut out, FILL_BYTES, &mut marks, NOW);
        completing.extend(marks.iter().map(|mark| all.len() + mark.position));
        if out.is_empty() {
            return;
        }
        marks.iter().for_each(|mark| session.handle_end_of_data_sent(mark.token, NOW));
        all.extend(out);
    }
}

/// In pieces as a socket takes them. Whether a body was referred to.
fn referred(session: &mut Session, all: &mut Vec<u8>, completing: &mut Vec<usize>, pieces: &[usize]) -> bool {
    let (mut outgoing, mut referred) = (Outgoing::default(), false);
    for piece in pieces.iter().copied().cycle() {
        if outgoing.unsent().is_empty() {
            outgoing.refill(session, NOW);
        }
        let parts = outgoing.parts();
        referred |= parts.concat().len() > FILL_BYTES + 1000 || !parts[1].is_empty();
        let together = parts.concat();
        assert!(together.starts_with(outgoing.unsent()) && (parts[1].is_empty() || !parts[0].is_empty()));
        if together.is_empty() {
            return referred;
        }
        let count = piece.min(together.len());
        all.extend_from_slice(&together[..count]);
        let asked = outgoing.completes_message();
        let tokens = outgoing.note_sent(count, session, NOW);
        assert!(asked || tokens.is_empty(), "what completes a message is asked about");
        completing.extend(tokens.iter().map(|_| all.len()));
    }
    referred
}

#[test]
fn the_octets_are_the_same() {
    let mut any = 0;
    for offers in [&b"250-mx\r\n250 PIPELINING\r\n"[..], b"250-mx\r\n250-CHUNKING\r\n250 PIPELINING\r\n", b"250 mx\r\n"]
    {
        let least = REFERRED_BYTES_MIN + REFERRED_TAIL_BYTES;
        for size in [100, least - 1, least, least + 1, FILL_BYTES, FILL_BYTES + least, 300_000] {
            for dot_lines in [false, true] {
                let (expected, ends) = sent(session(offers, size, dot_lines), copied);
                assert!(expected.len() > 2 * size, "{} octets sent of {size}", expected.len());
                for pieces in [&[usize::MAX][..], &[1000, 17, 70_000], &[65_536]] {
                    let mut some = false;
                    let take = |session: &mut Session, all: &mut Vec<u8>, completing: &mut Vec<usize>| {
                        some |= referred(session, all, completing, pieces);
                    };
                    let (octets, completing) = sent(session(offers, size, dot_lines), take);
                    assert!(octets == expected, "{size} {dot_lines} {pieces:?}");
                    assert_eq!((completing.len(), ends.len()), (3, 3));
                    assert!(completing.iter().zip(&ends).all(|(by, at)| by > at));
                    assert!(!some || size >= least, "{size}");
                    any += usize::from(some);
                }
            }
        }
    }
    assert!(any > 20, "bodies were sent from where they stand {any} times");
}

/// From so many octets on a body is not copied but for its end, unless something in it changes on the way.
#[test]
fn a_body_is_referred_to_from_its_least_size_on() {
    let least = REFERRED_BYTES_MIN + REFERRED_TAIL_BYTES;
    for (size, dot_lines, chunking) in [
        (least - 1, false, true),
        (least, false, true),
        (least + 1, false, true),
        (least, true, true),
        (least - 1, false, false),
        (least, false, false),
        (least, true, false),
    ] {
        let offers = if chunking { &b"250-mx\r\n250-CHUNKING\r\n250 PIPELINING\r\n"[..] } else { b"250 mx\r\n" };
        let (mut session, mut transactions) = session(offers, size, dot_lines);
        session.submit(transactions.pop_front().unwrap(), NOW);
        let replies: &[&[u8]] = if chunking { &[] } else { &[b"250 ok\r\n", b"250 ok\r\n", b"354 go\r\n"] };
        let (mut out, mut marks) = (Vec::new(), Vec::new());
        let mut piece = session.fill_or_refer(&mut out, FILL_BYTES, &mut marks, NOW);
        for reply in replies {
            assert_eq!(piece, None);
            session.handle_bytes(reply, NOW);
            piece = session.fill_or_refer(&mut out, FILL_BYTES, &mut marks, NOW);
        }
        let expected = (size >= least && (chunking || !dot_lines)).then_some(size - REFERRED_TAIL_BYTES);
        assert_eq!(piece.as_ref().map(|piece| piece.len()), expected, "{size} {dot_lines} {chunking}");
        if expected.is_some() {
            assert_eq!(session.fill_or_refer(&mut out, FILL_BYTES, &mut marks, NOW), None);
            assert!((REFERRED_TAIL_BYTES..REFERRED_TAIL_BYTES + 200).contains(&out.len()), "{}", out.len());
        }
        assert_eq!(marks.len(), 1);
    }
}

/// A body of so many octets goes with its recipients, one that is longer waits for them.
#[test]
fn a_body_is_sent_blindly_up_to_its_bound() {
    for (size, blindly) in [(BLIND_BODY_BYTES_MAX, true), (BLIND_BODY_BYTES_MAX + 1, false)] {
        let (mut session, mut transactions) = session(b"250-mx\r\n250-CHUNKING\r\n250 PIPELINING\r\n", size, false);
        session.submit(transactions.pop_front().unwrap(), NOW);
        let mut out = Vec::new();
        session.fill(&mut out, 2 * size, &mut Vec::new(), NOW);
        assert_eq!(out.len() > size, blindly, "{size}");
        session.handle_bytes(b"250 ok\r\n250 ok\r\n", NOW);
        session.fill(&mut out, 2 * size, &mut Vec::new(), NOW);
        assert!(out.len() > size);
    }
}
