//! The figures of the cluster, as this engine sees it. Nodes are counted by state and not named, so that the number of
//! series does not grow with them; `GET /v1/cluster` names them.

use super::{Kind, Metric};
use crate::cluster::{NodeStatus, Status};

/// States of nodes; each is there at all times.
const STATES: [&str; 3] = ["live", "stopped", "lost"];

/// All of them. An engine in no cluster has none.
pub(super) fn of_status(status: &Status) -> Vec<Metric> {
    let revision = |revision: i64| u64::try_from(revision).unwrap_or(0);
    let most = |of: fn(&NodeStatus) -> u64| status.nodes.iter().map(of).max().unwrap_or(0);
    let own = |node: &&NodeStatus| node.name == status.node;
    let own_lag = status.nodes.iter().find(own).map_or(0, |node| revision(node.lag));
    let lag = most(|node| u64::try_from(node.lag).unwrap_or(0));
    let gauge =
        |name, help, value| Metric { name, help, kind: Kind::Gauge, labels: &[], series: vec![(Vec::new(), value)] };
    let counter = |name, help, value| Metric { kind: Kind::Counter, ..gauge(name, help, value) };
    let by_word = |name, help, kind, labels, series: &[(&str, u64)]| {
        let series = series.iter().map(|(word, value)| (vec![(*word).to_owned()], *value)).collect();
        Metric { name, help, kind, labels, series }
    };
    let count = |state: &str| status.nodes.iter().filter(|node| node.state == state).count() as u64;
    let nodes = STATES.map(|state| (state, count(state)));
    vec![
        gauge(
            "mailrace_cluster_connected",
            "1 while this engine hears every change in etcd as it is made.",
            u64::from(status.state == "following"),
        ),
        gauge(
            "mailrace_cluster_holding",
            "1 while this engine holds all its mail for the cluster's sake.",
            u64::from(status.holding.is_some()),
        ),
        gauge(
            "mailrace_cluster_revision",
            "Revision of etcd up to which this engine has heard everything.",
            revision(status.revision),
        ),
        gauge(
            "mailrace_cluster_applied",
            "Revision of etcd up to which everything is in force here.",
            revision(status.applied),
        ),
        by_word(
            "mailrace_cluster_lag",
            "How many revisions this engine, and the slowest of all, is behind the newest that changed rules.",
            Kind::Gauge,
            &["node"],
            &[("this", own_lag), ("slowest", lag)],
        ),
        by_word("mailrace_cluster_nodes", "Engines of the cluster by state.", Kind::Gauge, &["state"], &nodes),
        gauge(
            "mailrace_cluster_clock_skew_milliseconds",
            "The most by which the clock of another engine differs from this one's, either way.",
            most(|node| node.clock_skew_millis.unsigned_abs()),
        ),
        by_word(
            "mailrace_cluster_writes_total",
            "Changes for the whole cluster asked of this engine, stored in etcd or not.",
            Kind::Counter,
            &["result"],
            &[("stored", status.writes), ("failed", status.failed_writes)],
        ),
        counter(
            "mailrace_cluster_comparisons_total",
            "How often everything here was compared with what etcd has.",
            status.comparisons,
        ),
        counter(
            "mailrace_cluster_differences_total",
            "How often that found a change of which nothing was heard; everything is then read anew.",
            status.differences,
        ),
        gauge("mailrace_cluster_calls_pending", "Calls that wait for etcd or for other engines.", status.calls as u64),
    ]
}

#[cfg(test)]
mod tests {
    use super::of_status;
    use crate::api::metrics::to_text;
    use crate::cluster::{NodeStatus, Status};
    use mailrace_shards::time::Timestamp;

    #[test]
    fn the_cluster_in_figures() {
        let node = |name: &str, state, applied, lag, clock_skew_millis| NodeStatus {
            name: name.into(),
            state,
            on_partition: Some("deliver"),
            applied,
            lag,
            clock_skew_millis,
            version: "0.1.0".into(),
            pending_calls: 0,
        };
        let nodes = vec![node("a", "live", 44, 1, 0), node("b", "lost", 40, 5, -1_500), node("c", "live", 45, 0, 900)];
        let status = Status {
            node: "a".into(),
            endpoint: "http://127.0.0.1:2379".into(),
            cluster_id: Some(7),
            revision: 46,
            applied: 44,
            state: "following",
            why: None,
            since: Timestamp(0),
            holding: None,
            writes: 12,
            failed_writes: 2,
            comparisons: 5,
            differences: 1,
            calls: 3,
            nodes,
        };
        let text = to_text(&of_status(&status));
        for line in [
            "mailrace_cluster_connected 1\n",
            "mailrace_cluster_holding 0\n",
            "mailrace_cluster_revision 46\n",
            "mailrace_cluster_applied 44\n",
            "mailrace_cluster_lag{node=\"this\"} 1\n",
            "mailrace_cluster_lag{node=\"slowest\"} 5\n",
            "mailrace_cluster_nodes{state=\"live\"} 2\n",
            "mailrace_cluster_nodes{state=\"stopped\"} 0\n",
            "mailrace_cluster_nodes{state=\"lost\"} 1\n",
            "mailrace_cluster_clock_skew_milliseconds 1500\n",
            "# TYPE mailrace_cluster_writes_total counter\n",
            "mailrace_cluster_writes_total{result=\"failed\"} 2\n",
            "# TYPE mailrace_cluster_differences_total counter\n",
            "mailrace_cluster_comparisons_total 5\n",
            "mailrace_cluster_differences_total 1\n",
            "mailrace_cluster_calls_pending 3\n",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
        let cut_off = Status { state: "cut off", holding: Some("no lease"), ..status };
        let text = to_text(&of_status(&cut_off));
        assert!(text.contains("mailrace_cluster_connected 0\n") && text.contains("mailrace_cluster_holding 1\n"));
    }
}
