//! The command line: what can be asked, with which defaults.
//!
//! It decides nothing; [`crate::main`] turns what was parsed into calls.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub use self::sink::{SinkArgs, SinkProfileArgs};
use crate::dns::Hosts;
use crate::generator::{Load, Pipelining, Spread};
use crate::rules::RuleArgs;

mod sink;

/// Load harness for mail servers: generator, sink, sampler and side-by-side comparison.
#[derive(Parser)]
#[command(name = "mailrace-perf", version)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
pub enum Command {
    /// Measure one server in a scenario.
    Run(RunArgs),
    /// Measure mailrace and another server in alternation.
    Compare(CompareArgs),
    /// Measure delivery alone, from memory, on one core, against our own client.
    Limit(LimitArgs),
    /// Make a page of one result, or of several side by side.
    Report(ReportArgs),
    /// Print a figure of a result, for scripts.
    Figure(FigureArgs),
    /// Send load to a server that is already there.
    Generate(GenerateArgs),
    /// Accept mail, count it, throw it away.
    Sink(SinkArgs),
    /// Become another program that ends when we end.
    #[command(hide = true)]
    Guard {
        #[arg(long)]
        parent: u32,
        #[arg(long)]
        cpu: Option<u32>,
        #[arg(long)]
        group: Option<PathBuf>,
        #[arg(last = true, required = true)]
        program: Vec<OsString>,
    },
    /// Copy octets from a socket to a file, sync it, copy them to a socket: the least that a server could do.
    #[command(hide = true)]
    Copy {
        #[arg(long)]
        to: String,
        #[arg(long)]
        file: PathBuf,
        #[arg(long)]
        size: u32,
        #[arg(long)]
        batch: u32,
    },
    /// Wait for the end of standard input, then stop a private Postfix and remove its directory.
    #[command(hide = true)]
    StopPostfix {
        #[arg(long)]
        config: PathBuf,
    },
}

/// What is sent, in which way.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum ScenarioName {
    /// 20,000 messages of 4 KiB to 100 domains over 50 connections that stay open.
    Canonical,
    /// Messages of 100 KiB.
    Large,
    /// 100,000 destination domains, a message for each.
    ManyDomains,
    /// Everything to one domain, on two lanes.
    OneHotDomain,
    /// A next hop 50 ms away, each way, that takes ten connections.
    DistantPeers,
    /// A million messages behind a pause, then its release.
    Backlog,
    /// Answers at 50 and 80 percent of the capacity, which is measured first.
    Latency,
    /// As canonical, with STARTTLS between the server and the next hop.
    Tls,
    /// Half of the messages are answered with 4xx at each attempt, until all have got through.
    DeferralStorm,
    /// `canonical` with and without 100 rule changes a second beside it, in alternation.
    RuleChurn,
    /// Every kind of rule over mail that is on its way: what is completed after the rule's answer, to be zero.
    Gate,
    /// From rule call to answer, idle and with the shards saturated by `canonical`.
    RuleLatency,
    /// From rule call to answer where several engines share their rules, all idle and all loaded.
    ClusterLatency,
    /// As gate, with the mail on one engine and the rule made on another.
    ClusterGate,
}

/// The server under test.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum MtaName {
    /// The engine beside this program, or the one named by --mailrace.
    Mailrace,
    /// A private Postfix instance.
    Postfix,
    /// A private Exim instance.
    Exim,
    /// A private OpenSMTPD instance.
    Opensmtpd,
    /// A server that runs already and delivers to --sink-listen: see --target.
    External,
    /// No server: the generator talks to the sink. The harness's own ceiling.
    None,
}

/// What mailrace may be compared with.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum OpponentName {
    /// A private Postfix instance, tuned for bulk.
    Postfix,
    /// A private Exim instance, tuned for bulk.
    Exim,
    /// A private OpenSMTPD instance, tuned for bulk.
    Opensmtpd,
    /// A server that runs already and delivers to --sink-listen: see --target.
    External,
    /// mailrace itself, another build or otherwise set: see --opponent-with.
    Mailrace,
}

/// Whose generator and sink are used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ToolsName {
    /// Our own.
    Perf,
    /// Postfix's smtp-source and smtp-sink.
    Postfix,
}

