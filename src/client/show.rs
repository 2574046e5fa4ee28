//! Answers for people: plain tables and lists of members. Whatever the server says is text here: no octet of it
//! reaches the terminal as a command.

use super::arguments::ClientCommand;
use serde_json::Value;

/// A column: its head, and where its cells come from.
pub(super) type Column = (&'static str, Cell);

/// Where a cell comes from.
#[derive(Clone, Copy)]
pub(super) enum Cell {
    /// A member, or members inside each other.
    Of(&'static [&'static str]),
    /// The members named, as `name=value`, those that are set.
    Pairs(&'static [&'static str]),
    /// All members of an object, as `name=value`.
    All(&'static str),
    /// When a rule is in force, as `--window` takes it.
    Windows,
}

use Cell::{All, Of, Pairs, Windows};

const RULE_SCOPE: Cell = Pairs(&["domain", "ip", "mta", "pool", "tag", "cluster"]);
const QUEUE_SCOPE: Cell =
    Pairs(&["name", "campaign", "tenant", "domain", "routing_domain", "queue_names", "reason", "cluster"]);

const PAUSES: &[Column] = &[
    ("ID", Of(&["id"])),
    ("COVERS", RULE_SCOPE),
    ("HOLDS", Of(&["matched"])),
    ("START", Of(&["start"])),
    ("EXPIRE", Of(&["expire"])),
    ("WINDOWS", Windows),
];
const ERRORS: &[Column] = &[
    ("ID", Of(&["id"])),
    ("COVERS", RULE_SCOPE),
    ("ANSWER", Pairs(&["code", "extended", "description"])),
    ("ENDED", Of(&["ended"])),
    ("START", Of(&["start"])),
    ("EXPIRE", Of(&["expire"])),
    ("WINDOWS", Windows),
];
const SUPPRESSIONS: &[Column] = &[
    ("VALUE", Of(&["value"])),
    ("TYPE", Of(&["type"])),
    ("CODE", Of(&["code"])),
    ("EXTENDED", Of(&["extended"])),
    ("DESCRIPTION", Of(&["description"])),
];
const SUSPENSIONS: &[Column] = &[
    ("ID", Of(&["id"])),
    ("COVERS", QUEUE_SCOPE),
    ("HOLDS", Of(&["matched"])),
    ("START", Of(&["start"])),
    ("LEFT", Of(&["duration"])),
    ("WINDOWS", Windows),
];
const BOUNCES: &[Column] = &[
    ("ID", Of(&["id"])),
    ("COVERS", QUEUE_SCOPE),
    ("ENDED", Of(&["total_bounced"])),
    ("START", Of(&["start"])),
    ("LEFT", Of(&["duration"])),
    ("WINDOWS", Windows),
];
const RULES: &[Column] = &[
    ("ID", Of(&["id"])),
    ("KIND", Of(&["kind"])),
    ("COVERS", All("scope")),
    ("ACTION", All("action")),
    ("HOLDS", Of(&["held"])),
    ("ENDED", Of(&["ended"])),
    ("END", Of(&["validity", "end"])),
    ("BY", Of(&["origin", "token"])),
];
const AUDIT: &[Column] = &[
    ("NUMBER", Of(&["sequence"])),
    ("TIME", Of(&["time"])),
    ("TOKEN", Of(&["token"])),
    ("PEER", Of(&["peer"])),
    ("WHAT", Of(&["what"])),
    ("ID", Of(&["after", "id"])),
    ("ID BEFORE", Of(&["before", "id"])),
];
const QUEUES: &[Column] = &[
    ("DESTINATION", Of(&["domain"])),
    ("TOTAL", Of(&["total"])),
    ("HELD", Of(&["held"])),
    ("DUE", Of(&["due"])),
    ("WAITING", Of(&["waiting"])),
    ("5", Of(&["ages", "5"])),
    ("10", Of(&["ages", "10"])),
    ("20", Of(&["ages", "20"])),
    ("40", Of(&["ages", "40"])),
    ("80", Of(&["ages", "80"])),
    ("160", Of(&["ages", "160"])),
    ("320", Of(&["ages", "320"])),
    ("640", Of(&["ages", "640"])),
    ("1280", Of(&["ages", "1280"])),
    ("1280+", Of(&["ages", "1280+"])),
];

