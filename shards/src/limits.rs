//! Every bound of the engine in one place, the unit in its name, and what happens when it is hit.

// ── smtp ────────────────────────────────────────────────────────────────────────────────────────────

// Delivery. Time-outs are those of RFC 5321 §4.5.3.2; each bounds one whole reply, not one read, so a peer that
// drips octets trips them. When one passes, the session ends with `FailureKind::TimedOut`.

/// Wait for the greeting, §4.5.3.2.1.
pub const BANNER_TIMEOUT_SECONDS: u64 = 300;
/// Wait for the reply to EHLO, HELO or STARTTLS; the RFC names none, MAIL's is taken.
pub const EHLO_TIMEOUT_SECONDS: u64 = 300;
/// Bound on a TLS handshake, which has no business being slow.
pub const TLS_HANDSHAKE_TIMEOUT_SECONDS: u64 = 60;
/// Wait for the reply to MAIL or RSET, §4.5.3.2.2.
pub const MAIL_TIMEOUT_SECONDS: u64 = 300;
/// Wait for the reply to one RCPT, §4.5.3.2.3.
pub const RCPT_TIMEOUT_SECONDS: u64 = 300;
/// Wait for the reply to DATA, §4.5.3.2.4.
pub const DATA_TIMEOUT_SECONDS: u64 = 120;
/// Time for a body of no length, §4.5.3.2.5; a longer one gets more by [`BODY_RATE_MIN_BYTES_PER_SECOND`].
pub const BODY_TIMEOUT_SECONDS: u64 = 180;
/// Slowest peer that we go on feeding; a slower one counts as timed out.
pub const BODY_RATE_MIN_BYTES_PER_SECOND: u64 = 500;
/// Wait for the reply to the end of data, §4.5.3.2.6. Shorter would mean duplicates.
pub const END_OF_DATA_TIMEOUT_SECONDS: u64 = 600;
/// Wait for the reply to QUIT; nothing depends on it, so passing it is no failure.
pub const QUIT_TIMEOUT_SECONDS: u64 = 10;

/// Octets of one line of a reply, its end included. RFC 5321 §4.5.3.1.5 says 512 and peers exceed it. A longer
/// one is a protocol failure.
pub const REPLY_LINE_BYTES_MAX: usize = 2048;
/// Octets of one reply with all its lines. A longer one is a protocol failure.
pub const REPLY_BYTES_MAX: usize = 16 * 1024;
/// Octets of a reply's text that are kept for records; the rest is cut.
pub const REPLY_TEXT_BYTES_MAX: usize = 4096;
/// Octets of a line that is no reply that are quoted in our own words.
pub const REPLY_EXCERPT_BYTES_MAX: usize = 100;
/// Messages that may be unanswered on one connection, whatever is configured.
pub const CLIENT_FLIGHTS_MAX: usize = 16;
/// Octets of a body that is sent by BDAT before its recipients are answered; a longer one waits for them, so that
/// a refused recipient does not cost the transfer.
pub const BLIND_BODY_BYTES_MAX: usize = 256 * 1024;

const _: () = assert!(REPLY_LINE_BYTES_MAX <= REPLY_BYTES_MAX && REPLY_TEXT_BYTES_MAX <= REPLY_BYTES_MAX);
const _: () = assert!(DATA_TIMEOUT_SECONDS < END_OF_DATA_TIMEOUT_SECONDS);

// ── spool ───────────────────────────────────────────────────────────────────────────────────────────

// ── dns ─────────────────────────────────────────────────────────────────────────────────────────────

// ── path ────────────────────────────────────────────────────────────────────────────────────────────

// ── queue and shard ─────────────────────────────────────────────────────────────────────────────────

/// Cores of one engine. More are refused at start.
pub const CORES_MAX: usize = 1024;

// ── rules ───────────────────────────────────────────────────────────────────────────────────────────

// ── runtime ─────────────────────────────────────────────────────────────────────────────────────────
