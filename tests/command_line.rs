//! The commands as a script sees them: output, exit codes, files.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

/// How long a child may take for anything before the test says that it hangs.
const PATIENCE: Duration = Duration::from_secs(60);

struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("mailrace-command-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn mailrace(directory: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mailrace"));
    command.current_dir(directory).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
        .env_remove("JOURNAL_STREAM")
        .env_remove("NOTIFY_SOCKET")
        .env_remove("WATCHDOG_USEC")
        .env_remove("WATCHDOG_PID");
    command
}

fn run(directory: &Path, arguments: &[&str], stdin: &str) -> Output {
    let mut child = mailrace(directory).args(arguments).stdin(Stdio::piped()).spawn().unwrap();
    // A command that refuses before it reads closes the pipe; that is its right.
    let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    child.wait_with_output().unwrap()
}

fn text(octets: &[u8]) -> String {
    String::from_utf8(octets.to_vec()).unwrap()
}

/// A port that nobody had a moment ago.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A service manager's socket, and `serve` started under it.
struct Service {
    child: Option<Child>,
    manager: UnixDatagram,
}

impl Service {
    fn start(directory: &Path, arguments: &[&str]) -> Self {
        let path = directory.join("notify");
        let _ = std::fs::remove_file(&path);
        let manager = UnixDatagram::bind(&path).unwrap();
        manager.set_read_timeout(Some(PATIENCE)).unwrap();
        // The manager names the process that is to feed the watchdog; a shell that becomes it knows the number.
        let mut shell = Command::new("sh");
        shell.args(["-c", "WATCHDOG_PID=$$ exec \"$0\" serve \"$@\"", env!("CARGO_BIN_EXE_mailrace")]).args(arguments);
        shell.current_dir(directory).stdin(Stdio::null()).stderr(Stdio::piped()).env_remove("JOURNAL_STREAM");
        let child = shell.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "1000000").spawn().unwrap();
        Self { child: Some(child), manager }
    }

    /// Waits until the service says `wanted`.
    fn hear(&self, wanted: &str) {
        let mut buffer = [0; 4096];
        loop {
            let length = self.manager.recv(&mut buffer).unwrap_or_else(|error| panic!("no {wanted}: {error}"));
            if text(&buffer[..length]).lines().any(|line| line == wanted) {
                return;
            }
        }
    }

    fn id(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let id = i32::try_from(self.id()).unwrap();
        rustix::process::kill_process(rustix::process::Pid::from_raw(id).unwrap(), signal).unwrap();
    }

    fn output(mut self) -> Output {
        self.child.take().unwrap().wait_with_output().unwrap()
    }
}

