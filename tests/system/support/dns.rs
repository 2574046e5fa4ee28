//! Name servers for the engine: Debian's dnsmasq, and a stub for the answers that dnsmasq cannot give.

use super::ports::free_address;
use super::wait::until;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;
use tempfile::TempDir;

pub const A: u16 = 1;
pub const MX: u16 = 15;

/// A loopback address that no other test uses now, for a destination at port 25; `None` (with a word about it)
/// where that port is not for the one who runs the tests.
pub fn mail_host() -> Option<SocketAddr> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    for _ in 0..100 {
        let [.., high, low] = std::process::id().to_be_bytes();
        let number = u8::try_from(1 + NEXT.fetch_add(1, Ordering::Relaxed) % 250).unwrap();
        let address = SocketAddr::from(([127, 64 | (high % 64), low, number], 25));
        match TcpListener::bind(address) {
            Ok(_) => return Some(address),
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                eprintln!("SKIPPED: an MX is reached at port 25, which may not be bound here: {error}");
                return None;
            }
            Err(_) => {}
        }
    }
    panic!("no free address for a mail host");
}

/// dnsmasq with a configuration of its own. Killed when dropped.
pub struct Dnsmasq {
    /// Where it answers.
    pub address: SocketAddr,
    child: Child,
    _directory: TempDir,
}

impl Dnsmasq {
    /// Knows what `lines` say and that nothing else exists below `example`.
    pub fn start(lines: &str) -> Self {
        let directory = tempfile::Builder::new().prefix("mailrace-dnsmasq-").tempdir().unwrap();
        let address = free_address();
        let path = directory.path().join("dnsmasq.conf");
        let pid = directory.path().join("pid");
        let own = format!(
            "port={}\nlisten-address=127.0.0.1\nbind-interfaces\nno-resolv\nno-hosts\nlocal=/example/\npid-file={}\n",
            address.port(),
            pid.display()
        );
        std::fs::write(&path, own + lines).unwrap();
        let places = ["/usr/sbin/dnsmasq", "/usr/bin/dnsmasq", "/usr/local/sbin/dnsmasq"];
        let program = places.iter().find(|place| std::path::Path::new(place).exists());
        let program = program.expect("dnsmasq is not installed; tests/run installs it");
        let mut command = Command::new(program);
        command.arg(format!("--conf-file={}", path.display())).args(["--keep-in-foreground", "--no-daemon"]);
        if rustix::process::geteuid().is_root() {
            command.arg("--user=root");
        }
        let words = directory.path().join("stderr");
        let stderr = std::fs::File::create(&words).unwrap();
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr).spawn().unwrap();
        until("dnsmasq answers", || {
            if let Some(status) = child.try_wait().unwrap() {
                panic!("dnsmasq ended with {status}: {}", std::fs::read_to_string(&words).unwrap());
            }
            TcpStream::connect(address).is_ok()
        });
        Self { address, child, _directory: directory }
    }
}

