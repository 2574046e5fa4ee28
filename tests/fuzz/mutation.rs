//! What all fuzz targets share: inputs made by mutation of a corpus, for as long as they may take. Knows nothing of what
//! an input means, and never makes another input of a seed than before.
//!
//! | setting | means |
//! |---|---|
//! | `MAILRACE_FUZZ_SECONDS` | how long each target is tried, 2 by default |
//! | `MAILRACE_FUZZ_SEED` | the first seed, 1 by default; each input has the next |
//!
//! An input that fails is left in the directory for temporary files, under a name that is printed. Once understood and
//! made small, it belongs into `tests/data/fuzz/<target>/`, named for what it is: each file of the corpus is tried as it
//! stands, at each run, before anything is made of it.

#![allow(clippy::disallowed_methods, reason = "how long is tried, and whether an input ends, is judged from outside")]

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

/// Octets of an input; what mutation makes longer is cut.
const INPUT_BYTES_MAX: usize = 8 * 1024;

/// How long one input may take. The usual is a thousandth of a second, so what takes this long does not end.
const INPUT_TIME_MAX: Duration = Duration::from_secs(60);

/// What is tried.
pub struct Target {
    /// Of the corpus' directory.
    pub name: &'static str,
    /// What the protocol is made of; mutation puts them in.
    pub words: &'static [&'static [u8]],
    /// Panics over an input that does what none may do.
    pub check: fn(&[u8]),
}

/// Tries the corpus, then mutations of it until the time is over.
pub fn fuzz(target: &Target) {
    let corpus = corpus(target.name);
    let watch = Watch::start(target.name);
    for (name, input) in &corpus {
        watch.at(0);
        attempt(target, input, name);
    }
    let inputs: Vec<&[u8]> = corpus.iter().map(|(_, input)| input.as_slice()).collect();
    let end = Instant::now() + Duration::from_secs(setting("MAILRACE_FUZZ_SECONDS", 2));
    let mut seed = setting("MAILRACE_FUZZ_SEED", 1);
    while Instant::now() < end {
        watch.at(seed);
        attempt(target, &mutated(&inputs, target.words, seed), &format!("seed-{seed}"));
        seed += 1;
    }
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is no number")))
}

/// Every file of the target's corpus, by name.
fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    // The engine's crate stands one directory deeper than the program's.
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let roots = [Some(package), package.parent()];
    let places = roots.iter().flatten().map(|root| root.join("tests/data/fuzz").join(target));
    let directory = places.into_iter().find(|place| place.is_dir()).unwrap_or_else(|| panic!("no corpus of {target}"));
    let entries = std::fs::read_dir(&directory).expect("the corpus can be read");
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("the corpus can be read").path()).collect();
    paths.sort();
    let read = |path: PathBuf| {
        let name = path.file_name().expect("a file has a name").to_string_lossy().into_owned();
        (name, std::fs::read(&path).expect("the corpus can be read"))
    };
    let found: Vec<_> = paths.into_iter().map(read).collect();
    assert!(!found.is_empty(), "{} is empty", directory.display());
    found
}

fn attempt(target: &Target, input: &[u8], name: &str) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| (target.check)(input))) {
        let path = std::env::temp_dir().join(format!("mailrace-fuzz-{}-{name}", target.name));
        let left = std::fs::write(&path, input).map_or_else(|error| error.to_string(), |()| path.display().to_string());
        eprintln!("{}: {name} fails; the input of {} octets: {left}", target.name, input.len());
        resume_unwind(panic);
    }
}

/// Ends the process when an input does not end: a test that hangs tells nobody with what.
struct Watch {
    seed: Arc<AtomicU64>,
    /// Dropped at the end.
    _running: Sender<()>,
}

impl Watch {
    fn start(target: &'static str) -> Self {
        let (running, ended) = channel::<()>();
        let seed = Arc::new(AtomicU64::new(u64::MAX));
        let watched = seed.clone();
        std::thread::spawn(move || {
            let mut before = u64::MAX;
            while ended.recv_timeout(INPUT_TIME_MAX) == Err(RecvTimeoutError::Timeout) {
                let now = watched.load(Ordering::Relaxed);
                if now == before {
                    eprintln!("{target}: seed {now} (0: a file of the corpus) does not end");
                    std::process::abort();
                }
                before = now;
            }
        });
        Self { seed, _running: running }
    }

