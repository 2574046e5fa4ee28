//! Which of a core's SMTP sockets can be read or written, told by an io_uring of its own.
//!
//! The executor's ring asks once for each wait and interrupts a running core for each answer. This one asks
//! once for each socket (`IORING_POLL_ADD_MULTI`, edge-triggered) and leaves its answers until the core makes a
//! system call anyway (`IORING_SETUP_COOP_TASKRUN`). It knows sockets only by their descriptors and moves no octets.
//! When the core looks at it, and when it sleeps, is up to its task.

use crate::limits::{RING_COMPLETIONS, RING_ENTRIES, RING_ROUNDS_PER_TURN};
use crate::runtime::alert::Alert;
use glommio::io::BufferedFile;
use io_uring::{IoUring, cqueue, opcode, squeue, types};
use rustix::event::{EventfdFlags, eventfd};
use slab::Slab;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

/// What is asked of every socket; what it cannot do (a listener cannot be written) is never answered.
const INTEREST: u32 = (libc::POLLIN | libc::POLLOUT | libc::POLLRDHUP) as u32;
/// After one of these no call blocks any more: it says itself what is wrong, or that it is the end.
const NO_WAIT_TO_WRITE: u32 = (libc::POLLHUP | libc::POLLERR) as u32;
const NO_WAIT_TO_READ: u32 = NO_WAIT_TO_WRITE | libc::POLLRDHUP as u32;
/// Answers to requests that nobody waits for.
const NOBODY: u64 = u64::MAX;
/// Answers that say that another thread has sounded the alert.
const ALERT: u64 = u64::MAX - 1;

/// A core's ring. A handle; never leaves its core.
#[derive(Clone)]
pub struct Ring {
    inner: Rc<Inner>,
}

struct Inner {
    ring: RefCell<IoUring>,
    sockets: RefCell<Slab<Watched>>,
    /// Tells a slot's present socket from those before it.
    serial: Cell<u32>,
    /// Requests that did not fit into the submission queue.
    waiting: RefCell<Vec<squeue::Entry>>,
    /// The task of [`Ring::run`], when there is something to hand to the kernel.
    task: RefCell<Option<Waker>>,
    alert: Arc<Alert>,
}

struct Watched {
    serial: u32,
    descriptor: RawFd,
    reading: Way,
    writing: Way,
}

/// One direction of a socket.
struct Way {
    /// A call may do something. False only after one that could not.
    ready: bool,
    /// No further answer may come, so it stays ready.
    ended: bool,
    waiter: Option<Waker>,
}

impl Way {
    fn new() -> Self {
        Self { ready: true, ended: false, waiter: None }
    }

    /// Whom to wake.
    fn is_ready(&mut self, ended: bool) -> Option<Waker> {
        self.ready = true;
        self.ended |= ended;
        self.waiter.take()
    }
}

impl Watched {
    fn way(&mut self, direction: Direction) -> &mut Way {
        match direction {
            Direction::Read => &mut self.reading,
            Direction::Write => &mut self.writing,
        }
    }
}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ring").field("sockets", &self.inner.sockets.borrow().len()).finish_non_exhaustive()
    }
}

/// What a socket may be ready for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// Reading, or accepting.
    Read,
    /// Writing, or being connected.
    Write,
}

impl Ring {
    /// A ring for the calling thread, which alone may use it.
    ///
    /// # Errors
    /// What io_uring_setup(2) says.
    pub fn new() -> io::Result<Self> {
        Self::with_room(RING_COMPLETIONS)
    }

    /// The same with room for so many answers.
    ///
    /// # Errors
    /// What io_uring_setup(2) and eventfd(2) say.
    pub fn with_room(completions: u32) -> io::Result<Self> {
        let build = |cooperative: bool| {
            let mut builder = IoUring::builder();
            builder.dontfork().setup_cqsize(completions);
            if cooperative {
                builder.setup_coop_taskrun();
            }
            builder.build(RING_ENTRIES.min(completions))
        };
        // Kernels before 5.19 do not know the flag; there each answer interrupts.
        let ring = build(true).or_else(|_| build(false))?;
        let alert = Alert::new()?;
        let listen = poll(alert.event().as_raw_fd(), ALERT);
        Ok(Self {
            inner: Rc::new(Inner {
                ring: RefCell::new(ring),
                sockets: RefCell::default(),
                serial: Cell::new(0),
                waiting: RefCell::new(vec![listen]),
                task: RefCell::new(None),
                alert: Arc::new(alert),
            }),
        })
    }

