//! SMTP's sockets: connections and listeners that a core's [`Ring`] watches. Octets move by recv(2) and send(2),
//! which are called only when they may do something.

use crate::runtime::ring::{Direction, Place, Ring};
use rustix::net::SocketFlags;
use socket2::Socket;
use std::future::poll_fn;
use std::io::{self, IoSlice, Read};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::AsRawFd;
use std::task::{Context, Poll};

/// A socket and its place in the ring. Closed, and no longer watched, when dropped.
#[derive(Debug)]
struct Watched {
    socket: Socket,
    place: Place,
    ring: Ring,
}

/// A connection.
#[derive(Debug)]
pub struct Stream {
    watched: Watched,
}

/// A listening socket.
#[derive(Debug)]
pub struct Listener {
    watched: Watched,
}

impl Watched {
    fn new(socket: Socket, ring: &Ring) -> Self {
        let place = ring.watch(socket.as_raw_fd());
        Self { socket, place, ring: ring.clone() }
    }

    /// Calls until the call does something. `Interrupted` is tried again at once.
    fn poll_call<R>(
        &self,
        direction: Direction,
        cx: &Context<'_>,
        mut call: impl FnMut(&Socket) -> io::Result<R>,
    ) -> Poll<io::Result<R>> {
        while self.ring.poll_ready(&self.place, direction, cx) {
            match call(&self.socket) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.ring.exhausted(&self.place, direction);
                    // A socket that has ended is ready for ever, and no call on it blocks.
                    if self.ring.poll_ready(&self.place, direction, cx) {
                        return Poll::Ready(Err(error));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return Poll::Ready(result),
            }
        }
        Poll::Pending
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.ring.forget(&self.place);
    }
}

impl Stream {
    /// A socket that does not block, connected or on its way.
    #[must_use]
    pub fn new(socket: Socket, ring: &Ring) -> Self {
        Self { watched: Watched::new(socket, ring) }
    }

    /// Waits for the end of a connect(2) that was begun.
    pub fn poll_connected(&self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        self.watched.poll_call(Direction::Write, cx, |socket| match socket.take_error()? {
            Some(error) => Err(error),
            // An empty send moves no octet, and would block as long as there is no connection.
            None => socket.send(&[]).map(|_| ()),
        })
    }

    /// Reads what has come; 0 is the end.
    pub fn poll_read(&self, cx: &Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let read = self.watched.poll_call(Direction::Read, cx, |mut socket| socket.read(buffer));
        if let Poll::Ready(Ok(count)) = read
            && count < buffer.len()
        {
            // There was no more at that moment. What comes after it is told anew.
            self.watched.ring.exhausted(&self.watched.place, Direction::Read);
        }
        read
    }

    /// Reads what is left of a connection that broke, of which the ring may not have heard yet.
    ///
    /// # Errors
    /// There is nothing.
    pub fn read_left(&self, buffer: &mut [u8]) -> io::Result<usize> {
        (&self.watched.socket).read(buffer)
    }

    /// Sends what fits.
    pub fn poll_write(&self, cx: &Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        self.watched.poll_call(Direction::Write, cx, |socket| socket.send_with_flags(octets, libc::MSG_NOSIGNAL))
    }

    /// Sends what fits of two parts, one behind the other.
    pub fn poll_write_parts(&self, cx: &Context<'_>, [first, second]: [&[u8]; 2]) -> Poll<io::Result<usize>> {
        if second.is_empty() {
            return self.poll_write(cx, first);
        }
        let parts = [IoSlice::new(first), IoSlice::new(second)];
        let send = |socket: &Socket| socket.send_vectored_with_flags(&parts, libc::MSG_NOSIGNAL);
        self.watched.poll_call(Direction::Write, cx, send)
    }

    /// Ends the connection; the peer hears of it at once.
    pub fn shut_down(&self) {
        // A connection that is gone needs no good-bye.
        let _ = self.watched.socket.shutdown(Shutdown::Both);
    }

    /// Our end.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        ip(self.watched.socket.local_addr())
    }

    /// The other end.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        ip(self.watched.socket.peer_addr())
    }
}

impl Listener {
    /// Makes the ring's core the one that accepts from `socket`.
    ///
    /// # Errors
    /// What fcntl(2) says.
    pub fn new(socket: Socket, ring: &Ring) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self { watched: Watched::new(socket, ring) })
    }

    /// The next connection.
    ///
    /// # Errors
    /// What accept(2) says: that no descriptor is left, most likely.
    pub async fn accept(&self) -> io::Result<Stream> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let accept = |socket: &Socket| Ok(rustix::net::accept_with(socket, flags)?);
        let accepted = poll_fn(|cx| self.watched.poll_call(Direction::Read, cx, accept)).await?;
        Ok(Stream::new(accepted.into(), &self.watched.ring))
    }
}

fn ip(address: io::Result<socket2::SockAddr>) -> io::Result<SocketAddr> {
    address?.as_socket().ok_or_else(|| io::Error::other("not an IP socket"))
}
