//! One answer from the rules' thread to a task of the control core: sent once, awaited once. Whoever sends must not
//! know an executor, whoever waits must not block.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

#[derive(Debug)]
enum State<T> {
    Open(Option<Waker>),
    Sent(T),
    Gone,
}

type Slot<T> = Arc<Mutex<State<T>>>;

/// Sends it. Dropped without: whoever waits hears that.
#[derive(Debug)]
pub struct Reply<T>(Slot<T>);

/// Waits for it; `None` if the sender went away.
#[derive(Debug)]
pub struct Awaited<T>(Slot<T>);

/// Both ends.
#[must_use]
pub fn reply<T>() -> (Reply<T>, Awaited<T>) {
    let slot = Arc::new(Mutex::new(State::Open(None)));
    (Reply(slot.clone()), Awaited(slot))
}

fn lock<T>(slot: &Slot<T>) -> MutexGuard<'_, State<T>> {
    // No code that may panic runs while it is held.
    slot.lock().unwrap_or_else(PoisonError::into_inner)
}

fn settle<T>(slot: &Slot<T>, state: State<T>) {
    let mut held = lock(slot);
    let State::Open(waker) = &mut *held else { return };
    let waker = waker.take();
    *held = state;
    drop(held);
    if let Some(waker) = waker {
        waker.wake();
    }
}

impl<T> Reply<T> {
    /// Sends; nobody may be waiting any more.
    pub fn send(self, value: T) {
        settle(&self.0, State::Sent(value));
    }
}

impl<T> Drop for Reply<T> {
    fn drop(&mut self) {
        settle(&self.0, State::Gone);
    }
}

impl<T> Awaited<T> {
    /// Blocks the thread until it is there.
    #[cfg(test)]
    pub fn wait(self) -> Option<T> {
        futures_lite::future::block_on(self)
    }
}

impl<T> Future for Awaited<T> {
    type Output = Option<T>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<T>> {
        let mut state = lock(&self.0);
        match std::mem::replace(&mut *state, State::Gone) {
            State::Open(_) => {
                *state = State::Open(Some(context.waker().clone()));
                Poll::Pending
            }
            State::Sent(value) => Poll::Ready(Some(value)),
            State::Gone => Poll::Ready(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::reply;

    #[test]
    fn an_answer_or_the_news_that_none_will_come() {
        let (sender, awaited) = reply();
        std::thread::spawn(move || sender.send(7)).join().unwrap();
        assert_eq!(awaited.wait(), Some(7));
        let (sender, awaited) = reply::<u8>();
        let waiting = std::thread::spawn(move || awaited.wait());
        drop(sender);
        assert_eq!(waiting.join().unwrap(), None);
        let (sender, awaited) = reply();
        drop(awaited);
        sender.send(7);
    }
}
