//! Several engines under one set of rules: what a rule call costs that holds on all of them, and whether it does.

mod etcd;
pub mod latency;

use std::fs;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::Duration;

use clap::Args;
use serde_json::Value;
use tempfile::TempDir;

use self::etcd::Etcd;
use super::api;
use super::http::{Api, Client};
use crate::cli::{MtaName, ServerArgs, ShapeArgs};
use crate::clock::now_ns;
use crate::error::{Context, Result, fail};
use crate::mta::{self, Mta};
use crate::stop;
use crate::traffic::Traffic;
use crate::traffic::own::OwnTraffic;

/// All nodes know each other within this time or they have failed.
const PATIENCE_NS: u64 = 60_000_000_000;
/// Members of etcd.
const MEMBERS: usize = 3;

/// What only the scenarios of a cluster ask.
#[derive(Args, Clone)]
pub struct ClusterArgs {
    /// cluster_latency, cluster_gate: engines
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(2..=16))]
    pub cluster_nodes: u32,
    /// cluster_latency: rules that are there before the first call
    #[arg(long, default_value_t = 500)]
    pub cluster_rules: u32,
    /// The etcd program
    #[arg(long, default_value = "/usr/bin/etcd")]
    pub etcd: PathBuf,
}

/// One engine with a generator and a destination of its own.
pub struct Node {
    /// The engine.
    pub mta: Box<dyn Mta>,
    /// What it is given, and to whom it delivers.
    pub traffic: OwnTraffic,
}

/// Engines and their etcd. Dropped in this order: the engines first, the directory last.
pub struct Cluster {
    /// The engines.
    pub nodes: Vec<Node>,
    /// What they share.
    etcd: Etcd,
    _directory: TempDir,
}

impl Cluster {
    /// Starts etcd and the engines, and waits until they know each other.
    pub fn start(asked: &ClusterArgs, shape: &ShapeArgs) -> Result<Cluster> {
        let mut directory = TempDir::with_prefix_in("mailrace-perf-cluster-", &shape.work_dir)
            .context(format_args!("make a directory in {}", shape.work_dir.display()))?;
        directory.disable_cleanup(shape.keep);
        let etcd = Etcd::start(&asked.etcd, MEMBERS, directory.path())?;
        let mut nodes = Vec::new();
        for number in 0..asked.cluster_nodes {
            let own = directory.path().join(format!("node-{number}"));
            fs::create_dir(&own).context(format_args!("make {}", own.display()))?;
            let text = match &shape.server.mailrace_config {
                Some(path) => fs::read_to_string(path).context(format_args!("read {}", path.display()))?,
                None => String::new(),
            };
            let cluster = format!("\n[cluster]\nendpoints = {:?}\nnode = \"node-{number}\"\n", etcd.urls());
            let config = own.join("cluster.toml");
            fs::write(&config, text + &cluster).context(format_args!("write {}", config.display()))?;
            let server = ServerArgs { mailrace_config: Some(config), ..shape.server.clone() };
            let shape = ShapeArgs { server, ..shape.clone() };
            let traffic = OwnTraffic::start(&shape)?;
            let mta = mta::start(MtaName::Mailrace, traffic.sink(), &shape, &own)?;
            nodes.push(Node { mta, traffic });
        }
        let cluster = Cluster { nodes, etcd, _directory: directory };
        cluster.await_together()?;
        Ok(cluster)
    }

    /// Each engine's API.
    pub fn apis(&self) -> Result<Vec<Api>> {
        self.nodes.iter().map(|node| api(node.mta.as_ref())).collect()
    }

    /// Octets of etcd's database.
    pub fn database_octets(&self) -> Option<u64> {
        self.etcd.database_octets()
    }

    /// Stops the engines in order; how each went that did not end well.
    pub fn stop(mut self) -> Vec<String> {
        self.nodes.iter_mut().filter_map(|node| node.mta.stop().err()).map(|failure| failure.to_string()).collect()
    }

    /// Waits until all follow etcd and each sees the others live.
    fn await_together(&self) -> Result<()> {
        let mut clients: Vec<Client> = self.apis()?.into_iter().map(Client::new).collect();
        let end_ns = now_ns() + PATIENCE_NS;
        loop {
            let mut views = Vec::new();
            for client in &mut clients {
                views.push(client.must("GET", "/v1/cluster", &Value::Null)?);
            }
            let live = |view: &Value| {
                let nodes = view["nodes"].as_array().map_or(&[][..], Vec::as_slice);
                nodes.iter().filter(|node| node["state"] == "live").count()
            };
            if views.iter().all(|view| view["state"] == "following" && live(view) == clients.len()) {
                return Ok(());
            }
            if stop::requested() {
                return fail("stopped");
            }
            if now_ns() > end_ns {
                return fail(format!("the engines do not find each other: {views:?}"));
            }
            sleep(Duration::from_millis(100));
        }
    }
}
