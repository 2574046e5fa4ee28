//! One peer's connection: requests one after the other, each answered before the next is looked at.

use super::head::{Head, Method, Version};
use super::incoming::{Claim, Incoming};
use super::limits::{ANSWER_BYTES_FREE, ANSWERS_BYTES_MAX, Deadlines, LINGER_BYTES, LINGER_MILLIS};
use super::parse::{Parsed, asked_path, parse};
use super::render::{self, Delimiter};
use super::request::{Body, Request};
use super::response::{Chunk, Content, Response, Stream};
use super::server::Statistics;
use super::wire::{Gone, Patience, Wire};
use super::{Refusal, Service};
use crate::report;
use futures_lite::FutureExt;
use mailrace_shards::runtime::clock;
use mailrace_shards::runtime::control::{Control, ReadEnd};
use std::cell::Cell;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::time::Duration;

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Nothing of ours is on its way.
    Now,
    /// The peer may still be sending, and has an answer to read.
    Lingering,
}

/// What belongs to one connection besides its octets.
pub struct Connection<S> {
    pub service: Rc<S>,
    pub control: Control,
    pub statistics: Rc<Statistics>,
    pub deadlines: Deadlines,
    /// Octets of all bodies that handlers are at work on.
    pub bodies: Rc<Cell<usize>>,
    /// Octets of all large answers that are on their way.
    pub answers: Rc<Cell<usize>>,
    pub peer: SocketAddr,
}

/// What of a request is needed once its handler has it.
#[derive(Clone, Copy)]
struct Facts {
    method: Method,
    version: Version,
    keep_alive: bool,
}

/// Facts of a request that could not be read.
const UNKNOWN: Facts = Facts { method: Method::Other, version: Version::Http11, keep_alive: false };

impl<S: Service> Connection<S> {
    /// Serves the connection to its end.
    pub async fn serve(self, wire: Wire) {
        if let Some((wire, end)) = self.converse(wire).await {
            let linger = (Duration::from_millis(LINGER_MILLIS), LINGER_BYTES);
            wire.close((end == End::Lingering).then_some(linger)).await;
        }
    }

    /// `None` when the connection is gone already.
    async fn converse(&self, mut wire: Wire) -> Option<(Wire, End)> {
        let mut idle = self.deadlines.head;
        loop {
            let head = match self.read_head(&mut wire, idle).await {
                Ok(Some(head)) => head,
                Ok(None) => return Some((wire, End::Now)),
                Err(refusal) => {
                    let response = self.service.refuse(asked_path(wire.input()), &refusal);
                    let sent = self.send(&mut wire, response, UNKNOWN).await;
                    return sent.ok().map(|()| (wire, End::Lingering));
                }
            };
            let facts = Facts { method: head.method, version: head.version, keep_alive: head.keep_alive };
            let (mut incoming, response, claim) = self.carry_out(wire, *head).await?;
            let keep_alive = facts.keep_alive && !response.closes && incoming.is_reusable() && !self.control.stopping();
            let keep_alive = keep_alive && render::delimiter(&response, facts.version) != Delimiter::Close;
            self.send(incoming.wire(), response, Facts { keep_alive, ..facts }).await.ok()?;
            drop(claim);
            if !keep_alive {
                return Some((incoming.into_wire(), End::Lingering));
            }
            if incoming.discard().await.is_err() {
                return Some((incoming.into_wire(), End::Now));
            }
            wire = incoming.into_wire();
            // The next request may be there already, and the one behind it.
            self.control.give_way().await;
            idle = self.deadlines.idle;
        }
    }

    /// The next request's head; `None` when there is none to come.
    async fn read_head(&self, wire: &mut Wire, idle: Duration) -> Result<Option<Box<Head>>, Refusal> {
        if wire.input().is_empty() {
            if self.control.stopping() {
                return Ok(None);
            }
            let deadline = clock::now().instant.after(idle);
            if wire.fill(deadline, true).await.is_err() {
                return Ok(None);
            }
        }
        let deadline = clock::now().instant.after(self.deadlines.head);
        let mut scanned = 0;
        loop {
            if let Parsed::Whole(head, length) = parse(wire.input(), &mut scanned)? {
                wire.consume(length);
                return Ok(Some(head));
            }
            match wire.fill(deadline, false).await {
                Ok(()) => {}
                Err(ReadEnd::Late) => return Err(Refusal::closing(408, "the request's head came too slowly")),
                Err(ReadEnd::Closed | ReadEnd::Stop) => return Ok(None),
            }
        }
    }