impl Drop for Service {
    /// A test that failed leaves no process behind.
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[test]
fn a_service_starts_reloads_and_stops() {
    let directory = Directory::new("serve");
    let (smtp, api) = (format!("127.0.0.1:{}", free_port()), format!("127.0.0.1:{}", free_port()));
    let arguments = ["--config", "mailrace.toml", "--data-dir", "data", "--smtp", &smtp, "--api", &api];
    std::fs::write(directory.0.join("mailrace.toml"), "[spool]\nsync = \"interval\"\nmin_free_bytes = 0\n").unwrap();
    let service = Service::start(&directory.0, &arguments);
    service.hear("READY=1");
    service.hear("WATCHDOG=1");

    // A second one on the same directory is told whose it is.
    let second = run(&directory.0, &["serve", "--data-dir", "data", "--smtp", "127.0.0.1:1"], "");
    assert_eq!(second.status.code(), Some(1));
    let complaint = text(&second.stderr);
    assert!(complaint.contains(&format!("is held by process {};", service.id())), "{complaint}");

    // The first token works on the command line, and a token can be made while the service runs.
    let added = run(&directory.0, &["token", "add", "ci", "--scope", "inject", "--data-dir", "data"], "");
    assert!(added.status.success() && text(&added.stdout).starts_with("mailrace_"), "{}", text(&added.stderr));
    let token = std::fs::read_to_string(directory.0.join("data/token")).unwrap();
    assert!(token.starts_with("mailrace_") && token.ends_with('\n'), "{token}");

    service.signal(rustix::process::Signal::HUP);
    service.hear("RELOADING=1");
    service.hear("READY=1");
    std::fs::write(directory.0.join("mailrace.toml"), "[spool]\nsync = \"sometimes\"\n").unwrap();
    service.signal(rustix::process::Signal::HUP);
    service.hear("RELOADING=1");
    service.hear("READY=1");
    service.signal(rustix::process::Signal::TERM);
    // server.stop_within and a margin: neither the manager's bound nor its watchdog may cut the stop short.
    service.hear("EXTEND_TIMEOUT_USEC=60000000");
    let output = service.output();
    assert_eq!(output.status.code(), Some(0));
    let said = text(&output.stderr);
    for wanted in [
        "UNSAFE: synced every 1s",
        "admin token    made in ",
        "the configuration was read again and is in force",
        "mailrace.toml:2:8: spool.sync: \"sometimes\" is not one of \"always\", \"interval\"",
        "refused; everything stays as it was",
        "mailrace: stopped\n",
    ] {
        assert!(said.contains(wanted), "{wanted:?} is missing in:\n{said}");
    }
}

#[test]
fn everything_wrong_is_said_before_the_start() {
    let directory = Directory::new("preflight");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let config = format!(
        "server.data_dir = \"file/data\"\napi.listen = \"192.0.2.1:8000\"\n[smtp]\nlisten = [\"{address}\"]\nusers_file = \"users\"\ntls_certificate = \"none.pem\"\ntls_key = \"none.pem\"\n[[source]]\nname = \"away\"\naddress = \"192.0.2.9\"\n"
    );
    std::fs::write(directory.0.join("mailrace.toml"), config).unwrap();
    std::fs::write(directory.0.join("file"), "").unwrap();
    std::fs::write(directory.0.join("users"), "# users\nanna:secret\n").unwrap();
    let output = run(&directory.0, &["serve", "--config", "mailrace.toml"], "");
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    for wanted in [
        "file/data cannot be made: ".to_owned(),
        format!("smtp.listen: {address} cannot be listened at: another process holds it"),
        "api.listen: 192.0.2.1:8000 cannot be listened at: this host does not have that address".to_owned(),
        "smtp.tls_certificate, smtp.tls_key: none.pem cannot be opened".to_owned(),
        "smtp.users_file: users:2: the hash of \"anna\" is not an argon2 hash".to_owned(),
        "warning: source \"away\": this host cannot send from 192.0.2.9".to_owned(),
    ] {
        assert!(said.contains(&wanted), "{wanted:?} is missing in:\n{said}");
    }
}

#[test]
fn tokens_need_a_data_directory_that_was_started_once() {
    let directory = Directory::new("no-token");
    let output = run(&directory.0, &["token", "list", "--data-dir", "none"], "");
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("there is no none/rules.db; start mailrace once"));
    assert!(!directory.0.join("none").exists());
}

#[test]
fn a_hashed_secret_is_a_line_of_the_users_file() {
    let directory = Directory::new("hash");
    let output = run(&directory.0, &["hash-secret", "anna"], "s3cret\n");
    assert!(text(&output.stdout).starts_with("anna:$argon2id$v=19$"), "{}", text(&output.stdout));
    assert_eq!(run(&directory.0, &["hash-secret", "anna"], "\n").status.code(), Some(1));
}

/// `systemd-analyze` judges the unit; where there is none, nothing is judged, and that is said.
#[test]
fn the_unit_is_valid_and_hardened() {
    let directory = Directory::new("unit");
    let output = run(&directory.0, &["systemd-unit"], "");
    let path = directory.0.join("mailrace.service");
    std::fs::write(&path, &output.stdout).unwrap();
    let analyze = |arguments: &[&str]| {
        let mut command = Command::new("systemd-analyze");
        let output = command.args(arguments).arg(&path).output().ok()?;
        Some(output)
    };
    let Some(verified) = analyze(&["verify"]) else {
        eprintln!("systemd-analyze is not installed: the unit was not judged");
        return;
    };
    assert!(verified.status.success() && verified.stderr.is_empty(), "{}", text(&verified.stderr));
    // The threshold is in tenths: at most 2.0.
    let judged = analyze(&["security", "--offline=true", "--threshold=20"]).unwrap();
    assert!(judged.status.success(), "{}", text(&judged.stdout));
}

