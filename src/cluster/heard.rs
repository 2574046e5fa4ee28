//! What the follower's thread asks of the packed suppressions. They know the segments; it knows the revisions.

use crate::rules::entry::Origin;
use crate::rules::shared::{Revision, Shared};

/// What a new segment says.
#[derive(Clone, Debug, PartialEq)]
pub struct News {
    /// [`Shared::Suppress`] and [`Shared::Unsuppress`], each value once.
    pub changes: Vec<Shared>,
    /// Who made the change; unknown for one that was merged.
    pub origin: Option<Origin>,
}

/// Suppressions as the watch sees them. Belongs to the follower's thread, which may be kept waiting.
pub trait Hearing: Send {
    /// A key was put. Nothing for one that says what older segments said already.
    ///
    /// # Errors
    /// What cannot be read. Nothing that follows it may be applied.
    fn put(&mut self, key: &[u8], value: &[u8], made: Revision, changed: Revision) -> Result<Option<News>, String>;

    /// A key is gone: for book-keeping, nothing changes by it.
    fn delete(&mut self, key: &[u8], at: Revision);

    /// Reads everything anew as of a revision and says how what is stored here differs: first all that is missing or
    /// other, then all that is too much. What is here and was never in etcd stays. `apply` takes portions of
    /// 10,000 changes at most and returns when they are stored.
    ///
    /// # Errors
    /// What cannot be read, or what `apply` said.
    fn relist(&mut self, at: Revision, apply: &mut Apply<'_>) -> Result<(), Missed>;
}

/// Takes a portion of changes.
pub type Apply<'a> = dyn FnMut(Vec<Shared>) -> Result<(), Missed> + 'a;

/// Why everything could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Missed {
    /// It goes on later: etcd cannot be asked now, or has forgotten the revision.
    Now(String),
    /// Somebody has to do something first; the text says what.
    Ever(String),
}
