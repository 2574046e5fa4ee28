//! The command line: what can be asked, with which defaults.
//!
//! It decides nothing; [`crate::main`] turns what was parsed into calls.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::generator::{Load, Pipelining, Spread};
use crate::rules::RuleArgs;
use crate::sink::profile::{Profile, RefusalStage};

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
    /// Send load to a server that is already there.
    Generate(GenerateArgs),
    /// Accept mail, count it, throw it away.
    Sink(SinkArgs),
    /// Become another program that ends when we end.
    #[command(hide = true)]
    Guard {
        #[arg(long)]
        parent: u32,
        #[arg(last = true, required = true)]
        program: Vec<OsString>,
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
pub enum ScenarioName {
    /// 20,000 messages of 4 KiB to 100 domains over 50 connections that stay open.
    Canonical,
    /// `canonical` with and without 100 rule changes a second beside it, in alternation.
    #[value(name = "rule_churn")]
    RuleChurn,
    /// Every kind of rule over mail that is on its way: what is completed after the rule's answer, to be zero.
    Gate,
    /// From rule call to answer, idle and with the shards saturated by `canonical`.
    #[value(name = "rule_latency")]
    RuleLatency,
}

/// The server under test.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum MtaName {
    /// The engine beside this program, or the one named by --mailrace.
    Mailrace,
    /// A private Postfix instance.
    Postfix,
    /// No server: the generator talks to the sink. The harness's own ceiling.
    None,
}

/// What another server may be compared with mailrace.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum OpponentName {
    /// A private Postfix instance, tuned for bulk.
    Postfix,
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
    /// Seconds after which sending is given up
    #[arg(long, default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub time_limit: u64,
    /// Write the result here
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
    /// Where temporary directories are made; should be a disk, not tmpfs
    #[arg(long, default_value = "/tmp")]
    pub work_dir: PathBuf,
    /// Keep the temporary directories
    #[arg(long)]
    pub keep: bool,
    /// The mailrace program (default: beside this one)
    #[arg(long)]
    pub mailrace: Option<PathBuf>,
    /// A file whose text is added to the configuration written for mailrace
    #[arg(long)]
    pub mailrace_config: Option<PathBuf>,
    /// Postfix parameters in place of our own, NAME=VALUE, repeatable
    #[arg(long = "postfix-set", value_name = "NAME=VALUE")]
    pub postfix_set: Vec<String>,
    /// What the sink does
    #[command(flatten)]
    pub sink: SinkProfileArgs,
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
    #[command(flatten)]
    pub shape: ShapeArgs,
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

/// How a sink behaves.
#[derive(Args, Clone)]
pub struct SinkProfileArgs {
    /// The sink offers no PIPELINING
    #[arg(long)]
    pub sink_no_pipelining: bool,
    /// The sink offers STARTTLS
    #[arg(long)]
    pub sink_tls: bool,
    /// The sink offers CHUNKING
    #[arg(long)]
    pub sink_chunking: bool,
    /// Milliseconds that the sink withholds each reply to an end of data
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=600_000))]
    pub sink_delay_ms: u64,
    /// Share of messages that the sink answers with 451
    #[arg(long, default_value_t = 0.0, value_parser = share)]
    pub sink_tempfail: f64,
    /// Share of messages that the sink answers with 550
    #[arg(long, default_value_t = 0.0, value_parser = share)]
    pub sink_permfail: f64,
    /// The command whose reply carries a refusal
    #[arg(long, value_enum, default_value = "dot")]
    pub sink_refuse_at: RefusalStage,
    /// Picks the refused messages
    #[arg(long, default_value_t = 1)]
    pub sink_seed: u64,
    /// Connections that the sink serves at once
    #[arg(long, default_value_t = 10_000)]
    pub sink_connections: u32,
    /// The sink closes a connection after so many messages (0: never)
    #[arg(long, default_value_t = 0)]
    pub sink_messages_per_connection: u64,
}

#[derive(Args)]
pub struct SinkArgs {
    /// Address and port; port 0 lets the kernel choose
    #[arg(long, default_value = "127.0.0.1:0")]
    pub listen: SocketAddr,
    /// Take commands on standard input (count, report, reset RUN CAPACITY); its end ends the sink
    #[arg(long)]
    pub control: bool,
    #[command(flatten)]
    pub profile: SinkProfileArgs,
}

impl SinkProfileArgs {
    /// The profile asked for.
    pub fn profile(&self) -> Profile {
        Profile {
            pipelining: !self.sink_no_pipelining,
            tls: self.sink_tls,
            chunking: self.sink_chunking,
            delay: Duration::from_millis(self.sink_delay_ms),
            tempfail_share: self.sink_tempfail,
            permfail_share: self.sink_permfail,
            stage: self.sink_refuse_at,
            seed: self.sink_seed,
            max_connections: self.sink_connections as usize,
            messages_per_connection: self.sink_messages_per_connection,
            ..Profile::default()
        }
    }

    /// The same as arguments, for the sink's own process.
    pub fn arguments(&self) -> Vec<String> {
        let stage =
            self.sink_refuse_at.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned());
        let mut arguments = vec![
            format!("--sink-delay-ms={}", self.sink_delay_ms),
            format!("--sink-tempfail={}", self.sink_tempfail),
            format!("--sink-permfail={}", self.sink_permfail),
            format!("--sink-refuse-at={stage}"),
            format!("--sink-seed={}", self.sink_seed),
            format!("--sink-connections={}", self.sink_connections),
            format!("--sink-messages-per-connection={}", self.sink_messages_per_connection),
        ];
        let flags = [
            (self.sink_no_pipelining, "--sink-no-pipelining"),
            (self.sink_tls, "--sink-tls"),
            (self.sink_chunking, "--sink-chunking"),
        ];
        arguments.extend(flags.iter().filter(|(on, _)| *on).map(|(_, name)| (*name).to_owned()));
        arguments
    }
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
            rate: self.rate,
            time_limit: Duration::from_secs(self.time_limit),
            reply_timeout: Duration::from_secs(self.time_limit.min(60)),
        }
    }
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err("a share is a number from 0 to 1".to_owned()),
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

    #[test]
    fn a_sink_process_gets_the_profile_that_was_asked_for() {
        let asked = [
            "x",
            "sink",
            "--sink-chunking",
            "--sink-tls",
            "--sink-no-pipelining",
            "--sink-tempfail=0.25",
            "--sink-refuse-at=rcpt",
            "--sink-seed=9",
        ];
        let Command::Sink(asked) = Cli::parse_from(asked).command else { panic!("not a sink") };
        let again = ["x".to_owned(), "sink".to_owned()].into_iter().chain(asked.profile.arguments());
        let Command::Sink(again) = Cli::parse_from(again).command else { panic!("not a sink") };
        assert_eq!(format!("{:?}", asked.profile.profile()), format!("{:?}", again.profile.profile()));
    }
}
