//! Long work in slices: destinations whose hosts all failed, mail that a rule ends, mail that a rule no
//! longer holds. Each tick does a bounded part; nothing here runs to the end in one go.

use super::Shard;
use super::gate::{Fate, Judgement, is_blank};
use super::settle::Attempt;
use super::site::{Route, SiteId};
use super::way::{Ways, closes_ways};
use crate::limits::{HELD_ENTRIES_KEPT, SWEEP_ENTRIES_PER_TICK};
use crate::path::Member;
use crate::queue::{BucketId, DestinationId, EntryId, State};
use crate::rules::{Change, Fields, Moment, PathFacts, Phase, Rule, Transition, Update};
use crate::smtp::classify::Failure;
use crate::smtp::client::{RecipientResult, Results};
use crate::time::Now;
use smallvec::SmallVec;
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

/// What a rule holds.
#[derive(Debug, Default)]
pub(super) struct Held {
    /// Whole buckets, as long as they are there.
    pub buckets: BTreeSet<BucketId>,
    /// Single entries, with their places; some may have ended since.
    pub entries: Vec<(EntryId, u64)>,
    /// How many entries there were when those that had ended were last left out.
    left: usize,
    /// Most sessions that a site of its buckets had when one was held.
    pub sessions: u32,
}

impl Held {
    /// One entry more. Now and then those go that are not held any more: a pause of a tag may hold mail for months that expires
    /// in days.
    pub fn keep(&mut self, id: EntryId, place: u64, is_held: impl Fn(EntryId, u64) -> bool) {
        if self.entries.len() >= 2 * self.left.max(HELD_ENTRIES_KEPT) {
            self.entries.retain(|(id, place)| is_held(*id, *place));
            self.left = self.entries.len();
        }
        self.entries.push((id, place));
    }
}

/// All ready entries of a destination, or some of them, share a failure.
#[derive(Debug)]
struct FailedDestination {
    destination: DestinationId,
    meant: Meant,
    /// Buckets of which nothing more is meant.
    finished: SmallVec<[BucketId; 4]>,
    /// Entries that came later are not meant.
    last_place: u64,
    failure: Failure,
    attempt: Attempt,
}

/// Which ready entries of a destination a failure is meant for.
#[derive(Debug)]
pub(super) enum Meant {
    /// All of them.
    All,
    /// Those of one bucket.
    Bucket(BucketId),
    /// Those that go from these sources to this site, and that rules keep from the ways to it that are left.
    From(Arc<[Member]>, SiteId, Ways),
}

impl Meant {
    /// Whether whatever `other` is meant for is meant here, too.
    fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::All, _) => true,
            (Self::Bucket(own), Self::Bucket(wanted)) => own == wanted,
            (Self::From(own, ..), Self::From(wanted, ..)) => Arc::ptr_eq(own, wanted),
            (Self::Bucket(_) | Self::From(..), _) => false,
        }
    }
}

/// Work that is not finished.
#[derive(Debug, Default)]
pub(super) struct Sweeps {
    failed: VecDeque<FailedDestination>,
    releasing: VecDeque<(EntryId, u64)>,
    /// The whole queue is judged anew, from the entry after this one.
    scan: Option<Option<EntryId>>,
    /// A rule came while a scan was under way: another one follows.
    scan_again: bool,
}

impl Shard {
    /// The ready mail of a destination has failed as a whole, or that part of it which is `meant`.
    pub(super) fn sweep_ready(&mut self, destination: DestinationId, meant: Meant, failure: Failure, attempt: Attempt) {
        if self.sweeps.failed.iter().any(|sweep| sweep.destination == destination && sweep.meant.covers(&meant)) {
            return;
        }
        let (last_place, finished) = (self.queue.last_place(), SmallVec::new());
        self.routes.of(destination).failing += 1;
        self.sweeps.failed.push_back(FailedDestination { destination, meant, finished, last_place, failure, attempt });
    }

    /// The next ready entry that the first sweep over a destination means.
    fn next_failed(&mut self) -> Option<EntryId> {
        let Self { sweeps, queue, buckets, .. } = self;
        let sweep = sweeps.failed.front_mut()?;
        queue.total(sweep.destination)?;
        loop {
            let (bucket, id) = queue.next(sweep.destination, |bucket, _| {
                let goes_from = |members: &Arc<[Member]>| {
                    buckets.get(bucket).is_some_and(|state| Arc::ptr_eq(&state.eligible.members, members))
                };
                let is_meant = match &sweep.meant {
                    Meant::All => true,
                    Meant::Bucket(meant) => *meant == bucket,
                    Meant::From(members, ..) => goes_from(members),
                };
                is_meant && !sweep.finished.contains(&bucket)
            })?;
            if queue.entry(id).place <= sweep.last_place {
                return Some(id);
            }
            sweep.finished.push(bucket);
        }
    }

