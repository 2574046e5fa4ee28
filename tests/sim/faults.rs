//! What goes wrong beside the peers: disks, logs, stalled cores, and the moments at which the engine dies. Everything
//! stops when the active time is over; then the world is good, and all mail must get to its end.

use crate::plan::{Plan, SECOND, Spot};
use crate::world::{Event, World};
use mailrace_shards::spool::memory_disk::{Fault, MemoryDisk};
use std::collections::BTreeMap;
use std::io;

#[derive(Default)]
pub struct Faults {
    /// The world is good from now on.
    pub over: bool,
    kinds: Vec<Kind>,
    death: Option<(Spot, u32)>,
    /// Operation of a disk that fails, behind which the machine stops.
    fatal: Option<(u16, u64)>,
    /// Operation at which a disk stops.
    stops: BTreeMap<u16, u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Disk,
    Full,
    Room,
    Log,
    Stall,
}

impl Faults {
    pub fn new(plan: &Plan) -> Self {
        let mut kinds = Vec::new();
        let mut add = |kind, count: u64| kinds.extend((0..count).map(|_| kind));
        add(Kind::Disk, plan.disk_faults);
        add(Kind::Full, plan.full_disks);
        add(Kind::Log, plan.log_faults);
        add(Kind::Stall, plan.stalls);
        Self { kinds, ..Self::default() }
    }

    pub fn die_at(&mut self, spot: Spot, count: u32) {
        self.death = Some((spot, count));
    }

    pub fn disk_stops(&mut self, spool: u16, operation: u64) {
        self.stops.insert(spool, operation);
    }

    pub fn forget_death(&mut self) {
        self.death = None;
        self.fatal = None;
        self.stops.clear();
    }

    /// Whether this is the spot at which the engine dies.
    pub fn meets(&mut self, spot: Spot) -> bool {
        match &mut self.death {
            Some((at, left)) if *at == spot => {
                *left -= 1;
                if *left == 0 {
                    self.death = None;
                    return true;
                }
                false
            }
            _ => false,
        }
    }

    /// Whether a disk has just had the fault that the machine does not survive for long.
    pub fn dies_of_fault(&mut self, spool: u16, disk: &MemoryDisk) -> bool {
        let met = |(of, operation): &mut (u16, u64)| *of == spool && disk.operations() > *operation;
        self.fatal.take_if(met).is_some()
    }

    pub fn disk_has_stopped(&self, spool: u16, disk: &MemoryDisk) -> bool {
        self.stops.get(&spool).is_some_and(|operation| disk.operations() > *operation)
    }
}

impl World {
    pub fn schedule_the_plan(&mut self) {
        let calls = self.plan.rule_calls;
        self.control.plan(calls, &self.plan.settings);
        self.after(0, Event::Client);
        self.after(SECOND, Event::Watch);
        let first = self.random.below(self.plan.active / 2);
        self.after(first, Event::RuleCall);
        for _ in 0..self.plan.questions {
            let at = self.random.below(self.plan.active);
            self.after(at, Event::Question);
        }
        for _ in 0..self.faults.kinds.len() {
            let at = self.random.below(self.plan.active);
            self.after(at, Event::Fault);
        }
    }

    pub fn next_fault(&mut self) {
        let Some(kind) = self.faults.kinds.pop().filter(|_| !self.faults.over) else { return };
        if self.cores.is_empty() {
            return;
        }
        let spools: Vec<u16> = self.spools.keys().copied().collect();
        let spool = *self.random.pick(&spools);
        let core = self.random.below(self.cores.len() as u64) as usize;
        let disk = self.spools[&spool].disk.clone();
        self.oracle.trouble(self.time, self.time);
        match kind {
            Kind::Disk => {
                let torn = self.random.permille(500);
                let fault = if torn { Fault::Torn } else { Fault::Error(io::ErrorKind::Other) };
                let first = disk.operations() + self.random.below(4);
                for next in 0..self.random.between(1, 3) {
                    disk.fail_at(first + next, fault);
                }
                self.note_states(if torn { "disk: torn write" } else { "disk: error" });
                if self.random.permille(400) {
                    // A disk that fails and a machine that stops soon after often come together.
                    self.faults.fatal = Some((spool, first));
                }
            }
            Kind::Full => {
                disk.set_free(self.random.below(6_000));
                self.note_states("disk: full");
                self.faults.kinds.push(Kind::Room);
                let until = self.random.between(SECOND, 20 * SECOND);
                self.after(until, Event::Fault);
            }
            Kind::Room => self.spools.values().for_each(|spool| spool.disk.set_free(u64::MAX)),
            Kind::Log => {
                self.cores[core].log.faults = self.random.between(1, 4) as u32;
                self.note_states("log: fails");
            }
            Kind::Stall => {
                let stall = self.random.skewed(SECOND / 50, 5 * SECOND);
                self.cores[core].stalled_until = self.time + stall;
                self.oracle.trouble(self.time, self.time + stall);

                self.note_states("core: stall");
            }
        }
    }

    /// Octets of stored records change while the machine is off.
    pub fn damage_disks(&mut self) {
        if self.plan.damages == 0 || self.faults.over {
            return;
        }
        self.plan.damages -= 1;
        let spools: Vec<u16> = self.spools.keys().copied().collect();
        let spool = *self.random.pick(&spools);
        let disk = &self.spools[&spool].disk;
        let names = mailrace_shards::spool::disk::Disk::list(disk).expect("a directory can be listed");
        let segments: Vec<&String> =
            names.iter().filter(|name| disk.content(name).is_some_and(|c| c.len() > 64)).collect();
        if segments.is_empty() {
            return;
        }
        let name = *self.random.pick(&segments);
        let mut octets = disk.content(name).expect("it was listed");
        let at = 40 + self.random.below(octets.len() as u64 - 40) as usize;
        octets[at] ^= 1 << self.random.below(8);
        disk.put(name, &octets);
        self.oracle.disk_was_damaged(spool);
        self.note_states("disk: damaged record");
    }

    /// Nothing goes wrong any more.
    pub fn make_good(&mut self) {
        self.faults.over = true;
        // A disk that is about to stop still does.
        self.faults.death = None;
        for spool in self.spools.values() {
            spool.disk.set_free(u64::MAX);
        }
        for core in &mut self.cores {
            core.log.faults = 0;
        }
        self.after(0, Event::RuleCall);
    }

    /// Counts in which states messages are that a fault meets.
    pub fn note_states(&mut self, fault: &str) {
        if fault != "rule acknowledged" {
            self.report.fault(fault, "");
        }
        for (state, count) in self.oracle.states(self.time) {
            self.report.met(fault, state, count);
        }
    }
}
