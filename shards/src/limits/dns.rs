//! Bounds of the resolver. They are named as those of [`crate::limits`].

/// Configured DNS servers. More are refused at start.
pub const DNS_SERVERS_MAX: usize = 8;
/// Mail hosts of one domain. Of more, the most preferred are kept (RFC 5321 §5.1 asks for at least two).
pub const DNS_MAIL_HOSTS_MAX: usize = 16;
/// Addresses of one family of one host. Further ones are ignored.
pub const DNS_ADDRESSES_MAX: usize = 16;
/// Links of a CNAME chain. A longer one, or a loop, is a temporary failure.
pub const DNS_ALIASES_MAX: usize = 8;
/// Octets of a UDP reply that we announce (EDNS0; the "flag day 2020" size that avoids fragments).
pub const DNS_UDP_PAYLOAD_BYTES: u16 = 1232;
/// Octets read of one datagram. What is cut off makes the reply unreadable, and TCP is tried.
pub const DNS_DATAGRAM_BYTES: usize = 2048;
/// Octets of a reply by TCP. A longer one counts as a failure of the server.
pub const DNS_REPLY_BYTES_MAX: usize = 16 * 1024;
/// Queries without a reply yet. Further ones wait.
pub const DNS_IN_FLIGHT_MAX: usize = 1024;
/// The same by TCP, each of which is a connection. Further ones wait.
pub const DNS_TCP_IN_FLIGHT_MAX: usize = 64;
/// Queries in flight and waiting. Beyond it a resolution fails as temporary at once.
pub const DNS_LOOKUPS_MAX: usize = 16 * 1024;
/// Resolutions under way. Beyond it a new one fails as temporary at once.
pub const DNS_RESOLUTIONS_MAX: usize = 8 * 1024;
/// Time for one try by UDP; then the next server is asked.
pub const DNS_UDP_TRY_MS: u64 = 2_000;
/// Time for one try by TCP, connecting included.
pub const DNS_TCP_TRY_MS: u64 = 4_000;
/// Tries of one question over all servers. Then it has failed temporarily.
pub const DNS_TRIES_MAX: u8 = 6;
/// Time for one question over all tries and servers. Then it has failed temporarily.
pub const DNS_LOOKUP_MS: u64 = 12_000;
/// Sockets, each with its own random port, to one server.
pub const DNS_SOCKETS_PER_SERVER: usize = 4;
/// Queries sent from one socket. Then a new one with a new port takes its place.
pub const DNS_QUERIES_PER_SOCKET: u32 = 256;
/// Tries in a row without answer after which a server is left alone for a while.
pub const DNS_SERVER_FAILURES_MAX: u32 = 3;
/// First time for which a dead server is left alone; doubles with each failed probe.
pub const DNS_PENALTY_MIN_MS: u64 = 1_000;
/// Longest time for which a dead server is left alone.
pub const DNS_PENALTY_MAX_MS: u64 = 60_000;
/// Shortest time that records are kept, whatever their TTL; it keeps TTL 0 from making every message a query.
pub const DNS_TTL_MIN_S: u32 = 5;
/// Longest time that records are kept, whatever their TTL.
pub const DNS_TTL_MAX_S: u32 = 86_400;
/// Shortest time that "no such name" and "no such records" are kept.
pub const DNS_NEGATIVE_TTL_MIN_S: u32 = 5;
/// Longest time of the same (RFC 2308 §5 finds one to three hours sensible).
pub const DNS_NEGATIVE_TTL_MAX_S: u32 = 3_600;
/// How long a failure of the servers is kept (RFC 2308 §7 allows up to 300).
pub const DNS_FAILURE_TTL_S: u32 = 10;
/// How long mail hosts are kept of which some could not be resolved for the moment.
pub const DNS_PARTIAL_TTL_S: u32 = 300;
/// Entries of the cache of each record type. Beyond it an entry not used lately goes.
pub const DNS_CACHED_RECORDS_MAX: usize = 32 * 1024;
/// Entries of the cache of finished resolutions. Beyond it an entry not used lately goes.
pub const DNS_CACHED_RESOLUTIONS_MAX: usize = 32 * 1024;
/// Queries sent in one turn. The rest goes with the next reply or tick.
pub const DNS_QUERIES_PER_TURN: usize = 64;
/// Datagrams taken from one socket without a pause. Then the core's other tasks have their turn.
pub const DNS_DATAGRAMS_PER_TURN: usize = 64;
/// How often the time is told while queries are under way.
pub const DNS_TICK_MS: u64 = 20;

const _: () = {
    assert!(DNS_SERVERS_MAX <= 8, "the servers asked are bits of a u8");
    assert!(DNS_IN_FLIGHT_MAX <= 4096, "query ids must stay hard to guess");
    assert!(DNS_TCP_IN_FLIGHT_MAX < DNS_IN_FLIGHT_MAX && DNS_IN_FLIGHT_MAX <= DNS_LOOKUPS_MAX);
    assert!(DNS_UDP_PAYLOAD_BYTES as usize <= DNS_DATAGRAM_BYTES);
    assert!(DNS_DATAGRAM_BYTES <= DNS_REPLY_BYTES_MAX && DNS_REPLY_BYTES_MAX <= u16::MAX as usize);
    assert!(DNS_UDP_TRY_MS < DNS_LOOKUP_MS && DNS_TCP_TRY_MS < DNS_LOOKUP_MS);
    assert!(DNS_PENALTY_MIN_MS <= DNS_PENALTY_MAX_MS);
    assert!(DNS_TTL_MIN_S <= DNS_TTL_MAX_S && DNS_NEGATIVE_TTL_MIN_S <= DNS_NEGATIVE_TTL_MAX_S);
};
