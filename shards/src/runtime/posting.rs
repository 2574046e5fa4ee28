//! Puts mail that was found on disk at the start into the queues, in slices, beside the mail that comes in. A slice is
//! bounded by time, a pause follows each, and nothing here decides what is done.

use crate::limits::{
    ASK_PAUSE_MICROS, FOUND_TOLD_MILLIS, OUTBOX_MESSAGES_MAX, POSTING_MESSAGES, POSTING_SLICE_MICROS, TICK_MILLIS,
};
use crate::runtime::clock;
use crate::runtime::local::Local;
use crate::runtime::report::report;
use crate::runtime::spool_found::{FoundEvent, FoundMail};
use crate::time::Instant;
use glommio::timer::sleep;
use std::rc::Rc;
use std::time::Duration;

/// What ends the posting before its end.
enum Ended {
    /// A stop: what is not posted stays in the spool.
    Stop,
    /// It cannot be read.
    Failed(String),
}

/// How far a core is.
struct Progress {
    all: u64,
    left: u64,
    begun: Instant,
    told: Instant,
}

impl Local {
    /// Posts all that is found in the spools of this core.
    pub async fn post_found(self: Rc<Self>, found: Vec<(u16, FoundMail)>) {
        if let Err(Ended::Failed(why)) = self.post_spools(&found).await {
            // The engine ends; it would not know its own mail.
            self.shared.fail(why);
        }
    }

    async fn post_spools(self: &Rc<Self>, found: &[(u16, FoundMail)]) -> Result<(), Ended> {
        let begun = clock::now().instant;
        let mut left = 0;
        for (spool, found) in found {
            left += self.post_searched(*spool, found).await?;
        }
        self.shared.set_to_post(self.core, Some(left));
        let mut progress = Progress { all: left, left, begun, told: clock::now().instant };
        for (spool, found) in found {
            self.post_messages(*spool, found, &mut progress).await?;
            self.spool(*spool).all_posted();
        }
        // What was posted to other cores is in their queues once they have dealt with it, however long that takes them.
        if !self.posted_arrives(Duration::MAX).await {
            return Err(Ended::Stop);
        }
        self.shared.set_to_post(self.core, Some(0));
        if progress.all > 0 {
            let took = clock::now().instant.since(progress.begun).as_secs_f64();
            report(&format!(
                "shard {}: all {} messages found are in the queue, {took:.1} s",
                self.core.0, progress.all
            ));
        }
        Ok(())
    }

    /// Waits until other cores have dealt with all that was posted to them by now. False when it takes longer than that,
    /// or a stop comes first.
    pub(super) async fn posted_arrives(&self, within: Duration) -> bool {
        let (posted, until) = (self.posted(), clock::now().instant.after(within));
        while !self.is_handled(&posted) {
            if self.stopping() || clock::now().instant >= until {
                return false;
            }
            sleep(Duration::from_millis(TICK_MILLIS)).await;
        }
        true
    }

    /// Waits for the end of the search. How many messages will come.
    async fn post_searched(self: &Rc<Self>, spool: u16, found: &FoundMail) -> Result<u64, Ended> {
        loop {
            if self.stopping() {
                return Err(Ended::Stop);
            }
            match found.take() {
                Some(FoundEvent::Searched { messages, unrecorded, recorded, .. }) => {
                    self.with_shard(|shard, _| shard.handle_unrecorded(spool, &unrecorded, recorded));
                    return Ok(messages);
                }
                Some(last) => return Err(ended(spool, last)),
                None => sleep(Duration::from_millis(TICK_MILLIS)).await,
            }
        }
    }

    async fn post_messages(
        self: &Rc<Self>,
        spool: u16,
        found: &FoundMail,
        progress: &mut Progress,
    ) -> Result<(), Ended> {
        let mut waiting = Vec::new().into_iter();
        loop {
            if self.stopping() {
                return Err(Ended::Stop);
            }
            if self.backlog() > OUTBOX_MESSAGES_MAX / 2 {
                sleep(Duration::from_millis(TICK_MILLIS)).await;
                continue;
            }
            let mut last = None;
            self.for_a_slice(POSTING_SLICE_MICROS, || {
                if waiting.len() == 0 {
                    match found.take() {
                        Some(FoundEvent::Messages(messages)) => waiting = messages.into_iter(),
                        other => {
                            last = other;
                            return false;
                        }
                    }
                }
                let before = waiting.len();
                self.with_shard(|shard, _| {
                    waiting.by_ref().take(POSTING_MESSAGES).for_each(|message| shard.handle_recovered(message));
                });
                progress.left -= (before - waiting.len()) as u64;
                true
            });
            match last {
                Some(FoundEvent::End) => return Ok(()),
                Some(last) => return Err(ended(spool, last)),
                None => {}
            }
            // What is posted may still be on its way: not all is in the queues before that is known.
            self.shared.set_to_post(self.core, Some(progress.left.max(1)));
            if clock::now().instant.since(progress.told) >= Duration::from_millis(FOUND_TOLD_MILLIS) {
                progress.told = clock::now().instant;
                let Progress { all, left, .. } = *progress;
                report(&format!("shard {}: {} of {all} messages found are in the queue", self.core.0, all - left));
            }
            self.nap(Duration::from_micros(ASK_PAUSE_MICROS)).await;
        }
    }
}

fn ended(spool: u16, last: FoundEvent) -> Ended {
    match last {
        FoundEvent::Failed(error) => Ended::Failed(format!("spool {spool:03}: {error}")),
        _ => Ended::Stop,
    }
}
