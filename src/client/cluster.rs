//! The cluster for people: what this engine knows of itself and of the others, and whether something is not as it should
//! be. Asks nobody.

use super::show::Cell::Of;
use super::show::{Column, members, rows};
use serde_json::{Value, json};

/// By how much clocks may differ. A rule ends on each node by its own clock, so it ends there that much early or late.
const SKEW_MILLIS_MAX: i64 = 1000;

const NODES: &[Column] = &[
    ("NODE", Of(&["node"])),
    ("STATE", Of(&["state"])),
    ("APPLIED", Of(&["applied"])),
    ("LAG", Of(&["lag"])),
    ("CLOCK", Of(&["clock"])),
    ("WAITED FOR", Of(&["pending_calls"])),
    ("ON PARTITION", Of(&["on_partition"])),
    ("VERSION", Of(&["version"])),
];

/// What `GET /v1/cluster` says: this engine's own members, then the nodes as a table.
#[must_use]
pub fn show(mut status: Value) -> String {
    let nodes = status.as_object_mut().and_then(|status| status.remove("nodes"));
    let mut nodes = nodes.and_then(|nodes| nodes.as_array().cloned()).unwrap_or_default();
    for node in &mut nodes {
        let skew = node.get("clock_skew_ms").and_then(Value::as_i64);
        node["clock"] = json!(skew.map(|millis| format!("{}{} s", sign(millis), seconds(millis))));
    }
    format!("{}\n{}", members(&status), rows(NODES, &nodes))
}

/// Whether all is well.
///
/// # Errors
/// What is not, a line for each.
pub fn judge(body: &[u8]) -> Result<(), String> {
    let status: Value = serde_json::from_slice(body).map_err(|error| format!("the answer is no JSON: {error}"))?;
    let word = |value: &Value, name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (own, state, why) = (word(&status, "node"), word(&status, "state"), word(&status, "why"));
    let mut wrong = Vec::new();
    if state != "following" {
        let why = if why.is_empty() { why } else { format!(": {why}") };
        wrong.push(format!("{own} does not follow etcd, but is {state}{why}"));
    }
    let holding = word(&status, "holding");
    if !holding.is_empty() {
        wrong.push(format!("{own} holds all mail: {holding}"));
    }
    for node in status.get("nodes").and_then(Value::as_array).into_iter().flatten() {
        let name = word(node, "node");
        if word(node, "state") == "lost" && name != own {
            let delivers = word(node, "on_partition") == "deliver";
            let meaning =
                if delivers { "it may deliver by old rules, and calls wait for it" } else { "it holds its mail" };
            wrong.push(format!("{name} is lost: {meaning}; if it never comes back: mailrace cluster forget {name}"));
        }
        let skew = node.get("clock_skew_ms").and_then(Value::as_i64).unwrap_or(0);
        if skew.saturating_abs() > SKEW_MILLIS_MAX {
            let direction = if skew > 0 { "ahead of" } else { "behind" };
            let text = format!("the clock of {name} is {} s {direction} that of {own}", seconds(skew));
            wrong.push(format!("{text}: rules end there that much {}", if skew > 0 { "early" } else { "late" }));
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n")) }
}

fn sign(millis: i64) -> &'static str {
    match millis {
        ..0 => "-",
        0 => "",
        1.. => "+",
    }
}

fn seconds(millis: i64) -> String {
    let millis = millis.unsigned_abs();
    format!("{}.{:03}", millis / 1000, millis % 1000)
}

#[cfg(test)]
mod tests {
    use super::{judge, show};
    use serde_json::{Value, json};

    fn status(state: &str, b: Value) -> Value {
        let a = json!({ "node": "a", "state": "live", "on_partition": "deliver", "applied": 42, "lag": 0,
            "clock_skew_ms": 0, "version": "0.1.0", "pending_calls": 0 });
        json!({ "node": "a", "cluster_id": "cdf818194e3a8c32", "revision": 45, "applied": 42, "state": state,
            "since": "2026-11-22T08:00:00Z", "nodes": [a, b] })
    }

    fn node(state: &str, partition: &str, skew: i64) -> Value {
        json!({ "node": "b", "state": state, "on_partition": partition, "applied": 40, "lag": 2,
            "clock_skew_ms": skew, "version": "0.1.0", "pending_calls": 3 })
    }

    #[test]
    fn nodes_are_a_table() {
        let text = show(status("following", node("live", "hold", -1_234)));
        let expected = "\
            applied     42\n\
            cluster_id  cdf818194e3a8c32\n\
            node        a\n\
            revision    45\n\
            since       2026-11-22T08:00:00Z\n\
            state       following\n\
            \n\
            NODE  STATE  APPLIED  LAG  CLOCK     WAITED FOR  ON PARTITION  VERSION\n\
            a     live        42    0  0.000 s            0  deliver       0.1.0\n\
            b     live        40    2  -1.234 s           3  hold          0.1.0\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn what_is_not_well_is_said() {
        let judged = |state, node| judge(status(state, node).to_string().as_bytes());
        assert_eq!(judged("following", node("live", "deliver", 1000)), Ok(()));
        assert_eq!(judged("following", node("stopped", "deliver", -1000)), Ok(()), "it has stopped on purpose");
        for (state, node, expected) in [
            ("cut off", node("live", "deliver", 0), "a does not follow etcd, but is cut off"),
            (
                "following",
                node("lost", "deliver", 0),
                "b is lost: it may deliver by old rules, and calls wait for it; if it never comes back: mailrace cluster \
                 forget b",
            ),
            (
                "following",
                node("lost", "hold", 0),
                "b is lost: it holds its mail; if it never comes back: mailrace cluster forget b",
            ),
            (
                "following",
                node("live", "hold", 1001),
                "the clock of b is 1.001 s ahead of that of a: rules end there that much early",
            ),
            (
                "following",
                node("live", "hold", -61_000),
                "the clock of b is 61.000 s behind that of a: rules end there that much late",
            ),
        ] {
            assert_eq!(judged(state, node), Err(expected.to_owned()));
        }
        let mut both = status("refused", node("lost", "hold", 0));
        both["why"] = json!("this is another etcd");
        both["holding"] = json!("no lease");
        let said = judge(both.to_string().as_bytes()).unwrap_err();
        assert!(
            said.starts_with(
                "a does not follow etcd, but is refused: this is another etcd\na holds all mail: no lease\n"
            )
        );
        assert_eq!(said.lines().count(), 3);
    }
}
