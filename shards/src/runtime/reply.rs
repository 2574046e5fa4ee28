//! A single answer from another thread to a task of the control core. Never blocks a thread.

use crate::runtime::clock;
use crate::runtime::control::Control;
use atomic_waker::AtomicWaker;
use crossbeam::channel::{Receiver, Sender, TryRecvError, bounded};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
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

impl<T> Future for Reply<T> {
    type Output = Result<T, NoReply>;

    /// Waits for it without a bound; for answers of a thread that always says something, or ends.
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.look(context)
    }
}

impl<T> Reply<T> {
    fn look(&self, context: &Context<'_>) -> Poll<Result<T, NoReply>> {
        self.waker.register(context.waker());
        match self.receiver.try_recv() {
            Ok(value) => Poll::Ready(Ok(value)),
            Err(TryRecvError::Disconnected) => Poll::Ready(Err(NoReply::Dropped)),
            Err(TryRecvError::Empty) => Poll::Pending,
        }
    }

    /// Waits for it.
    ///
    /// # Errors
    /// It will not come, or did not come within `within`.
    pub async fn within(self, control: &Control, within: Duration) -> Result<T, NoReply> {
        let alarm = control.alarm();
        let deadline = clock::now().instant.after(within);
        poll_fn(|cx| {
            if let Poll::Ready(reply) = self.look(cx) {
                return Poll::Ready(reply);
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

#[cfg(test)]
mod tests {
    use super::{NoReply, reply};
    use futures_lite::future::block_on;

    #[test]
    fn an_answer_or_the_news_that_none_will_come() {
        let (sender, awaited) = reply();
        std::thread::spawn(move || sender.say(7)).join().unwrap();
        assert_eq!(block_on(awaited), Ok(7));
        let (sender, awaited) = reply::<u8>();
        let waiting = std::thread::spawn(move || block_on(awaited));
        drop(sender);
        assert_eq!(waiting.join().unwrap(), Err(NoReply::Dropped));
        let (sender, awaited) = reply();
        drop(awaited);
        sender.say(7);
    }
}
