//! Every bound of the engine in one place, the unit in its name, and what happens when it is hit.

// ── smtp ────────────────────────────────────────────────────────────────────────────────────────────

// ── spool ───────────────────────────────────────────────────────────────────────────────────────────

// ── dns ─────────────────────────────────────────────────────────────────────────────────────────────

// ── path ────────────────────────────────────────────────────────────────────────────────────────────

// ── queue and shard ─────────────────────────────────────────────────────────────────────────────────

/// Cores of one engine. More are refused at start.
pub const CORES_MAX: usize = 1024;

// ── rules ───────────────────────────────────────────────────────────────────────────────────────────

/// Queue names in the scope of one rule; the control core refuses more. Each is one table entry.
pub const RULE_QUEUES_MAX: usize = 4096;

/// Intervals in the validity of one rule; the control core refuses more. Eight days of windows every
/// quarter of an hour fit.
pub const RULE_SPANS_MAX: usize = 1024;

/// Table entries that one update touches; the control core splits what is larger, so that applying one takes
/// well below a tick of 20 ms. More is a bug and stops the core.
pub const RULE_CHANGES_MAX: usize = 4096;
const _: () = assert!(RULE_QUEUES_MAX <= RULE_CHANGES_MAX, "one rule must fit into one update");

/// Causes of suppressions that are allocated at a time.
pub const CAUSES_A_CHUNK: usize = 4096;

// ── runtime ─────────────────────────────────────────────────────────────────────────────────────────
