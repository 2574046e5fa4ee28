//! Every bound of the engine in one place, the unit in its name, and what happens when it is hit.

use std::time::Duration;

mod dns;
mod smtp;

pub use dns::*;
pub use smtp::*;

// ── spool ───────────────────────────────────────────────────────────────────────────────────────────

/// Octets of a segment file. A record that does not fit into the rest goes to a new segment; a record larger
/// than a whole segment gets one of its own.
pub const SEGMENT_BYTES: u64 = 64 << 20;

/// Octets of one spool record, body included. A larger message is answered with a failure.
pub const SPOOL_RECORD_BYTES_MAX: usize = 1 << 30;

/// Octets of one message, the most that an operator may allow. A larger number is refused with the configuration: such
/// a message would be received, and then answered with a failure that is said to be temporary.
pub const MESSAGE_BYTES_MAX: u32 = 1_000_000_000;
const _: () = assert!(
    MESSAGE_BYTES_MAX as usize + SPOOL_ENVELOPE_BYTES_MAX + (1 << 20) < SPOOL_RECORD_BYTES_MAX,
    "a message, its Received header and its envelope fit into a record"
);

/// Octets of a record's encoded envelope. A larger one is answered with a failure, and a header that claims
/// more is not a record.
pub const SPOOL_ENVELOPE_BYTES_MAX: usize = 32 << 20;

/// Octets that one write and one sync carry; what arrived beyond it goes with the next.
pub const SPOOL_GROUP_BYTES: usize = 8 << 20;

/// Commands that one write and one sync carry.
pub const SPOOL_GROUP_COMMANDS: usize = 1024;

/// Commands that wait for the spool's thread. Beyond it the caller gets its command back and keeps it.
pub const SPOOL_QUEUE_COMMANDS: usize = 4096;

/// How long an attempt- or done-record may be written but not synced.
pub const SPOOL_SYNC_LAG_MS: u64 = 50;

/// How often the file system's free space is asked for.
pub const SPOOL_SPACE_CHECK_MS: u64 = 100;

/// How long a spool that failed waits before it tries a new segment of its own accord.
pub const SPOOL_RETRY_MS: u64 = 1000;

/// Attempt-records kept in memory while nothing can be written; beyond it the oldest is forgotten, and the
/// recipient is tried once more often after a crash. Done-records are never forgotten: they are as many as
/// there are open recipients.
pub const SPOOL_PENDING_ATTEMPTS: usize = 65_536;
/// Ends of messages that wait to be written while a spool's disk refuses. With so many, deliveries stop on every core:
/// what was delivered and is not written would be delivered again after a crash.
pub const SPOOL_PENDING_ENDS: usize = 1_000;

/// Groups up to this many octets are written over zeros that were put there before; larger ones gain nothing.
pub const SPOOL_SMALL_GROUP_BYTES: u64 = 128 << 10;

/// Octets of zeros written ahead of the tail at a time.
pub const SPOOL_ZERO_AHEAD_BYTES: usize = 1 << 20;

/// Compaction begins when the files hold more than twice what is needed and this besides.
pub const SPOOL_SLACK_BYTES: u64 = 4 * SEGMENT_BYTES;

/// Octets that compaction copies between two groups of new mail.
pub const COMPACTION_SLICE_BYTES: usize = 1 << 20;

/// Octets of index entries kept before they are appended to the index file.
pub const INDEX_BUFFER_BYTES: usize = 256 << 10;

/// Bodies asked of a reader and not yet answered. Beyond it the caller asks again later.
pub const BODY_READS_MAX: usize = 4096;

/// Of the memory for all, the bodies that are read back for deliveries may take this part, over all cores. A body more is
/// read back when one of those before it has gone.
pub const BODIES_READ_BACK_PART: u64 = 4;

/// Octets of a body that does not wait for that: so many times the connections are not much.
pub const BODY_SMALL_BYTES: u32 = 64 << 10;

/// Segment files that a body reader keeps open; the one used longest ago is closed.
pub const BODY_FILES_MAX: usize = 16;

