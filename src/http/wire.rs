//! One connection's octets: plaintext on our side, TLS or not on the other. Knows nothing of HTTP.

use super::limits::{OCTETS_PER_SECOND_MIN, READ_BYTES, TURN_BYTES};
use mailrace_shards::runtime::clock;
use mailrace_shards::runtime::control::{Control, ReadEnd, Stream};
use mailrace_shards::runtime::tls::{ServerTls, Tls};
use mailrace_shards::time::Instant;
use std::net::Shutdown;
use std::time::Duration;

/// How long the last octets of TLS may take.
const GOOD_BYE: Duration = Duration::from_secs(1);

/// The connection is of no use any more.
#[derive(Debug)]
pub struct Gone;

/// A connection.
pub struct Wire {
    stream: Stream,
    tls: Option<Tls>,
    /// Received and not used.
    input: Vec<u8>,
    /// Used of `input`.
    used: usize,
    out: Vec<u8>,
    buffer: Box<[u8]>,
    control: Control,
    /// Octets since other tasks had their turn.
    busy: usize,
}

/// How long a transfer may wait for its peer: a while, and a little more with each octet, but never longer than
/// that while. So a peer that sends or takes single octets is no better off than one that does nothing.
#[derive(Debug)]
pub struct Patience {
    most: Duration,
    left: Duration,
}

impl Patience {
    /// With `most` for a pause.
    pub fn new(most: Duration) -> Self {
        Self { most, left: most }
    }

    fn deadline(&self) -> Instant {
        clock::now().instant.after(self.left)
    }

    fn note(&mut self, began: Instant, octets: usize) {
        let earned = Duration::from_micros(octets as u64 * 1_000_000 / OCTETS_PER_SECOND_MIN);
        let waited = clock::now().instant.since(began);
        self.left = (self.left.saturating_sub(waited) + earned).min(self.most);
    }
}

impl Wire {
    /// Over an accepted connection; with TLS when there is a certificate.
    pub fn new(stream: Stream, tls: Option<&ServerTls>, control: &Control) -> Result<Self, Gone> {
        let tls = tls.map(Tls::server).transpose().map_err(|_| Gone)?;
        Ok(Self {
            stream,
            tls,
            input: Vec::new(),
            used: 0,
            out: Vec::new(),
            buffer: vec![0; READ_BYTES].into(),
            control: control.clone(),
            busy: 0,
        })
    }

    /// Whether it is encrypted.
    pub fn secure(&self) -> bool {
        self.tls.is_some()
    }

    /// What was received and not used.
    pub fn input(&self) -> &[u8] {
        &self.input[self.used..]
    }

    /// Takes octets off the beginning of [`Wire::input`].
    pub fn consume(&mut self, count: usize) {
        self.used += count;
        if self.used == self.input.len() {
            self.input.clear();
            self.used = 0;
            // A connection between two requests keeps no large buffer.
            self.input.shrink_to(READ_BYTES);
        }
    }

    /// Waits until there is more input.
    pub async fn fill(&mut self, deadline: Instant, mind_stop: bool) -> Result<(), ReadEnd> {
        self.input.drain(..self.used);
        self.used = 0;
        let before = self.input.len();
        while self.input.len() == before {
            let count = self.stream.read(&mut self.buffer, deadline, mind_stop).await?;
            let octets = &self.buffer[..count];
            let Some(tls) = &mut self.tls else {
                self.input.extend_from_slice(octets);
                continue;
            };
            let result = tls.feed(octets, &mut self.input);
            let ended = result.is_err() || tls.peer_closed();
            tls.pull(&mut self.out);
            if !self.out.is_empty() {
                self.flush(deadline).await?;
            }
            if ended && self.input.len() == before {
                return Err(ReadEnd::Closed);
            }
        }
        Ok(())
    }

    /// As [`Wire::fill`], for part of a transfer.
    pub async fn fill_patiently(&mut self, patience: &mut Patience) -> Result<(), ReadEnd> {
        let began = clock::now().instant;
        let before = self.input().len();
        let result = self.fill(patience.deadline(), false).await;
        let count = self.input().len() - before;
        patience.note(began, count);
        self.note_work(count).await;
        result
    }

    async fn flush(&mut self, deadline: Instant) -> Result<(), ReadEnd> {
        let mut sent = 0;
        while sent < self.out.len() {
            sent += self.stream.write(&self.out[sent..], deadline).await.map_err(|_| ReadEnd::Closed)?;
        }
        self.out.clear();
        Ok(())
    }

    /// Sends all of it.
    pub async fn send(&mut self, octets: &[u8], patience: &mut Patience) -> Result<(), Gone> {
        let ciphertext = match &mut self.tls {
            None => None,
            Some(tls) => {
                tls.encrypt(octets);
                let mut out = std::mem::take(&mut self.out);
                tls.pull(&mut out);
                Some(out)
            }
        };
        let mut rest = ciphertext.as_deref().unwrap_or(octets);
        while !rest.is_empty() {
            let began = clock::now().instant;
            let count = self.stream.write(rest, patience.deadline()).await.map_err(|_| Gone)?;
            patience.note(began, count);
            rest = &rest[count..];
        }
        self.note_work(octets.len()).await;
        Ok(())
    }

    /// Notes work on so many octets. Once in a while other tasks have their turn: with a fast peer nothing here
    /// ever waits, and one connection would have the core to itself.
    pub async fn note_work(&mut self, octets: usize) {
        self.busy += octets;
        if self.busy >= TURN_BYTES {
            self.busy = 0;
            self.control.give_way().await;
        }
    }

    /// Ends it. With `linger`, what the peer still sends is thrown away for a while, so that it can read our
    /// last words: octets that nobody reads make the system reset the connection, and the peer's system then
    /// forgets what it had received (RFC 9112 §9.6).
    pub async fn close(mut self, linger: Option<(Duration, u64)>) {
        if let Some(tls) = &mut self.tls {
            tls.close_notify();
            // What is said last may go unheard.
            let _ = self.send(&[], &mut Patience::new(GOOD_BYE)).await;
        }
        if let Some((duration, octets)) = linger {
            self.stream.shutdown(Shutdown::Write).await;
            let deadline = clock::now().instant.after(duration);
            let mut thrown = 0;
            while thrown < octets {
                match self.stream.read(&mut self.buffer, deadline, false).await {
                    Ok(count) => thrown += count as u64,
                    Err(_) => break,
                }
            }
        }
        self.stream.shutdown(Shutdown::Both).await;
    }
}
