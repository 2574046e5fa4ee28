//! The generator's event loop: connects, reads, writes, watches the time.
//!
//! It ends when every number has an outcome, when the time is over, or when a signal asks for it; never later.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::sync::Arc;
use std::time::Duration;

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use super::Load;
use super::session::{FINISHED, Flow, Session, Shared};
use super::tally::{Live, Tally};
use super::template::Template;
use super::work::Work;
use crate::clock::{now_ns, thread_cpu_ns};
use crate::stop;

/// One read takes at most so much; replies are short.
const READ_OCTETS: usize = 64 << 10;
/// The longest wait for events: how stale the look at clocks and flags may be.
const TICK: Duration = Duration::from_millis(100);
/// A connection that failed is opened again after so long.
const RECONNECT_NS: u64 = 100_000_000;
/// So many failures with no message accepted between them end the run.
const MAX_FAILURES_IN_A_ROW: u64 = 500;

struct Connection {
    stream: TcpStream,
    session: Session,
    out: Vec<u8>,
    written: usize,
    heard_ns: u64,
    idle: bool,
}

/// A place for a connection: in use, or due to be opened.
enum Slot {
    Open(Box<Connection>),
    Closed { open_at_ns: u64 },
    Finished,
}

struct Driver {
    poll: Poll,
    slots: Vec<Slot>,
    idle: VecDeque<usize>,
    shared: Shared,
    failures_in_a_row: u64,
    accepted_at_failure: u32,
    scratch: Box<[u8]>,
}

/// Sends the load; returns what came of it. `live` tells of it meanwhile.
pub fn run(load: Load, live: Arc<Live>) -> io::Result<Tally> {
    if let Some(cpu) = load.cpu {
        crate::pin::to(cpu).map_err(io::Error::other)?;
    }
    let limit_ns = load.time_limit.as_nanos() as u64;
    let mut driver = Driver {
        poll: Poll::new()?,
        slots: (0..load.connections.max(1)).map(|_| Slot::Closed { open_at_ns: 0 }).collect(),
        idle: VecDeque::new(),
        shared: Shared {
            work: Work::new(load.messages, load.rate),
            tally: Tally::new(load.messages, live),
            template: Template::new(&load),
            load,
        },
        failures_in_a_row: 0,
        accepted_at_failure: 0,
        scratch: vec![0; READ_OCTETS].into_boxed_slice(),
    };
    let end_ns = now_ns() + limit_ns;
    let mut events = Events::with_capacity(1_024);
    let mut tick_ns = 0;
    loop {
        let now = now_ns();
        if now >= tick_ns {
            driver.tick(now);
            tick_ns = now + TICK.as_nanos() as u64 / 2;
        }
        if driver.is_finished() {
            return Ok(driver.finish());
        }
        let reason = if stop::requested() {
            Some("stopped")
        } else if now > end_ns {
            Some("time limit")
        } else if driver.failures_in_a_row > MAX_FAILURES_IN_A_ROW {
            Some("too many failures in a row")
        } else {
            None
        };
        if let Some(reason) = reason {
            driver.give_up(reason);
            return Ok(driver.finish());
        }
        match driver.poll.poll(&mut events, Some(driver.wait(now))) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            result => result?,
        }
        for event in &events {
            if event.is_writable() {
                driver.flush(event.token().0);
            }
            if event.is_readable() || event.is_error() {
                driver.read(event.token().0);
            }
        }
        driver.start_idle();
    }
}

impl Driver {
    fn finish(mut self) -> Tally {
        self.shared.tally.cpu_ns = thread_cpu_ns();
        self.shared.tally
    }

    fn is_finished(&self) -> bool {
        self.slots.iter().all(|slot| matches!(slot, Slot::Finished))
    }

    fn wait(&self, now: u64) -> Duration {
        match self.shared.work.next_due_ns() {
            Some(due_ns) if due_ns > 0 && !self.idle.is_empty() => {
                Duration::from_nanos(due_ns.saturating_sub(now)).min(TICK)
            }
            _ => TICK,
        }
    }

    /// Opens what is due, ends what has waited too long.
    fn tick(&mut self, now: u64) {
        let timeout_ns = self.shared.load.reply_timeout.as_nanos() as u64;
        for key in 0..self.slots.len() {
            match &self.slots[key] {
                Slot::Open(connection) if connection.idle => {}
                // A server with a short backlog greets some connections after the others have sent everything.
                Slot::Open(connection) if self.shared.work.is_done() && !connection.session.is_greeted() => {
                    self.close(key, FINISHED);
                }
                Slot::Open(connection) if now.saturating_sub(connection.heard_ns) > timeout_ns => {
                    self.close(key, "no reply in time");
                }
                Slot::Closed { .. } if self.shared.work.is_done() => self.slots[key] = Slot::Finished,
                Slot::Closed { open_at_ns } if *open_at_ns <= now => self.open(key, now),
                _ => {}
            }
        }
    }