    /// By which other threads reach the core while it sleeps here.
    #[must_use]
    pub fn alert(&self) -> &Arc<Alert> {
        &self.inner.alert
    }

    /// An eventfd that counts answers, as long as the executor is to be told of them.
    pub(super) fn register_event(&self) -> io::Result<BufferedFile> {
        let event = eventfd(0, EventfdFlags::CLOEXEC)?;
        self.inner.ring.borrow().submitter().register_eventfd(event.as_raw_fd())?;
        Ok(adopt_eventfd(event))
    }

    /// Whether that eventfd counts the answers from now on.
    pub(super) fn tell_executor(&self, tell: bool) {
        let mut ring = self.inner.ring.borrow_mut();
        let answers = ring.completion();
        if tell {
            answers.enable_eventfd();
        } else {
            answers.disable_eventfd();
        }
    }

    /// Whether the core may sleep here: nothing waits to be handed to the kernel, and that can be told (as all can from
    /// 5.11 on) how long.
    pub(super) fn can_sleep(&self) -> bool {
        self.inner.waiting.borrow().is_empty() && self.inner.ring.borrow().params().is_feature_ext_arg()
    }

    /// Sleeps until there is an answer, or for so long.
    pub(super) fn sleep(&self, time: Duration) -> io::Result<()> {
        let time = types::Timespec::from(time);
        let arguments = types::SubmitArgs::new().timespec(&time);
        match self.inner.ring.borrow().submitter().submit_with_args(1, &arguments) {
            Ok(_) => Ok(()),
            Err(error) => match error.raw_os_error() {
                Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => Ok(()),
                _ => Err(error),
            },
        }
    }

    /// The task that is to come when there is something to hand to the kernel.
    pub(super) fn wake_on_request(&self, task: &Waker) {
        *self.inner.task.borrow_mut() = Some(task.clone());
    }

    /// Wakes that task.
    pub(super) fn rouse(&self) {
        let task = self.inner.task.borrow_mut().take();
        if let Some(task) = task {
            task.wake();
        }
    }

    /// Hands waiting requests to the kernel and looks at its answers: whether there were any. Besides the ring's
    /// task, the ticker calls it.
    ///
    /// # Errors
    /// What io_uring_enter(2) says.
    pub fn turn(&self) -> io::Result<bool> {
        let mut answered = false;
        for _ in 0..RING_ROUNDS_PER_TURN {
            let overflown = self.submit()?;
            answered |= self.take_answers();
            if !overflown && self.inner.waiting.borrow().is_empty() {
                break;
            }
        }
        Ok(answered)
    }

