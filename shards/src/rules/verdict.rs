//! The answer that a look-up gives, and how rules found in force are weighed into one.

use super::lookup::BucketKeys;
use super::precedence::precedence;
use super::rule::{Action, Answer, Kind, Rule};
use super::scope::normal_address;
use super::suppression::Cause;
use crate::message::domain_of;
use crate::outcome::{RecordType, RuleMark};
use crate::time::Timestamp;
use std::sync::Arc;

/// On which occasion is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// The message waits: at intake, in a sweep, at a release. Ending rules that wait for an attempt
    /// ([`Rule::waits_for_attempt`]) do not act; a message that such a rule covers is not held either, since
    /// they win over a hold and the attempt must come about.
    Queued,
    /// An attempt is about to be made or is under way. Everything acts.
    Attempt,
}

/// What becomes of it.
#[derive(Clone, Copy, Debug)]
pub enum Decision<'a> {
    /// It may go.
    Pass,
    /// It waits, without an attempt.
    Hold {
        /// The rule that comes first among those that hold it.
        rule: &'a Arc<Rule>,
        /// When the last of those in force now goes by time alone; [`Timestamp::NEVER`] if one has no end.
        until: Timestamp,
    },
    /// It ends.
    End(Ruling<'a>),
    /// This attempt fails for now.
    Defer(Ruling<'a>),
}

/// What ends or defers a message.
#[derive(Clone, Copy, Debug)]
pub enum Ruling<'a> {
    /// A rule.
    Rule(&'a Arc<Rule>),
    /// Its address is suppressed.
    SuppressedAddress(&'a Arc<Cause>),
    /// Its domain is suppressed.
    SuppressedDomain(&'a Arc<Cause>),
}

impl<'a> Ruling<'a> {
    /// What is recorded in the place of a reply.
    #[must_use]
    pub fn answer(self) -> &'a Answer {
        match self {
            Self::SuppressedAddress(cause) | Self::SuppressedDomain(cause) => &cause.answer,
            Self::Rule(rule) => match rule.action() {
                Action::Fail(answer) | Action::EndSilently(answer) | Action::Defer(answer) => answer,
                Action::Hold => unreachable!("a rule that holds makes no ruling"),
            },
        }
    }

    /// The record that it makes.
    #[must_use]
    pub fn record(self) -> RecordType {
        match self {
            Self::SuppressedAddress(_) | Self::SuppressedDomain(_) => RecordType::Suppression,
            Self::Rule(rule) => rule.kind.record().expect("only a rule that holds makes no record"),
        }
    }

    /// Whether it wants no record in the log.
    #[must_use]
    pub fn suppress_logging(self) -> bool {
        matches!(self, Self::Rule(rule) if matches!(rule.kind, Kind::Bounce { suppress_logging: true, .. }))
    }

    /// As records name it; a suppression is named by its value, so the recipient's address is needed.
    #[must_use]
    pub fn mark(self, address: &str) -> RuleMark {
        let (value, cause) = match self {
            Self::Rule(rule) => return rule.mark(),
            Self::SuppressedAddress(cause) => (normal_address(address).into(), cause),
            Self::SuppressedDomain(cause) => (Arc::from(domain_of(address)), cause),
        };
        RuleMark { id: value, kind: "suppression", by: Arc::clone(&cause.by) }
    }
}

/// How long an answer is worth keeping: until a rule changed, or time passed its next transition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Epoch of the table.
    pub epoch: u64,
    /// When it was asked.
    pub at: Timestamp,
    /// The first moment at which time alone may change the answer; [`Timestamp::NEVER`] for none.
    pub next_transition: Timestamp,
}

impl Stamp {
    /// Whether an answer given then is still the answer. A clock that was set back makes it stale too.
    #[must_use]
    pub fn holds(&self, epoch: u64, now: Timestamp) -> bool {
        self.epoch == epoch && self.at <= now && now < self.next_transition
    }
}

/// The answer.
#[derive(Clone, Copy, Debug)]
pub struct Verdict<'a> {
    /// What becomes of the message.
    pub decision: Decision<'a>,
    /// How long that holds.
    pub stamp: Stamp,
}

impl Verdict<'_> {
    /// Whether it may go.
    #[must_use]
    pub fn passes(&self) -> bool {
        matches!(self.decision, Decision::Pass)
    }

    /// When time alone may change it.
    #[must_use]
    pub fn next_transition(&self) -> Timestamp {
        self.stamp.next_transition
    }
}

