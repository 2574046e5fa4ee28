//! The `mailrace` binary: control core and command line.

mod api;
mod auth;
mod certificate;
mod cli;
mod client;
mod cluster;
mod commands;
mod config;
mod control;
mod cores;
mod demo;
mod engine;
mod files;
#[cfg(test)]
mod fuzz_tests;
mod http;
mod inject;
mod json;
mod machine;
#[cfg(test)]
#[path = "../tests/fuzz/mutation.rs"]
mod mutation;
mod preflight;
mod report;
mod rules;
mod serve;
mod signals;
mod submit;
mod system;
mod systemd;
#[cfg(test)]
mod test_directory;
mod token;
mod topology;
mod users;

use clap::Parser;
use cli::{Cli, Command};
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Exit codes: 0 done, 1 refused, 2 usage (clap's own), 3 unreachable.
fn main() -> ExitCode {
    let cli = Cli::parse();
    match cli.command.unwrap_or(Command::Serve(cli.serve)) {
        Command::Serve(arguments) => serve::serve(&arguments),
        Command::CheckConfig { file } => commands::check_config(&file),
        Command::SystemdUnit => commands::systemd_unit(),
        Command::Inject(arguments) => inject::run(&arguments),
        Command::Token { place, action } => commands::token(&place, &action),
        Command::HashSecret { name } => commands::hash_secret(&name),
        Command::Client(command) => client::run(&command),
        Command::Demo(arguments) => demo::run(&arguments),
    }
}
