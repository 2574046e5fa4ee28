//! A private Postfix instance as a server under test: own configuration, queue and data directories, loopback only.
//!
//! It must never touch the distribution's own instance. Whatever becomes of us, a small process of ours notices the end
//! of its standard input and stops the instance.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use super::{Mta, free_port, tail};
use crate::cli::ShapeArgs;
use crate::clock::now_ns;
use crate::error::{Context, Failure, Result, fail};
use crate::guard::output;
use crate::sampler::process::Roots;

/// The services that relaying needs, none of them in a chroot, with as many processes as they ask for.
const SERVICES: &str = "\
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
tlsproxy unix - - n - 0 tlsproxy
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
proxywrite unix - - n - 1 proxymap
smtp unix - - n - - smtp
relay unix - - n - - smtp
showq unix n - n - - showq
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
local unix - n n - - local
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
";

/// What a bulk sender would set, and what a private instance needs. Each may be replaced with --postfix-set.
const PARAMETERS: &[(&str, &str)] = &[
    ("compatibility_level", "3.6"),
    ("myhostname", "mta.perf.test"),
    ("mynetworks", "127.0.0.0/8"),
    ("mydestination", ""),
    ("alias_maps", ""),
    ("local_recipient_maps", ""),
    ("inet_interfaces", "127.0.0.1"),
    ("inet_protocols", "ipv4"),
    ("disable_dns_lookups", "yes"),
    ("smtp_host_lookup", "native"),
    ("smtpd_peername_lookup", "no"),
    ("smtpd_relay_restrictions", "permit_mynetworks, reject"),
    ("smtpd_recipient_restrictions", "permit_mynetworks, reject"),
    ("smtpd_tls_security_level", "none"),
    ("smtp_tls_security_level", "none"),
    ("biff", "no"),
    ("enable_long_queue_ids", "yes"),
    // No brake between input and output, no limit for a client that sends a lot.
    ("in_flow_delay", "0"),
    ("smtpd_client_connection_count_limit", "0"),
    ("smtpd_client_connection_rate_limit", "0"),
    ("smtpd_client_message_rate_limit", "0"),
    ("smtpd_client_recipient_rate_limit", "0"),
    ("smtpd_error_sleep_time", "0"),
    ("anvil_rate_time_unit", "60s"),
    // Processes that stay, as many as the connections on both sides need.
    ("default_process_limit", "200"),
    ("max_use", "100000"),
    ("max_idle", "300s"),
    // A queue manager that sees the whole queue and a next hop that takes many connections.
    ("qmgr_message_active_limit", "100000"),
    ("qmgr_message_recipient_limit", "200000"),
    ("qmgr_message_recipient_minimum", "100"),
    ("default_destination_concurrency_limit", "50"),
    ("initial_destination_concurrency", "50"),
    // Over loopback a new connection costs it a quarter less CPU than one that passes through its cache server.
    ("smtp_connection_cache_on_demand", "no"),
    ("smtp_connection_cache_destinations", ""),
    ("maximal_queue_lifetime", "1d"),
];

/// How long a queue may take to settle at the stop.
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// A running private instance.
pub struct Postfix {
    config: PathBuf,
    queue: PathBuf,
    log: PathBuf,
    version: String,
    address: SocketAddr,
    master: u32,
    /// Stops the instance when its input ends.
    watcher: Option<Child>,
}

impl Postfix {
    /// Makes the directories below `directory`, writes the configuration, starts the instance.
    pub fn start(sink: SocketAddr, shape: &ShapeArgs, directory: &Path) -> Result<Postfix> {
        if !rustix::process::geteuid().is_root() {
            return fail("a private Postfix instance needs root");
        }
        let version = output(Command::new("postconf").args(["-dh", "mail_version"]))
            .map_err(|failure| Failure(format!("is Postfix installed? {failure}")))?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
        let mut postfix = Postfix {
            config: directory.join("config"),
            queue: directory.join("queue"),
            log: directory.join("mail.log"),
            version: format!("Postfix {}", version.trim()),
            address,
            master: 0,
            watcher: None,
        };
        postfix.prepare(sink, shape, directory)?;
        postfix.watch()?;
        output(Command::new("postfix").arg("-c").arg(&postfix.config).arg("start"))
            .map_err(|failure| Failure(format!("{failure}\n{}", postfix.log_tail())))?;
        postfix.master = postfix.master_pid()?;
        Ok(postfix)
    }

