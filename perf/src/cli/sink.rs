//! The part of the command line that says how a sink behaves.

use std::net::SocketAddr;
use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::sink::profile::{Profile, RefusalStage};

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
    /// Milliseconds that the line to the sink takes, each way: octets sent together arrive together
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=60_000))]
    pub sink_line_ms: u64,
    /// Share of messages at which the sink closes the connection without a reply
    #[arg(long, default_value_t = 0.0, value_parser = share)]
    pub sink_drop: f64,
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
    /// Processes of the sink (default: what the limit of open files makes necessary)
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub sink_processes: Option<u32>,
    /// Where the sink listens (default: a free port of 127.0.0.1)
    #[arg(long)]
    pub sink_listen: Option<SocketAddr>,
    /// The core to which the sink's process is confined
    #[arg(long)]
    pub sink_cpu: Option<u32>,
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
    /// Other sinks may listen at the same port
    #[arg(long)]
    pub shared_port: bool,
    /// The core to which it is confined
    #[arg(long)]
    pub cpu: Option<u32>,
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
            line: Duration::from_millis(self.sink_line_ms),
            drop_share: self.sink_drop,
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
            format!("--sink-line-ms={}", self.sink_line_ms),
            format!("--sink-drop={}", self.sink_drop),
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

fn share(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err("a share is a number from 0 to 1".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use crate::cli::{Cli, Command};

    #[test]
    fn a_sink_process_gets_the_profile_that_was_asked_for() {
        let asked = "x sink --sink-chunking --sink-tls --sink-no-pipelining --sink-tempfail=0.25 --sink-refuse-at=rcpt --sink-seed=9 --sink-line-ms=5 \
                     --sink-drop=0.5";
        let asked = asked.split_ascii_whitespace();
        let Command::Sink(asked) = Cli::parse_from(asked).command else { panic!("not a sink") };
        let again = ["x".to_owned(), "sink".to_owned()].into_iter().chain(asked.profile.arguments());
        let Command::Sink(again) = Cli::parse_from(again).command else { panic!("not a sink") };
        assert_eq!(format!("{:?}", asked.profile.profile()), format!("{:?}", again.profile.profile()));
    }
}
