//! A copy of the repository with all mutants in it, built once. Mutants that do not compile are taken out, round by round.

use crate::list::Mutant;
use crate::weave::{Woven, weave};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const ROUNDS_MAX: usize = 40;
const TESTS: [&str; 9] = ["test", "--no-run", "--lib", "--test", "pure_*", "--test", "fuzz", "--test", "sim"];

/// The switch, as a module of the crate under test. `MAILRACE_MUTANT` names the one that is on; each number that a run
/// asks for is appended once to the file that `MAILRACE_MUTANT_SEEN` names, four octets each.
const SWITCH: &str = r#"//! The switch of the mutants.
use std::io::Write as _;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

const UNREAD: u32 = u32::MAX;
const NONE: u32 = u32::MAX - 1;
const LISTENING: u32 = u32::MAX - 2;
static ACTIVE: AtomicU32 = AtomicU32::new(UNREAD);
static SEEN: [AtomicBool; 16384] = [const { AtomicBool::new(false) }; 16384];

#[inline(always)]
pub fn on(number: u32) -> bool {
    let active = ACTIVE.load(Relaxed);
    if active < LISTENING { active == number } else { active != NONE && slow(number, active) }
}

#[cold]
#[inline(never)]
fn slow(number: u32, active: u32) -> bool {
    if active == UNREAD {
        let named = std::env::var("MAILRACE_MUTANT").ok().map(|text| text.parse().expect("a number"));
        let listening = std::env::var_os("MAILRACE_MUTANT_SEEN").is_some();
        ACTIVE.store(named.unwrap_or(if listening { LISTENING } else { NONE }), Relaxed);
        return on(number);
    }
    if !SEEN[number as usize].swap(true, Relaxed) {
        let path = std::env::var_os("MAILRACE_MUTANT_SEEN").expect("named");
        let mut file = std::fs::OpenOptions::new().append(true).create(true).open(path).expect("a file");
        file.write_all(&number.to_le_bytes()).expect("written");
    }
    false
}
"#;

/// What became of weaving and building.
pub struct Built {
    pub unviable: BTreeSet<usize>,
    pub left_out: BTreeSet<usize>,
    /// Test programs by target name.
    pub programs: Vec<(String, PathBuf)>,
    pub tree: PathBuf,
}

/// The programs of the last build, where nothing has changed since.
pub fn last(tree: &Path) -> Built {
    let text = fs::read_to_string(tree.join("programs.tsv")).expect("it was built before");
    let lines = text.lines().filter_map(|line| line.split_once('\t'));
    let programs = lines.map(|(target, program)| (target.to_owned(), PathBuf::from(program))).collect();
    Built { unviable: BTreeSet::new(), left_out: BTreeSet::new(), programs, tree: tree.to_owned() }
}

/// Copies what git knows of the repository, weaves and builds. The unviable ones of an earlier run may be given.
pub fn build(root: &Path, tree: &Path, mutants: &[Mutant], known: BTreeSet<usize>) -> Built {
    copy(root, tree);
    prepare(tree);
    let mut built = Built { unviable: known, left_out: BTreeSet::new(), programs: Vec::new(), tree: tree.to_owned() };
    for round in 1..=ROUNDS_MAX {
        let woven = weave_all(root, tree, mutants, &mut built);
        let messages = cargo(tree, &["test", "--no-run", "--lib"]);
        let errors = errors(&messages);
        if errors.is_empty() {
            built.programs = programs(&cargo(tree, &TESTS));
            let lines = built.programs.iter().map(|(target, program)| format!("{target}\t{}\n", program.display()));
            fs::write(tree.join("programs.tsv"), lines.collect::<String>()).expect("the copy can be written");
            return built;
        }
        let found = blame(&errors, &woven);
        println!("round {round}: {} errors, {} mutants do not compile", errors.len(), found.len());
        if found.iter().all(|number| built.unviable.contains(number)) {
            errors.iter().for_each(|error| println!("{}", error["rendered"].as_str().unwrap_or_default()));
            panic!("errors that no mutant explains");
        }
        built.unviable.extend(found);
    }
    panic!("not built in {ROUNDS_MAX} rounds");
}

fn copy(root: &Path, tree: &Path) {
    let listed = Command::new("git").current_dir(root).args(["ls-files", "-z"]).output().expect("git");
    for path in String::from_utf8(listed.stdout).expect("names in UTF-8").split_terminator('\0') {
        let target = tree.join(path);
        fs::create_dir_all(target.parent().expect("it is below the tree")).expect("a directory");
        write_if_other(&target, &fs::read(root.join(path)).unwrap_or_default());
    }
}

/// A file that stays as it is keeps its time, so that nothing is built anew for it.
fn write_if_other(path: &Path, content: &[u8]) {
    if fs::read(path).ok().as_deref() != Some(content) {
        fs::write(path, content).expect("the copy can be written");
    }
}

