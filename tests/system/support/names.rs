//! A name server that knows one answer: every name has the address 127.0.0.1. It answers when it is let.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

const HEADER_BYTES: usize = 12;

struct State {
    ending: AtomicBool,
    answering: AtomicBool,
    asked: AtomicUsize,
}

/// Ends when dropped.
pub struct NameServer {
    /// Where it listens.
    pub address: SocketAddr,
    state: Arc<State>,
    thread: Option<JoinHandle<()>>,
}

impl NameServer {
    /// One that keeps questions until [`NameServer::answer`].
    pub fn silent() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let address = socket.local_addr().unwrap();
        let (ending, answering) = (AtomicBool::new(false), AtomicBool::new(false));
        let state = Arc::new(State { ending, answering, asked: AtomicUsize::new(0) });
        let serving = state.clone();
        let thread = Some(std::thread::spawn(move || serve(&socket, &serving)));
        Self { address, state, thread }
    }

    /// Answers what was asked and what will be.
    pub fn answer(&self) {
        self.state.answering.store(true, Ordering::SeqCst);
    }

    /// How many questions came.
    pub fn asked(&self) -> usize {
        self.state.asked.load(Ordering::SeqCst)
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.state.ending.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(socket: &UdpSocket, state: &State) {
    let mut kept: Vec<(Vec<u8>, SocketAddr)> = Vec::new();
    let mut buffer = [0; 1500];
    while !state.ending.load(Ordering::SeqCst) {
        if let Ok((length, from)) = socket.recv_from(&mut buffer) {
            kept.push((buffer[..length].to_vec(), from));
            state.asked.fetch_add(1, Ordering::SeqCst);
        }
        if state.answering.load(Ordering::SeqCst) {
            for (question, from) in kept.drain(..) {
                let _ = socket.send_to(&answer_to(&question), from);
            }
        }
    }
}

/// RFC 1035 §4.1: the question again, and an A record that points to its name if it asks for one.
fn answer_to(question: &[u8]) -> Vec<u8> {
    let name = question[HEADER_BYTES..].iter().position(|octet| *octet == 0).unwrap() + 1;
    let end = HEADER_BYTES + name + 4;
    let is_address = question[end - 4..end - 2] == [0, 1];
    let mut answer = question[..2].to_vec();
    answer.extend_from_slice(&[0x81, 0x80, 0, 1, 0, u8::from(is_address), 0, 0, 0, 0]);
    answer.extend_from_slice(&question[HEADER_BYTES..end]);
    if is_address {
        answer.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 1, 0, 0, 4, 127, 0, 0, 1]);
    }
    answer
}
