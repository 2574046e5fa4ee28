//! A private Exim as a server under test: own configuration, spool and log, loopback only.
//!
//! It must never touch the distribution's own instance. Exim starts a process for each message and waits for none of
//! them, so its CPU time is taken from a control group.

use std::fs::{self, File, Permissions};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::{Mta, free_port, tail};
use crate::cli::ShapeArgs;
use crate::error::{Context, Failure, Result, fail};
use crate::guard::{Guarded, output};
use crate::sampler::group::ControlGroup;
use crate::sampler::process::Roots;

/// SIGTERM, then this long.
const GRACE: Duration = Duration::from_secs(10);
/// The user that Debian's Exim was built for.
const USER: &str = "Debian-exim";

/// A running private instance.
pub struct Exim {
    process: Guarded,
    group: ControlGroup,
    version: String,
    address: SocketAddr,
    log: PathBuf,
}

impl Exim {
    /// Writes the configuration into `directory` and starts the daemon on it.
    pub fn start(sink: SocketAddr, shape: &ShapeArgs, directory: &Path) -> Result<Exim> {
        if !rustix::process::geteuid().is_root() {
            return fail("a private Exim needs root");
        }
        let program = &shape.server.exim;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
        let config = directory.join("exim.conf");
        fs::write(&config, configuration(program, directory, address, sink, shape))
            .context(format_args!("write {}", config.display()))?;
        fs::set_permissions(directory, Permissions::from_mode(0o755)).context("open the work directory")?;
        let id = |flag| -> Result<u32> {
            let said = output(Command::new("id").args([flag, USER]));
            let said = said.map_err(|failure| Failure(format!("Exim needs its user {USER}: {failure}")))?;
            said.trim().parse().context("read the id of Exim's user")
        };
        let (user, mail) = (id("-u")?, id("-g")?);
        for name in ["spool", "log"] {
            let made = directory.join(name);
            fs::create_dir_all(&made).context(format_args!("create {}", made.display()))?;
            chown(&made, Some(user), Some(mail)).context("give a directory to Exim")?;
        }
        let said = output(Command::new(program).arg("-C").arg(&config).arg("-bV"))
            .map_err(|failure| Failure(format!("is Exim installed? {failure}")))?;
        let version = said.split_ascii_whitespace().nth(2).unwrap_or("").to_owned();
        let lines = File::create(directory.join("exim.out")).context("create a log")?;
        let errors = lines.try_clone().context("share the log")?;
        let group = ControlGroup::new()?;
        let place = Some(group.path());
        let process = Guarded::start_in(place, shape.server.server_cpu, program, GRACE, |command| {
            command.arg("-C").arg(&config).args(["-bdf", "-q5s"]).stdin(Stdio::null()).stdout(lines).stderr(errors)
        })?;
        Ok(Exim { process, group, version: format!("Exim {version}"), address, log: directory.join("log/mainlog") })
    }
}

/// What a bulk sender would set: no delays, no look-ups, a delivery at once for each message.
fn configuration(program: &Path, directory: &Path, smtp: SocketAddr, sink: SocketAddr, shape: &ShapeArgs) -> String {
    let (place, program) = (directory.display(), program.display());
    let retry = shape.server.retry_seconds.unwrap_or(60);
    let parallel = match shape.server.destination_connections {
        Some(connections) => format!("  max_parallel = {connections}\n"),
        None => String::new(),
    };
    let tls = if shape.sink.sink_tls { "" } else { "  hosts_avoid_tls = *\n" };
    format!(
        "exim_path = {program}\nspool_directory = {place}/spool\nlog_file_path = {place}/log/%slog\n\
         pid_file_path = {place}/spool/exim.pid\nprimary_hostname = mta.perf.test\n\
         local_interfaces = <; {}.{}\ndaemon_smtp_ports = {}\n\
         tls_advertise_hosts =\nhost_lookup =\nrfc1413_hosts =\nkeep_environment =\nadd_environment =\n\
         deliver_drop_privilege = true\nsplit_spool_directory = true\nmessage_size_limit = 0\n\
         smtp_accept_max = 1000\nsmtp_connect_backlog = 1000\nsmtp_accept_queue = 0\nsmtp_accept_queue_per_connection = 0\n\
         smtp_accept_max_per_connection = 0\nqueue_run_max = 50\nremote_max_parallel = 50\n\
         acl_smtp_rcpt = accept\nacl_smtp_data = accept\n\
         begin routers\nout:\n  driver = manualroute\n  route_list = * {}::{}\n  self = send\n  transport = remote\n\
         begin transports\nremote:\n  driver = smtp\n  allow_localhost\n  dnssec_request_domains =\n\
         {tls}{parallel}begin retry\n* * F,1d,{retry}s\n",
        smtp.ip(),
        smtp.port(),
        smtp.port(),
        sink.ip(),
        sink.port(),
    )
}

impl Mta for Exim {
    fn version(&self) -> &str {
        &self.version
    }

    fn address(&self) -> SocketAddr {
        self.address
    }

    fn roots(&self) -> Roots {
        Roots { pids: Vec::new(), group: Some(self.group.path().to_owned()) }
    }

    fn exited(&mut self) -> Option<String> {
        self.process.exited()
    }

    fn log_tail(&self) -> String {
        tail(&self.log)
    }

    fn stop(&mut self) -> Result<()> {
        if !self.process.stop() {
            return fail(format!("Exim had to be killed:\n{}", self.log_tail()));
        }
        if !self.group.end() {
            return fail(format!("processes of Exim did not end:\n{}", self.log_tail()));
        }
        Ok(())
    }
}