/// When mailrace answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum SyncName {
    /// After the sync.
    Always,
    /// Before it, once a second: not durable, for what it costs and to see that the proof of durability can fail.
    Interval,
}

impl SyncName {
    /// As its configuration has it.
    pub fn word(self) -> &'static str {
        match self {
            SyncName::Always => "always",
            SyncName::Interval => "interval",
        }
    }
}

/// What a generator sends.
#[derive(Args, Clone)]
pub struct SendingArgs {
    /// Messages (in each measured round)
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    pub messages: u32,
    /// Octets of each message
    #[arg(long, default_value_t = 4_096, value_parser = clap::value_parser!(u32).range(512..=50_000_000))]
    pub size: u32,
    /// Destination domains
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub domains: u32,
    /// How the domain of a message is chosen
    #[arg(long, value_enum, default_value = "round-robin")]
    pub spread: Spread,
    /// Connections of the generator
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub connections: u32,
    /// How much the generator sends before it waits
    #[arg(long, value_enum, default_value = "envelope")]
    pub pipelining: Pipelining,
    /// Open loop: messages per second (default: as fast as the server answers)
    #[arg(long, value_parser = positive)]
    pub rate: Option<f64>,
    /// Close a generator connection after so many messages (0: never)
    #[arg(long, default_value_t = 0)]
    pub messages_per_connection: u64,
    /// The core to which the generator is confined
    #[arg(long)]
    pub generator_cpu: Option<u32>,
    /// Seconds after which sending is given up
    #[arg(long, default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub time_limit: u64,
    /// Write the result here; of a scenario also a page that shows it, with .html in the place of the ending
    #[arg(long)]
    pub json: Option<PathBuf>,
}

/// What a round is made of.
#[derive(Args, Clone)]
pub struct ShapeArgs {
    #[command(flatten)]
    pub sending: SendingArgs,
    /// Messages sent before the measurement begins
    #[arg(long, default_value_t = 1_000)]
    pub warm_up: u32,
    /// Seconds without a delivery after which a round ends and counts the rest as lost
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub patience: u64,
    /// Whose generator and sink
    #[arg(long, value_enum, default_value = "perf")]
    pub tools: ToolsName,
    /// Count no system calls (otherwise an extra burst is sent for them after the measurement)
    #[arg(long)]
    pub no_syscalls: bool,
    /// Take no proof of durability (otherwise a short sample is sent with the server's system calls traced)
    #[arg(long)]
    pub no_durability: bool,
    /// Where temporary directories are made; should be a disk, not tmpfs
    #[arg(long, default_value = "/tmp")]
    pub work_dir: PathBuf,
    /// Keep the temporary directories
    #[arg(long)]
    pub keep: bool,
    /// After each round copy as many octets through two sockets and a synced file, and report what that costs
    #[arg(long)]
    pub baseline: bool,
    /// How the server is set
    #[command(flatten)]
    pub server: ServerArgs,
    /// What the sink does
    #[command(flatten)]
    pub sink: SinkProfileArgs,
}

/// How the server under test is set, whichever it is; what one doesn't know is left out of its configuration.
#[derive(Args, Clone)]
pub struct ServerArgs {
    /// The mailrace program (default: beside this one)
    #[arg(long)]
    pub mailrace: Option<PathBuf>,
    /// A file whose text is added to the configuration written for mailrace
    #[arg(long)]
    pub mailrace_config: Option<PathBuf>,
    /// Postfix parameters in place of our own, NAME=VALUE, repeatable
    #[arg(long = "postfix-set", value_name = "NAME=VALUE")]
    pub postfix_set: Vec<String>,
    /// external: where the server takes mail
    #[arg(long)]
    pub target: Option<SocketAddr>,
    /// external: a process of the server, for its CPU time and memory; with all that descend from it, repeatable
    #[arg(long)]
    pub server_pid: Vec<u32>,
    /// external: the server's control group (version 2), such as /sys/fs/cgroup/system.slice/postfix.service
    #[arg(long)]
    pub server_group: Option<PathBuf>,
    /// mailrace: find mail hosts by DNS, in a name server where each domain has one, and each is the sink, at port 25
    #[arg(long, value_enum, value_name = "HOSTS")]
    pub dns: Option<Hosts>,
    /// The Exim program
    #[arg(long, default_value = "/usr/sbin/exim4")]
    pub exim: PathBuf,
    /// The OpenSMTPD program
    #[arg(long, default_value = "/usr/sbin/smtpd")]
    pub opensmtpd: PathBuf,
    /// Connections that the server may hold to the next hop at once (default: its own, Postfix 50)
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub destination_connections: Option<u32>,
    /// Seconds after which the server tries again what was deferred (default: its own schedule)
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub retry_seconds: Option<u32>,
    /// mailrace: cores on which the first domain is served ([[limit]] lanes)
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub lanes: Option<u32>,
    /// The core to which the server is confined (default: all; Postfix always)
    #[arg(long)]
    pub server_cpu: Option<u32>,
    /// mailrace: octets of bodies kept in memory (spool.body_memory_bytes)
    #[arg(long)]
    pub body_memory: Option<u64>,
    /// mailrace: when a message is answered (spool.sync)
    #[arg(long, value_enum, default_value = "always")]
    pub sync: SyncName,
    /// mailrace: shards (server.shards)
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub shards: Option<u32>,
}

