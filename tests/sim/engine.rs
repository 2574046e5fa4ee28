//! The engine's lives: how it starts on the disks that it finds, and how it dies.

use crate::control::RULE_KEY;
use crate::core::Core;
use crate::found::Found;
use crate::plan::{Death, SECOND};
use crate::storage::{Log, Spool};
use crate::world::{Event, Happening, World};
use mailrace_shards::message::CoreId;
use mailrace_shards::shard::{Shard, ShardConfig};
use mailrace_shards::spool::journal::JournalOptions;
use mailrace_shards::spool::memory_disk::{Fault, MemoryDisk, Survival};
use mailrace_shards::spool::recover;
use mailrace_shards::spool::report::SpoolCompletion;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

impl World {
    /// A life begins: recovers all spools, applies the stored rules, posts what was found. With a disk that fails it
    /// does not begin, and is tried again.
    pub fn start_engine(&mut self) {
        self.life += 1;
        self.born = self.time;
        let count = self.plan.cores;
        let Ok(()) = self.open_spools(count) else {
            self.report.fault("disk: fails at the start", "");
            for spool in self.spools.values_mut() {
                spool.disk = spool.disk.after_crash(Survival::Some(self.random.number()));
            }
            return self.after(SECOND, Event::Restart);
        };
        let mut settings = self.plan.settings.clone();
        settings.shards = count;
        let settings = Arc::new(settings);
        for core in 0..count {
            let mut shard = Shard::new(ShardConfig {
                core: CoreId(core as u16),
                cores: count,
                generation: self.life,
                rule_key: RULE_KEY,
                quarantine: Arc::default(),
                settings: settings.clone(),
            });
            shard.expect_found();
            self.cores.push(Core {
                shard,
                orders: VecDeque::new(),
                mail: VecDeque::new(),
                log: Log::default(),
                sessions: BTreeMap::new(),
                waiting: BTreeMap::new(),
                stalled_until: 0,
                stopping: false,
            });
        }
        self.oracle.engine_started(self.life, self.moment());
        self.forget_reload();
        // Rules before the mail that was recovered: none of it may be picked without them.
        self.publish_at_start();
        for core in 0..count {
            let offset = self.random.below(SECOND / 100);
            self.on_core(core, offset, Happening::Tick);
        }
        for spool in self.spools.keys().copied().collect::<Vec<u16>>() {
            self.after(0, Event::SpoolTurn(self.life, spool));
            let delay = self.random.skewed(1, SECOND / 2);
            self.after(delay, Event::Search(self.life, spool));
        }
        self.plan_death();
    }

    /// One for each core, and those of cores that ran before.
    fn open_spools(&mut self, cores: usize) -> Result<(), ()> {
        for core in 0..cores as u16 {
            self.spools.entry(core).or_insert_with(|| Spool::new(MemoryDisk::new(), None, Found::Posted));
        }
        let numbers: Vec<u16> = self.spools.keys().copied().collect();
        for number in numbers {
            let disk = self.spools[&number].disk.clone();
            let options = JournalOptions {
                segment_bytes: self.plan.segment_bytes,
                slack_bytes: self.plan.segment_bytes / 2,
                pending_ends: 3,
                ..JournalOptions::new(true, self.random.number())
            };
            let Ok((journal, older)) = recover::begin(disk.clone(), number, options) else { return Err(()) };
            if self.faults.disk_has_stopped(number, &disk) {
                return Err(());
            }
            self.spools.insert(number, Spool::new(disk, Some(journal), Found::Older(older)));
        }
        Ok(())
    }

    fn plan_death(&mut self) {
        if self.faults.over {
            return;
        }
        match self.plan.deaths.pop() {
            Some(Death::At(after)) => {
                let life = self.life;
                self.after(after, Event::Crash(life));
            }
            Some(Death::Stop(after)) => {
                let life = self.life;
                self.after(after, Event::Stop(life));
            }
            Some(Death::Spot(spot, count)) => self.faults.die_at(spot, count),
            Some(Death::Disk(after)) => {
                let number = *self.random.pick(&self.spools.keys().copied().collect::<Vec<u16>>());
                let disk = &self.spools[&number].disk;
                let operation = disk.operations() + after;
                disk.fail_at(operation, Fault::Crash);
                self.faults.disk_stops(number, operation);
            }
            None => {}
        }
    }

