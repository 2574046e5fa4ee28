//! The way to the rules' thread, which owns the store. Changes that arrive together are committed together, then given to the
//! publication's thread, which numbers them and hands them to the cores concerned; whoever asked hears of it when all
//! of these have applied it.
//!
//! It never waits for a core: while one is silent, further changes are committed, and those that do not concern
//! that core come into force.

use super::change::{Changed, Effect, Refused, Request};
use super::counts::Counts;
use super::entry::Origin;
use super::keeper::Keeper;
use super::pools::ApiPools;
use super::publish::{Lanes, Publication, Target};
use super::publisher::Publisher;
use super::store::{Store, StoreError};
use super::translate::{Translator, put_fence};
use crossbeam::channel::{Sender, bounded};
use futures_lite::future::block_on;
use mailrace_shards::event::Order;
use mailrace_shards::message::CoreId;
use mailrace_shards::rules::{Change, HashKey, Rule, Update};
use mailrace_shards::runtime::mailbox::Postbox;
use mailrace_shards::runtime::reply::{Replier, Reply, reply};
use mailrace_shards::runtime::tally::Tallies;
use mailrace_shards::time::Now;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// How long whoever changed a rule waits for the cores; then the answer is that it is stored and where it is late.
pub const IN_FORCE_WITHIN: Duration = Duration::from_secs(2);

/// Requests that wait for the thread. A further one is refused (503).
const TASKS_MAX: usize = 1024;

/// Rules or suppressions read at a time while starting.
const START_PAGE: u32 = 10_000;

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
    /// It was made and is in etcd, but these nodes, which may be delivering, have not applied it yet. They will.
    Pending(Vec<Arc<str>>, Box<Changed>),
}

/// Hears what came of a change, on a thread of the rules: must not wait for anything.
pub type Hear = Box<dyn FnOnce(Result<Changed, Failure>) + Send>;

/// Who hears what came of a change.
pub(super) enum ChangeReply {
    /// A task of the control core, which is told in time, in force or not.
    Task(Replier<Result<Changed, Failure>>),
    /// Another thread, which is told when it is in force.
    Thread(Hear),
}

impl ChangeReply {
    pub(super) fn say(self, said: Result<Changed, Failure>) {
        match self {
            Self::Task(replier) => replier.say(said),
            Self::Thread(hear) => hear(said),
        }
    }
}

pub(super) enum Task {
    Change(Request, Origin, ChangeReply),
    Read(Box<dyn FnOnce(&Store) + Send>),
    Write(Box<dyn FnOnce(&mut Store) + Send>),
    /// A rule over all mail that is not stored, or none.
    Fence(Option<Box<Rule>>),
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
    /// A rule over all mail that is not stored, in force before any other.
    pub fence: Option<Rule>,
}

pub(super) fn api_pools(store: &Store) -> Result<ApiPools, StoreError> {
    Ok(ApiPools { pools: store.pools()?, members: store.pool_ips(None)?, external_mtas: store.external_mtas()? })
}

/// Reads what the settings depend on.
///
/// # Errors
/// What cannot be read.
pub fn prepare(store: Store, cores: usize, key: HashKey, lanes: Lanes) -> Result<Prepared, StoreError> {
    let publication = Publication::new(&vec![0; cores], lanes);
    let translator = Translator::new(key);
    let pools = api_pools(&store)?;
    Ok(Prepared { store, publication, translator, pools, fence: None })
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
        let Self { store, publication, translator, fence, .. } = self;
        let mut publish = |changes: Vec<(Target, Change)>| {
            publication.take(changes, now.instant);
            while let Some((core, update)) = publication.next_update() {
                publication.acknowledged(core, update.epoch);
                give(core, update);
            }
            publication.settle(now.instant);
        };
        publish(fence.iter().map(put_fence).collect());
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
    let Prepared { store, publication, translator, pools, fence } = prepared;
    let counts = Counts::of(cores.tallies());
    let publisher = Publisher::start(publication, Box::new(cores), clock)?;
    let keeper = Keeper::new(
        (store, publisher, translator),
        (pools, counts),
        (clock, in_force_within, node.clone()),
        fence.map(|fence| fence.id),
    );
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
        self.send(Task::Change(request, origin, ChangeReply::Task(sender)))?;
        Self::answer(awaited).await?
    }

    /// Makes a change of another thread's, which is told when it is in force, however long that takes. Waits while the
    /// thread has too much to do. Whether it will be told.
    pub fn follow(&self, request: Request, origin: Origin, hear: Hear) -> bool {
        self.tasks.send(Task::Change(request, origin, ChangeReply::Thread(hear))).is_ok()
    }

    /// Reads, for another thread than the control core: waits.
    ///
    /// # Errors
    /// The database cannot be read, or the thread has ended.
    pub fn look<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, String> {
        let (sender, awaited) = reply();
        self.done(Task::Read(Box::new(move |store| sender.say(read(store)))), awaited)
    }

    /// Changes what is no rule, for another thread than the control core: waits until it is on disk.
    ///
    /// # Errors
    /// The database cannot be written, or the thread has ended.
    pub fn note<T: Send + 'static>(
        &self,
        write: impl FnOnce(&mut Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, String> {
        let (sender, awaited) = reply();
        self.done(Task::Write(Box::new(move |store| sender.say(write(store)))), awaited)
    }

    fn done<T>(&self, task: Task, awaited: Reply<Result<T, StoreError>>) -> Result<T, String> {
        let ended = || "the rules' thread has ended".to_owned();
        self.tasks.send(task).map_err(|_| ended())?;
        block_on(awaited).map_err(|_| ended())?.map_err(|error| error.to_string())
    }

    /// A rule over all mail that is not stored, in the place of any other such; or none.
    pub fn fence(&self, rule: Option<Rule>) {
        // It may have ended already; then no core takes mail out either.
        let _ = self.tasks.send(Task::Fence(rule.map(Box::new)));
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

#[cfg(test)]
#[path = "authority_tests.rs"]
mod tests;
