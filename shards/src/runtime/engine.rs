//! The engine as a whole: starts a thread and an executor for each core, and ends them.
//!
//! Orders to cores go through the postbox. Nothing here runs on a core once it has started.

use crate::dns::DnsStats;
use crate::event::Order;
use crate::limits::{HEARTBEAT_LATE_SECONDS, LISTEN_BACKLOG};
use crate::message::CoreId;
use crate::rules::HashKey;
use crate::runtime::bodies::BodyBudget;
use crate::runtime::clock;
use crate::runtime::core::{CoreStart, run_core};
use crate::runtime::mailbox::{Postbox, mailboxes};
use crate::runtime::memory::MemoryWatch;
use crate::runtime::report::report;
use crate::runtime::rule_feed::RuleFeed;
use crate::runtime::socket;
use crate::runtime::spool_file::spool_directories;
use crate::runtime::spool_generation::next_generation;
use crate::runtime::submit::Submitter;
use crate::runtime::suspects;
use crate::runtime::tally::{Tallies, TallySlot};
use crate::runtime::tls::ServerTls;
use crate::settings::Settings;
use crate::shard::{Counters, QueueSizes};
use crate::spool::report::Refusal;
use crossbeam::channel::{Receiver, bounded};
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

/// Whether a name and a secret may inject. May take 100 ms; called on a thread of its own.
pub type Authenticate = Arc<dyn Fn(&str, &str) -> bool + Send + Sync>;

/// What an engine is started with.
pub struct EngineStart {
    /// Settings; `shards` of them.
    pub settings: Arc<Settings>,
    /// The processor of each shard; `None` to leave the choice to the system.
    pub cpus: Vec<Option<usize>>,
    /// AUTH.
    pub authenticate: Authenticate,
    /// Secret of the rule tables' hashes.
    pub rule_key: HashKey,
    /// The rules of each core, in force before its first delivery.
    pub rules: Vec<RuleFeed>,
}

/// What all cores share: few values, rarely written.
pub struct Shared {
    /// Bodies in memory.
    pub bodies: BodyBudget,
    /// AUTH.
    pub authenticate: Authenticate,
    /// Injecting sessions that the engine takes at once; more are turned away with 421.
    injecting_max: usize,
    injecting: AtomicUsize,
    server_tls: Mutex<Option<Arc<ServerTls>>>,
    memory_short: AtomicBool,
    heartbeats: Box<[AtomicU64]>,
    quiet: Box<[AtomicBool]>,
    stop_by: AtomicU64,
    reports: Box<[Mutex<CoreReport>]>,
    /// Of each core: messages found on disk that are not in a queue yet, [`SEARCHING`] before that is known.
    to_post: Box<[AtomicU64]>,
    /// Why the engine cannot go on.
    failed: OnceLock<String>,
    /// What rules have ended, on its way to whoever keeps the counts.
    pub tallies: Tallies,
}

/// In the place of a number of messages: the spools are being searched.
const SEARCHING: u64 = u64::MAX;

/// Mail that was found on disk at the start is on its way into the queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recovery {
    /// Messages that are not there yet, at least one; `None` as long as that is not known.
    pub left: Option<u64>,
}

/// What a core says of itself ten times a second.
#[derive(Clone, Debug, Default)]
pub struct CoreReport {
    /// Counts since the start.
    pub counters: Counters,
    /// Entries in its queue, by state.
    pub queue: crate::queue::Counts,
    /// Open outgoing sessions.
    pub sessions: usize,
    /// Open injecting sessions.
    pub injecting: usize,
    /// The largest scheduled queues.
    pub largest_queues: QueueSizes,
    /// What its resolver has done.
    pub dns: DnsStats,
    /// Why its spool takes no new mail.
    pub spool_refusing: Option<Refusal>,
    /// Why its outcome log cannot be written.
    pub log_failing: Option<Arc<str>>,
}

/// The engine could not be started. The text names what is at fault.
#[derive(Debug)]
pub struct StartError(pub String);

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for StartError {}

/// How it is with the cores.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// All turn.
    Alive,
    /// One has not turned lately.
    Stalled(String),
    /// One has ended.
    Failed(String),
}

/// Looks at the cores from any thread, and outlives the engine.
#[derive(Clone)]
pub struct Monitor(Arc<Shared>);

impl Monitor {
    /// The last report of each core.
    #[must_use]
    pub fn reports(&self) -> Vec<CoreReport> {
        (0..self.0.reports.len()).map(|core| self.0.report_slot(core_id(core)).clone()).collect()
    }

