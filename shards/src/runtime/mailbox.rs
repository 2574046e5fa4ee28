//! The only way into a core from outside: two lanes and a bell.
//!
//! Orders (rules, reload, stop) and mail travel in separate channels, so that no amount of mail delays a
//! rule. Mail is bounded by credit: a sender may have so many messages under way to one receiver, and keeps
//! what exceeds it. Nobody ever waits in a send, so two full cores cannot block each other.

use crate::event::{Mail, Order};
use crate::limits::MAIL_CREDIT_MESSAGES;
use crate::message::CoreId;
use crate::runtime::alert::Alert;
use crate::runtime::outcome_log::LogEvent;
use crate::runtime::spool_reader::BodyAnswer;
use crate::spool::report::SpoolCompletion;
use atomic_waker::AtomicWaker;
use crossbeam::channel::{Receiver, Sender, unbounded};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::Waker;

/// What a helper thread of a core brings back to it. Bounded by what the core has asked for.
#[derive(Debug)]
pub enum Completion {
    /// From the spool writer, with the number of the spool directory.
    Spool(u16, Vec<SpoolCompletion>),
    /// From the outcome log.
    Log(LogEvent),
    /// From the body reader.
    Body(Vec<BodyAnswer>),
}

/// Wakes a core that may be asleep. Rings once until it is answered, so a burst costs one wake-up.
#[derive(Debug, Default)]
pub struct Bell {
    waker: AtomicWaker,
    rung: AtomicBool,
    /// Reaches a core that its executor's waker does not.
    alert: OnceLock<Arc<Alert>>,
}

impl Bell {
    /// Wakes the core unless it already is about to look.
    pub fn ring(&self) {
        if !self.rung.swap(true, Ordering::AcqRel) && !self.alert.get().is_some_and(|alert| alert.sound()) {
            self.waker.wake();
        }
    }

    /// To be called by the core before it looks into its lanes.
    fn answer(&self, waker: &Waker) {
        self.waker.register(waker);
        self.silence();
    }

    /// What was sent before is seen by the look that follows; what comes after rings again.
    fn silence(&self) {
        self.rung.swap(false, Ordering::AcqRel);
        std::sync::atomic::fence(Ordering::SeqCst);
    }
}

/// A core's address: how other threads reach it. Cheap to clone.
#[derive(Clone, Debug)]
struct Address {
    orders: Sender<Order>,
    mail: Sender<(CoreId, Vec<Mail>)>,
    bell: Arc<Bell>,
}

/// The addresses of all cores. Shared by every thread of the engine.
#[derive(Clone, Debug)]
pub struct Postbox {
    addresses: Arc<[Address]>,
    /// `under_way[receiver][sender]`: messages sent and not yet taken.
    under_way: Arc<[Box<[AtomicU64]>]>,
}

/// A core's own end. Lives on that core.
#[derive(Debug)]
pub struct Mailbox {
    core: CoreId,
    orders: Receiver<Order>,
    mail: Receiver<(CoreId, Vec<Mail>)>,
    completions: Receiver<Completion>,
    completion_sender: Sender<Completion>,
    bell: Arc<Bell>,
    under_way: Arc<[Box<[AtomicU64]>]>,
}

/// Makes the mailboxes of `cores` cores and the postbox that reaches them.
#[must_use]
pub fn mailboxes(cores: usize) -> (Postbox, Vec<Mailbox>) {
    let counters = || (0..cores).map(|_| AtomicU64::new(0)).collect::<Box<[AtomicU64]>>();
    let under_way: Arc<[Box<[AtomicU64]>]> = (0..cores).map(|_| counters()).collect();
    let mut addresses = Vec::with_capacity(cores);
    let mut boxes = Vec::with_capacity(cores);
    for core in 0..cores {
        let (order_sender, orders) = unbounded();
        let (mail_sender, mail) = unbounded();
        let (completion_sender, completions) = unbounded();
        let bell = Arc::new(Bell::default());
        addresses.push(Address { orders: order_sender, mail: mail_sender, bell: bell.clone() });
        boxes.push(Mailbox {
            core: CoreId(u16::try_from(core).expect("CORES_MAX fits 16 bits")),
            orders,
            mail,
            completions,
            completion_sender,
            bell,
            under_way: under_way.clone(),
        });
    }
    (Postbox { addresses: addresses.into(), under_way }, boxes)
}

impl Postbox {
    /// Number of cores.
    #[must_use]
    pub fn cores(&self) -> usize {
        self.addresses.len()
    }

    /// Gives `to` an order. The control side keeps one batch of rules outstanding per core.
    pub fn order(&self, to: CoreId, order: Order) {
        let address = &self.addresses[usize::from(to.0)];
        // A core that has ended takes no orders; whoever waits for its answer has a bound on the wait.
        let _ = address.orders.send(order);
        address.bell.ring();
    }

