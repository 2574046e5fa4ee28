//! What the control core needs of the engine: the one place of this package that starts it.

use crate::api::Reach;
use crate::api::desk::Configured;
use crate::auth;
use crate::cluster;
use crate::config::Config;
use crate::control::{ControlCore, Door};
use crate::report;
use crate::rules::authority::{self, Authority, EngineCores, IN_FORCE_WITHIN};
use crate::rules::counts;
use crate::rules::pools::{ApiPools, lay_over};
use crate::rules::store::{Store, StoreError};
use crate::submit::CurrentTerms;
use crate::token::TokenSet;
use crate::topology::Topology;
use crate::users::{self, Users};
use mailrace_shards::event::Order;
use mailrace_shards::message::CoreId;
use mailrace_shards::path::LimitTable;
use mailrace_shards::rules::HashKey;
use mailrace_shards::runtime::clock;
use mailrace_shards::runtime::engine::{self as runtime, EngineStart};
use mailrace_shards::runtime::mailbox::Postbox;
use mailrace_shards::runtime::rule_feed::{RuleFeed, rule_feeds};
use mailrace_shards::settings::Settings;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;

/// All that a start is given. Everything in it was checked.
#[derive(Debug)]
pub struct Start {
    pub config: Config,
    pub topology: Topology,
    pub users: Users,
    pub tokens: TokenSet,
    /// The configuration file, as messages name it.
    pub config_file: String,
}

/// How it is with the engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// Every core turned lately.
    Alive,
    /// A core did not turn lately: the watchdog is not fed. The text names it.
    Stalled(String),
    /// A core ended, or its disk failed: the process must end. The text says why.
    Failed(String),
}

/// A running engine, as the control thread sees it.
pub trait Engine {
    /// Where mail is taken.
    fn smtp(&self) -> &[SocketAddr];
    /// Where the REST API listens, when it does.
    fn api(&self) -> Option<SocketAddr>;
    /// Asked once a tick; must not block.
    fn health(&mut self) -> Health;
    /// Replaces what a reload may change (`config::reload` has restored the rest).
    fn reload(&mut self, config: &Config, users: Users);
    /// Replaces the API tokens.
    fn tokens(&mut self, tokens: TokenSet);
    /// Stops accepting, finishes what is in progress within `within`, syncs, ends all threads.
    fn stop(&mut self, within: Duration) -> Result<(), String>;
}

/// Who may inject with AUTH, replaced as a whole.
type Injectors = Arc<RwLock<(Arc<Users>, TokenSet)>>;

/// Starts it. Returns when every listener is open.
pub fn start(start: Start) -> Result<impl Engine, String> {
    let Start { config, topology, users, tokens, config_file } = start;
    let injectors: Injectors = Arc::new(RwLock::new((Arc::new(users), tokens.clone())));
    let asked = injectors.clone();
    // Whatever cannot be read of the rules ends the start here: without them mail would go out that must not.
    let mut store = Store::open(&config.settings.data_dir).map_err(|error| error.to_string())?;
    let log_directory = config.settings.data_dir.join("log");
    let cluster = prepare_cluster(&config, &mut store)?;
    counts::begin(&mut store, &log_directory, config.settings.shards, clock::now().utc)?;
    let limits = LimitTable::new(&config.settings.limits, 0);
    let lanes = Arc::new(move |domain: &str| limits.lanes(domain));
    let rule_key = rule_key();
    let mut prepared =
        authority::prepare(store, config.settings.shards, rule_key, lanes).map_err(|error| error.to_string())?;
    prepared.fence = cluster.as_ref().and_then(cluster::Prepared::fence);
    let node = cluster.as_ref().map_or(&config.settings.hostname, cluster::Prepared::node).clone();
    let overlay = Overlay::new(config.settings.clone(), prepared.pools.clone());
    let door = Door::open(&config, tokens)?;
    let (prepared, mut engine) = start_with_rules(prepared, |rules| EngineStart {
        settings: overlay.settings(),
        cpus: topology.shard_cpus.iter().map(|cpu| topology.pinned.then_some(*cpu)).collect(),
        authenticate: Arc::new(move |name, secret| {
            let (users, tokens) = asked.read().unwrap_or_else(PoisonError::into_inner).clone();
            auth::injector(&users, &tokens, name, secret.as_bytes()).is_some()
        }),
        rule_key,
        rules,
    })?;
    let configured = Configured::default();
    configured.set(&config_file, &config.settings);
    let started = start_authority(prepared, &overlay, &engine, node);
    let started = started.and_then(|(authority, thread)| {
        let cluster = cluster.map(|cluster| cluster.start(&authority)).transpose()?;
        let rules = (authority.clone(), configured.clone(), cluster.as_ref().and_then(cluster::Running::cluster));
        let reach = Reach {
            monitor: engine.monitor(),
            postbox: engine.postbox().clone(),
            submitter: engine.submitter(),
            terms: overlay.terms.clone(),
        };
        let control = ControlCore::start(door, &topology, reach, rules);
        let rules = Rules { authority, thread: Some(thread), overlay, configured, config_file, cluster };
        control.map(|control| (control, rules))
    });
    match started {
        Ok((control, rules)) => Ok(Running { engine, control, injectors, rules }),
        Err(error) => {
            engine.stop(Duration::ZERO);
            Err(error)
        }
    }
}

