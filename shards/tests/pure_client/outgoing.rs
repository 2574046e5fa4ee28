//! The octets between session and `send(2)`: which of them complete a message, and that the gate takes all back.

use super::harness::{config, transaction};
use mailrace_shards::settings::TlsPolicy;
use mailrace_shards::smtp::client::{ClientEvent, Outgoing, Session, Withdrawal};
use mailrace_shards::time::Instant;

const NOW: Instant = Instant(1_000_000);
const PLAIN: &str = "MAIL FROM:<a@o.example>\r\nRCPT TO:<r@d.example>\r\nBDAT 4 LAST\r\nhi\r\n";

/// A session that has message 1 and has sent nothing of it.
fn ready() -> (Session, Outgoing) {
    let (mut session, mut outgoing) = (Session::new(config(TlsPolicy::Disabled), NOW), Outgoing::default());
    session.handle_bytes(b"220 mx\r\n", NOW);
    outgoing.refill(&mut session, NOW);
    assert_eq!((outgoing.unsent(), outgoing.completes_message()), (&b"EHLO me.example\r\n"[..], false));
    assert!(outgoing.note_sent(outgoing.unsent().len(), &mut session, NOW).is_empty());
    session.handle_bytes(b"250-mx\r\n250-PIPELINING\r\n250 CHUNKING\r\n", NOW);
    session.submit(transaction(1, "plain"), NOW);
    (session, outgoing)
}

fn nobody(_: u64) -> Option<[u16; 0]> {
    None
}

#[test]
fn a_message_is_complete_with_its_last_octet_and_not_before() {
    let (mut session, mut outgoing) = ready();
    outgoing.refill(&mut session, NOW);
    assert_eq!((outgoing.unsent(), outgoing.completes_message()), (PLAIN.as_bytes(), true));
    assert!(outgoing.note_sent(PLAIN.len() - 1, &mut session, NOW).is_empty());
    assert_eq!((outgoing.unsent(), outgoing.completes_message()), (&b"\n"[..], true));
    assert!(outgoing.pass_gate(&mut session, NOW, nobody));
    assert_eq!(outgoing.note_sent(1, &mut session, NOW).as_slice(), [1]);
    assert!(outgoing.unsent().is_empty() && !outgoing.completes_message());
    assert_eq!(session.withdraw(1, &[0], NOW), Withdrawal::TooLate, "the session has heard of it");
}

#[test]
fn nothing_stays_to_be_sent_of_a_message_that_is_covered_at_the_gate() {
    for sent in [0, PLAIN.len() - 1] {
        let (mut session, mut outgoing) = ready();
        outgoing.refill(&mut session, NOW);
        assert!(outgoing.note_sent(sent, &mut session, NOW).is_empty());
        let mut asked = Vec::new();
        let may_go = outgoing.pass_gate(&mut session, NOW, |token| {
            asked.push(token);
            Some([0])
        });
        assert_eq!((may_go, asked), (false, vec![1]), "{sent} sent");
        assert!(outgoing.unsent().is_empty() && !outgoing.completes_message(), "{sent} sent");
        outgoing.refill(&mut session, NOW);
        assert!(outgoing.unsent().is_empty(), "{sent} sent: {:?}", outgoing.unsent());
    }
}

/// Nobody can read a TLS record before its last octet, so that one completes the message whose end it holds, wherever its
/// text ends. With several messages at once all of them were complete only with the last octet of all: one that the peer
/// had, and had answered, could be taken back and sent again.
#[test]
fn under_tls_the_last_octet_of_its_record_completes_a_message() {
    let seal = |octets: &[u8], out: &mut Vec<u8>| {
        if !octets.is_empty() {
            out.extend_from_slice(&[octets, b"the record's tag"].concat());
        }
    };
    let (mut session, mut outgoing) = ready();
    session.submit(transaction(2, "other"), NOW);
    outgoing.refill_sealed(Some(&mut session), &mut Vec::new(), NOW, seal);
    let record = PLAIN.len() + 16;
    assert_eq!((outgoing.unsent().len(), outgoing.completes_message()), (2 * record + "RSET\r\n".len(), true));
    assert!(outgoing.note_sent(record - 1, &mut session, NOW).is_empty());
    assert!(outgoing.completes_message() && outgoing.pass_gate(&mut session, NOW, nobody));
    assert_eq!(outgoing.note_sent(1, &mut session, NOW).as_slice(), [1]);
    assert!(outgoing.completes_message());
    session.handle_bytes(b"250 ok\r\n250 ok\r\n250 taken\r\n", NOW);
    let events: Vec<_> = std::iter::from_fn(|| session.poll_event()).collect();
    assert!(matches!(&events[..], [.., ClientEvent::Finished { token: 1, .. }]), "{events:?}");
    assert_eq!(outgoing.note_sent(record + "RSET\r\n".len(), &mut session, NOW).as_slice(), [2]);
    outgoing.refill_sealed(Some(&mut session), &mut Vec::new(), NOW, seal);
    assert!(outgoing.unsent().is_empty() && !outgoing.completes_message());
}

/// As long as hands are shaken, TLS has the word.
#[test]
fn nothing_of_the_session_goes_out_before_hands_are_shaken() {
    let (mut session, mut outgoing) = ready();
    outgoing.refill_sealed(None, &mut b"old".to_vec(), NOW, |octets, out| {
        out.extend_from_slice(&[octets, b"hello"].concat())
    });
    assert_eq!((outgoing.unsent(), outgoing.completes_message()), (&b"hello"[..], false));
    assert!(outgoing.note_sent(5, &mut session, NOW).is_empty());
}

/// An idle connection keeps no room for octets; what is to be sent is never given away with it.
#[test]
fn room_is_given_back_when_nothing_is_in_it() {
    let (mut session, mut outgoing) = ready();
    outgoing.refill(&mut session, NOW);
    assert_eq!(outgoing.give_back(), None);
    assert_eq!(outgoing.unsent(), PLAIN.as_bytes());
    outgoing.note_sent(PLAIN.len(), &mut session, NOW);
    outgoing.refill(&mut session, NOW);
    let room = outgoing.give_back().expect("there was nothing to send");
    assert!(room.is_empty() && room.capacity() >= PLAIN.len(), "{room:?}");
    outgoing.lend(|| Vec::with_capacity(777));
    outgoing.lend(|| unreachable!("it has some"));
    assert_eq!(outgoing.give_back().map(|room| (room.len(), room.capacity())), Some((0, 777)));
}
