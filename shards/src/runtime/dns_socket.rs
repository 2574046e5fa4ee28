//! The sockets of the resolver: one [`DnsClient`] per core drives a [`Resolver`] over UDP and TCP. It decides
//! nothing about DNS, and it must never hold a borrow of the resolver across an await.
//!
//! Each UDP socket has one receiver task that is cancelled only when the socket is closed, because a receive
//! that is dropped while pending loses datagrams.

use crate::dns::DnsFailure;
use crate::dns::exchange::{Transmit, Via};
use crate::dns::port::Port;
use crate::dns::resolve::{Outcome, Progress, Resolver, Ticket};
use crate::dns::{DnsStats, MailHosts, NamedBy};
use crate::limits::{
    DNS_DATAGRAM_BYTES, DNS_DATAGRAMS_PER_TURN, DNS_QUERIES_PER_TURN, DNS_REPLY_BYTES_MAX, DNS_SERVERS_MAX,
    DNS_TCP_TRY_MS, DNS_TICK_MS,
};
use crate::settings::DnsSettings;
use crate::time::{Instant, Now};
use futures_lite::{AsyncReadExt, AsyncWriteExt};
use glommio::net::{TcpStream, UdpSocket};
use hashbrown::HashMap;
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{FromRawFd, IntoRawFd};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

/// The resolver of one core. Clones share it; it cannot leave its core. Its sockets close with the last clone.
#[derive(Clone)]
pub struct DnsClient {
    inner: Rc<Inner>,
}

struct Inner {
    resolver: RefCell<Resolver>,
    sockets: RefCell<HashMap<Port, Socket>>,
    waiting: RefCell<HashMap<Ticket, Rc<RefCell<Waiting>>>>,
    random: Random,
    clock: fn() -> Now,
    /// The ticker runs; it ends when nothing is under way.
    ticking: Cell<bool>,
}

/// A connected UDP socket.
struct Socket {
    /// The same socket as the receiver's, for sending without waiting.
    sender: socket2::Socket,
    /// Dropped, and so cancelled, with the socket.
    _receiver: glommio::Task<()>,
}

/// Those who await one resolution.
#[derive(Default)]
struct Waiting {
    outcome: Option<Outcome>,
    wakers: Vec<Waker>,
}

impl DnsClient {
    /// Makes the resolver of the calling core. It is to be used inside one glommio executor only.
    ///
    /// `seed` orders mail hosts of equal preference. `clock` reads both clocks. Sockets are opened when they
    /// are needed.
    ///
    /// # Errors
    /// `settings` names no server, or more than [`DNS_SERVERS_MAX`].
    pub fn start(settings: &DnsSettings, allow_private: bool, seed: u64, clock: fn() -> Now) -> io::Result<Self> {
        let count = settings.servers.len();
        if !(1..=DNS_SERVERS_MAX).contains(&count) {
            let text = format!("dns.servers names {count} servers; it must be 1 to {DNS_SERVERS_MAX}");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let inner = Inner {
            resolver: RefCell::new(Resolver::new(&settings.servers, allow_private, seed)),
            sockets: RefCell::default(),
            waiting: RefCell::default(),
            random: Random::new(),
            clock,
            ticking: Cell::new(false),
        };
        Ok(Self { inner: Rc::new(inner) })
    }

    /// The mail hosts of `domain` (any case; an address literal in brackets is one host).
    ///
    /// # Errors
    /// See [`DnsFailure`].
    pub async fn mail_hosts(&self, domain: &str) -> Result<Arc<MailHosts>, DnsFailure> {
        let progress = self.inner.resolver.borrow_mut().mail_hosts(self.inner.now(), domain);
        self.outcome(progress).await
    }

    /// The addresses of `host`, a name or an address (with or without brackets); the result has that one host.
    ///
    /// # Errors
    /// See [`DnsFailure`]; never [`DnsFailure::NullMx`].
    pub async fn host_addresses(&self, host: &str, named_by: NamedBy) -> Result<Arc<MailHosts>, DnsFailure> {
        let progress = self.inner.resolver.borrow_mut().host_addresses(self.inner.now(), host, named_by);
        self.outcome(progress).await
    }

    /// What the resolver has done so far.
    #[must_use]
    pub fn stats(&self) -> DnsStats {
        self.inner.resolver.borrow().stats()
    }

    /// Whether anybody waits for an answer.
    #[must_use]
    pub fn is_awaited(&self) -> bool {
        !self.inner.waiting.borrow().is_empty()
    }

    async fn outcome(&self, progress: Progress) -> Outcome {
        let ticket = match progress {
            Progress::Ready(outcome) => return outcome,
            Progress::Pending(ticket) => ticket,
        };
        let waiting = self.inner.waiting.borrow_mut().entry(ticket).or_default().clone();
        self.inner.pump();
        self.inner.keep_ticking();
        let mut place = None;
        poll_fn(|context| {
            let mut waiting = waiting.borrow_mut();
            if let Some(outcome) = &waiting.outcome {
                return Poll::Ready(outcome.clone());
            }
            let count = waiting.wakers.len();
            match waiting.wakers.get_mut(*place.get_or_insert(count)) {
                Some(waker) => waker.clone_from(context.waker()),
                None => waiting.wakers.push(context.waker().clone()),
            }
            Poll::Pending
        })
        .await
    }
}

impl Inner {
    fn now(&self) -> Instant {
        (self.clock)().instant
    }

