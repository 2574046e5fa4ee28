//! Private members of etcd, on the loopback, each with a directory of its own. They sync to the disk as in production.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread::sleep;
use std::time::Duration;

use serde_json::{Value, json};

use super::super::http::{Api, Client};
use crate::clock::now_ns;
use crate::error::{Context, Result, fail};
use crate::guard::Guarded;
use crate::mta::{free_port, tail};
use crate::stop;

/// SIGTERM, then this long.
const GRACE: Duration = Duration::from_secs(10);
/// They find a leader within this time or they have failed.
const PATIENCE_NS: u64 = 60_000_000_000;

struct Member {
    process: Guarded,
    port: u16,
    log: PathBuf,
}

/// Members of one store. Dropping it stops them.
pub struct Etcd(Vec<Member>);

impl Etcd {
    /// Starts so many and waits until each knows a leader.
    pub fn start(program: &Path, count: usize, directory: &Path) -> Result<Etcd> {
        if !program.is_file() {
            return fail(format!("there is no etcd at {}: install it, or name it with --etcd", program.display()));
        }
        let ports = (0..count).map(|_| Ok((free_port()?, free_port()?))).collect::<Result<Vec<(u16, u16)>>>()?;
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let all: Vec<String> =
            ports.iter().enumerate().map(|(number, (_, peer))| format!("m{number}={}", url(*peer))).collect();
        let mut members = Vec::new();
        for (number, &(port, peer)) in ports.iter().enumerate() {
            let log = directory.join(format!("etcd-{number}.log"));
            let lines = File::create(&log).context(format_args!("create {}", log.display()))?;
            let errors = lines.try_clone().context("share the log")?;
            let process = Guarded::start(program, GRACE, |command| {
                command
                    .arg(format!("--name=m{number}"))
                    .arg(format!("--data-dir={}", directory.join(format!("etcd-{number}")).display()))
                    .arg(format!("--listen-client-urls={}", url(port)))
                    .arg(format!("--advertise-client-urls={}", url(port)))
                    .arg(format!("--listen-peer-urls={}", url(peer)))
                    .arg(format!("--initial-advertise-peer-urls={}", url(peer)))
                    .arg(format!("--initial-cluster={}", all.join(",")))
                    .args(["--logger=zap", "--log-level=error"])
                    .stdin(Stdio::null())
                    .stdout(lines)
                    .stderr(errors)
            })?;
            members.push(Member { process, port, log });
        }
        let mut etcd = Etcd(members);
        etcd.await_leader()?;
        Ok(etcd)
    }

    /// Where clients find the members.
    pub fn urls(&self) -> Vec<String> {
        self.0.iter().map(|member| format!("http://127.0.0.1:{}", member.port)).collect()
    }

    /// Octets of a member's database: the largest, as they say.
    pub fn database_octets(&self) -> Option<u64> {
        self.0.iter().filter_map(|member| status(member)?["dbSize"].as_str()?.parse().ok()).max()
    }

    fn await_leader(&mut self) -> Result<()> {
        let end_ns = now_ns() + PATIENCE_NS;
        loop {
            if self.0.iter().all(|member| status(member).is_some_and(|status| status["leader"].is_string())) {
                return Ok(());
            }
            for member in &mut self.0 {
                if let Some(how) = member.process.exited() {
                    return fail(format!("etcd ended ({how}):\n{}", tail(&member.log)));
                }
            }
            if stop::requested() {
                return fail("stopped");
            }
            if now_ns() > end_ns {
                return fail(format!("etcd finds no leader:\n{}", tail(&self.0[0].log)));
            }
            sleep(Duration::from_millis(50));
        }
    }
}

/// What a member says of itself, if it says anything.
fn status(member: &Member) -> Option<Value> {
    let api = Api { address: ([127, 0, 0, 1], member.port).into(), token: String::new() };
    let answer = Client::new(api).call("POST", "/v3/maintenance/status", &json!({})).ok()?;
    (answer.status == 200).then_some(answer.body)
}
