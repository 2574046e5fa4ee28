//! `GET /metrics`, the Prometheus text format (version 0.0.4), and the same figures as `GET /metrics.json`. The
//! only labels are a shard's number and words of a fixed list, so the number of series is bounded.

use super::{Api, Call};
use crate::http::{Refusal, Response};
use mailrace_shards::runtime::engine::CoreReport;
use mailrace_shards::runtime::memory::resident_octets;
use mailrace_shards::spool::report::Refusal as SpoolRefusal;
use serde_json::{Map, Value, json};
use std::fmt::Write;

/// The text format's media type.
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// One figure and all its series.
struct Metric {
    name: &'static str,
    help: &'static str,
    kind: Kind,
    /// Name of the labels' first, second and so on; values in each series.
    labels: &'static [&'static str],
    series: Vec<(Vec<String>, u64)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
        }
    }
}

/// `GET /metrics`.
///
/// # Errors
/// None.
pub async fn text(call: Call<'_>) -> Result<Response, Refusal> {
    Ok(Response::full(200, PROMETHEUS, to_text(&collect(call.api))))
}

/// `GET /metrics.json`.
///
/// # Errors
/// None.
pub async fn json(call: Call<'_>) -> Result<Response, Refusal> {
    Ok(Response::json(200, &to_json(&collect(call.api))))
}

/// What a core says of one thing.
type Reading = fn(&CoreReport) -> u64;

/// Name, help, value.
type Figure = (&'static str, &'static str, Reading);

const COUNTERS: &[Figure] = &[
    ("mailrace_messages_received_total", "Messages accepted durably.", |core| core.counters.received),
    ("mailrace_recipients_delivered_total", "Recipients delivered.", |core| core.counters.delivered),
    ("mailrace_attempts_deferred_total", "Attempts that ended with a temporary failure, by recipient.", |core| {
        core.counters.deferred
    }),
    ("mailrace_recipients_bounced_total", "Recipients that failed for good.", |core| core.counters.bounced),
    ("mailrace_recipients_expired_total", "Recipients whose time ran out.", |core| core.counters.expired),
    ("mailrace_recipients_ended_by_rule_total", "Recipients ended by a suppression, error or bounce rule.", |core| {
        core.counters.ended_by_rule
    }),
    ("mailrace_messages_gated_total", "Messages stopped by a rule after the transaction had begun.", |core| {
        core.counters.gated
    }),
    ("mailrace_messages_quarantined_total", "Messages put aside because a session failed over them.", |core| {
        core.counters.quarantined
    }),
    ("mailrace_connections_opened_total", "Outgoing connections opened.", |core| core.counters.connections),
];

const GAUGES: &[Figure] = &[
    ("mailrace_outgoing_sessions", "Open outgoing SMTP sessions.", |core| core.sessions as u64),
    ("mailrace_incoming_sessions", "Open injecting SMTP sessions.", |core| core.injecting as u64),
    ("mailrace_spool_failing", "1 while a shard's spool cannot be written.", |core| {
        u64::from(core.spool_refusing == Some(SpoolRefusal::Failing))
    }),
    ("mailrace_spool_space_low", "1 while a shard's spool refuses mail for want of space.", |core| {
        u64::from(core.spool_refusing == Some(SpoolRefusal::LowSpace))
    }),
    ("mailrace_outcome_log_failing", "1 while a shard's outcome log cannot be written.", |core| {
        u64::from(core.log_failing.is_some())
    }),
];

const QUEUE_STATES: &[(&str, Reading)] = &[
    ("ready", |core| core.queue.ready),
    ("waiting", |core| core.queue.waiting),
    ("held", |core| core.queue.held),
    ("in_flight", |core| core.queue.in_flight),
];

fn collect(api: &Api) -> Vec<Metric> {
    let mut metrics = of_cores(&api.monitor.reports());
    let statistics = &api.statistics;
    let single = |name, help, kind, value| Metric { name, help, kind, labels: &[], series: vec![(Vec::new(), value)] };
    let short = u64::from(api.monitor.memory_short());
    metrics.push(single(
        "mailrace_memory_short",
        "1 while new mail is refused for want of memory.",
        Kind::Gauge,
        short,
    ));
    if let Some(octets) = resident_octets() {
        let help = "Octets of memory that the process occupies.";
        metrics.push(single("mailrace_memory_resident_bytes", help, Kind::Gauge, octets));
    }
    let open = statistics.connections.get() as u64;
    metrics.push(single("mailrace_api_connections", "Open connections of the REST API.", Kind::Gauge, open));
    let help = "Connections of the REST API turned away because there were too many.";
    let turned_away = statistics.turned_away.get();
    metrics.push(single("mailrace_api_connections_refused_total", help, Kind::Counter, turned_away));
    let help = "Requests of the REST API with wrong credentials.";
    let failures = api.failures.borrow().total();
    metrics.push(single("mailrace_api_authentication_failures_total", help, Kind::Counter, failures));
    let classes = ["1xx", "2xx", "3xx", "4xx", "5xx"].iter().zip(&statistics.answers);
    metrics.push(Metric {
        name: "mailrace_api_responses_total",
        help: "Responses of the REST API by class of status.",
        kind: Kind::Counter,
        labels: &["status"],
        series: classes.map(|(class, count)| (vec![(*class).to_owned()], count.get())).collect(),
    });
    metrics
}