impl Drop for Dnsmasq {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the stub answers.
#[derive(Clone, Debug)]
pub enum Answer {
    /// Records of the type asked for; none is "no data".
    Records(Vec<Data>),
    /// Only this code, RFC 1035 §4.1.1: 2 for SERVFAIL, 3 for NXDOMAIN.
    Code(u8),
    /// "Truncated: ask by TCP", RFC 2181 §9.
    Truncated,
}

/// The content of a record.
#[derive(Clone, Debug)]
pub enum Data {
    /// An address.
    A(Ipv4Addr),
    /// Preference and host; an empty host is the root.
    Mx(u16, String),
}

/// A question: name in lower case, type, and whether it came by TCP.
#[derive(Clone, Debug)]
pub struct Question {
    pub name: String,
    pub kind: u16,
    pub by_tcp: bool,
}

type Script = dyn Fn(&Question) -> Answer + Send + Sync;

struct State {
    script: Box<Script>,
    by_udp: AtomicUsize,
    by_tcp: AtomicUsize,
    ending: AtomicBool,
}

/// A name server that does what a script says. Ends when dropped.
pub struct Stub {
    /// Where it answers, by UDP and TCP.
    pub address: SocketAddr,
    state: Arc<State>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Stub {
    /// Starts one.
    pub fn start(script: impl Fn(&Question) -> Answer + Send + Sync + 'static) -> Self {
        let address = free_address();
        let (udp, tcp) = (UdpSocket::bind(address).unwrap(), TcpListener::bind(address).unwrap());
        udp.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let state = Arc::new(State {
            script: Box::new(script),
            by_udp: AtomicUsize::new(0),
            by_tcp: AtomicUsize::new(0),
            ending: AtomicBool::new(false),
        });
        let (of_udp, of_tcp) = (state.clone(), state.clone());
        let threads = vec![
            std::thread::spawn(move || serve_udp(&udp, &of_udp)),
            std::thread::spawn(move || serve_tcp(&tcp, &of_tcp)),
        ];
        Self { address, state, threads }
    }

    /// Questions so far, by UDP and by TCP.
    pub fn questions(&self) -> (usize, usize) {
        (self.state.by_udp.load(Ordering::SeqCst), self.state.by_tcp.load(Ordering::SeqCst))
    }
}

impl Drop for Stub {
    fn drop(&mut self) {
        self.state.ending.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn serve_udp(socket: &UdpSocket, state: &State) {
    let mut buffer = [0; 4096];
    while !state.ending.load(Ordering::SeqCst) {
        let Ok((count, from)) = socket.recv_from(&mut buffer) else { continue };
        state.by_udp.fetch_add(1, Ordering::SeqCst);
        if let Some(reply) = reply(&buffer[..count], false, state) {
            let _ = socket.send_to(&reply, from);
        }
    }
}

fn serve_tcp(listener: &TcpListener, state: &State) {
    loop {
        let accepted = listener.accept();
        if state.ending.load(Ordering::SeqCst) {
            return;
        }
        let Ok((mut stream, _)) = accepted else { continue };
        let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
        let mut length = [0; 2];
        if stream.read_exact(&mut length).is_err() {
            continue;
        }
        let mut query = vec![0; usize::from(u16::from_be_bytes(length))];
        if stream.read_exact(&mut query).is_err() {
            continue;
        }
        state.by_tcp.fetch_add(1, Ordering::SeqCst);
        if let Some(reply) = reply(&query, true, state) {
            let length = u16::try_from(reply.len()).unwrap().to_be_bytes();
            let _ = stream.write_all(&[&length[..], &reply].concat());
        }
    }
}

/// A message of RFC 1035 §4: header, the question as it came, the records.
fn reply(query: &[u8], by_tcp: bool, state: &State) -> Option<Vec<u8>> {
    let mut labels = Vec::new();
    let mut at = 12;
    while *query.get(at)? != 0 {
        let length = usize::from(query[at]);
        labels.push(String::from_utf8_lossy(query.get(at + 1..at + 1 + length)?).to_ascii_lowercase());
        at += 1 + length;
    }
    let kind = u16::from_be_bytes([*query.get(at + 1)?, *query.get(at + 2)?]);
    let question = query.get(12..at + 5)?;
    let answer = (state.script)(&Question { name: labels.join("."), kind, by_tcp });
    let (truncated, code, records) = match answer {
        Answer::Records(records) => (false, 0, records),
        Answer::Code(code) => (false, code, Vec::new()),
        Answer::Truncated => (true, 0, Vec::new()),
    };
    let mut out = query[..2].to_vec();
    // QR, AA, TC, RD; RA and the code.
    out.extend([0x85 | if truncated { 0x02 } else { 0 }, 0x80 | code]);
    let count = u16::try_from(records.len()).unwrap().to_be_bytes();
    out.extend([0, 1, count[0], count[1], 0, 0, 0, 0]);
    out.extend(question);
    for record in records {
        // The name is that of the question; class IN, a minute.
        let (kind, data) = match record {
            Data::A(address) => (A, address.octets().to_vec()),
            Data::Mx(preference, host) => (MX, [&preference.to_be_bytes()[..], &name(&host)].concat()),
        };
        out.extend([0xc0, 12]);
        out.extend(kind.to_be_bytes());
        out.extend([0, 1, 0, 0, 0, 60]);
        out.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
        out.extend(data);
    }
    Some(out)
}

fn name(host: &str) -> Vec<u8> {
    let mut out = Vec::new();
    for label in host.split('.').filter(|label| !label.is_empty()) {
        out.push(u8::try_from(label.len()).unwrap());
        out.extend(label.as_bytes());
    }
    out.push(0);
    out
}
