//! Medians of the rule table: what a message pays for being asked about, with few rules and with many.
//! `verdict` asks everything at once; `complete` is what a message pays when its bucket's answer is kept.

use divan::{Bencher, black_box};
use mailrace_shards::rules::{
    Answer, BucketFacts, Cause, Change, Facts, HashKey, Kind, MessageFacts, Moment, PathFacts, Rule, RuleTable, Scope,
    Update, Validity,
};
use mailrace_shards::time::Timestamp;
use std::sync::{Arc, Mutex};

const KEY: HashKey = HashKey(0x5851_f42d_4c95_7f2d, 0x1405_7b7e_f767_814f);
const NOW: Timestamp = Timestamp(1_800_000_000_000);
/// Of domains, tags, campaigns and tenants that rules name.
const NAMED: u64 = 1 << 20;
/// Of those that messages carry: one in 64 is named by rules, if there are enough of them.
const CARRIED: u64 = NAMED << 6;

/// (rules, tags of a message).
const SIZES: [(u64, usize); 9] = [
    (10, 0),
    (10, 3),
    (10, 16),
    (10_000, 0),
    (10_000, 3),
    (10_000, 16),
    (1_000_000, 0),
    (1_000_000, 3),
    (1_000_000, 16),
];

fn main() {
    divan::main();
}

/// SplitMix64, so that runs are alike.
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// A mix of eight combinations of fields, as operators use them.
fn scope(n: u64, state: &mut u64) -> Scope {
    let domain = Some(format!("d{}.example", random(state) % NAMED).into());
    let tag = Some(format!("tag{}", random(state) % NAMED).into());
    match n % 10 {
        0..4 => Scope { domain, ..Scope::default() },
        4 | 5 => Scope { tag, ..Scope::default() },
        6 => Scope { domain, tag, ..Scope::default() },
        7 => Scope { domain, campaign: Some(format!("campaign{n}").into()), ..Scope::default() },
        8 => Scope { tenant: Some(format!("tenant{n}").into()), ..Scope::default() },
        _ => Scope { domain, pool: Some("bulk".into()), ..Scope::default() },
    }
}

fn filled(rules: u64) -> Arc<RuleTable> {
    static MADE: Mutex<Vec<(u64, Arc<RuleTable>)>> = Mutex::new(Vec::new());
    let mut made = MADE.lock().expect("no bench panics while it makes a table");
    if let Some((_, table)) = made.iter().find(|(size, _)| *size == rules) {
        return Arc::clone(table);
    }
    let mut table = RuleTable::new(KEY);
    let mut state = rules;
    for n in 0..rules {
        let rule = Arc::new(Rule {
            id: format!("{n:032x}").into(),
            order: n,
            kind: Kind::Pause,
            scope: scope(n, &mut state),
            validity: Validity::until(Timestamp(NOW.0 + 3_600_000 + i64::try_from(n).expect("below a million"))),
            by: "bench".into(),
        });
        post(&mut table, Change::Put(rule));
    }
    let table = Arc::new(table);
    made.push((rules, Arc::clone(&table)));
    table
}

fn post(table: &mut RuleTable, change: Change) {
    let after = table.epoch();
    table.apply(Update { after, epoch: after + 1, changes: vec![change] }, NOW).expect("epochs follow");
}

struct Message {
    address: String,
    domain: String,
    tags: Vec<Box<str>>,
    campaign: String,
    tenant: String,
}

impl Message {
    fn facts(&self) -> Facts<'_> {
        Facts {
            bucket: BucketFacts {
                domain: &self.domain,
                routing_domain: None,
                campaign: Some(&self.campaign),
                tenant: Some(&self.tenant),
                pool: Some("bulk"),
                queue: &self.domain,
            },
            message: Some(MessageFacts { address: &self.address, tags: &self.tags }),
            path: PathFacts::default(),
        }
    }
}

/// Messages with random keys out of so many, more of them than the caches hold.
fn messages(tags: usize, names: u64) -> Vec<Message> {
    let mut state = tags as u64;
    (0..16_384)
        .map(|n| {
            let domain = format!("d{}.example", random(&mut state) % names);
            Message {
                address: format!("recipient{n}@{domain}"),
                tags: (0..tags).map(|_| format!("tag{}", random(&mut state) % names).into()).collect(),
                campaign: format!("campaign{}", random(&mut state) % names),
                tenant: format!("tenant{}", random(&mut state) % names),
                domain,
            }
        })
        .collect()
}

