//! The harness as its operators see it: the program, its processes, its exit codes, its JSON.
//!
//! Everything runs against our own sink over loopback; no mail server is needed.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a test of a load harness reads clocks, and fails by panic"
)]

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_mailrace-perf");

/// A sink with its control channel.
struct Sink {
    child: Child,
    commands: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    address: String,
}

impl Sink {
    fn start(arguments: &[&str]) -> Sink {
        let mut child = Command::new(PROGRAM)
            .args(["sink", "--control"])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let commands = child.stdin.take();
        let mut answers = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        answers.read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening ").unwrap().to_owned();
        Sink { child, commands, answers, address }
    }

    fn ask(&mut self, command: &str) -> Value {
        writeln!(self.commands.as_mut().unwrap(), "{command}").unwrap();
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn generate(target: &str, arguments: &[&str]) -> (Option<i32>, Value) {
    let output = Command::new(PROGRAM).args(["generate", "--target", target]).args(arguments).output().unwrap();
    let value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    (output.status.code(), value)
}

#[test]
fn every_message_is_counted_once_in_every_way_of_sending() {
    for pipelining in ["none", "envelope", "full"] {
        for sink_arguments in [&[][..], &["--sink-messages-per-connection=7"], &["--sink-delay-ms=2"]] {
            for more in [&[][..], &["--messages-per-connection=5"], &["--spread=random", "--size=70000"]] {
                let mut sink = Sink::start(sink_arguments);
                sink.ask("reset 1 600");
                let mut arguments = vec!["--messages=600", "--connections=10", "--pipelining", pipelining];
                arguments.extend(more);
                let (_, sent) = generate(&sink.address, &arguments);
                let seen = sink.ask("report");
                let name = format!("{pipelining}, {sink_arguments:?}, {more:?}:\n{sent}\n{seen}");
                assert_eq!(seen["delivered"], sent["accepted"], "{name}");
                assert_eq!(seen["duplicates"], 0, "{name}");
                assert_eq!(seen["foreign"], 0, "{name}");
                assert_eq!(seen["totals"]["protocol_errors"], 0, "{name}");
                assert_eq!(sent["uncertain"], 0, "{name}");
                // Each number has one outcome: accepted, refused (here only by 421), or unsent because of a 421 before it.
                let count = |value: &Value| value.as_u64().unwrap();
                let refused: u64 = sent["refused"].as_object().unwrap().values().map(count).sum();
                assert_eq!(count(&sent["accepted"]) + refused + count(&sent["unsent"]), 600, "{name}");
                if sink_arguments != ["--sink-messages-per-connection=7"] {
                    assert_eq!(sent["accepted"], 600, "{name}");
                }
            }
        }
    }
}

#[test]
fn refusals_are_counted_by_code_wherever_they_happen() {
    for stage in ["mail", "rcpt", "dot"] {
        for pipelining in ["none", "envelope", "full"] {
            let stage_argument = format!("--sink-refuse-at={stage}");
            let mut sink = Sink::start(&["--sink-tempfail=0.2", "--sink-permfail=0.1", &stage_argument]);
            sink.ask("reset 1 1000");
            let (code, sent) = generate(&sink.address, &["--messages=1000", "--pipelining", pipelining]);
            let seen = sink.ask("report");
            let name = format!("{stage}, {pipelining}:\n{sent}\n{seen}");
            assert_eq!(code, Some(1), "{name}");
            assert_eq!(sent["refused"]["451"], seen["totals"]["tempfailed"], "{name}");
            assert_eq!(sent["refused"]["550"], seen["totals"]["permfailed"], "{name}");
            assert_eq!(sent["accepted"], seen["delivered"], "{name}");
            assert!(sent["accepted"].as_u64().is_some_and(|accepted| (600..800).contains(&accepted)), "{name}");
            assert_eq!(seen["totals"]["protocol_errors"], 0, "{name}");
        }
    }
}

#[test]
fn the_open_loop_keeps_its_rate() {
    let sink = Sink::start(&[]);
    let (code, sent) = generate(&sink.address, &["--messages=500", "--rate=500", "--connections=5"]);
    assert_eq!(code, Some(0), "{sent}");
    let rate = sent["accepted_per_second"].as_f64().unwrap();
    assert!((400.0..600.0).contains(&rate), "{sent}");
}

#[test]
fn the_generator_ends_though_the_server_never_answers() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = listener.local_addr().unwrap().to_string();
    let start = Instant::now();
    let (code, sent) = generate(&target, &["--messages=10", "--time-limit=1"]);
    assert!(start.elapsed() < Duration::from_secs(5));
    assert_eq!((code, &sent["accepted"], &sent["unsent"]), (Some(1), &Value::from(0), &Value::from(10)), "{sent}");
}

#[test]
fn a_message_without_an_answer_is_uncertain_and_never_sent_again() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = listener.local_addr().unwrap().to_string();
    // Takes each message and closes without an answer.
    let server = thread::spawn(move || {
        for _ in 0..3 {
            let (stream, _) = listener.accept().unwrap();
            swallow(&stream);
        }
    });
    let (_, sent) = generate(&target, &["--messages=3", "--connections=1", "--pipelining=none", "--time-limit=20"]);
    assert_eq!((&sent["accepted"], &sent["uncertain"], &sent["unsent"]), (&0.into(), &3.into(), &0.into()), "{sent}");
    server.join().unwrap();
}

