//! The tasks of SMTP injection: accept connections, then move octets between each socket and its SMTP server
//! session, and messages between the session and the brain.

use crate::event::Pressure;
use crate::limits::{ACCEPT_PAUSE_MILLIS, COMMAND_WAIT, READ_BYTES, TURN_BYTES};
use crate::runtime::clock;
use crate::runtime::local::{Local, SessionSlot};
use crate::runtime::report::report;
use crate::runtime::socket;
use crate::runtime::stream::{Listener, Stream};
use crate::runtime::tasks;
use crate::runtime::tls::Tls;
use crate::settings::Network;
use crate::shard::Submission;
use crate::smtp::server::{Accepted, Credentials, PeerFacts, ServerEvent, Session, StoreRefusal};
use futures_lite::FutureExt;
use socket2::Socket;
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

thread_local! {
    /// What a read brings is given to the session at once; what it does not take is kept by the connection.
    static READ: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BYTES].into());
}

/// Accepts connections until a stop is ordered, then closes the door: `ours` is the same socket.
pub async fn listen(local: Rc<Local>, listener: Listener, ours: Socket) {
    accept(&local, &listener).await;
    socket::stop_listening(&ours);
}

async fn accept(local: &Rc<Local>, listener: &Listener) {
    let slot = Rc::new(SessionSlot { alarm: local.alarms.alarm(), woken: Cell::new(false) });
    while !local.stopping() {
        let accepted = futures_lite::future::or(async { Some(listener.accept().await) }, async {
            stop_ordered(local, &slot).await;
            None
        });
        match accepted.await {
            None => return,
            Some(Ok(stream)) => start(local.clone(), stream),
            Some(Err(_)) => {
                // No descriptor left, most likely: those in use must end first. Clients wait in the backlog.
                glommio::timer::sleep(Duration::from_millis(ACCEPT_PAUSE_MILLIS)).await;
            }
        }
    }
}

async fn stop_ordered(local: &Local, slot: &SessionSlot) {
    poll_fn(|cx| {
        if local.stopping() {
            return Poll::Ready(());
        }
        slot.alarm.set(None, cx.waker());
        Poll::Pending
    })
    .await;
}

fn start(local: Rc<Local>, stream: Stream) {
    if !local.shared.injector_enters() {
        tasks::spawn(turn_away(stream));
        return;
    }
    local.injecting.set(local.injecting.get() + 1);
    tasks::spawn(async move {
        let result = AssertUnwindSafe(run(local.clone(), stream)).catch_unwind().await;
        local.injecting.set(local.injecting.get() - 1);
        local.shared.injector_left();
        if result.is_err() {
            if local.in_brain() {
                local.stop_for_panic();
            }
            report("a panic in an injecting session: the session was ended, nothing of it was acknowledged");
        }
    });
}

async fn turn_away(stream: Stream) {
    let words = b"421 4.3.2 too many connections, try again later\r\n";
    let _ = poll_fn(|cx| stream.poll_write(cx, words)).await;
    stream.shut_down();
}

async fn run(local: Rc<Local>, stream: Stream) {
    let Ok(address) = stream.peer_addr() else {
        return;
    };
    let settings = local.settings();
    let within = |networks: &[Network]| networks.iter().any(|network| network.contains(canonical(address).ip()));
    let peer = PeerFacts {
        address: canonical(address),
        may_relay: within(&settings.smtp.relay_from),
        trusted_headers: within(&settings.smtp.trust_headers_from),
    };
    let config = local.server_config.borrow().clone();
    let id = local.with_shard(|shard, _| shard.next_message_id());
    let session = Session::new(config, peer, id, clock::recent());
    let slot = SessionSlot { alarm: local.alarms.alarm(), woken: Cell::new(false) };
    let mut injection = Injection {
        session,
        stream,
        tls: None,
        pending: Vec::new(),
        out: Vec::new(),
        sent: 0,
        busy: 0,
        gone: false,
        slot,
        local,
        peer: canonical(address),
    };
    injection.converse().await;
    injection.stream.shut_down();
}

