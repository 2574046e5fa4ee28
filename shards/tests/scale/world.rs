//! Many real brains, the mailboxes between them, and a world that takes all mail: what happens is counted and decided by
//! nothing but the inputs. One queue of events in the order of time; no thread, no socket, no file, no clock.

use crate::given::{settings, site};
use mailrace_shards::event::{Command, Connect, Lookup, Mail, SessionId, Submission};
use mailrace_shards::message::{Body, ContentFlags, CoreId, Location};
use mailrace_shards::outcome::{Response, Verb};
use mailrace_shards::queue::DestinationId;
use mailrace_shards::rules::HashKey;
use mailrace_shards::settings::LimitSettings;
use mailrace_shards::shard::{Delivery, Next, Shard, ShardConfig};
use mailrace_shards::smtp::client::RecipientResult;
use mailrace_shards::time::{Instant, Now, Timestamp};
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

const fn micros(count: u64) -> Duration {
    Duration::from_micros(count)
}

/// A group of messages is on the disk.
const STORED: Duration = micros(2_000);
/// From a post to the turn in which its receiver takes it, and what is posted meanwhile with it.
const HOP: Duration = micros(100);
/// An answer of the resolver, a connection with its greeting, a message, the end of a connection.
const STEP: Duration = micros(5_000);
/// Between two syncs of a core's log, and between two ticks.
const SYNC: Duration = micros(10_000);

/// What happens to a core.
enum Event {
    Arrives(Box<Submission>),
    Stored(u64, Location),
    /// It hands over what it has posted.
    Flush,
    /// It takes what has come.
    Turn,
    Resolved(DestinationId, Lookup),
    Opened(SessionId),
    Asks(SessionId),
    Ended(SessionId, Delivery),
    Closed(SessionId),
    Beat,
}

/// What one core did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Load {
    pub accepted: u64,
    pub delivered: u64,
    /// Letters and batches of letters that came from other cores.
    pub letters_in: u64,
    pub batches_in: u64,
    /// The most that lay in its mailbox.
    pub deepest: usize,
}

/// Letters between cores.
#[derive(Clone, Copy, Debug, Default)]
pub struct Letters {
    pub posts: u64,
    pub progress: u64,
    pub permits: u64,
    pub moved: u64,
    /// Posts and progress that stayed on their core.
    pub local: u64,
    pub batches: u64,
}

pub struct World {
    pub shards: Vec<Shard>,
    pub loads: Vec<Load>,
    pub letters: Letters,
    now: Now,
    events: BTreeMap<(Instant, u64), (usize, Event)>,
    serial: u64,
    /// How each domain's mail host is found, by the domain's number.
    hosts: u32,
    inboxes: Vec<VecDeque<Mail>>,
    outboxes: Vec<BTreeMap<usize, Vec<Mail>>>,
    /// A flush, and a turn, is on its way.
    flushing: Vec<bool>,
    turning: Vec<bool>,
    recorded: Vec<u64>,
    parked: HashMap<(usize, SessionId), bool>,
    woken: HashSet<(usize, SessionId)>,
    offset: u64,
    delivered_all: u64,
}

impl World {
    /// `cores` cores; domain `n` has mail host `n` modulo `hosts`.
    pub fn new(cores: usize, hosts: u32, limits: Vec<LimitSettings>) -> Self {
        let settings = Arc::new(mailrace_shards::settings::Settings { shards: cores, limits, ..settings() });
        let shard = |core: usize| {
            Shard::new(ShardConfig {
                core: CoreId(u16::try_from(core).unwrap()),
                cores,
                generation: 1,
                rule_key: HashKey(1, 2),
                quarantine: Arc::default(),
                settings: settings.clone(),
            })
        };
        let mut world = Self {
            shards: (0..cores).map(shard).collect(),
            loads: vec![Load::default(); cores],
            letters: Letters::default(),
            now: Now { instant: Instant(1_000_000), utc: Timestamp(1_700_000_000_000) },
            events: BTreeMap::new(),
            serial: 0,
            hosts,
            inboxes: (0..cores).map(|_| VecDeque::new()).collect(),
            outboxes: vec![BTreeMap::new(); cores],
            flushing: vec![false; cores],
            turning: vec![false; cores],
            recorded: vec![0; cores],
            parked: HashMap::new(),
            woken: HashSet::new(),
            offset: 0,
            delivered_all: 0,
        };
        for core in 0..cores {
            // Not all at once, as on a real machine.
            world.later(core, SYNC * u32::try_from(core).unwrap() / u32::try_from(cores).unwrap(), Event::Beat);
        }
        world
    }

