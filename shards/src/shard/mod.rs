//! The brain of one core. It decides everything about the mail of its destinations and does no I/O: inputs
//! are `handle_*` calls with the current time, outputs are [`Command`]s. This is the one place where queue,
//! paths, SMTP outcomes, spool progress and rules meet.
//!
//! | file | what happens there |
//! |---|---|
//! | `intake` | mail is accepted, stored, posted to its owner, put into the queue |
//! | `dispatch` | a destination with ready mail gets hosts and connections |
//! | `deliver` | a session asks for its next message |
//! | `gate` | a rule may still stop a message before its end-of-data |
//! | `connection` | sessions come up, fail, end |
//! | `places` | how many connections there may be at once |
//! | `settle` | results become records, retries and ends |
//! | `body` | a message whose body is not there |
//! | `sweep` | long work in slices |
//! | `ask` | questions of the control side, in slices |
//! | `largest` | which queues are the largest |
//! | `flush`, `departed` | what was ordered of mail that a start has found and not yet queued |
//! | `tick` | time passes |
//!
//! A shard belongs to one core and ends with the process. It never reads a clock, never waits, and never
//! sends an end-of-data: it only answers whether the runtime may.

mod ask;
mod body;
mod connection;
mod count;
mod deliver;
mod departed;
mod dispatch;
mod flush;
mod gate;
mod intake;
mod largest;
mod places;
mod session;
mod settle;
mod site;
mod sweep;
mod tick;
mod way;

pub use connection::TlsFacts;
pub use deliver::{Delivery, Next};
pub use gate::Covered;
pub use intake::Submission;
pub use largest::QueueSizes;

use crate::event::{Command, SessionId};
use crate::message::{CoreId, MessageId};
use crate::path::{LimitTable, PermitId, Permits, Pools, Sources, TokenKey};
use crate::queue::{BucketId, DestinationId, Queue};
use crate::rules::{HashKey, RuleTable};
use crate::settings::Settings;
use crate::spool::report::Progress;
use crate::time::Instant;
use ask::Asks;
use body::Absent;
use departed::Departed;
use flush::Flushes;
use hashbrown::{HashMap, HashSet};
use intake::{Receptions, Storing};
use largest::Largest;
use places::Places;
use session::Session;
use site::{BucketStates, RouteTable, Sites};
use slab::Slab;
use smallvec::SmallVec;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;
use sweep::{Held, Sweeps};

/// What a shard has done since it started. Plain counts, for reports and metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Messages accepted durably by this core.
    pub received: u64,
    /// Recipients delivered.
    pub delivered: u64,
    /// Recipients deferred, once for each attempt.
    pub deferred: u64,
    /// Recipients that failed for good.
    pub bounced: u64,
    /// Recipients whose time ran out.
    pub expired: u64,
    /// Connections opened.
    pub connections: u64,
    /// Messages stopped in the gate.
    pub gated: u64,
    /// Entries put aside because a session panicked over them.
    pub quarantined: u64,
    /// Recipients ended by a rule.
    pub ended_by_rule: u64,
    /// Of these, by suppressions.
    pub ended_by_suppression: u64,
    /// By administrative bounces.
    pub ended_by_bounce: u64,
    /// By forced errors.
    pub ended_by_error: u64,
    /// By the cancelling of single messages.
    pub ended_by_cancel: u64,
    /// How often the rules were asked about an entry.
    pub judged: u64,
}

impl Counters {
    /// A recipient was ended by a rule of that kind, as records name it.
    pub(super) fn count_end(&mut self, kind: &str) {
        self.ended_by_rule += 1;
        match kind {
            "suppression" => self.ended_by_suppression += 1,
            "bounce" => self.ended_by_bounce += 1,
            "cancel" => self.ended_by_cancel += 1,
            _ => self.ended_by_error += 1,
        }
    }
}

/// What a shard is made from.
#[derive(Clone, Debug)]
pub struct ShardConfig {
    /// Which core.
    pub core: CoreId,
    /// How many cores the engine has.
    pub cores: usize,
    /// Number of this start, from which message ids are made.
    pub generation: u32,
    /// Secret of the rule table's hashes, the same on every core.
    pub rule_key: HashKey,
    /// Messages over which the engine died twice: they are put aside, not tried.
    pub quarantine: Arc<HashSet<MessageId>>,
    /// Settings.
    pub settings: Arc<Settings>,
}