#[derive(Args)]
pub struct RunArgs {
    /// What is sent
    #[arg(value_enum)]
    pub scenario: ScenarioName,
    /// The server under test
    #[arg(long, value_enum, default_value = "mailrace")]
    pub mta: MtaName,
    /// How often
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub rounds: u32,
    /// latency: the loads, in percent of the capacity
    #[arg(long, default_value = "50,80", value_delimiter = ',', value_parser = positive)]
    pub loads: Vec<f64>,
    /// latency: seconds of each load
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=3_600))]
    pub seconds: u32,
    #[command(flatten)]
    pub shape: ShapeArgs,
    #[command(flatten)]
    pub rules: RuleArgs,
}

#[derive(Args)]
pub struct CompareArgs {
    /// The other server
    #[arg(value_enum)]
    pub opponent: OpponentName,
    /// What is sent
    #[arg(long, value_enum, default_value = "canonical")]
    pub scenario: ScenarioName,
    /// How often each is measured, in alternation
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub rounds: u32,
    /// Words of the command line that hold for the opponent's rounds only, such as "--shards 1"
    #[arg(long, value_name = "WORDS", allow_hyphen_values = true)]
    pub opponent_with: Option<String>,
    #[command(flatten)]
    pub shape: ShapeArgs,
    /// The shape of the opponent's rounds where it differs.
    #[arg(skip)]
    pub opponent_shape: Option<Box<ShapeArgs>>,
}

#[derive(Args)]
pub struct LimitArgs {
    /// How often client and server are measured, in alternation
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub rounds: u32,
    #[command(flatten)]
    pub shape: ShapeArgs,
}

#[derive(Args)]
pub struct ReportArgs {
    /// What --json has written
    #[arg(required = true)]
    pub results: Vec<PathBuf>,
    /// Where the page is written
    #[arg(long)]
    pub html: PathBuf,
}

#[derive(Args)]
pub struct FigureArgs {
    /// What --json has written
    pub result: PathBuf,
    /// Where the figure stands: keys, and numbers of list items from 0, joined by dots
    pub key: String,
}

#[derive(Args)]
pub struct GenerateArgs {
    /// The server
    #[arg(long)]
    pub target: SocketAddr,
    /// Number that marks the messages of this run
    #[arg(long, default_value_t = 1)]
    pub run: u32,
    #[command(flatten)]
    pub sending: SendingArgs,
}

impl SendingArgs {
    /// The load this describes, for `messages` messages of run `run` to `target`.
    pub fn load(&self, target: SocketAddr, run: u32, messages: u32) -> Load {
        Load {
            target,
            run,
            messages,
            size: self.size as usize,
            domains: self.domains,
            spread: self.spread,
            connections: self.connections as usize,
            messages_per_connection: self.messages_per_connection,
            pipelining: self.pipelining,
            cpu: self.generator_cpu,
            rate: self.rate,
            time_limit: Duration::from_secs(self.time_limit),
            reply_timeout: Duration::from_secs(self.time_limit.min(60)),
        }
    }
}

/// A number above 0.
pub fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() && number > 0.0 => Ok(number),
        _ => Err("a rate is a number above 0".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
