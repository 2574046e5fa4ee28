//! Every bound of the engine in one place, the unit in its name, and what happens when it is hit.

// ── smtp ────────────────────────────────────────────────────────────────────────────────────────────

// ── spool ───────────────────────────────────────────────────────────────────────────────────────────

// ── dns ─────────────────────────────────────────────────────────────────────────────────────────────

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
/// Own sources; more are refused with the settings.
pub const SOURCES_MAX: usize = 65_535;
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
const _: () = assert!(TOKEN_BATCH_MAX >= 1 && SOURCES_MAX <= u16::MAX as usize);

// ── queue and shard ─────────────────────────────────────────────────────────────────────────────────

/// Cores of one engine. More are refused at start.
pub const CORES_MAX: usize = 1024;

// ── rules ───────────────────────────────────────────────────────────────────────────────────────────

// ── runtime ─────────────────────────────────────────────────────────────────────────────────────────
