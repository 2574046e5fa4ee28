//! The publication's thread: hands what is stored to the cores, hears when they have applied it, and answers whoever
//! waits for that. Apart from the rules' thread, so that a long commit does not keep back what is stored already. It
//! never touches the store and never waits for a core.

use super::authority::{ChangeReply, Cores, Failure};
use super::change::Changed;
use super::pools::ApiPools;
use super::publish::{Publication, Standing, Target, Ticket};
use crossbeam::channel::{Receiver, Sender, select, unbounded};
use mailrace_shards::message::CoreId;
use mailrace_shards::rules::Change;
use mailrace_shards::time::{Instant, Now};
use std::collections::HashMap;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// How long the thread rests when nobody waits for anything.
const REST: Duration = Duration::from_secs(60);

/// Who hears what came of a change, and what they are told then.
pub(super) type Waiter = Box<(ChangeReply, Changed)>;

/// What the thread is given, in this order. Bounded by whoever makes changes: each waits for its answer.
enum Owed {
    Changes { changes: Vec<(Target, Change)>, deadline: Instant, waiter: Option<Waiter> },
    Pools(ApiPools),
}

/// How the thread is reached. Dropped, it ends the thread and waits for that.
pub(super) struct Publisher {
    owed: Option<Sender<Owed>>,
    thread: Option<JoinHandle<()>>,
}

impl Publisher {
    /// Starts the thread.
    pub(super) fn start(publication: Publication, cores: Box<dyn Cores>, clock: fn() -> Now) -> std::io::Result<Self> {
        let (sender, owed) = unbounded();
        let (applied, answers) = unbounded();
        let own = Own { publication, cores, applied, clock, waiting: HashMap::new() };
        let thread = std::thread::Builder::new().name("publication".to_owned());
        let thread = thread.spawn(move || own.run(&owed, &answers))?;
        Ok(Self { owed: Some(sender), thread: Some(thread) })
    }

    /// Changes that belong together and are stored. The waiter hears by `deadline` how it is with them.
    pub(super) fn publish(&self, changes: Vec<(Target, Change)>, deadline: Instant, waiter: Option<Waiter>) {
        self.give(Owed::Changes { changes, deadline, waiter });
    }

    /// Pools made by the API are other now.
    pub(super) fn pools(&self, pools: ApiPools) {
        self.give(Owed::Pools(pools));
    }

    fn give(&self, owed: Owed) {
        let sent = self.owed.as_ref().is_some_and(|sender| sender.send(owed).is_ok());
        // Rules that are stored would come into force nowhere: the process must not go on as if they did.
        assert!(sent, "the publication's thread has ended; its words stand above");
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.owed = None;
        // It has nothing more to say: a panic in it was printed when it happened.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// The thread's own.
struct Own {
    publication: Publication,
    cores: Box<dyn Cores>,
    applied: Sender<(CoreId, u64)>,
    clock: fn() -> Now,
    waiting: HashMap<Ticket, Waiter>,
}

impl Own {
    fn run(mut self, owed: &Receiver<Owed>, answers: &Receiver<(CoreId, u64)>) {
        loop {
            let now = (self.clock)().instant;
            let rest = self.publication.next_deadline().map_or(REST, |deadline| deadline.since(now).min(REST));
            select! {
                recv(owed) -> next => match next {
                    Ok(next) => self.take(next),
                    Err(_) => return,
                },
                recv(answers) -> answer => self.acknowledge(answer.ok()),
                default(rest) => {}
            }
            // What is there by now goes out together.
            owed.try_iter().for_each(|next| self.take(next));
            answers.try_iter().for_each(|answer| self.acknowledge(Some(answer)));
            self.publish();
        }
    }

    fn take(&mut self, owed: Owed) {
        match owed {
            Owed::Pools(pools) => self.cores.pools(pools),
            Owed::Changes { changes, deadline, waiter } => {
                let ticket = self.publication.take(changes, deadline);
                if let Some(waiter) = waiter {
                    self.waiting.insert(ticket, waiter);
                }
            }
        }
    }

    fn acknowledge(&mut self, answer: Option<(CoreId, u64)>) {
        if let Some((core, epoch)) = answer {
            self.publication.acknowledged(core, epoch);
        }
    }

    /// Posts what can be posted, and answers what can be answered.
    fn publish(&mut self) {
        while let Some((core, update)) = self.publication.next_update() {
            self.cores.post(core, Arc::new(update), &self.applied);
        }
        for (ticket, standing) in self.publication.settle((self.clock)().instant) {
            // What time alone has changed has nobody waiting.
            let Some(waiter) = self.waiting.remove(&ticket) else { continue };
            let (reply, changed) = *waiter;
            reply.say(match standing {
                Standing::InForce => Ok(changed),
                Standing::Late(cores) => Err(Failure::Late(cores, Box::new(changed))),
            });
        }
    }
}
