//! Keeps the segments few and what they say up to date, beside everything else and without haste: merges neighbours,
//! and now and then leaves out what says nothing any more. Whoever does it, and however many at once, nobody who reads
//! sees anything of it; so a plan that fails is simply forgotten.

use super::catalogue::{Catalogue, Run};
use super::keys::{Kept, Keys, Replacement};
use super::listener::{Known, Segments, unreadable};
use super::merge::{Replaced, Survey, merge};
use super::segment::Segment;
use super::{BrokenAt, Revision};
use crate::cluster::heard::Missed;
use std::sync::Arc;

/// What a step did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// There was nothing to do.
    Nothing,
    /// Segments were merged into one.
    Merged,
    /// Entries that said nothing were left out of so many segments.
    Swept(usize),
    /// Somebody else had changed something; it is known now.
    InVain,
    /// They do not go into one, though each is short.
    NotInOne,
}

/// Who merges. Belongs to a thread of its own.
pub struct Merging {
    keys: Arc<dyn Keys>,
    known: Known,
    /// Everything that was there at some revision is known: else it is not known who is whose neighbour.
    complete: bool,
    /// How many entries there were when a sweep was last thought of, and how many values were suppressed.
    counted: Option<(u64, u64)>,
}

impl Merging {
    /// By what the listener hears, and is told of what it does.
    pub fn new(keys: Arc<dyn Keys>, known: Known) -> Self {
        Self { keys, known, complete: false, counted: None }
    }

    /// Does one thing that is due. `live` says how many values are suppressed; it is asked seldom.
    ///
    /// # Errors
    /// etcd cannot be asked, or holds what cannot be read.
    pub fn step(&mut self, live: &mut dyn FnMut() -> Result<u64, Missed>) -> Result<Done, Missed> {
        if !self.complete {
            // What is heard meanwhile is newer than what is read, and stays.
            let segments = Segments::read(&*self.keys, None)?.0;
            self.known.lock().complete(segments.catalogue()?);
            self.complete = true;
        }
        let due = self.known.lock().run_due();
        if let Some(run) = due {
            return self.merge(run);
        }
        if self.is_sweep_due(live)? { self.sweep() } else { Ok(Done::Nothing) }
    }

    fn merge(&mut self, mut run: Run) -> Result<Done, Missed> {
        let mut values = Vec::new();
        for segment in &run.segments {
            let now = self.keys.one(&segment.key)?;
            if now.as_ref().is_none_or(|now| now.changed != segment.changed) {
                self.known.lock().correct(&segment.key, now.as_ref())?;
                return Ok(Done::InVain);
            }
            values.extend(now);
        }
        loop {
            match merged(&values, run.is_oldest)? {
                Replaced::NotInOne if values.len() > 2 => {
                    values.truncate(values.len() / 2);
                    run.segments.truncate(values.len());
                }
                Replaced::NotInOne => return Ok(Done::NotInOne),
                replaced => return Ok(if self.replace(&values, replaced)? { Done::Merged } else { Done::InVain }),
            }
        }
    }

    fn is_sweep_due(&mut self, live: &mut dyn FnMut() -> Result<u64, Missed>) -> Result<bool, Missed> {
        let entries = self.known.lock().entries();
        let is_known = self.counted.is_some_and(|(then, live)| entries <= then.max(Catalogue::entries_allowed(live)));
        if is_known || entries <= Catalogue::entries_allowed(0) {
            return Ok(false);
        }
        let live = live()?;
        self.counted = Some((entries, live));
        Ok(entries > Catalogue::entries_allowed(live))
    }

    /// Leaves out of each segment what says nothing any more, from the oldest on, as long as nobody comes between.
    fn sweep(&mut self) -> Result<Done, Missed> {
        let segments = Segments::read(&*self.keys, None)?.0;
        let parsed = segments.parsed()?;
        let broken = |at: BrokenAt| segments.unreadable(at.place, at.broken);
        let survey = Survey::of(&parsed).map_err(broken)?;
        let mut swept = 0;
        for (place, (kept, segment)) in segments.kept().iter().zip(&parsed).enumerate() {
            let Some(replaced) = survey.without_idle(place, segment).map_err(broken)? else { continue };
            if replaced == Replaced::NotInOne {
                return Ok(Done::NotInOne);
            }
            if !self.replace(std::slice::from_ref(kept), replaced)? {
                return Ok(Done::InVain);
            }
            swept += 1;
        }
        self.counted = None;
        Ok(Done::Swept(swept))
    }

    /// Puts into the last one's key what says the same as all of them.
    fn replace(&self, run: &[Kept], replaced: Replaced) -> Result<bool, Missed> {
        let (last, others) = run.split_last().expect("a run is not empty");
        let keys = |run: &[Kept]| run.iter().map(|kept| kept.key.clone()).collect::<Vec<_>>();
        let value = if let Replaced::By(value) = replaced { Some(value) } else { None };
        let delete = keys(if value.is_some() { others } else { run });
        let compare = run.iter().map(|kept| (kept.key.clone(), kept.changed)).collect();
        let put = value.clone().map(|value| (last.key.clone(), value));
        let done: Option<Revision> = self.keys.replace(Replacement { compare, put, delete: delete.clone() })?;
        let Some(changed) = done else {
            for kept in run {
                let now = self.keys.one(&kept.key)?;
                self.known.lock().correct(&kept.key, now.as_ref())?;
            }
            return Ok(false);
        };
        let mut known = self.known.lock();
        delete.iter().for_each(|key| known.delete(key));
        let now = value.map(|value| Kept { key: last.key.clone(), value, made: last.made, changed });
        known.correct(&last.key, now.as_ref())?;
        Ok(true)
    }
}

fn merged(run: &[Kept], is_oldest: bool) -> Result<Replaced, Missed> {
    let broken = |at: BrokenAt| Missed::Ever(unreadable(&run[at.place].key, at.broken));
    let segments = run.iter().enumerate();
    let parsed =
        segments.map(|(place, kept)| Segment::parse(&kept.value).map_err(|why| BrokenAt { place, broken: why }));
    let parsed = parsed.collect::<Result<Vec<_>, _>>().map_err(broken)?;
    merge(&parsed, is_oldest).map_err(broken)
}

impl Catalogue {
    /// A key was looked at: this is how it is now.
    fn correct(&mut self, key: &[u8], now: Option<&Kept>) -> Result<(), Missed> {
        let Some(now) = now else {
            self.delete(key);
            return Ok(());
        };
        let segment = Segment::parse(&now.value).map_err(|broken| Missed::Ever(unreadable(key, broken)))?;
        self.put(key, now.made, now.changed, &segment);
        Ok(())
    }
}
