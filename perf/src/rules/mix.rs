//! Rule changes of every kind that cover no mail of the generator: what is made, and how it is taken back.
//!
//! Nothing made here is ever in force for a message: what it costs is the change alone, and a fuller table.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};

use super::http::Client;
use crate::error::{Failure, Result};

/// How many rules stand before the oldest is taken back.
const STANDING: u64 = 50;

/// Whether a call made or removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// A rule was made.
    Post,
    /// A rule was removed.
    Delete,
}

/// One call.
#[derive(Debug)]
struct Order {
    change: Change,
    method: &'static str,
    path: &'static str,
    body: Value,
}

/// Rules made in turn, each removed [`STANDING`] rules later.
pub struct Mix {
    /// Sets the names of its rules apart from those of other mixes.
    label: String,
    /// They are rules of a whole cluster.
    shared: bool,
    /// Ids of those that are removed by their id.
    ids: Mutex<HashMap<u64, String>>,
}

impl Mix {
    /// No rule yet.
    pub fn new(label: &str) -> Mix {
        Mix { label: label.to_owned(), shared: false, ids: Mutex::default() }
    }

    /// No rule yet; each will be one of a whole cluster.
    pub fn shared(label: &str) -> Mix {
        Mix { shared: true, ..Mix::new(label) }
    }

    /// Makes call `number` and hears its answer.
    pub fn call(&self, number: u64, client: &mut Client) -> Result<Change> {
        let mut order = self.order(number)?;
        // KumoMTA's dialect removes by the id alone, which is that of one rule.
        if self.shared && order.body["id"].is_null() {
            order.body["cluster"] = json!(true);
        }
        let answer = client.must(order.method, order.path, &order.body)?;
        if order.change == Change::Post && removed_by_id(order.path) {
            let id = answer["id"].as_str().ok_or_else(|| Failure(format!("{} answered {answer}", order.path)))?;
            self.ids().insert(number / 2, id.to_owned());
        }
        Ok(order.change)
    }

    fn ids(&self) -> MutexGuard<'_, HashMap<u64, String>> {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Even numbers make a rule, odd ones remove an old one (at the beginning, when there is none, make one that stays).
    fn order(&self, number: u64) -> Result<Order> {
        let rule = number / 2;
        if number.is_multiple_of(2) {
            let (path, body) = self.rule(rule);
            return Ok(Order { change: Change::Post, method: "POST", path, body });
        }
        let Some(old) = rule.checked_sub(STANDING) else {
            let body = json!({"domain": format!("standing-{rule}.{}.test", self.label)});
            return Ok(Order { change: Change::Post, method: "POST", path: "/v1/pauses", body });
        };
        let (path, mut body) = self.rule(old);
        if removed_by_id(path) {
            let id = self.ids().remove(&old);
            let id = id.ok_or_else(|| Failure(format!("no answer to a {path} after {STANDING} further rules")))?;
            body = json!({"id": id});
        }
        Ok(Order { change: Change::Delete, method: "DELETE", path, body })
    }

    /// The kinds in turn, and what each names.
    fn rule(&self, number: u64) -> (&'static str, Value) {
        let domain = format!("d{number}.{}.test", self.label);
        let name = format!("{}-{number}", self.label);
        let reason = "a change beside the load";
        match number % 10 {
            0 => ("/v1/pauses", json!({"domain": domain})),
            1 => ("/v1/errors", json!({"tag": name, "code": 550, "description": reason})),
            2 => ("/v1/suppressions", json!({"value": format!("u@{domain}"), "type": "address", "code": 550})),
            3 => ("/api/admin/suspend/v1", json!({"campaign": name, "reason": reason})),
            4 => ("/v1/pauses", json!({"tag": name, "domain": domain})),
            5 => ("/v1/errors", json!({"domain": domain, "code": 451})),
            6 => ("/v1/suppressions", json!({"value": domain, "type": "domain", "code": 550})),
            7 => ("/api/admin/bounce/v1", json!({"tenant": name, "reason": reason})),
            8 => ("/v1/errors", json!({"tag": name, "domain": domain, "code": 250})),
            _ => {
                let path = format!("unspecified->mx{number}.{}.test@smtp_client", self.label);
                ("/api/admin/suspend-ready-q/v1", json!({"name": path, "reason": reason}))
            }
        }
    }
}

/// KumoMTA's dialect removes by id.
fn removed_by_id(path: &str) -> bool {
    path.starts_with("/api/admin/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_of_every_kind_is_removed_as_it_was_made() {
        let mix = Mix::new("test");
        let mut standing: Vec<(&str, Value)> = Vec::new();
        let mut removed = HashMap::new();
        for number in 0..2_000 {
            let order = mix.order(number).unwrap();
            if order.change == Change::Post {
                let mut name = order.body.clone();
                if removed_by_id(order.path) {
                    name = json!({"id": format!("id-{number}")});
                    mix.ids().insert(number / 2, format!("id-{number}"));
                }
                standing.push((order.path, name));
            } else {
                let made = standing.iter().position(|rule| *rule == (order.path, order.body.clone()));
                standing.remove(made.unwrap_or_else(|| panic!("{order:?} removes what does not stand")));
                *removed.entry(order.path).or_insert(0) += 1;
            }
            assert!(standing.len() as u64 <= 2 * STANDING + 1, "rules are left behind");
        }
        assert_eq!(removed.len(), 6, "{removed:?}");
    }

    #[test]
    fn a_rule_whose_answer_is_missing_is_not_removed_by_a_guess() {
        let mix = Mix::new("test");
        assert!(mix.order(2 * (STANDING + 3) + 1).is_err());
    }
}
