//! A request's body on its way in: the connection it comes by, and how to take it apart.

use super::body::BodyDecoder;
use super::head::Head;
use super::inflate::Inflater;
use super::limits::{BODIES_BYTES_MAX, DISCARD_BYTES, READ_BYTES};
use super::parse::bad;
use super::refusal::Refusal;
use super::request::too_large;
use super::wire::{Gone, Patience, Wire};
use mailrace_shards::runtime::control::ReadEnd;
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

/// The body of the request that a connection carries now. It holds the connection meanwhile.
pub struct Incoming {
    wire: Wire,
    decoder: BodyDecoder,
    inflater: Option<Inflater>,
    /// Content-Encoding is one that we do not know: to be said to who asks for the body.
    unreadable: Option<Refusal>,
    patience: Patience,
    /// The peer waits for `100 Continue`.
    expects_continue: bool,
    /// Taken out of the framing, not yet inflated.
    raw: Vec<u8>,
    claim: Claim,
    failed: bool,
}

/// What the bodies of all requests (or of all answers) take together, and the part of one of them, given back when that
/// is dropped.
#[derive(Debug)]
pub struct Claim {
    all: Rc<Cell<usize>>,
    own: usize,
}

impl Claim {
    /// Of nothing yet.
    pub fn of(all: &Rc<Cell<usize>>) -> Self {
        Self { all: all.clone(), own: 0 }
    }

    fn grow(&mut self, octets: usize) -> Result<(), Refusal> {
        if self.take(octets, BODIES_BYTES_MAX) {
            return Ok(());
        }
        let refusal = Refusal::unavailable("too many large requests at a time", 1);
        Err(Refusal { closes: true, ..refusal })
    }

    /// Takes so many more, if all then have at most that. Whether it did.
    pub fn take(&mut self, octets: usize, most: usize) -> bool {
        let fits = self.all.get() + octets <= most;
        if fits {
            self.all.set(self.all.get() + octets);
            self.own += octets;
        }
        fits
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.all.set(self.all.get() - self.own);
    }
}

impl Incoming {
    pub fn new(wire: Wire, head: &Head, stall: Duration, claim: Claim) -> Self {
        let decoder = BodyDecoder::new(head.framing);
        let (inflater, unreadable) = match Inflater::new(head.coding) {
            Ok(inflater) => (inflater, None),
            Err(refusal) => (None, Some(refusal)),
        };
        Self {
            wire,
            // A body that has all come, or none at all, is not waited with.
            expects_continue: head.expects_continue && !decoder.is_done(),
            decoder,
            inflater,
            unreadable,
            patience: Patience::new(stall),
            raw: Vec::new(),
            claim,
            failed: false,
        }
    }

    /// Refuses a body that is known to be longer than `limit` before any of it is read.
    pub fn expect_within(&mut self, limit: usize) -> Result<(), Refusal> {
        let length = self.decoder.remaining().unwrap_or(0);
        if length > limit as u64 { self.fail(too_large(limit)) } else { Ok(()) }
    }

    /// Notes that so many octets of the body are kept until the request is over.
    pub fn keep(&mut self, octets: usize) -> Result<(), Refusal> {
        self.claim.grow(octets).or_else(|refusal| self.fail(refusal))
    }

    /// The next part of the body.
    pub async fn chunk(&mut self) -> Result<Option<Vec<u8>>, Refusal> {
        match self.next().await {
            Ok(chunk) => Ok(chunk),
            Err(refusal) => self.fail(refusal),
        }
    }

    fn fail<T>(&mut self, refusal: Refusal) -> Result<T, Refusal> {
        self.failed = true;
        Err(refusal)
    }