/// The answer for all that a bucket's messages have in common; kept by the bucket while its stamp holds.
#[derive(Clone, Debug)]
pub struct BucketVerdict {
    pub(super) found: Found<Arc<Rule>>,
    pub(super) suppressed: Option<Arc<Cause>>,
    pub(super) keys: BucketKeys,
    /// Whether a rule by tag or address may win over a hold when an attempt is made.
    pub(super) overridable: bool,
    /// How long it holds.
    pub stamp: Stamp,
    /// Whether some rule or suppression names a tag or an address, so that each message must be asked about.
    pub per_message: bool,
    /// Whether some rule names something of the attempt, so that each attempt must be asked about.
    pub per_path: bool,
}

impl BucketVerdict {
    /// What becomes of its messages as far as their bucket tells. A rule by tag or address may still end
    /// or defer one that is held here (see `per_message`).
    #[must_use]
    pub fn decision(&self, moment: Moment) -> Decision<'_> {
        self.tally().decide(moment)
    }

    /// The rule that holds the bucket as a whole, and until when, so that a pick passes over all its mail
    /// without looking at any. Rules and suppressions that end mail by its tag or address do not stand against
    /// it: they reach held mail by their sweep and new mail at intake, which ask about each message.
    #[must_use]
    pub fn whole_hold(&self) -> Option<(&Arc<Rule>, Timestamp)> {
        match self.decision(Moment::Attempt) {
            Decision::Hold { rule, until } if !self.overridable => Some((rule, until)),
            _ => None,
        }
    }

    pub(super) fn tally(&self) -> Tally<'_> {
        Tally {
            suppressed: self.suppressed.as_ref().map(Ruling::SuppressedDomain),
            found: Found {
                ending: self.found.ending.as_ref(),
                attempt: self.found.attempt.as_ref(),
                holding: self.found.holding.as_ref(),
                hold_until: self.found.hold_until,
                next_transition: self.found.next_transition,
            },
        }
    }
}

/// The first rules, by precedence, among those found in force.
#[derive(Clone, Debug)]
pub(super) struct Found<R> {
    /// Of those that end mail at once.
    pub(super) ending: Option<R>,
    /// Of those that end or defer it when an attempt is made.
    pub(super) attempt: Option<R>,
    /// Of those that hold it.
    pub(super) holding: Option<R>,
    pub(super) hold_until: Timestamp,
    pub(super) next_transition: Timestamp,
}

pub(super) struct Tally<'a> {
    pub(super) suppressed: Option<Ruling<'a>>,
    pub(super) found: Found<&'a Arc<Rule>>,
}

impl<'a> Tally<'a> {
    pub(super) fn new() -> Self {
        let found = Found {
            ending: None,
            attempt: None,
            holding: None,
            hold_until: Timestamp(i64::MIN),
            next_transition: Timestamp::NEVER,
        };
        Self { suppressed: None, found }
    }

    pub(super) fn consider(&mut self, rule: &'a Arc<Rule>, now: Timestamp) {
        let at = rule.validity.at(now);
        self.found.next_transition = self.found.next_transition.min(at.next);
        if !at.in_force {
            return;
        }
        let place = if rule.action() == Action::Hold {
            self.found.hold_until = self.found.hold_until.max(at.next);
            &mut self.found.holding
        } else if rule.waits_for_attempt() {
            &mut self.found.attempt
        } else {
            &mut self.found.ending
        };
        *place = first(*place, Some(rule));
    }

    pub(super) fn decide(&self, moment: Moment) -> Decision<'a> {
        if let Some(ruling) = self.suppressed {
            return Decision::End(ruling);
        }
        let found = &self.found;
        let acting = match moment {
            Moment::Queued if found.ending.is_none() && found.attempt.is_some() => return Decision::Pass,
            Moment::Queued => found.ending,
            Moment::Attempt => first(found.ending, found.attempt),
        };
        match (acting, found.holding) {
            (Some(rule), _) if matches!(rule.action(), Action::Defer(_)) => Decision::Defer(Ruling::Rule(rule)),
            (Some(rule), _) => Decision::End(Ruling::Rule(rule)),
            (None, Some(rule)) => Decision::Hold { rule, until: found.hold_until },
            (None, None) => Decision::Pass,
        }
    }
}

/// Whichever comes first by precedence.
fn first<'a>(one: Option<&'a Arc<Rule>>, other: Option<&'a Arc<Rule>>) -> Option<&'a Arc<Rule>> {
    match (one, other) {
        (Some(a), Some(b)) => Some(if precedence(b) < precedence(a) { b } else { a }),
        (one, other) => one.or(other),
    }
}
