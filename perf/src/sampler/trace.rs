//! Follows the CPU time and the memory of the server, the sink and the generator while a round runs.
//!
//! It only reads `/proc`. What it costs falls on the harness, never on the server's account.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde::Serialize;

use super::process::{Roots, usage};
use crate::clock::now_ns;

/// Time between two looks at first.
const FIRST_INTERVAL: Duration = Duration::from_millis(200);
/// Looks that are kept; at one more every second one goes, and they come half as often.
const MAX_LOOKS: usize = 1_200;

/// Whose time is told apart.
#[derive(Clone, Debug, Default)]
pub struct Watched {
    /// The server's first processes.
    pub server: Roots,
    /// The sink's.
    pub sink: Roots,
}

/// The counters at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Look {
    /// When, [`now_ns`].
    pub at_ns: u64,
    /// The server's user time, µs; all of its time if the two can't be told apart.
    pub server_user_us: u64,
    /// The server's system time, µs.
    pub server_system_us: u64,
    /// The sink's time, µs.
    pub sink_us: u64,
    /// Our own time, the generator's hence, µs.
    pub generator_us: u64,
    /// The server's resident memory.
    pub rss_octets: u64,
}

/// CPU between two looks, in percent of one core, and the memory at the second.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct CpuPoint {
    /// The earlier look, seconds after the first message was begun.
    pub second: f64,
    /// The server in user mode.
    pub server_user: f64,
    /// The server in the kernel.
    pub server_system: f64,
    /// The sink.
    pub sink: f64,
    /// The generator.
    pub generator: f64,
    /// The server's resident memory, MB.
    pub rss_megabytes: f64,
}

/// A trace in progress.
pub struct Trace {
    stop: Sender<()>,
    thread: JoinHandle<Vec<Look>>,
}

impl Trace {
    /// Begins to look.
    pub fn start(watched: Watched) -> Trace {
        let (stop, stopped) = channel();
        let thread = thread::spawn(move || {
            let mut looks = vec![look(&watched)];
            let mut interval = FIRST_INTERVAL;
            while stopped.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
                looks.push(look(&watched));
                if looks.len() > MAX_LOOKS {
                    let mut index = 0;
                    looks.retain(|_| {
                        index += 1;
                        index % 2 == 1
                    });
                    interval *= 2;
                }
            }
            looks.push(look(&watched));
            looks
        });
        Trace { stop, thread }
    }

    /// Ends it; all looks, in order.
    pub fn finish(self) -> Vec<Look> {
        // The thread ends at once on the message, or has ended already.
        let _ = self.stop.send(());
        self.thread.join().unwrap_or_default()
    }
}

/// One look.
pub fn look(watched: &Watched) -> Look {
    let server = usage(&watched.server);
    Look {
        at_ns: now_ns(),
        server_user_us: server.cpu_us - server.system_us.min(server.cpu_us),
        server_system_us: server.system_us.min(server.cpu_us),
        sink_us: usage(&watched.sink).cpu_us,
        generator_us: super::cpu_clock::process_cpu_ns(std::process::id()).unwrap_or(0) / 1_000,
        rss_octets: server.rss_octets,
    }
}

/// What the looks say, with the time counted from `zero_ns`.
pub fn points(looks: &[Look], zero_ns: u64) -> Vec<CpuPoint> {
    let point = |pair: &[Look]| {
        let (from, until) = (pair[0], pair[1]);
        let width_us = until.at_ns.saturating_sub(from.at_ns) as f64 / 1e3;
        let percent = |from: u64, until: u64| 100.0 * until.saturating_sub(from) as f64 / width_us.max(1.0);
        CpuPoint {
            second: (from.at_ns as f64 - zero_ns as f64) / 1e9,
            server_user: percent(from.server_user_us, until.server_user_us),
            server_system: percent(from.server_system_us, until.server_system_us),
            sink: percent(from.sink_us, until.sink_us),
            generator: percent(from.generator_us, until.generator_us),
            rss_megabytes: until.rss_octets as f64 / 1e6,
        }
    };
    looks.windows(2).map(point).collect()
}
