//! The thread that merges. It has no haste, and nobody waits for it.

use super::merging::{Done, Merging};
use crate::cluster::heard::Missed;
use crate::report;
use crossbeam::channel::{Receiver, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Between two looks at whether there is something to do.
const LOOK: Duration = Duration::from_secs(1);

/// Between two things that are done: what else is asked of etcd comes in between.
const BREATH: Duration = Duration::from_millis(10);

/// After a failure.
const RECOVERY: Duration = Duration::from_secs(10);

/// What the thread asks others.
pub trait Manager: Send + 'static {
    /// Whether this node is the one that merges. That two are at times does no harm, that none is does for long.
    fn is_ours(&self) -> bool;
    /// How many values are suppressed.
    ///
    /// # Errors
    /// They cannot be counted now.
    fn live(&self) -> Result<u64, String>;
}

/// Starts it; it ends when nobody can send into `end` any more.
///
/// # Errors
/// The system has no thread to give.
pub fn start(merging: Merging, manager: impl Manager, end: Receiver<()>) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name("merging".to_owned()).spawn(move || run(merging, &manager, &end))
}

fn run(mut merging: Merging, manager: &impl Manager, end: &Receiver<()>) {
    let (mut rest, mut said) = (LOOK, None);
    while end.recv_timeout(rest) == Err(RecvTimeoutError::Timeout) {
        rest = LOOK;
        if !manager.is_ours() {
            continue;
        }
        let done = merging.step(&mut || manager.live().map_err(Missed::Now));
        rest = match done {
            Ok(Done::Nothing) => LOOK,
            Ok(Done::Merged | Done::Swept(_) | Done::InVain) => BREATH,
            Ok(Done::NotInOne) | Err(_) => RECOVERY,
        };
        let why = match done {
            // What can be tried again is told by whoever follows.
            Ok(_) | Err(Missed::Now(_)) => None,
            Err(Missed::Ever(why)) => Some(why),
        };
        if let Some(why) = why.filter(|why| said.as_ref() != Some(why)) {
            report::warning(&format!("cluster: segments are not merged: {why}"));
            said = Some(why);
        }
    }
}
