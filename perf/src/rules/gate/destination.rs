//! The destinations of the gate's rounds: one listener each, with small receive buffers, all in one thread.
//!
//! A destination whose valve is narrow reads a sip at a time, so that a sender fills its buffers and stays there. It
//! notes of each connection how much it has brought, and of each message when its end of data was read.

use std::collections::HashMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use rustix::net::sockopt::{set_socket_recv_buffer_size, socket_recv_buffer_size};

use super::judge::Completion;
use crate::clock::now_ns;
use crate::error::{Context, Result};
use crate::sink::conversation::Conversation;
use crate::sink::profile::Profile;
use crate::sink::session::{Flow, Shared};
use crate::sink::tls;

/// Receive buffer that is asked for; the kernel doubles it.
const BUFFER_OCTETS: usize = 32 << 10;
/// One read through an open valve.
pub const READ_OCTETS: usize = 16 << 10;
/// One read through a narrow valve, and the time to the next.
const SIP_OCTETS: usize = 2 << 10;
const SIP_EVERY_NS: u64 = 2_000_000;
/// How often a thread with nothing to read looks at its valves.
const LOOK: Duration = Duration::from_millis(2);
/// Tokens of listeners are those of their lanes; connections count on from here.
const FIRST_CONNECTION: usize = 1 << 16;

/// What a destination has seen since its round began.
#[derive(Default)]
struct Seen {
    run: u32,
    capacity: u32,
    /// Octets that a connection brings at full speed before the valve is narrow; none: it is wide open.
    narrow_after: Option<u64>,
    /// All connections are to be closed.
    hang_up: bool,
    /// By connection: octets brought in this round.
    octets: HashMap<usize, u64>,
    /// Connections that stand; whether each is within a transaction.
    standing: HashMap<usize, bool>,
    /// Connection, time, octets of each message that was completed.
    completed: Vec<(usize, u64, u64)>,
    /// The counts of the round.
    delivered: u32,
    duplicates: u64,
    /// Messages that came neither as the transport says.
    otherwise: u64,
    protocol_errors: u64,
}

/// One destination, as a round uses it.
#[derive(Clone)]
pub struct Lane {
    /// Where it listens.
    pub address: SocketAddr,
    /// Octets that its receive buffer holds.
    pub receive_buffer: u64,
    seen: Arc<Mutex<Seen>>,
}

/// What came, at the end of a round.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Different messages.
    pub delivered: u32,
    /// Further copies.
    pub duplicates: u64,
    /// Messages that did not come by the transport that was meant.
    pub otherwise: u64,
    /// Commands that a correct client doesn't send.
    pub protocol_errors: u64,
}

impl Lane {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new round; each connection is read slowly once it has brought `narrow_after` octets.
    pub fn begin(&self, run: u32, capacity: u32, narrow_after: u64) {
        let mut seen = self.seen();
        let standing = std::mem::take(&mut seen.standing);
        *seen = Seen { run, capacity, narrow_after: Some(narrow_after), standing, ..Seen::default() };
    }

    /// Reads at full speed from now on.
    pub fn open(&self) {
        self.seen().narrow_after = None;
    }

    /// Closes all connections.
    pub fn hang_up(&self) {
        let mut seen = self.seen();
        seen.hang_up = !seen.standing.is_empty();
    }

    /// Connections that stand.
    pub fn connections(&self) -> usize {
        self.seen().standing.len()
    }

    /// Whether a connection has begun a message and neither ended it nor gone.
    pub fn within_message(&self) -> bool {
        self.seen().standing.values().any(|within| *within)
    }

    /// Octets by connection.
    pub fn octets(&self) -> HashMap<usize, u64> {
        self.seen().octets.clone()
    }

    /// How many messages were completed.
    pub fn completed(&self) -> usize {
        self.seen().completed.len()
    }

    /// The completed messages, with what of each had come `before`.
    pub fn completions(&self, before: &HashMap<usize, u64>) -> Vec<Completion> {
        let completion = |&(connection, at_ns, octets): &(usize, u64, u64)| Completion {
            at_ns,
            octets,
            octets_before: before.get(&connection).copied().unwrap_or(0),
        };
        self.seen().completed.iter().map(completion).collect()
    }

    /// The counts of the round.
    pub fn counts(&self) -> Counts {
        let seen = self.seen();
        Counts {
            delivered: seen.delivered,
            duplicates: seen.duplicates,
            otherwise: seen.otherwise,
            protocol_errors: seen.protocol_errors,
        }
    }
}

struct Connection {
    lane: usize,
    stream: TcpStream,
    conversation: Conversation,
    out: Vec<u8>,
    written: usize,
    readable: bool,
    next_sip_ns: u64,
}

struct LaneEnd {
    listener: TcpListener,
    lane: Lane,
    shared: Shared,
    run: u32,
}

/// All destinations. Dropping it ends their thread.
pub struct Destinations {
    /// One for each profile asked for.
    pub lanes: Vec<Lane>,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Destinations {
    /// Opens a listener for each profile and serves them.
    pub fn start(profiles: Vec<Profile>) -> Result<Destinations> {
        let poll = Poll::new().context("make a poll")?;
        let mut ends = Vec::new();
        for (index, profile) in profiles.into_iter().enumerate() {
            let end = open_lane(&poll, index, profile).context("open a destination")?;
            ends.push(end);
        }
        let lanes = ends.iter().map(|end| end.lane.clone()).collect();
        let ended = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&ended);
        let thread = thread::spawn(move || {
            let mut serving = Serving { poll, ends, connections: HashMap::new(), next: FIRST_CONNECTION };
            if let Err(error) = serving.serve(&flag) {
                eprintln!("mailrace-perf: the destinations ended: {error}");
            }
        });
        Ok(Destinations { lanes, ended, thread: Some(thread) })
    }
}

