//! What was measured, as JSON for programs and as a table for people.
//!
//! The keys are documented in `perf/README.md`; a figure that could not be had is `null`, never zero.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::Serialize;

use crate::error::{Context, Result};
use crate::generator::{Pipelining, Spread};
use crate::html;
use crate::latency::LatencySummary;
use crate::proof::Durability;
use crate::sampler::machine::Machine;
use crate::sampler::trace::{CpuPoint, Look};
use crate::timeline::Point;

/// The figures of one round, or the medians of several.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    pub cpu_us_per_message: Option<f64>,
    pub cpu_us_per_megabyte: Option<f64>,
    /// The same of a process that only copies the octets.
    pub baseline_cpu_us_per_megabyte: Option<f64>,
    pub accepted_per_second: f64,
    pub delivered_per_second: f64,
    pub connections_at_once: Option<u64>,
    pub delivered_per_second_per_connection: Option<f64>,
    pub attempts_per_message: Option<f64>,
    pub latency_ms: Option<LatencySummary>,
    pub delivery_latency_ms: Option<LatencySummary>,
    pub syscalls_per_message: Option<f64>,
    pub context_switches_per_message: Option<f64>,
    pub read_write_calls_per_message: Option<f64>,
    pub disk_write_bytes_per_message: Option<f64>,
    pub peak_rss_bytes: Option<u64>,
    pub messages: u64,
    pub delivered: u64,
    pub duplicates: Option<u64>,
    pub lost: u64,
    /// Of the traced samples: messages answered with 250, those synced before, those not.
    pub traced_acknowledged: Option<u64>,
    pub traced_synced_before: Option<u64>,
    pub traced_violations: Option<u64>,
}

/// One round.
#[derive(Clone, Debug, Serialize)]
pub struct Round {
    pub mta: String,
    pub requested: u32,
    pub unasked: u32,
    pub processes: Option<u32>,
    pub refused: BTreeMap<u16, u64>,
    pub failures: BTreeMap<String, u64>,
    pub sink_connections: Option<u64>,
    pub sink_tls_messages: Option<u64>,
    pub sink_protocol_errors: Option<u64>,
    /// Why there is no count of system calls.
    pub syscalls_unavailable: Option<String>,
    /// Whether a 250 was seen to leave before its sync.
    pub durability: Durability,
    /// Why the server had to be forced to stop.
    pub stop_failure: Option<String>,
    #[serde(flatten)]
    pub figures: Figures,
    /// Where the CPU time went.
    pub cpu_split_us_per_message: CpuSplit,
    /// Acceptances over time.
    pub accepted_over_time: Vec<Point>,
    /// Deliveries over time.
    pub delivered_over_time: Vec<Point>,
    /// CPU and memory over time.
    pub cpu_over_time: Vec<CpuPoint>,
}

/// CPU time of a round over messages delivered, µs.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct CpuSplit {
    /// The server in user mode.
    pub server_user: f64,
    /// The server in the kernel.
    pub server_system: f64,
    /// The sink.
    pub sink: f64,
    /// The generator.
    pub generator: f64,
}

impl CpuSplit {
    /// Between the first and the last look, shared by `delivered` messages.
    pub fn of(looks: &[Look], delivered: u32) -> CpuSplit {
        let (from, until) = match looks {
            [first, .., last] => (*first, *last),
            _ => return CpuSplit::default(),
        };
        let each = |from: u64, until: u64| until.saturating_sub(from) as f64 / f64::from(delivered.max(1));
        CpuSplit {
            server_user: each(from.server_user_us, until.server_user_us),
            server_system: each(from.server_system_us, until.server_system_us),
            sink: each(from.sink_us, until.sink_us),
            generator: each(from.generator_us, until.generator_us),
        }
    }
}

impl Round {
    /// Adds what its traced sample showed.
    pub fn show(&mut self, durability: Durability) {
        if durability.unavailable.is_none() {
            self.figures.traced_acknowledged = Some(u64::from(durability.acknowledged));
            self.figures.traced_synced_before = Some(u64::from(durability.synced_before));
            self.figures.traced_violations = Some(u64::from(durability.violations));
        }
        self.durability = durability;
    }

