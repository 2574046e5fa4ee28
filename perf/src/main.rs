//! The `mailrace-perf` binary: a load harness that knows mail servers only by their ports and files.
//!
//! It must never import anything of the engine: an independent judge must not share its parser's bugs.

#![allow(clippy::disallowed_methods, reason = "a load harness reads clocks and waits")]

mod baseline;
mod cli;
mod clock;
mod dns;
mod error;
mod files;
mod generator;
mod guard;
mod html;
mod latency;
mod marker;
mod mta;
mod numbers;
mod pin;
mod progress;
mod proof;
mod report;
mod rules;
mod sampler;
mod scenario;
mod sink;
mod stop;
mod timeline;
mod traffic;

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread::sleep;
use std::time::Duration;

use crate::cli::{Command, FigureArgs, GenerateArgs, SinkArgs};
use crate::error::{Context, Result};
use crate::generator::tally::Live;
use crate::progress::{Progress, Shown};

fn main() -> ExitCode {
    files::take_all();
    let cli = scenario::preset::parse(std::env::args_os().collect()).unwrap_or_else(|wrong| wrong.exit());
    let done = match cli.command {
        Command::Run(arguments) => scenario::run(&arguments),
        Command::Compare(arguments) => scenario::compare(&arguments),
        Command::Limit(arguments) => scenario::limit::run(&arguments),
        Command::Report(arguments) => html::run(&arguments).map(|()| ExitCode::SUCCESS),
        Command::Figure(arguments) => figure(&arguments),
        Command::Generate(arguments) => generate(&arguments),
        Command::Sink(arguments) => sink(&arguments),
        Command::Guard { parent, cpu, group, program } => {
            guard::become_program(parent, cpu, group.as_deref(), &program[0], &program[1..]).map(|()| ExitCode::SUCCESS)
        }
        Command::Copy { to, file, size, batch } => baseline::copy(&to, &file, size, batch).map(|()| ExitCode::SUCCESS),
        Command::StopPostfix { config } => mta::postfix::stop_after_parent(&config).map(|()| ExitCode::SUCCESS),
    };
    done.unwrap_or_else(|failure| {
        eprintln!("mailrace-perf: {failure}");
        ExitCode::FAILURE
    })
}

fn sink(arguments: &SinkArgs) -> Result<ExitCode> {
    stop::watch().context("watch for signals")?;
    arguments.cpu.map_or(Ok(()), pin::to)?;
    let listening = sink::server::Server::bind(
        arguments.listen,
        arguments.profile.profile(),
        arguments.control,
        arguments.shared_port,
    );
    let mut server = listening.context(format_args!("listen on {}", arguments.listen))?;
    let mut output = std::io::stdout();
    writeln!(output, "listening {}", server.address().context("read our address")?).context("write")?;
    server.serve().context("serve")?;
    if !arguments.control {
        writeln!(output, "{}", server.report_line()).context("write")?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints what stands at a place of a result. What isn't there, or is null, fails.
fn figure(arguments: &FigureArgs) -> Result<ExitCode> {
    let path = &arguments.result;
    let text = std::fs::read(path).context(format_args!("read {}", path.display()))?;
    let result: serde_json::Value =
        serde_json::from_slice(&text).context(format_args!("understand {}", path.display()))?;
    match result.pointer(&format!("/{}", arguments.key.replace('.', "/"))) {
        None | Some(serde_json::Value::Null) => error::fail(format!("{} has no {}", path.display(), arguments.key)),
        Some(serde_json::Value::String(text)) => {
            println!("{text}");
            Ok(ExitCode::SUCCESS)
        }
        Some(value) => {
            println!("{value}");
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn generate(arguments: &GenerateArgs) -> Result<ExitCode> {
    stop::watch().context("watch for signals")?;
    let load = arguments.sending.load(arguments.target, arguments.run, arguments.sending.messages);
    let messages = load.messages;
    let live = Arc::new(Live::default());
    let shared = Arc::clone(&live);
    let sender = std::thread::spawn(move || generator::drive::run(load, shared));
    let mut progress = Progress::start("generate", messages, false);
    while !sender.is_finished() {
        sleep(Duration::from_millis(50));
        progress.show(&Shown { accepted: live.accepted(), delivered: None, waits_ms: Some(live.waits_ms()) });
    }
    progress.finish();
    let tally = sender.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)).context("generate load")?;
    let summary = tally.summary();
    let text = serde_json::to_string_pretty(&summary).context("write the result")?;
    println!("{text}");
    if let Some(path) = &arguments.sending.json {
        std::fs::write(path, text + "\n").context(format_args!("write {}", path.display()))?;
    }
    Ok(if summary.accepted == messages { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
