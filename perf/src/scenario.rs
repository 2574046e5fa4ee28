//! Runs the rounds of a measurement: sink, server, warm-up, window, figures, stop.
//!
//! The window opens before the first message is sent and closes after the last one was delivered and the server has
//! settled, so that work put off counts as well. It must never measure CPU while anything else is attached to the server.

mod backlog;
pub mod limit;
mod load;
pub mod preset;

use std::process::ExitCode;

use tempfile::TempDir;

use crate::baseline;
use crate::cli::{CompareArgs, MtaName, OpponentName, RunArgs, ScenarioName, ShapeArgs, ToolsName};
use crate::error::{Context, Result, fail};
use crate::mta::{self, Mta};
use crate::proof::{self, Durability};
use crate::report::{self, Asked, CompareReport, CpuSplit, Figures, Round, RunReport, ratio, summarise};
use crate::rules;
use crate::sampler::machine;
use crate::sampler::peak::{Peak, PeakSampler};
use crate::sampler::process::{Usage, usage};
use crate::sampler::syscalls::SyscallCount;
use crate::sampler::trace::{self, Trace, Watched};
use crate::stop;
use crate::traffic::own::OwnTraffic;
use crate::traffic::postfix::PostfixTraffic;
use crate::traffic::{Outcome, Traffic};

/// The burst in which system calls are counted: this share of the messages, within these bounds.
const SYSCALL_SHARE: u32 = 10;
const SYSCALL_MESSAGES: std::ops::RangeInclusive<u32> = 200..=5_000;

