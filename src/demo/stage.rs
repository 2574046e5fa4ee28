//! What the demonstration shows: words and calls one below the other, and under them, redrawn while one watches, what
//! is queued, held, delivered and failed. Without a terminal the figures are a plain line now and then.

use super::sink::Arrivals;
use crate::client::http::{Failure, Server};
use crate::client::request::{Method, Request};
use crate::client::table;
use serde_json::Value;
use std::io::{self, IsTerminal, Write};

/// Looks between two plain lines.
const PLAIN_EVERY: u32 = 5;

/// What ends a recipient without delivery.
const FAILED: [&str; 3] = [
    "mailrace_recipients_bounced_total",
    "mailrace_recipients_expired_total",
    "mailrace_recipients_ended_by_rule_total",
];

/// Where it is shown.
pub struct Stage {
    domains: &'static [&'static str],
    arrivals: Arrivals,
    is_terminal: bool,
    /// Lines of the figures that stand below the words now.
    drawn: usize,
    looks: u32,
}

/// One look at the engine and the sink.
pub struct Figures {
    /// Of each domain: queued, held, delivered.
    rows: Vec<[u64; 3]>,
    failed: u64,
    received: u64,
}

impl Figures {
    /// Recipients that are neither delivered nor failed.
    #[must_use]
    pub fn queued(&self) -> u64 {
        self.sum(0)
    }

    fn sum(&self, column: usize) -> u64 {
        self.rows.iter().map(|row| row[column]).sum()
    }

    fn line(&self) -> String {
        let [queued, held, delivered] = [0, 1, 2].map(|column| self.sum(column));
        let Self { failed, received, .. } = self;
        format!("  received {received}, queued {queued} (held {held}), delivered {delivered}, failed {failed}\n")
    }
}

impl Stage {
    /// On stdout.
    #[must_use]
    pub fn new(domains: &'static [&'static str], arrivals: Arrivals) -> Self {
        Self { domains, arrivals, is_terminal: io::stdout().is_terminal(), drawn: 0, looks: 0 }
    }

    /// Words that stay.
    pub fn say(&mut self, text: &str) -> io::Result<()> {
        self.write(&format!("{text}\n"), 0)
    }

    /// Asks how it stands.
    pub fn look(&self, server: &Server) -> Result<Figures, Failure> {
        let ask = |path: &str| {
            let body = server.ask(&Request::new(Method::Get, path))?;
            serde_json::from_slice::<Value>(&body)
                .map_err(|error| Failure::Refused(format!("{path} does not answer JSON: {error}")))
        };
        let (queues, metrics) = (ask("/v1/queues")?, ask("/metrics.json")?);
        let of = |domain: &str, name: &str| {
            let queue = queues.as_array().into_iter().flatten().find(|queue| queue["domain"] == domain);
            queue.and_then(|queue| queue[name].as_u64()).unwrap_or(0)
        };
        let total = |name: &str| {
            let shards = metrics[name]["value"]["shard"].as_object();
            shards.into_iter().flatten().filter_map(|(_, value)| value.as_u64()).sum::<u64>()
        };
        let row = |domain: &&str| [of(domain, "total"), of(domain, "held"), self.arrivals.of(domain)];
        Ok(Figures {
            rows: self.domains.iter().map(row).collect(),
            failed: FAILED.iter().map(|name| total(name)).sum(),
            received: total("mailrace_messages_received_total"),
        })
    }

    /// Shows figures: in place of the last ones on a terminal, else as a line now and then.
    pub fn draw(&mut self, figures: &Figures) -> io::Result<()> {
        if !self.is_terminal {
            self.looks += 1;
            return if self.looks % PLAIN_EVERY == 1 { self.write(&figures.line(), 0) } else { Ok(()) };
        }
        let mut rows: Vec<Vec<String>> = Vec::new();
        for (domain, row) in self.domains.iter().zip(&figures.rows) {
            rows.push([(*domain).to_owned()].into_iter().chain(row.iter().map(u64::to_string)).collect());
        }
        let text = table(&["destination", "queued", "held", "delivered"], &rows) + figures.line().trim_start();
        let block: String = text.lines().map(|line| format!("  {line}\n")).collect();
        self.write(&block, text.lines().count())
    }

    fn write(&mut self, text: &str, figures: usize) -> io::Result<()> {
        let mut out = String::new();
        if self.drawn > 0 {
            // Up to the first of those lines, and clear the rest of the screen.
            out = format!("\x1b[{}A\x1b[J", self.drawn);
        }
        out += text;
        self.drawn = figures;
        let mut stdout = io::stdout().lock();
        stdout.write_all(out.as_bytes())?;
        stdout.flush()
    }
}
