//! Everything that can be known to be wrong before anything starts, said plainly with its remedy, all of it
//! together. Starts nothing; leaves behind the data directory and the lock on it.

use crate::certificate;
use crate::cluster;
use crate::config::Config;
use crate::files::{DataLock, make_private_directory};
use crate::system;
use crate::users::Users;
use mailrace_shards::settings::{ConnectionSettings, Settings, TlsFiles};
use mailrace_shards::spool::segment::SEGMENT_HEADER_BYTES;
use rustix::io::Errno;
use rustix::process::Resource;
use std::fs::DirEntry;
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::path::Path;
use std::time::Duration;

/// The executor refuses to start with less (its rings count against it on old kernels).
const MEMLOCK_BYTES_MIN: u64 = 512 << 10;

/// Descriptors below which a busy sender will run short.
const OPEN_FILES_WANTED: u64 = 4096;

/// How often, and at which distance, an address that is in use is tried before it counts as another process's.
const LISTENER_TRIES: u32 = 100;
const LISTENER_PAUSE: Duration = Duration::from_millis(50);

/// Descriptors without which even a small start fails.
const OPEN_FILES_MIN: u64 = 256;

/// The first kernel with every io_uring operation the engine uses.
const KERNEL_MIN: (u32, u32) = (5, 13);

/// What the checks found.
#[derive(Debug, Default)]
pub struct Findings {
    /// Each stops the start.
    pub errors: Vec<String>,
    /// Each is worth reading.
    pub warnings: Vec<String>,
}

/// What the checks made, needed to go on.
#[derive(Debug)]
pub struct Ready {
    /// Keep for the life of the process.
    pub lock: DataLock,
    /// AUTH users; empty when none are configured.
    pub users: Users,
    /// Worth reading.
    pub warnings: Vec<String>,
}

/// Checks everything; on failure all errors and warnings.
pub fn run(config: &Config) -> Result<Ready, Findings> {
    let mut findings = Findings { warnings: config.warnings.clone(), ..Findings::default() };
    kernel(&mut findings);
    limits(config.settings.connections, &mut findings);
    let lock = data_directory(&config.settings, &mut findings);
    // Without the lock, it is a running engine that has the addresses.
    let patience = if lock.is_some() { LISTENER_TRIES } else { 1 };
    for (key, address) in listeners(config) {
        findings.note(listener_in_the_end(key, address, patience));
    }
    tls_files(config, &mut findings);
    findings.errors.extend(config.cluster.as_ref().map(cluster::check_files).unwrap_or_default());
    let users = users(&config.settings, &mut findings);
    sources(&config.settings, &mut findings);
    hostname(&config.settings, &mut findings);
    match lock {
        Some(lock) if findings.errors.is_empty() => Ok(Ready { lock, users, warnings: findings.warnings }),
        _ => Err(findings),
    }
}

/// What of this a reload needs: the files that the new configuration names. The users, and all errors.
pub fn recheck(config: &Config) -> (Users, Vec<String>) {
    let mut findings = Findings::default();
    tls_files(config, &mut findings);
    let users = users(&config.settings, &mut findings);
    (users, findings.errors)
}

impl Findings {
    fn note(&mut self, result: Result<(), String>) {
        self.errors.extend(result.err());
    }
}

fn kernel(findings: &mut Findings) {
    if let Some((major, minor)) = system::kernel_version().filter(|version| *version < KERNEL_MIN) {
        findings.errors.push(format!(
            "the kernel is {major}.{minor}; io_uring as mailrace uses it needs {}.{} or later",
            KERNEL_MIN.0, KERNEL_MIN.1
        ));
    }
    if let Err(errno) = system::try_io_uring() {
        let sysctl = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").unwrap_or_default();
        findings.errors.push(io_uring_remedy(errno, sysctl.trim()));
    }
}