    /// Hands out what has been answered and sends what is to be asked, so much as one turn allows.
    fn pump(self: &Rc<Self>) {
        let now = self.now();
        for _ in 0..DNS_QUERIES_PER_TURN {
            self.deliver(now);
            let query = self.resolver.borrow_mut().poll_query(now, &mut || self.random.draw());
            match query {
                Some(query) => self.send(query, now),
                None if self.resolver.borrow().has_answers() => {}
                None => return,
            }
        }
        self.deliver(now);
    }

    fn deliver(&self, now: Instant) {
        loop {
            let answer = self.resolver.borrow_mut().poll_answer(now);
            let Some((ticket, outcome)) = answer else { return };
            let Some(waiting) = self.waiting.borrow_mut().remove(&ticket) else { continue };
            let mut waiting = waiting.borrow_mut();
            waiting.outcome = Some(outcome);
            for waker in waiting.wakers.drain(..) {
                waker.wake();
            }
        }
    }

    fn send(self: &Rc<Self>, query: Transmit, now: Instant) {
        match query.via {
            Via::Udp(port) => {
                if self.send_datagram(port, &query).is_err() {
                    self.resolver.borrow_mut().handle_unreachable(now, query.via);
                }
            }
            Via::Tcp(_) => self.send_by_tcp(query),
        }
    }

    fn send_datagram(self: &Rc<Self>, port: Port, query: &Transmit) -> io::Result<()> {
        let mut sockets = self.sockets.borrow_mut();
        if !sockets.contains_key(&port) {
            sockets.insert(port, self.open(port, query.server)?);
        }
        let socket = &sockets[&port];
        match socket.sender.send_with_flags(&query.message, libc::MSG_DONTWAIT) {
            // A full socket buffer loses the query as the network might; the next try makes good for it.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            // Tells of an earlier datagram that was refused, and has cleared that state: this one was not sent.
            Err(error) => Err(error),
            Ok(_) => Ok(()),
        }
    }

    /// A socket with a port of the kernel's random choice that hears only `server`. It must be a blocking one:
    /// io_uring would give up at once on a receive from a non-blocking socket.
    fn open(self: &Rc<Self>, port: Port, server: SocketAddr) -> io::Result<Socket> {
        let sender = socket2::Socket::new(socket2::Domain::for_address(server), socket2::Type::DGRAM, None)?;
        sender.connect(&server.into())?;
        let descriptor = sender.try_clone()?.into_raw_fd();
        #[expect(unsafe_code, reason = "glommio takes over a socket only by its descriptor")]
        // SAFETY: the descriptor is open and nothing else owns it.
        let receiver = unsafe { UdpSocket::from_raw_fd(descriptor) };
        let receiver = glommio::spawn_local(receive(receiver, port, Rc::downgrade(self)));
        Ok(Socket { sender, _receiver: receiver })
    }

