//! A connection of a test, plain or with TLS.

use super::valve::Valve;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, ServerConfig, ServerConnection, StreamOwned};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

/// Longest line that a test reads.
const LINE_BYTES_MAX: u64 = 64 << 20;

/// A socket, read as its valve allows.
struct Socket {
    stream: TcpStream,
    valve: Option<(Arc<Valve>, usize)>,
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some((valve, connection)) = &self.valve else { return self.stream.read(buffer) };
        let wanted = valve.before(*connection, buffer.len());
        let count = self.stream.read(&mut buffer[..wanted])?;
        valve.note(*connection, count);
        Ok(count)
    }
}

impl Write for Socket {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        self.stream.write(octets)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

enum Stream {
    Plain(Socket),
    Client(Box<StreamOwned<ClientConnection, Socket>>),
    Server(Box<StreamOwned<ServerConnection, Socket>>),
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(buffer),
            Self::Client(stream) => stream.read(buffer),
            Self::Server(stream) => stream.read(buffer),
        }
    }
}

/// A connection with buffered reading. Writes go out at once.
pub struct Wire {
    stream: Option<BufReader<Stream>>,
}

impl Wire {
    /// Over a connection that stands.
    pub fn new(stream: TcpStream) -> Self {
        Self::over(Socket { stream, valve: None })
    }

    /// Over connection `number` of a destination, read through its valve.
    pub fn with_valve(stream: TcpStream, valve: Arc<Valve>, number: usize) -> Self {
        Self::over(Socket { stream, valve: Some((valve, number)) })
    }

    fn over(socket: Socket) -> Self {
        let _ = socket.stream.set_nodelay(true);
        Self { stream: Some(BufReader::with_capacity(64 << 10, Stream::Plain(socket))) }
    }

    /// Whether TLS is in use.
    pub fn is_tls(&self) -> bool {
        !matches!(self.stream().get_ref(), Stream::Plain(_))
    }

    fn stream(&self) -> &BufReader<Stream> {
        self.stream.as_ref().expect("taken only while TLS begins")
    }

    fn stream_mut(&mut self) -> &mut BufReader<Stream> {
        self.stream.as_mut().expect("taken only while TLS begins")
    }

    fn take_plain(&mut self) -> io::Result<Socket> {
        let stream = self.stream.take().expect("taken only while TLS begins");
        if !stream.buffer().is_empty() {
            return Err(io::Error::other("octets before the TLS handshake"));
        }
        match stream.into_inner() {
            Stream::Plain(stream) => Ok(stream),
            _ => Err(io::Error::other("TLS in TLS")),
        }
    }

    /// Begins TLS as its client.
    pub fn start_client(&mut self, config: Arc<ClientConfig>, host: &str) -> io::Result<()> {
        let mut stream = self.take_plain()?;
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let mut tls = ClientConnection::new(config, name).map_err(io::Error::other)?;
        let finished = tls.complete_io(&mut stream).map(drop);
        self.stream = Some(BufReader::new(Stream::Client(Box::new(StreamOwned::new(tls, stream)))));
        finished
    }

    /// Begins TLS as its server.
    pub fn start_server(&mut self, config: Arc<ServerConfig>) -> io::Result<()> {
        let mut stream = self.take_plain()?;
        let mut tls = ServerConnection::new(config).map_err(io::Error::other)?;
        let finished = tls.complete_io(&mut stream).map(drop);
        self.stream = Some(BufReader::new(Stream::Server(Box::new(StreamOwned::new(tls, stream)))));
        finished
    }

    /// A line with its end; empty at the end of the connection.
    pub fn read_line(&mut self) -> io::Result<Vec<u8>> {
        let mut line = Vec::new();
        self.stream_mut().take(LINE_BYTES_MAX).read_until(b'\n', &mut line)?;
        Ok(line)
    }

    /// Exactly so many octets.
    pub fn read_exact(&mut self, count: usize) -> io::Result<Vec<u8>> {
        let mut octets = vec![0; count];
        self.stream_mut().read_exact(&mut octets)?;
        Ok(octets)
    }

    /// Writes everything.
    pub fn write(&mut self, octets: &[u8]) -> io::Result<()> {
        match self.stream_mut().get_mut() {
            Stream::Plain(stream) => stream.write_all(octets),
            Stream::Client(stream) => stream.write_all(octets).and_then(|()| stream.flush()),
            Stream::Server(stream) => stream.write_all(octets).and_then(|()| stream.flush()),
        }
    }
}
