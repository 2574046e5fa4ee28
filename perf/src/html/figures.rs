//! The figures of a result as cards and tables, and the circumstances they were measured in.

use serde_json::Value;

use super::sides::Side;
use super::{escape, number};

/// Which way a figure is better.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Better {
    /// Less of it.
    Less,
    /// More of it.
    More,
    /// It only describes.
    Neither,
}

/// A figure that the page knows by name.
pub struct Known {
    /// Where it stands, keys joined by dots.
    pub key: &'static str,
    /// What it is called, with its unit.
    pub label: &'static str,
    /// Which way it is better.
    pub better: Better,
}

const fn known(key: &'static str, label: &'static str, better: Better) -> Known {
    Known { key, label, better }
}

/// In the order of the page.
pub const KNOWN: &[Known] = &[
    known("cpu_us_per_message", "CPU per message, µs", Better::Less),
    known("delivered_per_second", "delivered per second", Better::More),
    known("per_second", "messages per second", Better::More),
    known("accepted_per_second", "accepted per second", Better::More),
    known("capacity_per_second", "capacity, messages per second", Better::More),
    known("latency_ms.p50", "answer, ms, median", Better::Less),
    known("latency_ms.p99", "answer, ms, 99 %", Better::Less),
    known("latency_ms.p999", "answer, ms, 99.9 %", Better::Less),
    known("latency_ms.max", "answer, ms, longest", Better::Less),
    known("delivery_latency_ms.p50", "delivery, ms, median", Better::Less),
    known("delivery_latency_ms.p99", "delivery, ms, 99 %", Better::Less),
    known("memory_bytes_per_message", "memory per queued message, octets", Better::Less),
    known("pause_ms_empty.p50", "pause, ms, median, queue empty", Better::Less),
    known("pause_ms_full.p50", "pause, ms, median, queue full", Better::Less),
    known("release_ms_empty.p50", "release, ms, median, queue empty", Better::Less),
    known("release_ms_full.p50", "release, ms, median, queue full", Better::Less),
    known("first_delivery_ms", "first delivery after release, ms", Better::Less),
    known("full_rate_after_ms", "full rate after release, ms", Better::Less),
    known("full_rate_per_second", "full rate, messages per second", Better::More),
    known("cpu_us_per_megabyte", "CPU per megabyte, µs", Better::Less),
    known("baseline_cpu_us_per_megabyte", "the same of a bare copy, µs", Better::Neither),
    known("delivered_per_second_per_connection", "delivered per second, each connection", Better::More),
    known("connections_at_once", "connections at once", Better::Neither),
    known("attempts_per_message", "attempts per message", Better::Neither),
    known("syscalls_per_message", "system calls per message", Better::Less),
    known("context_switches_per_message", "context switches per message", Better::Less),
    known("read_write_calls_per_message", "file read/write calls per message", Better::Less),
    known("disk_write_bytes_per_message", "octets to disk per message", Better::Less),
    known("peak_rss_bytes", "peak memory, octets", Better::Less),
    known("messages", "messages accepted", Better::Neither),
    known("queued", "messages queued", Better::Neither),
    known("delivered", "messages delivered", Better::Neither),
    known("duplicates", "duplicates", Better::Less),
    known("lost", "lost", Better::Less),
    known("traced_acknowledged", "250s of the traced sample", Better::Neither),
    known("traced_synced_before", "of them, sent after the sync", Better::More),
    known("traced_violations", "of them, sent before the sync", Better::Less),
];

/// The first of those that are there stand on the cards.
const CARDS: usize = 8;

/// The value at a path of keys.
pub fn at(value: &Value, key: &str) -> Option<f64> {
    key.split('.').try_fold(value, |value, part| value.get(part))?.as_f64()
}

