//! Deadlines of the sessions of one core.
//!
//! Session deadlines are seconds to minutes and move with every reply, so moving one must cost nothing and
//! ringing may be late by [`crate::limits::ALARM_SCAN_MILLIS`]. They stand in one array that the ticker
//! scans; a timer per command would cost more than the command.

use crate::time::Instant;
use std::cell::RefCell;
use std::rc::Rc;
use std::task::Waker;

const NEVER: u64 = u64::MAX;

#[derive(Debug, Default)]
struct Table {
    deadlines: Vec<u64>,
    wakers: Vec<Option<Waker>>,
    free: Vec<usize>,
}

/// All alarms of a core.
#[derive(Clone, Debug, Default)]
pub struct Alarms {
    table: Rc<RefCell<Table>>,
}

/// One session's alarm; gone when dropped.
#[derive(Debug)]
pub struct Alarm {
    table: Rc<RefCell<Table>>,
    at: usize,
}

impl Alarms {
    /// A new alarm, not set.
    #[must_use]
    pub fn alarm(&self) -> Alarm {
        let mut table = self.table.borrow_mut();
        let at = table.free.pop().unwrap_or_else(|| {
            table.deadlines.push(NEVER);
            table.wakers.push(None);
            table.deadlines.len() - 1
        });
        Alarm { table: self.table.clone(), at }
    }

    /// Rings what is due. Called by the ticker.
    pub fn scan(&self, now: Instant) {
        let mut due: smallvec::SmallVec<[Waker; 8]> = smallvec::SmallVec::new();
        {
            let mut table = self.table.borrow_mut();
            let Table { deadlines, wakers, .. } = &mut *table;
            for (deadline, waker) in deadlines.iter_mut().zip(wakers) {
                if *deadline <= now.0 {
                    *deadline = NEVER;
                    due.extend(waker.take());
                }
            }
        }
        due.into_iter().for_each(Waker::wake);
    }

    /// Rings every alarm, for a stop.
    pub fn ring_all(&self) {
        let wakers: Vec<Waker> = self.table.borrow_mut().wakers.iter_mut().filter_map(Option::take).collect();
        wakers.into_iter().for_each(Waker::wake);
    }
}

impl Alarm {
    /// Wakes `waker` at `deadline`, or never; replaces what was set.
    pub fn set(&self, deadline: Option<Instant>, waker: &Waker) {
        let mut table = self.table.borrow_mut();
        table.deadlines[self.at] = deadline.map_or(NEVER, |deadline| deadline.0);
        let slot = &mut table.wakers[self.at];
        if !slot.as_ref().is_some_and(|old| old.will_wake(waker)) {
            *slot = Some(waker.clone());
        }
    }

    /// Wakes the session now, whatever its deadline.
    pub fn ring(&self) {
        let waker = self.table.borrow_mut().wakers[self.at].take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        let mut table = self.table.borrow_mut();
        table.deadlines[self.at] = NEVER;
        table.wakers[self.at] = None;
        table.free.push(self.at);
    }
}
