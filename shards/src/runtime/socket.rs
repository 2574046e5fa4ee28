//! Making sockets as the runtime needs them: bound to a source before they connect, listening beside the
//! other cores; and asking which addresses are ours. Never resolves a name.

use crate::runtime::alarm::Alarm;
use crate::runtime::clock;
use crate::runtime::ring::Ring;
use crate::runtime::stream::Stream;
use crate::time::Instant;
use glommio::net::TcpListener;
use socket2::{Domain, Protocol, Socket, Type};
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd};
use std::task::Poll;

/// Why a connection was not made.
#[derive(Debug)]
pub enum ConnectError {
    /// The source address is not ours or cannot be used.
    Source(io::Error),
    /// The peer refused, is unreachable, or the system has no socket left.
    Peer(io::Error),
    /// No answer in time.
    TimedOut,
}

/// Connects from `source` (any address of ours when `None`) to `peer`.
pub async fn connect(
    source: Option<IpAddr>,
    peer: SocketAddr,
    deadline: Instant,
    alarm: &Alarm,
    ring: &Ring,
) -> Result<Stream, ConnectError> {
    let socket =
        Socket::new(Domain::for_address(peer), Type::STREAM, Some(Protocol::TCP)).map_err(ConnectError::Peer)?;
    socket.set_nonblocking(true).map_err(ConnectError::Peer)?;
    socket.set_tcp_nodelay(true).map_err(ConnectError::Peer)?;
    if let Some(source) = source {
        // The port is chosen at connect, so that one source reaches more peers than it has ports.
        bind_address_no_port(&socket).map_err(ConnectError::Source)?;
        socket.bind(&SocketAddr::new(source, 0).into()).map_err(ConnectError::Source)?;
    }
    match socket.connect(&peer.into()) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
        Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => return Err(ConnectError::Source(error)),
        Err(error) => return Err(ConnectError::Peer(error)),
    }
    let stream = Stream::new(socket, ring);
    poll_fn(|cx| {
        if let Poll::Ready(result) = stream.poll_connected(cx) {
            return Poll::Ready(result.map_err(ConnectError::Peer));
        }
        if clock::now().instant >= deadline {
            return Poll::Ready(Err(ConnectError::TimedOut));
        }
        alarm.set(Some(deadline), cx.waker());
        Poll::Pending
    })
    .await?;
    Ok(stream)
}

/// Listens at `address` beside the other cores of this process. The preflight has made sure that no other
/// process holds the address.
pub fn listen(address: SocketAddr, backlog: i32) -> io::Result<(Socket, SocketAddr)> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    // Accepted connections inherit it.
    socket.set_tcp_nodelay(true)?;
    socket.bind(&address.into())?;
    socket.listen(backlog)?;
    let bound = socket.local_addr()?.as_socket().ok_or_else(|| io::Error::other("not an IP socket"))?;
    Ok((socket, bound))
}

#[expect(unsafe_code, reason = "no safe wrapper in use offers this option")]
fn bind_address_no_port(socket: &Socket) -> io::Result<()> {
    let on: libc::c_int = 1;
    let length = libc::socklen_t::try_from(size_of::<libc::c_int>()).expect("an int has four octets");
    // SAFETY: the descriptor is open, and the option's value is an int of the length given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            std::ptr::from_ref(&on).cast(),
            length,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Whether the system would reach `peer` from that same address, which is this machine's then. Sends nothing.
#[must_use]
pub fn leads_to_itself(peer: SocketAddr) -> bool {
    let source = || {
        let socket = Socket::new(Domain::for_address(peer), Type::DGRAM, None)?;
        socket.connect(&peer.into())?;
        socket.local_addr()
    };
    // Where nothing leads there is nobody, and we are not there either.
    source().is_ok_and(|source| source.as_socket().is_some_and(|source| source.ip() == peer.ip()))
}

/// Nobody may connect to a listening socket any more, and whoever waits to be accepted is reset. Dropping the socket is
/// not enough: an accept that the ring still holds would keep it listening.
pub fn stop_listening(socket: &Socket) {
    // It fails when it does not listen any more.
    let _ = socket.shutdown(std::net::Shutdown::Both);
}

/// Makes the calling core the one that accepts from `socket`. Must be called inside an executor.
#[must_use]
#[expect(unsafe_code, reason = "glommio takes sockets that it did not make only as raw descriptors")]
pub fn adopt_listener(socket: Socket) -> TcpListener {
    // SAFETY: `into_raw_fd` gives up ownership, so the descriptor has exactly one owner after this line.
    unsafe { TcpListener::from_raw_fd(socket.into_raw_fd()) }
}