    /// Whether the kernel holds back answers for want of room.
    fn submit(&self) -> io::Result<bool> {
        let mut ring = self.inner.ring.borrow_mut();
        let mut waiting = self.inner.waiting.borrow_mut();
        let mut submission = ring.submission();
        let mut pushed = 0;
        for entry in waiting.iter() {
            // SAFETY: no request here refers to memory, and a poll of a descriptor that was closed is only an error.
            #[expect(unsafe_code, reason = "the crate cannot know whether a request refers to memory that lives")]
            let result = unsafe { submission.push(entry) };
            if result.is_err() {
                break;
            }
            pushed += 1;
        }
        waiting.drain(..pushed);
        submission.sync();
        let overflown = submission.cq_overflow();
        let nothing = submission.is_empty();
        drop(submission);
        if nothing && !overflown {
            return Ok(false);
        }
        match ring.submit() {
            Ok(_) => Ok(overflown),
            Err(error) if matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EAGAIN | libc::EINTR)) => Ok(true),
            Err(error) => Err(error),
        }
    }

    fn take_answers(&self) -> bool {
        // A waker may run anything, so nothing stays borrowed while one is called.
        let mut awake: smallvec::SmallVec<[Waker; 32]> = smallvec::SmallVec::new();
        {
            let mut ring = self.inner.ring.borrow_mut();
            let mut sockets = self.inner.sockets.borrow_mut();
            for answer in ring.completion() {
                if answer.user_data() == ALERT && !cqueue::more(answer.flags()) {
                    let listen = poll(self.inner.alert.event().as_raw_fd(), ALERT);
                    self.inner.waiting.borrow_mut().push(listen);
                }
                let Some((slot, watched)) = find(&mut sockets, answer.user_data()) else {
                    continue;
                };
                // A request that failed will tell nothing more, and one that the kernel gave up for want of room is
                // made again; in between both directions are worth a try.
                let failed = answer.result() < 0;
                let given_up = !failed && !cqueue::more(answer.flags());
                let ready = if failed { 0 } else { answer.result().cast_unsigned() };
                let end = failed || ready & NO_WAIT_TO_READ != 0;
                if end || given_up || ready & libc::POLLIN as u32 != 0 {
                    awake.extend(watched.reading.is_ready(end));
                }
                let end = failed || ready & NO_WAIT_TO_WRITE != 0;
                if end || given_up || ready & libc::POLLOUT as u32 != 0 {
                    awake.extend(watched.writing.is_ready(end));
                }
                if given_up {
                    let request = poll(watched.descriptor, user_data(slot, watched.serial));
                    self.inner.waiting.borrow_mut().push(request);
                }
            }
        }
        let answered = !awake.is_empty();
        awake.into_iter().for_each(Waker::wake);
        answered
    }

    /// Begins to watch a socket, until [`Ring::forget`]. What it is ready for now need not be asked: it is taken
    /// to be ready until a call finds that it is not.
    pub(super) fn watch(&self, descriptor: RawFd) -> Place {
        let serial = self.inner.serial.get().wrapping_add(1);
        self.inner.serial.set(serial);
        let watched = Watched { serial, descriptor, reading: Way::new(), writing: Way::new() };
        let slot = self.inner.sockets.borrow_mut().insert(watched);
        self.request(poll(descriptor, user_data(slot, serial)));
        Place(slot)
    }

    /// Ends it. The socket itself is closed only when the kernel has heard of this, within the turn; whoever wants
    /// its peer to know at once shuts it down before.
    pub(super) fn forget(&self, place: &Place) {
        let watched = self.inner.sockets.borrow_mut().remove(place.0);
        self.request(opcode::PollRemove::new(user_data(place.0, watched.serial)).build().user_data(NOBODY));
    }

    /// Whether a call may do something. If not, `cx` is woken when it may.
    pub(super) fn poll_ready(&self, place: &Place, direction: Direction, cx: &Context<'_>) -> bool {
        let mut sockets = self.inner.sockets.borrow_mut();
        let way = sockets[place.0].way(direction);
        if !way.ready && !way.waiter.as_ref().is_some_and(|old| old.will_wake(cx.waker())) {
            way.waiter = Some(cx.waker().clone());
        }
        way.ready
    }

    /// A call has found that it can do no more for now.
    pub(super) fn exhausted(&self, place: &Place, direction: Direction) {
        let mut sockets = self.inner.sockets.borrow_mut();
        let way = sockets[place.0].way(direction);
        way.ready = way.ended;
    }

    fn request(&self, entry: squeue::Entry) {
        self.inner.waiting.borrow_mut().push(entry);
        self.rouse();
    }
}

/// Where a watched socket stands.
#[derive(Debug)]
pub struct Place(usize);

fn user_data(slot: usize, serial: u32) -> u64 {
    // Slots are counted by open descriptors, of which a process has fewer than 2^32.
    u64::from(serial) << 32 | slot as u64
}

fn find(sockets: &mut Slab<Watched>, user_data: u64) -> Option<(usize, &mut Watched)> {
    let slot = (user_data & u64::from(u32::MAX)) as usize;
    let serial = (user_data >> 32) as u32;
    sockets.get_mut(slot).filter(|watched| watched.serial == serial).map(|watched| (slot, watched))
}

fn poll(descriptor: RawFd, user_data: u64) -> squeue::Entry {
    opcode::PollAdd::new(types::Fd(descriptor), INTEREST).multi(true).build().user_data(user_data)
}

#[expect(unsafe_code, reason = "glommio takes descriptors that it did not open only as raw ones")]
fn adopt_eventfd(event: OwnedFd) -> BufferedFile {
    // SAFETY: `into_raw_fd` gives up ownership, so the descriptor has exactly one owner after this line.
    unsafe { BufferedFile::from_raw_fd(event.into_raw_fd()) }
}
