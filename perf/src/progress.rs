//! What the operator sees while a round runs: two bars on a terminal, plain lines otherwise.
//!
//! It writes to standard error only, so that results can be piped.

use std::io::{IsTerminal, stderr};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::clock::now_ns;

/// Plain lines come no closer than this.
const LINE_EVERY_NS: u64 = 5_000_000_000;

/// What is shown.
#[derive(Clone, Copy, Debug, Default)]
pub struct Shown {
    /// Messages accepted.
    pub accepted: u64,
    /// Messages delivered, where that is counted.
    pub delivered: Option<u64>,
    /// Median and 99th percentile of the newest answers, ms.
    pub waits_ms: Option<(f64, f64)>,
}

/// The progress of one round.
pub struct Progress {
    title: String,
    messages: u32,
    bars: Option<(ProgressBar, Option<ProgressBar>)>,
    last_line_ns: u64,
}

impl Progress {
    /// Begins to show; `delivers` is whether deliveries are counted as well.
    pub fn start(title: &str, messages: u32, delivers: bool) -> Progress {
        let bars = stderr().is_terminal().then(|| {
            let all = MultiProgress::new();
            let bar = |label: &str| {
                let style = "{prefix:24} {bar:40} {pos}/{len} {per_sec} {elapsed} {msg}";
                // The text is constant and well-formed; should it not be, the default style shows as well.
                let style = ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar());
                let bar = all.add(ProgressBar::new(u64::from(messages)).with_style(style));
                bar.with_prefix(format!("{title} {label}"))
            };
            (bar("accepted"), delivers.then(|| bar("delivered")))
        });
        Progress { title: title.to_owned(), messages, bars, last_line_ns: now_ns() }
    }

    /// How far it is.
    pub fn show(&mut self, shown: &Shown) {
        let (accepted, delivered) = (shown.accepted, shown.delivered);
        let waits = match shown.waits_ms {
            Some((p50, p99)) if p99 > 0.0 => format!("p50 {p50:.1} ms, p99 {p99:.1} ms"),
            _ => String::new(),
        };
        if let Some((accepted_bar, delivered_bar)) = &self.bars {
            accepted_bar.set_position(accepted);
            accepted_bar.set_message(waits);
            if let (Some(bar), Some(delivered)) = (delivered_bar, delivered) {
                bar.set_position(delivered);
            }
        } else if now_ns() - self.last_line_ns > LINE_EVERY_NS {
            self.last_line_ns = now_ns();
            let delivered = delivered.map_or_else(String::new, |count| format!(", {count} delivered"));
            let waits = if waits.is_empty() { waits } else { format!("; {waits}") };
            eprintln!("{}: {accepted} of {} accepted{delivered}{waits}", self.title, self.messages);
        }
    }

    /// Leaves the screen as it is.
    pub fn finish(self) {
        if let Some((accepted, delivered)) = self.bars {
            accepted.abandon();
            if let Some(bar) = delivered {
                bar.abandon();
            }
        }
    }
}
