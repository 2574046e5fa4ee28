//! What a SIGHUP can change, and what it cannot.

use super::Config;
use mailrace_shards::path::LimitTable;

/// `new` with everything that needs a restart left as it is in `running`, and the keys that were left so.
#[must_use]
pub fn reload(running: &Config, mut new: Config) -> (Config, Vec<&'static str>) {
    let mut kept = Vec::new();
    let (old, settings) = (&running.settings, &mut new.settings);
    keep(&mut kept, "server.data_dir", &old.data_dir, &mut settings.data_dir);
    keep(&mut kept, "server.hostname", &old.hostname, &mut settings.hostname);
    keep(&mut kept, "server.shards", &old.shards, &mut settings.shards);
    keep(&mut kept, "limits.memory_bytes", &old.memory_bytes, &mut settings.memory_bytes);
    let injecting = &mut settings.connections.injecting;
    keep(&mut kept, "smtp.max_connections", &old.connections.injecting, injecting);
    // The deliveries' share follows from that and from the number of shards.
    settings.connections = old.connections;
    keep(&mut kept, "smtp.listen", &old.smtp.listen, &mut settings.smtp.listen);
    keep(&mut kept, "spool.sync", &old.spool.sync, &mut settings.spool.sync);
    keep(&mut kept, "spool.body_memory_bytes", &old.spool.body_memory_bytes, &mut settings.spool.body_memory_bytes);
    // The threads of the spool and the resolvers of the cores are given these when they begin.
    keep(&mut kept, "spool.min_free_bytes", &old.spool.min_free_bytes, &mut settings.spool.min_free_bytes);
    keep(&mut kept, "dns.servers", &old.dns.servers, &mut settings.dns.servers);
    keep(&mut kept, "egress.allow_private", &old.allow_private, &mut settings.allow_private);
    keep(&mut kept, "api.listen", &running.api.listen, &mut new.api.listen);
    // Other engines count on what this one has announced of itself.
    keep(&mut kept, "cluster", &running.cluster, &mut new.cluster);
    keep_lanes(&mut kept, running, &mut new);
    (new, kept)
}

/// A domain cannot be spread over more cores while they run: the others lack its rules. Over fewer it can.
fn keep_lanes(kept: &mut Vec<&'static str>, running: &Config, new: &mut Config) {
    let old = LimitTable::new(&running.settings.limits, 0);
    let mut grown = false;
    for limit in &mut new.settings.limits {
        let was = limit.domain.as_deref().map_or(1, |domain| old.lanes(domain));
        if limit.lanes.is_some_and(|lanes| lanes > was) {
            limit.lanes = Some(was);
            grown = true;
        }
    }
    if grown {
        kept.push("limit.lanes");
    }
}

fn keep<T: PartialEq + Clone>(kept: &mut Vec<&'static str>, key: &'static str, old: &T, new: &mut T) {
    if old != new {
        kept.push(key);
        *new = old.clone();
    }
}
