//! Changes of the rules as they travel from the control core to a shard, and which core keeps what. Only
//! `route` knows the hash that places a domain.

use super::rule::Rule;
use super::scope::Scope;
use super::suppression::{Cause, SuppressionKey};
use crate::message::{CoreId, domain_of};
use crate::route::lane_owner;
use std::fmt;
use std::sync::Arc;

/// A batch of changes, applied as one: no message is judged by half of it.
///
/// Epochs are numbers of the control core's changes over all cores. A change goes only to the cores that it
/// concerns, so a core sees gaps in them; `after` names the update that it must have applied before this one.
#[derive(Clone, Debug)]
pub struct Update {
    /// The epoch of the update posted to this core before this one; 0 for the first.
    pub after: u64,
    /// The epoch once it is applied; greater than `after`.
    pub epoch: u64,
    /// In order, their cost at most [`crate::limits::RULE_CHANGES_MAX`].
    pub changes: Vec<Change>,
}

impl Update {
    /// Table entries that it touches; the control core splits by it.
    #[must_use]
    pub fn cost(&self) -> usize {
        self.changes.iter().map(Change::cost).sum()
    }
}

/// One change.
#[derive(Clone, Debug)]
pub enum Change {
    /// Adds a rule, or replaces the one with the same id.
    Put(Arc<Rule>),
    /// Removes the rule with this id. None such (it may have ended here already) is no error.
    Remove(Arc<str>),
    /// Adds or overwrites a suppression.
    Suppress {
        /// The value's hash.
        key: SuppressionKey,
        /// What its records say.
        cause: Arc<Cause>,
    },
    /// Removes a suppression, if there.
    Unsuppress {
        /// The value's hash.
        key: SuppressionKey,
    },
}

impl Change {
    /// Table entries that it touches: one, or one for each queue name of a rule.
    #[must_use]
    pub fn cost(&self) -> usize {
        match self {
            Self::Put(rule) => rule.scope.queues.len().max(1),
            Self::Remove(_) | Self::Suppress { .. } | Self::Unsuppress { .. } => 1,
        }
    }
}

/// An update did not follow the last one applied: one was lost, repeated or overtaken. The core's rules are
/// unknown from here on, so it must not deliver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochGap {
    /// The epoch of the table.
    pub at: u64,
    /// What the update expected.
    pub after: u64,
    /// The update's own epoch.
    pub epoch: u64,
}

impl fmt::Display for EpochGap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rule update {} follows {}, but this core is at {}", self.epoch, self.after, self.at)
    }
}

impl std::error::Error for EpochGap {}

/// Whether `core` of `cores` keeps a rule with this scope: one that names a recipient domain or an address
/// only on the cores of that domain, any other on all. `lanes` says on how many cores a domain is spread
/// (1 unless configured).
#[must_use]
pub fn concerns(core: CoreId, cores: usize, scope: &Scope, lanes: impl Fn(&str) -> u16) -> bool {
    let domain = scope.domain.as_deref().or_else(|| scope.address.as_deref().map(domain_of));
    domain.is_none_or(|domain| keeps(core, cores, domain, &lanes))
}

/// Whether `core` of `cores` keeps the suppression of `value`, a normal address or a domain.
#[must_use]
pub fn concerns_suppression(core: CoreId, cores: usize, value: &str, lanes: impl Fn(&str) -> u16) -> bool {
    let domain = if value.contains('@') { domain_of(value) } else { value };
    keeps(core, cores, domain, &lanes)
}

fn keeps(core: CoreId, cores: usize, domain: &str, lanes: &impl Fn(&str) -> u16) -> bool {
    let lanes = usize::from(lanes(domain).max(1)).min(cores);
    (0..u16::try_from(lanes).unwrap_or(u16::MAX)).any(|lane| lane_owner(domain, lane, cores) == core)
}