/// The answer to a command.
#[must_use]
pub fn answer(command: &ClientCommand, body: &[u8]) -> String {
    let columns = match command {
        ClientCommand::Pause(_) => PAUSES,
        ClientCommand::Error(_) => ERRORS,
        ClientCommand::Suppress(_) => SUPPRESSIONS,
        ClientCommand::Suspend(_) => SUSPENSIONS,
        ClientCommand::Bounce(_) => BOUNCES,
        ClientCommand::Queue { .. } => QUEUES,
        ClientCommand::Rules { .. } => RULES,
        ClientCommand::Audit { .. } => AUDIT,
        ClientCommand::Message { .. } | ClientCommand::Cluster { .. } => &[],
    };
    match serde_json::from_slice(body) {
        Ok(Value::Array(items)) => rows(columns, &items),
        Ok(status) if matches!(command, ClientCommand::Cluster { action: None, .. }) => super::cluster::show(status),
        Ok(object @ Value::Object(_)) => members(&object),
        // KumoMTA's dialect answers a removal with words.
        _ => printable(&String::from_utf8_lossy(body)).trim_end().to_owned() + "\n",
    }
}

pub(super) fn rows(columns: &[Column], items: &[Value]) -> String {
    let cell = |item: &Value, cell: Cell| match cell {
        Of(path) => text(path.iter().try_fold(item, |value, name| value.get(name)).unwrap_or(&Value::Null)),
        Pairs(names) => pairs(names.iter().map(|name| (*name, item.get(name).unwrap_or(&Value::Null)))),
        All(name) => {
            let members = item.get(name).and_then(Value::as_object);
            pairs(members.into_iter().flatten().map(|(name, value)| (name.as_str(), value)))
        }
        Windows => {
            let windows = item.get("windows").and_then(Value::as_array).into_iter().flatten();
            let one = |window: &Value| {
                let [days, from, to, zone] = ["days", "from", "to", "tz"].map(|name| text(&window[name]));
                format!("{days} {from}-{to} {zone}")
            };
            windows.map(one).collect::<Vec<_>>().join("; ")
        }
    };
    let heads: Vec<_> = columns.iter().map(|(head, _)| *head).collect();
    let cells: Vec<Vec<_>> =
        items.iter().map(|item| columns.iter().map(|(_, source)| cell(item, *source)).collect()).collect();
    table(&heads, &cells)
}

fn pairs<'a>(members: impl Iterator<Item = (&'a str, &'a Value)>) -> String {
    let set = members.filter(|(_, value)| !matches!(value, Value::Null | Value::Bool(false)));
    let shown = set.map(|(name, value)| (name, text(value))).filter(|(_, text)| !text.is_empty());
    shown.map(|(name, text)| format!("{name}={text}")).collect::<Vec<_>>().join(" ")
}

/// The members of an object, one a line; those that are lists of objects below their name.
pub(super) fn members(object: &Value) -> String {
    let mut out = String::new();
    let Some(object) = object.as_object() else { return text(object) + "\n" };
    let is_list = |value: &Value| value.as_array().is_some_and(|items| items.iter().any(Value::is_object));
    let width = object.iter().filter(|(_, value)| !is_list(value)).map(|(name, _)| name.len()).max().unwrap_or(0);
    for (name, value) in object {
        if !is_list(value) {
            out.push_str(format!("{name:<width$}  {}", text(value)).trim_end());
            out.push('\n');
            continue;
        }
        out.push_str(&format!("{name}:\n"));
        for item in value.as_array().into_iter().flatten() {
            let lines = members(item);
            for (index, line) in lines.lines().enumerate() {
                out.push_str(&format!("  {} {line}\n", if index == 0 { '-' } else { ' ' }));
            }
        }
    }
    out
}