    /// Whether every message asked for was accepted once and came out.
    pub fn is_complete(&self) -> bool {
        let figures = &self.figures;
        figures.lost == 0 && self.stop_failure.is_none() && figures.messages == u64::from(self.requested)
    }
}

/// What was asked for.
#[derive(Clone, Debug, Serialize)]
pub struct Asked {
    pub scenario: String,
    /// The words on the command line.
    pub command: Vec<String>,
    pub messages: u32,
    pub size: u32,
    pub domains: u32,
    pub spread: Spread,
    pub connections: u32,
    pub pipelining: Pipelining,
    pub rate: Option<f64>,
    pub warm_up: u32,
    pub tools: crate::cli::ToolsName,
}

/// The result of `run`.
#[derive(Clone, Debug, Serialize)]
pub struct RunReport {
    pub asked: Asked,
    pub machine: Machine,
    #[serde(flatten)]
    pub figures: Figures,
    pub rounds: Vec<Round>,
}

/// The result of `compare`.
#[derive(Clone, Debug, Serialize)]
pub struct CompareReport {
    pub asked: Asked,
    pub machine: Machine,
    /// The opponent's median CPU per message over ours.
    pub cpu_ratio: Option<f64>,
    /// Our median delivered rate over the opponent's.
    pub rate_ratio: Option<f64>,
    pub ours: Figures,
    pub opponent: Figures,
    pub rounds: Vec<Round>,
}

/// Medians of rates and costs, sums of counts, the worst of peaks.
pub fn summarise<'a>(rounds: impl Iterator<Item = &'a Round>) -> Figures {
    let all: Vec<&Figures> = rounds.map(|round| &round.figures).collect();
    let middle =
        |value: &dyn Fn(&Figures) -> Option<f64>| median(all.iter().filter_map(|figures| value(figures)).collect());
    let latency = |value: &dyn Fn(&Figures) -> Option<LatencySummary>| {
        let found: Vec<LatencySummary> = all.iter().filter_map(|figures| value(figures)).collect();
        Some(LatencySummary {
            p50: median(found.iter().map(|latency| latency.p50).collect())?,
            p99: median(found.iter().map(|latency| latency.p99).collect())?,
            p999: median(found.iter().map(|latency| latency.p999).collect())?,
            max: found.iter().map(|latency| latency.max).fold(0.0, f64::max),
        })
    };
    let traced =
        |value: &dyn Fn(&Figures) -> Option<u64>| all.iter().filter_map(|figures| value(figures)).reduce(|a, b| a + b);
    Figures {
        cpu_us_per_message: middle(&|figures| figures.cpu_us_per_message),
        cpu_us_per_megabyte: middle(&|figures| figures.cpu_us_per_megabyte),
        baseline_cpu_us_per_megabyte: middle(&|figures| figures.baseline_cpu_us_per_megabyte),
        accepted_per_second: middle(&|figures| Some(figures.accepted_per_second)).unwrap_or(0.0),
        delivered_per_second: middle(&|figures| Some(figures.delivered_per_second)).unwrap_or(0.0),
        connections_at_once: all.iter().filter_map(|figures| figures.connections_at_once).max(),
        delivered_per_second_per_connection: middle(&|figures| figures.delivered_per_second_per_connection),
        attempts_per_message: middle(&|figures| figures.attempts_per_message),
        latency_ms: latency(&|figures| figures.latency_ms),
        delivery_latency_ms: latency(&|figures| figures.delivery_latency_ms),
        syscalls_per_message: middle(&|figures| figures.syscalls_per_message),
        context_switches_per_message: middle(&|figures| figures.context_switches_per_message),
        read_write_calls_per_message: middle(&|figures| figures.read_write_calls_per_message),
        disk_write_bytes_per_message: middle(&|figures| figures.disk_write_bytes_per_message),
        peak_rss_bytes: all.iter().filter_map(|figures| figures.peak_rss_bytes).max(),
        messages: all.iter().map(|figures| figures.messages).sum(),
        delivered: all.iter().map(|figures| figures.delivered).sum(),
        duplicates: all.iter().map(|figures| figures.duplicates).sum(),
        lost: all.iter().map(|figures| figures.lost).sum(),
        traced_acknowledged: traced(&|figures| figures.traced_acknowledged),
        traced_synced_before: traced(&|figures| figures.traced_synced_before),
        traced_violations: traced(&|figures| figures.traced_violations),
    }
}

