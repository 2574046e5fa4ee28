//! mailrace as a server under test: its program, a configuration written here, its log in a file.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::json;

use super::{Mta, beside_ourselves, free_port, tail};
use crate::cli::{ServerArgs, ShapeArgs};
use crate::clock::now_ns;
use crate::dns::{Hosts, Stub};
use crate::error::{Context, Result, fail};
use crate::guard::{Guarded, output};
use crate::rules::http::{Api, Client};
use crate::sampler::process::Roots;

/// SIGTERM, then this long to finish what is in progress.
const GRACE: Duration = Duration::from_secs(40);

/// A connection that has been idle for longer may be closed by the server at any moment.
const KEPT_NS: u64 = 1_000_000_000;

/// Its limit of memory, and the part of it for bodies, where nothing is said: more bodies need a higher limit.
const MEMORY_OCTETS: u64 = 1 << 30;
const BODY_MEMORY_OCTETS: u64 = 256 << 20;

/// A running mailrace.
pub struct Mailrace {
    process: Guarded,
    version: String,
    address: SocketAddr,
    api: SocketAddr,
    token: PathBuf,
    log: PathBuf,
    /// A connection to the API, and when it was last used.
    client: Option<(Client, u64)>,
    _stub: Option<Stub>,
}

impl Mailrace {
    /// Writes the configuration into `directory` and starts the program on it.
    pub fn start(sink: SocketAddr, shape: &ShapeArgs, directory: &Path) -> Result<Mailrace> {
        let program = match &shape.server.mailrace {
            Some(path) => path.clone(),
            None => beside_ourselves("mailrace")?,
        };
        if !program.is_file() {
            return fail(format!(
                "there is no mailrace at {}: build it, or name it with --mailrace",
                program.display()
            ));
        }
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
        let api = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
        let extra = match &shape.server.mailrace_config {
            Some(path) => fs::read_to_string(path).context(format_args!("read {}", path.display()))?,
            None => String::new(),
        };
        let (route, stub) = route(sink, shape.server.dns)?;
        let config = directory.join("mailrace.toml");
        let data = directory.join("data");
        fs::write(&config, configuration(&data, address, api, &route, &shape.server) + &extra)
            .context(format_args!("write {}", config.display()))?;
        let log = directory.join("mailrace.log");
        let lines = File::create(&log).context(format_args!("create {}", log.display()))?;
        let errors = lines.try_clone().context("share the log")?;
        let version = output(Command::new(&program).arg("--version"));
        let process = Guarded::start_on(shape.server.server_cpu, &program, GRACE, |command| {
            command.args(["serve", "--config"]).arg(&config).stdin(Stdio::null()).stdout(lines).stderr(errors)
        })?;
        let version = version.map_or_else(|_| "mailrace".to_owned(), |text| text.trim().to_owned());
        Ok(Mailrace { process, version, address, api, token: data.join("token"), log, client: None, _stub: stub })
    }
}

impl Mailrace {
    /// The pause over everything, made or ended.
    fn call(&mut self, method: &str) -> Result<()> {
        let now = now_ns();
        let kept = self.client.take().filter(|(_, used_ns)| now - used_ns < KEPT_NS);
        let mut client = match (kept, self.api()) {
            (Some((client, _)), _) => client,
            (None, Some(api)) => Client::new(api?),
            (None, None) => return fail("mailrace has no API"),
        };
        client.must(method, "/v1/pauses", &json!({}))?;
        self.client = Some((client, now_ns()));
        Ok(())
    }
}

/// How the sink is found: by a route, or by the DNS of a name server that is started for it.
fn route(sink: SocketAddr, hosts: Option<Hosts>) -> Result<(String, Option<Stub>)> {
    let Some(hosts) = hosts else {
        return Ok((format!("[[route]]\ndomain = \"*\"\nhosts = [\"{sink}\"]\n"), None));
    };
    let SocketAddr::V4(sink) = sink else { return fail("--dns needs a sink at an IPv4 address") };
    if sink.port() != 25 {
        return fail("--dns leads to port 25: give the sink a place there, such as --sink-listen 127.0.0.25:25");
    }
    let stub = Stub::start(hosts, *sink.ip()).context("start a name server")?;
    Ok((format!("[dns]\nservers = [\"{}\"]\n", stub.address()), Some(stub)))
}

/// The configuration of a measurement: everything durable, everything to the sink.
fn configuration(data: &Path, smtp: SocketAddr, api: SocketAddr, route: &str, server: &ServerArgs) -> String {
    let shards = server.shards.map_or_else(String::new, |count| format!("shards = {count}\n"));
    let sync = server.sync.word();
    let bodies = server.body_memory.map_or_else(String::new, |octets| format!("body_memory_bytes = {octets}\n"));
    let mut text = format!(
        "[server]\ndata_dir = {data:?}\nhostname = \"mta.perf.test\"\n{shards}\n\
         [smtp]\nlisten = [\"{smtp}\"]\n\n\
         [api]\nlisten = \"{api}\"\n\n\
         [spool]\nsync = \"{sync}\"\n{bodies}\n\
         [egress]\nallow_private = true\n\n\
         {route}"
    );
    if let Some(octets) = server.body_memory.filter(|octets| *octets > BODY_MEMORY_OCTETS) {
        text += &format!("\n[limits]\nmemory_bytes = {}\n", octets + MEMORY_OCTETS);
    }
    if let Some(connections) = server.destination_connections {
        text += &format!("\n[[limit]]\nper = \"site\"\nconnections = {connections}\n");
    }
    if let Some(lanes) = server.lanes {
        text += &format!("\n[[limit]]\nper = \"domain\"\ndomain = \"d00000.perf.test\"\nlanes = {lanes}\n");
    }
    if let Some(seconds) = server.retry_seconds {
        text += &format!("\n[retry]\nintervals = [\"{seconds}s\"]\n");
    }
    text
}

impl Mta for Mailrace {
    fn version(&self) -> &str {
        &self.version
    }

    fn address(&self) -> SocketAddr {
        self.address
    }

    fn api(&self) -> Option<Result<Api>> {
        // The first start writes it before the greeting.
        let token = fs::read_to_string(&self.token).context(format_args!("read {}", self.token.display()));
        Some(token.map(|token| Api { address: self.api, token: token.trim().to_owned() }))
    }

    fn pause(&mut self) -> Result<()> {
        self.call("POST")
    }

    fn release(&mut self) -> Result<()> {
        self.call("DELETE")
    }

    fn roots(&self) -> Roots {
        self.process.pid().into()
    }

    fn exited(&mut self) -> Option<String> {
        self.process.exited()
    }

    fn log_tail(&self) -> String {
        tail(&self.log)
    }

    fn stop(&mut self) -> Result<()> {
        if self.process.stop() {
            return Ok(());
        }
        fail(format!("mailrace had to be killed {} s after SIGTERM:\n{}", GRACE.as_secs(), self.log_tail()))
    }
}
