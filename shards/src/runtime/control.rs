//! What the control core needs of the executor: a thread that runs it, tasks, and streams with
//! deadlines. It knows nothing of what the control core does, and moves no mail.
//!
//! Everything here but [`ControlThread`] belongs to the control core and ends with it.

use crate::limits::{ACCEPT_PAUSE_MILLIS, CONTROL_TICK_MILLIS, HEARTBEAT_LATE_SECONDS};
use crate::runtime::alarm::{Alarm, Alarms};
use crate::runtime::executor::{self, ExecutorStart};
use crate::runtime::report::report;
use crate::runtime::{clock, socket};
use crate::time::Instant;
use crossbeam::channel::{Sender, bounded};
use futures_lite::{AsyncRead, AsyncWrite, FutureExt};
use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::thread::JoinHandle;
use std::time::Duration;

/// Entries of the ring's submission queue.
const RING_DEPTH: usize = 128;

/// The control core as other threads see it.
pub struct ControlThread {
    thread: Option<JoinHandle<()>>,
    shared: Arc<Shared>,
}

struct Shared {
    /// Microseconds of the monotonic clock at which a stop must be over; `u64::MAX` when none was asked for.
    stop_by: AtomicU64,
    heartbeat: AtomicU64,
}

/// How it is with the control core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turning {
    /// It turned lately.
    Lately,
    /// It did not.
    Stalled,
    /// Its thread has ended.
    Ended,
}

impl ControlThread {
    /// Starts the executor on `cpu` (wherever the system likes when `None`) and runs `begin` there, which
    /// opens what is needed and spawns tasks. Returns what `begin` returned.
    ///
    /// # Errors
    /// The thread or the executor could not be started, or `begin`'s own.
    pub fn start<T, F>(cpu: Option<usize>, begin: F) -> Result<(Self, T), String>
    where
        T: Send + 'static,
        F: FnOnce(&Control) -> Result<T, String> + Send + 'static,
    {
        let shared =
            Arc::new(Shared { stop_by: AtomicU64::new(u64::MAX), heartbeat: AtomicU64::new(clock::now().instant.0) });
        let (ready, begun) = bounded(1);
        let own = shared.clone();
        let thread = std::thread::Builder::new()
            .name("control".to_owned())
            .spawn(move || run(cpu, own, begin, ready))
            .map_err(|error| format!("the control core's thread: {error}"))?;
        let result = begun.recv().map_err(|_| "the control core ended while it was starting".to_owned())?;
        result.map(|value| (Self { thread: Some(thread), shared }, value))
    }

    /// How it is. Does not wait.
    #[must_use]
    pub fn health(&self) -> Turning {
        if self.thread.as_ref().is_none_or(JoinHandle::is_finished) {
            return Turning::Ended;
        }
        let silent = clock::now().instant.0.saturating_sub(self.shared.heartbeat.load(Ordering::Relaxed));
        if silent > HEARTBEAT_LATE_SECONDS * 1_000_000 { Turning::Stalled } else { Turning::Lately }
    }

    /// Asks all tasks to end, waits for them within `within`, and ends the thread. An error if it had ended
    /// by a panic.
    ///
    /// # Errors
    /// It ended by a panic.
    pub fn stop(&mut self, within: Duration) -> Result<(), String> {
        let by = clock::now().instant.after(within);
        self.shared.stop_by.store(by.0.min(u64::MAX - 1), Ordering::Release);
        let ended = self.thread.take().map_or(Ok(()), JoinHandle::join);
        ended.map_err(|_| "the control core ended by a panic".to_owned())
    }
}

impl Drop for ControlThread {
    fn drop(&mut self) {
        if self.thread.is_some() {
            // Whoever drops it without a stop has given up already.
            let _ = self.stop(Duration::ZERO);
        }
    }
}

fn run<T, F>(cpu: Option<usize>, shared: Arc<Shared>, begin: F, ready: Sender<Result<T, String>>)
where
    T: Send + 'static,
    F: FnOnce(&Control) -> Result<T, String> + Send + 'static,
{
    let executor = ExecutorStart { name: "control".to_owned(), cpu, ring_depth: RING_DEPTH };
    let not_started = ready.clone();
    let main = async move || {
        let control = Control {
            core: Rc::new(Core { alarms: Alarms::default(), stopping: Cell::new(false), tasks: Cell::new(0) }),
        };
        let result = begin(&control);
        let failed = result.is_err();
        // The starter waits for it, or is gone and will ask for a stop.
        let _ = ready.send(result);
        if !failed {
            turn(&control, &shared).await;
        }
    };
    if let Err(why) = executor::run(&executor, main) {
        let _ = not_started.send(Err(why));
    }
}

/// The ticker, until a stop is over.
async fn turn(control: &Control, shared: &Shared) {
    let core = &control.core;
    loop {
        glommio::timer::sleep(Duration::from_millis(CONTROL_TICK_MILLIS)).await;
        let now = clock::now().instant;
        shared.heartbeat.store(now.0, Ordering::Relaxed);
        core.alarms.scan(now);
        let stop_by = shared.stop_by.load(Ordering::Acquire);
        if stop_by == u64::MAX {
            continue;
        }
        if !core.stopping.replace(true) {
            core.alarms.ring_all();
        }
        if core.tasks.get() == 0 || now.0 >= stop_by {
            return;
        }
    }
}

