//! Long work of a core in slices, beside its mail: questions over a deep queue, and at the start the mail that was found
//! on disk. A slice is bounded by time, a pause follows each, and nothing here decides what is done.

use crate::limits::{
    ASK_PAUSE_MICROS, ASK_SLICE_MICROS, OUTBOX_MESSAGES_MAX, POSTING_MESSAGES, POSTING_SLICE_MICROS, TICK_MILLIS,
};
use crate::runtime::clock;
use crate::runtime::local::Local;
use crate::runtime::report::report;
use crate::spool::report::Recovered;
use crossbeam::channel::Sender;
use glommio::timer::sleep;
use std::rc::Rc;
use std::time::Duration;

/// How often is told how far the mail is that was found on disk.
const TOLD_EVERY: Duration = Duration::from_secs(1);

impl Local {
    /// Answers questions sooner than the ticks would, as long as no mail moves.
    pub async fn run_questions(self: Rc<Self>) {
        let moves = || {
            self.with_shard(|shard, _| {
                let counters = shard.counters();
                (counters.received, counters.delivered, counters.deferred, shard.storing())
            })
        };
        let mut before = moves();
        loop {
            self.asked.take().await;
            while self.with_shard(|shard, _| shard.has_questions()) {
                self.nap(Duration::from_micros(ASK_PAUSE_MICROS)).await;
                let now = moves();
                if std::mem::replace(&mut before, now) != now {
                    // What the ticks do for questions is what a busy core can spare.
                    sleep(Duration::from_millis(TICK_MILLIS)).await;
                    before = moves();
                    continue;
                }
                self.for_a_slice(ASK_SLICE_MICROS, || self.with_shard(|shard, now| shard.answer_more(now)));
            }
        }
    }

    /// Puts the mail that was found on disk into the queues, the own and those of other cores, and says that the core is
    /// ready. New mail is taken meanwhile.
    pub async fn post_found(self: Rc<Self>, found: Vec<(u16, Recovered)>, ready: Sender<Result<(), String>>) {
        let mut told = clock::now().instant;
        for (spool, Recovered { messages, unrecorded, recorded, .. }) in found {
            self.with_shard(|shard, _| shard.handle_unrecorded(spool, &unrecorded, recorded));
            drop(unrecorded);
            let all = messages.len();
            let mut messages = messages.into_iter();
            while messages.len() > 0 {
                if self.stopping() {
                    // What is not posted stays in the spool.
                    return;
                }
                if self.backlog() > OUTBOX_MESSAGES_MAX / 2 {
                    sleep(Duration::from_millis(TICK_MILLIS)).await;
                    continue;
                }
                self.for_a_slice(POSTING_SLICE_MICROS, || {
                    self.with_shard(|shard, _| {
                        messages.by_ref().take(POSTING_MESSAGES).for_each(|message| shard.handle_recovered(message));
                    });
                    messages.len() > 0
                });
                if clock::now().instant.since(told) >= TOLD_EVERY {
                    told = clock::now().instant;
                    report(&format!("spool {spool:03}: {} of {all} messages are in the queue", all - messages.len()));
                }
                self.nap(Duration::from_micros(ASK_PAUSE_MICROS)).await;
            }
            self.spool(spool).all_posted();
        }
        // The starter may have given up on another core; the stop order is on its way then.
        let _ = ready.send(Ok(()));
    }

    /// Works until there is no more to do, or its time is over.
    fn for_a_slice(&self, micros: u64, mut work: impl FnMut() -> bool) {
        let until = clock::now().instant.after(Duration::from_micros(micros));
        while work() && clock::now().instant < until {}
    }
}
