//! Every bound of the engine in one place, the unit in its name, and what happens when it is hit.

// ── smtp ────────────────────────────────────────────────────────────────────────────────────────────

// ── spool ───────────────────────────────────────────────────────────────────────────────────────────

/// Octets of a segment file. A record that does not fit into the rest goes to a new segment; a record larger
/// than a whole segment gets one of its own.
pub const SEGMENT_BYTES: u64 = 64 << 20;

/// Octets of one spool record, body included. A larger message is answered with a failure.
pub const SPOOL_RECORD_BYTES_MAX: usize = 1 << 30;

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

/// Segment files that a body reader keeps open; the one used longest ago is closed.
pub const BODY_FILES_MAX: usize = 16;

/// How long an unused body reader keeps files open: a removed segment frees its space only then.
pub const BODY_FILES_IDLE_MS: u64 = 2000;

// ── dns ─────────────────────────────────────────────────────────────────────────────────────────────

// ── path ────────────────────────────────────────────────────────────────────────────────────────────

// ── queue and shard ─────────────────────────────────────────────────────────────────────────────────

/// Cores of one engine. More are refused at start.
pub const CORES_MAX: usize = 1024;

// ── rules ───────────────────────────────────────────────────────────────────────────────────────────

// ── runtime ─────────────────────────────────────────────────────────────────────────────────────────

/// Batches of outcomes that wait for the log's thread. Beyond it the caller gets its batch back and keeps it.
pub const LOG_QUEUE_BATCHES: usize = 4096;

/// Records written but not synced at most, unless one batch holds more.
pub const LOG_SYNC_RECORDS: usize = 1000;

/// How long a record may be written but not synced.
pub const LOG_SYNC_LAG_MS: u64 = 50;

/// How long a log that failed waits before it tries again.
pub const LOG_RETRY_MS: u64 = 1000;
