//! The rules' thread: does what it is asked, and what time brings.

use super::authority::{ChangeReply, Failure, Task, api_pools};
use super::change::{Changed, Effect, Request};
use super::counts::Counts;
use super::entry::Origin;
use super::pools::ApiPools;
use super::publish::Target;
use super::publisher::Publisher;
use super::store::{Store, StoreError};
use super::translate::{Translator, put_fence};
use crate::report;
use crossbeam::channel::{Receiver, RecvTimeoutError};
use mailrace_shards::rules::{Change, Rule, Scope};
use mailrace_shards::time::{Instant, Now};
use std::sync::Arc;
use std::time::Duration;

/// For so many changes made by one call, whoever made them waits that long once more.
const CHANGES_A_PART: usize = 1000;

/// Changes of one transaction; the rest are the next one's.
const GROUP_MAX: usize = 256;

/// Rules read, swept or reviewed at a time, between which requests are served.
const SLICE: u32 = 256;

/// How often the thread looks for rules that are over.
const LOOK: Duration = Duration::from_secs(1);

const DAY_MILLIS: i64 = 86_400_000;

/// The thread's own.
pub(super) struct Keeper {
    store: Store,
    publisher: Publisher,
    translator: Translator,
    pools: ApiPools,
    counts: Counts,
    clock: fn() -> Now,
    in_force_within: Duration,
    node: Arc<str>,
    /// When rules that are over were last looked for.
    looked: Option<Now>,
    /// The UTC day for which recurring windows are known to be up to date.
    reviewed: Option<i64>,
    /// While they are brought up to date: the last rule done.
    reviewing: Option<u64>,
    /// The store was used since it last gave back memory.
    used: bool,
    /// The id of the rule over all mail that is not stored, while there is one.
    fence: Option<Arc<str>>,
    /// The operator has been told of a refused change that may be on disk.
    unsure: bool,
    /// Pools have changed that could not be read, and so are not in force.
    pools_owed: bool,
}

impl Keeper {
    pub(super) fn new(
        (store, publisher, translator): (Store, Publisher, Translator),
        (pools, counts): (ApiPools, Counts),
        (clock, in_force_within, node): (fn() -> Now, Duration, Arc<str>),
        fence: Option<Arc<str>>,
    ) -> Self {
        let reviewed = Some(clock().utc.0.div_euclid(DAY_MILLIS));
        Self {
            store,
            publisher,
            translator,
            pools,
            counts,
            clock,
            in_force_within,
            node,
            looked: None,
            reviewed,
            reviewing: None,
            used: true,
            fence,
            unsure: false,
            pools_owed: false,
        }
    }

    pub(super) fn run(mut self, tasks: &Receiver<Task>) {
        loop {
            match tasks.recv_timeout(self.rest()) {
                Ok(Task::Stop) | Err(RecvTimeoutError::Disconnected) => break,
                Ok(task) => {
                    if !self.gather(task, tasks) {
                        break;
                    }
                }
                Err(RecvTimeoutError::Timeout) => self.relax(),
            }
            self.look_after();
        }
        // The last chance.
        self.settle();
    }

    /// What a refused change may have left on disk goes as soon as the disk lets it, not only with the next change.
    fn settle(&mut self) {
        // Whether it goes is asked of the store: somebody else may have seen to it.
        let _ = self.store.settle();
        if std::mem::replace(&mut self.unsure, self.store.is_unsure()) && !self.unsure {
            report::notice("rules.db can be written again: no change that was refused is on disk");
        }
    }

    /// Nothing came for a while: what the store keeps in memory is not needed soon.
    fn relax(&mut self) {
        if self.reviewing.is_none() && std::mem::take(&mut self.used) {
            self.store.shrink();
        }
    }

    /// How long nothing has to be done unless something comes.
    fn rest(&self) -> Duration {
        if self.reviewing.is_some() { Duration::ZERO } else { LOOK }
    }

    /// Does what has come, changes as one transaction. Whether to go on.
    fn gather(&mut self, first: Task, tasks: &Receiver<Task>) -> bool {
        let (mut changes, mut replies) = (Vec::new(), Vec::new());
        let (mut reads, mut writes) = (Vec::new(), Vec::new());
        let mut fence = None;
        let mut goes_on = true;
        self.used = true;
        for task in std::iter::once(first).chain(tasks.try_iter().take(GROUP_MAX - 1)) {
            match task {
                Task::Change(request, origin, reply) => {
                    changes.push((request, origin));
                    replies.push(reply);
                }
                Task::Read(read) => reads.push(read),
                Task::Write(write) => writes.push(write),
                Task::Fence(rule) => fence = Some(rule),
                Task::Stop => goes_on = false,
            }
        }
        if !changes.is_empty() {
            self.change(&changes, replies);
        }
        writes.into_iter().for_each(|write| write(&mut self.store));
        reads.into_iter().for_each(|read| read(&self.store));
        // Last: what is let go knows all changes that came before.
        if let Some(fence) = fence {
            self.set_fence(fence);
        }
        goes_on
    }

