//! What a SIGHUP can change, and what it cannot.

use super::Config;

/// `new` with everything that needs a restart left as it is in `running`, and the keys that were left so.
#[must_use]
pub fn reload(running: &Config, mut new: Config) -> (Config, Vec<&'static str>) {
    let mut kept = Vec::new();
    let (old, settings) = (&running.settings, &mut new.settings);
    keep(&mut kept, "server.data_dir", &old.data_dir, &mut settings.data_dir);
    keep(&mut kept, "server.hostname", &old.hostname, &mut settings.hostname);
    keep(&mut kept, "server.shards", &old.shards, &mut settings.shards);
    keep(&mut kept, "limits.memory_bytes", &old.memory_bytes, &mut settings.memory_bytes);
    keep(&mut kept, "smtp.listen", &old.smtp.listen, &mut settings.smtp.listen);
    keep(&mut kept, "spool.sync", &old.spool.sync, &mut settings.spool.sync);
    keep(&mut kept, "spool.body_memory_bytes", &old.spool.body_memory_bytes, &mut settings.spool.body_memory_bytes);
    keep(&mut kept, "api.listen", &running.api.listen, &mut new.api.listen);
    (new, kept)
}

fn keep<T: PartialEq + Clone>(kept: &mut Vec<&'static str>, key: &'static str, old: &T, new: &mut T) {
    if old != new {
        kept.push(key);
        *new = old.clone();
    }
}
