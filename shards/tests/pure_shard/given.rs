//! What the tests put into the world: settings, limits, failures, addresses.

#[path = "../sample/mod.rs"]
mod sample;

use mailrace_shards::event::{Host, Resolved};
use mailrace_shards::outcome::{EnhancedCode, Response, Verb};
use mailrace_shards::rules::{Answer, Kind, Rule, Scope, Validity};
use mailrace_shards::settings::{RetrySettings, Settings, SmtpSettings, SourceSettings};
use mailrace_shards::smtp::classify::{Failure, FailureKind};
use mailrace_shards::time::Instant;
use std::net::SocketAddr;
use std::time::Duration;

/// Retries after one, two and five minutes, an end after an hour; no limits, no sources.
pub fn settings() -> Settings {
    let settings = sample::settings();
    Settings {
        smtp: SmtpSettings { listen: vec!["192.0.2.1:2525".parse().unwrap()], ..settings.smtp },
        retry: RetrySettings {
            intervals: vec![Duration::from_secs(60), Duration::from_secs(120), Duration::from_secs(300)],
            max_age: Duration::from_secs(3600),
        },
        ..settings
    }
}

pub fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// The peer said this.
pub fn reply(code: u16, verb: Verb) -> Failure {
    let class = u8::try_from(code / 100).unwrap();
    let enhanced = Some(EnhancedCode { class, subject: 1, detail: 1 });
    Failure {
        kind: if code == 421 { FailureKind::Closing } else { FailureKind::Refused },
        response: Response { code, enhanced, text: "said the peer".into(), verb },
        maybe_delivered: false,
    }
}

pub fn own(kind: FailureKind, verb: Verb) -> Failure {
    Failure::own(kind, verb, "as the test wants it")
}

/// An address of a host, by number.
pub fn peer(number: u8) -> SocketAddr {
    SocketAddr::from(([198, 51, 100, number], 25))
}

/// The source that sends from 192.0.2.`number`.
pub fn source(number: u8) -> SourceSettings {
    SourceSettings {
        name: format!("ip-{number}").into(),
        address: Some([192, 0, 2, number].into()),
        address_v6: None,
        ehlo: format!("ip-{number}").into(),
    }
}

/// All of one domain.
pub fn domain(name: &str) -> Scope {
    Scope { domain: Some(name.into()), ..Scope::default() }
}

/// The first rule, without an end.
/// What a rule answers.
pub fn answer(code: u16) -> Answer {
    let class = u8::try_from(code / 100).unwrap();
    Answer::new(code, Some(EnhancedCode { class, subject: 7, detail: 0 }), "by order".into()).unwrap()
}

pub fn rule(id: &str, kind: Kind, scope: Scope) -> Rule {
    Rule { id: id.into(), order: 1, kind, scope, validity: Validity::always(), by: "tester".into() }
}

/// A site of hosts with one address each.
pub fn site(names: &[(&str, SocketAddr)]) -> Resolved {
    Resolved {
        hosts: names
            .iter()
            .map(|(name, peer)| Host { name: (*name).into(), addresses: [*peer].into_iter().collect() })
            .collect(),
        names: names.iter().map(|(name, _)| (*name).into()).collect(),
        expires: Instant(u64::MAX),
    }
}