/// The middle value; of an even number the mean of the two in the middle.
pub fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        length if length % 2 == 1 => Some(values[middle]),
        _ => Some(f64::midpoint(values[middle - 1], values[middle])),
    }
}

/// One over the other, unless one is missing or the divisor is zero.
pub fn ratio(dividend: Option<f64>, divisor: Option<f64>) -> Option<f64> {
    let (dividend, divisor) = (dividend?, divisor?);
    (divisor > 0.0).then(|| dividend / divisor)
}

/// Writes a result to a file, and the page that shows it beside that.
pub fn write(report: &impl Serialize, path: &Path) -> Result<()> {
    let result = serde_json::to_value(report).context("turn the result into JSON")?;
    let text = serde_json::to_string_pretty(report).context("turn the result into JSON")?;
    fs::write(path, text + "\n").context(format_args!("write {}", path.display()))?;
    html::write(&[html::Source { name: String::new(), result }], &html::beside(path))
}

/// One column of the table for each set of figures.
pub fn print_table(columns: &[(String, &Figures)]) {
    type Row = (&'static str, fn(&Figures) -> Option<String>);
    let rows: [Row; 20] = [
        ("CPU per message, µs", |figures| Some(format!("{:.1}", figures.cpu_us_per_message?))),
        ("CPU per megabyte, µs", |figures| Some(format!("{:.1}", figures.cpu_us_per_megabyte?))),
        ("the same, copied only", |figures| Some(format!("{:.1}", figures.baseline_cpu_us_per_megabyte?))),
        ("accepted per second", |figures| Some(format!("{:.0}", figures.accepted_per_second))),
        ("delivered per second", |figures| Some(format!("{:.0}", figures.delivered_per_second))),
        ("connections at once", |figures| Some(figures.connections_at_once?.to_string())),
        ("delivered per second, each", |figures| Some(format!("{:.2}", figures.delivered_per_second_per_connection?))),
        ("attempts per message", |figures| Some(format!("{:.3}", figures.attempts_per_message?))),
        ("dot to 250, ms p50/p99/max", |figures| Some(latency(figures.latency_ms?))),
        ("dot to sink, ms p50/p99/max", |figures| Some(latency(figures.delivery_latency_ms?))),
        ("system calls per message", |figures| Some(format!("{:.1}", figures.syscalls_per_message?))),
        ("context switches per message", |figures| Some(format!("{:.2}", figures.context_switches_per_message?))),
        ("file read/write calls per msg", |figures| Some(format!("{:.2}", figures.read_write_calls_per_message?))),
        ("disk octets per message", |figures| Some(format!("{:.0}", figures.disk_write_bytes_per_message?))),
        ("peak RSS, MB", |figures| Some(format!("{:.1}", figures.peak_rss_bytes? as f64 / 1e6))),
        ("messages accepted", |figures| Some(figures.messages.to_string())),
        ("messages delivered", |figures| Some(figures.delivered.to_string())),
        ("duplicates", |figures| Some(figures.duplicates?.to_string())),
        ("lost", |figures| Some(figures.lost.to_string())),
        ("traced 250s after their sync", |figures| {
            Some(format!("{} of {}", figures.traced_synced_before?, figures.traced_acknowledged?))
        }),
    ];
    let cell = |text: &str| format!("  {text:>24}");
    let heads: String = columns.iter().map(|(name, _)| cell(name)).collect();
    println!("{:<30}{heads}", "");
    for (label, value) in rows {
        let cells: String = columns
            .iter()
            .map(|(_, figures)| cell(&value(figures).unwrap_or_else(|| "unavailable".to_owned())))
            .collect();
        println!("{label:<30}{cells}");
    }
}

fn latency(summary: LatencySummary) -> String {
    format!("{:.1}/{:.1}/{:.1}", summary.p50, summary.p99, summary.max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_ratios() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(ratio(Some(6.0), Some(3.0)), Some(2.0));
        assert_eq!(ratio(Some(6.0), Some(0.0)), None);
        assert_eq!(ratio(None, Some(1.0)), None);
    }
}
