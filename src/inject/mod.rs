//! `mailrace inject`: a message from stdin to the local listener by SMTP, sendmail-like. All recipients or
//! none: a message is not handed in for some while the caller is told of a failure.

pub mod client;
mod header;

use crate::cli::InjectArguments;
use crate::report;
use client::{Failure, Message};
use std::io::{IsTerminal, Read};
use std::process::ExitCode;

/// Octets of a message taken from stdin.
const MESSAGE_BYTES_MAX: u64 = 2 << 30;

/// Recipients of one message.
const RECIPIENTS_MAX: usize = 65_000;

/// The server, or what we read, says no.
const REFUSED: u8 = 1;
/// The command line makes no sense.
const USAGE: u8 = 2;
/// The server could not be reached, or was lost.
const UNREACHABLE: u8 = 3;

/// Runs the command.
#[must_use]
pub fn run(arguments: &InjectArguments) -> ExitCode {
    let failed = |code: u8, text: &str| {
        report::error(text);
        ExitCode::from(code)
    };
    if arguments.recipients.is_empty() && !arguments.take_recipients {
        return failed(USAGE, "no recipient; name one, or take them from the message with -t");
    }
    let sender = match sender(arguments.from.as_deref()) {
        Ok(sender) => sender,
        Err(text) => return failed(USAGE, &text),
    };
    let mut recipients = Vec::new();
    for text in &arguments.recipients {
        match header::addresses(text) {
            Ok(addresses) => recipients.extend(addresses),
            Err(error) => return failed(USAGE, &format!("recipient {text:?}: {error}")),
        }
    }
    let mut body = Vec::new();
    match std::io::stdin().lock().take(MESSAGE_BYTES_MAX + 1).read_to_end(&mut body) {
        Ok(_) if body.len() as u64 > MESSAGE_BYTES_MAX => {
            return failed(REFUSED, &format!("the message is longer than {MESSAGE_BYTES_MAX} octets"));
        }
        Ok(_) => {}
        Err(error) => return failed(REFUSED, &format!("stdin cannot be read: {error}")),
    }
    if arguments.take_recipients {
        match header::take_recipients(&mut body) {
            Ok(addresses) => recipients.extend(addresses),
            Err(text) => return failed(REFUSED, &text),
        }
    }
    let mut seen = std::collections::HashSet::new();
    recipients.retain(|address| seen.insert(address.clone()));
    match recipients.len() {
        0 => return failed(REFUSED, "the message names no recipient in To, Cc or Bcc"),
        1..=RECIPIENTS_MAX => {}
        count => return failed(REFUSED, &format!("{count} recipients; at most {RECIPIENTS_MAX} are allowed")),
    }
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let message = Message { helo: &host, sender: &sender, recipients: &recipients, body: &body };
    match client::send(arguments.smtp, &message) {
        Ok(answer) => {
            if arguments.verbose || std::io::stdout().is_terminal() {
                println!("{answer}");
            }
            ExitCode::SUCCESS
        }
        Err(Failure::Refused(text)) => failed(REFUSED, &text),
        Err(Failure::Unreachable(text)) => failed(UNREACHABLE, &text),
    }
}

/// The reverse-path without angle brackets; empty for the null one.
fn sender(from: Option<&str>) -> Result<String, String> {
    match from {
        Some("" | "<>") => Ok(String::new()),
        Some(text) => match header::addresses(text) {
            Ok(mut addresses) if addresses.len() == 1 => Ok(addresses.remove(0)),
            Ok(_) => Err(format!("-f {text:?} is not one address")),
            Err(error) => Err(format!("-f {text:?}: {error}")),
        },
        None => {
            let user = std::env::var("USER").or_else(|_| std::env::var("LOGNAME")).unwrap_or_else(|_| "root".into());
            let address = format!("{user}@{}", rustix::system::uname().nodename().to_string_lossy());
            header::addresses(&address)
                .map_err(|error| format!("{address:?} cannot be the sender ({error}); name one with -f"))
                .map(|mut addresses| addresses.remove(0))
        }
    }
}
