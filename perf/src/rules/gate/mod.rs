//! `gate`: whether a rule that has answered is in force. Every kind of rule, made while mail is on its way, over every
//! transport; the count of violations is the result, and it is to be zero.
//!
//! Rounds run side by side in one engine, each in a domain of its own. What a violation is, [`judge`] says alone.

mod destination;
mod inject;
mod judge;
mod kind;
mod results;
mod round;
mod servers;
mod transport;

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::fs;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle, sleep};
use std::time::Duration;

use clap::Args;

use self::destination::Destinations;
use self::inject::Injector;
use self::kind::Kind;
use self::results::{GateReport, Made, Results};
use self::round::{Size, Worker};
use self::servers::Servers;
use self::transport::Transport;
use crate::cli::{RunArgs, ServerArgs, ShapeArgs};
use crate::clock::now_ns;
use crate::error::{Context, Failure, Result};
use crate::report;
use crate::sampler::machine::Machine;

/// Between two lines of progress.
const LINE_EVERY_NS: u64 = 5_000_000_000;

/// What only `gate` asks.
#[derive(Args, Clone)]
pub struct GateArgs {
    /// gate: rounds of each kind of rule, size and transport
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub gate_rounds: u32,
    /// gate: rounds that run side by side over each transport
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=50))]
    pub gate_lanes: u32,
    /// gate: kinds of rules (default: all)
    #[arg(long, value_enum, value_delimiter = ',')]
    pub gate_kinds: Vec<Kind>,
    /// gate: transports (default: all)
    #[arg(long, value_enum, value_delimiter = ',')]
    pub gate_transports: Vec<Transport>,
    /// gate: sizes of messages (default: both)
    #[arg(long, value_enum, value_delimiter = ',')]
    pub gate_sizes: Vec<Size>,
}

/// One round to be made.
#[derive(Clone, Copy)]
struct Task {
    kind: Kind,
    size: Size,
    turn: u32,
}

type Tasks = Arc<Mutex<VecDeque<Task>>>;

/// `mailrace-perf run gate`.
pub fn run(arguments: &RunArgs, machine: Machine) -> Result<ExitCode> {
    run_on(arguments, machine, false)
}

/// `mailrace-perf run cluster_gate`: the mail is on one engine, and the rule is made on another. What that one says to be
/// in flight is its own, so only large messages show anything: none of them can have left before the answer.
pub fn run_in_cluster(arguments: &RunArgs, machine: Machine) -> Result<ExitCode> {
    run_on(arguments, machine, true)
}

