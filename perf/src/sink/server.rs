//! The sink's event loop: accepts, reads, hands octets to sessions, writes their replies.
//!
//! It must never block on one connection, and it ends when its control channel ends, so that no sink outlives its runner.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::Duration;

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use rustix::net::sockopt::{set_socket_reuseaddr, set_socket_reuseport};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with};
use slab::Slab;

use super::control::{Control, ControlFlow};
use super::conversation::Conversation;
use super::line::{Cargo, Line, Place};
use super::profile::Profile;
use super::session::{Flow, Shared};
use super::tls;
use crate::clock::now_ns;
use crate::stop;

const LISTENER: Token = Token(usize::MAX - 1);
const CONTROL: Token = Token(usize::MAX - 2);
/// One read takes at most so much; a shorter read has emptied the socket.
const READ_OCTETS: usize = 256 << 10;
/// Connections that wait to be taken at a shared port.
const BACKLOG: i32 = 4_096;
/// How often the stop flag is looked at when nothing happens.
const IDLE_WAIT: Duration = Duration::from_millis(200);
/// Replies owed to one client; a client that reads nothing for so long is cut off.
const MAX_UNSENT_OCTETS: usize = 4 << 20;

struct Connection {
    stream: TcpStream,
    conversation: Conversation,
    /// Replies that the session made.
    replies: Vec<u8>,
    /// Replies that are to be written: on a long line the others are still under way.
    out: Vec<u8>,
    written: usize,
    paused: bool,
    serial: u64,
}

/// A running sink.
pub struct Server {
    poll: Poll,
    listener: TcpListener,
    control: Option<Control>,
    connections: Slab<Connection>,
    shared: Shared,
    /// Connections whose reply is delayed, soonest first (the delay is the same for all).
    delayed: VecDeque<(u64, usize, u64)>,
    line: Line,
    serial: u64,
    scratch: Box<[u8]>,
}

impl Server {
    /// Binds the listener; with `control`, standard input and output carry the control channel.
    pub fn bind(listen: SocketAddr, profile: Profile, control: bool, shared: bool) -> io::Result<Server> {
        let poll = Poll::new()?;
        let mut listener = if shared { shared_port(listen)? } else { TcpListener::bind(listen)? };
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
        let control = match control {
            true => Some(Control::register(poll.registry(), CONTROL)?),
            false => None,
        };
        let mut shared = Shared::new(profile);
        if shared.profile.tls {
            shared.tls = Some(tls::self_signed()?.0);
        }
        Ok(Server {
            line: Line::new(shared.profile.line),
            poll,
            listener,
            control,
            connections: Slab::new(),
            shared,
            delayed: VecDeque::new(),
            serial: 0,
            scratch: vec![0; READ_OCTETS].into_boxed_slice(),
        })
    }

    /// The address in use, with the port that the kernel chose.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// What was seen so far, as one line of JSON.
    pub fn report_line(&self) -> String {
        super::control::to_line(&self.shared.tally.report())
    }