    /// Whether new mail must wait until memory is free.
    #[must_use]
    pub fn memory_short(&self) -> bool {
        self.0.memory_short()
    }

    /// How far the mail of previous runs is; `None` when all of it is in the queues.
    #[must_use]
    pub fn recovery(&self) -> Option<Recovery> {
        let add = |sum: Option<u64>, of: &AtomicU64| match of.load(Ordering::Acquire) {
            SEARCHING => None,
            left => sum.map(|sum| sum + left),
        };
        match self.0.to_post.iter().fold(Some(0), add) {
            Some(0) => None,
            left => Some(Recovery { left }),
        }
    }

    /// The first core that has not turned lately. (One that has ended does not turn either.)
    #[must_use]
    pub fn stalled(&self) -> Option<usize> {
        let now = clock::now().instant;
        self.0
            .heartbeats
            .iter()
            .position(|beat| now.0.saturating_sub(beat.load(Ordering::Relaxed)) > HEARTBEAT_LATE_SECONDS * 1_000_000)
    }
}

/// A running engine.
pub struct Engine {
    postbox: Postbox,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    listening: Vec<SocketAddr>,
    memory: MemoryWatch,
    spool_root: PathBuf,
    submitter: Submitter,
}

impl Shared {
    /// Says that a core turns.
    pub fn beat(&self, core: CoreId) {
        self.heartbeats[usize::from(core.0)].store(clock::now().instant.0, Ordering::Relaxed);
    }

    /// Whether new mail must wait until memory is free.
    #[must_use]
    pub fn memory_short(&self) -> bool {
        self.memory_short.load(Ordering::Relaxed)
    }

    /// Says whether memory is short.
    pub fn set_memory_short(&self, short: bool) {
        self.memory_short.store(short, Ordering::Relaxed);
    }

    /// Says whether a core has nothing left to finish.
    pub fn set_quiet(&self, core: CoreId, quiet: bool) {
        self.quiet[usize::from(core.0)].store(quiet, Ordering::Release);
    }

    /// Whether no core has anything left to finish.
    #[must_use]
    pub fn all_quiet(&self) -> bool {
        self.quiet.iter().all(|quiet| quiet.load(Ordering::Acquire))
    }

    /// Whether the time for a graceful stop is over.
    #[must_use]
    pub fn stop_overdue(&self) -> bool {
        clock::now().instant.0 >= self.stop_by.load(Ordering::Acquire)
    }

    /// Says how many messages found on disk are not in a queue yet; `None` before that is known.
    pub fn set_to_post(&self, core: CoreId, left: Option<u64>) {
        self.to_post[usize::from(core.0)].store(left.unwrap_or(SEARCHING), Ordering::Release);
    }

    /// Whether all that was found on disk is in the queues.
    #[must_use]
    pub fn all_is_posted(&self) -> bool {
        self.to_post.iter().all(|left| left.load(Ordering::Acquire) == 0)
    }

    /// Says why the engine cannot go on; the first to say so is heard.
    pub fn fail(&self, why: String) {
        let _ = self.failed.set(why);
    }

    /// Leaves a core's report; a log failure reported by [`Shared::log_failing`] is kept.
    pub fn leave_report(&self, core: CoreId, mut report: CoreReport) {
        let mut slot = self.report_slot(core);
        report.log_failing = slot.log_failing.take();
        *slot = report;
    }

    /// Says that a core's outcome log fails, or works again.
    pub fn log_failing(&self, core: CoreId, why: Option<Arc<str>>) {
        self.report_slot(core).log_failing = why;
    }

    /// Takes the place of one more injector, until [`Shared::injector_left`]. Whether there was one.
    pub fn injector_enters(&self) -> bool {
        let entered = self.injecting.fetch_add(1, Ordering::Relaxed) < self.injecting_max;
        if !entered {
            self.injector_left();
        }
        entered
    }

    /// Gives the place back.
    pub fn injector_left(&self) {
        self.injecting.fetch_sub(1, Ordering::Relaxed);
    }

    /// TLS towards injectors, when a certificate is configured.
    #[must_use]
    pub fn server_tls(&self) -> Option<Arc<ServerTls>> {
        self.tls_slot().clone()
    }

