//! The way of the rules to the cores while these start: in the order in which they are read, and only a few updates
//! in memory at a time, however many rules there are. Once a core has started its mailbox takes over.

use crate::limits::RULE_UPDATES_UNREAD_MAX;
use crate::message::CoreId;
use crate::rules::Update;
use crossbeam::channel::{Receiver, Sender, bounded};

/// Gives the cores their rules. Held by whoever reads them.
#[derive(Debug)]
pub struct RuleFeeder {
    cores: Vec<Sender<Option<Update>>>,
}

/// A core's end.
#[derive(Debug)]
pub struct RuleFeed {
    updates: Receiver<Option<Update>>,
}

/// The rules were not read to their end, so the core must not deliver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CutOff;

impl std::fmt::Display for CutOff {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("its rules could not be read")
    }
}

impl std::error::Error for CutOff {}

/// For so many cores.
#[must_use]
pub fn rule_feeds(cores: usize) -> (RuleFeeder, Vec<RuleFeed>) {
    let (cores, feeds) = (0..cores)
        .map(|_| {
            let (sender, updates) = bounded(RULE_UPDATES_UNREAD_MAX);
            (sender, RuleFeed { updates })
        })
        .unzip();
    (RuleFeeder { cores }, feeds)
}

impl RuleFeeder {
    /// Waits while that core has too many that it has not read. One that could not start is passed over: it says
    /// why itself.
    pub fn give(&self, core: CoreId, update: Update) {
        let _ = self.cores[usize::from(core.0)].send(Some(update));
    }

    /// That was all. Without this the cores do not start.
    pub fn finish(self) {
        for core in self.cores {
            let _ = core.send(None);
        }
    }
}

impl RuleFeed {
    /// Calls `apply` with each update until the end. Blocks.
    ///
    /// # Errors
    /// There was no end.
    pub fn drain(self, mut apply: impl FnMut(Update)) -> Result<(), CutOff> {
        loop {
            match self.updates.recv() {
                Ok(Some(update)) => apply(update),
                Ok(None) => return Ok(()),
                Err(_) => return Err(CutOff),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{CutOff, rule_feeds};
    use crate::limits::RULE_UPDATES_UNREAD_MAX;
    use crate::message::CoreId;
    use crate::rules::Update;

    fn update(epoch: u64) -> Update {
        Update { after: epoch - 1, epoch, changes: Vec::new() }
    }

    #[test]
    fn updates_arrive_in_order_and_their_end_is_told() {
        let (feeder, mut feeds) = rule_feeds(2);
        let (second, first) = (feeds.pop().unwrap(), feeds.pop().unwrap());
        // A core that could not start keeps nobody waiting.
        drop(second);
        let many = RULE_UPDATES_UNREAD_MAX as u64 * 3;
        let reader = std::thread::spawn(move || {
            let mut epochs = Vec::new();
            (first.drain(|update| epochs.push(update.epoch)), epochs)
        });
        for epoch in 1..=many {
            feeder.give(CoreId(0), update(epoch));
            feeder.give(CoreId(1), update(epoch));
        }
        feeder.finish();
        assert_eq!(reader.join().unwrap(), (Ok(()), (1..=many).collect()));
    }

    #[test]
    fn without_an_end_a_core_knows_that_rules_are_missing() {
        let (feeder, mut feeds) = rule_feeds(1);
        feeder.give(CoreId(0), update(1));
        drop(feeder);
        let mut count = 0;
        assert_eq!(feeds.pop().unwrap().drain(|_| count += 1), Err(CutOff));
        assert_eq!(count, 1);
    }
}
