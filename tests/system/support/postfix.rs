//! A private Postfix between the engine and a destination: what it takes for one message, and what for two, is what
//! other people's servers do. It has two ports, one that offers CHUNKING and one that does not, and is as lenient about
//! line ends as Postfix was by default until 2024.

use super::ports::free_address;
use super::wait::until;
use std::fs::{Permissions, create_dir_all, set_permissions, write};
use std::io::{BufRead, BufReader, Read as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

const SERVICES: &str = "\
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
smtp unix - - n - - smtp
retry unix - - n - - error
error unix - - n - - error
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
";

/// A running instance. Stopped when dropped, and when this process dies.
pub struct Postfix {
    /// Where it takes mail and offers CHUNKING.
    pub chunking: SocketAddr,
    /// Where it does not.
    pub plain: SocketAddr,
    directory: TempDir,
    watcher: Child,
}

impl Postfix {
    /// Starts one that passes everything on to `next`. `None` without root, which Postfix' master insists on.
    pub fn start(next: SocketAddr) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            return None;
        }
        let directory = tempfile::Builder::new().prefix("mailrace-postfix-").tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        // Postfix' own user has to pass through.
        set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
        for name in ["config", "queue", "data"] {
            create_dir_all(path(name)).unwrap();
            set_permissions(path(name), Permissions::from_mode(0o755)).unwrap();
        }
        chown(path("data"), Some(id("-u")), Some(id("-g"))).unwrap();
        let (queue, data, log) = (path("queue"), path("data"), path("mail.log"));
        let main = format!(
            "compatibility_level = 3.6\nmyhostname = postfix.example\nmydestination =\nalias_maps =\n\
             local_recipient_maps =\nmynetworks = 127.0.0.0/8\ninet_interfaces = 127.0.0.1\ninet_protocols = ipv4\n\
             disable_dns_lookups = yes\nsmtp_host_lookup = native\nsmtpd_peername_lookup = no\n\
             smtpd_relay_restrictions = permit_mynetworks, reject\nsmtpd_forbid_bare_newline = no\n\
             smtpd_forbid_unauth_pipelining = no\nsmtpd_tls_security_level = none\nsmtp_tls_security_level = none\n\
             queue_directory = {}\ndata_directory = {}\nmaillog_file = {}\nmaillog_file_prefixes = {}\n\
             relayhost = [{}]:{}\n",
            queue.display(),
            data.display(),
            log.display(),
            directory.path().display(),
            next.ip(),
            next.port()
        );
        write(path("config/main.cf"), main).unwrap();
        let (chunking, plain) = (free_address(), free_address());
        let ports = format!(
            "{chunking} inet n - n - - smtpd\n{plain} inet n - n - - smtpd\n  -o smtpd_discard_ehlo_keywords=chunking\n"
        );
        write(path("config/master.cf"), ports + SERVICES).unwrap();
        // Its standard input ends with this process, however that ends.
        let mut watcher = Command::new("/bin/sh");
        watcher.args(["-c", "read -r nothing; exec postfix -c \"$1\" stop", "sh"]).arg(path("config"));
        watcher.env("PATH", PATH).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        let watcher = watcher.spawn().unwrap();
        let postfix = Self { chunking, plain, directory, watcher };
        let started = postfix.command("start").output().unwrap();
        assert!(started.status.success(), "{}", String::from_utf8_lossy(&started.stderr));
        until("Postfix greets", || [chunking, plain].iter().all(|address| greets(*address)));
        Some(postfix)
    }

    fn command(&self, action: &str) -> Command {
        let mut command = Command::new("postfix");
        command.env("PATH", PATH).arg("-c").arg(self.directory.path().join("config")).arg(action);
        command
    }

    /// What it has written down.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("mail.log")).unwrap_or_default()
    }
}

const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

impl Drop for Postfix {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("Postfix' words:\n{}", self.log());
        }
        drop(self.watcher.stdin.take());
        let _ = self.watcher.wait();
    }
}

fn id(flag: &str) -> u32 {
    let output = Command::new("id").args([flag, "postfix"]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().parse().expect("tests/run installs postfix")
}

fn greets(address: SocketAddr) -> bool {
    let Ok(stream) = TcpStream::connect(address) else { return false };
    let _ = stream.set_read_timeout(Some(Duration::from_secs(10)));
    let mut line = String::new();
    BufReader::new(stream.take(512)).read_line(&mut line).is_ok() && line.starts_with("220 ")
}
