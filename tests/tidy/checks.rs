//! What the style gate holds: the tables, and one function for each rule. A rule returns every violation it
//! finds, never only the first.

use crate::source::{Source, find_words};

/// A broken rule at one place.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Violation {
    pub path: String,
    pub line: usize,
    pub what: String,
}

/// Lines of a file, tests included.
const FILE_LINES_MAX: usize = 500;
/// Lines of a function, from its name to its closing brace.
const FUNCTION_LINES_MAX: usize = 80;

/// A file, or a function in it, that may be longer, and why it is better so.
pub struct Longer {
    pub path: &'static str,
    pub function: Option<&'static str>,
    pub reason: &'static str,
}

/// Keep this empty if at all possible.
pub const LONGER: &[Longer] = &[];

const BASE: &[&str] = &["message", "outcome", "limits", "time", "route", "settings"];
const MIDDLE: &[&str] = &["queue", "path", "smtp", "dns", "spool", "rules"];

/// For each crate that has a door: who may name it. A name that ends with a slash is a directory.
const DOORS: &[(&str, &[&str])] = &[
    ("glommio", &["shards/src/runtime/", "shards/tests/"]),
    ("io_uring", &["shards/src/runtime/ring.rs"]),
    ("hickory_proto", &["shards/src/dns/query.rs", "shards/tests/", "perf/src/"]),
    ("rustls", &["shards/src/runtime/tls.rs", "src/http/tls.rs", "src/certificate.rs", "tests/", "perf/src/"]),
    ("rusqlite", &["src/rules/store.rs", "src/rules/store/", "src/rules/store_tests.rs"]),
    ("httparse", &["src/http/parse.rs"]),
    ("ureq", &["src/client/http.rs", "src/cluster/etcd/http.rs"]),
];

/// What the engine names only under `runtime/`, and what it is.
const OUTSIDE_WORLD: &[(&str, &str)] = &[
    ("std::time::SystemTime", "a clock"),
    ("std::time::Instant", "a clock"),
    ("std::fs", "the file system"),
    ("std::thread", "threads"),
    ("std::process", "processes"),
    ("std::env", "the environment"),
    ("std::net::TcpStream", "sockets"),
    ("std::net::TcpListener", "sockets"),
    ("std::net::UdpSocket", "sockets"),
    ("std::os::unix::net", "sockets"),
    ("std::collections::hash_map::RandomState", "randomness"),
    ("std::hash::RandomState", "randomness"),
    ("rand", "randomness"),
    ("fastrand", "randomness"),
    ("getrandom", "randomness"),
    ("socket2", "sockets"),
    ("libc", "system calls"),
];

/// Macros that no source keeps, those that the engine does not (it reports by events and records), and those
/// that are left to its runtime.
const UNFINISHED: &[&str] = &["todo", "unimplemented", "dbg"];
const PRINTING: &[&str] = &["println", "print"];
const COMPLAINING: &[&str] = &["eprintln", "eprint"];

/// Runs every rule. `is_test` says of a place whether it is compiled for tests only.
pub fn check(source: &Source, is_test: &dyn Fn(usize) -> bool) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut report = |at: usize, what: String| {
        found.push(Violation { path: source.path.clone(), line: source.line(at), what });
    };
    opening(source, &mut report);
    lengths(source, &mut report);
    layers(source, &mut report);
    doors(source, &mut report);
    outside_world(source, is_test, &mut report);
    macros(source, is_test, &mut report);
    proofs(source, is_test, &mut report);
    found
}

type Report<'a> = dyn FnMut(usize, String) + 'a;

fn opening(source: &Source, report: &mut Report<'_>) {
    if !source.text.starts_with("//! ") {
        report(0, "a file opens with a `//!` that says what it is".into());
    }
}

fn lengths(source: &Source, report: &mut Report<'_>) {
    let excused =
        |function: Option<&str>| LONGER.iter().any(|longer| longer.path == source.path && longer.function == function);
    let lines = source.text.lines().count();
    if lines > FILE_LINES_MAX && !excused(None) {
        report(0, format!("{lines} lines, at most {FILE_LINES_MAX}"));
    }
    for function in source.functions() {
        if function.lines > FUNCTION_LINES_MAX && !excused(Some(&function.name)) {
            let what = format!("fn {} has {} lines, at most {FUNCTION_LINES_MAX}", function.name, function.lines);
            report(function.at, what);
        }
    }
}

