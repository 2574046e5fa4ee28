//! Which rule acts when several match (native contract): suppression, bounce, forced error 5xx, 2xx/3xx,
//! 4xx, then suspension and pause. Within one kind the rule that names more fields, then the older.

use super::rule::{Action, Kind, Rule};
use std::cmp::Reverse;

/// The kinds in the order in which they win.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rank {
    /// Suppression.
    Suppression,
    /// Administrative bounce.
    Bounce,
    /// Forced error 5xx.
    Fail,
    /// Forced 2xx or 3xx.
    EndSilently,
    /// Forced error 4xx.
    Defer,
    /// Suspension and pause.
    Hold,
}

/// Orders rules; the smallest acts.
pub type Precedence = (Rank, Reverse<u32>, u64);

/// The rule's place.
#[must_use]
pub fn precedence(rule: &Rule) -> Precedence {
    (rank(&rule.kind), Reverse(rule.scope.fields().count()), rule.order)
}

/// The place of its kind.
#[must_use]
pub fn rank(kind: &Kind) -> Rank {
    match (kind, kind.action()) {
        (Kind::Suppression(_), _) => Rank::Suppression,
        (Kind::Bounce { .. }, _) => Rank::Bounce,
        (_, Action::Fail(_)) => Rank::Fail,
        (_, Action::EndSilently(_)) => Rank::EndSilently,
        (_, Action::Defer(_)) => Rank::Defer,
        (_, Action::Hold) => Rank::Hold,
    }
}
