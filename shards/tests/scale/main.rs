//! Sixty-four cores: how evenly mail and mailboxes are loaded, and how many letters between cores a message costs.
//! Counted with the real brains in a simulated world, hence the same on every machine and in every run.
//!
//! `MAILRACE_SCALE_MESSAGES=1000000 cargo test --release -p mailrace-shards --test scale -- --nocapture` prints the figures at
//! that size; as a test it is small.

#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]
#![allow(clippy::cast_precision_loss, reason = "figures for people")]

#[allow(dead_code, reason = "the world of one brain uses more of it")]
#[path = "../pure_shard/given.rs"]
mod given;
mod world;

use mailrace_shards::settings::{LimitPer, LimitSettings};
use std::time::Duration;
use world::{Letters, Load, World, name};

const CORES: usize = 64;
/// Messages of one injecting connection, which the kernel gives to a core by its hash.
const EACH_CONNECTION: u64 = 50;
/// Between two messages that come to the engine: nearly 10,000 a second for each core.
const GAP: Duration = Duration::from_nanos(1_600);
/// Domains that mail goes to.
const DOMAINS: u32 = 20_000;

fn messages() -> u64 {
    std::env::var("MAILRACE_SCALE_MESSAGES").map_or(6_000, |count| count.parse().unwrap())
}

/// SplitMix64 of a number.
fn mix(number: u64) -> u64 {
    let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// Destinations as mail has them: the second gets half as much as the first, the third a third.
struct Zipf(Vec<f64>);

impl Zipf {
    fn new(domains: u32) -> Self {
        let mut sum = 0.0;
        let weights = (1..=domains).map(|rank| {
            sum += 1.0 / f64::from(rank);
            sum
        });
        Self(weights.collect())
    }

    fn pick(&self, number: u64) -> u32 {
        let whole = self.0.last().unwrap();
        let at = mix(number) as f64 / u64::MAX as f64 * whole;
        u32::try_from(self.0.partition_point(|sum| *sum < at)).unwrap().min(DOMAINS - 1)
    }
}

/// What a run showed.
struct Shown {
    loads: Vec<Load>,
    letters: Letters,
    messages: f64,
}

impl Shown {
    /// The most of any core over the mean of all.
    fn uneven(&self, of: impl Fn(&Load) -> u64) -> f64 {
        let most = self.loads.iter().map(&of).max().unwrap();
        let sum: u64 = self.loads.iter().map(&of).sum();
        most as f64 * self.loads.len() as f64 / sum as f64
    }

    fn print(&self, title: &str) {
        let each = |count: u64| count as f64 / self.messages;
        let letters = self.letters;
        println!(
            "{title}: most over mean: accepted {:.2}, delivered {:.2}, letters in {:.2}; letters a message: {:.3} posts, \
             {:.3} progress, {:.3} permits, {:.3} that stayed; {:.2} letters a batch; deepest mailbox {}",
            self.uneven(|load| load.accepted),
            self.uneven(|load| load.delivered),
            self.uneven(|load| load.letters_in),
            each(letters.posts),
            each(letters.progress),
            each(letters.permits),
            each(letters.local),
            (letters.posts + letters.progress + letters.permits) as f64 / letters.batches as f64,
            self.loads.iter().map(|load| load.deepest).max().unwrap(),
        );
    }
}

/// Plays all messages; each goes where `domain` says, and the mail hosts are `hosts` many.
fn play(title: &str, hosts: u32, limits: Vec<LimitSettings>, domain: impl Fn(u64) -> u32) -> Shown {
    let messages = messages();
    let mut world = World::new(CORES, hosts, limits);
    for number in 0..messages {
        let core = usize::try_from(mix(number / EACH_CONNECTION) % CORES as u64).unwrap();
        world.arrives(core, domain(number), GAP * u32::try_from(number).unwrap());
    }
    world.run(messages, Duration::from_secs(3_600));
    let shown = Shown { loads: world.loads, letters: world.letters, messages: messages as f64 };
    shown.print(title);
    let sum = |of: fn(&Load) -> u64| shown.loads.iter().map(of).sum::<u64>();
    assert_eq!((sum(|load| load.accepted), sum(|load| load.delivered)), (messages, messages));
    // A message goes to its owner at most once, and what became of it comes back at most once, whatever the spread.
    assert!(shown.letters.posts <= messages && shown.letters.progress <= messages, "{:?}", shown.letters);
    assert_eq!(shown.letters.moved, 0, "nothing was compacted");
    shown
}

#[test]
fn many_domains_load_all_cores_alike() {
    let shown = play("uniform", DOMAINS, Vec::new(), |number| u32::try_from(mix(number) % u64::from(DOMAINS)).unwrap());
    assert!(shown.uneven(|load| load.delivered) < 1.5, "{:?}", shown.loads);
    assert_eq!(shown.letters.permits, 0, "a site of one core asks nobody");
    // All but one in 64 change the core, each way.
    assert!((shown.letters.posts as f64 / shown.messages - 63.0 / 64.0).abs() < 0.01, "{:?}", shown.letters);
}

#[test]
fn a_few_large_domains_load_one_core_unless_they_have_lanes() {
    let zipf = Zipf::new(DOMAINS);
    let alone = play("Zipf", DOMAINS, Vec::new(), |number| zipf.pick(number));
    // The first domain has a tenth of all mail, hence more than six cores' share.
    assert!(alone.uneven(|load| load.delivered) > 3.0, "{:?}", alone.loads);
    let lanes = |rank: u32| LimitSettings {
        domain: Some(name(rank).into()),
        lanes: Some(CORES as u16),
        ..LimitSettings::new(LimitPer::Domain)
    };
    let spread =
        play("Zipf, the first 32 on 64 lanes", DOMAINS, (0..32).map(lanes).collect(), |number| zipf.pick(number));
    assert!(spread.uneven(|load| load.delivered) < 2.2, "{:?}", spread.loads);
}

#[test]
fn a_limit_across_cores_costs_few_letters() {
    let limits = vec![LimitSettings { connections: Some(200), ..LimitSettings::new(LimitPer::Site) }];
    let shown = play("uniform, 8 sites with 200 connections each", 8, limits, |number| {
        u32::try_from(mix(number) % u64::from(DOMAINS)).unwrap()
    });
    assert!(shown.letters.permits > 0, "sites of many cores have a home core that grants connections");
    assert!(shown.letters.permits as f64 / shown.messages < 2.0, "{:?}", shown.letters);
}
