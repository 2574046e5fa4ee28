//! Mutation testing of the pure modules in one build. cargo-mutants names the mutants; all are compiled at once, each
//! behind a switch, and each is judged by the tests that meet it. Never touches the sources it is run on.
//!
//! ```text
//! mailrace-mutants [--shard K/N] [--quick] [--up-to SECONDS] [--again] [--built] [--workers N] [PART…]
//! ```
//!
//! `--shard 1/4` takes every fourth mutant from the second on; `--quick` leaves the slow tests for a later run without
//! it, `--up-to 7` those that take more than seven seconds; `--again` judges those anew that were missed, and no others; `--built`
//! takes the programs of the last build. What was
//! judged before is kept in the work directory, `target/mutants` or `MAILRACE_MUTANTS_DIR`, and not judged twice.

mod build;
mod judge;
mod list;
mod report;
mod tests;
mod weave;

use judge::{Bench, Pass, QUICK, Verdict};
use report::{Accepted, Results};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// The modules that decide.
const GLOBS: [&str; 6] = ["queue", "path", "spool", "rules", "smtp", "shard"];

struct Options {
    shard: (usize, usize),
    again: bool,
    quick: bool,
    up_to: Duration,
    built: bool,
    workers: usize,
    globs: Vec<String>,
}

fn options() -> Options {
    let mut options = Options {
        shard: (0, 1),
        again: false,
        quick: false,
        up_to: Duration::MAX,
        built: false,
        workers: 2,
        globs: Vec::new(),
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--shard" => {
                let text = arguments.next().expect("--shard K/N");
                let (k, n) = text.split_once('/').expect("--shard K/N");
                options.shard = (k.parse().expect("K"), n.parse().expect("N"));
            }
            "--workers" => options.workers = arguments.next().and_then(|text| text.parse().ok()).expect("--workers N"),
            "--quick" => (options.quick, options.up_to) = (true, QUICK),
            "--up-to" => {
                let seconds = arguments.next().and_then(|text| text.parse().ok()).expect("--up-to SECONDS");
                options.up_to = Duration::from_secs(seconds);
            }
            "--built" => options.built = true,
            "--again" => options.again = true,
            glob => options.globs.push(glob.to_owned()),
        }
    }
    options
}

fn main() {
    let options = options();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the repository");
    let scratch = std::env::var_os("MAILRACE_MUTANTS_DIR").map_or(root.join("target/mutants"), PathBuf::from);
    let tree = scratch.join("tree");
    std::fs::create_dir_all(&tree).expect("the work directory");
    let all = list::list(&root, &GLOBS.map(|module| format!("shards/src/{module}/**")));
    println!("{} mutants", all.len());
    let mut results = Results::load(&scratch);
    let known = all.iter().enumerate().filter(|(_, mutant)| results.verdict(&mutant.name) == Some("unviable"));
    let known: BTreeSet<usize> = known.map(|(number, _)| number).collect();
    let built = if options.built { build::last(&tree) } else { build::build(&root, &tree, &all, known) };
    for (number, mutant) in all.iter().enumerate() {
        if built.unviable.contains(&number) {
            results.put(&mutant.name, "unviable", "");
        } else if built.left_out.contains(&number) {
            results.put(&mutant.name, "no switch", "");
        }
    }
    let tests = tests::survey(&built.programs, &built.tree, &scratch);
    println!("{} tests", tests.len());
    let open: BTreeSet<usize> =
        (0..all.len()).filter(|&number| results.verdict(&all[number].name) == Some("open")).collect();
    let mut chosen: Vec<usize> = (0..all.len())
        .filter(|number| number % options.shard.1 == options.shard.0)
        .filter(|&number| options.globs.is_empty() || options.globs.iter().any(|part| all[number].file.contains(part)))
        .filter(|&number| match results.verdict(&all[number].name) {
            None => !options.again,
            Some("open") => !options.quick,
            Some(verdict) => options.again && verdict == "missed",
        })
        .collect();
    chosen.sort_by_key(|&number| scattered(number));
    let bench = Bench { tests: &tests, tree: &built.tree, catches: Mutex::new(results.catches(&all)) };
    let (next, results) = (AtomicUsize::new(0), Mutex::new(results));
    std::thread::scope(|scope| {
        for _ in 0..options.workers {
            scope.spawn(|| {
                while let Some(&number) = chosen.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let above = (open.contains(&number) && !options.again).then_some(QUICK);
                    let pass = Pass { above, up_to: options.up_to };
                    let (verdict, by) = judge::judge(number, &all[number].file, pass, &bench);
                    let name = &all[number].name;
                    results.lock().expect("no worker panics").put(name, verdict.word(), &by);
                    if verdict == Verdict::Missed {
                        println!("missed: {name}");
                    }
                }
            });
        }
    });
    print!("{}", results.into_inner().expect("no worker panics").table(&all, &Accepted::load(&root)));
}

/// An order that is the same each time and has nothing to do with that of the files, so that what is judged first is a
/// sample in which each mutant is as likely as any other (the finalizer of SplitMix64).
fn scattered(number: usize) -> u64 {
    let mut mixed = (number as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
