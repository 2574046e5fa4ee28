//! The disks and the threads in front of them: each spool's writer with the real journal on a simulated disk, the
//! outcome log of each core, and reads of bodies. Nothing is durable here before its sync.

use crate::found::Found;
use crate::plan::{SECOND, Spot};
use crate::world::{Event, Happening, World};
use mailrace_shards::limits::{LOG_RETRY_MS, LOG_SYNC_LAG_MS, SPOOL_GROUP_COMMANDS, SPOOL_RETRY_MS, SPOOL_SYNC_LAG_MS};
use mailrace_shards::message::{Body, Envelope};
use mailrace_shards::outcome::Outcome;
use mailrace_shards::shard::Delivery;
use mailrace_shards::spool::disk::Disk;
use mailrace_shards::spool::journal::Journal;
use mailrace_shards::spool::memory_disk::MemoryDisk;
use mailrace_shards::spool::record::{TRAILER_BYTES, trailer_matches};
use mailrace_shards::spool::recover::Findings;
use mailrace_shards::spool::report::{Point, Progress, SpoolCompletion};
use mailrace_shards::spool::segment::segment_name;
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

const MILLI: u64 = 1000;

/// What a core hands to a spool's thread.
pub enum Task {
    Store(u64, Arc<Envelope>, Body),
    Progress(Progress),
    /// What a search has found, and up to where the log has all of its receptions.
    Adopt(Box<Findings>, Option<Point>),
}

impl Task {
    /// To the journal.
    pub fn give(self, journal: &mut Journal<MemoryDisk>, out: &mut Vec<SpoolCompletion>) {
        match self {
            Self::Store(ticket, envelope, body) => journal.store(ticket, envelope, body, out),
            Self::Progress(progress) => journal.progress(progress),
            Self::Adopt(findings, recorded) => {
                journal.adopt(*findings);
                recorded.into_iter().for_each(|point| journal.older_are_recorded(point));
            }
        }
    }
}

/// One spool directory and its thread.
pub struct Spool {
    pub disk: MemoryDisk,
    pub journal: Option<Journal<MemoryDisk>>,
    pub tasks: VecDeque<Task>,
    pub found: Found,
    /// Its thread is not asleep before.
    busy_until: u64,
    looks_again: bool,
    unsynced_since: Option<u64>,
    retry_at: Option<u64>,
    prepared: bool,
    compacting: bool,
    failing: bool,
}

impl Spool {
    pub fn new(disk: MemoryDisk, journal: Option<Journal<MemoryDisk>>, found: Found) -> Self {
        Self {
            disk,
            journal,
            tasks: VecDeque::new(),
            found,
            busy_until: 0,
            looks_again: false,
            unsynced_since: None,
            retry_at: None,
            prepared: false,
            // What recovery found may be removable.
            compacting: true,
            failing: false,
        }
    }
}

/// What a read of a body brings.
#[derive(Debug)]
pub enum BodyAnswer {
    Body(Body),
    Gone,
    Damaged,
}

/// What an outcome log tells its core.
#[derive(Debug)]
pub enum LogWord {
    Synced(u64),
    Failing,
    Working,
}

/// The outcome log of one core.
#[derive(Default)]
pub struct Log {
    /// Written, not synced.
    pub pending: Vec<Outcome>,
    last: u64,
    sync_at: Option<u64>,
    failing: bool,
    /// So many of its next syncs fail.
    pub faults: u32,
}

impl World {
    pub fn hand_to_spool(&mut self, spool: u16, task: Task) {
        if let Task::Progress(progress) = &task {
            self.tell(|| format!("spool {spool} hears {progress:?}"));
        }
        let of = self.spools.get_mut(&spool).expect("a core knows only spools that it has opened");
        of.tasks.push_back(task);
        let delay = self.random.skewed(1, MILLI);
        self.after(delay, Event::SpoolTurn(self.life, spool));
    }

    /// Whether a spool takes no new mail.
    pub fn refusing(&self, spool: u16) -> bool {
        let of = &self.spools[&spool];
        of.failing || of.disk.free_bytes().is_ok_and(|free| free < self.plan.settings.spool.min_free_bytes)
    }

