//! The commands that ask a running engine: what is typed, what comes back, exit codes, files; and the demonstration.

use super::support::certificate::Certificate;
use super::support::wait::until_some;
use super::support::{Config, Engine, until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::net::TcpListener;
use std::process::{Output, Stdio};

/// Nobody listens there: what is queued stays queued.
fn engine() -> Engine {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    Engine::start(&Config::to(nobody).line("retry", "intervals = [\"1h\"]"))
}

fn run(engine: &Engine, line: &str) -> Output {
    let mut words: Vec<_> = line.split(' ').collect();
    words.extend(["--config", "mailrace.toml"]);
    engine.tool(&words, "")
}

/// What a command that must succeed prints.
fn done(engine: &Engine, line: &str) -> String {
    let output = run(engine, line);
    assert_eq!(output.status.code(), Some(0), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn json(engine: &Engine, line: &str) -> Value {
    let text = done(engine, &format!("{line} --json"));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{line}: {error}: {text}"))
}

/// Exit code and what is said of it.
fn fails(engine: &Engine, line: &str) -> (Option<i32>, String) {
    let output = run(engine, line);
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

fn queued(engine: &Engine) -> String {
    let mail = "Subject: x\nX-MQ-Tag: spring\n\nx\n";
    let output = engine.tool(&["inject", "-v", "--smtp", &engine.smtp.to_string(), "anna@held.example"], mail);
    let answer = String::from_utf8(output.stdout).unwrap();
    answer.split_whitespace().nth(2).unwrap_or_else(|| panic!("no id in {answer}")).to_owned()
}

#[test]
fn rules_are_made_listed_and_removed() {
    let engine = engine();
    for (kind, add, shown, remove_by) in [
        ("pause", "--domain a.example --for 1h", "domain=a.example", Some("--domain a.example")),
        ("error", "--tag t --code 451", "code=451", Some("--tag t")),
        ("suspend", "--campaign c --reason r", "campaign=c", None),
        ("bounce", "--tenant t --reason r --for 1h", "tenant=t", None),
    ] {
        let thought = json(&engine, &format!("{kind} add {add} --dry-run"));
        assert_eq!((&thought["dry_run"], &thought["matched"]), (&true.into(), &0.into()), "{kind}: {thought}");
        assert_eq!(json(&engine, &format!("{kind} list")), Value::Array(vec![]), "a dry run of {kind} made something");
        let made = json(&engine, &format!("{kind} add {add}"));
        let id = made["id"].as_str().unwrap_or_else(|| panic!("{kind}: {made}"));
        let list = done(&engine, &format!("{kind} list"));
        assert!(list.starts_with("ID") && list.contains(id) && list.contains(shown), "{kind}: {list}");
        let rules = done(&engine, "rules");
        assert!(rules.contains(id) && rules.contains("admin"), "{rules}");
        assert_eq!(json(&engine, &format!("rules {id}"))["id"], id);
        let by = remove_by.map_or_else(|| id.to_owned(), str::to_owned);
        done(&engine, &format!("{kind} remove {by}"));
        assert_eq!(json(&engine, &format!("{kind} list")), Value::Array(vec![]), "{kind}");
    }
    let made = json(&engine, "pause add --tag u");
    done(&engine, &format!("pause remove --id {}", made["id"].as_str().unwrap()));
    let made = json(&engine, "suspend add --ready-queue q --reason r");
    done(&engine, &format!("suspend remove --ready-queue {}", made["id"].as_str().unwrap()));
    assert_eq!(json(&engine, "rules"), Value::Array(vec![]));

    let audit = done(&engine, "audit");
    assert!(audit.contains("pause created") && audit.contains("bounce removed"), "{audit}");
    let page = json(&engine, "audit --after 1 --limit 2");
    let numbers: Vec<_> = page.as_array().unwrap().iter().map(|entry| entry["sequence"].as_u64()).collect();
    assert_eq!(numbers, [Some(2), Some(3)]);
}

#[test]
fn queues_and_messages_are_shown_and_acted_on() {
    let engine = engine();
    done(&engine, "pause add --domain held.example");
    let id = queued(&engine);
    until("it is held", || json(&engine, &format!("message {id}"))["parts"][0]["state"] == "held");
    let queue = json(&engine, "queue");
    assert_eq!((&queue[0]["domain"], &queue[0]["held"]), (&"held.example".into(), &1.into()), "{queue}");
    let table = done(&engine, "queue --limit 1");
    assert!(table.starts_with("DESTINATION   TOTAL  HELD  DUE  WAITING"), "{table}");
    assert!(table.contains("\nheld.example      1     1 "), "{table}");
    let shown = done(&engine, &format!("message {id}"));
    assert!(shown.contains("a rule holds it") && shown.contains("anna@held.example"), "{shown}");
    let thought = json(&engine, "error add --tag spring --dry-run");
    assert_eq!(thought["matched"], 1, "{thought}");

    done(&engine, &format!("message {id} retry"));
    done(&engine, &format!("message {id} cancel"));
    until("it is ended", || fails(&engine, &format!("message {id}")).0 == Some(1));
    assert_eq!(engine.await_records("Bounce", 1)[0].0["id"], id.as_str());
}

#[test]
fn suppressions_go_in_and_out_as_files() {
    let engine = engine();
    let added = json(&engine, "suppress add one@b.example --extended 5.1.1");
    assert_eq!(added["created"], true);
    assert_eq!(json(&engine, "suppress add one@b.example --dry-run")["dry_run"], true);
    done(&engine, "suppress remove one@b.example");

    let lines: String = (0..1000).map(|n| format!("person{n:04}@b.example\n")).collect();
    engine.write("thousand.csv", &format!("value\n{lines}"));
    assert_eq!(done(&engine, "suppress import thousand.csv --code 551"), "1000 created, 0 updated\n");
    assert_eq!(json(&engine, "suppress list").as_array().unwrap().len(), 1000);
    let page = done(&engine, "suppress list --limit 1 --after person0041@b.example");
    assert_eq!(page.lines().nth(1), Some("person0042@b.example  address   551"), "{page}");

    assert_eq!(done(&engine, "suppress export out.jsonl"), "1000 written to out.jsonl\n");
    let exported = std::fs::read_to_string(engine.path("out.jsonl")).unwrap();
    assert_eq!(done(&engine, "suppress export"), exported);
    let first: Value = serde_json::from_str(exported.lines().next().unwrap()).unwrap();
    assert_eq!((&first["value"], &first["code"]), (&"person0000@b.example".into(), &551.into()));
    let csv = done(&engine, "suppress export --format csv");
    assert_eq!((csv.lines().count(), csv.lines().nth(1)), (1001, Some("person0000@b.example,address,551,,")));
    // What came out goes in again.
    assert_eq!(done(&engine, "suppress import out.jsonl"), "0 created, 1000 updated\n");

    let piped = engine.tool(&["suppress", "import", "-", "--config", "mailrace.toml"], &exported);
    assert_eq!(String::from_utf8(piped.stdout).unwrap(), "0 created, 1000 updated\n");

    engine.write("wrong.txt", "a@b.example\nnot an address@\nb.example\n");
    let (code, words) = fails(&engine, "suppress import wrong.txt");
    assert_eq!(code, Some(1), "{words}");
    assert!(words.contains("entry 2: ") && words.contains("1 refused; the others are in"), "{words}");
    assert_eq!(json(&engine, "suppress list").as_array().unwrap().len(), 1002);
    assert_eq!(fails(&engine, "suppress import none.csv").0, Some(1));
    // That is the file's fault, and not that of an engine which cannot be reached.
    std::fs::write(engine.path("latin.csv"), b"value\na@c.example\nm\xfcller@c.example\n").unwrap();
    let (code, words) = fails(&engine, "suppress import latin.csv");
    assert!(code == Some(1) && words.contains("latin.csv: ") && words.contains("line 3"), "{code:?} {words}");
}

#[test]
fn exit_codes_say_what_happened() {
    let mut engine = engine();
    let api = engine.api.to_string();
    let token = engine.token();
    for (line, code, words) in [
        ("error add", 1, "`everything` must be true"),
        ("bounce add --reason r", 1, "everything"),
        ("pause add --domain a..example", 1, "`domain`"),
        ("message 0123", 1, "is no message id"),
        ("rules none", 1, "there is no rule none"),
        ("rules --token mailrace_x", 1, "no such token"),
        ("suppress import thousand.csv --token mailrace_x", 1, "no such token"),
        ("pause add --for soon", 2, "--for"),
        ("pause", 2, "Usage"),
        ("queue --endpoint 127.0.0.1", 2, "is not such as http://"),
        ("queue --token x --endpoint http://127.0.0.1:9", 3, "cannot be reached"),
    ] {
        engine.write("thousand.csv", &"a@b.example\n".repeat(100_000));
        let (found, said) = fails(&engine, line);
        assert!(found == Some(code) && said.contains(words), "{line}: {found:?} {said}");
    }
    // An endpoint and a token need no file; the environment may hold the token.
    let endpoint = format!("http://{api}");
    let bare = |arguments: &[&str], token: Option<&str>| {
        let mut command = engine.command();
        command.args(arguments).current_dir("/").stdout(Stdio::null()).stderr(Stdio::null());
        command.envs(token.map(|token| ("MAILRACE_TOKEN", token)));
        command.status().unwrap().code()
    };
    assert_eq!(bare(&["queue", "--endpoint", &endpoint, "--token", &token], None), Some(0));
    assert_eq!(bare(&["queue", "--endpoint", &endpoint], Some(&token)), Some(0));
    assert_eq!(bare(&["queue", "--endpoint", &endpoint], None), Some(1));
    engine.stop();
    assert_eq!(fails(&engine, "queue").0, Some(3));
}

#[test]
fn an_api_with_tls_is_asked_with_tls() {
    let mut engine = Engine::prepare(&Config::default());
    let made = Certificate::new("mailrace.example");
    let line = |name: &str, text: &str| format!("tls_{name} = \"{}\"", engine.write(name, text).display());
    let (certificate, key) = (line("certificate", &made.certificate_pem), line("key", &made.key_pem));
    engine.configure(&Config::default().line("api", &certificate).line("api", &key));
    engine.run();
    assert_eq!(done(&engine, "queue").lines().count(), 1);
    let plain = format!("queue --endpoint http://{}", engine.api);
    assert_eq!(fails(&engine, &plain).0, Some(3));
}

#[test]
fn the_demonstration_runs_to_its_end_and_leaves_nothing() {
    let engine = Engine::prepare(&Config::default());
    let directory = engine.path("tmp");
    std::fs::create_dir(&directory).unwrap();
    let demo = |arguments: &[&str]| {
        let mut command = engine.command();
        command.arg("demo").args(arguments).env("TMPDIR", &directory).stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let is_empty = || std::fs::read_dir(&directory).unwrap().next().is_none();
    let output = demo(&["--exit"]).wait_with_output().unwrap();
    let (said, complaints) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert_eq!(output.status.code(), Some(0), "{complaints}\n{said}");
    let calls = said.lines().filter(|line| line.starts_with("$ curl -sS -X ")).count();
    assert!(calls == 6 && said.contains("{\"removed\":1}") && said.contains("The queue is empty."), "{said}");
    assert!(is_empty());

    // Interrupted in its midst, it ends in order too.
    let mut child = demo(&[]);
    until("its engine runs", || !is_empty());
    kill_process(Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap(), Signal::INT).unwrap();
    let status = until_some("it ends", || child.try_wait().unwrap());
    assert_eq!(status.code(), Some(0));
    assert!(is_empty());
}
