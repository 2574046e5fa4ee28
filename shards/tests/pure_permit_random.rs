//! Permits and tokens when destinations open and close connections at random on several cores: what must hold
//! whatever happens. A failure names its seed.

mod permit_net;

use mailrace_shards::limits::{PERMIT_HELD_MIN_MS, RATE_BURST_MS, TOKEN_LAPSE_MS};
use mailrace_shards::path::{Counter, CounterKey, Limits, PermitEvent, PermitId, PermitState, Tokens};
use mailrace_shards::settings::{LimitPer, LimitSettings, Rate};
use permit_net::{MS, Net, Random, limits};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// Random worlds in one run.
const SEEDS: u64 = 25;

/// Whether in every window no more than `rate × (window + late) + burst` happened.
fn keeps_rate(events: &[(u64, u32)], rate: Rate, late_ms: u64) -> bool {
    let per_micro = f64::from(rate.count) / rate.period.as_micros() as f64;
    let allowed = 1.0 + per_micro * (RATE_BURST_MS + late_ms) as f64 * 1000.0 + 1e-6;
    let (mut sum, mut least) = (0.0, f64::MAX);
    events.iter().all(|&(at, count)| {
        least = f64::min(least, sum - per_micro * at as f64);
        sum += f64::from(count);
        sum - per_micro * at as f64 - least <= allowed
    })
}

fn random_entries(random: &mut Random) -> Vec<LimitSettings> {
    let all = [LimitPer::Path, LimitPer::Domain, LimitPer::Site, LimitPer::Source, LimitPer::Pool];
    let mut entries = Vec::new();
    for per in all {
        if random.chance(2) {
            continue;
        }
        let mut entry = LimitSettings::new(per);
        entry.connections = (!random.chance(4)).then(|| 1 + random.below(6) as u32);
        let mut rate = |most: u64| Rate { count: 1 + random.below(most) as u32, period: Duration::from_millis(1000) };
        let rates = (rate(40), rate(300));
        entry.connection_rate = random.chance(3).then_some(rates.0);
        entry.message_rate = random.chance(2).then_some(rates.1);
        entry.domain = (random.chance(4)).then(|| "d1.test".into());
        entries.push(entry);
    }
    entries
}

struct Connection {
    permit: PermitId,
    asked: u64,
    opened: Option<u64>,
    closes: Option<u64>,
}

struct Destination {
    core: usize,
    limits: Arc<Limits>,
    most: usize,
    connections: Vec<Connection>,
}

/// Destinations that want connections all the time, and messages on them.
struct World {
    net: Net,
    destinations: Vec<Destination>,
    messages: HashMap<CounterKey, Vec<(u64, u32)>>,
    served: Vec<u32>,
    longest_wait: u64,
    wanting: bool,
    withdrawing: bool,
}

impl World {
    fn new(net: Net, destinations: Vec<Destination>) -> Self {
        let served = vec![0; destinations.len()];
        Self { net, destinations, messages: HashMap::new(), served, longest_wait: 0, wanting: true, withdrawing: false }
    }

    fn step(&mut self) {
        let micros = 500 + self.net.random.below(2500);
        self.net.pass(micros);
        for index in 0..self.destinations.len() {
            self.turn(index);
        }
        self.hear();
        self.check();
    }

    fn turn(&mut self, index: usize) {
        let now = self.net.now;
        let core = self.destinations[index].core;
        let held = self.destinations[index].connections.len();
        if self.wanting && held < self.destinations[index].most && self.net.random.chance(3) {
            let limits = self.destinations[index].limits.clone();
            let permit = self.net.request(core, &limits, held as u32);
            let at_once = permit == PermitId::UNLIMITED;
            self.served[index] += u32::from(at_once);
            let connection = Connection {
                permit,
                asked: now,
                opened: at_once.then_some(now),
                closes: at_once.then(|| now + self.net.random.below(400 * MS)),
            };
            self.destinations[index].connections.push(connection);
        }
        let mut left = Vec::new();
        for connection in std::mem::take(&mut self.destinations[index].connections) {
            let withdraws = self.withdrawing && connection.opened.is_none() && self.net.random.chance(400);
            if withdraws || connection.closes.is_some_and(|at| at <= now) {
                self.net.release(core, connection.permit);
            } else {
                left.push(connection);
            }
        }
        let sends = left.iter().any(|connection| connection.opened.is_some());
        self.destinations[index].connections = left;
        if sends && self.net.random.chance(2) {
            self.send(index);
        }
    }

    fn send(&mut self, index: usize) {
        let (core, limits) = (self.destinations[index].core, self.destinations[index].limits.clone());
        let ready = 1 + self.net.random.below(20) as u32;
        let at = self.net.at();
        if self.net.cores[core].take_token(&limits, ready, at) == Tokens::Taken {
            for counter in &limits.messages {
                self.messages.entry(counter.key).or_default().push((self.net.now, 1));
            }
        }
        self.net.collect();
    }

