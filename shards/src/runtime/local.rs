//! What the tasks of one core share: its brain, and the hands that carry out what the brain commands.
//!
//! Every input to the brain goes through [`Local::with_shard`], which carries out the commands that follow
//! before it returns. Nothing here awaits while the brain is borrowed.

use crate::event::{Command, Connect, Mail, SessionId};
use crate::message::{Body, CoreId, Envelope, Location, MessageId};
use crate::outcome::Outcome;
use crate::runtime::alarm::{Alarm, Alarms};
use crate::runtime::bodies::BodyBudget;
use crate::runtime::clock;
use crate::runtime::dns_socket::DnsClient;
use crate::runtime::engine::Shared;
use crate::runtime::intake::Injectors;
use crate::runtime::mailbox::{Mailbox, Postbox};
use crate::runtime::outcome_log::OutcomeLog;
use crate::runtime::report::report;
use crate::runtime::ring::Ring;
use crate::runtime::spool_file::{Full, SpoolHandle};
use crate::runtime::spool_reader::BodyReader;
use crate::runtime::tls::ClientTls;
use crate::runtime::{delivery, resolution, suspects, tasks};
use crate::settings::Settings;
use crate::shard::Shard;
use crate::smtp::server::ServerConfig;
use crate::spool::report::{Progress, Refusal};
use crate::time::{Instant, Now};
use futures_lite::FutureExt;
use futures_lite::future::yield_now;
use hashbrown::HashMap;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// How a task is told something: a value, and a wake-up when it comes.
pub struct Answer<T> {
    value: Cell<Option<T>>,
    waker: RefCell<Option<Waker>>,
}

impl<T> Default for Answer<T> {
    fn default() -> Self {
        Self { value: Cell::new(None), waker: RefCell::new(None) }
    }
}

impl<T> Answer<T> {
    /// Gives it.
    pub(super) fn give(&self, value: T) {
        self.value.set(Some(value));
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    /// Waits for the value.
    pub async fn take(&self) -> T {
        std::future::poll_fn(|cx: &mut Context<'_>| match self.value.take() {
            Some(value) => Poll::Ready(value),
            None => {
                *self.waker.borrow_mut() = Some(cx.waker().clone());
                Poll::Pending
            }
        })
        .await
    }
}

/// What the brain can reach of a session's task.
#[derive(Debug)]
pub struct SessionSlot {
    /// Wakes the task, by time or by [`Command::Wake`].
    pub alarm: Alarm,
    /// The brain wants it to ask again.
    pub woken: Cell<bool>,
}

/// What is on its way to other threads, collected over a turn.
#[derive(Debug, Default)]
struct Outbox {
    mail: Vec<Vec<Mail>>,
    /// Of each core: how many messages it has ever been sent.
    sent: Vec<u64>,
    records: Vec<Outcome>,
    last_record: u64,
    progress: Vec<(u16, Vec<Progress>)>,
    store: VecDeque<(u64, Arc<Envelope>, Body)>,
    scheduled: bool,
    flusher: Option<Waker>,
}

/// The handles of a core to its helper threads.
pub struct Helpers {
    /// Spools of this core by directory number; the first is the one that it accepts into.
    pub spools: Vec<(u16, SpoolHandle)>,
    /// Outcome log.
    pub log: OutcomeLog,
    /// Body reader.
    pub reader: BodyReader,
    /// Resolver.
    pub dns: DnsClient,
}

/// One core's shared state. Never leaves its core.
pub struct Local {
    /// Which core.
    pub core: CoreId,
    shard: RefCell<Shard>,
    in_brain: Cell<bool>,
    pub(super) mailbox: Mailbox,
    pub(super) postbox: Postbox,
    outbox: RefCell<Outbox>,
    spools: Vec<(u16, SpoolHandle)>,
    /// Gone once the core has stopped.
    pub(super) log: RefCell<Option<OutcomeLog>>,
    pub(super) reader: BodyReader,
    dns: DnsClient,
    /// Tells which sockets are ready.
    pub ring: Ring,
    /// Session deadlines.
    pub alarms: Alarms,
    slots: RefCell<HashMap<SessionId, Rc<SessionSlot>>>,
    /// Who waits for messages of this core to become durable.
    pub(super) injectors: Injectors,
    pub(super) reads: RefCell<HashMap<u64, Rc<Answer<io::Result<Body>>>>>,
    next_read: Cell<u64>,
    /// Given when a question has come that needs more than a look.
    pub(super) asked: Answer<()>,
    /// TLS towards other hosts.
    pub client_tls: ClientTls,
    /// Configuration of injecting sessions.
    pub server_config: RefCell<Arc<ServerConfig>>,
    pub(super) settings: RefCell<Arc<Settings>>,
    /// What all cores share.
    pub shared: Arc<Shared>,
    /// Bodies in memory.
    pub bodies: BodyBudget,
    pub(super) stopping: Cell<bool>,
    /// When the executor is needed next, for the ticker.
    pub(super) next_tick: Cell<Instant>,
    /// What only the executor hears of and somebody waits for, the resolver apart.
    pub(super) elsewhere: Cell<u32>,
    /// Injecting sessions that are open.
    pub injecting: Cell<usize>,
}

