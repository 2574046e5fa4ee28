//! The rules' thread: owns the store. Changes that arrive together are committed together, then given to the
//! publication's thread, which numbers them and hands them to the cores concerned; whoever asked hears of it when all
//! of these have applied it.
//!
//! It never waits for a core: while one is silent, further changes are committed, and those that do not concern
//! that core come into force.

use super::change::{Changed, Effect, Refused, Request};
use super::counts::Counts;
use super::entry::{Origin, RuleEntry};
use super::pools::ApiPools;
use super::publish::{Lanes, Publication, Target};
use super::publisher::Publisher;
use super::schedule::differs;
use super::store::{Store, StoreError};
use crate::report;
use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded};
use mailrace_shards::event::Order;
use mailrace_shards::message::CoreId;
use mailrace_shards::rules::{Cause, Change, HashKey, Update, Validity};
use mailrace_shards::runtime::mailbox::Postbox;
use mailrace_shards::runtime::reply::{Replier, Reply, reply};
use mailrace_shards::runtime::tally::Tallies;
use mailrace_shards::time::{Now, Timestamp};
use std::collections::HashMap;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// How long whoever changed a rule waits for the cores; then the answer is that it is stored and where it is late.
pub const IN_FORCE_WITHIN: Duration = Duration::from_secs(2);

/// For so many changes made by one call, whoever made them waits that long once more.
const CHANGES_A_PART: usize = 1000;

/// Requests that wait for the thread. A further one is refused (503).
const TASKS_MAX: usize = 1024;

/// Changes of one transaction; the rest are the next one's.
const GROUP_MAX: usize = 256;

/// Rules read, swept or reviewed at a time, between which requests are served.
const SLICE: u32 = 256;

/// Rules or suppressions read at a time while starting.
const START_PAGE: u32 = 10_000;

/// How often the thread looks for rules that are over.
const LOOK: Duration = Duration::from_secs(1);

const DAY_MILLIS: i64 = 86_400_000;

/// How the thread reaches the cores.
pub trait Cores: Send + 'static {
    /// Posts an update; `applied` hears when it is in force.
    fn post(&self, core: CoreId, update: Arc<Update>, applied: &Sender<(CoreId, u64)>);
    /// Pools made by the API are other now.
    fn pools(&self, pools: ApiPools);
    /// Where they leave what rules have ended, if they do.
    fn tallies(&self) -> Option<Tallies> {
        None
    }
}

/// The cores of a running engine.
pub struct EngineCores {
    /// Their mailboxes.
    pub postbox: Postbox,
    /// Brings pools into the settings and these to the cores (see `pools::lay_over`).
    pub pools: Box<dyn Fn(ApiPools) + Send>,
    /// Where they leave what rules have ended.
    pub tallies: Tallies,
}

impl Cores for EngineCores {
    fn post(&self, core: CoreId, update: Arc<Update>, applied: &Sender<(CoreId, u64)>) {
        self.postbox.order(core, Order::Rules { update, applied: applied.clone() });
    }

    fn pools(&self, pools: ApiPools) {
        (self.pools)(pools);
    }

    fn tallies(&self) -> Option<Tallies> {
        Some(self.tallies.clone())
    }
}

/// Why a change was not answered with success.
#[derive(Clone, Debug)]
pub enum Failure {
    /// It was not made: something about it is wrong.
    Refused(Refused),
    /// It was not made: it cannot be made now.
    Unavailable(String),
    /// It was made and is on disk, but these cores have not applied it yet. They will.
    Late(Vec<u16>, Box<Changed>),
}

pub(super) type ChangeReply = Replier<Result<Changed, Failure>>;

enum Task {
    Change(Request, Origin, ChangeReply),
    Read(Box<dyn FnOnce(&Store) + Send>),
    Stop,
}

/// How the thread is reached. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Authority {
    tasks: Sender<Task>,
    node: Arc<str>,
}

impl std::fmt::Debug for Task {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Task(..)")
    }
}

/// Nothing running yet.
pub struct Prepared {
    store: Store,
    publication: Publication,
    translator: Translator,
    /// For the settings that the engine is started with.
    pub pools: ApiPools,
}

fn api_pools(store: &Store) -> Result<ApiPools, StoreError> {
    Ok(ApiPools { pools: store.pools()?, members: store.pool_ips(None)?, external_mtas: store.external_mtas()? })
}

