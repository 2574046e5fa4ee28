//! Bars that compare: each figure of all sides, and where the CPU time went.

use serde_json::Value;

use super::figures::{Better, KNOWN, at};
use super::sides::Side;
use super::{escape, number};

/// The longest bar, in percent of its track: the rest is for its number.
const FULL: f64 = 70.0;

/// A group of bars for each figure that has a better and a worse.
pub fn comparison(sides: &[Side<'_>]) -> String {
    let mut text = "<div class=bars>".to_owned();
    for known in KNOWN.iter().filter(|known| known.better != Better::Neither) {
        let values: Vec<(usize, f64)> =
            sides.iter().enumerate().filter_map(|(index, side)| Some((index, at(side.figures, known.key)?))).collect();
        let longest = values.iter().map(|(_, value)| *value).fold(0.0, f64::max);
        if values.len() < 2 || longest <= 0.0 {
            continue;
        }
        let better = if known.better == Better::Less { "less is better" } else { "more is better" };
        text += &format!("<div class=what>{} <span class=better>– {better}</span></div>", escape(known.label));
        let first = values[0].1;
        for (index, value) in values {
            let width = FULL * value / longest;
            let class = if index % 2 == 0 { "c1" } else { "c2" };
            let against = match index {
                0 => String::new(),
                _ if first > 0.0 => format!(" <span class=better>× {}</span>", number(value / first)),
                _ => String::new(),
            };
            text += &format!(
                "<div>{}</div><div class=track><div class=\"bar {class}\" style=\"width:{width:.2}%\"></div>\
                 <div>{}{against}</div></div>",
                escape(&sides[index].name),
                number(value)
            );
        }
    }
    text + "</div>"
}

/// The parts of a round's CPU time, in the order of their bars.
const PARTS: [(&str, &str, &str); 4] = [
    ("server_user", "server, user", "c1"),
    ("server_system", "server, kernel", "c3"),
    ("sink", "sink", "c4"),
    ("generator", "generator", "c5"),
];

/// The CPU time of each message, by who spent it, a bar for each round.
pub fn cpu_split(sides: &[Side<'_>]) -> String {
    let mut rows = Vec::new();
    for side in sides {
        for (index, round) in side.rounds.iter().enumerate() {
            let split = &round["cpu_split_us_per_message"];
            if split.is_object() {
                rows.push((format!("{}, round {}", side.name, index + 1), split));
            }
        }
    }
    if rows.is_empty() {
        return String::new();
    }
    let part = |split: &Value, key: &str| split[key].as_f64().unwrap_or(0.0);
    let total = |split: &Value| PARTS.iter().map(|(key, ..)| part(split, key)).sum::<f64>();
    let longest = rows.iter().map(|(_, split)| total(split)).fold(1e-9, f64::max);
    let legend: String = PARTS.iter().map(|(_, name, class)| format!("<i class={class}></i>{name}")).collect();
    let mut text = format!("<h2>CPU time per message, µs</h2><div class=legend>{legend}</div><div class=bars>");
    for (name, split) in rows {
        text += &format!("<div>{}</div><div class=track>", escape(&name));
        for (key, label, class) in PARTS {
            let value = part(split, key);
            let width = FULL * value / longest;
            text += &format!(
                "<div class=\"bar {class}\" style=\"width:{width:.2}%;margin-right:-.6em\" title=\"{label}: {} µs\">\
                 </div>",
                number(value)
            );
        }
        text += &format!("<div style=\"margin-left:.6em\">{}</div></div>", number(total(split)));
    }
    text + "</div><p class=note>The server's part is what counts; sink and generator share the machine with it.</p>"
}