/// How long an unused body reader keeps files open: a removed segment frees its space only then.
pub const BODY_FILES_IDLE_MS: u64 = 2000;

// ── path ────────────────────────────────────────────────────────────────────────────────────────────

/// Connections of one path on one core when no `[[limit]]` bounds its path, site or domain. It is a bound per
/// core, so that an engine without limits needs no word between cores; further mail of the path waits.
pub const PATH_CONNECTIONS_DEFAULT: u32 = 32;
/// Messages on one connection when no `[[limit]]` says; then the connection is closed and another opened.
pub const MESSAGES_PER_CONNECTION_DEFAULT: u32 = 1000;
/// How long an idle connection is kept when no `[[limit]]` says; then it is closed with QUIT.
pub const IDLE_TIMEOUT_DEFAULT_MS: u64 = 5_000;
/// Hosts of an MX set that make its site name; later ones (less preferred) are left out of the name.
pub const SITE_HOSTS_MAX: usize = 100;
/// Labels of one host that make a site name (RFC 1035 allows 127 in a name); further ones stay one label.
pub const SITE_LABELS_MAX: usize = 127;
/// Own sources, those of the configuration and those that the API makes. A core takes no settings with more.
pub const SOURCES_MAX: usize = 65_535;
/// Sources of the configuration; more are refused with it.
pub const SOURCES_CONFIGURED_MAX: usize = 40_000;
/// Pools that the API makes, addresses in them, and external MTAs: so many of each; a further one is refused, 503.
pub const API_POOLS_MAX: usize = 10_000;
/// A connection permit is recalled for others only after it was held so long: a connection shorter than
/// that would spend its time on the handshake.
pub const PERMIT_HELD_MIN_MS: u64 = 200;
/// A request for a permit that waited so long takes its counters one by one, in a fixed order, instead of
/// all at once; so it cannot be overtaken for ever by requests that need fewer.
pub const PERMIT_AGED_MS: u64 = 1_000;
/// Requests for permits of one core that may wait at the same time; beyond it a request is refused and the
/// destination asks again later.
pub const PERMIT_REQUESTS_MAX: usize = 65_536;
/// Waiting requests that the permit home looks at in one call; the rest follow at its next call.
pub const PERMIT_SCAN_MAX: u32 = 1_024;
/// Counters that the permit home looks over, whenever it makes a new one, for ones that nobody uses any more.
pub const PERMIT_SWEEP_MAX: usize = 4;
/// A request of a destination that already has connections waits so long before permits are recalled for it
/// as for one that has none, and stands in line as if it had come so much later for each of them.
pub const PERMIT_PATIENCE_MS: u64 = 5_000;
/// Burst of a configured rate: one, and what the rate yields in this time.
pub const RATE_BURST_MS: u64 = 100;
/// Message tokens that a core has not used lapse after this time and go back.
pub const TOKEN_LAPSE_MS: u64 = 100;
/// A connection that waited longer than this for a place asks for the token of its rate anew.
pub const CONNECT_TOKEN_LAPSE_MS: u64 = 50;
/// Message tokens of a fast rate are granted in batches of at least what the rate yields in this time: so cores
/// far from the home get their share, and a message between cores carries more than one token.
pub const TOKEN_BATCH_MIN_MS: u64 = 5;
/// Message tokens granted to a core at once; it asks again for more.
pub const TOKEN_BATCH_MAX: u32 = 1_024;
/// Connections that a path may open before anything is known of its site.
pub const WINDOW_START: u32 = 5;
/// Host failures in a row after which a path is left alone for a while.
pub const WINDOW_DEAD_FAILURES: u32 = 5;
/// First time that a dead path is left alone; doubled after each failed probe.
pub const WINDOW_BACKOFF_MIN_MS: u64 = 10_000;
/// Longest time that a dead path is left alone between two probes.
pub const WINDOW_BACKOFF_MAX_MS: u64 = 300_000;
/// After a hold ends, the allowed connections double in each such step.
pub const WINDOW_RAMP_STEP_MS: u64 = 100;

