//! What one seed plays: how many cores, which hosts, limits and faults, how much mail. Each kind of fault is on in
//! some seeds and off in others, so that rare states are not always drowned by the same trouble.

#[path = "../../shards/tests/sample/mod.rs"]
mod sample;

use crate::random::Random;
use crate::sink::{Act, FAULTS, Manner};
use mailrace_shards::settings::{
    ConnectionSettings, LimitPer, LimitSettings, Network, PoolSettings, Rate, RetrySettings, RouteHost, RouteSettings,
    Settings, SmtpSettings, SourceSettings, SpoolSettings, TlsPolicy,
};
use mailrace_shards::time::Timestamp;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

/// Where clients come from.
pub const CLIENT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 1)), 40_000);
/// Wall clock at the beginning, milliseconds.
pub const EPOCH_MILLIS: i64 = 1_700_000_000_000;
pub const SECOND: u64 = 1_000_000;

/// The wall clock, so many microseconds after the beginning.
pub fn utc_at(time: u64) -> Timestamp {
    Timestamp(EPOCH_MILLIS + (time / 1000) as i64)
}

/// Longer than any run, so that mail that got stuck is not hidden by its expiry.
pub const MAX_AGE: Duration = Duration::from_secs(4 * 3600);

/// A moment at which the engine dies, at the n-th time that it comes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Spot {
    /// An acknowledgement went onto the wire.
    Acknowledged,
    /// A message was handed to a session.
    HandedOver,
    /// An end-of-data was passed to the network.
    EndOfData,
    /// The good answer to it was read.
    Answered,
    /// Records were synced.
    LogSynced,
    /// The spool has written a group.
    SpoolWritten,
    /// A core has applied a rule.
    RuleApplied,
}

pub const SPOTS: [Spot; 7] = [
    Spot::Acknowledged,
    Spot::HandedOver,
    Spot::EndOfData,
    Spot::Answered,
    Spot::LogSynced,
    Spot::SpoolWritten,
    Spot::RuleApplied,
];

/// What ends a life of the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    /// At a time after the start, microseconds.
    At(u64),
    /// When the n-th event of this kind comes by.
    Spot(Spot, u32),
    /// In the n-th operation of one of its disks.
    Disk(u64),
    /// It is told to stop at a time after the start.
    Stop(u64),
}

/// One host that takes mail.
#[derive(Clone, Debug)]
pub struct HostPlan {
    pub address: SocketAddr,
    pub manner: Manner,
    /// In a thousand connections.
    pub refuses: u64,
    pub latency: u64,
    /// Octets that may travel towards it, and of one write.
    pub room: usize,
    pub write_max: usize,
}

/// A recipient domain.
#[derive(Clone, Debug)]
pub struct DomainPlan {
    pub name: String,
    /// Its MX hosts, by index.
    pub hosts: Vec<usize>,
}

/// All of it.
#[derive(Debug)]
pub struct Plan {
    pub cores: usize,
    pub settings: Settings,
    pub hosts: Vec<HostPlan>,
    pub domains: Vec<DomainPlan>,
    /// How long mail comes and things go wrong, microseconds.
    pub active: u64,
    pub letters: usize,
    /// Messages of one connection at most.
    pub letters_a_connection: u64,
    /// In a thousand clients, those that leave early.
    pub leaving_clients: u64,
    /// Rule calls while it is active.
    pub rule_calls: u64,
    /// Questions and commands about queued mail.
    pub questions: u64,
    /// Reloads of the configuration, messages by HTTP, imports of suppressions.
    pub reloads: u64,
    pub submissions: u64,
    pub imports: u64,
    pub deaths: Vec<Death>,
    /// Faults of the spools' disks, of the log, and stalls of cores, while it is active.
    pub disk_faults: u64,
    pub full_disks: u64,
    pub log_faults: u64,
    /// A sync of the log takes up to so long, microseconds.
    pub log_sync: u64,
    pub stalls: u64,
    /// Records damaged on a disk, at a restart.
    pub damages: u64,
    /// In a thousand look-ups that fail for now.
    pub dns_faults: u64,
    /// How long an answer is good at most, microseconds.
    pub dns_answers: u64,
    /// How often a domain's mail is to go to the hosts of another from then on.
    pub moves: u64,
    /// Sets of hosts between which domains move: a host is in one alone, so that it tells the site.
    pub groups: Vec<Vec<usize>>,
    pub segment_bytes: u64,
    /// In a thousand stored messages, those whose body stays in memory.
    pub bodies_kept: u64,
}