/// A value in a cell.
fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => printable(text).replace('\n', "?"),
        Value::Array(items) => items.iter().map(text).collect::<Vec<_>>().join(","),
        Value::Object(_) => printable(&value.to_string()),
        other => other.to_string(),
    }
}

/// With a question mark for each character that a terminal would obey; line ends stay.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { '?' } else { c }).collect()
}

/// Columns as wide as they need, those of numbers to the right; columns without any content are left out.
#[must_use]
pub fn table(heads: &[&str], rows: &[Vec<String>]) -> String {
    let width = |at: usize, head: &str| {
        rows.iter().map(|row| row[at].chars().count()).max().unwrap_or(0).max(head.chars().count())
    };
    let columns: Vec<_> = heads
        .iter()
        .enumerate()
        .filter(|(at, _)| rows.is_empty() || rows.iter().any(|row| !row[*at].is_empty()))
        .map(|(at, head)| {
            let is_number = |cell: &str| !cell.is_empty() && cell.bytes().all(|octet| octet.is_ascii_digit());
            (at, width(at, head), !rows.is_empty() && rows.iter().all(|row| is_number(&row[at])))
        })
        .collect();
    let line = |cell: &dyn Fn(usize) -> String| {
        let cells = columns.iter().map(|(at, width, right)| {
            let cell = cell(*at);
            if *right { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    let head = line(&|at| heads[at].to_owned());
    rows.iter().fold(head, |text, row| text + &line(&|at| row[at].clone()))
}

#[cfg(test)]
mod tests {
    use super::{PAUSES, QUEUES, RULES, members, rows, table};
    use serde_json::json;

    #[test]
    fn tables() {
        let row = |cells: &[&str]| cells.iter().map(|cell| (*cell).to_owned()).collect::<Vec<_>>();
        for (rows, expected) in [
            (vec![], "NAME  N  NOTE\n"),
            (vec![row(&["a", "1", ""]), row(&["longer", "20", ""])], "NAME     N\na        1\nlonger  20\n"),
            (vec![row(&["ä", "x", "y"])], "NAME  N  NOTE\nä     x  y\n"),
        ] {
            assert_eq!(table(&["NAME", "N", "NOTE"], &rows), expected);
        }
    }

    #[test]
    fn answers_become_tables() {
        let pause = json!({ "id": "p1", "domain": "a.example", "cluster": false, "matched": 3 });
        let window = json!({ "id": "p2", "windows": [
            { "days": ["mon", "fri"], "from": "22:00", "to": "08:00", "tz": "Europe/Amsterdam" }] });
        assert!(rows(PAUSES, &[window]).ends_with("  mon,fri 22:00-08:00 Europe/Amsterdam\n"));
        assert_eq!(rows(PAUSES, &[pause]), "ID  COVERS            HOLDS\np1  domain=a.example      3\n");
        let queue = json!({ "domain": "a.example", "total": 12, "held": 0, "due": 12, "waiting": 0,
            "ages": { "5": 12, "1280+": 0 } });
        let text = rows(QUEUES, &[queue]);
        assert!(text.starts_with("DESTINATION  TOTAL  HELD  DUE  WAITING   5  1280+\n"), "{text}");
        let rule = json!({ "id": "r", "kind": "error", "scope": { "tag": "t" }, "action": { "do": "fail", "code": 550 },
            "origin": { "token": "admin\u{1b}[2J" } });
        let text = rows(RULES, &[rule]);
        assert!(text.contains("tag=t") && text.contains("code=550 do=fail") && text.contains("admin?[2J"), "{text}");
    }

    #[test]
    fn objects_become_lines() {
        let object = json!({ "matched": 2, "dry_run": true, "destinations": [{ "domain": "a", "count": 2 }] });
        assert_eq!(members(&object), "destinations:\n  - count   2\n    domain  a\ndry_run  true\nmatched  2\n");
    }
}
