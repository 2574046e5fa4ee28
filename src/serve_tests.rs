//! The control loop with an engine that follows a script.

use super::Control;
use crate::config::{self, Config, Overrides};
use crate::engine::{Engine, Health};
use crate::files::DataLock;
use crate::machine::Machine;
use crate::rules::store::Store;
use crate::signals::Signal;
use crate::systemd::Manager;
use crate::test_directory::TestDirectory;
use crate::token::{Scope, TokenSet};
use crate::users::Users;
use crossbeam::channel::{Sender, bounded};
use mailrace_shards::time::Timestamp;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

/// Notes what it is told. At each look at its health the next entry of the script happens.
struct Scripted {
    script: std::vec::IntoIter<Step>,
    signals: Sender<Signal>,
    heard: Vec<String>,
}

enum Step {
    Signal(Signal),
    Health(Health),
}

impl Engine for &mut Scripted {
    fn smtp(&self) -> &[SocketAddr] {
        &[]
    }

    fn api(&self) -> Option<SocketAddr> {
        None
    }

    fn health(&mut self) -> Health {
        match self.script.next() {
            None => {
                self.signals.send(Signal::Stop).unwrap();
                Health::Alive
            }
            Some(Step::Signal(signal)) => {
                self.signals.send(signal).unwrap();
                Health::Alive
            }
            Some(Step::Health(health)) => health,
        }
    }

    fn reload(&mut self, config: &Config, _users: Users) {
        let settings = &config.settings;
        self.heard.push(format!("reload shards={} max_age={:?}", settings.shards, settings.retry.max_age));
    }

    fn tokens(&mut self, tokens: TokenSet) {
        self.heard.push(format!("tokens {}", tokens.list().len()));
    }

    fn stop(&mut self, within: Duration) -> Result<(), String> {
        self.heard.push(format!("stop {within:?}"));
        Ok(())
    }
}

fn config(text: &str) -> Result<Config, Vec<String>> {
    let machine = Machine {
        hostname: "mx.example".into(),
        cpus: vec![0, 1],
        quota: false,
        memory_bytes: 1 << 30,
        open_files: 20_000,
        resolvers: vec![([127, 0, 0, 1], 53).into()],
    };
    config::parse(Path::new("test.toml"), text, &Overrides::default(), &machine)
        .map_err(|problems| problems.iter().map(ToString::to_string).collect())
}

/// Runs a script; what the engine heard, and how it ended.
fn attend(name: &str, script: Vec<Step>, new_text: &str) -> (Vec<String>, Result<(), String>) {
    let directory = TestDirectory::new(name);
    let (sender, receiver) = bounded(16);
    sender.send(Signal::Reload).unwrap();
    let mut engine = Scripted { script: script.into_iter(), signals: sender, heard: Vec::new() };
    let mut control = Control {
        engine: &mut engine,
        store: Store::open(directory.path()).unwrap(),
        config: config("server.shards = 1\nserver.stop_within = \"7s\"").unwrap(),
        manager: Manager::default(),
        lock: DataLock::take(directory.path()).unwrap(),
        tokens_changed: false,
    };
    let mut command = Store::open(directory.path()).unwrap();
    command.add_token("ci", Scope::Read, "secret", Timestamp(0)).unwrap();
    let ended = control.attend(&receiver, || config(new_text));
    let ended = control.finish(ended);
    DataLock::take(directory.path()).expect("the lock is free after the end");
    (engine.heard, ended)
}

/// The store says but once that a command has changed something; when the tokens could not be read just then, one that
/// was revoked stayed good until the next change.
#[test]
fn tokens_that_cannot_be_read_are_read_later() {
    let directory = TestDirectory::new("unread");
    let (signals, _receiver) = bounded(16);
    let mut engine = Scripted { script: Vec::new().into_iter(), signals, heard: Vec::new() };
    let mut command = Store::open(directory.path()).unwrap();
    command.add_token("ci", Scope::Read, "secret", Timestamp(0)).unwrap();
    let mut control = Control {
        engine: &mut engine,
        store: Store::open(directory.path()).unwrap(),
        config: config("").unwrap(),
        manager: Manager::default(),
        lock: DataLock::take(directory.path()).unwrap(),
        tokens_changed: false,
    };
    command.revoke_token("ci", Timestamp(0)).unwrap();
    control.store.spoil("CREATE TEMP TABLE token (other)");
    control.follow_tokens();
    control.store.spoil("DROP TABLE temp.token");
    control.follow_tokens();
    control.follow_tokens();
    assert_eq!(engine.heard, ["tokens 0"]);
}

#[test]
fn a_reload_keeps_what_needs_a_restart() {
    let (heard, ended) = attend("reload", Vec::new(), "server.shards = 9\nretry.max_age = \"1d\"");
    assert_eq!(heard, ["reload shards=1 max_age=86400s", "tokens 1", "stop 30s"]);
    assert_eq!(ended, Ok(()));
}

#[test]
fn a_wrong_file_changes_nothing() {
    for (name, text) in [("key", "server.shard = 9"), ("users", "smtp.users_file = \"/nonexistent/users\"")] {
        let (heard, ended) = attend(&format!("refused-{name}"), vec![Step::Signal(Signal::Stop)], text);
        assert_eq!(heard, ["tokens 1", "stop 7s"], "{name}");
        assert_eq!(ended, Ok(()));
    }
}

#[test]
fn a_failed_engine_ends_the_process_with_its_reason() {
    let script = vec![Step::Signal(Signal::Reload), Step::Health(Health::Failed("core 1 panicked".to_owned()))];
    let (heard, ended) = attend("failed", script, "server.shard = 9");
    assert_eq!(heard, ["tokens 1", "stop 7s"]);
    assert_eq!(ended, Err("core 1 panicked".to_owned()));
}
