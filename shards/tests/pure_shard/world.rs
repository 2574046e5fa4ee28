//! A small world round one or more shards: a clock that only the test moves, a resolver, hosts that behave as they
//! are told, a log that syncs when it is let, and the mail lanes between the cores.

pub use crate::given::{answer, domain, own, peer, reply, rule, seconds, settings, site, source};
use mailrace_shards::event::{Answer, Command, Connect, Lookup, Mail, Question, ReplyTo, Resolved, SessionId};
use mailrace_shards::limits::TICK_MILLIS;
use mailrace_shards::message::{Body, ContentFlags, CoreId, Envelope, Extras, Location, MessageId};
use mailrace_shards::outcome::{Outcome, RecordType, Response, Verb};
use mailrace_shards::queue::{Counts, DestinationId};
use mailrace_shards::route;
use mailrace_shards::rules::{Change, HashKey, Rule, Update};
use mailrace_shards::settings::Settings;
use mailrace_shards::shard::{Delivery, Next, Shard, ShardConfig};
use mailrace_shards::smtp::classify::Failure;
use mailrace_shards::smtp::client::{RecipientResult, Results};
use mailrace_shards::spool::report::Progress;
use mailrace_shards::time::{Instant, Now, Timestamp};
use smallvec::SmallVec;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

pub const KEY: HashKey = HashKey(1, 2);
/// How long a step of a conversation takes.
const STEP: Duration = Duration::from_millis(10);

/// What a host does.
#[derive(Clone, Debug)]
pub enum Behaviour {
    /// Takes everything.
    Works,
    /// The connection, or the greeting, fails like this.
    Unreachable(Failure),
    /// The connection fails like this, after so long.
    Slow(Failure, Duration),
    /// Each message fails like this; the session goes on.
    Refuses(Failure),
    /// Each message fails like this, and the session with it.
    Breaks(Failure),
    /// Each message is given back once, uncharged, and the session ends.
    GivesBack,
    /// Recipients whose local part begins with `bad` are refused, with `later` deferred.
    Picky,
    /// A message takes so long.
    Sluggish(Duration),
    /// The end of a message is sent, and never answered.
    Silent,
    /// Each message is sent to its end at once, and fails like this after so long.
    Ponders(Failure, Duration),
    /// The connection and its greeting take so long.
    Distant(Duration),
}

/// Something that will happen.
#[derive(Debug)]
enum Event {
    Resolved(DestinationId, Lookup),
    Opened(Connect),
    Asks(SessionId),
    Ended(SessionId, Delivery),
    Closed(SessionId, Option<Failure>),
}

/// A message that a host took (or refused), with when and where.
#[derive(Clone, Debug)]
pub struct Sent {
    pub at: Now,
    pub core: usize,
    pub peer: SocketAddr,
    pub source: Option<Arc<str>>,
    pub session: SessionId,
    pub envelope: Arc<Envelope>,
    pub recipients: SmallVec<[u16; 4]>,
    /// Its body came along, and need not be read.
    pub has_body: bool,
}

pub struct World {
    pub shards: Vec<Shard>,
    pub now: Now,
    pub tick_every: Duration,
    events: BTreeMap<(Instant, u64), (usize, Event)>,
    serial: u64,
    next_tick: Instant,
    /// The resolver's answers by domain; what is not there resolves to one host named after the domain.
    pub dns: HashMap<String, Result<Resolved, Failure>>,
    pub hosts: HashMap<SocketAddr, Behaviour>,
    /// Open connections by core and session.
    pub open: HashMap<(usize, SessionId), Connect>,
    pub most_open: usize,
    pub connects: Vec<(Now, Connect)>,
    pub sent: Vec<Sent>,
    pub records: Vec<Outcome>,
    pub progress: Vec<(u16, Progress)>,
    /// Whether records are synced as soon as they are written.
    pub syncs: bool,
    pub lookups: Vec<Lookup>,
    last_record: Vec<u64>,
    parked: HashMap<(usize, SessionId), bool>,
    next_id: u64,
    /// The start that takes what is posted. The shards are those of start 1.
    pub generation: u32,
    woken: HashSet<(usize, SessionId)>,
    /// Tokens by core: each names one delivery.
    tokens: HashSet<(usize, u64)>,
    /// How long answers of the resolver are good, when not for ever.
    pub ttl: Option<Duration>,
}

impl World {
    pub fn new(settings: Settings) -> Self {
        Self::with_cores(settings, 1)
    }

