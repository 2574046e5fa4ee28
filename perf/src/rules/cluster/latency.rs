//! `cluster_latency`: from a rule call's due moment to its answer, where the answer says that the rule is in force on
//! every engine; with all of them idle, and with all of them loaded at once.

use std::process::ExitCode;
use std::thread::sleep;
use std::time::Duration;

use serde::Serialize;
use serde_json::json;

use super::super::caller::{Caller, Waits};
use super::super::http::Client;
use super::{Cluster, Node};
use crate::cli::{RunArgs, ShapeArgs};
use crate::clock::{now_ns, seconds_between};
use crate::error::{Result, fail};
use crate::report::{self, Asked};
use crate::sampler::machine::Machine;
use crate::scenario::asked;
use crate::stop;
use crate::traffic::own::Sending;

/// Calls made before the first that counts: connections and caches.
const WARM_UP: Duration = Duration::from_secs(2);
/// Between two looks at generators and clock.
const LOOK: Duration = Duration::from_millis(20);

/// What was found.
#[derive(Serialize)]
struct ClusterReport {
    asked: Asked,
    machine: Machine,
    mta: String,
    nodes: u32,
    standing_rules: u32,
    rule_rate: f64,
    idle: Waits,
    loaded: Waits,
    /// By all engines together, while the second half was measured.
    accepted_per_second: f64,
    delivered_per_second: f64,
    /// Of etcd, at the end.
    database_octets: Option<u64>,
}

/// `mailrace-perf run cluster_latency`.
pub fn run(arguments: &RunArgs, machine: Machine) -> Result<ExitCode> {
    let shape = ShapeArgs { no_syscalls: true, ..arguments.shape.clone() };
    let of_cluster = &arguments.rules.cluster;
    let (rate, calls) = (arguments.rules.rule_rate, arguments.rules.rule_calls);
    let mut cluster = Cluster::start(of_cluster, &shape)?;
    let seconds = f64::from(calls) / rate;
    stand(&cluster, of_cluster.cluster_rules)?;
    let caller = Caller::start_shared(&cluster.apis()?, "idle", rate);
    let idle = caller.finish(&[stretch(seconds, || Ok(()))?]);
    idle.print("idle");
    let (loaded, accepted_per_second, delivered_per_second) = loaded(&mut cluster, &shape, rate, seconds)?;
    loaded.print("loaded");
    println!("beside them, all engines: {accepted_per_second:.0} accepted/s, {delivered_per_second:.0} delivered/s");
    let database_octets = cluster.database_octets();
    let mta = cluster.nodes[0].mta.version().to_owned();
    let failures = cluster.stop();
    failures.iter().for_each(|failure| eprintln!("mailrace-perf: {failure}"));
    let complete = idle.failures.is_empty() && loaded.failures.is_empty() && failures.is_empty();
    if let Some(path) = &arguments.shape.sending.json {
        let report = ClusterReport {
            asked: asked(arguments.scenario, &shape),
            machine,
            mta,
            nodes: of_cluster.cluster_nodes,
            standing_rules: of_cluster.cluster_rules,
            rule_rate: rate,
            idle,
            loaded,
            accepted_per_second,
            delivered_per_second,
            database_octets,
        };
        report::write(&report, path)?;
    }
    Ok(if complete { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Makes the rules that are there before.
fn stand(cluster: &Cluster, count: u32) -> Result<()> {
    let mut clients: Vec<Client> = cluster.apis()?.into_iter().map(Client::new).collect();
    let nodes = clients.len();
    for number in 0..count {
        let body = json!({"tag": format!("standing-{number}"), "domain": "standing.test", "cluster": true});
        clients[number as usize % nodes].must("POST", "/v1/pauses", &body)?;
        if stop::requested() {
            return fail("stopped");
        }
    }
    Ok(())
}

/// Lets the warm-up pass and so many seconds; the window of the latter.
fn stretch(seconds: f64, mut meanwhile: impl FnMut() -> Result<()>) -> Result<(u64, u64)> {
    let from_ns = now_ns() + WARM_UP.as_nanos() as u64;
    let until_ns = from_ns + (seconds * 1e9) as u64;
    while now_ns() < until_ns {
        if stop::requested() {
            return fail("stopped");
        }
        meanwhile()?;
        sleep(LOOK);
    }
    Ok((from_ns, until_ns))
}

/// All engines take mail in and deliver it as fast as they can, each from a generator of its own.
fn loaded(cluster: &mut Cluster, shape: &ShapeArgs, rate: f64, seconds: f64) -> Result<(Waits, f64, f64)> {
    let apis = cluster.apis()?;
    let messages = shape.sending.messages;
    let begin = |node: &mut Node| node.traffic.begin(node.mta.address(), messages);
    let mut sending: Vec<Sending> = cluster.nodes.iter_mut().map(begin).collect::<Result<_>>()?;
    let caller = Caller::start_shared(&apis, "loaded", rate);
    let (mut accepted, mut delivered) = (0_u64, 0_u64);
    let begun_ns = now_ns();
    let window = stretch(seconds, || {
        for (node, sending) in cluster.nodes.iter_mut().zip(&mut sending) {
            if let Some(how) = node.mta.exited() {
                return fail(format!("an engine ended ({how}):\n{}", node.mta.log_tail()));
            }
            if sending.is_finished() {
                accepted += sending.live.accepted();
                delivered += u64::from(node.traffic.count()?);
                *sending = node.traffic.begin(node.mta.address(), messages)?;
            }
        }
        Ok(())
    })?;
    let took = seconds_between(begun_ns, now_ns());
    for (node, sending) in cluster.nodes.iter_mut().zip(&sending) {
        accepted += sending.live.accepted();
        delivered += u64::from(node.traffic.count()?);
    }
    let waits = caller.finish(&[window]);
    for sending in sending {
        sending.join()?;
    }
    Ok((waits, accepted as f64 / took, delivered as f64 / took))
}
