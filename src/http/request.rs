//! A request as its handler sees it: the head is there, the body comes when it is asked for.

use super::head::Head;
use super::incoming::Incoming;
use super::{Method, Refusal, form};
use std::net::SocketAddr;

/// One request.
pub struct Request {
    /// Everything before the body.
    pub head: Head,
    /// Who asks. An IPv4 peer of an IPv6 socket has its IPv4 address.
    pub peer: SocketAddr,
    /// Whether it came by TLS.
    #[cfg_attr(not(test), expect(dead_code, reason = "handlers may need it; so far only tests look at it"))]
    pub secure: bool,
    /// What follows the head.
    pub body: Body,
}

/// A request's body, inflated if it was compressed.
pub struct Body(Source);

enum Source {
    #[cfg_attr(not(test), expect(dead_code, reason = "tests have bodies in memory"))]
    Memory(Option<Vec<u8>>),
    Peer(Box<Incoming>),
}

impl Request {
    /// The query string's fields, decoded, in their order.
    ///
    /// # Errors
    /// 400, `Failed to deserialize query string: …`.
    pub fn query(&self) -> Result<form::Fields, Refusal> {
        form::parse(&self.head.query)
            .map_err(|why| Refusal::new(400, format!("Failed to deserialize query string: {why}")))
    }

    /// The query string's fields, of which there may be these.
    ///
    /// # Errors
    /// 400 for any other, since a mistyped field must not be passed over, and for a query that cannot be read.
    pub fn query_of(&self, known: &[&str]) -> Result<form::Fields, Refusal> {
        let query = self.query()?;
        if let Some(name) = query.unknown(known) {
            let text = format!("Failed to deserialize query string: unknown field `{name}`");
            return Err(Refusal::of_field(400, name.to_owned(), text));
        }
        Ok(query)
    }

    /// Whether it asks for something to be changed.
    #[must_use]
    pub fn changes(&self) -> bool {
        matches!(self.head.method, Method::Post | Method::Delete)
    }

    /// The media type of the body, without parameters, in lower case; empty when none is named.
    #[must_use]
    pub fn media_type(&self) -> String {
        super::media::essence(&self.head.headers)
    }
}

impl Body {
    /// One that is there already; for tests.
    #[cfg(test)]
    #[must_use]
    pub fn of(octets: impl Into<Vec<u8>>) -> Self {
        Self(Source::Memory(Some(octets.into())))
    }

    pub(super) fn incoming(incoming: Box<Incoming>) -> Self {
        Self(Source::Peer(incoming))
    }

    pub(super) fn into_incoming(self) -> Option<Box<Incoming>> {
        match self.0 {
            Source::Memory(_) => None,
            Source::Peer(incoming) => Some(incoming),
        }
    }

    /// All of it, when that is at most `limit` octets.
    ///
    /// # Errors
    /// 413 when it is longer, 503 when the bodies of all requests are too much, and everything that [`Body::chunk`] refuses.
    pub async fn collect(&mut self, limit: usize) -> Result<Vec<u8>, Refusal> {
        let all = match &mut self.0 {
            Source::Memory(octets) => octets.take().unwrap_or_default(),
            Source::Peer(incoming) => {
                incoming.expect_within(limit)?;
                let mut all = Vec::new();
                while let Some(mut chunk) = incoming.chunk().await? {
                    if all.len() + chunk.len() > limit {
                        return Err(too_large(limit));
                    }
                    incoming.keep(chunk.len())?;
                    if all.is_empty() {
                        all = std::mem::take(&mut chunk);
                    } else {
                        all.append(&mut chunk);
                    }
                }
                all
            }
        };
        if all.len() > limit {
            return Err(too_large(limit));
        }
        Ok(all)
    }

    /// The next part of it, as it comes, some 32 KiB at most and never empty; `None` when that was all. For
    /// uploads of any length: a slow peer is bounded, a long body is not.
    ///
    /// # Errors
    /// 400 for broken framing or compression, 408 for a peer that is too slow. The connection then ends.
    pub async fn chunk(&mut self) -> Result<Option<Vec<u8>>, Refusal> {
        match &mut self.0 {
            Source::Memory(octets) => Ok(octets.take().filter(|octets| !octets.is_empty())),
            Source::Peer(incoming) => incoming.chunk().await,
        }
    }
}

/// The answer to a body that is longer than allowed.
pub(super) fn too_large(limit: usize) -> Refusal {
    Refusal::closing(413, format!("the body is longer than the {limit} octets allowed"))
}

/// A request from 127.0.0.1 with no header fields, for tests of what answers it.
#[cfg(test)]
pub fn test_request(method: Method, target: &str, body: Body) -> Request {
    use super::head::{Coding, Framing};
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let head = Head {
        method,
        path: path.into(),
        query: query.into(),
        host: "localhost".into(),
        version: super::Version::Http11,
        headers: super::Headers::default(),
        framing: Framing::None,
        coding: Coding::Identity,
        expects_continue: false,
        keep_alive: true,
    };
    Request { head, peer: SocketAddr::from(([127, 0, 0, 1], 50_000)), secure: false, body }
}