const _: () = assert!(WINDOW_START >= 1 && WINDOW_START <= PATH_CONNECTIONS_DEFAULT);
const _: () = assert!(WINDOW_BACKOFF_MIN_MS <= WINDOW_BACKOFF_MAX_MS);
const _: () = assert!(PERMIT_HELD_MIN_MS < PERMIT_AGED_MS);
const _: () = assert!(TOKEN_BATCH_MIN_MS <= RATE_BURST_MS && TOKEN_BATCH_MIN_MS < TOKEN_LAPSE_MS);
const _: () = assert!(CONNECT_TOKEN_LAPSE_MS <= RATE_BURST_MS);
const _: () = assert!(TOKEN_BATCH_MAX >= 1 && SOURCES_MAX <= u16::MAX as usize);
const _: () =
    assert!(SOURCES_CONFIGURED_MAX + 2 * API_POOLS_MAX <= SOURCES_MAX, "members and external MTAs are sources");

// ── queue and shard ─────────────────────────────────────────────────────────────────────────────────

/// Cores of one engine. More are refused at start.
pub const CORES_MAX: usize = 1024;

/// Messages held by their own marks that one pick passes over; the session asks again after that.
pub const PICK_SKIPS: usize = 256;

/// Destinations that one pick looks at; the session asks again after that.
pub const PICK_DESTINATIONS: usize = 64;

/// Destinations behind those that are passed over for one that waits for no rate; what stands behind these waits until some
/// of them have gone.
pub const PICK_RATED_DESTINATIONS: usize = 1024;

/// Entries that a sweep (a destination whose hosts all failed, a rule that ends mail) touches in one tick.
pub const SWEEP_ENTRIES_PER_TICK: usize = 512;

/// Due entries that one tick makes ready; the rest follow in the next tick.
pub const DUE_ENTRIES_PER_TICK: usize = 2048;

/// Timers that ring within a minute or two and that one tick puts in their order. Of more, the rest follows in the next
/// tick, and rings late only when that takes longer than until then.
pub const TIMERS_GATHERED_PER_TICK: usize = 4096;

/// Hosts of one site that a session tries before the site counts as failed.
pub const HOSTS_TRIED: usize = 10;

/// Records written and not yet synced, above which a shard picks no further message.
pub const UNSYNCED_RECORDS_MAX: usize = 65_536;

/// A host that failed is not tried for this long, doubled with each failure in a row…
pub const HOST_REST_MILLIS: u64 = 1_000;

/// …up to this.
pub const HOST_REST_MILLIS_MAX: u64 = 60_000;

/// How long an empty destination is kept for the next message.
pub const DESTINATION_KEPT_SECONDS: u64 = 60;

/// A message whose body has just been moved by compaction is picked again after this.
pub const BODY_MOVED_WAIT_MILLIS: u64 = 100;

/// A segment in which a body is still sought so long after it was found not to be there has been lost, not moved: the
/// attempt has failed, and the next one waits as the schedule says.
pub const BODY_MOVED_MAX_MILLIS: u64 = 10_000;

/// Such segments that are remembered; of more, the one found first is found anew.
pub const ABSENT_SEGMENTS_MAX: usize = 64;

/// Octets of bodies by which a core's account may change before the others hear of it; the budget of all may be exceeded
/// by so much for each core.
pub const BODY_UNSETTLED_BYTES: i64 = 256 << 10;

/// Where that is less: the budget over this.
pub const BODY_UNSETTLED_PARTS: i64 = 1024;

/// Questions of the control side that a core has open at once; more are answered `Busy`.
pub const ASKS_MAX: usize = 64;

/// Flushes that are kept for mail of earlier runs which is not in the queue yet; a further one is answered `Busy`.
pub const FLUSHES_KEPT_MAX: usize = 64;

/// Entries that a rule holds by themselves are gone through for those that have ended when there are twice as many as were
/// left the last time, or as these.
pub const HELD_ENTRIES_KEPT: usize = 1024;

/// Entries that a tick looks at for a question.
pub const ASK_ENTRIES_PER_TICK: usize = 4096;

/// Entries that are looked at beyond that before the clock is, some tens of microseconds.
pub const ASK_ENTRIES_PER_SLICE: usize = 256;

