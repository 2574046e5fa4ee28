//! The simulated world: one queue of events in the order of time, and everything that they happen to. Single-threaded;
//! the only sources of chance are the seed's numbers. It decides nothing that the engine decides.

use crate::carrier::Carrier;
use crate::control::Control;
use crate::core::Core;
use crate::faults::Faults;
use crate::found::Searched;
use crate::injection::Injection;
use crate::injector::Injector;
use crate::network::{Conn, ConnId, Moment, Way};
use crate::operator::Operator;
use crate::oracle::Oracle;
use crate::plan::{Plan, SECOND, Spot, utc_at};
use crate::random::Random;
use crate::report::Report;
use crate::sink;
use crate::storage::{BodyAnswer, LogWord, Spool};
use mailrace_shards::event::{Lookup, SessionId};
use mailrace_shards::queue::DestinationId;
use mailrace_shards::spool::report::SpoolCompletion;
use mailrace_shards::time::{Instant, Now, Timestamp};
use std::collections::BTreeMap;

/// What happens on a core, when it is its turn.
#[derive(Debug)]
pub enum Happening {
    Tick,
    /// Something came to the mailbox.
    Turn,
    Resolved(DestinationId, Lookup),
    /// A connection stands, or does not.
    Opened(ConnId, bool),
    /// Octets came, or may go again, or the deadline may have passed.
    Drive(ConnId),
    Wake(SessionId),
    Body(ConnId, u64, BodyAnswer),
    /// A handshake is over, well or not.
    Handshake(ConnId, bool),
    Spool(u16, Vec<SpoolCompletion>),
    Log(LogWord),
    /// A spool has been searched.
    Searched(u16, Searched),
    /// The next of what was found there.
    Found(u16),
    /// The same as `Drive` for an injecting connection.
    Inject(ConnId),
    /// A graceful stop was ordered.
    Stop,
}

/// Something that will happen.
#[derive(Debug)]
pub enum Event {
    /// On a core of a life of the engine.
    Core(u32, usize, Happening),
    /// The thread of a spool has its turn.
    SpoolTurn(u32, u16),
    /// A spool is searched for what previous lives left.
    Search(u32, u16),
    /// The thread of a core's outcome log has its turn.
    LogTurn(u32, usize),
    /// The oldest chunk of a pipe arrives.
    Arrive(ConnId, Way),
    Client,
    RuleCall,
    Question,
    Reload,
    Move,
    Submit,
    Import,
    /// A core tells the control side that it has applied a change.
    Applied(u32, usize, u64),
    Fault,
    Crash(u32),
    Stop(u32),
    Restart,
    Watch,
}

pub struct World {
    pub plan: Plan,
    pub random: Random,
    /// Microseconds.
    pub time: u64,
    pub step: u64,
    serial: u64,
    events: BTreeMap<(u64, u64), Event>,
    /// Which life of the engine; the engine runs when `cores` is not empty.
    pub life: u32,
    pub born: u64,
    pub cores: Vec<Core>,
    pub spools: BTreeMap<u16, Spool>,
    pub conns: BTreeMap<ConnId, Conn>,
    pub next_conn: ConnId,
    pub carriers: BTreeMap<ConnId, Carrier>,
    pub injections: BTreeMap<ConnId, Injection>,
    pub sinks: BTreeMap<ConnId, sink::Session>,
    pub injectors: BTreeMap<ConnId, Injector>,
    pub control: Control,
    pub operator: Operator,
    pub faults: Faults,
    pub oracle: Oracle,
    pub report: Report,
    digest: u64,
    /// The last time at which something other than the passing of time happened.
    busy: u64,
    /// The engine is to die behind the present event.
    pub doomed: bool,
    /// A stop was ordered, and must be over by then.
    pub stop_by: Option<u64>,
    telling: bool,
}

