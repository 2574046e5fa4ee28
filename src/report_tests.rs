//! The start-up lines.

use super::{StartUp, start_up};
use crate::config::{Overrides, parse};
use crate::machine::Machine;
use crate::topology::Topology;
use std::path::{Path, PathBuf};

#[test]
fn the_start_up_report() {
    let machine = Machine {
        hostname: "mx1.example.net".into(),
        cpus: vec![0, 1, 2],
        quota: false,
        memory_bytes: 10 << 30,
        open_files: 20_000,
        resolvers: vec![([127, 0, 0, 1], 53).into()],
    };
    let text = "server.data_dir = \"/var/lib/mailrace\"\nsmtp.listen = [\"0.0.0.0:25\", \"[::]:25\"]\nspool.sync = \"interval\"";
    let mut config = parse(Path::new("x"), text, &Overrides::default(), &machine).unwrap();
    let topology = Topology::plan(config.settings.shards, &machine);
    let token = PathBuf::from("/var/lib/mailrace/token");
    let full = StartUp {
        config: &config,
        config_file: Some(Path::new("/etc/mailrace/mailrace.toml")),
        topology: &topology,
        users: 2,
        smtp: &config.settings.smtp.listen,
        api: Some(config.api.listen),
        first_token: Some(&token),
    };
    let version = env!("CARGO_PKG_VERSION");
    let expected = format!(
        "mailrace {version} as mx1.example.net
  configuration  /etc/mailrace/mailrace.toml
  SMTP           0.0.0.0:25, AUTH for 2 users
  SMTP           [::]:25, AUTH for 2 users
  REST           127.0.0.1:8000
  data           /var/lib/mailrace
  cores          2 shards on processors 1, 2; control on 0
  memory         6144 MiB
  connections    at most 15000 of injectors and 4360 of deliveries, by the limit of open files
  resolvers      127.0.0.1:53
  spool          UNSAFE: synced every 1s; a crash loses mail that was acknowledged since (spool.sync = \"always\" does not)
  admin token    made in /var/lib/mailrace/token

  to hand in a message:
    printf 'Subject: hello\\n\\nhello\\n' | mailrace inject --smtp 127.0.0.1:25 -v somebody@example.com
  to see the rules in force:
    curl -H \"Authorization: Bearer $(cat '/var/lib/mailrace/token')\" http://127.0.0.1:8000/v1/rules"
    );
    assert_eq!(start_up(&full), expected);

    config.settings.smtp.listen.clear();
    config.settings.spool.sync = mailrace_shards::settings::SyncPolicy::Always;
    let topology = Topology::plan(1, &Machine { cpus: vec![3], ..machine });
    let least = StartUp {
        config: &config,
        config_file: None,
        topology: &topology,
        users: 0,
        smtp: &[],
        api: None,
        first_token: None,
    };
    let expected = format!(
        "mailrace {version} as mx1.example.net
  configuration  none: defaults
  SMTP           not listening: smtp.listen is empty
  data           /var/lib/mailrace
  cores          1 shard on processor 3; control on 3 (shared)
  memory         6144 MiB
  connections    at most 15000 of injectors and 4360 of deliveries, by the limit of open files
  resolvers      127.0.0.1:53
  spool          synced before each acknowledgement
"
    );
    assert_eq!(start_up(&least), expected);
}