/// How long a core that has nothing else to do answers questions before others have their turn…
pub const ASK_SLICE_MICROS: u64 = 1000;

/// …and how long it waits then. Mail that moves meanwhile says that it has something else to do…
pub const ASK_PAUSE_MICROS: u64 = 200;

/// …unless it is no more than this in a slice and a pause, some thousand messages a second. They wait as long as a slice.
pub const ASK_MOVES_MAX: u64 = 2;

/// How long mail that was found on disk is put into the queue at a start before others have their turn.
pub const POSTING_SLICE_MICROS: u64 = 2000;

/// Messages of it that are read together…
pub const FOUND_BATCH_MESSAGES: usize = 256;

/// …and how many such batches wait for the core; with more, the reading waits.
pub const FOUND_BATCHES: usize = 32;

/// How often it is told how far that is.
pub const FOUND_TOLD_MILLIS: u64 = 1000;

/// Messages of it that are put there before the clock is looked at.
pub const POSTING_MESSAGES: usize = 32;

/// A question is answered with what is known after this time.
pub const ASK_MILLIS: u64 = 4_500;

/// The same for what rules hold: a list of them is not kept waiting for longer by a deep queue.
pub const ASK_RULES_MILLIS: u64 = 1_000;

/// Whoever wants an answer within this time gets it before longer questions go on.
pub const ASK_AT_ONCE_MILLIS: u64 = 100;
const _: () = assert!(ASK_AT_ONCE_MILLIS < ASK_MILLIS, "only some questions are short");

/// Destinations that are added up at once for such an answer; the others are not in its first figure.
pub const ASK_DESTINATIONS_AT_ONCE: usize = 16_384;

/// Destinations in an answer; the largest are named.
pub const ASK_DESTINATIONS_MAX: usize = 1000;

/// Queues by which the mail that a rule has ended is counted; those beyond share one count.
pub const ENDED_QUEUES_MAX: usize = 10_000;

/// Ways of a bucket for which is known whether rules close them; with more, all are asked about again.
pub const WAYS_KNOWN: usize = 4096;

/// Buckets for which that is kept, 20 MB with a thousand ways each; of one more, the oldest is forgotten.
pub const WAYS_KNOWN_BUCKETS: usize = 1024;

/// Scheduled queues that a core names in its report; the others are counted together.
pub const LARGEST_QUEUES: usize = 100;

/// Buckets that are looked at for these in a tick. A look at a million takes ten seconds.
pub const LARGEST_BUCKETS_PER_TICK: usize = 2048;

/// How long a core waits between two such looks.
pub const LARGEST_QUEUES_EVERY_MILLIS: u64 = 1000;

/// The name under which those are counted.
pub const OTHER_QUEUES: &str = "(others)";

/// Pairs of rule and queue that a shard counts between two hand-overs to the keeper, a second apart. Of further
/// pairs only the rule is counted, under the name of the other queues.
pub const ENDED_PLACES_MAX: usize = 100_000;

/// Octets of the file of unlogged ends from which on it begins anew, once all in it is stored.
pub const UNLOGGED_BYTES: u64 = 1 << 20;

/// Rules that time may begin or end in one tick; the rest follow in the next tick.
pub const RULE_TRANSITIONS_PER_TICK: usize = 256;

/// Ready messages for each connection of a path: another one is opened when there are more.
pub const READY_PER_CONNECTION: u32 = 4;

// ── rules ───────────────────────────────────────────────────────────────────────────────────────────

/// Entries of the audit trail, some hundred octets each. With a further one the oldest goes.
pub const AUDIT_ENTRIES_MAX: i64 = 1_000_000;

/// Queue names in the scope of one rule; the control core refuses more. Each is one table entry.
pub const RULE_QUEUES_MAX: usize = 4096;

/// Intervals in the validity of one rule; the control core refuses more. Eight days of windows every
/// quarter of an hour fit.
pub const RULE_SPANS_MAX: usize = 1024;

/// Table entries that one update touches; the control core splits what is larger, so that applying one takes
/// well below a tick of 20 ms. More is a bug and stops the core.
pub const RULE_CHANGES_MAX: usize = 4096;
const _: () = assert!(RULE_QUEUES_MAX <= RULE_CHANGES_MAX, "one rule must fit into one update");