    /// A message for a domain comes to a core, `after` from now.
    pub fn arrives(&mut self, core: usize, domain: u32, after: Duration) {
        let submission = Submission {
            id: self.shards[core].next_message_id(),
            sender: "s@sender.test".into(),
            recipients: vec![format!("r@{}", name(domain)).into()],
            flags: ContentFlags::default(),
            extras: None,
            body: Body::from_static(b"hi\r\n"),
            protocol: "ESMTP",
            peer: None,
        };
        self.later(core, after, Event::Arrives(Box::new(submission)));
    }

    /// Runs until `messages` are delivered and all is told; fails when it takes more than `most` of the world's time.
    pub fn run(&mut self, messages: u64, most: Duration) {
        let end = self.now.instant.after(most);
        while !self.is_done(messages) {
            let ((at, _), (core, event)) = self.events.pop_first().expect("ticks go on");
            assert!(at <= end, "not done after {most:?}: {} of {messages} delivered", self.delivered_all);
            self.now = self.now.after(at.since(self.now.instant));
            self.happen(core, event);
        }
    }

    fn is_done(&self, messages: u64) -> bool {
        // Cheap first: it is asked for each event.
        self.delivered_all == messages && self.shards.iter().all(Shard::log_settled) && self.is_quiet()
    }

    fn is_quiet(&self) -> bool {
        self.inboxes.iter().all(VecDeque::is_empty) && self.outboxes.iter().all(BTreeMap::is_empty)
    }

    fn later(&mut self, core: usize, after: Duration, event: Event) {
        self.serial += 1;
        self.events.insert((self.now.instant.after(after), self.serial), (core, event));
    }

    fn ask<R>(&mut self, core: usize, ask: impl FnOnce(&mut Shard, Now) -> R) -> R {
        let answer = ask(&mut self.shards[core], self.now);
        self.carry_out(core);
        answer
    }

    fn carry_out(&mut self, core: usize) {
        while let Some(command) = self.shards[core].poll_command() {
            match command {
                Command::Store { ticket, envelope, .. } => {
                    self.offset += 1;
                    let spool = u16::try_from(core).unwrap();
                    let location = Location { spool, segment: 1, offset: self.offset, length: envelope.size() };
                    self.later(core, STORED, Event::Stored(ticket, location));
                }
                Command::Accepted { result, .. } => {
                    assert!(result.is_ok());
                    self.loads[core].accepted += 1;
                }
                Command::Post(to, mail) => self.posted(core, usize::from(to.0), mail),
                Command::Record { number, .. } => self.recorded[core] = number,
                Command::Progress(spool, _) => {
                    assert_eq!(usize::from(spool), core, "each core writes into its own spool")
                }
                Command::Resolve { destination, lookup } => {
                    self.later(core, STEP, Event::Resolved(destination, lookup));
                }
                Command::Connect(Connect { session, .. }) => self.later(core, STEP, Event::Opened(session)),
                Command::Wake(session) => {
                    let parked = self.parked.get_mut(&(core, session));
                    if parked.is_some_and(std::mem::take) {
                        self.later(core, Duration::ZERO, Event::Asks(session));
                    } else {
                        // It is just being told to wait: it will not.
                        self.woken.insert((core, session));
                    }
                }
            }
        }
    }

    fn posted(&mut self, from: usize, to: usize, mail: Mail) {
        if from == to {
            self.letters.local += u64::from(matches!(mail, Mail::Post(_) | Mail::Progress(..)));
            let now = self.now;
            return self.shards[to].handle_mail(mail, now);
        }
        *match mail {
            Mail::Post(_) => &mut self.letters.posts,
            Mail::Progress(..) => &mut self.letters.progress,
            Mail::Permit(..) => &mut self.letters.permits,
            Mail::Moved(..) | Mail::Behind(..) => &mut self.letters.moved,
        } += 1;
        self.outboxes[from].entry(to).or_default().push(mail);
        if !std::mem::replace(&mut self.flushing[from], true) {
            self.later(from, HOP, Event::Flush);
        }
    }