    /// Applies a numbered change of the rules. From the moment it returns, the gate follows it.
    ///
    /// # Panics
    /// When an update was lost: this core's rules would be unknown, and it must not deliver.
    pub fn handle_rules(&mut self, update: Update, now: Now) {
        let (mut ends, mut attempts) = (false, false);
        let mut opens = false;
        let mut touched: Vec<Arc<str>> = Vec::new();
        for change in &update.changes {
            self.note_departure(change, now);
            match change {
                Change::Put(rule) => {
                    let acts = rule.kind.record().is_some();
                    ends |= acts && !rule.waits_for_attempt();
                    attempts |= acts && rule.waits_for_attempt();
                    opens |= self.rules.rule(&rule.id).is_some_and(|old| closes_ways(old));
                    touched.push(rule.id.clone());
                }
                Change::Remove(id) => {
                    opens |= self.rules.rule(id).is_some_and(|old| closes_ways(old));
                    // Nobody can ask for it any more.
                    self.ended.remove(id);
                    touched.push(id.clone());
                }
                Change::Suppress { .. } => ends = true,
                Change::Unsuppress { .. } => {}
            }
        }
        if let Err(gap) = self.rules.apply(update, now.utc) {
            panic!("{gap}: this core may not deliver by unknown rules");
        }
        for id in touched {
            self.let_go(&id, now);
        }
        if attempts || opens {
            self.let_go_all(now);
        }
        if ends {
            self.scan();
        }
    }

    /// Everything held is judged anew: a rule came that acts when an attempt is made, and so wins over holds; or one
    /// went that had closed a way, so that mail held by a rule over its other ways may go.
    fn let_go_all(&mut self, now: Now) {
        self.let_go_of(|_| true, now);
    }

    /// What is held by something that settings decide is judged anew: its pool may be another one, or have more ways.
    pub(super) fn let_go_after_reload(&mut self, now: Now) {
        self.let_go_of(|rule| rule.scope.fields().meets(Fields::OF_PATH.with(Fields::POOL)), now);
    }

    fn let_go_of(&mut self, which: impl Fn(&Rule) -> bool, now: Now) {
        let wanted = |id: &&Arc<str>| self.rules.rule(id).is_none_or(|rule| which(rule));
        let mut holding: Vec<Arc<str>> = self.held.keys().filter(wanted).cloned().collect();
        // The map's own order differs from run to run, and what is let go first is served first.
        holding.sort_unstable();
        for rule in holding {
            self.let_go(&rule, now);
        }
    }

    /// Time has moved some rules.
    pub(super) fn handle_transitions(&mut self, transitions: Vec<Transition>, now: Now) {
        for Transition { rule, phase, was_in_force } in transitions {
            if was_in_force {
                self.departed.keep_rule(&rule, now.utc);
            }
            match phase {
                Phase::Began if rule.ends_at_once() => self.scan(),
                Phase::Began if rule.waits_for_attempt() => self.let_go_all(now),
                Phase::Began => {}
                Phase::Lapsed | Phase::Ended if closes_ways(&rule) => self.let_go_all(now),
                Phase::Lapsed | Phase::Ended => self.let_go(&rule.id, now),
            }
        }
    }

    /// What a rule held is judged anew: buckets at once, single entries in slices.
    /// A release is paced: the paths begin with half the sessions of before and double them in each step.
    fn pace_release(&mut self, destination: DestinationId, sessions: u32, now: Now) {
        if let Some(site) = self.site_of(destination) {
            for path in self.sites.site(site).paths.clone() {
                self.sites.path_mut(path).window.released(sessions, now.instant);
            }
        }
    }

    /// The site that a destination's mail goes to, once it is known.
    fn site_of(&self, destination: DestinationId) -> Option<SiteId> {
        match self.routes.get(destination)? {
            Route::Known { site, .. } => Some(site),
            Route::Resolving | Route::Unknown => None,
        }
    }

    /// How many sessions there are to a destination's site.
    pub(super) fn sessions_to(&self, destination: DestinationId) -> u32 {
        let paths = self.site_of(destination).map(|site| &self.sites.site(site).paths);
        paths.into_iter().flatten().map(|path| self.sites.path(*path).sessions).sum()
    }

    fn let_go(&mut self, rule: &str, now: Now) {
        let Some(held) = self.held.remove(rule) else {
            return;
        };
        for bucket in held.buckets {
            if self.queue.bucket_held(bucket).is_some_and(|by| *by.rule == *rule) {
                self.queue.release_bucket(bucket);
                let destination = self.queue.destination_of(bucket);
                self.pace_release(destination, held.sessions, now);
                self.attend(destination, now);
            }
        }
        self.sweeps.releasing.extend(held.entries);
    }

    fn scan(&mut self) {
        if self.sweeps.scan.is_some() {
            self.sweeps.scan_again = true;
        } else {
            self.sweeps.scan = Some(None);
        }
    }

    /// One slice of everything.
    pub(super) fn sweep(&mut self, now: Now) {
        let mut budget = SWEEP_ENTRIES_PER_TICK;
        self.sweep_failed(&mut budget, now);
        self.sweep_releasing(&mut budget, now);
        self.sweep_scan(&mut budget, now);
    }