    fn hear(&mut self) {
        let now = self.net.now;
        for core in 0..self.net.cores.len() {
            for event in self.net.events(core) {
                let (PermitEvent::Granted(permit) | PermitEvent::Recalled(permit)) = event else { continue };
                let found = self.destinations.iter_mut().enumerate().find_map(|(index, destination)| {
                    let mut of_core = destination.connections.iter_mut().filter(|_| destination.core == core);
                    of_core.find(|connection| connection.permit == permit).map(|connection| (index, connection))
                });
                let Some((index, connection)) = found else { continue };
                let random = &mut self.net.random;
                if event == PermitEvent::Granted(permit) {
                    connection.opened = Some(now);
                    // Most would stay for ever if they were not recalled.
                    connection.closes = random.chance(4).then(|| now + random.below(400 * MS));
                    self.longest_wait = self.longest_wait.max(now - connection.asked);
                    self.served[index] += 1;
                    if core == 0 {
                        self.net.note_grant(core, permit);
                    }
                } else {
                    let held = now - connection.opened.expect("only open ones are recalled");
                    let late = self.net.delay + 3 * MS;
                    assert!(held + late >= PERMIT_HELD_MIN_MS * MS, "recalled after {held} µs");
                    connection.closes = Some(now + random.below(50 * MS));
                }
            }
        }
    }

    /// Never more connections than the limit of any counter.
    fn check(&self) {
        let mut open: HashMap<CounterKey, (u32, Counter)> = HashMap::new();
        for destination in &self.destinations {
            let count = destination.connections.iter().filter(|connection| connection.opened.is_some()).count() as u32;
            for counter in &destination.limits.connections {
                open.entry(counter.key).or_insert((0, *counter)).0 += count;
            }
        }
        for (count, counter) in open.values() {
            assert!(counter.connections.is_none_or(|limit| *count <= limit), "{count} open under {counter:?}");
        }
    }

    fn waiting(&self) -> usize {
        let all = self.destinations.iter().flat_map(|destination| &destination.connections);
        all.filter(|connection| connection.opened.is_none()).count()
    }

    fn rates_kept(&self) {
        for destination in &self.destinations {
            for counter in &destination.limits.connections {
                let (Some(rate), Some(events)) = (counter.rate, self.net.granted.get(&counter.key)) else { continue };
                assert!(keeps_rate(events, rate, 3), "connections of {counter:?}");
            }
            for counter in &destination.limits.messages {
                let (Some(rate), Some(events)) = (counter.rate, self.messages.get(&counter.key)) else { continue };
                assert!(keeps_rate(events, rate, TOKEN_LAPSE_MS), "messages of {counter:?}");
            }
        }
    }

    /// After everything was returned, each destination alone gets all that its limits allow.
    fn nothing_is_lost(&mut self) {
        for index in 0..self.destinations.len() {
            let (core, limits) = (self.destinations[index].core, self.destinations[index].limits.clone());
            let permits: Vec<PermitId> =
                (0..limits.core_connections.min(8)).map(|held| self.net.request(core, &limits, held)).collect();
            for _ in 0..2000 {
                self.net.pass(10 * MS);
                if permits.iter().all(|&permit| self.net.state(core, permit) != PermitState::Waiting) {
                    break;
                }
            }
            for permit in permits {
                assert_eq!(self.net.state(core, permit), PermitState::Granted, "{:?}", limits.connections);
                self.net.release(core, permit);
            }
            self.net.pass(20 * MS);
        }
    }
}

fn random_world(seed: u64) -> World {
    let mut random = Random(seed);
    let entries = random_entries(&mut random);
    let cores = 1 + random.below(5) as usize;
    let destinations = (0..12).map(|number: usize| {
        let domain = format!("d{number}.test");
        let site = format!("mx{}.test", random.below(3));
        let source = format!("s{}", random.below(3));
        let limits = limits(&entries, 1, &domain, &site, &source);
        Destination { core: number % cores, limits, most: 1 + random.below(4) as usize, connections: Vec::new() }
    });
    let destinations = destinations.collect();
    World::new(Net::new(cores as u16, seed, 5 * MS), destinations)
}

fn run(seed: u64) {
    let mut world = random_world(seed);
    for step in 0..6000 {
        world.withdrawing = step % 3000 > 1500;
        world.step();
    }
    world.wanting = false;
    world.withdrawing = false;
    for _ in 0..20_000 {
        world.step();
        if world.waiting() == 0 {
            break;
        }
    }
    assert_eq!(world.waiting(), 0, "seed {seed}: some wait for ever");
    assert!(world.served.iter().all(|&count| count > 0), "seed {seed}: {:?}", world.served);
    assert!(world.longest_wait < 40_000 * MS, "seed {seed}: {} µs", world.longest_wait);
    world.rates_kept();
    for index in 0..world.destinations.len() {
        let core = world.destinations[index].core;
        for connection in std::mem::take(&mut world.destinations[index].connections) {
            world.net.release(core, connection.permit);
        }
    }
    world.net.pass(50 * MS);
    world.nothing_is_lost();
}

#[test]
fn limits_hold_and_everybody_is_served() {
    (0..SEEDS).for_each(run);
}

/// A counter was full of claims when it was looked at, so there was nothing to recall; when the claims became
/// permits nobody looked again.
#[test]
fn who_waits_behind_claims_is_served_after_them() {
    run(5019);
}

#[test]
fn two_hundred_domains_share_two_connections_on_eight_cores() {
    let entries = [LimitSettings { connections: Some(2), ..LimitSettings::new(LimitPer::Path) }];
    let destinations = (0..200).map(|number: usize| Destination {
        core: number % 8,
        limits: limits(&entries, 1, &format!("d{number}.test"), "mx.shared.test", "s"),
        most: 3,
        connections: Vec::new(),
    });
    let mut world = World::new(Net::new(8, 1, 2 * MS), destinations.collect());
    let end = world.net.now + 60_000 * MS;
    while world.net.now < end {
        world.step();
    }
    let (least, most) = (world.served.iter().min().unwrap(), world.served.iter().max().unwrap());
    assert!(*least >= 1 && *most <= least + 3, "from {least} to {most} turns");
}
