//! The REST API of the running program: who is let in, liveness, metrics, reload and stop.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// How often something is tried before the test says that it does not happen, and how long between.
const TRIES: u32 = 300;
const PAUSE: Duration = Duration::from_millis(100);

struct Running {
    child: Child,
    directory: PathBuf,
    api: SocketAddr,
}

impl Running {
    fn start(name: &str) -> Self {
        let directory = std::env::temp_dir().join(format!("mailrace-api-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&directory);
        std::fs::create_dir_all(&directory).unwrap();
        let free = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let (smtp, api) = (free(), free());
        let mut running = Self { child: Command::new("true").spawn().unwrap(), directory, api };
        running.child.wait().unwrap();
        running.configure("");
        let mut command = running.command(&["serve", "--config", "mailrace.toml", "--data-dir", "data"]);
        command.args(["--smtp", &smtp.to_string(), "--api", &api.to_string()]);
        running.child = command.stderr(Stdio::null()).spawn().unwrap();
        eventually("it listens", || TcpStream::connect(api).is_ok());
        running
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mailrace"));
        command.args(arguments).current_dir(&self.directory).stdin(Stdio::null()).stdout(Stdio::piped());
        command.env_remove("NOTIFY_SOCKET").env_remove("WATCHDOG_USEC");
        command
    }

    fn configure(&self, api: &str) {
        let text = format!("[server]\nshards = 1\n[spool]\nmin_free_bytes = 0\n[api]\n{api}");
        std::fs::write(self.directory.join("mailrace.toml"), text).unwrap();
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let id = i32::try_from(self.child.id()).unwrap();
        rustix::process::kill_process(rustix::process::Pid::from_raw(id).unwrap(), signal).unwrap();
    }

    /// One request; the whole answer.
    fn ask(&self, method: &str, path: &str, fields: &str) -> String {
        let mut stream = TcpStream::connect(self.api).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let request = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{fields}\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn status(&self, method: &str, path: &str, fields: &str) -> u16 {
        self.ask(method, path, fields)[9..12].parse().unwrap()
    }
}

impl Drop for Running {
    /// A test that failed leaves nothing behind.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn pause() {
    let (_sender, never) = std::sync::mpsc::channel::<()>();
    let _ = never.recv_timeout(PAUSE);
}

fn eventually(what: &str, mut happens: impl FnMut() -> bool) {
    for _ in 0..TRIES {
        if happens() {
            return;
        }
        pause();
    }
    panic!("never: {what}");
}

/// A mistyped field, or a dry run of what knows none, must not be passed over: the mail would be gone.
#[test]
fn what_is_done_to_mail_is_not_done_for_a_call_that_asks_for_more() {
    let running = Running::start("more");
    let token = std::fs::read_to_string(running.directory.join("data/token")).unwrap();
    let with = |body: &str| {
        let length = body.len();
        let authorization = format!("Authorization: Bearer {}\r\n", token.trim());
        format!("{authorization}Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}")
    };
    let one = |action: &str| format!("/v1/messages/0123456789abcdef01234567/{action}");
    let mailerq = r#"{"recipient":"a@example.com","mime":"Subject: x\r\n\r\nx\r\n"}"#;
    let kumo = r#"{"envelope_sender":"","recipients":[{"email":"a@example.com"}],"content":"Subject: x\r\n\r\nx\r\n"}"#;
    let rebind = r#"{"reason":"","always_flush":true}"#;
    let (cancel, retry) = (one("cancel"), one("retry"));
    for (path, body, expected) in [
        ("/v1/inject", mailerq, 200),
        ("/v1/inject?dry_run=true", mailerq, 400),
        ("/api/inject/v1", kumo, 200),
        ("/api/inject/v1?dry_run=true", kumo, 400),
        ("/api/admin/rebind/v1", rebind, 200),
        ("/api/admin/rebind/v1?dry_run=true", rebind, 400),
        (&cancel, "", 404),
        (&cancel, "{}", 404),
        (&cancel, "null", 404),
        (&cancel, r#"{"dry_run":true}"#, 400),
        (&cancel, "dry_run=true", 400),
        (&one("cancel?dry_run=true"), "", 400),
        (&retry, "", 404),
        (&retry, r#"{"dry_run":true}"#, 400),
        (&one("retry?dry_run=true"), "", 400),
    ] {
        assert_eq!(running.status("POST", path, &with(body)), expected, "{path} {body}");
    }
    let refused = running.ask("POST", &cancel, &with(r#"{"dry_run":true}"#));
    assert!(refused.ends_with(r#"{"error":"unknown field `dry_run`","field":"dry_run"}"#), "{refused}");
}

/// What is refused before anybody knows what it asks for is refused in the dialect of its path, too.
#[test]
fn what_is_not_understood_is_refused_in_the_dialect_of_its_path() {
    let running = Running::start("dialects");
    let long = "x".repeat(9000);
    let many = "X: y\r\n".repeat(100);
    let cases = [
        (414, "414 URI Too Long", format!("GET PATH{long} HTTP/1.1\r\nHost: a\r\n\r\n")),
        (417, "417 Expectation Failed", "POST PATH HTTP/1.1\r\nHost: a\r\nExpect: more\r\n\r\n".to_owned()),
        (431, "431 Request Header Fields Too Large", format!("GET PATH HTTP/1.1\r\nHost: a\r\n{many}\r\n")),
        (400, "400 Bad Request", "GET PATH HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n".to_owned()),
        (411, "411 Length Required", "POST PATH HTTP/1.0\r\n\r\n".to_owned()),
        (505, "505 HTTP Version Not Supported", "GET PATH HTTP/3.0\r\nHost: a\r\n\r\n".to_owned()),
    ];
    for (status, reason, request) in cases {
        for (path, media, start) in [
            ("/v1/rules", "application/json", "{\"error\":\""),
            ("/api/admin/bounce/v1", "text/plain; charset=utf-8", ""),
        ] {
            let mut stream = TcpStream::connect(running.api).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
            stream.write_all(request.replace("PATH", path).as_bytes()).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            let (head, body) = answer.split_once("\r\n\r\n").unwrap();
            assert!(head.starts_with(&format!("HTTP/1.1 {reason}\r\n")), "{status} {path}: {answer}");
            assert!(head.contains(&format!("\r\nContent-Type: {media}\r\n")), "{status} {path}: {answer}");
            assert!(body.starts_with(start) && !body.is_empty(), "{status} {path}: {answer}");
        }
    }
}

#[test]
fn the_api_lets_in_who_may() {
    let mut running = Running::start("auth");
    let token = std::fs::read_to_string(running.directory.join("data/token")).unwrap();
    let bearer = |token: &str| format!("Authorization: Bearer {}\r\n", token.trim());
    let admin = bearer(&token);

    let alive = running.ask("GET", "/api/check-liveness/v1", "");
    assert!(alive.starts_with("HTTP/1.1 200 OK\r\n") && alive.ends_with("\r\n\r\nOK"), "{alive}");
    for (method, path, fields, expected) in [
        ("HEAD", "/api/check-liveness/v1", "", 200),
        ("GET", "/api/check-liveness/v1/", "", 401),
        ("POST", "/api/check-liveness/v1", "", 401),
        ("GET", "/metrics", "", 401),
        ("GET", "/nothing", "", 401),
        ("GET", "/metrics", "Authorization: Bearer mailrace_x\r\n", 401),
        ("GET", "/metrics", &admin, 200),
        ("GET", "/metrics.json", &admin, 200),
        ("POST", "/metrics", &admin, 405),
        ("GET", "/nothing", &admin, 404),
        ("GET", "/v1/nothing", &admin, 404),
    ] {
        assert_eq!(running.status(method, path, fields), expected, "{method} {path} {fields}");
    }
    let refused = running.ask("GET", "/v1/nothing", "");
    assert!(refused.contains("\r\nWWW-Authenticate: Bearer\r\n"), "{refused}");
    assert!(refused.contains("\r\nContent-Type: application/json\r\n"), "{refused}");
    let metrics = running.ask("GET", "/metrics", &admin);
    for line in [
        "mailrace_messages_received_total{shard=\"0\"} 0\n",
        "mailrace_api_authentication_failures_total 1\n",
        "mailrace_api_connections 1\n",
    ] {
        assert!(metrics.contains(line), "{line} in {metrics}");
    }

    // A token made meanwhile opens what its scope allows, until it is revoked.
    let added = running.command(&["token", "add", "ci", "--scope", "inject", "--data-dir", "data"]).output().unwrap();
    let inject = bearer(&String::from_utf8(added.stdout).unwrap());
    eventually("the new token is known", || running.status("GET", "/metrics", &inject) == 403);
    let refused = running.ask("GET", "/metrics", &inject);
    assert!(refused.contains("scope `read`; `ci` has the scope `inject`"), "{refused}");
    assert!(running.command(&["token", "revoke", "ci", "--data-dir", "data"]).status().unwrap().success());
    eventually("the revoked token is forgotten", || running.status("GET", "/metrics", &inject) == 401);

    // Peers that a reload says to trust.
    running.configure("trusted_hosts = [\"127.0.0.0/8\"]\n");
    running.signal(rustix::process::Signal::HUP);
    eventually("the peer is trusted", || running.status("GET", "/metrics", "") == 200);
    assert_eq!(running.status("GET", "/metrics", "Origin: http://evil.example\r\n"), 403);
    assert_eq!(running.status("GET", "/metrics", "Authorization: Bearer mailrace_x\r\n"), 401);

    running.signal(rustix::process::Signal::TERM);
    assert_eq!(running.child.wait().unwrap().code(), Some(0));
    assert!(TcpStream::connect(running.api).is_err());
}
