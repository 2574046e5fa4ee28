//! A relay of TCP connections that can be cut, stalled, slowed, or made to swallow answers, at any time and for the
//! connections that stand, too.

#![allow(clippy::disallowed_methods, reason = "the tests are outside the engine and watch it by the clock")]

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// How often a waiting thread looks at what it is told.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// What happens to octets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// They pass.
    Pass,
    /// They pass, each piece this much later.
    Late(Duration),
    /// They wait, in both directions, as in a net that drops packets; new connections are taken and wait, too.
    Stall,
    /// What is asked passes, answers are thrown away.
    Swallow,
    /// Connections break, and new ones are refused.
    Cut,
}

/// Listens until it is dropped.
pub struct Relay {
    /// Where to connect in place of the target.
    pub address: SocketAddr,
    shared: Arc<Shared>,
    listener: Option<JoinHandle<()>>,
}

struct Shared {
    target: SocketAddr,
    flow: Mutex<Flow>,
    unheard: Mutex<Option<String>>,
    ended: AtomicBool,
    taken: AtomicUsize,
}

impl Shared {
    fn flow(&self) -> Flow {
        *self.flow.lock().unwrap()
    }

    fn over(&self) -> bool {
        self.ended.load(Ordering::SeqCst)
    }
}

impl Relay {
    /// To this address, passing everything at first.
    pub fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            target,
            flow: Mutex::new(Flow::Pass),
            unheard: Mutex::new(None),
            ended: AtomicBool::new(false),
            taken: AtomicUsize::new(0),
        });
        let theirs = Arc::clone(&shared);
        let thread = std::thread::spawn(move || listen(listener, address, &theirs));
        Self { address, shared, listener: Some(thread) }
    }

    /// From now on.
    pub fn set(&self, flow: Flow) {
        *self.shared.flow.lock().unwrap() = flow;
    }

    /// From now on each chunk of an HTTP answer that has this text in it is left out, and the answer goes on behind it: as
    /// if it had never been said. A chunk that comes in pieces passes.
    pub fn leave_out(&self, text: Option<&str>) {
        *self.shared.unheard.lock().unwrap() = text.map(str::to_owned);
    }

    /// How many connections it has taken.
    pub fn taken(&self) -> usize {
        self.shared.taken.load(Ordering::SeqCst)
    }

    /// Its URL, for who speaks HTTP.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        if let Some(thread) = self.listener.take() {
            let _ = thread.join();
        }
    }
}

fn listen(listener: TcpListener, address: SocketAddr, shared: &Arc<Shared>) {
    let mut listener = Some(listener);
    while !shared.over() {
        if shared.flow() == Flow::Cut {
            // Nobody listens, so whoever connects is refused by the system.
            listener = None;
            std::thread::sleep(LOOK_EVERY);
            continue;
        }
        let Some(open) = &listener else {
            listener = TcpListener::bind(address).ok();
            std::thread::sleep(LOOK_EVERY);
            continue;
        };
        open.set_nonblocking(true).unwrap();
        match open.accept() {
            Ok((client, _)) => {
                client.set_nonblocking(false).unwrap();
                shared.taken.fetch_add(1, Ordering::SeqCst);
                let shared = Arc::clone(shared);
                std::thread::spawn(move || carry(client, &shared));
            }
            Err(_) => std::thread::sleep(LOOK_EVERY),
        }
    }
}

/// Carries one connection, both ways, until either end closes.
fn carry(client: TcpStream, shared: &Arc<Shared>) {
    while shared.flow() == Flow::Stall && !shared.over() {
        std::thread::sleep(LOOK_EVERY);
    }
    let Ok(server) = TcpStream::connect(shared.target) else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (Ok(client_again), Ok(server_again)) = (client.try_clone(), server.try_clone()) else { return };
    let theirs = Arc::clone(shared);
    let back = std::thread::spawn(move || pump(server_again, client_again, true, &theirs));
    pump(client, server, false, shared);
    let _ = back.join();
}

fn pump(mut from: TcpStream, mut to: TcpStream, answers: bool, shared: &Shared) {
    let _ = from.set_read_timeout(Some(LOOK_EVERY));
    let mut octets = vec![0; 64 << 10];
    let mut has_swallowed = false;
    while !shared.over() {
        match shared.flow() {
            Flow::Cut => break,
            // No net takes octets out of the middle of a connection: one that lacks some carries nothing more.
            Flow::Pass | Flow::Late(_) if has_swallowed => break,
            Flow::Stall => {
                std::thread::sleep(LOOK_EVERY);
                continue;
            }
            _ => {}
        }
        let count = match from.read(&mut octets) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => continue,
            Err(_) => break,
        };
        match shared.flow() {
            Flow::Swallow if answers => {
                has_swallowed = true;
                continue;
            }
            Flow::Pass | Flow::Late(_) if has_swallowed => break,
            Flow::Late(time) => std::thread::sleep(time),
            _ => {}
        }
        // What was read when the net went down is on its way still, and arrives when it is up again.
        while shared.flow() == Flow::Stall && !shared.over() {
            std::thread::sleep(LOOK_EVERY);
        }
        let unheard = shared.unheard.lock().unwrap().clone().filter(|_| answers);
        let passes = unheard.map(|text| without(&octets[..count], text.as_bytes()));
        if shared.flow() == Flow::Cut || to.write_all(passes.as_deref().unwrap_or(&octets[..count])).is_err() {
            break;
        }
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}

/// What was read without the chunks that have the text in them.
fn without(mut octets: &[u8], text: &[u8]) -> Vec<u8> {
    let mut rest = Vec::with_capacity(octets.len());
    while let Some(length) = chunk(octets) {
        let (chunk, behind) = octets.split_at(length);
        if !chunk.windows(text.len()).any(|window| window == text) {
            rest.extend_from_slice(chunk);
        }
        octets = behind;
    }
    rest.extend_from_slice(octets);
    rest
}

/// How long the chunk is with which the octets begin, its size and both line ends included, if it is one and whole.
fn chunk(octets: &[u8]) -> Option<usize> {
    let digits = octets.iter().take(8).position(|octet| !octet.is_ascii_hexdigit())?;
    let size = usize::from_str_radix(std::str::from_utf8(&octets[..digits]).ok()?, 16).ok()?;
    let length = digits + 2 + size + 2;
    let is_whole = octets.get(digits..digits + 2)? == b"\r\n" && octets.get(length - 2..length)? == b"\r\n";
    is_whole.then_some(length)
}
