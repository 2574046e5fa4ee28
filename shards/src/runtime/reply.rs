//! A single answer from another thread to a task of the control core. Bounded in time; never blocks a thread.

use crate::runtime::clock;
use crate::runtime::control::Control;
use atomic_waker::AtomicWaker;
use crossbeam::channel::{Receiver, Sender, TryRecvError, bounded};
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

/// The side of a [`Reply`] that any thread may hold. Dropped without a word, it ends the wait.
pub struct Replier<T> {
    sender: Option<Sender<T>>,
    waker: Arc<AtomicWaker>,
}

/// Something that another thread will say.
pub struct Reply<T> {
    receiver: Receiver<T>,
    waker: Arc<AtomicWaker>,
}

/// Why there is no reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoReply {
    /// The other side was dropped.
    Dropped,
    /// Not in time.
    Late,
}

/// Both sides of a reply.
#[must_use]
pub fn reply<T: Send>() -> (Replier<T>, Reply<T>) {
    let (sender, receiver) = bounded(1);
    let waker = Arc::new(AtomicWaker::new());
    (Replier { sender: Some(sender), waker: waker.clone() }, Reply { receiver, waker })
}

impl<T> Replier<T> {
    /// Says it; does not wait.
    pub fn say(mut self, value: T) {
        if let Some(sender) = self.sender.take() {
            // Whoever asked may have gone, and then does not want to know.
            let _ = sender.send(value);
        }
    }
}

impl<T> Drop for Replier<T> {
    fn drop(&mut self) {
        drop(self.sender.take());
        self.waker.wake();
    }
}

impl<T> Reply<T> {
    /// Waits for it.
    ///
    /// # Errors
    /// It will not come, or did not come within `within`.
    pub async fn within(self, control: &Control, within: Duration) -> Result<T, NoReply> {
        let alarm = control.alarm();
        let deadline = clock::now().instant.after(within);
        poll_fn(|cx| {
            self.waker.register(cx.waker());
            match self.receiver.try_recv() {
                Ok(value) => return Poll::Ready(Ok(value)),
                Err(TryRecvError::Disconnected) => return Poll::Ready(Err(NoReply::Dropped)),
                Err(TryRecvError::Empty) => {}
            }
            if clock::now().instant >= deadline {
                return Poll::Ready(Err(NoReply::Late));
            }
            alarm.set(Some(deadline), cx.waker());
            Poll::Pending
        })
        .await
    }
}