    fn sweep_failed(&mut self, budget: &mut usize, now: Now) {
        while *budget > 0
            && let Some(sweep) = self.sweeps.failed.front()
        {
            let (destination, failure, attempt) = (sweep.destination, sweep.failure.clone(), sweep.attempt.clone());
            let Some(id) = self.next_failed() else {
                self.sweeps.failed.pop_front();
                let state = self.routes.of(destination);
                // A destination that was forgotten meanwhile counts anew.
                state.failing = state.failing.saturating_sub(1);
                self.attend_if_there(destination, now);
                continue;
            };
            *budget -= 1;
            if self.may_still_go(id, now) {
                // And so may what stands behind it, for all that is known: it is looked at when its turn comes.
                let bucket = self.queue.entry(id).bucket;
                self.sweeps.failed[0].finished.push(bucket);
                continue;
            }
            // A message that a rule covers is not failed by its hosts: the rule comes first.
            match self.judge(id, PathFacts::default(), Moment::Attempt, now) {
                Judgement::Pass(_) => {
                    let recipients = self.queue.entry(id).recipients.to_list();
                    let results: Results = recipients
                        .into_iter()
                        .map(|recipient| (recipient, RecipientResult::Failed(failure.clone())))
                        .collect();
                    self.settle(id, results, &attempt, now);
                }
                acts => self.carry_out(id, acts, now),
            }
        }
    }

    /// Whether an entry of the first sweep has a way left that no rule closes to it.
    fn may_still_go(&mut self, id: EntryId, now: Now) -> bool {
        let Some(sweep) = self.sweeps.failed.front() else { return false };
        let Meant::From(_, site, ways) = &sweep.meant else { return false };
        if ways.is_empty() {
            return false;
        }
        let (site, ways, destination) = (*site, ways.clone(), sweep.destination);
        // Where its mail goes to another site by now, nothing is known of its ways.
        self.site_of(destination) != Some(site) || self.has_open(id, site, &ways, now)
    }

    pub(super) fn attend_if_there(&mut self, destination: DestinationId, now: Now) {
        if self.queue.total(destination).is_some() {
            self.attend(destination, now);
        }
    }

    fn sweep_releasing(&mut self, budget: &mut usize, now: Now) {
        while *budget > 0
            && let Some((id, place)) = self.sweeps.releasing.pop_front()
        {
            *budget -= 1;
            if self.queue.entry_at(id, place).is_some_and(|entry| entry.state == State::Held) {
                self.queue.release(id);
                let destination = self.queue.destination_of(self.queue.entry(id).bucket);
                self.attend(destination, now);
            }
        }
    }

    /// Ends the recipients of a queued entry that a rule ends at once. The others stay as they are.
    pub(super) fn end_by_rules(&mut self, id: EntryId, now: Now) {
        if let Judgement::Each(mut fates) = self.judge(id, PathFacts::default(), Moment::Queued, now)
            && fates.iter().any(|(_, fate)| matches!(fate, Fate::End { .. }))
        {
            for (_, fate) in fates.iter_mut().filter(|(_, fate)| !matches!(fate, Fate::End { .. })) {
                *fate = Fate::Pass;
            }
            self.carry_out(id, Judgement::Each(fates), now);
        }
    }

    fn sweep_scan(&mut self, budget: &mut usize, now: Now) {
        let Some(after) = self.sweeps.scan else {
            return;
        };
        if is_blank(&self.rules) {
            self.sweeps.scan = None;
            return;
        }
        let slice: Vec<EntryId> = self
            .queue
            .entries_after(after, *budget)
            .filter(|(_, entry)| entry.state != State::InFlight)
            .map(|(id, _)| id)
            .collect();
        let reached = after.map_or(0, |id| id.0 as usize + 1) + *budget;
        for id in slice {
            *budget = budget.saturating_sub(1);
            self.end_by_rules(id, now);
        }
        self.sweeps.scan = if reached < self.queue.entry_id_bound() {
            Some(Some(EntryId(u32::try_from(reached - 1).expect("entry ids have 32 bits"))))
        } else if std::mem::take(&mut self.sweeps.scan_again) {
            Some(None)
        } else {
            None
        };
    }
}

#[cfg(test)]
mod tests {
    use super::Held;
    use crate::limits::HELD_ENTRIES_KEPT;
    use crate::queue::EntryId;

    #[test]
    fn entries_that_have_ended_do_not_pile_up_under_the_rule_that_held_them() {
        let (mut held, mut most) = (Held::default(), 0);
        for number in 0..100_000_u32 {
            // The last thousand are held, each tenth for good.
            let is_held = |id: EntryId, _| id.0.is_multiple_of(10) || id.0 + 1000 > number;
            held.keep(EntryId(number), 7, is_held);
            let really = number as usize / 10 + 1000;
            most = most.max(held.entries.len() * 100 / really);
        }
        assert!(most <= 230, "{most} in a hundred");
        assert!(held.entries.len() <= 2 * (10_000 + HELD_ENTRIES_KEPT));
        let for_good = held.entries.iter().filter(|(id, place)| id.0.is_multiple_of(10) && *place == 7).count();
        assert_eq!(for_good, 10_000, "none is left out that is held");
    }
}
