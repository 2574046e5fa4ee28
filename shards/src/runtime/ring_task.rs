//! The task of a core's ring of sockets: hears of what is ready, wakes who waits for it, and sleeps when nothing is.
//!
//! A turn of glommio's executor costs a dozen system calls whatever it does, and its sleep a `membarrier` that
//! interrupts every other core. So as long as the executor has nothing of its own to wait for but the next tick, this
//! task goes round without it, behind the tasks that it has woken, and sleeps in the ring itself. It never sleeps while
//! a counted task is ready to run, nor beyond the moment at which the executor is wanted.

use crate::limits::{RING_BUSY_MICROS, RING_SLEEP_MICROS_MIN};
use crate::runtime::ring::Ring;
use crate::runtime::{clock, tasks};
use crate::time::Instant;
use atomic_waker::AtomicWaker;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

impl Ring {
    /// The ring's task. Never ends but by an error of the system, which leaves the core without its sockets.
    ///
    /// `inbox` takes what other threads have sent, and says whether there was anything. `leisure` says until when the
    /// executor is not needed; `None` when it waits for something by itself, as for a datagram. Then this task goes
    /// round without it for [`RING_BUSY_MICROS`] at most, and the core sleeps there.
    ///
    /// # Errors
    /// What the kernel says to the eventfd or to io_uring_enter(2).
    pub async fn run(self, inbox: impl Fn() -> bool, leisure: impl Fn() -> Option<Instant>) -> io::Result<()> {
        let event = self.register_event()?;
        let told = Arc::new(Told::default());
        let waker = Waker::from(told.clone());
        let mut round = Round { ring: &self, inbox, leisure, told, waker, busy_until: None, went_round: None };
        loop {
            round.told.has_come.store(true, Ordering::Release);
            // What comes after the turn counts in the eventfd, and a read of it ends at once.
            let mut heard = pin!(event.read_at(0, size_of::<u64>()));
            poll_fn(|cx| round.poll(cx, heard.as_mut())).await?;
        }
    }
}

/// Whether the executor has heard of the ring since it was last asked.
///
/// Each time that one of its reads is polled it keeps another waker, and of one task's there may be 32,767. Polled with
/// every tick, a core on which nothing happens would stop after some minutes. So the read is polled when it has woken.
#[derive(Default)]
struct Told {
    has_come: AtomicBool,
    task: AtomicWaker,
}

impl Wake for Told {
    fn wake(self: Arc<Self>) {
        self.has_come.store(true, Ordering::Release);
        self.task.wake();
    }
}

struct Round<'a, I, L> {
    ring: &'a Ring,
    inbox: I,
    leisure: L,
    told: Arc<Told>,
    /// Sets `told` and wakes the task.
    waker: Waker,
    /// When the executor gets the core back although there is more to do.
    busy_until: Option<Instant>,
    /// Turns of other tasks when this one went behind all that were ready.
    went_round: Option<u64>,
}

impl<I: Fn() -> bool, L: Fn() -> Option<Instant>> Round<'_, I, L> {
    /// Ready when the executor has heard of the ring.
    fn poll<R, E: Into<io::Error>>(
        &mut self,
        cx: &Context<'_>,
        heard: Pin<&mut impl Future<Output = Result<R, E>>>,
    ) -> Poll<io::Result<()>> {
        self.ring.alert().awake();
        self.ring.tell_executor(false);
        match self.attend(cx) {
            Ok(true) => return Poll::Pending,
            Ok(false) => {}
            Err(error) => return Poll::Ready(Err(error)),
        }
        self.busy_until = None;
        self.ring.tell_executor(true);
        self.ring.alert().away();
        // What came until now; of what comes later the executor hears.
        let looked = self.ring.turn().map(|_| (self.inbox)());
        if let Err(error) = looked {
            return Poll::Ready(Err(error));
        }
        self.told.task.register(cx.waker());
        if self.told.has_come.swap(false, Ordering::AcqRel)
            && let Poll::Ready(read) = heard.poll(&mut Context::from_waker(&self.waker))
        {
            return Poll::Ready(read.map(|_| ()).map_err(Into::into));
        }
        self.ring.wake_on_request(cx.waker());
        Poll::Pending
    }

    /// Does what there is to do, and sleeps when there is nothing, until the executor is wanted. Whether this task
    /// comes again behind those that are ready.
    fn attend(&mut self, cx: &Context<'_>) -> io::Result<bool> {
        loop {
            let answered = self.ring.turn()?;
            let came = (self.inbox)();
            let alone = self.went_round.take() == Some(tasks::turns());
            let now = clock::now().instant;
            let leisure = (self.leisure)();
            if answered || came || !alone {
                let until = leisure.unwrap_or_else(|| {
                    *self.busy_until.get_or_insert_with(|| now.after(Duration::from_micros(RING_BUSY_MICROS)))
                });
                if now >= until || leisure.is_none() && !answered && !came {
                    return Ok(false);
                }
                self.went_round = Some(tasks::turns());
                cx.waker().wake_by_ref();
                return Ok(true);
            }
            let rest = leisure.map_or(Duration::ZERO, |until| until.since(now));
            if rest < Duration::from_micros(RING_SLEEP_MICROS_MIN) || !self.ring.can_sleep() {
                return Ok(false);
            }
            self.ring.alert().parked();
            if (self.inbox)() {
                self.went_round = None;
            } else {
                self.ring.sleep(rest)?;
                self.went_round = Some(tasks::turns());
            }
            self.ring.alert().awake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::rc::Rc;

    /// A core on which nothing happened came to its end after some minutes: each tick left a waker behind.
    #[test]
    fn ticks_without_an_answer_leave_no_wakers_behind() {
        let executor = glommio::LocalExecutorBuilder::default().io_memory(0).make().unwrap();
        executor.run(async {
            let ring = Ring::new().unwrap();
            let turns = Rc::new(Cell::new(0_u32));
            let (of_task, counted) = (ring.clone(), turns.clone());
            let inbox = move || {
                counted.set(counted.get() + 1);
                false
            };
            glommio::spawn_local(async move { of_task.run(inbox, || None).await.unwrap() }).detach();
            while turns.get() < 100_000 {
                ring.rouse();
                futures_lite::future::yield_now().await;
            }
        });
    }

    #[test]
    fn it_does_not_sleep_while_a_task_is_ready() {
        let executor = glommio::LocalExecutorBuilder::default().io_memory(0).make().unwrap();
        executor.run(async {
            let until = clock::now().instant.after(Duration::from_secs(30));
            let leisure = Rc::new(Cell::new(Some(until)));
            let of_task = leisure.clone();
            let busy = async move {
                for _ in 0..1000 {
                    futures_lite::future::yield_now().await;
                }
                leisure.set(None);
            };
            let busy = glommio::spawn_local(tasks::counted(busy));
            let ring = Ring::new().unwrap();
            glommio::spawn_local(async move { ring.run(|| false, || of_task.get()).await.unwrap() }).detach();
            busy.await;
            assert!(clock::now().instant < until, "nobody has slept");
        });
    }
}
