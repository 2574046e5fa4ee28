//! Counts what a hot path executes, not how long it takes: instructions by valgrind's callgrind, and allocations. Both are the same in
//! each run, so a regression shows on a machine that does other things as well.
//!
//! It needs nothing but valgrind. Each case runs once to warm up and once to be counted; setting up is never counted. The program starts
//! itself below valgrind for each case, and compares with the figures of a file: with `--check` more than
//! [`TOLERANCE`] above one of them is an error, as is a case that has none; with `--write` they become the figures.

#![expect(unsafe_code, reason = "an allocator can only be counted from inside")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, ExitCode};

/// What a case may cost more than it did. Between builds of the same source it moves by less than a hundredth.
const TOLERANCE: f64 = 1.03;

/// One hot path.
pub struct Case {
    /// What it is called in the list.
    pub name: &'static str,
    /// How many operations a call of what `ready` makes does.
    pub operations: u64,
    /// Sets up; what it returns is what is counted.
    pub ready: fn() -> Box<dyn FnMut()>,
}

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: hands everything on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promises are those that `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// What callgrind looks for: it counts from the entry into this to its end.
#[inline(never)]
fn counted_section(run: &mut dyn FnMut()) {
    run();
    std::hint::black_box(());
}

/// Instructions and allocations of one operation.
#[derive(Clone, Copy, PartialEq)]
struct Count {
    instructions: f64,
    allocations: f64,
}

/// Counts all cases, or those that a word of the command line names, and compares them with the file.
pub fn main(cases: &[Case], figures: &Path) -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    if let [flag, name] = &words[..]
        && flag == "--case"
    {
        let case = cases.iter().find(|case| case.name == name).expect("it was started by this program");
        println!("{}", allocations(case));
        return ExitCode::SUCCESS;
    }
    let known = read(figures);
    let (mut found, mut worse, mut unknown) = (known.clone(), false, false);
    println!("{:<52}{:>14}{:>12}{:>14}{:>9}", "one operation of", "instructions", "allocations", "before", "change");
    let names: Vec<&String> = words.iter().filter(|word| !word.starts_with("--")).collect();
    for case in cases.iter().filter(|case| names.is_empty() || names.iter().any(|name| case.name.contains(*name))) {
        let count = match count(case) {
            Ok(count) => count,
            Err(why) => {
                eprintln!("{}: {why}", case.name);
                return ExitCode::FAILURE;
            }
        };
        let before = known.get(case.name);
        let change = before.map(|before| count.instructions / before.instructions);
        let is_worse = before.is_some_and(|before| {
            count.instructions > before.instructions * TOLERANCE || count.allocations > before.allocations + 0.005
        });
        worse |= is_worse;
        unknown |= before.is_none();
        println!(
            "{:<52}{:>14.1}{:>12.3}{:>14}{:>9}{}",
            case.name,
            count.instructions,
            count.allocations,
            before.map_or_else(|| "-".to_owned(), |before| format!("{:.1}", before.instructions)),
            change.map_or_else(|| "-".to_owned(), |change| format!("{:+.1} %", (change - 1.0) * 100.0)),
            if is_worse { "  WORSE" } else { "" },
        );
        found.insert(case.name.to_owned(), count);
    }
    if words.iter().any(|word| word == "--write") {
        let lines: String = found
            .iter()
            .map(|(name, count)| format!("{name}\t{:.1}\t{:.3}\n", count.instructions, count.allocations))
            .collect();
        std::fs::write(figures, lines).expect("the file of figures can be written");
    }
    let fails = (worse || unknown) && words.iter().any(|word| word == "--check");
    if fails { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn read(figures: &Path) -> BTreeMap<String, Count> {
    let text = std::fs::read_to_string(figures).unwrap_or_default();
    let line = |line: &str| {
        let mut fields = line.split('\t');
        let name = fields.next()?.to_owned();
        let (instructions, allocations) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        Some((name, Count { instructions, allocations }))
    };
    text.lines().filter_map(line).collect()
}

/// The second call's allocations, all of them; below callgrind its instructions are counted meanwhile.
fn allocations(case: &Case) -> u64 {
    let mut run = (case.ready)();
    counted_warm_up(&mut run);
    let before = ALLOCATIONS.get();
    counted_section(&mut run);
    ALLOCATIONS.get() - before
}

/// Fills buffers and caches; not looked at.
#[inline(never)]
fn counted_warm_up(run: &mut dyn FnMut()) {
    run();
    std::hint::black_box(1);
}

fn count(case: &Case) -> Result<Count, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--toggle-collect=*counted_section*"])
        .arg(program)
        .args(["--case", case.name])
        // Nothing that differs from run to run: hash tables are seeded by the engine alone.
        .env_clear()
        .output()
        .map_err(|error| format!("is valgrind installed? {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    let collected = said.lines().find_map(|line| line.split_once("Collected : ")).map(|(_, count)| count.trim());
    let instructions: Option<f64> = collected.and_then(|count| count.parse().ok());
    let allocations: Option<f64> = String::from_utf8_lossy(&output.stdout).trim().parse().ok();
    match (instructions, allocations) {
        (Some(instructions), Some(allocations)) if instructions > 0.0 => {
            let operations = case.operations as f64;
            Ok(Count { instructions: instructions / operations, allocations: allocations / operations })
        }
        _ => Err(format!("nothing was counted:\n{said}")),
    }
}