/// Reads what the settings depend on.
///
/// # Errors
/// What cannot be read.
pub fn prepare(store: Store, cores: usize, key: HashKey, lanes: Lanes) -> Result<Prepared, StoreError> {
    let publication = Publication::new(&vec![0; cores], lanes);
    let translator = Translator { key, cause: None, recurring: HashMap::new() };
    let pools = api_pools(&store)?;
    Ok(Prepared { store, publication, translator, pools })
}

impl Prepared {
    /// How many cores there are.
    #[must_use]
    pub fn cores(&self) -> usize {
        self.publication.cores()
    }

    /// Reads all rules and suppressions page by page, and gives each core its updates, to be in force before its first
    /// delivery. A rule that cannot be read is an error: without it, mail would go out that must not.
    ///
    /// # Errors
    /// What cannot be read.
    pub fn read(&mut self, now: Now, mut give: impl FnMut(CoreId, Update)) -> Result<(), StoreError> {
        let Self { store, publication, translator, .. } = self;
        let mut publish = |changes: Vec<(Target, Change)>| {
            publication.take(changes, now.instant);
            while let Some((core, update)) = publication.next_update() {
                publication.acknowledged(core, update.epoch);
                give(core, update);
            }
            publication.settle(now.instant);
        };
        let mut after = 0;
        loop {
            let page = store.rules(None, after, START_PAGE)?;
            let Some(last) = page.last() else { break };
            after = last.order;
            let open = page.into_iter().filter(|entry| !entry.draft.schedule.ended(now.utc));
            publish(open.map(|entry| translator.put(&entry, now.utc)).collect());
        }
        let mut after: Arc<str> = "".into();
        loop {
            let page = store.suppressions(&after, START_PAGE)?;
            let Some((last, _)) = page.last() else { break };
            after = last.value.clone();
            let changes =
                page.into_iter().map(|(entry, by)| translator.translate(Effect::Suppress(entry, by), now.utc));
            publish(changes.flatten().collect());
        }
        store.shrink();
        Ok(())
    }
}

/// Starts the thread.
///
/// # Errors
/// The system has no thread to give.
pub fn start(
    prepared: Prepared,
    cores: impl Cores,
    node: Arc<str>,
    clock: fn() -> Now,
    in_force_within: Duration,
) -> std::io::Result<(Authority, JoinHandle<()>)> {
    let (tasks, received) = bounded(TASKS_MAX);
    let Prepared { store, publication, translator, pools } = prepared;
    let counts = Counts::of(cores.tallies());
    let keeper = Keeper {
        store,
        publisher: Publisher::start(publication, Box::new(cores), clock)?,
        translator,
        pools,
        counts,
        clock,
        in_force_within,
        node: node.clone(),
        looked: None,
        reviewed: Some(clock().utc.0.div_euclid(DAY_MILLIS)),
        reviewing: None,
        used: true,
    };
    let thread = std::thread::Builder::new().name("rules".to_owned());
    let thread = thread.spawn(move || keeper.run(&received))?;
    Ok((Authority { tasks, node }, thread))
}

impl Authority {
    /// Makes a change; answers when it is on disk and in force.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn change(&self, request: Request, origin: Origin) -> Result<Changed, Failure> {
        let (sender, awaited) = reply();
        self.send(Task::Change(request, origin, sender))?;
        Self::answer(awaited).await?
    }

    /// Reads.
    ///
    /// # Errors
    /// The database cannot be read, or the thread has too much to do.
    pub async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, Failure> {
        let (sender, awaited) = reply();
        self.send(Task::Read(Box::new(move |store| sender.say(read(store)))))?;
        Self::answer(awaited).await?.map_err(|error| Failure::Unavailable(error.to_string()))
    }

    /// Name of this host, for origins.
    #[must_use]
    pub fn node(&self) -> &Arc<str> {
        &self.node
    }

    /// Ends the thread once it has done what came before.
    pub fn stop(&self) {
        // It may have ended already.
        let _ = self.tasks.send(Task::Stop);
    }

    fn send(&self, task: Task) -> Result<(), Failure> {
        let too_many = "too many changes of rules wait to be made; try again".to_owned();
        self.tasks.try_send(task).map_err(|_| Failure::Unavailable(too_many))
    }

    async fn answer<T>(awaited: Reply<T>) -> Result<T, Failure> {
        awaited.await.map_err(|_| Failure::Unavailable("the rules' thread has ended".to_owned()))
    }
}