fn swallow(mut stream: &TcpStream) {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    stream.write_all(b"220 hello\r\n").unwrap();
    for reply in ["250 hello\r\n", "250 ok\r\n", "250 ok\r\n", "354 go on\r\n"] {
        lines.next().unwrap().unwrap();
        stream.write_all(reply.as_bytes()).unwrap();
    }
    lines.find(|line| line.as_ref().unwrap() == ".").unwrap().unwrap();
}

#[test]
fn the_sink_ends_with_its_control_channel() {
    let mut sink = Sink::start(&[]);
    sink.commands = None;
    let start = Instant::now();
    while sink.child.try_wait().unwrap().is_none() {
        assert!(start.elapsed() < Duration::from_secs(5), "the sink lives on");
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_connection_beyond_the_limit_is_greeted_with_421() {
    let mut sink = Sink::start(&["--sink-connections=1"]);
    let first = TcpStream::connect(&sink.address).unwrap();
    let mut line = String::new();
    BufReader::new(&first).read_line(&mut line).unwrap();
    assert!(line.starts_with("220 "), "{line}");
    line.clear();
    BufReader::new(TcpStream::connect(&sink.address).unwrap()).read_line(&mut line).unwrap();
    assert!(line.starts_with("421 "), "{line}");
    assert_eq!(sink.ask("report")["totals"]["connections_refused"], 1);
}

fn run(json: &PathBuf, arguments: &[&str]) -> Output {
    let directory = json.parent().unwrap();
    let command = &mut Command::new(PROGRAM);
    command.args(["run", "canonical", "--messages=2000", "--json"]).arg(json).arg("--work-dir").arg(directory);
    command.args(arguments).output().unwrap()
}

#[test]
fn a_round_without_a_server_reports_exact_counts() {
    let directory = tempfile::tempdir().unwrap();
    let json = directory.path().join("result.json");
    let output = run(&json, &["--mta=none", "--rounds=2"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let result: Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    assert_eq!((&result["messages"], &result["lost"], &result["duplicates"]), (&4_000.into(), &0.into(), &0.into()));
    assert_eq!(result["cpu_us_per_message"], Value::Null);
    assert_eq!(result["rounds"].as_array().unwrap().len(), 2);
    assert!(result["delivered_per_second"].as_f64().unwrap() > 100.0);
    assert!(result["machine"]["cores"].as_u64().unwrap() > 0);
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 2, "more than the result and its page was left");
}

#[test]
fn a_server_that_delivers_nothing_fails_the_round_with_its_log() {
    let directory = tempfile::tempdir().unwrap();
    let work = directory.path().join("work");
    std::fs::create_dir(&work).unwrap();
    let fake = directory.path().join("mailrace");
    // Called as `mailrace serve --config FILE`; takes mail on the port that the configuration names, and keeps it.
    let script = format!(
        "#!/bin/sh\n[ \"$1\" = serve ] || {{ echo 'mailrace 0 (fake)'; exit; }}\n\
         port=$(sed -n 's/^listen = \\[\"127.0.0.1:\\([0-9]*\\)\"\\]$/\\1/p' \"$3\")\n\
         echo 'a line of its log' >&2\nexec {PROGRAM} sink --listen 127.0.0.1:$port\n"
    );
    std::fs::write(&fake, script).unwrap();
    std::fs::set_permissions(&fake, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let output = run(&work.join("result.json"), &["--patience=1", "--mailrace", fake.to_str().unwrap()]);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(errors.contains("mailrace 0 (fake) accepted mail and delivered none of it"), "{errors}");
    assert!(errors.contains("a line of its log"), "{errors}");
    assert_eq!(std::fs::read_dir(&work).unwrap().count(), 0, "a temporary directory was left");
}

#[test]
fn a_server_that_is_no_server_is_named_and_nothing_is_left() {
    let directory = tempfile::tempdir().unwrap();
    let json = directory.path().join("result.json");
    for (program, said) in [("/bin/false", "ended before it greeted"), ("/nowhere", "there is no mailrace at /nowhere")]
    {
        let output = run(&json, &["--mta=mailrace", "--mailrace", program]);
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{errors}");
        assert!(errors.contains(said), "{errors}");
    }
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn a_server_without_rules_is_refused_by_the_scenarios_that_judge_them() {
    let directory = tempfile::tempdir().unwrap();
    for scenario in ["gate", "rule_churn", "rule_latency"] {
        let command = &mut Command::new(PROGRAM);
        command.args(["run", scenario, "--mta=none", "--messages=100", "--warm-up=0", "--gate-transports=tls_bdat"]);
        let output = command.arg("--work-dir").arg(directory.path()).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{scenario}: {errors}");
        assert!(errors.contains("has no API for rules"), "{scenario}: {errors}");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "a temporary directory was left");
    }
}
