//! Every scenario at a small size: it runs to its end and its result says what was asked.
//!
//! With the engine beside the harness it is measured; without it, the generator talks to the sink.

#![allow(clippy::unwrap_used, reason = "a test fails by panic")]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_mailrace-perf");

/// The engine, if it was built.
fn engine() -> Option<std::path::PathBuf> {
    let engine = Path::new(PROGRAM).with_file_name("mailrace");
    if !engine.is_file() {
        eprintln!("SKIPPED: there is no {}; build it to measure it here", engine.display());
        return None;
    }
    Some(engine)
}

/// Runs the harness in a directory of its own; the exit code and the result.
fn run(words: &[&str]) -> (Option<i32>, Value) {
    let directory = tempfile::tempdir().unwrap();
    let json = directory.path().join("result.json");
    let mut command = Command::new(PROGRAM);
    command.args(words).arg("--work-dir").arg(directory.path()).arg("--json").arg(&json);
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    let text = std::fs::read(&json).unwrap_or_else(|error| panic!("{words:?}: {error}\n{errors}"));
    (output.status.code(), serde_json::from_slice(&text).unwrap())
}

#[test]
fn every_scenario_delivers_all_of_its_mail() {
    if engine().is_none() {
        return;
    }
    let rows: [(&str, &[&str]); 7] = [
        ("canonical", &["--messages=300"]),
        ("large", &["--messages=60"]),
        ("many_domains", &["--messages=1000", "--domains=1000"]),
        ("one_hot_domain", &["--messages=300"]),
        ("distant_peers", &["--messages=40", "--sink-line-ms=5"]),
        ("tls", &["--messages=300"]),
        ("deferral_storm", &["--messages=20", "--retry-seconds=1", "--sink-tempfail=0.3"]),
    ];
    for (scenario, words) in rows {
        let words = [&["run", scenario, "--warm-up=10", "--no-syscalls"], words].concat();
        let (code, result) = run(&words);
        assert_eq!(code, Some(0), "{scenario}: {result}");
        assert_eq!((&result["lost"], &result["duplicates"]), (&0.into(), &0.into()), "{scenario}: {result}");
        assert_eq!(result["asked"]["scenario"], scenario);
        let secured = result["rounds"][0]["sink_tls_messages"].as_u64().unwrap();
        assert_eq!(secured, if scenario == "tls" { 300 } else { 0 }, "{scenario}: {result}");
        assert!(result["cpu_us_per_message"].as_f64().unwrap() > 0.0, "{scenario}: {result}");
    }
}

#[test]
fn a_backlog_is_held_and_all_of_it_leaves() {
    if engine().is_none() {
        return;
    }
    let (code, result) = run(&["run", "backlog", "--messages=3000", "--warm-up=10"]);
    assert_eq!(code, Some(0), "{result}");
    assert_eq!((&result["queued"], &result["delivered"]), (&3_000.into(), &3_000.into()), "{result}");
    assert_eq!((&result["lost"], &result["duplicates"]), (&0.into(), &0.into()), "{result}");
    for call in ["pause_ms_empty", "release_ms_empty", "pause_ms_full", "release_ms_full"] {
        assert!(result[call]["max"].as_f64().unwrap() > 0.0, "{call}: {result}");
    }
}

#[test]
fn answers_are_timed_at_each_share_of_the_capacity() {
    let words = ["run", "latency", "--mta=none", "--messages=2000", "--warm-up=0", "--seconds=1", "--loads=10,20"];
    let (code, result) = run(&words);
    assert_eq!(code, Some(0), "{result}");
    let capacity = result["capacity_per_second"].as_f64().unwrap();
    for (load, share) in result["loads"].as_array().unwrap().iter().zip([0.1, 0.2]) {
        assert!((load["rate"].as_f64().unwrap() - share * capacity).abs() < 1.0, "{result}");
        assert!(load["latency_ms"]["p999"].as_f64().unwrap() > 0.0, "{result}");
    }
}

#[test]
fn two_settings_of_the_engine_are_compared() {
    if engine().is_none() {
        return;
    }
    let words = ["compare", "mailrace", "--scenario=one_hot_domain", "--opponent-with=--lanes=1 --shards=1"];
    let small = ["--messages=200", "--warm-up=10", "--rounds=1", "--no-syscalls"];
    let (code, result) = run(&[&words[..], &small].concat());
    assert_eq!(code, Some(0), "{result}");
    assert_eq!(result["rounds"].as_array().map(Vec::len), Some(2), "{result}");
    assert!(result["cpu_ratio"].as_f64().unwrap() > 0.0, "{result}");
}

