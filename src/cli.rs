//! The command line: what can be typed. Says nothing of what it does.

use crate::client::arguments::ClientCommand;
use crate::config::Overrides;
use crate::token::Scope;
use clap::{Args, Parser, Subcommand};
use std::net::SocketAddr;
use std::path::PathBuf;

/// Outbound mail engine with delivery control by REST. Without a command: serve.
#[derive(Debug, Parser)]
#[command(name = "mailrace", version, args_conflicts_with_subcommands = true)]
pub struct Cli {
    #[command(flatten)]
    pub serve: ServeArguments,
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What to do.
#[derive(Debug, Subcommand)]
#[expect(clippy::large_enum_variant, reason = "a process makes one of it")]
pub enum Command {
    /// Run the engine (the default)
    Serve(ServeArguments),
    /// Read a configuration file and report every error with its line
    CheckConfig {
        /// TOML file
        file: PathBuf,
    },
    /// Print a hardened systemd unit for this binary
    SystemdUnit,
    /// Hand in a message from stdin by SMTP, sendmail-like
    Inject(InjectArguments),
    /// Add, list and revoke API tokens
    Token {
        #[command(flatten)]
        place: PlaceArguments,
        #[command(subcommand)]
        action: TokenAction,
    },
    /// Print a line for smtp.users_file; the secret is read from stdin
    HashSecret {
        /// Name of the user
        name: String,
    },
    #[command(flatten)]
    Client(ClientCommand),
    /// Watch delivery being controlled: an engine, a destination and a campaign, all on this host
    Demo(DemoArguments),
}

/// Arguments of `demo`.
#[derive(Args, Debug, Default)]
pub struct DemoArguments {
    /// End after the last step, instead of going on until Ctrl-C
    #[arg(long, visible_alias = "steps-only")]
    pub exit: bool,
}

/// Arguments of `serve`.
#[derive(Args, Debug, Default)]
pub struct ServeArguments {
    #[command(flatten)]
    pub place: PlaceArguments,
    /// Listen here for SMTP, instead of smtp.listen
    #[arg(long, value_name = "ADDR")]
    pub smtp: Option<SocketAddr>,
    /// Listen here for REST, instead of api.listen
    #[arg(long, value_name = "ADDR")]
    pub api: Option<SocketAddr>,
}

impl ServeArguments {
    /// What they put in the file's place.
    #[must_use]
    pub fn overrides(&self) -> Overrides {
        Overrides { data_dir: self.place.data_dir.clone(), smtp: self.smtp, api: self.api }
    }
}

/// Which installation.
#[derive(Args, Debug, Default)]
pub struct PlaceArguments {
    /// Configuration file; without one the defaults
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Data directory, instead of server.data_dir
    #[arg(long, global = true, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
}

/// Arguments of `token`.
#[derive(Debug, Subcommand)]
pub enum TokenAction {
    /// Make a token and print it once
    Add {
        /// Its name, as rules and the audit trail will show it
        name: String,
        /// What it may do: look; hand in mail; look and control; everything
        #[arg(long, value_enum)]
        scope: Scope,
    },
    /// List the valid tokens
    List,
    /// Make a token worthless
    Revoke {
        /// Its name
        name: String,
    },
}

/// Arguments of `inject`. The single letters are sendmail's.
#[derive(Args, Debug)]
pub struct InjectArguments {
    /// Hand in here
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:2525")]
    pub smtp: SocketAddr,
    /// Sender; empty or <> for none. Default: user@host
    #[arg(short = 'f', long = "from", value_name = "ADDRESS")]
    pub from: Option<String>,
    /// Take recipients also from To, Cc and Bcc, and remove Bcc
    #[arg(short = 't', long = "take-recipients")]
    pub take_recipients: bool,
    /// Ignored: a line with a single dot never ends the message
    #[arg(short = 'i', hide = true)]
    pub ignore_dots: bool,
    /// Ignored: -oi and its like
    #[arg(short = 'o', hide = true, value_name = "OPTION")]
    pub options: Vec<String>,
    /// Print the server's answer
    #[arg(short = 'v', long)]
    pub verbose: bool,
    /// Recipients
    #[arg(value_name = "RECIPIENT")]
    pub recipients: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::Cli;
    use clap::{CommandFactory, Parser};

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_can_be_typed() {
        for (line, valid) in [
            ("mailrace", true),
            ("mailrace --config a.toml --data-dir d --smtp 127.0.0.1:1 --api [::1]:2", true),
            ("mailrace serve --config a.toml", true),
            ("mailrace --smtp localhost", false),
            ("mailrace check-config", false),
            ("mailrace token add ci --scope inject --data-dir d", true),
            ("mailrace token --data-dir d list", true),
            ("mailrace token add ci", false),
            ("mailrace token add ci --scope root", false),
            ("mailrace inject -t -i -oi -f a@b.example", true),
            ("mailrace inject -f a@b.example -- x@y.example", true),
            ("mailrace pause", false),
            ("mailrace queue --endpoint http://127.0.0.1:1 --json", true),
            ("mailrace demo --exit", true),
            ("mailrace demo --steps-only", true),
        ] {
            assert_eq!(Cli::try_parse_from(line.split(' ')).is_ok(), valid, "{line}");
        }
    }
}