    pub fn with_cores(mut settings: Settings, cores: usize) -> Self {
        settings.shards = cores;
        let settings = Arc::new(settings);
        let shard = |core: usize| {
            let core = CoreId(u16::try_from(core).unwrap());
            Shard::new(ShardConfig {
                core,
                cores,
                generation: 1,
                rule_key: KEY,
                quarantine: Arc::default(),
                settings: settings.clone(),
            })
        };
        Self {
            shards: (0..cores).map(shard).collect(),
            now: Now { instant: Instant(1_000_000), utc: Timestamp(1_700_000_000_000) },
            tick_every: Duration::from_millis(TICK_MILLIS),
            events: BTreeMap::new(),
            serial: 0,
            next_tick: Instant(1_000_000),
            dns: HashMap::new(),
            hosts: HashMap::new(),
            open: HashMap::new(),
            most_open: 0,
            connects: Vec::new(),
            sent: Vec::new(),
            records: Vec::new(),
            progress: Vec::new(),
            syncs: true,
            lookups: Vec::new(),
            last_record: vec![0; cores],
            parked: HashMap::new(),
            generation: 1,
            next_id: 0,
            woken: HashSet::new(),
            tokens: HashSet::new(),
            ttl: None,
        }
    }

    /// All domains end up at these hosts.
    pub fn everything_at(&mut self, domains: &[&str], names: &[(&str, SocketAddr)]) {
        for domain in domains {
            self.dns.insert((*domain).to_owned(), Ok(site(names)));
        }
    }

    /// A message for these recipients, of one domain.
    pub fn post(&mut self, recipients: &[&str]) -> MessageId {
        self.post_with(recipients, Extras::default())
    }

    pub fn post_with(&mut self, recipients: &[&str], extras: Extras) -> MessageId {
        self.next_id += 1;
        let id = MessageId { generation: self.generation, core: 0, sequence: self.next_id };
        let extras = (extras != Extras::default()).then(|| Box::new(extras));
        let due = extras.as_ref().and_then(|extras| extras.not_before);
        let flags = ContentFlags::default();
        let envelope = Arc::new(Envelope::new(id, self.now.utc, 4, flags, "s@sender.test", recipients, extras));
        let core = usize::from(route::owner(envelope.domain(0), self.shards.len()).0);
        let post = mailrace_shards::event::Post {
            envelope,
            recipients: (0..u16::try_from(recipients.len()).unwrap()).collect(),
            location: Location { spool: 0, segment: 1, offset: self.next_id, length: 4 },
            body: Some(Body::from_static(b"hi\r\n")),
            attempts: 0,
            due,
            maybe_delivered: false,
        };
        let now = self.now;
        self.ask(core, |shard| shard.handle_mail(Mail::Post(post), now));
        id
    }

    /// Changes the rules of every core.
    pub fn change(&mut self, changes: &[Change]) {
        let now = self.now;
        for core in 0..self.shards.len() {
            let after = self.shards[core].rules().epoch();
            let update = Update { after, epoch: after + 1, changes: changes.to_vec() };
            self.ask(core, |shard| shard.handle_rules(update, now));
        }
    }

    pub fn put(&mut self, rule: Rule) {
        self.change(&[Change::Put(Arc::new(rule))]);
    }

    pub fn ask<R>(&mut self, core: usize, ask: impl FnOnce(&mut Shard) -> R) -> R {
        let answer = ask(&mut self.shards[core]);
        self.carry_out(core);
        answer
    }

    /// Asks the first core something. The answer may take until a later tick.
    pub fn question(&mut self, question: Question) -> Receiver<Answer> {
        let (sender, answer) = channel();
        let now = self.now;
        let reply = ReplyTo::new(move |answer| sender.send(answer).unwrap());
        self.ask(0, |shard| shard.handle_question(question, reply, now));
        answer
    }

    fn later(&mut self, core: usize, after: Duration, event: Event) {
        self.serial += 1;
        self.events.insert((self.now.instant.after(after), self.serial), (core, event));
    }

    fn carry_out(&mut self, core: usize) {
        while let Some(command) = self.shards[core].poll_command() {
            match command {
                Command::Resolve { destination, lookup } => {
                    self.lookups.push(lookup.clone());
                    self.later(core, STEP, Event::Resolved(destination, lookup));
                }
                Command::Connect(connect) => {
                    self.connects.push((self.now, connect.clone()));
                    self.open.insert((core, connect.session), connect.clone());
                    self.most_open = self.most_open.max(self.open.len());
                    let after = match self.hosts.get(&connect.peer) {
                        Some(Behaviour::Slow(_, after) | Behaviour::Distant(after)) => *after,
                        _ => STEP,
                    };
                    self.later(core, after, Event::Opened(connect));
                }
                Command::Wake(session) => match self.parked.get_mut(&(core, session)) {
                    Some(parked) if *parked => {
                        *parked = false;
                        self.later(core, Duration::ZERO, Event::Asks(session));
                    }
                    // It is just being told to wait: it will not.
                    _ => drop(self.woken.insert((core, session))),
                },
                Command::Post(to, mail) => {
                    let (to, now) = (usize::from(to.0), self.now);
                    self.ask(to, |shard| shard.handle_mail(mail, now));
                }
                Command::Record { number, outcome } => {
                    // Others are only counted.
                    self.records.extend(Some(*outcome).filter(|outcome| !outcome.unlogged));
                    self.last_record[core] = number;
                }
                Command::Progress(spool, progress) => self.progress.push((spool, progress)),
                Command::Store { .. } | Command::Accepted { .. } => panic!("nothing is injected here: {command:?}"),
            }
        }
    }