/// Why io_uring_setup(2) failed. `sysctl` is kernel.io_uring_disabled, empty where there is none.
fn io_uring_remedy(errno: Errno, sysctl: &str) -> String {
    let remedy = match (errno, sysctl) {
        (Errno::PERM, "2") => {
            "the sysctl kernel.io_uring_disabled is 2, which forbids it to everybody; set it to 0: sysctl -w kernel.io_uring_disabled=0"
        }
        (Errno::PERM, "1") => {
            "the sysctl kernel.io_uring_disabled is 1, which allows it only to kernel.io_uring_group; set it to 0, or put the user of mailrace into that group"
        }
        (Errno::PERM | Errno::ACCESS, _) => {
            "a seccomp filter or security module forbids it; in a container allow io_uring_setup, io_uring_enter and io_uring_register, in a unit SystemCallFilter=io_uring_setup io_uring_enter io_uring_register"
        }
        (Errno::NOSYS, _) => {
            "this kernel was built without it (CONFIG_IO_URING), or a seccomp filter hides it, as the default filters of container engines do"
        }
        (Errno::NOMEM, _) => {
            "the locked-memory limit does not leave room for a ring; raise it: LimitMEMLOCK=infinity in the unit, or ulimit -l"
        }
        (Errno::MFILE | Errno::NFILE, _) => "no file descriptor is left; raise LimitNOFILE, or ulimit -n",
        _ => "io_uring_setup(2) explains the error",
    };
    format!("io_uring cannot be used ({}): {remedy}", io::Error::from(errno))
}

fn limits(connections: ConnectionSettings, findings: &mut Findings) {
    if let Some(bytes) = system::raise_limit(Resource::Memlock).filter(|bytes| *bytes < MEMLOCK_BYTES_MIN) {
        findings.errors.push(format!(
            "locked memory is limited to {bytes} octets (RLIMIT_MEMLOCK), io_uring needs {MEMLOCK_BYTES_MIN}; \
             put LimitMEMLOCK=infinity into the unit, or raise \"memlock\" in /etc/security/limits.conf"
        ));
    }
    let remedy = "put LimitNOFILE=1048576 into the unit, or raise \"nofile\" in /etc/security/limits.conf";
    match system::raise_limit(Resource::Nofile) {
        Some(files) if files < OPEN_FILES_MIN => findings.errors.push(format!(
            "open files are limited to {files} (RLIMIT_NOFILE), the least is {OPEN_FILES_MIN}; {remedy}"
        )),
        Some(files) if files < OPEN_FILES_WANTED => findings.warnings.push(format!(
            "open files are limited to {files} (RLIMIT_NOFILE), which leaves {} for connections of injectors and {} for \
             deliveries; {remedy}",
            connections.injecting, connections.delivering
        )),
        _ => {}
    }
}

fn data_directory(settings: &Settings, findings: &mut Findings) -> Option<DataLock> {
    let directory = &settings.data_dir;
    let locked = prepare_directory(directory).and_then(|()| DataLock::take(directory));
    // Nothing below is touched before the lock is ours.
    let made = locked.and_then(|lock| {
        for name in ["spool", "log"] {
            prepare_directory(&directory.join(name))?;
        }
        Ok(lock)
    });
    let lock = made.map_err(|error| findings.errors.push(error)).ok()?;
    findings.note(rules_beside_mail(directory));
    if let Ok(figures) = rustix::fs::statvfs(directory) {
        let free = figures.f_bavail.saturating_mul(figures.f_frsize);
        if free < settings.spool.min_free_bytes {
            findings.warnings.push(format!(
                "{} has {free} octets free, less than spool.min_free_bytes ({}); new mail will be refused until there is room",
                directory.display(),
                settings.spool.min_free_bytes
            ));
        }
    }
    Some(lock)
}

/// Mail of earlier runs was taken under rules and suppressions. Where their file is gone, held mail would leave. An
/// empty file says that this is meant.
fn rules_beside_mail(directory: &Path) -> Result<(), String> {
    let rules = directory.join("rules.db");
    if rules.exists() || !has_mail(&directory.join("spool")) {
        return Ok(());
    }
    Err(format!(
        "{} is missing, and the spool beside it holds mail of earlier runs, which would leave without the rules and \
         suppressions that were in force; put the file back, or make an empty one of that name to start with none",
        rules.display()
    ))
}

/// Whether any segment of a spool is more than begun. What it holds may have ended; recovery knows more, and is later.
fn has_mail(spool: &Path) -> bool {
    let files = |directory: &Path| std::fs::read_dir(directory).into_iter().flatten().flatten();
    let is_used = |file: DirEntry| {
        file.path().extension().is_some_and(|of| of == "log")
            && file.metadata().is_ok_and(|data| data.is_file() && data.len() > SEGMENT_HEADER_BYTES as u64)
    };
    files(spool).any(|shard| files(&shard.path()).any(is_used))
}