    /// Lets the service answer. `None` when the handler kept the body, and with it the connection. The claim is to be kept
    /// until the answer is sent.
    async fn carry_out(&self, wire: Wire, head: Head) -> Option<(Box<Incoming>, Response, Claim)> {
        let secure = wire.secure();
        let incoming = Box::new(Incoming::new(wire, &head, self.deadlines.stall, Claim::of(&self.bodies)));
        let mut request = Request { head, peer: self.peer, secure, body: Body::incoming(incoming) };
        // A handler that panics leaves behind its request, which ends here, and what it changed of the
        // service, which keeps no invariant over an await.
        let answered = AssertUnwindSafe(self.service.answer(&mut request)).catch_unwind().await;
        let response = answered.unwrap_or_else(|_| {
            let head = &request.head;
            report::error(&format!("a panic in the handler of {} {}: answered 500", head.method, head.path));
            let refusal = Refusal::closing(500, "an error of ours; the log of the server tells more");
            self.service.refuse(&head.path, &refusal)
        });
        let (response, claim) = self.claimed(response, &request.head.path);
        Some((request.body.into_incoming()?, response, claim))
    }

    /// The answer, if there is room for it until its peer has read it; else the refusal.
    fn claimed(&self, response: Response, path: &str) -> (Response, Claim) {
        let mut claim = Claim::of(&self.answers);
        match &response.content {
            Content::Full(body) if body.len() > ANSWER_BYTES_FREE && !claim.take(body.len(), ANSWERS_BYTES_MAX) => {
                let refusal = Refusal::unavailable("too many large answers are being read at a time", 1);
                (self.service.refuse(path, &refusal), claim)
            }
            _ => (response, claim),
        }
    }

    async fn send(&self, wire: &mut Wire, response: Response, facts: Facts) -> Result<(), Gone> {
        let now = clock::now().utc;
        let written = render::head(&response, facts.version, facts.keep_alive, now);
        let (head, response) = written.map(|head| (head, response)).unwrap_or_else(|| {
            let response = Response::text(500, "a header of the answer holds what none may hold");
            let head = render::head(&response, facts.version, facts.keep_alive, now);
            (head.expect("this answer has no header of its own"), response)
        });
        self.statistics.count_answer(response.status);
        let mut patience = Patience::new(self.deadlines.stall);
        let mut out = head.into_bytes();
        let delimiter = render::delimiter(&response, facts.version);
        let has_body = render::has_body(&response, facts.method);
        match response.content {
            Content::Full(body) => {
                // A large one is not copied as a whole, or encrypted as a whole.
                let mut parts = body.chunks(ANSWER_BYTES_FREE).filter(|_| has_body);
                out.extend_from_slice(parts.next().unwrap_or_default());
                wire.send(&out, &mut patience).await?;
                for part in parts {
                    wire.send(part, &mut patience).await?;
                }
                Ok(())
            }
            Content::Stream(stream) => {
                wire.send(&out, &mut patience).await?;
                if has_body { self.stream_body(wire, stream, delimiter, &mut patience).await } else { Ok(()) }
            }
        }
    }

    async fn stream_body(
        &self,
        wire: &mut Wire,
        mut stream: Box<dyn Stream>,
        delimiter: Delimiter,
        patience: &mut Patience,
    ) -> Result<(), Gone> {
        let chunked = delimiter == Delimiter::Chunks;
        let mut out = Vec::new();
        loop {
            // Making a part may be much work without a wait.
            self.control.give_way().await;
            let chunk = AssertUnwindSafe(stream.next()).catch_unwind().await;
            match chunk.unwrap_or_else(|_| Chunk::Broken("a panic".to_owned())) {
                // A chunk of size zero would be the last.
                Chunk::Octets(octets) if octets.is_empty() => {}
                Chunk::Octets(octets) if chunked => {
                    out.clear();
                    out.extend_from_slice(format!("{:x}\r\n", octets.len()).as_bytes());
                    out.extend_from_slice(&octets);
                    out.extend_from_slice(b"\r\n");
                    wire.send(&out, patience).await?;
                }
                Chunk::Octets(octets) => wire.send(&octets, patience).await?,
                Chunk::End if chunked => return wire.send(b"0\r\n\r\n", patience).await,
                Chunk::End => return Ok(()),
                Chunk::Broken(why) => {
                    report::error(&format!("a streamed answer could not be finished: {why}"));
                    return Err(Gone);
                }
            }
        }
    }
}