/// `mailrace-perf run`.
pub fn run(arguments: &RunArgs) -> Result<ExitCode> {
    stop::watch().context("watch for signals")?;
    let machine = machine::facts(&arguments.shape.work_dir);
    warn_of_tmpfs(&machine.work_filesystem);
    match arguments.scenario {
        ScenarioName::Backlog => return backlog::run(arguments, machine),
        ScenarioName::Latency => return load::run(arguments, machine),
        ScenarioName::RuleChurn => return rules::churn::run(arguments, machine),
        ScenarioName::Gate => return rules::gate::run(arguments, machine),
        ScenarioName::RuleLatency => return rules::latency::run(arguments, machine),
        ScenarioName::ClusterLatency => return rules::cluster::latency::run(arguments, machine),
        ScenarioName::ClusterGate => return rules::gate::run_in_cluster(arguments, machine),
        _ => {}
    }
    let mut rounds = Vec::new();
    for number in 1..=arguments.rounds {
        rounds.push(round(arguments.mta, &arguments.shape, &format!("round {number}"))?);
    }
    let figures = summarise(rounds.iter());
    report::print_table(&[(rounds[0].mta.clone(), &figures)]);
    let complete = complain(&rounds) & durable(&rounds);
    let asked = asked(arguments.scenario, &arguments.shape);
    if let Some(path) = &arguments.shape.sending.json {
        report::write(&RunReport { asked, machine, figures, rounds }, path)?;
    }
    Ok(if complete { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// `mailrace-perf compare`: A B A B …, so that what disturbs the machine disturbs both.
pub fn compare(arguments: &CompareArgs) -> Result<ExitCode> {
    stop::watch().context("watch for signals")?;
    let opponent = match arguments.opponent {
        OpponentName::Postfix => MtaName::Postfix,
        OpponentName::Exim => MtaName::Exim,
        OpponentName::Opensmtpd => MtaName::Opensmtpd,
        OpponentName::External => MtaName::External,
        OpponentName::Mailrace => MtaName::Mailrace,
    };
    let machine = machine::facts(&arguments.shape.work_dir);
    warn_of_tmpfs(&machine.work_filesystem);
    let mut ours = Vec::new();
    let mut theirs = Vec::new();
    let mut rounds = Vec::new();
    let their_shape = arguments.opponent_shape.as_deref().unwrap_or(&arguments.shape);
    for number in 1..=arguments.rounds {
        for (name, title, shape, found) in [
            (MtaName::Mailrace, "mailrace", &arguments.shape, &mut ours),
            (opponent, "opponent", their_shape, &mut theirs),
        ] {
            let measured = round(name, shape, &format!("{title} {number}"))?;
            found.push(measured.clone());
            rounds.push(measured);
        }
    }
    let (our_figures, their_figures) = (summarise(ours.iter()), summarise(theirs.iter()));
    report::print_table(&[(ours[0].mta.clone(), &our_figures), (theirs[0].mta.clone(), &their_figures)]);
    let cpu_ratio = ratio(their_figures.cpu_us_per_message, our_figures.cpu_us_per_message);
    let rate_ratio = ratio(Some(our_figures.delivered_per_second), Some(their_figures.delivered_per_second));
    for (label, value) in [("cpu_ratio (its CPU over ours)", cpu_ratio), ("rate_ratio (our rate over its)", rate_ratio)]
    {
        println!("{label:<32}{}", value.map_or_else(|| "unavailable".to_owned(), |value| format!("{value:.2}")));
    }
    // What the other one does is told and not held against it here.
    durable(&theirs);
    let complete = complain(&rounds) & durable(&ours);
    let asked = asked(arguments.scenario, &arguments.shape);
    if let Some(path) = &arguments.shape.sending.json {
        let report =
            CompareReport { asked, machine, cpu_ratio, rate_ratio, ours: our_figures, opponent: their_figures, rounds };
        report::write(&report, path)?;
    }
    Ok(if complete { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A server with what sends through it and what it delivers to. Dropped in this order: the server before the sink, the
/// directory last.
pub struct Scene {
    /// The server.
    pub mta: Box<dyn Mta>,
    /// Generator and sink.
    pub traffic: Box<dyn Traffic>,
    /// Where both work.
    pub directory: TempDir,
}

/// A directory, our own generator and sink in it, and a server. Bound in this order, the server is dropped first.
fn begin_own(name: MtaName, shape: &ShapeArgs) -> Result<(TempDir, OwnTraffic, Box<dyn Mta>)> {
    let directory = directory(shape, "queue")?;
    let traffic = OwnTraffic::start(shape)?;
    let mta = mta::start(name, traffic.sink(), shape, directory.path())?;
    Ok((directory, traffic, mta))
}

fn directory(shape: &ShapeArgs, title: &str) -> Result<TempDir> {
    let mut directory = TempDir::with_prefix_in("mailrace-perf-", &shape.work_dir)
        .context(format_args!("make a directory in {}", shape.work_dir.display()))?;
    directory.disable_cleanup(shape.keep);
    if shape.keep {
        eprintln!("{title}: files stay in {}", directory.path().display());
    }
    Ok(directory)
}

/// Starts sink and server on a directory of their own.
pub fn begin(name: MtaName, shape: &ShapeArgs, title: &str) -> Result<Scene> {
    let directory = directory(shape, title)?;
    let traffic: Box<dyn Traffic> = match shape.tools {
        ToolsName::Perf => Box::new(OwnTraffic::start(shape)?),
        ToolsName::Postfix => Box::new(PostfixTraffic::start(shape)?),
    };
    let mta = mta::start(name, traffic.sink(), shape, directory.path())?;
    Ok(Scene { mta, traffic, directory })
}

fn round(name: MtaName, shape: &ShapeArgs, title: &str) -> Result<Round> {
    let mut scene = begin(name, shape, title)?;
    let mut round = measure(scene.mta.as_mut(), scene.traffic.as_mut(), shape, title)?;
    round.show(proof::take(scene.mta.as_ref(), shape, scene.directory.path()));
    round.stop_failure = scene.mta.stop().err().map(|failure| failure.to_string());
    if shape.baseline {
        let sending = &shape.sending;
        let copied = baseline::measure(scene.directory.path(), sending.messages, sending.size, sending.connections)?;
        round.figures.baseline_cpu_us_per_megabyte = Some(copied.cpu_us_per_megabyte);
    }
    Ok(round)
}

/// Warm-up, window and figures of one round.
pub fn measure(mta: &mut dyn Mta, traffic: &mut dyn Traffic, shape: &ShapeArgs, title: &str) -> Result<Round> {
    if shape.warm_up > 0 {
        send(mta, traffic, shape.warm_up, &format!("{title} warm-up"))?;
    }
    let roots = mta.roots();
    let sampler = PeakSampler::start(roots.clone());
    let trace = Trace::start(Watched { server: roots.clone(), sink: traffic.sink_processes() });
    let before = usage(&roots);
    let outcome = send(mta, traffic, shape.sending.messages, title)?;
    let after = usage(&roots);
    let looks = trace.finish();
    let peak = sampler.finish();
    let (syscalls, syscalls_unavailable) = match count_syscalls(mta, traffic, shape, title) {
        Ok(count) => (Some(count), None),
        Err(failure) => (None, Some(failure.to_string())),
    };
    if stop::requested() {
        return fail("stopped");
    }
    Ok(Round {
        mta: mta.version().to_owned(),
        requested: shape.sending.messages,
        unasked: outcome.unasked,
        processes: (!roots.is_empty()).then_some(after.processes),
        refused: outcome.refused.clone(),
        failures: outcome.failures.clone(),
        sink_connections: outcome.sink_connections,
        sink_tls_messages: outcome.sink_tls_messages,
        sink_protocol_errors: outcome.sink_protocol_errors,
        syscalls_unavailable,
        durability: Durability::default(),
        stop_failure: None,
        cpu_split_us_per_message: CpuSplit::of(&looks, outcome.delivered),
        accepted_over_time: outcome.accepted_over_time.clone(),
        delivered_over_time: outcome.delivered_over_time.clone(),
        cpu_over_time: trace::points(&looks, outcome.first_ns),
        figures: figures(&outcome, before, after, peak, syscalls, roots.is_empty(), shape),
    })
}

/// Sends one batch; a server that ended meanwhile is a failure with the end of its log.
pub fn send(mta: &mut dyn Mta, traffic: &mut dyn Traffic, messages: u32, title: &str) -> Result<Outcome> {
    let outcome = traffic.send(mta, messages, title)?;
    if stop::requested() {
        return fail("stopped");
    }
    if let Some(how) = mta.exited() {
        return fail(format!("{} ended during {title} ({how}):\n{}", mta.version(), mta.log_tail()));
    }
    if outcome.accepted == 0 {
        let why = format!("refused {:?}, failures {:?}", outcome.refused, outcome.failures);
        return fail(format!("{} accepted nothing during {title}: {why}\n{}", mta.version(), mta.log_tail()));
    }
    if outcome.delivered == 0 {
        let version = mta.version();
        return fail(format!("{version} accepted mail and delivered none of it during {title}:\n{}", mta.log_tail()));
    }
    Ok(outcome)
}

/// A further burst with the kernel's counter attached, after the window of the other figures.
fn count_syscalls(mta: &mut dyn Mta, traffic: &mut dyn Traffic, shape: &ShapeArgs, title: &str) -> Result<f64> {
    let roots = mta.roots();
    if roots.is_empty() || shape.no_syscalls {
        return fail("not asked for");
    }
    let messages = (shape.sending.messages / SYSCALL_SHARE).clamp(*SYSCALL_MESSAGES.start(), *SYSCALL_MESSAGES.end());
    let count = SyscallCount::start(&roots)?;
    let outcome = send(mta, traffic, messages, &format!("{title} system calls"))?;
    Ok(count.finish()? as f64 / f64::from(outcome.delivered.max(1)))
}

fn figures(
    outcome: &Outcome,
    before: Usage,
    after: Usage,
    peak: Peak,
    syscalls: Option<f64>,
    no_server: bool,
    shape: &ShapeArgs,
) -> Figures {
    // Of a message that wasn't delivered the server bore a part only; the cost of all is shared by those that got through.
    let per_message = |from: u64, until: u64| {
        (!no_server && outcome.delivered > 0).then(|| until.saturating_sub(from) as f64 / f64::from(outcome.delivered))
    };
    let per_second = |count: u32, seconds: f64| if seconds > 0.0 { f64::from(count) / seconds } else { 0.0 };
    let cpu_us_per_message = per_message(before.cpu_us, after.cpu_us);
    let delivered_per_second = per_second(outcome.delivered, outcome.deliver_seconds);
    let connections = outcome.sink_peak_connections.filter(|count| *count > 0);
    let attempts = outcome.sink_refusals.map(|refusals| refusals + u64::from(outcome.delivered));
    Figures {
        cpu_us_per_message,
        cpu_us_per_megabyte: cpu_us_per_message.map(|cost| cost * 1e6 / f64::from(shape.sending.size)),
        baseline_cpu_us_per_megabyte: None,
        accepted_per_second: per_second(outcome.accepted, outcome.accept_seconds),
        delivered_per_second,
        connections_at_once: outcome.sink_peak_connections,
        delivered_per_second_per_connection: connections.map(|count| delivered_per_second / count as f64),
        attempts_per_message: attempts.map(|count| count as f64 / f64::from(outcome.delivered.max(1))),
        latency_ms: outcome.accept_latency,
        delivery_latency_ms: outcome.delivery_latency,
        syscalls_per_message: syscalls,
        context_switches_per_message: per_message(0, peak.context_switches),
        read_write_calls_per_message: per_message(before.read_write_calls, after.read_write_calls),
        disk_write_bytes_per_message: per_message(before.disk_write_octets, after.disk_write_octets),
        peak_rss_bytes: (!no_server).then_some(peak.rss_octets),
        messages: u64::from(outcome.accepted),
        delivered: u64::from(outcome.delivered),
        duplicates: outcome.duplicates,
        lost: u64::from(outcome.lost),
        traced_acknowledged: None,
        traced_synced_before: None,
        traced_violations: None,
    }
}

/// What was asked for, as a report says it.
pub fn asked(scenario: ScenarioName, shape: &ShapeArgs) -> Asked {
    Asked {
        scenario: scenario.name(),
        command: std::env::args().collect(),
        messages: shape.sending.messages,
        size: shape.sending.size,
        domains: shape.sending.domains,
        spread: shape.sending.spread,
        connections: shape.sending.connections,
        pipelining: shape.sending.pipelining,
        rate: shape.sending.rate,
        warm_up: shape.warm_up,
        tools: shape.tools,
    }
}

fn warn_of_tmpfs(filesystem: &str) {
    if matches!(filesystem, "tmpfs" | "ramfs") {
        eprintln!(
            "mailrace-perf: the work directory is on {filesystem}: a sync costs nothing there, the figures flatter"
        );
    }
}

/// Says what the traced samples showed; whether no 250 left too early.
pub fn durable(rounds: &[Round]) -> bool {
    for round in rounds {
        println!("{}: {}", round.mta, round.durability.words());
    }
    !rounds.iter().any(|round| round.durability.is_violated())
}

/// Names what was not as asked for; whether nothing was.
pub fn complain(rounds: &[Round]) -> bool {
    for round in rounds.iter().filter(|round| !round.is_complete()) {
        eprintln!(
            "mailrace-perf: {}: {} of {} accepted, {} lost, refused {:?}, failures {:?}{}",
            round.mta,
            round.figures.messages,
            round.requested,
            round.figures.lost,
            round.refused,
            round.failures,
            round.stop_failure.as_ref().map_or_else(String::new, |failure| format!(", {failure}")),
        );
    }
    rounds.iter().all(Round::is_complete)
}
