//! Threads with an executor on them. Never hands a task to an executor that has not shown that it turns.
//!
//! glommio 0.9.0 can go to sleep over a task that is ready: when its preemption timer (100 ms) has run out by the time
//! that it looks for work, it finds none. It then sleeps until the next event; and when the task over which it sleeps is
//! the ticker itself, whose timer has rung, there may be none for ever. So the thread that waits for an executor's end
//! pokes it meanwhile, five times a second. At its start, before anything has run, there is nothing to poke: each
//! executor first runs a task of no consequence, and one that does not is given up for another.

use crate::limits::{EXECUTOR_POKE_EVERY, EXECUTOR_START_WAIT, EXECUTOR_STARTS, TICK_MILLIS};
use crate::runtime::report::report;
use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded};
use glommio::{LocalExecutor, LocalExecutorBuilder, Placement, PoolPlacement};
use std::future::{Future, poll_fn};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};
use std::thread::JoinHandle;
use std::time::Duration;

/// Which executor.
#[derive(Clone, Debug)]
pub(super) struct ExecutorStart {
    /// Name of its thread.
    pub name: String,
    /// The processor that it is pinned to; `None` to leave the choice to the system.
    pub cpu: Option<usize>,
    /// Entries of its ring's submission queue.
    pub ring_depth: usize,
}

type Work = Box<dyn FnOnce(&LocalExecutor) + Send>;

/// What a thread does: says whether its executor turns, takes work, and does it.
type Body = fn(&ExecutorStart, &Sender<Result<(), String>>, &Receiver<Work>);

/// A thread whose executor turns.
struct Turning {
    work: Sender<Work>,
    thread: JoinHandle<()>,
}

/// Of pokes that are not heard, one in so many is given.
const POKES_UNHEARD: u32 = 50;

/// Ticks of the task that keeps a fresh executor awake until it has work; the work brings a ticker of its own.
const WAKING_TICKS: u32 = 100;

/// Runs what `main` makes on an executor of its own, on a thread of its own, and waits for its end. Panics as it does.
///
/// # Errors
/// No executor could be started.
pub(super) fn run<M, F>(start: &ExecutorStart, main: M) -> Result<(), String>
where
    M: FnOnce() -> F + Send + 'static,
    F: Future<Output = ()> + 'static,
{
    run_in_first(start, &[body as Body; EXECUTOR_STARTS], main)
}

/// The same in the first of some threads that turns.
fn run_in_first<M, F>(start: &ExecutorStart, bodies: &[Body], main: M) -> Result<(), String>
where
    M: FnOnce() -> F + Send + 'static,
    F: Future<Output = ()> + 'static,
{
    for body in bodies {
        let Some(Turning { work, thread }) = turning(start, *body)? else {
            report(&format!("{}: an executor did not begin to turn; another takes its place", start.name));
            continue;
        };
        let pulse = Arc::new(Pulse::default());
        let (alive, ended) = bounded::<()>(0);
        let own = pulse.clone();
        // It waits for nothing else.
        let _ = work.send(Box::new(move |executor: &LocalExecutor| {
            let _alive = alive;
            let _beating = Beating(own.clone());
            executor.run(async move {
                glommio::spawn_local(beat(own)).detach();
                main().await;
            });
        }));
        while ended.recv_timeout(EXECUTOR_POKE_EVERY) == Err(RecvTimeoutError::Timeout) {
            pulse.poke();
        }
        return thread.join().map_err(|panic| std::panic::resume_unwind(panic));
    }
    Err(format!("{}: {} executors did not begin to turn", start.name, bodies.len()))
}

/// How an executor is poked from another thread.
#[derive(Default)]
struct Pulse {
    /// The task [`beat`], while its executor runs.
    task: Mutex<Option<Waker>>,
    /// Pokes since it ran last.
    pokes: AtomicU32,
}

impl Pulse {
    /// Wakes the executor if it sleeps.
    fn poke(&self) {
        // A waker holds a reference that is counted in 15 bits, so an executor that is stuck is not poked each time.
        if self.pokes.fetch_add(1, Ordering::Relaxed).is_multiple_of(POKES_UNHEARD)
            && let Some(task) = &*self.task.lock().unwrap_or_else(PoisonError::into_inner)
        {
            task.wake_by_ref();
        }
    }
}

/// Ends the pokes before the executor does, however it ends.
struct Beating(Arc<Pulse>);

