//! What other threads bring to a core: orders first, then the answers of its helper threads, then mail.

use crate::event::{Mail, Order};
use crate::limits::{ASK_MILLIS, MAIL_BATCHES_PER_TURN};
use crate::runtime::clock;
use crate::runtime::local::Local;
use crate::runtime::mailbox::Completion;
use crate::runtime::outcome_log::LogEvent;
use crate::runtime::report::report;
use crate::smtp::server::ServerConfig;
use crate::spool::report::SpoolCompletion;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

impl Local {
    /// The mailbox's task: what other threads send, orders first.
    pub async fn run_mailbox(self: Rc<Self>) {
        std::future::poll_fn(|cx| {
            self.mailbox.listen(cx.waker());
            if self.take_inbox() == MAIL_BATCHES_PER_TURN {
                cx.waker().wake_by_ref();
            }
            Poll::<()>::Pending
        })
        .await;
    }

    /// The task of the sockets' ring, which looks into the mailbox too.
    pub async fn run_ring(self: Rc<Self>) {
        let inbox = || {
            self.mailbox.silence();
            self.take_inbox() > 0
        };
        if let Err(error) = self.ring.clone().run(inbox, || self.leisure()).await {
            // Without its sockets a core is of no use; what was acknowledged is in the spools.
            panic!("the sockets' io_uring has failed: {error}");
        }
    }

    /// Takes what other threads have sent: how many batches.
    fn take_inbox(self: &Rc<Self>) -> usize {
        self.take_orders();
        let mut taken = 0;
        while let Some(completion) = self.mailbox.next_completion() {
            self.complete(completion);
            self.take_orders();
            taken = 1;
        }
        for _ in 0..MAIL_BATCHES_PER_TURN {
            let Some((from, batch)) = self.mailbox.next_mail() else {
                break;
            };
            self.take_orders();
            let count = batch.len();
            self.with_shard(|shard, now| {
                for mail in batch {
                    shard.handle_mail(mail, now);
                }
            });
            // Not before: whoever sent it may say then that it is in the queue.
            self.mailbox.handled(from, count);
            taken += 1;
        }
        taken
    }

    /// Carries out the orders that have come. The gate calls this before every write that completes a message.
    pub fn take_orders(self: &Rc<Self>) {
        while let Some(order) = self.mailbox.next_order() {
            // A rule holds from this moment on, and what it says of time is exact.
            let _ = clock::now();
            match order {
                Order::Rules { update, applied } => {
                    let epoch = self.with_shard(|shard, now| {
                        shard.handle_rules(Arc::unwrap_or_clone(update), now);
                        shard.rules().epoch()
                    });
                    // Whoever asked may have given up waiting.
                    let _ = applied.send((self.core, epoch));
                }
                Order::Ask { question, reply } => {
                    let more = self.with_shard(|shard, now| {
                        shard.handle_question(question, reply, now);
                        shard.has_questions()
                    });
                    if more {
                        self.asked.give(());
                    }
                }
                Order::Submit { submission, reply } => self.submit(*submission, reply),
                Order::ReadBody { id, location, reply } => {
                    let local = self.clone();
                    self.spawn(async move {
                        reply.send(local.read_body(id, location).await.map_err(|error| error.to_string()));
                    });
                }
                Order::Arrived { reply } => {
                    let local = self.clone();
                    self.spawn(async move {
                        if local.posted_arrives(Duration::from_millis(ASK_MILLIS)).await {
                            reply.send(());
                        }
                    });
                }
                Order::Reload(settings) => {
                    *self.server_config.borrow_mut() = Arc::new(ServerConfig::from(&*settings));
                    *self.settings.borrow_mut() = settings.clone();
                    self.with_shard(|shard, now| shard.handle_reload(settings, now));
                }
                Order::ReopenLog => {
                    if let Some(log) = &*self.log.borrow() {
                        log.reopen(self.settings.borrow().log.clone());
                    }
                }
                Order::Stop => {
                    self.stopping.set(true);
                    self.with_shard(|shard, now| shard.handle_stop(now));
                    self.alarms.ring_all();
                }
            }
        }
    }

    fn complete(self: &Rc<Self>, completion: Completion) {
        match completion {
            Completion::Spool(spool, completions) => {
                for completion in completions {
                    self.complete_spool(spool, completion);
                }
            }
            Completion::Log(LogEvent::Synced { up_to }) => {
                self.with_shard(|shard, now| shard.handle_log_synced(up_to, now));
            }
            Completion::Log(LogEvent::Failing { why }) => {
                report(&format!("delivery is stopped: the outcome log cannot be written: {why}"));
                self.shared.log_failing(self.core, Some(why));
                self.with_shard(|shard, now| shard.handle_log_failing(true, now));
            }
            Completion::Log(LogEvent::Working) => {
                report("the outcome log is written again, delivery goes on");
                self.shared.log_failing(self.core, None);
                self.with_shard(|shard, now| shard.handle_log_failing(false, now));
            }
            Completion::Log(LogEvent::TornLine { octets }) => {
                report(&format!("the outcome log ended in the middle of a line; {octets} octets were cut off"));
            }
            Completion::Log(LogEvent::Housekeeping { why }) => report(&why),
            Completion::Body(answers) => {
                for answer in answers {
                    if let Some(slot) = self.reads.borrow_mut().remove(&answer.token) {
                        slot.give(answer.body);
                    }
                }
            }
        }
    }

    fn complete_spool(self: &Rc<Self>, spool: u16, completion: SpoolCompletion) {
        match completion {
            SpoolCompletion::Stored { ticket, location } => {
                let keep = self.bodies.has_room();
                self.with_shard(|shard, now| shard.handle_stored(ticket, Ok((location, keep)), now));
            }
            SpoolCompletion::Failed { ticket, why } => {
                self.with_shard(|shard, now| shard.handle_stored(ticket, Err(why), now));
            }
            SpoolCompletion::Failing { why } => {
                report(&format!("new mail is refused: spool {spool:03} cannot be written: {why}"));
            }
            SpoolCompletion::Working => report(&format!("spool {spool:03} is written again, new mail is taken")),
            SpoolCompletion::Behind(behind) => {
                let what =
                    if behind { "stand still: too many ends of messages wait" } else { "go on: none waits any more" };
                report(&format!("deliveries {what} to be written to spool {spool:03}"));
                self.tell_all(&Mail::Behind(spool, behind));
            }
            SpoolCompletion::Damaged { id, .. } => {
                report(&format!("spool {spool:03}: the body of message {id} is damaged on disk"));
            }
            SpoolCompletion::Housekeeping { why } => report(&format!("spool {spool:03}: {why}")),
            SpoolCompletion::Moved { id, location } => self.tell_all(&Mail::Moved(id, location)),
        }
    }
}
