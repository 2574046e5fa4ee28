//! The scenarios as words of the command line: what each sets before the operator's own words are read.
//!
//! A scenario is nothing else, so whatever it sets can be replaced, and a result names the words it was made with.

use std::ffi::OsString;

use clap::error::ErrorKind;
use clap::{CommandFactory, FromArgMatches, ValueEnum};

use crate::cli::{Cli, Command, ScenarioName};

/// What `limit` sets: generator and server each on the first core, the sink on the second, all bodies in memory.
const LIMIT: &[&str] = &[
    "--messages=200000",
    "--pipelining=full",
    "--generator-cpu=0",
    "--server-cpu=0",
    "--shards=1",
    "--sink-cpu=1",
    "--body-memory=2000000000",
];

impl ScenarioName {
    /// Its name on the command line.
    pub fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// Whether it measures what no other server has.
    fn judges_rules(self) -> bool {
        matches!(self, Self::RuleChurn | Self::Gate | Self::RuleLatency | Self::ClusterLatency | Self::ClusterGate)
    }

    /// What it sets, as words of the command line.
    pub fn words(self) -> &'static [&'static str] {
        match self {
            ScenarioName::Canonical
            | ScenarioName::Latency
            | ScenarioName::RuleChurn
            | ScenarioName::Gate
            | ScenarioName::ClusterGate
            | ScenarioName::RuleLatency => &[],
            ScenarioName::ClusterLatency => &["--rule-calls=500", "--rule-rate=25"],
            ScenarioName::Large => &["--messages=3000", "--size=102400", "--baseline", "--warm-up=200"],
            ScenarioName::ManyDomains => &["--messages=100000", "--domains=100000"],
            ScenarioName::OneHotDomain => &["--domains=1", "--lanes=2"],
            ScenarioName::DistantPeers => &[
                "--messages=2000",
                "--warm-up=200",
                "--sink-line-ms=50",
                "--destination-connections=10",
                "--sink-connections=40",
                "--patience=60",
                "--no-syscalls",
            ],
            ScenarioName::Backlog => &[
                "--messages=1000000",
                "--size=1024",
                "--domains=1000",
                "--body-memory=4194304",
                "--time-limit=3600",
                "--patience=60",
            ],
            ScenarioName::Tls => &["--sink-tls"],
            ScenarioName::DeferralStorm => {
                &["--sink-tempfail=0.5", "--sink-refuse-at=rcpt", "--retry-seconds=2", "--patience=60", "--no-syscalls"]
            }
        }
    }
}

/// The command line with the words of the scenario in it, and in a comparison the opponent's as well.
pub fn parse(words: Vec<OsString>) -> Result<Cli, clap::Error> {
    let mut cli = parse_words(with_scenario(words.clone())?)?;
    if let Command::Compare(arguments) = &mut cli.command
        && let Some(more) = &arguments.opponent_with
    {
        let mut words = with_scenario(words)?;
        words.extend(more.split_ascii_whitespace().map(OsString::from));
        if let Command::Compare(opponent) = parse_words(words)?.command {
            arguments.opponent_shape = Some(Box::new(opponent.shape));
        }
    }
    Ok(cli)
}

/// Where a word is given twice, the later one holds.
fn parse_words(words: Vec<OsString>) -> Result<Cli, clap::Error> {
    let matches = Cli::command().args_override_self(true).try_get_matches_from(words)?;
    Cli::from_arg_matches(&matches)
}

fn with_scenario(mut words: Vec<OsString>) -> Result<Vec<OsString>, clap::Error> {
    let scenario = match &parse_words(words.clone())?.command {
        Command::Run(arguments) => arguments.scenario.words(),
        Command::Compare(arguments) if arguments.scenario.judges_rules() => {
            let text = format!(
                "scenario {} judges rules, which only mailrace has; `run {0}` measures it alone\n",
                arguments.scenario.name()
            );
            return Err(Cli::command().error(ErrorKind::InvalidValue, text));
        }
        Command::Compare(arguments) => arguments.scenario.words(),
        Command::Limit(_) => LIMIT,
        _ => &[],
    };
    // Behind the program and the subcommand, hence before every word of the operator.
    words.splice(2..2, scenario.iter().map(OsString::from));
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::ShapeArgs;

    fn shape(line: &str) -> (ShapeArgs, Option<Box<ShapeArgs>>) {
        let words = line.split(' ').map(OsString::from).collect();
        match parse(words).unwrap_or_else(|error| panic!("{line}: {error}")).command {
            Command::Run(arguments) => (arguments.shape, None),
            Command::Compare(arguments) => (arguments.shape, arguments.opponent_shape),
            _ => panic!("{line}: neither run nor compare"),
        }
    }

    #[test]
    fn each_scenario_is_a_valid_command_line() {
        for scenario in ScenarioName::value_variants() {
            shape(&format!("x run {}", scenario.name()));
            let compare = format!("x compare postfix --scenario {}", scenario.name());
            if scenario.judges_rules() {
                let words = compare.split(' ').map(OsString::from).collect();
                assert!(parse(words).is_err_and(|error| error.to_string().contains("judges rules")), "{compare}");
            } else {
                shape(&compare);
            }
        }
    }

    #[test]
    fn the_operator_has_the_last_word() {
        assert_eq!(shape("x run canonical").0.sending.size, 4_096);
        assert_eq!(shape("x run large").0.sending.size, 102_400);
        assert_eq!(shape("x run large --size 2000").0.sending.size, 2_000);
        assert_eq!(shape("x run --size 2000 large").0.sending.size, 2_000);
    }

    #[test]
    fn the_opponent_differs_in_what_was_said_of_it_alone() {
        let words: Vec<OsString> =
            ["x", "compare", "mailrace", "--scenario=one_hot_domain", "--opponent-with", "--lanes 1 --shards 1"]
                .map(OsString::from)
                .to_vec();
        let Command::Compare(arguments) = parse(words).unwrap().command else { panic!("no comparison") };
        let opponent = arguments.opponent_shape.unwrap();
        assert_eq!((arguments.shape.server.lanes, arguments.shape.server.shards), (Some(2), None));
        assert_eq!((opponent.server.lanes, opponent.server.shards), (Some(1), Some(1)));
        assert_eq!((arguments.shape.sending.domains, opponent.sending.domains), (1, 1));
    }
}
