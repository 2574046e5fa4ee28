//! How the control side hands messages in: ids of its own, a core for each message, and the core's answer. Nothing
//! here looks into a message or waits.

use crate::event::{NotTaken, Order, ReplyTo, Submission};
use crate::limits::CORES_MAX;
use crate::message::{Body, CoreId, MessageId};
use crate::runtime::bodies::BodyBudget;
use crate::runtime::clock;
use crate::runtime::mailbox::Postbox;
use crate::runtime::reply::{Reply, reply};
use crate::time::Timestamp;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Stands where the ids of messages taken by a core name that core.
const CONTROL: u16 = u16::MAX;

const _: () = assert!(CORES_MAX <= CONTROL as usize);

/// Hands messages to cores. Cheap to clone, outlives the engine.
#[derive(Clone)]
pub struct Submitter {
    postbox: Postbox,
    bodies: BodyBudget,
    generation: u32,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    /// Ids given out.
    ids: AtomicU64,
    /// Messages handed to cores.
    turns: AtomicUsize,
}

impl Submitter {
    pub(super) fn new(postbox: Postbox, bodies: BodyBudget, generation: u32) -> Self {
        Self { postbox, bodies, generation, counts: Arc::default() }
    }

    /// An id for a message that may be submitted.
    #[must_use]
    pub fn next_id(&self) -> MessageId {
        let sequence = self.counts.ids.fetch_add(1, Ordering::Relaxed) + 1;
        MessageId { generation: self.generation, core: CONTROL, sequence }
    }

    /// The moment that a Received header names.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        clock::now().utc
    }

    /// Makes a body of octets, counted against `spool.body_memory_bytes` while it lives.
    #[must_use]
    pub fn body(&self, octets: Vec<u8>) -> Body {
        self.bodies.count(octets)
    }

    /// Hands a message to the core with the fewest orders waiting, in turn among equals. The reply says whether it
    /// is durable; when none comes, that is not known.
    #[must_use]
    pub fn submit(&self, submission: Submission) -> Reply<Result<MessageId, NotTaken>> {
        let cores = self.postbox.cores();
        let first = self.counts.turns.fetch_add(1, Ordering::Relaxed);
        let in_turn = (0..cores).map(|step| core_id(first.wrapping_add(step) % cores));
        let core = in_turn.min_by_key(|core| self.postbox.orders_waiting(*core)).expect("there is a core");
        let (replier, answer) = reply();
        let hear = ReplyTo::new(|result| replier.say(result));
        self.postbox.order(core, Order::Submit { submission: Box::new(submission), reply: hear });
        answer
    }
}

fn core_id(core: usize) -> CoreId {
    CoreId(u16::try_from(core).expect("CORES_MAX fits 16 bits"))
}
