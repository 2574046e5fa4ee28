//! What the control core needs of the engine: the one place of this package that starts it.

use crate::auth;
use crate::config::Config;
use crate::control::ControlCore;
use crate::report;
use crate::token::TokenSet;
use crate::topology::Topology;
use crate::users::{self, Users};
use mailrace_shards::rules::HashKey;
use mailrace_shards::runtime::engine::{self as runtime, EngineStart};
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

/// All that a start is given. Everything in it was checked.
#[derive(Debug)]
pub struct Start {
    pub config: Config,
    pub topology: Topology,
    pub users: Users,
    pub tokens: TokenSet,
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
    let Start { config, topology, users, tokens } = start;
    let injectors: Injectors = Arc::new(RwLock::new((Arc::new(users), tokens.clone())));
    let asked = injectors.clone();
    let mut engine = runtime::Engine::start(EngineStart {
        settings: Arc::new(config.settings.clone()),
        cpus: topology.shard_cpus.iter().map(|cpu| topology.pinned.then_some(*cpu)).collect(),
        authenticate: Arc::new(move |name, secret| {
            let (users, tokens) = asked.read().unwrap_or_else(PoisonError::into_inner).clone();
            auth::injector(&users, &tokens, name, secret.as_bytes()).is_some()
        }),
        rule_key: rule_key(),
        rules: Vec::new(),
    })
    .map_err(|error| error.to_string())?;
    match ControlCore::start(&config, &topology, tokens, engine.monitor(), engine.postbox().clone()) {
        Ok(control) => Ok(Running { engine, control, injectors }),
        Err(error) => {
            engine.stop(Duration::ZERO);
            Err(error)
        }
    }
}

/// Of a stop's time, what the REST API may take to finish its requests; the rest is the engine's.
const CONTROL_STOP_PART: u32 = 4;

struct Running {
    engine: runtime::Engine,
    control: ControlCore,
    injectors: Injectors,
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
            runtime::Health::Alive => self.control.health(),
            runtime::Health::Stalled(what) => Health::Stalled(what),
            runtime::Health::Failed(why) => Health::Failed(why),
        }
    }

    fn reload(&mut self, config: &Config, users: Users) {
        self.injectors.write().unwrap_or_else(PoisonError::into_inner).0 = Arc::new(users);
        if let Err(error) = self.engine.reload(&Arc::new(config.settings.clone())) {
            report::error(&format!("{error}; settings and certificate stay as they were"));
        }
        self.control.reload(config);
    }

    fn tokens(&mut self, tokens: TokenSet) {
        self.injectors.write().unwrap_or_else(PoisonError::into_inner).1 = tokens.clone();
        self.control.tokens(tokens);
    }

    fn stop(&mut self, within: Duration) -> Result<(), String> {
        // First the API: its requests need the cores, and no core needs it.
        let control = self.control.stop(within / CONTROL_STOP_PART);
        match &*self.engine.stop(within - within / CONTROL_STOP_PART) {
            [] => control,
            failed => Err(format!("shards {failed:?} ended by a panic; what they had accepted is in the spool")),
        }
    }
}

/// A new secret at each start: nothing that it hashes outlives the process.
fn rule_key() -> HashKey {
    let half = || u64::from_ne_bytes(users::random());
    HashKey(half(), half())
}