fn canonical(address: SocketAddr) -> SocketAddr {
    let ip: IpAddr = address.ip().to_canonical();
    SocketAddr::new(ip, address.port())
}

/// Octets of room for replies that a connection keeps.
const REPLIES_BYTES_KEPT: usize = 256;

/// One injecting connection.
struct Injection {
    session: Session,
    stream: Stream,
    tls: Option<Tls>,
    /// Octets read that the session has not taken yet.
    pending: Vec<u8>,
    /// Octets to send, in their final form.
    out: Vec<u8>,
    sent: usize,
    /// Octets read since other tasks had their turn.
    busy: usize,
    /// The connection is of no use any more.
    gone: bool,
    slot: SessionSlot,
    local: Rc<Local>,
    peer: SocketAddr,
}

impl Injection {
    async fn converse(&mut self) {
        while !self.gone {
            if let Some(event) = self.session.poll_event() {
                if !self.handle(event).await {
                    return;
                }
                continue;
            }
            if !self.pending.is_empty() && self.session.wants_input() {
                self.set_pressure();
                let pending = std::mem::take(&mut self.pending);
                let taken = self.session.handle_bytes(&pending, clock::recent());
                self.pending = pending;
                self.pending.drain(..taken);
                continue;
            }
            self.flush().await;
            // With its output gone, the session may want what it had left.
            if self.pending.is_empty() || !self.session.wants_input() {
                self.read().await;
                self.give_way().await;
            }
        }
    }

    /// Lets other tasks run once in a while: with a peer that never pauses nothing else here ever waits, and one
    /// connection would have the core to itself.
    async fn give_way(&mut self) {
        if self.busy >= TURN_BYTES {
            self.busy = 0;
            glommio::executor().yield_task_queue_now().await;
        }
    }

    /// Whether the conversation goes on.
    async fn handle(&mut self, event: ServerEvent) -> bool {
        match event {
            ServerEvent::Message(message) => self.store(*message).await,
            ServerEvent::StartTls => {
                self.flush().await;
                self.pending.clear();
                return self.start_tls().await;
            }
            ServerEvent::Authenticate(credentials) => self.authenticate(credentials).await,
            ServerEvent::Close => {
                self.flush().await;
                if let Some(tls) = &mut self.tls {
                    tls.close_notify();
                    tls.pull(&mut self.out);
                    self.flush().await;
                }
                return false;
            }
        }
        true
    }

    async fn store(&mut self, message: Accepted) {
        self.flush().await;
        let Accepted { id, sender, recipients, flags, extras, body, protocol } = message;
        let body = self.local.bodies.count(body);
        let submission = Submission { id, sender, recipients, flags, extras, body, protocol, peer: Some(self.peer) };
        let result = self.local.accept(submission).take().await;
        let next_id = self.local.with_shard(|shard, _| shard.next_message_id());
        let result = result.map_err(|why| {
            report(&format!("message {id} was not stored: {why}"));
            StoreRefusal::failed("the message could not be made durable, try again later")
        });
        self.session.handle_stored(result, next_id, clock::recent());
    }

    async fn authenticate(&mut self, credentials: Credentials) {
        self.flush().await;
        let verify = self.local.shared.authenticate.clone();
        let check = move || {
            // A panic would end the pool's only thread.
            std::panic::catch_unwind(AssertUnwindSafe(|| verify(&credentials.name, &credentials.secret)))
        };
        self.local.elsewhere.update(|count| count + 1);
        let right = glommio::executor().spawn_blocking(check).await.unwrap_or(false);
        self.local.elsewhere.update(|count| count - 1);
        self.session.handle_authenticated(right, clock::recent());
    }