/// One core's brain.
#[derive(Debug)]
pub struct Shard {
    core: CoreId,
    cores: usize,
    settings: Arc<Settings>,
    generation: u32,
    next_sequence: u64,
    next_ticket: u64,
    next_token: u64,
    next_session: u64,
    storing: HashMap<u64, Storing>,
    queue: Queue,
    routes: RouteTable,
    sites: Sites,
    /// Index into the settings' routes by domain, and that of `*`.
    route_index: HashMap<Arc<str>, usize>,
    default_route: Option<usize>,
    sources: Sources,
    pools: Pools,
    limits: LimitTable,
    permits: Permits,
    permit_sessions: HashMap<PermitId, SessionId>,
    token_waiters: HashMap<TokenKey, Vec<DestinationId>>,
    /// What the permit keeper has to say is being carried.
    carrying: bool,
    sessions: Slab<Session>,
    places: Places,
    buckets: BucketStates,
    rules: RuleTable,
    quarantine: Arc<HashSet<MessageId>>,
    /// What each rule holds, by its id.
    held: HashMap<Arc<str>, Held>,
    sweeps: Sweeps,
    asks: Asks,
    flushes: Flushes,
    departed: Departed,
    absent: Absent,
    largest: Largest,
    /// Buckets for which is known which ways are open, the oldest first.
    ways_known: VecDeque<BucketId>,
    /// Recipients that each rule has ended, by scheduled queue name.
    ended: HashMap<Arc<str>, HashMap<Arc<str>, u64>>,
    /// Destinations to attend to again at a time.
    stalled: BinaryHeap<Reverse<(Instant, DestinationId)>>,
    /// Idle sessions by the end of their time; stale items are dropped as they surface.
    idle_deadlines: BinaryHeap<Reverse<(Instant, SessionId)>>,
    /// Destinations that were empty, by when to look again.
    emptied: VecDeque<(Instant, DestinationId)>,
    next_rest_cleaning: Instant,
    /// Records handed to the log.
    recorded: u64,
    /// Records known to be durable.
    synced: u64,
    /// What spools will hear once records are durable, in the order of records.
    unsynced: VecDeque<(u64, u16, Progress)>,
    receptions: Receptions,
    /// A session was turned away because too many records are not durable.
    unsynced_waits: bool,
    log_failing: bool,
    /// Spools that cannot write what has ended, and have too much of that.
    spools_behind: SmallVec<[u16; 2]>,
    stopping: bool,
    commands: VecDeque<Command>,
    counters: Counters,
    no_text: Arc<str>,
}

impl Shard {
    /// An empty shard.
    #[must_use]
    pub fn new(config: ShardConfig) -> Self {
        let ShardConfig { core, cores, generation, rule_key, quarantine, settings } = config;
        let sources = Sources::new(&settings);
        let mut shard = Self {
            core,
            cores,
            generation,
            next_sequence: 0,
            next_ticket: 0,
            next_token: 0,
            next_session: 0,
            storing: HashMap::new(),
            queue: Queue::default(),
            routes: RouteTable::default(),
            sites: Sites::default(),
            pools: Pools::new(&settings, &sources),
            limits: LimitTable::new(&settings.limits, 0),
            permits: Permits::new(core),
            permit_sessions: HashMap::new(),
            token_waiters: HashMap::new(),
            carrying: false,
            sources,
            route_index: HashMap::new(),
            default_route: None,
            sessions: Slab::new(),
            places: Places::new(settings.connections.delivering, cores),
            buckets: BucketStates::default(),
            rules: RuleTable::new(rule_key),
            quarantine,
            held: HashMap::new(),
            sweeps: Sweeps::default(),
            asks: Asks::default(),
            flushes: Flushes::default(),
            departed: Departed::new(rule_key),
            absent: Absent::default(),
            largest: Largest::default(),
            ways_known: VecDeque::new(),
            ended: HashMap::new(),
            stalled: BinaryHeap::new(),
            idle_deadlines: BinaryHeap::new(),
            emptied: VecDeque::new(),
            next_rest_cleaning: Instant::default(),
            recorded: 0,
            synced: 0,
            unsynced: VecDeque::new(),
            receptions: Receptions::default(),
            unsynced_waits: false,
            log_failing: false,
            spools_behind: SmallVec::new(),
            stopping: false,
            commands: VecDeque::new(),
            counters: Counters::default(),
            no_text: "".into(),
            settings,
        };
        shard.index_routes();
        shard
    }

    /// Takes new settings over. What was derived from the old ones is made anew when next needed.
    fn adopt(&mut self, settings: Arc<Settings>) {
        self.sources = self.sources.renewed(&settings);
        self.pools = Pools::new(&settings, &self.sources);
        self.limits = LimitTable::new(&settings.limits, self.limits.version() + 1);
        self.settings = settings;
        self.index_routes();
        self.unroute_all();
        self.buckets.clear();
    }

    fn index_routes(&mut self) {
        let routes = self.settings.routes.iter().enumerate();
        self.default_route = routes.clone().find(|(_, route)| route.domain.is_none()).map(|(at, _)| at);
        self.route_index = routes.filter_map(|(at, route)| Some((route.domain.clone()?, at))).collect();
    }

    /// The next thing that the runtime must do.
    pub fn poll_command(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }

    /// What it has done.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Its queue, to look at.
    #[must_use]
    pub fn queue(&self) -> &Queue {
        &self.queue
    }

    /// Its rules, to look at.
    #[must_use]
    pub fn rules(&self) -> &RuleTable {
        &self.rules
    }

    /// Messages handed to the spool that have no answer yet.
    #[must_use]
    pub fn storing(&self) -> usize {
        self.storing.len()
    }

    /// Messages that sessions have.
    #[must_use]
    pub fn in_flight_ids(&self) -> Vec<MessageId> {
        let flights = self.sessions.iter().flat_map(|(_, session)| &session.flights);
        flights.map(|flight| self.queue.entry(flight.entry).envelope.id()).collect()
    }

    /// Whether everything recorded is durable and told to the spools.
    #[must_use]
    pub fn log_settled(&self) -> bool {
        self.synced == self.recorded && self.unsynced.is_empty()
    }

    fn session(&self, id: SessionId) -> &Session {
        &self.sessions[id.0 as usize]
    }

    fn lanes_of(&self, domain: &str) -> u16 {
        self.limits.lanes(domain)
    }
}