/// Of a stop's time, what the REST API may take to finish its requests; the rest is the engine's.
const CONTROL_STOP_PART: u32 = 4;

/// How long etcd may take to hear that this engine has stopped.
const FAREWELL_WITHIN: Duration = Duration::from_secs(2);

struct Running {
    engine: runtime::Engine,
    control: ControlCore,
    injectors: Injectors,
    rules: Rules,
}

/// The rules' thread, and what has to do with it.
struct Rules {
    authority: Authority,
    thread: Option<JoinHandle<()>>,
    overlay: Overlay,
    configured: Configured,
    config_file: String,
    cluster: Option<cluster::Running>,
}

/// This engine is in the cluster that the configuration names, or in none.
fn prepare_cluster(config: &Config, store: &mut Store) -> Result<Option<cluster::Prepared>, String> {
    match &config.cluster {
        Some(settings) => cluster::prepare(settings, store).map(Some),
        None => store.leave_cluster().map(|()| None).map_err(|error| error.to_string()),
    }
}

/// Starts the cores while the rules are read: each has all of its rules in force before its first delivery, and only a
/// few updates are in memory at a time.
fn start_with_rules(
    mut prepared: authority::Prepared,
    with: impl FnOnce(Vec<RuleFeed>) -> EngineStart,
) -> Result<(authority::Prepared, runtime::Engine), String> {
    let (feeder, feeds) = rule_feeds(prepared.cores());
    let start = with(feeds);
    std::thread::scope(|scope| {
        let reading = std::thread::Builder::new().name("rules".to_owned()).spawn_scoped(scope, move || {
            prepared.read(clock::now(), |core, update| feeder.give(core, update))?;
            feeder.finish();
            Ok::<_, StoreError>(prepared)
        });
        let reading = reading.map_err(|error| format!("the rules' thread cannot be started: {error}"))?;
        let engine = runtime::Engine::start(start);
        // What cannot be read is the cause when the cores have no rules.
        let read = reading.join().map_err(|_| "the rules could not be read; the words stand above".to_owned())?;
        let prepared = read.map_err(|error| error.to_string());
        Ok((prepared?, engine.map_err(|error| error.to_string())?))
    })
}

fn start_authority(
    prepared: authority::Prepared,
    overlay: &Overlay,
    engine: &runtime::Engine,
    node: Arc<str>,
) -> Result<(Authority, JoinHandle<()>), String> {
    let (overlay, orders) = (overlay.clone(), engine.postbox().clone());
    let pools = Box::new(move |pools| overlay.change_pools(pools, &orders));
    let cores = EngineCores { postbox: engine.postbox().clone(), pools, tallies: engine.tallies() };
    authority::start(prepared, cores, node, clock::now, IN_FORCE_WITHIN)
        .map_err(|error| format!("the rules' thread cannot be started: {error}"))
}

/// The configuration's settings with the pools made by the API laid over them. Changed from two sides: by a reload,
/// and by the rules' thread.
#[derive(Clone)]
struct Overlay {
    layers: Arc<Mutex<(Settings, ApiPools)>>,
    /// What the API knows of the result.
    terms: CurrentTerms,
}

impl Overlay {
    fn new(settings: Settings, pools: ApiPools) -> Self {
        let terms = CurrentTerms::default();
        terms.set(&lay_over(&settings, &pools));
        Self { layers: Arc::new(Mutex::new((settings, pools))), terms }
    }

