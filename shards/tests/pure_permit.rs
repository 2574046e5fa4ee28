//! Permits and tokens over several cores: a network of delayed messages between them, destinations that open and
//! close connections at random, and what must hold whatever happens. A failure names its seed.

use mailrace_shards::limits::{PERMIT_HELD_MIN_MS, PERMIT_PATIENCE_MS, RATE_BURST_MS, TOKEN_LAPSE_MS};
use mailrace_shards::message::CoreId;
use mailrace_shards::path::permit::{ToHolder, ToHome};
use mailrace_shards::path::{
    Combination, Counter, CounterKey, LimitTable, Limits, PermitEvent, PermitId, PermitMessage, PermitState, Permits,
    Tokens,
};
use mailrace_shards::settings::{LimitPer, LimitSettings, Rate};
use mailrace_shards::time::Instant;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

const MS: u64 = 1000;
/// Random worlds in one run.
const SEEDS: u64 = 25;

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }

    fn chance(&mut self, one_in: u64) -> bool {
        self.below(one_in) == 0
    }
}

/// Cores, and messages on their way: late, but in order between each two cores.
struct Net {
    cores: Vec<Permits>,
    links: BTreeMap<(usize, usize), VecDeque<(u64, PermitMessage)>>,
    random: Random,
    now: u64,
    delay: u64,
    /// What the home granted of each connection counter, and when.
    granted: HashMap<CounterKey, Vec<(u64, u32)>>,
    asked: HashMap<(usize, PermitId), Arc<Limits>>,
}