/// What a [`Local`] is made from.
pub struct LocalParts {
    /// The brain.
    pub shard: Shard,
    /// Own mailbox.
    pub mailbox: Mailbox,
    /// Everybody's addresses.
    pub postbox: Postbox,
    /// Threads of this core.
    pub helpers: Helpers,
    /// Ring of this core's sockets.
    pub ring: Ring,
    /// Settings.
    pub settings: Arc<Settings>,
    /// What all cores share.
    pub shared: Arc<Shared>,
}

impl Local {
    /// Ties a core together.
    #[must_use]
    pub fn new(parts: LocalParts) -> Rc<Self> {
        let LocalParts { shard, mailbox, postbox, helpers, ring, settings, shared } = parts;
        let cores = postbox.cores();
        let outbox = Outbox { mail: vec![Vec::new(); cores], sent: vec![0; cores], ..Outbox::default() };
        Rc::new(Self {
            core: mailbox.core(),
            shard: RefCell::new(shard),
            in_brain: Cell::new(false),
            mailbox,
            postbox,
            outbox: RefCell::new(outbox),
            spools: helpers.spools,
            log: RefCell::new(Some(helpers.log)),
            reader: helpers.reader,
            dns: helpers.dns,
            ring,
            alarms: Alarms::default(),
            slots: RefCell::default(),
            injectors: Injectors::default(),
            reads: RefCell::default(),
            next_read: Cell::new(0),
            asked: Answer::default(),
            client_tls: ClientTls::new(),
            server_config: RefCell::new(Arc::new(ServerConfig::from(&*settings))),
            bodies: shared.bodies.account(),
            settings: RefCell::new(settings),
            shared,
            stopping: Cell::new(false),
            next_tick: Cell::default(),
            elsewhere: Cell::new(0),
            injecting: Cell::new(0),
        })
    }

    /// Asks or tells the brain something, and carries out what it commands. Whoever must be exact about the time reads
    /// the clock before.
    pub fn with_shard<R>(self: &Rc<Self>, ask: impl FnOnce(&mut Shard, Now) -> R) -> R {
        let now = clock::recent();
        self.in_brain.set(true);
        let answer = ask(&mut self.shard.borrow_mut(), now);
        self.in_brain.set(false);
        self.carry_out(now);
        answer
    }

    /// A panic now would be the brain's own.
    #[must_use]
    pub fn in_brain(&self) -> bool {
        self.in_brain.get()
    }

    /// The brain's state is broken: notes what was in flight and ends the process, so that nothing wrong is
    /// delivered or forgotten. What was acknowledged is in the spools.
    pub fn stop_for_panic(&self) -> ! {
        report("a panic in the shard's own state: stopping, so that nothing wrong is delivered or forgotten");
        // The panic may have left anything behind; a second one here would only hide the first.
        let ids = std::panic::catch_unwind(AssertUnwindSafe(|| {
            self.shard.try_borrow().map_or_else(|_| Vec::new(), |shard| shard.in_flight_ids())
        }));
        let root = self.settings.borrow().data_dir.join("spool");
        if let Err(error) = suspects::note(&root, self.core, &ids.unwrap_or_default()) {
            report(&format!("what was in flight could not be noted: {error}"));
        }
        std::process::abort()
    }

    /// Runs the task of the sockets' ring, which sleeps only when no other task is ready.
    pub(super) fn spawn_ring(self: &Rc<Self>) {
        glommio::spawn_local(self.clone().guarded(self.clone().run_ring())).detach();
    }

    /// Until when the core does well without its executor.
    pub(super) fn leisure(&self) -> Option<Instant> {
        (self.elsewhere.get() == 0 && !self.dns.is_awaited()).then(|| self.next_tick.get())
    }

    /// Sleeps for less than a tick: only the executor hears of that end.
    pub(super) async fn nap(&self, within: Duration) {
        self.elsewhere.update(|count| count + 1);
        glommio::timer::sleep(within).await;
        self.elsewhere.update(|count| count - 1);
    }