    fn lock(&self) -> MutexGuard<'_, (Settings, ApiPools)> {
        self.layers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn settings(&self) -> Arc<Settings> {
        let (settings, pools) = &*self.lock();
        Arc::new(lay_over(settings, pools))
    }

    /// The order goes out under the lock, so that the last change is also the last order.
    fn change_pools(&self, pools: ApiPools, postbox: &Postbox) {
        let mut held = self.lock();
        held.1 = pools;
        let settings = Arc::new(lay_over(&held.0, &held.1));
        self.terms.set(&settings);
        for core in 0..u16::try_from(postbox.cores()).expect("CORES_MAX fits 16 bits") {
            postbox.order(CoreId(core), Order::Reload(settings.clone()));
        }
    }
}

impl Engine for Running {
    fn smtp(&self) -> &[SocketAddr] {
        self.engine.listening()
    }

    fn api(&self) -> Option<SocketAddr> {
        Some(self.control.listening())
    }

    fn health(&mut self) -> Health {
        match self.engine.health() {
            runtime::Health::Alive if self.rules.thread.as_ref().is_some_and(JoinHandle::is_finished) => {
                Health::Failed("the rules' thread has ended".to_owned())
            }
            runtime::Health::Alive if self.rules.cluster.as_ref().is_some_and(cluster::Running::has_failed) => {
                Health::Failed("a thread of the cluster has ended".to_owned())
            }
            runtime::Health::Alive => self.control.health(),
            runtime::Health::Stalled(what) => Health::Stalled(what),
            runtime::Health::Failed(why) => Health::Failed(why),
        }
    }

    fn reload(&mut self, config: &Config, users: Users) {
        self.injectors.write().unwrap_or_else(PoisonError::into_inner).0 = Arc::new(users);
        let rules = &self.rules;
        let mut held = rules.overlay.lock();
        let old = std::mem::replace(&mut held.0, config.settings.clone());
        if let Err(error) = self.engine.reload(&Arc::new(lay_over(&held.0, &held.1))) {
            held.0 = old;
            report::error(&format!("{error}; settings and certificate stay as they were"));
        }
        rules.overlay.terms.set(&lay_over(&held.0, &held.1));
        rules.configured.set(&rules.config_file, &held.0);
        drop(held);
        self.control.reload(config);
    }

    fn tokens(&mut self, tokens: TokenSet) {
        self.injectors.write().unwrap_or_else(PoisonError::into_inner).1 = tokens.clone();
        self.control.tokens(tokens);
    }

    fn stop(&mut self, within: Duration) -> Result<(), String> {
        // First the API: its requests need the cores, and no core needs it.
        let control = self.control.stop(within / CONTROL_STOP_PART);
        let within = within - within / CONTROL_STOP_PART;
        let Some(cluster) = self.rules.cluster.take() else {
            let rules = self.rules.stop();
            return self.stop_cores(within, rules.and(control));
        };
        // The others wait for this engine until it has told them that it delivers nothing any more. So its cores end
        // before it says so, and hear of new rules as long as they send anything.
        let farewell = (within / CONTROL_STOP_PART).min(FAREWELL_WITHIN);
        let cores = self.stop_cores(within - farewell, control);
        if cores.is_ok()
            && let Err(why) = cluster.stop(farewell)
        {
            report::warning(&format!("cluster: {why}"));
        }
        cores.and(self.rules.stop())
    }
}

impl Running {
    fn stop_cores(&mut self, within: Duration, control: Result<(), String>) -> Result<(), String> {
        match &*self.engine.stop(within) {
            [] => control,
            failed => Err(format!("shards {failed:?} ended by a panic; what they had accepted is in the spool")),
        }
    }
}

impl Rules {
    fn stop(&mut self) -> Result<(), String> {
        self.authority.stop();
        match self.thread.take().map(JoinHandle::join) {
            Some(Err(_)) => Err("the rules' thread ended by a panic; what was answered is stored".to_owned()),
            _ => Ok(()),
        }
    }
}

/// A new secret at each start: nothing that it hashes outlives the process.
fn rule_key() -> HashKey {
    let half = || u64::from_ne_bytes(users::random());
    HashKey(half(), half())
}