/// Walks over the messages round and round.
fn next<'a, T>(all: &'a [T], at: &mut usize) -> &'a T {
    *at = (*at + 1) % all.len();
    &all[*at]
}

#[divan::bench(args = SIZES, sample_size = 256)]
fn verdict(bencher: Bencher<'_, '_>, (rules, tags): (u64, usize)) {
    let table = filled(rules);
    let messages = messages(tags, CARRIED);
    let mut at = 0;
    bencher.bench_local(|| {
        let message = next(&messages, &mut at);
        black_box(table.verdict(&message.facts(), Moment::Attempt, NOW).passes())
    });
}

#[divan::bench(args = SIZES, sample_size = 256)]
fn complete(bencher: Bencher<'_, '_>, (rules, tags): (u64, usize)) {
    let table = filled(rules);
    let messages = messages(tags, CARRIED);
    let asked: Vec<_> = messages.iter().map(|m| (m, table.bucket(&m.facts().bucket, NOW))).collect();
    let mut at = 0;
    bencher.bench_local(|| {
        let (message, bucket) = next(&asked, &mut at);
        black_box(table.complete(bucket, &message.facts(), Moment::Attempt, NOW).passes())
    });
}

/// The same message again and again: what the gate's second look costs.
#[divan::bench(args = SIZES, sample_size = 256)]
fn verdict_warm(bencher: Bencher<'_, '_>, (rules, tags): (u64, usize)) {
    let table = filled(rules);
    let messages = messages(tags, CARRIED);
    bencher.bench_local(|| black_box(table.verdict(&black_box(&messages[0]).facts(), Moment::Attempt, NOW).passes()));
}

/// Messages of which every third or so is covered, by one rule or by several.
#[divan::bench(args = SIZES, sample_size = 256)]
fn verdict_covered(bencher: Bencher<'_, '_>, (rules, tags): (u64, usize)) {
    let table = filled(rules);
    let messages = messages(tags, NAMED);
    let mut at = 0;
    bencher.bench_local(|| {
        let message = next(&messages, &mut at);
        black_box(table.verdict(&message.facts(), Moment::Attempt, NOW).passes())
    });
}

#[divan::bench(args = [10_u64, 1_000_000], sample_size = 256)]
fn suppressions(bencher: Bencher<'_, '_>, entries: u64) {
    let mut table = RuleTable::new(KEY);
    let answer = Answer::new(550, None, "suppressed".into()).expect("550 is a code");
    let cause = Arc::new(Cause { answer, by: "bench".into() });
    for n in 0..entries {
        let key = KEY.suppression(&format!("suppressed{n}@d{}.example", n % NAMED));
        post(&mut table, Change::Suppress { key, cause: Arc::clone(&cause) });
    }
    let messages = messages(0, CARRIED);
    let mut at = 0;
    bencher.bench_local(|| {
        let message = next(&messages, &mut at);
        black_box(table.verdict(&message.facts(), Moment::Attempt, NOW).passes())
    });
}

/// Adds a rule and takes it away; the slowest sample tells whether anything grows in one go.
#[divan::bench(args = [10_u64, 1_000_000], sample_count = 1000)]
fn put_and_remove(bencher: Bencher<'_, '_>, rules: u64) {
    let mut state = 3;
    let mut table = RuleTable::new(KEY);
    for n in 0..rules {
        let kind = Kind::Pause;
        let scope = scope(n, &mut state);
        let id = format!("{n:032x}").into();
        let rule = Rule { id, order: n, kind, scope, validity: Validity::always(), by: "bench".into() };
        post(&mut table, Change::Put(Arc::new(rule)));
    }
    let mut n = rules;
    bencher.bench_local(|| {
        n += 1;
        let id: Arc<str> = format!("{n:032x}").into();
        let scope = scope(n, &mut state);
        let rule = Rule {
            id: Arc::clone(&id),
            order: n,
            kind: Kind::Pause,
            scope,
            validity: Validity::always(),
            by: "bench".into(),
        };
        post(&mut table, Change::Put(Arc::new(rule)));
        post(&mut table, Change::Remove(id));
    });
}
