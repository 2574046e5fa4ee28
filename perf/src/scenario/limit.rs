//! `mailrace-perf limit`: how fast messages can be handed from memory, on one core, to our sink on another.
//!
//! First by our own client, one round trip a message; then by the server under test, whose mail waits behind a pause until
//! it is released. What a server reaches of the client's rate is what its delivery is worth, whatever the machine.

use std::process::ExitCode;
use std::thread::sleep;
use std::time::Duration;

use serde::Serialize;

use super::backlog::{Ramp, drain, fill};
use super::{begin_own, warn_of_tmpfs};
use crate::cli::{LimitArgs, MtaName, ShapeArgs};
use crate::clock::seconds_between;
use crate::error::{Context, Result, fail};
use crate::proof::{self, Durability};
use crate::report::{self, median, ratio};
use crate::sampler::machine::{self, Machine};
use crate::sampler::trace::Watched;
use crate::stop;
use crate::traffic::Traffic;

/// For what the server does behind its last acceptance.
const SETTLE: Duration = Duration::from_secs(1);

/// The result.
#[derive(Debug, Serialize)]
struct LimitReport {
    command: Vec<String>,
    machine: Machine,
    mta: String,
    messages: u32,
    size: u32,
    connections: u32,
    /// Medians.
    client: Rate,
    server: Rate,
    /// The server's rate over the client's.
    rate_share: Option<f64>,
    /// The client's CPU per message over the server's.
    cpu_share: Option<f64>,
    rounds: Vec<(Rate, Rate)>,
    /// Of the last round.
    durability: Durability,
}

/// What one side reached.
#[derive(Clone, Copy, Debug, Serialize)]
struct Rate {
    per_second: f64,
    cpu_us_per_message: f64,
}

/// Runs it: client and server in alternation.
pub fn run(arguments: &LimitArgs) -> Result<ExitCode> {
    stop::watch().context("watch for signals")?;
    let shape = &arguments.shape;
    let machine = machine::facts(&shape.work_dir);
    warn_of_tmpfs(&machine.work_filesystem);
    let mut rounds = Vec::new();
    let mut last = None;
    for number in 1..=arguments.rounds {
        let client = client(shape)?;
        let (server, version, durability) = server(shape)?;
        eprintln!("round {number}: client {:.0}/s, server {:.0}/s", client.per_second, server.per_second);
        rounds.push((client, server));
        last = Some((version, durability));
    }
    let Some((version, durability)) = last else { return fail("no round was asked for") };
    let middle = |side: &dyn Fn(&(Rate, Rate)) -> Rate| Rate {
        per_second: median(rounds.iter().map(|round| side(round).per_second).collect()).unwrap_or(0.0),
        cpu_us_per_message: median(rounds.iter().map(|round| side(round).cpu_us_per_message).collect()).unwrap_or(0.0),
    };
    let (client, server) = (middle(&|round| round.0), middle(&|round| round.1));
    let report = LimitReport {
        command: std::env::args().collect(),
        machine,
        mta: version,
        messages: shape.sending.messages,
        size: shape.sending.size,
        connections: shape.sending.connections,
        client,
        server,
        rate_share: ratio(Some(server.per_second), Some(client.per_second)),
        cpu_share: ratio(Some(client.cpu_us_per_message), Some(server.cpu_us_per_message)),
        rounds,
        durability,
    };
    println!("{:<28}{:>16}{:>22}", "", "messages/s", "CPU µs per message");
    for (name, rate) in [("perf's own client", client), (report.mta.as_str(), server)] {
        println!("{name:<28}{:>16.0}{:>22.1}", rate.per_second, rate.cpu_us_per_message);
    }
    for (name, share) in [("share of its rate", report.rate_share), ("its CPU over the server's", report.cpu_share)] {
        println!("{name:<28}{:>16}", share.map_or_else(|| "unavailable".to_owned(), |share| format!("{share:.2}")));
    }
    println!("{}", report.durability.words());
    if let Some(path) = &shape.sending.json {
        report::write(&report, path)?;
    }
    Ok(if report.durability.is_violated() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Our client, straight to the sink.
fn client(shape: &ShapeArgs) -> Result<Rate> {
    let (_directory, mut traffic, mut mta) = begin_own(MtaName::None, shape)?;
    traffic.send(mta.as_mut(), shape.warm_up.max(1), "client warm-up")?;
    let sending = traffic.begin(mta.address(), shape.sending.messages)?;
    let tally = sending.join()?;
    let accepted = tally.accepted.count();
    if accepted != shape.sending.messages {
        return fail(format!("the sink took {accepted} of {} messages: {:?}", shape.sending.messages, tally.failures));
    }
    Ok(Rate {
        per_second: f64::from(accepted) / seconds_between(tally.first_ns, tally.last_ns).max(1e-9),
        cpu_us_per_message: tally.cpu_ns as f64 / 1e3 / f64::from(accepted),
    })
}

/// The server: everything into its queue, then out of it.
fn server(shape: &ShapeArgs) -> Result<(Rate, String, Durability)> {
    let (directory, mut traffic, mut mta) = begin_own(MtaName::Mailrace, shape)?;
    let mta = mta.as_mut();
    traffic.send(mta, shape.warm_up.max(1), "server warm-up")?;
    let watched = Watched { server: mta.roots(), sink: traffic.sink_processes() };
    mta.pause()?;
    let (_, filled) = fill(mta, &mut traffic, shape.sending.messages, &watched)?;
    sleep(SETTLE);
    let queued = filled.accepted.count();
    let (released_ns, samples) = drain(mta, &mut traffic, queued, Duration::from_secs(shape.patience), &watched)?;
    let ramp = Ramp::of(&samples, released_ns);
    let (Some(first), Some(last), Some(per_second)) = (samples.first(), samples.last(), ramp.full_rate) else {
        return fail("too few messages to tell a rate: ask for more with --messages");
    };
    let cpu = |look: &crate::sampler::trace::Look| (look.server_user_us + look.server_system_us) as f64;
    let delivered = f64::from(last.count.saturating_sub(first.count).max(1));
    let rate = Rate { per_second, cpu_us_per_message: (cpu(&last.look) - cpu(&first.look)) / delivered };
    let version = mta.version().to_owned();
    let durability = proof::take(mta, shape, directory.path());
    mta.stop()?;
    Ok((rate, version, durability))
}
