//! Results as one page of HTML: figures, comparison bars, what happened over time, the machine.
//!
//! The page is whole in itself: plots are inline SVG, the style is inline, and nothing in it names another file or host.
//! It is made from the JSON of any result, so a page can be made later, and of several results together.

mod bars;
mod figures;
mod plot;
mod sides;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use self::sides::{Side, sides};
use crate::cli::ReportArgs;
use crate::error::{Context, Result};

/// A result, and the name it has beside others.
pub struct Source {
    /// Empty when there is one result only.
    pub name: String,
    /// What `--json` wrote.
    pub result: Value,
}

/// `mailrace-perf report`: a page of results that were written before.
pub fn run(arguments: &ReportArgs) -> Result<()> {
    let mut sources = Vec::new();
    for path in &arguments.results {
        let text = fs::read(path).context(format_args!("read {}", path.display()))?;
        let result = serde_json::from_slice(&text).context(format_args!("understand {}", path.display()))?;
        let alone = arguments.results.len() == 1;
        let name = if alone { String::new() } else { stem(path) };
        sources.push(Source { name, result });
    }
    write(&sources, &arguments.html)?;
    print!("{}", figures::text(&all_sides(&sources)));
    Ok(())
}

/// Writes the page.
pub fn write(sources: &[Source], path: &Path) -> Result<()> {
    fs::write(path, page(sources)).context(format_args!("write {}", path.display()))
}

/// Where the page of a result stands: beside it.
pub fn beside(json: &Path) -> PathBuf {
    json.with_extension("html")
}

fn stem(path: &Path) -> String {
    path.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned())
}

fn all_sides(sources: &[Source]) -> Vec<Side<'_>> {
    sources.iter().flat_map(sides).collect()
}

/// The page.
pub fn page(sources: &[Source]) -> String {
    let sides = all_sides(sources);
    let scenario = |source: &Source| source.result["asked"]["scenario"].as_str().unwrap_or("limit").to_owned();
    let mut scenarios: Vec<String> = sources.iter().map(scenario).collect();
    scenarios.dedup();
    let title = scenarios.join(", ");
    let mut names: Vec<String> = sides.iter().map(|side| side.name.clone()).collect();
    names.dedup();
    let mut body = format!("<h1>{}</h1><p class=lead>{}</p>", escape(&title), escape(&names.join(" · ")));
    body += &figures::cards(&sides);
    if sides.len() > 1 {
        body += &format!("<h2>Side by side</h2>{}", bars::comparison(&sides));
    }
    body += &bars::cpu_split(&sides);
    for side in &sides {
        for (name, round) in side.shown() {
            body += &over_time(&format!("{}{name}", side.name), round);
        }
    }
    body += &format!("<h2>All figures</h2>{}", figures::table(&sides));
    for source in sources {
        body += &figures::details(&source.name, &source.result);
    }
    for source in sources {
        body += &figures::circumstances(&source.name, &source.result);
    }
    format!(
        "<!DOCTYPE html>\n<html lang=en><head><meta charset=utf-8><title>{} – mailrace-perf</title>\
         <meta name=viewport content=\"width=device-width\"><style>{}</style></head><body>{body}</body></html>\n",
        escape(&title),
        include_str!("style.css"),
    )
}

/// The plots of one round.
fn over_time(name: &str, round: &Value) -> String {
    let points = |list: &str, value: &str| -> Vec<(f64, f64)> {
        let all = round[list].as_array().map(Vec::as_slice).unwrap_or_default();
        // Where nothing happened there was no wait either.
        let told = |point: &&Value| value == "per_second" || point["per_second"] != 0.0;
        all.iter().filter(told).filter_map(|point| Some((point["second"].as_f64()?, point[value].as_f64()?))).collect()
    };
    let line = |name, class, list, value| plot::Series { name, class, points: points(list, value) };
    let rates = [
        line("accepted", "c1", "accepted_over_time", "per_second"),
        line("delivered", "c2", "delivered_over_time", "per_second"),
    ];
    let waits = [
        line("answer, median", "c1", "accepted_over_time", "p50"),
        line("answer, 99 %", "c1 dashed", "accepted_over_time", "p99"),
        line("delivery, median", "c2", "delivered_over_time", "p50"),
        line("delivery, 99 %", "c2 dashed", "delivered_over_time", "p99"),
    ];
    let cpu = [
        line("server, user", "c1", "cpu_over_time", "server_user"),
        line("server, kernel", "c3", "cpu_over_time", "server_system"),
        line("sink", "c4", "cpu_over_time", "sink"),
        line("generator", "c5", "cpu_over_time", "generator"),
    ];
    let memory = [line("server", "c1", "cpu_over_time", "rss_megabytes")];
    if rates.iter().all(|series| series.points.is_empty()) {
        return String::new();
    }
    let mut text = format!("<h2>Over time: {}</h2><div class=plots>", escape(name));
    text += &plot::lines("Messages per second", &rates);
    text += &plot::logarithmic("Wait, ms", &waits);
    text += &plot::stacked("CPU, percent of one core", &cpu);
    text += &plot::lines("Resident memory, MB", &memory);
    text + "</div>"
}

/// Text that is safe between tags and in quoted attributes.
pub fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            _ => safe.push(character),
        }
    }
    safe
}

/// A number as people read it: three significant digits, or whole with its thousands set apart.
pub fn number(value: f64) -> String {
    let size = value.abs();
    if size >= 1_000.0 {
        let digits = format!("{:.0}", size);
        let mut text = if value < 0.0 { "-".to_owned() } else { String::new() };
        for (index, digit) in digits.chars().enumerate() {
            if index > 0 && (digits.len() - index) % 3 == 0 {
                text.push('\u{202f}');
            }
            text.push(digit);
        }
        return text;
    }
    let decimals = if size == 0.0 || size.fract() == 0.0 || size >= 100.0 {
        0
    } else if size >= 10.0 {
        1
    } else if size >= 0.01 {
        2
    } else {
        4
    };
    let mut text = String::new();
    // Writing to a string doesn't fail.
    let _ = write!(text, "{value:.decimals$}");
    text
}

#[cfg(test)]
mod tests;
