//! One rule: what it covers, what it does, when, and who made it. Immutable once made; a change is a new
//! rule under the same id. Both dialects of the API map into this and into nothing else.

use super::scope::{Fields, Scope};
use super::validity::Validity;
use crate::outcome::{EnhancedCode, RecordType, RuleMark};
use std::fmt;
use std::sync::Arc;

/// What is recorded in the place of a reply of the peer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Answer {
    code: u16,
    enhanced: Option<EnhancedCode>,
    text: Arc<str>,
}

/// The code is outside 200 to 599.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadAnswer(pub u16);

impl fmt::Display for BadAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "code {} is not between 200 and 599", self.0)
    }
}

impl std::error::Error for BadAnswer {}

impl Answer {
    /// `code` is 200 to 599.
    ///
    /// # Errors
    /// Another code.
    pub fn new(code: u16, enhanced: Option<EnhancedCode>, text: Arc<str>) -> Result<Self, BadAnswer> {
        if (200..600).contains(&code) { Ok(Self { code, enhanced, text }) } else { Err(BadAnswer(code)) }
    }

    /// 200 to 599.
    #[must_use]
    pub fn code(&self) -> u16 {
        self.code
    }

    /// Enhanced status code, when one was given.
    #[must_use]
    pub fn enhanced(&self) -> Option<EnhancedCode> {
        self.enhanced
    }

    /// Text without codes; may be empty.
    #[must_use]
    pub fn text(&self) -> &Arc<str> {
        &self.text
    }
}

/// Which of the operator's verbs made the rule, with what it needs.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The recipient must not be mailed. Addresses and domains in bulk are [`super::Suppressions`] instead.
    Suppression(Answer),
    /// Administrative bounce (KumoMTA's dialect).
    Bounce {
        /// What the `AdminBounce` record says.
        answer: Answer,
        /// Ends messages without a log record.
        suppress_logging: bool,
    },
    /// Forced error (MailerQ's dialect): the code's class says what it does.
    Error(Answer),
    /// Suspension (KumoMTA's dialect).
    Suspension {
        /// Shown by inspection.
        reason: Arc<str>,
    },
    /// Pause (MailerQ's dialect).
    Pause,
}

/// What a rule does to the mail that it covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action<'a> {
    /// It waits, no attempt is counted.
    Hold,
    /// It ends with a permanent failure.
    Fail(&'a Answer),
    /// It ends unsent, the record carrying a 2xx or 3xx code as given.
    EndSilently(&'a Answer),
    /// The attempt fails for now; the retry schedule goes on.
    Defer(&'a Answer),
}

impl Kind {
    /// What it does.
    #[must_use]
    pub fn action(&self) -> Action<'_> {
        match self {
            Self::Suppression(answer) | Self::Bounce { answer, .. } => Action::Fail(answer),
            Self::Error(answer) => match answer.code {
                500.. => Action::Fail(answer),
                400..500 => Action::Defer(answer),
                _ => Action::EndSilently(answer),
            },
            Self::Suspension { .. } | Self::Pause => Action::Hold,
        }
    }

    /// As written in records: `suppression`, `bounce`, `error`, `suspension`, `pause`.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Suppression(_) => "suppression",
            Self::Bounce { .. } => "bounce",
            Self::Error(_) => "error",
            Self::Suspension { .. } => "suspension",
            Self::Pause => "pause",
        }
    }

    /// The record that it makes (native contract, "Records that rules make"); `None` for those that hold,
    /// since a message waiting under a rule leaves no record.
    #[must_use]
    pub fn record(&self) -> Option<RecordType> {
        match (self, self.action()) {
            (_, Action::Hold) => None,
            (Self::Suppression(_), _) => Some(RecordType::Suppression),
            (Self::Bounce { .. }, _) => Some(RecordType::AdminBounce),
            (_, Action::Defer(_)) => Some(RecordType::TransientFailure),
            (_, Action::Fail(_) | Action::EndSilently(_)) => Some(RecordType::Bounce),
        }
    }
}

/// A rule of any kind and dialect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Names it; unique over all kinds.
    pub id: Arc<str>,
    /// Its place among rules by age: smaller is older. Kept when a rule is updated. Unique.
    pub order: u64,
    /// What it does.
    pub kind: Kind,
    /// What it covers.
    pub scope: Scope,
    /// When.
    pub validity: Validity,
    /// Name of the token that made it.
    pub by: Arc<str>,
}

impl Rule {
    /// What it does.
    #[must_use]
    pub fn action(&self) -> Action<'_> {
        self.kind.action()
    }

    /// Whether it acts only when an attempt is made, although it ends or defers mail: it defers, or it names
    /// something that belongs to the attempt (own address, pool, path, remote address). The other ending
    /// rules end queued, held and backed-off mail at once.
    #[must_use]
    pub fn waits_for_attempt(&self) -> bool {
        match self.action() {
            Action::Hold => false,
            Action::Defer(_) => true,
            Action::Fail(_) | Action::EndSilently(_) => self.scope.fields().meets(Fields::OF_PATH.with(Fields::POOL)),
        }
    }

    /// Whether it ends queued, held and backed-off mail at once.
    #[must_use]
    pub fn ends_at_once(&self) -> bool {
        self.kind.record().is_some() && !self.waits_for_attempt()
    }

    /// As records name it.
    #[must_use]
    pub fn mark(&self) -> RuleMark {
        RuleMark { id: Arc::clone(&self.id), kind: self.kind.as_str(), by: Arc::clone(&self.by) }
    }
}