/// The main figures of each side.
pub fn cards(sides: &[Side<'_>]) -> String {
    let mut text = "<div class=cards>".to_owned();
    for side in sides {
        if sides.len() > 1 {
            text += &format!("<div class=side>{}</div>", escape(&side.name));
        }
        let found = KNOWN.iter().filter_map(|known| Some((known.label, at(side.figures, known.key)?)));
        for (label, value) in found.take(CARDS) {
            text += &format!("<div class=card><b>{}</b><span>{}</span></div>", number(value), escape(label));
        }
        if let Some(lost) = at(side.figures, "lost") {
            text += &format!("<div class=card><b>{}</b><span>lost</span></div>", number(lost));
        }
    }
    text + "</div>"
}

/// Every known figure, a column for each side.
pub fn table(sides: &[Side<'_>]) -> String {
    let heads: String = sides.iter().map(|side| format!("<th>{}</th>", escape(&side.name))).collect();
    let mut text = format!("<table><tr><th></th>{heads}</tr>");
    for known in KNOWN {
        let values: Vec<Option<f64>> = sides.iter().map(|side| at(side.figures, known.key)).collect();
        if values.iter().all(Option::is_none) {
            continue;
        }
        let cell = |value: &Option<f64>| format!("<td>{}</td>", value.map_or_else(|| "–".to_owned(), number));
        let cells: String = values.iter().map(cell).collect();
        text += &format!("<tr><td>{}</td>{cells}</tr>", escape(known.label));
    }
    text + "</table>"
}

/// The same for the terminal.
pub fn text(sides: &[Side<'_>]) -> String {
    let cell = |text: &str| format!("  {text:>28}");
    let mut lines = format!("{:<40}", "");
    lines.extend(sides.iter().map(|side| cell(&side.name)));
    lines.push('\n');
    for known in KNOWN {
        let values: Vec<Option<f64>> = sides.iter().map(|side| at(side.figures, known.key)).collect();
        if values.iter().any(Option::is_some) {
            let shown = |value: &Option<f64>| cell(&value.map_or_else(|| "–".to_owned(), number));
            lines += &format!("{:<40}{}\n", known.label, values.iter().map(shown).collect::<String>());
        }
    }
    lines
}

/// Lists that only some scenarios have: each as a table with the columns that its rows have.
pub fn details(name: &str, result: &Value) -> String {
    let mut text = String::new();
    let lists = result.as_object().into_iter().flatten().filter_map(|(key, value)| Some((key, value.as_array()?)));
    for (key, rows) in lists.filter(|(key, _)| !key.ends_with("_over_time") && *key != "rounds") {
        let Some(first) = rows.first().and_then(Value::as_object) else { continue };
        let flat = flatten(first);
        let columns: Vec<&str> = flat.iter().map(|(key, _)| key.as_str()).collect();
        let heads: String = columns.iter().map(|key| format!("<th>{}</th>", escape(&key.replace('_', " ")))).collect();
        let prefix = if name.is_empty() { String::new() } else { format!("{name}: ") };
        text += &format!("<h2>{}{}</h2><table><tr>{heads}</tr>", escape(&prefix), escape(&key.replace('_', " ")));
        for row in rows {
            let cell = |key: &&str| format!("<td>{}</td>", at(row, key).map_or_else(|| "–".to_owned(), number));
            text += &format!("<tr>{}</tr>", columns.iter().map(cell).collect::<String>());
        }
        text += "</table>";
    }
    text
}

fn flatten(object: &serde_json::Map<String, Value>) -> Vec<(String, f64)> {
    let mut found = Vec::new();
    for (key, value) in object {
        match value {
            Value::Object(inner) => {
                found.extend(flatten(inner).into_iter().map(|(inner, value)| (format!("{key}.{inner}"), value)));
            }
            _ => found.extend(value.as_f64().map(|value| (key.clone(), value))),
        }
    }
    found
}

/// The machine and what was asked for.
pub fn circumstances(name: &str, result: &Value) -> String {
    let mut rows = Vec::new();
    for part in ["machine", "asked"] {
        for (key, value) in result[part].as_object().into_iter().flatten() {
            let shown = match value {
                Value::Null => continue,
                Value::Array(words) => {
                    let words: Vec<&str> = words.iter().filter_map(Value::as_str).collect();
                    format!("<code>{}</code>", escape(&words.join(" ")))
                }
                Value::String(text) => escape(text),
                Value::Number(found) => found.as_f64().map_or_else(|| found.to_string(), number),
                other => escape(&other.to_string()),
            };
            rows.push(format!("<tr><td>{}</td><td>{shown}</td></tr>", escape(&key.replace('_', " "))));
        }
    }
    let prefix = if name.is_empty() { String::new() } else { format!(" of {}", escape(name)) };
    format!("<h2>Circumstances{prefix}</h2><table class=said>{}</table>", rows.concat())
}