    fn set_fence(&mut self, rule: Option<Box<Rule>>) {
        let changes = match &rule {
            Some(rule) => vec![put_fence(rule)],
            None => {
                let gone = self.fence.iter();
                gone.map(|id| (Target::Rule(Scope::default()), Change::Remove(id.clone()))).collect()
            }
        };
        self.fence = rule.map(|rule| rule.id.clone());
        self.publisher.publish(changes, (self.clock)().instant, None);
    }

    fn change(&mut self, changes: &[(Request, Origin)], replies: Vec<ChangeReply>) {
        let outcomes = match self.store.carry_out(changes) {
            Ok(outcomes) => outcomes,
            Err(error) => {
                let why = error.to_string();
                self.unsure |= self.store.is_unsure();
                report::error(&format!("a change of rules was not made: {why}"));
                replies.into_iter().for_each(|reply| reply.say(Err(Failure::Unavailable(why.clone()))));
                return;
            }
        };
        for (outcome, reply) in outcomes.into_iter().zip(replies) {
            match outcome {
                Ok(changed) => self.take(changed, Some(reply)),
                Err(refused) => reply.say(Err(Failure::Refused(refused))),
            }
        }
    }

    /// What was made goes to the cores; whoever waits hears of it when it is in force.
    fn take(&mut self, mut changed: Changed, reply: Option<ChangeReply>) {
        let now = (self.clock)();
        let effects = std::mem::take(&mut changed.effects);
        if effects.iter().any(|effect| matches!(effect, Effect::Pools)) {
            self.renew_pools();
        }
        let changes: Vec<_> =
            effects.into_iter().filter_map(|effect| self.translator.translate(effect, now.utc)).collect();
        // A batch of an import is several updates, and others may be before it.
        let parts = u32::try_from(changes.len() / CHANGES_A_PART).unwrap_or(u32::MAX).max(1);
        let deadline = match &reply {
            Some(ChangeReply::Thread(_)) => Instant(u64::MAX),
            _ => now.instant.after(self.in_force_within.saturating_mul(parts)),
        };
        self.publisher.publish(changes, deadline, reply.map(|reply| Box::new((reply, changed))));
    }

    fn renew_pools(&mut self) {
        let read = api_pools(&self.store);
        // Whoever changed them was told that they are in force: it is tried again with the next look.
        let was_owed = std::mem::replace(&mut self.pools_owed, read.is_err());
        match read {
            Ok(pools) if pools != self.pools => {
                self.pools = pools.clone();
                self.publisher.pools(pools);
            }
            Ok(_) => {}
            Err(_) if was_owed => {}
            Err(error) => report::error(&format!("pools made by the API stay as they were for now: {error}")),
        }
    }

    /// What time brings: rules that are over, windows that come into sight.
    fn look_after(&mut self) {
        let now = (self.clock)();
        if self.looked.is_none_or(|last| now.instant.since(last.instant) >= LOOK || now.utc < last.utc) {
            self.looked = Some(now);
            self.settle();
            if self.pools_owed {
                self.renew_pools();
            }
            self.counts.store(&mut self.store);
            if let Err(error) = self.sweep(now) {
                report::error(&format!("rules that are over stay stored: {error}"));
            }
        }
        let today = now.utc.0.div_euclid(DAY_MILLIS);
        if self.reviewing.is_none() && self.reviewed != Some(today) {
            self.reviewed = Some(today);
            self.reviewing = Some(0);
        }
        if let Some(after) = self.reviewing {
            self.reviewing = self.review(after, now).unwrap_or_else(|error| {
                report::error(&format!("recurring rules cannot be read: {error}"));
                self.reviewed = None;
                None
            });
        }
    }

    fn sweep(&mut self, now: Now) -> Result<(), StoreError> {
        if self.store.next_end()?.is_none_or(|end| end > now.utc) {
            return Ok(());
        }
        let origin = Origin { token: "".into(), peer: "".into(), at: now.utc, node: self.node.clone() };
        for changed in self.store.carry_out(&[(Request::Sweep(SLICE as usize), origin)])?.into_iter().flatten() {
            if changed.removed == u64::from(SLICE) {
                self.looked = None;
            }
            self.take(changed, None);
        }
        Ok(())
    }

    /// Some recurring rules; the last one, while more may follow.
    fn review(&mut self, after: u64, now: Now) -> Result<Option<u64>, StoreError> {
        let page = self.store.recurring_rules(after, SLICE)?;
        let renewed: Vec<_> = page.iter().filter_map(|entry| self.translator.renewed(entry, now.utc)).collect();
        if !renewed.is_empty() {
            self.publisher.publish(renewed, now.instant, None);
        }
        Ok(page.last().map(|last| last.order))
    }
}