impl Net {
    fn new(cores: u16, seed: u64, delay: u64) -> Self {
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

    fn at(&self) -> Instant {
        Instant(self.now)
    }

    fn request(&mut self, core: usize, limits: &Arc<Limits>, held: u32) -> PermitId {
        let now = self.at();
        let permit = self.cores[core].request(limits, held, now).expect("few wait");
        self.asked.insert((core, permit), limits.clone());
        self.collect();
        permit
    }

    fn release(&mut self, core: usize, permit: PermitId) {
        let now = self.at();
        self.cores[core].release(permit, now);
        self.collect();
    }

    fn state(&self, core: usize, permit: PermitId) -> PermitState {
        self.cores[core].state(permit).expect("not released")
    }

    fn pass(&mut self, micros: u64) {
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

    fn collect(&mut self) {
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

    fn note_grant(&mut self, core: usize, permit: PermitId) {
        let limits = self.asked[&(core, permit)].clone();
        for counter in &limits.connections {
            self.granted.entry(counter.key).or_default().push((self.now, 1));
        }
    }

    fn events(&mut self, core: usize) -> Vec<PermitEvent> {
        std::iter::from_fn(|| self.cores[core].poll_event()).collect()
    }
}

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

fn entry(per: LimitPer) -> LimitSettings {
    LimitSettings {
        per,
        domain: None,
        site: None,
        source: None,
        pool: None,
        connections: None,
        connection_rate: None,
        message_rate: None,
        messages_per_connection: None,
        idle_timeout: None,
        tls: None,
        lanes: None,
    }
}

fn limits(entries: &[LimitSettings], version: u32, domain: &str, site: &str, source: &str) -> Arc<Limits> {
    Arc::new(LimitTable::new(entries, version).resolve(&Combination { domain, site, source, pool: Some("p") }))
}

fn random_entries(random: &mut Random) -> Vec<LimitSettings> {
    let all = [LimitPer::Path, LimitPer::Domain, LimitPer::Site, LimitPer::Source, LimitPer::Pool];
    let mut entries = Vec::new();
    for per in all {
        if random.chance(2) {
            continue;
        }
        let mut entry = entry(per);
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

#[test]
fn limits_hold_and_everybody_is_served() {
    for seed in 0..SEEDS {
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
}

#[test]
fn two_hundred_domains_share_two_connections_on_eight_cores() {
    let entries = [LimitSettings { connections: Some(2), ..entry(LimitPer::Path) }];
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

#[test]
fn equals_leave_each_other_alone_until_patience_ends() {
    let entries = [LimitSettings { connections: Some(2), ..entry(LimitPer::Path) }];
    let path = limits(&entries, 1, "d.test", "mx.test", "s");
    let mut net = Net::new(2, 1, 0);
    let permits = [0, 1].map(|core| (net.request(core, &path, 0), net.request(core, &path, 1)));
    // Core 0 was first and took both; core 1 has none and gets the second of core 0.
    for _ in 0..500 {
        net.pass(MS);
        if net.events(0).contains(&PermitEvent::Recalled(permits[0].1)) {
            net.release(0, permits[0].1);
        }
    }
    assert_eq!(net.state(0, permits[0].0), PermitState::Granted);
    assert_eq!(net.state(1, permits[1].0), PermitState::Granted);
    for _ in 0..PERMIT_PATIENCE_MS - 600 {
        net.pass(MS);
    }
    assert_eq!(net.state(0, permits[0].0), PermitState::Granted, "one each, and no quarrel");
    assert_eq!(net.state(1, permits[1].1), PermitState::Waiting);
    for _ in 0..200 {
        net.pass(MS);
    }
    assert_eq!(net.state(0, permits[0].0), PermitState::Recalled, "in the end it is served too");
}

#[test]
fn a_request_that_waits_for_one_counter_blocks_nobody_on_another() {
    let path = |site: &str, connections| LimitSettings {
        connections: Some(connections),
        site: Some(site.into()),
        ..entry(LimitPer::Path)
    };
    let source = LimitSettings { connections: Some(3), ..entry(LimitPer::Source) };
    let entries = [path("mx.a.test", 1), path("mx.b.test", 9), source];
    let (a, b) = (limits(&entries, 1, "a.test", "mx.a.test", "s"), limits(&entries, 1, "b.test", "mx.b.test", "s"));
    let mut net = Net::new(2, 1, 0);
    let first = net.request(1, &a, 0);
    net.pass(MS);
    let waits = net.request(1, &a, 1);
    net.pass(MS);
    let passes = net.request(0, &b, 0);
    net.pass(MS);
    assert_eq!(net.state(1, first), PermitState::Granted);
    assert_eq!(net.state(1, waits), PermitState::Waiting);
    assert_eq!(net.state(0, passes), PermitState::Granted);
}

/// One destination needs path and source; many others keep the source busy, others the path.
#[test]
fn a_request_under_two_busy_counters_is_not_overtaken_for_ever() {
    let path = LimitSettings { connections: Some(1), domain: Some("both.test".into()), ..entry(LimitPer::Domain) };
    let rate =
        |per, count| LimitSettings { message_rate: Some(Rate { count, period: Duration::from_secs(1) }), ..entry(per) };
    let entries = [path, rate(LimitPer::Site, 1), rate(LimitPer::Source, 1)];
    let both = limits(&entries, 1, "both.test", "mx.x.test", "s");
    let site_only = limits(&entries[1..2], 1, "a.test", "mx.x.test", "t");
    let source_only = limits(&entries[2..], 1, "b.test", "mx.y.test", "s");
    let mut net = Net::new(4, 1, 0);
    let mut taken = [0_u32; 4];
    for step in 0..60_000_u64 {
        net.pass(MS);
        for (core, limits) in [(1, &both), (2, &site_only), (3, &source_only)] {
            // The source's second begins half a second after the site's.
            let at = net.at();
            if (core != 3 || step > 500) && net.cores[core].take_token(limits, 5, at) == Tokens::Taken {
                taken[core] += 1;
            }
        }
        net.collect();
    }
    assert!(taken[1] >= 15, "{taken:?}");
    assert!(taken[2] >= 15 && taken[3] >= 15, "{taken:?}");
    assert!(taken[1] + taken[2] <= 62 && taken[1] + taken[3] <= 62, "{taken:?}");
}

#[test]
fn a_withdrawn_request_and_a_grant_may_cross() {
    let entries = [LimitSettings { connections: Some(1), ..entry(LimitPer::Path) }];
    let path = limits(&entries, 1, "d.test", "mx.test", "s");
    let mut net = Net::new(2, 1, 0);
    let crossed = net.request(1, &path, 0);
    let Some((_, message)) = net.links.get_mut(&(1, 0)).unwrap().pop_front() else { panic!("a request goes out") };
    assert!(matches!(message, PermitMessage::ToHome(ToHome::Connect { .. })));
    let now = net.at();
    net.cores[0].handle(CoreId(1), message, now);
    net.release(1, crossed);
    let next = net.request(0, &path, 0);
    assert_eq!(net.state(0, next), PermitState::Waiting);
    net.asked.insert((1, crossed), path.clone());
    net.pass(MS);
    net.pass(MS);
    assert_eq!(net.events(1), [], "a withdrawn request is not granted");
    assert_eq!(net.state(0, next), PermitState::Granted);
}

#[test]
fn a_lowered_limit_recalls_what_is_beyond_it() {
    let entries = |connections| [LimitSettings { connections: Some(connections), ..entry(LimitPer::Path) }];
    let before = limits(&entries(4), 1, "d.test", "mx.test", "s");
    let after = limits(&entries(1), 2, "d.test", "mx.test", "s");
    let mut net = Net::new(2, 1, 0);
    let permits: Vec<PermitId> = (0..4).map(|held| net.request(1, &before, held)).collect();
    net.pass(MS);
    net.pass(MS);
    let now = net.at();
    net.cores[1].changed(&after, now);
    net.collect();
    net.pass(MS);
    net.pass(MS);
    let recalled = |net: &Net| permits.iter().filter(|&&p| net.state(1, p) == PermitState::Recalled).count();
    assert_eq!(recalled(&net), 3);
    assert_eq!(net.state(1, permits[0]), PermitState::Granted);
    // The old limits, still on their way from another core, change nothing.
    let late = net.request(0, &before, 0);
    assert_eq!(net.state(0, late), PermitState::Waiting);
    for &permit in &permits[1..] {
        net.release(1, permit);
        net.pass(MS);
        assert_eq!(net.state(0, late), PermitState::Waiting);
    }
    net.release(1, permits[0]);
    net.pass(MS);
    assert_eq!(net.state(0, late), PermitState::Granted);
}

#[test]
fn what_no_limit_counts_needs_no_word_between_cores() {
    let free = limits(&[], 1, "d.test", "mx.test", "s");
    let own = limits(&[LimitSettings { connections: Some(1), ..entry(LimitPer::Domain) }], 1, "d.test", "mx.test", "s");
    let mut net = Net::new(2, 1, 0);
    let now = net.at();
    assert_eq!(net.cores[1].request(&free, 0, now), Some(PermitId::UNLIMITED));
    assert_eq!(net.cores[1].take_token(&free, 1, now), Tokens::Taken);
    let permit = net.cores[1].request(&own, 0, now).unwrap();
    assert_eq!(net.state(1, permit), PermitState::Granted, "at once");
    let second = net.cores[1].request(&own, 1, now).unwrap();
    assert_eq!(net.state(1, second), PermitState::Waiting);
    net.cores[1].release(permit, now);
    net.cores[1].release(PermitId::UNLIMITED, now);
    assert_eq!(net.state(1, second), PermitState::Granted);
    assert!(net.cores[1].poll_message().is_none());
}

#[test]
fn unused_tokens_lapse_and_go_to_others() {
    let rate = Rate { count: 1, period: Duration::from_secs(3600) };
    let entries = [LimitSettings { message_rate: Some(rate), ..entry(LimitPer::Site) }];
    let site = limits(&entries, 1, "d.test", "mx.test", "s");
    let mut net = Net::new(3, 1, 0);
    let now = net.at();
    assert_eq!(net.cores[1].take_token(&site, 1, now), Tokens::Wait(site.tokens));
    net.collect();
    net.pass(MS);
    net.pass(MS);
    assert_eq!(net.events(1), [PermitEvent::Tokens(site.tokens)]);
    let now = net.at();
    assert_eq!(net.cores[2].take_token(&site, 1, now), Tokens::Wait(site.tokens));
    net.collect();
    for _ in 0..TOKEN_LAPSE_MS - 5 {
        net.pass(MS);
    }
    assert_eq!(net.events(2), [], "the token is core 1's until it lapses");
    for _ in 0..10 {
        net.pass(MS);
    }
    let now = net.at();
    assert_eq!(net.cores[1].take_token(&site, 1, now), Tokens::Wait(site.tokens), "a lapsed token is not used");
    assert_eq!(net.events(2), [PermitEvent::Tokens(site.tokens)]);
    assert_eq!(net.cores[2].take_token(&site, 1, now), Tokens::Taken);
    net.cores[2].put_back_token(&site, now);
    net.cores[2].put_back_token(&site, now);
    assert_eq!(net.cores[2].take_token(&site, 1, now), Tokens::Taken, "what was not sent is not lost");
    assert_eq!(net.cores[2].take_token(&site, 1, now), Tokens::Wait(site.tokens), "and not doubled");
}

#[test]
fn a_fast_rate_is_reached() {
    let rate = Rate { count: 20_000, period: Duration::from_secs(1) };
    let entries = [LimitSettings { message_rate: Some(rate), ..entry(LimitPer::Site) }];
    let mut net = Net::new(4, 1, 500);
    let all: Vec<_> = (0..4).map(|n| limits(&entries, 1, &format!("d{n}.test"), "mx.test", "s")).collect();
    let mut taken = [0_u32; 4];
    for _ in 0..5000 {
        net.pass(MS);
        for core in 0..4 {
            let at = net.at();
            while net.cores[core].take_token(&all[core], 5000, at) == Tokens::Taken {
                taken[core] += 1;
            }
        }
        net.collect();
    }
    let sum: u32 = taken.iter().sum();
    assert!((97_000..=104_100).contains(&sum), "{taken:?}");
    assert!(taken.iter().all(|&count| count > sum / 8), "no core is left out: {taken:?}");
}