    fn tls_slot(&self) -> std::sync::MutexGuard<'_, Option<Arc<ServerTls>>> {
        self.server_tls.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn report_slot(&self, core: CoreId) -> std::sync::MutexGuard<'_, CoreReport> {
        // A report has no invariant that a panic could break.
        self.reports[usize::from(core.0)].lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Engine {
    /// Opens the spools and the listeners and starts all cores. Returns when all of that has succeeded: mail is taken
    /// then, and what is found in the spools goes into the queues beside it ([`Monitor::recovery`]).
    ///
    /// # Errors
    /// What could not be opened, read or bound.
    pub fn start(start: EngineStart) -> Result<Self, StartError> {
        let EngineStart { settings, cpus, authenticate, rule_key, rules } = start;
        let cores = settings.shards;
        assert_eq!(cpus.len(), cores, "each shard has a processor");
        assert_eq!(rules.len(), cores, "each shard has its own rules");
        let spool_root = settings.data_dir.join("spool");
        let wrong = |what: &str, error: &dyn fmt::Display| StartError(format!("{what}: {error}"));
        let seconds = u32::try_from(clock::now().utc.seconds()).unwrap_or(0);
        let generation =
            next_generation(&spool_root, seconds).map_err(|error| wrong(&spool_root.display().to_string(), &error))?;
        let of_root = |error: &dyn fmt::Display| wrong(&spool_root.display().to_string(), error);
        let quarantine = suspects::take(&spool_root).map_err(|error| of_root(&error))?;
        for id in &quarantine {
            report(&format!("message {id} was in flight at the last two panics: it is put aside, not tried"));
        }
        let quarantine = Arc::new(quarantine);
        let spools = all_spools(&spool_root, cores).map_err(|error| of_root(&error))?;
        let tls = match &settings.smtp.tls {
            Some(files) => Some(ServerTls::load(files).map_err(|error| StartError(error.to_string()))?),
            None => None,
        };
        let (mut sockets, listening) = open_listeners(&settings)?;
        let (postbox, mailboxes) = mailboxes(cores);
        let shared = Arc::new(Shared {
            bodies: BodyBudget::new(settings.spool.body_memory_bytes),
            authenticate,
            injecting_max: settings.connections.injecting,
            injecting: AtomicUsize::new(0),
            server_tls: Mutex::new(tls),
            memory_short: AtomicBool::new(false),
            heartbeats: (0..cores).map(|_| AtomicU64::new(clock::now().instant.0)).collect(),
            quiet: (0..cores).map(|_| AtomicBool::new(false)).collect(),
            stop_by: AtomicU64::new(u64::MAX),
            reports: (0..cores).map(|_| Mutex::default()).collect(),
            to_post: (0..cores).map(|_| AtomicU64::new(SEARCHING)).collect(),
            failed: OnceLock::new(),
            tallies: (0..cores).map(|_| TallySlot::default()).collect(),
        });
        let (ready_sender, ready) = bounded(cores);
        let mut threads = Vec::with_capacity(cores);
        for ((mailbox, cpu), rules) in mailboxes.into_iter().zip(cpus).zip(rules) {
            let core = mailbox.core();
            let core_start = CoreStart {
                cpu,
                cores,
                generation,
                rule_key,
                quarantine: quarantine.clone(),
                rules,
                settings: settings.clone(),
                spools: spools
                    .iter()
                    .copied()
                    .filter(|spool| usize::from(*spool) % cores == usize::from(core.0))
                    .collect(),
                mailbox,
                postbox: postbox.clone(),
                shared: shared.clone(),
                listeners: std::mem::take(&mut sockets[usize::from(core.0)]),
                ready: ready_sender.clone(),
            };
            let thread = std::thread::Builder::new().name(format!("shard-{:03}", core.0));
            threads
                .push(thread.spawn(move || run_core(core_start)).map_err(|error| wrong("a shard's thread", &error))?);
        }
        drop(ready_sender);
        let memory = MemoryWatch::start(settings.memory_bytes, shared.clone())
            .map_err(|error| wrong("the memory watch's thread", &error))?;
        let submitter = Submitter::new(postbox.clone(), shared.bodies.clone(), generation);
        let mut engine = Self { postbox, shared, threads, listening, memory, submitter, spool_root };
        match await_ready(&ready, cores) {
            Ok(()) => Ok(engine),
            Err(error) => {
                engine.stop(Duration::ZERO);
                Err(error)
            }
        }
    }

    /// Where mail is taken.
    #[must_use]
    pub fn listening(&self) -> &[SocketAddr] {
        &self.listening
    }

    /// How the cores are reached.
    #[must_use]
    pub fn postbox(&self) -> &Postbox {
        &self.postbox
    }

    /// Where the cores leave what rules have ended.
    #[must_use]
    pub fn tallies(&self) -> Tallies {
        self.shared.tallies.clone()
    }

    /// How the control side hands messages in.
    #[must_use]
    pub fn submitter(&self) -> Submitter {
        self.submitter.clone()
    }

    /// The last report of each core.
    #[must_use]
    pub fn reports(&self) -> Vec<CoreReport> {
        self.monitor().reports()
    }

    /// What other threads may look at.
    #[must_use]
    pub fn monitor(&self) -> Monitor {
        Monitor(self.shared.clone())
    }

    /// How it is with the cores. Does not wait.
    #[must_use]
    pub fn health(&self) -> Health {
        if let Some(why) = self.shared.failed.get() {
            return Health::Failed(why.clone());
        }
        if let Some(core) = self.threads.iter().position(JoinHandle::is_finished) {
            return Health::Failed(format!("shard {core} has ended"));
        }
        match self.monitor().stalled() {
            Some(core) => Health::Stalled(format!("shard {core} has not turned for {HEARTBEAT_LATE_SECONDS} seconds")),
            None => Health::Alive,
        }
    }

    /// Gives all cores new settings. A certificate that cannot be read leaves the old one in use and is the error.
    ///
    /// # Errors
    /// The certificate or key.
    pub fn reload(&self, settings: &Arc<Settings>) -> Result<(), StartError> {
        let tls = match &settings.smtp.tls {
            Some(files) => Some(ServerTls::load(files).map_err(|error| StartError(error.to_string()))?),
            None => None,
        };
        *self.shared.tls_slot() = tls;
        for core in (0..self.postbox.cores()).map(core_id) {
            self.postbox.order(core, Order::Reload(settings.clone()));
            self.postbox.order(core, Order::ReopenLog);
        }
        Ok(())
    }

    /// Stops: nothing new is accepted, transactions in progress finish within `within`, everything is synced, all
    /// threads end. Returns the cores that ended by a panic.
    pub fn stop(&mut self, within: Duration) -> Vec<usize> {
        self.shared.stop_by.store(clock::now().instant.after(within).0, Ordering::Release);
        for core in (0..self.postbox.cores()).map(core_id) {
            self.postbox.order(core, Order::Stop);
        }
        let threads = std::mem::take(&mut self.threads);
        let failed =
            threads.into_iter().enumerate().filter_map(|(core, thread)| thread.join().is_err().then_some(core));
        let failed: Vec<usize> = failed.collect();
        self.memory.stop();
        if failed.is_empty()
            && let Err(error) = suspects::forget(&self.spool_root)
        {
            report(&format!("{}: {error}", self.spool_root.display()));
        }
        failed
    }
}

/// Numbers of the spools that exist or are about to: one for each core, and those of cores that ran before.
fn all_spools(root: &Path, cores: usize) -> std::io::Result<Vec<u16>> {
    let mut spools = spool_directories(root)?;
    spools.extend((0..cores).map(|core| core_id(core).0));
    spools.sort_unstable();
    spools.dedup();
    Ok(spools)
}

fn core_id(core: usize) -> CoreId {
    CoreId(u16::try_from(core).expect("CORES_MAX fits 16 bits"))
}

fn await_ready(ready: &Receiver<Result<(), String>>, cores: usize) -> Result<(), StartError> {
    for _ in 0..cores {
        match ready.recv() {
            Ok(Ok(())) => {}
            Ok(Err(why)) => return Err(StartError(why)),
            Err(_) => return Err(StartError("a shard ended while it was starting; its words stand above".to_owned())),
        }
    }
    Ok(())
}

/// One listening socket for each core and address; with port 0 all cores share the port that the system chose.
fn open_listeners(settings: &Settings) -> Result<(Vec<Vec<socket2::Socket>>, Vec<SocketAddr>), StartError> {
    let mut sockets: Vec<Vec<socket2::Socket>> = (0..settings.shards).map(|_| Vec::new()).collect();
    let mut listening = Vec::new();
    for &address in &settings.smtp.listen {
        let mut bound = address;
        for of_core in &mut sockets {
            let (socket, at) = socket::listen(bound, LISTEN_BACKLOG)
                .map_err(|error| StartError(format!("cannot listen at {address}: {error}")))?;
            bound = at;
            of_core.push(socket);
        }
        listening.push(bound);
    }
    Ok((sockets, listening))
}