    /// Orders that `to` has not taken yet.
    #[must_use]
    pub fn orders_waiting(&self, to: CoreId) -> usize {
        self.addresses[usize::from(to.0)].orders.len()
    }

    /// Sends as much of `batch` as `from` has credit for, and leaves the rest in it. How many were sent.
    pub fn mail(&self, from: CoreId, to: CoreId, batch: &mut Vec<Mail>) -> u64 {
        let counter = &self.under_way[usize::from(to.0)][usize::from(from.0)];
        let credit = MAIL_CREDIT_MESSAGES.saturating_sub(counter.load(Ordering::Acquire));
        let count = batch.len().min(usize::try_from(credit).unwrap_or(usize::MAX));
        if count == 0 {
            return 0;
        }
        let rest = batch.split_off(count);
        let sent = std::mem::replace(batch, rest);
        counter.fetch_add(count as u64, Ordering::AcqRel);
        let address = &self.addresses[usize::from(to.0)];
        let _ = address.mail.send((from, sent));
        address.bell.ring();
        count as u64
    }

    /// Messages under way to `to` from one core.
    #[must_use]
    pub fn under_way_from(&self, from: CoreId, to: CoreId) -> u64 {
        self.under_way[usize::from(to.0)][usize::from(from.0)].load(Ordering::Acquire)
    }

    /// Messages under way to `to` from all cores.
    #[must_use]
    pub fn under_way(&self, to: CoreId) -> u64 {
        self.under_way[usize::from(to.0)].iter().map(|counter| counter.load(Ordering::Relaxed)).sum()
    }
}

/// Where a helper thread of a core leaves its answers.
#[derive(Clone, Debug)]
pub struct CompletionSlot {
    sender: Sender<Completion>,
    bell: Arc<Bell>,
}

impl CompletionSlot {
    /// Leaves an answer and wakes the core.
    pub fn put(&self, completion: Completion) {
        let _ = self.sender.send(completion);
        self.bell.ring();
    }
}

impl Mailbox {
    /// Whose it is.
    #[must_use]
    pub fn core(&self) -> CoreId {
        self.core
    }

    /// A slot for a helper thread.
    #[must_use]
    pub fn completion_slot(&self) -> CompletionSlot {
        CompletionSlot { sender: self.completion_sender.clone(), bell: self.bell.clone() }
    }

    /// Lets the bell reach the core where its executor does not.
    pub(super) fn reach_by(&self, alert: &Arc<Alert>) {
        // A core has one ring for as long as it lives.
        let _ = self.bell.alert.set(alert.clone());
    }

    /// The same as [`Mailbox::listen`] for a task that looks again anyway.
    pub(super) fn silence(&self) {
        self.bell.silence();
    }

    /// To be called before looking into the lanes; `waker` is woken by whatever comes later.
    pub fn listen(&self, waker: &Waker) {
        self.bell.answer(waker);
    }

    /// The next order.
    #[must_use]
    pub fn next_order(&self) -> Option<Order> {
        // A cheap look first: the gate asks before every write.
        if self.orders.is_empty() {
            return None;
        }
        self.orders.try_recv().ok()
    }

    /// The next answer of a helper thread.
    #[must_use]
    pub fn next_completion(&self) -> Option<Completion> {
        self.completions.try_recv().ok()
    }

    /// The next batch of mail, and whose it is. [`Mailbox::handled`] is to follow.
    #[must_use]
    pub fn next_mail(&self) -> Option<(CoreId, Vec<Mail>)> {
        self.mail.try_recv().ok()
    }

    /// So many messages of a sender are where they belong: its credit returns.
    pub fn handled(&self, from: CoreId, count: usize) {
        self.under_way[usize::from(self.core.0)][usize::from(from.0)].fetch_sub(count as u64, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Mail;
    use crate::message::{Location, MessageId};

    /// A start said that all mail was in the queues when another core had only been sent it.
    #[test]
    fn what_was_taken_is_under_way_until_it_is_handled() {
        let (postbox, boxes) = mailboxes(2);
        let (from, to) = (CoreId(0), CoreId(1));
        let id = MessageId { generation: 1, core: 0, sequence: 1 };
        let mut batch = vec![Mail::Moved(id, Location { spool: 0, segment: 1, offset: 0, length: 1 }); 3];
        assert_eq!(postbox.mail(from, to, &mut batch), 3);
        assert!(batch.is_empty());
        let (of, mail) = boxes[1].next_mail().unwrap();
        assert_eq!((of, mail.len(), postbox.under_way_from(from, to)), (from, 3, 3));
        boxes[1].handled(of, mail.len());
        assert_eq!((postbox.under_way_from(from, to), postbox.under_way_from(to, from)), (0, 0));
    }
}
