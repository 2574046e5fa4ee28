//! What the process says to its operator: single lines to stderr, and the start-up report.

use crate::config::Config;
use crate::topology::Topology;
use mailrace_shards::settings::{ConnectionSettings, SyncPolicy};
use std::fmt::Write;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// How grave a line is: syslog's numbers, which the journal reads from a `<N>` before the line (sd-daemon(3)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    Error = 3,
    Warning = 4,
    Notice = 5,
}

/// Something failed.
pub fn error(text: &str) {
    line(Level::Error, "error: ", text);
}

/// Something is worth reading.
pub fn warning(text: &str) {
    line(Level::Warning, "warning: ", text);
}

/// Something happened.
pub fn notice(text: &str) {
    line(Level::Notice, "", text);
}

/// Lines as they are: the start-up report.
pub fn plain(text: &str) {
    write(Level::Notice, "", text);
}

fn line(level: Level, word: &str, text: &str) {
    // The journal knows who is speaking.
    let name = if in_journal() { "" } else { "mailrace: " };
    write(level, &format!("{name}{word}"), text);
}

fn in_journal() -> bool {
    std::env::var_os("JOURNAL_STREAM").is_some()
}

fn write(level: Level, before: &str, text: &str) {
    let journal = in_journal();
    let mut out = String::with_capacity(text.len() + 32);
    for part in text.lines() {
        let written =
            if journal { writeln!(out, "<{}>{before}{part}", level as u8) } else { writeln!(out, "{before}{part}") };
        debug_assert!(written.is_ok(), "a String takes all");
    }
    // Nobody may be listening; that must not stop mail.
    let _ = std::io::stderr().lock().write_all(out.as_bytes());
}

/// What the start-up report is about.
#[derive(Clone, Copy, Debug)]
pub struct StartUp<'a> {
    /// As running.
    pub config: &'a Config,
    /// File it came from.
    pub config_file: Option<&'a Path>,
    /// Where the cores are.
    pub topology: &'a Topology,
    /// AUTH users.
    pub users: usize,
    /// Where mail is taken, with the ports that the system chose.
    pub smtp: &'a [SocketAddr],
    /// Where the REST API listens, when it does.
    pub api: Option<SocketAddr>,
    /// The admin token's file, when this start made it.
    pub first_token: Option<&'a PathBuf>,
}

/// What listens where, what is kept where, what runs where, and what to type next.
#[must_use]
pub fn start_up(start: &StartUp<'_>) -> String {
    let settings = &start.config.settings;
    let mut lines = vec![format!("mailrace {} as {}", env!("CARGO_PKG_VERSION"), settings.hostname)];
    let mut say = |name: &str, value: String| lines.push(format!("  {name:<15}{value}"));
    let file = start.config_file.map_or_else(|| "none: defaults".to_owned(), |file| file.display().to_string());
    say("configuration", file);
    let auth = if start.users > 0 { format!(", AUTH for {} users", start.users) } else { String::new() };
    let tls = |files: bool| if files { ", TLS" } else { "" };
    for address in start.smtp {
        say("SMTP", format!("{address}{}{auth}", tls(settings.smtp.tls.is_some())));
    }
    if settings.smtp.listen.is_empty() {
        say("SMTP", "not listening: smtp.listen is empty".to_owned());
    }
    if let Some(address) = start.api {
        say("REST", format!("{address}{}", tls(start.config.api.tls.is_some())));
    }
    say("data", absolute(&settings.data_dir));
    say("cores", cores(start.topology));
    say("memory", format!("{} MiB", settings.memory_bytes >> 20));
    say("connections", connections(settings.connections));
    say("resolvers", settings.dns.servers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "));
    say("spool", sync(settings.spool.sync));
    if let Some(path) = start.first_token {
        say("admin token", format!("made in {}", absolute(path)));
    }
    lines.push(String::new());
    lines.extend(next_steps(start));
    lines.join("\n")
}

fn next_steps(start: &StartUp<'_>) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(address) = start.smtp.first() {
        lines.push("  to hand in a message:".to_owned());
        lines.push(format!(
            "    printf 'Subject: hello\\n\\nhello\\n' | mailrace inject --smtp {} -v somebody@example.com",
            reachable(*address)
        ));
    }
    if let Some(address) = start.api {
        let scheme = if start.config.api.tls.is_some() { "https" } else { "http" };
        let token = absolute(&start.config.settings.data_dir.join("token"));
        lines.push("  to see the rules in force:".to_owned());
        lines.push(format!(
            "    curl -H \"Authorization: Bearer $(cat '{token}')\" {scheme}://{}/v1/rules",
            reachable(address)
        ));
    }
    lines
}

fn sync(policy: SyncPolicy) -> String {
    match policy {
        SyncPolicy::Always => "synced before each acknowledgement".to_owned(),
        SyncPolicy::Interval(every) => format!(
            "UNSAFE: synced every {}; a crash loses mail that was acknowledged since (spool.sync = \"always\" does not)",
            humantime::format_duration(every)
        ),
    }
}

/// How many at once; files, resolvers and the API have descriptors of their own.
fn connections(most: ConnectionSettings) -> String {
    format!("at most {} of injectors and {} of deliveries, by the limit of open files", most.injecting, most.delivering)
}

/// `2 shards on processors 1, 2; control on 0`.
fn cores(topology: &Topology) -> String {
    let shards = topology.shard_cpus.len();
    let on: Vec<_> = topology.shard_cpus.iter().map(ToString::to_string).collect();
    let shared = if topology.control_is_alone() { "" } else { " (shared)" };
    let (s, es) = if shards == 1 { ("", "") } else { ("s", "s") };
    if !topology.pinned {
        return format!("{shards} shard{s}, not pinned: a CPU quota is in force");
    }
    format!("{shards} shard{s} on processor{es} {}; control on {}{shared}", on.join(", "), topology.control_cpu)
}

/// Where a client on this host reaches a listener: the wildcard address is nowhere to connect to.
#[must_use]
pub fn reachable(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => SocketAddr::from(([127, 0, 0, 1], v4.port())),
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, v6.port())),
        other => other,
    }
}

fn absolute(path: &Path) -> String {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).display().to_string()
}

#[cfg(test)]
#[path = "report_tests.rs"]
mod tests;
