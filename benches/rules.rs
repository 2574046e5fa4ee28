//! Medians of the rule table: what a message pays for being asked about, with few rules and with many, in a table that
//! holds a million suppressions too. Rules name every combination of fields that the dialects permit; messages carry
//! random values, one in 64 of which some rule names when there are many, and their tags were hashed before, as the
//! shard does it. `verdict` asks everything at once; `complete` is what a message pays when its bucket's answer is
//! kept, which is the case while no rule changes.

use divan::{Bencher, black_box};
use mailrace_shards::rules::{
    Answer, BucketFacts, Cause, Change, Facts, HashKey, Kind, MessageFacts, Moment, PathFacts, Rule, RuleTable, Scope,
    Update, Validity,
};
use mailrace_shards::time::Timestamp;
use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex};

const KEY: HashKey = HashKey(0x5851_f42d_4c95_7f2d, 0x1405_7b7e_f767_814f);
const NOW: Timestamp = Timestamp(1_800_000_000_000);
/// Of domains, tags, campaigns and tenants that rules name.
const NAMED: u64 = 1 << 20;
/// Of those that messages carry: one in 64 is named by rules, if there are enough of them.
const CARRIED: u64 = NAMED << 6;
/// Pools and own addresses are fewer; of these too messages carry 64 times as many as rules name.
const POOLS: u64 = 16;
const OWN_ADDRESSES: u64 = 256;
/// Suppressions beside the rules.
const SUPPRESSED: u64 = 1_000_000;

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

/// One of the combinations of fields that the dialects permit: MailerQ's are all of domain, remote and own address, pool
/// and tag; KumoMTA's all of campaign, tenant, domain and routing domain, or queue names, or a path.
fn scope(n: u64, state: &mut u64) -> Scope {
    let mut value = |prefix: &str, names: u64| Some(format!("{prefix}{}", random(state) % names).into());
    let mut scope = Scope::default();
    // In an order in which few rules are a mix too.
    match n * 19 % 48 {
        0 => scope.queues = [value("campaign:tenant@d", NAMED).expect("just made")].into(),
        1 => scope.path = value("path", NAMED),
        set @ 2..17 => {
            let set = set - 1;
            scope.domain = (set & 1 != 0).then(|| value("d", NAMED)).flatten();
            scope.campaign = (set & 2 != 0).then(|| value("campaign", NAMED)).flatten();
            scope.tenant = (set & 4 != 0).then(|| value("tenant", NAMED)).flatten();
            scope.routing_domain = (set & 8 != 0).then(|| value("r", NAMED)).flatten();
        }
        set => {
            let set = set - 16;
            scope.domain = (set & 1 != 0).then(|| value("d", NAMED)).flatten();
            scope.tag = (set & 2 != 0).then(|| value("tag", NAMED)).flatten();
            scope.pool = (set & 4 != 0).then(|| value("pool", POOLS)).flatten();
            scope.source_ip = (set & 8 != 0).then(|| address(10, random(state) % OWN_ADDRESSES));
            scope.remote_ip = (set & 16 != 0).then(|| address(11, random(state) % NAMED));
        }
    }
    scope
}

fn address(network: u8, n: u64) -> IpAddr {
    let [_, .., high, middle, low] = n.to_be_bytes();
    Ipv4Addr::new(network, high, middle, low).into()
}

fn rule(n: u64, scope: Scope) -> Rule {
    Rule {
        id: format!("{n:032x}").into(),
        order: n,
        kind: Kind::Pause,
        scope,
        validity: Validity::until(Timestamp(NOW.0 + 3_600_000 + i64::try_from(n).expect("below a thousand million"))),
        by: "bench".into(),
    }
}

