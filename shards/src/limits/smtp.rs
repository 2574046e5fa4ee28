//! Bounds of SMTP, both sides. They are named as those of [`crate::limits`].

use std::time::Duration;

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
/// Octets of a command line with its CRLF, more than RFC 5321 §4.5.3.1.4 and the extensions ask. A longer one
/// is skipped to its end and answered 500.
pub const COMMAND_LINE_BYTES_MAX: usize = 2048;

/// Octets of an AUTH line with its CRLF (RFC 4954 §4.5). A longer one is skipped and answered 500.
pub const AUTH_LINE_BYTES_MAX: usize = 12_288;

/// Octets of an over-long line that are skipped before the session is ended with 421.
pub const SKIPPED_LINE_BYTES_MAX: usize = 65_536;

/// Octets of a name in EHLO or HELO (RFC 5321 §4.5.3.1.2). A longer one is answered 501.
pub const GREETING_NAME_BYTES_MAX: usize = 255;

/// Octets of a user's name, and of a secret, in AUTH. Longer ones are answered 535.
pub const CREDENTIAL_BYTES_MAX: usize = 1024;

/// Octets of a local part (RFC 5321 §4.5.3.1.1). A longer one is answered 553.
pub const LOCAL_PART_BYTES_MAX: usize = 64;

/// Octets of an address: a path (RFC 5321 §4.5.3.1.3) without its brackets. A longer one is answered 553.
pub const ADDRESS_BYTES_MAX: usize = 254;

/// Errors of a session since its last accepted message. At this many it is ended with 421. Addresses that are
/// refused do not count: a list with bad ones must still get its good ones through.
pub const SESSION_ERRORS_MAX: u32 = 20;

/// Failed AUTH attempts of a session. At this many it is ended with 421.
pub const SESSION_FAILED_LOGINS_MAX: u32 = 3;

/// Commands of a session since its last accepted message, those apart that a transaction needs (RCPT, BDAT). At this
/// many it is ended with 421. More than one refused MAIL with the usual number of recipients sent along with it.
pub const SESSION_IDLE_COMMANDS_MAX: u32 = 2_000;

/// Transactions of a session. The next MAIL is answered 421, and the client connects anew.
pub const SESSION_TRANSACTIONS_MAX: u32 = 1_000_000;

/// Chunks of one message, so that BDAT cannot be a way to drip octets. The next one ends the session with 421.
pub const MESSAGE_CHUNKS_MAX: u32 = 65_536;

/// Octets of replies that wait for the runtime. At this many a session takes no more input until they are out.
pub const SESSION_OUTPUT_BYTES_MAX: usize = 16_384;

/// Octets of one line of message text. RFC 5322 §2.1.1 says 998; what injectors send must arrive octet for octet, so
/// longer lines are taken as they are up to this bound. A longer one is answered 550 after the end of data.
pub const TEXT_LINE_BYTES_MAX: usize = 1_048_576;

/// Octets of a header block, control headers apart. A larger one is answered 552 after the end of data.
pub const HEADER_BYTES_MAX: usize = 262_144;

/// Received headers of a message that arrives (RFC 5321 §6.3 asks for 100 at the most, mail in use has fewer
/// than 20). More are a loop: 554 after the end of data.
pub const RECEIVED_HEADERS_MAX: u32 = 50;

/// Octets of one control header's value. A longer one is refused, 550.
pub const CONTROL_VALUE_BYTES_MAX: usize = 1024;

/// Tags, addresses or retry intervals of one message. More are refused, 550.
pub const CONTROL_LIST_MAX: usize = 64;

/// Octets of a refused message that are read and thrown away beyond the size limit before the session is ended with
/// 421.
pub const DISCARDED_BYTES_MAX: u64 = 67_108_864;

/// Octets of content that are still taken when memory becomes short in the midst of it, so that short messages get through.
/// What a longer one has is let go at once, and it is answered at its end as new mail is.
pub const PRESSED_CONTENT_BYTES_MAX: u64 = 65_536;

/// Octets reserved for a body before it is received: what SIZE announces, at most this.
pub const BODY_RESERVE_BYTES_MAX: usize = 1_048_576;

/// Octets reserved for a connection's first body, when its size was not announced.
pub const BODY_RESERVE_BYTES: usize = 8_192;

/// Octets reserved for a further one: as many as the last took, at most this.
pub const BODY_RESERVE_USUAL_BYTES_MAX: usize = 262_144;

/// Octets a second below which a message's content comes too slowly: 421.
pub const CONTENT_BYTES_PER_SECOND_MIN: u64 = 1_024;

/// Wait for a command (RFC 5321 §4.5.3.2.7), counted from the last reply, however many octets of it come: 421.
pub const COMMAND_WAIT: Duration = Duration::from_secs(300);

/// Wait for more content (RFC 5321 §4.5.3.2.5), and what a slow beginning may take over the least rate: 421.
pub const CONTENT_WAIT: Duration = Duration::from_secs(180);

/// The longest that the content of one message may take, whatever its rate: 421.
pub const CONTENT_DURATION_MAX: Duration = Duration::from_secs(7_200);

/// Wait for the end of a TLS handshake. Then the connection is closed.
pub const SERVER_HANDSHAKE_WAIT: Duration = Duration::from_secs(60);

const _: () = assert!(AUTH_LINE_BYTES_MAX > COMMAND_LINE_BYTES_MAX && SKIPPED_LINE_BYTES_MAX > AUTH_LINE_BYTES_MAX);
const _: () = assert!(ADDRESS_BYTES_MAX > LOCAL_PART_BYTES_MAX + 1);
const _: () = assert!(HEADER_BYTES_MAX < TEXT_LINE_BYTES_MAX && CONTROL_VALUE_BYTES_MAX < HEADER_BYTES_MAX);
