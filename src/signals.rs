//! SIGTERM, SIGINT and SIGHUP as values on a channel.

use crossbeam::channel::{Receiver, bounded};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::io;

/// Signals waiting to be looked at; more are dropped, as the kernel merges them too.
const WAITING_MAX: usize = 16;

/// What the operator or the service manager wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM or SIGINT: finish what is in progress, then end.
    Stop,
    /// SIGHUP: read the configuration again.
    Reload,
}

/// From now on signals arrive on the channel. A second SIGTERM or SIGINT ends the process at once: nothing
/// accepted is lost by that, as nothing is by SIGKILL.
pub fn listen() -> io::Result<Receiver<Signal>> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    let (sender, receiver) = bounded(WAITING_MAX);
    let deliver = move || {
        let mut stopping = false;
        for number in signals.forever() {
            let signal = if number == SIGHUP { Signal::Reload } else { Signal::Stop };
            if signal == Signal::Stop && std::mem::replace(&mut stopping, true) {
                crate::report::warning("asked twice to stop: stopping at once");
                signal_hook::low_level::exit(1);
            }
            // A full channel already holds what this signal would say, or the process is past caring.
            let _ = sender.try_send(signal);
        }
    };
    std::thread::Builder::new().name("signals".to_owned()).spawn(deliver)?;
    Ok(receiver)
}