impl Plan {
    pub fn new(random: &mut Random) -> Self {
        let cores = random.between(1, 4) as usize;
        let hosts = hosts(random);
        let domains = domains(&hosts, random);
        let mut groups: Vec<Vec<usize>> = domains.iter().map(|domain| domain.hosts.clone()).collect();
        groups.dedup();
        let active = random.between(5, 60) * SECOND;
        let some =
            |random: &mut Random, chance, most| if random.permille(chance) { random.between(1, most) } else { 0 };
        let crashes = some(random, 600, 4);
        let deaths = (0..crashes).map(|_| death(active / (crashes + 1), random)).collect();
        Self {
            cores,
            settings: settings(&domains, &hosts, random),
            hosts,
            domains,
            active,
            letters: random.between(5, 50) as usize,
            letters_a_connection: *random.pick(&[1, 3, 10]),
            leaving_clients: *random.pick(&[0, 0, 100, 300]),
            rule_calls: some(random, 600, 25),
            questions: some(random, 300, 20),
            reloads: some(random, 500, 6),
            submissions: some(random, 400, 15),
            imports: some(random, 200, 3),
            deaths,
            disk_faults: some(random, 300, 6),
            full_disks: some(random, 100, 2),
            log_faults: some(random, 200, 3),
            log_sync: *random.pick(&[8_000, 8_000, 200_000]),
            stalls: some(random, 300, 6),
            damages: some(random, 100, 2),
            dns_faults: *random.pick(&[0, 0, 50, 300]),
            dns_answers: *random.pick(&[3_600, 3_600, 20, 4, 1]) * SECOND,
            moves: some(random, 400, 10),
            groups,
            segment_bytes: *random.pick(&[3_000, 20_000, 200_000]),
            bodies_kept: *random.pick(&[0, 500, 1000, 1000]),
        }
    }
}

fn death(within: u64, random: &mut Random) -> Death {
    match random.below(5) {
        4 => Death::Stop(random.below(within)),
        0 => Death::At(random.below(within)),
        1 => Death::Disk(random.between(1, 120)),
        _ => Death::Spot(*random.pick(&SPOTS), random.skewed(1, 40) as u32),
    }
}

fn hosts(random: &mut Random) -> Vec<HostPlan> {
    let trouble = *random.pick(&[0, 0, 20, 60, 150, 400]);
    let tls = *random.pick(&[0, 0, 500, 1000]);
    let host = |number: u64, random: &mut Random| HostPlan {
        address: SocketAddr::from(([198, 51, 100, number as u8], 25)),
        manner: Manner {
            pipelining: random.permille(700),
            chunking: random.permille(400),
            starttls: tls == 1000 || random.permille(tls),
            faults: if random.permille(700) { trouble } else { 0 },
            known: known(random),
            slow: random.skewed(SECOND / 100, 20 * SECOND),
        },
        refuses: *random.pick(&[0, 0, 0, 100, 600]),
        latency: random.skewed(50, 100_000),
        room: *random.pick(&[200, 2_000, 64 << 10, 1 << 20]),
        write_max: *random.pick(&[1 << 20, 1 << 20, 1000, 100]),
    };
    let count = random.between(1, 6);
    (1..=count).map(|number| host(number, random)).collect()
}

fn known(random: &mut Random) -> Vec<Act> {
    let some: Vec<Act> = FAULTS.into_iter().filter(|_| random.permille(400)).collect();
    if some.is_empty() { vec![Act::Later] } else { some }
}

fn domains(hosts: &[HostPlan], random: &mut Random) -> Vec<DomainPlan> {
    let mut domains = Vec::new();
    // Disjoint sets of hosts, each for one or more domains, so that a host tells the site.
    let mut next = 0;
    while next < hosts.len() {
        let end = (next + random.between(1, 2) as usize).min(hosts.len());
        for _ in 0..random.between(1, 3) {
            domains.push(DomainPlan { name: format!("d{}.test", domains.len()), hosts: (next..end).collect() });
        }
        next = end;
    }
    domains
}

