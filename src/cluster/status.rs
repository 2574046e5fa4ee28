//! How it is with the cluster, as this node sees it: for people, `GET /v1/cluster` and the metrics.

use super::board::State;
use super::waiting::{self, Node};
use crate::json::Json;
use crate::rules::entry::rfc3339;
use crate::rules::shared::Revision;
use mailrace_shards::time::{Instant, Timestamp};
use std::sync::Arc;

/// All of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// This node's name.
    pub node: Arc<str>,
    /// etcd's cluster, once it has answered.
    pub cluster_id: Option<u64>,
    /// The member of etcd that is asked.
    pub endpoint: String,
    /// Everything that etcd says up to it has been heard.
    pub revision: Revision,
    /// Everything up to it is in force here.
    pub applied: Revision,
    /// The link to etcd in a word, and why it is so.
    pub state: &'static str,
    /// See `state`.
    pub why: Option<String>,
    /// Since when.
    pub since: Timestamp,
    /// All mail waits, and why.
    pub holding: Option<&'static str>,
    /// Changes written into etcd by this node since its start, and those that could not be.
    pub writes: u64,
    /// See `writes`.
    pub failed_writes: u64,
    /// How often everything here was compared with what etcd has, and how often something differed.
    pub comparisons: u64,
    /// See `comparisons`.
    pub differences: u64,
    /// Calls that wait for anything.
    pub calls: usize,
    /// All nodes by name, this one among them.
    pub nodes: Vec<NodeStatus>,
}

/// One node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeStatus {
    /// Its name.
    pub name: Arc<str>,
    /// `live`, `stopped` or `lost`.
    pub state: &'static str,
    /// `deliver` or `hold`; unknown of one that has not announced itself.
    pub on_partition: Option<&'static str>,
    /// Everything up to it is in force there, as far as it has said.
    pub applied: Revision,
    /// Revisions that changed rules and that it has not said to have in force: how far it is behind the newest of them.
    pub lag: Revision,
    /// How much its clock is ahead of ours, in milliseconds.
    pub clock_skew_millis: i64,
    /// The mailrace that it runs.
    pub version: Arc<str>,
    /// Calls at this node that wait for it.
    pub pending_calls: usize,
}

fn word(state: waiting::State) -> &'static str {
    match state {
        waiting::State::Live => "live",
        waiting::State::Stopped => "stopped",
        waiting::State::Lost => "lost",
    }
}

impl Status {
    pub(super) fn of(
        state: &State,
        (node, delivers_when_lost): (&Arc<str>, bool),
        endpoint: &str,
        (holding, now): (Option<&'static str>, Instant),
    ) -> Self {
        let lag = |applied: Revision| (state.relevant - applied).max(0);
        let partition = |delivers: bool| if delivers { "deliver" } else { "hold" };
        let other = |(name, node): (&Arc<str>, &Node)| {
            let about = state.about.get(name);
            let held_up = state.waiting.is_held_up_by(node);
            NodeStatus {
                name: name.clone(),
                state: word(node.state()),
                on_partition: node.member.as_ref().map(|member| partition(member.delivers_when_lost)),
                applied: node.applied(),
                lag: lag(node.applied()),
                clock_skew_millis: about.map_or(0, super::board::About::skew_millis),
                version: about.map_or_else(|| "".into(), |about| about.version.clone()),
                pending_calls: if held_up { state.waiting.calls_behind(node.applied()) } else { 0 },
            }
        };
        let applied = state.waiting.own();
        let own = NodeStatus {
            name: node.clone(),
            // As far as it can know: while etcd is away it may keep a lease in mind that is over.
            state: if state.lease.is_some() && state.gate.is_leased(now) { "live" } else { "lost" },
            on_partition: Some(partition(delivers_when_lost)),
            applied,
            lag: lag(applied),
            clock_skew_millis: 0,
            version: env!("CARGO_PKG_VERSION").into(),
            pending_calls: state.waiting.calls_behind(applied),
        };
        let mut nodes: Vec<NodeStatus> = state.waiting.nodes().map(other).chain([own]).collect();
        nodes.sort_by(|a, b| a.name.cmp(&b.name));
        Self {
            node: node.clone(),
            cluster_id: state.cluster_id,
            endpoint: endpoint.to_owned(),
            revision: state.seen(),
            applied,
            state: state.link.as_str(),
            why: state.link.why().map(str::to_owned),
            since: state.since,
            holding,
            writes: state.writes,
            failed_writes: state.failed_writes,
            comparisons: state.comparisons,
            differences: state.differences,
            calls: state.calls(),
            nodes,
        }
    }

    /// As `GET /v1/cluster` shows it.
    #[must_use]
    pub fn to_json(&self) -> Json {
        let number = |number: i64| Some(Json::Integer(number));
        let node = |node: &NodeStatus| {
            Json::object([
                ("node", Some(Json::from(&node.name))),
                ("state", Some(node.state.into())),
                ("on_partition", node.on_partition.map(Json::from)),
                ("applied", number(node.applied)),
                ("lag", number(node.lag)),
                ("clock_skew_ms", number(node.clock_skew_millis)),
                ("version", Some(Json::from(&node.version))),
                ("pending_calls", Some((node.pending_calls as u64).into())),
            ])
        };
        Json::object([
            ("node", Some(Json::from(&self.node))),
            ("cluster_id", self.cluster_id.map(|id| format!("{id:016x}").into())),
            ("endpoint", Some(self.endpoint.as_str().into())),
            ("revision", number(self.revision)),
            ("applied", number(self.applied)),
            ("state", Some(self.state.into())),
            ("why", self.why.as_deref().map(Json::from)),
            ("since", Some(rfc3339(self.since).into())),
            ("holding", self.holding.map(Json::from)),
            ("nodes", Some(Json::Array(self.nodes.iter().map(node).collect()))),
        ])
    }
}