    fn happen(&mut self, core: usize, event: Event) {
        match event {
            Event::Arrives(submission) => drop(self.ask(core, |shard, now| shard.accept(*submission, now))),
            Event::Stored(ticket, location) => {
                self.ask(core, |shard, now| shard.handle_stored(ticket, Ok((location, true)), now));
            }
            Event::Flush => {
                self.flushing[core] = false;
                for (to, batch) in std::mem::take(&mut self.outboxes[core]) {
                    self.letters.batches += 1;
                    self.loads[to].batches_in += 1;
                    self.loads[to].letters_in += batch.len() as u64;
                    self.inboxes[to].extend(batch);
                    self.loads[to].deepest = self.loads[to].deepest.max(self.inboxes[to].len());
                    if !std::mem::replace(&mut self.turning[to], true) {
                        self.later(to, HOP, Event::Turn);
                    }
                }
            }
            Event::Turn => {
                self.turning[core] = false;
                for mail in std::mem::take(&mut self.inboxes[core]) {
                    self.ask(core, |shard, now| shard.handle_mail(mail, now));
                }
            }
            Event::Resolved(destination, lookup) => {
                let Lookup::MailHosts(domain) = lookup else { unreachable!("no route is set") };
                let number: u32 = domain[1..].split('.').next().unwrap().parse().unwrap();
                let [_, a, b, c] = (number % self.hosts).to_be_bytes();
                let host = (&*format!("mx{}.example", number % self.hosts), SocketAddr::from(([10, a, b, c], 25)));
                self.ask(core, |shard, now| shard.handle_resolved(destination, Ok(site(&[host])), now));
            }
            Event::Opened(session) => {
                self.ask(core, |shard, _| shard.handle_ready(session, None, None));
                self.asks(core, session);
            }
            Event::Asks(session) => self.asks(core, session),
            Event::Ended(session, delivery) => self.ended(core, session, delivery),
            Event::Closed(session) => {
                self.parked.remove(&(core, session));
                self.woken.remove(&(core, session));
                self.ask(core, |shard, now| shard.handle_closed(session, None, now));
            }
            Event::Beat => {
                let number = self.recorded[core];
                self.ask(core, |shard, now| shard.handle_log_synced(number, now));
                self.ask(core, |shard, now| shard.tick(now));
                self.later(core, SYNC, Event::Beat);
            }
        }
    }

    fn asks(&mut self, core: usize, session: SessionId) {
        self.woken.remove(&(core, session));
        match self.ask(core, |shard, now| shard.next_delivery(session, now)) {
            Next::Wait if self.woken.remove(&(core, session)) => {
                self.later(core, Duration::ZERO, Event::Asks(session));
            }
            Next::Wait => drop(self.parked.insert((core, session), true)),
            Next::Finish => self.later(core, STEP, Event::Closed(session)),
            Next::Deliver(delivery) => self.later(core, STEP, Event::Ended(session, delivery)),
        }
    }

    fn ended(&mut self, core: usize, session: SessionId, delivery: Delivery) {
        let Delivery { token, recipients, .. } = delivery;
        assert!(self.ask(core, |shard, now| shard.gate(session, token, now)).is_none(), "there are no rules");
        self.ask(core, |shard, _| shard.handle_end_of_data_sent(session, token));
        let good = Response { code: 250, enhanced: None, text: "taken".into(), verb: Verb::EndOfData };
        let results = recipients.iter().map(|index| (*index, RecipientResult::Delivered(good.clone()))).collect();
        self.loads[core].delivered += 1;
        self.delivered_all += 1;
        self.ask(core, |shard, now| shard.handle_finished(session, token, results, now));
        self.asks(core, session);
    }
}

/// The name of a domain.
pub fn name(domain: u32) -> String {
    format!("d{domain}.example")
}