    async fn start_tls(&mut self) -> bool {
        let Some(config) = self.local.shared.server_tls() else {
            return false;
        };
        match Tls::server(&config) {
            Ok(tls) => self.tls = Some(tls),
            Err(_) => return false,
        }
        while self.tls.as_ref().is_some_and(Tls::handshaking) && self.session.awaits_tls() && !self.gone {
            self.read().await;
            self.flush().await;
        }
        // A session that has ended meanwhile has no deadline left at which a silent peer would be let go.
        if self.gone || !self.session.awaits_tls() {
            return false;
        }
        let tls = self.tls.as_ref().expect("the handshake was begun at the top");
        let (version, suite) = (tls.version().unwrap_or(""), tls.suite().unwrap_or(""));
        self.session.handle_tls_ready(version, suite, clock::recent());
        true
    }

    /// Tells the session whether new mail is to be refused now.
    fn set_pressure(&mut self) {
        let pressure = self.local.pressure();
        let refusal = pressure.map(|pressure| StoreRefusal::storage(pressure.as_str()));
        if let (Some(Pressure::MemoryShort), Some(refusal)) = (pressure, &refusal) {
            self.session.relieve(refusal);
        }
        self.session.set_pressure(refusal);
    }

    /// Sends all output, or finds that the connection is of no use.
    async fn flush(&mut self) {
        self.take_output();
        if self.out.is_empty() {
            return;
        }
        let until = clock::recent().instant.after(COMMAND_WAIT);
        poll_fn(|cx| {
            while self.sent < self.out.len() && !self.gone {
                match self.stream.poll_write(cx, &self.out[self.sent..]) {
                    Poll::Ready(Ok(count)) => self.sent += count,
                    Poll::Ready(Err(_)) => self.gone = true,
                    Poll::Pending => {
                        if clock::recent().instant >= until {
                            self.gone = true;
                            break;
                        }
                        self.slot.alarm.set(Some(until), cx.waker());
                        return Poll::Pending;
                    }
                }
            }
            Poll::Ready(())
        })
        .await;
        // An idle connection keeps room for no more than a few replies.
        self.out.clear();
        self.out.shrink_to(REPLIES_BYTES_KEPT);
        self.sent = 0;
    }

    fn take_output(&mut self) {
        let output = self.session.output();
        match &mut self.tls {
            None if self.out.is_empty() => std::mem::swap(&mut self.out, output),
            None => self.out.append(output),
            Some(tls) => {
                if !output.is_empty() {
                    tls.encrypt(output);
                    output.clear();
                }
                tls.pull(&mut self.out);
            }
        }
    }

    /// Whether the session's time is up; if not, the task is woken when it is.
    fn late(&mut self, cx: &mut std::task::Context<'_>) -> bool {
        let now = clock::recent();
        match self.session.deadline() {
            Some(deadline) if deadline <= now.instant => true,
            deadline => {
                self.slot.alarm.set(deadline, cx.waker());
                false
            }
        }
    }

    /// Waits for octets, the session's deadline, or a stop.
    async fn read(&mut self) {
        poll_fn(|cx| {
            if self.local.stopping() && !self.slot.woken.replace(true) {
                self.session.shutdown(clock::recent());
                return Poll::Ready(());
            }
            let read = READ.with_borrow_mut(|buffer| match self.stream.poll_read(cx, buffer) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(Ok(0) | Err(_)) => {
                    self.session.handle_eof();
                    self.gone = true;
                    Poll::Ready(())
                }
                Poll::Ready(Ok(count)) => {
                    self.busy += count;
                    self.take_in_buffer(&buffer[..count]);
                    Poll::Ready(())
                }
            });
            if read.is_pending() {
                self.busy = 0;
            }
            if read.is_pending() && self.late(cx) {
                self.session.handle_deadline(clock::recent());
                return Poll::Ready(());
            }
            read
        })
        .await;
    }

    fn take_in_buffer(&mut self, octets: &[u8]) {
        if let Some(tls) = &mut self.tls {
            if tls.feed(octets, &mut self.pending).is_err() || tls.peer_closed() {
                self.gone = self.pending.is_empty();
            }
            return;
        }
        if self.pending.is_empty() && self.session.wants_input() {
            self.set_pressure();
            let taken = self.session.handle_bytes(octets, clock::recent());
            self.pending.extend_from_slice(&octets[taken..]);
        } else {
            self.pending.extend_from_slice(octets);
        }
    }
}
