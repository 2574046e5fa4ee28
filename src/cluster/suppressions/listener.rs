//! The follower's ear for suppressions: makes changes of new segments, passes over merged ones, and finds the difference
//! to what is stored here when everything has to be read anew.

use super::catalogue::Catalogue;
use super::difference::{Difference, Failure, Pass, Step, Table};
use super::keys::{Kept, Keys};
use super::segment::Segment;
use super::{Broken, BrokenAt, Merged, Revision, SEGMENTS_BYTES_MAX, Word};
use crate::cluster::heard::{Apply, Hearing, Missed, News};
use crate::rules::change::Suppression;
use crate::rules::shared::Shared;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Changes that are applied at a time.
const PORTION: usize = 10_000;

/// The segments that are known, as of what was heard last; the listener and who merges share it.
#[derive(Clone, Debug, Default)]
pub struct Known(Arc<Mutex<Catalogue>>);

impl Known {
    /// For a moment: nobody waits for anything while holding it.
    pub fn lock(&self) -> MutexGuard<'_, Catalogue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See the module. Belongs to the follower's thread.
pub struct Listener<T> {
    keys: Arc<dyn Keys>,
    known: Known,
    table: T,
}

impl<T: Table<Error = String>> Listener<T> {
    /// `table` is what is stored here.
    pub fn new(keys: Arc<dyn Keys>, known: Known, table: T) -> Self {
        Self { keys, known, table }
    }

    fn pass(&mut self, pass: Pass, segments: &Segments, apply: &mut Apply<'_>) -> Result<(), Missed> {
        let parsed = segments.parsed()?;
        let broken = |at: BrokenAt| segments.unreadable(at.place, at.broken);
        let merged = Merged::new(parsed.iter().map(Segment::entries)).map_err(broken)?;
        let mut difference = Difference::new(merged, &mut self.table, pass);
        loop {
            let steps = difference.steps(PORTION).map_err(|failure| match failure {
                Failure::Segment(at) => broken(at),
                Failure::Table(why) => Missed::Now(why),
            })?;
            if steps.is_empty() {
                return Ok(());
            }
            apply(steps.into_iter().map(shared).collect())?;
        }
    }
}

fn shared(step: Step) -> Shared {
    match step {
        Step::Put(entry, token) => Shared::Suppress(entry, token),
        Step::Remove(value) => Shared::Unsuppress(value),
    }
}

impl<T: Table<Error = String> + Send> Hearing for Listener<T> {
    fn put(&mut self, key: &[u8], value: &[u8], made: Revision, changed: Revision) -> Result<Option<News>, String> {
        let broken = |broken| unreadable(key, broken);
        let segment = Segment::parse(value).map_err(broken)?;
        if !self.known.lock().put(key, made, changed, &segment) {
            return Ok(None);
        }
        let mut changes = Vec::new();
        let mut entries = segment.entries();
        while entries.advance().map_err(broken)? {
            let value = Arc::from(entries.value());
            changes.push(match entries.word() {
                Word::Removed => Shared::Unsuppress(value),
                Word::Put(grounds) => {
                    let entry = Suppression { value, verdict: grounds.verdict.clone() };
                    Shared::Suppress(entry, grounds.token.clone())
                }
            });
        }
        Ok(Some(News { changes, origin: segment.head.origin }))
    }

    fn delete(&mut self, key: &[u8], _at: Revision) {
        self.known.lock().delete(key);
    }

    fn relist(&mut self, at: Revision, apply: &mut Apply<'_>) -> Result<(), Missed> {
        let segments = Segments::read(&*self.keys, Some(at))?.0;
        for pass in [Pass::Puts, Pass::Removals] {
            self.pass(pass, &segments, apply)?;
        }
        let catalogue = segments.catalogue()?;
        *self.known.lock() = catalogue;
        Ok(())
    }
}

/// All segments at one revision, packed, the oldest first.
pub struct Segments(Vec<Kept>);

impl Segments {
    /// Reads them; the revision is returned.
    ///
    /// # Errors
    /// They cannot be read, or are more than can be.
    pub fn read(keys: &dyn Keys, at: Option<Revision>) -> Result<(Self, Revision), Missed> {
        let (mut by_age, mut octets) = (BTreeMap::new(), 0);
        let revision = keys.each(at, &mut |kept| {
            octets += kept.value.len();
            if octets > SEGMENTS_BYTES_MAX {
                return Err(Missed::Ever(format!("suppressions in etcd have more than {SEGMENTS_BYTES_MAX} octets")));
            }
            by_age.insert((kept.made, kept.key.clone()), kept);
            Ok(())
        })?;
        Ok((Self(by_age.into_values().collect()), revision))
    }

    /// Each with its key.
    pub fn kept(&self) -> &[Kept] {
        &self.0
    }

    /// Their heads and where their entries are.
    ///
    /// # Errors
    /// One is no segment.
    pub fn parsed(&self) -> Result<Vec<Segment<'_>>, Missed> {
        let segments = self.0.iter().enumerate();
        segments.map(|(place, kept)| Segment::parse(&kept.value).map_err(|why| self.unreadable(place, why))).collect()
    }

    /// What to say of one that is broken.
    #[must_use]
    pub fn unreadable(&self, place: usize, broken: Broken) -> Missed {
        Missed::Ever(unreadable(&self.0[place].key, broken))
    }

    /// What there is.
    ///
    /// # Errors
    /// One is no segment.
    pub fn catalogue(&self) -> Result<Catalogue, Missed> {
        let mut catalogue = Catalogue::default();
        for (kept, segment) in self.0.iter().zip(self.parsed()?) {
            catalogue.put(&kept.key, kept.made, kept.changed, &segment);
        }
        Ok(catalogue)
    }
}

/// What to say of a key whose segment is broken.
pub(super) fn unreadable(key: &[u8], broken: Broken) -> String {
    format!("suppressions in etcd cannot be read: {}: {broken}", String::from_utf8_lossy(key))
}
