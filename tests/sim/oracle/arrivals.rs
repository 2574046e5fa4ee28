//! What hosts receive: whole, from and to whom it was meant, and once, except where a lost answer or a crash excuses it.

use super::Oracle;
use crate::operator::CONTROL_CORE;
use crate::plan::SECOND;
use crate::sink::Taken;
use crate::world::World;

impl Oracle {
    pub(super) fn check_content(&mut self, taken: &Taken) {
        let Some(&(serial, _)) = taken.recipients.first().and_then(|first| self.by_address.get(first)) else {
            return;
        };
        let letter = &self.known[serial].letter;
        let (sender, content, all) = (letter.sender.clone(), letter.content(), letter.recipients.clone());
        let strangers: Vec<&String> = taken.recipients.iter().filter(|address| !all.contains(address)).collect();
        self.check(strangers.is_empty(), || format!("letter {serial} went to {strangers:?}"));
        let mut once: Vec<&String> = taken.recipients.iter().collect();
        once.sort();
        once.dedup();
        self.check(once.len() == taken.recipients.len(), || format!("letter {serial} names a recipient twice"));
        self.check(taken.sender == sender, || format!("letter {serial} came from {}", taken.sender));
        let whole = taken.body.starts_with(b"Received: ") && taken.body.ends_with(content.as_bytes());
        self.check(whole, || {
            format!("letter {serial} did not arrive whole: {:?}", String::from_utf8_lossy(&taken.body))
        });
    }

    pub(super) fn check_not_twice(&mut self, serial: usize, at: usize, number: usize) {
        let (life, completed) = (self.handed[number].life, self.handed[number].completed);
        for &before in &self.known[serial].recipients[at].taken {
            let first = &self.handed[before];
            if !first.good || first.completed > completed {
                continue;
            }
            let who = || format!("letter {serial} recipient {at} was sent at {completed:?} although it was");
            let what = match first.answered {
                Some(answered) if answered.step > completed.step => None,
                Some(answered) if first.life == life => Some(format!("{} taken and answered at {answered:?}", who())),
                Some(answered) => self.beyond_bound(first.life, answered.time, serial).map(|by| {
                    format!("{} taken and answered at {answered:?}, {by} microseconds before the crash", who())
                }),
                None if first.life == life => {
                    let closed = self.outs.get(&first.conn).and_then(|out| out.closed);
                    let over = closed.is_some_and(|closed| closed.step <= completed.step);
                    (!over).then(|| format!("{} sent on connection {} that is still open", who(), first.conn))
                }
                None => None,
            };
            if let Some(what) = what {
                return self.fail(what);
            }
            self.repeated += 1;
        }
        let ended = self.known[serial].recipients[at].ends.iter().find(|end| end.life == life);
        if let Some(end) = ended.filter(|end| end.moment.step < completed.step) {
            let (kind, moment) = (end.kind, end.moment);
            self.fail(format!("letter {serial} recipient {at} was sent at {completed:?} after {kind:?} at {moment:?}"));
        }
    }

    /// How long before the crash that ended `life` something was finished at `time`, if that is longer than a crash
    /// may undo.
    pub(super) fn beyond_bound(&self, life: u32, time: u64, serial: usize) -> Option<u64> {
        let crash = self.crashes.get(&life)?.time;
        let held_up = self.troubles.iter().any(|(from, to)| *from < crash && time.saturating_sub(SECOND) <= *to);
        let undone = self.clean.contains(&life) || (crash > time + World::WINDOW && !held_up);
        let beyond = undone && !self.is_damaged(serial);
        beyond.then(|| crash - time)
    }

    /// Whether the disk that holds a letter was damaged, so that nothing is owed.
    pub(super) fn is_damaged(&self, serial: usize) -> bool {
        self.known[serial].id.is_none_or(|id| id.core == CONTROL_CORE || self.damaged.contains(&id.core))
            && !self.damaged.is_empty()
    }
}