    /// Runs a task of the core. A panic in it is the brain's or the runtime's own and ends the process.
    pub fn spawn(self: &Rc<Self>, task: impl Future<Output = ()> + 'static) {
        let guarded = self.clone().guarded(task);
        tasks::spawn(async move {
            // The executor runs a new task within the call that makes it. One that asks the brain something would carry
            // out commands there that make further tasks, each on top of the one before: a thousand destinations that
            // are resolved at once are more than a stack holds.
            yield_now().await;
            guarded.await;
        });
    }

    async fn guarded(self: Rc<Self>, task: impl Future<Output = ()>) {
        if AssertUnwindSafe(task).catch_unwind().await.is_err() {
            self.stop_for_panic();
        }
    }

    /// Looks at the sockets' ring, in case that its own task was not woken, and lets that go on.
    pub fn turn_ring(&self) {
        if let Err(error) = self.ring.turn() {
            report(&format!("the sockets' io_uring: {error}"));
        }
        self.ring.rouse();
    }

    /// The settings in force.
    #[must_use]
    pub fn settings(&self) -> Arc<Settings> {
        self.settings.borrow().clone()
    }

    /// Whether a stop was ordered.
    #[must_use]
    pub fn stopping(&self) -> bool {
        self.stopping.get()
    }

    /// The resolver.
    #[must_use]
    pub fn dns(&self) -> &DnsClient {
        &self.dns
    }

    /// The spool that this core accepts into.
    #[must_use]
    pub fn own_spool(&self) -> &SpoolHandle {
        &self.spools[0].1
    }

    /// One of this core's spools.
    #[must_use]
    pub fn spool(&self, number: u16) -> &SpoolHandle {
        let handle = self.spools.iter().find(|(of, _)| *of == number);
        &handle.expect("only spools of this core are named to it").1
    }

    /// Why a spool of this core takes no new mail, or nothing of what became of its mail.
    #[must_use]
    pub fn spool_refusing(&self) -> Option<Refusal> {
        let of_own = self.own_spool().refusing();
        let failing = |(_, spool): &(u16, SpoolHandle)| spool.refusing() == Some(Refusal::Failing);
        of_own.or_else(|| self.spools.iter().any(failing).then_some(Refusal::Failing))
    }

    /// The slot of a session, made when there is none.
    pub fn slot(&self, id: SessionId) -> Rc<SessionSlot> {
        let make = || Rc::new(SessionSlot { alarm: self.alarms.alarm(), woken: Cell::new(false) });
        self.slots.borrow_mut().entry(id).or_insert_with(make).clone()
    }

    /// The session's task has ended.
    pub fn drop_slot(&self, id: SessionId) {
        self.slots.borrow_mut().remove(&id);
    }

    /// Reads a body back from a spool.
    pub async fn read_body(&self, id: MessageId, location: Location) -> io::Result<Body> {
        let token = self.next_read.get();
        self.next_read.set(token + 1);
        let answer = Rc::new(Answer::default());
        self.reads.borrow_mut().insert(token, answer.clone());
        while let Err(Full(())) = self.reader.request(token, id, location) {
            glommio::timer::sleep(std::time::Duration::from_millis(crate::limits::TICK_MILLIS)).await;
        }
        answer.take().await
    }

    fn carry_out(self: &Rc<Self>, now: Now) {
        loop {
            let Some(command) = self.shard.borrow_mut().poll_command() else {
                return;
            };
            match command {
                Command::Post(to, mail) if to == self.core => {
                    self.in_brain.set(true);
                    self.shard.borrow_mut().handle_mail(mail, now);
                    self.in_brain.set(false);
                }
                Command::Post(to, mail) => self.collect(|outbox| outbox.mail[usize::from(to.0)].push(mail)),
                Command::Record { number, outcome } => self.collect(|outbox| {
                    outbox.records.push(*outcome);
                    outbox.last_record = number;
                }),
                Command::Progress(spool, progress) => {
                    self.collect(|outbox| match outbox.progress.iter_mut().find(|(of, _)| *of == spool) {
                        Some((_, batch)) => batch.push(progress),
                        None => outbox.progress.push((spool, vec![progress])),
                    })
                }
                Command::Store { ticket, envelope, body } => {
                    self.collect(|outbox| outbox.store.push_back((ticket, envelope, body)));
                }
                Command::Accepted { ticket, result } => self.injectors.tell(ticket, result),
                Command::Wake(id) => {
                    if let Some(slot) = self.slots.borrow().get(&id) {
                        slot.woken.set(true);
                        slot.alarm.ring();
                    }
                }
                Command::Connect(connect) => self.start_session(connect),
                Command::Resolve { destination, lookup } => {
                    resolution::start(self.clone(), destination, lookup);
                }
            }
        }
    }