/// Answers each command by its first word and keeps what it hears.
fn smtp_server(answers: &'static [(&'static str, &'static str)]) -> (String, std::thread::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let serve = move || {
        let (stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut heard = String::new();
        let mut reader = BufReader::new(stream);
        let mut in_data = false;
        let answer =
            |word: &str| answers.iter().find(|(command, _)| *command == word).map_or("250 ok", |(_, text)| text);
        let mut say = Some(answer("greeting"));
        loop {
            if let Some(say) = say.take() {
                if say.is_empty() {
                    return heard;
                }
                reader.get_mut().write_all(format!("{say}\r\n").as_bytes()).unwrap();
            }
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap() == 0 {
                return heard;
            }
            heard.push_str(&line);
            let word = line.split([' ', '\r', ':']).next().unwrap();
            if in_data {
                if line == ".\r\n" {
                    in_data = false;
                    say = Some(answer("."));
                }
            } else {
                let reply = answer(if line.contains("refused@") { "refused" } else { word });
                in_data = word == "DATA" && reply.starts_with('3');
                say = Some(reply);
            }
        }
    };
    (address, std::thread::spawn(serve))
}

const USUAL: &[(&str, &str)] = &[
    ("greeting", "220 ready"),
    ("EHLO", "250-ready\r\n250-SIZE 1000\r\n250 8BITMIME"),
    ("DATA", "354 go on"),
    ("refused", "550-5.1.1 not\r\n550 5.1.1 here"),
    (".", "250 2.0.0 queued as 42"),
    ("QUIT", "221 bye"),
];

#[test]
fn inject_hands_in() {
    let directory = Directory::new("inject");
    let (address, server) = smtp_server(USUAL);
    let message = "To: b@x.example, C <c@x.example>\nBcc: d@x.example\nSubject: é\n\n.dot\nlast";
    let arguments = ["inject", "--smtp", &address, "-t", "-i", "-oi", "-v", "-f", "a@x.example", "c@x.example"];
    let output = run(&directory.0, &arguments, message);
    assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(0), "250 2.0.0 queued as 42\n"));
    let heard = server.join().unwrap();
    let (_, heard) = heard.split_once("\r\n").unwrap();
    let expected = "MAIL FROM:<a@x.example> SIZE=61 BODY=8BITMIME\r\nRCPT TO:<c@x.example>\r\nRCPT TO:<b@x.example>\r\nRCPT TO:<d@x.example>\r\nDATA\r\n\
        To: b@x.example, C <c@x.example>\r\nSubject: é\r\n\r\n..dot\r\nlast\r\n.\r\nQUIT\r\n";
    assert_eq!(heard, expected);
}

#[test]
fn inject_tells_refusals_by_its_exit_code() {
    let directory = Directory::new("inject-refused");
    const BUSY: &[(&str, &str)] = &[("greeting", "421 4.3.2 stopping")];
    const LATE: &[(&str, &str)] =
        &[("greeting", "220 ready"), ("EHLO", "250 ready"), ("DATA", "354 go on"), (".", "452 4.3.1 full")];
    const LOST: &[(&str, &str)] = &[("greeting", "220 ready"), ("EHLO", "250 ready"), ("DATA", "354 go on"), (".", "")];
    const RUBBISH: &[(&str, &str)] = &[("greeting", "HTTP/1.1 400 Bad Request")];
    let long = "x".repeat(2000);
    for (answers, recipients, message, code, wanted) in [
        (
            USUAL,
            &["refused@x.example", "b@x.example"][..],
            "x",
            1,
            "refused@x.example was refused: 550 5.1.1 not 5.1.1 here",
        ),
        (USUAL, &["b@x.example"], long.as_str(), 1, "the message has 2002 octets; the server takes 1000"),
        (USUAL, &["jörg@x.example"], "x", 1, "jörg@x.example needs SMTPUTF8"),
        (BUSY, &["b@x.example"], "x", 1, "the connection was refused: 421 4.3.2 stopping"),
        (LATE, &["b@x.example"], "x", 1, "the message was refused: 452 4.3.1 full"),
        (LOST, &["b@x.example"], "x", 3, "the message may have been accepted"),
        (RUBBISH, &["b@x.example"], "x", 3, "is not an SMTP reply"),
    ] {
        let (address, server) = smtp_server(answers);
        let arguments = [&["inject", "--smtp", &address, "-f", "a@x.example"], recipients].concat();
        let output = run(&directory.0, &arguments, message);
        assert_eq!(output.status.code(), Some(code), "{wanted}: {}", text(&output.stderr));
        assert!(text(&output.stderr).contains(wanted), "{wanted:?} is missing in:\n{}", text(&output.stderr));
        let heard = server.join().unwrap();
        assert_eq!(
            heard.contains("DATA\r\n"),
            wanted.contains("the message was") || wanted.contains("may have"),
            "{wanted}"
        );
    }
    for (arguments, message, code) in [
        (&["inject"][..], "", 2),
        (&["inject", "nobody"], "", 2),
        (&["inject", "-f", "a@x, b@y", "c@z"], "", 2),
        (&["inject", "-t"], "Subject: x\n\nx", 1),
        (&["inject", "--smtp", "127.0.0.1:1", "b@x.example"], "x", 3),
    ] {
        let arguments = [arguments, &[]].concat();
        assert_eq!(run(&directory.0, &arguments, message).status.code(), Some(code), "{arguments:?}");
    }
}

