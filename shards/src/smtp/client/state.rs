//! The states of a session, the replies that it waits for, and how long each may take. No transitions here.

use crate::limits;
use crate::outcome::Verb;
use std::time::Duration;

/// Where the conversation stands. `Banner → Ehlo (→ Helo) → StartTls → Handshake → Ehlo → Ready → Quit → Closed`;
/// every state may go to `Closed`, and `Ready` to `Draining`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Connected; the greeting is awaited.
    Banner,
    /// EHLO is due or sent.
    Ehlo,
    /// EHLO was refused for good; HELO is due or sent.
    Helo,
    /// STARTTLS is due or sent.
    StartTls,
    /// The runtime shakes hands; no octet of plaintext may come.
    Handshake,
    /// Transactions run, or could.
    Ready,
    /// Nothing more is sent; replies to messages whose end of data was sent are awaited.
    Draining,
    /// QUIT is due or sent.
    Quit,
    /// Over.
    Closed,
}

impl State {
    /// How long the reply of a state outside of transactions may take. `None`: see [`Step::timeout`].
    pub(super) fn timeout(self) -> Option<Duration> {
        let seconds = match self {
            Self::Banner => limits::BANNER_TIMEOUT_SECONDS,
            Self::Ehlo | Self::Helo | Self::StartTls => limits::EHLO_TIMEOUT_SECONDS,
            Self::Handshake => limits::TLS_HANDSHAKE_TIMEOUT_SECONDS,
            Self::Quit => limits::QUIT_TIMEOUT_SECONDS,
            Self::Ready | Self::Draining | Self::Closed => return None,
        };
        Some(Duration::from_secs(seconds))
    }

    /// What a failure in this state outside of transactions answers.
    pub(super) fn verb(self) -> Verb {
        match self {
            Self::Banner => Verb::Banner,
            Self::Ehlo | Self::Helo => Verb::Ehlo,
            Self::StartTls | Self::Handshake => Verb::StartTls,
            Self::Ready | Self::Draining | Self::Quit | Self::Closed => Verb::None,
        }
    }
}

/// What a reply inside `Ready` and `Draining` answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// RSET before the flight's MAIL.
    Reset,
    /// MAIL.
    Mail,
    /// The next RCPT.
    Rcpt,
    /// DATA.
    Data,
    /// The final dot, or BDAT LAST.
    EndOfData,
    /// The dot that ends a transaction whose recipients were all refused, RFC 2920 §3.1.
    LoneDot,
}

impl Step {
    /// How long the reply may take.
    pub(super) fn timeout(self) -> Duration {
        Duration::from_secs(match self {
            Self::Reset | Self::Mail => limits::MAIL_TIMEOUT_SECONDS,
            Self::Rcpt => limits::RCPT_TIMEOUT_SECONDS,
            Self::Data => limits::DATA_TIMEOUT_SECONDS,
            Self::EndOfData | Self::LoneDot => limits::END_OF_DATA_TIMEOUT_SECONDS,
        })
    }

    /// The command that it answers, as in records.
    pub(super) fn verb(self) -> Verb {
        match self {
            Self::Reset => Verb::None,
            Self::Mail => Verb::MailFrom,
            Self::Rcpt => Verb::RcptTo,
            Self::Data => Verb::Data,
            Self::EndOfData | Self::LoneDot => Verb::EndOfData,
        }
    }
}

/// One reply to come. Replies come in the order of the commands, so these form a queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct Awaited {
    /// What it answers.
    pub(super) step: Step,
    /// Number of the flight to which the command belongs, which may be gone.
    pub(super) flight: u32,
}

/// How long a body of `octets` may take from its first octet to its last.
pub(super) fn body_timeout(octets: usize) -> Duration {
    Duration::from_secs(limits::BODY_TIMEOUT_SECONDS + octets as u64 / limits::BODY_RATE_MIN_BYTES_PER_SECOND)
}
