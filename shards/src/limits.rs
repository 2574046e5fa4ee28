//! Every bound of the engine in one place, the unit in its name, and what happens when it is hit.

// ── smtp ────────────────────────────────────────────────────────────────────────────────────────────

// ── spool ───────────────────────────────────────────────────────────────────────────────────────────

// ── dns ─────────────────────────────────────────────────────────────────────────────────────────────

// ── path ────────────────────────────────────────────────────────────────────────────────────────────

// ── queue and shard ─────────────────────────────────────────────────────────────────────────────────

/// Cores of one engine. More are refused at start.
pub const CORES_MAX: usize = 1024;

/// Messages held by their own marks that one pick passes over; the session asks again after that.
pub const PICK_SKIPS: usize = 256;

/// Destinations that one pick looks at; the session asks again after that.
pub const PICK_DESTINATIONS: usize = 64;

/// Entries that a sweep (a destination whose hosts all failed, a rule that ends mail) touches in one tick.
pub const SWEEP_ENTRIES_PER_TICK: usize = 512;

/// Due entries that one tick makes ready; the rest follow in the next tick.
pub const DUE_ENTRIES_PER_TICK: usize = 2048;

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

/// Ready messages for each connection of a path: another one is opened when there are more.
pub const READY_PER_CONNECTION: u32 = 4;

// ── rules ───────────────────────────────────────────────────────────────────────────────────────────

// ── runtime ─────────────────────────────────────────────────────────────────────────────────────────

/// Mail that one core has under way to another; what exceeds it stays with the sender.
pub const MAIL_CREDIT_MESSAGES: u64 = 8_192;

/// Period of each core's ticker. It also bounds any stall of the executor.
pub const TICK_MILLIS: u64 = 10;

/// Period of the scan of session deadlines; a deadline rings at most this late.
pub const ALARM_SCAN_MILLIS: u64 = 100;

/// Octets of one read from a socket.
pub const READ_BYTES: usize = 16 * 1024;

/// Octets that a session makes ready to send at a time; bounds the copy of a large body in memory.
pub const FILL_BYTES: usize = 64 * 1024;

/// Backlog of listening sockets.
pub const LISTEN_BACKLOG: i32 = 4_096;