/// The switch goes in, warnings go out, and the simulation is built without the program.
fn prepare(tree: &Path) {
    let library = tree.join("shards/src/lib.rs");
    let text = fs::read_to_string(&library).expect("the library");
    write_if_other(
        &library,
        format!("#![allow(warnings, clippy::all)]\n{text}\n#[doc(hidden)]\npub mod mutant;\n").as_bytes(),
    );
    write_if_other(&tree.join("shards/src/mutant.rs"), SWITCH.as_bytes());
    let manifest = tree.join("shards/Cargo.toml");
    let text = fs::read_to_string(&manifest).expect("the manifest").replace("[lints]\nworkspace = true\n", "");
    let sim = "\n[[test]]\nname = \"sim\"\npath = \"../tests/sim/main.rs\"\n";
    let profile = "\n[profile.dev]\ndebug = 0\n[profile.dev.package.mailrace-shards]\nopt-level = 1\n[profile.dev.package.crc32fast]\nopt-level = 3\n";
    write_if_other(&manifest, format!("{text}{sim}").as_bytes());
    let workspace = tree.join("Cargo.toml");
    let text = fs::read_to_string(&workspace)
        .expect("the workspace")
        .replace("\n[profile.dev]\ndebug = \"line-tables-only\"\n", profile);
    write_if_other(&workspace, text.as_bytes());
}

fn weave_all(root: &Path, tree: &Path, mutants: &[Mutant], built: &mut Built) -> HashMap<String, Woven> {
    let mut by_file: BTreeMap<&str, Vec<(usize, &Mutant)>> = BTreeMap::new();
    for (number, mutant) in mutants.iter().enumerate() {
        let chosen = by_file.entry(&mutant.file).or_default();
        if !built.unviable.contains(&number) {
            chosen.push((number, mutant));
        }
    }
    built.left_out.clear();
    let mut woven = HashMap::new();
    for (file, chosen) in by_file {
        let result = weave(&fs::read_to_string(root.join(file)).expect("a source"), &chosen);
        write_if_other(&tree.join(file), result.text.as_bytes());
        built.left_out.extend(&result.left_out);
        woven.insert(file.to_owned(), result);
    }
    woven
}

fn cargo(tree: &Path, arguments: &[&str]) -> Vec<Value> {
    let mut command = Command::new("cargo");
    // What `cargo run` says of this tool would make some build scripts run anew.
    let of_this = std::env::vars_os().filter(|(name, _)| {
        name.to_str().is_some_and(|name| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST"))
    });
    of_this.for_each(|(name, _)| {
        command.env_remove(name);
    });
    let output = command
        .current_dir(tree)
        .args(arguments)
        .args(["-p", "mailrace-shards", "--offline", "--message-format", "json"])
        .output()
        .expect("cargo");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let messages: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    if !output.status.success() && errors(&messages).is_empty() {
        panic!("{}", String::from_utf8_lossy(&output.stderr));
    }
    messages
}

fn errors(messages: &[Value]) -> Vec<Value> {
    let of_compiler = messages.iter().filter(|message| message["reason"] == "compiler-message");
    let errors = of_compiler.map(|message| &message["message"]).filter(|message| message["level"] == "error");
    errors.filter(|message| message["spans"].as_array().is_some_and(|spans| !spans.is_empty())).cloned().collect()
}

/// Which mutants the errors stand in. An error beside a branch is laid to the nearest mutant before it.
fn blame(errors: &[Value], woven: &HashMap<String, Woven>) -> BTreeSet<usize> {
    let mut found = BTreeSet::new();
    for error in errors {
        let spans = error["spans"].as_array().into_iter().flatten();
        let inside: Vec<usize> = spans.clone().filter_map(|span| within(span, woven)).collect();
        if inside.is_empty() {
            let primary = spans.clone().filter(|span| span["is_primary"] == true);
            let nearest: Vec<usize> = primary.filter_map(|span| nearest(span, woven)).collect();
            println!("beside a mutant: {}", error["rendered"].as_str().unwrap_or_default());
            found.extend(nearest);
        }
        found.extend(inside);
    }
    found
}

fn place<'a>(span: &Value, woven: &'a HashMap<String, Woven>) -> Option<(&'a Woven, usize)> {
    let woven = woven.get(span["file_name"].as_str()?)?;
    Some((woven, span["byte_start"].as_u64()? as usize))
}

fn within(span: &Value, woven: &HashMap<String, Woven>) -> Option<usize> {
    let (woven, at) = place(span, woven)?;
    woven.branches.iter().find(|(_, range)| range.contains(&at)).map(|(number, _)| *number)
}

fn nearest(span: &Value, woven: &HashMap<String, Woven>) -> Option<usize> {
    let (woven, at) = place(span, woven)?;
    woven
        .branches
        .iter()
        .filter(|(_, range)| range.end <= at)
        .max_by_key(|(_, range)| range.end)
        .map(|(number, _)| *number)
}

fn programs(messages: &[Value]) -> Vec<(String, PathBuf)> {
    let built = messages.iter().filter(|message| message["reason"] == "compiler-artifact");
    let programs = built.filter(|message| message["profile"]["test"] == true).filter_map(|message| {
        Some((message["target"]["name"].as_str()?.to_owned(), PathBuf::from(message["executable"].as_str()?)))
    });
    programs.collect()
}