fn settings(domains: &[DomainPlan], hosts: &[HostPlan], random: &mut Random) -> Settings {
    let source = |number: u8| SourceSettings {
        name: format!("s{number}").into(),
        address: Some(Ipv4Addr::new(192, 0, 2, number)),
        address_v6: None,
        ehlo: "out.sim.test".into(),
    };
    let sources: Vec<SourceSettings> = (1..=random.below(4) as u8).map(source).collect();
    let mut pools = Vec::new();
    if !sources.is_empty() {
        pools.push(PoolSettings { name: "p0".into(), sources: vec![(0, 1)] });
        pools.push(PoolSettings { name: "p1".into(), sources: (0..sources.len()).map(|at| (at, 1)).collect() });
    }
    let mut limits = draw_limits(domains, &sources, hosts.iter().all(|host| host.manner.starttls), random);
    if random.permille(250) {
        let domain = random.permille(500).then(|| random.pick(domains).name.as_str().into());
        let lanes = Some(random.between(2, 3) as u16);
        limits.push(LimitSettings { lanes, domain, ..LimitSettings::new(LimitPer::Pool) });
    }
    let settings = sample::settings();
    let relay_from = vec![Network { address: CLIENT.ip(), prefix: 32 }];
    Settings {
        hostname: "in.sim.test".into(),
        connections: ConnectionSettings { injecting: 1000, delivering: *random.pick(&[1000, 1000, 12, 4, 1]) },
        smtp: SmtpSettings { trust_headers_from: relay_from.clone(), relay_from, ..settings.smtp },
        spool: SpoolSettings { min_free_bytes: 4_000, ..settings.spool },
        sources,
        pools,
        routes: draw_routes(domains, hosts, random),
        limits,
        retry: RetrySettings {
            intervals: vec![Duration::from_secs(3), Duration::from_secs(10), Duration::from_secs(60)],
            max_age: MAX_AGE,
        },
        ..settings
    }
}

/// One of each kind, so that none replaces another. TLS is only asked for where all hosts offer it.
pub fn draw_limits(
    domains: &[DomainPlan],
    sources: &[SourceSettings],
    all_tls: bool,
    random: &mut Random,
) -> Vec<LimitSettings> {
    let mut limits: Vec<LimitSettings> = (0..random.below(4)).map(|_| limit(domains, sources, random)).collect();
    limits.sort_by_key(|limit| limit.per);
    limits.dedup_by_key(|limit| limit.per);
    for limit in &mut limits {
        let required = all_tls && random.permille(300);
        limit.tls = required.then_some(TlsPolicy::Required);
    }
    limits
}

/// Mostly none; else one domain's mail goes to the hosts of another.
pub fn draw_routes(domains: &[DomainPlan], hosts: &[HostPlan], random: &mut Random) -> Vec<RouteSettings> {
    if !random.permille(200) {
        return Vec::new();
    }
    let domain = Some(random.pick(domains).name.as_str().into());
    let to_host =
        |at: &usize| RouteHost { host: hosts[*at].address.ip().to_string().into(), port: hosts[*at].address.port() };
    vec![RouteSettings { domain, hosts: random.pick(domains).hosts.iter().map(to_host).collect() }]
}

fn limit(domains: &[DomainPlan], sources: &[SourceSettings], random: &mut Random) -> LimitSettings {
    let per = *random.pick(&[LimitPer::Path, LimitPer::Domain, LimitPer::Site, LimitPer::Source]);
    let mut limit = LimitSettings::new(per);
    if random.permille(300) {
        limit.domain = Some(random.pick(domains).name.as_str().into());
    } else if random.permille(200) && !sources.is_empty() {
        limit.source = Some(random.pick(sources).name.clone());
    }
    let rate = |random: &mut Random| {
        Some(Rate { count: random.between(1, 20) as u32, period: Duration::from_secs(random.between(1, 3)) })
    };
    match random.below(5) {
        0 | 1 => limit.connections = Some(random.between(1, 3) as u32),
        2 => limit.message_rate = rate(random),
        3 => limit.connection_rate = rate(random),
        _ => limit.messages_per_connection = Some(random.between(1, 4) as u32),
    }
    limit
}