    fn at(&self, seed: u64) {
        self.seed.store(seed, Ordering::Relaxed);
    }
}

/// Random numbers that a seed reproduces (splitmix64).
pub struct Random(pub u64);

impl Random {
    /// Below `bound`, which is not zero.
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as usize % bound
    }

    fn octet(&mut self) -> u8 {
        const TELLING: [u8; 12] = [0, b'\r', b'\n', b'.', b' ', b'\t', b'-', b'0', b'9', 0x7f, 0x80, 0xff];
        if self.below(2) == 0 { TELLING[self.below(TELLING.len())] } else { self.below(256) as u8 }
    }

    fn range(&mut self, length: usize) -> std::ops::Range<usize> {
        let start = self.below(length + 1);
        // Mostly short ones.
        let most = if self.below(4) == 0 { length - start } else { (length - start).min(12) };
        start..start + self.below(most + 1)
    }
}

/// How the octets of a connection are cut into what one read gives.
#[derive(Clone, Copy, Debug)]
pub enum Cut {
    /// Not at all.
    Whole,
    /// Into single octets.
    Single,
    /// At random places.
    Random(u64),
}

impl Cut {
    /// The pieces, in order.
    pub fn pieces(self, mut octets: &[u8]) -> Vec<&[u8]> {
        let mut random = Random(if let Self::Random(seed) = self { seed } else { 0 });
        let mut pieces = Vec::new();
        while !octets.is_empty() {
            let length = match self {
                Self::Whole => octets.len(),
                Self::Single => 1,
                Self::Random(_) => (1 + random.below(23)).min(octets.len()),
            };
            let (piece, rest) = octets.split_at(length);
            pieces.push(piece);
            octets = rest;
        }
        pieces
    }
}

/// One input of the corpus, or two in one, changed here and there.
fn mutated(corpus: &[&[u8]], words: &[&[u8]], seed: u64) -> Vec<u8> {
    let mut random = Random(seed);
    let mut input = corpus[random.below(corpus.len())].to_vec();
    for _ in 0..=random.below(8) {
        let other = corpus[random.below(corpus.len())];
        mutate(&mut input, other, words, &mut random);
        input.truncate(INPUT_BYTES_MAX);
    }
    input
}

fn mutate(input: &mut Vec<u8>, other: &[u8], words: &[&[u8]], random: &mut Random) {
    let range = random.range(input.len());
    match random.below(10) {
        0 => drop(input.drain(range)),
        1 => {
            let octet = random.octet();
            input.insert(range.start, octet);
        }
        2 if range.start < input.len() => input[range.start] = random.octet(),
        3 if range.start < input.len() => input[range.start] ^= 1 << random.below(8),
        4 | 5 if !words.is_empty() => {
            let word = words[random.below(words.len())];
            drop(input.splice(range.start..range.start, word.iter().copied()));
        }
        6 => {
            let word = if words.is_empty() { &[][..] } else { words[random.below(words.len())] };
            drop(input.splice(range, word.iter().copied()));
        }
        7 => {
            let part = input[range.clone()].repeat(1 + random.below(6));
            drop(input.splice(range.end..range.end, part));
        }
        8 => {
            let part = other[random.range(other.len())].to_vec();
            drop(input.splice(range, part));
        }
        9 => number(input, range.start, random),
        _ => input.truncate(range.end),
    }
}

/// Puts another in the place of the next decimal number.
fn number(input: &mut Vec<u8>, from: usize, random: &mut Random) {
    const NUMBERS: [&str; 12] =
        ["0", "1", "2", "9", "10", "255", "256", "65536", "2147483648", "4294967296", "18446744073709551616", "-1"];
    let Some(start) = input[from..].iter().position(u8::is_ascii_digit).map(|at| from + at) else { return };
    let digits = input[start..].iter().take_while(|octet| octet.is_ascii_digit()).count();
    let number = NUMBERS[random.below(NUMBERS.len())];
    drop(input.splice(start..start + digits, number.bytes()));
}
