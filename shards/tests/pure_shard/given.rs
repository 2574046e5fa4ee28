//! What the tests put into the world: settings, limits, failures, addresses.

use mailrace_shards::event::{Host, Resolved};
use mailrace_shards::outcome::{EnhancedCode, Response, Verb};
use mailrace_shards::settings::{
    ConnectionSettings, DnsSettings, LimitPer, LimitSettings, LogSettings, RetrySettings, Settings, SmtpSettings,
    SpoolSettings, SyncPolicy,
};
use mailrace_shards::smtp::classify::{Failure, FailureKind};
use mailrace_shards::time::Instant;
use std::net::SocketAddr;
use std::time::Duration;

/// Retries after one, two and five minutes, an end after an hour; no limits, no sources.
pub fn settings() -> Settings {
    Settings {
        data_dir: "unused".into(),
        hostname: "mailrace.test".into(),
        shards: 1,
        stop_within: Duration::from_secs(1),
        memory_bytes: 1 << 30,
        connections: ConnectionSettings { injecting: 1000, delivering: 1000 },
        smtp: SmtpSettings {
            listen: vec!["192.0.2.1:2525".parse().unwrap()],
            relay_from: Vec::new(),
            users_file: None,
            max_message_bytes: 1 << 20,
            max_recipients: 100,
            tls: None,
            trust_headers_from: Vec::new(),
            campaign_header: "X-Campaign".into(),
            tenant_header: "X-Tenant".into(),
        },
        spool: SpoolSettings { sync: SyncPolicy::Always, body_memory_bytes: 1 << 20, min_free_bytes: 0 },
        log: LogSettings { rotate_bytes: 1 << 30, keep_bytes: 0 },
        dns: DnsSettings { servers: Vec::new() },
        allow_private: true,
        sources: Vec::new(),
        pools: Vec::new(),
        routes: Vec::new(),
        limits: Vec::new(),
        retry: RetrySettings {
            intervals: vec![Duration::from_secs(60), Duration::from_secs(120), Duration::from_secs(300)],
            max_age: Duration::from_secs(3600),
        },
    }
}

pub fn limit(per: LimitPer) -> LimitSettings {
    LimitSettings {
        per,
        domain: None,
        site: None,
        source: None,
        pool: None,
        connections: None,
        connection_rate: None,
        message_rate: None,
        messages_per_connection: None,
        idle_timeout: None,
        tls: None,
        lanes: None,
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
