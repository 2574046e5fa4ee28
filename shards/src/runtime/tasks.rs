//! A core's tasks, and how many of their turns there have been: so the task of the sockets' ring knows whether anything
//! else was ready to run.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::pin;

thread_local! {
    static TURNS: Cell<u64> = const { Cell::new(0) };
}

/// Runs a task on the calling core, whose turns are counted.
pub(super) fn spawn(task: impl Future<Output = ()> + 'static) {
    glommio::spawn_local(counted(task)).detach();
}

/// Counts the turns of a task that is run otherwise.
pub(super) async fn counted<R>(task: impl Future<Output = R>) -> R {
    let mut task = pin!(task);
    poll_fn(|cx| {
        TURNS.set(TURNS.get().wrapping_add(1));
        task.as_mut().poll(cx)
    })
    .await
}

/// Turns of counted tasks of the calling core so far.
pub(super) fn turns() -> u64 {
    TURNS.get()
}
