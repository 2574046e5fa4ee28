//! A network of cores for the tests of permits: it carries their messages late, but in order between each two, and
//! notes what the home granted.

#![allow(dead_code, missing_docs)] // Each test file uses its part of it.

use mailrace_shards::message::CoreId;
use mailrace_shards::path::permit::ToHolder;
use mailrace_shards::path::{
    Combination, CounterKey, LimitTable, Limits, PermitEvent, PermitId, PermitMessage, PermitState, Permits,
};
use mailrace_shards::settings::LimitSettings;
use mailrace_shards::time::Instant;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

/// Microseconds in a millisecond.
pub const MS: u64 = 1000;

pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }

    pub fn chance(&mut self, one_in: u64) -> bool {
        self.below(one_in) == 0
    }
}

/// Cores, and messages on their way: late, but in order between each two cores.
pub struct Net {
    pub cores: Vec<Permits>,
    pub links: BTreeMap<(usize, usize), VecDeque<(u64, PermitMessage)>>,
    pub random: Random,
    pub now: u64,
    pub delay: u64,
    /// What the home granted of each connection counter, and when.
    pub granted: HashMap<CounterKey, Vec<(u64, u32)>>,
    pub asked: HashMap<(usize, PermitId), Arc<Limits>>,
}

impl Net {
    pub fn new(cores: u16, seed: u64, delay: u64) -> Self {
        Self {
            cores: (0..cores).map(|core| Permits::new(CoreId(core))).collect(),
            links: BTreeMap::new(),
            random: Random(seed),
            now: 1_000_000,
            delay,
            granted: HashMap::new(),
            asked: HashMap::new(),
        }
    }

    pub fn at(&self) -> Instant {
        Instant(self.now)
    }

    pub fn request(&mut self, core: usize, limits: &Arc<Limits>, held: u32) -> PermitId {
        let now = self.at();
        let permit = self.cores[core].request(limits, held, now).expect("few wait");
        self.asked.insert((core, permit), limits.clone());
        self.collect();
        permit
    }

    pub fn release(&mut self, core: usize, permit: PermitId) {
        let now = self.at();
        self.cores[core].release(permit, true, now);
        self.collect();
    }

    pub fn state(&self, core: usize, permit: PermitId) -> PermitState {
        self.cores[core].state(permit).expect("not released")
    }

    pub fn pass(&mut self, micros: u64) {
        self.now += micros;
        let now = self.at();
        for core in 0..self.cores.len() {
            if self.cores[core].next_deadline().is_some_and(|at| at <= now) {
                self.cores[core].handle_tick(now);
            }
        }
        self.collect();
        let pairs: Vec<(usize, usize)> = self.links.keys().copied().collect();
        for pair in pairs {
            while self.links[&pair].front().is_some_and(|&(due, _)| due <= self.now) {
                let (_, message) = self.links.get_mut(&pair).and_then(VecDeque::pop_front).expect("seen above");
                self.cores[pair.1].handle(CoreId(u16::try_from(pair.0).expect("few cores")), message, now);
                self.collect();
            }
        }
    }

    pub fn collect(&mut self) {
        for from in 0..self.cores.len() {
            while let Some((to, message)) = self.cores[from].poll_message() {
                let to = usize::from(to.0);
                assert_ne!(from, to, "a core carries its own messages itself");
                if let PermitMessage::ToHolder(ToHolder::Granted { permit }) = message {
                    self.note_grant(to, permit);
                }
                let last = self.links.entry((from, to)).or_default().back().map_or(0, |&(due, _)| due);
                let due = (self.now + self.random.below(self.delay + 1)).max(last);
                self.links.get_mut(&(from, to)).expect("made above").push_back((due, message));
            }
        }
    }

    pub fn note_grant(&mut self, core: usize, permit: PermitId) {
        let limits = self.asked[&(core, permit)].clone();
        for counter in &limits.connections {
            self.granted.entry(counter.key).or_default().push((self.now, 1));
        }
    }

    pub fn events(&mut self, core: usize) -> Vec<PermitEvent> {
        std::iter::from_fn(|| self.cores[core].poll_event()).collect()
    }
}

pub fn limits(entries: &[LimitSettings], version: u32, domain: &str, site: &str, source: &str) -> Arc<Limits> {
    Arc::new(LimitTable::new(entries, version).resolve(&Combination { domain, site, source, pool: Some("p") }))
}
