//! A private OpenSMTPD as a server under test: own configuration, queue, socket and users, loopback only.
//!
//! Its paths and users are compiled in, so it runs in a mount namespace of its own in which directories and files of
//! ours stand in their places. It must never touch, nor need, an instance or a user of the distribution.

use std::fs::{self, File, Permissions};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::{Mta, free_port, tail};
use crate::cli::ShapeArgs;
use crate::error::{Context, Result, fail};
use crate::guard::Guarded;
use crate::sampler::process::Roots;

/// SIGTERM, then this long.
const GRACE: Duration = Duration::from_secs(10);
/// The users that it was built for, and numbers for them that nobody is likely to have.
const USERS: [(&str, u32); 2] = [("opensmtpd", 64_101), ("opensmtpq", 64_102)];
/// What stands in the place of what, both below the work directory and in the namespace.
const PLACES: [(&str, &str); 6] = [
    ("spool", "/var/spool"),
    ("run", "/run"),
    ("lib", "/var/lib"),
    ("passwd", "/etc/passwd"),
    ("group", "/etc/group"),
    ("resolv.conf", "/etc/resolv.conf"),
];
/// Waits before a connection that make sense to be polite, not to be fast.
const DELAYS: [&str; 6] = [
    "conn-delay-host",
    "conn-delay-source",
    "conn-delay-connector",
    "conn-delay-relay",
    "conn-delay-domain",
    "reconn-delay-route",
];
/// Deliveries at once to the next hop, as Postfix has them here.
const CONNECTIONS: u32 = 50;

/// A running private instance.
pub struct OpenSmtpd {
    process: Guarded,
    version: String,
    address: SocketAddr,
    log: PathBuf,
}

impl OpenSmtpd {
    /// Writes the configuration into `directory` and starts the daemon on it.
    pub fn start(sink: SocketAddr, shape: &ShapeArgs, directory: &Path) -> Result<OpenSmtpd> {
        if !rustix::process::geteuid().is_root() {
            return fail("a private OpenSMTPD needs root");
        }
        let program = &shape.server.opensmtpd;
        if !program.is_file() {
            return fail(format!("there is no OpenSMTPD at {}: name it with --opensmtpd", program.display()));
        }
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
        let config = directory.join("smtpd.conf");
        fs::write(&config, configuration(address, sink, shape)).context(format_args!("write {}", config.display()))?;
        prepare(directory)?;
        let script = directory.join("start.sh");
        fs::write(&script, start_script(program, directory, &config)).context("write the start script")?;
        let log = directory.join("smtpd.log");
        let lines = File::create(&log).context("create a log")?;
        let errors = lines.try_clone().context("share the log")?;
        let process = Guarded::start_on(shape.server.server_cpu, Path::new("unshare"), GRACE, |command| {
            // All of these become one another, so the process is the server's first one in the end.
            command.args(["--mount", "--propagation", "private", "sh", "-e"]).arg(&script);
            command.stdin(Stdio::null()).stdout(lines).stderr(errors)
        })?;
        Ok(OpenSmtpd { process, version: version(program), address, log })
    }
}

fn prepare(directory: &Path) -> Result<()> {
    let open = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).context("set permissions");
    open(directory, 0o755)?;
    for (name, mode) in [("spool/smtpd", 0o711), ("run", 0o755), ("lib/opensmtpd/empty", 0o755)] {
        let made = directory.join(name);
        fs::create_dir_all(&made).context(format_args!("create {}", made.display()))?;
        open(&made, mode)?;
    }
    // It looks up the name of each peer; the hosts file must do.
    fs::write(directory.join("resolv.conf"), "lookup file\nnameserver 127.0.0.1\n").context("write resolv.conf")?;
    for (name, of) in [("passwd", "/etc/passwd"), ("group", "/etc/group")] {
        let mut text = fs::read_to_string(of).context(format_args!("read {of}"))?;
        for (user, id) in USERS {
            let rest =
                if name == "passwd" { format!("{id}:{id}::/nonexistent:/usr/sbin/nologin") } else { format!("{id}:") };
            text += &format!("{user}:x:{rest}\n");
        }
        fs::write(directory.join(name), text).context(format_args!("write a {name} file"))?;
    }
    Ok(())
}

/// A word that a shell takes as it is.
fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', r"'\''"))
}

fn start_script(program: &Path, directory: &Path, config: &Path) -> String {
    let mounts = PLACES.map(|(ours, theirs)| format!("mount --bind {} {theirs}\n", quoted(&directory.join(ours))));
    // `/run` and `/var/lib` are not looked at by anything else in this namespace.
    format!("{}exec {} -d -f {}\n", mounts.concat(), quoted(program), quoted(config))
}

/// What a bulk sender would set: no delays, no small limits.
fn configuration(smtp: SocketAddr, sink: SocketAddr, shape: &ShapeArgs) -> String {
    let connections = shape.server.destination_connections.unwrap_or(CONNECTIONS);
    let kinds = ["host", "route", "source", "connector", "relay", "domain"];
    let limits = kinds.map(|kind| format!("mta limit max-conn-per-{kind} {connections}\n"));
    let delays = DELAYS.map(|name| format!("mta limit {name} 0\n"));
    let protocol = if shape.sink.sink_tls { "smtp" } else { "smtp+notls" };
    format!(
        "smtp max-message-size {}\nsmtp limit max-mails 1000000\n{}{}scheduler limit max-inflight 50000\n\
         listen on {} port {} hostname mta.perf.test\n\
         action \"out\" relay host \"{protocol}://{sink}\"\nmatch from any for any action \"out\"\n",
        (u64::from(shape.sending.size) * 2).max(10_240_000),
        limits.concat(),
        delays.concat(),
        smtp.ip(),
        smtp.port(),
    )
}

/// It says so on standard error, with a usage that it calls an error.
fn version(program: &Path) -> String {
    let said = Command::new(program).arg("-h").stdin(Stdio::null()).output();
    let said = said.map(|output| String::from_utf8_lossy(&output.stderr).into_owned()).unwrap_or_default();
    let version = said.lines().find_map(|line| line.strip_prefix("version: "));
    version.unwrap_or("OpenSMTPD").to_owned()
}

impl Mta for OpenSmtpd {
    fn version(&self) -> &str {
        &self.version
    }

    fn address(&self) -> SocketAddr {
        self.address
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
        if !self.process.stop() {
            return fail(format!("OpenSMTPD had to be killed:\n{}", self.log_tail()));
        }
        Ok(())
    }
}