fn of_cores(cores: &[CoreReport]) -> Vec<Metric> {
    let figures = COUNTERS.iter().map(|figure| (figure, Kind::Counter));
    let figures = figures.chain(GAUGES.iter().map(|figure| (figure, Kind::Gauge)));
    let mut metrics: Vec<Metric> = figures
        .map(|((name, help, value), kind)| Metric {
            name,
            help,
            kind,
            labels: &["shard"],
            series: cores.iter().enumerate().map(|(at, core)| (vec![at.to_string()], value(core))).collect(),
        })
        .collect();
    let queue = cores.iter().enumerate().flat_map(|(at, core)| {
        QUEUE_STATES.iter().map(move |(state, value)| (vec![at.to_string(), (*state).to_owned()], value(core)))
    });
    metrics.push(Metric {
        name: "mailrace_queue_messages",
        help: "Entries of the queue by state; one for each destination domain of a message.",
        kind: Kind::Gauge,
        labels: &["shard", "state"],
        series: queue.collect(),
    });
    metrics
}

fn to_text(metrics: &[Metric]) -> String {
    let mut out = String::with_capacity(8192);
    let mut line = |text: std::fmt::Arguments<'_>| {
        let written = out.write_fmt(text);
        debug_assert!(written.is_ok(), "a String takes all");
    };
    for Metric { name, help, kind, labels, series } in metrics {
        line(format_args!("# HELP {name} {help}\n# TYPE {name} {}\n", kind.as_str()));
        for (values, figure) in series {
            let pairs: Vec<_> =
                labels.iter().zip(values).map(|(label, value)| format!("{label}=\"{value}\"")).collect();
            let labels = if pairs.is_empty() { String::new() } else { format!("{{{}}}", pairs.join(",")) };
            line(format_args!("{name}{labels} {figure}\n"));
        }
    }
    out
}

/// `{"NAME": {"type", "help", "value"}}`, the value a number, or `{"LABEL": {"VALUE": …}}` for each label in turn.
fn to_json(metrics: &[Metric]) -> Value {
    let one = |metric: &Metric| {
        let mut value = Value::Null;
        for (values, figure) in &metric.series {
            let mut place = &mut value;
            for (label, name) in metric.labels.iter().zip(values) {
                // Indexing makes the member, and an object of null.
                place = &mut place[*label][name.as_str()];
            }
            *place = json!(figure);
        }
        json!({ "type": metric.kind.as_str(), "help": metric.help, "value": value })
    };
    Value::Object(metrics.iter().map(|metric| (metric.name.to_owned(), one(metric))).collect::<Map<_, _>>())
}

#[cfg(test)]
mod tests {
    use super::{of_cores, to_json, to_text};
    use mailrace_shards::runtime::engine::CoreReport;
    use serde_json::json;

    #[test]
    fn figures_of_two_cores() {
        let mut cores = [CoreReport::default(), CoreReport::default()];
        cores[0].counters.received = 7;
        cores[1].counters.received = 8;
        cores[1].queue.held = 3;
        cores[1].log_failing = Some("no space".into());
        let metrics = of_cores(&cores);
        let text = to_text(&metrics);
        for line in [
            "# TYPE mailrace_messages_received_total counter\n",
            "mailrace_messages_received_total{shard=\"0\"} 7\n",
            "mailrace_messages_received_total{shard=\"1\"} 8\n",
            "# TYPE mailrace_queue_messages gauge\n",
            "mailrace_queue_messages{shard=\"1\",state=\"held\"} 3\n",
            "mailrace_outcome_log_failing{shard=\"0\"} 0\n",
            "mailrace_outcome_log_failing{shard=\"1\"} 1\n",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
        let json = to_json(&metrics);
        assert_eq!(json["mailrace_messages_received_total"]["type"], "counter");
        assert_eq!(json["mailrace_messages_received_total"]["value"], json!({ "shard": { "0": 7, "1": 8 } }));
        assert_eq!(json["mailrace_queue_messages"]["value"]["shard"]["1"]["state"]["held"], 3);
    }

    #[test]
    fn the_text_keeps_the_format() {
        for line in to_text(&of_cores(&[CoreReport::default()])).lines().filter(|line| !line.starts_with('#')) {
            let (series, figure) = line.rsplit_once(' ').unwrap();
            assert!(figure.parse::<u64>().is_ok(), "{line}");
            let name = series.split('{').next().unwrap();
            assert!(name.bytes().all(|octet| octet.is_ascii_lowercase() || octet == b'_'), "{line}");
        }
    }
}
