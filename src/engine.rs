//! What the control core needs of the engine: the one place of this package that starts it.

use crate::config::Config;
use crate::token::TokenSet;
use crate::topology::Topology;
use crate::users::Users;
use std::net::SocketAddr;
use std::time::Duration;

/// All that a start is given. Everything in it was checked.
#[expect(dead_code, reason = "the engine's start takes it apart")]
#[derive(Debug)]
pub struct Start {
    pub config: Config,
    pub topology: Topology,
    pub users: Users,
    pub tokens: TokenSet,
}

/// How it is with the engine.
#[expect(dead_code, reason = "the engine says them")]
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

/// Starts it. Returns when every listener is open.
pub fn start(start: Start) -> Result<impl Engine, String> {
    crate::report::warning("this build has no engine: nothing listens and no mail is taken");
    Ok(Absent { _start: start })
}

/// Stands where `mailrace_shards::runtime` will be started: takes no mail; its start says so.
struct Absent {
    _start: Start,
}

impl Engine for Absent {
    fn api(&self) -> Option<SocketAddr> {
        None
    }

    fn health(&mut self) -> Health {
        Health::Alive
    }

    fn reload(&mut self, _config: &Config, _users: Users) {}

    fn tokens(&mut self, _tokens: TokenSet) {}

    fn stop(&mut self, _within: Duration) -> Result<(), String> {
        Ok(())
    }
}
