//! How mail enters a core, whichever way it came: under what pressure it is refused, and who waits until it is
//! durable. Nobody is told of success before the spool has said so.

use crate::event::{NotTaken, Pressure, ReplyTo, Submission};
use crate::limits::OUTBOX_MESSAGES_MAX;
use crate::message::MessageId;
use crate::runtime::local::{Answer, Local};
use crate::runtime::report::report;
use crate::spool::report::Refusal;
use hashbrown::HashMap;
use std::cell::RefCell;
use std::rc::Rc;

/// What the spool said of a message: its id, or why it was not stored.
pub type Stored = Result<MessageId, Box<str>>;

/// Those who wait for the spool's word, by the tickets of [`crate::shard::Shard::accept`].
#[derive(Default)]
pub struct Injectors(RefCell<HashMap<u64, Injector>>);

enum Injector {
    /// A session of this core.
    Session(Rc<Answer<Stored>>),
    /// The control side.
    Control(MessageId, ReplyTo<Result<MessageId, NotTaken>>),
}

impl Injectors {
    fn wait(&self, ticket: u64, injector: Injector) {
        self.0.borrow_mut().insert(ticket, injector);
    }

    /// Passes the spool's word on.
    pub fn tell(&self, ticket: u64, result: Stored) {
        let injector = self.0.borrow_mut().remove(&ticket);
        match injector {
            None => {}
            Some(Injector::Session(answer)) => answer.give(result),
            Some(Injector::Control(id, reply)) => reply.send(result.map_err(|why| {
                report(&format!("message {id} was not stored: {why}"));
                NotTaken::NotStored
            })),
        }
    }
}

impl Local {
    /// Hands a message to the brain. The answer comes when the spool has it.
    pub fn accept(self: &Rc<Self>, submission: Submission) -> Rc<Answer<Stored>> {
        let answer = Rc::new(Answer::default());
        let ticket = self.with_shard(|shard, now| shard.accept(submission, now));
        self.injectors.wait(ticket, Injector::Session(answer.clone()));
        answer
    }

    /// The same for the control side, which learns of pressure only here.
    pub fn submit(self: &Rc<Self>, submission: Submission, reply: ReplyTo<Result<MessageId, NotTaken>>) {
        let stopping = self.stopping().then_some(Pressure::Stopping);
        if let Some(pressure) = stopping.or_else(|| self.pressure()) {
            return reply.send(Err(NotTaken::Pressure(pressure)));
        }
        let id = submission.id;
        let ticket = self.with_shard(|shard, now| shard.accept(submission, now));
        self.injectors.wait(ticket, Injector::Control(id, reply));
    }

    /// Why no new mail is taken just now. A stop is none: it lets sessions end the transactions that they are in.
    #[must_use]
    pub fn pressure(&self) -> Option<Pressure> {
        match self.own_spool().refusing() {
            Some(Refusal::LowSpace) => Some(Pressure::LowSpace),
            Some(Refusal::Failing) => Some(Pressure::SpoolFailing),
            None if self.shared.memory_short() => Some(Pressure::MemoryShort),
            None if self.backlog() > OUTBOX_MESSAGES_MAX => Some(Pressure::Backlog),
            None => None,
        }
    }
}
