//! The style gate: rules of the house that neither `rustfmt` nor clippy holds. Every violation is listed with
//! its file and line at once. The rules and their tables are in `tidy/checks.rs`.

#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

#[path = "tidy/checks.rs"]
mod checks;
#[path = "tidy/source.rs"]
mod source;

use checks::{LONGER, Violation, check};
use source::Source;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

const ROOTS: [&str; 6] = ["shards/src", "shards/tests", "src", "perf/src", "tests", "benches"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file below the directory, in order; none if there is no such directory.
fn rust_files(directory: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn sources() -> Vec<Source> {
    let mut files = Vec::new();
    for directory in ROOTS {
        rust_files(&root().join(directory), &mut files);
    }
    files
        .iter()
        .map(|file| {
            let path = file.strip_prefix(root()).unwrap().to_str().unwrap();
            Source::new(path, &fs::read_to_string(file).unwrap())
        })
        .collect()
}

/// The files (without `.rs`) of modules that are compiled for tests only.
fn test_files(sources: &[Source]) -> Vec<String> {
    let mut found = Vec::new();
    for source in sources {
        let path = source.path.trim_end_matches(".rs");
        let (directory, stem) = path.rsplit_once('/').unwrap_or(("", path));
        let below = if matches!(stem, "mod" | "lib" | "main") { directory } else { path };
        for name in source.test_modules() {
            // A `#[path]` puts it beside the file instead of below it.
            found.push(format!("{below}/{name}"));
            found.push(format!("{directory}/{name}"));
            found.push(format!("{directory}/{stem}_{name}"));
        }
    }
    found
}

fn is_test_path(path: &str, test_files: &[String]) -> bool {
    let whole = ["tests/", "benches/", "shards/tests/"];
    let stem = path.trim_end_matches(".rs");
    whole.iter().any(|directory| path.starts_with(directory))
        || test_files
            .iter()
            .any(|file| stem == file || stem.strip_prefix(file.as_str()).is_some_and(|s| s.starts_with('/')))
}

fn violations(sources: &[Source]) -> Vec<Violation> {
    let test_files = test_files(sources);
    let mut found = Vec::new();
    for source in sources {
        let whole = is_test_path(&source.path, &test_files);
        found.extend(check(source, &|at| whole || source.in_tests(at)));
    }
    found.sort();
    found
}

#[test]
fn the_sources_keep_the_rules_of_the_house() {
    let sources = sources();
    assert!(sources.len() > 20, "the sources were not found below {}", root().display());
    let mut listed = String::new();
    let found = violations(&sources);
    for violation in &found {
        writeln!(listed, "{}:{}: {}", violation.path, violation.line, violation.what).unwrap();
    }
    assert!(found.is_empty(), "{} violations\n{listed}", found.len());
}

#[test]
fn every_exception_is_still_needed_and_says_why() {
    let sources = sources();
    for longer in LONGER {
        assert!(longer.reason.split_whitespace().count() > 3, "{}: give a reason", longer.path);
        let source = sources.iter().find(|source| source.path == longer.path);
        let source = source.unwrap_or_else(|| panic!("{}: no such file", longer.path));
        let is_there = longer.function.is_none_or(|name| source.functions().iter().any(|f| f.name == name));
        assert!(is_there, "{}: no such function", longer.path);
    }
}

#[test]
fn the_load_harness_depends_on_nothing_of_ours() {
    let manifest = fs::read_to_string(root().join("perf/Cargo.toml")).unwrap();
    let names: Vec<_> = manifest.lines().filter(|line| line.contains("mailrace")).collect();
    assert!(names.iter().all(|line| line.starts_with("name = ") || line.starts_with("description = ")), "{names:?}");
}

/// What the gate says of one file.
fn judged(path: &str, text: &str) -> Vec<String> {
    let found = violations(&[Source::new(path, text)]);
    found.iter().map(|violation| format!("{}: {}", violation.line, violation.what)).collect()
}

#[test]
fn each_rule_finds_what_breaks_it() {
    let long_function = format!("//! x\nfn long() {{\n{}}}\n", "    a();\n".repeat(79));
    let long_file = format!("//! x\n{}", "\n".repeat(500));
    let cases = [
        (
            "shards/src/queue/a.rs",
            "//! x\nuse crate::{time, path::Site};\n",
            "2: `crate::path::Site`: `queue` does not import",
        ),
        (
            "shards/src/queue/a.rs",
            "//! x\nfn f() -> crate::rules::Rule {}\n",
            "2: `crate::rules::Rule`: `queue` does not",
        ),
        (
            "shards/src/queue/a.rs",
            "//! x\nuse super::super::dns;\n",
            "2: `super::super::dns`: `queue` does not import `dns`",
        ),
        (
            "shards/src/shard/a.rs",
            "//! x\nuse crate::runtime::Clock;\n",
            "2: `crate::runtime::Clock`: `shard` does not",
        ),
        ("shards/src/time.rs", "//! x\nuse crate::queue;\n", "2: `crate::queue`: `time` does not import `queue`"),
        ("shards/src/misc.rs", "//! x\n", "1: module `misc` has no layer"),
        ("shards/src/dns/a.rs", "//! x\nuse mailrace::json;\n", "2: `mailrace::json`: this crate does not know"),
        (
            "perf/src/a.rs",
            "//! x\nuse mailrace_shards::time;\n",
            "2: `mailrace_shards::time`: this crate does not know",
        ),
        ("shards/src/queue/a.rs", "//! x\nuse glommio;\n", "2: `glommio`: `glommio` is named only in"),
        (
            "src/control.rs",
            "//! x\ntype A = rusqlite::Connection;\n",
            "2: `rusqlite::Connection`: `rusqlite` is named only",
        ),
        (
            "shards/src/dns/a.rs",
            "//! x\nuse std::{\n    fs::File,\n};\n",
            "2: `std::fs::File`: the file system belongs",
        ),
        ("shards/src/dns/a.rs", "//! x\nfn f() { Instant::now(); }\n", "2: `Instant::now`: a clock belongs"),
        ("shards/src/dns/a.rs", "//! x\nfn f() { println!(); }\n", "2: `println!` does not stay"),
        ("src/a.rs", "//! x\nfn f() { todo!() }\n", "2: `todo!` does not stay"),
        ("src/a.rs", "//! x\nfn f() { g().unwrap(); }\n", "2: `unwrap` outside tests"),
        ("src/a.rs", "//! x\nfn f() { g().expect(\"works\"); }\n", "2: `expect(\"works\")` does not say why"),
        ("src/a.rs", "// x\n", "1: a file opens with"),
        ("src/a.rs", &long_function, "2: fn long has 81 lines, at most 80"),
        ("src/a.rs", &long_file, "1: 501 lines, at most 500"),
    ];
    for (path, text, expected) in cases {
        let found = judged(path, text);
        assert!(found.len() == 1 && found[0].starts_with(expected), "{path}: {text}\nfound {found:?}");
    }
}

#[test]
fn what_keeps_the_rules_is_let_through() {
    let cases = [
        ("shards/src/queue/a.rs", "//! x\nuse crate::{time::Now, queue::b};\nuse super::path_of;\nuse super::path;\n"),
        ("shards/src/shard/mod.rs", "//! x\nuse crate::{event, rules, smtp};\n"),
        ("shards/src/runtime/clock.rs", "//! x\nuse std::time::SystemTime;\nuse crate::shard;\nuse glommio::Task;\n"),
        (
            "shards/src/dns/a.rs",
            "//! x\n// Instant::now() is not called: `x.unwrap()`.\nconst A: &str = r#\"todo!()\"#;\n",
        ),
        (
            "shards/src/dns/a.rs",
            "//! x\n#[cfg(test)]\nmod tests {\n    use super::path;\n    fn f<'a>() { a('\"').unwrap(); }\n}\n",
        ),
        ("shards/tests/a.rs", "//! x\nfn f() { std::fs::read(\"a\").unwrap(); }\n"),
        ("src/a.rs", "//! x\nfn f() { g().expect(\"it was made one line above\"); g().unwrap_or(1); }\n"),
    ];
    for (path, text) in cases {
        assert_eq!(judged(path, text), Vec::<String>::new(), "{path}: {text}");
    }
}

#[test]
fn a_file_of_tests_is_known_by_the_module_that_declares_it() {
    let sources = [
        Source::new("src/store.rs", "//! x\n#[cfg(test)]\n#[path = \"store_tests.rs\"]\nmod tests;\nmod other;\n"),
        Source::new("src/store_tests.rs", "//! x\nfn f() { g().unwrap(); }\n"),
        Source::new("src/other.rs", "//! x\nfn f() { g().unwrap(); }\n"),
    ];
    let found: Vec<String> = violations(&sources).into_iter().map(|violation| violation.path).collect();
    assert_eq!(found, ["src/other.rs"]);
}