impl Drop for Destinations {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            // Its panic was printed when it happened.
            let _ = thread.join();
        }
    }
}

fn open_lane(poll: &Poll, index: usize, profile: Profile) -> io::Result<LaneEnd> {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    // Connections inherit it; set before there are any, so that no window is larger.
    set_socket_recv_buffer_size(&listener, BUFFER_OCTETS)?;
    let receive_buffer = socket_recv_buffer_size(&listener)? as u64;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let mut listener = TcpListener::from_std(listener);
    poll.registry().register(&mut listener, Token(index), Interest::READABLE)?;
    let mut shared = Shared::new(profile);
    if shared.profile.tls {
        shared.tls = Some(tls::self_signed()?.0);
    }
    Ok(LaneEnd { listener, lane: Lane { address, receive_buffer, seen: Arc::default() }, shared, run: 0 })
}

struct Serving {
    poll: Poll,
    ends: Vec<LaneEnd>,
    connections: HashMap<usize, Connection>,
    next: usize,
}

impl Serving {
    fn serve(&mut self, ended: &AtomicBool) -> io::Result<()> {
        let mut events = Events::with_capacity(256);
        while !ended.load(Ordering::SeqCst) {
            match self.poll.poll(&mut events, Some(LOOK)) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                result => result?,
            }
            for event in &events {
                let Token(token) = event.token();
                if token < FIRST_CONNECTION {
                    self.accept(token)?;
                } else if let Some(connection) = self.connections.get_mut(&token) {
                    connection.readable |= event.is_readable() || event.is_read_closed();
                }
            }
            let tokens: Vec<usize> = self.connections.keys().copied().collect();
            for token in tokens {
                self.attend(token);
            }
        }
        Ok(())
    }

    fn accept(&mut self, lane: usize) -> io::Result<()> {
        loop {
            // A client that has gone again is its own loss.
            let Ok((mut stream, _)) = self.ends[lane].listener.accept() else { return Ok(()) };
            let _ = stream.set_nodelay(true);
            let token = self.next;
            self.next += 1;
            self.poll.registry().register(&mut stream, Token(token), Interest::READABLE | Interest::WRITABLE)?;
            self.ends[lane].lane.seen().standing.insert(token, false);
            let mut out = Vec::new();
            let conversation = Conversation::new(&mut out);
            let connection = Connection { lane, stream, conversation, out, written: 0, readable: true, next_sip_ns: 0 };
            self.connections.insert(token, connection);
        }
    }

    /// Reads what a connection may be read, writes what it is owed, ends it when it has ended.
    fn attend(&mut self, token: usize) {
        let Some(connection) = self.connections.get_mut(&token) else { return };
        let end = &mut self.ends[connection.lane];
        let lane = end.lane.clone();
        let mut seen = lane.seen();
        if end.run != seen.run {
            end.run = seen.run;
            end.shared.tally.reset(seen.run, seen.capacity);
        }
        let stands = !seen.hang_up && read(token, connection, &mut end.shared, &mut seen) && write(connection);
        if stands {
            seen.standing.insert(token, connection.conversation.in_transaction());
        } else {
            let _ = connection.stream.shutdown(Shutdown::Both);
            let _ = self.poll.registry().deregister(&mut connection.stream);
            self.connections.remove(&token);
            seen.standing.remove(&token);
            seen.hang_up &= !seen.standing.is_empty();
        }
    }
}

/// Whether the connection still stands.
fn read(token: usize, connection: &mut Connection, shared: &mut Shared, seen: &mut Seen) -> bool {
    let mut octets = [0; READ_OCTETS];
    while connection.readable {
        let brought = seen.octets.get(&token).copied().unwrap_or(0);
        let narrow = seen.narrow_after.is_some_and(|after| brought >= after);
        if narrow && now_ns() < connection.next_sip_ns {
            return true;
        }
        let room = if narrow { SIP_OCTETS } else { READ_OCTETS };
        let count = match connection.stream.read(&mut octets[..room]) {
            Ok(0) => return false,
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                connection.readable = false;
                return true;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(_) => return false,
        };
        connection.next_sip_ns = now_ns() + SIP_EVERY_NS;
        let brought = brought + count as u64;
        seen.octets.insert(token, brought);
        let before = shared.tally.totals;
        let flow = connection.conversation.receive(&octets[..count], shared, &mut connection.out);
        let after = shared.tally.totals;
        let at_ns = now_ns();
        let new = after.messages - before.messages;
        seen.completed.extend((0..new).map(|_| (token, at_ns, brought)));
        // All of a lane's messages are to come over TLS or none, by BDAT or none.
        let meant = |is: bool| if is { new } else { 0 };
        let as_meant = after.tls_messages - before.tls_messages == meant(shared.profile.tls)
            && after.chunked_messages - before.chunked_messages == meant(shared.profile.chunking);
        seen.otherwise += if as_meant { 0 } else { new };
        seen.protocol_errors += after.protocol_errors - before.protocol_errors;
        let report = shared.tally.duplicates();
        (seen.delivered, seen.duplicates) = (shared.tally.delivered(), report);
        if flow == Flow::Close {
            // The replies are small: what the socket doesn't take at once, the client was not going to read.
            write(connection);
            return false;
        }
        if !write(connection) {
            return false;
        }
    }
    true
}

/// Whether the connection still stands. What the socket doesn't take waits for the next turn.
fn write(connection: &mut Connection) -> bool {
    while connection.written < connection.out.len() {
        match connection.stream.write(&connection.out[connection.written..]) {
            Ok(count) => connection.written += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return false,
        }
    }
    connection.out.clear();
    connection.written = 0;
    true
}