/// Updates that a starting core has not read; whoever reads the rules waits then.
pub const RULE_UPDATES_UNREAD_MAX: usize = 4;

/// Causes of suppressions that are allocated at a time.
pub const CAUSES_A_CHUNK: usize = 4096;

// ── runtime ─────────────────────────────────────────────────────────────────────────────────────────

/// Mail that one core has under way to another; what exceeds it stays with the sender.
pub const MAIL_CREDIT_MESSAGES: u64 = 8_192;

/// Period of each core's ticker. It also bounds any stall of the executor.
pub const TICK_MILLIS: u64 = 10;

/// Period of the scan of session deadlines; a deadline rings at most this late.
pub const ALARM_SCAN_MILLIS: u64 = 100;

/// How long an executor may take from its start to its first task. Then it is given up and another started.
pub const EXECUTOR_START_WAIT: Duration = Duration::from_secs(2);

/// Executors that are tried for one core. Then the start fails.
pub const EXECUTOR_STARTS: usize = 3;

/// How often an executor is woken from outside, in case that it sleeps over work.
pub const EXECUTOR_POKE_EVERY: Duration = Duration::from_millis(200);

/// Octets of one read from a socket.
pub const READ_BYTES: usize = 64 * 1024;

/// Octets that an injecting connection brings before other tasks of its core have their turn.
pub const TURN_BYTES: usize = 64 * 1024;
/// Requests that a core's ring for sockets takes at once; further ones wait for the next round.
pub const RING_ENTRIES: u32 = 256;
/// Answers that it holds; the kernel keeps further ones, and gives up watching, which is begun anew.
pub const RING_COMPLETIONS: u32 = 4096;
/// How long a core that has something to do goes on without a turn of its executor, when that waits for something by
/// itself.
pub const RING_BUSY_MICROS: u64 = 1000;
/// A core sleeps in its ring only if it may do so for this long; else the executor gets it back at once.
pub const RING_SLEEP_MICROS_MIN: u64 = 20;
/// Rounds of requests and answers in one turn of the ring; the next turn comes with the next tick at the latest.
pub const RING_ROUNDS_PER_TURN: usize = 64;

/// Octets that a session makes ready to send at a time; bounds the copy of a large body in memory.
pub const FILL_BYTES: usize = 64 * 1024;

/// Octets of a body from which on they are sent from where they stand, when nothing in them changes on the way. Fewer
/// are copied behind the commands before them.
pub const REFERRED_BYTES_MIN: usize = 16 * 1024;

/// Octets of a body's end that are copied all the same, so that they leave together with what follows.
pub const REFERRED_TAIL_BYTES: usize = 4 * 1024;

/// Backlog of listening sockets.
pub const LISTEN_BACKLOG: i32 = 4_096;
/// Batches of outcomes that wait for the log's thread. Beyond it the caller gets its batch back and keeps it.
pub const LOG_QUEUE_BATCHES: usize = 4096;

/// Records written but not synced at most, unless one batch holds more.
pub const LOG_SYNC_RECORDS: usize = 1000;

/// How long a record may be written but not synced.
pub const LOG_SYNC_LAG_MS: u64 = 50;

/// How long the log's thread lets records gather before it looks again.
pub const LOG_GATHER_MS: u64 = 10;
const _: () = assert!(LOG_GATHER_MS * 2 < LOG_SYNC_LAG_MS);

/// How long a log that failed waits before it tries again.
pub const LOG_RETRY_MS: u64 = 1000;

/// Batches of mail that a core takes before it lets other tasks run.
pub const MAIL_BATCHES_PER_TURN: usize = 16;

/// How long a TCP connection may take (RFC 5321 §4.5.3.2 leaves it to us; Postfix: 30 s).
pub const CONNECT_TIMEOUT_SECONDS: u64 = 30;

/// How long a listener rests after a failed accept.
pub const ACCEPT_PAUSE_MILLIS: u64 = 100;