    async fn next(&mut self) -> Result<Option<Vec<u8>>, Refusal> {
        if self.failed {
            return Err(bad("the rest of the body cannot be read"));
        }
        if let Some(refusal) = self.unreadable.take() {
            return Err(refusal);
        }
        loop {
            let out = self.take_raw()?;
            if !out.is_empty() {
                self.wire.note_work(out.len()).await;
                return Ok(Some(out));
            }
            if self.raw.is_empty() {
                if self.decoder.is_done() {
                    return self.finish();
                }
                self.receive().await?;
            }
        }
    }

    /// The next piece of what has been received.
    fn take_raw(&mut self) -> Result<Vec<u8>, Refusal> {
        let Some(inflater) = &mut self.inflater else {
            return Ok(std::mem::take(&mut self.raw));
        };
        let mut out = Vec::new();
        if !self.raw.is_empty() {
            let taken = inflater.inflate(&self.raw, &mut out)?;
            self.raw.drain(..taken);
        }
        Ok(out)
    }

    fn finish(&mut self) -> Result<Option<Vec<u8>>, Refusal> {
        let mut out = Vec::new();
        if let Some(inflater) = &mut self.inflater {
            inflater.finish(&mut out)?;
        }
        Ok(Some(out).filter(|out| !out.is_empty()))
    }

    /// More of the body, out of what is there or what comes.
    async fn receive(&mut self) -> Result<(), Refusal> {
        if self.wire.input().is_empty() {
            if std::mem::take(&mut self.expects_continue) {
                let words = b"HTTP/1.1 100 Continue\r\n\r\n";
                self.wire.send(words, &mut self.patience).await.map_err(|Gone| cut_off())?;
            }
            self.wire.fill_patiently(&mut self.patience).await.map_err(|end| match end {
                ReadEnd::Late => Refusal::closing(408, "the body came too slowly"),
                ReadEnd::Closed | ReadEnd::Stop => cut_off(),
            })?;
        }
        // It is coming, whether it was asked for or not.
        self.expects_continue = false;
        let taken = self.decoder.decode(self.wire.input(), &mut self.raw, 2 * READ_BYTES)?;
        self.wire.consume(taken);
        Ok(())
    }

    /// Whether the connection can carry another request once what is left of the body has been read, and
    /// that is little.
    pub fn is_reusable(&mut self) -> bool {
        if !self.decoder.is_done() && !self.failed && !self.expects_continue {
            let mut rest = Vec::new();
            match self.decoder.decode(self.wire.input(), &mut rest, 2 * READ_BYTES) {
                Ok(taken) => self.wire.consume(taken),
                Err(_) => self.failed = true,
            }
        }
        let little = self.decoder.remaining().is_some_and(|left| left <= DISCARD_BYTES);
        little && !self.failed && !self.expects_continue
    }

    /// Throws away what is left of the body.
    pub async fn discard(&mut self) -> Result<(), Gone> {
        while !self.decoder.is_done() {
            self.receive().await.map_err(|_| Gone)?;
            self.raw.clear();
        }
        Ok(())
    }

    /// The connection, to answer by.
    pub fn wire(&mut self) -> &mut Wire {
        &mut self.wire
    }

    /// The connection back.
    pub fn into_wire(self) -> Wire {
        self.wire
    }
}

fn cut_off() -> Refusal {
    bad("the connection ended within the body")
}

#[cfg(test)]
mod tests {
    use super::{BODIES_BYTES_MAX, Claim};
    use std::cell::Cell;
    use std::rc::Rc;

    #[test]
    fn claims_are_bounded_together_and_given_back() {
        let all = Rc::new(Cell::new(0));
        let (mut one, mut other) = (Claim::of(&all), Claim::of(&all));
        one.grow(BODIES_BYTES_MAX - 10).unwrap();
        other.grow(10).unwrap();
        let refusal = other.grow(1).unwrap_err();
        assert_eq!((refusal.status, refusal.closes), (503, true));
        drop(one);
        assert_eq!(all.get(), 10);
        other.grow(1).unwrap();
        drop(other);
        assert_eq!(all.get(), 0);
    }
}