/// The control core as its own tasks see it.
#[derive(Clone)]
pub struct Control {
    core: Rc<Core>,
}

struct Core {
    alarms: Alarms,
    stopping: Cell<bool>,
    tasks: Cell<usize>,
}

impl Control {
    /// Whether all tasks are to end.
    #[must_use]
    pub fn stopping(&self) -> bool {
        self.core.stopping.get()
    }

    /// Starts a task. A panic in it ends the task alone and is reported; a stop waits for it.
    pub fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + 'static) {
        let core = self.core.clone();
        core.tasks.set(core.tasks.get() + 1);
        glommio::spawn_local(async move {
            // What a task of the control core leaves half done is dropped with it.
            if AssertUnwindSafe(task).catch_unwind().await.is_err() {
                report(&format!("a panic in {name}: it was ended, everything else goes on"));
            }
            core.tasks.set(core.tasks.get() - 1);
        })
        .detach();
    }

    /// Waits; late by some 20 ms at most, early when a stop is asked for.
    pub async fn sleep(&self, duration: Duration) {
        let alarm = self.core.alarms.alarm();
        let deadline = clock::now().instant.after(duration);
        poll_fn(|cx| {
            if self.stopping() || clock::now().instant >= deadline {
                return Poll::Ready(());
            }
            alarm.set(Some(deadline), cx.waker());
            Poll::Pending
        })
        .await;
    }

    /// Lets other tasks run. For long work, once a millisecond.
    pub async fn give_way(&self) {
        glommio::executor().yield_task_queue_now().await;
    }

    /// Accepts connections from `socket` (see [`socket::listen`]) until a stop, each given to `accepted`.
    pub async fn listen(&self, socket: socket2::Socket, accepted: impl Fn(Stream, SocketAddr)) {
        let listener = socket::adopt_listener(socket);
        let alarm = self.core.alarms.alarm();
        while !self.stopping() {
            let stop = poll_fn(|cx| {
                if self.stopping() {
                    return Poll::Ready(());
                }
                alarm.set(None, cx.waker());
                Poll::Pending
            });
            let next = futures_lite::future::or(async { Some(listener.accept().await) }, async {
                stop.await;
                None
            });
            match next.await {
                None => return,
                Some(Ok(stream)) => {
                    let Ok(peer) = stream.peer_addr() else { continue };
                    let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
                    accepted(Stream { stream, alarm: self.core.alarms.alarm(), control: self.clone() }, peer);
                }
                // No descriptor left, most likely: clients wait in the backlog.
                Some(Err(_)) => self.sleep(Duration::from_millis(ACCEPT_PAUSE_MILLIS)).await,
            }
        }
    }
}

impl Control {
    /// An alarm of this core's table, rung at most one tick late.
    #[must_use]
    pub fn alarm(&self) -> Alarm {
        self.core.alarms.alarm()
    }
}

/// One accepted connection.
pub struct Stream {
    stream: glommio::net::TcpStream,
    alarm: Alarm,
    control: Control,
}

/// What ended a wait for octets.
#[derive(Debug)]
pub enum ReadEnd {
    /// The peer sends no more, or the connection failed.
    Closed,
    /// The deadline.
    Late,
    /// A stop was asked for (only when it was to be minded).
    Stop,
}

impl Stream {
    /// Reads some octets. With `mind_stop`, a stop ends the wait.
    ///
    /// # Errors
    /// Why there were none.
    pub async fn read(&mut self, buffer: &mut [u8], deadline: Instant, mind_stop: bool) -> Result<usize, ReadEnd> {
        poll_fn(|cx| {
            match Pin::new(&mut self.stream).poll_read(cx, buffer) {
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Err(ReadEnd::Closed)),
                Poll::Ready(Ok(count)) => return Poll::Ready(Ok(count)),
                Poll::Pending => {}
            }
            if mind_stop && self.control.stopping() {
                return Poll::Ready(Err(ReadEnd::Stop));
            }
            if clock::now().instant >= deadline {
                return Poll::Ready(Err(ReadEnd::Late));
            }
            self.alarm.set(Some(deadline), cx.waker());
            Poll::Pending
        })
        .await
    }

    /// Writes some octets; how many.
    ///
    /// # Errors
    /// The connection failed, or the deadline passed (`TimedOut`).
    pub async fn write(&mut self, octets: &[u8], deadline: Instant) -> io::Result<usize> {
        poll_fn(|cx| {
            if let Poll::Ready(result) = Pin::new(&mut self.stream).poll_write(cx, octets) {
                return Poll::Ready(result);
            }
            if clock::now().instant >= deadline {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            self.alarm.set(Some(deadline), cx.waker());
            Poll::Pending
        })
        .await
    }

    /// Says that nothing more will be sent, or received either.
    pub async fn shutdown(&mut self, how: Shutdown) {
        // A connection that is gone needs no good-bye.
        let _ = self.stream.shutdown(how).await;
    }
}
