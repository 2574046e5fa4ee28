//! `GET /metrics`, the Prometheus text format (version 0.0.4), and the same figures as `GET /metrics.json`. The
//! only labels are a shard's number, words of a fixed list, and the names of the largest queues, so the number of
//! series is bounded.

mod cluster;

use super::{Api, Call};
use crate::http::{Refusal, Response};
use mailrace_shards::limits::{LARGEST_QUEUES, OTHER_QUEUES};
use mailrace_shards::runtime::engine::{CoreReport, Recovery};
use mailrace_shards::runtime::memory::resident_octets;
use mailrace_shards::spool::report::Refusal as SpoolRefusal;
use serde_json::{Map, Value, json};
use std::cmp::Reverse;
use std::collections::HashMap;
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
    ("mailrace_dns_cache_hits_total", "Resolutions answered from the cache.", |core| core.dns.cache_hits),
    ("mailrace_dns_cache_misses_total", "Resolutions that needed at least one query.", |core| core.dns.cache_misses),
    ("mailrace_dns_queries_total", "DNS queries sent, by UDP and by TCP.", |core| {
        core.dns.queries_udp + core.dns.queries_tcp
    }),
    ("mailrace_dns_timeouts_total", "DNS queries without an answer in time.", |core| core.dns.timeouts),
    ("mailrace_dns_server_errors_total", "DNS replies with an error, such as SERVFAIL.", |core| core.dns.server_errors),
    ("mailrace_dns_failures_total", "Resolutions that ended without a host.", |core| core.dns.failed),
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

const RULE_KINDS: &[(&str, Reading)] = &[
    ("suppression", |core| core.counters.ended_by_suppression),
    ("bounce", |core| core.counters.ended_by_bounce),
    ("error", |core| core.counters.ended_by_error),
    ("cancel", |core| core.counters.ended_by_cancel),
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
    metrics.extend(of_recovery(api.monitor.recovery()));
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
    if let Some((cluster, _)) = &api.desk.cluster {
        metrics.extend(cluster::of_status(&cluster.status()));
    }
    metrics
}

fn of_recovery(recovery: Option<Recovery>) -> [Metric; 2] {
    let single =
        |name, help, value| Metric { name, help, kind: Kind::Gauge, labels: &[], series: vec![(Vec::new(), value)] };
    let active = "1 while mail of earlier runs is being put into the queues.";
    let left = "Messages of earlier runs that are known and not in the queues yet.";
    let known = recovery.and_then(|recovery| recovery.left).unwrap_or(0);
    [
        single("mailrace_recovery_active", active, u64::from(recovery.is_some())),
        single("mailrace_recovery_messages", left, known),
    ]
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
    metrics.push(Metric {
        name: "mailrace_rule_ends_total",
        help: "Recipients ended by rules, by the kind of rule.",
        kind: Kind::Counter,
        labels: &["shard", "kind"],
        series: by_word(cores, RULE_KINDS),
    });
    metrics.push(Metric {
        name: "mailrace_queue_messages",
        help: "Entries of the queue by state; one for each destination domain of a message.",
        kind: Kind::Gauge,
        labels: &["shard", "state"],
        series: by_word(cores, QUEUE_STATES),
    });
    metrics.extend(of_queues(cores));
    metrics
}

fn by_word(cores: &[CoreReport], words: &[(&str, Reading)]) -> Vec<(Vec<String>, u64)> {
    let of_core = |(at, core): (usize, &CoreReport)| {
        let values = words.iter().map(|(word, value)| (vec![at.to_string(), (*word).to_owned()], value(core)));
        values.collect::<Vec<_>>()
    };
    cores.iter().enumerate().flat_map(of_core).collect()
}