    /// Its thread takes a group, or has nothing to take.
    pub fn spool_turn(&mut self, number: u16) {
        let (time, life) = (self.time, self.life);
        let of = self.spools.get_mut(&number).expect("a turn is only given to a spool that is open");
        if of.busy_until > time {
            // It looks again once it has written.
            if !std::mem::replace(&mut of.looks_again, true) {
                let at = of.busy_until;
                self.at(at, Event::SpoolTurn(life, number));
            }
            return;
        }
        of.looks_again = false;
        let Some(journal) = of.journal.as_mut() else { return };
        let mut out = Vec::new();
        let mut messages = false;
        if of.tasks.is_empty() {
            if !of.compacting && !of.prepared {
                of.prepared = true;
                journal.idle(&mut out);
            } else if !of.compacting {
                journal.retry_removals();
            }
        } else {
            of.prepared = false;
            for _ in 0..SPOOL_GROUP_COMMANDS {
                let Some(task) = of.tasks.pop_front() else { break };
                messages |= matches!(task, Task::Store(..));
                task.give(journal, &mut out);
            }
        }
        if !(journal.is_failing() && of.retry_at.is_some_and(|at| time < at)) || messages {
            let lag = SPOOL_SYNC_LAG_MS * MILLI;
            // Nobody in the queues would hear of a body that moved before it is there.
            of.compacting = matches!(of.found, Found::Posted) && journal.maintain(&mut out);
            let due = of.unsynced_since.is_some_and(|since| time >= since + lag);
            journal.commit(due || journal.is_failing(), &mut out);
            of.failing = journal.is_failing();
            of.retry_at = of.failing.then(|| time + SPOOL_RETRY_MS * MILLI);
            of.unsynced_since = match journal.has_unsynced() && !of.failing {
                true => of.unsynced_since.filter(|_| !due).or(Some(time)),
                false => None,
            };
        }
        let lasts = self.random.skewed(20, 8 * MILLI);
        let of = self.spools.get_mut(&number).expect("it was there at the top");
        of.busy_until = time + lasts;
        let next = match (of.unsynced_since, of.retry_at) {
            _ if !of.tasks.is_empty() || of.compacting => Some(of.busy_until),
            (Some(since), _) => Some(of.busy_until.max(since + SPOOL_SYNC_LAG_MS * MILLI)),
            (None, Some(at)) => Some(of.busy_until.max(at)),
            (None, None) if !of.prepared => Some(of.busy_until + 20 * MILLI),
            (None, None) => None,
        };
        if of.failing {
            self.oracle.trouble(time, time + 2 * SECOND);
        }
        if let Some(next) = next {
            self.at(next, Event::SpoolTurn(life, number));
        }
        if self.faults.dies_of_fault(number, &self.spools[&number].disk) {
            let delay = self.random.skewed(2 * MILLI, 60 * MILLI);
            self.after(delay, Event::Crash(life));
        }
        if self.faults.disk_has_stopped(number, &self.spools[&number].disk) {
            self.report.count("crash at", "a disk operation");
            self.doomed = true;
            return;
        }
        if !out.is_empty() {
            let core = usize::from(number) % self.cores.len();
            self.on_core(core, lasts, Happening::Spool(number, out));
        }
        self.pass(Spot::SpoolWritten);
    }

    /// Reads a body back, as the reader's thread does.
    pub fn request_body(&mut self, conn: u64, core: usize, delivery: &Delivery) {
        let location = delivery.location;
        let length = location.length as usize;
        let mut octets = vec![0; length + TRAILER_BYTES];
        let disk = &self.spools[&location.spool].disk;
        let read = disk
            .open(&segment_name(location.segment))
            .and_then(|file| disk.read_exact_at(&file, location.offset, &mut octets));
        let id = delivery.envelope.id();
        let answer = match read {
            Err(error) if error.kind() == io::ErrorKind::NotFound => BodyAnswer::Gone,
            Ok(()) if trailer_matches(&octets[length..], id, &octets[..length]) => {
                octets.truncate(length);
                BodyAnswer::Body(Body::from(octets))
            }
            Ok(()) | Err(_) => BodyAnswer::Damaged,
        };
        let what = match answer {
            BodyAnswer::Body(_) => "body read back",
            BodyAnswer::Gone => "body not where it was",
            BodyAnswer::Damaged => "body damaged",
        };
        self.report.count("spool", what);
        let delay = self.random.skewed(20, 5 * MILLI);
        self.on_core(core, delay, Happening::Body(conn, delivery.token, answer));
    }

    pub fn append_record(&mut self, core: usize, number: u64, outcome: Outcome) {
        let time = self.time;
        self.oracle.recorded(&outcome, time);
        self.tell(|| {
            format!("core {core} record {:?} {} {:?}", outcome.kind, outcome.envelope.sender(), outcome.recipient)
        });
        let log = &mut self.cores[core].log;
        log.pending.push(outcome);
        log.last = number;
        if log.sync_at.is_none() && !log.failing {
            let at = time + LOG_SYNC_LAG_MS * MILLI;
            log.sync_at = Some(at);
            self.at(at, Event::LogTurn(self.life, core));
        }
    }

    /// The log's thread syncs what is due, or tries again.
    pub fn log_turn(&mut self, core: usize) {
        let log = &mut self.cores[core].log;
        if log.faults > 0 {
            log.faults -= 1;
            let first = !std::mem::replace(&mut log.failing, true);
            self.oracle.trouble(self.time, self.time);
            self.after(LOG_RETRY_MS * MILLI, Event::LogTurn(self.life, core));
            if first {
                self.on_core(core, 10, Happening::Log(LogWord::Failing));
            }
            return;
        }
        let up_to = log.last;
        log.sync_at = None;
        let recovered = std::mem::take(&mut log.failing);
        for outcome in std::mem::take(&mut log.pending) {
            self.oracle.durable_record(&outcome, self.moment());
        }
        let lasts = self.random.skewed(20, self.plan.log_sync);
        if recovered {
            self.oracle.trouble(self.time, self.time);
            self.on_core(core, lasts, Happening::Log(LogWord::Working));
        }
        self.on_core(core, lasts, Happening::Log(LogWord::Synced(up_to)));
        self.pass(Spot::LogSynced);
    }

    pub fn complete_log(&mut self, core: usize, word: LogWord) {
        self.take_orders(core);
        match word {
            LogWord::Synced(up_to) => self.with_shard(core, |shard, now| shard.handle_log_synced(up_to, now)),
            LogWord::Failing => self.with_shard(core, |shard, now| shard.handle_log_failing(true, now)),
            LogWord::Working => self.with_shard(core, |shard, now| shard.handle_log_failing(false, now)),
        }
    }

    /// How long something is still under way at most when all works, microseconds: what a crash may repeat.
    pub const WINDOW: u64 = SECOND / 2;
}