    /// Says that everything written is durable.
    pub fn sync(&mut self) {
        for core in 0..self.shards.len() {
            let (number, now) = (self.last_record[core], self.now);
            self.ask(core, |shard| shard.handle_log_synced(number, now));
        }
    }

    /// Lets time pass.
    pub fn run(&mut self, time: Duration) {
        let end = self.now.instant.after(time);
        loop {
            let event = self.events.first_key_value().map(|((at, _), _)| *at).filter(|at| *at <= self.next_tick);
            let at = event.unwrap_or(self.next_tick);
            if at > end {
                break;
            }
            self.now = self.now.after(at.since(self.now.instant));
            if event.is_some() {
                let (_, (core, event)) = self.events.pop_first().unwrap();
                self.happen(core, event);
            } else {
                self.next_tick = self.next_tick.after(self.tick_every);
                let now = self.now;
                for core in 0..self.shards.len() {
                    self.ask(core, |shard| shard.tick(now));
                }
                if self.syncs {
                    self.sync();
                }
            }
        }
        self.now = self.now.after(end.since(self.now.instant));
    }

    fn happen(&mut self, core: usize, event: Event) {
        let now = self.now;
        match event {
            Event::Resolved(destination, lookup) => {
                let mut answer = self.look_up(&lookup);
                if let (Ok(answer), Some(ttl)) = (&mut answer, self.ttl) {
                    answer.expires = now.instant.after(ttl);
                }
                self.ask(core, |shard| shard.handle_resolved(destination, answer, now));
            }
            Event::Opened(connect) => match self.hosts.get(&connect.peer) {
                Some(Behaviour::Unreachable(failure) | Behaviour::Slow(failure, _)) => {
                    let failure = Some(failure.clone());
                    self.close(core, connect.session, failure);
                }
                _ => {
                    self.ask(core, |shard| shard.handle_ready(connect.session, None, None));
                    self.asks(core, connect.session);
                }
            },
            Event::Asks(session) => self.asks(core, session),
            Event::Ended(session, delivery) => self.ended(core, session, delivery),
            Event::Closed(session, failure) => self.close(core, session, failure),
        }
    }

    fn close(&mut self, core: usize, session: SessionId, failure: Option<Failure>) {
        let now = self.now;
        self.open.remove(&(core, session));
        self.parked.remove(&(core, session));
        self.woken.remove(&(core, session));
        self.ask(core, |shard| shard.handle_closed(session, failure, now));
    }

    /// The connection that says this in EHLO is lost, whatever it was doing.
    pub fn lose(&mut self, ehlo: &str, failure: Failure) {
        let found = self.open.iter().find(|(_, connect)| &*connect.ehlo == ehlo);
        let (core, session) = *found.expect("there is such a connection").0;
        self.events.retain(|_, (of, event)| {
            let about = match event {
                Event::Ended(id, _) | Event::Closed(id, _) | Event::Asks(id) => Some(*id),
                Event::Opened(connect) => Some(connect.session),
                Event::Resolved(..) => None,
            };
            *of != core || about != Some(session)
        });
        self.close(core, session, Some(failure));
    }

    fn look_up(&self, lookup: &Lookup) -> Result<Resolved, Failure> {
        match lookup {
            Lookup::MailHosts(domain) => self.dns.get(&**domain).cloned().unwrap_or_else(|| {
                let hash = domain.bytes().fold(7_u8, |hash, octet| hash.wrapping_mul(31).wrapping_add(octet));
                Ok(site(&[(&format!("mx.{domain}"), SocketAddr::from(([203, 0, 113, hash], 25)))]))
            }),
            Lookup::Hosts { hosts, .. } => {
                let host = |host: &mailrace_shards::settings::RouteHost| {
                    SocketAddr::new(host.host.parse().unwrap(), host.port)
                };
                let names: Vec<(&str, SocketAddr)> = hosts.iter().map(|of| (&*of.host, host(of))).collect();
                Ok(site(&names))
            }
        }
    }

