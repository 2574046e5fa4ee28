//! `mailrace serve`: from the command line to a running engine, and back to exit 0. This thread is the
//! control thread; it waits for signals and looks after the engine.

use crate::cli::{PlaceArguments, ServeArguments};
use crate::config::{self, Config, Overrides};
use crate::engine::{self, Engine, Health, Start};
use crate::files::DataLock;
use crate::machine::Machine;
use crate::preflight::{self, Ready};
use crate::report::{self, StartUp};
use crate::rules::store::Store;
use crate::signals::{self, Signal};
use crate::systemd::Manager;
use crate::topology::Topology;
use crate::{system, token};
use crossbeam::channel::{Receiver, RecvTimeoutError};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

/// How often the control thread looks at the engine and the store.
const TICK: Duration = Duration::from_secs(1);

/// Runs until told to stop. Every failure has been reported when this returns.
#[must_use]
pub fn serve(arguments: &ServeArguments) -> ExitCode {
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(errors) => {
            errors.iter().for_each(|error| report::error(error));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &ServeArguments) -> Result<(), Vec<String>> {
    let one = |error: String| vec![error];
    // First of all, so that no signal finds its default action in place while files are being made.
    let signals = signals::listen().map_err(|error| one(format!("signals cannot be received: {error}")))?;
    system::keep_files_private();
    let manager = Manager::from_environment();
    let machine = Machine::detect();
    let overrides = arguments.overrides();
    let file = arguments.place.config.as_deref();
    let config = load(file, &overrides, &machine)?;
    let Ready { lock, users, warnings } = preflight::run(&config).map_err(|findings| {
        findings.warnings.iter().for_each(|warning| report::warning(warning));
        findings.errors
    })?;
    warnings.iter().for_each(|warning| report::warning(warning));
    let data_dir = config.settings.data_dir.clone();
    let mut store = Store::open(&data_dir).map_err(|error| one(error.to_string()))?;
    let first_token =
        token::first_token(&mut store, &data_dir, system::now()).map_err(|error| one(error.to_string()))?;
    let tokens = store.tokens().map_err(|error| one(error.to_string()))?;
    let topology = Topology::plan(config.settings.shards, &machine);

    let config_file = file.map_or_else(|| "the defaults".to_owned(), |file| file.display().to_string());
    let start = Start { config: config.clone(), topology: topology.clone(), users, tokens, config_file };
    let user_count = start.users.count();
    let engine = engine::start(start).map_err(one)?;
    report::plain(&report::start_up(&StartUp {
        config: &config,
        config_file: file,
        topology: &topology,
        users: user_count,
        smtp: engine.smtp(),
        api: engine.api(),
        first_token: first_token.as_ref(),
    }));
    manager.ready();
    let mut control = Control { engine, store, config, manager, lock, tokens_changed: false };
    let reread = || load(file, &overrides, &machine);
    let ended = control.attend(&signals, reread);
    control.finish(ended).map_err(one)
}

fn load(file: Option<&Path>, overrides: &Overrides, machine: &Machine) -> Result<Config, Vec<String>> {
    config::load(file, overrides, machine).map_err(|problems| problems.iter().map(ToString::to_string).collect())
}

/// The configuration that `place` names, for commands that only need to know where things are.
pub fn locate(place: &PlaceArguments) -> Result<Config, Vec<String>> {
    let overrides = Overrides { data_dir: place.data_dir.clone(), ..Overrides::default() };
    load(place.config.as_deref(), &overrides, &Machine::detect())
}

/// The control thread's own: the engine and what is changed while it runs.
struct Control<E> {
    engine: E,
    store: Store,
    config: Config,
    manager: Manager,
    /// Held until the engine has ended.
    lock: DataLock,
    /// The engine's tokens are not those of the store.
    tokens_changed: bool,
}

impl<E: Engine> Control<E> {
    /// Until a stop is asked for (`Ok`) or the engine fails.
    fn attend(
        &mut self,
        signals: &Receiver<Signal>,
        reread: impl Fn() -> Result<Config, Vec<String>>,
    ) -> Result<(), String> {
        let tick = self.manager.watchdog_interval().map_or(TICK, |interval| interval.min(TICK));
        let mut stalled = None;
        loop {
            match signals.recv_timeout(tick) {
                Ok(Signal::Stop) => return Ok(()),
                Ok(Signal::Reload) => self.reload(reread()),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err("the signal thread ended".to_owned()),
            }
            match self.engine.health() {
                Health::Alive => {
                    self.manager.alive();
                    if stalled.take().is_some() {
                        report::notice("every core turns again");
                    }
                }
                Health::Stalled(what) => {
                    if stalled.as_ref() != Some(&what) {
                        report::warning(&what);
                    }
                    stalled = Some(what);
                }
                Health::Failed(why) => return Err(why),
            }
            self.follow_tokens();
        }
    }

    /// A `mailrace token` command may have changed them. What cannot be read now is read the next time: the store says
    /// but once that there was a change, and a token that was revoked must not go on being good.
    fn follow_tokens(&mut self) {
        let read = |store: &mut Store, changed: &mut bool| {
            *changed |= store.changed_by_others()?;
            if *changed { store.tokens().map(Some) } else { Ok(None) }
        };
        match read(&mut self.store, &mut self.tokens_changed) {
            Ok(Some(tokens)) => {
                self.engine.tokens(tokens);
                self.tokens_changed = false;
            }
            Ok(None) => {}
            Err(error) => report::error(&error.to_string()),
        }
    }

    /// All or nothing: a file with a mistake changes nothing.
    fn reload(&mut self, loaded: Result<Config, Vec<String>>) {
        self.manager.reloading();
        let checked = loaded.and_then(|new| {
            let (new, kept) = config::reload(&self.config, new);
            let (users, errors) = preflight::recheck(&new);
            if errors.is_empty() { Ok((new, kept, users)) } else { Err(errors) }
        });
        match checked {
            Ok((new, kept, users)) => {
                new.warnings.iter().for_each(|warning| report::warning(warning));
                for key in kept {
                    report::warning(&format!("{key} has changed in the file; it stays as it was until a restart"));
                }
                self.engine.reload(&new, users);
                self.config = new;
                report::notice("the configuration was read again and is in force");
            }
            Err(errors) => {
                errors.iter().for_each(|error| report::error(error));
                report::error("the configuration was read again and refused; everything stays as it was");
            }
        }
        self.manager.ready();
    }

    /// Ends the engine, then the process's claim on the data directory.
    fn finish(self, ended: Result<(), String>) -> Result<(), String> {
        let Self { mut engine, store, config, manager, lock, .. } = self;
        let within = config.settings.stop_within;
        manager.stopping(within);
        report::notice(&format!("stopping within {}", humantime::format_duration(within)));
        let stopped = engine.stop(within);
        drop(engine);
        drop(store);
        drop(lock);
        ended?;
        stopped?;
        report::notice("stopped");
        Ok(())
    }
}

#[cfg(test)]
#[path = "serve_tests.rs"]
mod tests;
