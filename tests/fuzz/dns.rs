//! DNS replies from any server. An input is a reply: once as it stands, with the id of the query; once as the records
//! behind the header and the question of the query, so that it is read at all.

use mailrace_shards::dns::exchange::Transmit;
use mailrace_shards::dns::private::is_private;
use mailrace_shards::dns::query::{Kind, Reply, decode};
use mailrace_shards::dns::resolve::{Outcome, Progress, Resolver};
use mailrace_shards::time::Instant;
use std::collections::HashSet;

/// Octets of a message's header.
const HEADER_BYTES: usize = 12;
/// Queries of one resolution; more means that a server can keep us busy.
const QUERIES_MAX: usize = 2_000;
/// Turns in which a resolution must end; each is an answer, a query or a time-out.
const TURNS_MAX: usize = 10_000;

/// Names, types and their numbers.
pub const WORDS: &[&[u8]] = &[
    b"\x03two\x04test\x00",
    b"\x01a\x03two\x04test\x00",
    b"\x09localhost\x00",
    b"\xc0\x0c",
    b"\xc0\x00",
    b"\xc0\x17",
    b"\xff\xff",
    b"\x00",
    b"\x00\x01\x00\x01\x00\x00\x00\x3c\x00\x04\x7f\x00\x00\x01",
    b"\x00\x05\x00\x01\x00\x00\x00\x3c\x00\x02\xc0\x0c",
    b"\x00\x0f\x00\x01\x00\x00\x00\x3c\x00\x04\x00\x0a\xc0\x0c",
    b"\x00\x0f\x00\x01\x00\x00\x00\x3c\x00\x03\x00\x00\x00",
    b"\x00\x1c\x00\x01\x00\x00\x00\x3c\x00\x10\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01",
    b"\x00\x06\x00\x01\x7f\xff\xff\xff",
    b"\x00\x00\x29\x04\xd0\x00\x00\x00\x00\x00\x00",
];

/// One input.
pub fn check(input: &[u8]) {
    for kind in [Kind::Mx, Kind::A, Kind::Aaaa] {
        for name in ["two.test", "a.two.test", "."] {
            if let Ok(reply) = decode(input, name, kind) {
                read(&reply, input.len());
            }
        }
    }
    for (domain, as_records) in [("two.test", true), ("two.test", false), ("localhost.two.test", true)] {
        for allow_private in [true, false] {
            resolve(domain, allow_private, &|query| reply_to(query, input, as_records));
        }
    }
}

/// What a reply says is no more than what it can hold.
fn read(reply: &Reply, octets: usize) {
    // An owner, type, class, TTL and length take eleven octets at least.
    assert!(reply.records.len() <= octets / 11, "{} records in {octets} octets", reply.records.len());
    for record in &reply.records {
        let owner = &*record.owner;
        assert!(owner == "." || !owner.ends_with('.'), "{owner:?}");
        assert_eq!(owner.to_ascii_lowercase(), owner);
        assert!(record.ttl_s <= i32::MAX as u32, "RFC 2181 §8");
    }
}

fn reply_to(query: &Transmit, input: &[u8], as_records: bool) -> Vec<u8> {
    let message = &query.message;
    let mut reply = message[..2].to_vec();
    if !as_records {
        reply.extend_from_slice(input.get(2..).unwrap_or_default());
        return reply;
    }
    let mut header = [0x81, 0x80, 0, 1, 0, 2, 0, 0, 0, 0];
    let given = input.get(2..HEADER_BYTES).unwrap_or_default();
    header[..given.len()].copy_from_slice(given);
    header[2..4].copy_from_slice(&[0, 1]);
    reply.extend_from_slice(&header);
    let name = message[HEADER_BYTES..].iter().position(|octet| *octet == 0).expect("a question has a name");
    reply.extend_from_slice(&message[HEADER_BYTES..HEADER_BYTES + name + 5]);
    reply.extend_from_slice(input.get(HEADER_BYTES..).unwrap_or_default());
    reply
}

/// A resolution ends, once, with what may be used.
fn resolve(domain: &str, allow_private: bool, reply: &dyn Fn(&Transmit) -> Vec<u8>) {
    let server = "192.0.2.1:53".parse().unwrap();
    let mut resolver = Resolver::new(&[server], allow_private, 1);
    let mut now = Instant(1_000_000);
    let (mut draws, mut queries) = (0_u64, 0);
    let ticket = match resolver.mail_hosts(now, domain) {
        Progress::Ready(outcome) => return judge(&outcome, allow_private),
        Progress::Pending(ticket) => ticket,
    };
    for _ in 0..TURNS_MAX {
        let mut draw = || {
            draws += 0x1_2345_6789;
            draws
        };
        if let Some((answered, outcome)) = resolver.poll_answer(now) {
            assert!(answered == ticket, "only one resolution is under way");
            judge(&outcome, allow_private);
            assert!(resolver.poll_answer(now).is_none(), "it is answered once");
            return;
        }
        if let Some(query) = resolver.poll_query(now, &mut draw) {
            queries += 1;
            assert!(queries <= QUERIES_MAX, "{domain} is asked for without end");
            resolver.handle_response(now, query.via, &reply(&query));
        } else if !resolver.has_answers() {
            now = resolver.next_timeout().expect("something is awaited").max(now);
            resolver.handle_timeout(now);
        }
    }
    panic!("the resolution of {domain} does not end");
}

fn judge(outcome: &Outcome, allow_private: bool) {
    let Ok(found) = outcome else { return };
    assert!(!found.hosts.is_empty(), "an outcome without hosts is a failure");
    assert!(found.hosts.is_sorted_by_key(|host| host.preference), "by preference");
    let names: HashSet<_> = found.hosts.iter().map(|host| &host.name).collect();
    assert_eq!(names.len(), found.hosts.len(), "each host once");
    for host in &found.hosts {
        assert!(!host.addresses.is_empty(), "{} has no address", host.name);
        assert!(allow_private || host.addresses.iter().all(|address| !is_private(*address)), "{host:?}");
    }
}