/// Under the names of KumoMTA, whose client reads them: how many messages there are, and in which queues. The
/// largest are named, the others are one sum.
fn of_queues(cores: &[CoreReport]) -> Vec<Metric> {
    let total: u64 = cores.iter().map(|core| QUEUE_STATES.iter().map(|(_, count)| count(core)).sum::<u64>()).sum();
    let mut sizes: HashMap<&str, u64> = HashMap::new();
    for (name, size) in cores.iter().flat_map(|core| core.largest_queues.iter()) {
        *sizes.entry(name).or_default() += u64::from(*size);
    }
    let mut sizes: Vec<(&str, u64)> = sizes.into_iter().collect();
    sizes.sort_unstable_by_key(|(name, size)| (Reverse(*size), *name));
    sizes.truncate(LARGEST_QUEUES);
    let rest = total.saturating_sub(sizes.iter().map(|(_, size)| size).sum());
    let mut series: Vec<_> = sizes.into_iter().map(|(name, size)| (vec![name.to_owned()], size)).collect();
    if rest > 0 {
        series.push((vec![OTHER_QUEUES.to_owned()], rest));
    }
    let help = "Entries of the queue in all.";
    let count =
        Metric { name: "message_count", help, kind: Kind::Gauge, labels: &[], series: vec![(Vec::new(), total)] };
    let help = "Entries by scheduled queue, some seconds old; the largest by name, the others as one sum.";
    let by_queue = Metric { name: "scheduled_count", help, kind: Kind::Gauge, labels: &["queue"], series };
    // A metric without a value is no object in JSON, and kcli reads one.
    [count, by_queue].into_iter().filter(|metric| !metric.series.is_empty()).collect()
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
            let pair = |(label, value): (&&str, &String)| format!("{label}=\"{}\"", escaped(value));
            let pairs: Vec<_> = labels.iter().zip(values).map(pair).collect();
            let labels = if pairs.is_empty() { String::new() } else { format!("{{{}}}", pairs.join(",")) };
            line(format_args!("{name}{labels} {figure}\n"));
        }
    }
    out
}

