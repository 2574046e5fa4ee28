//! What is needed of etcd: the keys of segments, read as of a revision, and replaced if nobody else has touched them.

use super::Revision;
use crate::cluster::heard::Missed;

/// A segment where it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Its whole key.
    pub key: Vec<u8>,
    /// Its octets.
    pub value: Vec<u8>,
    /// Revision at which the key was made.
    pub made: Revision,
    /// Revision at which it was changed last.
    pub changed: Revision,
}

/// One transaction over segments.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replacement {
    /// Keys and the revisions at which they were changed last. If one was changed since, nothing is done.
    pub compare: Vec<(Vec<u8>, Revision)>,
    /// Gets this value.
    pub put: Option<(Vec<u8>, Vec<u8>)>,
    /// Are deleted.
    pub delete: Vec<Vec<u8>>,
}

/// The keys of all segments.
pub trait Keys: Send + Sync {
    /// All of them at one revision, some at a time, in the order of their keys; the revision is that given, or the
    /// newest, which is returned.
    ///
    /// # Errors
    /// They cannot be read, or `take` said so.
    fn each(&self, at: Option<Revision>, take: &mut Take<'_>) -> Result<Revision, Missed>;

    /// One, as it is now.
    ///
    /// # Errors
    /// It cannot be read.
    fn one(&self, key: &[u8]) -> Result<Option<Kept>, Missed>;

    /// Does all of it, or nothing. At which revision it was done; `None` if a key was changed.
    ///
    /// # Errors
    /// It was not done, or nobody knows whether it was.
    fn replace(&self, replacement: Replacement) -> Result<Option<Revision>, Missed>;
}

/// Takes a segment.
pub type Take<'a> = dyn FnMut(Kept) -> Result<(), Missed> + 'a;
