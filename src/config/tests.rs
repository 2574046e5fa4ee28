//! The configuration as a whole: files and the settings that they become.

use super::{Config, Overrides, parse, reload};
use crate::machine::Machine;
use std::path::Path;

fn machine() -> Machine {
    Machine {
        hostname: "host.example".into(),
        cpus: vec![0, 1, 2, 3],
        quota: false,
        memory_bytes: 1 << 30,
        open_files: 20_000,
        resolvers: vec![([192, 0, 2, 53], 53).into()],
    }
}

fn read(text: &str, overrides: &Overrides) -> Config {
    parse(Path::new("/etc/mailrace/mailrace.toml"), text, overrides, &machine()).unwrap()
}

/// The whole of what is read, against the file beside the data. After a wanted change run with
/// `UPDATE_EXPECTED=1`, and read the difference.
fn check(name: &str, config: &Config) {
    let got = format!("{config:#?}\n");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/config").join(name);
    if std::env::var_os("UPDATE_EXPECTED").is_some() {
        std::fs::write(&path, &got).unwrap();
    }
    assert_eq!(got, std::fs::read_to_string(&path).unwrap(), "{name}");
}

#[test]
fn every_key_arrives() {
    let text = include_str!("../../tests/data/config/contract.toml");
    check("contract.settings", &read(text, &Overrides::default()));
    let text = include_str!("../../tests/data/config/cluster-files.toml");
    check("cluster-files.settings", &read(text, &Overrides::default()));
}

#[test]
fn without_a_file_all_is_usable() {
    let config = super::load(None, &Overrides::default(), &machine()).unwrap();
    check("defaults.settings", &config);
}

#[test]
fn the_command_line_comes_first() {
    let overrides = Overrides {
        data_dir: Some("elsewhere".into()),
        smtp: Some(([127, 0, 0, 1], 2600).into()),
        api: Some(([127, 0, 0, 1], 8600).into()),
    };
    let text =
        "server.data_dir = \"/srv\"\nsmtp.listen = [\"127.0.0.1:1\", \"127.0.0.1:2\"]\napi.listen = \"127.0.0.1:3\"";
    let config = read(text, &overrides);
    assert_eq!(config.settings.data_dir, Path::new("elsewhere"), "relative to the working directory");
    assert_eq!(config.settings.smtp.listen, [([127, 0, 0, 1], 2600).into()]);
    assert_eq!(config.api.listen, ([127, 0, 0, 1], 8600).into());
}

#[test]
fn a_small_machine_gets_small_defaults() {
    let small = Machine { memory_bytes: 200 << 20, cpus: vec![0], ..machine() };
    let config = parse(Path::new("x"), "", &Overrides::default(), &small).unwrap();
    assert_eq!(config.settings.memory_bytes, 125_829_120);
    assert_eq!(config.settings.spool.body_memory_bytes, 62_914_560);
    assert_eq!(config.settings.shards, 1);
}

#[test]
fn what_needs_a_restart_is_kept_and_named() {
    let running = read("server.shards = 2", &Overrides::default());
    let text = "server = { shards = 3, data_dir = \"x\", hostname = \"other.example\" }\nsmtp = { listen = [], max_recipients = 7, max_connections = 9 }\nspool = { sync = \"interval\", min_free_bytes = 7 }\napi.listen = \"127.0.0.1:9\"\ndns.servers = [\"192.0.2.99:53\"]\negress.allow_private = true\nlog.keep_bytes = 7";
    let (merged, kept) = reload(&running, read(text, &Overrides::default()));
    let expected = [
        "server.data_dir",
        "server.hostname",
        "server.shards",
        "smtp.max_connections",
        "smtp.listen",
        "spool.sync",
        "spool.min_free_bytes",
        "dns.servers",
        "egress.allow_private",
        "api.listen",
    ];
    assert_eq!(kept, expected);
    assert_eq!((merged.settings.smtp.max_recipients, merged.settings.log.keep_bytes), (7, 7));
    assert_eq!(merged.settings.shards, 2);
    assert!(!merged.settings.allow_private && merged.settings.dns.servers == running.settings.dns.servers);
    assert_eq!(merged.settings.connections, running.settings.connections);
    let (_, kept) = reload(&running, read("server.shards = 2", &Overrides::default()));
    assert!(kept.is_empty(), "{kept:?}");
}

/// A reload said that these were in force, and they were not: private addresses that were forbidden went on being mailed.
#[test]
fn what_threads_are_given_once_is_kept_and_named() {
    let running = read("egress.allow_private = true", &Overrides::default());
    let text = "spool.min_free_bytes = 5\ndns.servers = [\"192.0.2.1:53\"]\negress.allow_private = false";
    let (merged, kept) = reload(&running, read(text, &Overrides::default()));
    assert_eq!(kept, ["spool.min_free_bytes", "dns.servers", "egress.allow_private"]);
    let (now, was) = (&merged.settings, &running.settings);
    assert!(now.allow_private && now.dns.servers == was.dns.servers);
    assert_eq!(now.spool.min_free_bytes, was.spool.min_free_bytes);
}

#[test]
fn a_domain_is_not_spread_further_while_running() {
    let limits = |lanes: &str| read(&format!("[[limit]]\ndomain = \"a.test\"\nlanes = {lanes}"), &Overrides::default());
    for (old, new, expected) in [("2", "4", (2, true)), ("4", "2", (2, false)), ("3", "3", (3, false))] {
        let (merged, kept) = reload(&limits(old), limits(new));
        assert_eq!((merged.settings.limits[0].lanes.unwrap(), kept.contains(&"limit.lanes")), expected, "{old} {new}");
    }
    let (merged, kept) = reload(&read("", &Overrides::default()), limits("2"));
    assert_eq!((merged.settings.limits[0].lanes, &*kept), (Some(1), &["limit.lanes"][..]));
}