    fn open(&mut self, key: usize, now: u64) {
        let connected = TcpStream::connect(self.shared.load.target).and_then(|mut stream| {
            let interest = Interest::READABLE | Interest::WRITABLE;
            self.poll.registry().register(&mut stream, Token(key), interest)?;
            Ok(stream)
        });
        match connected {
            Ok(stream) => {
                // Pipelined writes are whole; waiting to coalesce them would only measure Nagle's timer.
                let _ = stream.set_nodelay(true);
                self.shared.tally.connections += 1;
                self.slots[key] = Slot::Open(Box::new(Connection {
                    stream,
                    session: Session::new(),
                    out: Vec::new(),
                    written: 0,
                    heard_ns: now,
                    idle: false,
                }));
            }
            Err(_) => self.failed(key, "could not connect"),
        }
    }

    fn read(&mut self, key: usize) {
        loop {
            let Slot::Open(connection) = &mut self.slots[key] else { return };
            let count = match connection.stream.read(&mut self.scratch) {
                Ok(0) => return self.close(key, "closed by the server"),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == ErrorKind::NotConnected => return,
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                    return self.close(key, "connection refused");
                }
                Err(_) => return self.close(key, "connection broken"),
            };
            connection.heard_ns = now_ns();
            let flow = connection.session.receive(&self.scratch[..count], &mut self.shared, &mut connection.out);
            self.after(key, flow);
            if count < self.scratch.len() {
                return;
            }
        }
    }

    fn after(&mut self, key: usize, flow: Flow) {
        self.flush(key);
        match flow {
            Flow::Waiting => {}
            Flow::Idle => {
                if let Slot::Open(connection) = &mut self.slots[key]
                    && !connection.idle
                {
                    connection.idle = true;
                    self.idle.push_back(key);
                }
            }
            Flow::Close(reason) => self.close(key, reason),
        }
    }

    /// Gives due messages to idle connections; when there are none left, lets them all say QUIT.
    fn start_idle(&mut self) {
        while let Some(&key) = self.idle.front() {
            if self.shared.work.next_due_ns().is_some_and(|due_ns| due_ns > now_ns()) {
                return;
            }
            self.idle.pop_front();
            let Slot::Open(connection) = &mut self.slots[key] else { continue };
            if !std::mem::take(&mut connection.idle) {
                continue;
            }
            connection.heard_ns = now_ns();
            let flow = connection.session.start(&mut self.shared, &mut connection.out);
            self.after(key, flow);
        }
    }

    fn flush(&mut self, key: usize) {
        let Slot::Open(connection) = &mut self.slots[key] else { return };
        while connection.written < connection.out.len() {
            match connection.stream.write(&connection.out[connection.written..]) {
                Ok(count) => connection.written += count,
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return self.close(key, "connection broken"),
            }
        }
        connection.out.clear();
        connection.written = 0;
    }

    fn close(&mut self, key: usize, reason: &'static str) {
        let Slot::Open(connection) = &mut self.slots[key] else { return };
        connection.session.abandon(&mut self.shared.tally);
        // A failure here means that the kernel has forgotten it already.
        let _ = self.poll.registry().deregister(&mut connection.stream);
        if reason == FINISHED {
            self.slots[key] = if self.shared.work.is_done() { Slot::Finished } else { Slot::Closed { open_at_ns: 0 } };
            if !self.shared.work.is_done() {
                self.open(key, now_ns());
            }
            return;
        }
        self.failed(key, reason);
    }

    fn failed(&mut self, key: usize, reason: &'static str) {
        self.shared.tally.fail(reason);
        let accepted = self.shared.tally.accepted.count();
        self.failures_in_a_row = if accepted == self.accepted_at_failure { self.failures_in_a_row + 1 } else { 1 };
        self.accepted_at_failure = accepted;
        self.slots[key] = Slot::Closed { open_at_ns: now_ns() + RECONNECT_NS };
    }

    fn give_up(&mut self, reason: &'static str) {
        self.shared.tally.fail(reason);
        for slot in &mut self.slots {
            if let Slot::Open(connection) = slot {
                connection.session.abandon(&mut self.shared.tally);
            }
        }
        self.shared.tally.unsent += u64::from(self.shared.work.abandon());
    }
}
