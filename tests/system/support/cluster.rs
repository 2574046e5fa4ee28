//! Several engines that share their rules by one etcd. Each engine reaches each member of etcd through a relay of its
//! own, so that its net can be cut, stalled or slowed without the others' noticing.

use super::api::{Answer, Api};
use super::config::Config;
use super::engine::Engine;
use super::etcd::Etcd;
use super::relay::{Flow, Relay};
use super::sink::{Features, Sink};
use super::wait::{linger, moment, until};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

/// The members of etcd, unless a test asks for another number.
const MEMBERS: usize = 3;

/// How long engines may take to agree when all is well again.
const AGREEMENT: Duration = Duration::from_secs(60);

/// Engines and their etcd. Everything ends when it is dropped.
pub struct Cluster {
    /// The engines, of which some may not run.
    pub nodes: Vec<Node>,
    /// What they share.
    pub etcd: Etcd,
}

/// One engine, with a destination of its own for all its mail.
pub struct Node {
    /// Its name in the cluster.
    pub name: String,
    /// The process.
    pub engine: Engine,
    /// As it was prepared.
    pub config: Config,
    /// Its destination.
    pub sink: Sink,
    links: Vec<Relay>,
}

impl Cluster {
    /// Three engines that follow etcd and know each other, with short leases.
    pub fn start() -> Self {
        Self::with(3, |_, config| config)
    }

    /// So many, each with what `change` makes of its configuration.
    pub fn with(count: usize, change: impl Fn(usize, Config) -> Config) -> Self {
        let etcd = Etcd::start(MEMBERS);
        let nodes = (0..count).map(|number| Node::prepare(&etcd, number, |config| change(number, config))).collect();
        let mut cluster = Self { nodes, etcd };
        for node in &mut cluster.nodes {
            node.engine.run();
        }
        cluster.await_together();
        cluster
    }

    /// Waits until all engines that run follow etcd and know each other.
    pub fn await_together(&mut self) {
        let names: Vec<String> = self.running().map(|node| node.name.clone()).collect();
        until("all engines follow etcd, know each other and hold nothing", || {
            self.running().all(|node| {
                let view = node.view();
                let follows = view["state"] == "following" && view["holding"].is_null();
                follows && names.iter().all(|name| state_of(&view, name) == "live")
            })
        });
    }

    /// The engines that run.
    pub fn running(&mut self) -> impl Iterator<Item = &Node> {
        self.nodes.iter_mut().filter_map(|node| node.engine.is_running().then_some(&*node))
    }

    /// Waits until all engines that run have the same rules, and gives them.
    pub fn await_agreement(&mut self) -> BTreeMap<String, Value> {
        let end = moment() + AGREEMENT;
        loop {
            let all: Vec<_> = self.running().map(Node::shared).collect();
            let [first, others @ ..] = &all[..] else { panic!("no engine runs") };
            if others.iter().all(|other| other == first) {
                return first.clone();
            }
            for other in others.iter().filter(|_| moment() > end) {
                let differs = |(name, value): &(&String, &Value)| first.get(*name) != Some(value);
                let missing: Vec<_> = first.iter().filter(|(name, value)| other.get(*name) != Some(value)).collect();
                let more: Vec<_> = other.iter().filter(differs).collect();
                assert!(missing.is_empty() && more.is_empty(), "engines differ: {missing:?} and {more:?}");
            }
            linger(Duration::from_millis(50));
        }
    }
}

/// How it is with a node, as another one sees it; empty when it is not known.
pub fn state_of(view: &Value, name: &str) -> String {
    let nodes = view["nodes"].as_array();
    let node = nodes.and_then(|nodes| nodes.iter().find(|node| node["node"] == name));
    node.and_then(|node| node["state"].as_str()).unwrap_or_default().to_owned()
}