/// Makes of effects what cores understand.
struct Translator {
    key: HashKey,
    /// The last cause: equal ones follow each other in bulk.
    cause: Option<(super::entry::Verdict, Arc<Cause>)>,
    /// The intervals last sent of rules with recurring windows.
    recurring: HashMap<Arc<str>, Validity>,
}

impl Translator {
    fn put(&mut self, entry: &RuleEntry, now: Timestamp) -> (Target, Change) {
        let rule = entry.rule(now);
        if entry.draft.schedule.recurs() {
            self.recurring.insert(rule.id.clone(), rule.validity.clone());
        } else {
            self.recurring.remove(&rule.id);
        }
        (Target::Rule(rule.scope.clone()), Change::Put(Arc::new(rule)))
    }

    fn translate(&mut self, effect: Effect, now: Timestamp) -> Option<(Target, Change)> {
        Some(match effect {
            Effect::Put(entry) => self.put(&entry, now),
            Effect::Remove(entry) => {
                self.recurring.remove(&entry.id);
                (Target::Rule(entry.draft.scope), Change::Remove(entry.id))
            }
            Effect::Suppress(entry, by) => {
                let key = self.key.suppression(&entry.value);
                let cause = match &self.cause {
                    Some((verdict, cause)) if *verdict == entry.verdict && cause.by == by => cause.clone(),
                    _ => Arc::new(Cause { answer: entry.verdict.answer(), by }),
                };
                self.cause = Some((entry.verdict, cause.clone()));
                (Target::Suppression(entry.value), Change::Suppress { key, cause })
            }
            Effect::Unsuppress(value) => {
                let key = self.key.suppression(&value);
                (Target::Suppression(value), Change::Unsuppress { key })
            }
            Effect::Pools => return None,
        })
    }

    /// The rule anew, if time has brought other intervals into sight.
    fn renewed(&mut self, entry: &RuleEntry, now: Timestamp) -> Option<(Target, Change)> {
        let new = entry.draft.schedule.validity(now);
        let is_known = self.recurring.get(&entry.id).is_some_and(|old| !differs(old, &new, now));
        (!is_known && !entry.draft.schedule.ended(now)).then(|| self.put(entry, now))
    }
}

/// The thread's own.
struct Keeper {
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
}

impl Keeper {
    fn run(mut self, tasks: &Receiver<Task>) {
        loop {
            match tasks.recv_timeout(self.rest()) {
                Ok(Task::Stop) | Err(RecvTimeoutError::Disconnected) => return,
                Ok(task) => {
                    if !self.gather(task, tasks) {
                        return;
                    }
                }
                Err(RecvTimeoutError::Timeout) => self.relax(),
            }
            self.look_after();
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
        let mut reads = Vec::new();
        let mut goes_on = true;
        self.used = true;
        for task in std::iter::once(first).chain(tasks.try_iter().take(GROUP_MAX - 1)) {
            match task {
                Task::Change(request, origin, reply) => {
                    changes.push((request, origin));
                    replies.push(reply);
                }
                Task::Read(read) => reads.push(read),
                Task::Stop => goes_on = false,
            }
        }
        if !changes.is_empty() {
            self.change(&changes, replies);
        }
        reads.into_iter().for_each(|read| read(&self.store));
        goes_on
    }

    fn change(&mut self, changes: &[(Request, Origin)], replies: Vec<ChangeReply>) {
        let outcomes = match self.store.carry_out(changes) {
            Ok(outcomes) => outcomes,
            Err(error) => {
                let why = error.to_string();
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
        let deadline = now.instant.after(self.in_force_within.saturating_mul(parts));
        self.publisher.publish(changes, deadline, reply.map(|reply| Box::new((reply, changed))));
    }

    fn renew_pools(&mut self) {
        let read = api_pools(&self.store);
        match read {
            Ok(pools) if pools != self.pools => {
                self.pools = pools.clone();
                self.publisher.pools(pools);
            }
            Ok(_) => {}
            Err(error) => report::error(&format!("pools made by the API stay as they were: {error}")),
        }
    }

    /// What time brings: rules that are over, windows that come into sight.
    fn look_after(&mut self) {
        let now = (self.clock)();
        if self.looked.is_none_or(|last| now.instant.since(last.instant) >= LOOK || now.utc < last.utc) {
            self.looked = Some(now);
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

#[cfg(test)]
#[path = "authority_tests.rs"]
mod tests;