    fn start_session(self: &Rc<Self>, connect: Connect) {
        delivery::start(self.clone(), connect);
    }

    /// Posts the same to every core, this one included.
    pub(super) fn tell_all(self: &Rc<Self>, mail: &Mail) {
        for core in (0_u16..).map(CoreId).take(self.postbox.cores()).filter(|core| *core != self.core) {
            self.collect(|outbox| outbox.mail[usize::from(core.0)].push(mail.clone()));
        }
        self.with_shard(|shard, now| shard.handle_mail(mail.clone(), now));
    }

    /// Puts something into the outbox and sees to it that the flusher runs after the tasks that are ready now.
    fn collect(&self, put: impl FnOnce(&mut Outbox)) {
        let mut outbox = self.outbox.borrow_mut();
        put(&mut outbox);
        if !outbox.scheduled {
            outbox.scheduled = true;
            if let Some(waker) = outbox.flusher.take() {
                waker.wake();
            }
        }
    }

    /// The flusher's task: hands over what a turn has collected.
    pub async fn run_flusher(self: Rc<Self>) {
        std::future::poll_fn(|cx| {
            self.flush();
            let mut outbox = self.outbox.borrow_mut();
            outbox.flusher = Some(cx.waker().clone());
            outbox.scheduled = false;
            Poll::<()>::Pending
        })
        .await;
    }

    /// Hands over what can be handed over; the rest stays for the next time. Whether nothing is left.
    pub fn flush(&self) -> bool {
        let mut outbox = self.outbox.borrow_mut();
        let outbox = &mut *outbox;
        while let Some((ticket, envelope, body)) = outbox.store.pop_front() {
            if let Err(Full((envelope, body))) = self.own_spool().store(ticket, envelope, body) {
                outbox.store.push_front((ticket, envelope, body));
                break;
            }
        }
        if !outbox.records.is_empty()
            && let Some(log) = &*self.log.borrow()
            && let Err(Full(records)) = log.append(outbox.last_record, std::mem::take(&mut outbox.records))
        {
            outbox.records = records;
        }
        for (spool, batch) in &mut outbox.progress {
            if !batch.is_empty()
                && let Err(Full(rest)) = self.spool(*spool).progress(std::mem::take(batch))
            {
                *batch = rest;
            }
        }
        for ((to, batch), sent) in (0_u16..).map(CoreId).zip(&mut outbox.mail).zip(&mut outbox.sent) {
            if !batch.is_empty() {
                *sent += self.postbox.mail(self.core, to, batch);
            }
        }
        outbox.store.is_empty()
            && outbox.records.is_empty()
            && outbox.progress.iter().all(|(_, batch)| batch.is_empty())
            && outbox.mail.iter().all(Vec::is_empty)
    }

    /// Messages that wait because another core or a thread takes no more.
    #[must_use]
    pub fn backlog(&self) -> usize {
        let outbox = self.outbox.borrow();
        outbox.store.len() + outbox.records.len() + outbox.mail.iter().map(Vec::len).sum::<usize>()
    }

    /// Of each core, how many messages it will have been sent once the outbox is empty.
    #[must_use]
    pub fn posted(&self) -> Vec<u64> {
        let outbox = self.outbox.borrow();
        outbox.sent.iter().zip(&outbox.mail).map(|(sent, batch)| sent + batch.len() as u64).collect()
    }

    /// Whether every core has dealt with as many messages of this one as `posted` says.
    #[must_use]
    pub fn is_handled(&self, posted: &[u64]) -> bool {
        let sent = &self.outbox.borrow().sent;
        let handled =
            (0_u16..).map(CoreId).zip(sent).map(|(to, sent)| sent - self.postbox.under_way_from(self.core, to));
        handled.zip(posted).all(|(handled, posted)| handled >= *posted)
    }

    /// Whether no message is on its way between cores.
    #[must_use]
    pub fn mail_is_still(&self) -> bool {
        (0_u16..).map(CoreId).take(self.postbox.cores()).all(|core| self.postbox.under_way(core) == 0)
    }

    /// Ends the outcome log's thread, after everything was handed over. Returns the records that could not be
    /// written.
    pub fn stop_log(&self) -> usize {
        self.log.borrow_mut().take().map_or(0, OutcomeLog::stop)
    }
}
