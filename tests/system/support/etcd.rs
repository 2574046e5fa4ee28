//! etcd as child processes: members of one store on the loopback, each with a directory of its own, that can be stopped,
//! held and killed. Syncs to its disk as in production.

#![allow(clippy::disallowed_methods, reason = "the tests are outside the engine and watch it by the clock")]

use super::ports::free_address;
use super::wait::{until, until_some};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// How long a member may take to answer the tests' own questions.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// Members of one etcd, as many as were asked for. All are killed when dropped.
pub struct Etcd {
    directory: TempDir,
    members: Vec<Member>,
    arguments: Vec<String>,
    scheme: &'static str,
}

struct Member {
    client: SocketAddr,
    peer: SocketAddr,
    child: Option<Child>,
}

/// Octets as etcd's gateway wants and gives them.
pub fn base64(octets: &[u8]) -> String {
    use base64::Engine as _;
    base64::prelude::BASE64_STANDARD.encode(octets)
}

fn program() -> PathBuf {
    let places = ["/usr/bin/etcd", "/usr/local/bin/etcd"];
    let found = places.iter().map(PathBuf::from).find(|path| path.exists());
    found.expect("etcd is not installed; tests/run installs it (Debian: etcd-server)")
}

impl Etcd {
    /// Starts so many members and waits until they have a leader.
    pub fn start(count: usize) -> Self {
        Self::start_with(count, &[])
    }

    /// With more arguments for each member.
    pub fn start_with(count: usize, arguments: &[&str]) -> Self {
        let mut etcd = Self::prepare(count, arguments, false);
        for member in 0..count {
            etcd.spawn(member);
        }
        etcd.await_leader();
        etcd
    }

    /// Starts one member that speaks TLS and wants a certificate of the authority in `ca`; waits until it listens.
    pub fn start_with_tls(certificate: &Path, key: &Path, ca: &Path) -> Self {
        let files = [("--cert-file", certificate), ("--key-file", key), ("--trusted-ca-file", ca)];
        let mut arguments: Vec<String> =
            files.iter().map(|(name, path)| format!("{name}={}", path.display())).collect();
        arguments.push("--client-cert-auth".to_owned());
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let mut etcd = Self::prepare(1, &arguments, true);
        etcd.spawn(0);
        until("etcd listens", || TcpStream::connect(etcd.address(0)).is_ok());
        etcd
    }

    fn prepare(count: usize, arguments: &[&str], tls: bool) -> Self {
        let directory = tempfile::Builder::new().prefix("mailrace-etcd-").tempdir().unwrap();
        let member = |_| Member { client: free_address(), peer: free_address(), child: None };
        Self {
            directory,
            members: (0..count).map(member).collect(),
            arguments: arguments.iter().map(|&argument| argument.to_owned()).collect(),
            scheme: if tls { "https" } else { "http" },
        }
    }

    /// How many members there are.
    pub fn count(&self) -> usize {
        self.members.len()
    }

    /// Where a member listens.
    pub fn address(&self, member: usize) -> SocketAddr {
        self.members[member].client
    }

    /// A member's URL.
    pub fn url(&self, member: usize) -> String {
        format!("{}://{}", self.scheme, self.address(member))
    }

    /// The URLs of all members.
    pub fn urls(&self) -> Vec<String> {
        (0..self.count()).map(|member| self.url(member)).collect()
    }

    /// Where a member keeps its data.
    pub fn data(&self, member: usize) -> PathBuf {
        self.directory.path().join(format!("member-{member}"))
    }