impl Drop for Beating {
    fn drop(&mut self) {
        *self.0.task.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// The task that is woken by pokes. That it runs is all it does: its executor is awake then.
async fn beat(pulse: Arc<Pulse>) {
    poll_fn(|cx| {
        pulse.pokes.store(0, Ordering::Relaxed);
        let mut task = pulse.task.lock().unwrap_or_else(PoisonError::into_inner);
        if task.is_none() {
            *task = Some(cx.waker().clone());
        }
        Poll::<()>::Pending
    })
    .await;
}

/// Starts a thread; `None` when its executor did not begin to turn within its time. That one is left asleep.
fn turning(start: &ExecutorStart, body: Body) -> Result<Option<Turning>, String> {
    let (work, works) = bounded(1);
    let (turns, turned) = bounded(1);
    let own = start.clone();
    let thread = std::thread::Builder::new()
        .name(start.name.clone())
        .spawn(move || body(&own, &turns, &works))
        .map_err(|error| format!("the thread {}: {error}", start.name))?;
    match turned.recv_timeout(EXECUTOR_START_WAIT) {
        Ok(Ok(())) => Ok(Some(Turning { work, thread })),
        Ok(Err(why)) => Err(why),
        Err(RecvTimeoutError::Timeout) => Ok(None),
        Err(RecvTimeoutError::Disconnected) => match thread.join() {
            Ok(()) => Err(format!("the thread {} has ended", start.name)),
            Err(panic) => std::panic::resume_unwind(panic),
        },
    }
}

fn body(start: &ExecutorStart, turns: &Sender<Result<(), String>>, works: &Receiver<Work>) {
    let executor = LocalExecutorBuilder::new(start.cpu.map_or(Placement::Unbound, Placement::Fixed))
        .io_memory(0)
        .ring_depth(start.ring_depth)
        .blocking_thread_pool_placement(PoolPlacement::Unbound(1))
        .make();
    let executor = match executor {
        Ok(executor) => executor,
        Err(error) => return drop(turns.send(Err(format!("the executor on processor {:?}: {error}", start.cpu)))),
    };
    executor.run(async {
        let waking = async {
            for _ in 0..WAKING_TICKS {
                glommio::timer::sleep(Duration::from_millis(TICK_MILLIS)).await;
            }
        };
        glommio::spawn_local(waking).detach();
    });
    // Whoever waited may have given up; then there is no work.
    let _ = turns.send(Ok(()));
    if let Ok(work) = works.recv() {
        work(&executor);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicBool;

    fn asleep(_: &ExecutorStart, _turns: &Sender<Result<(), String>>, works: &Receiver<Work>) {
        // Until it is given up.
        assert!(works.recv().is_err(), "no work is given to one that does not turn");
    }

    #[test]
    fn an_executor_that_sleeps_over_its_first_task_is_given_up_for_another() {
        let start = ExecutorStart { name: "test".to_owned(), cpu: None, ring_depth: 64 };
        let ran = Arc::new(AtomicBool::new(false));
        let (runs, body) = (ran.clone(), body as Body);
        run_in_first(&start, &[asleep as Body, body], move || async move { runs.store(true, Ordering::SeqCst) })
            .unwrap();
        assert!(ran.load(Ordering::SeqCst));
        let why = run_in_first(&start, &[asleep as Body], async || ()).unwrap_err();
        assert_eq!(why, "test: 1 executors did not begin to turn");
    }

    #[test]
    fn an_executor_that_sleeps_without_a_timer_wakes_when_it_is_poked() {
        let pulse = Arc::new(Pulse::default());
        let end = Arc::new((AtomicBool::new(false), Mutex::<Option<Waker>>::default()));
        let (own, own_end) = (pulse.clone(), end.clone());
        let thread = std::thread::spawn(move || {
            let executor = LocalExecutorBuilder::default().io_memory(0).make().unwrap();
            executor.run(async move {
                glommio::spawn_local(beat(own)).detach();
                poll_fn(|cx| {
                    *own_end.1.lock().unwrap() = Some(cx.waker().clone());
                    if own_end.0.load(Ordering::SeqCst) { Poll::Ready(()) } else { Poll::Pending }
                })
                .await;
            });
        });
        for _ in 0..3 {
            std::thread::park_timeout(Duration::from_millis(150));
            pulse.poke();
            let mut patience = 1000;
            while pulse.pokes.load(Ordering::Relaxed) > 0 {
                assert!(patience > 0, "it did not wake");
                patience -= 1;
                std::thread::park_timeout(Duration::from_millis(10));
            }
        }
        end.0.store(true, Ordering::SeqCst);
        let waker = end.1.lock().unwrap().take();
        waker.unwrap().wake();
        thread.join().unwrap();
    }
}
