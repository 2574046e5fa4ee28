//! Connections that wait for another message. Closes nothing itself: it says which to use next and which have
//! waited too long.

use crate::path::PathId;
use crate::path::limit::ShareKey;
use crate::time::Instant;
use hashbrown::HashMap;
use smallvec::SmallVec;
use std::collections::BTreeSet;

/// The idle sessions of one core, by the path and by what they may carry. `S` names a session there. Bounded by
/// the connections that the core may have.
#[derive(Debug)]
pub struct Idle<S> {
    by_use: HashMap<(PathId, ShareKey), SmallVec<[S; 4]>>,
    by_session: HashMap<S, Place>,
    deadlines: BTreeSet<(Instant, S)>,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    path: PathId,
    share: ShareKey,
    until: Instant,
}

impl<S: Copy + Ord + std::hash::Hash> Default for Idle<S> {
    fn default() -> Self {
        Self::new()
    }
}

impl<S: Copy + Ord + std::hash::Hash> Idle<S> {
    /// None is idle.
    #[must_use]
    pub fn new() -> Self {
        Self { by_use: HashMap::new(), by_session: HashMap::new(), deadlines: BTreeSet::new() }
    }

    /// `session` waits for a message until `until`. It must not be idle already.
    pub fn insert(&mut self, path: PathId, share: ShareKey, session: S, until: Instant) {
        let before = self.by_session.insert(session, Place { path, share, until });
        assert!(before.is_none(), "a session becomes idle once");
        self.by_use.entry((path, share)).or_default().push(session);
        self.deadlines.insert((until, session));
    }

    /// Takes the session that was used last, so that superfluous ones run out of time.
    pub fn take(&mut self, path: PathId, share: ShareKey) -> Option<S> {
        let session = *self.by_use.get(&(path, share))?.last()?;
        self.remove(session);
        Some(session)
    }

    /// `session` is not idle any more: closed, recalled or lost. Says whether it was.
    pub fn remove(&mut self, session: S) -> bool {
        let Some(place) = self.by_session.remove(&session) else { return false };
        self.deadlines.remove(&(place.until, session));
        let key = (place.path, place.share);
        if let Some(sessions) = self.by_use.get_mut(&key) {
            sessions.retain(|other| *other != session);
            if sessions.is_empty() {
                self.by_use.remove(&key);
            }
        }
        true
    }

    /// Takes a session whose time has run out.
    pub fn expire(&mut self, now: Instant) -> Option<S> {
        let &(until, session) = self.deadlines.first()?;
        if until > now {
            return None;
        }
        self.remove(session);
        Some(session)
    }

    /// When the next one runs out of time.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|&(until, _)| until)
    }

    /// How many are idle.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_session.len()
    }

    /// Whether none is idle.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_session.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::Idle;
    use crate::path::PathId;
    use crate::path::limit::ShareKey;
    use crate::time::Instant;

    #[test]
    fn the_last_used_is_taken_and_the_oldest_expires() {
        let (path, other) = (PathId(1), PathId(2));
        let (share, own) = (ShareKey(1), ShareKey(2));
        let mut idle = Idle::new();
        for session in 1..=3_u32 {
            idle.insert(path, share, session, Instant(u64::from(session) * 10));
        }
        idle.insert(path, own, 4, Instant(5));
        assert_eq!((idle.len(), idle.is_empty()), (4, false));
        assert_eq!(idle.take(other, share), None);
        assert_eq!(idle.take(path, share), Some(3));
        assert_eq!(idle.next_deadline(), Some(Instant(5)));
        assert_eq!(idle.expire(Instant(4)), None);
        assert_eq!(idle.expire(Instant(10)), Some(4));
        assert_eq!(idle.expire(Instant(10)), Some(1));
        assert_eq!(idle.expire(Instant(10)), None);
        assert!(idle.remove(2) && !idle.remove(2));
        assert!(idle.is_empty() && idle.by_use.is_empty() && idle.deadlines.is_empty());
        assert_eq!(idle.take(path, share), None);
    }
}
