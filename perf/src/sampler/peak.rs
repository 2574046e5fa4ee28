//! Looks at a tree of processes every second, for what the kernel doesn't keep: the peak of their memory together
//! and the context switches of processes that have ended.
//!
//! What a process did after the last look before its end is missed, so the switches are a lower bound when processes come and go.

use std::collections::HashMap;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::process::{Identity, Roots, context_switches, peak_rss_octets, tree, usage};

/// Time between two looks; a look costs some 50 µs for each process.
const INTERVAL: Duration = Duration::from_secs(1);

/// What was seen from start to finish.
#[derive(Clone, Copy, Debug, Default)]
pub struct Peak {
    /// Highest sum of resident memory; for a single process the kernel's own high-water mark.
    pub rss_octets: u64,
    /// Context switches since the start.
    pub context_switches: u64,
}

/// A look in progress.
pub struct PeakSampler {
    stop: Sender<()>,
    thread: JoinHandle<Peak>,
}

impl PeakSampler {
    /// Starts looking at the tree below `roots`.
    pub fn start(roots: Roots) -> PeakSampler {
        let (stop, stopped) = channel();
        let thread = thread::spawn(move || {
            let mut switches: HashMap<Identity, (u64, u64)> = HashMap::new();
            let mut first = true;
            let mut peak = Peak::default();
            loop {
                peak.rss_octets = peak.rss_octets.max(look(&roots, &mut switches, first));
                first = false;
                if stopped.recv_timeout(INTERVAL) != Err(RecvTimeoutError::Timeout) {
                    break;
                }
            }
            peak.rss_octets = peak.rss_octets.max(look(&roots, &mut switches, false));
            peak.context_switches = switches.values().map(|(start, last)| last - start).sum();
            peak
        });
        PeakSampler { stop, thread }
    }

    /// Ends the look.
    pub fn finish(self) -> Peak {
        // The thread ends at once on the message, or has ended already.
        let _ = self.stop.send(());
        self.thread.join().unwrap_or_default()
    }
}

/// One look; returns the resident memory. A process first seen later than the start counts from zero.
fn look(roots: &Roots, switches: &mut HashMap<Identity, (u64, u64)>, first: bool) -> u64 {
    let identities = tree(roots);
    for identity in &identities {
        let now = context_switches(identity.0);
        let entry = switches.entry(*identity).or_insert((if first { now } else { 0 }, now));
        entry.1 = entry.1.max(now);
    }
    match identities[..] {
        [(pid, _)] => peak_rss_octets(pid).unwrap_or(0),
        _ => usage(roots).rss_octets,
    }
}