    /// Starts a member, waits for nothing.
    pub fn spawn(&mut self, member: usize) {
        let all: Vec<String> =
            self.members.iter().enumerate().map(|(at, m)| format!("m{at}=http://{}", m.peer)).collect();
        let errors =
            File::options().create(true).append(true).open(self.directory.path().join(format!("log-{member}")));
        let (url, own) = (self.url(member), &self.members[member]);
        let mut command = Command::new(program());
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("ETCD_")) {
            command.env_remove(name);
        }
        command
            .arg(format!("--name=m{member}"))
            .arg(format!("--data-dir={}", self.data(member).display()))
            .arg(format!("--listen-client-urls={url}"))
            .arg(format!("--advertise-client-urls={url}"))
            .arg(format!("--listen-peer-urls=http://{}", own.peer))
            .arg(format!("--initial-advertise-peer-urls=http://{}", own.peer))
            .arg(format!("--initial-cluster={}", all.join(",")))
            .args(["--logger=zap", "--log-level=error"])
            .args(&self.arguments);
        let errors = errors.unwrap();
        let child = command.stdin(Stdio::null()).stdout(errors.try_clone().unwrap()).stderr(errors).spawn().unwrap();
        assert!(self.members[member].child.replace(child).is_none(), "member {member} runs already");
    }

    /// Starts a member that was ended, and waits until it answers.
    pub fn restart(&mut self, member: usize) {
        self.spawn(member);
        until("the member answers again", || self.status(member).is_some());
    }

    /// SIGKILL, and waits for the end.
    pub fn kill(&mut self, member: usize) {
        let mut child = self.members[member].child.take().expect("the member runs");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// SIGKILL to all that run.
    pub fn kill_all(&mut self) {
        for member in 0..self.count() {
            if self.is_running(member) {
                self.kill(member);
            }
        }
    }

    /// Starts all that do not run, and waits until they have a leader.
    pub fn start_all(&mut self) {
        for member in 0..self.count() {
            if !self.is_running(member) {
                self.spawn(member);
            }
        }
        self.await_leader();
    }

    /// Whether it was started and not ended.
    pub fn is_running(&self, member: usize) -> bool {
        self.members[member].child.is_some()
    }

    /// SIGSTOP: it keeps its connections and answers nothing.
    pub fn pause(&self, member: usize) {
        self.signal(member, Signal::STOP);
    }

    /// SIGCONT.
    pub fn resume(&self, member: usize) {
        self.signal(member, Signal::CONT);
    }

    fn signal(&self, member: usize, signal: Signal) {
        let id = self.members[member].child.as_ref().expect("the member runs").id();
        kill_process(Pid::from_raw(i32::try_from(id).unwrap()).unwrap(), signal).unwrap();
    }

    /// Waits until every running member knows a leader.
    pub fn await_leader(&self) {
        until("etcd has a leader", || {
            let mut running = (0..self.count()).filter(|&member| self.is_running(member));
            running.all(|member| self.status(member).is_some_and(|status| status["leader"].is_string()))
        });
    }

    /// The member that leads.
    pub fn leader(&self) -> usize {
        until_some("etcd has a leader", || {
            (0..self.count()).filter(|&member| self.is_running(member)).find(|&member| {
                self.status(member).is_some_and(|status| status["leader"] == status["header"]["member_id"])
            })
        })
    }

    /// Makes a member lead, and waits until all that run say so.
    pub fn hand_over(&self, to: usize) {
        let id = self.status(to).expect("the member answers")["header"]["member_id"].clone();
        let of_id = json!({ "targetID": id.clone() });
        until("the member leads", || {
            let _ = self.try_call(self.leader(), "/v3/maintenance/transfer-leadership", &of_id);
            let mut running = (0..self.count()).filter(|&member| self.is_running(member));
            running.all(|member| self.status(member).is_some_and(|status| status["leader"] == id))
        });
    }

    /// What a member says of itself; `None` where it says nothing.
    pub fn status(&self, member: usize) -> Option<Value> {
        self.try_call(member, "/v3/maintenance/status", &json!({})).ok().filter(|status| status.get("error").is_none())
    }

    /// The store's newest revision, as one member knows it.
    pub fn revision(&self, member: usize) -> i64 {
        let status = self.status(member).expect("the member answers");
        status["header"]["revision"].as_str().unwrap().parse().unwrap()
    }

    /// Copies what all the members have, which must not run; [`Etcd::restore`] brings it back.
    pub fn keep(&self, name: &str) {
        for member in 0..self.count() {
            assert!(!self.is_running(member), "member {member} runs");
            copy(&self.data(member), &self.directory.path().join(format!("{name}-{member}")));
        }
    }

    /// What all the members had when it was kept; they must not run.
    pub fn restore(&self, name: &str) {
        for member in 0..self.count() {
            assert!(!self.is_running(member), "member {member} runs");
            std::fs::remove_dir_all(self.data(member)).unwrap();
            copy(&self.directory.path().join(format!("{name}-{member}")), &self.data(member));
        }
    }

    /// Octets of a member's database.
    pub fn database_bytes(&self, member: usize) -> u64 {
        self.status(member).expect("the member answers")["dbSize"].as_str().unwrap().parse().unwrap()
    }

    /// Forgets what was before the revision.
    pub fn compact(&self, member: usize, revision: i64) {
        self.call(member, "/v3/kv/compaction", &json!({ "revision": revision.to_string(), "physical": true }));
    }

    /// Puts a key, without a client of ours.
    pub fn put(&self, member: usize, key: &str, value: &str) {
        let request = json!({ "key": base64(key.as_bytes()), "value": base64(value.as_bytes()) });
        self.call(member, "/v3/kv/put", &request);
    }

    /// How many keys begin so.
    pub fn keys(&self, member: usize, prefix: &str) -> usize {
        let mut end = prefix.as_bytes().to_vec();
        *end.last_mut().expect("a prefix is not empty") += 1;
        let request = json!({ "key": base64(prefix.as_bytes()), "range_end": base64(&end), "count_only": true });
        self.call(member, "/v3/kv/range", &request)["count"].as_str().map_or(0, |count| count.parse().unwrap())
    }

    /// Calls a member's gateway, which must not refuse.
    pub fn call(&self, member: usize, path: &str, request: &Value) -> Value {
        let answer = self.try_call(member, path, request).unwrap_or_else(|error| panic!("{path}: {error}"));
        assert!(answer.get("error").is_none(), "{path} {request}: {answer}");
        answer
    }

    /// Calls a member's gateway.
    ///
    /// # Errors
    /// No answer, or none in JSON.
    pub fn try_call(&self, member: usize, path: &str, request: &Value) -> io::Result<Value> {
        let mut stream = TcpStream::connect(self.address(member))?;
        stream.set_read_timeout(Some(ANSWER_WITHIN))?;
        let content = request.to_string();
        // Whoever speaks HTTP/1.0 is not answered in chunks.
        let head = format!("POST {path} HTTP/1.0\r\nContent-Length: {}\r\n\r\n", content.len());
        stream.write_all(format!("{head}{content}").as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (_, body) = answer.split_once("\r\n\r\n").ok_or_else(|| io::Error::other(format!("answer {answer:?}")))?;
        serde_json::from_str(body).map_err(|error| io::Error::other(format!("{error} in {body:?}")))
    }

    /// What the members have said to their operator.
    pub fn words(&self) -> String {
        let read = |member| std::fs::read_to_string(self.directory.path().join(format!("log-{member}")));
        (0..self.count()).map(|member| read(member).unwrap_or_default()).collect()
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        for child in self.members.iter_mut().filter_map(|member| member.child.as_mut()) {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            eprintln!("etcd's words:\n{}", self.words());
        }
    }
}