    fn prepare(&self, sink: SocketAddr, shape: &ShapeArgs, directory: &Path) -> Result<()> {
        // Postfix's own user has to pass through.
        fs::set_permissions(directory, Permissions::from_mode(0o755)).context("open the work directory")?;
        let data = directory.join("data");
        for made in [&self.config, &self.queue, &data] {
            fs::create_dir_all(made).context(format_args!("create {}", made.display()))?;
            fs::set_permissions(made, Permissions::from_mode(0o755)).context("set permissions")?;
        }
        let owner = |flag| -> Result<u32> {
            output(Command::new("id").args([flag, "postfix"]))?.trim().parse().context("read the id of user postfix")
        };
        chown(&data, Some(owner("-u")?), Some(owner("-g")?)).context("give the data directory to Postfix")?;
        let mut parameters: BTreeMap<String, String> =
            PARAMETERS.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let relay = format!("[{}]:{}", sink.ip(), sink.port());
        for (name, value) in [
            ("queue_directory", self.queue.display().to_string()),
            ("data_directory", data.display().to_string()),
            ("maillog_file", self.log.display().to_string()),
            ("maillog_file_prefixes", directory.display().to_string()),
            ("relayhost", relay),
            ("message_size_limit", (u64::from(shape.sending.size) * 2).max(10_240_000).to_string()),
        ] {
            parameters.insert(name.to_owned(), value);
        }
        if let Some(connections) = shape.server.destination_connections {
            for name in ["default_destination_concurrency_limit", "initial_destination_concurrency"] {
                parameters.insert(name.to_owned(), connections.to_string());
            }
        }
        if let Some(seconds) = shape.server.retry_seconds {
            for name in ["minimal_backoff_time", "maximal_backoff_time", "queue_run_delay"] {
                parameters.insert(name.to_owned(), format!("{seconds}s"));
            }
        }
        if shape.sink.sink_tls {
            parameters.insert("smtp_tls_security_level".to_owned(), "may".to_owned());
            parameters.insert("smtp_tls_connection_reuse".to_owned(), "yes".to_owned());
            parameters.insert("smtp_connection_cache_on_demand".to_owned(), "yes".to_owned());
        }
        if shape.sink.sink_line_ms > 0 {
            // Over a long line a new connection costs three round trips, so that the cache pays.
            parameters.insert("smtp_connection_cache_on_demand".to_owned(), "yes".to_owned());
        }
        for set in &shape.server.postfix_set {
            let Some((name, value)) = set.split_once('=') else {
                return fail(format!("--postfix-set {set}: NAME=VALUE"));
            };
            parameters.insert(name.trim().to_owned(), value.trim().to_owned());
        }
        let main: String = parameters.iter().map(|(name, value)| format!("{name} = {value}\n")).collect();
        let master = format!("{} inet n - n - - smtpd\n{SERVICES}", self.address);
        fs::write(self.config.join("main.cf"), main).context("write main.cf")?;
        fs::write(self.config.join("master.cf"), master).context("write master.cf")
    }

    fn watch(&mut self) -> Result<()> {
        let ourselves = std::env::current_exe().context("find our own program")?;
        let mut command = Command::new(ourselves);
        command.args(["stop-postfix", "--config"]).arg(&self.config);
        // Its own process group: Ctrl-C on the terminal must not end it before its work.
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        self.watcher = Some(command.spawn().context("start the watcher")?);
        Ok(())
    }

    fn master_pid(&self) -> Result<u32> {
        let path = self.queue.join("pid/master.pid");
        let text = fs::read_to_string(&path).context(format_args!("read {}", path.display()))?;
        text.trim().parse().context("read Postfix's process id")
    }

    fn is_running(&self) -> bool {
        self.master != 0
            && fs::read_to_string(format!("/proc/{}/stat", self.master)).is_ok_and(|stat| stat.contains("(master) "))
    }
}

/// Waits until our parent closes the pipe or dies, then stops the instance; nothing happens when it is stopped already.
pub fn stop_after_parent(config: &Path) -> Result<()> {
    let mut nothing = Vec::new();
    // Whatever ends the read, the parent is done.
    let _ = std::io::stdin().take(1).read_to_end(&mut nothing);
    if config.join("main.cf").exists() {
        let _ = output(Command::new("postfix").arg("-c").arg(config).arg("stop"));
    }
    Ok(())
}

impl Mta for Postfix {
    fn version(&self) -> &str {
        &self.version
    }

    fn address(&self) -> SocketAddr {
        self.address
    }

    fn roots(&self) -> Roots {
        self.master.into()
    }

    fn exited(&mut self) -> Option<String> {
        (!self.is_running()).then(|| "its master has gone".to_owned())
    }

    fn log_tail(&self) -> String {
        tail(&self.log)
    }

    fn stop(&mut self) -> Result<()> {
        if self.is_running() {
            output(Command::new("postfix").arg("-c").arg(&self.config).arg("stop"))?;
            let end_ns = now_ns() + STOP_LIMIT.as_nanos() as u64;
            while self.is_running() {
                if now_ns() > end_ns {
                    return fail(format!("Postfix did not stop:\n{}", self.log_tail()));
                }
                sleep(Duration::from_millis(20));
            }
        }
        Ok(())
    }
}

impl Drop for Postfix {
    fn drop(&mut self) {
        let _ = self.stop();
        if let Some(mut watcher) = self.watcher.take() {
            drop(watcher.stdin.take());
            let _ = watcher.wait();
        }
    }
}
