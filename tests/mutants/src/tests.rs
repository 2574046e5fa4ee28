//! The tests: how long each takes, and which mutants it meets.

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::{TimeVal, TimeValLike as _};
use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

/// Tests that build the repository anew.
const NOT_RUN: &str = "planted";

/// One test function of one program.
pub struct Test {
    pub program: PathBuf,
    pub target: String,
    pub name: String,
    /// Processor time where it passes.
    pub takes: Duration,
    pub meets: HashSet<usize>,
}

/// How a run ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ending {
    Passed,
    Failed,
    /// More processor time or more wall time than allowed.
    Endless,
}

const ADDRESS_SPACE_OCTETS: u64 = 6 << 30;
const WALL_SECONDS_MAX: u64 = 900;

/// How a run ended, and what it wrote to its standard output.
pub struct Ran {
    pub ending: Ending,
    pub said: String,
}

/// Runs some tests of one program within a bound of processor seconds, which other load does not shorten.
pub fn run(program: &Path, tests: &[&str], variables: &[(&str, &str)], processor_seconds: u64, tree: &Path) -> Ran {
    let said = tree.join(format!("said-{:?}", std::thread::current().id()));
    let ending = run_into(&said, program, tests, variables, processor_seconds, tree);
    Ran { ending, said: String::from_utf8_lossy(&fs::read(&said).unwrap_or_default()).into_owned() }
}

fn run_into(
    said: &Path,
    program: &Path,
    tests: &[&str],
    variables: &[(&str, &str)],
    processor_seconds: u64,
    tree: &Path,
) -> Ending {
    let mut child = Command::new("prlimit")
        .arg(format!("--cpu={processor_seconds}"))
        .arg(format!("--as={ADDRESS_SPACE_OCTETS}"))
        .arg("--core=0")
        .arg(program)
        .args(["--exact", "--quiet", "--test-threads=1"])
        .args(tests)
        .envs(variables.iter().copied())
        .env("RUST_BACKTRACE", "0")
        .current_dir(tree.join("shards"))
        .stdin(Stdio::null())
        .stdout(fs::File::create(said).expect("the copy can be written"))
        .stderr(Stdio::null())
        .spawn()
        .expect("prlimit (util-linux) is installed");
    #[expect(clippy::disallowed_methods, reason = "a child that hangs is ended by real time")]
    let begun = Instant::now();
    let mut pause = Duration::from_millis(2);
    loop {
        if let Some(status) = child.try_wait().expect("a child") {
            use std::os::unix::process::ExitStatusExt as _;
            // The kernel's signals at the bound of processor time: XCPU, then KILL.
            let by_bound = matches!(status.signal(), Some(24 | 9));
            return if status.success() {
                Ending::Passed
            } else if by_bound {
                Ending::Endless
            } else {
                Ending::Failed
            };
        }
        if begun.elapsed() > Duration::from_secs(WALL_SECONDS_MAX) {
            let _ = child.kill();
            let _ = child.wait();
            return Ending::Endless;
        }
        #[expect(clippy::disallowed_methods, reason = "there is nothing else to do until the child ends")]
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

/// Runs every test once without a mutant: it must pass, and tells what it meets. What is known of a program that was
/// not built anew since is taken from the work directory.
pub fn survey(programs: &[(String, PathBuf)], tree: &Path, scratch: &Path) -> Vec<Test> {
    let mut tests = Vec::new();
    for (target, program) in programs {
        let built = fs::metadata(program).and_then(|about| about.modified()).expect("a program that was built");
        let age = built.duration_since(SystemTime::UNIX_EPOCH).expect("it was not built before 1970").as_nanos();
        let known = scratch.join(format!("survey-{target}-{age}"));
        if let Ok(text) = fs::read_to_string(&known) {
            tests.extend(text.lines().filter_map(|line| Test::of_line(target, program, line)));
            continue;
        }
        let output = Command::new(program).args(["--list", "--format", "terse"]).output().expect("a test program");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let names = text.lines().filter_map(|line| line.strip_suffix(": test")).filter(|name| !name.contains(NOT_RUN));
        let found: Vec<Test> = names.filter_map(|name| try_one(target, program, name, tree, scratch)).collect();
        let took: Duration = found.iter().map(|test| test.takes).sum();
        println!("{target}: {} tests, {took:.1?}", found.len());
        fs::write(known, found.iter().map(Test::line).collect::<String>()).expect("the work directory can be written");
        tests.extend(found);
    }
    tests
}

fn try_one(target: &str, program: &Path, name: &str, tree: &Path, scratch: &Path) -> Option<Test> {
    let seen = scratch.join("seen");
    let _ = fs::remove_file(&seen);
    let before = processor_time();
    let ran = run(program, &[name], &[("MAILRACE_MUTANT_SEEN", seen.to_str().expect("UTF-8"))], 600, tree);
    if ran.ending != Ending::Passed {
        println!("not used, it does not pass without a mutant: {target} {name}");
        return None;
    }
    let octets = fs::read(&seen).unwrap_or_default();
    let meets =
        octets.chunks_exact(4).map(|four| u32::from_le_bytes(four.try_into().expect("four")) as usize).collect();
    let (program, target, name) = (program.to_owned(), target.to_owned(), name.to_owned());
    Some(Test { program, target, name, takes: processor_time() - before, meets })
}

impl Test {
    /// Its name among those of all programs.
    pub fn id(&self) -> String {
        format!("{}:{}", self.target, self.name)
    }

    fn line(&self) -> String {
        let meets: Vec<String> = self.meets.iter().map(usize::to_string).collect();
        format!("{}\t{}\t{}\n", self.name, self.takes.as_micros(), meets.join(","))
    }

    fn of_line(target: &str, program: &Path, line: &str) -> Option<Self> {
        let mut fields = line.split('\t');
        let (name, takes, meets) = (fields.next()?.to_owned(), fields.next()?.parse().ok()?, fields.next()?);
        let meets = meets.split(',').filter_map(|number| number.parse().ok()).collect();
        let (program, target) = (program.to_owned(), target.to_owned());
        Some(Self { program, target, name, takes: Duration::from_micros(takes), meets })
    }
}

/// User and system time of the children that have ended.
fn processor_time() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).expect("there is such a call");
    let micros = |time: TimeVal| Duration::from_micros(time.num_microseconds() as u64);
    micros(usage.user_time()) + micros(usage.system_time())
}