/// Answers one request with a status and JSON; what was asked is the request line.
fn api_server(status: &'static str, json: &'static str) -> (String, std::thread::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let serve = move || {
        let (stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut reader = BufReader::new(stream);
        let mut lines = Vec::new();
        while lines.last().is_none_or(|line| line != "\r\n") {
            let mut line = String::new();
            assert!(reader.read_line(&mut line).unwrap() > 0, "the request is cut off");
            lines.push(line);
        }
        let head = format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}", json.len());
        write!(reader.get_mut(), "{head}\r\nConnection: close\r\n\r\n{json}").unwrap();
        lines.swap_remove(0).trim_end().to_owned()
    };
    (endpoint, std::thread::spawn(serve))
}

#[test]
fn the_cluster_is_shown_and_judged_by_the_exit_code() {
    let directory = Directory::new("cluster");
    const WELL: &str = r#"{"node":"a","revision":7,"state":"following","nodes":[
        {"node":"a","state":"live","applied":7,"lag":0,"clock_skew_ms":0},
        {"node":"b","state":"live","applied":7,"lag":0,"clock_skew_ms":-12}]}"#;
    const LOST: &str = r#"{"node":"a","revision":7,"state":"following","nodes":[
        {"node":"b","state":"lost","on_partition":"deliver","applied":6,"lag":1,"clock_skew_ms":2500}]}"#;
    const ALONE: &str = r#"{"error":"this engine is in no cluster"}"#;
    for (arguments, status, json, code, asked, out, err) in [
        (&["cluster"][..], "200 OK", WELL, 0, "GET /v1/cluster", "b     live         7    0  -0.012 s\n", ""),
        (&["cluster"], "200 OK", LOST, 1, "GET /v1/cluster", "b     lost", "mailrace cluster forget b\n"),
        (&["cluster", "--json"], "200 OK", LOST, 1, "GET /v1/cluster", LOST, "the clock of b is 2.500 s ahead of"),
        (&["cluster"], "404 Not Found", ALONE, 1, "GET /v1/cluster", "", "this engine is in no cluster"),
        (
            &["cluster", "forget", "b"],
            "200 OK",
            r#"{"removed":1}"#,
            0,
            "DELETE /v1/cluster/nodes/b",
            "removed  1\n",
            "",
        ),
        (
            &["cluster", "forget", "b"],
            "409 Conflict",
            r#"{"error":"b is there"}"#,
            1,
            "DELETE /v1/cluster/nodes/b",
            "",
            "b is there",
        ),
    ] {
        let (endpoint, server) = api_server(status, json);
        let output = run(&directory.0, &[arguments, &["--endpoint", &endpoint, "--token", "t"]].concat(), "");
        assert_eq!(server.join().unwrap(), format!("{asked} HTTP/1.1"));
        let (said, complained) = (text(&output.stdout), text(&output.stderr));
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}{complained}");
        assert!(said.contains(out) && (out.is_empty() == said.is_empty()), "{out:?} is missing in:\n{said}");
        assert!(complained.contains(err) && (err.is_empty() == complained.is_empty()), "{err:?}: {complained}");
    }
}
