//! The list of who must not be mailed: what an entry costs that is added, overwritten, looked for and taken out, with a
//! million others beside it; and, printed first, the octets that an entry takes.

use divan::{Bencher, black_box};
use mailrace_shards::rules::{Answer, Cause, HashKey, SuppressionKey, Suppressions};
use std::sync::Arc;

const KEY: HashKey = HashKey(0x5851_f42d_4c95_7f2d, 0x1405_7b7e_f767_814f);
const ENTRIES: u64 = 1_000_000;

fn main() {
    for entries in [10_000, 100_000, ENTRIES, 2 * ENTRIES, 10 * ENTRIES] {
        let octets = filled(entries).memory() as u64 / entries;
        println!("{entries} entries: {octets} octets each");
    }
    divan::main();
}

fn cause() -> Arc<Cause> {
    let answer = Answer::new(550, None, "unsubscribed".into()).expect("550 is a code");
    Arc::new(Cause { answer, by: "bench".into() })
}

fn key(n: u64) -> SuppressionKey {
    KEY.suppression(&format!("recipient{n}@d{}.example", n % 50_000))
}

fn filled(entries: u64) -> Suppressions {
    let (mut list, cause) = (Suppressions::new(KEY), cause());
    (0..entries).for_each(|n| list.put(key(n), &cause));
    list
}

/// Hashes a value, as the control core does for each entry and a shard for each message.
#[divan::bench(sample_size = 1024)]
fn hash(bencher: Bencher<'_, '_>) {
    let values: Vec<String> = (0..16_384).map(|n| format!("recipient{n}@d{}.example", n % 50_000)).collect();
    let mut at = 0;
    bencher.bench_local(|| {
        at = (at + 1) % values.len();
        black_box(KEY.suppression(&values[at]))
    });
}

/// Looks for a value, every other one of which is there.
#[divan::bench(sample_size = 1024)]
fn find(bencher: Bencher<'_, '_>) {
    let list = filled(ENTRIES);
    // Apart from each other in the table, since the hash is.
    let keys: Vec<SuppressionKey> = (0..65_536).map(|n| key(ENTRIES - 32_768 + n)).collect();
    let mut at = 0;
    bencher.bench_local(|| {
        at = (at + 1) % keys.len();
        black_box(list.find(keys[at]).is_some())
    });
}

/// Adds a new value; the slowest sample tells whether the table grows in one go.
#[divan::bench(sample_count = 1000, sample_size = 1024)]
fn insert(bencher: Bencher<'_, '_>) {
    let (mut list, cause) = (filled(ENTRIES), cause());
    let mut n = ENTRIES;
    bencher
        .with_inputs(|| {
            n += 1;
            key(n)
        })
        .bench_local_values(|key| list.put(key, &cause));
}

/// Puts in what is there already.
#[divan::bench(sample_size = 1024)]
fn overwrite(bencher: Bencher<'_, '_>) {
    let (mut list, cause) = (filled(ENTRIES), cause());
    let mut n = 0;
    bencher
        .with_inputs(|| {
            n += 1;
            key(n)
        })
        .bench_local_values(|key| list.put(key, &cause));
}

/// Takes values out.
#[divan::bench(sample_size = 1024)]
fn remove(bencher: Bencher<'_, '_>) {
    let mut list = filled(ENTRIES);
    let mut n = 0;
    bencher
        .with_inputs(|| {
            n += 1;
            key(n)
        })
        .bench_local_values(|key| list.remove(key));
}