    /// The machine or the process stops now. What was synced stays, and a part of what was not.
    pub fn crash(&mut self) {
        self.note_states("crash");
        // Of the log, a part of what was written and not synced survives.
        for core in 0..self.cores.len() {
            let pending = std::mem::take(&mut self.cores[core].log.pending);
            let kept = self.random.below(pending.len() as u64 + 1) as usize;
            for outcome in &pending[..kept] {
                self.oracle.durable_record(outcome, self.moment());
            }
        }
        self.end_life(false);
        let survival = match self.random.below(4) {
            0 => Survival::Nothing,
            1 => Survival::Everything,
            _ => Survival::Some(self.random.number()),
        };
        for spool in self.spools.values_mut() {
            spool.disk = spool.disk.after_crash(survival);
            spool.journal = None;
        }
        self.faults.forget_death();
        self.damage_disks();
    }

    /// Nothing of the running engine is left but its disks; it will start again.
    fn end_life(&mut self, clean: bool) {
        self.oracle.ended(self.moment(), clean);
        self.cores.clear();
        self.stop_by = None;
        // Nothing that was on its way within the engine arrives any more.
        self.life += 1;
        let open: Vec<u64> = self.carriers.keys().chain(self.injections.keys()).copied().collect();
        for conn in open {
            self.close_by_core(conn);
            self.oracle.closed(conn, self.moment());
        }
        self.carriers.clear();
        self.injections.clear();
        self.plan.cores = self.random.between(1, 4) as usize;
        let down = self.random.skewed(SECOND / 100, 20 * SECOND);
        self.after(down, Event::Restart);
    }

    /// Somebody stops the engine in order.
    pub fn order_stop(&mut self) {
        self.note_states("stop");
        self.stop_by = Some(self.time + self.random.skewed(SECOND, 30 * SECOND));
        for core in 0..self.cores.len() {
            let delay = self.random.skewed(1, 5_000);
            self.on_core(core, delay, Happening::Stop);
        }
    }

    pub fn stop_core(&mut self, core: usize) {
        self.cores[core].stopping = true;
        self.with_shard(core, |shard, now| shard.handle_stop(now));
        let injecting: Vec<u64> = self.injections.iter().filter(|(_, of)| of.core == core).map(|(id, _)| *id).collect();
        for conn in injecting {
            self.shut_down_injection(conn);
        }
    }

    /// Ends the engine once no core has anything left to finish, or the time for that is over. What was handed over
    /// is written and synced.
    pub fn finish_stop(&mut self) {
        let settled = |core: &Core| {
            let shard = &core.shard;
            core.stopping
                && core.mail.is_empty()
                && shard.working_sessions() == 0
                && shard.storing() == 0
                && shard.log_settled()
        };
        let quiet = self.injections.is_empty() && self.cores.iter().all(settled);
        if !quiet && self.stop_by.is_some_and(|by| self.time < by) {
            return;
        }
        self.report.count("engine", if quiet { "stopped in order" } else { "stopped late" });
        for core in 0..self.cores.len() {
            for outcome in std::mem::take(&mut self.cores[core].log.pending) {
                self.oracle.durable_record(&outcome, self.moment());
            }
        }
        let mut clean = quiet;
        for (number, spool) in &mut self.spools {
            let Some(mut journal) = spool.journal.take() else { continue };
            let mut out = Vec::new();
            for task in std::mem::take(&mut spool.tasks) {
                task.give(&mut journal, &mut out);
            }
            let forgotten = journal.close(&mut out);
            let failed = out.iter().any(|completion| matches!(completion, SpoolCompletion::Failing { .. }));
            clean &= forgotten == 0 && !failed && !self.faults.disk_has_stopped(*number, &spool.disk);
            spool.disk = spool.disk.after_crash(Survival::Everything);
        }
        self.faults.forget_death();
        self.end_life(clean);
    }
}