/// Messages on their way to other cores and threads, above which a core refuses new mail (452).
pub const OUTBOX_MESSAGES_MAX: usize = 65_536;

/// Descriptors for the API, and for files and helper threads of the process as a whole…
pub const DESCRIPTORS_RESERVED: usize = 512;

/// …and for listeners, spool, log and resolver of each core. The rest is shared by injectors and deliveries.
pub const DESCRIPTORS_RESERVED_PER_CORE: usize = 64;

/// Sessions of one core that have leave to connect and wait for another to end, since all connections that the core may
/// have are there. Mail for which one more would have to wait is looked at again later.
pub const SESSIONS_IN_LINE_MAX: usize = 16_384;

/// A core that has not turned for so long is reported as stalled, and the watchdog is not fed.
pub const HEARTBEAT_LATE_SECONDS: u64 = 5;

/// How often the memory in use is looked at.
pub const MEMORY_WATCH_MILLIS: u64 = 200;

// ── control ─────────────────────────────────────────────────────────────────────────────────────────

/// Period of the control core's ticker. Its deadlines are met at most this late.
pub const CONTROL_TICK_MILLIS: u64 = 20;

/// Messages of one inject call that wait for their cores. The call goes on when the oldest is answered.
pub const SUBMISSIONS_MAX: usize = 64;

/// Octets of the same, unless one message alone is longer.
pub const SUBMISSION_BYTES_MAX: usize = 16 << 20;

/// How long a core may take to make a message durable. Then the caller hears 503, and that it may have been taken.
pub const SUBMISSION_WAIT: Duration = Duration::from_secs(60);

/// Recipients of one inject call. More are refused, 422.
pub const INJECT_RECIPIENTS_MAX: usize = 100_000;

/// Octets of an injector's own properties of one message. More are refused: they stay in memory with the message.
pub const META_BYTES_MAX: usize = 16_384;

// ── cluster ─────────────────────────────────────────────────────────────────────────────────────────

/// How long a connection to an etcd member may take, TLS included. Then the next member is asked.
pub const ETCD_CONNECT_WITHIN: Duration = Duration::from_secs(2);

/// How long a member may be silent within an answer, or take nothing of a request. Then the next one is asked.
pub const ETCD_SILENT_MAX: Duration = Duration::from_secs(3);

/// How long a range may take, over all members.
pub const ETCD_READ_WITHIN: Duration = Duration::from_secs(30);

/// How long a log-in may take. etcd spends about 100 ms on the password by its default.
pub const ETCD_LOG_IN_WITHIN: Duration = Duration::from_secs(3);

/// How long a member may take to say that a watch stands. Then the next one is asked.
pub const ETCD_WATCH_WITHIN: Duration = Duration::from_secs(3);

/// Octets of a value. A larger one is refused: a transaction of etcd's holds 1.5 MiB by default.
pub const ETCD_VALUE_BYTES_MAX: usize = 1 << 20;

/// Octets of all keys and values of a transaction. More are refused.
pub const ETCD_REQUEST_BYTES_MAX: usize = (1 << 20) + (256 << 10);

/// Octets of an answer to a range or a transaction. A longer one is refused: the caller must ask for fewer keys.
pub const ETCD_ANSWER_BYTES_MAX: u64 = 64 << 20;

/// Octets of an answer that is an error. The rest is not read.
pub const ETCD_REFUSAL_BYTES_MAX: u64 = 64 << 10;

/// Octets of a line of a watch, which etcd cuts at its largest request and a half. A longer one ends the watch.
pub const ETCD_LINE_BYTES_MAX: u64 = 16 << 20;

/// Octets in memory of one revision that a watch puts together. A larger one ends the watch.
pub const ETCD_REVISION_BYTES_MAX: usize = 16 << 20;

/// Answers of a watch that are read before anybody wants them. Then its connection is left to fill.
pub const ETCD_WATCH_AHEAD: usize = 4;

const _: () = assert!(ETCD_VALUE_BYTES_MAX < ETCD_REQUEST_BYTES_MAX);
const _: () = assert!(ETCD_REQUEST_BYTES_MAX < ETCD_REVISION_BYTES_MAX);
