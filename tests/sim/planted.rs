//! The oracle's own test: faults of the kinds that lose mail, planted one at a time into a copy of the sources, must
//! each be found by the simulation within a thousand seeds.
//!
//! The short form only checks that each patch still applies. The long form builds the simulation once for each patch,
//! which takes minutes: `cargo test --test sim -- --ignored planted --nocapture`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const SEEDS: u32 = 1000;
const LEAST: usize = 10;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn patches() -> Vec<PathBuf> {
    let entries = fs::read_dir(root().join("tests/data/planted")).unwrap();
    let mut found: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    found.sort();
    found
}

fn name(patch: &Path) -> &str {
    patch.file_stem().unwrap().to_str().unwrap()
}

fn git_apply(directory: &Path, patch: &Path, options: &[&str]) -> Output {
    let mut command = Command::new("git");
    // A copy inside of a repository is not part of it.
    command.env("GIT_CEILING_DIRECTORIES", directory.parent().unwrap());
    // A line of context is enough: the sources change round about.
    command.args(["apply", "-C1"]).args(options).arg(patch).current_dir(directory).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn each_planted_fault_still_applies() {
    let patches = patches();
    assert!(patches.len() >= LEAST, "{} planted faults", patches.len());
    for patch in patches {
        let checked = git_apply(root(), &patch, &["--check"]);
        assert!(checked.status.success(), "{}: {}", name(&patch), said(&checked));
    }
}

/// Copies a directory, leaving alone what has not changed, so that a build goes on from the last one.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (source, target) = (entry.as_ref().unwrap().path(), to.join(entry.unwrap().file_name()));
        if source.is_dir() {
            copy(&source, &target);
        } else if fs::read(&target).ok() != Some(fs::read(&source).unwrap()) {
            fs::copy(&source, &target).unwrap();
        }
    }
}

/// A workspace of the engine and its simulation alone.
fn manifest() -> String {
    let text = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let workspace = text.split("\n[package]").next().unwrap();
    let workspace = workspace.replace("members = [\"shards\", \"perf\"]", "members = [\"shards\"]");
    let workspace = workspace.replace("default-members = [\".\", \"shards\", \"perf\"]\n", "");
    let profile = text.split("[profile.dev]").nth(1).map_or(String::new(), |rest| format!("[profile.dev]{rest}"));
    format!(
        "{workspace}\n[package]\nname = \"planted\"\nversion = \"0.1.0\"\nedition.workspace = true\nautotests = false\n\
         publish = false\n\n[lib]\npath = \"planted.rs\"\n\n[dev-dependencies]\nmailrace-shards.workspace = true\n\n\
         [[test]]\nname = \"sim\"\npath = \"tests/sim/main.rs\"\n\n{profile}"
    )
}

/// The target directory of this very build: the copy shares what it has compiled of other crates.
fn target() -> PathBuf {
    std::env::current_exe().unwrap().ancestors().nth(3).unwrap().to_owned()
}

/// What the simulation in `tree` says of its sources: the seed that failed and why, or nothing.
fn simulate(tree: &Path) -> Option<String> {
    let mut command = Command::new(env!("CARGO"));
    command.args([
        "test",
        "--offline",
        "--quiet",
        "--test",
        "sim",
        "seeds",
        "--",
        "--exact",
        "run::seeds",
        "--nocapture",
    ]);
    command.current_dir(tree).env("CARGO_TARGET_DIR", target());
    command.env("MAILRACE_SIM_SEEDS", SEEDS.to_string()).env("MAILRACE_SIM_STOP", "1");
    let output = command.output().unwrap();
    let said = said(&output);
    assert!(!said.contains("could not compile"), "{said}");
    let found = said.lines().find(|line| line.starts_with("MAILRACE_SIM_SEED="));
    assert_eq!(found.is_none(), output.status.success(), "{said}");
    found.map(str::to_owned)
}

#[test]
#[ignore = "builds the engine once for each planted fault: some minutes"]
fn planted_faults_are_found() {
    let tree = target().join("planted");
    for directory in ["shards", "benches", "tests/sim", "tests/data/planted"] {
        copy(&root().join(directory), &tree.join(directory));
    }
    for file in ["Cargo.lock", ".clippy.toml"] {
        fs::copy(root().join(file), tree.join(file)).unwrap();
    }
    fs::write(tree.join("Cargo.toml"), manifest()).unwrap();
    fs::write(tree.join("planted.rs"), "//! Nothing: the package is there for its test.\n").unwrap();
    let only = std::env::var("MAILRACE_SIM_PLANTED").unwrap_or_default();
    let mut missed = Vec::new();
    for patch in patches().iter().filter(|patch| name(patch).contains(&only)) {
        let applied = git_apply(&tree, patch, &[]);
        assert!(applied.status.success(), "{}: {}", name(patch), said(&applied));
        let found = simulate(&tree);
        let back = git_apply(&tree, patch, &["-R"]);
        assert!(back.status.success(), "{}: {}", name(patch), said(&back));
        println!("{}: {}", name(patch), found.as_deref().unwrap_or("NOT FOUND"));
        if found.is_none() {
            missed.push(name(patch).to_owned());
        }
    }
    assert!(missed.is_empty(), "not found within {SEEDS} seeds: {missed:?}");
}
