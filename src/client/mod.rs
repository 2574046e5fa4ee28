//! The commands that ask a running engine by REST. Exit codes: 0 done, 1 refused, 2 usage, 3 unreachable; the server's
//! words are passed on as they are.

pub mod arguments;
mod cluster;
pub mod http;
pub mod request;
mod show;
mod suppressions;

pub use show::table;

use crate::cli::PlaceArguments;
use crate::{report, serve, system};
use arguments::{ClientCommand, ServerArguments, SuppressAction};
use http::{Failure, Server};
use std::io::Write;
use std::net::IpAddr;
use std::path::Path;
use std::process::ExitCode;

const REFUSED: u8 = 1;
const USAGE: u8 = 2;
const UNREACHABLE: u8 = 3;

/// Where the API is when nobody says.
const ENDPOINT: &str = "http://127.0.0.1:8000";

/// Octets of a token's file.
const TOKEN_BYTES_MAX: u64 = 4096;

/// Runs a command.
#[must_use]
pub fn run(command: &ClientCommand) -> ExitCode {
    match carry_out(command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let (code, text) = match failure {
                Failure::Refused(text) => (REFUSED, text),
                Failure::Usage(text) => (USAGE, text),
                Failure::Unreachable(text) => (UNREACHABLE, text),
            };
            report::error(&text);
            ExitCode::from(code)
        }
    }
}

fn carry_out(command: &ClientCommand) -> Result<(), Failure> {
    let arguments = command.server();
    let server = server(arguments)?;
    let Some(request) = request::request(command, system::now()) else {
        let ClientCommand::Suppress(asking) = command else { unreachable!("only suppressions stream files") };
        return match &asking.action {
            SuppressAction::Import { file, format, verdict } => {
                suppressions::import(&server, file, *format, verdict, arguments.json)
            }
            SuppressAction::Export { file, format } => suppressions::export(&server, file.as_deref(), *format),
            _ => unreachable!("every other action is one request"),
        };
    };
    let body = server.ask(&request)?;
    if let Some(left) = server.recovery() {
        report::warning(&format!("mail of earlier runs is not in the queues yet ({left}): figures are lower bounds"));
    }
    if arguments.json { print(&body, true) } else { print(show::answer(command, &body).as_bytes(), false) }?;
    match command {
        ClientCommand::Cluster { action: None, .. } => cluster::judge(&body).map_err(Failure::Refused),
        _ => Ok(()),
    }
}

/// To stdout. A reader that has seen enough is no failure.
fn print(octets: &[u8], line: bool) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    let end: &[u8] = if line && !octets.ends_with(b"\n") { b"\n" } else { b"" };
    match stdout.write_all(octets).and_then(|()| stdout.write_all(end)).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::Refused(format!("stdout cannot be written: {error}")))
        }
        _ => Ok(()),
    }
}

impl ClientCommand {
    fn server(&self) -> &ServerArguments {
        match self {
            Self::Pause(asking) => &asking.server,
            Self::Error(asking) => &asking.server,
            Self::Suppress(asking) => &asking.server,
            Self::Suspend(asking) => &asking.server,
            Self::Bounce(asking) => &asking.server,
            Self::Queue { server, .. }
            | Self::Message { server, .. }
            | Self::Rules { server, .. }
            | Self::Cluster { server, .. }
            | Self::Audit { server, .. } => server,
        }
    }
}

/// Whom to ask, and with which token.
fn server(arguments: &ServerArguments) -> Result<Server, Failure> {
    let from_environment = std::env::var("MAILRACE_TOKEN").ok().filter(|token| !token.is_empty());
    let given = arguments.token.clone().or(from_environment);
    let PlaceArguments { config, data_dir } = &arguments.place;
    let is_named = config.is_some() || data_dir.is_some();
    let located = if given.is_some() && (arguments.endpoint.is_some() || config.is_none()) {
        None
    } else {
        Some(serve::locate(&arguments.place).map_err(|errors| Failure::Usage(errors.join("\n")))?)
    };
    let endpoint = match (&arguments.endpoint, &located) {
        (Some(endpoint), _) => checked(endpoint)?,
        (None, Some(config)) => {
            let scheme = if config.api.tls.is_some() { "https" } else { "http" };
            format!("{scheme}://{}", report::reachable(config.api.listen))
        }
        (None, None) => ENDPOINT.to_owned(),
    };
    // The file's token is this host's: it is not shown to another host that merely was named.
    let may_read = is_named || arguments.endpoint.is_none() || is_loopback(&endpoint);
    let token = match located {
        _ if given.is_some() => given,
        Some(config) if may_read => token_of(&config.settings.data_dir.join("token"))?,
        _ => None,
    };
    if token.as_ref().is_some_and(|token| !token.bytes().all(|octet| octet.is_ascii_graphic())) {
        return Err(Failure::Usage("the token holds blanks or characters that no token has".to_owned()));
    }
    Ok(Server::new(&endpoint, token))
}

fn token_of(file: &Path) -> Result<Option<String>, Failure> {
    if matches!(std::fs::metadata(file), Err(error) if error.kind() == std::io::ErrorKind::NotFound) {
        // Peers in api.trusted_hosts need none; the others will be told by the server.
        return Ok(None);
    }
    let octets = crate::files::read_bounded(file, TOKEN_BYTES_MAX)
        .map_err(|why| Failure::Refused(format!("{why}; name a token with --token")))?;
    Ok(Some(String::from_utf8_lossy(&octets).trim().to_owned()))
}

/// An endpoint as the HTTP client takes it: a scheme, a host, perhaps a port, nothing else.
fn checked(endpoint: &str) -> Result<String, Failure> {
    let wrong = || Failure::Usage(format!("--endpoint {endpoint:?} is not such as {ENDPOINT}"));
    let (scheme, rest) = endpoint.split_once("://").ok_or_else(wrong)?;
    let authority = rest.trim_end_matches('/');
    let is_plain = !authority.is_empty()
        && authority.bytes().all(|octet| octet.is_ascii_graphic() && !b"/?#@\"<>\\^`{|}".contains(&octet));
    if !(["http", "https"].contains(&scheme) && is_plain) {
        return Err(wrong());
    }
    Ok(format!("{scheme}://{authority}"))
}

fn is_loopback(endpoint: &str) -> bool {
    let authority = endpoint.split_once("://").map_or(endpoint, |(_, authority)| authority);
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    };
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::{checked, is_loopback};

    #[test]
    fn endpoints() {
        for (endpoint, expected) in [
            ("http://127.0.0.1:8000", Some((true, "http://127.0.0.1:8000"))),
            ("https://[::1]:8000/", Some((true, "https://[::1]:8000"))),
            ("http://localhost", Some((true, "http://localhost"))),
            ("http://localhost.example", Some((false, "http://localhost.example"))),
            ("http://127.0.0.1.example:80", Some((false, "http://127.0.0.1.example:80"))),
            ("http://192.0.2.1:8000", Some((false, "http://192.0.2.1:8000"))),
            ("127.0.0.1:8000", None),
            ("ftp://127.0.0.1", None),
            ("http://", None),
            ("http://127.0.0.1@evil.example", None),
            ("http://127.0.0.1/v1", None),
        ] {
            let found = checked(endpoint).ok();
            let found = found.as_deref().map(|found| (is_loopback(found), found));
            assert_eq!(found, expected, "{endpoint}");
        }
    }
}
