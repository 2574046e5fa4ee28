//! Whatever happens, mail that may go goes: random operations, then quiet, then everything must be through.

use crate::world::{Behaviour, World, own, peer, reply, seconds, settings, site};
use mailrace_shards::message::Extras;
use mailrace_shards::outcome::{RecordType, Verb};
use mailrace_shards::rules::{Answer, Change, Kind, Rule, Scope, Validity};
use mailrace_shards::settings::{LimitPer, LimitSettings, PoolSettings, Rate, Settings, SourceSettings};
use mailrace_shards::smtp::classify::{DnsFailure, FailureKind};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// SplitMix64: a failure is a seed.
struct Dice(u64);

impl Dice {
    fn throw(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = self.0;
        value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((value ^ (value >> 31)) % sides as u64).unwrap()
    }

    fn one_in(&mut self, sides: usize) -> bool {
        self.throw(sides) == 0
    }
}

const DOMAINS: usize = 100;
const SITES: usize = 4;

fn domain(number: usize) -> String {
    format!("d{number}.test")
}

fn host(site: usize, number: usize) -> std::net::SocketAddr {
    peer(u8::try_from(1 + site * 2 + number).unwrap())
}

fn random_settings(dice: &mut Dice) -> Settings {
    let source = |number: u8| SourceSettings {
        name: format!("ip-{number}").into(),
        address: Some([192, 0, 2, number].into()),
        address_v6: None,
        ehlo: "e".into(),
    };
    let pool = |name: &str, sources: &[(usize, u32)]| PoolSettings { name: name.into(), sources: sources.to_vec() };
    let pers = [LimitPer::Path, LimitPer::Domain, LimitPer::Site, LimitPer::Source, LimitPer::Pool];
    let limits = (0..dice.throw(3))
        .map(|_| LimitSettings {
            domain: dice.one_in(3).then(|| domain(dice.throw(DOMAINS)).into()),
            connections: dice.one_in(2).then(|| 1 + u32::try_from(dice.throw(4)).unwrap()),
            message_rate: dice.one_in(3).then(|| Rate { count: 50, period: seconds(1) }),
            connection_rate: dice.one_in(4).then(|| Rate { count: 10, period: seconds(1) }),
            messages_per_connection: dice.one_in(3).then(|| 1 + u32::try_from(dice.throw(5)).unwrap()),
            idle_timeout: dice.one_in(3).then(|| seconds(1)),
            ..LimitSettings::new(pers[dice.throw(pers.len())])
        })
        .collect();
    let mut settings = Settings { limits, ..settings() };
    settings.retry.max_age = seconds(1_000_000);
    if dice.one_in(2) {
        settings.sources = vec![source(10), source(11), source(12)];
        settings.pools = vec![pool("default", &[(0, 1), (1, 2)]), pool("other", &[(2, 1)])];
    }
    settings
}

fn behaviour(dice: &mut Dice) -> Behaviour {
    match dice.throw(9) {
        0 => Behaviour::Unreachable(own(FailureKind::ConnectRefused, Verb::Connect)),
        1 => Behaviour::Slow(own(FailureKind::ConnectTimedOut, Verb::Connect), seconds(3)),
        2 => Behaviour::Refuses(reply(450, Verb::RcptTo)),
        3 => Behaviour::Breaks(reply(421, Verb::MailFrom)),
        4 => Behaviour::Breaks(own(FailureKind::Lost, Verb::MailFrom)),
        5 => Behaviour::GivesBack,
        6 => Behaviour::Sluggish(Duration::from_millis(700)),
        _ => Behaviour::Works,
    }
}

fn random_rule(dice: &mut Dice, number: usize) -> Rule {
    let text = |wanted: bool, text: &str| wanted.then(|| Arc::from(text));
    let by_domain = dice.one_in(2);
    let scope = Scope {
        domain: text(by_domain, &domain(dice.throw(DOMAINS))),
        tag: text(!by_domain, ["x", "y"][dice.throw(2)]),
        ..Scope::default()
    };
    let answer = Answer::new(450, None, "later".into()).unwrap();
    let kind = if dice.one_in(4) { Kind::Error(answer) } else { Kind::Pause };
    Rule {
        id: format!("r{number}").into(),
        order: number as u64,
        kind,
        scope,
        validity: Validity::always(),
        by: "t".into(),
    }
}