/// A table with so many rules, no two of them over the same mail, and with suppressions.
fn filled(rules: u64, suppressed: u64) -> Arc<RuleTable> {
    static MADE: Mutex<Vec<Arc<RuleTable>>> = Mutex::new(Vec::new());
    let mut made = MADE.lock().expect("no bench panics while it makes a table");
    let wanted =
        |table: &&Arc<RuleTable>| table.len() as u64 == rules && table.suppressions().len() as u64 == suppressed;
    if let Some(table) = made.iter().find(wanted) {
        return Arc::clone(table);
    }
    let mut table = RuleTable::new(KEY);
    let mut state = rules;
    let mut scopes = HashSet::new();
    for n in 0.. {
        if scopes.len() as u64 == rules {
            break;
        }
        let scope = scope(n, &mut state);
        if scopes.insert(scope.clone()) {
            post(&mut table, Change::Put(Arc::new(rule(n, scope))));
        }
    }
    suppress(&mut table, suppressed);
    let table = Arc::new(table);
    made.push(Arc::clone(&table));
    table
}

fn suppress(table: &mut RuleTable, entries: u64) {
    let answer = Answer::new(550, None, "suppressed".into()).expect("550 is a code");
    let cause = Arc::new(Cause { answer, by: "bench".into() });
    for n in 0..entries {
        let key = KEY.suppression(&format!("suppressed{n}@d{}.example", n % NAMED));
        post(table, Change::Suppress { key, cause: Arc::clone(&cause) });
    }
}

fn post(table: &mut RuleTable, change: Change) {
    let after = table.epoch();
    table.apply(Update { after, epoch: after + 1, changes: vec![change] }, NOW).expect("epochs follow");
}

struct Message {
    address: String,
    domain: String,
    tags: Vec<Box<str>>,
    tag_hashes: Box<[u64]>,
    campaign: String,
    tenant: String,
    routing_domain: String,
    pool: String,
    queue: String,
    path: String,
    source_ip: IpAddr,
    remote_ip: IpAddr,
}

impl Message {
    /// A core that asks about a message has just read it; the table is what it has not.
    fn touched(&self) -> &Self {
        let texts = [&self.address, &self.domain, &self.campaign, &self.tenant, &self.routing_domain, &self.pool];
        let octets = texts.into_iter().chain([&self.queue, &self.path]).map(|text| usize::from(text.as_bytes()[0]));
        black_box(octets.chain(self.tags.iter().map(|tag| tag.len())).sum::<usize>());
        black_box(self.tag_hashes.last());
        self
    }

    fn facts(&self) -> Facts<'_> {
        Facts {
            bucket: BucketFacts {
                domain: &self.domain,
                routing_domain: Some(&self.routing_domain),
                campaign: Some(&self.campaign),
                tenant: Some(&self.tenant),
                pool: Some(&self.pool),
                queue: &self.queue,
            },
            message: Some(MessageFacts { address: &self.address, tags: &self.tags, tag_hashes: &self.tag_hashes }),
            path: PathFacts {
                source_ip: Some(self.source_ip),
                path: Some(&self.path),
                remote_ip: Some(self.remote_ip),
            },
        }
    }
}

/// Messages with random keys out of so many, more of them than the caches hold.
fn messages(tags: usize, names: u64) -> Vec<Message> {
    let mut state = tags as u64;
    (0..65_536).map(|n| message(n, tags, names, &mut state)).collect()
}

fn message(n: u64, tags: usize, names: u64, state: &mut u64) -> Message {
    let tags: Vec<Box<str>> = (0..tags).map(|_| format!("tag{}", random(state) % names).into()).collect();
    let mut value = |prefix: &str, names: u64| format!("{prefix}{}", random(state) % names);
    let domain = value("d", names);
    Message {
        address: format!("recipient{n}@{domain}"),
        tag_hashes: KEY.tags(&tags),
        tags,
        campaign: value("campaign", names),
        tenant: value("tenant", names),
        routing_domain: value("r", names),
        pool: value("pool", if names == NAMED { POOLS } else { POOLS << 6 }),
        queue: value("campaign:tenant@d", names),
        path: value("path", names),
        source_ip: address(10, random(state) % if names == NAMED { OWN_ADDRESSES } else { OWN_ADDRESSES << 6 }),
        remote_ip: address(11, random(state) % names.min(1 << 24)),
        domain,
    }
}