    fn asks(&mut self, core: usize, session: SessionId) {
        let now = self.now;
        self.woken.remove(&(core, session));
        match self.ask(core, |shard| shard.next_delivery(session, now)) {
            Next::Wait if self.woken.remove(&(core, session)) => self.later(core, Duration::ZERO, Event::Asks(session)),
            Next::Wait => drop(self.parked.insert((core, session), true)),
            Next::Finish => self.later(core, STEP, Event::Closed(session, None)),
            Next::Deliver(delivery) => {
                assert!(self.tokens.insert((core, delivery.token)), "a token is given once");
                let connect = &self.open[&(core, session)];
                let after = match self.hosts.get(&connect.peer) {
                    Some(Behaviour::Sluggish(after)) => *after,
                    Some(Behaviour::Ponders(_, after)) => {
                        let (after, token) = (*after, delivery.token);
                        assert!(
                            self.ask(core, |shard| shard.gate(session, token, now)).is_none(),
                            "it was just judged"
                        );
                        self.ask(core, |shard| shard.handle_end_of_data_sent(session, token));
                        after
                    }
                    _ => STEP,
                };
                self.later(core, after, Event::Ended(session, delivery));
            }
        }
    }

    fn ended(&mut self, core: usize, session: SessionId, delivery: Delivery) {
        let now = self.now;
        let Delivery { token, envelope, recipients, body, .. } = delivery;
        let connect = self.open[&(core, session)].clone();
        let sent_before = matches!(self.hosts.get(&connect.peer), Some(Behaviour::Ponders(..)));
        let covered = if sent_before { None } else { self.ask(core, |shard| shard.gate(session, token, now)) };
        let gives_back = matches!(self.hosts.get(&connect.peer), Some(Behaviour::GivesBack));
        if covered.is_some() || gives_back {
            if gives_back {
                self.hosts.insert(connect.peer, Behaviour::Works);
            }
            self.ask(core, |shard| shard.handle_aborted(session, token, now));
            return self.close(core, session, None);
        }
        self.ask(core, |shard| shard.handle_end_of_data_sent(session, token));
        if matches!(self.hosts.get(&connect.peer), Some(Behaviour::Silent)) {
            return;
        }
        let behaviour = self.hosts.get(&connect.peer).cloned().unwrap_or(Behaviour::Works);
        let results: Results = recipients
            .iter()
            .map(|index| (*index, result(&behaviour, envelope.recipient(usize::from(*index)))))
            .collect();
        self.sent.push(Sent {
            at: now,
            core,
            peer: connect.peer,
            source: Some(connect.ehlo),
            session,
            envelope,
            recipients,
            has_body: body.is_some(),
        });
        self.ask(core, |shard| shard.handle_finished(session, token, results, now));
        match behaviour {
            Behaviour::Breaks(failure) => self.close(core, session, Some(failure)),
            _ => self.asks(core, session),
        }
    }

    // What a test asks of the world.

    pub fn counts(&self) -> Counts {
        self.shards.iter().map(|shard| shard.queue().counts()).fold(Counts::default(), |sum, of| Counts {
            ready: sum.ready + of.ready,
            waiting: sum.waiting + of.waiting,
            held: sum.held + of.held,
            in_flight: sum.in_flight + of.in_flight,
        })
    }

    /// Messages in the queues, by state: ready, waiting, held, in flight.
    pub fn states(&self) -> (u64, u64, u64, u64) {
        let Counts { ready, waiting, held, in_flight } = self.counts();
        (ready, waiting, held, in_flight)
    }

    /// Records of a type.
    pub fn of_type(&self, kind: RecordType) -> Vec<&Outcome> {
        self.records.iter().filter(|record| record.kind == kind).collect()
    }

    /// What was recorded of a message, in short: type, code, attempts.
    pub fn story(&self, id: MessageId) -> Vec<(RecordType, u16, u16)> {
        let of = self.records.iter().filter(|record| record.envelope.id() == id);
        of.map(|record| (record.kind, record.response.code, record.attempts)).collect()
    }

    /// Seconds from now at which records of a message were made, relative to `since`.
    pub fn moments(&self, id: MessageId, since: Now) -> Vec<u64> {
        let of = self.records.iter().filter(|record| record.envelope.id() == id);
        of.map(|record| record.at.since(since.utc).as_secs()).collect()
    }

    pub fn delivered(&self) -> usize {
        self.of_type(RecordType::Delivery).len()
    }
}

fn result(behaviour: &Behaviour, recipient: &str) -> RecipientResult {
    let good = Response { code: 250, enhanced: None, text: "taken".into(), verb: Verb::EndOfData };
    match behaviour {
        Behaviour::Refuses(failure) | Behaviour::Breaks(failure) | Behaviour::Ponders(failure, _) => {
            RecipientResult::Failed(failure.clone())
        }
        Behaviour::Picky if recipient.starts_with("bad") => RecipientResult::Failed(reply(550, Verb::RcptTo)),
        Behaviour::Picky if recipient.starts_with("later") => RecipientResult::Failed(reply(451, Verb::RcptTo)),
        _ => RecipientResult::Delivered(good),
    }
}
