//! The commands that need no running engine: `check-config`, `systemd-unit`, `token`, `hash-secret`.

use crate::cli::{PlaceArguments, TokenAction};
use crate::cluster;
use crate::config::{self, Config, Overrides};
use crate::machine::Machine;
use crate::rules::store::{Store, StoreError};
use crate::{report, serve, system, systemd, token, users};
use std::io::{Read, Write};
use std::path::Path;
use std::process::ExitCode;

/// Octets of a secret read from stdin.
const SECRET_BYTES_MAX: u64 = 4096;

/// `check-config FILE`.
#[must_use]
pub fn check_config(file: &Path) -> ExitCode {
    match config::load(Some(file), &Overrides::default(), &Machine::detect()) {
        Ok(config) => {
            for warning in &config.warnings {
                eprintln!("{}: warning: {warning}", file.display());
            }
            // Nobody wants to hear of these only when the engine is restarted.
            let unusable = config.cluster.as_ref().map(cluster::check_files).unwrap_or_default();
            if !unusable.is_empty() {
                unusable.iter().for_each(|why| eprintln!("{}: {why}", file.display()));
                return ExitCode::FAILURE;
            }
            print(&format!("{}: correct: {}\n", file.display(), summary(&config)))
        }
        Err(problems) => {
            for problem in problems {
                eprintln!("{problem}");
            }
            ExitCode::FAILURE
        }
    }
}

fn summary(config: &Config) -> String {
    let settings = &config.settings;
    let count = |count: usize, noun: &str| format!("{count} {noun}{}", if count == 1 { "" } else { "s" });
    [
        count(settings.smtp.listen.len(), "SMTP listener"),
        count(settings.sources.len(), "source"),
        count(settings.pools.len(), "pool"),
        count(settings.routes.len(), "route"),
        count(settings.limits.len(), "limit"),
    ]
    .join(", ")
}

/// `systemd-unit`.
#[must_use]
pub fn systemd_unit() -> ExitCode {
    match std::env::current_exe() {
        Ok(executable) => {
            if let Some(obstacle) = systemd::obstacle(&executable) {
                report::warning(&obstacle);
            }
            print(&systemd::unit(&executable))
        }
        Err(error) => {
            report::error(&format!("this binary's own path is unknown: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// `token add|list|revoke`.
#[must_use]
pub fn token(place: &PlaceArguments, action: &TokenAction) -> ExitCode {
    let config = match serve::locate(place) {
        Ok(config) => config,
        Err(errors) => {
            errors.iter().for_each(|error| report::error(error));
            return ExitCode::FAILURE;
        }
    };
    match change_tokens(&config.settings.data_dir, action) {
        Ok(text) => print(&text),
        Err(error) => {
            report::error(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

fn change_tokens(data_dir: &Path, action: &TokenAction) -> Result<String, StoreError> {
    let mut store = Store::open_existing(data_dir)?;
    match action {
        TokenAction::Add { name, scope } => {
            let secret = token::generate();
            store.add_token(name, *scope, &secret, system::now())?;
            Ok(format!("{secret}\n"))
        }
        TokenAction::List => Ok(table(store.tokens()?.list())),
        TokenAction::Revoke { name } => {
            store.revoke_token(name, system::now())?;
            Ok(String::new())
        }
    }
}

fn table(tokens: &[token::Token]) -> String {
    let width = tokens.iter().map(|token| token.name.len()).max().unwrap_or(0).max(4);
    let mut text = format!("{:<width$}  {:<7}  CREATED\n", "NAME", "SCOPE");
    for token in tokens {
        let created =
            jiff::Timestamp::from_millisecond(token.created.0).map_or_else(|_| "?".to_owned(), |at| format!("{at:.0}"));
        text.push_str(&format!("{:<width$}  {:<7}  {created}\n", token.name, token.scope));
    }
    text
}

/// `hash-secret NAME`.
#[must_use]
pub fn hash_secret(name: &str) -> ExitCode {
    let mut secret = Vec::new();
    let read = std::io::stdin().lock().take(SECRET_BYTES_MAX).read_to_end(&mut secret);
    // The line end that `echo` and a terminal add is not part of it.
    let text = secret.strip_suffix(b"\n").unwrap_or(&secret);
    let text = text.strip_suffix(b"\r").unwrap_or(text);
    let line =
        read.map_err(|error| format!("stdin cannot be read: {error}")).and_then(|_| users::user_line(name, text));
    match line {
        Ok(line) => print(&format!("{line}\n")),
        Err(error) => {
            report::error(&error);
            ExitCode::FAILURE
        }
    }
}

/// To stdout; a reader that went away is a failure, not a panic.
fn print(text: &str) -> ExitCode {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}
