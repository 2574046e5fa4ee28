//! The demonstration's destination: the engine's own server session over blocking sockets, a thread a connection.
//! Takes everything, keeps nothing, counts by recipient domain.

use mailrace_shards::message::{MessageId, domain_of};
use mailrace_shards::runtime::clock;
use mailrace_shards::smtp::server::{PeerFacts, ServerConfig, ServerEvent, Session};
use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// Connections at a time; the next are closed at once.
const CONNECTIONS_MAX: usize = 256;

/// How long a peer may say nothing.
const SILENT_MAX: Duration = Duration::from_secs(300);

const READ_BYTES: usize = 64 << 10;

/// Counts of what has arrived. Shared by the threads of the sink and whoever looks.
#[derive(Clone, Debug, Default)]
pub struct Arrivals(Arc<Mutex<HashMap<String, u64>>>);

impl Arrivals {
    /// Recipients of a domain.
    #[must_use]
    pub fn of(&self, domain: &str) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(domain).copied().unwrap_or(0)
    }

    fn count(&self, recipients: &[Box<str>]) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for recipient in recipients {
            *counts.entry(domain_of(recipient).to_owned()).or_default() += 1;
        }
    }
}

/// Listens on a free port of the loopback until the process ends.
pub fn start() -> io::Result<(SocketAddr, Arrivals)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let arrivals = Arrivals::default();
    let shared = arrivals.clone();
    thread::Builder::new().name("sink".to_owned()).spawn(move || accept(&listener, &shared))?;
    Ok((address, arrivals))
}

fn accept(listener: &TcpListener, arrivals: &Arrivals) {
    let config = Arc::new(ServerConfig {
        hostname: "sink.example".into(),
        max_message_bytes: 1 << 20,
        max_recipients: 1000,
        tls_available: false,
        auth_available: false,
        campaign_header: "X-Campaign".into(),
        tenant_header: "X-Tenant".into(),
    });
    let open = Arc::new(AtomicUsize::new(0));
    for core in (0..=u16::MAX).cycle() {
        let Ok((stream, peer)) = listener.accept() else { continue };
        if open.load(Ordering::Relaxed) >= CONNECTIONS_MAX {
            continue;
        }
        open.fetch_add(1, Ordering::Relaxed);
        let (config, arrivals, counter) = (config.clone(), arrivals.clone(), open.clone());
        let serve = move || {
            // A peer that went away is all that can go wrong, and it says so to itself.
            let _ = converse(stream, peer, core, config, &arrivals);
            counter.fetch_sub(1, Ordering::Relaxed);
        };
        if thread::Builder::new().name("sink-session".to_owned()).spawn(serve).is_err() {
            open.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

fn converse(
    mut stream: TcpStream,
    address: SocketAddr,
    core: u16,
    config: Arc<ServerConfig>,
    arrivals: &Arrivals,
) -> io::Result<()> {
    stream.set_read_timeout(Some(SILENT_MAX))?;
    stream.set_write_timeout(Some(SILENT_MAX))?;
    stream.set_nodelay(true)?;
    let peer = PeerFacts { address, may_relay: true, trusted_headers: false };
    let mut next_id = MessageId { generation: 0, core, sequence: 0 };
    let mut session = Session::new(config, peer, next_id, clock::now());
    let mut buffer = vec![0; READ_BYTES];
    let mut unread = 0..0;
    loop {
        stream.write_all(session.output())?;
        session.output().clear();
        match session.poll_event() {
            Some(ServerEvent::Message(accepted)) => {
                arrivals.count(&accepted.recipients);
                next_id.sequence += 1;
                session.handle_stored(Ok(accepted.id), next_id, clock::now());
            }
            // Neither is offered.
            Some(ServerEvent::StartTls | ServerEvent::Authenticate(_) | ServerEvent::Close) => return Ok(()),
            None if unread.is_empty() => {
                let count = stream.read(&mut buffer)?;
                if count == 0 {
                    session.handle_eof();
                }
                unread = 0..count;
            }
            None => unread.start += session.handle_bytes(&buffer[unread.clone()], clock::now()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::start;
    use crate::inject::client::{Message, Session};

    #[test]
    fn it_takes_everything_and_counts() {
        let (address, arrivals) = start().unwrap();
        let recipients = ["a@one.example".to_owned(), "b@two.example".to_owned(), "c@one.example".to_owned()];
        let mut session = Session::open(address, "test.example").unwrap();
        for _ in 0..3 {
            let message =
                Message { helo: "test.example", sender: "", recipients: &recipients, body: b"Subject: x\n\n.\n" };
            assert!(session.hand_in(&message).unwrap().starts_with("250 "));
        }
        session.quit();
        assert_eq!(["one.example", "two.example", "none.example"].map(|domain| arrivals.of(domain)), [6, 3, 0]);
    }
}