/// As the text format wants label values.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
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
    use mailrace_shards::limits::LARGEST_QUEUES;
    use mailrace_shards::runtime::engine::CoreReport;
    use serde_json::json;
    use std::collections::{BTreeMap, BTreeSet};

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

    /// Names with everything in them that a sender may put into a campaign.
    fn busy_core() -> CoreReport {
        let names = ["a.example", "c\"\\o\nm:t{}=,@b.example", "sp ace:@c.example"];
        let sizes = names.iter().zip([30, 20, 10]).map(|(name, size)| ((*name).into(), size)).collect();
        let mut core = CoreReport { largest_queues: sizes, ..CoreReport::default() };
        core.queue.ready = 100;
        core.counters.ended_by_suppression = 3;
        core
    }

    /// The text read as Prometheus reads it (exposition format 0.0.4): by family, its type and the series.
    fn parse(text: &str) -> BTreeMap<String, (String, BTreeMap<String, f64>)> {
        let mut families: BTreeMap<String, (String, BTreeMap<String, f64>)> = BTreeMap::new();
        let mut helped = BTreeSet::new();
        let mut current = String::new();
        assert!(text.ends_with('\n'));
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').unwrap();
                assert!(helped.insert(name.to_owned()) && !help.is_empty(), "{line}");
                current = name.to_owned();
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap();
                assert!(name == current && matches!(kind, "counter" | "gauge"), "{line}");
                assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
                assert!(families.insert(name.to_owned(), (kind.to_owned(), BTreeMap::new())).is_none(), "{line}");
            } else {
                let name_end = line.find(['{', ' ']).unwrap();
                let (name, rest) = line.split_at(name_end);
                assert_eq!(name, current, "series stand below their HELP and TYPE");
                let is_name = |octet: u8| octet.is_ascii_alphanumeric() || octet == b'_';
                assert!(name.bytes().all(is_name) && !name.as_bytes()[0].is_ascii_digit(), "{line}");
                let (labels, value) = labels(rest);
                let series = &mut families.get_mut(name).unwrap().1;
                assert!(series.insert(labels, value.trim().parse().unwrap()).is_none(), "twice: {line}");
            }
        }
        families
    }

    /// Labels as `name=value` lines, and what follows them.
    fn labels(text: &str) -> (String, &str) {
        let Some(mut rest) = text.strip_prefix('{') else { return (String::new(), text) };
        let mut labels = String::new();
        loop {
            let (name, after) = rest.split_once("=\"").unwrap();
            assert!(name.bytes().all(|octet| octet.is_ascii_lowercase()), "{text}");
            let mut value = String::new();
            let mut characters = after.char_indices();
            let end = loop {
                match characters.next().unwrap() {
                    (at, '"') => break at,
                    (_, '\\') => match characters.next().unwrap().1 {
                        'n' => value.push('\n'),
                        other => value.push(other),
                    },
                    (_, other) => value.push(other),
                }
            };
            labels.push_str(&format!("{name}={value};"));
            rest = &after[end + 1..];
            match rest.split_at(1) {
                (",", more) => rest = more,
                ("}", more) => return (labels, more),
                _ => panic!("{text}"),
            }
        }
    }

    #[test]
    fn the_text_is_what_prometheus_reads() {
        let cores = [busy_core(), busy_core()];
        let families = parse(&to_text(&of_cores(&cores)));
        let queues = &families["scheduled_count"].1;
        let expected = [
            ("queue=a.example;", 60.0),
            ("queue=c\"\\o\nm:t{}=,@b.example;", 40.0),
            ("queue=sp ace:@c.example;", 20.0),
            ("queue=(others);", 80.0),
        ];
        let expected = expected.map(|(labels, count)| (labels.to_owned(), count));
        assert_eq!(*queues, BTreeMap::from(expected));
        assert_eq!(families["message_count"].1, BTreeMap::from([(String::new(), 200.0)]));
        assert_eq!(families["mailrace_rule_ends_total"].1["shard=1;kind=suppression;"], 3.0);
        for name in ["queries", "cache_hits", "cache_misses", "failures", "timeouts", "server_errors"] {
            assert_eq!(families[&format!("mailrace_dns_{name}_total")].1.len(), 2);
        }
    }

    #[test]
    fn series_are_bounded_however_many_queues_there_are() {
        let core = |number: usize| {
            let names = (0..LARGEST_QUEUES).map(|at| (format!("d{}.example", at * 7 + number).into(), 5)).collect();
            let mut core = CoreReport { largest_queues: names, ..CoreReport::default() };
            core.queue.waiting = 100_000;
            core
        };
        let cores: Vec<CoreReport> = (0..7).map(core).collect();
        let families = parse(&to_text(&of_cores(&cores)));
        let queues = &families["scheduled_count"].1;
        assert_eq!(queues.len(), LARGEST_QUEUES + 1);
        assert_eq!(queues.values().sum::<f64>(), 700_000.0);
        assert_eq!(queues["queue=(others);"], 700_000.0 - 5.0 * LARGEST_QUEUES as f64);
    }

    /// kcli's types: a map of numbers by queue, and a number. It can read neither from null.
    #[test]
    fn kcli_reads_the_queues() {
        let json = to_json(&of_cores(&[busy_core()]));
        for name in ["scheduled_count", "message_count"] {
            assert!(json[name]["help"].is_string() && json[name]["type"] == "gauge");
        }
        assert_eq!(json["message_count"]["value"], 100);
        let queues = json["scheduled_count"]["value"]["queue"].as_object().unwrap();
        assert!(queues.len() == 4 && queues.values().all(serde_json::Value::is_number), "{queues:?}");
        let empty = to_json(&of_cores(&[CoreReport::default()]));
        assert!(empty.get("scheduled_count").is_none() && empty["message_count"]["value"] == 0);
    }
}
