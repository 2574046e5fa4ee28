//! What a result compares: one server or two, each with its figures and its rounds.

use serde_json::Value;

use super::Source;

/// One server in one result.
pub struct Side<'a> {
    /// Its name, with that of the result where there are several.
    pub name: String,
    /// The object that holds its figures.
    pub figures: &'a Value,
    /// Its rounds; a result without rounds is a round itself.
    pub rounds: Vec<&'a Value>,
}

impl Side<'_> {
    /// The rounds worth drawing, with what tells them apart: all if they differ in their load, else the middle one.
    pub fn shown(&self) -> Vec<(String, &Value)> {
        let rate = |round: &Value| round["delivered_per_second"].as_f64().unwrap_or(0.0);
        if self.figures["loads"].is_array() {
            let percent = |index: usize| self.figures["loads"][index]["percent"].as_f64();
            let name = |index: usize| match index.checked_sub(1).and_then(percent) {
                Some(percent) => format!(", at {percent} % of its capacity"),
                None => ", at its capacity".to_owned(),
            };
            return self.rounds.iter().enumerate().map(|(index, round)| (name(index), *round)).collect();
        }
        let mut order: Vec<usize> = (0..self.rounds.len()).collect();
        order.sort_by(|one, other| rate(self.rounds[*one]).total_cmp(&rate(self.rounds[*other])));
        let middle = order.get(order.len() / 2);
        let name = |index: usize| match self.rounds.len() {
            1 => String::new(),
            count => format!(", round {} of {count}, the middle one", index + 1),
        };
        middle.map(|index| (name(*index), self.rounds[*index])).into_iter().collect()
    }
}

/// The servers in a result: those of a comparison, or the one that was run.
pub fn sides(source: &Source) -> Vec<Side<'_>> {
    let result = &source.result;
    let rounds: Vec<&Value> = result["rounds"].as_array().map(|all| all.iter().collect()).unwrap_or_default();
    let prefix = if source.name.is_empty() { String::new() } else { format!("{}: ", source.name) };
    let alternating = |offset: usize| rounds.iter().skip(offset).step_by(2).copied().collect::<Vec<_>>();
    let pairs = [("ours", "opponent"), ("with_changes", "without_changes"), ("client", "server")];
    let Some((one, other)) =
        pairs.into_iter().find(|(one, other)| result[one].is_object() && result[other].is_object())
    else {
        let mta = result["mta"].as_str().or_else(|| rounds.first()?["mta"].as_str()).unwrap_or("server");
        let name = format!("{prefix}{mta}");
        let rounds = if rounds.is_empty() || !rounds[0].is_object() { vec![result] } else { rounds };
        return vec![Side { name, figures: result, rounds }];
    };
    [(one, 0), (other, 1)]
        .map(|(key, offset)| {
            let rounds: Vec<&Value> =
                alternating(offset).into_iter().filter(|round| round["mta"].is_string()).collect();
            let mta = rounds.first().and_then(|round| round["mta"].as_str());
            let name = match (key, mta) {
                ("client", _) => format!("{prefix}perf's own client"),
                ("server", _) => format!("{prefix}{}", result["mta"].as_str().unwrap_or("server")),
                ("ours", Some(mta)) => format!("{prefix}{mta}"),
                ("opponent", Some(mta)) => format!("{prefix}{mta} (opponent)"),
                (key, mta) => format!("{prefix}{} {}", mta.unwrap_or("server"), key.replace('_', " ")),
            };
            Side { name, figures: &result[key], rounds }
        })
        .into()
}
