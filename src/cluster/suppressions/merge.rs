//! What replaces segments, so that a reader sees the same and there are fewer of them, or fewer entries.
//!
//! Why it is safe to leave an entry out: of a value the latest entry counts, and it is never left out but for one case;
//! so what an older one says is seen by nobody. The one case is a removal when nothing older speaks of the value: without
//! both, the value is not suppressed either. Older segments never get an entry of a value that they had none of, since all
//! that ever changes a segment is a merge, and that takes only from beside it. So what was found out about older ones
//! stays true.

use super::merged::{BrokenAt, Merged};
use super::segment::{Packer, Segment};
use super::{RAW_BYTES_MAX, SEGMENT_BYTES_MAX, Word};

/// What became of a run of segments.
#[derive(Debug, PartialEq, Eq)]
pub enum Replaced {
    /// This one segment says what they did.
    By(Vec<u8>),
    /// They say nothing any more.
    ByNothing,
    /// It would be longer than a segment may be.
    NotInOne,
}

/// One segment that says what a run of them says, of which the oldest is given first. `is_oldest` when no segment is
/// older than these.
///
/// # Errors
/// The segment that cannot be read.
pub fn merge(run: &[Segment<'_>], is_oldest: bool) -> Result<Replaced, BrokenAt> {
    let mut merged = Merged::new(run.iter().map(Segment::entries))?;
    let mut packer = Packer::default();
    while merged.advance()? {
        if is_oldest && *merged.word() == Word::Removed {
            continue;
        }
        packer.push(merged.value(), merged.word());
        if packer.raw() > RAW_BYTES_MAX {
            return Ok(Replaced::NotInOne);
        }
    }
    Ok(finished(packer))
}

fn finished(packer: Packer) -> Replaced {
    if packer.is_empty() {
        return Replaced::ByNothing;
    }
    let segment = packer.finish(None);
    if segment.len() > SEGMENT_BYTES_MAX { Replaced::NotInOne } else { Replaced::By(segment) }
}

/// Which entries of all segments say nothing any more, as of one revision at which all of them were read.
///
/// Removals are among them, though they still are needed as long as an older segment holds the value. So whoever leaves
/// entries out by this goes from the oldest segment to the latest, each in a transaction of its own, and stops at the
/// first that fails.
pub struct Survey {
    segments: Vec<Vec<bool>>,
    /// Values that are suppressed.
    pub live: u64,
    /// Entries that say nothing any more.
    pub idle: u64,
}

impl Survey {
    /// Of all segments there are, the oldest first.
    ///
    /// # Errors
    /// The segment that cannot be read.
    pub fn of(all: &[Segment<'_>]) -> Result<Self, BrokenAt> {
        let entries = |segment: &Segment<'_>| (segment.head.puts + segment.head.removals) as usize;
        let mut survey =
            Self { segments: all.iter().map(|segment| vec![false; entries(segment)]).collect(), live: 0, idle: 0 };
        let mut merged = Merged::new(all.iter().map(Segment::entries))?;
        while merged.advance()? {
            let counts = usize::from(*merged.word() != Word::Removed);
            survey.live += counts as u64;
            for place in &merged.speakers()[counts..] {
                survey.idle += 1;
                survey.segments[place.segment][place.entry as usize] = true;
            }
        }
        Ok(survey)
    }

    /// The segment at `place` without the entries that say nothing; nothing when each of its entries counts.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn without_idle(&self, place: usize, segment: &Segment<'_>) -> Result<Option<Replaced>, BrokenAt> {
        let is_idle = &self.segments[place];
        if !is_idle.contains(&true) {
            return Ok(None);
        }
        let (mut cursor, mut packer) = (segment.entries(), Packer::default());
        while cursor.advance().map_err(|broken| BrokenAt { place, broken })? {
            let index = cursor.index().expect("it stands on an entry") as usize;
            if !is_idle[index] {
                packer.push(cursor.value(), cursor.word());
            }
        }
        Ok(Some(finished(packer)))
    }
}