    fn send_by_tcp(self: &Rc<Self>, query: Transmit) {
        let inner = Rc::downgrade(self);
        let task = async move {
            let limit = Duration::from_millis(DNS_TCP_TRY_MS);
            let reply = glommio::timer::timeout(limit, ask_by_tcp(query.server, &query.message)).await;
            let Some(inner) = inner.upgrade() else { return };
            match reply {
                Ok(octets) => inner.received(query.via, &octets),
                Err(_) => inner.unreachable(query.via),
            }
        };
        glommio::spawn_local(task).detach();
    }

    fn received(self: &Rc<Self>, via: Via, octets: &[u8]) {
        self.resolver.borrow_mut().handle_response(self.now(), via, octets);
        self.pump();
    }

    fn unreachable(self: &Rc<Self>, via: Via) {
        self.resolver.borrow_mut().handle_unreachable(self.now(), via);
        self.pump();
    }

    fn keep_ticking(self: &Rc<Self>) {
        if !self.ticking.replace(true) {
            glommio::spawn_local(tick(Rc::downgrade(self))).detach();
        }
    }

    /// Tells the resolver the time and closes sockets that are done. False when nothing is under way.
    fn tick(self: &Rc<Self>) -> bool {
        let now = self.now();
        self.resolver.borrow_mut().handle_timeout(now);
        self.pump();
        let mut resolver = self.resolver.borrow_mut();
        while let Some(port) = resolver.poll_retired(now) {
            self.sockets.borrow_mut().remove(&port);
        }
        let busy = !resolver.is_idle();
        self.ticking.set(busy);
        busy
    }
}

/// Tells the time while something is under way.
async fn tick(inner: Weak<Inner>) {
    loop {
        glommio::timer::sleep(Duration::from_millis(DNS_TICK_MS)).await;
        match inner.upgrade() {
            Some(inner) if inner.tick() => {}
            _ => return,
        }
    }
}

/// Receives for one socket until it is closed.
async fn receive(socket: UdpSocket, port: Port, inner: Weak<Inner>) {
    let mut buffer = vec![0; DNS_DATAGRAM_BYTES];
    let mut in_turn = 0;
    loop {
        let received = socket.recv(&mut buffer).await;
        let Some(inner) = inner.upgrade() else { return };
        let failed = received.is_err();
        match received {
            Ok(length) => inner.received(Via::Udp(port), &buffer[..length]),
            // The server's host said that nobody listens there (ICMP port unreachable).
            Err(_) => inner.unreachable(Via::Udp(port)),
        }
        drop(inner);
        in_turn += 1;
        if failed {
            // Datagrams meanwhile wait in the socket; a socket that fails for ever costs nothing so.
            glommio::timer::sleep(Duration::from_millis(DNS_TICK_MS)).await;
        } else if in_turn >= DNS_DATAGRAMS_PER_TURN {
            // A receive that finds a datagram does not wait, so a flood would hold the core.
            in_turn = 0;
            futures_lite::future::yield_now().await;
        }
    }
}

/// One query and its reply over a connection of its own (RFC 7766), each after its length.
async fn ask_by_tcp(server: SocketAddr, message: &[u8]) -> Result<Vec<u8>, glommio::GlommioError<()>> {
    let too_long = || io::Error::from(io::ErrorKind::InvalidData);
    let length = u16::try_from(message.len()).map_err(|_| too_long())?;
    let mut stream = TcpStream::connect(server).await?;
    stream.write_all(&[&length.to_be_bytes(), message].concat()).await?;
    let mut prefix = [0; 2];
    stream.read_exact(&mut prefix).await?;
    let length = usize::from(u16::from_be_bytes(prefix));
    if length > DNS_REPLY_BYTES_MAX {
        return Err(too_long().into());
    }
    let mut reply = vec![0; length];
    stream.read_exact(&mut reply).await?;
    Ok(reply)
}

/// Bits that nobody outside can guess: a hash keyed by the operating system's random numbers, of a count.
struct Random {
    key: RandomState,
    count: Cell<u64>,
}

impl Random {
    fn new() -> Self {
        Self { key: RandomState::new(), count: Cell::new(0) }
    }

    fn draw(&self) -> u64 {
        self.count.set(self.count.get().wrapping_add(1));
        self.key.hash_one(self.count.get())
    }
}