fn random_message(dice: &mut Dice, world: &mut World, pools: bool) {
    let name = domain(dice.throw(DOMAINS));
    let mut extras = Extras::default();
    if dice.one_in(3) {
        extras.tags = vec![["x", "y", "z"][dice.throw(3)].into()];
    }
    if dice.one_in(4) {
        extras.campaign = Some(["c", "d"][dice.throw(2)].into());
    }
    if pools && dice.one_in(3) {
        extras.pool = Some("other".into());
    }
    extras.retries = vec![1, 3];
    let recipients: Vec<String> = (0..=dice.throw(3)).map(|at| format!("r{at}@{name}")).collect();
    let recipients: Vec<&str> = recipients.iter().map(String::as_str).collect();
    world.post_with(&recipients, extras);
}

fn resolve_all(world: &mut World) {
    for at in 0..DOMAINS {
        let of = at % SITES;
        let names = [format!("mx1.s{of}.test"), format!("mx2.s{of}.test")];
        let hosts = [(&*names[0], host(of, 0)), (&*names[1], host(of, 1))];
        world.dns.insert(domain(at), Ok(site(&hosts)));
    }
}

fn disturb(dice: &mut Dice, world: &mut World, pools: bool, rules: &mut Vec<usize>, next_rule: &mut usize) {
    let now = world.now;
    let core = dice.throw(world.shards.len());
    match dice.throw(20) {
        0..10 => (0..dice.throw(20)).for_each(|_| random_message(dice, world, pools)),
        10..13 => {
            world.hosts.insert(host(dice.throw(SITES), dice.throw(2)), behaviour(dice));
        }
        13 => {
            let failure = own(FailureKind::Dns(DnsFailure::Temporary), Verb::None);
            world.dns.insert(domain(dice.throw(DOMAINS)), Err(failure));
        }
        14 | 15 => {
            *next_rule += 1;
            rules.push(*next_rule);
            let rule = random_rule(dice, *next_rule);
            world.put(rule);
        }
        16 if !rules.is_empty() => {
            let rule = rules.swap_remove(dice.throw(rules.len()));
            world.change(&[Change::Remove(format!("r{rule}").into())]);
        }
        17 => {
            let failing = dice.one_in(2);
            world.ask(core, |shard| shard.handle_log_failing(failing, now));
        }
        18 => world.syncs = dice.one_in(2),
        _ => resolve_all(world),
    }
}

fn run(seed: u64) {
    let mut dice = Dice(seed);
    let settings = random_settings(&mut dice);
    let pools = !settings.pools.is_empty();
    let cores = 1 + dice.throw(3);
    let mut world = World::with_cores(settings, cores);
    world.tick_every = Duration::from_millis(50);
    world.ttl = Some(seconds(u64::try_from(dice.throw(30)).unwrap()));
    resolve_all(&mut world);
    let (mut rules, mut next_rule) = (Vec::new(), 0);
    for _ in 0..150 {
        disturb(&mut dice, &mut world, pools, &mut rules, &mut next_rule);
        let time = Duration::from_millis(dice.throw(500) as u64);
        world.run(time);
    }
    // Everything works again, and nothing new happens.
    world.hosts.clear();
    world.syncs = true;
    resolve_all(&mut world);
    let now = world.now;
    for core in 0..cores {
        world.ask(core, |shard| shard.handle_log_failing(false, now));
    }
    let changes: Vec<Change> = rules.iter().map(|rule| Change::Remove(format!("r{rule}").into())).collect();
    world.change(&changes);
    world.run(seconds(400));
    assert_eq!(world.states(), (0, 0, 0, 0), "seed {seed}: mail is left");
    let mut ends = HashMap::new();
    for record in world.records.iter().filter(|record| record.kind.ends()) {
        *ends.entry((record.envelope.id(), record.recipient)).or_insert(0) += 1;
        assert_eq!(record.kind, RecordType::Delivery, "seed {seed}: {record:?}");
    }
    assert!(ends.values().all(|count| *count == 1), "seed {seed}: a recipient ended twice");
    world.run(seconds(100));
    assert_eq!(world.shards.iter().map(|of| of.open_sessions()).sum::<usize>(), 0, "seed {seed}: sessions are left");
    assert!(world.open.is_empty(), "seed {seed}: connections are left");
}

#[test]
fn after_any_disturbance_all_mail_is_delivered() {
    if let Ok(text) = std::env::var("MAILRACE_PURE_SEED") {
        return run(text.parse().unwrap());
    }
    let count = std::env::var("MAILRACE_PURE_SEEDS").map_or(40, |text| text.parse().unwrap());
    (0..count).for_each(run);
}
