//! Every kind of rule, with the criteria that each can name, as calls of the two REST dialects.
//!
//! All mail of a round has the round's recipient, domain, tag, campaign and tenant, so each of these covers all of it.

use serde::Serialize;
use serde_json::{Value, json};

use super::super::http::Client;
use crate::error::Result;

/// A kind of rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum Kind {
    /// MailerQ: hold.
    Pause,
    /// MailerQ: forced error 4xx, defers.
    #[value(name = "error_4xx")]
    #[serde(rename = "error_4xx")]
    Error4xx,
    /// MailerQ: forced error 5xx, ends.
    #[value(name = "error_5xx")]
    #[serde(rename = "error_5xx")]
    Error5xx,
    /// MailerQ: forced error 2xx or 3xx, ends.
    #[value(name = "error_2xx")]
    #[serde(rename = "error_2xx")]
    Error2xx,
    /// MailerQ: suppression of an address.
    SuppressAddress,
    /// MailerQ: suppression of a domain.
    SuppressDomain,
    /// KumoMTA: suspension of queues.
    Suspend,
    /// KumoMTA: suspension of one egress path.
    SuspendReadyQ,
    /// KumoMTA: administrative bounce.
    Bounce,
}

/// All kinds, in the order of the table.
pub const ALL: [Kind; 9] = [
    Kind::Pause,
    Kind::Error4xx,
    Kind::Error5xx,
    Kind::Error2xx,
    Kind::SuppressAddress,
    Kind::SuppressDomain,
    Kind::Suspend,
    Kind::SuspendReadyQ,
    Kind::Bounce,
];

/// What the mail of a round can be named by.
#[derive(Clone, Debug)]
pub struct Names {
    /// Domain of the recipient.
    pub domain: String,
    /// The recipient.
    pub recipient: String,
    /// Tag of each message.
    pub tag: String,
    /// Campaign of each message.
    pub campaign: String,
    /// Tenant of each message.
    pub tenant: String,
    /// The egress path that leads to the domain.
    pub path: String,
}

/// A rule call, and the one that takes it back.
#[derive(Clone, Debug, PartialEq)]
pub struct RuleCall {
    /// Where.
    pub path: &'static str,
    /// What.
    pub body: Value,
}

impl Kind {
    /// Its name in the table.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Pause => "pause",
            Kind::Error4xx => "error 4xx",
            Kind::Error5xx => "error 5xx",
            Kind::Error2xx => "error 2xx/3xx",
            Kind::SuppressAddress => "suppress address",
            Kind::SuppressDomain => "suppress domain",
            Kind::Suspend => "suspend",
            Kind::SuspendReadyQ => "suspend-ready-q",
            Kind::Bounce => "bounce",
        }
    }

    /// Whether the mail it covers is still there when it is taken back.
    pub fn keeps(self) -> bool {
        matches!(self, Kind::Pause | Kind::Error4xx | Kind::Suspend | Kind::SuspendReadyQ)
    }

    /// The call that makes such a rule over the mail of a round; which criteria it names changes with the round.
    pub fn call(self, names: &Names, round: u32) -> RuleCall {
        let Names { domain, recipient, tag, campaign, tenant, path } = names;
        let turn = |bodies: &[Value]| bodies[round as usize % bodies.len()].clone();
        let criteria =
            || turn(&[json!({"domain": domain}), json!({"tag": tag}), json!({"domain": domain, "tag": tag})]);
        let error = |codes: [u16; 2]| {
            let code = codes[(round / 3) as usize % 2];
            with(criteria(), &json!({"code": code, "description": "the gate was closed"}))
        };
        let suppression = |kind, value| json!({"type": kind, "value": value, "code": 550, "description": "not wanted"});
        let queues = || {
            let body = turn(&[
                json!({"domain": domain}),
                json!({"campaign": campaign, "tenant": tenant}),
                json!({"tenant": tenant}),
                json!({"queue_names": [format!("{campaign}:{tenant}@{domain}")]}),
            ]);
            with(body, &json!({"reason": "the gate was closed"}))
        };
        let (path, body) = match self {
            Kind::Pause => ("/v1/pauses", criteria()),
            Kind::Error4xx => ("/v1/errors", error([451, 421])),
            Kind::Error5xx => ("/v1/errors", error([550, 554])),
            Kind::Error2xx => ("/v1/errors", error([250, 354])),
            Kind::SuppressAddress => ("/v1/suppressions", suppression("address", recipient)),
            Kind::SuppressDomain => ("/v1/suppressions", suppression("domain", domain)),
            Kind::Suspend => ("/api/admin/suspend/v1", queues()),
            Kind::SuspendReadyQ => {
                ("/api/admin/suspend-ready-q/v1", json!({"name": path, "reason": "the gate was closed"}))
            }
            Kind::Bounce => ("/api/admin/bounce/v1", queues()),
        };
        RuleCall { path, body }
    }
}

impl RuleCall {
    /// Takes back what `answer` says was made.
    pub fn undo(&self, client: &mut Client, answer: &Value) -> Result<()> {
        let body = if self.path.starts_with("/api/admin/") { json!({"id": answer["id"]}) } else { self.body.clone() };
        client.must("DELETE", self.path, &body).map(drop)
    }
}

/// The members of both.
fn with(mut body: Value, more: &Value) -> Value {
    if let (Some(body), Some(more)) = (body.as_object_mut(), more.as_object()) {
        body.extend(more.clone());
    }
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_names_the_mail_of_its_round_and_nothing_wider() {
        let names = Names {
            domain: "d.test".into(),
            recipient: "r@d.test".into(),
            tag: "t".into(),
            campaign: "c".into(),
            tenant: "n".into(),
            path: "unspecified->127.0.0.1:25@smtp_client".into(),
        };
        let criteria = ["domain", "tag", "value", "campaign", "tenant", "queue_names", "name"];
        for kind in ALL {
            let bodies: Vec<Value> = (0..12).map(|round| kind.call(&names, round).body).collect();
            for body in &bodies {
                let named = criteria.iter().filter(|name| !body[**name].is_null()).count();
                assert!(named > 0, "{kind:?} covers everything: {body}");
            }
            let many = matches!(kind, Kind::SuppressAddress | Kind::SuppressDomain | Kind::SuspendReadyQ);
            assert_eq!(bodies.iter().all(|body| *body == bodies[0]), many, "{kind:?}");
        }
    }
}