/// Walks over the messages round and round.
fn next<'a, T>(all: &'a [T], at: &mut usize) -> &'a T {
    *at = (*at + 1) % all.len();
    &all[*at]
}

#[divan::bench(args = SIZES, sample_size = 256)]
fn verdict(bencher: Bencher<'_, '_>, (rules, tags): (u64, usize)) {
    let table = filled(rules, SUPPRESSED);
    let messages = messages(tags, CARRIED);
    let mut at = 0;
    bencher
        .with_inputs(|| next(&messages, &mut at).touched())
        .bench_local_values(|message| black_box(table.verdict(&message.facts(), Moment::Attempt, NOW).passes()));
}

#[divan::bench(args = SIZES, sample_size = 256)]
fn complete(bencher: Bencher<'_, '_>, (rules, tags): (u64, usize)) {
    let table = filled(rules, SUPPRESSED);
    let messages = messages(tags, CARRIED);
    let asked: Vec<_> = messages.iter().map(|m| (m, table.bucket(&m.facts().bucket, NOW))).collect();
    let mut at = 0;
    let input = || {
        let (message, bucket) = next(&asked, &mut at);
        (message.touched(), black_box(bucket.clone()))
    };
    bencher.with_inputs(input).bench_local_values(|(message, bucket)| {
        black_box(table.complete(&bucket, &message.facts(), Moment::Attempt, NOW).passes())
    });
}

/// The same message again and again: what the gate's second look costs.
#[divan::bench(args = SIZES, sample_size = 256)]
fn verdict_warm(bencher: Bencher<'_, '_>, (rules, tags): (u64, usize)) {
    let table = filled(rules, SUPPRESSED);
    let messages = messages(tags, CARRIED);
    bencher.bench_local(|| black_box(table.verdict(&black_box(&messages[0]).facts(), Moment::Attempt, NOW).passes()));
}

/// Messages of which every third or so is covered, by one rule or by several.
#[divan::bench(args = SIZES, sample_size = 256)]
fn verdict_covered(bencher: Bencher<'_, '_>, (rules, tags): (u64, usize)) {
    let table = filled(rules, SUPPRESSED);
    let messages = messages(tags, NAMED);
    let mut at = 0;
    bencher
        .with_inputs(|| next(&messages, &mut at).touched())
        .bench_local_values(|message| black_box(table.verdict(&message.facts(), Moment::Attempt, NOW).passes()));
}

/// The same without rules: two look-ups of suppressions, of the domain and of the address.
#[divan::bench(args = [10_u64, 1_000_000], sample_size = 256)]
fn suppressions(bencher: Bencher<'_, '_>, entries: u64) {
    let table = filled(0, entries);
    let messages = messages(0, CARRIED);
    let mut at = 0;
    bencher
        .with_inputs(|| next(&messages, &mut at).touched())
        .bench_local_values(|message| black_box(table.verdict(&message.facts(), Moment::Attempt, NOW).passes()));
}

/// Adds a rule and takes it away; the slowest sample tells whether anything grows in one go.
#[divan::bench(args = [10_u64, 1_000_000], sample_count = 1000)]
fn put_and_remove(bencher: Bencher<'_, '_>, rules: u64) {
    let mut state = 3;
    let mut table = RuleTable::new(KEY);
    for n in 0..rules {
        post(&mut table, Change::Put(Arc::new(rule(n, scope(n, &mut state)))));
    }
    let mut n = rules;
    bencher.bench_local(|| {
        n += 1;
        let rule = rule(n, scope(n, &mut state));
        let id = Arc::clone(&rule.id);
        post(&mut table, Change::Put(Arc::new(rule)));
        post(&mut table, Change::Remove(id));
    });
}
