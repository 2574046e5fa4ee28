//! What has to be done to a table for it to hold what the segments say: found by reading both in the order of values, a
//! page of the table and an entry of each segment in memory. Changes nothing itself.
//!
//! It is gone through twice, and between the two whoever asks does what came of the first: nothing that is suppressed
//! before and after is free in between.

use super::merged::{BrokenAt, Merged};
use super::{Grounds, Word};
use crate::rules::change::Suppression;
use std::collections::VecDeque;
use std::io::BufRead;
use std::sync::Arc;

/// Rows of the table in memory.
const PAGE: u32 = 1000;

/// A row of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The value, in its normal form.
    pub value: Arc<str>,
    /// Why.
    pub grounds: Grounds,
    /// It came from etcd. One that did not is not removed because it is missing there.
    pub is_shared: bool,
}

/// The table.
pub trait Table {
    /// Why it cannot be read.
    type Error;
    /// Rows in the order of their values after `value`, `limit` at most; fewer only at the end.
    ///
    /// # Errors
    /// It cannot be read.
    fn rows_after(&mut self, value: &str, limit: u32) -> Result<Vec<Row>, Self::Error>;
}

impl<T: Table> Table for &mut T {
    type Error = T::Error;

    fn rows_after(&mut self, value: &str, limit: u32) -> Result<Vec<Row>, Self::Error> {
        (**self).rows_after(value, limit)
    }
}

/// Which half.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// What is missing or other. First.
    Puts,
    /// What is too much. Second.
    Removals,
}

/// What is to be done to a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Make it, or make it this; who is named there made it.
    Put(Suppression, Arc<str>),
    /// Remove it.
    Remove(Arc<str>),
}

/// Why it cannot be found out.
#[derive(Debug)]
pub enum Failure<E> {
    /// A segment is broken.
    Segment(BrokenAt),
    /// The table cannot be read.
    Table(E),
}

/// One pass.
pub struct Difference<R, T> {
    merged: Merged<R>,
    table: T,
    pass: Pass,
    page: VecDeque<Row>,
    /// The last row read.
    after: Arc<str>,
    /// There may be more rows behind it.
    more: bool,
    /// The segments say something of a value that was not dealt with.
    ahead: bool,
}

impl<R: BufRead, T: Table> Difference<R, T> {
    /// Between what the segments say and the table.
    pub fn new(merged: Merged<R>, table: T, pass: Pass) -> Self {
        Self { merged, table, pass, page: VecDeque::new(), after: "".into(), more: true, ahead: false }
    }

    /// The next steps, so many at most; none at the end.
    ///
    /// # Errors
    /// See [`Failure`]. The steps that came before hold nevertheless: each segment's entries count alone.
    pub fn steps(&mut self, most: usize) -> Result<Vec<Step>, Failure<T::Error>> {
        let mut steps = Vec::new();
        while steps.len() < most {
            self.fill()?;
            let row = self.page.front();
            if !self.ahead && row.is_none() {
                break;
            }
            let is_first = self.ahead && row.is_none_or(|row| *self.merged.value() <= *row.value);
            if !is_first {
                let row = self.page.pop_front().expect("without one, the segments come first");
                if self.pass == Pass::Removals && row.is_shared {
                    steps.push(Step::Remove(row.value));
                }
                continue;
            }
            self.ahead = false;
            let Word::Put(grounds) = self.merged.word() else { continue };
            let row = match row {
                Some(row) if *row.value == *self.merged.value() => self.page.pop_front(),
                _ => None,
            };
            let is_same = row.is_some_and(|row| row.is_shared && row.grounds == **grounds);
            if self.pass == Pass::Puts && !is_same {
                let Grounds { verdict, token } = &**grounds;
                let entry = Suppression { value: self.merged.value().into(), verdict: verdict.clone() };
                steps.push(Step::Put(entry, token.clone()));
            }
        }
        Ok(steps)
    }

    /// Reads on where nothing is ahead.
    fn fill(&mut self) -> Result<(), Failure<T::Error>> {
        if !self.ahead {
            self.ahead = self.merged.advance().map_err(Failure::Segment)?;
        }
        if self.page.is_empty() && self.more {
            self.page = self.table.rows_after(&self.after, PAGE).map_err(Failure::Table)?.into();
            self.more = self.page.len() == PAGE as usize;
            if let Some(last) = self.page.back() {
                self.after = last.value.clone();
            }
        }
        Ok(())
    }
}