/// Imports go one way, as the engine's `lib.rs` says.
fn layers(source: &Source, report: &mut Report<'_>) {
    for (at, path) in source.paths() {
        let first = path.split("::").next().unwrap_or_default();
        let refused: &[&str] = match source.path.split_once('/').map_or("", |(root, _)| root) {
            "perf" => &["mailrace", "mailrace_shards"],
            "shards" => &["mailrace", "mailrace_perf"],
            _ => &["mailrace_perf"],
        };
        // A module of the same name, declared here, is not the crate.
        let is_module = source.code.contains(&format!("mod {first};"));
        if refused.contains(&first) && !is_module {
            report(at, format!("`{path}`: this crate does not know `{first}`"));
        }
    }
    let Some(inside) = source.path.strip_prefix("shards/src/") else { return };
    let own = inside.split('/').next().unwrap_or_default().trim_end_matches(".rs");
    if own == "lib" {
        return;
    }
    let Some(allowed) = may_import(own) else {
        report(0, format!("module `{own}` has no layer: give it one in the style gate"));
        return;
    };
    for (at, path) in source.paths() {
        let Some(module) = module_named(source, inside, at, &path) else { continue };
        if module != own && is_module(&module) && !allowed.contains(&module.as_str()) {
            report(at, format!("`{path}`: `{own}` does not import `{module}`"));
        }
    }
}

fn is_module(name: &str) -> bool {
    may_import(name).is_some()
}

/// The engine's modules that this one may import; `None` for a name that is none of them.
fn may_import(module: &str) -> Option<Vec<&'static str>> {
    match module {
        "runtime" => Some([BASE, MIDDLE, &["shard", "event"]].concat()),
        "shard" => Some([BASE, MIDDLE, &["event"]].concat()),
        "event" => Some([BASE, MIDDLE].concat()),
        _ if MIDDLE.contains(&module) || BASE.contains(&module) => Some(BASE.to_vec()),
        _ => None,
    }
}

/// The top-level module that a path from `crate` or from `super` leads to.
fn module_named(source: &Source, inside: &str, at: usize, path: &str) -> Option<String> {
    let mut segments: Vec<&str> = path.split("::").collect();
    match segments[0] {
        "crate" => segments.get(1).map(|name| (*name).to_owned()),
        "super" => {
            let ups = segments.iter().take_while(|segment| **segment == "super").count();
            segments.drain(..ups);
            let names = inside.trim_end_matches(".rs").split('/').filter(|name| *name != "mod").count();
            let depth = names + source.module_depth(at);
            (ups == depth).then(|| segments.first().map(|name| (*name).to_owned()))?
        }
        _ => None,
    }
}

fn doors(source: &Source, report: &mut Report<'_>) {
    for (at, path) in source.paths() {
        let first = path.split("::").next().unwrap_or_default();
        let Some((name, allowed)) = DOORS.iter().find(|(name, _)| *name == first) else { continue };
        let is_open =
            allowed.iter().any(|door| source.path == *door || (door.ends_with('/') && source.path.starts_with(door)));
        if !is_open {
            report(at, format!("`{path}`: `{name}` is named only in {}", allowed.join(", ")));
        }
    }
}

/// Decisions read no clock, no randomness, no file, and start nothing.
fn outside_world(source: &Source, is_test: &dyn Fn(usize) -> bool, report: &mut Report<'_>) {
    if !source.path.starts_with("shards/src/") || source.path.starts_with("shards/src/runtime/") {
        return;
    }
    for (at, path) in source.paths() {
        if is_test(at) {
            continue;
        }
        let is_under =
            |name: &str| path.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"));
        let refused = OUTSIDE_WORLD.iter().find(|(name, _)| is_under(name));
        let clock = path.ends_with("Instant::now") || path.ends_with("SystemTime::now");
        let what = refused.map(|(_, what)| *what).or(clock.then_some("a clock"));
        if let Some(what) = what {
            report(at, format!("`{path}`: {what} belongs to runtime/"));
        }
    }
}

fn macros(source: &Source, is_test: &dyn Fn(usize) -> bool, report: &mut Report<'_>) {
    let engine = source.path.starts_with("shards/src/");
    let runtime = source.path.starts_with("shards/src/runtime/");
    let printing = if engine { PRINTING } else { &[] };
    let complaining = if engine && !runtime { COMPLAINING } else { &[] };
    for name in UNFINISHED.iter().chain(printing).chain(complaining) {
        for at in find_words(&source.code, name) {
            if source.code[at + name.len()..].starts_with('!') && !is_test(at) {
                report(at, format!("`{name}!` does not stay in the source"));
            }
        }
    }
}

/// Outside tests nothing is unwrapped without a word, and what is expected says why it holds.
fn proofs(source: &Source, is_test: &dyn Fn(usize) -> bool, report: &mut Report<'_>) {
    for at in find_words(&source.code, "unwrap") {
        let called = source.code[..at].ends_with('.') && source.code[at..].starts_with("unwrap()");
        if called && !is_test(at) {
            report(at, "`unwrap` outside tests: handle it, or `expect` with its proof".into());
        }
    }
    for at in find_words(&source.code, "expect") {
        let call = source.code[..at].ends_with('.') && source.code[at..].starts_with("expect(");
        let argument = source.text[at + "expect".len()..].trim_start_matches('(').trim_start();
        let Some(words) = argument.strip_prefix('"').and_then(|text| text.split('"').next()) else { continue };
        if call && !is_test(at) && words.split_whitespace().count() < 3 {
            report(at, format!("`expect(\"{words}\")` does not say why it holds"));
        }
    }
}
