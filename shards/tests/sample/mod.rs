//! Settings for a world without sockets and files, for whoever needs some: tests of the pure modules, the simulation, and
//! counted benches. What one of them depends on, it says itself, over these.

use mailrace_shards::settings::{
    ConnectionSettings, DnsSettings, LogSettings, RetrySettings, Settings, SmtpSettings, SpoolSettings, SyncPolicy,
};
use std::time::Duration;

/// One shard; no sources, pools, routes and limits; a retry after each minute, an end after an hour.
pub fn settings() -> Settings {
    Settings {
        data_dir: "unused".into(),
        hostname: "mailrace.test".into(),
        shards: 1,
        stop_within: Duration::from_secs(1),
        memory_bytes: 1 << 30,
        connections: ConnectionSettings { injecting: 1000, delivering: 1000 },
        smtp: SmtpSettings {
            listen: Vec::new(),
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
        retry: RetrySettings { intervals: vec![Duration::from_secs(60)], max_age: Duration::from_secs(3600) },
    }
}
