//! The engine's configuration as a test writes it: sections with lines added to them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;

/// A configuration file in the making. Ports and the data directory are added by the engine.
#[derive(Clone, Debug)]
pub struct Config {
    sections: BTreeMap<&'static str, String>,
    tables: String,
}

impl Default for Config {
    /// Two shards, a resolver that does not exist, fast retries.
    fn default() -> Self {
        let config = Self { sections: BTreeMap::new(), tables: String::new() };
        config
            .line("server", "hostname = \"mailrace.example\"")
            .line("server", "stop_within = \"20s\"")
            .line("server", "shards = 2")
            .line("spool", "min_free_bytes = 1048576")
            .line("dns", "servers = [\"127.0.0.1:9\"]")
            .line("retry", "intervals = [\"1s\"]")
            .line("retry", "max_age = \"1h\"")
    }
}

impl Config {
    /// Puts `key = value` into a section, in place of an earlier one for the key.
    pub fn line(mut self, section: &'static str, line: &str) -> Self {
        let key = |line: &str| line.split('=').next().unwrap().trim().to_owned();
        let lines = self.sections.entry(section).or_default();
        let kept: String = lines.lines().filter(|kept| key(kept) != key(line)).fold(String::new(), |mut text, line| {
            writeln!(text, "{line}").unwrap();
            text
        });
        *lines = format!("{kept}{line}\n");
        self
    }

    /// Leaves a section out.
    pub fn without(mut self, section: &str) -> Self {
        self.sections.remove(section);
        self
    }

    /// How many shards.
    pub fn shards(self, count: usize) -> Self {
        self.line("server", &format!("shards = {count}"))
    }

    /// Adds a `[[table]]` with its lines.
    pub fn table(mut self, name: &str, lines: &str) -> Self {
        writeln!(self.tables, "[[{name}]]\n{lines}").unwrap();
        self
    }

    /// Sends a domain (or `*`) to a host.
    pub fn route(self, domain: &str, host: SocketAddr) -> Self {
        self.table("route", &format!("domain = \"{domain}\"\nhosts = [\"{host}\"]"))
    }

    /// Where mail goes that no other route names.
    pub fn to(host: SocketAddr) -> Self {
        Self::default().route("*", host)
    }

    /// The file's text.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for (name, lines) in &self.sections {
            writeln!(text, "[{name}]\n{lines}").unwrap();
        }
        text + &self.tables
    }
}