#[test]
fn a_long_line_bounds_each_connection_to_a_message_for_each_round_trip() {
    let words = ["run", "distant_peers", "--mta=none", "--messages=60", "--warm-up=0", "--connections=10"];
    let (code, result) = run(&[&words[..], &["--sink-line-ms=20", "--pipelining=full"]].concat());
    assert_eq!(code, Some(0), "{result}");
    assert_eq!(result["connections_at_once"], 10, "{result}");
    // Nobody gets more than one message through in 40 ms; the last reply, which is not counted, is a sixth of the time.
    let each = result["delivered_per_second_per_connection"].as_f64().unwrap();
    assert!(each <= 25.0 * 1.2, "{result}");
    assert!(result["latency_ms"]["p50"].as_f64().unwrap() >= 40.0, "{result}");
}

#[test]
fn a_server_that_runs_already_is_measured_by_its_ports_and_its_process() {
    // Another sink stands in for a server: it takes mail and delivers none, which is what is reported of it.
    let mut server =
        Command::new(PROGRAM).args(["sink", "--control"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(server.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let target = format!("--target={}", line.trim().strip_prefix("listening ").unwrap());
    let pid = format!("--server-pid={}", server.id());
    let words = ["run", "canonical", "--mta=external", "--messages=50", "--warm-up=0", "--patience=1", &target, &pid];
    let output = Command::new(PROGRAM).args(words).output().unwrap();
    drop(server.stdin.take());
    assert!(server.wait().unwrap().success(), "the harness ended a server that it did not start");
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(errors.contains("accepted mail and delivered none of it"), "{errors}");
}

#[test]
fn an_engine_that_answers_before_the_sync_is_seen_to_do_so() {
    if engine().is_none() {
        return;
    }
    for (sync, expected) in [("always", Some(0)), ("interval", Some(1))] {
        let sync = format!("--sync={sync}");
        let (code, result) = run(&["run", "canonical", "--messages=100", "--warm-up=0", "--no-syscalls", &sync]);
        let durability = &result["rounds"][0]["durability"];
        if !durability["unavailable"].is_null() {
            eprintln!("SKIPPED: {durability}");
            return;
        }
        assert_eq!(code, expected, "{result}");
        assert_eq!(durability["acknowledged"], 200, "{durability}");
        if code == Some(0) {
            assert_eq!(durability["synced_before"], 200, "{durability}");
        } else {
            assert!(durability["violations"].as_u64().unwrap() > 100, "{durability}");
        }
    }
}

#[test]
fn several_processes_of_the_sink_are_one() {
    let words = ["run", "canonical", "--mta=none", "--messages=2000", "--warm-up=100", "--sink-processes=3"];
    let (code, result) = run(&words);
    assert_eq!(code, Some(0), "{result}");
    assert_eq!((&result["delivered"], &result["lost"], &result["duplicates"]), (&2_000.into(), &0.into(), &0.into()));
    assert_eq!(result["rounds"][0]["sink_connections"], 50, "{result}");
}

#[test]
fn half_of_a_storm_is_refused_and_the_result_says_so() {
    let (code, result) = run(&["run", "deferral_storm", "--mta=none", "--messages=1000", "--warm-up=0"]);
    assert_eq!(code, Some(1), "{result}");
    let delivered = result["delivered"].as_u64().unwrap();
    assert!((400..600).contains(&delivered), "{result}");
    assert_eq!(result["rounds"][0]["refused"]["451"], 1_000 - delivered, "{result}");
}

#[test]
fn a_dropped_connection_loses_no_count() {
    let words = ["run", "canonical", "--mta=none", "--messages=200", "--warm-up=0", "--sink-drop=0.1"];
    let (code, result) = run(&words);
    assert_eq!(code, Some(1), "{result}");
    let round = &result["rounds"][0];
    let dropped = round["failures"]["closed by the server"].as_u64().unwrap();
    assert!(dropped > 0, "{result}");
    assert_eq!(result["delivered"].as_u64().unwrap() + dropped, 200, "{result}");
    assert_eq!(result["lost"], 0, "{result}");
}
