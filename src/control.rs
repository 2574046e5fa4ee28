//! The control core: one thread with an executor of its own, pinned beside the shards, that serves the REST
//! API. It decides nothing about mail; what it changes, it changes by orders to the cores.

use crate::api::desk::{Configured, Desk};
use crate::api::{Api, Current, Live, Reach};
use crate::cluster::Cluster;
use crate::config::Config;
use crate::cores::Cores;
use crate::engine::Health;
use crate::http::limits::Deadlines;
use crate::http::{Server, Statistics};
use crate::report;
use crate::rules::authority::Authority;
use crate::token::TokenSet;
use crate::topology::Topology;
use mailrace_shards::limits::LISTEN_BACKLOG;
use mailrace_shards::runtime::clock;
use mailrace_shards::runtime::control::{ControlThread, Turning};
use mailrace_shards::runtime::socket;
use mailrace_shards::runtime::tls::ServerTls;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// The API's open listener, before anybody serves it.
pub struct Door {
    socket: socket2::Socket,
    listening: SocketAddr,
    live: Live,
}

impl Door {
    /// Listens. From here on who connects is served, be it a little later: so it is opened before the engine
    /// takes mail, and nobody who has seen an SMTP greeting finds the API closed.
    pub fn open(config: &Config, tokens: TokenSet) -> Result<Self, String> {
        let address = config.api.listen;
        let live = Live::default();
        let tls = load_tls(config)?;
        live.change(|current| settle(current, config, tls));
        live.change(|current| current.tokens = tokens);
        let (socket, listening) =
            socket::listen(address, LISTEN_BACKLOG).map_err(|error| format!("cannot listen at {address}: {error}"))?;
        Ok(Self { socket, listening, live })
    }
}

/// The running control core, as the control thread sees it.
pub struct ControlCore {
    thread: ControlThread,
    listening: SocketAddr,
    live: Live,
}

impl ControlCore {
    /// Serves whoever comes to the door.
    pub fn start(
        door: Door,
        topology: &Topology,
        reach: Reach,
        (authority, configured, cluster): (Authority, Configured, Option<Cluster>),
    ) -> Result<Self, String> {
        let Door { socket, listening, live } = door;
        let cpu = topology.pinned.then_some(topology.control_cpu);
        let own = live.clone();
        let (thread, ()) = ControlThread::start(cpu, move |control| {
            let statistics = Rc::new(Statistics::default());
            let desk = Desk {
                authority,
                census: Box::new(Cores::new(control.clone(), reach.postbox.clone(), reach.monitor.clone())),
                configured,
                clock: clock::now,
                cluster: cluster.map(|cluster| (cluster, control.clone())),
            };
            let api = Rc::new(Api::new(control.clone(), reach, own, statistics.clone(), Rc::new(desk)));
            Server::start(control, socket, Deadlines::default(), api, statistics);
            Ok(())
        })?;
        Ok(Self { thread, listening, live })
    }

    /// Where the REST API listens.
    pub fn listening(&self) -> SocketAddr {
        self.listening
    }

    /// How it is. Does not wait.
    pub fn health(&self) -> Health {
        match self.thread.health() {
            Turning::Lately => Health::Alive,
            Turning::Stalled => Health::Stalled("the control core has not turned lately".to_owned()),
            Turning::Ended => Health::Failed("the control core has ended".to_owned()),
        }
    }

    /// Takes over what a reload may change. A certificate that cannot be read is reported and the old one kept.
    pub fn reload(&self, config: &Config) {
        let tls = load_tls(config).unwrap_or_else(|error| {
            report::error(&format!("{error}; the REST API keeps its certificate"));
            self.live.current().tls.clone()
        });
        self.live.change(|current| settle(current, config, tls));
    }

    /// Replaces the tokens.
    pub fn tokens(&self, tokens: TokenSet) {
        self.live.change(|current| current.tokens = tokens);
    }

    /// Takes no further connections, finishes the requests in progress within `within`, ends.
    pub fn stop(&mut self, within: Duration) -> Result<(), String> {
        self.thread.stop(within)
    }
}

fn load_tls(config: &Config) -> Result<Option<Arc<ServerTls>>, String> {
    config.api.tls.as_ref().map(ServerTls::load).transpose().map_err(|error| error.to_string())
}

fn settle(current: &mut Current, config: &Config, tls: Option<Arc<ServerTls>>) {
    current.trusted_hosts.clone_from(&config.api.trusted_hosts);
    current.max_body_bytes = config.api.max_body_bytes as usize;
    current.hostname = config.settings.hostname.clone();
    current.tls = tls;
}