    /// Serves until the control channel ends or a signal asks to stop.
    pub fn serve(&mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(1_024);
        while !stop::requested() {
            match self.poll.poll(&mut events, Some(self.wait())) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                result => result?,
            }
            for event in &events {
                match event.token() {
                    LISTENER => self.accept()?,
                    CONTROL => {
                        let Some(control) = &mut self.control else { continue };
                        if control.serve(&mut self.shared.tally)? == ControlFlow::Ended {
                            return Ok(());
                        }
                    }
                    Token(key) => {
                        if event.is_writable() {
                            self.flush(key);
                        }
                        if event.is_readable() {
                            self.read(key);
                        }
                    }
                }
            }
            self.resume_due();
            self.arrivals();
        }
        Ok(())
    }

    fn wait(&self) -> Duration {
        let delayed = self.delayed.front().map(|(due_ns, ..)| *due_ns);
        match delayed.into_iter().chain(self.line.next_ns()).min() {
            Some(due_ns) => Duration::from_nanos(due_ns.saturating_sub(now_ns())).min(IDLE_WAIT),
            None => IDLE_WAIT,
        }
    }

    fn accept(&mut self) -> io::Result<()> {
        loop {
            let mut stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                // The client has gone again, or there are no descriptors left: its loss, not the sink's end.
                Err(_) => return Ok(()),
            };
            if self.connections.len() >= self.shared.profile.max_connections {
                self.shared.tally.totals.connections_refused += 1;
                // Best effort: a client that can't take 30 octets learns from the close.
                let _ = stream.write(b"421 4.3.2 too many connections\r\n");
                continue;
            }
            self.shared.tally.totals.connections += 1;
            self.serial += 1;
            let _ = stream.set_nodelay(true);
            let mut out = Vec::new();
            let conversation = Conversation::new(&mut out);
            let entry = self.connections.vacant_entry();
            let (key, serial) = (entry.key(), self.serial);
            self.poll.registry().register(&mut stream, Token(key), Interest::READABLE | Interest::WRITABLE)?;
            if self.line.is_long() {
                self.line.greet(now_ns(), Place { key, serial }, std::mem::take(&mut out));
            }
            entry.insert(Connection {
                stream,
                conversation,
                replies: Vec::new(),
                out,
                written: 0,
                paused: false,
                serial,
            });
            self.shared.tally.open_connections(self.connections.len());
            self.flush(key);
        }
    }

    /// Reads until the socket is empty. Events are edge-triggered: a read shorter than the buffer has emptied it.
    fn read(&mut self, key: usize) {
        loop {
            let Some(connection) = self.connections.get_mut(key) else { return };
            if connection.paused && !self.line.is_long() {
                return;
            }
            let place = Place { key, serial: connection.serial };
            let count = match connection.stream.read(&mut self.scratch) {
                Ok(0) if self.line.is_long() => return self.line.send(now_ns(), place, Cargo::Ended),
                Ok(0) => return self.drop_connection(key),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(_) => return self.drop_connection(key),
            };
            if self.line.is_long() {
                self.line.send(now_ns(), place, Cargo::Inbound(self.scratch[..count].to_vec()));
            } else {
                let flow =
                    connection.conversation.receive(&self.scratch[..count], &mut self.shared, &mut connection.replies);
                self.after(key, flow);
            }
            if count < self.scratch.len() {
                return;
            }
        }
    }

    /// What has come over the line by now.
    fn arrivals(&mut self) {
        while let Some((Place { key, serial }, cargo)) = self.line.arrived(now_ns()) {
            let Some(connection) = self.connections.get_mut(key).filter(|found| found.serial == serial) else {
                continue;
            };
            match cargo {
                Cargo::Inbound(octets) => {
                    let paused = connection.paused;
                    let flow = connection.conversation.receive(&octets, &mut self.shared, &mut connection.replies);
                    // A session that waits for its delay keeps what comes; it is asked again when that is over.
                    if !paused {
                        self.after(key, flow);
                    }
                }
                Cargo::Outbound(octets) => {
                    connection.out.extend_from_slice(&octets);
                    self.flush(key);
                }
                Cargo::Ended | Cargo::Close => self.drop_connection(key),
            }
        }
    }

    /// Sends the replies and does what the session asked for.
    fn after(&mut self, key: usize, flow: Flow) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        let place = Place { key, serial: connection.serial };
        if self.line.is_long() {
            if !connection.replies.is_empty() {
                self.line.send(now_ns(), place, Cargo::Outbound(std::mem::take(&mut connection.replies)));
            }
        } else {
            // Usually nothing is left of earlier replies, and the buffers only change places.
            if connection.out.is_empty() {
                std::mem::swap(&mut connection.out, &mut connection.replies);
            } else {
                connection.out.append(&mut connection.replies);
            }
            self.flush(key);
        }
        let Some(connection) = self.connections.get_mut(key) else { return };
        match flow {
            Flow::Open if connection.out.len() > MAX_UNSENT_OCTETS => self.drop_connection(key),
            Flow::Open | Flow::StartTls => {}
            Flow::Close if self.line.is_long() => self.line.send(now_ns(), place, Cargo::Close),
            // The replies are small: what the socket did not take at once, the client was not going to read.
            Flow::Close => self.drop_connection(key),
            Flow::Delayed => {
                connection.paused = true;
                let due_ns = now_ns() + self.shared.profile.delay.as_nanos() as u64;
                self.delayed.push_back((due_ns, key, connection.serial));
            }
        }
    }

    fn resume_due(&mut self) {
        while let Some(&(due_ns, key, serial)) = self.delayed.front() {
            if due_ns > now_ns() {
                return;
            }
            self.delayed.pop_front();
            // The key may belong to a later connection by now; the serial number tells.
            let Some(connection) = self.connections.get_mut(key).filter(|found| found.serial == serial) else {
                continue;
            };
            connection.paused = false;
            let flow = connection.conversation.resume(&mut self.shared, &mut connection.replies);
            self.after(key, flow);
            // What arrived during the pause raised its event then.
            self.read(key);
        }
    }

    fn flush(&mut self, key: usize) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        while connection.written < connection.out.len() {
            match connection.stream.write(&connection.out[connection.written..]) {
                Ok(count) => connection.written += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return self.drop_connection(key),
            }
        }
        connection.out.clear();
        connection.written = 0;
    }

    fn drop_connection(&mut self, key: usize) {
        if let Some(mut connection) = self.connections.try_remove(key) {
            // A failure here means that the kernel has forgotten it already.
            let _ = self.poll.registry().deregister(&mut connection.stream);
            self.shared.tally.open_connections(self.connections.len());
        }
    }
}

/// A listener at a port at which other processes listen as well; the kernel spreads the connections.
fn shared_port(listen: SocketAddr) -> io::Result<TcpListener> {
    let family = if listen.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, SocketType::STREAM, flags, None)?;
    set_socket_reuseaddr(&socket, true)?;
    set_socket_reuseport(&socket, true)?;
    bind(&socket, &listen)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(TcpListener::from_std(socket.into()))
}
