//! How other threads get the attention of a core that sleeps in the ring of its sockets, where the executor's wakers do
//! not reach it. It carries nothing: what there is to see is looked up by the core.

use rustix::event::{EventfdFlags, eventfd};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU8, Ordering, fence};

/// The executor has the core, which may sleep there.
const AWAY: u8 = 0;
/// The core looks at what it was sent before it goes anywhere.
const AWAKE: u8 = 1;
/// The core sleeps in its ring, or is about to.
const PARKED: u8 = 2;

/// Where a core is, and the eventfd that its ring watches. Shared with those who may wake it.
#[derive(Debug)]
pub struct Alert {
    place: AtomicU8,
    event: OwnedFd,
}

impl Alert {
    /// Of a core that its executor has.
    ///
    /// # Errors
    /// What eventfd(2) says.
    pub fn new() -> io::Result<Self> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { place: AtomicU8::new(AWAY), event })
    }

    /// Something was sent to the core. Whether it will look without being woken by its executor's means.
    pub fn sound(&self) -> bool {
        // What was sent is seen by a core that looks after having said where it goes, or else that is seen here.
        fence(Ordering::SeqCst);
        match self.place.compare_exchange(PARKED, AWAKE, Ordering::SeqCst, Ordering::SeqCst) {
            Ok(_) => {
                // It fails only when the counter is full, and then the core is awake.
                let _ = rustix::io::write(&self.event, &1_u64.to_ne_bytes());
                true
            }
            Err(place) => place == AWAKE,
        }
    }

    /// The core works, and will look before it goes anywhere.
    pub(super) fn awake(&self) {
        self.place.store(AWAKE, Ordering::SeqCst);
    }

    /// The core is about to sleep in its ring. It looks at what it was sent once more.
    pub(super) fn parked(&self) {
        self.place.store(PARKED, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    /// The core is about to go back to its executor. It looks at what it was sent once more.
    pub(super) fn away(&self) {
        self.place.store(AWAY, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    pub(super) fn event(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}