impl World {
    pub fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let plan = Plan::new(&mut random);
        let oracle = Oracle::new(&plan);
        let faults = Faults::new(&plan);
        let mut world = Self {
            plan,
            random,
            time: 0,
            step: 0,
            serial: 0,
            events: BTreeMap::new(),
            life: 0,
            born: 0,
            cores: Vec::new(),
            spools: BTreeMap::new(),
            conns: BTreeMap::new(),
            next_conn: 0,
            carriers: BTreeMap::new(),
            injections: BTreeMap::new(),
            sinks: BTreeMap::new(),
            injectors: BTreeMap::new(),
            control: Control::default(),
            operator: Operator::default(),
            faults,
            oracle,
            report: Report::default(),
            digest: 0xcbf2_9ce4_8422_2325,
            busy: 0,
            doomed: false,
            stop_by: None,
            telling: std::env::var_os("MAILRACE_SIM_TRACE").is_some(),
        };
        world.tell(|| format!("{:?}", world.plan));
        world.start_engine();
        world.schedule_the_plan();
        world.schedule_the_operator();
        world
    }

    /// The present.
    pub fn moment(&self) -> Moment {
        Moment { step: self.step, time: self.time }
    }

    pub fn utc(&self) -> Timestamp {
        utc_at(self.time)
    }

    /// Both clocks; the monotonic one begins anew with each life.
    pub fn now(&self) -> Now {
        Now { instant: Instant(self.time - self.born + SECOND), utc: self.utc() }
    }

    /// A moment of the engine's monotonic clock on the world's.
    pub fn time_of(&self, instant: Instant) -> u64 {
        (instant.0 + self.born).saturating_sub(SECOND)
    }

    pub fn at(&mut self, time: u64, event: Event) {
        self.serial += 1;
        self.events.insert((time.max(self.time), self.serial), event);
    }

    pub fn after(&mut self, delay: u64, event: Event) {
        self.at(self.time + delay, event);
    }

    pub fn on_core(&mut self, core: usize, delay: u64, happening: Happening) {
        self.after(delay, Event::Core(self.life, core, happening));
    }

    /// All that happens goes into it, so that two runs of a seed can be compared.
    pub fn trace(&mut self, octets: &[u8]) {
        for octet in octets {
            self.digest = (self.digest ^ u64::from(*octet)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    /// For whoever replays a seed with `MAILRACE_SIM_TRACE=1`.
    pub fn tell(&self, what: impl FnOnce() -> String) {
        if self.telling {
            eprintln!("{:>12} {:>6} {}", self.time, self.step, what());
        }
    }

    pub fn telling(&self) -> bool {
        self.telling
    }

    pub fn digest(&self) -> u64 {
        self.digest
    }

    /// Runs until nothing is left to happen or the time is over.
    pub fn run_until(&mut self, end: u64) {
        while let Some((&(time, serial), _)) = self.events.first_key_value() {
            if time > end || self.oracle.has_failed() {
                break;
            }
            let event = self.events.remove(&(time, serial)).expect("it was just looked at");
            self.time = time;
            self.step += 1;
            self.happen(event);
        }
        if !self.oracle.has_failed() {
            self.time = self.time.max(end);
        }
    }

    fn happen(&mut self, event: Event) {
        if let Event::Core(life, core, _) = &event {
            if *life != self.life || self.cores.is_empty() {
                return;
            }
            let until = self.cores[*core].stalled_until;
            if until > self.time {
                return self.at(until, event);
            }
        }
        if !matches!(event, Event::Core(_, _, Happening::Tick) | Event::Watch | Event::Arrive(..)) {
            self.tell(|| format!("{event:?}"));
        }
        self.trace(&self.time.to_le_bytes());
        self.trace(&[kind_of(&event)]);
        if !matches!(event, Event::Core(_, _, Happening::Tick) | Event::Watch) {
            self.busy = self.time;
        }
        match event {
            Event::Core(_, core, happening) => self.on_its_turn(core, happening),
            Event::SpoolTurn(life, spool) if life == self.life => self.spool_turn(spool),
            Event::Search(life, spool) if life == self.life => self.search_spool(spool),
            Event::LogTurn(life, core) if life == self.life => self.log_turn(core),
            Event::Arrive(conn, way) => self.arrive(conn, way),
            Event::Client => self.new_client(),
            Event::RuleCall => self.rule_call(),
            Event::Question => self.ask(),
            Event::Reload => self.reload(),
            Event::Move => self.move_domain(),
            Event::Submit => self.submit_letter(),
            Event::Import => self.import(),
            Event::Applied(life, core, epoch) if life == self.life => self.applied(core, epoch),
            Event::Fault => self.next_fault(),
            Event::Crash(life) if life == self.life => {
                self.report.count("crash at", "some time");
                self.doomed = true;
            }
            Event::Stop(life) if life == self.life => self.order_stop(),
            Event::Restart => self.start_engine(),
            Event::Watch => self.watch(),
            Event::SpoolTurn(..)
            | Event::Search(..)
            | Event::LogTurn(..)
            | Event::Applied(..)
            | Event::Crash(_)
            | Event::Stop(_) => {}
        }
        if std::mem::take(&mut self.doomed) && !self.cores.is_empty() {
            self.crash();
        }
    }

    fn on_its_turn(&mut self, core: usize, happening: Happening) {
        match happening {
            Happening::Tick => self.tick(core),
            Happening::Turn => self.mailbox_turn(core),
            Happening::Resolved(destination, lookup) => self.resolved(core, destination, &lookup),
            Happening::Opened(conn, works) => self.opened(conn, works),
            Happening::Drive(conn) => self.drive(conn),
            Happening::Wake(session) => self.wake(core, session),
            Happening::Body(conn, token, answer) => self.body_read(conn, token, answer),
            Happening::Handshake(conn, works) => self.shaken(conn, works),
            Happening::Spool(spool, completions) => self.complete_spool(core, spool, completions),
            Happening::Log(word) => self.complete_log(core, word),
            Happening::Searched(spool, searched) => self.searched(core, spool, searched),
            Happening::Found(spool) => self.post_found(core, spool),
            Happening::Inject(conn) => self.converse(conn),
            Happening::Stop => self.stop_core(core),
        }
    }

    /// Ten milliseconds while something goes on, longer while nothing does: a core may always be late.
    fn tick(&mut self, core: usize) {
        self.with_shard(core, |shard, now| shard.tick(now));
        let quiet = self.time.saturating_sub(self.busy);
        let period = if quiet < SECOND / 2 { SECOND / 100 } else { SECOND / 4 };
        self.on_core(core, period, Happening::Tick);
        if self.stop_by.is_some() {
            self.finish_stop();
        }
    }

    /// Something of this kind happened; it may be the one at which the engine is to die.
    pub fn pass(&mut self, spot: Spot) {
        if self.faults.meets(spot) {
            self.report.count("crash at", &format!("{spot:?}"));
            self.doomed = true;
        }
    }
}

fn kind_of(event: &Event) -> u8 {
    match event {
        Event::Core(_, core, happening) => {
            let of = match happening {
                Happening::Tick => 0,
                Happening::Turn => 1,
                Happening::Resolved(..) => 2,
                Happening::Opened(..) => 3,
                Happening::Drive(_) => 4,
                Happening::Wake(_) => 5,
                Happening::Body(..) => 6,
                Happening::Spool(..) => 7,
                Happening::Log(_) => 8,
                Happening::Inject(_) => 9,
                Happening::Stop => 10,
                Happening::Handshake(..) => 11,
                Happening::Searched(..) => 12,
                Happening::Found(_) => 13,
            };
            100 + 14 * (*core as u8) + of
        }
        Event::SpoolTurn(..) => 0,
        Event::LogTurn(..) => 1,
        Event::Arrive(..) => 2,
        Event::Client => 3,
        Event::RuleCall => 4,
        Event::Applied(..) => 5,
        Event::Fault => 6,
        Event::Crash(_) => 7,
        Event::Restart => 8,
        Event::Watch => 9,
        Event::Stop(_) => 10,
        Event::Question => 11,
        Event::Reload => 12,
        Event::Submit => 13,
        Event::Import => 14,
        Event::Search(..) => 15,
        Event::Move => 16,
    }
}