/// Makes the directory and tries a file in it: permission bits alone do not tell of read-only mounts,
/// quotas, or security modules.
fn prepare_directory(directory: &Path) -> Result<(), String> {
    let shown = directory.display();
    make_private_directory(directory).map_err(|error| {
        format!("the directory {shown} cannot be made: {error}; make it, owned by the user of mailrace")
    })?;
    let probe = directory.join(format!(".probe-{}", std::process::id()));
    let written = std::fs::File::create(&probe).and_then(|mut file| file.write_all(b"probe"));
    // A probe left behind harms nothing; the write is what was asked.
    let _ = std::fs::remove_file(&probe);
    written.map_err(|error| {
        format!("the directory {shown} cannot be written: {error}; it must belong to the user of mailrace")
    })
}

/// Every address that we will listen at, with its key.
pub fn listeners(config: &Config) -> impl Iterator<Item = (&'static str, SocketAddr)> {
    let smtp = config.settings.smtp.listen.iter().map(|address| ("smtp.listen", *address));
    smtp.chain(std::iter::once(("api.listen", config.api.listen)))
}

/// Tries again for a while. When a process with an io_uring is killed, the kernel gives up its requests, and with them
/// the sockets that they use, only some time after the process is gone; whoever starts it again is that fast.
#[expect(clippy::disallowed_methods, reason = "nothing runs yet that this could hold up")]
fn listener_in_the_end(key: &str, address: SocketAddr, tries: u32) -> Result<(), String> {
    for _ in 1..tries {
        match TcpListener::bind(address) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => std::thread::sleep(LISTENER_PAUSE),
            _ => break,
        }
    }
    listener(key, address)
}

/// Binds and lets go. The shards share their address among themselves by SO_REUSEPORT, which would silently
/// share it with another process of this user too; a plain bind does not.
fn listener(key: &str, address: SocketAddr) -> Result<(), String> {
    let remedy = match TcpListener::bind(address) {
        Ok(_) => return Ok(()),
        Err(error) => match error.kind() {
            io::ErrorKind::AddrInUse => {
                format!("another process holds it; find it with: ss -ltnp 'sport = :{}'", address.port())
            }
            io::ErrorKind::PermissionDenied => {
                "a port below 1024 needs CAP_NET_BIND_SERVICE; use the unit of `mailrace systemd-unit`, or: setcap cap_net_bind_service=+ep on the binary".to_owned()
            }
            io::ErrorKind::AddrNotAvailable => {
                "this host does not have that address; see: ip address".to_owned()
            }
            _ => error.to_string(),
        },
    };
    Err(format!("{key}: {address} cannot be listened at: {remedy}"))
}

fn tls_files(config: &Config, findings: &mut Findings) {
    for (section, files) in [("smtp", &config.settings.smtp.tls), ("api", &config.api.tls)] {
        findings.note(tls(section, files.as_ref()));
    }
}

fn tls(section: &str, files: Option<&TlsFiles>) -> Result<(), String> {
    let Some(files) = files else { return Ok(()) };
    certificate::load(files).map(drop).map_err(|error| format!("{section}.tls_certificate, {section}.tls_key: {error}"))
}

fn users(settings: &Settings, findings: &mut Findings) -> Users {
    let Some(path) = &settings.smtp.users_file else { return Users::default() };
    Users::load(path).unwrap_or_else(|errors| {
        findings.errors.extend(errors.into_iter().map(|error| format!("smtp.users_file: {error}")));
        Users::default()
    })
}

/// A source whose address is missing only warns: it may be a floating address that arrives later.
fn sources(settings: &Settings, findings: &mut Findings) {
    for source in &settings.sources {
        let addresses = source.address.map(IpAddr::from).into_iter().chain(source.address_v6.map(IpAddr::from));
        for address in addresses {
            if let Err(error) = UdpSocket::bind(SocketAddr::new(address, 0)) {
                findings.warnings.push(format!(
                    "source {:?}: this host cannot send from {address} ({error}); its mail will wait until it can",
                    source.name
                ));
            }
        }
    }
}

fn hostname(settings: &Settings, findings: &mut Findings) {
    let name = &settings.hostname;
    if !name.contains('.') && !name.starts_with('[') {
        findings.warnings.push(format!(
            "server.hostname is {name:?}, which is no full name; many receivers refuse it in EHLO: set it to the name that this host's address resolves to"
        ));
    }
}

#[cfg(test)]
#[path = "preflight_tests.rs"]
mod tests;
