//! `mailrace demo`: an engine, a destination and a campaign on this host, and delivery control by REST while one
//! watches. Everything is real but the subscribers; nothing leaves the loopback, and nothing stays behind.

mod campaign;
mod engine;
mod script;
mod sink;
mod stage;

use crate::cli::DemoArguments;
use crate::client::http::{Failure, Server};
use crate::client::request::Request;
use crate::signals::{self, Signal};
use crate::{report, system};
use crossbeam::channel::Receiver;
use engine::{Engine, Plan};
use mailrace_shards::runtime::clock;
use mailrace_shards::time::Instant;
use serde_json::Value;
use stage::{Figures, Stage};
use std::process::ExitCode;
use std::time::Duration;

/// Where the campaign goes. Names of RFC 2606; no resolver is asked for them.
pub const DOMAINS: &[&str] = &["alpha.example", "beta.example", "gamma.example", "delta.example"];

/// Messages a second to each of them, so that one can watch.
const RATE: u32 = 40;

/// How long the engine may take to start.
const START_WITHIN: Duration = Duration::from_secs(30);

/// How often the figures are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Why the demonstration ends before its end.
#[derive(Debug)]
pub enum End {
    /// The operator wants so, or the reader of stdout has gone.
    Asked,
    /// Something failed.
    Failed(String),
}

impl From<Failure> for End {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Refused(text) | Failure::Usage(text) | Failure::Unreachable(text) => Self::Failed(text),
        }
    }
}

impl From<String> for End {
    fn from(text: String) -> Self {
        Self::Failed(text)
    }
}

impl From<std::io::Error> for End {
    /// Of stdout.
    fn from(error: std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::BrokenPipe { Self::Asked } else { Self::Failed(error.to_string()) }
    }
}

/// Runs it.
#[must_use]
pub fn run(arguments: &DemoArguments) -> ExitCode {
    match show(arguments) {
        Ok(()) | Err(End::Asked) => ExitCode::SUCCESS,
        Err(End::Failed(text)) => {
            report::error(&text);
            ExitCode::FAILURE
        }
    }
}

fn show(arguments: &DemoArguments) -> Result<(), End> {
    let signals = signals::listen().map_err(|error| format!("signals cannot be received: {error}"))?;
    system::keep_files_private();
    let (sink, arrivals) = sink::start().map_err(|error| format!("the destination cannot listen: {error}"))?;
    let mut stage = Stage::new(DOMAINS, arrivals);
    stage.say("Starting an engine, and a destination that takes everything, both on 127.0.0.1 ...")?;
    let engine = Engine::start(&Plan { sink, domains: DOMAINS, rate: RATE })
        .map_err(|error| format!("the engine cannot be started: {error}"))?;
    let mut demo = Demo { signals, stage, engine, server: Server::new("http://127.0.0.1", None) };
    let start = clock::now().instant;
    demo.server = loop {
        if let Some(server) = demo.engine.ready() {
            break server;
        }
        demo.wait(LOOK_EVERY)?;
        if clock::now().instant.since(start) > START_WITHIN {
            return Err(End::Failed(format!("the engine is not ready within {} s", START_WITHIN.as_secs())));
        }
    };
    script::steps(&mut demo)?;
    if arguments.exit { Ok(()) } else { script::go_on(&mut demo) }
}

/// Everything that runs.
pub struct Demo {
    signals: Receiver<Signal>,
    stage: Stage,
    engine: Engine,
    server: Server,
}

impl Demo {
    /// Words.
    fn say(&mut self, text: &str) -> Result<(), End> {
        Ok(self.stage.say(text)?)
    }

    /// Lets time pass. A signal ends it, and so does the end of the engine.
    fn wait(&mut self, time: Duration) -> Result<(), End> {
        if self.signals.recv_timeout(time).is_ok() {
            return Err(End::Asked);
        }
        self.engine.ended().map_or(Ok(()), |why| Err(End::Failed(why)))
    }

    /// Shows the figures until `ended` says so, or `most` has passed.
    fn watch(&mut self, most: Duration, mut ended: impl FnMut(&Figures) -> bool) -> Result<(), End> {
        let start: Instant = clock::now().instant;
        loop {
            let figures = self.stage.look(&self.server)?;
            self.stage.draw(&figures)?;
            if ended(&figures) || clock::now().instant.since(start) >= most {
                return Ok(());
            }
            self.wait(LOOK_EVERY)?;
        }
    }

    /// Shows the figures for a while.
    fn watch_for(&mut self, seconds: u64) -> Result<(), End> {
        self.watch(Duration::from_secs(seconds), |_| false)
    }

    /// A call: the line that does it, and what came of it.
    fn call(&mut self, request: &Request) -> Result<Value, End> {
        self.say(&format!("\n$ {}", curl(&self.server, request)))?;
        let answer = self.server.ask(request)?;
        self.say(&format!("{}\n", String::from_utf8_lossy(&answer).trim_end()))?;
        serde_json::from_slice(&answer).map_err(|error| End::Failed(format!("the answer is no JSON: {error}")))
    }
}

/// The request as a line for a shell.
fn curl(server: &Server, request: &Request) -> String {
    let mut line = format!("curl -sS -X {}", request.method.as_str());
    if let Some(token) = &server.token {
        line += &format!(" -H {}", quoted(&format!("Authorization: Bearer {token}")));
    }
    if let Some(body) = &request.body {
        line += &format!(" -H 'Content-Type: application/json' -d {}", quoted(&body.to_string()));
    }
    line + &format!(" {}", quoted(&format!("{}{}", server.endpoint, request.target())))
}

/// As one word of a POSIX shell.
fn quoted(text: &str) -> String {
    let plain = |octet: u8| octet.is_ascii_alphanumeric() || b"-._~/:%=+@,".contains(&octet);
    if !text.is_empty() && text.bytes().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

/// Holds this thread up while the engine ends, when there is nothing else to do.
#[expect(clippy::disallowed_methods, reason = "there is no task here that this could hold up")]
fn pause(milliseconds: u64) {
    std::thread::sleep(Duration::from_millis(milliseconds));
}

#[cfg(test)]
mod tests {
    use super::{curl, quoted};
    use crate::client::http::Server;
    use crate::client::request::{Method, Request};
    use serde_json::json;

    #[test]
    fn calls_are_lines_for_a_shell() {
        let server = Server::new("http://127.0.0.1:1", Some("mailrace_x-y_z".into()));
        let request = Request::with(Method::Post, "/v1/pauses", json!({ "tag": "it's" }));
        assert_eq!(
            curl(&server, &request),
            r#"curl -sS -X POST -H 'Authorization: Bearer mailrace_x-y_z' -H 'Content-Type: application/json' -d '{"tag":"it'\''s"}' http://127.0.0.1:1/v1/pauses"#
        );
        let query = Request { query: vec![("dry_run", "true".into())], ..Request::new(Method::Get, "/v1/x") };
        assert_eq!(curl(&Server::new("http://h", None), &query), "curl -sS -X GET 'http://h/v1/x?dry_run=true'");
        assert_eq!(quoted(""), "''");
    }
}