fn run_on(arguments: &RunArgs, machine: Machine, shared: bool) -> Result<ExitCode> {
    let gate = &arguments.rules.gate;
    let kinds = chosen(&gate.gate_kinds, &kind::ALL);
    let transports = chosen(&gate.gate_transports, &transport::ALL);
    let sizes = if shared { vec![Size::Large] } else { chosen(&gate.gate_sizes, &[Size::Large, Size::Small]) };
    let lanes: Vec<Transport> =
        transports.iter().flat_map(|transport| (0..gate.gate_lanes).map(move |_| *transport)).collect();
    let destinations = Destinations::start(lanes.iter().map(|transport| transport.profile()).collect())?;
    let (shape, _config) = shape(&arguments.shape, &destinations)?;
    let mut servers = Servers::start(arguments, &shape, shared)?;
    let results = Arc::new(Mutex::new(Results::new(&kinds, &transports, &sizes)));
    let tasks: Vec<(Transport, Tasks)> = transports
        .iter()
        .map(|transport| (*transport, Arc::new(Mutex::new(tasks(&kinds, &sizes, gate.gate_rounds)))))
        .collect();
    let mut threads = Vec::new();
    for (number, transport) in lanes.iter().enumerate() {
        let worker = worker(&destinations, number, &servers)?;
        let own = tasks.iter().find(|(of, _)| of == transport).map(|(_, tasks)| Arc::clone(tasks)).unwrap_or_default();
        threads.push(work(worker, *transport, own, Arc::clone(&results)));
    }
    let total = kinds.len() * transports.len() * sizes.len() * gate.gate_rounds as usize;
    let start_ns = now_ns();
    watch(&threads, &results, total, &mut servers);
    for thread in threads {
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    }
    let results = std::mem::take(&mut *results.lock().unwrap_or_else(PoisonError::into_inner));
    let mut failures = results.failures.clone();
    failures.extend(servers.exited());
    failures.extend(servers.stop());
    let asked = Made { scenario: arguments.scenario.name(), mta: servers.version(), rounds_of_each: gate.gate_rounds };
    let gate = GateReport::new(machine, asked, start_ns, results, failures);
    gate.print();
    if let Some(path) = &arguments.shape.sending.json {
        report::write(&gate, path)?;
    }
    Ok(if gate.is_clean(total) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn chosen<T: Copy>(asked: &[T], all: &[T]) -> Vec<T> {
    if asked.is_empty() { all.to_vec() } else { asked.to_vec() }
}

/// Kinds and sizes in turn, so that a run that is broken off has some of each.
fn tasks(kinds: &[Kind], sizes: &[Size], rounds: u32) -> VecDeque<Task> {
    let mut tasks = VecDeque::new();
    for turn in 0..rounds {
        for &kind in kinds {
            tasks.extend(sizes.iter().map(|&size| Task { kind, size, turn }));
        }
    }
    tasks
}

/// The shape with the configuration of the server: each lane's domain leads to its destination.
fn shape(asked: &ShapeArgs, destinations: &Destinations) -> Result<(ShapeArgs, tempfile::TempDir)> {
    let mut text = match &asked.server.mailrace_config {
        Some(path) => fs::read_to_string(path).context(format_args!("read {}", path.display()))?,
        None => String::new(),
    };
    text.push_str("\n[retry]\nintervals = [\"1s\"]\n\n[[limit]]\nper = \"path\"\nconnections = 2\n");
    for (number, lane) in destinations.lanes.iter().enumerate() {
        let route = format!("\n[[route]]\ndomain = \"{}\"\nhosts = [\"{}\"]\n", domain(number), lane.address);
        text.push_str(&route);
    }
    let directory = tempfile::TempDir::with_prefix_in("mailrace-perf-gate-", &asked.work_dir)
        .context(format_args!("make a directory in {}", asked.work_dir.display()))?;
    let path = directory.path().join("gate.toml");
    fs::write(&path, text).context(format_args!("write {}", path.display()))?;
    let server = ServerArgs { mailrace_config: Some(path), ..asked.server.clone() };
    Ok((ShapeArgs { server, no_syscalls: true, ..asked.clone() }, directory))
}

fn domain(lane: usize) -> String {
    format!("lane-{lane}.gate.test")
}

fn worker(destinations: &Destinations, number: usize, servers: &Servers) -> Result<Worker> {
    let lane = destinations.lanes[number].clone();
    let ways = servers.ways(number)?;
    let injector = Injector::connect(ways.smtp)?;
    Ok(Worker::new(lane, domain(number), number as u32, send_buffer()?, ways, injector))
}

/// The most that Linux gives a socket that asks for nothing, octets (tcp(7), `tcp_wmem`).
fn send_buffer() -> Result<u64> {
    let path = "/proc/sys/net/ipv4/tcp_wmem";
    let text = fs::read_to_string(path).context(format_args!("read {path}"))?;
    let most = text.split_ascii_whitespace().nth(2).and_then(|octets| octets.parse().ok());
    most.ok_or_else(|| Failure(format!("{path} says {text:?}")))
}

/// Makes rounds until none is left. A round that fails ends its lane, whose mail nobody knows then.
fn work(mut worker: Worker, transport: Transport, tasks: Tasks, results: Arc<Mutex<Results>>) -> JoinHandle<()> {
    thread::spawn(move || {
        loop {
            let next = tasks.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            let Some(Task { kind, size, turn }) = next else { return };
            let found = worker.round(kind, size, turn);
            let mut results = results.lock().unwrap_or_else(PoisonError::into_inner);
            match found {
                Ok(found) => results.add(kind, transport, size, turn, &found),
                Err(failure) => {
                    let name = format!("{} over {}, round {turn}", kind.name(), transport.name());
                    return results.failures.push(format!("{name}: {failure}"));
                }
            }
        }
    })
}

fn watch(threads: &[JoinHandle<()>], results: &Mutex<Results>, total: usize, servers: &mut Servers) {
    let (start_ns, mut last_ns) = (now_ns(), now_ns());
    while threads.iter().any(|thread| !thread.is_finished()) && servers.exited().is_none() {
        sleep(Duration::from_millis(50));
        if now_ns() - last_ns > LINE_EVERY_NS {
            last_ns = now_ns();
            let mut line = String::new();
            let (rounds, violations) = results.lock().unwrap_or_else(PoisonError::into_inner).totals();
            let seconds = (last_ns - start_ns) / 1_000_000_000;
            // Writing to a string can't fail.
            let _ = write!(line, "gate: {rounds} of {total} rounds, {violations} violations, {seconds} s");
            eprintln!("{line}");
        }
    }
}
