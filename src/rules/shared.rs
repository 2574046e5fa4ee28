//! Changes that came through etcd, from this engine or another, as plain values. Nothing of etcd but its revisions.

use super::change::{Pool, Suppression};
use super::entry::{Draft, Origin};
use std::sync::Arc;

/// A revision of etcd: orders every change of everything in it. 0 is before all of them.
pub type Revision = i64;

/// What one revision changed, or a part of what is found by reading everything anew.
#[derive(Clone, Debug, PartialEq)]
pub struct Follow {
    /// Suppressions get it; rules and pools have one of their own.
    pub revision: Revision,
    /// The revision that must be stored before it: else one was missed, and it is refused.
    pub after: Revision,
    /// With these changes, everything up to the revision is stored.
    pub completes: bool,
    /// In this order.
    pub changes: Vec<Shared>,
    /// Who made the changes that do not say it themselves; unknown where nobody can know any more.
    pub origin: Option<Origin>,
}

/// One change.
#[derive(Clone, Debug, PartialEq)]
pub enum Shared {
    /// A rule is new, or other.
    Rule(Box<SharedRule>),
    /// The rule with that key is gone.
    RemoveRule(Arc<str>),
    /// A pool is new, or other.
    Pool(Box<SharedPool>),
    /// A pool is gone, and with it its members here.
    RemovePool(Arc<str>),
    /// A suppression is new, or other. The name is that of the token that made it.
    Suppress(Suppression, Arc<str>),
    /// A suppression is gone.
    Unsuppress(Arc<str>),
    /// A node is waited for no longer: for the audit trail alone.
    ForgetNode(Arc<str>),
}

/// A pool that all engines have; its members are each engine's own.
#[derive(Clone, Debug, PartialEq)]
pub struct SharedPool {
    /// Its name and what is said of it.
    pub pool: Pool,
    /// At which it was changed last.
    pub revision: Revision,
    /// Who asked.
    pub origin: Origin,
}

/// A rule that all engines have.
#[derive(Clone, Debug, PartialEq)]
pub struct SharedRule {
    /// Its key, without the prefix; says collection and identity.
    pub key: Arc<str>,
    /// At which it was changed last.
    pub revision: Revision,
    /// As on every engine.
    pub id: Arc<str>,
    /// What was asked for.
    pub draft: Draft,
    /// Who asked.
    pub origin: Origin,
    /// When it was first made.
    pub created: mailrace_shards::time::Timestamp,
}

/// What this engine remembers of its cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    /// Of this data directory; no other ever has it.
    pub uuid: String,
    /// Etcd's cluster and the prefix in it that the revisions are of.
    pub place: Option<String>,
    /// Everything up to it is stored here; 0: everything must be read anew.
    pub revision: Revision,
    /// The same, when this engine last ran outside the cluster.
    pub behind: Revision,
    /// What was made outside the cluster has been brought in.
    pub joined: bool,
    /// The others wait for this engine even when it is lost: it may deliver by the rules that it knows.
    pub counted: bool,
}
