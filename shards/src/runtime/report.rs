//! Lines for the operator: what the engine has to say of itself, on standard error, where a service manager
//! collects it. Never about single messages: those have the outcome log.

use crate::runtime::clock;

/// Writes one line with the time in front.
pub fn report(line: &str) {
    let now = clock::now().utc;
    let text = jiff::Timestamp::from_millisecond(now.0).map_or_else(|_| now.0.to_string(), |at| at.to_string());
    // Nobody can be told if standard error is gone.
    let _ = std::io::Write::write_all(&mut std::io::stderr(), format!("{text} {line}\n").as_bytes());
}
