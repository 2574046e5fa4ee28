//! Long work of a core in slices, beside its mail: questions over a deep queue. A slice is bounded by time, a pause
//! follows each, and nothing here decides what is done.

use crate::limits::{ASK_MOVES_MAX, ASK_PAUSE_MICROS, ASK_SLICE_MICROS, TICK_MILLIS};
use crate::runtime::clock;
use crate::runtime::local::Local;
use glommio::timer::sleep;
use std::rc::Rc;
use std::time::Duration;

impl Local {
    /// Answers questions sooner than the ticks would, as long as no mail moves, or little.
    pub async fn run_questions(self: Rc<Self>) {
        let moves = || {
            self.with_shard(|shard, _| {
                let counters = shard.counters();
                counters.received + counters.delivered + counters.deferred
            })
        };
        let mut before = moves();
        loop {
            self.asked.take().await;
            while self.with_shard(|shard, _| shard.has_questions()) {
                self.nap(Duration::from_micros(ASK_PAUSE_MICROS)).await;
                let now = moves();
                let moved = now - std::mem::replace(&mut before, now);
                if moved > ASK_MOVES_MAX {
                    // What the ticks do for questions is what a busy core can spare.
                    sleep(Duration::from_millis(TICK_MILLIS)).await;
                    before = moves();
                    continue;
                }
                if moved > 0 {
                    self.nap(Duration::from_micros(ASK_SLICE_MICROS)).await;
                }
                self.for_a_slice(ASK_SLICE_MICROS, || self.with_shard(|shard, now| shard.answer_more(now)));
            }
        }
    }

    /// Works until there is no more to do, or its time is over.
    pub(super) fn for_a_slice(&self, micros: u64, mut work: impl FnMut() -> bool) {
        let until = clock::now().instant.after(Duration::from_micros(micros));
        while work() && clock::now().instant < until {}
    }
}