impl Node {
    /// Makes everything and starts no engine.
    pub fn prepare(etcd: &Etcd, number: usize, change: impl FnOnce(Config) -> Config) -> Self {
        let sink = Sink::start(Features::default());
        let links: Vec<Relay> = (0..etcd.count()).map(|member| Relay::to(etcd.address(member))).collect();
        let name = format!("node-{number}");
        // Not all of them begin with the same member.
        let urls = (0..links.len()).map(|at| format!("{:?}", links[(at + number) % links.len()].url()));
        let endpoints = urls.collect::<Vec<_>>().join(", ");
        let config = Config::to(sink.address)
            .line("cluster", &format!("endpoints = [{endpoints}]"))
            .line("cluster", &format!("node = {name:?}"))
            .line("cluster", "lease = \"2s\"");
        let config = change(config);
        Self { engine: Engine::prepare(&config), name, config, sink, links }
    }

    /// Its API; the engine must run.
    pub fn api(&self) -> Api {
        Api::of(&self.engine)
    }

    /// What happens from now on to what it says to etcd and hears from it.
    pub fn net(&self, flow: Flow) {
        for link in &self.links {
            link.set(flow);
        }
    }

    /// From now on it hears nothing of what etcd says with this text in it; the rest it hears. See [`Relay::leave_out`].
    pub fn leave_out(&self, text: Option<&str>) {
        self.links.iter().for_each(|link| link.leave_out(text));
    }

    /// What it says of the cluster.
    pub fn view(&self) -> Value {
        self.api().get("/v1/cluster")
    }

    /// Waits until it is so with another node, as this one sees it.
    pub fn await_sees(&self, other: &str, state: &str) {
        until(&format!("{} sees that {other} is {state}", self.name), || state_of(&self.view(), other) == state);
    }

    /// Waits until its own link to etcd is so.
    pub fn await_link(&self, state: &str) {
        until(&format!("{} is {state}", self.name), || self.view()["state"] == state);
    }

    /// What it shares with the others: rules by their ids and pools by their names, without what each engine counts for
    /// itself.
    pub fn shared(&self) -> BTreeMap<String, Value> {
        let api = self.api();
        let mut found = BTreeMap::new();
        for mut entry in api.get("/v1/rules").as_array().unwrap().iter().cloned() {
            if entry["cluster"] != json!(true) {
                continue;
            }
            for own in ["held", "ended", "matched", "in_flight", "first_expiry", "total_matched", "total_bounced"] {
                entry.as_object_mut().unwrap().remove(own);
            }
            found.insert(entry["id"].as_str().unwrap().to_owned(), entry);
        }
        for entry in api.get("/v1/suppressions").as_array().unwrap() {
            found.insert(format!("suppression {}", entry["value"]), entry["code"].clone());
        }
        for entry in api.get("/v1/pools").as_array().unwrap() {
            found.insert(format!("pool {}", entry["name"]), entry["description"].clone());
        }
        found
    }

    /// POSTs, whatever is answered.
    pub fn post(&self, path: &str, body: &Value) -> Answer {
        self.api().try_call("POST", path, Some(body)).unwrap_or_else(|error| panic!("POST {path}: {error}"))
    }

    /// Hands in a message with these header lines.
    pub fn send(&self, recipient: &str, headers: &str) {
        let body = format!("{headers}Subject: a cluster's\r\n\r\nheld or not\r\n");
        assert_eq!(self.engine.client().send("s@test.example", &[recipient], body.as_bytes()).code, 250);
    }

    /// Messages to a domain in a state.
    pub fn in_state(&self, domain: &str, state: &str) -> Vec<Value> {
        self.api().get(&format!("/v1/messages?domain={domain}&state={state}&limit=1000")).as_array().unwrap().clone()
    }

    /// Whether a message has come for this recipient.
    pub fn has_delivered(&self, recipient: &str) -> bool {
        self.sink.attempts().iter().any(|message| message.recipients == [recipient])
    }

    /// Waits until one has.
    pub fn await_delivered(&self, recipient: &str) {
        until(&format!("{} delivers to {recipient}", self.name), || self.has_delivered(recipient));
    }
}

/// The nodes that an answer says are pending, in order.
pub fn pending(answer: &Answer) -> Vec<String> {
    let json = answer.json();
    let mut names: Vec<String> = json["pending"]
        .as_array()
        .map_or(&[][..], Vec::as_slice)
        .iter()
        .map(|name| name.as_str().unwrap().to_owned())
        .collect();
    names.sort();
    names
}
